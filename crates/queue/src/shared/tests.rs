use super::*;
use crate::deliver::settle;
use crate::queue::{Options, Queue};
use crate::submission::{Submission, Submitted};
use model::flow::Method;
use std::path::Path;
use store::journal::JournalOptions;

fn open(folder: &Path) -> Arc<Shared> {
    let (limits, clock) = (QueueLimits::default(), Clock::manual(1_800_000_000_000));
    let options = Options { limits, journal: JournalOptions::default(), clock, seed: 1 };
    Queue::open(&folder.join("queue.db"), options).unwrap().shared
}

fn request(idempotent: bool) -> Submission {
    Submission {
        route: Arc::from("POST /a"),
        settings: Arc::new(QueuedRoute { idempotent, ..QueuedRoute::default() }),
        saga: None,
        method: Method::Post,
        path_and_query: "/a".into(),
        fields: Vec::new(),
        body: Bytes::new(),
        traffic: crate::Traffic::Users,
        user: None,
        patience: crate::submission::ANSWER_TIME,
        carries: false,
        key: None,
        principal: None,
        credentials: Bytes::new(),
        deliver_after: None,
    }
}

/// A disk that has no room even for outcomes: the client hears the truth, nothing more is sent, and the outcome is
/// written once there is room.
#[tokio::test]
async fn an_outcome_that_cannot_be_written_is_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let shared = open(folder.path());
    let Submitted::New(ticket) = shared.submit(request(false), |_, _| {}).await else { panic!("accepted") };
    let name = ticket.name();
    let call = shared.next().await;
    let flight = shared.lock().flights.remove(&call.id).unwrap();
    let answer = Answer { status: 201, fields: Vec::new(), body: Bytes::new(), truncated: false };
    let (change, mut after) =
        settle(&flight.job, JobState::Done, shared.wall_ms(), Some(answer.clone()), None);
    if let After::Settled(settled) = &mut after {
        settled.client = shared.lock().waiting.get_mut(&name.id.0).unwrap().client.take();
    }
    shared.written(change, after, Err(WriteError::Full));
    let Waited::Settled(view, told) = ticket.wait(Duration::from_secs(9)).await else { panic!("told") };
    assert_eq!((view.state, told), (JobState::Done, Some(answer)));

    let Submitted::New(second) = shared.submit(request(true), |_, _| {}).await else { panic!("accepted") };
    assert_eq!(shared.lock().book.state(second.name().id.0), JobState::Waiting);
    assert_eq!(shared.lock().unwritten.len(), 1);
    assert_eq!(shared.journal.job(name.id).unwrap().unwrap().state, JobState::Dispatching);
    shared.tend();
    let next = shared.next().await;
    assert_eq!(next.job, second.name().id, "deliveries go on");
    Queue { shared: shared.clone() }.settled().await;
    assert_eq!(shared.journal.job(name.id).unwrap().unwrap().state, JobState::Done);
    let counters = shared.counters(&shared.lock());
    assert_eq!((counters.delivered, counters.answered_directly), (1, 1));
}

/// What may have happened stays in doubt when it cannot be read, for a while or for good; others are dead for good.
#[tokio::test]
async fn what_cannot_be_read_is_not_sent_again() {
    use crate::deliver::Unloadable;
    use store::journal::ReadError;
    let folder = tempfile::tempdir().unwrap();
    let shared = open(folder.path());
    let Submitted::New(ticket) = shared.submit(request(false), |_, _| {}).await else { panic!("accepted") };
    let id = ticket.name().id;
    let call = shared.next().await;
    shared.report(call.id, crate::CallOutcome::Unanswered { why: "timeout".into() }, None);
    let queue = Queue { shared: shared.clone() };
    queue.settled().await;
    let path = folder.path().join("queue.db");
    let unreadable = || ReadError::Unreadable { path: path.clone(), cause: "input/output error".into() };
    let damaged = || ReadError::Damaged { path: path.clone(), cause: "a checksum is wrong".into() };
    let doubtful = shared.lock().book.doubtful(id.0).unwrap().entry.with(crate::book::PROBE);
    for why in [Unloadable::from(unreadable()), Unloadable::from(damaged())] {
        shared.set_aside(doubtful, why);
        queue.settled().await;
        assert_eq!(shared.lock().book.state(id.0), JobState::Unknown);
        assert_eq!(shared.journal.job(id).unwrap().unwrap().state, JobState::Unknown);
    }
    // Should it come up as if it were to be sent all the same, its row says that it is not.
    shared.lock().book.settle(id.0, 0);
    assert!(matches!(shared.load(doubtful.without(crate::book::PROBE)), Err(Unloadable::InDoubt(1))));

    let Submitted::New(other) = shared.submit(request(true), |_, _| {}).await else { panic!("accepted") };
    let id = other.name().id;
    let entry = crate::recover::entry_of(&mut shared.lock().book, &shared.journal.job(id).unwrap().unwrap());
    shared.set_aside(entry, Unloadable::from(damaged()));
    queue.settled().await;
    assert_eq!(shared.journal.job(id).unwrap().unwrap().state, JobState::Dead);
}

/// What is being written again holds deliveries up as it did before.
#[tokio::test]
async fn nothing_is_begun_while_outcomes_are_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let shared = open(folder.path());
    shared.lock().rewriting = 1;
    let Submitted::New(ticket) = shared.submit(request(true), |_, _| {}).await else { panic!("accepted") };
    assert_eq!(shared.lock().book.state(ticket.name().id.0), JobState::Waiting);
    assert!(shared.lock().prepared.is_empty());
    // Nor is what is too old given up: that could not be written either.
    shared.clock.advance(QueuedRoute::default().max_age * 2);
    shared.tend();
    assert_eq!(shared.lock().book.state(ticket.name().id.0), JobState::Waiting);
    shared.lock().rewriting = 0;
    shared.tend();
    Queue { shared: shared.clone() }.settled().await;
    assert_eq!(shared.journal.job(ticket.name().id).unwrap().unwrap().state, JobState::Dead);
}
