//! A machine with weather: service times that drift from second to second, pauses, outages, Poisson arrivals.

use std::fmt;

/// xoshiro256++ (Blackman and Vigna 2019), seeded by splitmix64.
pub(crate) struct Random([u64; 4]);

impl Random {
    /// The same course of numbers for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Above 0, up to 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Normally distributed (Box and Muller 1958), mean 0, variance 1.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Poisson distributed: counted exactly up to a mean of 30, above by the normal distribution.
    pub(crate) fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 30.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        let (end, mut product, mut count) = ((-mean).exp(), self.uniform(), 0);
        while product > end {
            product *= self.uniform();
            count += 1;
        }
        count
    }

    /// How many of `n` succeed, each with chance `p`: exact, by the distances between successes.
    pub(crate) fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if p <= 0.0 || n == 0 {
            return 0;
        }
        let (scale, mut at, mut count) = ((1.0 - p.min(1.0 - 1e-12)).ln(), 0.0, 0);
        loop {
            at += (self.uniform().ln() / scale).floor() + 1.0;
            if at > n as f64 {
                return count;
            }
            count += 1;
        }
    }
}

/// How service times are distributed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// Lognormal, sigma 0.5: p95 is 2.0 times the mean, p99 2.8 times.
    Smooth,
    /// The same, but every request has a chance of 6 % to take ten times as long: p95 lies between two modes.
    TwoModes,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Smooth => "one mode",
            Self::TwoModes => "two modes",
        })
    }
}

/// How many quantiles stand for a distribution.
const TABLE: usize = 8_192;

/// A distribution of service times as its quantiles, in microseconds.
pub(crate) struct Service(Vec<f32>);

impl Service {
    /// With the mean of the fast requests at `mean_ms`.
    pub(crate) fn new(shape: Shape, mean_ms: f64) -> Self {
        const SIGMA: f64 = 0.5;
        let scale = mean_ms * 1_000.0 * (-SIGMA * SIGMA / 2.0).exp();
        let mut random = Random::new(7);
        // Quantiles are taken from a large sample, which suits any mixture.
        let mut sample: Vec<f64> = (0..TABLE * 64)
            .map(|_| {
                let slow = shape == Shape::TwoModes && random.uniform() < 0.06;
                scale * (SIGMA * random.normal()).exp() * if slow { 10.0 } else { 1.0 }
            })
            .collect();
        sample.sort_by(f64::total_cmp);
        Self(sample.chunks(64).map(|chunk| chunk[32] as f32).collect())
    }

    /// One of the quantiles, chosen by the lowest bits.
    pub(crate) fn draw(&self, bits: u64) -> f32 {
        self.0[bits as usize & (TABLE - 1)]
    }

    /// What 99 of 100 take at most, in microseconds.
    pub(crate) fn p99(&self) -> f64 {
        f64::from(self.0[TABLE * 99 / 100])
    }
}

/// How much of the noise stays from one second to the next.
const MEMORY: f64 = 0.8;
/// The noise of each side alone, as a part of the noise that both share.
const ALONE: f64 = 0.3;
/// The chance of a pause in a second: half of them hit both sides, the others one.
const PAUSE: f64 = 0.05;
/// The chance of an outage in a second: for that second half of all requests fail, on both sides.
const OUTAGE: f64 = 0.002;

/// One second of weather. Sides: 0 the candidate, 1 the active one.
pub(crate) struct Second {
    /// What service times are multiplied by.
    pub(crate) factor: [f64; 2],
    /// From where to where in the second nothing is answered, in microseconds.
    pub(crate) pause: [Option<(f64, f64)>; 2],
    /// Whether half of all requests fail.
    pub(crate) outage: bool,
}

/// The weather, second by second.
pub(crate) struct Weather {
    sd: f64,
    shared: f64,
    sides: [f64; 2],
}

impl Weather {
    /// With noise of standard deviation `sd`, as a share of the service time.
    pub(crate) fn new(sd: f64, random: &mut Random) -> Self {
        Self { sd, shared: random.normal(), sides: [random.normal(), random.normal()] }
    }

    /// The next second.
    pub(crate) fn next(&mut self, random: &mut Random) -> Second {
        let fresh = (1.0 - MEMORY * MEMORY).sqrt();
        self.shared = MEMORY * self.shared + fresh * random.normal();
        self.sides = self.sides.map(|side| MEMORY * side + fresh * random.normal());
        let factor = self.sides.map(|side| (self.sd * (self.shared + ALONE * side)).exp());
        let mut pause = [None, None];
        if random.uniform() < PAUSE {
            let (start, length) = (random.uniform() * 1e6, 50e3 + 150e3 * random.uniform());
            let which = random.uniform();
            let hit = Some((start, start + length));
            pause = [hit.filter(|_| which < 0.75), hit.filter(|_| !(0.5..0.75).contains(&which))];
        }
        Second { factor, pause, outage: random.uniform() < OUTAGE }
    }
}
