//! Small random numbers. No crate is used because a report names its seed, and the same seed must pick the
//! same flows after every upgrade of every dependency.

/// splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is above zero. The bias is below `limit` / 2^64.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(limit)) >> 64)
            .expect("the upper half has 64 bits")
    }
}

/// Values in the format of UUID version 4 (RFC 9562, 5.4), from 128 bits of entropy per run.
///
/// They do not come from the run's seed: two runs with one seed against one service would write the same
/// references, and the second would find each of them twice.
#[derive(Debug, Clone)]
pub(crate) struct Uuids {
    high: Random,
    low: Random,
}

impl Uuids {
    pub(crate) fn new(entropy: [u64; 2]) -> Self {
        Self { high: Random::new(entropy[0]), low: Random::new(entropy[1]) }
    }

    /// Seeded by the operating system.
    pub(crate) fn from_system() -> Self {
        let draw = || getrandom::u64().expect("the operating system has random numbers");
        Self::new([draw(), draw()])
    }

    pub(crate) fn next(&mut self) -> String {
        let high = self.high.next() & 0xffff_ffff_ffff_0fff | 0x4000;
        let low = self.low.next() & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

/// Picks flows by weight.
#[derive(Debug, Clone)]
pub(crate) struct Mix {
    weights: Vec<u64>,
    total: u64,
}

impl Mix {
    /// None when no weight is above zero.
    pub(crate) fn new(weights: impl IntoIterator<Item = u32>) -> Option<Self> {
        let weights: Vec<u64> = weights.into_iter().map(u64::from).collect();
        let total = weights.iter().sum();
        (total > 0).then_some(Self { weights, total })
    }

    /// The index of the weight that was drawn.
    pub(crate) fn pick(&self, random: &mut Random) -> usize {
        let mut drawn = random.below(self.total);
        for (index, weight) in self.weights.iter().enumerate() {
            if drawn < *weight {
                return index;
            }
            drawn -= weight;
        }
        unreachable!("what was drawn is below the sum of the weights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_generator_is_the_published_one() {
        // The first outputs for seed 1234567 of the reference implementation.
        let mut random = Random::new(1_234_567);
        let expected = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for value in expected {
            assert_eq!(random.next(), value);
        }
    }

    #[test]
    fn the_same_seed_picks_the_same_flows_in_proportion() {
        let mix = Mix::new([8, 0, 2]).unwrap();
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..10_000).map(|_| mix.pick(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let count = |index| draw(7).iter().filter(|drawn| **drawn == index).count();
        assert!((7_800..8_200).contains(&count(0)), "{}", count(0));
        assert_eq!(count(1), 0);
        assert!(Mix::new([0, 0]).is_none());
    }

    #[test]
    fn uuids_have_version_and_variant_and_do_not_repeat() {
        let mut uuids = Uuids::new([1, 2]);
        let mut seen = BTreeSet::new();
        for _ in 0..10_000 {
            let uuid = uuids.next();
            assert_eq!(uuid.len(), 36);
            assert_eq!(uuid.as_bytes()[14], b'4', "{uuid}");
            assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
            assert!(seen.insert(uuid));
        }
        assert_ne!(Uuids::new([1, 2]).next(), Uuids::new([1, 3]).next());
        assert_ne!(Uuids::from_system().next(), Uuids::from_system().next());
    }
}
