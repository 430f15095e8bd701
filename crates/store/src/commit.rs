//! Group commit: the one thread that writes to one SQLite file.

use rusqlite::{Connection, ErrorCode, Transaction};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How many writes may wait for the writer. More wait in [`Writer::write`], which is the back pressure.
pub const QUEUE_LIMIT: usize = 1024;
/// How many writes share one commit at most, so that the first does not wait for too many others.
pub const BATCH_LIMIT: usize = 256;
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
    /// Not a database, no permission, no space, and the like.
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
    /// A newer agent has taken over. Nothing was written.
    #[error("a newer agent has taken over (token {newest}, ours {ours})")]
    Fenced {
        /// The token in the file.
        newest: u64,
        /// The token of this process.
        ours: u64,
    },
    /// A write or fsync failed: what is on disk is not known. The file is not written again by this
    /// process.
    #[error("writing failed, the file is not trusted any longer: {0}")]
    Broken(String),
    /// The write itself is wrong (a constraint). Nothing was written.
    #[error("refused by the database: {0}")]
    Refused(String),
}

type Job = Box<dyn FnOnce(&mut Batch<'_>) + Send>;

/// Called once the batch of a job is on disk, or is not.
type Reply = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

/// A batch in the making: jobs add what is to be called once the commit has gone through or failed.
struct Batch<'c> {
    transaction: Transaction<'c>,
    replies: Vec<Reply>,
    /// SQLite undoes the whole transaction by itself on some errors (a full disk among them): then every
    /// job of the batch has failed.
    lost: Option<WriteError>,
}

/// Hands writes to the writer thread. Clones speak to the same thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Writer {
    jobs: mpsc::Sender<JobBox>,
}

/// Lets [`Writer`] be `Debug` although a job is a closure.
struct JobBox(Job);

impl std::fmt::Debug for JobBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("job")
    }
}

/// Opens `path`, brings its schema to `version` with `migrate` (called with the version found, inside a
/// transaction), and starts the writer thread.
pub fn open(
    path: &Path,
    version: u32,
    migrate: impl FnOnce(&Transaction<'_>, u32) -> rusqlite::Result<()>,
) -> Result<Writer, OpenError> {
    let found = rusqlite::version_number();
    if found < OLDEST_SQLITE {
        return Err(OpenError::Sqlite { found });
    }
    let unusable = |cause| OpenError::Unusable { path: path.to_owned(), cause };
    // SQLite gives the files beside it the mode of this one.
    let made = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    made.map_err(|e| unusable(rusqlite::Error::ToSqlConversionFailure(Box::new(e))))?;
    let mut connection = Connection::open(path).map_err(unusable)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(unusable)?;
    // The version is read before anything is written, so that a newer file is left as it is.
    let found: u32 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unusable)?;
    if found > version {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: version });
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(unusable)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(unusable)?;
    connection.pragma_update(None, "foreign_keys", "ON").map_err(unusable)?;
    let transaction = connection.transaction().map_err(unusable)?;
    migrate(&transaction, found).map_err(unusable)?;
    transaction.pragma_update(None, "user_version", version).map_err(unusable)?;
    transaction.commit().map_err(unusable)?;

    let (jobs, queue) = mpsc::channel(QUEUE_LIMIT);
    std::thread::Builder::new()
        .name("store".into())
        .spawn(move || run(connection, queue))
        .map_err(|e| unusable(rusqlite::Error::ToSqlConversionFailure(Box::new(e))))?;
    Ok(Writer { jobs })
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
        let job: Job = Box::new(move |batch| match in_savepoint(&batch.transaction, work) {
            Ok(value) => batch.replies.push(Box::new(move |committed| {
                // The caller may have stopped waiting; the write stands.
                let _ = reply.send(committed.map(|()| value));
            })),
            Err(error) => {
                if batch.transaction.is_autocommit() {
                    batch.lost = Some(error.clone());
                }
                let _ = reply.send(Err(error));
            }
        });
        let gone = || WriteError::Broken("the writer has ended".into());
        self.jobs.send(JobBox(job)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn in_savepoint<T>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, WriteError>,
) -> Result<T, WriteError> {
    transaction.execute_batch("SAVEPOINT job").map_err(WriteError::from)?;
    match work(transaction) {
        Ok(value) => {
            transaction.execute_batch("RELEASE job")?;
            Ok(value)
        }
        Err(error) => {
            if !transaction.is_autocommit() {
                transaction.execute_batch("ROLLBACK TO job; RELEASE job")?;
            }
            Err(error)
        }
    }
}

fn run(mut connection: Connection, mut queue: mpsc::Receiver<JobBox>) {
    let mut broken: Option<WriteError> = None;
    while let Some(first) = queue.blocking_recv() {
        if broken.is_some() {
            // Dropping a job drops its reply: the caller hears that the writer has ended.
            continue;
        }
        let transaction = match connection.transaction() {
            Ok(transaction) => transaction,
            Err(error) => {
                broken = Some(error.into());
                continue;
            }
        };
        let mut batch = Batch { transaction, replies: Vec::new(), lost: None };
        (first.0)(&mut batch);
        for _ in 1..BATCH_LIMIT {
            if batch.lost.is_some() {
                break;
            }
            let Ok(next) = queue.try_recv() else { break };
            (next.0)(&mut batch);
        }
        let committed = match batch.lost {
            Some(error) => Err(error),
            None => batch.transaction.commit().map_err(WriteError::from),
        };
        if let Err(error @ WriteError::Broken(_)) = &committed {
            broken = Some(error.clone());
        }
        for reply in batch.replies {
            reply(committed.clone());
        }
    }
}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ConstraintViolation) => Self::Refused(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(folder: &Path) -> Writer {
        open(&folder.join("n.db"), 1, |t, _| {
            t.execute_batch("CREATE TABLE IF NOT EXISTS n (n INTEGER PRIMARY KEY, b BLOB)")
        })
        .unwrap()
    }

    async fn insert(writer: &Writer, n: i64, size: usize) -> Result<(), WriteError> {
        writer
            .write(move |t| {
                t.execute("INSERT INTO n VALUES (?1, zeroblob(?2))", (n, size as i64))?;
                Ok(())
            })
            .await
    }

    async fn count(writer: &Writer) -> i64 {
        writer.write(|t| Ok(t.query_row("SELECT count(*) FROM n", [], |row| row.get(0))?)).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_acknowledged_is_there_after_the_writer_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let writer = numbers(folder.path());
        let writes: Vec<_> = (0..500)
            .map(|n| {
                let writer = writer.clone();
                tokio::spawn(async move { insert(&writer, n, 10).await })
            })
            .collect();
        for write in writes {
            write.await.unwrap().unwrap();
        }
        drop(writer);
        assert_eq!(count(&numbers(folder.path())).await, 500);
    }

    #[tokio::test]
    async fn a_refused_write_leaves_its_batch_alone() {
        let folder = tempfile::tempdir().unwrap();
        let writer = numbers(folder.path());
        let (a, b, c) = tokio::join!(insert(&writer, 1, 1), insert(&writer, 1, 1), insert(&writer, 2, 1));
        assert_eq!([a.is_ok(), b.is_ok(), c.is_ok()].iter().filter(|ok| **ok).count(), 2);
        assert_eq!(count(&writer).await, 2);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_then_works_again() {
        let folder = tempfile::tempdir().unwrap();
        let writer = numbers(folder.path());
        insert(&writer, 1, 1).await.unwrap();
        let limit = |pages: i64| {
            writer.write(move |t| {
                t.pragma_update(None, "max_page_count", pages)?;
                Ok(())
            })
        };
        limit(4).await.unwrap();
        // Whatever shares the batch of the write that fails is not acknowledged either, or is there.
        let (small, large) = tokio::join!(insert(&writer, 9, 1), insert(&writer, 2, 100_000));
        assert_eq!(large, Err(WriteError::Full));
        let there = if small.is_ok() { 2 } else { 1 };
        assert_eq!(count(&writer).await, there);
        limit(1_000_000).await.unwrap();
        insert(&writer, 3, 100_000).await.unwrap();
        assert_eq!(count(&writer).await, there + 1);
    }

    #[tokio::test]
    async fn the_files_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let writer = numbers(folder.path());
        insert(&writer, 1, 1).await.unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        }
    }

    #[tokio::test]
    async fn a_newer_file_is_refused_by_name_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = open(&path, 1, |_, _| Ok(())).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 7, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("n.db was written by a newer mainstay"));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
