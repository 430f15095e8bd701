//! Queued routes, as clients, services and operators see them.

mod bodies;
mod credentials;
mod delivering;
mod disks;
mod health;
mod jobs;
mod keys;
mod operating;
mod preferring;
mod refusing;
mod restarting;
mod troubled;

use crate::stage::{Answer, Gateway, PATIENCE, Seen, Upstream, stamp, wait_for};
use api::client::{CallError, Client};
use api::gateway::TableStamp;
use model::flow::Method;
use model::queue::QueuedRoute;
use model::workload::Route;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::{Duration, Instant};

/// The stamp with `POST /orders` queued. Answers are waited for as long as a test is patient, so that only what is to
/// be 202 is.
pub(crate) fn queueing(mut stamp: TableStamp, change: impl FnOnce(&mut QueuedRoute)) -> TableStamp {
    let mut queue = QueuedRoute { wait: PATIENCE, ..QueuedRoute::default() };
    change(&mut queue);
    stamp.settings.routes.push(Route {
        method: Method::Post,
        path: "/orders".into(),
        objective: None,
        queue: Some(queue),
        previous_stamp: None,
    });
    // What waits is tried again at once.
    stamp.settings.queue.longest_pause = Duration::from_millis(20);
    stamp
}

/// A gateway that queues `POST /orders` for `upstream`.
pub(crate) fn serving(upstream: &Upstream, change: impl FnOnce(&mut QueuedRoute)) -> Gateway {
    let gateway = Gateway::start();
    gateway.activate(&queueing(stamp(1, &[upstream]), change));
    gateway
}

/// A POST to the queued route, with more field lines.
pub(crate) fn order(fields: &[&str], body: &str) -> String {
    to("/orders", fields, body)
}

/// The same to another path.
pub(crate) fn to(path: &str, fields: &[&str], body: &str) -> String {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!(
        "POST {path} HTTP/1.1\r\nhost: example.org\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The JSON of an answer.
pub(crate) fn json(answer: &Answer) -> Value {
    assert_eq!(answer.one("content-type"), "application/json", "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

/// Checks a 202 in full, and returns where its job is.
pub(crate) fn location(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{answer:?}");
    let location = answer.one("location").to_owned();
    let name = location.strip_prefix("/.mainstay/jobs/").unwrap();
    assert_eq!(answer.one("mainstay-job"), name);
    assert_eq!(answer.one("cache-control"), "no-store");
    assert!(answer.one("retry-after").parse::<u64>().unwrap() >= 1);
    let (number, tag) = name.split_once('-').unwrap();
    assert!(number.parse::<u64>().unwrap() >= 1);
    assert_eq!(tag.len(), 32);
    let body = json(answer);
    assert_eq!(body["id"], name);
    assert_eq!(body["links"]["self"], location);
    assert!(body["state"].is_string());
    location
}

/// Asks for a job until it is in `state`.
pub(crate) fn becomes(gateway: &Gateway, location: &str, state: &str) -> Value {
    wait_for(state, || {
        let job = json(&gateway.get(location));
        (job["state"] == state).then_some(job)
    })
}

/// Waits until the service has answered for good.
pub(crate) fn delivered(gateway: &Gateway, location: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = gateway.get(location);
        if answer.status == 303 {
            return;
        }
        assert!(Instant::now() < deadline, "not delivered: {}", answer.text());
        // waits on a condition
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Speaks to the gateway as operators do.
pub(crate) fn call<A: DeserializeOwned>(
    gateway: &Gateway,
    method: http::Method,
    path: &str,
    body: &Value,
) -> Result<A, CallError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::new(gateway.folder.gateway_socket(), PATIENCE);
    runtime.block_on(client.call(method, path, body))
}

/// What each request was about, in the order of their arrival.
pub(crate) fn bodies(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(|seen| String::from_utf8(seen.body.clone()).unwrap()).collect()
}
