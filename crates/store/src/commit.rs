//! Group commit: the one thread that writes to one SQLite file.

mod batch;
mod end;
mod later;

pub(crate) use end::Writing;

use batch::{Job, Submitted, Thread};
use end::{End, Over};
use later::Later;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// How many writes may wait for the writer. More wait in [`Writer::write`], which is the back pressure.
pub const QUEUE_LIMIT: usize = 1024;
/// How many writes share one commit at most, so that the first does not wait for too many others.
pub const BATCH_LIMIT: usize = 256;
/// How many bytes share one commit, about: the batch ends with the write that reaches them.
pub const BATCH_BYTES_LIMIT: usize = 8 * 1024 * 1024;
/// How long writes that may wait do so, at most, before they are written by themselves. After half of that they share
/// the next commit.
pub const PATIENCE: Duration = Duration::from_millis(10);
/// How many prepared statements a connection keeps.
pub(crate) const STATEMENTS_KEPT: usize = 64;
/// How long SQLite waits for another process that holds the file, such as a backup.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The oldest SQLite that is used: 3.51.3 mends a rare loss of WAL frames at checkpoints.
pub const OLDEST_SQLITE: i32 = 3_051_003;

/// Why a file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by a newer mainstay.
    #[error("{path} was written by a newer mainstay (version {found}, this one knows {known})")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version this program reads.
        known: u32,
    },
    /// SQLite is too old to be trusted with the write-ahead log.
    #[error("SQLite {found} is older than {OLDEST_SQLITE}")]
    Sqlite {
        /// Its version number.
        found: i32,
    },
    /// What is in the file makes no sense.
    #[error("{path} is damaged: {cause}{}", hint.map(|hint| format!("; hint: {hint}")).unwrap_or_default())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: String,
        /// The command that saves what is whole, if there is one.
        hint: Option<&'static str>,
    },
    /// No permission, no space, and the like.
    #[error("cannot open {path}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        cause: rusqlite::Error,
    },
}

/// Why a write is not on disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// No space is left. Nothing was written; the next write may work.
    #[error("the disk is full")]
    Full,
    /// A newer owner has taken over. Nothing was written.
    #[error("a newer owner has taken over (token {newest}, ours {ours})")]
    Fenced {
        /// The token in the file.
        newest: u64,
        /// Ours.
        ours: u64,
    },
    /// A write or fsync failed: what is on disk is not known. The file is not written again by this
    /// process.
    #[error("writing failed, the file is not trusted any longer: {0}")]
    Broken(String),
    /// Less is free on the disk than is kept for outcomes. Nothing was written; the next write may work.
    #[error(
        "only {free} bytes are free on the disk, {reserve} are kept for the outcomes of what was accepted"
    )]
    Reserve {
        /// Bytes that are free.
        free: u64,
        /// Bytes that have to stay free.
        reserve: u64,
    },
    /// Too many writes wait for the disk, or another process holds the file. Nothing was written; the next write
    /// may work.
    #[error("nothing can be written at the moment: {0}")]
    Busy(String),
    /// The file is damaged: it is not written again before it is repaired.
    #[error("the file is damaged, it is not written any longer: {0}")]
    Damaged(String),
    /// The write itself is wrong (a constraint). Nothing was written.
    #[error("refused by the database: {0}")]
    Refused(String),
}

/// How a file is opened and its writer runs.
pub(crate) struct Settings {
    /// The SQLite VFS, registered by the caller. None: the system's.
    pub(crate) vfs: Option<String>,
    /// How many writes may wait for the writer.
    pub(crate) queue: usize,
    /// Statements for a connection to the file, run before its schema is looked at.
    pub(crate) pragmas: &'static str,
    /// Asked in every batch before its first job. An error ends all writing for good.
    pub(crate) guard: Option<Guard>,
    /// Called between batches, outside of any transaction.
    pub(crate) between: Option<Between>,
}

/// See [`Settings::guard`].
pub(crate) type Guard = Box<dyn FnMut(&Connection) -> Result<(), WriteError> + Send>;
/// See [`Settings::between`].
pub(crate) type Between = Box<dyn FnMut(&Connection) -> Result<(), WriteError> + Send>;

impl Default for Settings {
    fn default() -> Self {
        let pragmas = "PRAGMA foreign_keys = ON;";
        Self { vfs: None, queue: QUEUE_LIMIT, pragmas, guard: None, between: None }
    }
}

/// Hands writes to the writer thread. Clones speak to the same thread, which ends with the last of them.
#[derive(Clone)]
pub struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
    later: Arc<Later>,
    waiting_bytes: Arc<AtomicUsize>,
    trouble: Trouble,
    thread: std::thread::Thread,
    end: Arc<End>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("trouble", &self.trouble).finish_non_exhaustive()
    }
}

/// Why a file is not written any longer, once it is not. The first reason stays.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trouble(Arc<OnceLock<WriteError>>);

impl Trouble {
    pub(crate) fn get(&self) -> Option<WriteError> {
        self.0.get().cloned()
    }

    pub(crate) fn set(&self, why: WriteError) {
        // A second reason adds nothing.
        let _ = self.0.set(why);
    }
}

/// Opens `path`, brings its schema to `version` with `migrate` (called with the version found, inside a
/// transaction), and starts the writer thread.
pub fn open(
    path: &Path,
    version: u32,
    migrate: impl FnOnce(&Transaction<'_>, u32) -> rusqlite::Result<()>,
) -> Result<Writer, OpenError> {
    let settings = Settings::default();
    let connection = connect(path, version, &settings, migrate)?;
    start(path, connection, settings, Trouble::default())
}

/// The first part of [`open`]: the connection that will be the writer's.
pub(crate) fn connect(
    path: &Path,
    version: u32,
    settings: &Settings,
    migrate: impl FnOnce(&Transaction<'_>, u32) -> rusqlite::Result<()>,
) -> Result<Connection, OpenError> {
    let found = rusqlite::version_number();
    if found < OLDEST_SQLITE {
        return Err(OpenError::Sqlite { found });
    }
    let unusable = |cause: rusqlite::Error| OpenError::of(path, cause);
    if settings.vfs.is_none() {
        // SQLite gives the files beside it the mode of this one.
        let made = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        made.map_err(|e| unusable(rusqlite::Error::ToSqlConversionFailure(Box::new(e))))?;
    }
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = connection(path, flags, settings.vfs.as_deref()).map_err(unusable)?;
    // The version is read before anything is written, so that a newer file is left as it is.
    let found: u32 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unusable)?;
    if found > version {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: version });
    }
    connection.execute_batch(settings.pragmas).map_err(unusable)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(unusable)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(unusable)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(unusable)?;
    migrate(&transaction, found).map_err(unusable)?;
    transaction.pragma_update(None, "user_version", version).map_err(unusable)?;
    transaction.commit().map_err(unusable)?;
    Ok(connection)
}

/// A connection that waits for others.
pub(crate) fn connection(path: &Path, flags: OpenFlags, vfs: Option<&str>) -> rusqlite::Result<Connection> {
    let connection = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
        None => Connection::open_with_flags(path, flags)?,
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Otherwise a statement that meets a partial index is planned anew with every value that is bound to it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// The second part of [`open`]: the thread.
pub(crate) fn start(
    path: &Path,
    connection: Connection,
    settings: Settings,
    trouble: Trouble,
) -> Result<Writer, OpenError> {
    let (jobs, queue) = mpsc::channel(settings.queue);
    let later = Arc::new(Later::default());
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let end = Arc::new(End::default());
    let thread = Thread {
        queue,
        later: later.clone(),
        waiting_bytes: waiting_bytes.clone(),
        trouble: trouble.clone(),
        guard: settings.guard,
        between: settings.between,
        end: end.clone(),
    };
    let over = Over(end.clone());
    let started = std::thread::Builder::new()
        .name("store".into())
        .spawn(move || {
            let _over = over;
            thread.run(connection);
        })
        .map_err(|e| OpenError::of(path, rusqlite::Error::ToSqlConversionFailure(Box::new(e))))?;
    Ok(Writer { jobs, later, waiting_bytes, trouble, thread: started.thread().clone(), end })
}

impl Writer {
    /// Runs `work` in the next batch and answers once it is on disk. An error of `work` undoes only its own
    /// part of the batch. Cancel-safe in the sense that a caller who stops waiting has written all the same.
    pub async fn write<T, F>(&self, work: F) -> Result<T, WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, WriteError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Submitted {
            work: Some(work),
            made: None,
            // The caller may have stopped waiting; the write stands.
            done: move |result| drop(reply.send(result)),
            cost: Cost { bytes: 0, may_fail_halfway: true, may_wait: false, is_new: false },
        });
        self.jobs.send(job).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Runs `work` in the next batch and calls `done`, on the writer's thread, once it is on disk or is not.
    /// `done` is called on this thread, at once, where the queue is full ([`WriteError::Busy`]).
    pub(crate) fn submit<T, W, D>(&self, cost: Cost, work: W, done: D)
    where
        T: Send + 'static,
        W: FnOnce(&Transaction<'_>) -> Result<T, WriteError> + Send + 'static,
        D: FnOnce(Result<T, WriteError>) + Send + 'static,
    {
        let bytes = cost.bytes;
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut job: Box<dyn Job> = Box::new(Submitted { work: Some(work), made: None, done, cost });
        if cost.may_wait {
            job = match self.later.put(job) {
                Ok(is_first) => {
                    if is_first {
                        self.thread.unpark();
                    }
                    return;
                }
                Err(job) => job,
            };
        }
        let (job, why) = match self.jobs.try_send(job) {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => (job, busy(self.waiting())),
            Err(TrySendError::Closed(job)) => (job, gone()),
        };
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        job.answer(Err(why));
    }

    /// Ends the thread although there may be clones: what was handed in before is written, what comes later is refused
    /// ([`WriteError::Broken`]). Waits until then for the thread to have closed its connection. False: it has not yet,
    /// and goes on with that.
    pub(crate) fn close(&self, until: Instant) -> bool {
        self.end.ask();
        self.thread.unpark();
        self.end.is_over_by(until)
    }

    /// How many writes wait for the writer.
    pub(crate) fn waiting(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }

    /// About how many bytes these are.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// Why nothing is written any longer, if so.
    pub(crate) fn trouble(&self) -> &Trouble {
        &self.trouble
    }
}

/// What the writer has to know of a write beforehand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// About how many bytes it writes.
    pub(crate) bytes: usize,
    /// Whether it may be refused after it has written something, so that it needs a savepoint. A write that says no
    /// and fails all the same, other than by [`WriteError::Refused`] or [`WriteError::Reserve`], takes its whole
    /// batch with it.
    pub(crate) may_fail_halfway: bool,
    /// Whether it may wait for [`PATIENCE`], so that a write that follows soon does not wait for its commit. Only for
    /// what is about nothing that is being written at the same time, before which it might come.
    pub(crate) may_wait: bool,
    /// Whether it is about nothing that was handed in before it. It may then be written before writes that wait, and
    /// its `done` is called before those of others in its batch; among themselves they keep their order.
    pub(crate) is_new: bool,
}

fn gone() -> WriteError {
    WriteError::Broken("the writer has ended".into())
}

/// That `waiting` writes are too many.
pub(crate) fn busy(waiting: usize) -> WriteError {
    WriteError::Busy(format!("{waiting} writes wait for the disk"))
}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ConstraintViolation) => Self::Refused(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Busy("another process holds the file".into())
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
    }
}

impl OpenError {
    pub(crate) fn of(path: &Path, cause: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match cause.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, cause: cause.to_string(), hint: None }
            }
            _ => Self::Unusable { path, cause },
        }
    }
}

#[cfg(test)]
mod tests;
