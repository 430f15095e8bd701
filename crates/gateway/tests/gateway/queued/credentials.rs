//! Credentials that the service does not take: before a 202 that is the client's answer, after it the job waits.

use super::{bodies, delivered, json, location, order, serving};
use crate::stage::{Reply, Seen, Upstream, ok, wait_for};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// A service that answers with this status for as long as it is not 200.
fn guarded() -> (Upstream, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let now = Arc::clone(&status);
    let upstream = Upstream::start(move |_, _| match now.load(Ordering::SeqCst) {
        200 => ok("done"),
        other => {
            let head =
                format!("HTTP/1.1 {other} No\r\nwww-authenticate: Bearer\r\ncontent-length: 2\r\n\r\nno");
            Reply::Send(head.into_bytes())
        }
    });
    (upstream, status)
}

fn attempts(seen: &[Seen], body: &str) -> Vec<u32> {
    let of_it = seen.iter().filter(|seen| seen.body == body.as_bytes());
    of_it.map(|seen| seen.one("mainstay-attempt").parse().unwrap()).collect()
}

#[test]
fn before_a_202_the_client_gets_the_refusal_itself() {
    for idempotent in [false, true] {
        for refusal in [401, 403] {
            let (upstream, status) = guarded();
            let gateway = serving(&upstream, |route| route.idempotent = idempotent);
            status.store(refusal, Ordering::SeqCst);
            let mine = ["idempotency-key: k", "authorization: Bearer old"];
            let answer = gateway.ask(&order(&mine, "{}"));
            assert_eq!((answer.status, answer.text()), (refusal, "no"));
            assert_eq!(answer.one("www-authenticate"), "Bearer");
            let job = format!("/.mainstay/jobs/{}", answer.one("mainstay-job"));
            delivered(&gateway, &job);
            assert_eq!(upstream.count(), 1, "it is not tried again");
            // The key is free: other credentials are another matter.
            status.store(200, Ordering::SeqCst);
            let again = gateway.ask(&order(&["idempotency-key: k", "authorization: Bearer new"], "{}"));
            assert_eq!((again.status, again.text()), (200, "done"), "{idempotent}, {refusal}");
            assert!(again.all("idempotent-replayed").is_empty());
            assert_eq!(upstream.count(), 2);
        }
    }
}

#[test]
fn after_a_202_it_waits_until_the_service_takes_it_again() {
    for idempotent in [false, true] {
        for refusal in [401, 403] {
            let (upstream, status) = guarded();
            // Refusals take no attempts.
            let gateway = serving(&upstream, |route| (route.idempotent, route.attempts) = (idempotent, 2));
            status.store(refusal, Ordering::SeqCst);
            let fields = ["prefer: respond-async", "idempotency-key: k", "authorization: Bearer a"];
            let job = location(&gateway.ask(&order(&fields, "{}")));
            let tried = wait_for("more refusals than it has attempts", || {
                let tried = attempts(&upstream.seen(), "{}");
                (tried.len() >= 4).then_some(tried)
            });
            assert!(tried.is_sorted(), "{tried:?}");
            let state = gateway.get(&job);
            assert_eq!(state.status, 200, "{}", state.text());
            assert!(["waiting", "dispatching"].contains(&json(&state)["state"].as_str().unwrap()));
            // It has a place, and its key.
            assert_eq!(location(&gateway.ask(&order(&fields, "{}"))), job);

            status.store(200, Ordering::SeqCst);
            delivered(&gateway, &job);
            let answer = gateway.get(&format!("{job}/response"));
            assert_eq!((answer.status, answer.text()), (200, "done"));
            let seen = upstream.seen();
            assert!(seen.iter().all(|seen| seen.one("authorization") == "Bearer a"));
            assert!(seen.iter().all(|seen| seen.one("idempotency-key") == "k"));
            let replayed = gateway.ask(&order(&fields, "{}"));
            assert_eq!((replayed.status, replayed.one("idempotent-replayed")), (200, "true"));
            assert_eq!(upstream.count(), seen.len(), "delivered once");
            assert_eq!(gateway.metric("queue_rejected_total"), 0);
        }
    }
}

#[test]
fn what_waits_for_its_credentials_outlives_the_gateway_and_holds_up_no_others() {
    let (upstream, status) = guarded();
    let mut gateway = serving(&upstream, |_| {});
    status.store(401, Ordering::SeqCst);
    let job = location(&gateway.ask(&order(&["prefer: respond-async"], "old")));
    upstream.wait(2);
    let temp = gateway.temp();
    gateway.stop();
    let tried = attempts(&upstream.seen(), "old").len();
    let gateway = crate::stage::Gateway::start_in(temp);
    upstream.wait(tried + 1);
    status.store(200, Ordering::SeqCst);
    assert_eq!(gateway.ask(&order(&[], "new")).text(), "done");
    delivered(&gateway, &job);
    assert_eq!(bodies(&upstream.seen()).iter().filter(|body| *body == "new").count(), 1);
}
