//! Deliveries that follow each other.

use crate::stage::{PATIENCE, START, Stage, answered, broken, busy, idempotent, request};
use model::flow::JsonPath;
use model::queue::{QueueLimits, QueuedRoute};
use queue::{Call, JobState, Resolution, Submission, Submitted};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

fn ordered(settings: QueuedRoute) -> QueuedRoute {
    QueuedRoute { order_by: Some(JsonPath("$.customer".into())), ..settings }
}

fn of(customer: &str, settings: QueuedRoute, n: u32) -> Submission {
    request(ordered(settings), &format!(r#"{{"customer":"{customer}","n":{n}}}"#))
}

fn customer(call: &Call) -> String {
    let body: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
    body["customer"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_after_the_other_for_each_customer() {
    let stage = Stage::new();
    for n in 0..5 {
        for who in ["ann", "bob"] {
            stage.enqueue(of(who, idempotent(), n)).await;
        }
    }
    let mut first = [stage.call().await, stage.call().await];
    assert!(stage.due().await.is_none(), "one of each is under way");
    first.sort_by_key(customer);
    assert_eq!(customer(&first[0]), "ann");
    // Ann's is put off: hers wait, Bob's go on.
    stage.report(&first[0], busy(503, 100));
    stage.report(&first[1], answered(200, ""));
    let mut ids: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    stage
        .play(Duration::from_secs(99), |call| {
            ids.entry(customer(call)).or_default().push(call.job.0);
            answered(200, "")
        })
        .await;
    assert_eq!(ids, BTreeMap::from([("bob".into(), vec![4, 6, 8, 10])]));
    // Killed, hers still wait for each other.
    let stage = stage.kill();
    let mut hers = Vec::new();
    stage
        .play(Duration::from_secs(200), |call| {
            hers.push(call.job.0);
            answered(200, "")
        })
        .await;
    assert_eq!(hers, [1, 3, 5, 7, 9]);
}

/// Holds up whoever wakes it, until it is let go on.
struct Gate {
    woken: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        let go_on = self.go_on.lock().unwrap();
        if self.woken.send(()).is_ok() {
            // An error says that the test is over.
            let _ = go_on.recv_timeout(PATIENCE);
        }
    }
}

#[tokio::test]
async fn what_follows_an_acknowledgement_comes_after_it() {
    for _ in 0..100 {
        if orders_again_at_once().await {
            return;
        }
    }
    panic!("the writer was quicker each time");
}

/// Whoever has heard that its order is accepted orders again at once, while the writer is held up in telling. False: the
/// writer had told before anybody waited.
async fn orders_again_at_once() -> bool {
    let limits = QueueLimits { concurrency: 1, ..QueueLimits::default() };
    let stage = Stage::with(limits, 0);
    stage.enqueue(of("bob", idempotent(), 0)).await;
    let busy_with = stage.call().await;
    let (woken, is_woken) = sync_channel(1);
    let (go_on, goes_on) = sync_channel(1);
    let waker = Waker::from(Arc::new(Gate { woken, go_on: Mutex::new(goes_on) }));
    let mut first = pin!(stage.queue.submit(of("ann", idempotent(), 1), |_, _| {}));
    let mut context = Context::from_waker(&waker);
    if first.as_mut().poll(&mut context).is_ready() {
        return false;
    }
    is_woken.recv_timeout(PATIENCE).unwrap();
    let Poll::Ready(Submitted::New(first)) = first.as_mut().poll(&mut context) else { panic!("accepted") };
    stage.report(&busy_with, answered(200, ""));
    let second = Submission { carries: true, ..of("ann", idempotent(), 2) };
    let mut second = pin!(stage.queue.submit(second, |_, _| {}));
    assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    go_on.send(()).unwrap();
    let Submitted::New(mut second) = second.await else { panic!("accepted") };
    assert!(second.first_call().is_none(), "it went before the one that it follows");
    let call = stage.call().await;
    assert_eq!(call.job, first.name().id);
    stage.report(&call, answered(200, ""));
    assert_eq!(stage.call().await.job, second.name().id);
    true
}

/// A machine may come back with a clock that is behind: what was accepted before is due all the same, and first.
#[tokio::test]
async fn what_is_found_is_before_what_comes_whatever_the_clock_says() {
    let stage = Stage::new();
    // Its call is not begun with it.
    stage.queue.pause(None, 0).await.unwrap();
    let first = stage.enqueue(of("ann", QueuedRoute::default(), 1)).await;
    stage.queue.resume(None, 0).await.unwrap();
    let stage = stage.kill_at(START - 60_000);
    let mut second = stage.accept(Submission { carries: true, ..of("ann", QueuedRoute::default(), 2) }).await;
    assert!(second.first_call().is_none(), "it went before the one that it follows");
    let call = stage.call().await;
    assert_eq!(call.job, first.id);
    stage.report(&call, answered(200, ""));
    assert_eq!(stage.call().await.job, second.name().id);
}

#[tokio::test]
async fn rejected_and_dead_let_the_next_one_go() {
    let stage = Stage::new();
    let settings = QueuedRoute { attempts: 1, ..idempotent() };
    for n in 0..3 {
        stage.enqueue(of("ann", settings.clone(), n)).await;
    }
    for outcome in [answered(422, ""), answered(500, ""), answered(200, "")] {
        let call = stage.call().await;
        assert!(stage.due().await.is_none());
        stage.report(&call, outcome);
    }
    stage.settled().await;
    let counters = stage.counters();
    assert_eq!((counters.rejected, counters.dead, counters.delivered), (1, 1, 1));
}

#[tokio::test]
async fn an_unknown_one_holds_up_the_next_for_a_while() {
    let settings = QueuedRoute { unknown_hold: Duration::from_secs(900), ..QueuedRoute::default() };
    let stage = Stage::new();
    let first = stage.enqueue(of("ann", settings.clone(), 0)).await;
    stage.enqueue(of("ann", settings.clone(), 1)).await;
    stage.enqueue(of("bob", settings.clone(), 2)).await;
    let call = stage.call().await;
    stage.report(&call, broken());
    let bobs = stage.call().await;
    stage.report(&bobs, answered(200, ""));
    stage.clock.advance(Duration::from_secs(500));
    assert!(stage.due().await.is_none());
    // The time that has passed counts, also when the process is killed.
    let stage = stage.kill();
    stage.clock.advance(Duration::from_secs(399));
    assert!(stage.due().await.is_none());
    stage.clock.advance(Duration::from_secs(2));
    let next = stage.due().await.unwrap();
    assert_eq!(next.job.0, 2);
    assert_eq!((stage.state(first).await, stage.counters().holds_expired), (JobState::Unknown, 1));
}

#[tokio::test]
async fn a_scheduled_one_is_in_order_from_its_time_on() {
    let stage = Stage::new();
    let later = |n, after| Submission {
        deliver_after: Some(Duration::from_secs(after)),
        ..of("ann", idempotent(), n)
    };
    stage.enqueue(later(0, 100)).await;
    stage.enqueue(later(1, 50)).await;
    stage.enqueue(of("ann", idempotent(), 2)).await;
    let stage = stage.kill();
    let mut ids = Vec::new();
    stage
        .play(Duration::from_secs(49), |call| {
            ids.push(call.job.0);
            answered(200, "")
        })
        .await;
    assert_eq!(ids, [3]);
    stage
        .play(Duration::from_secs(60), |call| {
            ids.push(call.job.0);
            answered(200, "")
        })
        .await;
    assert_eq!(ids, [3, 2, 1]);
}

#[tokio::test]
async fn what_has_become_due_keeps_its_place_over_a_restart() {
    let stage = Stage::new();
    stage.queue.pause(None, 0).await.unwrap();
    let later = |n, after| Submission {
        deliver_after: Some(Duration::from_secs(after)),
        ..of("ann", idempotent(), n)
    };
    stage.enqueue(later(0, 100)).await;
    stage.enqueue(later(1, 50)).await;
    stage.clock.advance(Duration::from_secs(10));
    stage.enqueue(of("ann", idempotent(), 2)).await;
    stage.clock.advance(Duration::from_secs(70));
    stage.enqueue(of("ann", idempotent(), 3)).await;
    stage.clock.advance(Duration::from_secs(70));
    let stage = stage.kill();
    stage.queue.resume(None, 0).await.unwrap();
    let mut ids = Vec::new();
    stage
        .play(Duration::from_secs(10), |call| {
            ids.push(call.job.0);
            answered(200, "")
        })
        .await;
    assert_eq!(ids, [3, 2, 4, 1]);
}

#[tokio::test]
async fn what_an_operator_has_resolved_keeps_its_place_over_a_restart() {
    let stage = Stage::new();
    let first = stage.enqueue(of("ann", QueuedRoute::default(), 0)).await;
    let call = stage.call().await;
    stage.report(&call, broken());
    assert_eq!(stage.state(first).await, JobState::Unknown);
    stage.clock.advance(Duration::from_secs(10));
    stage.enqueue(of("ann", QueuedRoute::default(), 1)).await;
    stage.queue.pause(None, 0).await.unwrap();
    stage.clock.advance(Duration::from_secs(10));
    stage.queue.resolve(first.id, Resolution::NotDelivered, 0).await.unwrap();
    stage.clock.advance(Duration::from_secs(10));
    let stage = stage.kill();
    stage.queue.resume(None, 0).await.unwrap();
    assert_eq!(stage.call().await.job, first.id);
}

#[tokio::test]
async fn without_a_value_there_is_no_order_and_that_is_counted() {
    let stage = Stage::with(QueueLimits { concurrency: 10, ..QueueLimits::default() }, 0);
    for body in ["no json", "{}", r#"{"customer":null}"#, ""] {
        stage.enqueue(request(ordered(idempotent()), body)).await;
    }
    for _ in 0..4 {
        stage.call().await;
    }
    assert_eq!(stage.counters().unordered, 4);
}
