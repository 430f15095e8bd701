//! What is measured of routes and stamps, and instances that answer with errors only.

use crate::stage::{
    Browser, Gateway, Reply, Upstream, dead_address, error, get, ok, put, stamp, stamp_at, wait_for,
};
use api::gateway::{RouteMeasures, TableStamp};
use model::flow::Method;
use model::name::StampId;
use model::workload::Route;
use std::time::Instant;

/// A route of GET that says nothing else.
pub(crate) fn route(path: &str) -> Route {
    Route { method: Method::Get, path: path.into(), objective: None, queue: None, previous_stamp: None }
}

fn with_routes(mut stamp: TableStamp) -> TableStamp {
    let route = |(method, path): &(Method, &str)| Route { method: *method, ..route(path) };
    stamp.settings.routes =
        [(Method::Get, "/a/*"), (Method::Get, "/a/b"), (Method::Post, "/a/**"), (Method::Get, "/never")]
            .iter()
            .map(route)
            .collect();
    stamp
}

fn measured(gateway: &Gateway, stamp: u64) -> Vec<RouteMeasures> {
    let measures = gateway.measures();
    assert_eq!((measures.v, measures.pid), (api::PROTOCOL_VERSION, std::process::id()));
    measures.stamps.into_iter().find(|measured| measured.stamp == StampId(stamp)).unwrap().routes
}

/// Route, requests, errors, latencies in both halves.
fn figures(routes: &[RouteMeasures]) -> Vec<(&str, u64, u64, [u64; 2])> {
    let count = |half: &Vec<(u16, u64)>| half.iter().map(|(_, count)| count).sum();
    let halves = |route: &RouteMeasures| [count(&route.halves[0]), count(&route.halves[1])];
    routes.iter().map(|route| (route.route.as_str(), route.requests, route.errors, halves(route))).collect()
}

#[test]
fn requests_are_measured_by_the_route_they_fit() {
    let upstream = Upstream::start(|seen, _| match seen.line().split(' ').nth(1).unwrap() {
        "/a/500" => error(),
        "/a/cut" => Reply::SendClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec()),
        "/a/404" => Reply::Send(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".to_vec()),
        "/a/dead" => Reply::Close,
        _ => ok("fine"),
    });
    let gateway = Gateway::start();
    gateway.put(&put(None, Some(&with_routes(stamp(1, &[&upstream]))))).unwrap();
    let token = crate::stage::TOKEN;
    // One connection, so that one worker counts: its halves are alike.
    let mut browser = gateway.browse();
    browser.send(format!(
        "GET /a/b HTTP/1.1\r\nhost: a\r\nmainstay-preview: {token}\r\nmainstay-stamp: candidate\r\n\r\n"
    ));
    assert_eq!(browser.answer().text(), "fine");
    // Measures live on when the stamp is promoted.
    gateway.activate(&with_routes(stamp(1, &[&upstream])));
    let requests = [
        ("GET", "/a/b", 200),
        ("GET", "/a/b?x=/never", 200),
        ("GET", "/a/c", 200),
        ("GET", "/a/404", 404),
        ("GET", "/a/500", 500),
        ("POST", "/a/x/y", 200),
        ("POST", "/a/dead", 502),
        ("GET", "/other", 200),
        ("PUT", "/a/b", 200),
        ("GET", "/a/cut", 200),
    ];
    for (method, path, status) in requests {
        browser.send(format!("{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert_eq!(browser.answer().status, status, "{path}");
    }
    let lines = gateway.lines(requests.len() + 1);
    let routes: Vec<_> = lines.iter().map(|line| line["route"].as_str().unwrap()).collect();
    let (any, exact, post) = ("GET /a/*", "GET /a/b", "POST /a/**");
    assert_eq!(routes, [exact, exact, exact, any, any, any, post, post, "other", "other", any]);
    let routes = measured(&gateway, 1);
    assert_eq!(
        figures(&routes),
        [(any, 4, 2, [2, 2]), (exact, 2, 0, [1, 1]), (post, 2, 1, [1, 0]), ("other", 2, 0, [1, 1])]
    );
    for half in routes.iter().flat_map(|route| &route.halves) {
        assert!(
            half.is_sorted_by(|(a, _), (b, _)| a < b)
                && half.iter().all(|(bucket, n)| *bucket < 368 && *n > 0)
        );
    }
    for (name, value) in [
        ("route_requests_total{stamp=\"s1\",route=\"GET /a/*\"}", 4),
        ("route_errors_total{stamp=\"s1\",route=\"GET /a/*\"}", 2),
        ("route_duration_seconds_bucket{stamp=\"s1\",route=\"GET /a/*\",le=\"+Inf\"}", 4),
        ("route_duration_seconds_count{stamp=\"s1\",route=\"POST /a/**\"}", 1),
        ("route_requests_total{stamp=\"s1\",route=\"other\"}", 2),
    ] {
        assert_eq!(gateway.metric(name), value, "{name}");
    }
    let measures = gateway.measures();
    assert_eq!(measures.stamps[0].classes, [0, 0, 8, 0, 1, 2]);
    assert_eq!((measures.requests, measures.retries), (11, 0));
    assert_eq!(measures.faults.into_iter().collect::<Vec<_>>(), [("upstream_cut".to_owned(), 2)]);
}

#[test]
fn what_no_stamp_is_to_blame_for_is_left_out() {
    let upstream = Upstream::start(|_, _| Reply::Hang);
    let gateway = Gateway::start();
    let mut first = stamp(1, &[&upstream]);
    first.settings.hosts = vec!["right".into()];
    first.settings.limits.body = 10;
    gateway.activate(&first);
    assert_eq!(gateway.get("/").status, 421);
    assert_eq!(gateway.ask("POST / HTTP/1.1\r\nhost: right\r\ncontent-length: 11\r\n\r\n").status, 413);
    let mut browser = gateway.browse();
    browser.send("GET / HTTP/1.1\r\nhost: right\r\n\r\n");
    upstream.wait(1);
    drop(browser);
    let lines = gateway.lines(3);
    assert!(lines.iter().any(|line| line["error"] == "client_gone"), "{lines:?}");
    assert_eq!(figures(&measured(&gateway, 1)), [("other", 0, 0, [0, 0])]);
    // The gateway's own answers count as the doc of the measures says.
    gateway.activate(&stamp_at(2, &[dead_address()]));
    assert_eq!(gateway.get("/").status, 502);
    gateway.activate(&stamp_at(3, &[]));
    assert_eq!(gateway.get("/").status, 503);
    assert_eq!(figures(&measured(&gateway, 2)), [("other", 1, 1, [0, 0])]);
    assert_eq!(figures(&measured(&gateway, 3)), [("other", 1, 1, [0, 0])]);
    let ids: Vec<_> = gateway.measures().stamps.iter().map(|stamp| stamp.stamp.0).collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn measures_are_the_agents() {
    let gateway = Gateway::start();
    let mut browser = Browser::to(gateway.admin);
    browser.send(get("/v1/measures"));
    assert_eq!(browser.answer().status, 404);
}

#[test]
fn an_instance_that_answers_with_errors_only_is_passed_over() {
    let (bad, good) = (Upstream::start(|_, _| error()), Upstream::named("good"));
    let gateway = Gateway::start();
    gateway.activate(&stamp(1, &[&bad, &good]));
    let began = Instant::now();
    let mut browser = gateway.browse();
    let mut ask = || {
        browser.send(get("/"));
        browser.answer()
    };
    wait_for("the bad one to be ejected", || {
        ask();
        (bad.count() >= 5).then_some(())
    });
    for _ in 0..200 {
        ask();
    }
    // Each ejection lasts about a second and ends with one more error.
    let again = began.elapsed().as_millis() / 800;
    assert!(bad.count() as u128 <= 5 + again, "{} errors", bad.count());
    // Alone it is better than nothing.
    gateway.activate(&stamp(1, &[&bad]));
    for _ in 0..10 {
        assert_eq!(gateway.get("/").text(), "oh");
    }
}
