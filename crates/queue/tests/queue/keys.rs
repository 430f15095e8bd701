//! What a repeated request gets.

use crate::stage::{Stage, answered, idempotent, keyed, request};
use bytes::Bytes;
use model::queue::{Principal, QueueLimits, QueuedRoute};
use queue::{JobState, Submission, Submitted, Waited};
use std::time::Duration;

/// The route names whose a key is.
fn named() -> QueuedRoute {
    QueuedRoute { principal: Some(Principal::Header("authorization".into())), ..idempotent() }
}

fn of(whose: &'static str, submission: Submission) -> Submission {
    Submission { principal: Some(Bytes::from_static(whose.as_bytes())), ..submission }
}

#[tokio::test]
async fn one_key_one_job() {
    let mut stage = Stage::new();
    let name = stage.enqueue(keyed(idempotent(), "{}", "k")).await;
    let Submitted::Repeated(view) = stage.submit(keyed(idempotent(), "{}", "k")).await else { panic!() };
    assert_eq!(view.name, name);
    assert!(matches!(stage.submit(keyed(idempotent(), "other", "k")).await, Submitted::Mismatch));
    let call = stage.call().await;
    assert_eq!(call.key, "k");
    assert!(stage.due().await.is_none());
    stage.report(&call, answered(201, "made"));
    stage.settled().await;
    for _ in 0..2 {
        let Submitted::Replay(view, Some(answer)) = stage.submit(keyed(idempotent(), "{}", "k")).await else {
            panic!("replayed")
        };
        assert_eq!((view.name, answer.status, &answer.body[..]), (name, 201, &b"made"[..]));
        assert!(matches!(stage.submit(keyed(idempotent(), "other", "k")).await, Submitted::Mismatch));
        stage = stage.kill();
    }
    assert!(stage.due().await.is_none(), "nothing is sent twice");
    stage.enqueue(keyed(idempotent(), "{}", "l")).await;
    stage.enqueue(request(idempotent(), "{}")).await;
    stage.enqueue(request(idempotent(), "{}")).await;
}

#[tokio::test]
async fn who_has_an_answer_and_asks_again_has_it_again() {
    let stage = Stage::new();
    for key in 0..20 {
        let order = || keyed(idempotent(), "{}", &key.to_string());
        let ticket = stage.accept(order()).await;
        let call = stage.call().await;
        stage.report(&call, answered(201, "made"));
        let Waited::Settled(_, Some(first)) = ticket.wait(Duration::from_secs(2)).await else {
            panic!("an answer")
        };
        // The outcome is on its way to the disk.
        let Submitted::Replay(_, Some(again)) = stage.submit(order()).await else { panic!("it is known") };
        assert_eq!(again, first);
    }
}

#[tokio::test]
async fn two_connections_with_one_key_at_once() {
    let stage = Stage::new();
    for n in 0..100 {
        let submit = || stage.submit(keyed(idempotent(), "{}", &format!("key {n}")));
        let (one, two, three) = tokio::join!(submit(), submit(), submit());
        assert!(matches!(one, Submitted::New(_)), "{one:?}");
        assert!(
            matches!((&two, &three), (Submitted::Repeated(_), Submitted::Repeated(_))),
            "{two:?}, {three:?}"
        );
    }
    assert_eq!((stage.counters().accepted, stage.counters().repeated), (100, 200));
}

#[tokio::test]
async fn keys_are_of_a_principal_or_of_a_route_and_its_credentials() {
    let stage = Stage::new();
    let first = stage.enqueue(of("ann", keyed(named(), "{}", "k"))).await;
    let second = stage.enqueue(of("bob", keyed(named(), "{}", "k"))).await;
    assert_ne!(first, second);
    let fresh =
        Submission { credentials: Bytes::from_static(b"new token"), ..of("ann", keyed(named(), "{}", "k")) };
    assert!(matches!(stage.submit(fresh).await, Submitted::Repeated(_)), "a refreshed token is no new order");

    let with = |credentials: &'static str, key| Submission {
        credentials: Bytes::from_static(credentials.as_bytes()),
        ..keyed(idempotent(), "{}", key)
    };
    stage.enqueue(with("a", "l")).await;
    assert!(matches!(stage.submit(with("b", "l")).await, Submitted::OtherCredentials));
    assert!(matches!(stage.submit(with("a", "l")).await, Submitted::Repeated(_)));
    let elsewhere = Submission { route: "POST /other".into(), ..with("b", "l") };
    stage.enqueue(elsewhere).await;
}

#[tokio::test]
async fn a_key_is_not_bound_to_what_may_still_come() {
    let stage = Stage::new();
    stage.enqueue(keyed(QueuedRoute { attempts: 2, ..idempotent() }, "{}", "k")).await;
    let repeat = || stage.submit(keyed(idempotent(), "{}", "k"));
    let call = stage.call().await;
    stage.report(&call, answered(500, "first"));
    stage.settled().await;
    assert!(matches!(repeat().await, Submitted::Repeated(_)));
    stage.clock.advance(Duration::from_secs(60));
    let call = stage.call().await;
    stage.report(&call, answered(500, "last"));
    stage.settled().await;
    let Submitted::Replay(view, Some(answer)) = repeat().await else { panic!("used up") };
    assert_eq!((view.state, &answer.body[..]), (JobState::Dead, &b"last"[..]));
}

#[tokio::test]
async fn credentials_that_were_not_good_bind_nothing() {
    let mut stage = Stage::new();
    for status in [401, 403] {
        let ticket = stage.accept(keyed(named(), "{}", "k")).await;
        let waits = tokio::spawn(ticket.wait(Duration::from_secs(2)));
        let call = stage.call().await;
        stage.report(&call, answered(status, ""));
        waits.await.unwrap();
        // With a service that honours keys the client hears before it is written.
        stage.settled().await;
        stage = stage.kill();
    }
    let last = stage.enqueue(keyed(named(), "{}", "k")).await;
    let call = stage.call().await;
    stage.report(&call, answered(201, ""));
    stage.settled().await;
    for _ in 0..2 {
        let Submitted::Replay(view, _) = stage.submit(keyed(named(), "{}", "k")).await else { panic!() };
        assert_eq!(view.name, last, "the newest job has the key");
        stage = stage.kill();
    }
}

#[tokio::test]
async fn keys_live_as_long_as_their_jobs_and_not_longer() {
    let retention = Duration::from_secs(86_400);
    let limits = QueueLimits { retention, ..QueueLimits::default() };
    let stage = Stage::with(limits, 0);
    let done = stage.enqueue(keyed(idempotent(), "{}", "done")).await;
    let call = stage.call().await;
    stage.report(&call, answered(200, ""));
    let pending = QueuedRoute { max_age: Duration::from_secs(900_000), ..idempotent() };
    let waits = stage.enqueue(keyed(pending, "{}", "pending")).await;
    let under_way = stage.call().await;
    let forget = || async {
        stage.queue.tend();
        stage.settled().await;
        stage.clock.advance(Duration::from_secs(61));
    };
    stage.clock.advance(retention - Duration::from_secs(100));
    forget().await;
    assert!(matches!(stage.submit(keyed(idempotent(), "{}", "done")).await, Submitted::Replay(..)));
    stage.clock.advance(Duration::from_secs(200));
    forget().await;
    forget().await;
    assert_eq!(stage.queue.job(done).await.unwrap(), None);
    assert!(stage.queue.is_past(done.id));
    assert!(matches!(stage.submit(keyed(idempotent(), "{}", "pending")).await, Submitted::Repeated(_)));
    assert!(matches!(stage.submit(keyed(idempotent(), "{}", "done")).await, Submitted::New(_)));
    stage.report(&under_way, answered(200, ""));
    assert_eq!(stage.state(waits).await, JobState::Done);
}

/// Where the route names no principal, a key is that of whoever used it first, unless that was refused for its
/// credentials.
#[tokio::test]
async fn with_other_credentials_only_what_was_refused_for_them_is_tried_again() {
    let of = |credentials: &'static str, body: &'static str| Submission {
        credentials: Bytes::from_static(credentials.as_bytes()),
        ..keyed(idempotent(), body, "k")
    };
    for status in [401, 403, 409, 422, 200] {
        let mut stage = Stage::new();
        let ticket = stage.accept(of("expired", "{}")).await;
        let waits = tokio::spawn(ticket.wait(Duration::from_secs(2)));
        let call = stage.call().await;
        // Nobody knows yet what comes of it.
        assert!(matches!(stage.submit(of("fresh", "{}")).await, Submitted::OtherCredentials), "{status}");
        stage.report(&call, answered(status, ""));
        waits.await.unwrap();
        for _ in 0..2 {
            stage.settled().await;
            stage = stage.kill();
            assert!(
                matches!(stage.submit(of("fresh", "other")).await, Submitted::OtherCredentials),
                "{status}"
            );
        }
        let submitted = stage.submit(of("fresh", "{}")).await;
        if !matches!(status, 401 | 403) {
            assert!(matches!(submitted, Submitted::OtherCredentials), "{status}: {submitted:?}");
            continue;
        }
        assert!(matches!(submitted, Submitted::New(_)), "{status}: {submitted:?}");
        // From now on the key is theirs.
        assert!(matches!(stage.submit(of("expired", "{}")).await, Submitted::OtherCredentials), "{status}");
        assert!(matches!(stage.submit(of("fresh", "{}")).await, Submitted::Repeated(_)), "{status}");
    }
}
