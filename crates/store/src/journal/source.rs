//! A damaged file, opened for reading as far as that goes.

use super::repair::{RepairError, beside, failed, write_at};
use super::schema::{self, SCHEMA_VERSION, TABLES};
use crate::commit::{self, Settings};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Bytes of a page, as every journal has them.
const PAGE_BYTES: u64 = 4096;
/// Where the first page's header ends and its tree begins (SQLite's file format, 1.3).
const HEADER_BYTES: usize = 100;

/// A connection to a damaged file, or to a copy of it with another first page.
pub(super) struct Source {
    pub(super) connection: Connection,
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
    let as_it_is = match connect(path) {
        Ok(connection) => return Ok(Source { connection, made: vec![beside(path, "-shm")] }),
        Err(cause) => cause,
    };
    let copy = beside(path, ".copy");
    let files = ["", "-wal", "-shm"].map(|end| beside(&copy, end));
    let first = first_page(&beside(path, ".fresh"))?;
    for bytes in [HEADER_BYTES, first.len()] {
        for end in ["", "-wal"] {
            let from = beside(path, end);
            if from.try_exists().map_err(|cause| failed("look at", &from, cause))? {
                std::fs::copy(&from, beside(&copy, end)).map_err(|cause| failed("copy", &from, cause))?;
            }
        }
        write_at(&copy, 0, &patched(&first[..bytes], &copy)?)?;
        if let Ok(connection) = connect(&copy) {
            return Ok(Source { connection, made: files.to_vec() });
        }
    }
    // The copy is of no use to anybody; it may stay if it cannot be removed.
    files.iter().for_each(|file| drop(std::fs::remove_file(file)));
    Err(RepairError::Nothing { path: path.to_owned(), cause: as_it_is })
}

/// A connection that sees the tables.
fn connect(path: &Path) -> Result<Connection, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connect = || {
        let connection = commit::connection(path, flags, None)?;
        connection.execute_batch(schema::READER_PRAGMAS)?;
        let mut known = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
        let known: Vec<String> = known.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        rusqlite::Result::Ok((connection, known))
    };
    let (connection, known) = connect().map_err(|error: rusqlite::Error| error.to_string())?;
    match TABLES.iter().find(|table| !known.iter().any(|known| known == *table)) {
        None => Ok(connection),
        Some(missing) => Err(format!("the table {missing} is missing")),
    }
}

/// The first page of a new journal.
fn first_page(at: &Path) -> Result<Vec<u8>, RepairError> {
    let files = ["", "-wal", "-shm"].map(|end| beside(at, end));
    let clean = || files.iter().for_each(|file| drop(std::fs::remove_file(file)));
    clean();
    let settings = Settings { pragmas: schema::PRAGMAS, ..Settings::default() };
    // Closing it brings everything from its log into the file.
    drop(commit::connect(at, SCHEMA_VERSION, &settings, schema::migrate)?);
    let mut page = vec![0; usize::try_from(PAGE_BYTES).expect("a page fits into memory")];
    let read = File::open(at).and_then(|mut file| file.read_exact(&mut page));
    clean();
    read.map_err(|cause| failed("read", at, cause))?;
    Ok(page)
}

/// `page` or its beginning, for a file of the length of `file` (SQLite's file format, 1.3): how many pages there are,
/// that this was written by whoever wrote the rest, and that none is free.
fn patched(page: &[u8], file: &Path) -> Result<Vec<u8>, RepairError> {
    let length = std::fs::metadata(file).map_err(|cause| failed("look at", file, cause))?.len();
    let pages = u32::try_from(length.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
    let mut page = page.to_vec();
    page[28..32].copy_from_slice(&pages.to_be_bytes());
    let changes: [u8; 4] = page[24..28].try_into().expect("four bytes");
    page[92..96].copy_from_slice(&changes);
    page[32..40].fill(0);
    Ok(page)
}
