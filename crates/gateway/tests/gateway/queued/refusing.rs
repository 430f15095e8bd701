//! What cannot be queued, and what goes on nevertheless.

use super::{call, delivered, location, order, queueing, serving, to};
use crate::stage::{Gateway, Upstream, dead_address, stamp, stamp_at, wait_for};
use api::client::CallError;
use api::problem::Code;
use api::queue::Repaired;
use http::Method;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_body_that_is_too_large_is_413_and_goes_nowhere() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |route| route.body = 10);
    let answer = gateway.ask(&order(&[], "12345678901"));
    assert_eq!((answer.status, answer.problem().as_str()), (413, "body-too-large"));
    let mut client = gateway.browse();
    client.send("POST /orders HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send("6\r\n123456\r\n6\r\n123456\r\n");
    assert_eq!(client.answer().problem(), "body-too-large");
    assert_eq!(gateway.ask(&order(&[], "1234567890")).status, 200);
    assert_eq!(gateway.ask(&to("/plain", &[], "12345678901")).status, 200, "the limit is the route's");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let upstream = Upstream::named("done");
    let gateway = Gateway::start();
    let mut stamp = queueing(stamp(1, &[&upstream]), |_| {});
    stamp.settings.limits.idle_timeout = Duration::from_millis(100);
    gateway.activate(&stamp);
    let mut client = gateway.browse();
    client.send("POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhe");
    let answer = client.answer();
    assert_eq!((answer.status, answer.problem().as_str()), (408, "body-timeout"));
    // One that ends early was no order.
    let mut client = gateway.browse();
    client.send("POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhe");
    drop(client);
    assert_eq!(gateway.ask(&order(&[], "whole")).status, 200);
    assert_eq!(upstream.count(), 1);
    assert_eq!(gateway.metric("queue_accepted_total"), 1);
}

#[test]
fn a_full_queue_is_503_and_never_202() {
    let gateway = Gateway::start();
    let mut stamp = queueing(stamp_at(1, &[dead_address()]), |_| {});
    stamp.settings.queue.jobs = 3;
    gateway.activate(&stamp);
    for _ in 0..3 {
        location(&gateway.ask(&order(&["prefer: wait=0"], "{}")));
    }
    let answer = gateway.ask(&order(&["prefer: wait=0"], "{}"));
    assert_eq!((answer.status, answer.problem().as_str()), (503, "queue-full"));
    assert!(answer.one("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(answer.text().contains('3'), "{}", answer.text());
    assert_eq!(gateway.metric("queue_depth"), 3);
    assert_eq!(gateway.metric("queue_refused_total"), 1);
}

#[test]
fn a_damaged_file_refuses_queued_routes_by_name_and_nothing_else() {
    let temp = Arc::new(tempfile::tempdir().unwrap());
    let path = temp.path().join("queue.db");
    std::fs::write(&path, vec![0x5a; 8192]).unwrap();
    let upstream = Upstream::named("plain");
    let gateway = Gateway::start_in(Arc::clone(&temp));
    gateway.activate(&queueing(stamp(1, &[&upstream]), |_| {}));
    let refused = gateway.ask(&order(&[], "{}"));
    assert_eq!((refused.status, refused.problem().as_str()), (503, "queue-closed"));
    assert!(refused.text().contains("queue.db"), "{}", refused.text());
    assert!(refused.text().contains("mainstay queue repair"), "{}", refused.text());
    assert!(!refused.one("retry-after").is_empty());
    assert_eq!(gateway.get("/").text(), "plain");
    assert_eq!(gateway.ask(&to("/plain", &[], "{}")).text(), "plain");
    assert_eq!(gateway.metric("queue_open"), 0);
    let trouble = gateway.state().queue.unwrap().trouble.unwrap();
    assert!(trouble.contains("queue.db"), "{trouble}");
    assert_eq!(std::fs::read(&path).unwrap(), vec![0x5a; 8192], "it is left as it is");
    // Nobody has to start the gateway again once it is out of the way.
    std::fs::remove_file(&path).unwrap();
    let answer = wait_for("the queue", || {
        let answer = gateway.ask(&order(&[], "{}"));
        (answer.status != 503).then_some(answer)
    });
    assert_eq!((answer.status, answer.text()), (200, "plain"));
}

#[test]
fn one_damaged_job_refuses_them_too_and_is_told_of_once() {
    let mut first = Gateway::start();
    first.activate(&queueing(stamp_at(1, &[dead_address()]), |_| {}));
    location(&first.ask(&order(&["prefer: wait=0"], "{}")));
    let temp = first.temp();
    first.stop();
    let path = temp.path().join("queue.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // The name of its route, in its row, which its checksum covers. Behind the first page, where the tables are.
    let route = b"POST /orders";
    let at = bytes[4_096..].windows(route.len()).position(|found| found == route).unwrap();
    bytes[4_096 + at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let upstream = Upstream::named("plain");
    let next = Gateway::start_in(Arc::clone(&temp));
    next.activate(&queueing(stamp(1, &[&upstream]), |_| {}));
    let refused = next.ask(&order(&[], "{}"));
    assert_eq!((refused.status, refused.problem().as_str()), (503, "queue-closed"));
    let said = refused.text();
    assert!(said.contains("job 1"), "{said}");
    for once in ["queue.db", "is damaged", "mainstay queue repair"] {
        assert_eq!(said.matches(once).count(), 1, "{said}");
    }
    assert_eq!(next.get("/").text(), "plain");
}

/// What an operator does about it: everything that is whole is served again.
#[test]
fn a_damaged_file_is_repaired_while_the_gateway_runs() {
    let mut first = Gateway::start();
    first.activate(&queueing(stamp_at(1, &[dead_address()]), |_| {}));
    let jobs: Vec<String> = (0..50)
        .map(|n| {
            location(
                &first.ask(&order(&["prefer: wait=0", &format!("idempotency-key: k{n}")], &n.to_string())),
            )
        })
        .collect();
    let repair = serde_json::json!({ "v": 1, "by_uid": 0 });
    let refused: Result<Repaired, CallError> = call(&first, Method::POST, "/v1/queue/repair", &repair);
    assert!(
        matches!(refused, Err(CallError::Refused(ref problem)) if problem.code == Code::Conflict),
        "{refused:?}"
    );
    let temp = first.temp();
    first.stop();
    let path = temp.path().join("queue.db");
    assert!(!temp.path().join("queue.db-wal").exists(), "who ends in order leaves no log behind");
    // The header is gone: nothing opens this any more.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..100].fill(0);
    std::fs::write(&path, &bytes).unwrap();

    let upstream = Upstream::named("done");
    let next = Gateway::start_in(Arc::clone(&temp));
    next.activate(&queueing(stamp(1, &[&upstream]), |_| {}));
    assert_eq!(next.ask(&order(&[], "{}")).problem(), "queue-closed");
    let repaired: Repaired = call(&next, Method::POST, "/v1/queue/repair", &repair).unwrap();
    assert_eq!((repaired.jobs, repaired.lost), (50, 0), "{repaired:?}");
    assert!(std::path::Path::new(&repaired.aside).exists());
    wait_for("the queue", || next.state().queue.filter(|queue| queue.trouble.is_none() && !queue.opening));
    for job in &jobs {
        delivered(&next, job);
    }
    assert_eq!(upstream.wait(50).len(), 50);
}
