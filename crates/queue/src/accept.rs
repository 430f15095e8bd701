//! From a request to a job on disk, or to what a repeated request gets.

mod repeated;

use crate::book::{Entry, FRESH};
use crate::call::CallId;
use crate::clock::{Moment, whole_ms};
use crate::codec::{Head, StoredRequest};
use crate::draw::draw;
use crate::fingerprint;
use crate::first::{FirstCall, Outcome};
use crate::hex::hex;
use crate::job::{JobId, JobName, JobState, JobView, Tag};
use crate::keys::KeyHash;
use crate::pace::Begun;
use crate::shared::{Client, Reserved, Shared, State, full_why, later, span_ms};
use crate::submission::{ANSWER_TIME, Full, FullWhy, Submission, Submitted, Waited};
use crate::ticket::Ticket;
use crate::values::Values;
use bytes::Bytes;
use model::queue::Saga;
use std::sync::Arc;
use std::time::Duration;
use store::commit::WriteError;
use store::journal::{Identity, NewJob, ReadError};
use tokio::sync::oneshot;

/// When asking again may help where a limit is reached: a backlog drains in seconds or minutes, not at once.
const FULL_RETRY: Duration = Duration::from_secs(5);
/// The same where the disk or the file is the reason: somebody has to see to it.
const TROUBLE_RETRY: Duration = Duration::from_secs(30);

/// A request that is made ready to be written.
pub(crate) struct Arrival {
    pub(crate) request: Arc<StoredRequest>,
    route: Arc<str>,
    pub(crate) record: Bytes,
    identity: Identity,
    pub(crate) key: Option<KeyHash>,
    order: u64,
    tag: Tag,
    pub(crate) delay: Duration,
    patience: Duration,
    pub(crate) carries: bool,
}

/// What is known once the book was asked.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
enum Place {
    /// A request with this key is being written: its turn comes first.
    Behind(oneshot::Receiver<()>),
    /// This job has the key.
    Taken(JobId),
    /// Nothing more is accepted.
    Full(Full),
    /// It has a place, and its call may be one that is made at once.
    Reserved(Box<NewJob>, Arrived, Option<FirstCall>),
}

/// A job that is being written.
struct Arrived {
    entry: Entry,
    bytes: u64,
    key: Option<KeyHash>,
    request: Arc<StoredRequest>,
    view: JobView,
    /// Its call can be made as soon as it is on disk.
    begun: Option<(usize, Begun)>,
    /// Its call that is made meanwhile.
    early: Option<CallId>,
    /// Whoever submitted it makes that call.
    carried: bool,
    delay: Duration,
    /// Whether its client waits for more than to hear that it is on disk.
    waits: bool,
    /// Until then whoever submitted it waits for its answer and not for this to be known.
    told_from: Option<Moment>,
}

/// What a job's taking its place has brought.
struct Entered {
    /// Its first call, for whoever submitted it.
    first: Option<First>,
    /// Whether somebody has to look for what goes next.
    is_news: bool,
}

/// A first call, for whoever submitted its job.
#[derive(Debug)]
pub(crate) enum First {
    /// It is theirs to make.
    Call(FirstCall),
    /// They have made it, and this came of it.
    Outcome(Outcome),
}

/// What whoever submitted a job hears first.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It is on disk.
    Accepted(Option<First>),
    /// It is not, or that is not known.
    Not(Submitted),
}

impl Shared {
    /// Accepts a request, or says what it gets instead.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        submission: Submission,
        begun: impl FnOnce(JobId, Option<FirstCall>),
    ) -> Submitted {
        if let Some(Err(why)) = submission.saga.as_deref().map(|saga| self.check(&submission, saga)) {
            return Submitted::Invalid(why);
        }
        let arrival = match self.arrival(submission) {
            Ok(arrival) => arrival,
            Err(full) => return Submitted::Full(full),
        };
        let mut stale = None;
        loop {
            match self.reserve(&arrival, stale) {
                Place::Behind(first) => {
                    // Whether it was written or not, the book knows now.
                    let _ = first.await;
                }
                Place::Full(full) => {
                    self.lock().counters.refused += 1;
                    return Submitted::Full(full);
                }
                Place::Taken(id) => match self.repeated(id, &arrival).await {
                    Ok(Some(repeated)) => {
                        let told = matches!(repeated, Submitted::Repeated(_) | Submitted::Replay(..));
                        self.lock().counters.repeated += u64::from(told);
                        return repeated;
                    }
                    Ok(None) => stale = Some(id),
                    Err(error) => return Submitted::Full(unreadable(&error)),
                },
                Place::Reserved(new, arrived, early) => {
                    return self.accept(new, arrived, early, begun).await;
                }
            }
        }
    }

    /// Whether all that a saga wants of the request is there.
    fn check(&self, submission: &Submission, saga: &Saga) -> Result<(), String> {
        let values = Values::new(&self.paths, &submission.body, "");
        let calls = saga.steps.iter().flat_map(|step| std::iter::once(&step.call).chain(&step.undo));
        for call in calls {
            let json = call.json.as_ref().map_or(Ok(()), |json| values.check_json(json));
            values.check_path(&call.path).and(json).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn arrival(&self, submission: Submission) -> Result<Arrival, Full> {
        let identity = Identity {
            fingerprint: fingerprint::fingerprint(&submission),
            credentials: fingerprint::credentials(&submission.credentials),
        };
        let key = submission.key.as_deref();
        let key = key.map(|key| {
            fingerprint::key(submission.traffic, &submission.route, submission.principal.as_deref(), key)
        });
        let order = submission.settings.order_by.as_ref().map_or(0, |path| {
            let value = self.paths.order_value(path, &submission.body);
            if value.is_none() {
                self.lock().counters.unordered += 1;
            }
            value.map_or(0, |value| fingerprint::order(submission.traffic, &submission.route, &value))
        });
        let tag = Tag(draw().map_err(no_random_numbers)?);
        let sent_key = match submission.key {
            Some(given) => given,
            None => hex(&draw().map_err(no_random_numbers)?),
        };
        // A client's key is that of a request, and of its principal and route: calls of other jobs may not have theirs.
        let draws = submission.saga.is_some() && key.is_some();
        let seed = draws.then(draw).transpose().map_err(no_random_numbers)?.map(|seed| hex(&seed));
        let (patience, carries) = (submission.patience, submission.carries);
        let delay = submission.deliver_after.unwrap_or_default();
        let head = Head {
            method: submission.method,
            target: submission.path_and_query,
            given: key.is_some(),
            key: sent_key,
            user: submission.user,
            from_ms: self.wall_ms().saturating_add(span_ms(delay)),
            seed,
            generation: 0,
            traffic: submission.traffic,
        };
        let (settings, saga) = self.encoded(&submission.settings, submission.saga.as_ref());
        let request = StoredRequest {
            head,
            settings: submission.settings,
            saga: submission.saga,
            fields: submission.fields,
            body: submission.body,
        };
        let record = request.encode(&settings, &saga);
        let request = Arc::new(request);
        Ok(Arrival {
            request,
            route: submission.route,
            record,
            identity,
            key,
            order,
            tag,
            delay,
            patience,
            carries,
        })
    }

    /// Finds a place for an arrival. `stale` is a job whose key it may take over.
    fn reserve(self: &Arc<Self>, arrival: &Arrival, stale: Option<JobId>) -> Place {
        if let Some(trouble) = self.trouble() {
            return Place::Full(Full { why: full_why(trouble), retry_after: TROUBLE_RETRY });
        }
        // By the same clock as when it is due: one that jumps for a moment makes no job older.
        let created_ms = self.wall_ms();
        let now = self.clock.now();
        let mut state = self.lock();
        if let Some(key) = arrival.key {
            if let Some(reserved) = state.reserved.get_mut(&key) {
                let (sender, first) = oneshot::channel();
                reserved.others.push(sender);
                return Place::Behind(first);
            }
            if let Some(id) = state.keys.get(key).filter(|id| Some(*id) != stale) {
                return Place::Taken(id);
            }
        }
        if let Some(why) = state.is_full(arrival.record.len() as u64) {
            return Place::Full(Full { why, retry_after: FULL_RETRY });
        }
        if let Some(key) = arrival.key {
            state.reserved.insert(key, Reserved::default());
        }
        let id = state.next_id;
        state.next_id += 1;
        let bytes = arrival.record.len() as u64;
        let route = state.book.line(arrival.request.head.traffic, &arrival.route);
        let entry = Entry::new(id, route, arrival.order).with(FRESH);
        state.book.count(bytes);
        let mut begun = state.begin_at_once(&entry, arrival, now);
        let at_once = begun.is_some();
        let carried = arrival.carries && at_once;
        let early = state.early_call(entry, arrival, &mut begun, created_ms);
        drop(state);

        let name = JobName { id: JobId(id), tag: arrival.tag };
        let due_ms = arrival.request.head.from_ms;
        let state = if at_once { JobState::Dispatching } else { JobState::Waiting };
        let attempts = u32::from(at_once);
        let route = arrival.route.clone();
        let view = JobView { name, state, route, created_ms, due_ms, finished_ms: None, attempts };
        let new = NewJob {
            id: JobId(id),
            tag: arrival.tag.0,
            created_ms,
            due_ms,
            route: arrival.route.clone(),
            order: (arrival.order != 0).then_some(arrival.order),
            key: arrival.key.map(KeyHash::to_bytes),
            fingerprint: arrival.identity.fingerprint,
            credentials: arrival.identity.credentials,
            user: arrival.request.head.user,
            state,
            // The machine of a saga knows of each step what may be sent again.
            idempotent: arrival.request.settings.idempotent || arrival.request.saga.is_some(),
            preview: !arrival.request.head.traffic.is_users(),
            request: arrival.record.clone(),
        };
        let (key, request, delay) = (arrival.key, arrival.request.clone(), arrival.delay);
        let told_from = (arrival.patience > ANSWER_TIME && !carried).then(|| later(now, ANSWER_TIME));
        let waits = !arrival.patience.is_zero();
        let early_id = early.as_ref().map(|call| call.id);
        let early = early.map(|call| FirstCall::new(self.clone(), call));
        let arrived = Arrived {
            entry,
            bytes,
            key,
            request,
            view,
            begun,
            early: early_id,
            carried,
            delay,
            waits,
            told_from,
        };
        Place::Reserved(Box::new(new), arrived, early)
    }

    async fn accept(
        self: &Arc<Self>,
        new: Box<NewJob>,
        arrived: Arrived,
        early: Option<FirstCall>,
        begun: impl FnOnce(JobId, Option<FirstCall>),
    ) -> Submitted {
        let id = new.id;
        let (heard, mut hears) = oneshot::channel();
        let (answer, answered) = arrived.waits.then(oneshot::channel).unzip();
        let (view, told_from) = (arrived.view.clone(), arrived.told_from);
        let shared = self.clone();
        self.journal.accept(*new, move |written| shared.written_or_not(arrived, (heard, answer), written));
        // The call after the write, so that the disk is at work first; and not at all where that was refused at once.
        let at_once = hears.try_recv().ok();
        let early = match (early, &at_once) {
            (Some(early), Some(Heard::Not(_))) => {
                early.forget();
                None
            }
            (early, _) => early,
        };
        let is_early = early.is_some();
        begun(id, early);
        let first = match (at_once, told_from) {
            (Some(heard), _) => Ok(heard),
            // Borrowed in both: a call that comes with it is dropped after it is known that its client is gone.
            (None, None) => (&mut hears).await,
            (None, Some(from)) => tokio::select! {
                biased;
                first = &mut hears => first,
                () = self.clock.sleep_until(from) => {
                    self.tell_accepted(view.name.id);
                    (&mut hears).await
                }
            },
        };
        match first {
            Ok(Heard::Accepted(first)) => {
                let first = match first {
                    Some(First::Call(call)) => Some(call),
                    // It takes effect here.
                    Some(First::Outcome(outcome)) => {
                        drop(outcome);
                        None
                    }
                    None => None,
                };
                Submitted::New(Ticket::new(self.clone(), view, answered, first))
            }
            Ok(Heard::Not(Submitted::Full(full))) if is_early => Submitted::Unwritten(full.why),
            Ok(Heard::Not(submitted)) => submitted,
            Err(_) => Submitted::Uncertain("its writer has ended".into()),
        }
    }

    /// The job is on disk, or is not: its place if it is, and then what its client hears. Called on the journal's thread.
    fn written_or_not(
        self: &Arc<Self>,
        arrived: Arrived,
        (heard, answer): (oneshot::Sender<Heard>, Option<oneshot::Sender<Waited>>),
        written: Result<(), WriteError>,
    ) {
        let mut state = self.lock();
        let reserved = arrived.key.and_then(|key| state.reserved.remove(&key)).unwrap_or_default();
        let (hears, refused, entered) = match written {
            Ok(()) => {
                let hears = self.await_answer(&mut state, &arrived, heard, answer);
                // Before anybody hears of it: what its client sends next comes after it.
                (hears, None, self.enter(&mut state, arrived))
            }
            Err(error) => {
                state.counters.refused += 1;
                state.disk_refuses = true;
                state.book.uncount(arrived.bytes);
                if let Some((upstream, begun)) = arrived.begun {
                    state.never_was(&arrived.entry, upstream, begun, self.clock.now());
                }
                if let Some(call) = arrived.early {
                    state.early_is_not_written(call, self.clock.now());
                }
                // What it took up is free for others.
                (Some(heard), Some(not_accepted(error)), Entered { first: None, is_news: true })
            }
        };
        drop(state);
        for other in reserved.others {
            // It may have stopped waiting.
            let _ = other.send(());
        }
        if let Some(heard) = hears {
            // Whoever submitted may be gone; the job is not.
            let _ = heard.send(refused.map_or_else(|| Heard::Accepted(entered.first), Heard::Not));
        }
        if entered.is_news {
            self.wake.notify_one();
        }
    }

    /// The key is bound, and the client waits, if it does. Gives back whom to tell at once that it was accepted.
    fn await_answer(
        &self,
        state: &mut State,
        arrived: &Arrived,
        heard: oneshot::Sender<Heard>,
        answer: Option<oneshot::Sender<Waited>>,
    ) -> Option<oneshot::Sender<Heard>> {
        let Arrived { entry, key, view, told_from, .. } = arrived;
        state.counters.accepted += 1;
        state.disk_refuses = false;
        if let Some(key) = key {
            state.keys.insert(*key, view.name.id, view.created_ms);
        }
        let Some(answer) = answer else { return Some(heard) };
        // By the clock as it is under the lock: whoever looks after that time finds it here, or has been told.
        let (later, now) = match told_from {
            Some(from) if self.clock.now() < *from => (Some(heard), None),
            Some(_) | None => (None, Some(heard)),
        };
        let client = Client { answer, accepted: later, view: view.clone() };
        state.waiting.entry(entry.id()).or_default().client = Some(client);
        now
    }

    /// Says now that a job was accepted, if it is and that was not said yet.
    fn tell_accepted(&self, id: JobId) {
        let mut state = self.lock();
        let client = state.waiting.get_mut(&id.0).and_then(|waiting| waiting.client.as_mut());
        let accepted = client.and_then(|client| client.accepted.take());
        drop(state);
        if let Some(accepted) = accepted {
            // It waits for this.
            let _ = accepted.send(Heard::Accepted(None));
        }
    }

    /// The job takes its place.
    fn enter(self: &Arc<Self>, state: &mut State, mut arrived: Arrived) -> Entered {
        if let Some(call) = arrived.early {
            let ended = state.early_is_written(call);
            let first = ended.map(|ended| First::Outcome(Outcome::new(self.clone(), call, ended)));
            return Entered { first, is_news: false };
        }
        if let Some(begun) = arrived.begun.take() {
            let request = (&arrived.request, arrived.bytes);
            let call = state.first_call(arrived.entry, request, begun, false, self.wall_ms());
            if arrived.carried {
                let first = Some(First::Call(FirstCall::new(self.clone(), call)));
                return Entered { first, is_news: false };
            }
            state.prepared.push_back(call);
            return Entered { first: None, is_news: true };
        }
        let (entry, now) = (arrived.entry, self.clock.now());
        state.hot.keep(entry.id(), &arrived.request, arrived.bytes as usize);
        let is_news = match whole_ms(arrived.delay) {
            0 => state.book.arrive(entry, now),
            delay => {
                state.book.schedule(entry, now.saturating_add(delay));
                true
            }
        };
        Entered { first: None, is_news }
    }
}

impl State {
    /// Why a request of this size is not accepted.
    pub(crate) fn is_full(&self, bytes: u64) -> Option<FullWhy> {
        if self.book.depth >= self.limits.jobs {
            return Some(FullWhy::Jobs { jobs: self.limits.jobs });
        }
        if self.book.bytes.saturating_add(bytes) > self.limits.bytes {
            return Some(FullWhy::Bytes { bytes: self.book.bytes, limit: self.limits.bytes });
        }
        None
    }
}

fn not_accepted(error: WriteError) -> Submitted {
    match error {
        // Its commit may be in the log although it was not synced, and hold at the next start.
        WriteError::Broken(why) | WriteError::Damaged(why) => Submitted::Uncertain(why),
        WriteError::Busy(_) => Submitted::Full(Full { why: full_why(error), retry_after: FULL_RETRY }),
        WriteError::Full
        | WriteError::Reserve { .. }
        | WriteError::Fenced { .. }
        | WriteError::Refused(_) => {
            Submitted::Full(Full { why: full_why(error), retry_after: TROUBLE_RETRY })
        }
    }
}

fn no_random_numbers(error: getrandom::Error) -> Full {
    Full { why: FullWhy::Refused(format!("no random numbers: {error}")), retry_after: TROUBLE_RETRY }
}

fn unreadable(error: &ReadError) -> Full {
    Full { why: FullWhy::Refused(error.to_string()), retry_after: TROUBLE_RETRY }
}
