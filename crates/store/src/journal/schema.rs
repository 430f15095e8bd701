//! The tables of `queue.db`.
//!
//! A job is two rows, so that a restart reads a million jobs without reading their requests: `job` is narrow,
//! `request` is as wide as it comes. Both are appended to in the order of their numbers; nothing else is written when
//! a job is accepted, `finished` holds only jobs that have an outcome.
//!
//! A row of `job` keeps its length when the job moves on, so that SQLite writes over it in place and never has to
//! split a page: `changed_ms` is never NULL, and the numbers of states begin with 2 (0 and 1 take no byte in a
//! row, others do). What never changes and is never searched for is one column, `card`.

use super::read::{self, Fault, Narrow};
use super::sum::{self, Moving};
use rusqlite::{Connection, Transaction, params};

/// The version of the tables.
pub const SCHEMA_VERSION: u32 = 2;

/// For the writer's connection, before the schema: pages that become free are known by their owners, so that the
/// file can shrink ([`forget`](super::Journal::forget)); damage is looked for in every page that is read; checkpoints
/// are made elsewhere ([`LOG_LIMIT`](super::LOG_LIMIT), to which a longer log is cut). 16 MiB of pages are kept in
/// memory.
pub(super) const PRAGMAS: &str = "PRAGMA page_size = 4096;
     PRAGMA auto_vacuum = INCREMENTAL;
     PRAGMA cell_size_check = ON;
     PRAGMA mmap_size = 0;
     PRAGMA cache_size = -16384;
     PRAGMA wal_autocheckpoint = 0;
     PRAGMA journal_size_limit = 67108864;
     PRAGMA foreign_keys = OFF;
     PRAGMA temp_store = MEMORY;";

/// For every other connection.
pub(super) const READER_PRAGMAS: &str = "PRAGMA cell_size_check = ON;
     PRAGMA mmap_size = 0;
     PRAGMA cache_size = -2048;
     PRAGMA wal_autocheckpoint = 0;
     PRAGMA temp_store = MEMORY;";

pub(super) const INSERT_JOB: &str = "INSERT INTO job \
     (id, state, attempts, due_ms, changed_ms, moving_sum, created_ms, route, card) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

pub(super) const TABLES: &[&str] =
    &["meta", "job", "request", "response", "attempt", "step", "pause", "operation"];

pub(super) fn migrate(t: &Transaction<'_>, found: u32) -> rusqlite::Result<()> {
    if found < 1 {
        // Without line breaks: SQLite keeps the text, and all of it has to fit on the first page, with which alone a
        // damaged file can be opened again (`source::open`).
        t.execute_batch(
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL, sum BLOB NOT NULL) WITHOUT ROWID; \
             CREATE TABLE job (id INTEGER PRIMARY KEY, state INTEGER NOT NULL, attempts INTEGER NOT NULL, \
                 due_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL, moving_sum BLOB NOT NULL, created_ms \
                 INTEGER NOT NULL, route TEXT NOT NULL, card BLOB NOT NULL); \
             CREATE INDEX finished ON job (state, changed_ms) WHERE state > 3; \
             CREATE TABLE request (id INTEGER PRIMARY KEY, sum BLOB NOT NULL, bytes BLOB NOT NULL); \
             CREATE TABLE response (id INTEGER PRIMARY KEY, sum BLOB NOT NULL, bytes BLOB NOT NULL); \
             CREATE TABLE attempt (job INTEGER NOT NULL, seq INTEGER NOT NULL, number INTEGER NOT NULL, \
                 began_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL, status INTEGER, text TEXT NOT NULL, \
                 PRIMARY KEY (job, seq)) WITHOUT ROWID; \
             CREATE TABLE step (job INTEGER NOT NULL, step INTEGER NOT NULL, undo INTEGER NOT NULL, at_ms \
                 INTEGER NOT NULL, sum BLOB NOT NULL, record BLOB NOT NULL, PRIMARY KEY (job, step, undo)) \
                 WITHOUT ROWID; \
             CREATE TABLE pause (scope TEXT PRIMARY KEY, since_ms INTEGER NOT NULL) WITHOUT ROWID; \
             CREATE TABLE operation (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, verb TEXT NOT NULL, \
                 what TEXT NOT NULL, count INTEGER NOT NULL, by_uid INTEGER NOT NULL);",
        )?;
        for key in [EPOCH, FORGOTTEN] {
            set_number(t, key, 0)?;
        }
    }
    if found == 1 {
        guard_due(t)?;
    }
    Ok(())
}

/// Since version 2 the checksum of a job that is to be sent guards when that is due.
fn guard_due(t: &Transaction<'_>) -> rusqlite::Result<()> {
    // An owner that still writes as before is one no longer. A number that cannot be read is told of when it is taken.
    if let Ok(epoch) = read::number(t, EPOCH) {
        set_number(t, EPOCH, epoch.saturating_add(1))?;
    }
    let mut rows = t.prepare(read::TO_BE_SENT)?;
    let mut rows = rows.query([])?;
    let mut guard = t.prepare("UPDATE job SET moving_sum = ?2 WHERE id = ?1")?;
    while let Some(row) = rows.next()? {
        let job = match Narrow::of(row) {
            Ok(job) => job,
            Err(Fault::Sql(cause)) => return Err(cause),
            Err(Fault::Wrong(_)) => continue,
        };
        // What is damaged stays so, and is told of when it is read.
        if let Some((state, attempts)) = job.standing_without_due() {
            let moving = Moving { state, attempts, changed_ms: job.changed_ms(), due_ms: job.due_ms() };
            guard.execute(params![job.id(), sum::moving(job.id(), moving)])?;
        }
    }
    Ok(())
}

/// The number of the newest owner.
pub(super) const EPOCH: &str = "epoch";
/// The highest number of a job that was forgotten, or that is passed over.
pub(super) const FORGOTTEN: &str = "forgotten";

/// How keys of [`ClockStep`](super::ClockStep)s begin.
const CLOCK: &str = "clock ";

/// The key of a step of the clock: its place among others and when it was, so that one number is left.
pub(super) fn clock_key(place: usize, at_ms: i64) -> String {
    format!("{CLOCK}{place} {at_ms}")
}

/// Its place and when it was, if this is the key of such a step.
pub(super) fn clock_of(key: &str) -> Option<(usize, i64)> {
    let (place, at_ms) = key.strip_prefix(CLOCK)?.split_once(' ')?;
    Some((place.parse().ok()?, at_ms.parse().ok()?))
}

/// Forgets how the clock was set.
pub(super) fn forget_clock(c: &Connection) -> rusqlite::Result<()> {
    c.prepare_cached("DELETE FROM meta WHERE substr(key, 1, length(?1)) = ?1")?.execute([CLOCK])?;
    Ok(())
}

/// Writes a number of the table `meta`.
pub(super) fn set_number(c: &Connection, key: &str, value: i64) -> rusqlite::Result<()> {
    c.prepare_cached("INSERT OR REPLACE INTO meta (key, value, sum) VALUES (?1, ?2, ?3)")?
        .execute(params![key, value, sum::number(key, value)])?;
    Ok(())
}
