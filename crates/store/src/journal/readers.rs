//! Connections that only read. None of them holds up the writer: with a write-ahead log a reader sees the file as it
//! was when it began.

use super::read::Fault;
use super::{ReadError, schema};
use crate::commit::{self, Trouble, WriteError};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// How many connections are kept for the next read. More are opened where more read at once, and closed afterwards.
pub const READERS_KEPT: usize = 4;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    vfs: Option<String>,
    idle: Mutex<Vec<Connection>>,
    trouble: Trouble,
}

impl Readers {
    pub(super) fn new(path: &Path, vfs: Option<String>, trouble: Trouble) -> Self {
        Self { path: path.to_owned(), vfs, idle: Mutex::default(), trouble }
    }

    /// Runs `work` on a connection of its own. Damage that SQLite meets ends all writing: what is written to a
    /// damaged tree may be lost.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, ReadError> {
        let connection = self.take().map_err(|error| self.failed(&error.into()))?;
        let found = work(&connection).map_err(|fault| self.failed(&fault))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < READERS_KEPT {
            idle.push(connection);
        }
        Ok(found)
    }

    fn take(&self) -> rusqlite::Result<Connection> {
        if let Some(connection) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(connection);
        }
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
