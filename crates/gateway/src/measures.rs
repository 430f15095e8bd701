//! What is measured of each route on each stamp. Each worker writes cells of its own, see [`crate::metrics`].

use crate::metrics::Count;
use crate::pattern::Patterns;
use api::gateway::RouteMeasures;
use http::Method;
use model::away::PreviousStamp;
use model::name::StampId;
use model::workload::{OTHER_ROUTE, ROUTES_LIMIT, Route};
use std::sync::OnceLock;

/// Buckets of equal width in a power of two, and of 1 µs below the first one that is divided.
const STEPS: usize = 16;
/// log2 of [`STEPS`].
const STEP_BITS: u32 = STEPS.ilog2();
/// What takes 2 to the power of this in microseconds, or longer, is in the last bucket.
const TOP_BITS: u32 = 26;

/// Buckets of a latency: 16 of 1 µs, then 16 in each power of two, up to 67 s. The agent's statistics know the
/// same ones.
pub(crate) const BUCKETS: usize = STEPS + STEPS * (TOP_BITS - STEP_BITS) as usize;

/// The bucket of a latency in microseconds.
pub(crate) fn bucket_of(us: u64) -> usize {
    if us < STEPS as u64 {
        return us as usize;
    }
    let power = us.ilog2();
    if power >= TOP_BITS {
        return BUCKETS - 1;
    }
    let step = (us >> (power - STEP_BITS)) as usize - STEPS;
    STEPS + (power - STEP_BITS) as usize * STEPS + step
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// As [`RouteMeasures::errors`] has it.
    pub(crate) error: bool,
    /// From the arrival of the head to the head of the upstream's answer. None: it did not answer.
    pub(crate) latency_us: Option<u64>,
}

/// One worker's cells for one route of one stamp: 6 KiB.
#[derive(Debug)]
#[repr(align(128))]
struct Cells {
    requests: Count,
    errors: Count,
    sum_us: Count,
    halves: [[Count; BUCKETS]; 2],
}

/// One worker's cells for all routes of a stamp, made when first used.
type Sheet = Box<[OnceLock<Box<Cells>>]>;

/// The routes of one stamp, and what was measured of them.
#[derive(Debug)]
pub(crate) struct StampRoutes {
    pub(crate) stamp: StampId,
    /// What the rest was made from.
    routes: Vec<Route>,
    patterns: Patterns,
    /// Whether one of them asks the stamp before.
    asks_previous: bool,
    /// By place; the last one is [`OTHER_ROUTE`].
    names: Vec<String>,
    workers: Box<[Sheet]>,
}

/// What all workers have measured of a route.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sum {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) sum_us: u64,
    pub(crate) halves: [Vec<u64>; 2],
}

impl Default for Cells {
    fn default() -> Self {
        let half = |_| std::array::from_fn(|_| Count::default());
        Self {
            requests: Count::default(),
            errors: Count::default(),
            sum_us: Count::default(),
            halves: std::array::from_fn(half),
        }
    }
}

impl Default for Sum {
    fn default() -> Self {
        let half = || vec![0; BUCKETS];
        Self { requests: 0, errors: 0, sum_us: 0, halves: [half(), half()] }
    }
}

impl Sum {
    /// Adds what another one has.
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.sum_us += other.sum_us;
        for (half, others) in self.halves.iter_mut().zip(&other.halves) {
            half.iter_mut().zip(others).for_each(|(bucket, other)| *bucket += other);
        }
    }

    /// Latencies in the first `buckets` buckets.
    pub(crate) fn below(&self, buckets: usize) -> u64 {
        self.halves.iter().map(|half| half[..buckets].iter().sum::<u64>()).sum()
    }
}

impl StampRoutes {
    /// Routes beyond [`ROUTES_LIMIT`] are measured as [`OTHER_ROUTE`].
    pub(crate) fn new(stamp: StampId, routes: &[Route], workers: usize) -> Self {
        let measured = &routes[..routes.len().min(ROUTES_LIMIT)];
        let names: Vec<String> = measured.iter().map(Route::name).chain([OTHER_ROUTE.to_owned()]).collect();
        let sheet = || names.iter().map(|_| OnceLock::new()).collect();
        let workers = std::iter::repeat_with(sheet).take(workers).collect();
        let asks_previous = measured.iter().any(|route| route.previous_stamp.is_some());
        let patterns = Patterns::new(measured);
        Self { stamp, routes: routes.to_vec(), patterns, asks_previous, names, workers }
    }

    /// Whether it is of these.
    pub(crate) fn is_of(&self, stamp: StampId, routes: &[Route]) -> bool {
        self.stamp == stamp && self.routes == routes
    }

    /// The place of a request's route.
    pub(crate) fn find(&self, method: &Method, path: &str) -> u16 {
        let other = || u16::try_from(self.names.len() - 1).expect("there are at most 1,000 routes");
        self.patterns.find(method, path).unwrap_or_else(other)
    }

    /// What the stamp before is asked for when a request at this place of the routes is answered with 404. HEAD goes
    /// with the GET of its path.
    pub(crate) fn previous(&self, method: &Method, path: &str, route: u16) -> Option<&PreviousStamp> {
        if !self.asks_previous {
            return None;
        }
        let route = match *method {
            Method::GET => route,
            Method::HEAD => self.find(&Method::GET, path),
            _ => return None,
        };
        self.routes.get(usize::from(route))?.previous_stamp.as_ref()
    }

    /// The place of the route of this name.
    pub(crate) fn named(&self, name: &str) -> u16 {
        let place = self.names.iter().position(|known| known == name).unwrap_or(self.names.len() - 1);
        u16::try_from(place).expect("there are at most 1,000 routes")
    }

    /// The name of the route at a place.
    pub(crate) fn name(&self, route: u16) -> &str {
        &self.names[usize::from(route)]
    }

    /// Notes a request. Only the worker of this index may.
    pub(crate) fn record(&self, worker: usize, route: u16, outcome: Outcome) {
        let cells = self.workers[worker][usize::from(route)].get_or_init(Box::default);
        if let Some(us) = outcome.latency_us {
            // In turn: the two halves see the same time of day and the same mix of users.
            cells.halves[(cells.requests.get() & 1) as usize][bucket_of(us)].add(1);
            cells.sum_us.add(us);
        }
        cells.requests.add(1);
        cells.errors.add(u64::from(outcome.error));
    }

    /// What was measured, by route. Only those that had requests, and [`OTHER_ROUTE`].
    pub(crate) fn sums(&self) -> impl Iterator<Item = (&str, Sum)> {
        self.names.iter().enumerate().filter_map(|(place, name)| {
            let mut sum = Sum::default();
            let mut used = place == self.names.len() - 1;
            for cells in self.workers.iter().filter_map(|sheet| sheet[place].get()) {
                used = true;
                sum.requests += cells.requests.get();
                sum.errors += cells.errors.get();
                sum.sum_us += cells.sum_us.get();
                for (half, counts) in sum.halves.iter_mut().zip(&cells.halves) {
                    half.iter_mut().zip(counts).for_each(|(bucket, count)| *bucket += count.get());
                }
            }
            used.then_some((name.as_str(), sum))
        })
    }

    /// The same for the agent.
    pub(crate) fn report(&self) -> Vec<RouteMeasures> {
        let occupied = |half: &Vec<u64>| {
            let pairs = half.iter().enumerate().filter(|(_, count)| **count > 0);
            pairs.map(|(bucket, count)| (bucket as u16, *count)).collect()
        };
        let report = |(name, sum): (&str, Sum)| RouteMeasures {
            route: name.to_owned(),
            requests: sum.requests,
            errors: sum.errors,
            halves: [occupied(&sum.halves[0]), occupied(&sum.halves[1])],
        };
        self.sums().map(report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_the_ones_agreed_on() {
        assert_eq!(BUCKETS, 368);
        for (us, bucket) in [
            (0, 0),
            (15, 15),
            (16, 16),
            (31, 31),
            (32, 32),
            (33, 32),
            (34, 33),
            (63, 47),
            (64, 48),
            // 2^9 <= 1000 < 2^10: 5 powers after the first, and 15 steps of 32 µs after 512.
            (1000, 16 + 5 * 16 + 15),
            (1023, 111),
            (1024, 112),
            (1_000_000, 16 + 15 * 16 + 14),
            ((1 << 26) - 1, 367),
            (1 << 26, 367),
            (u64::MAX, 367),
        ] {
            assert_eq!(bucket_of(us), bucket, "{us} µs");
        }
    }

    #[test]
    fn requests_go_to_the_halves_in_turn_and_workers_are_summed() {
        let routes = StampRoutes::new(StampId(1), &[], 2);
        let other = routes.find(&Method::GET, "/");
        assert_eq!(routes.name(other), "other");
        let answered = |us| Outcome { error: false, latency_us: Some(us) };
        for us in [1, 2, 3] {
            routes.record(0, other, answered(us));
        }
        routes.record(1, other, answered(1));
        routes.record(1, other, Outcome { error: true, latency_us: None });
        let report = &routes.report()[0];
        assert_eq!((report.requests, report.errors), (5, 1));
        assert_eq!(report.halves, [vec![(1, 2), (3, 1)], vec![(2, 1)]]);
    }
}
