//! The making of a folder in the store, until it has its name.

use std::fs::{DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Marks a folder that is being filled, or removed. No digest begins with a dot.
pub(super) const ATTEMPT: &str = ".attempt-";

/// A folder that is being filled. Dropped without [`Attempt::finish`] it is removed.
pub(super) struct Attempt {
    pub(super) path: PathBuf,
    artifacts: PathBuf,
    /// Says that somebody is at work; [`sweep`] leaves locked folders alone.
    _lock: File,
}

impl Attempt {
    pub(super) fn begin(artifacts: &Path) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        DirBuilder::new().recursive(true).mode(0o700).create(artifacts)?;
        let gate = File::open(artifacts)?;
        gate.lock()?;
        let unique = format!(
            "{ATTEMPT}{}-{}-{}",
            std::process::id(),
            api::clock::monotonic_ns(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = artifacts.join(unique);
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::open(&path)?;
        lock.lock()?;
        Ok(Self { path, artifacts: artifacts.to_owned(), _lock: lock })
    }

    /// Gives the folder its name, unless something has that name already.
    pub(super) fn finish(self, named: &Path) -> io::Result<()> {
        if named.is_dir() {
            return Ok(());
        }
        match std::fs::rename(&self.path, named) {
            Ok(()) => File::open(&self.artifacts)?.sync_all(),
            // Another attempt was quicker.
            Err(cause) if cause.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            Err(cause) => Err(cause),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Err(cause) = remove_tree(&self.path)
            && cause.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %cause, "an attempt to store was not removed");
        }
    }
}

/// Removes the attempts in a store whose makers are gone.
pub(super) fn remove_dead(artifacts: &Path) -> io::Result<usize> {
    // So that no attempt is seen between its making and its locking.
    let gate = File::open(artifacts)?;
    gate.lock()?;
    let mut removed = 0;
    for entry in std::fs::read_dir(artifacts)? {
        let entry = entry?;
        if !entry.file_name().as_bytes().starts_with(ATTEMPT.as_bytes()) {
            continue;
        }
        match File::open(entry.path())?.try_lock() {
            Ok(()) => {
                remove_tree(&entry.path())?;
                removed += 1;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(cause)) => return Err(cause),
        }
    }
    Ok(removed)
}

/// Removes a folder whose folders are read-only.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        std::fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    std::fs::remove_dir_all(path)
}
