//! What a load met.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The most latencies that are kept, four bytes each; a load that has more ends with an error.
pub(crate) const SAMPLES_LIMIT: usize = 20_000_000;

/// What was acknowledged in the time that is measured, and all there was.
pub(crate) struct Tally {
    /// When measuring begins and ends.
    pub(crate) window: (Instant, Instant),
    /// Microseconds from a request, or from its planned instant, to its acknowledgement.
    latencies: Vec<u32>,
    /// The longest time in the window in which nothing was acknowledged at all.
    silence: Duration,
    last: Instant,
    /// Acknowledgements from the first request on, by what they said. HTTP: the status; others: `ok`.
    said: BTreeMap<String, u64>,
    good: u64,
    /// Acknowledgements in each second since the first request.
    seconds: Vec<u64>,
    began: Instant,
}

impl Tally {
    pub(crate) fn new(began: Instant, window: (Instant, Instant)) -> Self {
        Self {
            window,
            latencies: Vec::new(),
            silence: Duration::ZERO,
            last: window.0,
            said: BTreeMap::new(),
            good: 0,
            seconds: Vec::new(),
            began,
        }
    }

    /// Counts an answer. `Err`: there are more than can be kept.
    pub(crate) fn count(
        &mut self,
        asked: Instant,
        now: Instant,
        good: bool,
        said: &str,
    ) -> Result<(), String> {
        match self.said.get_mut(said) {
            Some(number) => *number += 1,
            None => {
                self.said.insert(said.to_owned(), 1);
            }
        }
        if !good {
            return Ok(());
        }
        self.good += 1;
        let second = (now - self.began).as_secs() as usize;
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, 0);
        }
        self.seconds[second] += 1;
        if now < self.window.0 || now > self.window.1 {
            return Ok(());
        }
        if self.latencies.len() == SAMPLES_LIMIT {
            return Err(format!("more than {SAMPLES_LIMIT} answers: measure for a shorter time"));
        }
        self.silence = self.silence.max(now - self.last);
        self.last = now;
        self.latencies.push(u32::try_from((now - asked).as_micros()).unwrap_or(u32::MAX));
        Ok(())
    }

    /// All good answers since the first request.
    pub(crate) fn good(&self) -> u64 {
        self.good
    }

    /// Ends the window early: all that was wanted has been acknowledged.
    pub(crate) fn ended(&mut self, at: Instant) {
        self.window.1 = self.window.1.min(at);
    }

    /// One object; times in microseconds.
    pub(crate) fn json(mut self) -> Value {
        self.latencies.sort_unstable();
        let measured = self.window.1.saturating_duration_since(self.window.0).as_secs_f64();
        // An end without answers is silence too.
        let silence = self.silence.max(self.window.1.saturating_duration_since(self.last));
        let of = |share: f64| {
            let rank = (self.latencies.len() as f64 * share).ceil() as usize;
            self.latencies.get(rank.saturating_sub(1)).copied()
        };
        json!({
            "rate": self.latencies.len() as f64 / measured.max(f64::MIN_POSITIVE),
            "seconds": measured,
            "acknowledged": self.good,
            "said": self.said,
            "p50_us": of(0.5),
            "p99_us": of(0.99),
            "max_us": self.latencies.last(),
            "silence_us": silence.as_micros() as u64,
            "per_second": self.seconds,
        })
    }
}
