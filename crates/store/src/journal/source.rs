//! A damaged file, opened for reading as far as that goes.

use super::repair::{RepairError, beside, failed, write_at};
use super::schema::{self, SCHEMA_VERSION, TABLES};
use crate::commit::{self, Settings};
use rusqlite::{Connection, OpenFlags};
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Bytes of a page, as every journal has them.
const PAGE: usize = 4096;
/// Where the first page's header ends and its tree begins (SQLite's file format, 1.3).
const HEADER_BYTES: usize = 100;

/// A connection to a damaged file, or to a copy of it with another first page.
pub(super) struct Source {
    pub(super) connection: Connection,
    /// How many pages the file has, or had when its header was last written.
    pub(super) pages: u64,
    /// Whether its first page was not usable.
    pub(super) patched: bool,
    /// Files that were made to open it.
    made: Vec<PathBuf>,
}

impl Source {
    /// Closes it; what is returned can be removed.
    pub(super) fn close(self) -> Vec<PathBuf> {
        drop(self.connection);
        self.made
    }
}

/// Opens the file at `path`, which is not written. Where its first page makes no sense, a copy gets the header of a
/// new journal, and if that is not enough, its whole first page: the tables of every journal of a version begin
/// on the same pages.
pub(super) fn open(path: &Path) -> Result<Source, RepairError> {
    let mut made = vec![beside(path, "-shm")];
    let log = beside(path, "-wal");
    if !log.try_exists().map_err(|cause| failed("look at", &log, cause))? {
        made.push(log);
    }
    let as_it_is = match connect(path) {
        Ok(connection) => return Ok(Source { connection, pages: pages(path)?, patched: false, made }),
        Err(cause) => cause,
    };
    let copy = beside(path, ".copy");
    let files = ["", "-wal", "-shm"].map(|end| beside(&copy, end));
    let fresh = fresh(&beside(path, ".fresh"))?;
    let first = &fresh[..PAGE];
    for bytes in [HEADER_BYTES, PAGE] {
        for end in ["", "-wal"] {
            let from = beside(path, end);
            if from.try_exists().map_err(|cause| failed("look at", &from, cause))? {
                std::fs::copy(&from, beside(&copy, end)).map_err(|cause| failed("copy", &from, cause))?;
            }
        }
        write_at(&copy, 0, &patched(&first[..bytes], whole_pages(&copy, fresh.len())?))?;
        if let Ok(connection) = connect(&copy) {
            made.extend(files);
            return Ok(Source { connection, pages: pages(path)?, patched: true, made });
        }
    }
    // The copy is of no use to anybody; it may stay if it cannot be removed.
    files.iter().chain(&made).for_each(|file| drop(std::fs::remove_file(file)));
    Err(RepairError::Nothing { path: path.to_owned(), cause: as_it_is })
}

/// A connection that sees the tables.
fn connect(path: &Path) -> Result<Connection, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let tables = || -> rusqlite::Result<(Connection, Vec<String>)> {
        let connection = commit::connection(path, flags, None)?;
        connection.execute_batch(schema::READER_PRAGMAS)?;
        let mut query = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
        let tables = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(query);
        Ok((connection, tables))
    };
    let (connection, known) = tables().map_err(|error| error.to_string())?;
    match TABLES.iter().find(|table| !known.iter().any(|known| known == *table)) {
        None => Ok(connection),
        Some(missing) => Err(format!("the table {missing} is missing")),
    }
}

/// As many pages as the file has, or as its header says if that is one and says more (SQLite's file format, 1.3.7).
fn pages(path: &Path) -> Result<u64, RepairError> {
    let mut header = [0; 32];
    let mut count = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        // A shorter file has no header.
        let read = file.read_exact(&mut header).is_ok() && header.starts_with(b"SQLite format 3\0");
        let [.., a, b, c, d] = header;
        let said = if read { u32::from_be_bytes([a, b, c, d]) } else { 0 };
        Ok(u64::from(said).max(length.div_ceil(PAGE as u64)))
    };
    count().map_err(|cause| failed("read", path, cause))
}

/// What is in a new journal.
fn fresh(at: &Path) -> Result<Vec<u8>, RepairError> {
    let files = ["", "-wal", "-shm"].map(|end| beside(at, end));
    let clean = || files.iter().for_each(|file| drop(std::fs::remove_file(file)));
    clean();
    let settings = Settings { pragmas: schema::PRAGMAS, ..Settings::default() };
    // Closing it brings everything from its log into the file.
    drop(commit::connect(at, SCHEMA_VERSION, &settings, schema::migrate)?);
    let read = std::fs::read(at);
    clean();
    read.map_err(|cause| failed("read", at, cause))
}

/// Makes the last page of a file that was cut off whole, and the file as long as a new one, so that no table begins
/// behind its end. Counts its pages.
fn whole_pages(path: &Path, least: usize) -> Result<u64, RepairError> {
    let lengthen = || {
        let file = OpenOptions::new().write(true).open(path)?;
        let pages = file.metadata()?.len().max(least as u64).div_ceil(PAGE as u64);
        file.set_len(pages * PAGE as u64)?;
        Ok(pages)
    };
    lengthen().map_err(|cause| failed("write", path, cause))
}

/// `page` or its beginning, for a file of so many pages (SQLite's file format, 1.3): how many there are, that this was
/// written by whoever wrote the rest, and that none is free.
fn patched(page: &[u8], pages: u64) -> Vec<u8> {
    let mut page = page.to_vec();
    page[28..32].copy_from_slice(&u32::try_from(pages).unwrap_or(u32::MAX).to_be_bytes());
    let changes: [u8; 4] = page[24..28].try_into().expect("four bytes");
    page[92..96].copy_from_slice(&changes);
    page[32..40].fill(0);
    page
}
