//! Whether the candidate fails more often than the active one.
//!
//! If both fail equally often, then of the errors seen in one moment, each fell on the candidate with the
//! chance that a request did: its share of the requests of that moment. How many errors there are in all says
//! nothing, so an outage that hits both is no evidence, and neither is a change of the share between steps.
//! For fixed numbers of requests the candidate's errors are drawn without replacement; drawing with
//! replacement, as is computed here, spreads wider and so errs on the side of silence (Hoeffding 1963,
//! theorem 4).
//!
//! Two limits keep bursts from deciding alone: a look counts as at most [`BURST`] errors, and multiplies the
//! evidence by at most [`CLIP`].

use crate::evidence::Evidence;
use crate::text::{chance, number, percent};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The chance, for one release, that errors are blamed on a candidate that has no more of them.
pub const ALPHA: f64 = 0.001;
/// How many errors one look counts as at most. More are scaled down, on both sides alike.
pub const BURST: f64 = 10.0;
/// The most that one look may multiply the evidence by: about two errors at a tenth of the traffic.
pub const CLIP: f64 = 100.0;
/// How many requests have to be seen together before an error among them is judged: with fewer, the share of
/// the moment is coarse.
pub const WINDOW_MIN: u64 = 20;
/// How many requests without an error are kept to go with the next error.
pub const WINDOW_MAX: u64 = 100;

/// How many times as often the candidate might fail: the alternatives that are tried together.
const RATIOS: [f64; 5] = [1.5, 2.5, 5.0, 20.0, 100.0];

/// Requests and errors of both sides. An error is among the requests; more errors than requests are taken as
/// all requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests answered by the candidate.
    pub candidate_requests: u64,
    /// Of these, errors.
    pub candidate_errors: u64,
    /// Requests answered by the active one.
    pub active_requests: u64,
    /// Of these, errors.
    pub active_errors: u64,
}

impl Counts {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            candidate_requests: self.candidate_requests.saturating_add(other.candidate_requests),
            candidate_errors: self.candidate_errors.saturating_add(other.candidate_errors),
            active_requests: self.active_requests.saturating_add(other.active_requests),
            active_errors: self.active_errors.saturating_add(other.active_errors),
        }
    }

    /// All requests.
    pub fn requests(self) -> u64 {
        self.candidate_requests.saturating_add(self.active_requests)
    }

    /// All errors.
    pub fn errors(self) -> u64 {
        self.candidate_errors.saturating_add(self.active_errors)
    }

    /// With no more errors than requests.
    pub(crate) fn checked(self) -> Self {
        Self {
            candidate_errors: self.candidate_errors.min(self.candidate_requests),
            active_errors: self.active_errors.min(self.active_requests),
            ..self
        }
    }
}

/// What an [`ErrorTest`] says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum ErrorVerdict {
    /// The candidate fails more often, and chance is ruled out. Not taken back.
    Worse(ErrorFinding),
    /// Nothing says that it fails more often.
    Undecided(ErrorFinding),
}

/// The numbers behind an [`ErrorVerdict`]. Its `Display` is the finding in words.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ErrorFinding {
    /// Everything counted so far while both served.
    pub counts: Counts,
    /// The evidence now: 1 at the start, above `1 / alpha` is enough.
    pub e_value: f64,
    /// The highest evidence so far.
    pub peak: f64,
    /// The chance of ever blaming a candidate that is no worse.
    pub alpha: f64,
}

impl fmt::Display for ErrorFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        write!(
            f,
            "candidate {} errors against {}, {} and {} requests, {}",
            percent(c.candidate_errors, c.candidate_requests),
            percent(c.active_errors, c.active_requests),
            number(c.candidate_requests),
            number(c.active_requests),
            chance(self.peak)
        )
    }
}

/// A sequential test of one release on one set of requests: looked at as often as wanted, it blames a
/// candidate that is no worse with a chance of at most `alpha`.
///
/// One test per release, or several with `alpha` divided among them. It can be stored and read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorTest {
    evidence: Evidence,
    /// Of the windows that are over and held requests of both sides.
    seen: Counts,
    /// Seen and not yet judged: without an error, or too little.
    pending: Counts,
}

impl ErrorTest {
    /// A test that blames wrongly with a chance of at most `alpha` ([`ALPHA`] for a whole release).
    pub fn new(alpha: f64) -> Self {
        let (seen, pending) = (Counts::default(), Counts::default());
        Self { evidence: Evidence::new(alpha, RATIOS.len()), seen, pending }
    }

    /// Takes in what was counted since the last call, best about once a second: the limits on bursts hold per
    /// call. When only one side serves, nothing can be compared and nothing is counted.
    pub fn observe(&mut self, increment: Counts) {
        self.pending = self.pending.plus(increment.checked());
        // Whether a window is closed depends on the errors of both together, never on whose they are: so the
        // chance that each fell on the candidate is still its share.
        if self.pending.errors() > 0 && self.both() && self.pending.requests() >= WINDOW_MIN {
            self.judge();
            self.close();
        } else if self.pending.requests() > WINDOW_MAX {
            self.close();
        }
    }

    /// To be called when the shares of the traffic change: what is not yet judged is left out, because
    /// requests under two shares in one window could make a burst look like one side's.
    pub fn weights_changed(&mut self) {
        self.close();
    }

    /// Whether the window holds requests of both sides.
    fn both(&self) -> bool {
        self.pending.candidate_requests > 0 && self.pending.active_requests > 0
    }

    /// Begins the next window.
    fn close(&mut self) {
        if self.both() {
            self.seen = self.seen.plus(self.pending);
        }
        self.pending = Counts::default();
    }

    /// Weighs the errors of the window.
    fn judge(&mut self) {
        let window = self.pending;
        let share = window.candidate_requests as f64 / window.requests() as f64;
        // A power below 1 of a likelihood ratio is expected to be at most 1 too (Jensen).
        let scale = (BURST / window.errors() as f64).min(1.0);
        let (candidate, active) = (window.candidate_errors as f64, window.active_errors as f64);
        self.evidence.look(CLIP, |alternative| {
            let ratio = RATIOS[alternative];
            // The chance that an error is the candidate's is `ratio · share / whole` under the alternative.
            let whole = ratio * share + 1.0 - share;
            scale * (candidate * (ratio / whole).ln() - active * whole.ln())
        });
    }

    /// The evidence now: 1 at the start, `1 / alpha` is enough.
    pub fn e_value(&self) -> f64 {
        self.evidence.value()
    }

    /// The numbers so far.
    pub fn finding(&self) -> ErrorFinding {
        ErrorFinding {
            counts: if self.both() { self.seen.plus(self.pending) } else { self.seen },
            e_value: self.evidence.value(),
            peak: self.evidence.peak(),
            alpha: self.evidence.alpha(),
        }
    }

    /// What the numbers so far say.
    pub fn verdict(&self) -> ErrorVerdict {
        let finding = self.finding();
        if self.evidence.is_enough() {
            ErrorVerdict::Worse(finding)
        } else {
            ErrorVerdict::Undecided(finding)
        }
    }
}

#[cfg(test)]
mod tests;
