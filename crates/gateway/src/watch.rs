//! The guard over the stamp of a new release: when users are taken from it at once.

use crate::metrics::StampCounts;
use api::gateway::{Guard, Tripped, Watched};
use model::name::StampId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How many standard deviations of the expected number of errors are taken for chance. A Poisson count is further
/// up once in 2,000 looks; a guard looks at each error, and one that cries wolf costs a good release.
const MARGIN: f64 = 3.3;

/// What was counted of a stamp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) connect_failures: u64,
}

impl Tally {
    fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            connect_failures: self.connect_failures.saturating_sub(before.connect_failures),
        }
    }
}

/// One stamp as it is watched, from the table that first says so. Lives on from table to table.
#[derive(Debug)]
pub(crate) struct Watch {
    watched: Arc<StampCounts>,
    beside: Arc<StampCounts>,
    /// When it was first watched.
    watched_before: Tally,
    beside_before: Tally,
    /// 0, or why it has tripped: [`ERRORS`] or [`CONNECTS`].
    tripped: AtomicU8,
}

const ERRORS: u8 = 1;
const CONNECTS: u8 = 2;

impl Watch {
    /// From now on.
    pub(crate) fn new(watched: Arc<StampCounts>, beside: Arc<StampCounts>) -> Self {
        let (watched_before, beside_before) = (watched.tally(), beside.tally());
        Self { watched, beside, watched_before, beside_before, tripped: AtomicU8::new(0) }
    }

    /// The stamp that is watched.
    pub(crate) fn stamp(&self) -> StampId {
        self.watched.stamp
    }

    /// The stamp it is compared with.
    pub(crate) fn beside(&self) -> StampId {
        self.beside.stamp
    }

    /// Why it has tripped. One load.
    pub(crate) fn tripped(&self) -> Option<Tripped> {
        match self.tripped.load(Ordering::Acquire) {
            ERRORS => Some(Tripped::Errors),
            CONNECTS => Some(Tripped::Connects),
            _ => None,
        }
    }

    /// Looks whether it is too much by now. Called for each error and each connect failure of the watched stamp.
    pub(crate) fn look(&self, guard: &Guard) {
        let (seen, beside) = self.seen();
        let Some(why) = verdict(guard, seen, beside) else { return };
        let flag = match why {
            Tripped::Errors => ERRORS,
            Tripped::Connects => CONNECTS,
        };
        // The first reason stays.
        if self.tripped.compare_exchange(0, flag, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            tracing::warn!(stamp = %self.stamp(), ?why, ?seen, ?beside, "users are taken from this stamp");
        }
    }

    /// What was counted of both since the stamp was first watched; of the one beside it in all its time in this
    /// gateway, if it had no request since.
    fn seen(&self) -> (Tally, Tally) {
        let beside = self.beside.tally();
        let since = beside.since(self.beside_before);
        let beside = if since.requests == 0 { beside } else { since };
        (self.watched.tally().since(self.watched_before), beside)
    }

    /// As the agent sees it.
    pub(crate) fn report(&self) -> Watched {
        let (seen, beside) = self.seen();
        Watched {
            stamp: self.stamp(),
            requests: seen.requests,
            errors: seen.errors,
            other_requests: beside.requests,
            other_errors: beside.errors,
            connect_failures: seen.connect_failures,
            tripped: self.tripped(),
        }
    }
}

/// Whether `seen` is too much beside `beside`. Errors that the other stamp's rate explains are not held against the
/// watched one, and [`MARGIN`] times their standard deviation (the root of their number: counts of rare events are
/// Poisson) neither.
fn verdict(guard: &Guard, seen: Tally, beside: Tally) -> Option<Tripped> {
    if seen.connect_failures > 0 && seen.connect_failures >= u64::from(guard.max_connect_failures) {
        return Some(Tripped::Connects);
    }
    if seen.errors == 0 {
        return None;
    }
    let rate = if beside.requests == 0 { 0.0 } else { beside.errors as f64 / beside.requests as f64 };
    let expected = seen.requests as f64 * rate;
    let excess = seen.errors as f64 - expected - MARGIN * expected.sqrt();
    (excess >= f64::from(guard.max_excess_errors)).then_some(Tripped::Errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(requests: u64, errors: u64, connect_failures: u64) -> Tally {
        Tally { requests, errors, connect_failures }
    }

    #[test]
    fn errors_beyond_what_the_other_stamp_explains_trip() {
        let guard = Guard { max_excess_errors: 10, max_connect_failures: 5 };
        for (seen, beside, expected) in [
            (tally(100, 9, 0), tally(1000, 0, 0), None),
            (tally(100, 10, 0), tally(1000, 0, 0), Some(Tripped::Errors)),
            // The other one is not known: all errors count.
            (tally(10, 10, 0), tally(0, 0, 0), Some(Tripped::Errors)),
            // 1 % are expected: 10 of 1000, and 10.4 more by chance.
            (tally(1000, 30, 0), tally(9000, 90, 0), None),
            (tally(1000, 31, 0), tally(9000, 90, 0), Some(Tripped::Errors)),
            // Both are down: nothing is gained by going back.
            (tally(1000, 1000, 0), tally(1000, 1000, 0), None),
            (tally(1000, 0, 4), tally(1000, 0, 0), None),
            (tally(1000, 0, 5), tally(1000, 0, 0), Some(Tripped::Connects)),
            (tally(1000, 50, 5), tally(1000, 0, 0), Some(Tripped::Connects)),
        ] {
            assert_eq!(verdict(&guard, seen, beside), expected, "{seen:?} beside {beside:?}");
        }
    }

    #[test]
    fn a_guard_that_allows_nothing_trips_at_the_first_and_not_before() {
        let guard = Guard { max_excess_errors: 0, max_connect_failures: 0 };
        let fine = tally(10, 0, 0);
        assert_eq!(verdict(&guard, fine, fine), None);
        assert_eq!(verdict(&guard, tally(10, 1, 0), fine), Some(Tripped::Errors));
        assert_eq!(verdict(&guard, tally(10, 0, 1), fine), Some(Tripped::Connects));
    }
}
