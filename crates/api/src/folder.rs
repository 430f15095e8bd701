//! Where things lie in the state folder of an environment. Only names: whoever owns a file makes it.

use model::name::{ComponentName, Digest, EnvironmentName, InstanceId, StampId, WorkloadName};
use model::workload::{Class, Listen};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The version of the folder's layout and of everything recorded in it. A newer one is refused by name.
pub const STATE_VERSION: u32 = 1;

/// What `environment.json` says: whose folder this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// [`STATE_VERSION`] of the program that wrote it.
    pub v: u32,
    /// Random, 128 bits in hexadecimal: two environments of one name are still two.
    pub id: String,
    /// The workload.
    pub workload: WorkloadName,
    /// The environment.
    pub environment: EnvironmentName,
    /// Its class.
    pub class: Class,
    /// Where its gateway listens.
    pub listen: Listen,
    /// Whether its services see all variables of whoever brought the environment up, or only the usual few
    /// (`PATH`, `HOME`, `LANG` and the like).
    pub inherit_env: bool,
}

/// Why a mark could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// There is none: no environment was ever made here.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// Written by a newer mainstay.
    #[error("{path} was written by a newer mainstay (version {found}, this one knows {STATE_VERSION})")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// Not what mainstay wrote.
    #[error("{path} is damaged: {message}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The operating system refused.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        cause: std::io::Error,
    },
}

/// The state folder of one environment: mode 0700, shared with no other environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFolder {
    root: PathBuf,
}

impl StateFolder {
    /// The layout below `root`, which must be absolute. Nothing is touched.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Says what environment this is, with its random id and the version of the layout.
    pub fn mark(&self) -> PathBuf {
        self.root.join("environment.json")
    }

    /// Reads the mark.
    pub fn read_mark(&self) -> Result<Mark, MarkError> {
        let path = self.mark();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(MarkError::Missing(path)),
            Err(cause) => return Err(MarkError::Io { path, cause }),
        };
        let damaged =
            |path: PathBuf, e: serde_json::Error| MarkError::Damaged { path, message: e.to_string() };
        // The version is read first: a newer mark may have another shape.
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| damaged(path.clone(), e))?;
        let found = value.get("v").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if found > u64::from(STATE_VERSION) {
            return Err(MarkError::Newer { path, found });
        }
        serde_json::from_value(value).map_err(|e| damaged(path, e))
    }

    /// Writes the mark, making the folder and its subfolders (0700) where they are missing.
    pub fn write_mark(&self, mark: &Mark) -> std::io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for folder in
            [self.root(), &self.run(), &self.logs(), &self.data(), &self.artifacts(), &self.secrets()]
        {
            builder.create(folder)?;
        }
        // It may have been there before, made by somebody for everybody.
        std::fs::set_permissions(self.root(), std::fs::Permissions::from_mode(0o700))?;
        let text = serde_json::to_vec_pretty(mark).expect("a mark has string keys");
        replace_file(&self.mark(), &text)
    }

    /// The agent's records.
    pub fn control_db(&self) -> PathBuf {
        self.root.join("control.db")
    }

    /// The gateway's journal of queued requests.
    pub fn queue_db(&self) -> PathBuf {
        self.root.join("queue.db")
    }

    /// Opens the preview door of this environment.
    pub fn preview_token(&self) -> PathBuf {
        self.secrets().join("preview-token")
    }

    /// What nobody else may read: 0700, its files 0600.
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// The password of a store that is a server of the environment's own.
    pub fn store_password(&self, component: &ComponentName) -> PathBuf {
        self.secrets().join(format!("{component}-password"))
    }

    /// What a store that is a server of the environment's own keeps.
    pub fn store_data(&self, component: &ComponentName) -> PathBuf {
        self.data().join(component.as_str())
    }

    /// The port of a store that is a server of the environment's own, kept so that its address stays the same.
    pub fn store_port(&self, component: &ComponentName) -> PathBuf {
        self.root.join("ports").join(component.as_str())
    }

    /// The routing table the gateway boots from.
    pub fn table(&self) -> PathBuf {
        self.root.join("table.json")
    }

    /// Artifacts by digest, read-only.
    pub fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    /// One stored artifact.
    pub fn artifact(&self, digest: &Digest) -> PathBuf {
        self.artifacts().join(digest.hex())
    }

    /// The services' own folder, which outlives releases: `{data}`.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// What processes print.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// What one instance prints, over all its restarts.
    pub fn instance_log(&self, stamp: StampId, component: &ComponentName, index: u32) -> PathBuf {
        self.logs().join(format!("{stamp}-{component}-{index}.log"))
    }

    /// One JSON line per request.
    pub fn access_log(&self) -> PathBuf {
        self.logs().join("access.log")
    }

    /// Sockets and locks; nothing in it outlives a reboot.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Held by the keeper for as long as it lives.
    pub fn keeper_lock(&self) -> PathBuf {
        self.run().join("keeper.lock")
    }

    /// The keeper's socket ([`crate::keeper`]).
    pub fn keeper_socket(&self) -> PathBuf {
        self.run().join("keeper.sock")
    }

    /// Held by the agent for as long as it lives.
    pub fn agent_lock(&self) -> PathBuf {
        self.run().join("agent.lock")
    }

    /// The agent's socket ([`crate::operator`]).
    pub fn agent_socket(&self) -> PathBuf {
        self.run().join("agent.sock")
    }

    /// The gateway's socket ([`crate::gateway`]).
    pub fn gateway_socket(&self) -> PathBuf {
        self.run().join("gateway.sock")
    }

    /// What a shim keeps of its instance.
    pub fn shim(&self, instance: &InstanceId) -> PathBuf {
        self.run().join("shims").join(instance.to_string())
    }
}

/// Replaces a file as a whole, readable by its owner only: write, fsync, rename, fsync of the folder. After
/// an error the old content stands.
pub fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // What could not be written whole is of no use; the error that is returned says why.
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(folder)?.sync_all()
}
