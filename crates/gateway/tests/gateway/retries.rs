//! What is tried again, and what never is.

use crate::stage::{Gateway, Reply, Upstream, dead_address, get, ok, put, stamp, stamp_at};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";

#[test]
fn a_write_that_may_have_been_sent_is_never_sent_again() {
    for request in [
        POST,
        "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
        "DELETE / HTTP/1.1\r\nhost: a\r\n\r\n",
        "PATCH / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        // A safe method with a body cannot be repeated either: the body is gone.
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    ] {
        let upstream = Upstream::start(|_, _| Reply::Close);
        let gateway = Gateway::serving(&upstream);
        let answer = gateway.ask(request);
        assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream-cut"), "{request}");
        assert_eq!(upstream.count(), 1, "{request}");
        let line = &gateway.lines(1)[0];
        assert_eq!((line["attempts"].as_u64(), line["error"].as_str()), (Some(1), Some("upstream_cut")));
        assert_eq!(gateway.metric("retries_total"), 0);
    }
}

#[test]
fn a_safe_request_is_repeated_once() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let upstream = Upstream::start(move |_, _| match counter.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Close,
            _ => Reply::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()),
        });
        let gateway = Gateway::serving(&upstream);
        let answer = gateway.ask(&format!("{method} /a?b HTTP/1.1\r\nhost: a\r\naccept: x\r\n\r\n"));
        assert_eq!(answer.status, 200);
        let seen = upstream.seen();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].head, seen[1].head, "the same again");
        assert_eq!(gateway.metric("retries_total"), 1);
        assert_eq!(gateway.lines(1)[0]["attempts"], 2);
    }
    let upstream = Upstream::start(|_, _| Reply::Close);
    let gateway = Gateway::serving(&upstream);
    assert_eq!(gateway.get("/").status, 502);
    assert_eq!(upstream.count(), 2, "once and no more");
}

#[test]
fn an_answer_that_had_begun_is_not_asked_for_again() {
    let upstream = Upstream::start(|_, _| Reply::SendClose(b"HTTP/1.1 20".to_vec()));
    let gateway = Gateway::serving(&upstream);
    assert_eq!(gateway.get("/").problem(), "upstream-cut");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn repetitions_have_a_budget() {
    let upstream = Upstream::start(|_, _| Reply::Close);
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    const REQUESTS: usize = 200;
    for _ in 0..REQUESTS {
        browser.send(get("/"));
        assert_eq!(browser.answer().status, 502);
    }
    let repeated = upstream.count() - REQUESTS;
    // What a worker starts with pays for 10, and each five requests for one more.
    assert_eq!(repeated, 10 + REQUESTS / 5);
    assert_eq!(gateway.metric("retries_total") as usize, repeated);
}

#[test]
fn a_connection_the_service_closed_meanwhile_costs_nothing() {
    // Says it keeps the connection, and closes it.
    let upstream =
        Upstream::start(|_, _| Reply::SendClose(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()));
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    for round in 1..=50 {
        // The close may be known by then, or not: then the request is handed back unsent, or a GET repeated.
        browser.send(get("/"));
        assert_eq!(browser.answer().status, 200);
        assert!(upstream.count() >= round);
    }
    assert_eq!(gateway.state().failed, 0);
}

#[test]
fn a_write_does_not_die_of_an_idle_connection_that_was_closed() {
    let upstream =
        Upstream::start(|_, _| Reply::SendClose(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()));
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    for _ in 0..10 {
        browser.send(POST);
        assert_eq!(browser.answer().status, 200);
        // The end of the connection is seen by the gateway before the next request is sent: the old connection is
        // closed by both sides when a second one on another browser has gone through.
        assert_eq!(gateway.get("/").status, 200);
    }
    assert_eq!(upstream.count(), 20);
}

#[test]
fn an_instance_that_takes_no_connection_is_passed_over() {
    let good = Upstream::named("good");
    let gateway = Gateway::start();
    gateway.activate(&stamp_at(1, &[dead_address(), good.address, dead_address()]));
    let mut browser = gateway.browse();
    for _ in 0..40 {
        browser.send(POST);
        assert_eq!(browser.answer().text(), "good");
    }
    assert_eq!((good.count(), gateway.state().failed), (40, 0));
}

#[test]
fn when_none_takes_a_connection_all_are_tried_and_then_again_for_the_next_request() {
    let gateway = Gateway::start();
    gateway.activate(&stamp_at(1, &[dead_address(), dead_address()]));
    for _ in 0..3 {
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.problem().as_str()), (502, "connect-failed"));
    }
    let line = &gateway.lines(3)[0];
    assert_eq!((line["attempts"].as_u64(), line["error"].as_str()), (Some(0), Some("connect_failed")));
    // Ejection never empties the choice: a service that comes back is found at once.
    let back = Upstream::named("back");
    gateway.activate(&stamp(1, &[&back]));
    assert_eq!(gateway.get("/").text(), "back");
}

#[test]
fn a_pinned_request_is_not_sent_elsewhere() {
    let good = Upstream::named("good");
    let gateway = Gateway::start();
    gateway.activate(&stamp_at(1, &[dead_address(), good.address]));
    let token = crate::stage::TOKEN;
    let answer = gateway.ask(&format!(
        "GET / HTTP/1.1\r\nhost: a\r\nmainstay-preview: {token}\r\nmainstay-instance: 0\r\n\r\n"
    ));
    assert_eq!((answer.status, answer.problem().as_str()), (502, "connect-failed"));
    assert_eq!(good.count(), 0);
}

#[test]
fn without_instances_the_release_is_not_ready() {
    let gateway = Gateway::start();
    gateway.put(&put(Some(&stamp_at(1, &[])), None)).unwrap();
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "no-ready-instance"));
    assert_eq!(answer.one("retry-after"), "1");
    let _ = ok("");
}
