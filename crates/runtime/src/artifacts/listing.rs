//! What is in a folder, in the order of paths.

use super::{BYTES_LIMIT, ENTRIES_LIMIT, StoreError, read_error};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// How many links are followed in a row before it counts as a circle, as in the kernel (path_resolution(7)).
const LINKS_LIMIT: u32 = 40;

/// One thing in an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Relative to the artifact.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// The artifact is this one file, at its root.
    alone: bool,
}

/// What a thing is, and by what one sees that it has not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder's own times change with what is in it, and what is in it is listed itself.
    Folder,
    File {
        executable: bool,
        stamp: Stamp,
    },
    Link {
        target: PathBuf,
    },
}

/// By what one sees that a file has not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) changed: (i64, i64),
    status_changed: (i64, i64),
    inode: (u64, u64),
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            size: meta.len(),
            changed: (meta.mtime(), meta.mtime_nsec()),
            status_changed: (meta.ctime(), meta.ctime_nsec()),
            inode: (meta.dev(), meta.ino()),
        }
    }
}

impl Entry {
    /// The one file that is the whole artifact.
    pub(super) fn of(path: PathBuf, meta: &Metadata, at: &Path) -> Result<Self, StoreError> {
        if !meta.is_file() {
            return Err(StoreError::Special { path: at.to_owned(), kind: special(meta) });
        }
        Ok(Self { path, kind: file(meta), alone: true })
    }

    /// Where it lies, given where the artifact lies.
    pub(super) fn source(&self, root: &Path) -> PathBuf {
        if self.alone { root.to_owned() } else { root.join(&self.path) }
    }
}

fn file(meta: &Metadata) -> Kind {
    Kind::File { executable: meta.mode() & 0o111 != 0, stamp: Stamp::of(meta) }
}

fn special(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "named pipe"
    } else {
        "device"
    }
}

/// Everything below `root`, sorted by path; a folder comes before what is in it. Folders named `skip` are
/// left out.
pub(super) fn list(root: &Path, skip: Option<&OsStr>) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    let mut bytes = 0u64;
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let at = root.join(&folder);
        let names = std::fs::read_dir(&at).map_err(|cause| gone_or_unreadable(&folder, &at, cause))?;
        for name in names {
            let name = name.map_err(|cause| read_error(&at, cause))?.file_name();
            let path = folder.join(&name);
            let full = root.join(&path);
            let meta =
                std::fs::symlink_metadata(&full).map_err(|cause| gone_or_unreadable(&path, &full, cause))?;
            let kind = if meta.is_dir() {
                if skip == Some(name.as_os_str()) {
                    continue;
                }
                folders.push(path.clone());
                Kind::Folder
            } else if meta.is_symlink() {
                link(root, &path)?
            } else if meta.is_file() {
                bytes = bytes.saturating_add(meta.len());
                file(&meta)
            } else {
                return Err(StoreError::Special { path, kind: special(&meta) });
            };
            entries.push(Entry { path, kind, alone: false });
            if entries.len() as u64 > ENTRIES_LIMIT {
                return Err(StoreError::TooMany { source_path: root.to_owned() });
            }
            if bytes > BYTES_LIMIT {
                return Err(StoreError::TooLarge { source_path: root.to_owned() });
            }
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// What was named a moment ago and is not there any more has changed.
fn gone_or_unreadable(path: &Path, full: &Path, cause: io::Error) -> StoreError {
    let gone = cause.kind() == io::ErrorKind::NotFound;
    if gone { StoreError::Changed { path: path.to_owned() } } else { read_error(full, cause) }
}

fn link(root: &Path, path: &Path) -> Result<Kind, StoreError> {
    let full = root.join(path);
    let target = std::fs::read_link(&full).map_err(|cause| gone_or_unreadable(path, &full, cause))?;
    let mut at = path.parent().unwrap_or(Path::new("")).to_owned();
    if stays_inside(root, &mut at, &target, LINKS_LIMIT) {
        Ok(Kind::Link { target })
    } else {
        Err(StoreError::Link { path: path.to_owned(), target })
    }
}

/// Walks `target` from `at` (relative to `root`) as the kernel would, through other links too, and says
/// whether it stays below `root`. What does not exist is walked by its name alone.
fn stays_inside(root: &Path, at: &mut PathBuf, target: &Path, links: u32) -> bool {
    if links == 0 {
        return false;
    }
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                if !at.pop() {
                    return false;
                }
            }
            Component::Normal(name) => {
                let next = at.join(name);
                match std::fs::read_link(root.join(&next)) {
                    Ok(further) => {
                        if !stays_inside(root, at, &further, links - 1) {
                            return false;
                        }
                    }
                    Err(_) => *at = next,
                }
            }
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}
