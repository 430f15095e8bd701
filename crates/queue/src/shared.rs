//! What all handles of a queue share, and how what was decided is written down and then takes effect.

use crate::accept::Heard;
use crate::book::{Book, Carried, Entry, InDoubt};
use crate::calendar::Calendar;
use crate::call::{Call, CallId};
use crate::clock::{Clock, Moment, whole_ms};
use crate::codec::StoredRequest;
use crate::deliver::Flight;
use crate::first::Early;
use crate::held::Held;
use crate::job::{Answer, JobId, JobState, JobView};
use crate::keys::{HashedMap, KeyHash, Keys};
use crate::operation::Counters;
use crate::saga::Action;
use crate::submission::{FullWhy, Traffic, Waited};
use crate::values::Paths;
use bytes::Bytes;
use model::queue::{QueueLimits, QueuedRoute, Saga};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::commit::WriteError;
use store::journal::{Change, Journal};
use tokio::sync::{Notify, oneshot};

/// Bytes of requests that are kept in memory from when they are accepted to when they are settled. Others are read
/// from disk when they are due.
pub(crate) const HOT_BYTES_LIMIT: usize = 2 * 1024 * 1024;
/// Encoded settings and sagas that are kept; all are forgotten when there are more, as after some releases.
const ENCODED_LIMIT: usize = 64;
/// Outcomes that may wait for room on the disk. While there are any, no call is made, so there are no more than
/// calls were under way.
pub(crate) const REWRITE_PAUSE: Duration = Duration::from_secs(1);

/// A queue.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) journal: Journal,
    pub(crate) clock: Clock,
    pub(crate) calendar: Calendar,
    pub(crate) paths: Paths,
    /// Wakes the courier.
    pub(crate) wake: Notify,
    /// Held while a pause is written and takes effect: two at once would leave memory and file of two minds.
    pub(crate) pausing: tokio::sync::Mutex<()>,
    /// Clients that had their answer from the service itself.
    answered_directly: AtomicU64,
    answered_202: AtomicU64,
    encoded: Mutex<Encoded>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct Encoded {
    settings: Vec<(Arc<QueuedRoute>, Bytes)>,
    sagas: Vec<(Arc<Saga>, Bytes)>,
}

/// What changes. Locked for moments only, never while anything is written or read.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) limits: QueueLimits,
    pub(crate) book: Book,
    pub(crate) keys: Keys,
    /// Keys of requests that are being written.
    pub(crate) reserved: HashMap<KeyHash, Reserved>,
    pub(crate) waiting: HashedMap<u64, Waiting>,
    pub(crate) flights: HashMap<CallId, Flight>,
    /// Those of them whose jobs are being written, and those whose jobs could not be.
    pub(crate) early: HashMap<CallId, Early>,
    /// Whether the last job to be written was not.
    pub(crate) disk_refuses: bool,
    /// Calls that may be made at once.
    pub(crate) prepared: VecDeque<Call>,
    pub(crate) hot: Hot,
    pub(crate) unwritten: VecDeque<(Change, After)>,
    /// Those of them that are being written again.
    pub(crate) rewriting: usize,
    /// Jobs below this number were found when the queue was opened.
    pub(crate) found_below: u64,
    pub(crate) counters: Counters,
    pub(crate) held: Held,
    pub(crate) dice: Dice,
    pub(crate) next_id: u64,
    pub(crate) next_call: u64,
    pub(crate) pauses: Vec<store::journal::Pause>,
    pub(crate) oldest_created_ms: Option<i64>,
    pub(crate) tended: crate::tend::Tended,
    /// No further job is picked: [`crate::Queue::rest`].
    pub(crate) resting: bool,
}

/// A key whose request is being written, and who waits to see whether it is.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    pub(crate) others: Vec<oneshot::Sender<()>>,
}

/// Who waits for a job.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Its own client, which has not been told 202.
    pub(crate) client: Option<Client>,
    pub(crate) others: Vec<oneshot::Sender<()>>,
}

/// A client that waits for its answer.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) answer: oneshot::Sender<Waited>,
    /// Whoever is yet to hear that the job was accepted: at the latest with the answer.
    pub(crate) accepted: Option<oneshot::Sender<Heard>>,
    pub(crate) view: JobView,
}

impl Client {
    /// What it is to be told.
    pub(crate) fn settled(
        self,
        state: JobState,
        at_ms: i64,
        attempts: u32,
        answer: Option<Answer>,
    ) -> Telling {
        let view = JobView { state, finished_ms: Some(at_ms), attempts, ..self.view };
        Telling { to: self.answer, what: Waited::Settled(view, answer), accepted: self.accepted }
    }
}

/// An answer on its way to a client. It is said once nothing is locked: who is woken by it would only wait for that.
#[derive(Debug)]
#[must_use]
pub(crate) struct Telling {
    to: oneshot::Sender<Waited>,
    what: Waited,
    accepted: Option<oneshot::Sender<Heard>>,
}

/// Requests in memory.
#[derive(Debug, Default)]
pub(crate) struct Hot {
    requests: HashedMap<u64, (Arc<StoredRequest>, usize)>,
    bytes: usize,
}

impl Hot {
    /// Keeps a request, if there is room for it.
    pub(crate) fn keep(&mut self, id: u64, request: &Arc<StoredRequest>, bytes: usize) {
        if self.bytes + bytes <= HOT_BYTES_LIMIT
            && self.requests.insert(id, (request.clone(), bytes)).is_none()
        {
            self.bytes += bytes;
        }
    }

    /// A request and how many bytes it has encoded.
    pub(crate) fn get(&self, id: u64) -> Option<(Arc<StoredRequest>, usize)> {
        self.requests.get(&id).cloned()
    }

    pub(crate) fn remove(&mut self, id: u64) {
        if let Some((_, bytes)) = self.requests.remove(&id) {
            self.bytes -= bytes;
        }
    }
}

/// A small generator (splitmix64, Steele and others 2014) for pauses. Nothing relies on that nobody can guess them.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// What takes effect once a change is on disk.
#[derive(Debug)]
pub(crate) enum After {
    /// The job is settled.
    Settled(Box<Settled>),
    /// It is to be attempted again.
    PutOff(Box<Carried>, Moment),
    /// It is not known what became of it.
    Doubt { doubt: Box<InDoubt>, hold: Option<Moment>, probe: Option<Moment> },
    /// A probe has not settled what became of the job.
    AskAgain { id: u64, denials: u32, at: Option<Moment> },
    /// The call that was announced is made.
    Go(Call),
    /// Nothing.
    Nothing,
}

impl After {
    /// What its client is to be told although it is not written, or could not be.
    pub(crate) fn telling(&mut self) -> Option<Telling> {
        match self {
            Self::Settled(settled) => settled.telling(),
            Self::PutOff(..) | Self::Doubt { .. } | Self::AskAgain { .. } | Self::Go(_) | Self::Nothing => {
                None
            }
        }
    }
}

/// How a job was settled.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) entry: Entry,
    pub(crate) bytes: u64,
    pub(crate) state: JobState,
    pub(crate) attempts: u32,
    pub(crate) at_ms: i64,
    pub(crate) answer: Option<Answer>,
    /// Its client, if that is to be told now.
    pub(crate) client: Option<Client>,
    /// How its saga ended.
    pub(crate) saga: Option<Action>,
    pub(crate) traffic: Traffic,
}

impl Telling {
    /// Whether the client still waited for it.
    pub(crate) fn say(self) -> bool {
        let there = self.to.send(self.what).is_ok();
        if let Some(accepted) = self.accepted {
            // It hears that first, and finds the answer.
            let _ = accepted.send(Heard::Accepted(None));
        }
        there
    }
}

impl Settled {
    /// What its client is to be told, if there is one that was not told yet.
    fn telling(&mut self) -> Option<Telling> {
        let client = self.client.take()?;
        Some(client.settled(self.state, self.at_ms, self.attempts, self.answer.take()))
    }
}

impl Shared {
    pub(crate) fn new(journal: Journal, clock: Clock, calendar: Calendar, state: State) -> Self {
        let (paths, wake) = (Paths::default(), Notify::new());
        let (pausing, encoded) = (tokio::sync::Mutex::default(), Mutex::default());
        let (answered_directly, answered_202) = Default::default();
        let state = Mutex::new(state);
        Self {
            journal,
            clock,
            calendar,
            paths,
            wake,
            pausing,
            answered_directly,
            answered_202,
            encoded,
            state,
        }
    }

    /// What has happened so far.
    pub(crate) fn counters(&self, state: &State) -> Counters {
        Counters {
            holds_expired: state.book.holds_expired,
            answered_directly: self.answered_directly.load(Ordering::Relaxed),
            answered_202: self.answered_202.load(Ordering::Relaxed),
            ..state.counters
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with the lock in hand left a state that is as good as any other: each change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time on the wall.
    pub(crate) fn wall_ms(&self) -> i64 {
        self.calendar.wall_at(self.clock.now())
    }

    /// Settings and saga of a job as they are written down.
    pub(crate) fn encoded(&self, settings: &Arc<QueuedRoute>, saga: Option<&Arc<Saga>>) -> (Bytes, Bytes) {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = known(&mut encoded.settings, settings, crate::codec::encode_settings);
        let saga =
            saga.map_or_else(Bytes::new, |saga| known(&mut encoded.sagas, saga, crate::codec::encode_saga));
        (settings, saga)
    }

    /// Why nothing is written any longer.
    pub(crate) fn trouble(&self) -> Option<WriteError> {
        self.journal.trouble()
    }

    /// Writes a change; `after` takes effect once it is on disk.
    pub(crate) fn write(self: &Arc<Self>, change: Change, after: After) {
        let shared = self.clone();
        let kept = change.clone();
        self.journal.update(change, move |written| shared.written(kept, after, written));
    }

    /// The same, for what is to be on disk soon and not at once: it shares a commit with others.
    pub(crate) fn write_soon(self: &Arc<Self>, change: Change, after: After) {
        let shared = self.clone();
        let kept = change.clone();
        self.journal.update_soon(change, move |written| shared.written(kept, after, written));
    }

    pub(crate) fn written(
        self: &Arc<Self>,
        change: Change,
        mut after: After,
        written: Result<(), WriteError>,
    ) {
        match written {
            Ok(()) => self.take_effect(after),
            Err(WriteError::Refused(why)) => {
                // Nobody else writes to a job that is busy, so the file does not hold what it should.
                let (job, state) = about(&change);
                tracing::error!(%why, job, state, "the queue's file refuses an outcome; it stands in memory only");
                self.take_effect(after);
            }
            Err(WriteError::Full | WriteError::Reserve { .. } | WriteError::Busy(_)) => {
                let telling = after.telling();
                self.lock().unwritten.push_back((change, after));
                self.tell(telling);
            }
            // The client hears the truth; the next owner finds the job as it was before.
            Err(WriteError::Fenced { .. } | WriteError::Broken(_) | WriteError::Damaged(_)) => {
                self.tell(after.telling());
            }
        }
    }

    /// A client gets 202.
    pub(crate) fn count_202(&self) {
        self.answered_202.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers a client.
    pub(crate) fn tell(&self, telling: Option<Telling>) {
        let Some(telling) = telling else { return };
        // Counted before it is said: who has an answer and looks at the counters finds it there.
        self.answered_directly.fetch_add(1, Ordering::Relaxed);
        if !telling.say() {
            // It has stopped waiting.
            self.answered_directly.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn take_effect(&self, after: After) {
        let mut state = self.lock();
        let (mut telling, mut others) = (None, Vec::new());
        let sets_timer = match &after {
            After::PutOff(..) | After::Doubt { .. } | After::AskAgain { .. } => true,
            After::Settled(_) | After::Go(_) | After::Nothing => false,
        };
        match after {
            After::Settled(settled) => (telling, others) = state.settle(*settled),
            After::PutOff(carried, at) => state.book.put_off(*carried, at),
            After::Doubt { doubt, hold, probe } => {
                state.counters.unknown += 1;
                state.book.doubt(*doubt, hold, probe);
            }
            After::AskAgain { id, denials, at } => state.book.probe_later(id, denials, at),
            After::Go(call) => state.prepared.push_back(call),
            After::Nothing => {}
        }
        let is_news = sets_timer || state.has_work();
        drop(state);
        self.tell(telling);
        for other in others {
            // It may have stopped waiting.
            let _ = other.send(());
        }
        if is_news {
            self.wake.notify_one();
        }
    }
}

impl State {
    /// Ends a job; returns what its client is to be told, and who else waits for that.
    fn settle(&mut self, mut settled: Settled) -> (Option<Telling>, Vec<oneshot::Sender<()>>) {
        let (entry, counters) = (settled.entry, &mut self.counters);
        // What became of a preview is seen by whoever made it, and need be dealt with by nobody.
        let is_users = u64::from(settled.traffic.is_users());
        match settled.state {
            JobState::Done => counters.delivered += 1,
            JobState::Rejected => counters.rejected += is_users,
            JobState::Dead => counters.dead += is_users,
            JobState::Cancelled => counters.cancelled += 1,
            JobState::Dropped => counters.dropped += 1,
            JobState::Waiting | JobState::Dispatching | JobState::Unknown => {}
        }
        match &settled.saga {
            Some(Action::Complete) => counters.sagas_complete += 1,
            Some(Action::Undone(_)) => counters.sagas_undone += 1,
            Some(Action::Stuck(_)) => counters.sagas_undo_dead += 1,
            Some(Action::Call(_) | Action::Resolve(_)) | None => {}
        }
        let is_stuck = matches!(settled.saga, Some(Action::Stuck(_)));
        self.held.add(job_id(&entry), settled.state, settled.traffic.is_users(), is_stuck);
        self.book.settle(entry.id(), entry.order);
        self.book.uncount(settled.bytes);
        self.hot.remove(entry.id());
        let waiting = self.waiting.remove(&entry.id()).unwrap_or_default();
        let telling = settled.telling().or_else(|| {
            settled.client = waiting.client;
            settled.telling()
        });
        (telling, waiting.others)
    }

    /// Whether outcomes are yet to be written, for which there was no room: nothing new is begun until they are.
    pub(crate) fn is_behind(&self) -> bool {
        !self.unwritten.is_empty() || self.rewriting > 0
    }

    /// Whether there is anything to be called for now, should whom it is for allow it.
    pub(crate) fn has_work(&self) -> bool {
        !self.prepared.is_empty() || self.book.has_work()
    }

    /// A number for a call.
    pub(crate) fn call_id(&mut self) -> CallId {
        self.next_call += 1;
        CallId(self.next_call)
    }
}

/// Which job a change is about and what becomes of it, for messages: a whole change would show requests and answers.
fn about(change: &Change) -> (u64, &'static str) {
    match change {
        Change::Accept(new) => (new.id.0, new.state.name()),
        Change::Attempt { id, state, .. } | Change::Outcome { id, state, .. } => (id.0, state.name()),
        Change::Released { id, .. } => (id.0, "released"),
        Change::Replaced { id, .. } => (id.0, "replaced"),
        Change::Step { id, .. } => (id.0, "step"),
        Change::Several(changes) => changes.last().map_or((0, "nothing"), about),
        Change::Paused(_) => (0, "paused"),
        Change::Resumed(_) => (0, "resumed"),
        Change::Operation(_) => (0, "operation"),
        Change::Clock(_) => (0, "clock"),
    }
}

/// The moment that is `pause` after `now`.
pub(crate) fn later(now: Moment, pause: Duration) -> Moment {
    now.saturating_add(whole_ms(pause))
}

/// `time` in milliseconds, for sums with times on the wall.
pub(crate) fn span_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Why a write failed, for whoever submitted.
pub(crate) fn full_why(error: WriteError) -> FullWhy {
    match error {
        WriteError::Full | WriteError::Reserve { .. } => FullWhy::Disk(error.to_string()),
        WriteError::Busy(why) => FullWhy::Busy(why),
        WriteError::Refused(why) => FullWhy::Refused(why),
        WriteError::Broken(why) | WriteError::Damaged(why) => FullWhy::Broken(why),
        WriteError::Fenced { .. } => FullWhy::Fenced,
    }
}

/// The encoded form of what is shared, made once.
fn known<T>(kept: &mut Vec<(Arc<T>, Bytes)>, wanted: &Arc<T>, encode: impl FnOnce(&T) -> Bytes) -> Bytes {
    if let Some((_, bytes)) = kept.iter().find(|(known, _)| Arc::ptr_eq(known, wanted)) {
        return bytes.clone();
    }
    if kept.len() >= ENCODED_LIMIT {
        kept.clear();
    }
    let bytes = encode(wanted);
    kept.push((wanted.clone(), bytes.clone()));
    bytes
}

/// A job, for messages.
pub(crate) fn job_id(entry: &Entry) -> JobId {
    JobId(entry.id())
}

#[cfg(test)]
mod tests;
