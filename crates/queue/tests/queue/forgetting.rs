//! What is forgotten while somebody asks for it.

use crate::stage::{PATIENCE, Stage, answered, idempotent, keyed};
use model::queue::QueueLimits;
use queue::{JobName, JobState, Queue, Waited};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// So many that some are forgotten just between two looks.
const JOBS: usize = 200;
const ASKERS: usize = 8;
const RETENTION: Duration = Duration::from_secs(86_400);
/// How often it is looked for what is old, and a little more.
const PAUSE: Duration = Duration::from_secs(61);

/// Asks for the job of the moment again and again. How often it was still there.
async fn ask(queue: Queue, names: Arc<Vec<JobName>>, next: Arc<AtomicUsize>, end: (JobState, u16)) -> usize {
    let mut found = 0;
    while let Some(name) = names.get(next.load(Ordering::SeqCst)) {
        match queue.wait(*name, Duration::ZERO).await.expect("what is forgotten is no error") {
            None => assert!(queue.is_past(name.id)),
            Some(Waited::Settled(view, answer)) => {
                let answer = answer.unwrap_or_else(|| panic!("{view:?} without its answer"));
                assert_eq!((view.state, answer.status), end);
                found += 1;
            }
            Some(Waited::Pending(view)) => panic!("{view:?}"),
        }
    }
    found
}

/// Forgets one job after the other, each of which came to this `kept` ago.
async fn gone_with_their_answers(end: (JobState, u16), kept: Duration) {
    let stage = Stage::with(QueueLimits { retention: RETENTION, ..QueueLimits::default() }, 0);
    let mut names = Vec::new();
    for n in 0..JOBS {
        names.push(stage.enqueue(keyed(idempotent(), "{}", &n.to_string())).await);
        let call = stage.call().await;
        stage.report(&call, answered(end.1, "done"));
        stage.settled().await;
        stage.clock.advance(PAUSE);
    }
    stage.clock.advance(kept - PAUSE * u32::try_from(JOBS).unwrap());
    let (names, next) = (Arc::new(names), Arc::new(AtomicUsize::new(0)));
    let ask = |_| tokio::spawn(ask(stage.queue.clone(), names.clone(), next.clone(), end));
    let askers: Vec<_> = (0..ASKERS).map(ask).collect();
    for name in names.iter() {
        // The last of forgetting follows what is forgotten: what is done, and what is held.
        for _ in 0..3 {
            stage.settled().await;
        }
        stage.clock.advance(PAUSE);
        let deadline = Instant::now() + PATIENCE;
        while stage.queue.job(*name).await.unwrap().is_some() {
            assert!(Instant::now() < deadline, "{name} is not forgotten");
            stage.queue.tend();
        }
        assert!(stage.queue.answer(*name).await.unwrap().is_none());
        next.fetch_add(1, Ordering::SeqCst);
    }
    let mut found = 0;
    for asker in askers {
        found += asker.await.unwrap();
    }
    assert!(found > 0, "they have asked before");
}

#[tokio::test]
async fn between_two_looks_what_is_done_is_gone_and_never_without_its_answer() {
    gone_with_their_answers((JobState::Done, 200), RETENTION).await;
}

#[tokio::test]
async fn between_two_looks_what_was_refused_is_gone_and_never_without_its_answer() {
    gone_with_their_answers((JobState::Rejected, 422), RETENTION * 30).await;
}
