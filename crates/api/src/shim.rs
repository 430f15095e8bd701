//! A shim's files and socket in `run/shims/INSTANCE/`.
//!
//! - `start.json` ([`Start`]) is written by the agent before it starts the shim.
//! - `running.json` ([`Running`]) is written by the shim once the instance runs.
//! - `exit.json` ([`Exit`]) is written by the shim when the instance has ended; then the shim ends.
//! - `sock`: one JSON line asks ([`Ask`]), one JSON line answers ([`Answer`]). A connection that asks to
//!   watch is answered when the instance ends.

use model::name::{FenceToken, InstanceId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a shim is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Of the agent that speaks.
    pub fence: FenceToken,
    /// The instance.
    pub instance: InstanceId,
    /// Program and arguments, all values filled in.
    pub command: Vec<String>,
    /// The working directory.
    pub folder: PathBuf,
    /// The whole environment of the process.
    pub env: Vec<(String, String)>,
    /// RLIMIT_NOFILE.
    pub open_files: Option<u64>,
    /// Where standard output and error go.
    pub log: PathBuf,
    /// The port the instance was told; 0 for what has none.
    pub port: u16,
    /// What asks it to end. A shim older than this field sends SIGTERM.
    #[serde(default)]
    pub stop_signal: StopSignal,
}

/// The signal that asks an instance to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopSignal {
    /// SIGTERM, as every service manager does.
    #[default]
    Term,
    /// SIGINT: PostgreSQL then ends its clients' connections instead of waiting for them.
    Int,
}

/// A process, told apart from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (proc(5), `stat` field 22).
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// An instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Its shim.
    pub shim: ProcessId,
    /// The instance; also its process group.
    pub process: ProcessId,
    /// The port it was told.
    pub port: u16,
}

/// An instance has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Its exit code, when it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why it could not be started at all.
    pub not_started: Option<String>,
    /// Whether its shim had been asked to stop it.
    pub asked: bool,
}

/// What a shim can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Answered when the instance ends.
    Watch {
        /// [`crate::PROTOCOL_VERSION`].
        v: u32,
    },
    /// [`Start::stop_signal`] to the process group now, SIGKILL after the grace. The shim sees to both, whatever becomes
    /// of the agent. Answered when the instance has ended.
    Stop {
        /// [`crate::PROTOCOL_VERSION`].
        v: u32,
        /// Of the agent that speaks; a lower one than the shim has seen is refused.
        fence: FenceToken,
        /// How long it may take to end by itself.
        grace_ms: u64,
    },
}

/// What a shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The instance has ended.
    Ended(Exit),
    /// The ask was not understood, or came from an older agent.
    Refused {
        /// [`crate::PROTOCOL_VERSION`].
        v: u32,
        /// Why.
        message: String,
    },
}
