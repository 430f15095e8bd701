//! How a SQLite file is opened. Each process writes in `BEGIN IMMEDIATE` transactions and waits its turn.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// How long a statement waits for another process to give up its lock.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// The same while opening: another process may be filling the database at that moment, on a slow disk.
const OPEN_WAIT: Duration = Duration::from_secs(30);
/// How often it looks meanwhile. SQLite's own handler backs off to 100 ms, so that a process which lost a
/// few rounds keeps losing them to one that never stops writing; a short steady pause keeps it fair.
const BUSY_POLL: Duration = Duration::from_millis(1);
/// Prepared statements kept by each connection: all that the shop has.
const STATEMENTS: usize = 64;

/// For making, filling and migrating: patient, because others may be at it.
pub(super) fn for_making(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    wait_patiently(&mut connection, OPEN_WAIT)?;
    enter_wal(&connection)?;
    durable(&connection)?;
    Ok(connection)
}

/// For orders: on disk before they are answered.
pub(super) fn for_writing(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_with_flags(path, existing())?;
    wait_patiently(&mut connection, BUSY_WAIT)?;
    durable(&connection)?;
    Ok(connection)
}

/// For everything that only looks.
pub(super) fn for_reading(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_with_flags(path, existing())?;
    wait_patiently(&mut connection, BUSY_WAIT)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// In memory, gone with the process.
pub(super) fn in_memory() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    durable(&connection)?;
    Ok(connection)
}

/// Not opened read-only: a reader of a WAL database has to write its shared-memory file.
fn existing() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn durable(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)
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

/// Whether another process held the lock for longer than the wait; nothing was changed then.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
