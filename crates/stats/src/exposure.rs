//! How many users the candidate has hurt beyond what the active one's rate of errors explains.
//!
//! This is the fast brake beside the slow judge of [`crate::errors`]: it is cheap enough to be asked after
//! every error, and it stops a candidate that fails at once before a second is over. It is an estimate with a
//! margin of [`MARGIN`] standard deviations, not a test with a guaranteed rate.

use crate::errors::Counts;
use serde::{Deserialize, Serialize};

/// How many standard deviations of the estimate the excess has to be above the limit, once the active one has errors
/// too. Together with the limit itself that stopped next to none of the simulated releases that are no worse.
pub const MARGIN: f64 = 4.0;

/// The errors of the candidate beyond those that the active one's rate explains, for counts taken under one
/// share of the traffic. Negative when it has fewer. Without requests of the active one nothing is explained
/// and nothing is blamed: 0.
pub fn excess(counts: Counts) -> f64 {
    let counts = counts.checked();
    if counts.active_requests == 0 {
        return 0.0;
    }
    counts.candidate_errors as f64 - expected(counts)
}

/// The errors that the candidate would have at the active one's rate.
fn expected(counts: Counts) -> f64 {
    odds(counts) * counts.active_errors as f64
}

/// Requests of the candidate for each one of the active one.
fn odds(counts: Counts) -> f64 {
    counts.candidate_requests as f64 / counts.active_requests as f64
}

/// The excess added up over increments. Each is compared within itself, so that neither a change of the
/// shares nor an outage that hits both looks like harm done by the candidate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Exposure {
    /// Candidate errors beyond what was expected.
    pub excess: f64,
    /// The variance of that estimate, were the candidate no worse.
    pub variance: f64,
    /// Waiting for a request of the active one to compare with.
    pub pending: Counts,
    /// Everything that was compared.
    pub compared: Counts,
}

impl Exposure {
    /// Takes in what was counted since the last call: often is good, ten times a second or after every error.
    pub fn observe(&mut self, increment: Counts) {
        self.pending = self.pending.plus(increment.checked());
        if self.pending.active_requests == 0 {
            return;
        }
        let counts = std::mem::take(&mut self.pending);
        self.compared = self.compared.plus(counts);
        self.excess += excess(counts);
        // An active error stands for `odds` expected ones, and they for Poisson noise of their own.
        self.variance += expected(counts) * (1.0 + odds(counts));
    }

    /// To be called when the candidate is left alone with the traffic, or the shares change: what waits is
    /// forgotten.
    pub fn weights_changed(&mut self) {
        self.pending = Counts::default();
    }

    /// Whether `limit` users are hurt, and chance is no explanation. With no error on the active side that is at
    /// exactly `limit` errors; the more errors the active one has too, the more it takes.
    pub fn exceeds(&self, limit: u64) -> bool {
        self.compared.active_requests > 0 && self.excess >= limit as f64 + MARGIN * self.variance.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(
        candidate_requests: u64,
        candidate_errors: u64,
        active_requests: u64,
        active_errors: u64,
    ) -> Counts {
        Counts { candidate_requests, candidate_errors, active_requests, active_errors }
    }

    #[test]
    fn the_excess_is_what_the_active_rate_does_not_explain() {
        assert_eq!(excess(counts(100, 7, 900, 18)), 5.0);
        assert_eq!(excess(counts(100, 0, 900, 18)), -2.0);
        assert_eq!(excess(counts(100, 7, 0, 0)), 0.0);
        assert_eq!(excess(counts(5, 7, 5, 0)), 5.0);
    }

    /// How many errors in a row it takes, when the active one has none.
    fn needed(odds: u64) -> u64 {
        let mut exposure = Exposure::default();
        (1..1_000)
            .find(|_| {
                exposure.observe(counts(1, 1, 0, 0));
                exposure.observe(counts(0, 0, odds, 0));
                exposure.exceeds(10)
            })
            .unwrap()
    }

    #[test]
    fn a_candidate_that_fails_at_once_is_stopped_at_once() {
        assert_eq!([9, 1].map(needed), [10, 10]);
    }

    #[test]
    fn an_outage_of_both_is_no_harm_done() {
        let mut exposure = Exposure::default();
        exposure.observe(counts(3_000, 1, 27_000, 9));
        for _ in 0..10 {
            exposure.observe(counts(50, 50, 50, 50));
            assert!(!exposure.exceeds(10), "{exposure:?}");
        }
        // Compared in one lump, the change of the shares would look like 380 users hurt.
        assert!(excess(exposure.compared) > 380.0, "{}", excess(exposure.compared));
    }

    #[test]
    fn alone_with_the_traffic_nothing_is_compared() {
        let mut exposure = Exposure::default();
        exposure.observe(counts(1_000, 1_000, 0, 0));
        assert!(!exposure.exceeds(10));
    }
}
