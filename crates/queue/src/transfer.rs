//! Jobs as lines of JSON: what leaves one queue and enters another.

use crate::codec::{CodecError, Head, StoredRequest};
use crate::draw::draw;
use crate::held::is_stuck;
use crate::hex::{hex, unhex};
use crate::job::{Fields, JobId, JobState, state_name, state_named};
use crate::keys::KeyHash;
use crate::operation::{Imported, OperationError};
use crate::recover::entry_of;
use crate::shared::Shared;
use crate::submission::Traffic;
use bytes::Bytes;
use model::queue::{QueuedRoute, Saga};
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use store::journal::{Change, Filter, JobRow, NewJob, ReadError, StepRecord};

/// The version of an exported line.
const VERSION: u32 = 1;
/// Jobs that one transaction of an import accepts. Each may have as many steps as a saga, twice.
const BATCH: usize = 10;

/// Bytes: as text where they are text, otherwise in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Hex { hex: String },
}

/// A job, as it is exported.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    version: u32,
    id: u64,
    state: String,
    route: String,
    created_ms: i64,
    due_ms: i64,
    #[serde(default)]
    order: Option<u64>,
    /// Hash of the route, the principal and the key.
    #[serde(default)]
    key_hash: Option<String>,
    fingerprint: String,
    credentials: String,
    idempotent: bool,
    head: Head,
    settings: QueuedRoute,
    #[serde(default)]
    saga: Option<Saga>,
    fields: Vec<(Text, Text)>,
    body: Text,
    #[serde(default)]
    steps: Vec<StepLine>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StepLine {
    step: u16,
    undo: bool,
    at_ms: i64,
    hex: String,
}

impl Shared {
    pub(crate) fn export(
        &self,
        filter: &Filter,
        after: JobId,
        limit: u32,
    ) -> Result<(Vec<String>, Option<JobId>), OperationError> {
        let mut filter = filter.clone();
        // What is done stays where it was done.
        let kept = |state: &JobState| {
            matches!(
                state,
                JobState::Waiting
                    | JobState::Dispatching
                    | JobState::Unknown
                    | JobState::Dead
                    | JobState::Rejected
            )
        };
        let wanted: Vec<JobState> = match filter.states.is_empty() {
            true => JobState::ALL.into_iter().filter(kept).collect(),
            false => filter.states.into_iter().filter(kept).collect(),
        };
        if wanted.is_empty() {
            return Ok((Vec::new(), None));
        }
        filter.states = wanted;
        let rows = self.journal.list(&filter, after, limit)?;
        let last = rows.last().map(|row| row.id);
        let lines = rows.iter().map(|row| self.line(row)).collect::<Result<Vec<_>, _>>()?;
        Ok((lines.into_iter().flatten().collect(), last))
    }

    /// None: it was settled or forgotten since it was listed.
    fn line(&self, row: &JobRow) -> Result<Option<String>, OperationError> {
        let (Some(record), Some(identity)) = (self.journal.request(row.id)?, self.journal.identity(row.id)?)
        else {
            return Ok(None);
        };
        let malformed = |error: CodecError| {
            OperationError::Malformed(format!("job {} cannot be exported: {error}", row.id))
        };
        let request = StoredRequest::decode(record).map_err(malformed)?;
        let steps = self.journal.steps(row.id)?.into_iter().map(|step| StepLine {
            step: step.step,
            undo: step.undo,
            at_ms: step.at_ms,
            hex: hex(&step.record),
        });
        let line = Line {
            version: VERSION,
            id: row.id.0,
            state: state_name(row.state).to_owned(),
            route: row.route.to_string(),
            created_ms: row.created_ms,
            due_ms: row.due_ms,
            order: row.order,
            key_hash: row.key.map(|key| hex(&key)),
            fingerprint: hex(&identity.fingerprint),
            credentials: hex(&identity.credentials),
            idempotent: row.idempotent,
            head: request.head,
            settings: (*request.settings).clone(),
            saga: request.saga.as_deref().cloned(),
            fields: request.fields.iter().map(|(name, value)| (text(name), text(value))).collect(),
            body: text(&request.body),
            steps: steps.collect(),
        };
        let line = serde_json::to_string(&line);
        line.map(Some).map_err(|error| OperationError::Malformed(format!("job {}: {error}", row.id)))
    }

    /// Accepts exported jobs. Blocks.
    pub(crate) fn import(self: &Arc<Self>, lines: &[String], by: u32) -> Result<Imported, OperationError> {
        let read = |(place, line): (usize, &String)| {
            Arrival::read(line).map_err(|why| OperationError::Malformed(format!("line {}: {why}", place + 1)))
        };
        let arrivals = lines.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut imported = Imported::default();
        let mut new = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            match self.is_here(&arrival)? {
                true => imported.known += 1,
                false => new.push(arrival),
            }
        }
        for batch in new.chunks(BATCH) {
            self.import_batch(batch, by, &mut imported)?;
        }
        self.wake.notify_one();
        Ok(imported)
    }

    /// Whether what was exported is a job of this queue, of a client that gave no key by which it is known, and not one
    /// that was given up since.
    fn is_here(&self, arrival: &Arrival) -> Result<bool, OperationError> {
        let Some((id, drawn)) = &arrival.drawn_key else { return Ok(false) };
        let read = || {
            let row = self.journal.job(*id)?.filter(|row| row.state != JobState::Dropped);
            row.map_or(Ok(None), |row| self.journal.request(row.id))
        };
        let record = match read() {
            Ok(record) => record,
            // Then it is not the same; that it is damaged is told to whoever asks for it.
            Err(ReadError::Damaged { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let request = record.and_then(|record| StoredRequest::decode(record).ok());
        Ok(request.is_some_and(|request| !request.head.given && request.head.key == *drawn))
    }

    fn import_batch(
        &self,
        batch: &[Arrival],
        by: u32,
        imported: &mut Imported,
    ) -> Result<(), OperationError> {
        let (new, reserved) = self.take_places(batch, imported)?;
        if new.is_empty() {
            return Ok(());
        }
        let count = new.len() as u64;
        let mut changes = Vec::new();
        for (job, arrival) in &new {
            changes.push(Change::Accept(Box::new(job.clone())));
            changes.extend(arrival.steps.iter().cloned().map(|step| Change::Step { id: job.id, step }));
            if job.state == JobState::Waiting {
                // Its age begins anew: what was kept in a file for long is not dead for that.
                let (id, due_ms, at_ms) = (job.id, job.due_ms, self.wall_ms());
                changes.push(Change::Released { id, due_ms, at_ms, how: "imported" });
            }
        }
        changes.push(Change::Operation(self.operation("import", format!("{count} jobs"), count, by)));
        {
            // Sooner than somebody can find them on disk and deal with them.
            let mut state = self.lock();
            for (job, arrival) in &new {
                state.held.add(job.id, job.state, !job.preview, arrival.is_stuck);
            }
        }
        let written = self.written_blocking(Change::Several(changes));
        let hold = |job: &NewJob| self.unknown_hold(&row_of(job));
        let unknown = new.iter().filter(|(job, _)| job.state == JobState::Unknown);
        let mut holds: VecDeque<Duration> = unknown.map(|(job, _)| hold(job)).collect();
        let mut state = self.lock();
        let told: Vec<_> = reserved.iter().filter_map(|key| state.reserved.remove(key)).collect();
        for (job, _) in &new {
            let entry = entry_of(&mut state.book, &row_of(job));
            if written.is_err() || !job.state.is_pending() {
                state.book.uncount(job.request.len() as u64);
            }
            if written.is_err() {
                state.held.remove(&row_of(job));
                continue;
            }
            if let Some(key) = job.key {
                state.keys.insert(KeyHash::from_bytes(key), job.id, job.created_ms);
            }
            match job.state {
                JobState::Waiting if job.due_ms > self.wall_ms() => {
                    let delay = job.due_ms.saturating_sub(self.wall_ms()).unsigned_abs();
                    state.book.schedule(entry, self.clock.now().saturating_add(delay));
                }
                JobState::Waiting => state.book.push(entry),
                JobState::Unknown => {
                    let now = self.clock.now();
                    let hold = crate::shared::later(now, holds.pop_front().unwrap_or_default());
                    let doubt = crate::book::InDoubt::new(entry, 0, self.clock.now());
                    state.book.doubt(doubt, Some(hold), Some(now));
                }
                JobState::Dispatching
                | JobState::Done
                | JobState::Rejected
                | JobState::Dead
                | JobState::Cancelled
                | JobState::Dropped => {}
            }
        }
        drop(state);
        for other in told.into_iter().flat_map(|reserved| reserved.others) {
            // It may have stopped waiting.
            let _ = other.send(());
        }
        match written {
            Ok(()) => {
                imported.accepted += count;
                Ok(())
            }
            Err(cause) => Err(OperationError::Write { cause, done: imported.accepted }),
        }
    }

    /// The jobs that have the keys of these, and are no longer there or were given up by an operator: what is imported is
    /// not known for their sake. What its client has cancelled never comes back.
    fn given_up_or_forgotten(&self, batch: &[Arrival]) -> Result<HashSet<JobId>, OperationError> {
        let keys = batch.iter().filter_map(|arrival| arrival.job.key).map(KeyHash::from_bytes);
        let known: Vec<JobId> = {
            let state = self.lock();
            keys.filter_map(|key| state.keys.get(key)).collect()
        };
        let mut free = HashSet::new();
        for id in known {
            match self.journal.job(id) {
                Ok(row) if row.as_ref().is_none_or(|row| row.state == JobState::Dropped) => {
                    free.insert(id);
                }
                // That it is damaged is told to whoever asks for it.
                Ok(_) | Err(ReadError::Damaged { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(free)
    }

    /// Numbers and keys for those whose key is not known here.
    #[expect(clippy::type_complexity, reason = "two lists that are taken apart at once")]
    fn take_places<'a>(
        &self,
        batch: &'a [Arrival],
        imported: &mut Imported,
    ) -> Result<(Vec<(NewJob, &'a Arrival)>, Vec<KeyHash>), OperationError> {
        let now_ms = self.wall_ms();
        let free = self.given_up_or_forgotten(batch)?;
        let mut state = self.lock();
        let (mut new, mut reserved): (Vec<(NewJob, &Arrival)>, Vec<KeyHash>) = (Vec::new(), Vec::new());
        for arrival in batch {
            let key = arrival.job.key.map(KeyHash::from_bytes);
            let known = |key: &KeyHash| {
                state.keys.get(*key).is_some_and(|id| !free.contains(&id)) || state.reserved.contains_key(key)
            };
            if key.as_ref().is_some_and(known) {
                imported.known += 1;
                continue;
            }
            let bytes = arrival.job.request.len() as u64;
            if let Some(why) = state.is_full(bytes) {
                for (job, _) in &new {
                    state.book.uncount(job.request.len() as u64);
                }
                reserved.iter().for_each(|key| drop(state.reserved.remove(key)));
                let done = imported.accepted;
                let cause = store::commit::WriteError::Refused(why.to_string());
                return Err(OperationError::Write { cause, done });
            }
            let mut job = arrival.job.clone();
            job.due_ms = job.due_ms.max(now_ms);
            job.id = JobId(state.next_id);
            job.tag = draw().map_err(|error| OperationError::Malformed(error.to_string()))?;
            state.next_id += 1;
            state.book.count(bytes);
            if let Some(key) = key {
                state.reserved.insert(key, crate::shared::Reserved::default());
                reserved.push(key);
            }
            new.push((job, arrival));
        }
        Ok((new, reserved))
    }
}

/// A line that was checked: a job but for its number and its tag.
struct Arrival {
    job: NewJob,
    steps: Vec<StepRecord>,
    /// Whether a step of its saga could not be undone.
    is_stuck: bool,
    /// If its client gave no key: its number where it was exported, and the key that was drawn for it there.
    drawn_key: Option<(JobId, String)>,
}

impl Arrival {
    fn read(line: &str) -> Result<Self, String> {
        let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if line.version != VERSION {
            return Err(format!("version {}, this mainstay knows {VERSION}", line.version));
        }
        let state = state_named(&line.state).ok_or_else(|| format!("there is no state `{}`", line.state))?;
        let state = match state {
            // What was under way there may have happened.
            JobState::Dispatching if !line.idempotent => JobState::Unknown,
            JobState::Waiting | JobState::Dispatching => JobState::Waiting,
            JobState::Unknown | JobState::Dead | JobState::Rejected => state,
            JobState::Done | JobState::Cancelled | JobState::Dropped => {
                return Err(format!("a job that is {} has nothing to be imported for", line.state));
            }
        };
        let fields = line.fields.into_iter().map(|(name, value)| Ok((bytes(name)?, bytes(value)?)));
        let request = StoredRequest {
            head: line.head,
            settings: Arc::new(line.settings),
            saga: line.saga.map(Arc::new),
            fields: fields.collect::<Result<Fields, String>>()?,
            body: bytes(line.body)?,
        };
        let drawn_key = line.key_hash.is_none().then(|| (JobId(line.id), request.head.key.clone()));
        let key = match &line.key_hash {
            Some(key) => array(key)?,
            None => imported_key(&line.route, &request.head.key).to_bytes(),
        };
        let job = NewJob {
            id: JobId(0),
            tag: [0; 16],
            created_ms: line.created_ms,
            due_ms: line.due_ms,
            route: line.route.into(),
            order: line.order,
            key: Some(key),
            fingerprint: array(&line.fingerprint)?,
            credentials: array(&line.credentials)?,
            user: request.head.user,
            state,
            idempotent: line.idempotent,
            preview: !request.head.traffic.is_users(),
            request: request.encode_alone(),
        };
        let step = |step: StepLine| {
            let record = Bytes::from(unhex(&step.hex)?);
            crate::codec::StoredStep::decode(record.clone()).map_err(|error| error.to_string())?;
            Ok(StepRecord { step: step.step, undo: step.undo, at_ms: step.at_ms, record })
        };
        let steps = line.steps.into_iter().map(step).collect::<Result<Vec<_>, String>>()?;
        let generation = request.head.generation;
        let is_stuck = request.saga.is_some_and(|saga| is_stuck(&saga, &steps, generation));
        Ok(Self { job, steps, is_stuck, drawn_key })
    }
}

/// In the place of a principal for requests without a key of their client's: no principal begins like this by accident,
/// and by intent the random key would have to be known too.
const IMPORTED: &[u8] = b"\0imported";

/// What a job is known by whose client gave no key: the one that it is sent with, which was drawn at random when it was
/// accepted, so that a repeated import finds it.
fn imported_key(route: &str, key: &str) -> KeyHash {
    crate::fingerprint::key(Traffic::Users, route, Some(IMPORTED), key)
}

/// A new job as a row, as far as the book looks at it.
fn row_of(job: &NewJob) -> JobRow {
    JobRow {
        id: job.id,
        tag: job.tag,
        created_ms: job.created_ms,
        due_ms: job.due_ms,
        route: job.route.clone(),
        order: job.order,
        key: job.key,
        user: job.user,
        state: job.state,
        idempotent: job.idempotent,
        preview: job.preview,
        attempts: 0,
        request_bytes: job.request.len() as u64,
        outcome_ms: None,
    }
}

/// In whatever way takes at most three times the bytes: JSON may take six for one.
fn text(bytes: &[u8]) -> Text {
    let control = bytes.iter().filter(|byte| byte.is_ascii_control()).count();
    match std::str::from_utf8(bytes) {
        Ok(text) if control <= bytes.len() / 6 => Text::Text(text.to_owned()),
        Ok(_) | Err(_) => Text::Hex { hex: hex(bytes) },
    }
}

fn bytes(text: Text) -> Result<Bytes, String> {
    match text {
        Text::Text(text) => Ok(Bytes::from(text)),
        Text::Hex { hex } => unhex(&hex).map(Bytes::from),
    }
}

fn array<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let bytes = unhex(text)?;
    <[u8; N]>::try_from(bytes).map_err(|bytes| format!("{} bytes, {N} are wanted", bytes.len()))
}
