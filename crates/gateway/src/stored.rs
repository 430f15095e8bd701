//! The table on disk, from which a gateway serves before any agent speaks.

use api::folder::STATE_VERSION;
use api::gateway::Table;
use model::name::FenceToken;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// `table.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// [`STATE_VERSION`].
    pub(crate) v: u32,
    /// The boot in which the addresses and processes in the table were checked.
    pub(crate) boot: String,
    /// The highest that was seen.
    pub(crate) fence: FenceToken,
    pub(crate) table: Table,
}

/// Why there is no table to serve from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{path} cannot be read", path = path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path} is no table: {cause}", path = path.display())]
    Corrupt {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
    #[error("{path} has version {seen}, this program knows up to {STATE_VERSION}", path = path.display())]
    Newer { path: PathBuf, seen: u32 },
}

/// Reads the table. None: none was ever stored.
pub(crate) fn load(path: &Path) -> Result<Option<Stored>, LoadError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(LoadError::Unreadable { path: path.to_owned(), cause }),
    };
    let corrupt = |cause| LoadError::Corrupt { path: path.to_owned(), cause };
    // The version first: a newer file may have another shape.
    let Version { v } = serde_json::from_slice(&text).map_err(corrupt)?;
    if v > STATE_VERSION {
        return Err(LoadError::Newer { path: path.to_owned(), seen: v });
    }
    serde_json::from_slice(&text).map(Some).map_err(corrupt)
}

/// Replaces the table: after a power cut there is the old one or the new one.
///
/// # Errors
/// What the file system says. The old table is then still there, unless the folder alone could not be synced.
pub(crate) fn store(path: &Path, stored: &Stored) -> io::Result<()> {
    let text = serde_json::to_vec(stored)?;
    let aside = path.with_extension("json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// What tells this boot of the machine from others.
///
/// # Errors
/// `/proc` is not there.
pub(crate) fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn table() -> Table {
        Table {
            preview_token: "t".into(),
            trusted_proxies: vec![],
            active: None,
            candidate: None,
            weight: 10,
            fallback: None,
            guard: None,
            previous: None,
            kept: None,
        }
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        assert_eq!(load(&path).unwrap(), None);
        for fence in [3, 4] {
            let stored = Stored {
                v: STATE_VERSION,
                boot: boot_id().unwrap(),
                fence: FenceToken(fence),
                table: table(),
            };
            store(&path, &stored).unwrap();
            assert_eq!(load(&path).unwrap(), Some(stored));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_corrupt_or_newer_table_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        for (text, expected) in [
            ("", "is no table"),
            ("{\"v\":1}", "is no table"),
            ("{\"v\":99,\"other\":1}", "has version 99, this program knows up to 1"),
        ] {
            fs::write(&path, text).unwrap();
            let message = load(&path).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("table.json"), "{message}");
        }
    }
}
