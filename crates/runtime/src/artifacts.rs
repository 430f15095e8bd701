//! The content store: what releases run from, in folders named by the digest of what is in them.
//!
//! A stored artifact is complete or not there: it is copied into a folder of another name, synced, and
//! renamed. It is read-only from then on. Not kept are owners, extended attributes and the set-user-id
//! bits; hard links become files of their own. Times of change are kept but are no part of the digest.

use api::folder::StateFolder;
use model::name::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

mod attempt;
mod copy;
mod listing;
mod lookup;
mod room;

pub use lookup::{ExecutableError, executable};
pub use room::{reclaimable, room};

pub(crate) use lookup::find;

use attempt::Attempt;
use copy::copy;
use listing::{Entry, Kind, Stamp, list};

/// The most files, folders and links an artifact may have.
pub const ENTRIES_LIMIT: u64 = 100_000;

/// The most bytes an artifact may have: 4 GiB.
pub const BYTES_LIMIT: u64 = 4 * 1024 * 1024 * 1024;

/// Bytes copied between two looks at the rest.
const CHUNK: usize = 128 * 1024;

/// How far [`store`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Files copied.
    pub files: u64,
    /// Bytes copied.
    pub bytes: u64,
}

/// A stored artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Names it.
    pub digest: Digest,
    /// How many files it has.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Why an artifact could not be stored. The system's own words are part of the text, because it travels
/// as text to people.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is nothing at the given path.
    #[error("there is no artifact at {}", .source_path.display())]
    Missing {
        /// The path.
        source_path: PathBuf,
    },
    /// Something in the artifact cannot be read.
    #[error("{} cannot be read: {cause}", .path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// The artifact and the state folder hold one another.
    #[error("the artifact {} and the state folder {} lie one inside the other", .source_path.display(), .state.display())]
    Entangled {
        /// The artifact.
        source_path: PathBuf,
        /// The state folder.
        state: PathBuf,
    },
    /// A socket, pipe or device.
    #[error("{} is a {kind}, which cannot be part of an artifact", .path.display())]
    Special {
        /// Its path in the artifact.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A symbolic link that leaves the artifact.
    #[error("the link {} points out of the artifact, to {}", .path.display(), .target.display())]
    Link {
        /// Its path in the artifact.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// More than [`ENTRIES_LIMIT`].
    #[error("the artifact {} has more than {ENTRIES_LIMIT} files and folders", .source_path.display())]
    TooMany {
        /// The artifact.
        source_path: PathBuf,
    },
    /// More than [`BYTES_LIMIT`].
    #[error("the artifact {} has more than {} GiB", .source_path.display(), BYTES_LIMIT >> 30)]
    TooLarge {
        /// The artifact.
        source_path: PathBuf,
    },
    /// Somebody wrote to the artifact while it was copied.
    #[error("{} changed while the artifact was copied", .path.display())]
    Changed {
        /// Its path in the artifact.
        path: PathBuf,
    },
    /// The copy cannot be written.
    #[error("{} cannot be written: {cause}", .path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
}

impl StoreError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "build it first, or correct the path",
            Self::Read { .. } => "make it readable for this user, or keep it out of the artifact",
            Self::Entangled { .. } => "it would copy itself: choose another --state, or a smaller artifact",
            Self::Special { .. } => {
                "remove it, or build into a folder that holds only what the service needs"
            }
            Self::Link { .. } => "copy what it points to into the artifact, or make the link relative",
            Self::TooMany { .. } | Self::TooLarge { .. } => {
                "build into a folder that holds only what the service needs"
            }
            Self::Changed { .. } => "wait for the build to end, then release again",
            Self::Write { .. } => "look at the free space and the rights of the state folder",
        }
    }
}

/// Copies a file or a folder into the content store and names it by its digest. A file becomes a folder
/// with that one file; folders called `.git` are left out.
///
/// What was copied is what was there at one moment: the artifact is listed before and after, each file is
/// looked at before and after its bytes were read, and any difference in size, time or inode refuses it.
/// Somebody who changes a file and sets size and all times back, while the clock stands still, is not
/// noticed; but the digest is of the bytes that were copied, whatever they are.
///
/// Blocking. Safe to repeat: an artifact that is there already is not written again. What a dead attempt
/// left is removed by [`sweep`].
///
/// # Errors
/// See [`StoreError`]; nothing is left behind but for a crash.
pub fn store(folder: &StateFolder, source: &Path, progress: &dyn Fn(Progress)) -> Result<Stored, StoreError> {
    let root = real(source)?;
    refuse_entangled(folder, &root)?;
    let before = list_source(source, &root)?;
    let attempt =
        Attempt::begin(&folder.artifacts()).map_err(|cause| write_error(&folder.artifacts(), cause))?;
    let copied = copy(source, &root, &before, &attempt.path, progress)?;
    let after = list_source(source, &root)?;
    if let Some(path) = difference(&before, &after) {
        return Err(StoreError::Changed { path });
    }
    attempt
        .finish(&folder.artifact(&copied.digest))
        .map_err(|cause| write_error(&folder.artifacts(), cause))?;
    Ok(copied)
}

/// Why a stored artifact is not what its name says.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not in the store.
    #[error("the artifact {} is not in the store", .digest.short())]
    Missing {
        /// The wanted digest.
        digest: Digest,
    },
    /// Its bytes, names or modes are others than when it was stored.
    #[error("the stored artifact {} was changed: its digest is now {}", .digest.short(), .found.short())]
    Differs {
        /// The wanted digest.
        digest: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// It cannot be read, or holds what an artifact cannot hold.
    #[error(transparent)]
    Unreadable(StoreError),
}

/// Reads a stored artifact again and compares it with its name. Blocking.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify(folder: &StateFolder, digest: &Digest) -> Result<(), VerifyError> {
    let root = folder.artifact(digest);
    if !root.is_dir() {
        return Err(VerifyError::Missing { digest: digest.clone() });
    }
    let found = digest_of(&root).map_err(VerifyError::Unreadable)?;
    if found == *digest { Ok(()) } else { Err(VerifyError::Differs { digest: digest.clone(), found }) }
}

/// Removes what attempts to store have left that died before they ended, and says how many. Attempts
/// still under way, of this process or another, hold a lock and are left alone.
///
/// # Errors
/// When the store cannot be read or something in it cannot be removed.
pub fn sweep(folder: &StateFolder) -> io::Result<usize> {
    let artifacts = folder.artifacts();
    if !artifacts.exists() {
        return Ok(0);
    }
    attempt::remove_dead(&artifacts)
}

/// Removes every stored artifact that is not in `keep`, and what [`sweep`] removes; says how many. Not to be
/// called while one is being stored that is not in `keep`.
///
/// # Errors
/// When the store cannot be read or something in it cannot be removed.
pub fn retain(folder: &StateFolder, keep: &BTreeSet<Digest>) -> io::Result<usize> {
    sweep(folder)?;
    let kept: BTreeSet<&str> = keep.iter().map(Digest::hex).collect();
    for entry in std::fs::read_dir(folder.artifacts())? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        // What has another kind of name is not ours to judge.
        let stored = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        if stored && !kept.contains(name) {
            // It loses its name first: half an artifact never has one.
            std::fs::rename(&path, path.with_file_name(format!("{}removed-{name}", attempt::ATTEMPT)))?;
        }
    }
    sweep(folder)
}

fn write_error(path: &Path, cause: io::Error) -> StoreError {
    StoreError::Write { path: path.to_owned(), cause }
}

fn read_error(path: &Path, cause: io::Error) -> StoreError {
    StoreError::Read { path: path.to_owned(), cause }
}

fn real(source: &Path) -> Result<PathBuf, StoreError> {
    source.canonicalize().map_err(|cause| {
        let gone = cause.kind() == io::ErrorKind::NotFound;
        if gone { StoreError::Missing { source_path: source.to_owned() } } else { read_error(source, cause) }
    })
}

fn refuse_entangled(folder: &StateFolder, root: &Path) -> Result<(), StoreError> {
    let state = folder.root();
    // A state folder that is not made yet is looked for where it will be.
    let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    if root.starts_with(&state) || state.starts_with(root) {
        return Err(StoreError::Entangled { source_path: root.to_owned(), state });
    }
    Ok(())
}

fn list_source(given: &Path, root: &Path) -> Result<Vec<Entry>, StoreError> {
    let meta = std::fs::symlink_metadata(root).map_err(|cause| {
        let gone = cause.kind() == io::ErrorKind::NotFound;
        if gone { StoreError::Changed { path: given.to_owned() } } else { read_error(root, cause) }
    })?;
    if meta.is_dir() {
        return list(root, Some(OsStr::new(".git")));
    }
    // The name people gave, not the one a link led to.
    let name = given.file_name().or(root.file_name()).expect("the path of a file ends in a name");
    let entry = Entry::of(PathBuf::from(name), &meta, root)?;
    if Stamp::of(&meta).size > BYTES_LIMIT {
        return Err(StoreError::TooLarge { source_path: given.to_owned() });
    }
    Ok(vec![entry])
}

/// The first path that is not the same in both, if any.
fn difference(before: &[Entry], after: &[Entry]) -> Option<PathBuf> {
    let changed = before.iter().zip(after).find(|(old, new)| old != new);
    let longer = if before.len() > after.len() { before } else { after };
    let more = longer.get(before.len().min(after.len()));
    changed.map(|(old, new)| old.path.clone().min(new.path.clone())).or(more.map(|entry| entry.path.clone()))
}

/// Computes the digest of a folder that is already in the store.
fn digest_of(root: &Path) -> Result<Digest, StoreError> {
    let mut manifest = Manifest::new();
    for entry in list(root, None)? {
        match &entry.kind {
            Kind::Folder => manifest.folder(&entry.path),
            Kind::Link { target } => manifest.link(&entry.path, target),
            Kind::File { executable, stamp } => {
                let path = root.join(&entry.path);
                let hash = lookup::digest_bytes(&path).map_err(|cause| read_error(&path, cause))?;
                manifest.file(&entry.path, *executable, stamp.size, hash);
            }
        }
    }
    Ok(manifest.digest())
}

/// What an artifact's digest is of: its entries in order of their paths. Every text is preceded by its
/// length, so that no two artifacts have the same manifest.
struct Manifest(Sha256);

impl Manifest {
    fn new() -> Self {
        Self(Sha256::new_with_prefix(b"mainstay artifact 1\n"))
    }

    fn text(&mut self, kind: u8, path: &Path) {
        self.0.update([kind]);
        self.bytes(path);
    }

    fn bytes(&mut self, path: &Path) {
        let bytes = path.as_os_str().as_bytes();
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn folder(&mut self, path: &Path) {
        self.text(b'd', path);
    }

    fn link(&mut self, path: &Path, target: &Path) {
        self.text(b'l', path);
        self.bytes(target);
    }

    fn file(&mut self, path: &Path, executable: bool, size: u64, hash: [u8; 32]) {
        self.text(if executable { b'x' } else { b'f' }, path);
        self.0.update(size.to_be_bytes());
        self.0.update(hash);
    }

    fn digest(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests;
