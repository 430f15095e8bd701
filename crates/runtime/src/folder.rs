//! The files in an instance's folder, as driver and shim both use them.

use api::shim::{Exit, ProcessId, Running, Start};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The largest file that is read: `start.json` holds a whole environment, which the kernel limits to a
/// part of the stack (execve(2)), 6 MiB in all.
const FILE_LIMIT: u64 = 8 * 1024 * 1024;

/// How much of what a shim complains of is told further, in bytes.
const COMPLAINT_LIMIT: u64 = 2000;

/// `run/shims/INSTANCE`.
#[derive(Debug, Clone)]
pub(crate) struct ShimFolder {
    path: PathBuf,
}

impl ShimFolder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An empty file for what the shim itself has to complain of.
    pub(crate) fn open_complaints(&self) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.path.join("shim.log"))
    }

    /// What the shim complained of, cut to [`COMPLAINT_LIMIT`].
    pub(crate) fn complaints(&self) -> io::Result<Vec<u8>> {
        let mut said = Vec::new();
        File::open(self.path.join("shim.log"))?.take(COMPLAINT_LIMIT).read_to_end(&mut said)?;
        Ok(said)
    }

    pub(crate) fn start(&self) -> io::Result<Option<Start>> {
        read_json(&self.path.join("start.json"))
    }

    pub(crate) fn running(&self) -> io::Result<Option<Running>> {
        read_json(&self.path.join("running.json"))
    }

    pub(crate) fn exit(&self) -> io::Result<Option<Exit>> {
        read_json(&self.path.join("exit.json"))
    }

    pub(crate) fn write_start(&self, start: &Start) -> io::Result<()> {
        write_json(&self.path, "start.json", start)
    }

    pub(crate) fn write_running(&self, running: &Running) -> io::Result<()> {
        write_json(&self.path, "running.json", running)
    }

    pub(crate) fn write_exit(&self, exit: &Exit) -> io::Result<()> {
        write_json(&self.path, "exit.json", exit)
    }

    /// Makes the folder and those above it, for this user alone.
    pub(crate) fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)
    }

    /// Removes what an earlier run left. The lock stays: it is what makes removing safe.
    pub(crate) fn clean(&self) -> io::Result<()> {
        for name in ["running.json", "exit.json", "sock"] {
            match std::fs::remove_file(self.path.join(name)) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Opens the file whose lock says that a shim is, or is about to be, at work here.
    pub(crate) fn open_lock(&self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path.join("lock"))
    }

    /// The lock, if nobody holds it.
    pub(crate) fn try_lock(&self) -> io::Result<Option<File>> {
        let file = self.open_lock()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(cause)) => Err(cause),
        }
    }

    /// The shim that held the lock last, if it got so far as to say so.
    pub(crate) fn last_shim(&self) -> Option<ProcessId> {
        read_json(&self.path.join("lock")).ok().flatten()
    }
}

/// Says in the lock's file who holds it. Not synced: it means nothing after a reboot.
pub(crate) fn sign_lock(mut lock: &File, shim: &ProcessId) -> io::Result<()> {
    let text = serde_json::to_vec(shim).expect("a process id has string keys and finite numbers");
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    lock.write_all(&text)
}

/// Replaces a file so that a reader sees the old one or the new one, also after a power cut.
fn write_json(folder: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(value).expect("messages have string keys and finite numbers");
    let fresh = folder.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&fresh, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// The value in a file; None when there is no such file.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(cause),
    };
    let mut text = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(|cause| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} does not parse: {cause}", path.display()))
    })
}
