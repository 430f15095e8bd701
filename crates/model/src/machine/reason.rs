//! Why a release does not get through.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a release did not get through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What kind of thing went wrong: stable, for programs.
    pub kind: ReasonKind,
    /// What was seen, for people.
    pub text: String,
}

/// The kinds of [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// The artifact could not be stored as it was.
    Artifact,
    /// A hook failed, or the old code does not work on the new schema, or cannot by what it says of itself.
    Schema,
    /// A store does not run.
    Store,
    /// The candidate did not become ready.
    NotReady,
    /// Smoke did not pass.
    Smoke,
    /// An instance of the candidate ended, or took no connections.
    Crash,
    /// The candidate fails more requests than the old stamp, or than its objective allows.
    Errors,
    /// The candidate is slower than the old stamp, or than its objective allows.
    Latency,
    /// An instance of the candidate holds nearly all the memory it may.
    Memory,
    /// Too few requests to tell.
    Inconclusive,
    /// An operator took it back.
    Operator,
    /// A state lasted longer than it may.
    Deadline,
    /// The machine has no room for it.
    Machine,
}

impl fmt::Display for ReasonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Artifact => "artifact",
            Self::Schema => "schema",
            Self::Store => "store",
            Self::NotReady => "not_ready",
            Self::Smoke => "smoke",
            Self::Crash => "crash",
            Self::Errors => "errors",
            Self::Latency => "latency",
            Self::Memory => "memory",
            Self::Inconclusive => "inconclusive",
            Self::Operator => "operator",
            Self::Deadline => "deadline",
            Self::Machine => "machine",
        })
    }
}
