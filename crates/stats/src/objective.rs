//! Whether a share keeps to its limit: errors to the objective's share, or requests longer than the
//! objective's p99 to 1 %. This needs no active one to compare with, so it also judges a candidate that
//! serves alone.
//!
//! Failing is an e-process: likelier by how much are the counts if the share is higher than if it is exactly
//! the limit. No look multiplies the evidence by more than a limit, so that an outage of a second, which may
//! be anybody's, does not take a release back: errors need three to six bad seconds, latency ten to twenty.

use crate::evidence::Evidence;
use crate::text::{chance, latency, number, percent, share};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The chance that a candidate that just keeps to an objective is said to fail it.
pub const ALPHA: f64 = 0.000_5;
/// The most that one look at errors may multiply the evidence by.
pub const CLIP_ERRORS: f64 = 20.0;
/// The most that one look at latency may multiply the evidence by: seconds in a row are slow together.
pub const CLIP_LATENCY: f64 = 2.5;
/// The most that one look at errors may multiply the evidence by when the limit is what was before: other
/// times may have other errors, so only many bad seconds count.
pub const CLIP_BEFORE: f64 = 5.0;
/// How many times the rate of errors before is allowed, on top of what is not known of that rate.
pub const FACTOR_BEFORE: f64 = 1.5;
/// How many requests have to be known of before.
pub const REQUESTS_BEFORE: u64 = 100;
/// The share of requests that may be longer than a p99.
pub const P99_SHARE: f64 = 0.01;
/// How many exceptions the limit has to have room for before "holds" is said: with three expected, none at
/// all would be seen in 5 of 100 cases only.
pub const EXPECTED_MIN: f64 = 3.0;

/// The alternatives: how many times the odds of the limit.
const ODDS: [f64; 5] = [1.3, 2.0, 5.0, 20.0, 200.0];

/// What is counted against the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum What {
    /// Errors.
    Errors,
    /// Errors of a candidate that serves alone, against those of the active one before.
    ErrorsAlone {
        /// The active one's requests.
        requests_before: u64,
        /// Of these, errors.
        errors_before: u64,
    },
    /// Requests longer than the p99 of the objective.
    OverP99 {
        /// That p99, in microseconds.
        limit_us: u64,
    },
}

/// What an [`ObjectiveTest`] says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum ObjectiveVerdict {
    /// The share is above the limit, and chance is ruled out. Not taken back.
    Fails(ObjectiveFinding),
    /// The share is at or below the limit, over enough requests.
    Holds(ObjectiveFinding),
    /// There are too few requests to say, or the share lies above the limit by no more than chance explains.
    TooFew(ObjectiveFinding),
}

/// The numbers behind an [`ObjectiveVerdict`]. Its `Display` is the finding in words.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveFinding {
    /// What is counted.
    #[serde(flatten)]
    pub what: What,
    /// The share that is allowed, 0 to 1.
    pub limit: f64,
    /// How many requests were looked at.
    pub requests: u64,
    /// How many of them count against the limit.
    pub exceptions: u64,
    /// The evidence now: 1 at the start.
    pub e_value: f64,
    /// The highest evidence so far.
    pub peak: f64,
}

impl ObjectiveFinding {
    /// The finding in words, on the route or flow `on`.
    pub fn text(&self, on: &str) -> String {
        self.words(&format!(" on {on}"))
    }

    fn words(&self, place: &str) -> String {
        let (found, limit) = (percent(self.exceptions, self.requests), share(self.limit));
        let requests = format!("{} requests, {}", number(self.requests), chance(self.peak));
        match self.what {
            What::Errors => format!("{found} errors{place}, {limit} allowed, {requests}"),
            What::ErrorsAlone { requests_before, errors_before } => {
                let before = percent(errors_before, requests_before);
                format!("{found} errors{place}, {before} before with the active one, {requests}")
            }
            What::OverP99 { limit_us } => {
                let limit_us = latency(limit_us as f64);
                format!("{found} of requests over {limit_us}{place}, {limit} allowed, {requests}")
            }
        }
    }
}

impl fmt::Display for ObjectiveFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(""))
    }
}

/// Tests one side of one route or flow against a limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveTest {
    evidence: Evidence,
    what: What,
    limit: f64,
    requests: u64,
    exceptions: u64,
}

impl ObjectiveTest {
    /// Errors, of which a share `limit` (0 to 1) is allowed. An objective of no errors at all is taken as one
    /// in a million, for which errors in four different seconds are about enough.
    pub fn errors(limit: f64, alpha: f64) -> Self {
        Self::new(What::Errors, limit, alpha)
    }

    /// Requests longer than a p99 of `limit_us` microseconds, of which 1 % is allowed.
    pub fn p99(limit_us: u64, alpha: f64) -> Self {
        Self::new(What::OverP99 { limit_us }, P99_SHARE, alpha)
    }

    /// Errors of a candidate that serves alone, limited to [`FACTOR_BEFORE`] times the highest rate that the
    /// active one's errors before leave likely: their number plus two standard deviations plus three. None
    /// when less than [`REQUESTS_BEFORE`] requests are known.
    pub fn errors_as_before(requests_before: u64, errors_before: u64, alpha: f64) -> Option<Self> {
        let errors = errors_before.min(requests_before) as f64;
        let highest = (errors + 2.0 * errors.sqrt() + 3.0) / requests_before as f64;
        let what = What::ErrorsAlone { requests_before, errors_before };
        (requests_before >= REQUESTS_BEFORE).then(|| Self::new(what, highest * FACTOR_BEFORE, alpha))
    }

    fn new(what: What, limit: f64, alpha: f64) -> Self {
        let limit = if limit.is_finite() { limit.clamp(1e-6, 1.0 - 1e-6) } else { 1.0 - 1e-6 };
        Self { evidence: Evidence::new(alpha, ODDS.len()), what, limit, requests: 0, exceptions: 0 }
    }

    /// Takes in what was counted since the last call, about once a second: `exceptions` of `requests` are
    /// errors, or were longer than the p99 ([`crate::histogram::Histogram::above`]).
    pub fn observe(&mut self, requests: u64, exceptions: u64) {
        if requests == 0 {
            return;
        }
        let exceptions = exceptions.min(requests);
        self.requests = self.requests.saturating_add(requests);
        self.exceptions = self.exceptions.saturating_add(exceptions);
        let clip = match self.what {
            What::Errors => CLIP_ERRORS,
            What::ErrorsAlone { .. } => CLIP_BEFORE,
            What::OverP99 { .. } => CLIP_LATENCY,
        };
        let limit = self.limit;
        self.evidence.look(clip, |alternative| {
            let odds = ODDS[alternative];
            // With `odds` times the odds, the share is `odds · limit / whole`.
            let whole = odds * limit + 1.0 - limit;
            exceptions as f64 * odds.ln() - requests as f64 * whole.ln()
        });
    }

    /// The numbers so far.
    pub fn finding(&self) -> ObjectiveFinding {
        ObjectiveFinding {
            what: self.what,
            limit: self.limit,
            requests: self.requests,
            exceptions: self.exceptions,
            e_value: self.evidence.value(),
            peak: self.evidence.peak(),
        }
    }

    /// What the numbers so far say.
    pub fn verdict(&self) -> ObjectiveVerdict {
        let finding = self.finding();
        let room = self.limit * self.requests as f64;
        if self.evidence.is_enough() {
            ObjectiveVerdict::Fails(finding)
        } else if room >= EXPECTED_MIN && self.exceptions as f64 <= room {
            ObjectiveVerdict::Holds(finding)
        } else {
            ObjectiveVerdict::TooFew(finding)
        }
    }
}

#[cfg(test)]
mod tests;
