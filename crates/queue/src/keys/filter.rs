//! Says of most keys that are not in a segment that they are not, for one look at memory.
//!
//! A Bloom filter whose bits for one key lie in a single word (the register-blocked variant of Putze, Sanders and
//! Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007). Nearly every key that is looked up is new, and a
//! search through each of the sorted segments would miss the cache several times.

use super::{Entry, KeyHash};

/// Bits of the filter for each key: with [`BITS_SET`] about one key in a hundred that is not there passes.
const BITS_PER_KEY: usize = 16;
/// Bits that a key sets in its word.
const BITS_SET: u32 = 4;
/// Bits of a hash that say which bit of a word.
const BIT_INDEX: u32 = u64::BITS.ilog2();

#[derive(Debug)]
pub(super) struct Filter(Box<[u64]>);

impl Filter {
    /// One that lets these pass.
    pub(super) fn of(entries: &[Entry]) -> Self {
        let words = (entries.len() * BITS_PER_KEY).div_ceil(u64::BITS as usize).max(1);
        let mut filter = Self(vec![0; words].into());
        for entry in entries {
            let (word, bits) = filter.place(entry.hash);
            filter.0[word] |= bits;
        }
        filter
    }

    /// False: `hash` is not there. True: it may be.
    pub(super) fn passes(&self, hash: KeyHash) -> bool {
        let (word, bits) = self.place(hash);
        self.0[word] & bits == bits
    }

    /// The word of a hash by its upper bits, and its bits there by the lower ones.
    fn place(&self, hash: KeyHash) -> (usize, u64) {
        let spread = hash.spread();
        let word = (u128::from(spread) * self.0.len() as u128) >> u64::BITS;
        let bits =
            (0..BITS_SET).fold(0, |bits, n| bits | 1 << ((spread >> (n * BIT_INDEX)) % u64::from(u64::BITS)));
        (word as usize, bits)
    }
}
