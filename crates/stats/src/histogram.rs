//! A latency histogram whose buckets are numbers that several programs agree on.
//!
//! The layout is log-linear in microseconds: values below 16 µs have a bucket each; above, every power of two
//! is cut into 16 equal buckets, up to 2^26 µs (67 s). A bucket is therefore never wider than 1/16 of its
//! lower bound. Whatever is larger falls into the last bucket. Another program may keep its own copy of this
//! formula: it is never changed, only replaced under another name.

use serde::{Deserialize, Serialize};

/// Equal buckets per power of two, and the first values that have a bucket each.
const STEPS: usize = 16;
/// log2 of [`STEPS`].
const STEP_BITS: u32 = STEPS.ilog2();
/// The power of two, in microseconds, from which on everything falls into the last bucket.
const TOP_BITS: u32 = 26;

/// How many buckets there are.
pub const BUCKETS: usize = STEPS + STEPS * (TOP_BITS - STEP_BITS) as usize;

/// The bucket that a latency of `us` microseconds falls into, below [`BUCKETS`].
pub fn bucket_of(us: u64) -> usize {
    if us < STEPS as u64 {
        return us as usize;
    }
    let power = us.ilog2();
    if power >= TOP_BITS {
        return BUCKETS - 1;
    }
    let step = (us >> (power - STEP_BITS)) as usize & (STEPS - 1);
    STEPS + (power - STEP_BITS) as usize * STEPS + step
}

/// The lowest latency of a bucket and the lowest that is above it, in microseconds. The last bucket has no
/// upper end; the one given is where it would be. Numbers from [`BUCKETS`] on are taken as the last bucket.
pub fn bounds(bucket: usize) -> (u64, u64) {
    let bucket = bucket.min(BUCKETS - 1);
    if bucket < STEPS {
        return (bucket as u64, bucket as u64 + 1);
    }
    let (power, step) = ((bucket - STEPS) / STEPS, (bucket - STEPS) % STEPS);
    let low = ((STEPS + step) as u64) << power;
    (low, low + (1 << power))
}

/// How many requests took how long. 3 KiB each, whatever it holds.
///
/// Serialises as its occupied buckets: a list of pairs of bucket and count.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(usize, u64)>", into = "Vec<(usize, u64)>")]
pub struct Histogram {
    /// One count for each bucket.
    counts: Box<[u64]>,
    /// Their sum.
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), total: 0 }
    }
}

impl From<Vec<(usize, u64)>> for Histogram {
    fn from(pairs: Vec<(usize, u64)>) -> Self {
        pairs.into_iter().collect()
    }
}

impl From<Histogram> for Vec<(usize, u64)> {
    fn from(histogram: Histogram) -> Self {
        histogram.occupied().collect()
    }
}

impl FromIterator<(usize, u64)> for Histogram {
    fn from_iter<I: IntoIterator<Item = (usize, u64)>>(pairs: I) -> Self {
        let mut histogram = Self::default();
        pairs.into_iter().for_each(|(bucket, count)| histogram.add(bucket, count));
        histogram
    }
}

impl Histogram {
    /// Counts one request that took `us` microseconds.
    pub fn record(&mut self, us: u64) {
        self.add(bucket_of(us), 1);
    }

    /// Counts `count` requests in a bucket. Numbers from [`BUCKETS`] on are taken as the last bucket. A count
    /// stays at `u64::MAX` rather than starting over.
    pub fn add(&mut self, bucket: usize, count: u64) {
        let slot = &mut self.counts[bucket.min(BUCKETS - 1)];
        *slot = slot.saturating_add(count);
        self.total = self.total.saturating_add(count);
    }

    /// Counts everything that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        other.occupied().for_each(|(bucket, count)| self.add(bucket, count));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// What was counted after `earlier`, when both are readings of one counter that only grows. If any bucket
    /// holds less than before, the counter was started over in between, and all of this reading is new.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: usize| earlier.counts[bucket];
        if self.counts.iter().enumerate().any(|(bucket, count)| *count < before(bucket)) {
            return self.clone();
        }
        self.occupied().map(|(bucket, count)| (bucket, count - before(bucket))).collect()
    }

    /// How many requests were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The buckets that hold something, with their counts, lowest first.
    pub fn occupied(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// The latency in microseconds that a share `q` of the requests (0 to 1, limited to it) stays below,
    /// interpolated within its bucket. None when nothing was counted.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q.clamp(0.0, 1.0) * self.total as f64;
        let mut below = 0_u64;
        let mut found = None;
        for (bucket, count) in self.occupied() {
            let (low, high) = bounds(bucket);
            let share = ((rank - below as f64) / count as f64).clamp(0.0, 1.0);
            found = Some(low as f64 + share * (high - low) as f64);
            below = below.saturating_add(count);
            if below as f64 >= rank {
                break;
            }
        }
        found
    }

    /// How many requests certainly took `us` microseconds or longer. Those in the bucket that has `us` in its
    /// middle may have, and are left out: up to 1/16 above `us` a request may be missed, and none is blamed
    /// wrongly. From 2^26 µs on nothing is certain, and none is counted.
    pub fn above(&self, us: u64) -> u64 {
        let certain = self.occupied().filter(|(bucket, _)| bounds(*bucket).0 >= us);
        certain.fold(0, |sum, (_, count)| sum.saturating_add(count))
    }
}

#[cfg(test)]
mod tests;
