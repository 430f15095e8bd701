//! From a request to a job on disk, or to what a repeated request gets.

use crate::book::{Entry, FRESH};
use crate::call::{Call, FirstCall, Upstream};
use crate::clock::{Moment, whole_ms};
use crate::codec::{Head, StoredRequest};
use crate::deliver::{Flight, Job, plain_message};
use crate::draw::draw;
use crate::fingerprint;
use crate::hex::hex;
use crate::job::{Answer, JobId, JobName, JobState, JobView, Tag};
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
struct Arrival {
    request: Arc<StoredRequest>,
    route: Arc<str>,
    record: Bytes,
    identity: Identity,
    key: Option<KeyHash>,
    order: u64,
    tag: Tag,
    delay: Duration,
    patience: Duration,
    carries: bool,
}

/// What is known once the book was asked.
enum Place {
    /// A request with this key is being written: its turn comes first.
    Behind(oneshot::Receiver<()>),
    /// This job has the key.
    Taken(JobId),
    /// Nothing more is accepted.
    Full(Full),
    /// It has a place.
    Reserved(Box<NewJob>, Arrived),
}

/// A job that is being written.
struct Arrived {
    entry: Entry,
    bytes: u64,
    key: Option<KeyHash>,
    request: Arc<StoredRequest>,
    view: JobView,
    /// Its call can be made at once.
    begun: Option<(usize, Begun)>,
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
    call: Option<Call>,
    /// Whether somebody has to look for what goes next.
    is_news: bool,
}

/// What whoever submitted a job hears first.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It is on disk, and this call is theirs to make.
    Accepted(Option<FirstCall>),
    /// It is not, or that is not known.
    Not(Submitted),
}

impl Shared {
    /// Accepts a request, or says what it gets instead.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        submission: Submission,
        numbered: impl FnOnce(JobId),
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
                Place::Reserved(new, arrived) => {
                    numbered(new.id);
                    return self.accept(new, arrived).await;
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
        let key = key.map(|key| fingerprint::key(&submission.route, submission.principal.as_deref(), key));
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
        let (patience, carries) = (submission.patience, submission.carries);
        let delay = submission.deliver_after.unwrap_or_default();
        let head = Head {
            method: submission.method,
            target: submission.path_and_query,
            given: key.is_some(),
            key: sent_key,
            user: submission.user,
            from_ms: self.wall_ms().saturating_add(span_ms(delay)),
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
    fn reserve(&self, arrival: &Arrival, stale: Option<JobId>) -> Place {
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
        let begun = state.begin_at_once(&entry, arrival, now);
        drop(state);

        let name = JobName { id: JobId(id), tag: arrival.tag };
        let due_ms = arrival.request.head.from_ms;
        let state = if begun.is_some() { JobState::Dispatching } else { JobState::Waiting };
        let attempts = u32::from(begun.is_some());
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
            request: arrival.record.clone(),
        };
        let (key, request, delay) = (arrival.key, arrival.request.clone(), arrival.delay);
        let carried = arrival.carries && begun.is_some();
        let told_from = (arrival.patience > ANSWER_TIME && !carried).then(|| later(now, ANSWER_TIME));
        let waits = !arrival.patience.is_zero();
        let arrived = Arrived { entry, bytes, key, request, view, begun, carried, delay, waits, told_from };
        Place::Reserved(Box::new(new), arrived)
    }

    async fn accept(self: &Arc<Self>, new: Box<NewJob>, arrived: Arrived) -> Submitted {
        let (heard, mut hears) = oneshot::channel();
        let (answer, answered) = arrived.waits.then(oneshot::channel).unzip();
        let (view, told_from) = (arrived.view.clone(), arrived.told_from);
        let shared = self.clone();
        self.journal.accept(*new, move |written| shared.written_or_not(arrived, (heard, answer), written));
        let first = match told_from {
            // Borrowed in both: a call that comes with it is dropped after it is known that its client is gone.
            None => (&mut hears).await,
            Some(from) => tokio::select! {
                biased;
                first = &mut hears => first,
                () = self.clock.sleep_until(from) => {
                    self.tell_accepted(view.name.id);
                    (&mut hears).await
                }
            },
        };
        match first {
            Ok(Heard::Accepted(first)) => Submitted::New(Ticket::new(self.clone(), view, answered, first)),
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
                state.book.uncount(arrived.bytes);
                if let Some((upstream, begun)) = arrived.begun {
                    state.book.settle(arrived.entry.id(), arrived.entry.order);
                    state.book.targets[upstream].pace.undo(begun, self.clock.now());
                }
                // What it took up is free for others.
                (Some(heard), Some(not_accepted(error)), Entered { call: None, is_news: true })
            }
        };
        drop(state);
        let first = entered.call.map(|call| FirstCall::new(self.clone(), call));
        for other in reserved.others {
            // It may have stopped waiting.
            let _ = other.send(());
        }
        if let Some(heard) = hears {
            // Whoever submitted may be gone; the job is not.
            let _ = heard.send(refused.map_or_else(|| Heard::Accepted(first), Heard::Not));
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
    fn enter(&self, state: &mut State, mut arrived: Arrived) -> Entered {
        if let Some(begun) = arrived.begun.take() {
            let call = self.first_call(state, &arrived, begun);
            if arrived.carried {
                return Entered { call: Some(call), is_news: false };
            }
            state.prepared.push_back(call);
            return Entered { call: None, is_news: true };
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
        Entered { call: None, is_news }
    }

    fn first_call(&self, state: &mut State, arrived: &Arrived, (upstream, begun): (usize, Begun)) -> Call {
        let (entry, bytes, request) = (arrived.entry, arrived.bytes, arrived.request.clone());
        let message = plain_message(&request);
        state.hot.keep(entry.id(), &request, bytes as usize);
        let from_ms = request.head.from_ms;
        let job = Job {
            entry,
            bytes,
            request,
            attempts: 1,
            excused: 0,
            tries: 0,
            from_ms,
            doubted: false,
            known: Vec::new(),
        };
        let began_ms = self.wall_ms();
        state.take_off(Flight { job, upstream, begun, place: None, probe: false, began_ms }, message)
    }

    /// What a request gets whose key is that of `id`. None: the key is free again.
    async fn repeated(
        self: &Arc<Self>,
        id: JobId,
        arrival: &Arrival,
    ) -> Result<Option<Submitted>, ReadError> {
        let found = self.read(move |shared| shared.journal.identity(id)).await?;
        let Some(identity) = found else {
            // Forgotten: it was kept as long as it had to be.
            return Ok(None);
        };
        if identity.credentials != arrival.identity.credentials && arrival.is_of_everybody() {
            return Ok(Some(Submitted::OtherCredentials));
        }
        if identity.fingerprint != arrival.identity.fingerprint {
            return Ok(Some(Submitted::Mismatch));
        }
        let mut found = self.read(move |shared| shared.look(id)).await?;
        if matches!(&found, Some((view, _)) if view.state == JobState::Dispatching) {
            // It may have been answered, and its outcome may be on its way to the disk.
            self.settled().await;
            found = self.read(move |shared| shared.look(id)).await?;
        }
        let Some((view, answer)) = found else { return Ok(None) };
        if !view.is_settled() {
            return Ok(Some(Submitted::Repeated(view)));
        }
        // Credentials that were not good bind nothing: with better ones the same request is worth another try.
        let refused = |answer: &Answer| matches!(answer.status, 401 | 403);
        if view.state == JobState::Done && answer.as_ref().is_some_and(refused) {
            return Ok(None);
        }
        Ok(Some(Submitted::Replay(view, answer)))
    }
}

impl Arrival {
    /// Whether its key is the route's, because the route names no principal.
    fn is_of_everybody(&self) -> bool {
        self.request.settings.principal.is_none()
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

    /// Begins the call of a job that can be called for at once, before it is even written: it is sent after that.
    fn begin_at_once(&mut self, entry: &Entry, arrival: &Arrival, now: u64) -> Option<(usize, Begun)> {
        let first = arrival.request.saga.as_ref().and_then(|saga| saga.steps.first());
        let upstream = first.map_or(Upstream::Default, |step| Upstream::Component(step.call.to.clone()));
        let target = self.book.target(arrival.request.head.traffic, &upstream);
        self.book.is_first_for(entry, target);
        if first.is_some() || !arrival.delay.is_zero() || self.resting || self.is_behind() {
            return None;
        }
        let at_once = self.book.go_at_once(entry, target, now);
        at_once.then(|| (target, self.book.targets[target].pace.begin(now)))
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
