//! Where things lie in the state folder of an environment. Only names: whoever owns a file makes it.

use model::name::{ComponentName, Digest, InstanceId, StampId};
use std::path::{Path, PathBuf};

/// The version of the folder's layout and of everything recorded in it. A newer one is refused by name.
pub const STATE_VERSION: u32 = 1;

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

    /// The agent's records.
    pub fn control_db(&self) -> PathBuf {
        self.root.join("control.db")
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
