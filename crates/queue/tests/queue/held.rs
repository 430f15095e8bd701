//! What stands until somebody deals with it, whoever owned the queue when it came to that.

use crate::sagas::{checkout, sale, yes};
use crate::stage::{Stage, answered, idempotent, request};
use model::queue::{QueuedRoute, Saga};
use queue::{CallOutcome, Filter, HeldJobs, JobId, JobName, JobState, Selection, Submission, Traffic};
use std::time::Duration;

fn held(stage: &Stage) -> HeldJobs {
    stage.queue.status().held
}

fn these(dead: u64, rejected: u64, stuck_sagas: u64) -> HeldJobs {
    HeldJobs { dead, rejected, stuck_sagas }
}

fn of_preview(submission: Submission) -> Submission {
    Submission { traffic: Traffic::Preview, ..submission }
}

/// Submits one and plays until nothing is pending.
async fn ends(
    stage: &Stage,
    submission: Submission,
    outcome: impl Fn(&queue::Call) -> CallOutcome,
) -> JobName {
    let name = stage.enqueue(submission).await;
    stage.play(Duration::from_secs(3_600), outcome).await;
    stage.settled().await;
    name
}

/// The order is refused, and the charge cannot be refunded.
fn without_refund(call: &queue::Call) -> CallOutcome {
    match call.path_and_query.as_str() {
        "/orders" => answered(409, ""),
        "/charges/c1/refund" => answered(400, ""),
        _ => yes(call),
    }
}

#[tokio::test]
async fn what_nobody_has_dealt_with_is_counted_after_a_restart_and_until_somebody_has() {
    let stage = Stage::new();
    let dies = || request(QueuedRoute { attempts: 1, ..idempotent() }, "dies");
    let dead = ends(&stage, dies(), |_| answered(500, "")).await;
    let rejected = ends(&stage, request(idempotent(), "no"), |_| answered(422, "")).await;
    let stuck = ends(&stage, sale(&checkout()), without_refund).await;
    let undone = |call: &queue::Call| match call.path_and_query.as_str() {
        "/orders" => answered(409, ""),
        _ => yes(call),
    };
    let undone = ends(&stage, sale(&checkout()), undone).await;
    // What became of these is seen by whoever made the preview.
    let mut previews = vec![ends(&stage, of_preview(dies()), |_| answered(500, "")).await];
    previews.push(ends(&stage, of_preview(request(idempotent(), "no")), |_| answered(422, "")).await);
    previews.push(ends(&stage, of_preview(sale(&checkout())), without_refund).await);
    assert_eq!(held(&stage), these(2, 2, 1));

    let stage = stage.kill();
    assert_eq!(held(&stage), these(2, 2, 1));
    assert_eq!((stage.counters().dead, stage.counters().sagas_undo_dead), (0, 0), "a restart forgets these");
    let one = |name: JobName| Selection::Jobs(vec![name.id]);
    for preview in previews {
        stage.queue.drop_jobs(one(preview), 0).await.unwrap();
    }
    assert_eq!(held(&stage), these(2, 2, 1));

    // Whatever comes of it: somebody has.
    stage.queue.retry(one(stuck), 0).await.unwrap();
    assert_eq!(held(&stage), these(1, 2, 0));
    stage.play(Duration::from_secs(60), yes).await;
    // Its order was refused before, so it is undone now.
    assert_eq!((stage.state(stuck).await, held(&stage)), (JobState::Rejected, these(1, 3, 0)));
    for (name, left) in [(stuck, these(1, 2, 0)), (undone, these(1, 1, 0)), (rejected, these(1, 0, 0))] {
        stage.queue.drop_jobs(one(name), 0).await.unwrap();
        assert_eq!(held(&stage), left);
    }
    let stage = stage.kill();
    assert_eq!(held(&stage), these(1, 0, 0));
    stage.queue.retry(one(dead), 0).await.unwrap();
    assert_eq!(held(&stage), these(0, 0, 0));
    stage.play(Duration::from_secs(60), |_| answered(200, "")).await;
    assert_eq!(held(&stage.kill()), these(0, 0, 0));
}

/// What was undone in an earlier run is nothing that is left of this one.
#[tokio::test]
async fn a_saga_that_is_dead_before_anything_was_to_be_undone_is_not_stuck() {
    let stage = Stage::new();
    let mut saga: Saga = checkout();
    // Once the order is there, there is no way back.
    saga.steps[1].undo = None;
    let name = ends(&stage, sale(&saga), |call| match call.path_and_query.as_str() {
        "/orders" => answered(409, ""),
        _ => yes(call),
    })
    .await;
    assert_eq!((stage.state(name).await, held(&stage)), (JobState::Rejected, these(0, 1, 0)));
    stage.queue.retry(Selection::Jobs(vec![name.id]), 0).await.unwrap();
    // A day is longer than it may take.
    for _ in 0..30 {
        stage
            .play(Duration::from_secs(3_600), |call| match call.path_and_query.as_str() {
                "/labels" => answered(422, ""),
                _ => yes(call),
            })
            .await;
    }
    assert_eq!((stage.state(name).await, held(&stage)), (JobState::Dead, these(1, 0, 0)));
    assert_eq!(held(&stage.kill()), these(1, 0, 0));
}

#[tokio::test]
async fn what_is_imported_counts_where_it_is_now() {
    let from = Stage::new();
    ends(&from, sale(&checkout()), without_refund).await;
    ends(&from, request(idempotent(), "no"), |_| answered(422, "")).await;
    ends(&from, of_preview(request(idempotent(), "no")), |_| answered(422, "")).await;
    let (lines, _) = from.queue.export(Filter::default(), JobId(0), 10).await.unwrap();
    let into = Stage::new();
    assert_eq!(into.queue.import(lines, 0).await.unwrap().accepted, 3);
    assert_eq!(held(&into), these(1, 1, 1));
    assert_eq!(held(&into.kill()), these(1, 1, 1));
}
