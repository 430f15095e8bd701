//! One line per request, whatever is in it.

use crate::stage::{Gateway, Reply, Upstream, get, ok, stamp};
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn a_line_says_what_happened() {
    let upstream = Upstream::start(|_, _| {
        Reply::Send(b"HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nhello".to_vec())
    });
    let gateway = Gateway::serving(&upstream);
    let answer = gateway.ask("POST /a?b=c HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 3\r\n\r\nabc");
    let line = &gateway.lines(1)[0];
    for (name, value) in [
        ("client", "127.0.0.1"),
        ("method", "POST"),
        ("host", "shop.example"),
        ("path", "/a?b=c"),
        ("stamp", "s1"),
        ("release", "release-1"),
        ("request_id", answer.one("x-request-id")),
    ] {
        assert_eq!(line[name], value, "{line}");
    }
    for (name, value) in
        [("status", 201), ("bytes_in", 3), ("bytes_out", 5), ("instance", 0), ("attempts", 1)]
    {
        assert_eq!(line[name], value, "{line}");
    }
    assert!(line["error"].is_null() && line["duration_us"].is_u64());
    let ts = line["ts"].as_str().unwrap();
    assert!(ts.len() == 24 && ts.ends_with('Z') && ts.starts_with("20"), "{ts}");
    let mode = std::fs::metadata(gateway.folder.access_log()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn hostile_requests_make_lines_that_parse() {
    let upstream = Upstream::named("ok");
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    let paths = ["/\\", "/a\\},{\\b\\:\\", "/%00%22%ff", "/{}[]", "/'--"];
    for path in paths {
        browser.send(
            format!("GET {path} HTTP/1.1\r\nhost: \u{e9}'`\r\nuser-agent: \"\\\u{7}\r\n\r\n")
                .replace('\u{7}', "\t"),
        );
        browser.answer();
    }
    browser.send(b"GET /bytes HTTP/1.1\r\nhost: \xff\xc3\x28\r\n\r\n");
    browser.answer();
    browser.send("bad \"line\\ \r\n\r\n");
    browser.answer();
    let lines = gateway.lines(paths.len() + 2);
    assert_eq!(lines.len(), paths.len() + 2);
    for (line, path) in lines.iter().zip(paths) {
        assert_eq!(line["path"], path);
        assert_eq!(line["host"], "\u{e9}'`");
    }
    let last = lines.last().unwrap();
    assert_eq!(
        (last["status"].as_u64(), last["error"].as_str(), last["path"].as_str()),
        (Some(400), Some("malformed"), Some(""))
    );
}

#[test]
fn without_access_log_there_are_no_lines() {
    let upstream = Upstream::start(|_, _| ok("quiet"));
    let mut gateway = Gateway::start();
    let mut quiet = stamp(1, &[&upstream]);
    quiet.settings.access_log = false;
    gateway.activate(&quiet);
    gateway.ask(&get("/"));
    gateway.stop();
    assert!(!gateway.folder.access_log().exists());
    assert_eq!(upstream.count(), 1);
}
