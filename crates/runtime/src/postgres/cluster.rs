//! The data folder of a server: made once, whole or not at all.

use super::programs::{Programs, leading_number};
use super::{ORPHAN_WAIT, PrepareError, USER};
use crate::driver::blocking;
use crate::process::working_in;
use api::folder::replace_file;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether a killed server's processes have ended.
const ORPHAN_LOOK: Duration = Duration::from_millis(20);

/// The locales to make a database with, the best first: both compare bytes, so that no update of the C library
/// changes the order of an index. The first one also knows the letters of all languages, and is not everywhere.
const LOCALES: [&str; 2] = ["C.UTF-8", "C"];

/// A data folder and where its password is.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) data: PathBuf,
    pub(super) password: PathBuf,
}

impl Cluster {
    /// The major version that made the data; None when there is no data yet.
    pub(super) fn made_by(&self) -> Result<Option<u32>, PrepareError> {
        let machine = |cause| PrepareError::Machine { path: self.data.clone(), cause };
        let foreign = || PrepareError::Foreign { path: self.data.clone() };
        let mut entries = match std::fs::read_dir(&self.data) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => return Err(foreign()),
            Err(cause) => return Err(machine(cause)),
        };
        if entries.next().is_none() {
            return Ok(None);
        }
        match std::fs::read_to_string(self.data.join("PG_VERSION")) {
            Ok(text) => leading_number(&text).map(Some).ok_or_else(foreign),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(foreign()),
            Err(cause) => Err(machine(cause)),
        }
    }

    /// The password that was made with the data.
    pub(super) fn read_password(&self) -> Result<String, PrepareError> {
        let lost = || PrepareError::Password { data: self.data.clone(), path: self.password.clone() };
        match std::fs::read_to_string(&self.password) {
            Ok(text) => {
                let text = text.trim();
                // It goes into an address as it is.
                let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
                fits.then(|| text.to_owned()).ok_or_else(lost)
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Err(lost()),
            Err(cause) => Err(PrepareError::Machine { path: self.password.clone(), cause }),
        }
    }

    /// Makes password, data and database. The data gets its name last, so what has the name is whole.
    pub(super) async fn make(&self, programs: &Programs, database: &str) -> Result<(), PrepareError> {
        let machine = |path: &Path, cause| PrepareError::Machine { path: path.to_owned(), cause };
        let fresh = self.fresh_folder().await?;
        if self.read_password().is_err() {
            let secrets = self.password.parent().expect("the file is in a folder of the state folder");
            make_folder(secrets)
                .and_then(|()| replace_file(&self.password, random(16)?.as_bytes()))
                .map_err(|cause| machine(&self.password, cause))?;
        }
        let made = self.fill(programs, &fresh, database).await;
        let named = match made {
            Ok(()) => std::fs::rename(&fresh, &self.data)
                .and_then(|()| File::open(self.data_parent())?.sync_all())
                .map_err(|cause| machine(&self.data, cause)),
            Err(error) => Err(error),
        };
        if named.is_err() {
            // Otherwise the next attempt does.
            let _ = blocking(move || std::fs::remove_dir_all(&fresh)).await;
        }
        named
    }

    fn data_parent(&self) -> &Path {
        self.data.parent().expect("the data is in a folder of the state folder")
    }

    /// A place of its own for this attempt, as programs that an earlier one started may still be at work in theirs.
    /// The places of earlier attempts are removed.
    async fn fresh_folder(&self) -> Result<PathBuf, PrepareError> {
        let machine = |cause| PrepareError::Machine { path: self.data.clone(), cause };
        let parent = self.data_parent().to_owned();
        let name = self.data.file_name().expect("the data has a name").to_string_lossy().into_owned();
        // A component's name has no dots, so this is no other store's data.
        let prefix = format!(".{name}.making-");
        make_folder(&parent).map_err(machine)?;
        let fresh = parent.join(format!("{prefix}{}", random(8).map_err(machine)?));
        blocking(move || {
            for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&prefix)
                    && let Err(cause) = std::fs::remove_dir_all(entry.path())
                {
                    tracing::warn!(path = %entry.path().display(), %cause, "half-made data cannot be removed");
                }
            }
        })
        .await;
        Ok(fresh)
    }

    async fn fill(&self, programs: &Programs, fresh: &Path, database: &str) -> Result<(), PrepareError> {
        let mut locales = LOCALES.iter();
        loop {
            let locale = locales.next().expect("the last locale is always there");
            let arguments: [&OsStr; 12] = [
                "-D".as_ref(),
                fresh.as_ref(),
                "-U".as_ref(),
                USER.as_ref(),
                "--auth".as_ref(),
                "scram-sha-256".as_ref(),
                "--pwfile".as_ref(),
                self.password.as_ref(),
                "--encoding".as_ref(),
                "UTF8".as_ref(),
                "--locale".as_ref(),
                locale.as_ref(),
            ];
            match programs.run("initdb", &arguments, "").await {
                Err(PrepareError::Program { said, .. })
                    if said.contains("invalid locale name") && locales.len() > 0 => {}
                other => break other?,
            }
        }
        // initdb makes one of this name itself.
        if database == "postgres" {
            return Ok(());
        }
        let arguments: [&OsStr; 6] = [
            "--single".as_ref(),
            "-D".as_ref(),
            fresh.as_ref(),
            // Otherwise a failed statement is no failure of the program.
            "-c".as_ref(),
            "exit_on_error=on".as_ref(),
            "postgres".as_ref(),
        ];
        // A component's name has no quotes, and fits into the 63 bytes of a database's.
        programs.run("postgres", &arguments, &format!("CREATE DATABASE \"{database}\"\n")).await
    }

    /// Waits for the end of what a killed server left, and removes its `postmaster.pid`.
    ///
    /// PostgreSQL takes the process that has the number in that file now for a running server, whatever it is, if it
    /// may signal it. After a reboot that may be any process of this user, and for ever. Whether a server works on
    /// the data is told better by the working directory of its processes.
    pub(super) async fn put_in_order(&self) -> Result<(), PrepareError> {
        let deadline = Instant::now() + ORPHAN_WAIT;
        loop {
            let data = self.data.clone();
            let pids = blocking(move || working_in(&data)).await;
            let mut pids = pids.map_err(|cause| PrepareError::Machine { path: self.data.clone(), cause })?;
            // Not a shell that somebody went there with.
            pids.retain(|pid| is_server(*pid));
            if pids.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                return Err(PrepareError::Occupied { data: self.data.clone(), pids });
            }
            tokio::time::sleep(ORPHAN_LOOK).await;
        }
        let stale = self.data.join("postmaster.pid");
        match std::fs::remove_file(&stale) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(PrepareError::Machine { path: stale, cause })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn is_server(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    matches!(name.trim(), "postgres" | "postmaster")
}

/// Makes a folder and those above it, for this user alone.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// So many random bytes, in hexadecimal.
fn random(bytes: usize) -> io::Result<String> {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).map_err(|cause| io::Error::other(cause.to_string()))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
