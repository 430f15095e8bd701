//! Latencies: counted exactly in number, to three digits in value, in constant memory.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// The longest latency told apart, in microseconds: an hour. Longer ones count as this.
const LONGEST_US: u64 = 3_600_000_000;

/// Counts latencies from 1 µs to one hour to three significant digits: about 190 KB however many.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, 3);
        Self(histogram.expect("1 µs to an hour with three digits are valid bounds"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US);
        // Zero would fall out of the bounds, so that the shortest latency counts as 1 µs.
        self.0.saturating_record(micros.max(1));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }

    /// How many latencies were longer than `limit`, to the resolution of three digits: one that cannot be
    /// told from the limit is not longer.
    pub(crate) fn longer_than(&self, limit: Duration) -> u64 {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(LONGEST_US).min(LONGEST_US);
        self.0.len() - self.0.count_between(0, micros)
    }

    pub(crate) fn summary(&self) -> Latency {
        let ms = |micros: u64| micros as f64 / 1000.0;
        Latency {
            count: self.0.len(),
            p50_ms: ms(self.0.value_at_quantile(0.50)),
            p95_ms: ms(self.0.value_at_quantile(0.95)),
            p99_ms: ms(self.0.value_at_quantile(0.99)),
            max_ms: ms(self.0.max()),
        }
    }
}

/// What a set of latencies looked like. All zero when there were none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Latency {
    /// How many were counted.
    pub count: u64,
    /// Half were at most this long, in milliseconds.
    pub p50_ms: f64,
    /// 95 of 100 were at most this long, in milliseconds.
    pub p95_ms: f64,
    /// 99 of 100 were at most this long, in milliseconds.
    pub p99_ms: f64,
    /// The longest, in milliseconds.
    pub max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_halves_are_the_whole() {
        let (mut odd, mut even, mut all) = (Latencies::new(), Latencies::new(), Latencies::new());
        for micros in 1..=20_000_u64 {
            let half = if micros % 2 == 0 { &mut even } else { &mut odd };
            half.record(Duration::from_micros(micros));
            all.record(Duration::from_micros(micros));
        }
        odd.merge(&even);
        assert_eq!(odd.summary(), all.summary());
        assert_eq!(all.summary().count, 20_000);
        assert!((9.9..10.1).contains(&all.summary().p50_ms));
        all.reset();
        assert_eq!(all.summary(), Latency::default());
    }

    #[test]
    fn what_is_at_the_limit_is_not_longer() {
        let mut latencies = Latencies::new();
        for ms in [1, 149, 150, 151, 10_000] {
            latencies.record(Duration::from_millis(ms));
        }
        let table = [(150, 2), (149, 3), (151, 1), (10_000, 0), (0, 5)];
        for (limit, longer) in table {
            assert_eq!(latencies.longer_than(Duration::from_millis(limit)), longer, "{limit} ms");
        }
    }

    #[test]
    fn the_shortest_and_the_longest_are_counted() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(1_000_000));
        assert_eq!(latencies.summary().count, 2);
        assert!(latencies.summary().max_ms >= 3_600_000.0);
    }
}
