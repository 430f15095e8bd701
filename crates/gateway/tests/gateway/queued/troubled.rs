//! A queue that writes nothing any longer while the gateway serves.

use super::{call, location, order, queueing, serving};
use crate::stage::{Gateway, Upstream, dead_address, stamp, stamp_at, wait_for};
use api::client::CallError;
use api::queue::{JobHistory, QueueStatus, Repaired};
use http::Method;
use serde_json::{Value, json};
use std::path::Path;

/// Bytes of a page of the queue's file.
const PAGE: usize = 4096;

fn trouble(gateway: &Gateway) -> Option<String> {
    gateway.state().queue.and_then(|queue| queue.trouble)
}

/// Spoils every page of a file that has `needle` in it.
fn garble(path: &Path, needle: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    let found: Vec<usize> =
        (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert!(!found.is_empty(), "the needle is not in the file");
    for at in found {
        bytes[at / PAGE * PAGE..][..PAGE].fill(0xa5);
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damage_closes_the_queue_until_it_is_repaired() {
    let upstream = Upstream::named("done");
    let mut gateway = Gateway::start();
    gateway.activate(&queueing(stamp_at(1, &[dead_address()]), |_| {}));
    wait_for("the queue", || super::operating::status(&gateway).open.then_some(()));
    let _: QueueStatus =
        call(&gateway, Method::POST, "/v1/queue/pause", &json!({ "v": 1, "by_uid": 0, "route": null }))
            .unwrap();
    // Each has a page of its own.
    for n in 0..6 {
        location(&gateway.ask(&order(&["prefer: wait=0"], &format!("needle-{n}").repeat(300))));
    }
    let path = gateway.folder.queue_db();
    let temp = gateway.temp();
    gateway.stop();
    // Its writer brings the log into the file and ends a moment later.
    wait_for("the file", || (!path.with_extension("db-wal").exists()).then_some(()));
    garble(&path, b"needle-3needle-3");

    let gateway = Gateway::start_in(temp);
    // Opening reads no requests, and of those that wait only the first is looked at.
    wait_for("the queue", || gateway.state().queue.filter(|queue| queue.trouble.is_none() && !queue.opening));
    gateway.activate(&queueing(stamp(1, &[&upstream]), |_| {}));
    let unread: Result<JobHistory, CallError> = call(&gateway, Method::GET, "/v1/queue/jobs/4", &Value::Null);
    assert!(unread.is_err(), "{unread:?}");
    wait_for("its end", || trouble(&gateway).filter(|why| why.contains("mainstay queue repair")));
    let refused = gateway.ask(&order(&[], "{}"));
    assert_eq!((refused.status, refused.problem().as_str()), (503, "queue-closed"));
    assert_eq!(gateway.ask("GET /plain HTTP/1.1\r\nhost: a\r\n\r\n").text(), "done", "the rest goes on");

    let repair = json!({ "v": 1, "by_uid": 0 });
    let repaired: Repaired = call(&gateway, Method::POST, "/v1/queue/repair", &repair).unwrap();
    assert_eq!(repaired.jobs, 6, "{repaired:?}");
    wait_for("the queue", || gateway.state().queue.filter(|queue| queue.trouble.is_none() && !queue.opening));
    let resume = json!({ "v": 1, "by_uid": 0, "route": null });
    let _: QueueStatus = call(&gateway, Method::POST, "/v1/queue/resume", &resume).unwrap();
    assert_eq!(gateway.ask(&order(&[], "{}")).text(), "done");
}

#[test]
fn a_queue_that_another_has_taken_over_is_left_to_it() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |_| {});
    assert_eq!(gateway.ask(&order(&[], "{}")).status, 200);
    let options = queue::Options {
        limits: model::queue::QueueLimits::default(),
        journal: queue::JournalOptions::default(),
        clock: queue::Clock::system(),
        seed: 1,
    };
    let other = queue::Queue::open(&gateway.folder.queue_db(), options).unwrap();
    // Its next write finds out.
    let refused = gateway.ask(&order(&[], "{}"));
    assert_eq!((refused.status, refused.problem().as_str()), (503, "queue-closed"));
    wait_for("its end", || trouble(&gateway).filter(|why| why.contains("a newer owner has taken over")));
    // Whatever was asked of it is answered at once, and the other owner is not disturbed.
    assert_eq!(gateway.ask(&order(&[], "{}")).problem(), "queue-closed");
    assert_eq!(other.status().trouble, None);
}
