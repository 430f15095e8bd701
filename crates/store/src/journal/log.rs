//! Keeps the write-ahead log short without holding up the writer.
//!
//! A thread of its own copies pages from the log to the file, whenever enough of them are there. When it has caught
//! up, SQLite begins the log anew with the next write. Under a load that never pauses it never quite catches up; then
//! the writer begins the log anew itself: from [`LOG_WANTED`] on as soon as few pages are left to copy, and at
//! [`LOG_LIMIT`] in any case, which is when the file's disk is slower than its clients.

use super::reserve::Reserve;
use super::schema;
use crate::commit::{self, Between, OpenError, Trouble, WriteError, Writing};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the log may get, in bytes, before the writer waits until everything in it is copied. A reader that holds
/// an old state of the file for long (a backup) puts that off; the log grows on then, down to the reserve of the
/// disk.
pub const LOG_LIMIT: u64 = 64 * 1024 * 1024;
/// From how many bytes on the log is begun anew at the next opportunity.
pub const LOG_WANTED: u64 = 16 * 1024 * 1024;
/// How many bytes the writer copies at an opportunity.
const FEW_BYTES: u64 = 1024 * 1024;
/// How many bytes of the log are copied to the file at once.
pub const CHECKPOINT_BYTES: u64 = 4 * 1024 * 1024;

const PAGE_BYTES: u64 = 4096;

/// How long the log is, and how much of it is not in the file.
#[derive(Debug, Clone, Copy)]
struct Length {
    busy: bool,
    bytes: u64,
    left: u64,
}

fn checkpoint(connection: &Connection, how: &str) -> rusqlite::Result<Length> {
    let mut statement = connection.prepare_cached(how)?;
    statement.query_row([], |row| {
        // -1 where there is no log yet.
        let pages = |i| row.get(i).map(|pages: i64| pages.max(0).cast_unsigned());
        let (pages, copied) = (pages(1)?, pages(2)?);
        let left = pages.saturating_sub(copied) * PAGE_BYTES;
        Ok(Length { busy: row.get(0)?, bytes: pages * PAGE_BYTES, left })
    })
}

/// Brings everything that is in the log into the file, if nobody else has it open.
///
/// After a failed fsync the system may believe pages of the log to be on disk that are not; written to the file and
/// synced, they are.
pub(super) fn empty(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::ZERO)?;
    checkpoint(connection, "PRAGMA wal_checkpoint(RESTART)")?;
    connection.busy_timeout(commit::BUSY_TIMEOUT)?;
    Ok(())
}

/// Makes the log of the file at `path` at least so long: zeros behind its end, at which whoever reads it stops. Only
/// where the disk has room for that beyond what is kept for outcomes. It is no harm if it cannot be done: the log grows
/// when it comes to it.
pub(super) fn make_room(connection: &mut Connection, path: &Path, bytes: u64, reserve: &Reserve) {
    // An error says that it will grow.
    let _ = fill(connection, &path_of(path), bytes, reserve);
}

fn fill(connection: &mut Connection, log: &Path, bytes: u64, reserve: &Reserve) -> io::Result<()> {
    // Nobody else writes to the log meanwhile. Given up without having changed anything.
    let _alone =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(io::Error::other)?;
    let mut file = OpenOptions::new().append(true).open(log)?;
    let before = file.metadata()?.len();
    let missing = bytes.saturating_sub(before);
    if missing == 0 || !reserve.has(missing) {
        return Ok(());
    }
    let filled = io::copy(&mut io::repeat(0).take(missing), &mut file).and_then(|_| file.sync_data());
    if filled.is_err() {
        // What there was of the room is given back.
        file.set_len(before)?;
    }
    filled
}

/// Where the log of a file is.
pub(super) fn path_of(path: &Path) -> PathBuf {
    let mut log = path.to_owned().into_os_string();
    log.push("-wal");
    log.into()
}

/// Starts the thread, which ends with the closure that is returned; the writer calls that between batches. When it
/// has been dropped, the thread's connection is closed.
pub(super) fn keep_short(path: &Path, vfs: Option<&str>, trouble: Trouble) -> Result<Between, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = commit::connection(path, flags, vfs).map_err(|cause| OpenError::of(path, cause))?;
    connection.execute_batch(schema::READER_PRAGMAS).map_err(|cause| OpenError::of(path, cause))?;
    // One nudge is enough: whoever works on one looks at everything.
    let (nudge, nudges) = sync_channel(1);
    let copying = Arc::new(Mutex::new(()));
    let thread = std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn({
            let (connection, copying) = (Writing::new(connection, trouble.clone()), copying.clone());
            move || copy(&connection, &nudges, &copying, &trouble)
        })
        .map_err(|e| OpenError::of(path, rusqlite::Error::ToSqlConversionFailure(Box::new(e))))?;
    Ok(watch(Copier { nudge: Some(nudge), thread: Some(thread) }, copying))
}

/// The thread as the writer has it.
struct Copier {
    nudge: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.nudge = None;
        if let Some(thread) = self.thread.take() {
            // One that has panicked has closed its connection as well.
            let _ = thread.join();
        }
    }
}

fn copy(connection: &Connection, nudges: &Receiver<()>, copying: &Mutex<()>, trouble: &Trouble) {
    while nudges.recv().is_ok() {
        let _copying = copying.lock().unwrap_or_else(PoisonError::into_inner);
        // A disk that refuses a page of the file has lost it: the log must not be begun anew.
        match checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)").map_err(WriteError::from) {
            Ok(_) | Err(WriteError::Busy(_) | WriteError::Full) => {}
            Err(why) => trouble.set(why),
        }
    }
}

fn watch(copier: Copier, copying: Arc<Mutex<()>>) -> Between {
    // Both rise for a while where somebody reads who holds an old state: not every batch tries anew.
    let (mut wanted, mut limit) = (LOG_WANTED, LOG_LIMIT);
    Box::new(move |connection| {
        let length = checkpoint(connection, "PRAGMA wal_checkpoint(NOOP)")?;
        let turn = if length.bytes >= limit {
            Some(copying.lock().unwrap_or_else(PoisonError::into_inner))
        } else if length.bytes >= wanted && length.left <= FEW_BYTES {
            copying.try_lock().ok()
        } else {
            None
        };
        if turn.is_some() {
            let held = begin_anew(connection)?;
            wanted = if held { length.bytes + LOG_WANTED / 2 } else { LOG_WANTED };
            limit = LOG_LIMIT.max(wanted);
        } else if length.left >= CHECKPOINT_BYTES
            && let Some(nudge) = &copier.nudge
        {
            // A nudge that waits already is as good.
            let _ = nudge.try_send(());
        }
        Ok(())
    })
}

/// Copies what is left, so that the next write begins the log anew. True: somebody still reads from it.
fn begin_anew(connection: &Connection) -> Result<bool, WriteError> {
    connection.busy_timeout(Duration::ZERO)?;
    let after = checkpoint(connection, "PRAGMA wal_checkpoint(RESTART)");
    connection.busy_timeout(commit::BUSY_TIMEOUT)?;
    match after.map_err(WriteError::from) {
        Ok(after) => Ok(after.busy),
        Err(WriteError::Full | WriteError::Busy(_)) => Ok(true),
        Err(why) => Err(why),
    }
}
