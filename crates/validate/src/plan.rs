//! When plays of flows start: planned before the run, and never moved by how the service does.

use std::time::Duration;

/// The highest rate that can be planned, in starts per second: closer together than a microsecond,
/// instants cannot be told apart.
pub const RATE_LIMIT: f64 = 1_000_000.0;

/// The longest run that can be planned: a year.
const DURATION_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The planned instants of a run: today at a constant rate.
///
/// The engine asks only for [`Plan::at`], so that a ramp or steps are another way to answer it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    rate: f64,
    duration: Duration,
}

/// Why there is no such plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A rate that is no number, not above zero or above [`RATE_LIMIT`].
    #[error("a rate is above 0 and at most {RATE_LIMIT} starts per second, {0} is not")]
    Rate(f64),
    /// A duration of zero or of more than a year.
    #[error("a load test lasts more than zero and at most a year, not {0:?}")]
    Duration(Duration),
}

impl Plan {
    /// `rate` starts per second for `duration`; the first start is at once.
    pub fn constant(rate: f64, duration: Duration) -> Result<Self, PlanError> {
        if !(rate > 0.0 && rate <= RATE_LIMIT) {
            return Err(PlanError::Rate(rate));
        }
        if duration.is_zero() || duration > DURATION_LIMIT {
            return Err(PlanError::Duration(duration));
        }
        Ok(Self { rate, duration })
    }

    /// The instant of start `n` (from 0) since the beginning of the run; none when the run is over by then.
    /// Computed from `n` alone, so that rounding does not add up.
    pub fn at(&self, n: u64) -> Option<Duration> {
        let seconds = n as f64 / self.rate;
        (seconds < self.duration.as_secs_f64()).then(|| Duration::from_secs_f64(seconds))
    }

    /// Starts per second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// How long starts are made.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(rate: f64, duration: Duration) -> u64 {
        let plan = Plan::constant(rate, duration).unwrap();
        (0..).take_while(|n| plan.at(*n).is_some()).count() as u64
    }

    #[test]
    fn a_rate_times_a_duration_is_a_number_of_starts() {
        let table = [(10.0, 1000, 10), (0.5, 3000, 2), (1.0, 1, 1), (3.0, 1000, 3), (1000.0, 2500, 2500)];
        for (rate, millis, expected) in table {
            assert_eq!(starts(rate, Duration::from_millis(millis)), expected, "{rate}/s for {millis} ms");
        }
    }

    #[test]
    fn starts_are_evenly_spaced_and_do_not_drift() {
        let plan = Plan::constant(3.0, Duration::from_secs(100_000)).unwrap();
        assert_eq!(plan.at(0), Some(Duration::ZERO));
        for n in [3, 3000, 299_997] {
            assert_eq!(plan.at(n), Some(Duration::from_secs(n / 3)), "start {n}");
        }
        assert_eq!(plan.at(300_000), None);
    }

    #[test]
    fn a_rate_or_duration_that_is_none_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, RATE_LIMIT * 2.0] {
            assert!(
                matches!(Plan::constant(rate, Duration::from_secs(1)), Err(PlanError::Rate(_))),
                "{rate}"
            );
        }
        assert_eq!(Plan::constant(1.0, Duration::ZERO), Err(PlanError::Duration(Duration::ZERO)));
    }
}
