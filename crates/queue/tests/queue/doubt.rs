//! What may have happened: it is sent again only once it surely did not, and nothing else is made of it meanwhile.

use crate::stage::{START, Stage, answered, broken, busy, idempotent, request};
use model::flow::JsonPath;
use model::queue::{QueueLimits, QueuedRoute};
use model::template::Template;
use queue::{Cancelled, JobState, OperationError, Resolution};
use std::time::Duration;

fn probed() -> QueuedRoute {
    QueuedRoute { probe: Some(Template::parse("/orders", |_| true).unwrap()), ..QueuedRoute::default() }
}

#[tokio::test]
async fn a_probe_that_says_no_is_believed_once_the_attempt_must_be_over() {
    for killed in [false, true] {
        let mut stage = Stage::new();
        let name = stage.enqueue(request(probed(), "{}")).await;
        let first = stage.call().await;
        if killed {
            stage = stage.kill();
        } else {
            stage.report(&first, broken());
        }
        let mut probes = 0;
        let says_no = |call: &queue::Call| {
            assert!(call.probe, "sent again while the first may be under way");
            probes += 1;
            answered(404, "")
        };
        stage.play(first.timeout - Duration::from_secs(1), says_no).await;
        assert_eq!((probes, stage.state(name).await), (1, JobState::Unknown));
        let took = |call: &queue::Call| if call.probe { answered(404, "") } else { answered(201, "") };
        stage.play(Duration::from_secs(10), took).await;
        assert_eq!(stage.state(name).await, JobState::Done);
    }
}

#[tokio::test]
async fn a_409_says_nothing_while_an_earlier_attempt_may_be_under_way() {
    for killed in [false, true] {
        let mut stage = Stage::new();
        let name = stage.enqueue(request(idempotent(), "{}")).await;
        let first = stage.call().await;
        if killed {
            stage = stage.kill();
        } else {
            stage.report(&first, broken());
        }
        let mut outcomes = vec![answered(201, "made"), answered(409, "in progress"), answered(409, "")];
        stage.play(Duration::from_secs(30), |_| outcomes.pop().unwrap()).await;
        assert_eq!(stage.state(name).await, JobState::Done);
        assert_eq!(stage.answer(name).await.unwrap().0, 201);
    }
    // Without a doubt it is the service's answer.
    let stage = Stage::new();
    let name = stage.enqueue(request(idempotent(), "{}")).await;
    let call = stage.call().await;
    stage.report(&call, answered(409, ""));
    assert_eq!(stage.state(name).await, JobState::Rejected);
}

#[tokio::test]
async fn an_operator_who_comes_between_hears_that_nothing_was_done() {
    let stage = Stage::new();
    let name = stage.enqueue(request(probed(), "{}")).await;
    let call = stage.call().await;
    stage.report(&call, broken());
    stage.settled().await;
    stage.clock.advance(Duration::from_secs(5));
    let probe = stage.due().await.expect("a probe");
    assert!(probe.probe);
    let resolved = stage.queue.resolve(name.id, Resolution::Delivered, 0).await;
    assert_eq!(resolved, Err(OperationError::UnderWay(name.id)));
    stage.report(&probe, answered(500, ""));
    stage.queue.resolve(name.id, Resolution::Delivered, 0).await.unwrap();
    assert_eq!(stage.state(name).await, JobState::Done);
}

fn ordered(settings: QueuedRoute) -> QueuedRoute {
    QueuedRoute { order_by: Some(JsonPath("$.customer".into())), ..settings }
}

#[tokio::test]
async fn one_that_did_not_happen_goes_before_those_behind_it() {
    let stage = Stage::new();
    let body = r#"{"customer":"ann"}"#;
    let first = stage.enqueue(request(ordered(QueuedRoute::default()), body)).await;
    for _ in 0..3 {
        stage.enqueue(request(ordered(QueuedRoute::default()), body)).await;
    }
    let call = stage.call().await;
    stage.report(&call, broken());
    assert_eq!(stage.state(first).await, JobState::Unknown);
    assert!(stage.due().await.is_none());
    stage.queue.resolve(first.id, Resolution::NotDelivered, 0).await.unwrap();
    let mut ids = Vec::new();
    let taken = |call: &queue::Call| {
        ids.push(call.job.0);
        answered(200, "")
    };
    stage.play(Duration::from_secs(5), taken).await;
    assert_eq!(ids, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_hold_that_is_over_stays_so_after_a_restart() {
    let settings = QueuedRoute { unknown_hold: Duration::from_secs(100), ..ordered(QueuedRoute::default()) };
    let stage = Stage::with(QueueLimits { concurrency: 2, ..QueueLimits::default() }, 0);
    let body = r#"{"customer":"ann"}"#;
    stage.enqueue(request(settings.clone(), body)).await;
    let call = stage.call().await;
    stage.report(&call, broken());
    stage.settled().await;
    let second = stage.enqueue(request(settings, body)).await;
    stage.clock.advance(Duration::from_secs(101));
    let stage = stage.kill();
    let next = stage.due().await.expect("nothing holds it up");
    assert_eq!((next.job, stage.counters().holds_expired), (second.id, 0));
}

#[tokio::test]
async fn a_restart_uses_up_nobody() {
    let stage = Stage::new();
    let settings = QueuedRoute { attempts: 2, ..idempotent() };
    let name = stage.enqueue(request(settings, "{}")).await;
    let call = stage.call().await;
    stage.report(&call, answered(500, ""));
    stage.settled().await;
    let stage = stage.kill();
    let mut calls = 0;
    let outage = |_: &queue::Call| {
        calls += 1;
        answered(500, "")
    };
    stage.play(Duration::from_secs(120), outage).await;
    // One more round, and then it is enough.
    assert_eq!((calls, stage.state(name).await), (2, JobState::Dead));
}

#[tokio::test]
async fn what_an_earlier_process_may_have_sent_is_not_taken_back() {
    let stage = Stage::with(QueueLimits { concurrency: 1, ..QueueLimits::default() }, 0);
    stage.enqueue(request(idempotent(), "1")).await;
    let name = stage.enqueue(request(idempotent(), "2")).await;
    let call = stage.call().await;
    stage.report(&call, answered(200, ""));
    // Sent from the backlog, without a word on disk.
    assert_eq!(stage.call().await.job, name.id);
    let stage = stage.kill();
    stage.queue.pause(None, 0).await.unwrap();
    assert!(matches!(stage.queue.cancel(name).await, Cancelled::TooLate(_)));
    // What is accepted from now on can be.
    let new = stage.enqueue(request(idempotent(), "3")).await;
    assert_eq!(stage.queue.cancel(new).await, Cancelled::Yes);
}

#[tokio::test]
async fn a_clock_that_was_wrong_when_it_was_accepted_kills_and_delays_nobody() {
    let year = 365 * 86_400_000;
    // Not set yet, a year ahead, and ahead for a moment only.
    for (accepted_at, found_at) in [(0, START), (START + year, START)] {
        let stage = Stage::new().kill_at(accepted_at);
        stage.queue.pause(None, 0).await.unwrap();
        let name = stage.enqueue(request(idempotent(), "{}")).await;
        let stage = stage.kill_at(found_at);
        stage.queue.resume(None, 0).await.unwrap();
        stage.queue.tend();
        let call = stage.due().await.expect("it is due at once");
        stage.report(&call, answered(200, ""));
        assert_eq!(stage.state(name).await, JobState::Done);
    }
    let stage = Stage::new();
    stage.queue.pause(None, 0).await.unwrap();
    let name = stage.enqueue(request(idempotent(), "1")).await;
    stage.clock.set_wall(START + year);
    stage.enqueue(request(idempotent(), "2")).await;
    let stage = stage.kill_at(START);
    stage.queue.resume(None, 0).await.unwrap();
    stage.play(Duration::from_secs(5), |_| answered(200, "")).await;
    assert_eq!((stage.state(name).await, stage.counters().delivered), (JobState::Done, 2));
    // Found by a process whose clock is behind, it was to be tried again: it is, and its pause is over.
    let stage = stage.kill_at(START);
    stage.enqueue(request(idempotent(), "3")).await;
    let call = stage.call().await;
    stage.report(&call, busy(503, 3_000));
    stage.settled().await;
    let stage = stage.kill_at(START - year);
    stage.play(Duration::from_secs(5), |_| answered(200, "")).await;
    assert_eq!(stage.counters().delivered, 1);
}
