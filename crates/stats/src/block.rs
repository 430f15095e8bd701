//! Blocks: stretches of traffic long enough to be compared.
//!
//! Service times drift from second to second with the machine, the neighbours and the database, for both
//! sides alike. So not requests are counted as evidence but blocks: within one, both sides had the same
//! weather.

use crate::histogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a block lasts at least.
pub const BLOCK_TIME: Duration = Duration::from_secs(1);
/// How long a block lasts at least while the candidate serves alone: what it is compared with was at another
/// time, and a slow stretch of the machine must not fill most of the last blocks.
pub const BLOCK_TIME_ALONE: Duration = Duration::from_secs(3);
/// How many requests of each side a block holds at least. With fewer per second it lasts longer.
pub const BLOCK_REQUESTS: u64 = 10;

/// What both sides did in one stretch of time on one route.
#[derive(Debug, Clone, Copy)]
pub struct BlockInput<'a> {
    /// The candidate's requests.
    pub candidate: &'a Histogram,
    /// The active one's, dealt out alternately: what differs between the halves is noise.
    pub active_halves: [&'a Histogram; 2],
}

/// A finished block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The candidate's requests.
    pub candidate: Histogram,
    /// The active one's, dealt out alternately. Both empty when the candidate was alone.
    pub active_halves: [Histogram; 2],
    /// How long it lasted.
    pub lasted: Duration,
}

impl Block {
    /// What the tests take.
    pub fn input(&self) -> BlockInput<'_> {
        let [first, second] = &self.active_halves;
        BlockInput { candidate: &self.candidate, active_halves: [first, second] }
    }
}

/// Puts increments together until they are a block. Holds three histograms, whatever it is fed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct BlockBuilder {
    candidate: Histogram,
    active_halves: [Histogram; 2],
    lasted: Duration,
    /// Whether the active one gets no requests any more.
    alone: bool,
}

impl BlockBuilder {
    /// An empty block.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what was counted in the last `elapsed`, about a second, and hands out the block if that made
    /// it full: [`BLOCK_TIME`] and [`BLOCK_REQUESTS`] of each side, or [`BLOCK_TIME_ALONE`] and as many of
    /// the candidate's while it serves alone.
    pub fn push(&mut self, increment: BlockInput<'_>, elapsed: Duration) -> Option<Block> {
        self.candidate.merge(increment.candidate);
        for (half, more) in self.active_halves.iter_mut().zip(increment.active_halves) {
            half.merge(more);
        }
        self.lasted = self.lasted.saturating_add(elapsed);
        let active = self.active_halves[0].count() + self.active_halves[1].count();
        let enough = self.candidate.count() >= BLOCK_REQUESTS && (self.alone || active >= BLOCK_REQUESTS);
        let long = self.lasted >= if self.alone { BLOCK_TIME_ALONE } else { BLOCK_TIME };
        (enough && long).then(|| self.take())
    }

    /// To be called when the shares of the traffic change: the block begins anew, because a block under two
    /// shares would compare different times. `alone` says that the active one gets no requests from here on,
    /// so that a block waits for none.
    pub fn weights_changed(&mut self, alone: bool) {
        self.take();
        self.alone = alone;
    }

    fn take(&mut self) -> Block {
        let next = Self { alone: self.alone, ..Self::default() };
        let full = std::mem::replace(self, next);
        let Self { candidate, active_halves, lasted, alone: _ } = full;
        Block { candidate, active_halves, lasted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: u64) -> Histogram {
        [(100, count)].into_iter().collect()
    }

    fn push(builder: &mut BlockBuilder, candidate: u64, active: u64, ms: u64) -> Option<Block> {
        let (candidate, first, second) = (some(candidate), some(active / 2), some(active - active / 2));
        let input = BlockInput { candidate: &candidate, active_halves: [&first, &second] };
        builder.push(input, Duration::from_millis(ms))
    }

    #[test]
    fn a_block_is_full_with_time_and_requests_of_both() {
        let mut builder = BlockBuilder::new();
        assert_eq!(push(&mut builder, 50, 50, 999), None);
        let block = push(&mut builder, 0, 0, 1).unwrap();
        assert_eq!((block.candidate.count(), block.lasted), (50, Duration::from_secs(1)));
        assert_eq!(push(&mut builder, 9, 500, 5_000), None);
        assert_eq!(push(&mut builder, 1, 0, 5_000).unwrap().lasted, Duration::from_secs(10));
        assert_eq!(push(&mut builder, 500, 9, 1_000), None);
        assert!(push(&mut builder, 0, 1, 1).is_some());
        assert_eq!(builder, BlockBuilder::new());
    }

    #[test]
    fn alone_it_waits_for_nobody_and_starts_anew() {
        let mut builder = BlockBuilder::new();
        assert_eq!(push(&mut builder, 9, 500, 5_000), None);
        builder.weights_changed(true);
        assert_eq!(push(&mut builder, 9, 0, 3_000), None);
        let block = push(&mut builder, 1, 0, 1).unwrap();
        assert_eq!((block.candidate.count(), block.active_halves[0].count()), (10, 0));
        assert_eq!(push(&mut builder, 10, 0, 2_999), None, "it stays alone, and blocks are longer");
        assert!(push(&mut builder, 0, 0, 1).is_some());
        builder.weights_changed(false);
        assert_eq!(push(&mut builder, 90, 0, 1_000), None);
    }
}
