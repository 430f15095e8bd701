//! From a job that is due to the call that is made for it.

use crate::book::{Carried, Entry, FRESH, InDoubt, PROBE, Pick, Picked, UpstreamIndex};
use crate::call::{Call, CallId, Upstream};
use crate::clock::Moment;
use crate::codec::{CodecError, StoredRequest, StoredStep};
use crate::held::is_stuck_on_disk;
use crate::job::{Fields, JobId, JobState};
use crate::pace::{Begun, Permission, pause};
use crate::saga::{Action, Place};
use crate::shared::{After, Settled, Shared, State, job_id, later};
use crate::submission::Traffic;
use bytes::Bytes;
use model::flow::Method;
use std::sync::Arc;
use std::time::Duration;
use store::journal::{AttemptRecord, Change, ReadError};

/// How long a job is left alone that could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(5);

/// A pending job with all that its delivery needs.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) entry: Entry,
    /// Bytes of its encoded request.
    pub(crate) bytes: u64,
    pub(crate) request: Arc<StoredRequest>,
    /// Attempts that have begun.
    pub(crate) attempts: u32,
    /// Those of them that use none up.
    pub(crate) excused: u32,
    /// How often it was tried in a row, what was not sent among them.
    pub(crate) tries: u32,
    /// From when its age counts, on the wall.
    pub(crate) from_ms: i64,
    /// Whether an attempt of it may have happened although it was not answered so.
    pub(crate) doubted: bool,
    /// Whether its calls are announced on disk although its own settings do not ask for that.
    pub(crate) announce: bool,
    /// What is known of the calls of its saga's present run.
    pub(crate) known: Vec<(Place, StoredStep)>,
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) job: Job,
    pub(crate) upstream: UpstreamIndex,
    pub(crate) begun: Begun,
    /// Of which step it is.
    pub(crate) place: Option<Place>,
    /// Whether it only asks.
    pub(crate) probe: bool,
    /// Whether nothing on disk says that it may have happened.
    pub(crate) unannounced: bool,
    /// When it began, on the wall.
    pub(crate) began_ms: i64,
}

impl Flight {
    /// Whether an earlier attempt of the same may have happened, or may still be under way.
    pub(crate) fn is_doubted(&self) -> bool {
        match self.place {
            Some(place) => {
                let known = self.job.known.iter().find(|(known, _)| *known == place);
                known.is_some_and(|(_, step)| step.head.doubt)
            }
            None => self.job.doubted,
        }
    }

    /// Whether an earlier attempt that is known of may have happened.
    pub(crate) fn is_repeated(&self) -> bool {
        self.is_doubted() && self.job.attempts > 1
    }

    /// How long an attempt of what it asks for may take.
    pub(crate) fn longest(&self) -> Duration {
        let request = &self.job.request;
        let steps = request.saga.as_ref().map(|saga| &saga.steps);
        let step = self.place.and_then(|place| steps?.get(usize::from(place.step)));
        step.map_or(request.settings.attempt_timeout, |step| step.timeout)
    }
}

/// What is sent, but for what every call has.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) to: Upstream,
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) fields: Fields,
    pub(crate) body: Bytes,
    pub(crate) key: String,
    pub(crate) timeout: Duration,
}

/// What a look at the book has brought.
pub(crate) enum Step {
    Call(Call),
    Again,
    Wait(Option<Moment>),
}

/// Why a job cannot be loaded.
#[derive(Debug)]
pub(crate) enum Unloadable {
    /// It is settled, or not there: nothing is left to be done.
    Gone,
    /// Its records cannot be read by this program; its request has so many bytes.
    Records(CodecError, u64),
    /// They are damaged, or not there although it is pending.
    Lost(String),
    /// Its row says that it may have happened, although it was picked to be sent.
    InDoubt(u32),
    /// The file cannot be read now.
    Disk(ReadError),
}

impl From<ReadError> for Unloadable {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged { cause, .. } => Self::Lost(cause),
            error @ ReadError::Unreadable { .. } => Self::Disk(error),
        }
    }
}

impl Shared {
    /// The next call. Cancel-safe: nothing is taken before it is returned.
    pub(crate) async fn next(self: &Arc<Self>) -> Call {
        loop {
            let woken = self.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            match self.step() {
                Step::Call(call) => return call,
                Step::Again => tokio::task::yield_now().await,
                Step::Wait(None) => woken.await,
                Step::Wait(Some(until)) => tokio::select! {
                    () = woken => {}
                    () = self.clock.sleep_until(until) => {}
                },
            }
        }
    }

    fn step(self: &Arc<Self>) -> Step {
        if self.trouble().is_some() {
            return Step::Wait(None);
        }
        let mut state = self.lock();
        if let Some(call) = state.prepared.pop_front() {
            return Step::Call(call);
        }
        if state.resting || state.is_behind() {
            return Step::Wait(None);
        }
        let picked = state.book.pick(self.clock.now());
        drop(state);
        match picked {
            Pick::Job(picked) => self.dispatch(picked),
            Pick::More => Step::Again,
            Pick::Wait(until) => Step::Wait(until),
        }
    }

    fn dispatch(self: &Arc<Self>, picked: Picked) -> Step {
        let entry = picked.entry;
        let job = match self.load(entry) {
            Ok(job) => job,
            Err(why) => return self.set_aside(entry, why),
        };
        if entry.has(PROBE) {
            self.probe(job)
        } else if job.request.saga.is_some() {
            self.saga_step(job)
        } else {
            self.plain_step(job)
        }
    }

    fn plain_step(self: &Arc<Self>, mut job: Job) -> Step {
        if self.is_too_old(&job) {
            return self.die_of_age(job);
        }
        let Some((upstream, begun)) = self.begin(&job, &Upstream::Default) else { return Step::Again };
        job.attempts += 1;
        job.announce |= self.lock().book.lines[job.entry.route()].announces;
        // Found again as it was, it is sent again: where the service honours keys that needs no word on disk.
        let unannounced = job.request.settings.idempotent && !job.announce;
        let announced = Change::Attempt {
            id: job_id(&job.entry),
            number: job.attempts,
            due_ms: self.wall_ms(),
            state: JobState::Dispatching,
            ended: None,
        };
        let message = plain_message(&job.request);
        let call = self.take_off(job, upstream, begun, None, false, message);
        if unannounced {
            return Step::Call(call);
        }
        self.write(announced, After::Go(call));
        Step::Again
    }

    /// Gives up a job that is too old to begin with.
    pub(crate) fn die_of_age(self: &Arc<Self>, job: Job) -> Step {
        let at_ms = self.wall_ms();
        let ended = AttemptRecord {
            number: job.attempts,
            began_ms: at_ms,
            ended_ms: at_ms,
            status: None,
            text: format!("given up: older than {} s", job.request.settings.max_age.as_secs()),
        };
        let (change, after) = settle(&job, JobState::Dead, at_ms, None, Some(ended));
        self.write(change, after);
        Step::Again
    }

    /// A place in the concurrency of whom the job is for. None: there is none now, and the job is given back.
    pub(crate) fn begin(&self, job: &Job, to: &Upstream) -> Option<(UpstreamIndex, Begun)> {
        let now = self.clock.now();
        let mut state = self.lock();
        let upstream = state.book.target(job.request.head.traffic, to);
        if job.entry.has(FRESH) || job.attempts == 0 {
            state.book.is_first_for(&job.entry, upstream);
        }
        let pace = &mut state.book.targets[upstream].pace;
        match pace.may_call(now) {
            Permission::Yes | Permission::Trial => Some((upstream, pace.begin(now))),
            Permission::Full | Permission::NotBefore(_) => {
                state.book.give_back(job.entry, upstream);
                None
            }
        }
    }

    /// Notes that a call is under way.
    pub(crate) fn take_off(
        &self,
        job: Job,
        upstream: UpstreamIndex,
        begun: Begun,
        place: Option<Place>,
        probe: bool,
        message: Message,
    ) -> Call {
        let began_ms = self.wall_ms();
        let mut state = self.lock();
        let plain = place.is_none() && !probe;
        let unannounced = plain && job.request.settings.idempotent && !job.announce;
        let flight = Flight { job, upstream, begun, place, probe, unannounced, began_ms };
        state.take_off(flight, message)
    }

    /// All that is known of a job.
    pub(crate) fn load(&self, entry: Entry) -> Result<Job, Unloadable> {
        let id = job_id(&entry);
        let (hot, known) = {
            let state = self.lock();
            let carried = state.book.carried(entry.id());
            let carried =
                carried.map(|c| (c.attempts, c.excused, c.tries, c.from_ms, (c.doubted, c.announce)));
            let doubt = state
                .book
                .doubtful(entry.id())
                .map(|d| (d.attempts, d.excused, 0, d.from_ms, (false, false)));
            (state.hot.get(entry.id()), carried.or(doubt))
        };
        let (request, bytes) = match hot {
            Some((request, bytes)) => (request, bytes as u64),
            None => {
                let record = self.journal.request(id)?;
                let record = record.map_or_else(|| Err(self.without_request(id)), Ok)?;
                let bytes = record.len() as u64;
                let request = StoredRequest::decode(record).map_err(|e| Unloadable::Records(e, bytes))?;
                (Arc::new(request), bytes)
            }
        };
        let (attempts, excused, tries, from_ms, (doubted, announce)) = match known {
            Some((attempts, excused, tries, Some(from_ms), flags)) => {
                (attempts, excused, tries, from_ms, flags)
            }
            None if entry.has(FRESH) && !self.calendar.is_followed() => {
                (0, 0, 0, request.head.from_ms, (false, false))
            }
            None if entry.has(FRESH) => {
                let row = self.journal.job(id)?.ok_or(Unloadable::Gone)?;
                (0, 0, 0, self.due_since(&row, &request)?, (false, false))
            }
            Some(_) | None => {
                let (attempts, from_ms) = self.recorded(entry, &request)?;
                // Which of its attempts an outage has excused is not on disk: all are, or a restart in a long outage
                // would kill the backlog. Its age still bounds it. An idempotent one may have been sent unannounced.
                (attempts, attempts, attempts, from_ms, (request.settings.idempotent, false))
            }
        };
        let known =
            if request.saga.is_some() { self.known(id, request.head.generation, bytes)? } else { Vec::new() };
        Ok(Job { entry, bytes, request, attempts, excused, tries, from_ms, doubted, announce, known })
    }

    /// A job that has no request, as a repair may leave it.
    fn without_request(&self, id: JobId) -> Unloadable {
        match self.journal.job(id) {
            Ok(Some(row)) if row.state.is_pending() => Unloadable::Lost("its request is not there".into()),
            Ok(_) => Unloadable::Gone,
            Err(error) => error.into(),
        }
    }

    /// What is known of the calls of a saga in this run.
    fn known(&self, id: JobId, generation: u32, bytes: u64) -> Result<Vec<(Place, StoredStep)>, Unloadable> {
        let mut known = Vec::new();
        for step in self.journal.steps(id)? {
            let stored = StoredStep::decode(step.record).map_err(|e| Unloadable::Records(e, bytes))?;
            if stored.head.generation == generation {
                known.push((Place { step: step.step, undo: step.undo }, stored));
            }
        }
        Ok(known)
    }

    /// What becomes of a job that cannot be loaded: others go on.
    pub(crate) fn set_aside(self: &Arc<Self>, entry: Entry, why: Unloadable) -> Step {
        match why {
            Unloadable::Gone => {
                let mut state = self.lock();
                state.book.settle(entry.id(), entry.order);
                // Whoever settled it did not count its bytes off; this is for a file that was changed by hand.
                state.book.uncount(0);
            }
            Unloadable::Disk(error) => {
                tracing::error!(job = entry.id(), %error, "a queued request cannot be read; it is tried again");
                let at = later(self.clock.now(), UNREADABLE_PAUSE);
                let mut state = self.lock();
                // What may have happened stays in doubt: put off like others, it would be sent again.
                if let Some(denials) = state.book.doubtful(entry.id()).map(|doubt| doubt.denials) {
                    state.book.probe_later(entry.id(), denials, Some(at));
                } else {
                    let carried = state.book.carried(entry.id()).cloned();
                    state.book.put_off(carried.unwrap_or_else(|| Carried::new(entry, 0)), at);
                }
            }
            Unloadable::InDoubt(attempts) => {
                tracing::error!(
                    job = entry.id(),
                    "a job that may have happened was about to be sent; it is not"
                );
                let now = self.clock.now();
                let mut state = self.lock();
                state.book.doubt(InDoubt::new(entry, attempts, now), None, Some(now));
            }
            Unloadable::Records(error, bytes) => self.cannot_be_delivered(entry, &error.to_string(), bytes),
            Unloadable::Lost(why) => {
                let row = self.journal.job(job_id(&entry)).ok().flatten();
                self.cannot_be_delivered(entry, &why, row.map_or(0, |row| row.request_bytes));
            }
        }
        Step::Again
    }

    /// A job whose records are of no use is dead; one in doubt stays that, for an operator.
    fn cannot_be_delivered(self: &Arc<Self>, entry: Entry, why: &str, bytes: u64) {
        tracing::error!(job = entry.id(), why, "a queued request cannot be delivered");
        {
            let mut state = self.lock();
            if let Some(denials) = state.book.doubtful(entry.id()).map(|doubt| doubt.denials) {
                return state.book.probe_later(entry.id(), denials, None);
            }
        }
        let at_ms = self.wall_ms();
        let text = format!("given up: {why}");
        let ended = AttemptRecord { number: 0, began_ms: at_ms, ended_ms: at_ms, status: None, text };
        let (id, state) = (job_id(&entry), JobState::Dead);
        let change = Change::Outcome { id, attempts: 0, at_ms, state, response: None, ended: Some(ended) };
        let row = self.journal.job(id).ok().flatten();
        let traffic = if row.is_some_and(|row| row.preview) { Traffic::Preview } else { Traffic::Users };
        // Which step is left is on disk.
        let saga = is_stuck_on_disk(&self.journal, id).then_some(Action::Stuck(0));
        let (attempts, answer) = (0, None);
        let settled = Settled { entry, bytes, state, attempts, at_ms, answer, client: None, saga, traffic };
        self.write(change, After::Settled(Box::new(settled)));
    }
}

impl State {
    /// Notes a call and makes it up.
    pub(crate) fn take_off(&mut self, flight: Flight, message: Message) -> Call {
        let id = self.call_id();
        let Flight { job, place, probe, .. } = &flight;
        let call = Call {
            id,
            job: job_id(&job.entry),
            route: self.book.lines[job.entry.route()].name.clone(),
            to: message.to,
            method: message.method,
            path_and_query: message.target,
            fields: message.fields,
            body: message.body,
            key: message.key,
            attempt: match place {
                Some(place) => step_attempts(job, *place),
                None => job.attempts,
            },
            timeout: message.timeout,
            user: job.request.head.user,
            doubted: flight.is_repeated(),
            unannounced: flight.unannounced,
            probe: *probe,
            saga: place.is_some(),
            undo: place.is_some_and(|place| place.undo),
        };
        self.flights.insert(id, flight);
        call
    }

    /// A pause before the next attempt of a job.
    pub(crate) fn pause(&mut self, tries: u32) -> Duration {
        let longest = self.limits.longest_pause;
        pause(tries, longest, self.dice.draw())
    }
}

fn step_attempts(job: &Job, place: Place) -> u32 {
    job.known.iter().find(|(known, _)| *known == place).map_or(1, |(_, step)| step.head.attempts)
}

/// The client's own request.
pub(crate) fn plain_message(request: &StoredRequest) -> Message {
    Message {
        to: Upstream::Default,
        method: request.head.method,
        target: request.head.target.clone(),
        fields: request.fields.clone(),
        body: request.body.clone(),
        key: request.head.key.clone(),
        timeout: request.settings.attempt_timeout,
    }
}

/// A job is settled: what is written, and what follows.
pub(crate) fn settle(
    job: &Job,
    state: JobState,
    at_ms: i64,
    answer: Option<crate::job::Answer>,
    ended: Option<AttemptRecord>,
) -> (Change, After) {
    let change = Change::Outcome {
        id: job_id(&job.entry),
        attempts: job.attempts,
        at_ms,
        state,
        response: answer.as_ref().map(crate::job::Answer::encode),
        ended,
    };
    let (entry, bytes, attempts) = (job.entry, job.bytes, job.attempts);
    let traffic = job.request.head.traffic;
    let settled = Settled { entry, bytes, state, attempts, at_ms, answer, client: None, saga: None, traffic };
    (change, After::Settled(Box::new(settled)))
}

/// A call's id, in messages.
impl std::fmt::Display for CallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
