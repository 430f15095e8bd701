//! The table of `Idempotency-Key`, every row.

use super::{json, location, order, serving, to};
use crate::stage::{Gateway, Reply, Upstream, ok, wait_for};
use model::queue::{InFlightAnswer, KeyUse, Principal, QueuedRoute};
use std::sync::atomic::{AtomicUsize, Ordering};

const KEY: &str = "idempotency-key: k1";

/// Counts its answers: each is another one.
fn counting() -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |seen, _| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let body = format!("order {number} of {}", String::from_utf8_lossy(&seen.body));
        Reply::Send(
            format!(
                "HTTP/1.1 201 Created\r\nlocation: /orders/{number}\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
                 connection: x-hop\r\nx-hop: 1\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        )
    })
}

fn with(change: impl FnOnce(&mut QueuedRoute)) -> (Gateway, Upstream) {
    let upstream = counting();
    (serving(&upstream, change), upstream)
}

#[test]
fn required_and_missing_is_400() {
    let (gateway, upstream) = with(|route| route.key = KeyUse::Required);
    let answer = gateway.ask(&order(&[], "{}"));
    assert_eq!((answer.status, answer.problem().as_str()), (400, "key-missing"));
    assert_eq!(gateway.ask(&order(&[KEY], "{}")).status, 201);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn malformed_is_400_and_goes_nowhere() {
    let (gateway, upstream) = with(|_| {});
    let long = format!("idempotency-key: {}", "k".repeat(256));
    let lines: [&[&str]; 6] = [
        &["idempotency-key:"],
        &["idempotency-key: a b"],
        &["idempotency-key: \"open"],
        &["idempotency-key: \"\""],
        &["idempotency-key: a", "idempotency-key: a"],
        &[&long],
    ];
    for fields in lines {
        let answer = gateway.ask(&order(fields, "{}"));
        assert_eq!((answer.status, answer.problem().as_str()), (400, "key-malformed"), "{fields:?}");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn done_is_replayed() {
    let (gateway, upstream) = with(|_| {});
    let first = gateway.ask(&order(&[KEY], "{}"));
    assert_eq!((first.status, first.text()), (201, "order 1 of {}"));
    assert!(first.all("idempotent-replayed").is_empty());
    // In quotes it is the same key.
    for key in [KEY, "idempotency-key: \"k1\""] {
        let again = gateway.ask(&order(&[key], "{}"));
        assert_eq!((again.status, again.text()), (201, "order 1 of {}"));
        assert_eq!(again.one("idempotent-replayed"), "true");
        assert_eq!(again.one("location"), "/orders/1");
        assert_eq!(again.all("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(again.one("mainstay-job"), first.one("mainstay-job"));
        assert_eq!(again.one("via"), "1.1 mainstay");
        assert!(again.all("x-hop").is_empty());
        assert_ne!(again.one("x-request-id"), first.one("x-request-id"));
    }
    assert_eq!(upstream.count(), 1);
    // Without a key each one is new.
    assert_eq!(gateway.ask(&order(&[], "{}")).text(), "order 2 of {}");
    assert_eq!(gateway.ask(&order(&[], "{}")).text(), "order 3 of {}");
}

#[test]
fn in_flight_is_202_with_the_same_location() {
    let (upstream, go) = Upstream::waiting("done");
    let gateway = serving(&upstream, |_| {});
    let first = location(&gateway.ask(&order(&[KEY, "prefer: respond-async"], "{}")));
    upstream.wait(1);
    let again = gateway.ask(&order(&[KEY], "{}"));
    assert_eq!(location(&again), first);
    assert_eq!(json(&again)["state"], "dispatching");
    assert!(again.all("preference-applied").is_empty());
    assert!(again.all("idempotent-replayed").is_empty());
    go.send(()).unwrap();
    let replayed = wait_for("the answer", || {
        let again = gateway.ask(&order(&[KEY], "{}"));
        (again.status == 200).then_some(again)
    });
    assert_eq!(replayed.one("idempotent-replayed"), "true");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn in_flight_is_409_where_the_route_says_so() {
    let (upstream, go) = Upstream::waiting("done");
    let gateway = serving(&upstream, |route| route.in_flight = InFlightAnswer::Conflict);
    let first = location(&gateway.ask(&order(&[KEY, "prefer: respond-async"], "{}")));
    let again = gateway.ask(&order(&[KEY], "{}"));
    assert_eq!((again.status, again.problem().as_str()), (409, "key-in-flight"));
    assert_eq!(again.one("location"), first);
    assert!(again.one("retry-after").parse::<u64>().unwrap() >= 1);
    // A gateway that ends waits for what is under way.
    drop(go);
}

#[test]
fn another_request_is_422() {
    let (gateway, upstream) = with(|_| {});
    assert_eq!(gateway.ask(&order(&[KEY], "{}")).status, 201);
    for request in [order(&[KEY], "{ }"), to("/orders?x=1", &[KEY], "{}")] {
        let answer = gateway.ask(&request);
        assert_eq!((answer.status, answer.problem().as_str()), (422, "key-reused"), "{request}");
    }
    assert_eq!(upstream.count(), 1);
}

#[test]
fn another_principal_has_keys_of_its_own() {
    let (gateway, upstream) = with(|route| route.principal = Some(Principal::Header("x-account".into())));
    for (account, number) in [("one", 1), ("two", 2), ("one", 1)] {
        let account = format!("x-account: {account}");
        let answer = gateway.ask(&order(&[KEY, &account], "{}"));
        assert_eq!((answer.status, answer.text()), (201, format!("order {number} of {{}}").as_str()));
    }
    // A refreshed token is no other principal.
    let refreshed = gateway.ask(&order(&[KEY, "x-account: one", "authorization: Bearer new"], "{}"));
    assert_eq!(refreshed.one("idempotent-replayed"), "true");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn without_a_principal_other_credentials_are_422() {
    let (gateway, upstream) = with(|_| {});
    let (one, two) = ("authorization: Bearer one", "authorization: Bearer two");
    assert_eq!(gateway.ask(&order(&[KEY, one], "{}")).status, 201);
    let other = gateway.ask(&order(&[KEY, two], "{}"));
    assert_eq!((other.status, other.problem().as_str()), (422, "key-of-others"));
    assert_eq!(gateway.ask(&order(&[KEY, one], "{}")).one("idempotent-replayed"), "true");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn two_connections_with_one_key_are_one_order() {
    let upstream = counting();
    let gateway = serving(&upstream, |route| route.idempotent = true);
    let mut clients: Vec<_> = (0..8).map(|_| gateway.browse()).collect();
    for client in &mut clients {
        client.send(order(&[KEY], "{}"));
    }
    for mut client in clients {
        let answer = client.answer();
        assert!(matches!(answer.status, 201 | 202), "{answer:?}");
        assert_eq!(answer.one("mainstay-job").split('-').next(), Some("1"));
    }
    assert_eq!(upstream.wait(1).len(), 1);
}

#[test]
fn an_error_is_not_bound_to_the_key_while_attempts_remain() {
    let count = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, _| match count.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => crate::stage::error(),
        _ => ok("third time lucky"),
    });
    let gateway = serving(&upstream, |route| route.idempotent = true);
    let answer = gateway.ask(&order(&[KEY], "{}"));
    assert_eq!((answer.status, answer.text()), (200, "third time lucky"));
    let seen = upstream.wait(3);
    for (number, seen) in seen.iter().enumerate() {
        assert_eq!(seen.one("idempotency-key"), "k1");
        assert_eq!(seen.one("mainstay-attempt"), (number + 1).to_string());
    }
}
