//! What bridges the moments in which an instance, or a whole stamp, is away: live probes, held requests, and the
//! stamp before for what only it has.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Whether an instance that runs still answers. Of the instances of a service in one stamp those that do not are
/// started again one at a time, and never the last one that is left to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The path that must answer 2xx or 3xx.
    pub get: String,
    /// How often it is asked. Never zero.
    pub every: Duration,
    /// How long an answer may take to begin. Never zero.
    pub timeout: Duration,
}

/// Requests that wait while no instance of their stamp takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// How many may wait in the whole gateway at once; more get 503 with Retry-After. 0: none waits.
    pub requests: u32,
    /// How long each may wait; then it gets the error that it waited to be spared. Zero: none waits.
    pub time: Duration,
}

impl Hold {
    /// Nobody waits.
    pub const OFF: Self = Self { requests: 0, time: Duration::ZERO };

    /// Whether anybody may wait.
    pub fn is_off(&self) -> bool {
        self.requests == 0 || self.time.is_zero()
    }
}

impl Default for Hold {
    /// Longer than most services take to start, and shorter than most clients' patience.
    fn default() -> Self {
        Self { requests: 1000, time: Duration::from_secs(5) }
    }
}

/// What the stamp before is asked for when this one has answered 404.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousStamp {
    /// The folder in the artifact that paths are relative to, `/` between its parts: what of the stamp before
    /// answers once it has stopped. None: nothing does.
    pub files: Option<String>,
}
