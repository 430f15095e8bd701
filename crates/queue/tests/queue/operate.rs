//! What operators and clients do to jobs.

use crate::stage::{START, Stage, answered, broken, idempotent, keyed, request};
use bytes::Bytes;
use model::queue::{QueueLimits, QueuedRoute};
use queue::{
    Cancelled, Edit, Filter, JobId, JobName, JobState, OperationError, Resolution, Selection, Submission,
    Submitted, Waited,
};
use std::time::Duration;

/// One rejected job.
async fn rejected(stage: &Stage, body: &str) -> JobName {
    let name = stage.enqueue(request(idempotent(), body)).await;
    let call = stage.call().await;
    stage.report(&call, answered(422, "no"));
    assert_eq!(stage.state(name).await, JobState::Rejected);
    name
}

#[tokio::test]
async fn a_job_is_cancelled_before_it_is_sent_and_not_after() {
    let stage = Stage::with(QueueLimits { concurrency: 1, ..QueueLimits::default() }, 0);
    let first = stage.enqueue(request(idempotent(), "1")).await;
    let second = stage.enqueue(keyed(idempotent(), "2", "k")).await;
    let call = stage.call().await;
    assert!(
        matches!(stage.queue.cancel(first).await, Cancelled::TooLate(view) if view.state == JobState::Dispatching)
    );
    let queue = stage.queue.clone();
    let polls = tokio::spawn(async move { queue.wait(second, Duration::from_secs(60)).await });
    tokio::task::yield_now().await;
    assert_eq!(stage.queue.cancel(second).await, Cancelled::Yes);
    assert!(
        matches!(polls.await.unwrap().unwrap(), Some(Waited::Settled(view, None)) if view.state == JobState::Cancelled)
    );
    assert!(matches!(stage.queue.cancel(second).await, Cancelled::TooLate(_)));
    let mut wrong = first;
    wrong.tag.0[0] ^= 1;
    assert_eq!(stage.queue.cancel(wrong).await, Cancelled::Gone);
    stage.report(&call, answered(200, ""));
    assert!(stage.due().await.is_none());
    assert!(matches!(stage.submit(keyed(idempotent(), "2", "k")).await, Submitted::Replay(_, None)));
    assert_eq!((stage.counters().cancelled, stage.queue.status().depth), (1, 0));
    let stage = stage.kill();
    assert!(stage.due().await.is_none());
    // What was tried and surely not sent can be cancelled.
    let third = stage.enqueue(request(QueuedRoute::default(), "3")).await;
    let call = stage.call().await;
    stage.report(&call, crate::stage::not_sent());
    stage.settled().await;
    assert_eq!(stage.queue.cancel(third).await, Cancelled::Yes);
    stage.play(Duration::from_secs(10), |call| panic!("{call:?}")).await;
}

#[tokio::test]
async fn retried_with_another_request_or_the_same() {
    let stage = Stage::new();
    let first = rejected(&stage, "a").await;
    let second = rejected(&stage, "b").await;
    let third = rejected(&stage, "c").await;
    let fitting = Filter { states: vec![JobState::Rejected], ..Filter::default() };
    let plan = stage.queue.plan_retry(Selection::Fitting(fitting.clone())).await.unwrap();
    assert_eq!(plan.jobs.get(&("POST /orders".to_owned(), "rejected")), Some(&3));
    assert_eq!(plan.first.len(), 3);
    let edit = Edit { body: Some(Bytes::from_static(b"better")), ..Edit::default() };
    stage.queue.edit(first.id, edit, 1000).await.unwrap();
    let call = stage.call().await;
    assert_eq!((call.job, &call.body[..], call.attempt), (first.id, &b"better"[..], 1));
    stage.report(&call, answered(201, "yes"));
    assert_eq!(stage.answer(first).await, Some((201, Bytes::from_static(b"yes"))));
    assert_eq!(stage.queue.retry(Selection::Fitting(fitting), 1000).await.unwrap(), 2);
    let mut sent = Vec::new();
    stage
        .play(Duration::from_secs(1), |call| {
            sent.push(call.job);
            answered(200, "")
        })
        .await;
    assert_eq!(sent, [second.id, third.id]);
    let error = stage.queue.retry(Selection::Jobs(vec![first.id]), 0).await.unwrap_err();
    assert_eq!(error.to_string(), "job 1 is delivered: only a job that is dead or rejected can be retried");
    let error = stage.queue.retry(Selection::Jobs(vec![JobId(99)]), 0).await.unwrap_err();
    assert_eq!(error, OperationError::NoSuchJob(JobId(99)));
    let log = stage.queue.operations(None, 100).await.unwrap();
    let (numbers, log): (Vec<u64>, Vec<_>) = log.into_iter().unzip();
    let older = stage.queue.operations(Some(numbers[0]), 100).await.unwrap();
    assert_eq!(older, [(numbers[1], log[1].clone())]);
    let told: Vec<_> =
        log.iter().map(|line| (line.verb.as_str(), line.what.as_str(), line.count, line.by_uid)).collect();
    assert_eq!(told, [("retry", "rejected", 2, 1000), ("edit", "jobs 1", 1, 1000)]);
    assert!(log[0].at_ms >= START);
    assert_eq!(stage.queue.status().depth, 0);
}

#[tokio::test]
async fn dropped_jobs_are_not_sent_and_let_the_next_one_go() {
    let stage = Stage::new();
    let ordered =
        QueuedRoute { order_by: Some(model::flow::JsonPath("$.c".into())), ..QueuedRoute::default() };
    let first = stage.enqueue(request(ordered.clone(), r#"{"c":1}"#)).await;
    let second = stage.enqueue(request(ordered.clone(), r#"{"c":1}"#)).await;
    let third = stage.enqueue(request(ordered, r#"{"c":1}"#)).await;
    let call = stage.call().await;
    // Under way it is left alone.
    let error = stage.queue.drop_jobs(Selection::Jobs(vec![first.id]), 0).await.unwrap_err();
    assert!(matches!(error, OperationError::WrongState { state: JobState::Dispatching, .. }), "{error}");
    stage.report(&call, broken());
    stage.settled().await;
    assert_eq!(stage.queue.drop_jobs(Selection::Jobs(vec![second.id]), 0).await.unwrap(), 1);
    assert!(stage.due().await.is_none(), "the first is in doubt");
    assert_eq!(
        stage
            .queue
            .drop_jobs(Selection::Fitting(Filter { states: vec![JobState::Unknown], ..Filter::default() }), 0)
            .await
            .unwrap(),
        1
    );
    let call = stage.call().await;
    assert_eq!(call.job, third.id);
    stage.report(&call, answered(200, ""));
    stage.settled().await;
    assert_eq!((stage.counters().dropped, stage.queue.status().depth), (2, 0));
    assert_eq!(stage.ids(&[JobState::Dropped]).await, [1, 2]);
}

#[tokio::test]
async fn an_operator_resolves_what_is_unknown() {
    let stage = Stage::new();
    let mut names = Vec::new();
    for _ in 0..2 {
        names.push(stage.enqueue(request(QueuedRoute::default(), "{}")).await);
        let call = stage.call().await;
        stage.report(&call, broken());
    }
    stage.settled().await;
    stage.queue.resolve(names[0].id, Resolution::Delivered, 5).await.unwrap();
    assert_eq!(stage.state(names[0]).await, JobState::Done);
    stage.queue.resolve(names[1].id, Resolution::NotDelivered, 5).await.unwrap();
    let call = stage.call().await;
    assert_eq!(call.job, names[1].id);
    stage.report(&call, answered(200, ""));
    assert_eq!(stage.state(names[1]).await, JobState::Done);
    let error = stage.queue.resolve(names[1].id, Resolution::Delivered, 5).await.unwrap_err();
    assert!(matches!(error, OperationError::WrongState { .. }), "{error}");
    assert_eq!(stage.queue.status().depth, 0);
}

#[tokio::test]
async fn paused_is_paused_also_after_a_restart() {
    let stage = Stage::new();
    stage.queue.pause(Some("POST /orders"), 0).await.unwrap();
    stage.enqueue(request(idempotent(), "1")).await;
    let other = Submission { route: "POST /other".into(), ..request(idempotent(), "2") };
    stage.enqueue(other).await;
    assert_eq!(stage.call().await.job, JobId(2));
    let stage = stage.kill();
    assert_eq!(stage.call().await.job, JobId(2));
    assert!(stage.due().await.is_none());
    let paused = stage.queue.status().paused;
    let paused: Vec<_> = paused.iter().map(|p| p.scope.as_str()).collect();
    assert_eq!(paused, ["POST /orders"]);
    stage.queue.pause(None, 0).await.unwrap();
    stage.queue.resume(Some("POST /orders"), 0).await.unwrap();
    let stage = stage.kill();
    assert!(stage.due().await.is_none());
    assert!(!stage.queue.pause(Some("*"), 0).await.unwrap(), "it is paused");
    assert!(stage.queue.resume(Some("*"), 0).await.unwrap());
    assert!(stage.due().await.is_some() && stage.due().await.is_some() && stage.due().await.is_none());
}

#[tokio::test]
async fn exported_jobs_are_imported_once() {
    let stage = Stage::new();
    stage.queue.pause(None, 0).await.unwrap();
    let noise = Submission { body: Bytes::from_static(&[0xff, 0x00]), ..keyed(idempotent(), "", "k") };
    stage.enqueue(noise.clone()).await;
    stage.enqueue(request(idempotent(), "text")).await;
    let later =
        Submission { deliver_after: Some(Duration::from_secs(100)), ..request(idempotent(), "later") };
    stage.enqueue(later).await;
    let (lines, last) = stage.queue.export(Filter::default(), JobId(0), 100).await.unwrap();
    assert_eq!((lines.len(), last), (3, Some(JobId(3))));
    assert!(lines[1].contains(r#""body":"text""#), "{}", lines[1]);
    assert_eq!(stage.queue.export(Filter::default(), JobId(3), 100).await.unwrap(), (Vec::new(), None));

    let imported = stage.queue.import(lines.clone(), 0).await.unwrap();
    assert_eq!((imported.accepted, imported.known), (0, 3), "they are here");
    stage.queue.drop_jobs(Selection::Jobs(vec![JobId(2)]), 0).await.unwrap();
    let imported = stage.queue.import(lines.clone(), 0).await.unwrap();
    assert_eq!((imported.accepted, imported.known), (1, 2), "one was given up, and comes back");
    let imported = stage.queue.import(lines.clone(), 0).await.unwrap();
    assert_eq!((imported.accepted, imported.known), (0, 3), "once");
    stage.queue.drop_jobs(Selection::Jobs(vec![JobId(1)]), 0).await.unwrap();
    // What its client was told never happens stays away.
    let cancelled = stage.enqueue(keyed(idempotent(), "cancelled", "c")).await;
    let (line, _) = stage.queue.export(Filter::default(), JobId(cancelled.id.0 - 1), 1).await.unwrap();
    assert_eq!(stage.queue.cancel(cancelled).await, Cancelled::Yes);
    assert_eq!(stage.queue.import(line, 0).await.unwrap().known, 1);
    for expected in [(1, 2), (0, 3)] {
        let imported = stage.queue.import(lines.clone(), 0).await.unwrap();
        assert_eq!((imported.accepted, imported.known), expected, "one with a key of its client's too");
    }

    let other = Stage::new();
    // A file that is older than any job may get.
    other.clock.advance(Duration::from_secs(200_000));
    let imported = other.queue.import(lines.clone(), 0).await.unwrap();
    assert_eq!((imported.accepted, imported.known), (3, 0));
    assert!(matches!(other.submit(noise.clone()).await, Submitted::Repeated(_)), "its key has come along");
    let other = other.kill();
    let mut bodies = Vec::new();
    other
        .play(Duration::from_secs(101), |call| {
            bodies.push(call.body.clone());
            answered(200, "")
        })
        .await;
    bodies.sort();
    assert_eq!(bodies, [&b"later"[..], b"text", &[0xff, 0x00]]);
    let twice = [lines.clone(), lines.clone()].concat();
    let imported = other.queue.import(twice, 0).await.unwrap();
    assert_eq!((imported.accepted, imported.known), (0, 6), "those without a key of their client's too");
    // A line that is wrong: nothing of the file is accepted.
    let wrong = vec![lines[1].clone(), "{}".into()];
    let error = other.queue.import(wrong, 0).await.unwrap_err();
    assert!(error.to_string().starts_with("line 2: "), "{error}");
    assert_eq!(other.queue.status().depth, 0);
}

/// However long ago they were accepted: somebody is to deal with them here.
#[tokio::test]
async fn dead_letters_that_are_imported_are_kept_from_then_on() {
    let stage = Stage::new();
    rejected(&stage, "1").await;
    let (lines, _) = stage.queue.export(Filter::default(), JobId(0), 100).await.unwrap();
    let other = Stage::new();
    other.clock.advance(Duration::from_secs(40 * 86_400));
    assert_eq!(other.queue.import(lines, 0).await.unwrap().accepted, 1);
    for (days, left) in [(0, &[1_u64][..]), (29, &[1]), (2, &[])] {
        other.clock.advance(Duration::from_secs(days * 86_400 + 60));
        other.queue.tend();
        // What is done and what is dead are forgotten one after the other.
        other.settled().await;
        other.settled().await;
        assert_eq!(other.ids(&[JobState::Rejected]).await, left, "after {days} days more");
    }
}

#[tokio::test]
async fn a_job_is_shown_whole_and_found_by_its_key() {
    let stage = Stage::new();
    let name = stage.enqueue(keyed(idempotent(), "{}", "my key")).await;
    let call = stage.call().await;
    stage.report(&call, answered(500, "first"));
    stage.clock.advance(Duration::from_secs(60));
    let call = stage.call().await;
    stage.report(&call, answered(422, "last"));
    stage.settled().await;
    let shown = stage.queue.show(name.id).await.unwrap();
    assert_eq!(
        (shown.job.state, shown.job.attempts, shown.key.as_deref()),
        (JobState::Rejected, 2, Some("my key"))
    );
    assert_eq!((&shown.body[..], shown.path_and_query.as_str()), (&b"{}"[..], "/orders?a=b"));
    assert_eq!(shown.answer.unwrap().status, 422);
    let statuses: Vec<_> = shown.attempts.iter().map(|attempt| (attempt.number, attempt.status)).collect();
    assert_eq!(statuses, [(1, Some(500)), (2, Some(422))]);
    let found = stage.queue.with_key("my key").await.unwrap();
    assert_eq!(found.iter().map(|view| view.name).collect::<Vec<_>>(), [name]);
    assert!(stage.queue.with_key("another").await.unwrap().is_empty());
    assert_eq!(stage.queue.retry(Selection::Key("my key".into()), 0).await.unwrap(), 1);
}
