//! What an import keeps of a job, and what does not keep it out.

use crate::stage::{PATIENCE, Stage, answered, broken, idempotent, keyed, request};
use bytes::Bytes;
use model::flow::JsonPath;
use model::queue::QueuedRoute;
use queue::{Filter, JobId, JobName, JobState, OperationError, Selection, Submission};
use std::time::Duration;

async fn exported(stage: &Stage) -> Vec<String> {
    stage.settled().await;
    stage.queue.export(Filter::default(), JobId(0), 100).await.unwrap().0
}

/// A job that the service has refused.
async fn rejected(stage: &Stage, submission: Submission) -> JobName {
    let name = stage.enqueue(submission).await;
    let call = stage.call().await;
    stage.report(&call, answered(422, "no"));
    assert_eq!(stage.state(name).await, JobState::Rejected);
    name
}

#[tokio::test]
async fn those_in_doubt_hold_up_others_for_as_long_as_they_say_themselves() {
    // Longer and shorter than usual, and both in one batch.
    let holds = [3_000, 100, 1_000].map(Duration::from_secs);
    let settings = |unknown_hold| QueuedRoute {
        unknown_hold,
        order_by: Some(JsonPath("$.user".into())),
        ..QueuedRoute::default()
    };
    let stage = Stage::new();
    for (user, hold) in holds.into_iter().enumerate() {
        let body = format!(r#"{{"user":{user}}}"#);
        stage.enqueue(request(settings(hold), &body)).await;
        let call = stage.call().await;
        stage.report(&call, broken());
        stage.settled().await;
        stage.enqueue(request(settings(hold), &body)).await;
    }
    assert!(stage.due().await.is_none());
    let lines = exported(&stage).await;
    assert_eq!(lines.len(), 6);

    let other = Stage::new();
    let imported = other.queue.import(lines, 0).await.unwrap();
    assert_eq!((imported.accepted, other.queue.status().unknown_now), (6, 3));
    let mut passed = Duration::ZERO;
    let mut order = holds.into_iter().enumerate().collect::<Vec<_>>();
    order.sort_by_key(|(_, hold)| *hold);
    for (user, hold) in order {
        other.clock.advance(hold - passed - Duration::from_secs(1));
        assert!(other.due().await.is_none(), "{user} goes too early");
        other.clock.advance(Duration::from_secs(2));
        passed = hold + Duration::from_secs(1);
        let call = other.due().await.expect("held up for longer than it says");
        assert_eq!(&call.body[..], format!(r#"{{"user":{user}}}"#).as_bytes());
        other.report(&call, answered(200, ""));
    }
    assert_eq!(other.counters().holds_expired, 3);
}

#[tokio::test]
async fn a_damaged_request_does_not_keep_out_what_is_imported() {
    let stage = Stage::new();
    let name = rejected(&stage, request(idempotent(), "needle in the request")).await;
    let lines = exported(&stage).await;
    assert_eq!(stage.queue.import(lines.clone(), 0).await.unwrap().known, 1, "it is here");
    let stage = stage.damaged(b"needle in the request");
    assert!(matches!(stage.queue.show(name.id).await, Err(OperationError::Read(_))), "it is damaged");
    let imported = stage.queue.import(lines.clone(), 0).await.unwrap();
    assert_eq!((imported.accepted, imported.known), (1, 0));
    let imported = stage.queue.import(lines, 0).await.unwrap();
    assert_eq!((imported.accepted, imported.known), (0, 1), "once");
    assert_eq!(stage.queue.retry(Selection::Jobs(vec![JobId(name.id.0 + 1)]), 0).await.unwrap(), 1);
    let call = stage.call().await;
    assert_eq!(call.body, Bytes::from_static(b"needle in the request"));
}

#[tokio::test]
async fn a_damaged_row_does_not_keep_out_what_is_imported() {
    let stage = Stage::new();
    let drawn = rejected(&stage, request(idempotent(), "drawn")).await;
    let given = rejected(&stage, keyed(idempotent(), "given", "k")).await;
    let lines = exported(&stage).await;
    let other = Stage::new();
    rejected(&other, keyed(idempotent(), "more", "l")).await;
    let more = exported(&other).await;
    // Rows, and not what they lead to: their tags are nowhere else.
    let stage = stage.damaged(&drawn.tag.0).also_damaged(&given.tag.0);
    // Whoever reads has the rows in memory until something else is written.
    stage.queue.pause(Some("POST /other"), 0).await.unwrap();
    for name in [drawn, given] {
        assert!(stage.queue.job(name).await.is_err(), "it is damaged");
    }
    let imported = stage.queue.import([lines, more].concat(), 0).await.unwrap();
    // What is known by a key that its client gave may have been dealt with since: that is not for an import to say.
    assert_eq!((imported.accepted, imported.known), (2, 1));
    assert!(stage.queue.close(PATIENCE), "it is trusted as before");
}
