//! Whether the candidate is slower than the active one on a route.
//!
//! Tests on single requests blame identical releases, because requests of one second are alike. Here each
//! block gives one answer for p50 and one for p95, and the candidate is slower when [`OVER`] of the last
//! [`WINDOW`] blocks say so. A block says so when the candidate's quantile is above all of
//! - the active one's times [`FACTOR`], times the root of the factor by which the two halves of the active
//!   one's own requests typically lie apart (halves differ twice as much as the whole differs from the truth);
//! - the active one's plus [`FLOOR_US`], which nobody notices.
//!
//! The candidate's quantile is taken one standard error low: of ten requests the "p95" is the slowest, and on
//! a route where one request in twenty takes long that would be a matter of luck.

use crate::block::BlockInput;
use crate::histogram::Histogram;
use crate::text::latency;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;

/// How many times the active one's latency is allowed, before noise.
pub const FACTOR: f64 = 1.5;
/// The same when the candidate serves alone and is compared with what the active one did before.
pub const FACTOR_ALONE: f64 = 2.0;
/// How much slower is always allowed, in microseconds.
pub const FLOOR_US: f64 = 5_000.0;
/// How many blocks are looked at.
pub const WINDOW: usize = 10;
/// How many of them have to agree. With fewer blocks nothing is said.
pub const OVER: usize = 8;
/// How many of the active one's blocks are remembered for the time when the candidate serves alone.
pub const REMEMBERED: usize = 30;

/// Which latency is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantile {
    /// The median.
    P50,
    /// What 95 of 100 requests stay below.
    P95,
}

impl Quantile {
    /// Both, as the tests go through them.
    const ALL: [Self; 2] = [Self::P50, Self::P95];

    /// As a share of the requests.
    pub fn share(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P95 => 0.95,
        }
    }
}

impl fmt::Display for Quantile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P50 => "p50",
            Self::P95 => "p95",
        })
    }
}

/// What a [`LatencyTest`] says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum LatencyVerdict {
    /// The candidate is slower.
    Worse(LatencyFinding),
    /// It is not, as far as these blocks tell.
    Fine {
        /// How many blocks were looked at.
        blocks: usize,
        /// How many of them found it slower, by the quantile with more of these. Five or more of ten is
        /// reason to look longer before more users are sent there.
        over: usize,
    },
    /// There are fewer than [`OVER`] blocks.
    TooFew {
        /// How many there are.
        blocks: usize,
        /// How many of them found it slower. Half of them are reason to look longer.
        over: usize,
    },
}

/// The numbers behind [`LatencyVerdict::Worse`]; latencies are medians over the blocks that found the
/// candidate slower. Its `Display` is the finding in words; [`LatencyFinding::text`] names the route too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyFinding {
    /// Which latency is worse.
    pub which: Quantile,
    /// The candidate's over the active one's.
    pub factor: f64,
    /// The candidate's, in microseconds.
    pub candidate_us: f64,
    /// The active one's.
    pub active_us: f64,
    /// What the candidate's was allowed to be.
    pub allowed_us: f64,
    /// How many blocks were looked at.
    pub blocks: usize,
    /// How many of them found the candidate slower.
    pub over: usize,
    /// Whether the candidate served alone in the last block, so that the active one's is from before.
    pub alone: bool,
}

impl LatencyFinding {
    /// The finding in words, on the route `on`.
    pub fn text(&self, on: &str) -> String {
        self.words(&format!(" on {on}"))
    }

    fn words(&self, place: &str) -> String {
        let (which, candidate, active) = (self.which, latency(self.candidate_us), latency(self.active_us));
        let before = if self.alone { " before" } else { "" };
        let (over, blocks) = (self.over, self.blocks);
        format!("{which} {candidate} against {active}{before}{place}, in {over} of {blocks} blocks")
    }
}

impl fmt::Display for LatencyFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(""))
    }
}

/// What one block says of one quantile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Answer {
    candidate_us: f64,
    active_us: f64,
    allowed_us: f64,
    over: bool,
}

/// One quantile over the last blocks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Track {
    /// At most [`WINDOW`].
    answers: VecDeque<Answer>,
    /// How far the active one's halves were apart, as a factor from 1; at most [`WINDOW`].
    noise: VecDeque<f64>,
    /// The active one's, in microseconds; at most [`REMEMBERED`].
    active: VecDeque<f64>,
}

impl Track {
    fn compare(&mut self, q: f64, block: BlockInput<'_>, active: &Histogram) {
        let (Some(candidate_us), Some(low), Some(active_us)) =
            (block.candidate.quantile(q), lowered(block.candidate, q), active.quantile(q))
        else {
            return;
        };
        if let [Some(a), Some(b)] = block.active_halves.map(|half| half.quantile(q)) {
            keep(&mut self.noise, apart(a, b), WINDOW);
        }
        keep(&mut self.active, active_us, REMEMBERED);
        // Half of it on the scale of ratios: the whole is twice as sure as its halves.
        let noise = median(self.noise.iter().copied()).unwrap_or(1.0);
        let allowed_us = (active_us * FACTOR * noise.sqrt()).max(active_us + FLOOR_US);
        let over = low > allowed_us;
        keep(&mut self.answers, Answer { candidate_us, active_us, allowed_us, over }, WINDOW);
    }

    fn compare_alone(&mut self, q: f64, candidate: &Histogram) {
        let (Some(candidate_us), Some(low), Some(active_us)) =
            (candidate.quantile(q), lowered(candidate, q), median(self.active.iter().copied()))
        else {
            return;
        };
        // Other seconds are compared now: how far the active one's own seconds lay apart is the noise.
        let highest = self.active.iter().copied().fold(active_us, f64::max);
        let allowed_us = (highest * FACTOR_ALONE).max(highest + FLOOR_US);
        let over = low > allowed_us;
        keep(&mut self.answers, Answer { candidate_us, active_us, allowed_us, over }, WINDOW);
    }

    fn over(&self) -> usize {
        self.answers.iter().filter(|answer| answer.over).count()
    }

    fn finding(&self, which: Quantile, alone: bool) -> LatencyFinding {
        let typical = |of: fn(&Answer) -> f64| {
            median(self.answers.iter().filter(|answer| answer.over).map(of)).unwrap_or_default()
        };
        let (candidate_us, active_us) = (typical(|a| a.candidate_us), typical(|a| a.active_us));
        let factor = candidate_us / active_us.max(1.0);
        let (allowed_us, blocks, over) = (typical(|a| a.allowed_us), self.answers.len(), self.over());
        LatencyFinding { which, factor, candidate_us, active_us, allowed_us, blocks, over, alone }
    }
}

/// Compares block after block on one route. Keeps a few numbers of each of the last blocks, no histogram.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyTest {
    /// In the order of [`Quantile::ALL`].
    tracks: [Track; 2],
    alone: bool,
}

impl LatencyTest {
    /// A test without blocks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a block in which both served. One without requests of a side says nothing.
    pub fn push(&mut self, block: BlockInput<'_>) {
        let mut active = block.active_halves[0].clone();
        active.merge(block.active_halves[1]);
        self.alone = false;
        for (track, which) in self.tracks.iter_mut().zip(Quantile::ALL) {
            track.compare(which.share(), block, &active);
        }
    }

    /// Takes in a block in which the candidate served alone: it is compared with what the active one did in
    /// its last [`REMEMBERED`] blocks, more widely because the times differ. Without such blocks it says
    /// nothing.
    pub fn push_alone(&mut self, candidate: &Histogram) {
        self.alone = true;
        for (track, which) in self.tracks.iter_mut().zip(Quantile::ALL) {
            track.compare_alone(which.share(), candidate);
        }
    }

    /// What the last blocks say. It can change with the next one.
    pub fn verdict(&self) -> LatencyVerdict {
        let blocks = self.tracks.iter().map(|track| track.answers.len()).max().unwrap_or(0);
        let over = self.tracks.iter().map(Track::over).max().unwrap_or(0);
        if blocks < OVER {
            return LatencyVerdict::TooFew { blocks, over };
        }
        let worse = self.tracks.iter().zip(Quantile::ALL).find(|(track, _)| track.over() >= OVER);
        match worse {
            Some((track, which)) => LatencyVerdict::Worse(track.finding(which, self.alone)),
            None => LatencyVerdict::Fine { blocks, over },
        }
    }
}

/// The quantile one standard error (of its rank) lower.
fn lowered(histogram: &Histogram, q: f64) -> Option<f64> {
    let error = (q * (1.0 - q) / histogram.count().max(1) as f64).sqrt();
    histogram.quantile(q - error)
}

/// How many times the larger one is the smaller.
fn apart(a: f64, b: f64) -> f64 {
    a.max(b) / a.min(b).max(1.0)
}

fn keep<T>(last: &mut VecDeque<T>, value: T, most: usize) {
    if last.len() >= most {
        last.pop_front();
    }
    last.push_back(value);
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests;
