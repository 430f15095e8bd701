//! Evidence that grows look by look: the part that all e-processes here have in common.

use serde::{Deserialize, Serialize};

/// Where evidence stops growing. Less than it could be is still valid, and no number runs out of range.
const MOST: f64 = 1e12;

/// A bet against "no worse", spread over several ways of being worse and over when it begins.
///
/// At look `j` the part `1 / (j (j + 1))` of the stake is put on every alternative in equal shares; what is
/// not yet put stays. So a candidate that does well for an hour and then turns bad is found about as soon as
/// one that is bad from the start: good looks lose only what had been put on them, and each later look brings
/// a new stake. The parts add up to 1, each look multiplies by factors whose expectation is at most 1 when
/// the candidate is no worse, and so the sum is an e-process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Evidence {
    /// The chance of ever blaming one that is no worse.
    alpha: f64,
    /// What each alternative has made of the stakes put on it.
    wealth: Vec<f64>,
    /// How many looks brought something.
    looks: u64,
    /// The highest value so far: a verdict is not taken back.
    peak: f64,
}

impl Evidence {
    /// `alpha` is held between 10^-12 and 1/2.
    pub(crate) fn new(alpha: f64, alternatives: usize) -> Self {
        let alpha = if alpha.is_finite() { alpha.clamp(1e-12, 0.5) } else { 1e-12 };
        Self { alpha, wealth: vec![0.0; alternatives], looks: 0, peak: 1.0 }
    }

    /// Takes one look. `log_factor` gives, for each alternative, the logarithm of how much likelier the look
    /// is under it than under "no worse". No look counts more than `clip`, whatever it saw: a factor that is
    /// cut off is expected to be less, so that the evidence stays valid, and no single moment decides.
    pub(crate) fn look(&mut self, clip: f64, mut log_factor: impl FnMut(usize) -> f64) {
        self.looks += 1;
        let looks = self.looks as f64;
        let stake = 1.0 / (looks * (looks + 1.0));
        for (alternative, wealth) in self.wealth.iter_mut().enumerate() {
            let factor = log_factor(alternative).min(clip.ln()).exp();
            *wealth = ((*wealth + stake) * factor).min(MOST);
        }
        self.peak = self.peak.max(self.value());
    }

    /// The evidence now: 1 at the start.
    pub(crate) fn value(&self) -> f64 {
        let kept = 1.0 / (self.looks as f64 + 1.0);
        kept + self.wealth.iter().sum::<f64>() / self.wealth.len() as f64
    }

    /// The highest evidence so far.
    pub(crate) fn peak(&self) -> f64 {
        self.peak
    }

    /// The chance that one that is no worse would ever be blamed.
    pub(crate) fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Whether chance is ruled out, now or at an earlier look.
    pub(crate) fn is_enough(&self) -> bool {
        self.peak >= 1.0 / self.alpha
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fair_bets_on_average_win_nothing() {
        // Every course of six fair coins, each with its chance: the expectation is exactly 1 at every look.
        for flips in 1..=6_u32 {
            let mut sum = 0.0;
            for course in 0..1_u32 << flips {
                let mut evidence = Evidence::new(0.001, 2);
                for flip in 0..flips {
                    let heads = course >> flip & 1 == 1;
                    evidence.look(1e9, |a| {
                        let p: f64 = [0.6, 0.9][a];
                        (if heads { p / 0.5 } else { (1.0 - p) / 0.5 }).ln()
                    });
                }
                sum += evidence.value() / f64::from(1 << flips);
            }
            assert!((sum - 1.0).abs() < 1e-9, "{flips} flips: {sum}");
        }
    }

    #[test]
    fn a_good_hour_is_no_protection() {
        let mut evidence = Evidence::new(0.001, 1);
        for _ in 0..3_600 {
            evidence.look(10.0, |_| -5.0);
        }
        let bad = (1..100).find(|_| {
            evidence.look(10.0, |_| 9.0);
            evidence.is_enough()
        });
        assert_eq!(bad, Some(11));
        evidence.look(10.0, |_| f64::NEG_INFINITY);
        assert!(evidence.is_enough(), "a verdict is not taken back");
    }

    #[test]
    fn evidence_stays_a_number() {
        let mut evidence = Evidence::new(f64::NAN, 1);
        for _ in 0..10_000 {
            evidence.look(1e300, |_| 690.0);
        }
        assert!(evidence.value().is_finite() && evidence.alpha() == 1e-12);
    }
}
