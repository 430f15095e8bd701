//! What can be read in two ways is answered with 400, and the service never hears of it.

use crate::stage::{Gateway, Upstream, get};

/// What is sent, and the status and problem of the answer.
const CASES: &[(&str, u16, &str)] = &[
    (
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
        "malformed",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
        400,
        "malformed",
    ),
    ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\nx", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\nx", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x1\r\n\r\nx", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: \r\n\r\nx", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551616\r\n\r\nx", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n", 400, "malformed"),
    (
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed",
    ),
    ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501, "coding"),
    ("GET / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a@b\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\nx\t: a\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n\tfolded\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\n: empty\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\nb(d: x\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\nx: b\nsmuggled: c\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\nhost: a\r\n\n", 400, "malformed"),
    ("GET / HTTP/1.1\r\rhost: a\r\n\r\n", 400, "malformed"),
    ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/1.1 \r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed"),
    (" GET / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("G(T / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET /\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET\r\n\r\n", 400, "malformed"),
    ("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET example.org HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET * HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET /\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed"),
    ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505, "version"),
    ("GET / HTTP/1.2\r\nhost: a\r\n\r\n", 505, "version"),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version"),
    ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n", 400, "malformed"),
];

#[test]
fn a_head_that_is_wrong_is_answered_and_never_forwarded() {
    let upstream = Upstream::named("never");
    let gateway = Gateway::serving(&upstream);
    for (bytes, status, problem) in CASES {
        let mut browser = gateway.browse();
        browser.send(bytes);
        let answer = browser.answer();
        assert_eq!((answer.status, answer.problem().as_str()), (*status, *problem), "{bytes:?}");
        assert_eq!(answer.one("connection"), "close", "{bytes:?}");
        assert!(browser.closed(), "{bytes:?}");
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(gateway.state().requests, CASES.len() as u64);
    assert_eq!(gateway.state().failed, 0);
}

#[test]
fn a_wrong_head_behind_a_right_one_is_answered_in_its_turn() {
    let upstream = Upstream::named("right");
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    browser.send(format!("{}GET /second HTTP/1.1\r\nhost : a\r\n\r\n{}", get("/first"), get("/third")));
    assert_eq!(browser.answer().text(), "right");
    assert_eq!(browser.answer().problem(), "malformed");
    assert!(browser.closed());
    let lines: Vec<_> = upstream.seen().iter().map(|seen| seen.line().to_owned()).collect();
    assert_eq!(lines, ["GET /first HTTP/1.1"]);
}

#[test]
fn a_wrong_head_is_found_however_slowly_it_comes() {
    let upstream = Upstream::named("never");
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    for byte in b"GET / HTTP/1.1\r\nhost: a\r\nx: y\n\r\n" {
        if browser.try_send([*byte]).is_err() {
            break;
        }
    }
    assert_eq!(browser.answer().problem(), "malformed");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_wrong_chunk_cuts_the_request_and_is_answered() {
    for body in [
        "x\r\n",
        "\r\n",
        "-1\r\nx\r\n",
        "0x1\r\nx\r\n",
        "1 \r\nx\r\n",
        "1\nx\r\n",
        "1\r\nxy\r\n",
        "1\r\nx\n",
        "1\r\nx0\r\n\r\n",
        "1;a\nb\r\nx\r\n",
        "ffffffffffffffff\r\nx\r\n",
        "10000000000000000\r\nx\r\n",
        "1\r\nx\r\n0\r\n bad: trailer\r\n\r\n",
        "1\r\nx\r\n0\r\nbad : trailer\r\n\r\n",
        "1\r\nx\r\n0\r\nbad: trailer\n\r\n",
    ] {
        let upstream = Upstream::named("never");
        let gateway = Gateway::serving(&upstream);
        let mut browser = gateway.browse();
        browser.send(format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}"));
        let answer = browser.answer();
        assert_eq!((answer.status, answer.problem().as_str()), (400, "malformed"), "{body:?}");
        assert!(browser.closed());
        // The head may have gone on before; the service must not take the request for a whole one.
        assert!(upstream.seen().iter().all(|seen| seen.broken), "{body:?}: {:?}", upstream.seen());
    }
}

#[test]
fn one_empty_line_before_a_request_is_forgiven() {
    let upstream = Upstream::named("served");
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    for _ in 0..2 {
        browser.send(format!("\r\n{}", get("/")));
        assert_eq!(browser.answer().text(), "served");
    }
}

#[test]
fn every_visible_character_of_a_path_arrives_as_it_was_sent() {
    let upstream = Upstream::named("served");
    let gateway = Gateway::serving(&upstream);
    for byte in (b'!'..=b'~').map(char::from) {
        let path = format!("/a{byte}b?c{byte}d");
        let answer = gateway.get(&path);
        if "#\"<>`".contains(byte) {
            assert_eq!((answer.status, answer.problem().as_str()), (400, "malformed"), "{path}");
        } else {
            assert_eq!(answer.status, 200, "{path}");
            assert_eq!(upstream.seen().last().unwrap().line(), format!("GET {path} HTTP/1.1"));
        }
    }
}
