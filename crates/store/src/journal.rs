//! The journal of queued requests, `queue.db`: what was accepted, what came of it, what operators did.
//!
//! | table | holds | written |
//! | --- | --- | --- |
//! | `meta` | the owner's epoch, the highest number that was forgotten, how the clock was set | once by every owner; when jobs are forgotten; when the clock is set |
//! | `job` | a narrow row for each job | when it is accepted and whenever it moves on |
//! | `request` | the encoded request | when it is accepted |
//! | `response` | the encoded answer | with the outcome |
//! | `attempt` | how attempts ended, for people | with the next attempt or the outcome |
//! | `step` | what is known of the steps of a saga | before and after each |
//! | `pause` | what an operator holds up | by operators |
//! | `operation` | the audit log | by operators, in the transaction of what it tells of |
//!
//! A job that goes well is two transactions: [`Journal::accept`] and one [`Change::Outcome`].
//!
//! - What was acknowledged is on disk, and in the next [`Recovered`].
//! - One owner: every batch checks the epoch, and an owner that was overtaken writes nothing.
//! - A failed fsync or damage ends all writing by this process ([`Journal::trouble`]); reads go on.
//! - Rows carry checksums ([`repair()`] tells by them what is whole).
//!
//! Whether something is attempted again, and when, is not known here.

mod card;
mod log;
mod read;
mod readers;
mod repair;
mod reserve;
mod retention;
mod row;
mod salvage;
mod schema;
mod source;
mod sum;
mod write;

pub use log::{CHECKPOINT_BYTES, LOG_LIMIT, LOG_WANTED};
pub use readers::READERS_KEPT;
pub use repair::{ASIDE_LIMIT, NAMED_LIMIT, Named, RepairError, RepairReport, repair};
pub use reserve::SAMPLE_AGE;
pub use row::{
    AttemptRecord, Change, ClockStep, Filter, Forgotten, Identity, JobId, JobRow, JobState, NewJob,
    Operation, Pause, Retention, Size, StepRecord,
};
pub use schema::SCHEMA_VERSION;

use crate::commit::{self, Cost, OpenError, Settings, Trouble, WriteError, Writer};
use bytes::Bytes;
use read::{Fault, Routes};
use readers::Readers;
use reserve::Reserve;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use write::{Prepared, Ready};

/// The most changes of one [`Change::Several`].
pub const SEVERAL_LIMIT: usize = 1_000;
/// The longest [`AttemptRecord::text`], in bytes. The rest of a longer one is not kept.
pub const ATTEMPT_TEXT_LIMIT: usize = 500;
/// The most jobs that one call of [`Journal::forget`] forgets.
pub const FORGET_LIMIT: u32 = 1_000;
/// How many bytes one call of [`Journal::forget`] forgets, about: it ends with the job that reaches them.
pub const FORGET_BYTES_LIMIT: u64 = 8 * 1024 * 1024;
/// How many writes may wait for the disk; more get [`WriteError::Busy`].
pub const QUEUE_LIMIT: usize = 16_384;
/// How many writes may wait for the disk before nothing is accepted any longer; the rest is for outcomes.
pub const ACCEPT_QUEUE_LIMIT: usize = 8_192;
/// How many bytes may wait for the disk before nothing is accepted any longer.
pub const ACCEPT_BYTES_LIMIT: usize = 64 * 1024 * 1024;
/// The most rows that one call of [`Journal::list`] or [`Journal::operations`] returns.
pub const LIST_LIMIT: u32 = 10_000;
/// The most steps of the clock that are kept ([`Change::Clock`]).
pub const CLOCK_STEPS_LIMIT: usize = 16;
/// The command that calls [`repair()`].
pub const REPAIR_HINT: &str = "mainstay queue repair ENV";
/// How many rows a [`Scan`] reads at once.
const SCAN_ROWS: u32 = 4_096;

/// How a journal is opened.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// Bytes that stay free on the disk: below, nothing is accepted, but outcomes are still written.
    pub reserve_bytes: u64,
    /// The SQLite VFS to open the file with, registered by the caller. None: the system's.
    pub vfs: Option<String>,
    /// How many bytes the log has from the beginning. A commit that makes the log longer takes about twice as long as
    /// one that writes over what is there, because the file system then has a change of its own to bring to the disk.
    pub log_bytes: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { reserve_bytes: 64 * 1024 * 1024, vfs: None, log_bytes: LOG_WANTED }
    }
}

/// The journal of one environment. Clones are the same journal.
#[derive(Debug, Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    // Closed before the writer: whoever closes the file last brings the log into it, and a reader cannot.
    readers: Arc<Readers>,
    writer: Writer,
    reserve: Arc<Reserve>,
}

/// What a journal held when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// The number of the next job.
    pub next: JobId,
    /// The epoch that this owner took; every older owner is fenced off.
    pub epoch: u64,
    /// What is paused.
    pub paused: Vec<Pause>,
    /// How the clock was set while former owners had the file open, old to new.
    pub clock: Vec<ClockStep>,
    /// Every job that is pending, dead or rejected, or has a key, in the order of their numbers.
    pub jobs: Scan,
}

/// Reads narrow rows, in the order of their numbers, some thousand at a time. Ends after its first error.
#[derive(Debug)]
pub struct Scan {
    readers: Arc<Readers>,
    routes: Routes,
    rows: std::vec::IntoIter<JobRow>,
    after: i64,
    /// What is accepted meanwhile is not among what was found.
    until: JobId,
    ended: bool,
}

impl Iterator for Scan {
    type Item = Result<JobRow, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.by_ref().find(|row| !row.state.is_final() || row.key.is_some()) {
                return Some(Ok(row));
            }
            if self.ended {
                return None;
            }
            let (routes, after) = (&mut self.routes, self.after);
            match self.readers.read(|c| read::after(c, routes, after, SCAN_ROWS)) {
                Ok(mut rows) => {
                    rows.truncate(rows.partition_point(|row| row.id < self.until));
                    self.ended = rows.len() < SCAN_ROWS as usize;
                    self.after = rows.last().map_or(after, |row| row.id.0.cast_signed());
                    self.rows = rows.into_iter();
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The file is damaged.
    #[error("{path} is damaged: {cause}; hint: {REPAIR_HINT}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
    /// The file could not be read.
    #[error("cannot read {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
}

impl Journal {
    /// Opens or creates the file at `path` and takes its ownership: whoever had it open before writes nothing
    /// any longer ([`WriteError::Fenced`]).
    ///
    /// Everything that a former owner left in the log is brought into the file first. Rows are checked when they are
    /// read: [`Recovered::jobs`] ends with an error at the first one that is not what was written.
    pub fn open(path: &Path, options: JournalOptions) -> Result<(Self, Recovered), OpenError> {
        Self::open_file(path, options).map_err(|error| match error {
            OpenError::Damaged { path, cause, .. } => {
                OpenError::Damaged { path, cause, hint: Some(REPAIR_HINT) }
            }
            other @ (OpenError::Newer { .. } | OpenError::Sqlite { .. } | OpenError::Unusable { .. }) => {
                other
            }
        })
    }

    fn open_file(path: &Path, options: JournalOptions) -> Result<(Self, Recovered), OpenError> {
        let JournalOptions { reserve_bytes, vfs, log_bytes } = options;
        let mut settings = Settings {
            vfs: vfs.clone(),
            queue: QUEUE_LIMIT,
            pragmas: schema::PRAGMAS,
            ..Settings::default()
        };
        refuse_under_repair(path)?;
        let mut connection = commit::connect(path, SCHEMA_VERSION, &settings, schema::migrate)?;
        // Once more: from here on a repair sees that the file is in use.
        refuse_under_repair(path)?;
        let failed = |fault: Fault| match fault {
            Fault::Sql(cause) => OpenError::of(path, cause),
            Fault::Wrong(cause) => OpenError::Damaged { path: path.to_owned(), cause, hint: None },
        };
        log::empty(&connection).map_err(|cause| OpenError::of(path, cause))?;
        let epoch = take(&mut connection).map_err(failed)?;
        let reserve = Arc::new(Reserve::new(path, reserve_bytes));
        if vfs.is_none() {
            log::make_room(&mut connection, path, log_bytes, &reserve);
        }
        let next = next(&connection).map_err(failed)?;
        let paused = read::paused(&connection).map_err(failed)?;
        let clock = read::clock(&connection).map_err(failed)?;

        let trouble = Trouble::default();
        settings.guard = Some(Box::new(move |c| match read::number(c, schema::EPOCH)? {
            newest if newest == epoch => Ok(()),
            newest => Err(WriteError::Fenced { newest: newest.cast_unsigned(), ours: epoch.cast_unsigned() }),
        }));
        settings.between = Some(log::keep_short(path, vfs.as_deref(), trouble.clone())?);
        let readers = Arc::new(Readers::new(path, vfs, trouble.clone()));
        let writer = commit::start(path, connection, settings, trouble)?;
        let jobs = Scan {
            readers: readers.clone(),
            routes: Routes::default(),
            rows: Vec::new().into_iter(),
            after: 0,
            until: next,
            ended: false,
        };
        let inner = Arc::new(Inner { path: path.to_owned(), writer, readers, reserve });
        Ok((Self { inner }, Recovered { next, epoch: epoch.cast_unsigned(), paused, clock, jobs }))
    }

    /// Transaction 1: the job and its request. `done` is called on the writer's thread once both are on disk, or
    /// are not, and must be short; before those of other changes of the same commit, which nobody's client waits for. If
    /// nothing can be written, it is called on this thread.
    pub fn accept(&self, job: NewJob, done: impl FnOnce(Result<(), WriteError>) + Send + 'static) {
        let writer = &self.inner.writer;
        if writer.waiting() >= ACCEPT_QUEUE_LIMIT || writer.waiting_bytes() >= ACCEPT_BYTES_LIMIT {
            return done(Err(commit::busy(writer.waiting())));
        }
        let job = match Prepared::new(job) {
            Ok(job) => job,
            Err(why) => return done(Err(why)),
        };
        let cost = Cost { bytes: job.bytes(), may_fail_halfway: false, may_wait: false, is_new: true };
        let reserve = self.inner.reserve.clone();
        writer.submit(cost, move |t| write::accept(t, &job, &reserve), done);
    }

    /// One transaction with what changed; `done` as in [`accept`](Self::accept).
    pub fn update(&self, change: Change, done: impl FnOnce(Result<(), WriteError>) + Send + 'static) {
        self.change(change, false, done);
    }

    /// The same for what nobody waits for: it waits itself, at most for [`commit::PATIENCE`], so that it shares a commit
    /// with others like it. Of what is handed in after it only new jobs are written before it. No other change of the
    /// same job may be under way: that might come after this one.
    pub fn update_soon(&self, change: Change, done: impl FnOnce(Result<(), WriteError>) + Send + 'static) {
        self.change(change, true, done);
    }

    fn change(
        &self,
        change: Change,
        may_wait: bool,
        done: impl FnOnce(Result<(), WriteError>) + Send + 'static,
    ) {
        let ready = match Ready::new(change) {
            Ok(ready) => ready,
            Err(why) => return done(Err(why)),
        };
        let cost = Cost {
            bytes: ready.bytes(),
            may_fail_halfway: ready.may_fail_halfway(),
            may_wait,
            is_new: false,
        };
        let reserve = self.inner.reserve.clone();
        self.inner.writer.submit(cost, move |t| ready.apply(t, &reserve), done);
    }

    /// Forgets jobs that have been finished for long, with all that belongs to them, and gives room that is no
    /// longer needed back to the disk. `done` as in [`accept`](Self::accept).
    pub fn forget(
        &self,
        retention: Retention,
        done: impl FnOnce(Result<Forgotten, WriteError>) + Send + 'static,
    ) {
        let cost = Cost { bytes: 0, may_fail_halfway: true, may_wait: false, is_new: false };
        let work = move |t: &rusqlite::Transaction<'_>| {
            let forgotten = retention::forget(t, retention)?;
            retention::give_back(t)?;
            Ok(forgotten)
        };
        self.inner.writer.submit(cost, work, done);
    }

    /// Closes the file for all clones: what was handed in before is written, later writes get [`WriteError::Broken`]
    /// and reads [`ReadError::Unreadable`]. The log is brought into the file and removed, so that the file alone is all
    /// there is; but not where there is [trouble](Self::trouble), or another process has the file open.
    ///
    /// Blocks, at most for `limit`; not for a `done`, for whose return this would wait. False: the disk or who reads
    /// takes longer than that. Nothing is lost: what is in the log is there when the file is opened again.
    pub fn close(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        // These first: who closes the file last brings the log into it, and a reader cannot.
        let readers = self.inner.readers.close(until);
        let writer = self.inner.writer.close(until);
        readers && writer
    }

    /// Why nothing is written any longer, if so: fenced off, broken or damaged.
    pub fn trouble(&self) -> Option<WriteError> {
        self.inner.writer.trouble().get()
    }

    /// The encoded request of a job.
    pub fn request(&self, id: JobId) -> Result<Option<Bytes>, ReadError> {
        self.of(id, None, read::request)
    }

    /// The encoded response of a job.
    pub fn response(&self, id: JobId) -> Result<Option<Bytes>, ReadError> {
        self.of(id, None, read::response)
    }

    /// A job without its request.
    pub fn job(&self, id: JobId) -> Result<Option<JobRow>, ReadError> {
        self.of(id, None, read::job)
    }

    /// What a repeated request is compared with.
    pub fn identity(&self, id: JobId) -> Result<Option<Identity>, ReadError> {
        self.of(id, None, read::identity)
    }

    /// The attempts of a job that were recorded, in order.
    pub fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>, ReadError> {
        self.of(id, Vec::new(), read::attempts)
    }

    /// What is known of the steps of a saga, in order, each before its undo.
    pub fn steps(&self, id: JobId) -> Result<Vec<StepRecord>, ReadError> {
        self.of(id, Vec::new(), read::steps)
    }

    /// Jobs after `after` that fit `filter`, in the order of their numbers, at most `limit`.
    pub fn list(&self, filter: &Filter, after: JobId, limit: u32) -> Result<Vec<JobRow>, ReadError> {
        // No job has a higher number than SQLite can hold.
        let after = i64::try_from(after.0).unwrap_or(i64::MAX);
        self.inner.readers.read(|c| read::list(c, filter, after, limit.min(LIST_LIMIT)))
    }

    /// Dead jobs of which an undo of a step is recorded, in whichever run of their saga.
    pub fn dead_with_undo(&self) -> Result<Vec<JobId>, ReadError> {
        self.inner.readers.read(read::dead_with_undo)
    }

    /// How many jobs have an outcome, by state; states without any are left out. Those that have none are known to
    /// whoever delivers them.
    pub fn outcomes(&self) -> Result<Vec<(JobState, u64)>, ReadError> {
        self.inner.readers.read(read::outcomes)
    }

    /// What is paused.
    pub fn paused(&self) -> Result<Vec<Pause>, ReadError> {
        self.inner.readers.read(read::paused)
    }

    /// The newest entries of the audit log with their numbers, newest first, at most `limit`; of those before the
    /// number `before`, if that is given.
    pub fn operations(&self, before: Option<u64>, limit: u32) -> Result<Vec<(u64, Operation)>, ReadError> {
        // None has a higher number than SQLite can hold.
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        self.inner.readers.read(|c| read::operations(c, before, limit.min(LIST_LIMIT)))
    }

    /// What the journal takes on disk.
    pub fn size(&self) -> Result<Size, ReadError> {
        // No log: nothing was written yet.
        let log = std::fs::metadata(log::path_of(&self.inner.path)).map_or(0, |found| found.len());
        self.inner.readers.read(|c| read::size(c, log))
    }

    /// What belongs to one job; `none` where the number cannot be one's.
    fn of<T>(
        &self,
        id: JobId,
        none: T,
        read: impl FnOnce(&Connection, i64) -> Result<T, Fault>,
    ) -> Result<T, ReadError> {
        i64::try_from(id.0).map_or(Ok(none), |id| self.inner.readers.read(|c| read(c, id)))
    }
}

fn refuse_under_repair(path: &Path) -> Result<(), OpenError> {
    match repair::is_under_way(path) {
        Ok(false) => Ok(()),
        Ok(true) => {
            let cause = "a repair is under way, or was interrupted".to_owned();
            Err(OpenError::Damaged { path: path.to_owned(), cause, hint: None })
        }
        Err(cause) => Err(OpenError::of(path, rusqlite::Error::ToSqlConversionFailure(Box::new(cause)))),
    }
}

/// Takes the ownership.
fn take(connection: &mut Connection) -> Result<i64, Fault> {
    let t = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let newest = read::number(&t, schema::EPOCH)?;
    let epoch = newest.checked_add(1).ok_or_else(|| Fault::Wrong(format!("the epoch is {newest}")))?;
    schema::set_number(&t, schema::EPOCH, epoch)?;
    t.commit()?;
    Ok(epoch)
}

/// The number after every one that was ever used.
fn next(c: &Connection) -> Result<JobId, Fault> {
    let used =
        |table| c.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| row.get::<_, Option<i64>>(0));
    let highest =
        read::number(c, schema::FORGOTTEN)?.max(used("job")?.unwrap_or(0)).max(used("request")?.unwrap_or(0));
    match u64::try_from(highest) {
        Ok(highest) if highest < i64::MAX.cast_unsigned() => Ok(JobId(highest + 1)),
        _ => Err(Fault::Wrong(format!("the highest number of a job is {highest}"))),
    }
}

#[cfg(test)]
mod tests;
