//! The agent's side: tables, fences, and what is found after a restart.

use crate::queued::{becomes, delivered, location, order, queueing};
use crate::stage::{Browser, Gateway, PATIENCE, Upstream, get, put, stamp, wait_for};
use api::client::CallError;
use api::gateway::Persist;
use api::problem::Code;
use model::away::Hold;
use model::name::{FenceToken, StampId};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

fn refused(error: CallError) -> Code {
    match error {
        CallError::Refused(problem) => problem.code,
        CallError::NotThere { .. } | CallError::NoAnswer { .. } => panic!("{error}"),
    }
}

#[test]
fn an_older_agent_is_fenced() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let mut gateway = Gateway::start();
    let mut table = put(Some(&stamp(1, &[&one])), None);
    table.fence = FenceToken(5);
    assert_eq!(gateway.put(&table).unwrap().revision, 1);
    assert_eq!(gateway.put(&table).unwrap().revision, 2, "the same agent may speak again");
    let mut old = put(Some(&stamp(2, &[&two])), None);
    old.fence = FenceToken(4);
    assert_eq!(refused(gateway.put(&old).unwrap_err()), Code::Fenced);
    assert_eq!(gateway.get("/").text(), "one");
    // The fence outlives the gateway.
    gateway.stop();
    let gateway = Gateway::start_in(gateway.temp());
    assert_eq!(refused(gateway.put(&old).unwrap_err()), Code::Fenced);
    old.fence = FenceToken(6);
    gateway.put(&old).unwrap();
    assert_eq!(gateway.get("/").text(), "two");
}

#[test]
fn a_newer_protocol_is_refused() {
    let gateway = Gateway::start();
    let mut table = put(None, None);
    table.v = api::PROTOCOL_VERSION + 1;
    assert_eq!(refused(gateway.put(&table).unwrap_err()), Code::Version);
}

#[test]
fn a_restarted_gateway_serves_from_the_stored_table() {
    let (active, candidate) = (Upstream::named("active"), Upstream::named("candidate"));
    let mut gateway = Gateway::start();
    gateway.put(&put(Some(&stamp(3, &[&active])), Some(&stamp(4, &[&candidate])))).unwrap();
    let path = gateway.folder.table();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    gateway.stop();
    let gateway = Gateway::start_in(gateway.temp());
    assert_eq!(gateway.get("/").text(), "active");
    let state = gateway.state();
    assert_eq!((state.revision, state.active, state.candidate), (0, Some(StampId(3)), Some(StampId(4))));
}

/// Another one with this one's folder, after a boot of the machine.
fn rebooted(mut gateway: Gateway) -> Gateway {
    gateway.stop();
    let path = gateway.folder.table();
    let mut stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    stored["boot"] = "another".into();
    std::fs::write(&path, stored.to_string()).unwrap();
    Gateway::start_in(gateway.temp())
}

#[test]
fn after_a_boot_nothing_is_sent_before_the_agent_speaks() {
    let upstream = Upstream::named("hello");
    let gateway = Gateway::start();
    let mut release = queueing(stamp(1, &[&upstream]), |route| route.wait = Duration::ZERO);
    release.settings.hold = Hold { requests: 10, time: 2 * PATIENCE };
    gateway.put(&put(Some(&release), Some(&stamp(2, &[&upstream])))).unwrap();
    let gateway = rebooted(gateway);
    let state = gateway.state();
    assert_eq!((state.revision, state.active, state.candidate), (0, Some(StampId(1)), Some(StampId(2))));
    // It waits, and an order is written down meanwhile.
    let mut browser = gateway.browse();
    browser.send(get("/"));
    wait_for("a request that is held", || (gateway.metric("held") == 1).then_some(()));
    let job = location(&gateway.ask(&order(&[], "{}")));
    becomes(&gateway, &job, "waiting");
    assert_eq!(upstream.count(), 0);
    gateway.activate(&release);
    assert_eq!(browser.answer().text(), "hello");
    delivered(&gateway, &job);
}

#[test]
fn after_a_boot_requests_wait_no_longer_than_the_release_lets_them() {
    let upstream = Upstream::named("hello");
    let gateway = Gateway::start();
    let mut release = stamp(1, &[&upstream]);
    release.settings.hold = Hold { requests: 0, time: Duration::ZERO };
    gateway.activate(&release);
    let gateway = rebooted(gateway);
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "no-ready-instance"));
    gateway.activate(&release);
    assert_eq!(gateway.get("/").text(), "hello");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_table_that_cannot_be_read_does_not_keep_the_gateway_down() {
    let upstream = Upstream::named("hello");
    for text in ["", "{", "{\"v\":1}", "{\"v\":1000,\"what\":\"ever\"}"] {
        let temp = std::sync::Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(temp.path().join("table.json"), text).unwrap();
        let gateway = Gateway::start_in(temp);
        assert_eq!(gateway.get("/").status, 503);
        gateway.activate(&stamp(1, &[&upstream]));
        assert_eq!(gateway.get("/").text(), "hello");
    }
}

#[test]
fn when_the_disk_refuses_users_are_not_given_but_can_be_taken() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let gateway = Gateway::serving(&one);
    // A folder in its place: the new table cannot be written.
    std::fs::create_dir(gateway.folder.table().with_extension("json.new")).unwrap();
    let mut table = put(Some(&stamp(2, &[&two])), None);
    assert_eq!(refused(gateway.put(&table).unwrap_err()), Code::Machine);
    assert_eq!(gateway.get("/").text(), "one");
    assert_eq!(gateway.state().revision, 1);
    table.persist = Persist::After;
    let applied = gateway.put(&table).unwrap();
    assert!(applied.not_stored.is_some());
    assert_eq!(applied.closed.len(), 1);
    assert_eq!(gateway.get("/").text(), "two");
}

#[test]
fn the_socket_is_the_owners_and_replaces_a_stale_one() {
    let mut gateway = Gateway::start();
    let socket = gateway.folder.gateway_socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    gateway.stop();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists(), "left behind by a gateway that was killed");
    let gateway = Gateway::start_in(gateway.temp());
    assert_eq!(gateway.state().revision, 0);
}

#[test]
fn the_admin_address_tells_and_takes_nothing() {
    let upstream = Upstream::named("hello");
    let gateway = Gateway::start();
    let ask = |line: &str| {
        let mut browser = Browser::to(gateway.admin);
        browser.send(format!("{line} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"));
        browser.answer()
    };
    assert_eq!(ask("GET /.mainstay/health").status, 503);
    gateway.activate(&stamp(1, &[&upstream]));
    assert_eq!(ask("GET /.mainstay/health").status, 200);
    assert_eq!(ask("PUT /v1/table").status, 404);
    assert_eq!(ask("GET /v1/state").status, 404);
    assert_eq!(ask("POST /metrics").status, 405);
    for _ in 0..3 {
        gateway.get("/");
    }
    let text = ask("GET /metrics");
    let text = text.text();
    for line in [
        "mainstay_gateway_requests_total 3",
        "mainstay_gateway_responses_total{stamp=\"s1\",release=\"release-1\",class=\"2xx\"} 3",
        "mainstay_gateway_table_revision 1",
        "mainstay_gateway_in_flight{stamp=\"s1\",role=\"active\"} 0",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn what_is_no_table_is_refused() {
    let gateway = Gateway::start();
    let mut socket = std::os::unix::net::UnixStream::connect(gateway.folder.gateway_socket()).unwrap();
    use std::io::{Read as _, Write as _};
    socket
        .write_all(b"PUT /v1/table HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        .unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("bad_request"), "{text}");
    assert_eq!(gateway.state().revision, 0);
    let _ = get("/");
}
