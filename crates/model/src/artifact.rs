//! What a release is made of.

use crate::name::{ComponentName, Digest};
use crate::workload::Configuration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The immutable bytes a service runs from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Artifact {
    /// A folder in the environment's content store; instances run in it.
    Stored {
        /// The digest over names, modes and bytes of all its files.
        digest: Digest,
    },
    /// A command on this machine (`mainstay run`). Only its executable is bound: what it reads besides
    /// may change, and the release says so.
    Command {
        /// The digest of the executable file.
        digest: Digest,
        /// The executable, as found when the release was planned.
        executable: PathBuf,
        /// The folder the command was given in; instances run in it.
        folder: PathBuf,
    },
}

impl Artifact {
    /// The digest that names the bytes.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Stored { digest } | Self::Command { digest, .. } => digest,
        }
    }
}

/// A release: its artifacts and its resolved configuration. Nothing about it changes once it is planned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// What people call it; `r3` when nobody gave it a name.
    pub name: String,
    /// The digest over artifacts and configuration.
    pub digest: Digest,
    /// The artifact of each service.
    pub artifacts: BTreeMap<ComponentName, Artifact>,
    /// What the workload file said, resolved for this environment.
    pub configuration: Configuration,
}
