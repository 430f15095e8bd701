//! What passes, and how it is changed on its way.

use crate::stage::{Gateway, Reply, Upstream, get, ok, put, stamp, wait_for};
use std::io::{Read as _, Write as _};

#[test]
fn a_request_arrives_with_its_fields_in_order() {
    let upstream = Upstream::named("hello");
    let gateway = Gateway::serving(&upstream);
    let answer = gateway.ask(
        "GET /a/b?c=d%20e HTTP/1.1\r\nhost: Example.org:80\r\naccept: text/html\r\ncookie: a=1\r\ncookie: b=2\r\n\
         connection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: close\r\n\
         te: gzip\r\nupgrade: h2c\r\nexpect: 100-continue\r\n\
         x-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\nx-forwarded-host: evil\r\nforwarded: for=6.6.6.6\r\n\
         x-request-id: mine\r\nvia: 1.0 before\r\n\r\n",
    );
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    let seen = &upstream.seen()[0];
    assert_eq!(seen.line(), "GET /a/b?c=d%20e HTTP/1.1");
    assert_eq!(seen.one("host"), "Example.org:80");
    assert_eq!(seen.one("accept"), "text/html");
    assert_eq!(seen.all("cookie"), ["a=1", "b=2"]);
    for gone in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "expect",
        "transfer-encoding",
    ] {
        assert!(seen.all(gone).is_empty(), "{gone} in {:?}", seen.head);
    }
    assert_eq!(seen.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.one("x-forwarded-proto"), "http");
    assert_eq!(seen.one("x-forwarded-host"), "Example.org:80");
    assert_eq!(seen.one("forwarded"), "for=127.0.0.1;host=\"Example.org:80\";proto=http");
    assert_eq!(seen.all("via"), ["1.0 before", "1.1 mainstay"]);
    let id = seen.one("x-request-id");
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!(answer.one("x-request-id"), id);
    assert_eq!(answer.one("via"), "1.1 mainstay");
    assert_eq!(seen.one("traceparent").split('-').nth(1), Some(id), "a new trace begins with the request id");
}

#[test]
fn a_trusted_proxy_is_believed() {
    let upstream = Upstream::named("hello");
    let gateway = Gateway::start();
    let mut table = put(Some(&stamp(1, &[&upstream])), None);
    table.table.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    gateway.put(&table).unwrap();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let answer = gateway.ask(&format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.0.0.1\r\nx-forwarded-for: 10.0.0.2\r\n\
         x-forwarded-proto: https\r\nx-forwarded-host: shop.example\r\nforwarded: for=10.0.0.1\r\n\
         x-request-id: from-before\r\ntraceparent: {trace}\r\ntracestate: a=b\r\n\r\n"
    ));
    let seen = &upstream.seen()[0];
    assert_eq!(seen.one("x-forwarded-for"), "10.0.0.1, 10.0.0.2, 127.0.0.1");
    assert_eq!(seen.one("x-forwarded-proto"), "https");
    assert_eq!(seen.one("x-forwarded-host"), "shop.example");
    assert_eq!(seen.all("forwarded"), ["for=10.0.0.1", "for=127.0.0.1;host=\"a\";proto=http"]);
    assert_eq!(seen.one("x-request-id"), "from-before");
    assert_eq!(answer.one("x-request-id"), "from-before");
    assert_eq!((seen.one("traceparent"), seen.one("tracestate")), (trace, "a=b"));

    let long = "x".repeat(129);
    gateway.ask(&format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx-request-id: {long}\r\ntraceparent: 00-0-0-0\r\ntracestate: a=b\r\n\r\n"
    ));
    let seen = &upstream.seen()[1];
    assert_eq!(seen.one("x-request-id").len(), 32);
    assert_ne!(seen.one("traceparent"), "00-0-0-0");
    assert!(seen.all("tracestate").is_empty(), "the state of another trace");
}

#[test]
fn an_absolute_target_names_the_host() {
    let upstream = Upstream::named("hello");
    let gateway = Gateway::serving(&upstream);
    gateway.ask("GET http://user@shop.example:81/x?y HTTP/1.1\r\nhost: other\r\n\r\n");
    gateway.ask("GET http://shop.example HTTP/1.1\r\nhost: other\r\n\r\n");
    gateway.ask("OPTIONS * HTTP/1.1\r\nhost: other\r\n\r\n");
    let seen = upstream.seen();
    assert_eq!((seen[0].line(), seen[0].one("host")), ("GET /x?y HTTP/1.1", "shop.example:81"));
    assert_eq!((seen[1].line(), seen[1].one("host")), ("GET / HTTP/1.1", "shop.example"));
    assert_eq!((seen[2].line(), seen[2].one("host")), ("OPTIONS * HTTP/1.1", "other"));
}

#[test]
fn old_clients_are_served() {
    let upstream = Upstream::start(|_, _| {
        Reply::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n".to_vec())
    });
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    browser.send("GET /old HTTP/1.0\r\n\r\n");
    let answer = browser.answer();
    assert!(answer.head[0].starts_with("HTTP/1.0 200"), "{:?}", answer.head);
    assert_eq!(answer.text(), "old");
    assert!(browser.closed());
    let seen = &upstream.seen()[0];
    assert_eq!(seen.line(), "GET /old HTTP/1.1");
    assert_eq!(seen.one("host"), upstream.address.to_string());
}

#[test]
fn tunnels_are_refused() {
    let upstream = Upstream::named("never");
    let gateway = Gateway::serving(&upstream);
    let answer = gateway.ask("CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n");
    assert_eq!((answer.status, answer.problem().as_str()), (501, "connect"));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn connections_are_kept_on_both_sides() {
    let upstream = Upstream::named("again");
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    for _ in 0..20 {
        // hyper prepares for an upgrade that is asked for; none may be left behind.
        browser.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
        assert_eq!(browser.answer().text(), "again");
    }
    let seen = upstream.seen();
    assert!(seen.iter().all(|seen| seen.connection == 0), "one upstream connection is enough");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start(|seen, _| ok(seen.line().split(' ').nth(1).unwrap()));
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    let requests: String = (0..40).map(|n| get(&format!("/{n}"))).collect();
    browser.send(requests);
    for n in 0..40 {
        assert_eq!(browser.answer().text(), format!("/{n}"));
    }
}

#[test]
fn chunks_and_trailers_pass_in_both_directions() {
    let upstream = Upstream::start(|_, _| {
        Reply::Send(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
              5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nx-sum: 11\r\n\r\n"
                .to_vec(),
        )
    });
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    browser.send(
        "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntrailer: x-check\r\n\
         transfer-encoding: Chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\nx-check: 13\r\n\r\n",
    );
    let answer = browser.answer();
    assert_eq!((answer.text(), answer.trailers.as_slice()), ("hello world", &["x-sum: 11".to_owned()][..]));
    let seen = &upstream.seen()[0];
    assert_eq!(
        (seen.body.as_slice(), seen.trailers.as_slice()),
        (&b"abc0123456789"[..], &["x-check: 13".to_owned()][..])
    );
    assert_eq!((seen.one("te"), seen.one("trailer")), ("trailers", "x-check"));
    // The connection goes on behind the trailers.
    browser.send(get("/"));
    assert_eq!(browser.answer().text(), "hello world");
}

#[test]
fn a_get_may_have_a_body_of_either_kind() {
    let upstream = Upstream::named("ok");
    let gateway = Gateway::serving(&upstream);
    gateway.ask("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc");
    gateway.ask("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let bodies: Vec<_> = upstream.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [b"abc", b"abc"]);
}

#[test]
fn answers_without_a_body_have_none() {
    let upstream = Upstream::start(|seen, _| {
        Reply::Send(match seen.line().split(' ').nth(1).unwrap() {
            "/head" => b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\netag: \"a\"\r\n\r\n".to_vec(),
            "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            "/304" => b"HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n".to_vec(),
            "/100" => b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
                        HTTP/1.1 200 Fine\r\ncontent-length: 2\r\n\r\nok"
                .to_vec(),
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        })
    });
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    for (method, path, status, length) in [
        ("HEAD", "/head", 200, Some("1234")),
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, None),
        ("GET", "/empty", 200, Some("0")),
    ] {
        browser.send(format!("{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        let answer = browser.head().unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.all("content-length").first().copied(), length, "{path}");
        assert!(answer.all("transfer-encoding").is_empty());
    }
    browser.send(get("/100"));
    let answer = browser.answer();
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    assert!(upstream.seen().iter().all(|seen| seen.connection == 0));
}

#[test]
fn an_answer_that_ends_with_its_connection_passes_whole() {
    let upstream = Upstream::start(|seen, _| {
        Reply::SendClose(if seen.line().contains("/old") {
            b"HTTP/1.0 200 OK\r\nconnection: keep-alive, x-secret\r\nx-secret: 1\r\n\r\nold answer".to_vec()
        } else {
            b"HTTP/1.1 200 OK\r\nconnection: close\r\nkeep-alive: timeout=5\r\n\r\nnew answer".to_vec()
        })
    });
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    for (path, text) in [("/old", "old answer"), ("/new", "new answer"), ("/new", "new answer")] {
        browser.send(get(path));
        let answer = browser.answer();
        assert_eq!((answer.text(), answer.broken), (text, false));
        assert!(answer.head[0].starts_with("HTTP/1.1"));
        assert_eq!(answer.one("transfer-encoding"), "chunked");
        assert!(answer.all("x-secret").is_empty() && answer.all("keep-alive").is_empty());
    }
}

#[test]
fn an_answer_framed_in_two_ways_goes_out_in_one() {
    let upstream = Upstream::start(|_, _| {
        Reply::SendClose(
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n6\r\nlonger\r\n0\r\n\r\n".to_vec(),
        )
    });
    let gateway = Gateway::serving(&upstream);
    let answer = gateway.get("/");
    assert_eq!(answer.text(), "longer");
    assert!(answer.all("content-length").is_empty());
}

#[test]
fn an_answer_that_is_cut_is_cut_for_the_client_too() {
    for head in ["content-length: 10\r\n\r\n12345", "transfer-encoding: chunked\r\n\r\na\r\n12345"] {
        let upstream =
            Upstream::start(move |_, _| Reply::SendClose(format!("HTTP/1.1 200 OK\r\n{head}").into_bytes()));
        let gateway = Gateway::serving(&upstream);
        let answer = gateway.get("/");
        assert!(answer.status == 200 && answer.broken, "{answer:?}");
        assert_eq!(gateway.lines(1)[0]["error"], "upstream_cut");
        assert_eq!(gateway.state().failed, 1);
    }
}

#[test]
fn an_answer_that_is_no_http_is_a_bad_gateway() {
    for text in [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let upstream = Upstream::start(move |_, _| Reply::SendClose(text.into()));
        let gateway = Gateway::serving(&upstream);
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream-malformed"), "{text}");
    }
}

#[test]
fn the_client_is_told_to_go_on_when_the_service_takes_the_body() {
    let upstream = Upstream::named("taken");
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    browser.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n");
    assert_eq!(browser.head().unwrap().status, 100);
    browser.send("body");
    assert_eq!(browser.answer().text(), "taken");
    assert_eq!(upstream.seen()[0].body, b"body");
}

/// Bytes that differ from place to place, so that none can be lost or doubled unseen.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n % 251) as u8).collect()
}

#[test]
fn large_bodies_stream_in_both_directions() {
    const BYTES: usize = 10 * 1024 * 1024;
    let upstream = Upstream::start(|seen, writer| {
        let _ = write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", seen.body.len());
        Reply::Send(seen.body.clone())
    });
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    let body = pattern(BYTES);
    browser.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {BYTES}\r\n\r\n"));
    browser.send(&body);
    assert!(browser.answer().body == body);
    browser.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunk in body.chunks(70_000) {
        browser.send(format!("{:x}\r\n", chunk.len()));
        browser.send(chunk);
        browser.send("\r\n");
    }
    browser.send("0\r\n\r\n");
    assert!(browser.answer().body == body);
    assert_eq!(gateway.metric("request_bytes_total"), 2 * BYTES as u64);
    assert_eq!(gateway.metric("response_bytes_total"), 2 * BYTES as u64);
}

#[test]
fn a_slow_client_slows_the_service_down_and_not_the_memory_up() {
    // More than the sockets' own buffers on both sides can take.
    const BYTES: usize = 64 * 1024 * 1024;
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&written);
    let upstream = Upstream::start(move |_, writer| {
        let _ = write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\n\r\n");
        for chunk in pattern(BYTES).chunks(64 * 1024) {
            if writer.write_all(chunk).is_err() {
                break;
            }
            counter.fetch_add(chunk.len(), std::sync::atomic::Ordering::SeqCst);
        }
        Reply::Hang
    });
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    browser.send(get("/"));
    let answer = browser.head().unwrap();
    assert_eq!(answer.status, 200);
    // Nothing is read: once the buffers are full the service cannot write, so the gateway does not gather.
    let mut last = usize::MAX;
    let stalled = wait_for("the service to be held up", || {
        // waits on a condition
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = written.load(std::sync::atomic::Ordering::SeqCst);
        std::mem::replace(&mut last, now).eq(&now).then_some(now)
    });
    assert!(stalled < BYTES, "all of {BYTES} bytes were taken from the service");
    let mut body = vec![0; BYTES];
    let mut reader = browser;
    reader.read_exactly(&mut body);
    assert!(body == pattern(BYTES));
}

#[test]
fn a_client_that_goes_takes_its_upstream_connection_along() {
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&gone);
    let upstream = Upstream::start(move |_, writer| {
        // Ends when the gateway closes.
        let _ = writer.read(&mut [0]);
        flag.store(true, std::sync::atomic::Ordering::SeqCst);
        Reply::Close
    });
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    browser.send(get("/"));
    upstream.wait(1);
    drop(browser);
    wait_for("the upstream connection to be closed", || {
        gone.load(std::sync::atomic::Ordering::SeqCst).then_some(())
    });
    let line = &gateway.lines(1)[0];
    assert_eq!((line["error"].as_str(), line["status"].as_u64()), (Some("client_gone"), None));
    assert_eq!(gateway.state().failed, 0, "a client that goes is no failure of the service");
}

#[test]
fn other_hosts_are_misdirected() {
    let upstream = Upstream::named("mine");
    let gateway = Gateway::start();
    let mut served = stamp(1, &[&upstream]);
    served.settings.hosts = vec!["shop.example".into(), "[::1]".into()];
    gateway.activate(&served);
    for (host, status) in [
        ("shop.example", 200),
        ("SHOP.example:8080", 200),
        ("[::1]:80", 200),
        ("example", 421),
        ("shop.example.", 421),
        ("", 421),
    ] {
        let answer = gateway.ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(answer.status, status, "{host}");
        if status == 421 {
            assert_eq!(answer.problem(), "wrong-host");
        }
    }
    assert_eq!(gateway.ask("GET / HTTP/1.0\r\n\r\n").status, 421);
    assert_eq!(gateway.ask("GET http://shop.example/ HTTP/1.1\r\nhost: other\r\n\r\n").status, 200);
}
