//! The SQLite file: how it is opened, made and filled, and the few threads that work on it.
//!
//! Several processes on one file is the normal case, so each writes in `BEGIN IMMEDIATE` transactions and
//! waits its turn; nothing is kept in memory that another process could change behind its back.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use tokio::sync::oneshot;

use crate::shoes;

/// The database's name in the data folder.
const FILE: &str = "shop.db";
/// The `user_version` of the schema below; 0 is an empty file.
const SCHEMA_VERSION: i64 = 1;
/// How long a statement waits for another process to give up its lock.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// The same while opening: another process may be filling the database at that moment, on a slow disk.
const OPEN_WAIT: Duration = Duration::from_secs(30);
/// How often it looks meanwhile. SQLite's own handler backs off to 100 ms, so that a process which lost a
/// few rounds keeps losing them to one that never stops writing; a short steady pause keeps it fair.
const BUSY_POLL: Duration = Duration::from_millis(1);
/// Orders that may wait for the writer; the next one is refused with 503.
const WRITES_WAITING: usize = 128;
/// Reads that may wait for a reader; the next one is refused with 503.
const READS_WAITING: usize = 256;
/// Connections that read; two keep one slow search from holding up every page.
const READERS: usize = 2;
/// How long a job may wait in line before it is refused instead of done.
const LINE_WAIT: Duration = Duration::from_secs(5);

/// `products.id` is the place in the catalogue, from 1 and without gaps: products are never taken out.
/// `product_words` is a full-text index (FTS5) over `products` that stores no text of its own. The shop
/// never changes a product's words, so no trigger keeps it up to date. `orders.ref` is the customer's own
/// reference and deliberately not unique: an order that was taken twice must be visible as two.
const SCHEMA: &str = "
CREATE TABLE products (
    id          INTEGER PRIMARY KEY,
    sku         TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    brand       TEXT NOT NULL,
    price       INTEGER NOT NULL CHECK (price >= 0),
    description TEXT NOT NULL,
    stock       INTEGER NOT NULL CHECK (stock >= 0)
) STRICT;
CREATE VIRTUAL TABLE product_words USING fts5(name, brand, description, content='products', content_rowid='id');
CREATE TABLE orders (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    ref             TEXT NOT NULL,
    customer        TEXT NOT NULL,
    total           INTEGER NOT NULL CHECK (total >= 0),
    created         TEXT NOT NULL,
    idempotency_key TEXT UNIQUE
) STRICT;
CREATE INDEX orders_by_ref ON orders (ref);
CREATE TABLE order_items (
    order_id INTEGER NOT NULL REFERENCES orders (id),
    position INTEGER NOT NULL,
    sku      TEXT NOT NULL REFERENCES products (sku),
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    price    INTEGER NOT NULL CHECK (price >= 0),
    PRIMARY KEY (order_id, position)
) STRICT, WITHOUT ROWID;
";

/// Whether opening had to make the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seeded {
    /// It was made and filled just now, by this process.
    Now,
    /// It was there.
    Before,
}

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The data folder cannot be made.
    #[error("cannot make the data folder `{}`", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// SQLite refuses: not a database, no permission, full disk, or locked for longer than the wait.
    #[error("cannot open the database `{}`", path.display())]
    Sqlite {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    /// Made by a shop with another schema.
    #[error("the database `{}` has schema {found}, this shop knows {SCHEMA_VERSION}; hint: run the shop that made it, or name another folder", path.display())]
    OtherSchema { path: PathBuf, found: i64 },
    /// The system gives no thread.
    #[error("cannot start a database thread")]
    Thread(#[source] std::io::Error),
}

/// Why a job was not done. None of them has touched the database, except `Lost`, of which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// As many jobs wait as may.
    #[error("too many requests wait for the database")]
    Full,
    /// It waited in line for longer than `LINE_WAIT`.
    #[error("the request waited too long for the database")]
    Late,
    /// The thread is gone; only a bug can do that.
    #[error("the database thread is gone")]
    Lost,
}

/// The open database. Dropping it finishes what is in line, then closes the file.
pub(crate) struct Database {
    writer: Crew,
    readers: Crew,
}

/// Opens the database in `folder` with its threads; makes and fills it first when there is none. Any number
/// of processes may do so at the same moment: one fills it, the others wait up to [`OPEN_WAIT`].
pub(crate) fn open(folder: &Path) -> Result<(Database, Seeded), OpenError> {
    std::fs::create_dir_all(folder)
        .map_err(|source| OpenError::Folder { path: folder.to_owned(), source })?;
    let path = folder.join(FILE);
    let failed = |source| OpenError::Sqlite { path: path.clone(), source };

    let mut writer = Connection::open(&path).map_err(failed)?;
    wait_patiently(&mut writer, OPEN_WAIT).map_err(failed)?;
    enter_wal(&writer).map_err(failed)?;
    writer.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    writer.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    let seeded = match create(&mut writer).map_err(failed)? {
        Created::Now => Seeded::Now,
        Created::Before => Seeded::Before,
        Created::Other(found) => return Err(OpenError::OtherSchema { path, found }),
    };

    wait_patiently(&mut writer, BUSY_WAIT).map_err(failed)?;

    let mut readers = Vec::with_capacity(READERS);
    for _ in 0..READERS {
        // Not opened read-only: a reader of a WAL database has to write its shared-memory file.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut reader = Connection::open_with_flags(&path, flags).map_err(failed)?;
        wait_patiently(&mut reader, BUSY_WAIT).map_err(failed)?;
        reader.pragma_update(None, "query_only", true).map_err(failed)?;
        readers.push(reader);
    }
    let writer = Crew::start("shop-writer", vec![writer], WRITES_WAITING).map_err(OpenError::Thread)?;
    let readers = Crew::start("shop-reader", readers, READS_WAITING).map_err(OpenError::Thread)?;
    Ok((Database { writer, readers }, seeded))
}

/// Lets each statement wait up to `limit` for another process.
fn wait_patiently(connection: &mut Connection, limit: Duration) -> rusqlite::Result<()> {
    let mut since = Instant::now();
    connection.busy_handler(Some(move |tries| {
        if tries == 0 {
            since = Instant::now();
        }
        let again = since.elapsed() < limit;
        if again {
            std::thread::sleep(BUSY_POLL);
        }
        again
    }))
}

/// Puts the file in WAL mode. When two processes do so to a new file at once, SQLite reports "busy" without
/// asking the busy handler (waiting could be a deadlock), so the waiting is done here.
fn enter_wal(connection: &Connection) -> rusqlite::Result<()> {
    let since = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if is_busy(&error) && since.elapsed() < OPEN_WAIT => std::thread::sleep(BUSY_POLL),
            done => return done,
        }
    }
}

/// Whether another process held the lock for longer than [`BUSY_WAIT`]; nothing was changed then.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

enum Created {
    Now,
    Before,
    Other(i64),
}

/// Makes and fills the database in one transaction: another process sees all of it or nothing.
fn create(connection: &mut Connection) -> rusqlite::Result<Created> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
        0 => {}
        SCHEMA_VERSION => return Ok(Created::Before),
        other => return Ok(Created::Other(other)),
    }
    transaction.execute_batch(SCHEMA)?;
    {
        let mut insert = transaction.prepare(
            "INSERT INTO products (id, sku, name, brand, price, description, stock) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?;
        for number in 1..=shoes::COUNT {
            let shoe = shoes::shoe(number);
            let words = (shoe.sku, shoe.name, shoe.brand, shoe.description);
            insert.execute((number, words.0, words.1, words.2, shoe.price, words.3, shoes::STOCK))?;
        }
    }
    transaction.execute("INSERT INTO product_words (product_words) VALUES ('rebuild')", ())?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(Created::Now)
}

impl Database {
    /// Runs `work` on a connection that cannot write. When the caller is gone before its turn it is skipped.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let (answer, answered) = oneshot::channel();
        self.readers.send(Box::new(move |turn| {
            if !answer.is_closed() {
                let _ = answer.send(turn.map(|connection| work(connection)));
            }
        }))?;
        answered.await.unwrap_or(Err(CallError::Lost))
    }

    /// Runs `work` on the connection that writes. Once in line it is done even when the caller is dropped:
    /// whether an order counts must not depend on how long its customer listens.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let (answer, answered) = oneshot::channel();
        self.writer.send(Box::new(move |turn| {
            let _ = answer.send(turn.map(work));
        }))?;
        answered.await.unwrap_or(Err(CallError::Lost))
    }
}

/// What a job gets when its turn comes: the connection, or why it may not have it.
type Turn<'a> = Result<&'a mut Connection, CallError>;
type Work = Box<dyn FnOnce(Turn<'_>) + Send>;

struct Job {
    since: Instant,
    work: Work,
}

/// Threads with a connection each, taking jobs from one bounded line.
struct Crew {
    /// `None` only while being dropped, which tells the threads to finish.
    line: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    fn start(name: &str, connections: Vec<Connection>, waiting: usize) -> std::io::Result<Self> {
        let (line, jobs) = sync_channel(waiting);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut crew = Self { line: Some(line), threads: Vec::with_capacity(connections.len()) };
        for mut connection in connections {
            let jobs = Arc::clone(&jobs);
            let work = move || {
                while let Some(job) = next(&jobs) {
                    let late = job.since.elapsed() > LINE_WAIT;
                    (job.work)(if late { Err(CallError::Late) } else { Ok(&mut connection) });
                }
            };
            crew.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(work)?);
        }
        Ok(crew)
    }

    fn send(&self, work: Work) -> Result<(), CallError> {
        let line = self.line.as_ref().expect("the line is taken only by drop");
        line.try_send(Job { since: Instant::now(), work }).map_err(|refused| match refused {
            TrySendError::Full(_) => CallError::Full,
            TrySendError::Disconnected(_) => CallError::Lost,
        })
    }
}

/// The next job, or `None` when there will be none. The lock is held only while taking one, never while
/// working, so a poisoned lock protects nothing.
fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.line = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on stderr already.
            let _ = thread.join();
        }
    }
}
