//! Whether more of the candidate's requests are very slow, while its p50 and p95 are fine.
//!
//! A request is very slow when it takes twice as long as the active one's p99 so far, and at least 5 ms more.
//! A pause of one process makes many such requests at once, so requests are not counted as evidence: each
//! block with a very slow request on either side gives one sign. It is against the candidate when its share
//! of very slow requests is more than twice the active one's. With no difference between the two, that
//! happens in at most half of these blocks, or, when the candidate has more than half of the traffic, at most
//! in as large a part as its share.

use crate::block::BlockInput;
use crate::evidence::Evidence;
use crate::histogram::Histogram;
use crate::text::{chance, latency, number, percent};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The chance, for one release, that a tail is blamed on a candidate that has the same. With several routes
/// it is divided among them.
pub const ALPHA: f64 = 0.000_5;
/// How many times the active one's p99 is very slow.
pub const FACTOR: f64 = 2.0;
/// How much above the active one's p99 is very slow at least, in microseconds.
pub const FLOOR_US: f64 = 5_000.0;
/// How many times the active one's share of very slow requests is allowed in a block.
pub const RATIO: f64 = 2.0;
/// From how many requests of the active one on its p99 is known well enough.
pub const REQUESTS_MIN: u64 = 200;

/// The alternatives: how much of the chance that a sign is not against the candidate is left.
const LEFT: [f64; 3] = [0.6, 0.3, 0.05];

/// What a [`TailTest`] says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum TailVerdict {
    /// More of the candidate's requests are very slow, and chance is ruled out. Not taken back.
    Worse(TailFinding),
    /// Nothing says so.
    Undecided(TailFinding),
}

/// The numbers behind a [`TailVerdict`]. Its `Display` is the finding in words; [`TailFinding::text`] names
/// the route too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TailFinding {
    /// From where on a request is very slow, in microseconds; of the last block.
    pub limit_us: u64,
    /// The candidate's requests.
    pub candidate_requests: u64,
    /// Of these, very slow.
    pub candidate_slow: u64,
    /// The active one's requests.
    pub active_requests: u64,
    /// Of these, very slow.
    pub active_slow: u64,
    /// How many blocks had a very slow request.
    pub blocks: u64,
    /// How many of them were against the candidate.
    pub against: u64,
    /// The evidence now: 1 at the start.
    pub e_value: f64,
    /// The highest evidence so far.
    pub peak: f64,
}

impl TailFinding {
    /// The finding in words, on the route `on`.
    pub fn text(&self, on: &str) -> String {
        self.words(&format!(" on {on}"))
    }

    fn words(&self, place: &str) -> String {
        format!(
            "{} of the candidate's requests took over {}{place}, against {}, {} and {} requests, {}",
            percent(self.candidate_slow, self.candidate_requests),
            latency(self.limit_us as f64),
            percent(self.active_slow, self.active_requests),
            number(self.candidate_requests),
            number(self.active_requests),
            chance(self.peak)
        )
    }
}

impl fmt::Display for TailFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(""))
    }
}

/// Compares the tails on one route, block after block. Holds one histogram.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TailTest {
    evidence: Evidence,
    /// The active one's requests of all blocks so far.
    active: Histogram,
    seen: TailFinding,
}

impl TailTest {
    /// A test that blames wrongly with a chance of at most `alpha`: [`ALPHA`] divided by the number of
    /// routes.
    pub fn new(alpha: f64) -> Self {
        let evidence = Evidence::new(alpha, LEFT.len());
        Self { evidence, active: Histogram::default(), seen: TailFinding::default() }
    }

    /// Takes in a block in which both served. One without requests of a side says nothing.
    pub fn push(&mut self, block: BlockInput<'_>) {
        // What is very slow is settled by earlier blocks alone: then this one cannot move its own limit.
        if let Some(limit_us) = self.limit_us() {
            self.judge(block, limit_us);
        }
        block.active_halves.iter().for_each(|half| self.active.merge(half));
    }

    /// From where on a request is very slow, in microseconds; None while too little is known.
    pub fn limit_us(&self) -> Option<u64> {
        let known = self.active.count() >= REQUESTS_MIN;
        let p99 = self.active.quantile(0.99).filter(|_| known)?;
        Some((p99 * FACTOR).max(p99 + FLOOR_US) as u64)
    }

    fn judge(&mut self, block: BlockInput<'_>, limit_us: u64) {
        let candidate = (block.candidate.above(limit_us), block.candidate.count());
        let halves = block.active_halves;
        let slow_active = halves[0].above(limit_us).saturating_add(halves[1].above(limit_us));
        let active = (slow_active, halves[0].count().saturating_add(halves[1].count()));
        if candidate.1 == 0 || active.1 == 0 {
            return;
        }
        let seen = &mut self.seen;
        seen.limit_us = limit_us;
        seen.candidate_requests += candidate.1;
        seen.candidate_slow += candidate.0;
        seen.active_requests += active.1;
        seen.active_slow += active.0;
        if candidate.0 + active.0 == 0 {
            return;
        }
        let share = |(slow, all): (u64, u64)| slow as f64 / all as f64;
        let against = share(candidate) > RATIO * share(active);
        seen.blocks += 1;
        seen.against += u64::from(against);
        let traffic = candidate.1 as f64 / (candidate.1 + active.1) as f64;
        let by_chance = traffic.max(0.5);
        self.evidence.look(f64::INFINITY, |alternative| {
            let left = LEFT[alternative];
            if against { ((1.0 - left * (1.0 - by_chance)) / by_chance).ln() } else { left.ln() }
        });
    }

    /// The numbers so far.
    pub fn finding(&self) -> TailFinding {
        TailFinding { e_value: self.evidence.value(), peak: self.evidence.peak(), ..self.seen }
    }

    /// What the numbers so far say.
    pub fn verdict(&self) -> TailVerdict {
        let finding = self.finding();
        if self.evidence.is_enough() { TailVerdict::Worse(finding) } else { TailVerdict::Undecided(finding) }
    }
}

#[cfg(test)]
mod tests;
