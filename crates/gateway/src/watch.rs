//! The guard over the stamp of a new release: when users are taken from it at once.

use crate::metrics::StampCounts;
use api::gateway::{Guard, Tripped, Watched};
use model::name::StampId;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many standard deviations of its estimate the excess has to be above the limit, once the other stamp has errors
/// too. `stats::exposure` has the same rule, and is simulated together with all other rules of a release.
const MARGIN: f64 = 4.0;
/// With the stamp alone there is nothing to compare with. So many times the limit of errors, with not one success in
/// between, are no chance; an outage in which half of the requests fail does not come to that.
const ALONE_FACTOR: u64 = 3;

/// Connect failures count together for this long: one now and then is no crash.
const CONNECTS_WINDOW: Duration = Duration::from_secs(2);

/// What was counted of a stamp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) connect_failures: u64,
}

impl Tally {
    fn plus(self, more: Self) -> Self {
        Self {
            requests: self.requests + more.requests,
            errors: self.errors + more.errors,
            connect_failures: self.connect_failures + more.connect_failures,
        }
    }

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
    /// Locked for each error of the watched stamp and for each table, never for a request that goes well.
    exposure: Mutex<Exposure>,
    /// 0, or why it has tripped: [`ERRORS`] or [`CONNECTS`].
    tripped: AtomicU8,
}

/// How many users the watched stamp has hurt beyond what the other one's errors explain. Added up over increments,
/// each compared within itself: neither a change of the weight nor an outage of both looks like harm done by one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Exposure {
    /// What was counted at the last look.
    looked: [Tally; 2],
    /// Counted since there was a request of the other stamp to compare with.
    pending: [Tally; 2],
    excess: f64,
    /// Of that estimate, were the watched stamp no worse.
    variance: f64,
    /// Errors with no success in between.
    in_a_row: u64,
    /// Whether there was anything to compare with.
    compared: bool,
    /// When the present window of connect failures began, by CLOCK_MONOTONIC in nanoseconds, and how many there were
    /// before it.
    window: (u64, u64),
}

const ERRORS: u8 = 1;
const CONNECTS: u8 = 2;

impl Watch {
    /// From now on.
    pub(crate) fn new(watched: Arc<StampCounts>, beside: Arc<StampCounts>) -> Self {
        let (watched_before, beside_before) = (watched.tally(), beside.tally());
        let exposure = Exposure { looked: [watched_before, beside_before], ..Exposure::default() };
        Self {
            watched,
            beside,
            watched_before,
            beside_before,
            exposure: Mutex::new(exposure),
            tripped: AtomicU8::new(0),
        }
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
        let now = [self.watched.tally(), self.beside.tally()];
        let mut exposure = self.exposure.lock().unwrap_or_else(PoisonError::into_inner);
        let connects = exposure.connects(now[0].connect_failures, api::clock::monotonic_ns());
        exposure.observe(now);
        // Users who go back to a stamp that fails most requests itself gain nothing.
        let useful = now[1].errors * 2 < now[1].requests.max(1);
        let why = if connects > 0 && connects >= u64::from(guard.max_connect_failures) {
            CONNECTS
        } else if useful && exposure.exceeds(u64::from(guard.max_excess_errors)) {
            ERRORS
        } else {
            return;
        };
        let exposure = *exposure;
        // The first reason stays.
        if self.tripped.compare_exchange(0, why, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            tracing::warn!(stamp = %self.stamp(), why = ?self.tripped(), ?exposure, "users are taken from this stamp");
        }
    }

    /// The shares of the users change: what was not compared yet is not, because requests under two shares in one
    /// increment would make an outage of both look like harm done by one.
    pub(crate) fn weights_changed(&self) {
        let mut exposure = self.exposure.lock().unwrap_or_else(PoisonError::into_inner);
        exposure.observe([self.watched.tally(), self.beside.tally()]);
        exposure.pending = Default::default();
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

impl Exposure {
    /// Connections that were not taken in the present window, given how many there were in all.
    fn connects(&mut self, all: u64, now_ns: u64) -> u64 {
        if all > self.looked[0].connect_failures
            && now_ns.saturating_sub(self.window.0) > CONNECTS_WINDOW.as_nanos() as u64
        {
            self.window = (now_ns, self.looked[0].connect_failures);
        }
        all - self.window.1.min(all)
    }

    /// Takes in what was counted since the last look.
    fn observe(&mut self, now: [Tally; 2]) {
        let increment = [now[0].since(self.looked[0]), now[1].since(self.looked[1])];
        self.looked = now;
        let [watched, _] = increment;
        self.in_a_row = match watched.requests > watched.errors {
            // The success may have been before or after: the errors of this increment are the row.
            true => watched.errors,
            false => self.in_a_row + watched.errors,
        };
        self.pending = [self.pending[0].plus(watched), self.pending[1].plus(increment[1])];
        let [watched, beside] = self.pending;
        if beside.requests == 0 {
            return;
        }
        self.pending = Default::default();
        // Requests of the watched stamp for each of the other: an error of that one stands for so many.
        let odds = watched.requests as f64 / beside.requests as f64;
        let expected = odds * beside.errors as f64;
        self.excess += watched.errors as f64 - expected;
        self.variance += expected * (1.0 + odds);
        self.compared = true;
    }

    fn exceeds(&self, limit: u64) -> bool {
        let alone = self.pending[1].requests == 0 && self.pending[0].errors > 0;
        let row = alone && self.in_a_row > 0 && self.in_a_row >= limit * ALONE_FACTOR;
        let excess =
            self.compared && self.excess > 0.0 && self.excess >= limit as f64 + MARGIN * self.variance.sqrt();
        excess || row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(requests: u64, errors: u64) -> Tally {
        Tally { requests, errors, connect_failures: 0 }
    }

    /// Adds to what was counted, and looks.
    fn observe(exposure: &mut Exposure, watched: Tally, beside: Tally) {
        let [before_watched, before_beside] = exposure.looked;
        exposure.observe([before_watched.plus(watched), before_beside.plus(beside)]);
    }

    /// How many errors it takes when the other stamp has none and `odds` requests for each of the watched one.
    fn needed(odds: u64) -> u64 {
        let mut exposure = Exposure::default();
        (1..1000)
            .find(|_| {
                observe(&mut exposure, tally(5, 1), tally(5 * odds, 0));
                exposure.exceeds(10)
            })
            .unwrap()
    }

    #[test]
    fn users_are_hurt_up_to_the_limit_and_no_further() {
        assert_eq!([99, 9, 1].map(needed), [10, 10, 10]);
        let mut none = Exposure::default();
        observe(&mut none, tally(10, 0), tally(10, 0));
        assert!(!none.exceeds(0), "a guard that allows nothing trips at the first error and not before");
        observe(&mut none, tally(10, 1), tally(10, 0));
        assert!(none.exceeds(0));
    }

    #[test]
    fn an_outage_of_both_is_no_harm_done_at_any_weight() {
        let mut exposure = Exposure::default();
        observe(&mut exposure, tally(3_000, 1), tally(27_000, 9));
        for _ in 0..1000 {
            observe(&mut exposure, tally(5, 5), tally(5, 5));
            assert!(!exposure.exceeds(10), "{exposure:?}");
        }
    }

    #[test]
    fn errors_that_the_other_stamp_has_too_take_more() {
        let mut exposure = Exposure::default();
        for _ in 0..100 {
            observe(&mut exposure, tally(10, 1), tally(90, 9));
        }
        assert!(!exposure.exceeds(10));
        let more = (1..1000).find(|_| {
            observe(&mut exposure, tally(1, 1), tally(9, 0));
            exposure.exceeds(10)
        });
        assert!(more.is_some_and(|more| (20..100).contains(&more)), "{more:?}");
    }

    #[test]
    fn connections_that_were_not_taken_count_while_they_come_together() {
        let mut exposure = Exposure::default();
        let failed = |exposure: &mut Exposure, all: u64, seconds: f64| {
            let connects = exposure.connects(all, (seconds * 1e9) as u64);
            exposure.looked[0].connect_failures = all;
            connects
        };
        let times = [(1, 10.0, 1), (2, 10.5, 2), (3, 20.0, 1), (4, 30.0, 1), (5, 30.1, 2), (6, 30.2, 3)];
        for (all, seconds, expected) in times {
            assert_eq!(failed(&mut exposure, all, seconds), expected, "at {seconds} s");
        }
    }

    #[test]
    fn alone_only_a_row_of_errors_is_believed() {
        let mut half = Exposure::default();
        for _ in 0..500 {
            observe(&mut half, tally(2, 1), tally(0, 0));
            assert!(!half.exceeds(10), "{half:?}");
        }
        let mut all = Exposure::default();
        let trips = (1..1000).find(|_| {
            observe(&mut all, tally(1, 1), tally(0, 0));
            all.exceeds(10)
        });
        assert_eq!(trips, Some(30));
    }
}
