//! What operators do to jobs. Each change is written together with a line of the audit log.

mod look;

pub(crate) use look::Verb;

use crate::book::Entry;
use crate::codec::{StoredRequest, StoredStep};
use crate::held::known_of;
use crate::job::{JobId, JobState, state_name};
use crate::operation::{Edit, Operation, OperationError, Resolution, Selection};
use crate::recover::{EVERYTHING, entry_of};
use crate::saga::{Action, CallState, Known, Place, next};
use crate::shared::Shared;
use std::sync::Arc;
use store::commit::WriteError;
use store::journal::{Change, Filter, JobRow, Pause, StepRecord};
use tokio::sync::oneshot;

/// Jobs that one transaction changes: each may take several changes.
const BATCH: usize = 100;

/// What is done to jobs.
#[derive(Debug, Clone)]
enum Deed {
    Retry,
    Edit(Edit),
    Drop,
    Resolve(Resolution),
}

impl Deed {
    fn verb(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Edit(_) => "edit",
            Self::Drop => "drop",
            Self::Resolve(Resolution::Delivered) => "resolve as delivered",
            Self::Resolve(Resolution::NotDelivered) => "resolve as not delivered",
        }
    }

    /// What has been done, and to what it can be done.
    fn terms(&self) -> (&'static str, &'static str) {
        match self {
            Self::Retry => ("retried", "dead or rejected"),
            Self::Edit(_) => ("edited", "dead or rejected"),
            Self::Drop => ("dropped", "waiting, unknown, dead or rejected"),
            Self::Resolve(_) => ("resolved", "unknown"),
        }
    }

    fn fits(&self, state: JobState) -> bool {
        use JobState as S;
        match self {
            Self::Retry | Self::Edit(_) => matches!(state, S::Dead | S::Rejected),
            Self::Drop => matches!(state, S::Waiting | S::Unknown | S::Dead | S::Rejected),
            Self::Resolve(_) => state == S::Unknown,
        }
    }

    fn states(&self) -> Vec<JobState> {
        JobState::ALL.into_iter().filter(|state| self.fits(*state)).collect()
    }
}

/// A job in hand, what is written of it, and what it is then.
struct Done {
    row: JobRow,
    changes: Vec<Change>,
    becomes: JobState,
    /// Bytes of its request, if that is another now.
    bytes: Option<u64>,
}

impl Shared {
    pub(crate) async fn retry(self: &Arc<Self>, which: Selection, by: u32) -> Result<u64, OperationError> {
        self.perform(which, Deed::Retry, by).await
    }

    pub(crate) async fn drop_jobs(
        self: &Arc<Self>,
        which: Selection,
        by: u32,
    ) -> Result<u64, OperationError> {
        self.perform(which, Deed::Drop, by).await
    }

    pub(crate) async fn edit(self: &Arc<Self>, id: JobId, edit: Edit, by: u32) -> Result<(), OperationError> {
        self.perform(Selection::Jobs(vec![id]), Deed::Edit(edit), by).await.map(drop)
    }

    pub(crate) async fn resolve(
        self: &Arc<Self>,
        id: JobId,
        resolution: Resolution,
        by: u32,
    ) -> Result<(), OperationError> {
        self.perform(Selection::Jobs(vec![id]), Deed::Resolve(resolution), by).await.map(drop)
    }

    /// Does it, batch by batch, on a thread that may block: whoever asked may go.
    async fn perform(self: &Arc<Self>, which: Selection, deed: Deed, by: u32) -> Result<u64, OperationError> {
        let shared = self.clone();
        let work = move |_: &Self| {
            let what = words(&which);
            let one = match &which {
                Selection::Jobs(ids) => <[JobId; 1]>::try_from(ids.as_slice()).ok(),
                Selection::Key(_) | Selection::Fitting(_) => None,
            };
            let mut done = 0;
            shared.each_page(&which, &deed, |rows| {
                for batch in rows.chunks(BATCH) {
                    done += shared.perform_batch(batch, &deed, &what, by).map_err(|error| match error {
                        BatchError::Write(cause) => OperationError::Write { cause, done },
                        BatchError::Other(error) => error,
                    })?;
                }
                Ok(())
            })?;
            match one {
                // It was in the right state, and could not be taken in hand.
                Some([id]) if done == 0 => Err(shared.why_not(id, &deed)?),
                Some(_) | None => Ok(done),
            }
        };
        self.read(work).await
    }

    /// Why nothing was done to a job that is in the right state.
    fn why_not(&self, id: JobId, deed: &Deed) -> Result<OperationError, OperationError> {
        let sends = matches!(deed, Deed::Retry | Deed::Edit(_));
        Ok(match sends && self.journal.request(id)?.is_none() {
            true => {
                OperationError::Malformed(format!("job {id} has no request any more: it can only be dropped"))
            }
            false => OperationError::UnderWay(id),
        })
    }

    fn perform_batch(
        self: &Arc<Self>,
        rows: &[JobRow],
        deed: &Deed,
        what: &str,
        by_uid: u32,
    ) -> Result<u64, BatchError> {
        let mut in_hand = Vec::new();
        {
            let mut state = self.lock();
            in_hand.extend(rows.iter().filter(|row| state.book.claim(row.id.0)).map(|row| row.id));
        }
        let mut all = Vec::new();
        let mut failed = None;
        for id in &in_hand {
            match self.deed(*id, deed) {
                Ok(Some(done)) => all.push(done),
                // It has changed since it was listed: it is left alone.
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        let count = all.len() as u64;
        let result = match failed {
            Some(error) => Err(BatchError::Other(error)),
            None if all.is_empty() => Ok(()),
            None => {
                let operation = self.operation(deed.verb(), what.to_owned(), count, by_uid);
                let changes = all.iter().flat_map(|done| done.changes.clone());
                let changes = changes.chain([Change::Operation(operation)]).collect();
                self.written_blocking(Change::Several(changes)).map_err(BatchError::Write)
            }
        };
        let written = result.is_ok();
        for done in all.iter().filter(|_| written) {
            self.let_go_as(&done.row, done.becomes, done.bytes);
        }
        let mut state = self.lock();
        for id in in_hand {
            let settled = written && all.iter().any(|done| done.row.id == id);
            if !settled {
                state.book.unclaim(id.0);
            }
        }
        drop(state);
        self.wake.notify_one();
        result.map(|()| count)
    }

    /// What a deed writes of one job in hand. None: it is in a state to which it cannot be done.
    fn deed(&self, id: JobId, deed: &Deed) -> Result<Option<Done>, OperationError> {
        let Some(row) = self.journal.job(id)?.filter(|row| deed.fits(row.state)) else { return Ok(None) };
        let now_ms = self.wall_ms();
        let released = |how| Change::Released { id, due_ms: now_ms, at_ms: now_ms, how };
        let done = match deed {
            Deed::Retry | Deed::Edit(_) if self.journal.request(id)?.is_none() => return Ok(None),
            Deed::Retry => {
                let (changes, bytes) = self.afresh(&row, None)?;
                let changes = changes.into_iter().chain([released("retried by an operator")]).collect();
                Done { row, changes, becomes: JobState::Waiting, bytes }
            }
            Deed::Edit(edit) => {
                let (changes, bytes) = self.afresh(&row, Some(edit))?;
                let changes = changes.into_iter().chain([released("edited by an operator")]).collect();
                Done { row, changes, becomes: JobState::Waiting, bytes }
            }
            Deed::Drop => {
                let becomes = JobState::Dropped;
                let attempts = row.attempts;
                let change = Change::Outcome {
                    id,
                    attempts,
                    at_ms: now_ms,
                    state: becomes,
                    response: None,
                    ended: None,
                };
                Done { row, changes: vec![change], becomes, bytes: None }
            }
            Deed::Resolve(resolution) => self.resolved(row, *resolution, now_ms)?,
        };
        Ok(Some(done))
    }

    /// What has to change before a dead or rejected job can be sent again.
    fn afresh(
        &self,
        row: &JobRow,
        edit: Option<&Edit>,
    ) -> Result<(Vec<Change>, Option<u64>), OperationError> {
        let steps = self.journal.steps(row.id)?;
        if steps.is_empty() && edit.is_none() {
            return Ok((Vec::new(), None));
        }
        let mut request = self.stored(row.id)?;
        let mut changes = Vec::new();
        let mut replaced = edit.is_some();
        if let Some(saga) = request.saga.clone() {
            let known = known_of(&steps, request.head.generation);
            let calls: Vec<Known> =
                known.iter().map(|(place, step)| Known { place: *place, state: step.head.state }).collect();
            match next(&saga, &calls) {
                // All is undone: it begins anew, with other keys, or each step would be answered as before.
                Action::Undone(_) | Action::Complete => {
                    request.head.generation += 1;
                    replaced = true;
                }
                Action::Call(place) | Action::Resolve(place) => {
                    changes.extend(again(row.id, place, &known, self.wall_ms()));
                }
                Action::Stuck(step) => {
                    let place = Place { step, undo: true };
                    changes.extend(again(row.id, place, &known, self.wall_ms()));
                }
            }
        }
        if let Some(edit) = edit {
            let Edit { path_and_query, fields, body } = edit.clone();
            request.head.target = path_and_query.unwrap_or(request.head.target);
            request.fields = fields.unwrap_or(request.fields);
            request.body = body.unwrap_or(request.body);
        }
        if !replaced {
            return Ok((changes, None));
        }
        // The key stays bound to what the client has sent, not to what an operator has made of it.
        let identity = self.journal.identity(row.id)?.ok_or(OperationError::NoSuchJob(row.id))?;
        let record = request.encode_alone();
        let bytes = record.len() as u64;
        changes.push(Change::Replaced { id: row.id, request: record, fingerprint: identity.fingerprint });
        Ok((changes, Some(bytes)))
    }

    /// An operator knows what became of a job, or of the step of its saga that is in doubt.
    fn resolved(&self, row: JobRow, resolution: Resolution, now_ms: i64) -> Result<Done, OperationError> {
        let id = row.id;
        let how = match resolution {
            Resolution::Delivered => "resolved by an operator: delivered",
            Resolution::NotDelivered => "resolved by an operator: not delivered",
        };
        let released = Change::Released { id, due_ms: now_ms, at_ms: now_ms, how };
        let steps = self.journal.steps(id)?;
        let request = if steps.is_empty() { None } else { Some(self.stored(id)?) };
        let saga =
            request.as_ref().and_then(|request| Some((request.saga.clone()?, request.head.generation)));
        if let Some((saga, generation)) = saga {
            let known = known_of(&steps, generation);
            let calls: Vec<Known> =
                known.iter().map(|(place, step)| Known { place: *place, state: step.head.state }).collect();
            let Action::Resolve(place) = next(&saga, &calls) else {
                return Ok(Done { row, changes: vec![released], becomes: JobState::Waiting, bytes: None });
            };
            let state = match resolution {
                Resolution::Delivered => CallState::Done,
                Resolution::NotDelivered => CallState::Again,
            };
            let step = known.into_iter().find(|(known, _)| *known == place).map(|(_, mut step)| {
                step.head.state = state;
                step.head.doubt = false;
                step.head.attempts = 0;
                step.head.excused = 0;
                step
            });
            let change = step.map(|step| step_change(id, place, &step, now_ms));
            let changes = change.into_iter().chain([released]).collect();
            return Ok(Done { row, changes, becomes: JobState::Waiting, bytes: None });
        }
        let attempts = row.attempts;
        let (change, becomes) = match resolution {
            Resolution::NotDelivered => (released, JobState::Waiting),
            Resolution::Delivered => {
                let state = JobState::Done;
                (Change::Outcome { id, attempts, at_ms: now_ms, state, response: None, ended: None }, state)
            }
        };
        Ok(Done { row, changes: vec![change], becomes, bytes: None })
    }

    /// A job that was in hand is settled.
    pub(crate) fn let_go(&self, row: &JobRow, becomes: JobState) {
        self.let_go_as(row, becomes, None);
        self.wake.notify_one();
    }

    fn let_go_as(&self, row: &JobRow, becomes: JobState, bytes: Option<u64>) {
        let mut state = self.lock();
        let id = row.id.0;
        match becomes {
            JobState::Dropped => state.counters.dropped += 1,
            JobState::Cancelled => state.counters.cancelled += 1,
            JobState::Done => state.counters.delivered += 1,
            JobState::Waiting
            | JobState::Dispatching
            | JobState::Rejected
            | JobState::Dead
            | JobState::Unknown => {}
        }
        state.hot.remove(id);
        state.held.remove(row);
        let begins = becomes == JobState::Waiting;
        if row.state.is_pending() {
            state.book.uncount(row.request_bytes);
            if begins {
                // It keeps its value: what is behind it stays there.
                let entry = entry_of(&mut state.book, row);
                state.book.begin_anew(entry);
            } else {
                state.book.remove_claimed(id, row.order.unwrap_or_default());
            }
        } else {
            state.book.release_claim(id);
            if begins {
                let entry: Entry = entry_of(&mut state.book, row);
                state.book.push(entry);
            }
        }
        if begins {
            state.book.count(bytes.unwrap_or(row.request_bytes));
            return;
        }
        let waiting = state.waiting.remove(&id).unwrap_or_default();
        drop(state);
        if let Some(client) = waiting.client {
            client.settled(becomes, self.wall_ms(), row.attempts, None).say();
        }
        for other in waiting.others {
            // It may have stopped waiting.
            let _ = other.send(());
        }
    }

    fn stored(&self, id: JobId) -> Result<StoredRequest, OperationError> {
        let record = self.journal.request(id)?.ok_or(OperationError::NoSuchJob(id))?;
        StoredRequest::decode(record).map_err(|error| OperationError::Malformed(format!("job {id}: {error}")))
    }

    /// Holds up deliveries, or lets them go on. False: so it was.
    pub(crate) async fn set_paused(
        self: &Arc<Self>,
        route: Option<&str>,
        paused: bool,
        by: u32,
    ) -> Result<bool, OperationError> {
        let route = route.filter(|route| *route != EVERYTHING);
        let _one_at_a_time = self.pausing.lock().await;
        let scope = route.unwrap_or(EVERYTHING).to_owned();
        let is_paused = self.lock().pauses.iter().any(|known| known.scope == scope);
        if is_paused == paused {
            return Ok(false);
        }
        let pause = Pause { scope: scope.clone(), since_ms: self.wall_ms() };
        let verb = if paused { "pause" } else { "resume" };
        let operation = Change::Operation(self.operation(verb, scope.clone(), 0, by));
        let change = if paused { Change::Paused(pause.clone()) } else { Change::Resumed(scope.clone()) };
        let written = self.written_down(Change::Several(vec![change, operation])).await;
        written.map_err(|cause| OperationError::Write { cause, done: 0 })?;
        let mut state = self.lock();
        match paused {
            true => state.pauses.push(pause),
            false => state.pauses.retain(|known| known.scope != scope),
        }
        match route {
            None => state.book.paused = paused,
            Some(route) => state.book.pause(route, paused),
        }
        drop(state);
        self.wake.notify_one();
        Ok(true)
    }

    pub(crate) fn operation(&self, verb: &str, what: String, count: u64, by_uid: u32) -> Operation {
        Operation { at_ms: self.clock.wall_ms(), verb: verb.to_owned(), what, count, by_uid }
    }

    /// Writes a change and returns once it is on disk.
    pub(crate) async fn written_down(&self, change: Change) -> Result<(), WriteError> {
        let (sender, written) = oneshot::channel();
        self.journal.update(change, move |result| {
            // Whoever waited may be gone.
            let _ = sender.send(result);
        });
        written.await.unwrap_or_else(|_| Err(WriteError::Broken("its writer has ended".into())))
    }

    /// As [`written_down`](Self::written_down), on a thread that may block.
    pub(crate) fn written_blocking(&self, change: Change) -> Result<(), WriteError> {
        let (sender, written) = oneshot::channel();
        self.journal.update(change, move |result| {
            let _ = sender.send(result);
        });
        written.blocking_recv().unwrap_or_else(|_| Err(WriteError::Broken("its writer has ended".into())))
    }
}

/// Why a batch was not done.
enum BatchError {
    Write(WriteError),
    Other(OperationError),
}

/// Gives a call of a saga all its attempts again.
fn again(id: JobId, place: Place, known: &[(Place, StoredStep)], at_ms: i64) -> Option<Change> {
    let (_, step) = known.iter().find(|(known, _)| *known == place)?;
    let mut step = step.clone();
    step.head.attempts = 0;
    step.head.excused = 0;
    if step.head.state == CallState::Refused {
        step.head.state = CallState::Again;
    }
    Some(step_change(id, place, &step, at_ms))
}

fn step_change(id: JobId, place: Place, step: &StoredStep, at_ms: i64) -> Change {
    let record = step.encode();
    Change::Step { id, step: StepRecord { step: place.step, undo: place.undo, at_ms, record } }
}

/// A selection as the audit log has it.
fn words(which: &Selection) -> String {
    match which {
        Selection::Jobs(ids) => {
            let shown: Vec<String> = ids.iter().take(20).map(|id| id.to_string()).collect();
            let more = if ids.len() > 20 { " and more" } else { "" };
            format!("jobs {}{more}", shown.join(", "))
        }
        // The key itself is the client's secret, and the log is kept for long.
        Selection::Key(key) => format!("key with hash {:016x}", crate::fingerprint::key_alone(key)),
        Selection::Fitting(Filter { states, route, order, created_from_ms, created_before_ms }) => {
            let mut words: Vec<String> = states.iter().map(|state| state_name(*state).to_owned()).collect();
            words.extend(route.iter().map(|route| format!("route {route}")));
            words.extend(order.iter().map(|order| format!("order {order:016x}")));
            words.extend(created_from_ms.iter().map(|from| format!("from {from}")));
            words.extend(created_before_ms.iter().map(|before| format!("before {before}")));
            if words.is_empty() { "all".into() } else { words.join(", ") }
        }
    }
}
