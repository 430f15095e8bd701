//! Deliveries that follow each other.

use crate::stage::{Stage, answered, broken, busy, idempotent, request};
use model::flow::JsonPath;
use model::queue::{QueueLimits, QueuedRoute};
use queue::{Call, JobState, Submission};
use std::collections::BTreeMap;
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
