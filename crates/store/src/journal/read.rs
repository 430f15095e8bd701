//! Rows as they are read back, checked against their sums.

use super::card::{Bound, Card};
use super::row::{
    AttemptRecord, ClockStep, Filter, Identity, JobId, JobRow, JobState, Operation, Pause, Size, StepRecord,
};
use super::schema;
use super::sum::{self, Moving, Sum, What};
use crate::commit::WriteError;
use bytes::Bytes;
use rusqlite::types::{FromSql, FromSqlError};
use rusqlite::{Connection, ErrorCode, Row, params};
use std::sync::Arc;

/// The columns of [`Narrow`], in order.
macro_rules! select_jobs {
    ($rest:literal) => {
        concat!(
            "SELECT id, state, attempts, due_ms, changed_ms, moving_sum, created_ms, route, card FROM job ",
            $rest
        )
    };
}

pub(super) const ONE_JOB: &str = select_jobs!("WHERE id = ?1");
pub(super) const JOBS_BETWEEN: &str = select_jobs!("WHERE id BETWEEN ?1 AND ?2 ORDER BY id");
pub(super) const TO_BE_SENT: &str = select_jobs!("WHERE state IN (2, 3)");
const AFTER: &str = select_jobs!("WHERE id > ?1 ORDER BY id LIMIT ?2");
const BY_NUMBER: &str = select_jobs!(
    "WHERE id > ?1 AND (?2 >> state) & 1 AND (?3 IS NULL OR route = ?3) \
     AND (?4 IS NULL OR created_ms >= ?4) AND (?5 IS NULL OR created_ms < ?5) ORDER BY id"
);
/// Through the index of jobs that have an outcome, for states that few of them are in.
const BY_STATE: &str = select_jobs!(
    "INDEXED BY finished WHERE id > ?1 AND state > 3 AND state IN (5, 6, 7, 8, 9) AND (?2 >> state) & 1 \
     AND (?3 IS NULL OR route = ?3) \
     AND (?4 IS NULL OR created_ms >= ?4) AND (?5 IS NULL OR created_ms < ?5) ORDER BY id"
);

/// Why something was not read.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite says so.
    Sql(rusqlite::Error),
    /// What is there makes no sense.
    Wrong(String),
}

impl Fault {
    /// What is damaged, if that is why.
    pub(super) fn damage(&self) -> Option<String> {
        match self {
            Self::Sql(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Some(error.to_string()),
                _ => None,
            },
            Self::Wrong(why) => Some(why.clone()),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<FromSqlError> for Fault {
    fn from(error: FromSqlError) -> Self {
        Self::Wrong(error.to_string())
    }
}

impl From<Fault> for WriteError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sql(error) => error.into(),
            Fault::Wrong(why) => Self::Damaged(why),
        }
    }
}

/// A column of the type that it should have.
fn column<T: FromSql>(row: &Row<'_>, i: usize) -> Result<T, Fault> {
    Ok(T::column_result(row.get_ref(i)?)?)
}

/// A row of `job` as it stands on disk, borrowed and not yet believed.
pub(super) struct Narrow<'r> {
    id: i64,
    state: i64,
    attempts: i64,
    due_ms: i64,
    changed_ms: i64,
    moving_sum: &'r [u8],
    created_ms: i64,
    route: &'r [u8],
    card: &'r [u8],
}

impl<'r> Narrow<'r> {
    pub(super) fn of(row: &'r Row<'_>) -> Result<Self, Fault> {
        let bytes = |i| -> Result<&'r [u8], Fault> { Ok(row.get_ref(i)?.as_bytes()?) };
        Ok(Self {
            id: column(row, 0)?,
            state: column(row, 1)?,
            attempts: column(row, 2)?,
            due_ms: column(row, 3)?,
            changed_ms: column(row, 4)?,
            moving_sum: bytes(5)?,
            created_ms: column(row, 6)?,
            route: bytes(7)?,
            card: bytes(8)?,
        })
    }

    pub(super) fn id(&self) -> i64 {
        self.id
    }

    pub(super) fn due_ms(&self) -> i64 {
        self.due_ms
    }

    pub(super) fn changed_ms(&self) -> i64 {
        self.changed_ms
    }

    pub(super) fn bound(&self) -> Bound<'r> {
        Bound { id: self.id, created_ms: self.created_ms, route: self.route }
    }

    /// What never changes, if that can be believed.
    pub(super) fn card(&self) -> Option<Card> {
        Card::decode(self.card, self.bound())
    }

    /// Where it is and how often it was attempted, if that can be believed.
    pub(super) fn standing(&self) -> Option<(JobState, u32)> {
        self.standing_by(sum::moving)
    }

    /// The same in a file of version 1.
    pub(super) fn standing_without_due(&self) -> Option<(JobState, u32)> {
        self.standing_by(sum::moving_without_due)
    }

    fn standing_by(&self, sum: impl FnOnce(i64, Moving) -> Sum) -> Option<(JobState, u32)> {
        let state = JobState::from_code(self.state)?;
        let attempts = u32::try_from(self.attempts).ok()?;
        let moving = Moving { state, attempts, changed_ms: self.changed_ms, due_ms: self.due_ms };
        (sum(self.id, moving) == self.moving_sum).then_some((state, attempts))
    }

    fn wrong(&self) -> Fault {
        Fault::Wrong(format!("the checksum of job {} is wrong", self.id))
    }

    /// Both, or what is wrong.
    pub(super) fn check(&self) -> Result<(JobState, Card), Fault> {
        self.standing().map(|(state, _)| state).zip(self.card()).ok_or_else(|| self.wrong())
    }

    fn job(&self, routes: &mut Routes) -> Result<JobRow, Fault> {
        let (state, attempts) = self.standing().ok_or_else(|| self.wrong())?;
        let card = self.card().ok_or_else(|| self.wrong())?;
        Ok(JobRow {
            id: JobId(self.id.cast_unsigned()),
            tag: card.tag,
            created_ms: self.created_ms,
            due_ms: self.due_ms,
            route: routes.shared(self.route).ok_or_else(|| self.wrong())?,
            order: card.order,
            key: card.key,
            user: card.user,
            state,
            idempotent: card.idempotent,
            preview: card.preview,
            attempts,
            request_bytes: card.request_bytes,
            outcome_ms: match state {
                JobState::Waiting | JobState::Dispatching => None,
                JobState::Done
                | JobState::Rejected
                | JobState::Dead
                | JobState::Unknown
                | JobState::Cancelled
                | JobState::Dropped => Some(self.changed_ms),
            },
        })
    }
}

/// The names of routes that were read last. There are few of them, and a million jobs.
#[derive(Debug, Default)]
pub(super) struct Routes(Vec<Arc<str>>);

/// How many names of routes are remembered during a read.
const ROUTES_KEPT: usize = 64;

impl Routes {
    fn shared(&mut self, route: &[u8]) -> Option<Arc<str>> {
        if let Some(known) = self.0.iter().find(|known| known.as_bytes() == route) {
            return Some(known.clone());
        }
        let new: Arc<str> = str::from_utf8(route).ok()?.into();
        if self.0.len() == ROUTES_KEPT {
            self.0.clear();
        }
        self.0.push(new.clone());
        Some(new)
    }
}

/// Some jobs after `after`, at most `limit`.
pub(super) fn after(
    c: &Connection,
    routes: &mut Routes,
    after: i64,
    limit: u32,
) -> Result<Vec<JobRow>, Fault> {
    let mut query = c.prepare_cached(AFTER)?;
    let mut rows = query.query(params![after, limit])?;
    let mut found = Vec::with_capacity(limit as usize);
    while let Some(row) = rows.next()? {
        found.push(Narrow::of(row)?.job(routes)?);
    }
    Ok(found)
}

pub(super) fn list(c: &Connection, filter: &Filter, after: i64, limit: u32) -> Result<Vec<JobRow>, Fault> {
    let states = match filter.states.is_empty() {
        true => &JobState::ALL,
        false => filter.states.as_slice(),
    };
    let bits = states.iter().fold(0_i64, |bits, state| bits | 1 << state.code());
    let few = |state: &JobState| match state {
        JobState::Rejected | JobState::Dead | JobState::Unknown | JobState::Cancelled | JobState::Dropped => {
            true
        }
        JobState::Waiting | JobState::Dispatching | JobState::Done => false,
    };
    let sql = if states.iter().all(few) { BY_STATE } else { BY_NUMBER };
    let mut query = c.prepare_cached(sql)?;
    let mut rows =
        query.query(params![after, bits, filter.route, filter.created_from_ms, filter.created_before_ms])?;
    let (mut found, mut routes) = (Vec::new(), Routes::default());
    while found.len() < limit as usize
        && let Some(row) = rows.next()?
    {
        let job = Narrow::of(row)?.job(&mut routes)?;
        if filter.order.is_none_or(|order| job.order == Some(order)) {
            found.push(job);
        }
    }
    Ok(found)
}

pub(super) fn job(c: &Connection, id: i64) -> Result<Option<JobRow>, Fault> {
    let mut query = c.prepare_cached(ONE_JOB)?;
    let mut rows = query.query([id])?;
    rows.next()?.map(|row| Narrow::of(row)?.job(&mut Routes::default())).transpose()
}

pub(super) fn identity(c: &Connection, id: i64) -> Result<Option<Identity>, Fault> {
    let mut query = c.prepare_cached(ONE_JOB)?;
    let mut rows = query.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (_, Card { fingerprint, credentials, .. }) = Narrow::of(row)?.check()?;
    Ok(Some(Identity { fingerprint, credentials }))
}

pub(super) fn request(c: &Connection, id: i64) -> Result<Option<Bytes>, Fault> {
    wide(c, "SELECT sum, bytes FROM request WHERE id = ?1", id, What::Request)
}

pub(super) fn response(c: &Connection, id: i64) -> Result<Option<Bytes>, Fault> {
    wide(c, "SELECT sum, bytes FROM response WHERE id = ?1", id, What::Response)
}

fn wide(c: &Connection, sql: &str, id: i64, what: What) -> Result<Option<Bytes>, Fault> {
    let mut query = c.prepare_cached(sql)?;
    let mut rows = query.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let bytes = row.get_ref(1)?.as_blob()?;
    if sum::bytes(id, what, bytes) != row.get_ref(0)?.as_blob()? {
        let what = format!("{what:?}").to_lowercase();
        return Err(Fault::Wrong(format!("the checksum of the {what} of job {id} is wrong")));
    }
    Ok(Some(Bytes::copy_from_slice(bytes)))
}

pub(super) fn attempts(c: &Connection, id: i64) -> Result<Vec<AttemptRecord>, Fault> {
    let mut query = c.prepare_cached(
        "SELECT number, began_ms, ended_ms, status, text FROM attempt WHERE job = ?1 ORDER BY seq",
    )?;
    let mut rows = query.query([id])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(AttemptRecord {
            number: column(row, 0)?,
            began_ms: column(row, 1)?,
            ended_ms: column(row, 2)?,
            status: column(row, 3)?,
            text: column(row, 4)?,
        });
    }
    Ok(found)
}

pub(super) fn steps(c: &Connection, id: i64) -> Result<Vec<StepRecord>, Fault> {
    let mut query = c.prepare_cached(
        "SELECT step, undo, at_ms, sum, record FROM step WHERE job = ?1 ORDER BY step, undo",
    )?;
    let mut rows = query.query([id])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (step, undo) = (column(row, 0)?, column(row, 1)?);
        let record = row.get_ref(4)?.as_blob()?;
        if sum::bytes(id, What::Step { step, undo }, record) != row.get_ref(3)?.as_blob()? {
            return Err(Fault::Wrong(format!("the checksum of step {step} of job {id} is wrong")));
        }
        found.push(StepRecord { step, undo, at_ms: column(row, 2)?, record: Bytes::copy_from_slice(record) });
    }
    Ok(found)
}

/// Dead jobs of which an undo of a step is recorded, from whenever.
pub(super) fn dead_with_undo(c: &Connection) -> Result<Vec<JobId>, Fault> {
    let mut query = c.prepare_cached(
        "SELECT id FROM job INDEXED BY finished WHERE state = ?1 AND state > 3 \
         AND EXISTS (SELECT 1 FROM step WHERE step.job = job.id AND undo)",
    )?;
    let mut rows = query.query([JobState::Dead.code()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(JobId(column::<i64>(row, 0)?.cast_unsigned()));
    }
    Ok(found)
}

/// Counted in the index of those that have an outcome, without reading a row.
pub(super) fn outcomes(c: &Connection) -> Result<Vec<(JobState, u64)>, Fault> {
    let mut query = c.prepare_cached("SELECT state, count(*) FROM job WHERE state > 3 GROUP BY state")?;
    let mut rows = query.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let code = column(row, 0)?;
        let state = JobState::from_code(code).ok_or_else(|| Fault::Wrong(format!("{code} is no state")))?;
        found.push((state, column(row, 1)?));
    }
    Ok(found)
}

pub(super) fn paused(c: &Connection) -> Result<Vec<Pause>, Fault> {
    let mut query = c.prepare_cached("SELECT scope, since_ms FROM pause ORDER BY scope")?;
    let mut rows = query.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Pause { scope: column(row, 0)?, since_ms: column(row, 1)? });
    }
    Ok(found)
}

pub(super) fn operations(c: &Connection, before: i64, limit: u32) -> Result<Vec<(u64, Operation)>, Fault> {
    let mut query = c.prepare_cached(
        "SELECT id, at_ms, verb, what, count, by_uid FROM operation WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let mut rows = query.query(params![before, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = column::<i64>(row, 0)?;
        found.push((id.cast_unsigned(), operation(row, 1)?));
    }
    Ok(found)
}

/// An entry of the audit log, from column `first` on.
pub(super) fn operation(row: &Row<'_>, first: usize) -> Result<Operation, Fault> {
    Ok(Operation {
        at_ms: column(row, first)?,
        verb: column(row, first + 1)?,
        what: column(row, first + 2)?,
        count: column(row, first + 3)?,
        by_uid: column(row, first + 4)?,
    })
}

/// The log is measured by the caller.
pub(super) fn size(c: &Connection, log: u64) -> Result<Size, Fault> {
    let pragma = |name| c.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let page = pragma("page_size")?;
    Ok(Size { file: pragma("page_count")? * page, free: pragma("freelist_count")? * page, log })
}

/// How the clock was set, old to new.
pub(super) fn clock(c: &Connection) -> Result<Vec<ClockStep>, Fault> {
    let mut query = c.prepare_cached("SELECT key FROM meta")?;
    let mut keys = query.query([])?;
    let mut found = Vec::new();
    while let Some(row) = keys.next()? {
        let key: String = column(row, 0)?;
        if let Some((place, at_ms)) = schema::clock_of(&key) {
            found.push((place, ClockStep { at_ms, by_ms: number(c, &key)? }));
        }
    }
    found.sort_unstable_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, step)| step).collect())
}

/// A number of the table `meta`.
pub(super) fn number(c: &Connection, key: &str) -> Result<i64, Fault> {
    let mut query = c.prepare_cached("SELECT value, sum FROM meta WHERE key = ?1")?;
    let mut rows = query.query([key])?;
    let row = rows.next()?.ok_or_else(|| Fault::Wrong(format!("the {key} is missing")))?;
    let value = column(row, 0)?;
    if sum::number(key, value) != row.get_ref(1)?.as_bytes()? {
        return Err(Fault::Wrong(format!("the checksum of the {key} is wrong")));
    }
    Ok(value)
}
