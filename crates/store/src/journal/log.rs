//! Keeps the write-ahead log short without holding up the writer.
//!
//! A thread of its own copies pages from the log to the file, whenever enough of them are there. When it has caught
//! up, SQLite begins the log anew with the next write. Under a load that never pauses it never quite catches up; then
//! the writer begins the log anew itself, at [`LOG_LIMIT`], and copies the few pages that are left.

use super::schema;
use crate::commit::{self, Between, OpenError, Trouble, WriteError};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// How long the log may get, in bytes, before the writer itself begins it anew. A reader that holds an old state of
/// the file for long (a backup) puts that off; the log grows on then, down to the reserve of the disk.
pub const LOG_LIMIT: u64 = 64 * 1024 * 1024;
/// How many bytes of the log are copied to the file at once.
pub const CHECKPOINT_BYTES: u64 = 4 * 1024 * 1024;

const PAGE_BYTES: u64 = 4096;

/// How long the log is, in pages, and how many of them are in the file.
#[derive(Debug, Clone, Copy)]
struct Length {
    busy: bool,
    pages: u64,
    copied: u64,
}

fn checkpoint(connection: &Connection, how: &str) -> rusqlite::Result<Length> {
    let mut statement = connection.prepare_cached(how)?;
    statement.query_row([], |row| {
        // -1 where there is no log yet.
        let pages = |i| row.get(i).map(|pages: i64| pages.max(0).cast_unsigned());
        Ok(Length { busy: row.get(0)?, pages: pages(1)?, copied: pages(2)? })
    })
}

/// Brings everything that is in the log into the file, if nobody else has it open.
///
/// After a failed fsync the system may believe pages of the log to be on disk that are not; written to the file and
/// synced, they are.
pub(super) fn empty(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::ZERO)?;
    checkpoint(connection, "PRAGMA wal_checkpoint(TRUNCATE)")?;
    connection.busy_timeout(commit::BUSY_TIMEOUT)?;
    Ok(())
}

/// Starts the thread, which ends with the closure that is returned; the writer calls that between batches.
pub(super) fn keep_short(path: &Path, vfs: Option<&str>, trouble: Trouble) -> Result<Between, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = commit::connection(path, flags, vfs).map_err(|cause| OpenError::of(path, cause))?;
    connection.execute_batch(schema::READER_PRAGMAS).map_err(|cause| OpenError::of(path, cause))?;
    // One nudge is enough: whoever works on one looks at everything.
    let (nudge, nudges) = sync_channel(1);
    std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn(move || copy(&connection, &nudges, &trouble))
        .map_err(|e| OpenError::of(path, rusqlite::Error::ToSqlConversionFailure(Box::new(e))))?;
    Ok(watch(nudge))
}

fn copy(connection: &Connection, nudges: &Receiver<()>, trouble: &Trouble) {
    while nudges.recv().is_ok() {
        // A disk that refuses a page of the file has lost it: the log must not be begun anew.
        match checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)").map_err(WriteError::from) {
            Ok(_) | Err(WriteError::Busy(_) | WriteError::Full) => {}
            Err(why) => trouble.set(why),
        }
    }
}

fn watch(nudge: SyncSender<()>) -> Between {
    let mut limit = LOG_LIMIT / PAGE_BYTES;
    Box::new(move |connection| {
        let length = checkpoint(connection, "PRAGMA wal_checkpoint(NOOP)")?;
        if length.pages < LOG_LIMIT / PAGE_BYTES {
            limit = LOG_LIMIT / PAGE_BYTES;
        }
        if length.pages >= limit {
            connection.busy_timeout(Duration::ZERO)?;
            let after = checkpoint(connection, "PRAGMA wal_checkpoint(RESTART)");
            connection.busy_timeout(commit::BUSY_TIMEOUT)?;
            match after.map_err(WriteError::from) {
                // Somebody reads or copies: again a bit later, not with every batch.
                Ok(after) if after.busy => limit = length.pages + LOG_LIMIT / PAGE_BYTES / 8,
                Ok(_) | Err(WriteError::Full | WriteError::Busy(_)) => {}
                Err(why) => return Err(why),
            }
        } else if length.pages - length.copied.min(length.pages) >= CHECKPOINT_BYTES / PAGE_BYTES {
            // A nudge that waits already is as good.
            let _ = nudge.try_send(());
        }
        Ok(())
    })
}
