//! How changes become rows.
//!
//! Where a change can be refused, its first statement says so before anything is written; thus it needs no savepoint.

use super::card::{Bound, CARD_BYTES, Card};
use super::reserve::Reserve;
use super::row::{AttemptRecord, Change, ClockStep, JobId, JobState, NewJob, Operation, Pause, StepRecord};
use super::sum::{self, Moving, Sum, What};
use super::{ATTEMPT_TEXT_LIMIT, CLOCK_STEPS_LIMIT, SEVERAL_LIMIT, read, schema};
use crate::commit::WriteError;
use bytes::Bytes;
use rusqlite::{Transaction, params};

/// A job with its sums, which are worked out before the writer's thread has it.
pub(super) struct Prepared {
    new: NewJob,
    id: i64,
    card: [u8; CARD_BYTES],
    request_sum: Sum,
}

impl Prepared {
    pub(super) fn new(new: NewJob) -> Result<Self, WriteError> {
        let id = number(new.id)?;
        if new.state.is_final() {
            return Err(refused(format!("a new job cannot be {}", new.state)));
        }
        let card =
            Card::of(&new).encode(Bound { id, created_ms: new.created_ms, route: new.route.as_bytes() });
        let request_sum = sum::bytes(id, What::Request, &new.request);
        Ok(Self { new, id, card, request_sum })
    }

    /// About what is written.
    pub(super) fn bytes(&self) -> usize {
        ROW_BYTES + self.new.request.len()
    }
}

/// About how many bytes a narrow row takes.
pub(super) const ROW_BYTES: usize = 200;

/// A change whose sums are worked out.
pub(super) enum Ready {
    Accept(Box<Prepared>),
    Response { change: Change, sum: Sum },
    Plain(Change),
    Several(Vec<Ready>),
}

impl Ready {
    pub(super) fn new(change: Change) -> Result<Self, WriteError> {
        match change {
            Change::Several(changes) if changes.len() > SEVERAL_LIMIT => {
                let count = changes.len();
                Err(refused(format!("{count} changes in one transaction, at most {SEVERAL_LIMIT}")))
            }
            Change::Several(changes) if changes.iter().any(|change| matches!(change, Change::Several(_))) => {
                Err(refused("several changes within several".into()))
            }
            Change::Several(changes) => {
                Ok(Self::Several(changes.into_iter().map(Self::new).collect::<Result<_, _>>()?))
            }
            Change::Accept(new) => Ok(Self::Accept(Box::new(Prepared::new(*new)?))),
            Change::Outcome { id, response: Some(ref response), .. } => {
                let sum = sum::bytes(number(id)?, What::Response, response);
                Ok(Self::Response { change, sum })
            }
            Change::Attempt { .. }
            | Change::Outcome { response: None, .. }
            | Change::Released { .. }
            | Change::Replaced { .. }
            | Change::Step { .. }
            | Change::Paused(_)
            | Change::Resumed(_)
            | Change::Operation(_)
            | Change::Clock(_) => Ok(Self::Plain(change)),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Accept(job) => job.bytes(),
            Self::Response { change, .. } | Self::Plain(change) => ROW_BYTES + carried(change),
            Self::Several(all) => all.iter().map(Self::bytes).sum(),
        }
    }

    pub(super) fn may_fail_halfway(&self) -> bool {
        matches!(self, Self::Several(_))
    }

    pub(super) fn apply(self, t: &Transaction<'_>, reserve: &Reserve) -> Result<(), WriteError> {
        match self {
            Self::Accept(job) => accept(t, &job, reserve),
            Self::Response { change, sum } => apply(t, change, sum),
            Self::Plain(change) => apply(t, change, Sum::default()),
            Self::Several(all) => all.into_iter().try_for_each(|one| one.apply(t, reserve)),
        }
    }
}

/// The bytes that a change carries.
fn carried(change: &Change) -> usize {
    match change {
        Change::Accept(new) => new.request.len(),
        Change::Outcome { response, .. } => response.as_ref().map_or(0, Bytes::len),
        Change::Replaced { request, .. } => request.len(),
        Change::Step { step, .. } => step.record.len(),
        Change::Attempt { .. }
        | Change::Released { .. }
        | Change::Paused(_)
        | Change::Resumed(_)
        | Change::Operation(_)
        | Change::Clock(_) => 0,
        Change::Several(changes) => changes.iter().map(carried).sum(),
    }
}

pub(super) fn accept(t: &Transaction<'_>, job: &Prepared, reserve: &Reserve) -> Result<(), WriteError> {
    reserve.take(job.bytes() as u64)?;
    let new = &job.new;
    let changed_ms = match new.state {
        JobState::Waiting | JobState::Dispatching => new.created_ms,
        // It came to that elsewhere, and is kept here from when it was taken on.
        JobState::Done
        | JobState::Rejected
        | JobState::Dead
        | JobState::Unknown
        | JobState::Cancelled
        | JobState::Dropped => new.created_ms.max(new.due_ms),
    };
    insert(t, job, u32::from(new.state == JobState::Dispatching), changed_ms)
}

fn insert(t: &Transaction<'_>, job: &Prepared, attempts: u32, changed_ms: i64) -> Result<(), WriteError> {
    let new = &job.new;
    let moving = Moving { state: new.state, attempts, changed_ms, due_ms: new.due_ms };
    let moving_sum = sum::moving(job.id, moving);
    t.prepare_cached(schema::INSERT_JOB)?.execute(params![
        job.id,
        new.state.code(),
        attempts,
        new.due_ms,
        changed_ms,
        moving_sum,
        new.created_ms,
        new.route,
        job.card,
    ])?;
    set_request(t, job.id, &job.new.request, job.request_sum)
}

fn set_request(t: &Transaction<'_>, id: i64, request: &[u8], sum: Sum) -> Result<(), WriteError> {
    t.prepare_cached("INSERT OR REPLACE INTO request (id, sum, bytes) VALUES (?1, ?2, ?3)")?
        .execute(params![id, sum, request])?;
    Ok(())
}

/// `sum` is that of an outcome's response.
fn apply(t: &Transaction<'_>, change: Change, sum: Sum) -> Result<(), WriteError> {
    match change {
        Change::Attempt { id, number, due_ms, state, ended } => {
            if !matches!(state, JobState::Waiting | JobState::Dispatching) {
                return Err(refused(format!("an attempt cannot leave job {id} {state}")));
            }
            move_on(
                t,
                id,
                Move { state, attempts: number, changed_ms: due_ms, due_ms: Some(due_ms) },
                &ATTEMPTABLE,
            )?;
            ended.map_or(Ok(()), |ended| add_attempt(t, id, &ended))
        }
        Change::Outcome { id, attempts, at_ms, state, response, ended } => {
            if matches!(state, JobState::Waiting | JobState::Dispatching) {
                return Err(refused(format!("{state} is no outcome of job {id}")));
            }
            move_on(t, id, Move { state, attempts, changed_ms: at_ms, due_ms: None }, &MOVABLE)?;
            if let Some(response) = response {
                t.prepare_cached("INSERT OR REPLACE INTO response (id, sum, bytes) VALUES (?1, ?2, ?3)")?
                    .execute(params![number(id)?, sum, &*response])?;
            }
            ended.map_or(Ok(()), |ended| add_attempt(t, id, &ended))
        }
        Change::Released { id, due_ms, at_ms, how } => {
            let state = JobState::Waiting;
            move_on(t, id, Move { state, attempts: 0, changed_ms: due_ms, due_ms: Some(due_ms) }, &MOVABLE)?;
            t.prepare_cached("DELETE FROM response WHERE id = ?1")?.execute([number(id)?])?;
            let (began_ms, ended_ms, text) = (at_ms, at_ms, how.to_owned());
            add_attempt(t, id, &AttemptRecord { number: 0, began_ms, ended_ms, status: None, text })
        }
        Change::Replaced { id, request, fingerprint } => replace(t, id, &request, fingerprint),
        Change::Step { id, step } => set_step(t, id, &step),
        Change::Paused(Pause { scope, since_ms }) => {
            t.prepare_cached("INSERT OR IGNORE INTO pause (scope, since_ms) VALUES (?1, ?2)")?
                .execute(params![scope, since_ms])?;
            Ok(())
        }
        Change::Resumed(scope) => {
            t.prepare_cached("DELETE FROM pause WHERE scope = ?1")?.execute([scope])?;
            Ok(())
        }
        Change::Operation(operation) => add_operation(t, &operation),
        Change::Clock(steps) => set_clock(t, &steps),
        Change::Accept(_) | Change::Several(_) => Err(refused("a change that was not made ready".into())),
    }
}

/// To where a job moves on.
struct Move {
    state: JobState,
    attempts: u32,
    changed_ms: i64,
    /// For all states in which it is to be sent.
    due_ms: Option<i64>,
}

/// What an attempt can be made of.
const ATTEMPTABLE: [JobState; 3] = [JobState::Waiting, JobState::Dispatching, JobState::Unknown];
/// What can move on at all.
const MOVABLE: [JobState; 5] =
    [JobState::Waiting, JobState::Dispatching, JobState::Unknown, JobState::Dead, JobState::Rejected];

fn move_on(t: &Transaction<'_>, id: JobId, to: Move, from: &[JobState]) -> Result<(), WriteError> {
    let row = number(id)?;
    // One bit for each state.
    let from = from.iter().fold(0_i64, |bits, state| bits | 1 << state.code());
    let Move { state, attempts, changed_ms, due_ms } = to;
    // Where it stays as it was, the sum is not over it.
    let sum = sum::moving(row, Moving { state, attempts, changed_ms, due_ms: due_ms.unwrap_or_default() });
    let changed = t
        .prepare_cached(
            "UPDATE job SET state = ?2, attempts = ?3, changed_ms = ?4, moving_sum = ?5, due_ms = coalesce(?6, due_ms) \
             WHERE id = ?1 AND (?7 >> state) & 1",
        )?
        .execute(params![row, state.code(), attempts, changed_ms, sum, due_ms, from])?;
    match changed {
        0 => Err(cannot_change(t, id)),
        _ => Ok(()),
    }
}

/// Why a job does not change.
fn cannot_change(t: &Transaction<'_>, id: JobId) -> WriteError {
    match state(t, id) {
        Ok(Some(state)) => refused(format!("job {id} is {state}")),
        Ok(None) => refused(format!("there is no job {id}")),
        Err(error) => error,
    }
}

fn state(t: &Transaction<'_>, id: JobId) -> Result<Option<JobState>, WriteError> {
    let mut query = t.prepare_cached("SELECT state FROM job WHERE id = ?1")?;
    let mut rows = query.query([number(id)?])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let code = row.get(0)?;
    let damaged = || WriteError::Damaged(format!("the state of job {id} is {code}"));
    JobState::from_code(code).map(Some).ok_or_else(damaged)
}

fn add_attempt(t: &Transaction<'_>, id: JobId, attempt: &AttemptRecord) -> Result<(), WriteError> {
    t.prepare_cached(
        "INSERT INTO attempt (job, seq, number, began_ms, ended_ms, status, text) \
         VALUES (?1, (SELECT coalesce(max(seq), 0) + 1 FROM attempt WHERE job = ?1), ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        number(id)?,
        attempt.number,
        attempt.began_ms,
        attempt.ended_ms,
        attempt.status,
        &attempt.text[..attempt.text.floor_char_boundary(ATTEMPT_TEXT_LIMIT)],
    ])?;
    Ok(())
}

fn replace(t: &Transaction<'_>, id: JobId, request: &[u8], fingerprint: [u8; 32]) -> Result<(), WriteError> {
    let row = number(id)?;
    let card = {
        let mut query = t.prepare_cached(read::ONE_JOB)?;
        let mut rows = query.query([row])?;
        let Some(found) = rows.next()? else { return Err(refused(format!("there is no job {id}"))) };
        let found = read::Narrow::of(found)?;
        let (state, card) = found.check()?;
        if state.is_final() || state == JobState::Dispatching {
            return Err(refused(format!("job {id} is {state}")));
        }
        Card { fingerprint, request_bytes: request.len() as u64, ..card }.encode(found.bound())
    };
    t.prepare_cached("UPDATE job SET card = ?2 WHERE id = ?1")?.execute(params![row, card])?;
    set_request(t, row, request, sum::bytes(row, What::Request, request))
}

fn set_step(t: &Transaction<'_>, id: JobId, step: &StepRecord) -> Result<(), WriteError> {
    match state(t, id)? {
        Some(state) if !state.is_final() => {}
        Some(_) | None => return Err(cannot_change(t, id)),
    }
    let row = number(id)?;
    let StepRecord { step, undo, at_ms, record } = step;
    let sum = sum::bytes(row, What::Step { step: *step, undo: *undo }, record);
    t.prepare_cached(
        "INSERT OR REPLACE INTO step (job, step, undo, at_ms, sum, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![row, step, undo, at_ms, sum, &**record])?;
    Ok(())
}

fn add_operation(t: &Transaction<'_>, operation: &Operation) -> Result<(), WriteError> {
    let Operation { at_ms, verb, what, count, by_uid } = operation;
    t.prepare_cached("INSERT INTO operation (at_ms, verb, what, count, by_uid) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![at_ms, verb, what, count, by_uid])?;
    Ok(())
}

fn set_clock(t: &Transaction<'_>, steps: &[ClockStep]) -> Result<(), WriteError> {
    if steps.len() > CLOCK_STEPS_LIMIT {
        return Err(refused(format!("{} steps of the clock, at most {CLOCK_STEPS_LIMIT}", steps.len())));
    }
    schema::forget_clock(t)?;
    for (place, step) in steps.iter().enumerate() {
        schema::set_number(t, &schema::clock_key(place, step.at_ms), step.by_ms)?;
    }
    Ok(())
}

/// The row of a job.
pub(super) fn number(id: JobId) -> Result<i64, WriteError> {
    i64::try_from(id.0).ok().filter(|row| *row > 0).ok_or_else(|| refused(format!("{id} is no job's number")))
}

pub(super) fn refused(why: String) -> WriteError {
    WriteError::Refused(why)
}
