//! The four verdicts. Only [`Verdict::Pass`] opens a gate.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a test says of what it tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything asked was shown.
    Pass,
    /// Something asked was shown not to hold.
    Fail,
    /// Too little was seen to say.
    Inconclusive,
    /// The test itself did not work, so it says nothing of what it tested.
    Invalid,
}

impl Verdict {
    /// The verdict of two tests together: the worse one. A test that did not work outweighs a pass and an
    /// inconclusive one, but a failure that was seen stays a failure.
    pub fn and(self, other: Self) -> Self {
        let rank = |verdict| match verdict {
            Self::Pass => 0,
            Self::Inconclusive => 1,
            Self::Invalid => 2,
            Self::Fail => 3,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Invalid => "invalid",
        })
    }
}
