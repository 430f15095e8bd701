//! From a request to its effect.

use crate::stage::{Stage, answered, broken, busy, idempotent, not_sent, request};
use bytes::Bytes;
use model::flow::JsonPath;
use model::queue::{QueueLimits, QueuedRoute};
use model::template::Template;
use queue::{
    ANSWER_TIME, Breaker, CallOutcome, FullWhy, JobId, JobState, Submission, Submitted, Traffic, Upstream,
    Waited,
};
use std::collections::BTreeMap;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_client_that_waits_gets_the_services_answer() {
    for settings in [QueuedRoute::default(), idempotent()] {
        let stage = Stage::new();
        let ticket = stage.accept(request(settings, "{}")).await;
        let name = ticket.name();
        let waits = tokio::spawn(ticket.wait(WAIT));
        let call = stage.call().await;
        assert_eq!(
            (call.job, call.to.clone(), call.attempt, call.probe),
            (JobId(1), Upstream::Default, 1, false)
        );
        assert_eq!((call.path_and_query.as_str(), &call.body[..]), ("/orders?a=b", &b"{}"[..]));
        assert_eq!((call.user, call.timeout), (Some(3), Duration::from_secs(30)));
        assert_eq!(call.fields.len(), 2);
        stage.report(&call, answered(201, "made"));
        let Waited::Settled(view, Some(answer)) = waits.await.unwrap() else { panic!("an answer") };
        assert_eq!((view.state, view.attempts, view.name), (JobState::Done, 1, name));
        assert_eq!((answer.status, &answer.body[..]), (201, &b"made"[..]));
        assert_eq!(stage.answer(name).await, Some((201, Bytes::from_static(b"made"))));
        assert_eq!(stage.state(name).await, JobState::Done);
        let counters = stage.counters();
        assert_eq!((counters.accepted, counters.answered_directly, counters.delivered), (1, 1, 1));
        assert_eq!((counters.attempts, counters.answered_202), (1, 0));
        assert_eq!(stage.queue.status().depth, 0);
    }
}

#[tokio::test]
async fn after_202_the_job_shows_what_came_of_it() {
    let stage = Stage::new();
    let name = stage.enqueue(request(idempotent(), "{}")).await;
    assert_eq!(stage.counters().answered_202, 1);
    let call = stage.call().await;
    assert_eq!(stage.view(name).await.state, JobState::Dispatching);
    let queue = stage.queue.clone();
    let polls = tokio::spawn(async move { queue.wait(name, Duration::from_secs(60)).await });
    tokio::task::yield_now().await;
    stage.report(&call, answered(200, "done"));
    let waited = polls.await.unwrap().unwrap().unwrap();
    assert!(matches!(waited, Waited::Settled(view, Some(_)) if view.state == JobState::Done));
    // A poll of a job that is not done ends with its time.
    let other = stage.enqueue(request(idempotent(), "{}")).await;
    let queue = stage.queue.clone();
    let polls = tokio::spawn(async move { queue.wait(other, WAIT).await });
    while !polls.is_finished() {
        stage.clock.advance(WAIT);
        tokio::task::yield_now().await;
    }
    assert!(matches!(polls.await.unwrap().unwrap(), Some(Waited::Pending(_))));
}

#[tokio::test]
async fn names_are_not_guessed() {
    let stage = Stage::new();
    let name = stage.enqueue(request(idempotent(), "{}")).await;
    let mut wrong = name;
    wrong.tag.0[15] ^= 1;
    assert_eq!(stage.queue.job(wrong).await.unwrap(), None);
    assert_eq!(stage.queue.wait(wrong, WAIT).await.unwrap(), None);
    assert!(
        stage.queue.is_past(JobId(1)) && !stage.queue.is_past(JobId(2)) && !stage.queue.is_past(JobId(0))
    );
}

#[tokio::test]
async fn a_refusal_is_the_clients_while_it_waits_and_listed_after_202() {
    for status in [400, 401, 403, 409, 422] {
        let stage = Stage::new();
        let ticket = stage.accept(request(idempotent(), "{}")).await;
        let name = ticket.name();
        let waits = tokio::spawn(ticket.wait(WAIT));
        let call = stage.call().await;
        stage.report(&call, answered(status, "no"));
        let Waited::Settled(view, Some(answer)) = waits.await.unwrap() else { panic!("an answer") };
        assert_eq!((view.state, answer.status), (JobState::Done, status));
        assert_eq!(stage.state(name).await, JobState::Done);
    }
    let stage = Stage::new();
    let name = stage.enqueue(request(idempotent(), "{}")).await;
    let call = stage.call().await;
    stage.report(&call, answered(422, "no"));
    assert_eq!(stage.state(name).await, JobState::Rejected);
    assert_eq!(stage.answer(name).await, Some((422, Bytes::from_static(b"no"))));
    assert_eq!((stage.counters().rejected, stage.queue.status().depth), (1, 0));
}

#[tokio::test]
async fn expired_credentials_wait_for_better_times() {
    let stage = Stage::new();
    let settings = QueuedRoute { attempts: 2, ..idempotent() };
    let name = stage.enqueue(request(settings, "{}")).await;
    let mut calls = 0;
    stage
        .play(Duration::from_secs(300), |_| {
            calls += 1;
            if calls < 6 { answered(401, "") } else { answered(201, "") }
        })
        .await;
    assert_eq!((calls, stage.state(name).await), (6, JobState::Done));
}

#[tokio::test]
async fn what_surely_did_not_happen_is_sent_again() {
    for outcome in [not_sent(), busy(503, 3), busy(429, 1), answered(425, "")] {
        let stage = Stage::new();
        let name = stage.enqueue(request(QueuedRoute::default(), "{}")).await;
        let mut outcomes = vec![answered(200, "ok"), outcome];
        let mut attempts = Vec::new();
        stage
            .play(Duration::from_secs(10), |call| {
                attempts.push(call.attempt);
                outcomes.pop().unwrap()
            })
            .await;
        assert_eq!(stage.state(name).await, JobState::Done);
        // What was not sent takes no number.
        assert!(attempts == [1, 2] || attempts == [1, 1], "{attempts:?}");
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let stage = Stage::new();
    stage.enqueue(request(idempotent(), "{}")).await;
    let call = stage.call().await;
    stage.report(&call, busy(503, 120));
    stage.clock.advance(Duration::from_secs(119));
    assert!(stage.due().await.is_none());
    stage.clock.advance(Duration::from_secs(1));
    assert_eq!(stage.due().await.unwrap().attempt, 2);
}

#[tokio::test]
async fn what_may_have_happened_is_never_sent_again_without_a_key() {
    for outcome in [broken(), answered(500, ""), answered(503, ""), answered(502, "")] {
        let stage = Stage::new();
        let name = stage.enqueue(request(QueuedRoute::default(), "{}")).await;
        let call = stage.call().await;
        stage.report(&call, outcome);
        stage.play(Duration::from_secs(100), |call| panic!("{call:?}")).await;
        let stage = stage.kill();
        stage.play(Duration::from_secs(100), |call| panic!("{call:?}")).await;
        assert_eq!(stage.state(name).await, JobState::Unknown);
        assert_eq!((stage.queue.status().unknown_now, stage.queue.status().depth), (1, 1));
    }
}

#[tokio::test]
async fn with_a_key_it_is_sent_until_it_is_answered() {
    let stage = Stage::new();
    let name = stage.enqueue(request(idempotent(), "{}")).await;
    let mut outcomes = vec![answered(200, "ok"), answered(503, ""), answered(500, ""), broken()];
    let (mut keys, mut attempts) = (Vec::new(), Vec::new());
    stage
        .play(Duration::from_secs(30), |call| {
            keys.push(call.key.clone());
            attempts.push(call.attempt);
            outcomes.pop().unwrap()
        })
        .await;
    assert_eq!(attempts, [1, 2, 3, 4]);
    keys.dedup();
    assert_eq!(keys.len(), 1, "always the same");
    let history = stage.queue.show(name.id).await.unwrap();
    let told: Vec<&str> = history.attempts.iter().map(|attempt| attempt.text.as_str()).collect();
    assert_eq!(told, ["no answer: the connection broke", "answered 500", "answered 503", "answered 200"]);
}

#[tokio::test]
async fn attempts_are_used_up_by_one_job_and_others_are_unharmed() {
    let stage = Stage::new();
    let settings = QueuedRoute { attempts: 3, ..idempotent() };
    let poison = stage.enqueue(request(settings.clone(), "poison")).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(stage.enqueue(request(settings.clone(), "good")).await);
    }
    let mut calls = 0;
    stage
        .play(Duration::from_secs(60), |call| {
            if &call.body[..] == b"poison" {
                calls += 1;
                return answered(500, "cannot");
            }
            answered(200, "")
        })
        .await;
    assert_eq!((calls, stage.state(poison).await), (3, JobState::Dead));
    assert_eq!(stage.answer(poison).await, Some((500, Bytes::from_static(b"cannot"))));
    for other in others {
        assert_eq!(stage.state(other).await, JobState::Done);
    }
    assert_eq!((stage.counters().dead, stage.counters().delivered), (1, 20));
}

#[tokio::test]
async fn an_upstream_that_has_all_it_may_is_called_less_and_not_given_up() {
    let stage = Stage::new();
    for _ in 0..40 {
        stage.enqueue(request(idempotent(), "{}")).await;
    }
    let before = stage.queue.status().upstreams[0].allowed;
    let mut calls = Vec::new();
    while let Some(call) = stage.due().await {
        calls.push(call);
    }
    for call in &calls {
        let why = "all its places are taken".into();
        stage.report(call, CallOutcome::NotSent { why, busy: true });
    }
    let upstream = &stage.queue.status().upstreams[0];
    assert_eq!(upstream.breaker, Breaker::Closed);
    assert!(upstream.allowed < before, "{upstream:?}");
    stage.play(Duration::from_secs(60), |_| answered(200, "")).await;
    assert_eq!((stage.counters().delivered, stage.queue.status().depth), (40, 0));
}

#[tokio::test]
async fn who_waits_anyway_hears_of_the_answer_and_of_nothing_before() {
    let stage = Stage::new();
    let waits = || Submission { patience: WAIT, ..request(idempotent(), "{}") };
    // Answered in time: that is the first it hears.
    let mut submit = Box::pin(stage.submit(waits()));
    let call = tokio::select! {
        biased;
        heard = &mut submit => panic!("{heard:?}"),
        call = stage.call() => call,
    };
    stage.report(&call, answered(201, "made"));
    let Submitted::New(ticket) = submit.await else { panic!("it was accepted") };
    let Waited::Settled(view, Some(answer)) = ticket.wait(WAIT).await else { panic!("it is answered") };
    assert_eq!((view.state, answer.status), (JobState::Done, 201));
    // Not answered in time: it hears that it was accepted, and goes on waiting.
    let mut submit = Box::pin(stage.submit(waits()));
    let call = tokio::select! {
        biased;
        heard = &mut submit => panic!("{heard:?}"),
        call = stage.call() => call,
    };
    stage.clock.advance(ANSWER_TIME);
    let Submitted::New(ticket) = submit.await else { panic!("it was accepted") };
    let name = ticket.name();
    stage.report(&call, answered(201, "late"));
    assert!(matches!(ticket.wait(WAIT).await, Waited::Settled(_, Some(_))));
    assert_eq!(stage.state(name).await, JobState::Done);
    assert_eq!((stage.counters().answered_directly, stage.counters().answered_202), (2, 0));
    // It is gone before anything is said: nobody waits for the answer.
    let mut submit = Box::pin(stage.submit(waits()));
    let call = tokio::select! {
        biased;
        heard = &mut submit => panic!("{heard:?}"),
        call = stage.call() => call,
    };
    drop(submit);
    stage.report(&call, answered(404, "after all, as for a 202"));
    stage.settled().await;
    assert_eq!((stage.counters().rejected, stage.counters().answered_directly), (1, 2));
}

#[tokio::test]
async fn whoever_submits_may_make_the_first_call() {
    for settings in [QueuedRoute::default(), idempotent()] {
        let ordered = QueuedRoute { order_by: Some(JsonPath("$.user".into())), ..settings };
        let carries =
            || Submission { carries: true, patience: WAIT, ..request(ordered.clone(), r#"{"user":1}"#) };
        let stage = Stage::new();
        let mut ticket = stage.accept(carries()).await;
        let first = ticket.first_call().expect("nothing is before it");
        assert!(ticket.first_call().is_none(), "there is one");
        assert!(stage.due().await.is_none(), "nobody else makes it");
        let call = first.take().expect("the queue is well");
        assert_eq!((call.job, call.attempt, &call.body[..]), (ticket.name().id, 1, &br#"{"user":1}"#[..]));
        // The next one for this user is behind it, and not for whoever submitted it.
        let mut behind = Box::pin(stage.submit(carries()));
        tokio::select! {
            biased;
            heard = &mut behind => panic!("{heard:?}"),
            due = stage.due() => assert!(due.is_none(), "{due:?}"),
        }
        stage.report(&call, answered(201, "made"));
        let waited = ticket.wait(WAIT).await;
        assert!(
            matches!(&waited, Waited::Settled(view, Some(_)) if view.state == JobState::Done),
            "{waited:?}"
        );
        let call = stage.call().await;
        stage.report(&call, answered(201, "made too"));
        let Submitted::New(mut ticket) = behind.await else { panic!("it was accepted") };
        assert!(ticket.first_call().is_none());
        assert!(matches!(ticket.wait(WAIT).await, Waited::Settled(_, Some(_))));
        stage.settled().await;
        assert_eq!((stage.counters().delivered, stage.counters().attempts), (2, 2));
    }
}

#[tokio::test]
async fn a_first_call_that_nobody_takes_is_the_couriers() {
    let stage = Stage::new();
    let carries = |body: &str| Submission { carries: true, ..request(idempotent(), body) };
    // Its ticket is dropped with it.
    drop(stage.accept(carries("1")).await);
    let call = stage.call().await;
    assert_eq!((&call.body[..], call.attempt), (&b"1"[..], 1));
    stage.report(&call, answered(201, ""));
    stage.settled().await;
    // Whoever submitted it is gone before it is on disk.
    let queue = stage.queue.clone();
    let submission = carries("2");
    let submits = tokio::spawn(async move { queue.submit(submission, |_, _| {}).await });
    tokio::task::yield_now().await;
    submits.abort();
    // It is either over or gone.
    drop(submits.await);
    let call = stage.call().await;
    assert_eq!((&call.body[..], call.attempt), (&b"2"[..], 1));
    // Killed while it is under way: the next owner sends it again.
    let stage = stage.kill();
    let call = stage.call().await;
    assert_eq!(&call.body[..], b"2");
    stage.report(&call, answered(201, ""));
    stage.settled().await;
    assert_eq!(stage.queue.status().depth, 0);
}

#[tokio::test]
async fn what_holds_up_users_does_not_hold_up_a_preview() {
    let stage = Stage::new();
    let settings = QueuedRoute { order_by: Some(JsonPath("$.user".into())), ..idempotent() };
    let users = |n: u32| request(settings.clone(), &format!(r#"{{"user":{}}}"#, n % 6));
    let preview = || Submission { traffic: Traffic::Preview, ..users(0) };
    for n in 0..60 {
        stage.enqueue(users(n)).await;
    }
    // The service of the users is broken: calls to it have stopped.
    while let Some(call) = stage.due().await {
        stage.report(&call, answered(500, ""));
    }
    assert_eq!(stage.queue.status().upstreams[0].breaker, Breaker::Open);
    let first = stage.enqueue(preview()).await;
    let call = stage.call().await;
    assert_eq!((call.job, &*call.route), (first.id, "POST /orders"));
    stage.report(&call, answered(201, ""));
    assert_eq!(stage.state(first).await, JobState::Done);
    let names: Vec<String> = stage.queue.status().upstreams.into_iter().map(|known| known.name).collect();
    assert_eq!(names, ["default", "default (preview)"]);
    // It is still known after a restart, when all of them are in one line.
    let second = stage.enqueue(preview()).await;
    let stage = stage.kill();
    let mut asked = Vec::new();
    while let Some(call) = stage.due().await {
        asked.push(call.job);
        stage.report(&call, if call.job == second.id { answered(201, "") } else { answered(500, "") });
    }
    assert!(asked.len() < 60, "calls to the users' service have stopped again");
    stage
        .play(Duration::from_secs(600), |call| match call.job == second.id {
            true => answered(201, ""),
            false => answered(200, ""),
        })
        .await;
    assert_eq!(stage.state(second).await, JobState::Done);
    assert_eq!(stage.queue.status().depth, 0);
}

/// A preview that outlives its candidate need not be dealt with by anybody.
#[tokio::test]
async fn a_refused_preview_is_not_counted_among_what_was_refused_to_users() {
    let stage = Stage::new();
    let preview = stage.enqueue(Submission { traffic: Traffic::Preview, ..request(idempotent(), "1") }).await;
    let users = stage.enqueue(request(idempotent(), "2")).await;
    // Found again, it is known for what it is.
    let stage = stage.kill();
    stage.play(Duration::from_secs(1), |_| answered(404, "")).await;
    for name in [preview, users] {
        assert_eq!(stage.state(name).await, JobState::Rejected);
    }
    assert_eq!(stage.counters().rejected, 1);
}

#[tokio::test]
async fn an_outage_uses_up_nobody_and_ends_slowly() {
    let stage = Stage::new();
    let settings = QueuedRoute { attempts: 2, ..idempotent() };
    let mut names = Vec::new();
    for _ in 0..100 {
        names.push(stage.enqueue(request(settings.clone(), "{}")).await);
    }
    // Several calls under way at once, and all fail.
    let mut calls = Vec::new();
    while let Some(call) = stage.due().await {
        calls.push(call);
    }
    assert_eq!(calls.len(), 32);
    for call in &calls {
        stage.report(call, answered(500, ""));
    }
    assert_eq!(stage.queue.status().upstreams[0].breaker, Breaker::Open);
    let mut tried = BTreeMap::new();
    stage
        .play(Duration::from_secs(600), |call| {
            *tried.entry(call.job).or_insert(0) += 1;
            answered(500, "")
        })
        .await;
    let calls: u32 = tried.values().sum();
    assert!((100..2_000).contains(&calls), "one call each few seconds, not {calls}");
    assert_eq!(stage.counters().dead, 0);
    // It is back: one call, then ever more.
    stage.clock.advance(Duration::from_secs(10));
    let trial = stage.due().await.unwrap();
    assert!(stage.due().await.is_none(), "one is tried");
    stage.report(&trial, answered(200, ""));
    let mut rounds = Vec::new();
    loop {
        let mut round = Vec::new();
        while let Some(call) = stage.due().await {
            round.push(call);
        }
        if round.is_empty() {
            break;
        }
        rounds.push(round.len());
        for call in &round {
            stage.report(call, answered(200, ""));
        }
    }
    assert_eq!(rounds[..3], [1, 2, 4], "{rounds:?}");
    assert_eq!(rounds.iter().sum::<usize>(), 99);
    assert_eq!(stage.counters().delivered, 100);
}

#[tokio::test]
async fn a_probe_tells_what_happened() {
    let probed = |path: &str| QueuedRoute {
        probe: Some(Template::parse(path, |_| true).unwrap()),
        ..QueuedRoute::default()
    };
    let stage = Stage::new();
    let name = stage.enqueue(request(probed("/orders?ref={body:$.ref}&k={key}"), r#"{"ref":"a b"}"#)).await;
    let call = stage.call().await;
    stage.report(&call, broken());
    assert_eq!(stage.state(name).await, JobState::Unknown);
    let mut asked = 0;
    stage
        .play(Duration::from_secs(60), |probe| {
            assert!(probe.probe && probe.body.is_empty());
            assert_eq!(probe.method, model::flow::Method::Get);
            assert_eq!(probe.path_and_query, format!("/orders?ref=a%20b&k={}", call.key));
            asked += 1;
            if asked < 3 { answered(500, "") } else { answered(200, "there") }
        })
        .await;
    assert_eq!((asked, stage.state(name).await), (3, JobState::Done));
    assert_eq!(stage.answer(name).await, Some((200, Bytes::from_static(b"there"))));

    // It did not happen, said twice: it is sent again, with the same key.
    let stage = Stage::new();
    let name = stage.enqueue(request(probed("/orders"), "{}")).await;
    let first = stage.call().await;
    stage.report(&first, answered(504, ""));
    let stage = stage.kill();
    let mut made = Vec::new();
    stage
        .play(Duration::from_secs(40), |call| {
            made.push((call.probe, call.key == first.key, call.attempt));
            if call.probe { answered(404, "") } else { answered(201, "") }
        })
        .await;
    assert_eq!(made, [(true, true, 1), (true, true, 1), (false, true, 2)]);
    assert_eq!(stage.state(name).await, JobState::Done);
}

#[tokio::test]
async fn found_under_way_it_is_sent_again_with_a_key_and_unknown_without() {
    for (settings, expected) in
        [(idempotent(), JobState::Waiting), (QueuedRoute::default(), JobState::Unknown)]
    {
        let stage = Stage::new();
        let name = stage.enqueue(request(settings, "{}")).await;
        let first = stage.call().await;
        let stage = stage.kill();
        assert_eq!(stage.state(name).await, expected);
        match expected {
            JobState::Waiting => {
                let again = stage.call().await;
                assert_eq!((again.key, again.attempt), (first.key, 2));
            }
            _ => assert!(stage.due().await.is_none()),
        }
    }
}

#[tokio::test]
async fn a_waiting_job_without_a_key_is_announced_before_it_is_sent() {
    let stage = Stage::with(QueueLimits { concurrency: 1, ..QueueLimits::default() }, 0);
    let first = stage.enqueue(request(QueuedRoute::default(), "1")).await;
    let second = stage.enqueue(request(QueuedRoute::default(), "2")).await;
    let call = stage.call().await;
    stage.report(&call, answered(200, ""));
    let call = stage.call().await;
    assert_eq!(call.job, second.id);
    // Killed while it is under way: not sent again. It was only accepted as waiting, so somebody must have noted it.
    let stage = stage.kill();
    assert_eq!((stage.state(first).await, stage.state(second).await), (JobState::Done, JobState::Unknown));
}

#[tokio::test]
async fn a_client_that_goes_changes_nothing() {
    let stage = Stage::new();
    drop(stage.accept(request(idempotent(), "gone")).await);
    let queue = stage.queue.clone();
    let submits = tokio::spawn(async move {
        queue.submit(request(idempotent(), "gone before it is on disk"), |_, _| {}).await
    });
    tokio::task::yield_now().await;
    submits.abort();
    // It is either over or gone.
    let _ = submits.await;
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        let call = stage.call().await;
        stage.report(&call, answered(422, ""));
        bodies.push(call.body);
    }
    stage.settled().await;
    assert_eq!(
        (stage.counters().accepted, stage.counters().rejected),
        (2, 2),
        "nobody has heard of the refusal"
    );
    assert_eq!(stage.counters().answered_directly + stage.counters().answered_202, 0);
}

#[tokio::test]
async fn a_full_queue_says_so_and_takes_more_once_it_is_not() {
    let stage = Stage::with(QueueLimits { jobs: 2, ..QueueLimits::default() }, 0);
    stage.enqueue(request(idempotent(), "{}")).await;
    stage.enqueue(request(idempotent(), "{}")).await;
    let Submitted::Full(full) = stage.submit(request(idempotent(), "{}")).await else { panic!("it is full") };
    assert_eq!(full.why, FullWhy::Jobs { jobs: 2 });
    assert!(!full.retry_after.is_zero());
    let call = stage.call().await;
    stage.report(&call, answered(200, ""));
    stage.settled().await;
    stage.enqueue(request(idempotent(), "{}")).await;

    let stage = Stage::with(QueueLimits { bytes: 1_000, ..QueueLimits::default() }, 0);
    let large = "x".repeat(900);
    let Submitted::Full(full) = stage.submit(request(idempotent(), &large)).await else {
        panic!("it is full")
    };
    assert!(matches!(full.why, FullWhy::Bytes { bytes: 0, limit: 1_000 }), "{full:?}");
    assert_eq!((stage.counters().refused, stage.queue.status().depth), (1, 0));
}

#[tokio::test]
async fn without_room_on_the_disk_nothing_is_accepted_and_outcomes_are_written() {
    let stage = Stage::with(QueueLimits::default(), u64::MAX);
    let Submitted::Full(full) = stage.submit(request(idempotent(), "{}")).await else { panic!("no room") };
    assert!(matches!(full.why, FullWhy::Disk(_)), "{full:?}");
    assert_eq!(stage.queue.status().depth, 0);
    assert!(stage.due().await.is_none());
    // The key is free again.
    let keyed = crate::stage::keyed(idempotent(), "{}", "k");
    assert!(matches!(stage.submit(keyed.clone()).await, Submitted::Full(_)));
    assert!(matches!(stage.submit(keyed).await, Submitted::Full(_)));
}

#[tokio::test]
async fn who_is_overtaken_does_nothing_any_more() {
    let stage = Stage::new();
    let name = stage.enqueue(request(idempotent(), "{}")).await;
    let old = stage.queue.clone();
    let waits = stage.call().await;
    let stage = stage.kill();
    old.report(waits.id, answered(200, "late"), None);
    let Submitted::Full(full) = old.submit(request(idempotent(), "{}"), |_, _| {}).await else {
        panic!("fenced")
    };
    assert_eq!(full.why, FullWhy::Fenced);
    assert!(old.status().trouble.is_some());
    // The new owner sends it again, by the same key.
    let again = stage.call().await;
    stage.report(&again, answered(200, "once"));
    assert_eq!(stage.answer(name).await, Some((200, Bytes::from_static(b"once"))));
}

/// A gateway that ends sends nothing more, and what it had announced is not found half-way by the next one.
#[tokio::test]
async fn a_queue_at_rest_leaves_nothing_half_way() {
    let stage = Stage::new();
    let announced = stage.enqueue(request(QueuedRoute::default(), "1")).await;
    stage.queue.rest();
    let later = stage.enqueue(request(QueuedRoute::default(), "2")).await;
    while let Some(call) = stage.due().await {
        assert_eq!(call.job, announced.id);
        stage.report(&call, not_sent());
    }
    stage.settled().await;
    let stage = stage.kill();
    assert_eq!(stage.queue.status().unknown_now, 0);
    let mut sent = Vec::new();
    stage
        .play(Duration::from_secs(10), |call| {
            sent.push((call.job, call.attempt));
            answered(200, "")
        })
        .await;
    assert_eq!(sent, [(announced.id, 1), (later.id, 1)]);
}
