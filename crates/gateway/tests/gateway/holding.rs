//! Requests that wait while no instance takes them.

use crate::stage::{
    Browser, Gateway, PATIENCE, TOKEN, Upstream, dead_address, get, put, stamp, stamp_at, wait_for,
};
use api::gateway::{Guard, Tripped};
use api::gateway::{PutTable, TableStamp};
use model::away::Hold;
use model::name::StampId;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";

/// Requests wait for longer than any test has patience.
fn holding(mut stamp: TableStamp, requests: u32) -> TableStamp {
    stamp.settings.hold = Hold { requests, time: 2 * PATIENCE };
    stamp
}

/// They hardly wait.
fn impatient(mut stamp: TableStamp) -> TableStamp {
    stamp.settings.hold = Hold { requests: 10, time: Duration::from_millis(30) };
    stamp
}

fn send(gateway: &Gateway, request: &str) -> Browser {
    let mut browser = gateway.browse();
    browser.send(request);
    browser
}

fn wait_until_held(gateway: &Gateway, count: u64) {
    wait_for("requests that are held", || (gateway.metric("held") == count).then_some(()));
}

#[test]
fn requests_wait_for_an_instance_and_are_sent_once() {
    let upstream = Upstream::named("there");
    let gateway = Gateway::start();
    gateway.activate(&holding(stamp_at(1, &[]), 10));
    let mut browsers = [send(&gateway, &get("/")), send(&gateway, POST)];
    wait_until_held(&gateway, 2);
    // A table that brings none changes nothing.
    gateway.activate(&holding(stamp_at(1, &[]), 10));
    assert_eq!(gateway.metric("held"), 2);
    gateway.activate(&holding(stamp(1, &[&upstream]), 10));
    for browser in &mut browsers {
        assert_eq!(browser.answer().text(), "there");
    }
    assert_eq!(upstream.wait(2).iter().map(|seen| seen.body.len()).sum::<usize>(), 3);
    assert_eq!((gateway.metric("held"), gateway.metric("held_total"), gateway.measures().held), (0, 2, 2));
    assert_eq!(gateway.state().failed, 0);
    for line in gateway.lines(2) {
        assert!(line["held_ms"].as_u64().is_some() && line["error"].is_null(), "{line}");
        assert!(line["duration_us"].as_u64() >= line["held_ms"].as_u64().map(|ms| ms * 1000), "{line}");
    }
}

#[test]
fn what_takes_no_connection_is_told_at_once_and_waited_for() {
    let upstream = Upstream::named("there");
    let gateway = Gateway::start();
    gateway.activate(&holding(stamp_at(1, &[dead_address(), dead_address()]), 10));
    let mut browser = send(&gateway, POST);
    wait_until_held(&gateway, 1);
    assert!(gateway.measures().stamps[0].connect_failures >= 2, "before it waits");
    let instances = gateway.state().instances;
    assert!(instances.iter().all(|load| load.in_flight == 0), "who waits keeps no instance: {instances:?}");
    gateway.activate(&holding(stamp(1, &[&upstream]), 10));
    assert_eq!(browser.answer().text(), "there");
    assert_eq!(gateway.lines(1)[0]["attempts"], 1);
}

#[test]
fn the_same_instance_is_tried_again_when_its_ejection_ends() {
    let address = dead_address();
    let gateway = Gateway::start();
    gateway.activate(&holding(stamp_at(1, &[address]), 10));
    let mut browser = send(&gateway, &get("/"));
    wait_until_held(&gateway, 1);
    let listener = wait_for("the port", || TcpListener::bind(address).ok());
    let (mut socket, _) = listener.accept().unwrap();
    assert!(socket.read(&mut [0; 1024]).unwrap() > 0);
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nback").unwrap();
    assert_eq!(browser.answer().text(), "back");
    assert_eq!(gateway.metric("held_total"), 1, "however often it waits");
}

#[test]
fn no_more_wait_than_may_in_the_whole_gateway() {
    let upstream = Upstream::named("there");
    let gateway = Gateway::start();
    gateway.activate(&holding(stamp_at(1, &[]), 3));
    let mut held: Vec<Browser> = (0..3).map(|_| send(&gateway, &get("/"))).collect();
    wait_until_held(&gateway, 3);
    for _ in 0..4 {
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"));
        assert_eq!(answer.one("retry-after"), "1");
    }
    gateway.activate(&holding(stamp(1, &[&upstream]), 3));
    for browser in &mut held {
        assert_eq!(browser.answer().text(), "there");
    }
}

#[test]
fn patience_ends_with_the_error_it_was_about() {
    let gateway = Gateway::start();
    gateway.activate(&impatient(stamp_at(1, &[])));
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "no-ready-instance"));
    gateway.activate(&impatient(stamp_at(2, &[dead_address()])));
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "connect-failed"));
    for line in gateway.lines(2) {
        assert!(line["held_ms"].as_u64() >= Some(30), "{line}");
    }
    // Both are held against the stamps they waited for.
    for stamp in gateway.measures().stamps {
        assert_eq!(stamp.routes[0].errors, 1, "{stamp:?}");
    }
    assert_eq!(gateway.metric("held_total"), 2);
}

#[test]
fn a_client_that_goes_waits_no_longer() {
    let gateway = Gateway::start();
    gateway.activate(&holding(stamp_at(1, &[]), 10));
    let browser = send(&gateway, &get("/"));
    wait_until_held(&gateway, 1);
    drop(browser);
    wait_until_held(&gateway, 0);
    let line = &gateway.lines(1)[0];
    assert_eq!(line["error"], "client_gone", "{line}");
    assert!(line["held_ms"].is_u64(), "{line}");
}

#[test]
fn a_gateway_that_drains_holds_nobody() {
    let mut gateway = Gateway::start();
    gateway.activate(&holding(stamp_at(1, &[]), 10));
    let mut browsers = [send(&gateway, &get("/")), send(&gateway, &get("/"))];
    wait_until_held(&gateway, 2);
    gateway.begin_stop();
    for browser in &mut browsers {
        let answer = browser.answer();
        assert_eq!((answer.status, answer.one("connection")), (503, "close"));
    }
    gateway.stop();
}

#[test]
fn what_asks_at_the_preview_door_is_told_at_once() {
    let gateway = Gateway::start();
    gateway.put(&put(Some(&holding(stamp_at(1, &[]), 10)), None)).unwrap();
    let answer = gateway.ask(&format!(
        "GET / HTTP/1.1\r\nhost: a\r\nmainstay-preview: {TOKEN}\r\nmainstay-stamp: active\r\n\r\n"
    ));
    assert_eq!((answer.status, answer.problem().as_str()), (503, "no-ready-instance"));
    assert_eq!(gateway.metric("held_total"), 0);
}

#[test]
fn whom_the_candidate_does_not_take_the_active_stamp_does() {
    let active = Upstream::named("active");
    let gateway = Gateway::start();
    let (active, candidate) =
        (holding(stamp(1, &[&active]), 10), holding(stamp_at(2, &[dead_address()]), 10));
    let mut shift = put(Some(&active), Some(&candidate));
    shift.table.weight = 9999;
    gateway.put(&shift).unwrap();
    for _ in 0..5 {
        assert_eq!(gateway.get("/").text(), "active");
    }
    assert_eq!(gateway.metric("held_total"), 0);
}

#[test]
fn a_guard_that_trips_frees_those_who_wait() {
    let before = Upstream::named("before");
    let gateway = Gateway::start();
    let table = PutTable {
        table: api::gateway::Table {
            fallback: Some(holding(stamp(1, &[&before]), 10)),
            guard: Some(Guard { max_excess_errors: 1000, max_connect_failures: 3 }),
            ..put(Some(&holding(stamp_at(2, &[]), 10)), None).table
        },
        ..put(None, None)
    };
    gateway.put(&table).unwrap();
    let mut browsers = Vec::new();
    while gateway.state().watched.is_some_and(|watched| watched.tripped.is_none()) {
        assert!(browsers.len() < 3, "it trips with the third at the latest");
        browsers.push(send(&gateway, &get("/")));
        let count = browsers.len() as u64;
        wait_for("it to be held, or the guard", || {
            let tripped = gateway.state().watched?.tripped.is_some();
            (tripped || gateway.metric("held") == count).then_some(())
        });
    }
    assert_eq!(gateway.state().watched.unwrap().tripped, Some(Tripped::Connects));
    for browser in &mut browsers {
        assert_eq!(browser.answer().text(), "before");
    }
}

#[test]
fn who_waits_for_a_stamp_that_goes_is_served_by_the_next() {
    let next = Upstream::named("next");
    let gateway = Gateway::start();
    gateway.activate(&holding(stamp_at(1, &[dead_address()]), 10));
    let mut browser = send(&gateway, &get("/"));
    wait_until_held(&gateway, 1);
    let applied = gateway.activate(&holding(stamp(2, &[&next]), 10));
    assert_eq!(applied.closed[0].stamp, StampId(1));
    assert_eq!(browser.answer().text(), "next");
    wait_for("nothing on the slot that was closed", || {
        gateway.state().closed.iter().all(|slot| slot.in_flight == 0).then_some(())
    });
}

#[test]
fn those_for_whom_there_is_no_room_at_once_wait_on() {
    let (upstream, go) = Upstream::waiting("there");
    let gateway = Gateway::start();
    gateway.activate(&holding(stamp_at(1, &[]), 10));
    let mut browsers: Vec<Browser> = (0..4).map(|_| send(&gateway, &get("/"))).collect();
    wait_until_held(&gateway, 4);
    let mut narrow = holding(stamp(1, &[&upstream]), 10);
    narrow.settings.limits.in_flight = 1;
    gateway.activate(&narrow);
    upstream.wait(1);
    wait_until_held(&gateway, 3);
    // Who comes now has not waited, and is told at once.
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"));
    for _ in &browsers {
        go.send(()).unwrap();
    }
    for browser in &mut browsers {
        assert_eq!(browser.answer().text(), "there");
    }
    assert_eq!((upstream.count(), gateway.metric("held_total")), (4, 4));
}
