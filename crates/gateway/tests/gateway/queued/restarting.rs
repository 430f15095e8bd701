//! What was accepted by one gateway is delivered by the next.

use super::{bodies, delivered, location, order, queueing, serving};
use crate::stage::{Gateway, Upstream, dead_address, stamp, stamp_at, wait_for};
use std::sync::Arc;

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
