//! First calls that are made while their jobs are being written.

use crate::stage::{Stage, answered, idempotent, keyed, not_sent, request};
use model::flow::JsonPath;
use model::queue::QueuedRoute;
use queue::{Breaker, Call, CallOutcome, FirstCall, Full, FullWhy, JobState, Submission, Submitted, Waited};
use std::sync::Arc;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(2);

/// A request whose first call may be made early, by whoever submits it.
fn carried(key: &str) -> Submission {
    Submission { carries: true, patience: WAIT, ..keyed(idempotent(), r#"{"user":1}"#, key) }
}

async fn is_done(stage: &Stage, submitted: Submitted, status: u16) {
    let Submitted::New(ticket) = submitted else { panic!("{submitted:?}") };
    let name = ticket.name();
    let Waited::Settled(view, Some(answer)) = ticket.wait(WAIT).await else { panic!("it is answered") };
    assert_eq!((view.state, view.attempts, answer.status), (JobState::Done, 1, status));
    assert_eq!(stage.state(name).await, JobState::Done);
    assert_eq!(stage.queue.status().depth, 0);
    assert!(stage.due().await.is_none(), "nobody else makes it");
}

#[tokio::test]
async fn what_comes_of_it_counts_once_the_job_is_on_disk() {
    let (disk, stage) = Stage::slow(true);
    // The call ends first.
    disk.hold_sync(true);
    let submitted = stage.submit_with(carried("a"), |early| {
        let call = early.expect("it is made at once");
        assert_eq!((call.attempt, &*call.key), (1, "a"));
        stage.report(&call, answered(201, "made"));
        assert_eq!(stage.counters().attempts, 0, "nothing of it is known before the job is on disk");
        assert_eq!((stage.counters().accepted, stage.queue.status().depth), (0, 1));
        disk.hold_sync(false);
    });
    let submitted = submitted.await;
    is_done(&stage, submitted, 201).await;
    // The job is on disk first.
    let mut call = None;
    let submitted = stage.submit_with(carried("b"), |early| call = early).await;
    stage.report(&call.expect("it is made at once"), answered(200, ""));
    is_done(&stage, submitted, 200).await;
    // It did not go well: the courier goes on.
    let submitted = stage.submit_with(carried("c"), |early| {
        stage.report(&early.expect("it is made at once"), not_sent());
    });
    let submitted = submitted.await;
    let Submitted::New(ticket) = submitted else { panic!("{submitted:?}") };
    stage.play(Duration::from_secs(60), |_| answered(201, "")).await;
    assert!(matches!(ticket.wait(WAIT).await, Waited::Settled(view, Some(_)) if view.attempts == 1));
    assert_eq!((stage.counters().delivered, stage.counters().attempts), (3, 3));
    assert_eq!(stage.counters().answered_directly, 3);
    // All of it is on disk.
    let stage = stage.kill();
    assert_eq!(stage.ids(&[JobState::Done]).await, [1, 2, 3]);
}

#[tokio::test]
async fn only_what_may_happen_again_is_sent_before_it_is_on_disk() {
    let stage = Stage::new();
    let later = Some(Duration::from_secs(5));
    let not_early = [
        (
            "the service honours no keys",
            Submission { settings: QueuedRoute::default().into(), ..carried("a") },
        ),
        ("its client cannot repeat it", Submission { key: None, ..carried("b") }),
        ("it is not due", Submission { deliver_after: later, ..carried("c") }),
        ("nobody makes it", Submission { carries: false, ..carried("d") }),
    ];
    for (why, submission) in not_early {
        let submission = Submission { patience: Duration::ZERO, ..submission };
        let ordinary = stage.submit_with(submission, |early| assert!(early.is_none(), "{why}"));
        assert!(matches!(ordinary.await, Submitted::New(_)), "{why}");
    }
    stage.play(Duration::from_secs(60), |_| answered(201, "")).await;
    // In order: the one before has to be over.
    let ordered = |key| Submission {
        settings: QueuedRoute { order_by: Some(JsonPath("$.user".into())), ..idempotent() }.into(),
        ..carried(key)
    };
    let mut first = None;
    let before = stage.submit_with(ordered("e"), |early| first = early).await;
    let first = first.expect("nothing is before it");
    let mut behind = Box::pin(stage.submit_with(ordered("f"), |early| assert!(early.is_none(), "{early:?}")));
    tokio::select! {
        biased;
        heard = &mut behind => panic!("{heard:?}"),
        due = stage.due() => assert!(due.is_none(), "{due:?}"),
    }
    stage.report(&first, answered(201, ""));
    let second = stage.call().await;
    assert_eq!(second.key, "f");
    stage.report(&second, answered(201, ""));
    assert!(matches!(before, Submitted::New(_)));
    assert!(matches!(behind.await, Submitted::New(_)));
    stage.settled().await;
    assert_eq!((stage.counters().delivered, stage.queue.status().depth), (6, 0));
}

#[tokio::test]
async fn what_could_not_be_written_may_have_happened_and_leaves_nothing_behind() {
    for ends_early in [true, false] {
        let (disk, stage) = Stage::slow(false);
        // The journal has something else to do when the call is made.
        disk.hold_sync(true);
        let queue = stage.queue.clone();
        let other = tokio::spawn(async move { queue.pause(Some("POST /other"), 0).await });
        while disk.held_syncs() == 0 {
            tokio::task::yield_now().await;
        }
        let mut under_way: Option<Call> = None;
        let submitted = stage.submit_with(carried("a"), |early| {
            let call = early.expect("the disk has refused nothing yet");
            if ends_early {
                stage.report(&call, answered(201, "made"));
            } else {
                under_way = Some(call);
            }
            disk.hold_sync(false);
        });
        let submitted = submitted.await;
        other.await.unwrap().unwrap();
        assert!(matches!(submitted, Submitted::Unwritten(FullWhy::Disk(_))), "{submitted:?}");
        if let Some(call) = under_way {
            // What it takes up is not given to others before it is over.
            assert_eq!(stage.queue.status().upstreams[0].in_flight, 1);
            stage.report(&call, answered(201, "made"));
        }
        // From now on the disk is asked first, and the key is free.
        for _ in 0..2 {
            let submitted = stage.submit_with(carried("a"), |early| assert!(early.is_none(), "{early:?}"));
            assert!(matches!(submitted.await, Submitted::Full(_)));
        }
        stage.settled().await;
        let status = stage.queue.status();
        assert_eq!((status.depth, status.bytes, status.upstreams[0].in_flight), (0, 0, 0), "{ends_early}");
        assert_eq!(
            (stage.counters().attempts, stage.counters().accepted, stage.counters().refused),
            (0, 0, 3)
        );
        assert!(stage.due().await.is_none());
    }
}

/// The release that serves the user honours no keys: it is sent once it is on disk.
#[tokio::test]
async fn what_is_withheld_is_sent_later_and_says_nothing_of_the_service() {
    let stage = Stage::new();
    for key in ["a", "b", "c", "d", "e", "f"] {
        let submitted = stage.submit_with(carried(key), |early| {
            let call = early.expect("nothing is held against the service");
            assert!(call.unannounced);
            stage.report(&call, CallOutcome::Withheld { why: "it honours no keys".into() });
        });
        assert!(matches!(submitted.await, Submitted::New(_)));
    }
    let upstream = &stage.queue.status().upstreams[0];
    assert_eq!((upstream.breaker, upstream.in_flight), (Breaker::Closed, 0));
    let mut sent = 0;
    stage
        .play(Duration::from_secs(10), |call| {
            assert!(!call.unannounced && !call.doubted && call.attempt == 1, "{call:?}");
            sent += 1;
            answered(201, "")
        })
        .await;
    assert_eq!((sent, stage.counters().attempts), (6, 6));
}

/// What was accepted for a service that honours keys, and is for a release that does not when its turn comes, is written
/// down before it is sent: whoever finds it half-way knows that it may have happened.
#[tokio::test]
async fn what_is_for_a_release_without_keys_is_announced_first() {
    let stage = Stage::new();
    stage.queue.pause(None, 0).await.unwrap();
    let name = stage.enqueue(request(idempotent(), "1")).await;
    stage.queue.resume(None, 0).await.unwrap();
    let call = stage.call().await;
    assert!(call.unannounced && !call.doubted);
    stage.report(&call, CallOutcome::Withheld { why: "it honours no keys".into() });
    let call = stage.due().await.expect("it is not put off");
    assert!(!call.unannounced && !call.doubted && call.attempt == 1, "{call:?}");
    let stage = stage.kill();
    let call = stage.due().await.expect("it may be for a service that honours keys again");
    assert!(call.unannounced && call.doubted && call.attempt == 2, "{call:?}");
    let upstream = &stage.queue.status().upstreams[0];
    assert_eq!((upstream.breaker, upstream.in_flight), (Breaker::Closed, 1));
    stage.report(&call, CallOutcome::Withheld { why: "it honours no keys".into() });
    stage.settled().await;
    assert!(stage.due().await.is_none(), "what may have happened waits");
    assert_eq!(stage.state(name).await, JobState::Waiting);
    stage.play(Duration::from_secs(60), |_| answered(201, "")).await;
    assert_eq!(stage.state(name).await, JobState::Done);
}

/// One is enough to see that: the others are announced at once.
#[tokio::test]
async fn what_is_behind_it_is_announced_without_being_asked_for() {
    let stage = Stage::new();
    stage.queue.pause(None, 0).await.unwrap();
    for _ in 0..5 {
        stage.enqueue(request(idempotent(), "1")).await;
    }
    stage.queue.resume(None, 0).await.unwrap();
    let call = stage.call().await;
    stage.report(&call, CallOutcome::Withheld { why: "it honours no keys".into() });
    let without_keys = Arc::new(QueuedRoute::default());
    for _ in 0..5 {
        let call = stage.due().await.expect("nothing is put off");
        assert!(!call.unannounced, "{call:?}");
        stage.queue.report(call.id, answered(201, ""), Some(&without_keys));
    }
    // Until a release has answered that honours keys.
    for unannounced in [false, true] {
        stage.queue.pause(None, 0).await.unwrap();
        stage.enqueue(request(idempotent(), "1")).await;
        stage.queue.resume(None, 0).await.unwrap();
        let call = stage.due().await.expect("it is sent");
        assert_eq!(call.unannounced, unannounced, "{call:?}");
        stage.report(&call, answered(201, ""));
        stage.settled().await;
    }
}

/// A first call that was made too early to be written down may be under way when its client repeats it.
#[tokio::test]
async fn a_conflict_is_not_the_last_word_on_a_key() {
    let stage = Stage::new();
    let submitted = stage.submit_with(carried("a"), |early| {
        stage.report(&early.expect("it is made at once"), answered(409, "another one is under way"));
    });
    let submitted = submitted.await;
    is_done(&stage, submitted, 409).await;
    let submitted = stage.submit_with(carried("a"), |early| {
        stage.report(&early.expect("it is made at once"), answered(201, "made"));
    });
    let submitted = submitted.await;
    is_done(&stage, submitted, 201).await;
    assert!(matches!(stage.submit(carried("a")).await, Submitted::Replay(..)));
}

#[tokio::test]
async fn it_goes_on_without_its_client_and_without_its_maker() {
    let stage = Stage::new();
    // The client is gone before the job is on disk, and the call has ended.
    let queue = stage.queue.clone();
    let submits = tokio::spawn(async move {
        let reports = queue.clone();
        let early = move |_, first: Option<FirstCall>| {
            let call = first.and_then(FirstCall::take).expect("it is made at once");
            reports.report(call.id, answered(201, ""), None);
        };
        queue.submit(carried("a"), early).await
    });
    tokio::task::yield_now().await;
    submits.abort();
    // It is either over or gone.
    drop(submits.await);
    stage.settled().await;
    stage.settled().await;
    assert_eq!((stage.counters().delivered, stage.queue.status().depth), (1, 0));
    // Nobody takes the call: the courier makes it.
    let submitted =
        stage.queue.submit(carried("b"), |_, first| drop(first.expect("it is made at once"))).await;
    let call = stage.call().await;
    assert_eq!((call.attempt, &*call.key), (1, "b"));
    stage.report(&call, answered(201, ""));
    is_done(&stage, submitted, 201).await;
    // Whoever makes it is killed meanwhile: the next owner sends it again, with its key.
    let mut call = None;
    let submitted = stage.submit_with(carried("c"), |early| call = early).await;
    assert!(matches!(submitted, Submitted::New(_)) && call.is_some());
    drop(submitted);
    let stage = stage.kill();
    let again = stage.call().await;
    assert_eq!((&*again.key, &again.body[..]), ("c", &br#"{"user":1}"#[..]));
    stage.report(&again, answered(201, ""));
    stage.settled().await;
    assert_eq!(stage.queue.status().depth, 0);
}

#[tokio::test]
async fn two_with_one_key_are_one() {
    let stage = Stage::new();
    let mut call = None;
    let first = stage.submit_with(carried("a"), |early| call = early);
    let second = stage.submit_with(carried("a"), |early| assert!(early.is_none(), "{early:?}"));
    let (first, second) = tokio::join!(first, second);
    assert!(matches!(second, Submitted::Repeated(_)), "{second:?}");
    stage.report(&call.expect("it is made at once"), answered(201, ""));
    is_done(&stage, first, 201).await;
    assert!(matches!(stage.submit(carried("a")).await, Submitted::Replay(..)));
}

/// Nothing that is refused before it is even handed to the writer is sent, and what it would have taken up is free.
#[tokio::test]
async fn what_is_refused_at_once_is_not_sent_and_leaves_nothing_behind() {
    let (disk, stage) = Stage::slow(true);
    disk.hold_sync(true);
    let queue = stage.queue.clone();
    let other = tokio::spawn(async move { queue.pause(Some("POST /other"), 0).await });
    while disk.held_syncs() == 0 {
        tokio::task::yield_now().await;
    }
    // More waits for the disk than may.
    let large = || Submission { route: "POST /other".into(), ..request(idempotent(), &"x".repeat(40 << 20)) };
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (queue, large) = (stage.queue.clone(), large());
            tokio::spawn(async move { queue.submit(large, |_, _| {}).await })
        })
        .collect();
    while stage.queue.status().depth < 2 {
        tokio::task::yield_now().await;
    }
    let taken = || {
        (stage.queue.status().depth, stage.queue.status().bytes, stage.queue.status().upstreams[0].in_flight)
    };
    let before = taken();
    let ordered = |key: &str| {
        let settings = QueuedRoute { order_by: Some(JsonPath("$.user".into())), ..idempotent() };
        Submission { carries: true, patience: WAIT, ..keyed(settings, r#"{"user":1}"#, key) }
    };
    for _ in 0..2 {
        let submitted = stage.submit_with(ordered("a"), |early| assert!(early.is_none(), "{early:?}")).await;
        assert!(matches!(submitted, Submitted::Full(Full { why: FullWhy::Busy(_), .. })), "{submitted:?}");
        assert_eq!(taken(), before, "as if it had never come");
    }
    disk.hold_sync(false);
    other.await.unwrap().unwrap();
    for submitted in waiting {
        assert!(matches!(submitted.await.unwrap(), Submitted::New(_)));
    }
    assert_eq!((stage.counters().attempts, stage.counters().refused), (0, 2));
    for _ in 0..2 {
        let call = stage.call().await;
        assert_eq!(call.body.len(), 40 << 20);
        stage.report(&call, answered(200, ""));
    }
    // Its key is free, and so is its place in the order. The disk is trusted again once it has taken something.
    let mut early = None;
    let submitted = stage.submit_with(ordered("a"), |call| early = call).await;
    stage.report(&early.expect("nothing is before it"), answered(201, "made"));
    is_done(&stage, submitted, 201).await;
}
