//! Every limit has its answer.

use crate::stage::{Answer, Gateway, Reply, Upstream, get, ok, stamp, wait_for};
use api::gateway::TableStamp;
use std::io::{Read as _, Write as _};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

fn with(upstream: &Upstream, change: impl FnOnce(&mut TableStamp)) -> Gateway {
    let mut stamp = stamp(1, &[upstream]);
    change(&mut stamp);
    let gateway = Gateway::start();
    gateway.activate(&stamp);
    gateway
}

fn is(answer: &Answer, status: u16, problem: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (status, problem));
}

#[test]
fn a_head_may_have_64_kib_and_100_fields() {
    let upstream = Upstream::named("ok");
    let gateway = Gateway::serving(&upstream);
    let long = |bytes: usize| format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(bytes));
    let frame = long(0).len();
    let many = |fields: usize| format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(fields - 1));
    assert_eq!(gateway.ask(&long(64 * 1024 - frame)).text(), "ok");
    assert_eq!(gateway.ask(&many(100)).text(), "ok");
    is(&gateway.ask(&long(64 * 1024 - frame + 1)), 431, "head-too-large");
    is(&gateway.ask(&long(500 * 1024)), 431, "head-too-large");
    is(&gateway.ask(&many(101)), 431, "head-too-large");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_body_that_is_too_long_is_refused_before_it_is_sent() {
    let upstream = Upstream::named("ok");
    let gateway = with(&upstream, |stamp| stamp.settings.limits.body = 1000);
    let body = "x".repeat(1000);
    assert_eq!(
        gateway.ask(&format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{body}")).text(),
        "ok"
    );
    let mut browser = gateway.browse();
    browser.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n");
    // Sent in spite of the answer: it must not be lost to a reset.
    let _ = browser.try_send(&body);
    let answer = browser.answer();
    is(&answer, 413, "body-too-large");
    assert_eq!(answer.one("connection"), "close");
    assert_eq!(upstream.count(), 1);
    // With `Expect` nobody needs to send it at all.
    let answer =
        gateway.ask("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n");
    is(&answer, 413, "body-too-large");
}

#[test]
fn chunks_are_counted_as_they_come() {
    let upstream = Upstream::named("ok");
    let gateway = with(&upstream, |stamp| stamp.settings.limits.body = 1000);
    let chunked = |chunks: usize| {
        let chunk = format!("64\r\n{}\r\n", "x".repeat(100));
        format!(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunk.repeat(chunks)
        )
    };
    assert_eq!(gateway.ask(&chunked(10)).text(), "ok");
    is(&gateway.ask(&chunked(11)), 413, "body-too-large");
    let seen = upstream.wait(2);
    assert!(!seen[0].broken && seen[1].broken, "the service must not take it for whole");
}

#[test]
fn a_body_that_turns_out_too_long_behind_an_answer_cuts_it() {
    let upstream = Upstream::start(|_, writer| {
        let _ = writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nearly");
        let _ = writer.read(&mut [0; 4096]);
        Reply::Hang
    });
    let gateway = with(&upstream, |stamp| stamp.settings.limits.body = 1000);
    let mut browser = gateway.browse();
    browser.send("POST / HTTP/1.1\r\nhost: a\r\nexpect-early: yes\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(browser.head().unwrap().status, 200);
    browser.send(format!("7d0\r\n{}\r\n", "x".repeat(2000)));
    let mut body = [0; 5];
    browser.read_exactly(&mut body);
    assert!(browser.closed());
    assert_eq!(gateway.lines(1)[0]["error"], "body_too_large");
}

#[test]
fn too_many_in_flight_are_shed() {
    let (go, going) = mpsc::channel::<()>();
    let going = Mutex::new(going);
    let upstream = Upstream::start(move |_, _| {
        let _ = going.lock().unwrap().recv();
        ok("done")
    });
    let gateway = with(&upstream, |stamp| stamp.settings.limits.in_flight = 2);
    let mut browsers: Vec<_> = (0..2).map(|_| gateway.browse()).collect();
    for browser in &mut browsers {
        browser.send(get("/"));
    }
    upstream.wait(2);
    let answer = gateway.get("/");
    is(&answer, 503, "overloaded");
    assert_eq!(answer.one("retry-after"), "1");
    go.send(()).unwrap();
    go.send(()).unwrap();
    for browser in &mut browsers {
        assert_eq!(browser.answer().text(), "done");
    }
    // Room again, on the same connections.
    go.send(()).unwrap();
    browsers[0].send(get("/"));
    assert_eq!(browsers[0].answer().text(), "done");
    assert_eq!(gateway.state().in_flight, 0);
}

#[test]
fn an_answer_that_does_not_begin_times_out() {
    let upstream = Upstream::start(|_, _| Reply::Hang);
    let gateway =
        with(&upstream, |stamp| stamp.settings.limits.first_byte_timeout = Duration::from_millis(50));
    let mut browser = gateway.browse();
    for request in [get("/"), "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi".into()] {
        browser.send(request);
        is(&browser.answer(), 504, "timeout");
    }
    assert_eq!(upstream.count(), 2, "what may have been done is not asked again");
    assert_eq!(gateway.state().failed, 2);
}

#[test]
fn an_answer_that_pauses_is_cut() {
    let upstream = Upstream::start(|_, writer| {
        let _ = writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345");
        Reply::Hang
    });
    let gateway = with(&upstream, |stamp| stamp.settings.limits.idle_timeout = Duration::from_millis(50));
    let answer = gateway.get("/");
    assert!(answer.broken, "{answer:?}");
    assert_eq!(gateway.lines(1)[0]["error"], "idle_timeout");
}

#[test]
fn an_answer_that_goes_on_is_not_cut_however_long_it_takes() {
    let upstream = Upstream::start(|_, writer| {
        let _ = writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n");
        for _ in 0..15 {
            // Longer in all than the timeout, with pauses that are shorter.
            // slow on purpose
            std::thread::sleep(Duration::from_millis(100));
            let _ = writer.write_all(b"x");
        }
        Reply::Hang
    });
    let gateway = with(&upstream, |stamp| stamp.settings.limits.idle_timeout = Duration::from_secs(1));
    let answer = gateway.get("/");
    assert_eq!((answer.body.len(), answer.broken), (15, false));
}

#[test]
fn a_client_that_does_not_take_its_answer_is_cut() {
    const BYTES: usize = 64 * 1024 * 1024;
    let upstream = Upstream::start(|_, writer| {
        let _ = write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\n\r\n");
        let _ = writer.write_all(&vec![0; BYTES]);
        Reply::Close
    });
    let gateway = with(&upstream, |stamp| stamp.settings.limits.idle_timeout = Duration::from_millis(100));
    let mut browser = gateway.browse();
    browser.send(get("/"));
    assert_eq!(browser.head().unwrap().status, 200);
    wait_for("the connection to be dropped", || (gateway.state().connections == 0).then_some(()));
    assert_eq!(gateway.state().in_flight, 0);
}

#[test]
fn a_body_that_pauses_is_answered() {
    let upstream = Upstream::named("never");
    let gateway = with(&upstream, |stamp| stamp.settings.limits.idle_timeout = Duration::from_millis(50));
    let answer = gateway.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345");
    is(&answer, 408, "body-timeout");
    assert!(upstream.wait(1)[0].broken);
}

#[test]
fn a_service_that_does_not_take_the_body_times_out() {
    let upstream = Upstream::start(|_, _| {
        // slow on purpose
        std::thread::sleep(Duration::from_secs(3));
        Reply::Close
    });
    let gateway = with(&upstream, |stamp| stamp.settings.limits.idle_timeout = Duration::from_millis(200));
    let mut browser = gateway.browse();
    const BYTES: usize = 64 * 1024 * 1024;
    browser
        .send(format!("POST / HTTP/1.1\r\nhost: a\r\nexpect-early: yes\r\ncontent-length: {BYTES}\r\n\r\n"));
    let mut writer = browser.socket().try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        // Ends when the connection does.
        let _ = writer.write_all(&vec![0; BYTES]);
    });
    is(&browser.answer(), 504, "timeout");
    drop(browser);
    sending.join().unwrap();
}

#[test]
fn slow_heads_are_given_up() {
    let upstream = Upstream::named("ok");
    let gateway = Gateway::serving(&upstream);
    let mut slow: Vec<_> = (0..30).map(|_| gateway.browse()).collect();
    for browser in &mut slow {
        browser.send("GET / HTTP/1.1\r\nhost: a\r\n");
    }
    // They keep sending, a field at a time, for as long as anybody listens.
    wait_for("all slow heads to be answered", || {
        for browser in &mut slow {
            let _ = browser.try_send("x: y\r\n");
        }
        // Others are served meanwhile.
        assert_eq!(gateway.get("/").text(), "ok");
        // slow on purpose
        std::thread::sleep(Duration::from_millis(300));
        (gateway.state().connections <= 1).then_some(())
    });
    for browser in &mut slow {
        is(&browser.answer(), 408, "head-timeout");
    }
}

#[test]
fn an_idle_connection_outlives_the_pauses_a_body_may_make() {
    let upstream = Upstream::named("ok");
    let gateway = with(&upstream, |stamp| stamp.settings.limits.idle_timeout = Duration::from_millis(50));
    let mut idle = gateway.browse();
    idle.send(get("/"));
    assert_eq!(idle.answer().text(), "ok");
    // Another connection is cut for its pause; the idle one, older, is not.
    let answer = gateway.ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345");
    is(&answer, 408, "body-timeout");
    idle.send(get("/"));
    assert_eq!(idle.answer().text(), "ok");
}

#[test]
fn idle_upstream_connections_are_closed_and_the_client_s_is_not() {
    let upstream = Upstream::named("ok");
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    for round in 1..=2 {
        browser.send(get("/"));
        assert_eq!(browser.answer().text(), "ok");
        wait_for("the upstream connection to be closed", || (upstream.ended() == round).then_some(()));
    }
}
