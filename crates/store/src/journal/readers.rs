//! Connections that only read. None of them holds up the writer: with a write-ahead log a reader sees the file as it
//! was when it began.

use super::read::Fault;
use super::{ReadError, schema};
use crate::commit::{self, Trouble, WriteError};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many connections are kept for the next read. More are opened where more read at once, and closed afterwards.
pub const READERS_KEPT: usize = 4;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    vfs: Option<String>,
    kept: Mutex<Kept>,
    /// Told when none is lent any longer.
    returned: Condvar,
    trouble: Trouble,
}

#[derive(Debug, Default)]
struct Kept {
    idle: Vec<Connection>,
    /// How many are in use.
    lent: usize,
    closed: bool,
}

impl Readers {
    pub(super) fn new(path: &Path, vfs: Option<String>, trouble: Trouble) -> Self {
        Self { path: path.to_owned(), vfs, kept: Mutex::default(), returned: Condvar::new(), trouble }
    }

    /// Runs `work` on a connection of its own. Damage that SQLite meets ends all writing: what is written to a
    /// damaged tree may be lost.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, ReadError> {
        let mut kept = self.lock();
        if kept.closed {
            return Err(ReadError::Unreadable { path: self.path.clone(), cause: "it is closed".into() });
        }
        kept.lent += 1;
        let mut lent = Lent { readers: self, connection: kept.idle.pop() };
        drop(kept);
        let connection = match lent.connection.take() {
            Some(connection) => connection,
            None => self.connect().map_err(|error| self.failed(&error.into()))?,
        };
        let found = work(lent.connection.insert(connection)).map_err(|fault| self.failed(&fault))?;
        lent.keep();
        Ok(found)
    }

    /// Closes every connection; from now on nothing is read. Waits until then for those that are in use. False: some
    /// still are, and are closed by who uses them.
    pub(super) fn close(&self, until: Instant) -> bool {
        let mut kept = self.lock();
        kept.closed = true;
        let idle = std::mem::take(&mut kept.idle);
        drop(kept);
        drop(idle);
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.returned.wait_timeout_while(self.lock(), left, |kept| kept.lent > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.lent == 0
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = commit::connection(&self.path, flags, self.vfs.as_deref())?;
        connection.execute_batch(schema::READER_PRAGMAS)?;
        connection.set_prepared_statement_cache_capacity(commit::STATEMENTS_KEPT);
        Ok(connection)
    }

    fn failed(&self, fault: &Fault) -> ReadError {
        let path = self.path.clone();
        match (fault, fault.damage()) {
            (Fault::Sql(_), Some(cause)) => {
                self.trouble.set(WriteError::Damaged(cause.clone()));
                ReadError::Damaged { path, cause }
            }
            // One row is wrong, the tree around it is not: everything else goes on.
            (Fault::Wrong(_), Some(cause)) => ReadError::Damaged { path, cause },
            (Fault::Sql(error), None) => ReadError::Unreadable { path, cause: error.to_string() },
            (Fault::Wrong(cause), None) => ReadError::Unreadable { path, cause: cause.clone() },
        }
    }
}

/// A connection in use. Dropped, it is closed.
struct Lent<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl Lent<'_> {
    /// Puts the connection back for the next read, if there is room for it.
    fn keep(mut self) {
        let mut kept = self.readers.lock();
        if !kept.closed && kept.idle.len() < READERS_KEPT {
            kept.idle.extend(self.connection.take());
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // Who waits for it to be returned wants it closed.
        drop(self.connection.take());
        let mut kept = self.readers.lock();
        kept.lent -= 1;
        if kept.lent == 0 {
            self.readers.returned.notify_all();
        }
    }
}
