//! A queue, its clock, and whoever plays the rest.

use bytes::Bytes;
use model::flow::Method;
use model::queue::{QueueLimits, QueuedRoute};
use queue::{
    ANSWER_TIME, Answer, Call, CallOutcome, Clock, Counters, Filter, FirstCall, JobId, JobName, JobState,
    JobView, JournalOptions, OpenError, Options, Queue, Submission, Submitted, Ticket, Waited,
};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use testkit::vfs::Disk;

/// When the tests begin, in Unix milliseconds.
pub(crate) const START: i64 = 1_800_000_000_000;
/// How long anything may take that does not depend on the manual clock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The service honours keys.
pub(crate) fn idempotent() -> QueuedRoute {
    QueuedRoute { idempotent: true, ..QueuedRoute::default() }
}

pub(crate) struct Stage {
    pub(crate) queue: Queue,
    pub(crate) clock: Clock,
    folder: Arc<tempfile::TempDir>,
    opened: Opened,
}

/// How a queue was opened, and is again.
#[derive(Debug, Clone, Default)]
struct Opened {
    limits: QueueLimits,
    reserve_bytes: u64,
    /// None: on the machine's own disk.
    vfs: Option<String>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(QueueLimits::default(), 0)
    }

    pub(crate) fn with(limits: QueueLimits, reserve_bytes: u64) -> Self {
        let (folder, clock) = (Arc::new(folder()), Clock::manual(START));
        let opened = Opened { limits, reserve_bytes, vfs: None };
        let queue = open(folder.path(), &opened, &clock).unwrap();
        Self { queue, clock, folder, opened }
    }

    /// On a disk that may lose its power, and may have lost it before. Its files have the names that they would have in
    /// `folder`.
    pub(crate) fn on(
        disk: &Disk,
        folder: &Arc<tempfile::TempDir>,
        limits: QueueLimits,
        clock: &Clock,
    ) -> Result<Self, OpenError> {
        let opened = Opened { limits, reserve_bytes: 0, vfs: Some(disk.name().to_owned()) };
        let queue = open(folder.path(), &opened, clock)?;
        Ok(Self { queue, clock: clock.clone(), folder: folder.clone(), opened })
    }

    /// On a disk whose syncs the test may hold up. It has room for so little that nothing may be accepted, if that is
    /// asked for.
    pub(crate) fn slow(has_room: bool) -> (Disk, Self) {
        let (disk, folder, clock) = (Disk::new("slow"), Arc::new(folder()), Clock::manual(START));
        let reserve_bytes = if has_room { 0 } else { u64::MAX };
        let opened =
            Opened { limits: QueueLimits::default(), reserve_bytes, vfs: Some(disk.name().to_owned()) };
        let queue = open(folder.path(), &opened, &clock).unwrap();
        (disk, Self { queue, clock, folder, opened })
    }

    /// The process is killed: nothing that was under way is reported, and another one opens the same file.
    pub(crate) fn kill(self) -> Self {
        let Self { queue, clock, folder, opened } = self;
        drop(queue);
        let queue = open(folder.path(), &opened, &clock).unwrap();
        Self { queue, clock, folder, opened }
    }

    /// The file is damaged wherever these bytes are, and repaired.
    pub(crate) fn damaged_and_repaired(self, bytes: &[u8]) -> Self {
        self.reopened_after(|path| {
            damage(path, bytes);
            queue::repair(path, START, 0).unwrap();
        })
    }

    /// The file is damaged wherever these bytes are while the queue is open, and nobody has noticed.
    pub(crate) fn damaged(self, bytes: &[u8]) -> Self {
        self.reopened_after(|_| {}).also_damaged(bytes)
    }

    /// The same once more, for an open queue of which everything is in its file.
    pub(crate) fn also_damaged(self, bytes: &[u8]) -> Self {
        damage(&self.folder.path().join("queue.db"), bytes);
        self
    }

    fn reopened_after(self, act: impl FnOnce(&Path)) -> Self {
        let Self { queue, clock, folder, opened } = self;
        assert!(queue.close(PATIENCE));
        drop(queue);
        act(&folder.path().join("queue.db"));
        let queue = open(folder.path(), &opened, &clock).unwrap();
        Self { queue, clock, folder, opened }
    }

    /// The same on a machine whose clock on the wall says something else.
    pub(crate) fn kill_at(self, wall_ms: i64) -> Self {
        self.clock.set_wall(wall_ms);
        self.kill()
    }

    /// The next call. What is being written is waited for; the clock stands.
    pub(crate) async fn call(&self) -> Call {
        tokio::time::timeout(PATIENCE, self.queue.next()).await.expect("a call is due")
    }

    /// The next call, if one is due now.
    pub(crate) async fn due(&self) -> Option<Call> {
        // An announcement is written before its call is made, and a look at the book may have caused one.
        for _ in 0..2 {
            if let Some(call) = self.peek().await {
                return Some(call);
            }
            self.settled().await;
        }
        self.peek().await
    }

    async fn peek(&self) -> Option<Call> {
        tokio::select! {
            biased;
            call = self.queue.next() => Some(call),
            () = async { for _ in 0..20 { tokio::task::yield_now().await } } => None,
        }
    }

    /// Everything that was handed to the writer before is on disk, and has taken effect.
    pub(crate) async fn settled(&self) {
        self.queue.settled().await;
    }

    pub(crate) fn report(&self, call: &Call, outcome: CallOutcome) {
        self.queue.report(call.id, outcome, None);
    }

    /// Makes the calls that are due or come due within `time`, a second at a time.
    pub(crate) async fn play(&self, time: Duration, mut upstream: impl FnMut(&Call) -> CallOutcome) {
        for _ in 0..=time.as_secs() {
            while let Some(call) = self.due().await {
                let outcome = upstream(&call);
                self.report(&call, outcome);
            }
            if self.queue.status().depth == 0 {
                return;
            }
            self.clock.advance(Duration::from_secs(1));
            self.queue.tend();
        }
    }

    pub(crate) async fn submit(&self, submission: Submission) -> Submitted {
        self.submit_with(submission, |_| {}).await
    }

    /// The same; `early` has the first call, if that is to be made while the request is being written.
    pub(crate) async fn submit_with(
        &self,
        submission: Submission,
        early: impl FnOnce(Option<Call>),
    ) -> Submitted {
        let begun = |_, first: Option<FirstCall>| early(first.and_then(FirstCall::take));
        tokio::time::timeout(PATIENCE, self.queue.submit(submission, begun)).await.expect("an answer")
    }

    /// Submits what has to be accepted.
    pub(crate) async fn accept(&self, submission: Submission) -> Ticket {
        match self.submit(submission).await {
            Submitted::New(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// Submits, and its client is told 202 at once.
    pub(crate) async fn enqueue(&self, submission: Submission) -> JobName {
        let ticket = self.accept(Submission { patience: Duration::ZERO, ..submission }).await;
        let name = ticket.name();
        let Waited::Pending(view) = ticket.wait(Duration::ZERO).await else { panic!("it is not done yet") };
        assert_eq!(view.name, name);
        name
    }

    pub(crate) async fn view(&self, name: JobName) -> JobView {
        self.queue.job(name).await.unwrap().expect("the job is kept")
    }

    pub(crate) async fn state(&self, name: JobName) -> JobState {
        self.settled().await;
        self.view(name).await.state
    }

    /// The status and body of the stored answer.
    pub(crate) async fn answer(&self, name: JobName) -> Option<(u16, Bytes)> {
        self.settled().await;
        self.queue.answer(name).await.unwrap().map(|answer| (answer.status, answer.body))
    }

    pub(crate) fn counters(&self) -> Counters {
        self.queue.counters()
    }

    pub(crate) async fn ids(&self, states: &[JobState]) -> Vec<u64> {
        self.settled().await;
        let filter = Filter { states: states.to_vec(), ..Filter::default() };
        let found = self.queue.list(filter, JobId(0), 10_000).await.unwrap();
        found.iter().map(|view| view.name.id.0).collect()
    }
}

/// A process that is killed loses nothing that the system has: memory is as good as a disk here, and quicker.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.unwrap()
}

/// Changes a file wherever these bytes are in it.
fn damage(path: &Path, bytes: &[u8]) {
    let content = std::fs::read(path).unwrap();
    let found = content.windows(bytes.len()).enumerate().filter(|(_, at)| *at == bytes).map(|(at, _)| at);
    let found: Vec<usize> = found.collect();
    assert!(!found.is_empty());
    // In place: the file may be open.
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    found.iter().for_each(|at| file.write_all_at(&[content[*at] ^ 1], *at as u64).unwrap());
}

fn open(folder: &Path, opened: &Opened, clock: &Clock) -> Result<Queue, OpenError> {
    let Opened { limits, reserve_bytes, vfs } = opened.clone();
    let journal = JournalOptions { reserve_bytes, vfs, log_bytes: 0 };
    let options = Options { limits, journal, clock: clock.clone(), seed: 7 };
    Queue::open(&folder.join("queue.db"), options)
}

/// A request to `POST /orders`.
pub(crate) fn request(settings: QueuedRoute, body: &str) -> Submission {
    Submission {
        route: Arc::from("POST /orders"),
        settings: Arc::new(settings),
        saga: None,
        method: Method::Post,
        path_and_query: "/orders?a=b".into(),
        fields: vec![
            (Bytes::from_static(b"accept"), Bytes::from_static(b"*/*")),
            (Bytes::from_static(b"content-type"), Bytes::from_static(b"application/json")),
        ],
        body: Bytes::from(body.to_owned()),
        traffic: queue::Traffic::Users,
        user: Some(3),
        patience: ANSWER_TIME,
        carries: false,
        key: None,
        principal: None,
        credentials: Bytes::new(),
        deliver_after: None,
    }
}

/// The same with a key.
pub(crate) fn keyed(settings: QueuedRoute, body: &str, key: &str) -> Submission {
    Submission { key: Some(key.into()), ..request(settings, body) }
}

pub(crate) fn answered(status: u16, body: &str) -> CallOutcome {
    let fields = vec![(Bytes::from_static(b"content-type"), Bytes::from_static(b"text/plain"))];
    let answer = Answer { status, fields, body: Bytes::from(body.to_owned()), truncated: false };
    CallOutcome::Answered { answer, retry_after: None }
}

pub(crate) fn busy(status: u16, retry_after: u64) -> CallOutcome {
    match answered(status, "") {
        CallOutcome::Answered { answer, .. } => {
            CallOutcome::Answered { answer, retry_after: Some(Duration::from_secs(retry_after)) }
        }
        other => other,
    }
}

pub(crate) fn not_sent() -> CallOutcome {
    CallOutcome::NotSent { why: "connection refused".into(), busy: false }
}

pub(crate) fn broken() -> CallOutcome {
    CallOutcome::Unanswered { why: "the connection broke".into() }
}
