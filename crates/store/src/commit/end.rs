//! How a file is closed: what a writer's thread is asked for, and what its connections leave behind.

use super::Trouble;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Whether a writer's thread is to end before the last who hands in writes is gone, and whether it has.
#[derive(Debug, Default)]
pub(super) struct End {
    asked: AtomicBool,
    over: Mutex<bool>,
    told: Condvar,
}

impl End {
    /// Takes effect once the thread looks again: whoever asks wakes it.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Whether the thread has ended, for which this waits until then.
    pub(super) fn is_over_by(&self, until: Instant) -> bool {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.told.wait_timeout_while(over, left, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Says that the thread is over, however it ends: dropped last.
pub(super) struct Over(pub(super) Arc<End>);

impl Drop for Over {
    fn drop(&mut self) {
        *self.0.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.told.notify_all();
    }
}

/// A connection that writes to the file. The last one to be closed brings the log into the file and removes it, unless
/// the file is not written any longer: then both stay as they are, for whoever opens or repairs it.
pub(crate) struct Writing {
    connection: Connection,
    trouble: Trouble,
}

impl Writing {
    pub(crate) fn new(connection: Connection, trouble: Trouble) -> Self {
        Self { connection, trouble }
    }
}

impl Deref for Writing {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.trouble.get().is_some() {
            // It fails for no connection that is open.
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}
