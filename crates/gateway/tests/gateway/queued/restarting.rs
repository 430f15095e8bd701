//! What was accepted by one gateway is delivered by the next.

use super::{bodies, call, delivered, location, order, queueing, serving};
use crate::stage::{Gateway, PATIENCE, Upstream, dead_address, put, stamp, stamp_at, wait_for};
use api::client::CallError;
use api::queue::Operations;
use model::queue::{QueueLimits, QueuedRoute};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[test]
fn what_was_acknowledged_is_delivered_by_the_next_gateway() {
    let mut gateway = Gateway::start();
    gateway.activate(&queueing(stamp_at(1, &[dead_address()]), |_| {}));
    let ask = |n: usize| {
        gateway.ask(&order(&["prefer: wait=0", &format!("idempotency-key: k{n}")], &n.to_string()))
    };
    let jobs: Vec<String> = (0..10).map(|n| location(&ask(n))).collect();
    let temp = gateway.temp();
    gateway.stop();
    let next = Gateway::start_in(Arc::clone(&temp));
    // The stored table has the queue opened, before any agent speaks.
    wait_for("the queue", || next.state().queue.filter(|queue| queue.trouble.is_none() && !queue.opening));
    assert_eq!(next.metric("queue_depth"), 10);
    let upstream = Upstream::named("done");
    next.activate(&queueing(stamp(1, &[&upstream]), |_| {}));
    for job in &jobs {
        delivered(&next, job);
        assert_eq!(next.get(&format!("{job}/response")).text(), "done");
    }
    let mut seen = bodies(&upstream.wait(10));
    seen.sort();
    assert_eq!(seen, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    // Keys are known too.
    let again = next.ask(&order(&["idempotency-key: k3"], "3"));
    assert_eq!(again.one("idempotent-replayed"), "true");
    let other = next.ask(&order(&["idempotency-key: k3"], "4"));
    assert_eq!(other.problem(), "key-reused");
    assert_eq!(upstream.count(), 10);
}

#[test]
fn a_queue_is_emptied_also_when_no_route_is_queued_any_more() {
    let mut gateway = Gateway::start();
    gateway.activate(&queueing(stamp_at(1, &[dead_address()]), |_| {}));
    let job = location(&gateway.ask(&order(&["prefer: wait=0"], "{}")));
    let temp = gateway.temp();
    gateway.stop();
    let upstream = Upstream::named("done");
    let next = Gateway::start_in(temp);
    next.activate(&stamp(2, &[&upstream]));
    delivered(&next, &job);
}

#[test]
fn outcomes_are_on_disk_when_the_gateway_ends() {
    let upstream = Upstream::named("done");
    let mut gateway = serving(&upstream, |route| route.idempotent = true);
    for n in 0..50 {
        let key = format!("idempotency-key: k{n}");
        assert_eq!(gateway.ask(&order(&[&key], "{}")).status, 200);
    }
    let temp = gateway.temp();
    gateway.stop();
    let next = Gateway::start_in(temp);
    next.activate(&queueing(stamp(1, &[&upstream]), |_| {}));
    for n in 0..50 {
        let key = format!("idempotency-key: k{n}");
        assert_eq!(next.ask(&order(&[&key], "{}")).one("idempotent-replayed"), "true", "{n}");
    }
    assert_eq!(upstream.count(), 50);
}

/// Long ago, in days: longer than anything is kept that has an end.
const LONG_AGO_DAYS: u64 = 401;

/// Writes a queue of long ago to `path`, with a job that was delivered and two entries in its audit log. Where the
/// job is.
fn long_ago(path: &std::path::Path) -> String {
    let ago = Duration::from_secs(LONG_AGO_DAYS * 86_400);
    let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - ago;
    let options = queue::Options {
        limits: QueueLimits { retention: ago * 2, ..QueueLimits::default() },
        journal: queue::JournalOptions { reserve_bytes: 0, ..queue::JournalOptions::default() },
        clock: queue::Clock::manual(i64::try_from(then.as_millis()).unwrap()),
        seed: 1,
    };
    let queue = queue::Queue::open(path, options).unwrap();
    let submission = queue::Submission {
        route: Arc::from("POST /orders"),
        settings: Arc::new(QueuedRoute::default()),
        saga: None,
        method: model::flow::Method::Post,
        path_and_query: "/orders".into(),
        fields: Vec::new(),
        body: "{}".into(),
        traffic: queue::Traffic::Users,
        user: None,
        key: Some("k".into()),
        principal: None,
        credentials: Default::default(),
        patience: Duration::ZERO,
        carries: false,
        deliver_after: None,
    };
    let done = async {
        queue.pause(None, 7).await.unwrap();
        queue.resume(None, 7).await.unwrap();
        let queue::Submitted::New(ticket) = queue.submit(submission, |_, _| {}).await else {
            panic!("a job")
        };
        let call = queue.next().await;
        let answer = queue::Answer { status: 200, fields: Vec::new(), body: "then".into(), truncated: false };
        queue.report(call.id, queue::CallOutcome::Answered { answer, retry_after: None }, None);
        queue.settled().await;
        format!("/.mainstay/jobs/{}", ticket.name())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let location = runtime.block_on(done);
    assert!(queue.close(PATIENCE));
    location
}

#[test]
fn where_no_table_says_how_long_answers_are_kept_none_is_forgotten() {
    let upstream = Upstream::named("done");
    for empty_table in [false, true] {
        let temp = Arc::new(tempfile::tempdir().unwrap());
        if empty_table {
            let mut before = Gateway::start_in(Arc::clone(&temp));
            before.put(&put(None, None)).unwrap();
            before.stop();
        }
        let job = long_ago(&temp.path().join("queue.db"));
        let mut gateway = Gateway::start_in(Arc::clone(&temp));
        wait_for("forgetting", || {
            let log: Result<Operations, CallError> =
                call(&gateway, http::Method::GET, "/v1/queue/operations", &Value::Null);
            log.ok().filter(|log| log.operations.is_empty())
        });
        let answer = gateway.get(&job);
        assert_eq!(answer.status, 303, "{}", answer.text());
        assert_eq!(gateway.get(&format!("{job}/response")).text(), "then");
        // A table comes, and says how long. Everything old is looked for when a gateway starts, and now and then.
        gateway.activate(&queueing(stamp(1, &[&upstream]), |_| {}));
        let again = gateway.ask(&order(&["idempotency-key: k"], "{}"));
        assert_eq!((again.one("idempotent-replayed"), again.text()), ("true", "then"));
        gateway.stop();
        let gateway = Gateway::start_in(temp);
        let gone = wait_for("forgetting", || {
            Some(gateway.get(&job)).filter(|answer| !matches!(answer.status, 303 | 503))
        });
        assert_eq!(gone.problem(), "job-gone");
    }
    assert_eq!(upstream.count(), 0);
}
