//! The time on the wall, and how long ago something was: by the time that has passed, not by how the clock was set.
//!
//! What is written down has a time on the wall. A machine may begin with a wrong clock, which is set (stepped) when
//! the network says so, and one that was frozen (a virtual machine that is moved, or restored) continues with an old
//! one. What was accepted before such a step is younger than its time says: without knowing of it, orders would be
//! given up for their age, and answers forgotten before their day is over. So steps are kept, here and on disk, and
//! are not counted.

use crate::clock::Moment;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::journal::{CLOCK_STEPS_LIMIT, ClockStep};

/// A clock that is ahead of the queue's by less was not set: it was read a moment later, or is made to go a little
/// faster.
const STEP_LEAST_MS: i64 = 5_000;
/// How far the clock may be behind what was written last, for it to be that which is wrong: set by hand or by NTP it
/// goes back by less than an hour. The queue's then stands ahead until it is caught up with. What is further ahead was
/// written by a clock that was wrong.
pub(crate) const CLOCK_BACK_LIMIT_MS: i64 = 3_600_000;
/// A clock on the wall that shows less was not set yet: the first of January 2020.
const CLOCK_LEAST_MS: i64 = 1_577_836_800_000;

/// The time on the wall as the queue has it.
#[derive(Debug)]
pub(crate) struct Calendar {
    opened_ms: i64,
    opened_at: Moment,
    /// By how much the clock was set since.
    stepped_ms: AtomicI64,
    /// How it was set, old to new.
    steps: Mutex<Vec<ClockStep>>,
}

impl Calendar {
    /// It is `opened_ms` on the wall at `opened_at`; `steps` are what was known of before.
    pub(crate) fn new(opened_ms: i64, opened_at: Moment, steps: Vec<ClockStep>) -> Self {
        Self { opened_ms, opened_at, stepped_ms: AtomicI64::new(0), steps: Mutex::new(steps) }
    }

    /// The time on the wall when the queue was opened.
    pub(crate) fn opened_ms(&self) -> i64 {
        self.opened_ms
    }

    /// The time on the wall at a moment.
    pub(crate) fn wall_at(&self, moment: Moment) -> i64 {
        let passed = (moment as i64).saturating_sub(self.opened_at as i64);
        let stepped = self.stepped_ms.load(Ordering::Relaxed);
        self.opened_ms.saturating_add(passed).saturating_add(stepped)
    }

    /// How many milliseconds have passed from one time on the wall to another. 0 where the second is before the first.
    pub(crate) fn passed(&self, from_ms: i64, to_ms: i64) -> i64 {
        passed(&self.steps(), from_ms, to_ms).max(0)
    }

    /// The time on the wall since when `span_ms` have passed.
    pub(crate) fn before(&self, wall_ms: i64, span_ms: i64) -> i64 {
        let plain = wall_ms.saturating_sub(span_ms);
        let back = |ms: i64, step: &ClockStep| {
            if ms < step.to_ms { ms.saturating_sub(step.by_ms) } else { ms }
        };
        self.steps().iter().rev().fold(plain, back)
    }

    /// `from_ms` as it can have been: a time of before the machine's clock was set, of which no step is known, says
    /// nothing, nor does one to come.
    pub(crate) fn plausible(&self, from_ms: i64, wall_ms: i64) -> i64 {
        let possible_ms = self.opened_ms.saturating_sub(CLOCK_LEAST_MS);
        let unset = possible_ms >= 0 && self.passed(from_ms, self.opened_ms) > possible_ms;
        if unset { self.opened_ms } else { from_ms.min(wall_ms) }
    }

    /// Goes with the machine's clock, if that was set. Some: by how much, and all steps that are to be written down.
    pub(crate) fn follow(&self, now: Moment, machine_ms: i64) -> Option<(i64, Vec<ClockStep>)> {
        let mut steps = self.steps();
        let by_ms = machine_ms.saturating_sub(self.wall_at(now));
        if by_ms < STEP_LEAST_MS && by_ms > -CLOCK_BACK_LIMIT_MS {
            return None;
        }
        self.stepped_ms.fetch_add(by_ms, Ordering::Relaxed);
        if by_ms > 0 {
            steps.push(ClockStep { to_ms: machine_ms, by_ms });
            let more = steps.len().saturating_sub(CLOCK_STEPS_LIMIT);
            steps.drain(..more);
        } else {
            // What it was set to before is still to come, and so is what was written since.
            steps.retain(|step| step.to_ms <= machine_ms);
        }
        Some((by_ms, steps.clone()))
    }

    fn steps(&self) -> MutexGuard<'_, Vec<ClockStep>> {
        // Nobody panics with it in hand.
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn passed(steps: &[ClockStep], from_ms: i64, to_ms: i64) -> i64 {
    let between = steps.iter().filter(|step| from_ms < step.to_ms && step.to_ms <= to_ms);
    let stepped: i64 = between.map(|step| step.by_ms).sum();
    to_ms.saturating_sub(from_ms).saturating_sub(stepped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const START: i64 = 1_800_000_000_000;

    /// Opened at `START`, set forward by two hours after one, and by five after another.
    fn set_twice() -> Calendar {
        let calendar = Calendar::new(START, 1_000, Vec::new());
        assert_eq!(calendar.follow(1_000, START + STEP_LEAST_MS - 1), None);
        let first = ClockStep { to_ms: START + 3 * HOUR, by_ms: 2 * HOUR };
        assert_eq!(calendar.follow(1_000 + HOUR as u64, START + 3 * HOUR), Some((2 * HOUR, vec![first])));
        let second = ClockStep { to_ms: START + 9 * HOUR, by_ms: 5 * HOUR };
        let both = vec![first, second];
        assert_eq!(calendar.follow(1_000 + 2 * HOUR as u64, START + 9 * HOUR), Some((5 * HOUR, both)));
        calendar
    }

    #[test]
    fn steps_do_not_count() {
        let calendar = set_twice();
        let now = calendar.wall_at(1_000 + 3 * HOUR as u64);
        assert_eq!(now, START + 10 * HOUR);
        // From, and how long ago that was.
        for (from, hours) in [(0, 3), (1, 2), (3, 2), (4, 1), (9, 1), (10, 0), (11, 0)] {
            let from_ms = START + from * HOUR;
            assert_eq!(calendar.passed(from_ms, now), hours * HOUR, "{from}");
        }
        for (span, from) in [(0, 10), (1, 9), (3, 0), (4, -1)] {
            assert_eq!(calendar.before(now, span * HOUR), START + from * HOUR, "{span}");
        }
    }

    #[test]
    fn what_was_set_by_mistake_is_taken_back() {
        let calendar = set_twice();
        // Less than an hour: it waits until it is caught up with.
        let at = 1_000 + 3 * HOUR as u64;
        assert_eq!(calendar.follow(at, START + 10 * HOUR - CLOCK_BACK_LIMIT_MS + 1), None);
        let (by_ms, left) = calendar.follow(at, START + 4 * HOUR).unwrap();
        assert_eq!((by_ms, left.len()), (-6 * HOUR, 1));
        assert_eq!(calendar.wall_at(at), START + 4 * HOUR);
        assert_eq!(calendar.passed(START, START + 4 * HOUR), 2 * HOUR);
        assert_eq!(calendar.passed(START + 9 * HOUR, START + 4 * HOUR), 0);
    }

    #[test]
    fn a_clock_that_is_set_all_the_time_is_bounded() {
        let calendar = Calendar::new(START, 0, Vec::new());
        let steps = (1..100).filter_map(|n| calendar.follow(0, START + n * HOUR)).last().unwrap().1;
        assert_eq!(steps.len(), CLOCK_STEPS_LIMIT);
        assert_eq!(steps.last().unwrap().to_ms, START + 99 * HOUR);
    }

    #[test]
    fn what_cannot_have_been_says_nothing() {
        let unknown = Calendar::new(START, 0, Vec::new());
        assert_eq!(unknown.plausible(5_000, START + 1), START);
        assert_eq!(unknown.plausible(START + 2, START + 1), START + 1);
        assert_eq!(unknown.plausible(START - HOUR, START + 1), START - HOUR);
        // A minute after the epoch the clock was set.
        let step = ClockStep { to_ms: START - HOUR, by_ms: START - HOUR - 60_000 };
        let known = Calendar::new(START, 0, vec![step]);
        assert_eq!(known.plausible(5_000, START + 1), 5_000);
        assert_eq!(known.passed(5_000, START), HOUR + 55_000);
        let still_unset = Calendar::new(60_000, 0, Vec::new());
        assert_eq!(still_unset.plausible(5_000, 60_001), 5_000);
    }
}
