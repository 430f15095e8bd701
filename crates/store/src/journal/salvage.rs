//! Row by row from a damaged file into a new one, with what can be believed.

use super::card::Card;
use super::read::{self, Fault, Narrow};
use super::repair::{Named, RepairError, RepairReport};
use super::row::{AttemptRecord, JobState, Operation, StepRecord};
use super::schema::{self, SCHEMA_VERSION};
use super::source::Source;
use super::sum::{self, Moving, What};
use crate::commit::{self, Settings};
use bytes::Bytes;
use rusqlite::{Connection, Row, params};
use std::path::Path;

/// How many reads may fail in one table before the rest of it is given up. A damaged inner page takes two for each
/// of some ten thousand rows.
const FAILED_READS_LIMIT: u32 = 4_000_000;
/// How many jobs are written in one transaction.
const CHUNK_JOBS: u64 = 5_000;
/// How many rows a page holds at most, about. So many numbers for each page are passed over where the highest one
/// may be among what was lost.
const ROWS_PER_PAGE: i64 = 40;

/// What is noted of an attempt that can never be made.
const REQUEST_LOST: &str = "its request was lost with a damaged file";

/// Copies everything that is whole in `source`, the file `aside`, into a new file at `new`, which is closed and
/// complete afterwards. `asked`: when, and by which user, for the audit log.
pub(super) fn all(
    source: &Source,
    aside: &Path,
    new: &Path,
    asked: (i64, u32),
) -> Result<RepairReport, RepairError> {
    let settings = Settings { pragmas: schema::PRAGMAS, ..Settings::default() };
    let to = commit::connect(new, SCHEMA_VERSION, &settings, schema::migrate)?;
    let mut salvage = Salvage {
        from: &source.connection,
        source,
        to,
        found: RepairReport {
            aside: aside.to_owned(),
            jobs: 0,
            requests: 0,
            responses: 0,
            operations: 0,
            lost: Named::default(),
            missing: Named::default(),
            without_request: Named::default(),
            without_response: Named::default(),
            doubtful: Named::default(),
        },
        saved: Vec::new(),
        asked,
    };
    salvage.run().map_err(RepairError::Write)?;
    let Salvage { to, found, .. } = salvage;
    // Nothing is waited for and nobody reads: the log is brought into the file, and goes with the last connection.
    to.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(RepairError::Write)?;
    to.close().map_err(|(_, cause)| RepairError::Write(cause))?;
    Ok(found)
}

struct Salvage<'s> {
    from: &'s Connection,
    source: &'s Source,
    to: Connection,
    found: RepairReport,
    /// The numbers of the jobs in the new file, in order.
    saved: Vec<i64>,
    asked: (i64, u32),
}

impl Salvage<'_> {
    /// Errors are those of the new file. Those of the damaged one are what this is about.
    fn run(&mut self) -> rusqlite::Result<()> {
        // Synced as a whole at the end.
        self.to.execute_batch("PRAGMA synchronous = OFF; BEGIN")?;
        let from = self.from;
        let highest = highest(self.source);
        let mut lost = Vec::new();
        let mut failed = Ok(());
        let spans = walk(from, read::JOBS_BETWEEN, (1, highest), |row| match (&failed, Narrow::of(row)) {
            (Err(_), _) => {}
            (Ok(()), Ok(job)) => match job.card() {
                Some(card) => failed = self.job(&job, &card),
                None => lost.push((job.id(), job.id())),
            },
            (Ok(()), Err(_)) => lost.extend(row.get(0).ok().map(|id: i64| (id, id))),
        });
        failed?;
        lost.extend(spans);
        self.orphans(highest, &mut lost);
        lost.sort_unstable();
        for (first, last) in &lost {
            self.found.lost.add_all(*first, *last);
        }
        self.missing(highest, &lost);
        self.rest(highest)?;
        self.to.execute_batch("COMMIT")
    }

    /// One job with all that belongs to it.
    fn job(&mut self, job: &Narrow<'_>, card: &Card) -> rusqlite::Result<()> {
        let id = job.id();
        // The file may be one of version 1, which nobody could open to bring it to this one.
        let mut standing = job.standing().or_else(|| job.standing_without_due());
        let steps = read::steps(self.from, id);
        if steps.is_err() {
            // How far a saga has come is no longer known.
            standing = standing.filter(|(state, _)| state.is_final());
        }
        let (mut state, attempts) = standing.unwrap_or_else(|| {
            self.found.doubtful.add(id);
            (JobState::Unknown, 1)
        });
        // The history of a job is for people: what of it cannot be read is left out.
        let mut history = read::attempts(self.from, id).unwrap_or_default();
        match read::request(self.from, id) {
            Ok(Some(request)) => self.wide("request", id, What::Request, &request)?,
            Ok(None) | Err(_) => {
                self.found.without_request.add(id);
                if state.is_pending() {
                    state = JobState::Dead;
                    history.push(lost_request(attempts, job.changed_ms()));
                }
            }
        }
        match read::response(self.from, id) {
            Ok(Some(response)) => self.wide("response", id, What::Response, &response)?,
            // What is missing from a damaged page may leave no other trace.
            Ok(None) if state != JobState::Done => {}
            Ok(None) | Err(_) => self.found.without_response.add(id),
        }
        for (attempt, seq) in history.iter().zip(1..) {
            self.attempt(id, seq, attempt)?;
        }
        for step in steps.unwrap_or_default() {
            self.step(id, &step)?;
        }
        let (due_ms, changed_ms, card) = (job.due_ms(), job.changed_ms(), card.encode(job.bound()));
        let moving_sum = sum::moving(id, Moving { state, attempts, changed_ms, due_ms });
        self.to.prepare_cached(schema::INSERT_JOB)?.execute(params![
            id,
            state.code(),
            attempts,
            due_ms,
            changed_ms,
            moving_sum,
            job.bound().created_ms,
            str::from_utf8(job.bound().route).unwrap_or_default(),
            card,
        ])?;
        self.saved.push(id);
        self.found.jobs += 1;
        if self.found.jobs.is_multiple_of(CHUNK_JOBS) {
            self.to.execute_batch("COMMIT; BEGIN")?;
        }
        Ok(())
    }

    fn wide(&mut self, table: &str, id: i64, what: What, bytes: &Bytes) -> rusqlite::Result<()> {
        match what {
            What::Request => self.found.requests += 1,
            What::Response => self.found.responses += 1,
            What::Step { .. } => {}
        }
        let sql = format!("INSERT INTO {table} (id, sum, bytes) VALUES (?1, ?2, ?3)");
        self.to.prepare_cached(&sql)?.execute(params![id, sum::bytes(id, what, bytes), &**bytes])?;
        Ok(())
    }

    fn attempt(&self, id: i64, seq: i64, attempt: &AttemptRecord) -> rusqlite::Result<()> {
        let AttemptRecord { number, began_ms, ended_ms, status, text } = attempt;
        self.to
            .prepare_cached(
                "INSERT INTO attempt (job, seq, number, began_ms, ended_ms, status, text) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![id, seq, number, began_ms, ended_ms, status, text])?;
        Ok(())
    }

    fn step(&self, id: i64, step: &StepRecord) -> rusqlite::Result<()> {
        let StepRecord { step, undo, at_ms, record } = step;
        let sum = sum::bytes(id, What::Step { step: *step, undo: *undo }, record);
        self.to
            .prepare_cached(
                "INSERT INTO step (job, step, undo, at_ms, sum, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![id, step, undo, at_ms, sum, &**record])?;
        Ok(())
    }

    /// Requests without a job: that job is lost.
    fn orphans(&self, highest: i64, lost: &mut Vec<(i64, i64)>) {
        lost.sort_unstable();
        let known = lost.clone();
        let numbers = "SELECT id FROM request WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
        walk(self.from, numbers, (1, highest), |row| {
            let Ok(id) = row.get::<_, i64>(0) else { return };
            let before = known.partition_point(|(first, _)| *first <= id);
            let is_known = known[..before].last().is_some_and(|(_, last)| id <= *last);
            if !is_known && self.saved.binary_search(&id).is_err() {
                lost.push((id, id));
            }
        });
    }

    /// The numbers between those that are known of.
    fn missing(&mut self, highest: i64, lost: &[(i64, i64)]) {
        let mut known: Vec<_> = self.saved.iter().map(|id| (*id, *id)).chain(lost.iter().copied()).collect();
        known.sort_unstable();
        // Not knowing what was forgotten, everything below what is known may have been.
        let lowest = known.first().map_or(highest, |(first, _)| *first);
        let mut next = read::number(self.from, schema::FORGOTTEN).map_or(lowest, |forgotten| forgotten + 1);
        for (first, last) in known {
            if first > next {
                self.found.missing.add_all(next, first - 1);
            }
            next = next.max(last + 1);
        }
        if highest >= next {
            self.found.missing.add_all(next, highest);
        }
    }

    /// What belongs to no job.
    fn rest(&mut self, highest: i64) -> rusqlite::Result<()> {
        // An owner of the damaged file is fenced off by its epoch, should it come back.
        let epoch = read::number(self.from, schema::EPOCH).unwrap_or(0);
        let forgotten = read::number(self.from, schema::FORGOTTEN);
        let RepairReport { lost, missing, without_request, .. } = &self.found;
        let losses = lost.count + missing.count + without_request.count;
        let whole = losses == 0 && forgotten.is_ok() && !self.source.patched;
        let passed = if whole { highest } else { highest.saturating_add(possible(self.source)) };
        let forgotten = forgotten.unwrap_or(0).max(passed);
        schema::set_number(&self.to, schema::EPOCH, epoch)?;
        schema::set_number(&self.to, schema::FORGOTTEN, forgotten)?;
        // Without knowing what was paused, nothing of it is: an operator sees that at once.
        for pause in read::paused(self.from).unwrap_or_default() {
            self.to.execute(
                "INSERT INTO pause (scope, since_ms) VALUES (?1, ?2)",
                params![pause.scope, pause.since_ms],
            )?;
        }
        // Without knowing how the clock was set, what is kept looks as old as its times say.
        for (place, step) in read::clock(self.from).unwrap_or_default().iter().enumerate() {
            schema::set_number(&self.to, &schema::clock_key(place, step.at_ms), step.by_ms)?;
        }
        let last =
            self.from.query_row("SELECT max(id) FROM operation", [], |row| row.get::<_, Option<i64>>(0));
        let last = last.unwrap_or(Some(highest)).unwrap_or(0);
        let mut failed = Ok(0);
        let entries = "SELECT id, at_ms, verb, what, count, by_uid FROM operation WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
        walk(self.from, entries, (1, last), |row| {
            if let (true, Ok(operation)) = (failed.is_ok(), read::operation(row, 1)) {
                let id = row.get::<_, i64>(0).unwrap_or(last);
                let inserted = "INSERT INTO operation (id, at_ms, verb, what, count, by_uid) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
                let Operation { at_ms, verb, what, count, by_uid } = operation;
                failed = self.to.execute(inserted, params![id, at_ms, verb, what, count, by_uid]);
                self.found.operations += 1;
            }
        });
        failed?;
        self.own_entry()
    }

    /// What this repair has done, after all that was done before.
    fn own_entry(&self) -> rusqlite::Result<()> {
        let RepairReport { aside, jobs, responses, lost, missing, without_request, doubtful, .. } =
            &self.found;
        let aside = aside.file_name().unwrap_or_default().to_string_lossy();
        let (lost, missing) = (lost.count, missing.count);
        let what = format!(
            "{aside}: {jobs} jobs and {responses} answers saved, {lost} jobs lost, {missing} not found, \
             {} without their requests, {} in doubt",
            without_request.count, doubtful.count
        );
        let (at_ms, by_uid) = self.asked;
        self.to.execute(
            "INSERT INTO operation (at_ms, verb, what, count, by_uid) VALUES (?1, 'repair', ?2, ?3, ?4)",
            params![at_ms, what, i64::try_from(*jobs).unwrap_or(i64::MAX), by_uid],
        )?;
        Ok(())
    }
}

fn lost_request(attempts: u32, at_ms: i64) -> AttemptRecord {
    AttemptRecord {
        number: attempts,
        began_ms: at_ms,
        ended_ms: at_ms,
        status: None,
        text: REQUEST_LOST.into(),
    }
}

/// The highest number that a job may have, from whatever tells and can be believed.
fn highest(source: &Source) -> i64 {
    let from = &source.connection;
    let last = |sql: &str| {
        from.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).map(Option::unwrap_or_default)
    };
    let job = last("SELECT max(id) FROM job")
        .ok()
        .filter(|id| *id == 0 || matches!(read::job(from, *id), Ok(Some(_))));
    let request = last("SELECT max(id) FROM request").ok();
    let request = request.filter(|id| *id == 0 || matches!(read::request(from, *id), Ok(Some(_))));
    let sure = read::number(from, schema::FORGOTTEN).into_iter().chain(job).chain(request).max().unwrap_or(0);
    if job.is_some() || request.is_some() { sure } else { sure.saturating_add(possible(source)) }
}

/// More jobs than can be in the file.
fn possible(source: &Source) -> i64 {
    i64::try_from(source.pages).unwrap_or(i64::MAX).saturating_mul(ROWS_PER_PAGE)
}

/// Reads the rows of `sql`, whose first column is the number, from the first to the last of `range`, both included,
/// and goes on behind whatever cannot be read. Returns the numbers that could not, from and to.
fn walk(from: &Connection, sql: &str, range: (i64, i64), mut visit: impl FnMut(&Row<'_>)) -> Vec<(i64, i64)> {
    let mut unreadable: Vec<(i64, i64)> = Vec::new();
    let mut failures = 0;
    let mut ahead = vec![range];
    while let Some((first, last)) = ahead.pop() {
        let Err(next) = rows(from, sql, first, last, &mut visit) else { continue };
        failures += 1;
        if next > last {
            // The error is behind the last row.
            continue;
        }
        if next >= last || failures > FAILED_READS_LIMIT {
            match unreadable.last_mut() {
                Some(before) if before.1 + 1 == next => before.1 = last,
                Some(_) | None => unreadable.push((next, last)),
            }
        } else {
            // Halves, the lower one first: sooner or later what is bad stands alone.
            let middle = next + (last - next) / 2;
            ahead.push((middle + 1, last));
            ahead.push((next, middle));
        }
    }
    unreadable
}

/// Reads rows from `first` to `last`. An error is the number behind the last row that was read.
fn rows(
    from: &Connection,
    sql: &str,
    first: i64,
    last: i64,
    visit: &mut impl FnMut(&Row<'_>),
) -> Result<(), i64> {
    let mut next = first;
    let mut read = || -> Result<(), Fault> {
        let mut query = from.prepare_cached(sql)?;
        let mut rows = query.query([first, last])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            if id < next || id > last {
                return Err(Fault::Wrong("rows out of order".into()));
            }
            visit(row);
            next = id + 1;
        }
        Ok(())
    };
    read().map_err(|_| next)
}
