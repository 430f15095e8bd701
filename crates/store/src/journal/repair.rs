//! Saves what is whole of a damaged journal into a new file. The damaged one is moved aside and never written.
//!
//! A repair can be interrupted anywhere and is done again from its beginning: a file beside the journal,
//! `queue.db.repairing`, names where the damaged file goes, and nobody opens the journal while it is there.

use super::row::JobId;
use super::salvage;
use super::schema::SCHEMA_VERSION;
use super::source::{self, Source};
use crate::commit::{self, OpenError};
use rusqlite::OpenFlags;
use rustix::fs::FlockOperation;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many jobs a report names of each kind; the others are counted.
pub const NAMED_LIMIT: usize = 1_000;
/// How many damaged files are kept beside a journal. More: the oldest have to be removed by hand first.
pub const ASIDE_LIMIT: u32 = 1_000;

/// How long a journal that this process has let go of may take to be closed.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// How often it is looked at.
const CLOSE_PAUSE: Duration = Duration::from_millis(5);

/// What a repair saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairReport {
    /// Where the damaged file is now.
    pub aside: PathBuf,
    /// Jobs in the new file.
    pub jobs: u64,
    /// Their requests.
    pub requests: u64,
    /// Their responses.
    pub responses: u64,
    /// Entries of the audit log, without the one of this repair.
    pub operations: u64,
    /// Jobs that are not in the new file: their rows are unreadable or not what was written. Where a part of the file
    /// is unreadable, every number that could have been in it counts.
    pub lost: Named,
    /// Numbers that are nowhere, above all that were forgotten: refused when they were to be accepted, or lost
    /// without a trace.
    pub missing: Named,
    /// Jobs whose request is lost. Those that were not finished are now dead, with an attempt that says so.
    pub without_request: Named,
    /// Jobs whose response is not what was written, and those that are done and have none.
    pub without_response: Named,
    /// Jobs of which it cannot be told how far they had come. They are now unknown.
    pub doubtful: Named,
}

/// Some jobs by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// The first [`NAMED_LIMIT`], lowest first.
    pub ids: Vec<JobId>,
    /// How many there are.
    pub count: u64,
}

impl Named {
    pub(super) fn add(&mut self, id: i64) {
        self.add_all(id, id);
    }

    /// Both included.
    pub(super) fn add_all(&mut self, first: i64, last: i64) {
        self.count = self.count.saturating_add((last - first).unsigned_abs() + 1);
        let room = NAMED_LIMIT - self.ids.len();
        self.ids.extend((first..=last).take(room).map(|id| JobId(id.cast_unsigned())));
    }
}

/// Why a file was not repaired. It is where it was, or aside; running the repair again goes on.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// There is nothing at the path.
    #[error("there is no {path}")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Another process has the file open, or this one.
    #[error("{path} is in use: end the environment first")]
    InUse {
        /// The file.
        path: PathBuf,
    },
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
    /// Not even a first page can be made sense of.
    #[error("nothing can be read from {path}: {cause}")]
    Nothing {
        /// The file, as it was moved aside.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
    /// [`ASIDE_LIMIT`] damaged files are there already.
    #[error("{ASIDE_LIMIT} damaged files lie beside {path} already")]
    Crowded {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be moved or written.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The new file could not be made.
    #[error("cannot make the new file")]
    Make(#[from] OpenError),
    /// The new file could not be written.
    #[error("cannot write the new file")]
    Write(#[source] rusqlite::Error),
}

/// Moves the damaged file at `path` aside (`queue.db.damaged-N`) and makes a new one of what is whole in it. Nobody
/// may have the file open, this process included.
///
/// The new file comes with an entry of the audit log that says what was saved: at `at_ms`, Unix milliseconds, for the
/// user `by_uid`.
///
/// Takes time and room in proportion to the file.
pub fn repair(path: &Path, at_ms: i64, by_uid: u32) -> Result<RepairReport, RepairError> {
    let marker = beside(path, ".repairing");
    let planned = planned(path, &marker)?;
    let goes_on = planned.is_some();
    let aside = match planned {
        Some(aside) => aside,
        None => {
            let aside = plan(path)?;
            refuse_newer(path)?;
            let name = aside.file_name().unwrap_or_default().as_encoded_bytes();
            write_synced(&marker, name)?;
            aside
        }
    };
    if let Err(why) = refuse_used(path) {
        // Whoever has it open goes on as before. Of an interrupted repair the log may be aside already: without the
        // marker the next owner would begin another, and this one would be lost.
        if !goes_on {
            remove(&marker)?;
        }
        return Err(why);
    }
    if !exists(&aside)? {
        // The log first: SQLite throws a log away whose file is gone. An empty one was made by looking at the file.
        let log = beside(path, "-wal");
        if std::fs::metadata(&log).is_ok_and(|found| found.len() == 0) {
            remove(&log)?;
        }
        move_file(&log, &beside(&aside, "-wal"))?;
        move_file(path, &aside)?;
        sync_folder(path)?;
    }
    let new = beside(path, ".salvaged");
    for end in ["", "-wal", "-shm"] {
        remove(&beside(&new, end))?;
    }
    let source = source::open(&aside)?;
    let report = salvage::all(&source, &aside, &new, (at_ms, by_uid))?;
    close(source)?;
    open_file(&new)?.sync_all().map_err(|cause| failed("sync", &new, cause))?;
    // Of somebody who opened the journal just before the marker was there, and was refused then.
    for end in ["-wal", "-shm"] {
        remove(&beside(path, end))?;
    }
    std::fs::rename(&new, path).map_err(|cause| failed("replace", path, cause))?;
    sync_folder(path)?;
    remove(&marker)?;
    sync_folder(path)?;
    Ok(report)
}

/// Whether a repair of the journal at `path` is under way or was interrupted.
pub(super) fn is_under_way(path: &Path) -> io::Result<bool> {
    beside(path, ".repairing").try_exists()
}

fn close(source: Source) -> Result<(), RepairError> {
    let made = source.close();
    made.iter().try_for_each(|file| remove(file))
}

/// Where an interrupted repair moves the file.
fn planned(path: &Path, marker: &Path) -> Result<Option<PathBuf>, RepairError> {
    match std::fs::read_to_string(marker) {
        // Empty: interrupted before it said where.
        Ok(name) if name.is_empty() => Ok(None),
        Ok(name) => Ok(Some(path.with_file_name(name))),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(failed("read", marker, cause)),
    }
}

fn plan(path: &Path) -> Result<PathBuf, RepairError> {
    if !exists(path)? {
        return Err(RepairError::Missing { path: path.to_owned() });
    }
    for n in 1..=ASIDE_LIMIT {
        let aside = beside(path, &format!(".damaged-{n}"));
        if !exists(&aside)? {
            return Ok(aside);
        }
    }
    Err(RepairError::Crowded { path: path.to_owned() })
}

/// A process that has the file open holds a lock of SQLite's on it (`fcntl`, as long as its connection lives). Such a
/// lock is no obstacle to the process that holds it, so its own files are looked at first: a journal that was let go
/// of is closed on its threads, which may be yet to come, and gets [`CLOSE_TIME`] for that. Without `/proc`
/// they cannot be.
fn refuse_used(path: &Path) -> Result<(), RepairError> {
    if !exists(path)? {
        return Ok(());
    }
    let used = || RepairError::InUse { path: path.to_owned() };
    let wanted = std::fs::metadata(path).map_err(|cause| failed("look at", path, cause))?;
    let deadline = Instant::now() + CLOSE_TIME;
    while is_open_here(&wanted) {
        if Instant::now() >= deadline {
            return Err(used());
        }
        std::thread::sleep(CLOSE_PAUSE);
    }
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.map_err(|cause| failed("open", path, cause))?;
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Err(used()),
        Err(cause) => Err(failed("lock", path, cause.into())),
    }
}

/// Whether this process has a file open.
fn is_open_here(wanted: &Metadata) -> bool {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let mut open = open.filter_map(|file| std::fs::metadata(file.path()).ok());
    open.any(|open| (open.dev(), open.ino()) == (wanted.dev(), wanted.ino()))
}

/// A newer file is left where it is. What no version can be read from is no newer one.
fn refuse_newer(path: &Path) -> Result<(), RepairError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let version = || -> rusqlite::Result<u32> {
        let connection = commit::connection(path, flags, None)?;
        connection.pragma_query_value(None, "user_version", |row| row.get(0))
    };
    match version() {
        Ok(found) if found > SCHEMA_VERSION => {
            Err(RepairError::Newer { path: path.to_owned(), found, known: SCHEMA_VERSION })
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// `path` with something added to its name.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, ToOwned::to_owned);
    name.push(end);
    path.with_file_name(name)
}

pub(super) fn failed(what: &'static str, path: &Path, cause: io::Error) -> RepairError {
    RepairError::File { what, path: path.to_owned(), cause }
}

fn exists(path: &Path) -> Result<bool, RepairError> {
    path.try_exists().map_err(|cause| failed("look at", path, cause))
}

fn open_file(path: &Path) -> Result<File, RepairError> {
    File::open(path).map_err(|cause| failed("open", path, cause))
}

/// Removes a file that may not be there.
fn remove(path: &Path) -> Result<(), RepairError> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, cause)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Moves a file that may not be there.
fn move_file(from: &Path, to: &Path) -> Result<(), RepairError> {
    match std::fs::rename(from, to) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(failed("move", from, cause)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_synced(path: &Path, content: &[u8]) -> Result<(), RepairError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|cause| failed("write", path, cause))?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> Result<(), RepairError> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    open_file(folder)?.sync_all().map_err(|cause| failed("sync", folder, cause))
}

/// Writes `bytes` into a file at a place.
pub(super) fn write_at(path: &Path, at: u64, bytes: &[u8]) -> Result<(), RepairError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    };
    write().map_err(|cause| failed("write", path, cause))
}
