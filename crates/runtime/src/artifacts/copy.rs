//! Copying an artifact while making sure that it stays what it was.

use super::listing::{Entry, Kind, Stamp};
use super::{CHUNK, Manifest, Progress, StoreError, Stored, read_error, write_error};
use rustix::fs::{OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// From this many files on, the whole file system is synced once instead of each file for itself: one
/// sync waits for other people's data too, a hundred thousand wait for the disk a hundred thousand times.
const SYNC_EACH_LIMIT: u64 = 200;

/// Copies what was listed at `root` into the folder `to`, syncs it, makes it read-only, and hashes it on the
/// way.
pub(super) fn copy(
    given: &Path,
    root: &Path,
    entries: &[Entry],
    to: &Path,
    progress: &dyn Fn(Progress),
) -> Result<Stored, StoreError> {
    let files = entries.iter().filter(|entry| matches!(entry.kind, Kind::File { .. })).count() as u64;
    let sync = if files <= SYNC_EACH_LIMIT { Sync::Each } else { Sync::Together };
    let mut so_far = Progress::default();
    let mut manifest = Manifest::new();
    for entry in entries {
        let (from, into) = (entry.source(root), to.join(&entry.path));
        match &entry.kind {
            Kind::Folder => {
                DirBuilder::new().mode(0o700).create(&into).map_err(|cause| write_error(&into, cause))?;
                manifest.folder(&entry.path);
            }
            Kind::Link { target } => {
                std::os::unix::fs::symlink(target, &into).map_err(|cause| write_error(&into, cause))?;
                manifest.link(&entry.path, target);
            }
            Kind::File { executable, stamp } => {
                let mut copy = FileCopy { from: &from, into: &into, entry, stamp, executable: *executable };
                let hash = copy.run(sync, &mut so_far, progress)?;
                manifest.file(&entry.path, *executable, stamp.size, hash);
            }
        }
    }
    close_folders(entries, to, sync).map_err(|cause| write_error(to, cause))?;
    tracing::debug!(source = %given.display(), files, bytes = so_far.bytes, "artifact copied");
    Ok(Stored { digest: manifest.digest(), files, bytes: so_far.bytes })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    Each,
    Together,
}

/// Makes the folders read-only and sees that all of it is on disk.
fn close_folders(entries: &[Entry], to: &Path, sync: Sync) -> io::Result<()> {
    let inner = entries.iter().rev().filter(|entry| entry.kind == Kind::Folder);
    for folder in inner.map(|entry| to.join(&entry.path)).chain([to.to_owned()]) {
        let file = File::open(&folder)?;
        file.set_permissions(Permissions::from_mode(0o555))?;
        if sync == Sync::Each {
            file.sync_all()?;
        }
    }
    if sync == Sync::Together {
        rustix::fs::syncfs(File::open(to)?)?;
    }
    Ok(())
}

struct FileCopy<'a> {
    from: &'a Path,
    into: &'a Path,
    entry: &'a Entry,
    stamp: &'a Stamp,
    executable: bool,
}

impl FileCopy<'_> {
    fn run(
        &mut self,
        sync: Sync,
        so_far: &mut Progress,
        progress: &dyn Fn(Progress),
    ) -> Result<[u8; 32], StoreError> {
        let mut source = self.open()?;
        let mut copy = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.into)
            .map_err(|cause| write_error(self.into, cause))?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        let mut bytes = 0u64;
        loop {
            let count = read_some(&mut source, &mut chunk).map_err(|cause| read_error(self.from, cause))?;
            if count == 0 {
                break;
            }
            bytes += count as u64;
            if bytes > self.stamp.size {
                return Err(self.changed());
            }
            hash.update(&chunk[..count]);
            copy.write_all(&chunk[..count]).map_err(|cause| write_error(self.into, cause))?;
            so_far.bytes += count as u64;
            progress(*so_far);
        }
        self.unchanged(&source)?;
        if bytes != self.stamp.size {
            return Err(self.changed());
        }
        self.close(&copy, sync).map_err(|cause| write_error(self.into, cause))?;
        so_far.files += 1;
        progress(*so_far);
        Ok(hash.finalize().into())
    }

    fn open(&self) -> Result<File, StoreError> {
        // A link that was put in the place of the file is not followed, a pipe is not waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(self.from);
        let file = opened.map_err(|cause| match Errno::from_io_error(&cause) {
            Some(Errno::NOENT | Errno::LOOP) => self.changed(),
            _ => read_error(self.from, cause),
        })?;
        self.unchanged(&file)?;
        Ok(file)
    }

    fn unchanged(&self, file: &File) -> Result<(), StoreError> {
        let meta = file.metadata().map_err(|cause| read_error(self.from, cause))?;
        if meta.is_file() && Stamp::of(&meta) == *self.stamp { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> StoreError {
        StoreError::Changed { path: self.entry.path.clone() }
    }

    fn close(&self, copy: &File, sync: Sync) -> io::Result<()> {
        copy.set_permissions(Permissions::from_mode(if self.executable { 0o555 } else { 0o444 }))?;
        // Some services compare times of change, of compiled files for example.
        let time = Timespec { tv_sec: self.stamp.changed.0, tv_nsec: self.stamp.changed.1 };
        rustix::fs::futimens(copy, &Timestamps { last_access: time, last_modification: time })?;
        if sync == Sync::Each { copy.sync_all() } else { Ok(()) }
    }
}

fn read_some(from: &mut File, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(chunk) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
