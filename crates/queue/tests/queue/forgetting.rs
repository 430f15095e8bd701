//! What is forgotten while somebody asks for it.

use crate::stage::{Stage, answered, idempotent, keyed};
use model::queue::QueueLimits;
use queue::{JobName, JobState, Queue, Waited};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// So many that some are forgotten just between two looks.
const JOBS: usize = 3_000;
const ASKERS: usize = 4;
const RETENTION: Duration = Duration::from_secs(86_400);

/// Asks for each job again and again until it is gone; how many had an answer before that.
async fn ask(
    queue: Queue,
    names: Arc<Vec<JobName>>,
    begun: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> usize {
    let mut found = 0;
    let mut is_first = true;
    while !stop.load(Ordering::SeqCst) {
        for name in names.iter() {
            match queue.wait(*name, Duration::ZERO).await.expect("what is forgotten is no error") {
                None => assert!(queue.is_past(name.id)),
                Some(Waited::Settled(view, answer)) => {
                    let answer = answer.unwrap_or_else(|| panic!("{view:?} without its answer"));
                    assert_eq!((view.state, answer.status), (JobState::Done, 200));
                    found += 1;
                }
                Some(Waited::Pending(view)) => panic!("{view:?}"),
            }
            if std::mem::take(&mut is_first) {
                begun.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    found
}

#[tokio::test]
async fn between_two_looks_it_is_gone_and_never_without_its_answer() {
    let limits = QueueLimits { retention: RETENTION, ..QueueLimits::default() };
    let stage = Stage::with(limits, 0);
    let mut names = Vec::new();
    for n in 0..JOBS {
        names.push(stage.enqueue(keyed(idempotent(), "{}", &n.to_string())).await);
        let call = stage.call().await;
        stage.report(&call, answered(200, "done"));
    }
    stage.settled().await;
    let names = Arc::new(names);
    let (begun, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let ask = |_| tokio::spawn(ask(stage.queue.clone(), names.clone(), begun.clone(), stop.clone()));
    let askers: Vec<_> = (0..ASKERS).map(ask).collect();
    while begun.load(Ordering::SeqCst) < ASKERS {
        tokio::task::yield_now().await;
    }
    stage.clock.advance(RETENTION + Duration::from_secs(60));
    stage.queue.tend();
    while stage.queue.job(*names.last().unwrap()).await.unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut found = 0;
    for asker in askers {
        found += asker.await.unwrap();
    }
    assert!(found > 0, "they have asked before");
    assert!(stage.queue.answer(names[0]).await.unwrap().is_none());
}
