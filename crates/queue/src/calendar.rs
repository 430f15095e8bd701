//! The time on the wall, and how long ago something was: by the time that has passed, not by how the clock was set.
//!
//! What is written down has a time on the wall. A machine may begin with a wrong clock, which is set (stepped) when
//! the network says so, and one that was frozen (a virtual machine that is moved, or restored) continues with an old
//! one. What was accepted before such a step is younger than its time says: without knowing of it, orders would be
//! given up for their age, and answers forgotten before their day is over. So steps are kept, here and on disk, and
//! are not counted.

use crate::clock::Moment;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
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
    followed: AtomicBool,
    /// How it was set, old to new.
    steps: Mutex<Vec<ClockStep>>,
}

impl Calendar {
    /// It is `opened_ms` on the wall at `opened_at`; `steps` are what was known of before.
    pub(crate) fn new(opened_ms: i64, opened_at: Moment, steps: Vec<ClockStep>) -> Self {
        let (stepped_ms, followed, steps) = (AtomicI64::new(0), AtomicBool::new(false), Mutex::new(steps));
        Self { opened_ms, opened_at, stepped_ms, followed, steps }
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

    /// Whether it is known that the clock was set, now or while an earlier owner had the file open.
    pub(crate) fn was_set(&self) -> bool {
        !self.steps().is_empty()
    }

    /// Whether it was since this queue was opened.
    pub(crate) fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Relaxed)
    }

    /// All steps that are known, as they are to be on disk.
    pub(crate) fn known(&self) -> Vec<ClockStep> {
        self.steps().clone()
    }

    /// How many milliseconds have passed from when something was written, on the wall, to `wall_ms`. Less than 0: it
    /// was written by a clock that was ahead.
    pub(crate) fn passed(&self, from_ms: i64, wall_ms: i64) -> i64 {
        let steps = self.steps();
        let stepped: i64 = since(&steps, from_ms).map(|step| step.by_ms).sum();
        wall_ms.saturating_sub(from_ms).saturating_sub(stepped)
    }

    /// The time on the wall once `span_ms` have passed since something was written.
    pub(crate) fn after(&self, from_ms: i64, span_ms: i64) -> i64 {
        let steps = self.steps();
        let later: Vec<&ClockStep> = since(&steps, from_ms).collect();
        let step = |wall_ms: i64, step: &&ClockStep| match wall_ms > step.at_ms {
            true => wall_ms.saturating_add(step.by_ms),
            false => wall_ms,
        };
        later.iter().rev().fold(from_ms.saturating_add(span_ms), step)
    }

    /// A time on the wall such that of whatever was written before it, `span_ms` have passed.
    pub(crate) fn before(&self, wall_ms: i64, span_ms: i64) -> i64 {
        let mut before_ms = wall_ms.saturating_sub(span_ms);
        // Where the clock was set back, times come twice: those of after are not before it.
        let mut most_ms = i64::MAX;
        for step in self.steps().iter().rev() {
            let to_ms = step.at_ms.saturating_add(step.by_ms);
            if before_ms >= to_ms {
                break;
            }
            most_ms = most_ms.min(to_ms);
            before_ms = before_ms.saturating_sub(step.by_ms);
        }
        before_ms.min(most_ms)
    }

    /// `from_ms` as it can have been: a time of before the machine's clock was set, of which no step is known, says
    /// nothing, nor does one to come.
    pub(crate) fn plausible(&self, from_ms: i64, wall_ms: i64) -> i64 {
        let possible_ms = self.opened_ms.saturating_sub(CLOCK_LEAST_MS);
        let unset = possible_ms >= 0 && self.passed(from_ms, self.opened_ms) > possible_ms;
        if unset { self.opened_ms } else { from_ms.min(wall_ms) }
    }

    /// Goes with the machine's clock, if that was set. Some: by how much; then [`known`](Self::known) is to be written.
    pub(crate) fn follow(&self, now: Moment, machine_ms: i64) -> Option<i64> {
        let mut steps = self.steps();
        let by_ms = machine_ms.saturating_sub(self.wall_at(now));
        if by_ms < STEP_LEAST_MS && by_ms > -CLOCK_BACK_LIMIT_MS {
            return None;
        }
        self.stepped_ms.fetch_add(by_ms, Ordering::Relaxed);
        self.followed.store(true, Ordering::Relaxed);
        steps.push(ClockStep { at_ms: machine_ms.saturating_sub(by_ms), by_ms });
        let more = steps.len().saturating_sub(CLOCK_STEPS_LIMIT);
        steps.drain(..more);
        Some(by_ms)
    }

    fn steps(&self) -> MutexGuard<'_, Vec<ClockStep>> {
        // Nobody panics with it in hand.
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The steps since something was written, new to old. A time that the clock has shown twice is taken for the later one.
/// One that it has passed over was written by an earlier owner of the file, whose clock was right, or not set yet.
fn since(steps: &[ClockStep], from_ms: i64) -> impl Iterator<Item = &ClockStep> {
    let is_before = move |step: &&ClockStep| from_ms < step.at_ms.saturating_add(step.by_ms);
    let is_counted = move |step: &&ClockStep| from_ms <= step.at_ms || from_ms < CLOCK_LEAST_MS;
    steps.iter().rev().take_while(is_before).filter(is_counted)
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
        let first = ClockStep { at_ms: START + HOUR, by_ms: 2 * HOUR };
        assert_eq!(calendar.follow(1_000 + HOUR as u64, START + 3 * HOUR), Some(2 * HOUR));
        let second = ClockStep { at_ms: START + 4 * HOUR, by_ms: 5 * HOUR };
        assert_eq!(calendar.follow(1_000 + 2 * HOUR as u64, START + 9 * HOUR), Some(5 * HOUR));
        assert_eq!(calendar.known(), [first, second]);
        calendar
    }

    #[test]
    fn steps_do_not_count() {
        let calendar = set_twice();
        let now = calendar.wall_at(1_000 + 3 * HOUR as u64);
        assert_eq!(now, START + 10 * HOUR);
        // From, and how long ago that was. What the clock has passed over is of an earlier owner.
        for (from, hours) in
            [(-1, 4), (0, 3), (1, 2), (2, 3), (3, 2), (4, 1), (7, 3), (9, 1), (10, 0), (11, -1)]
        {
            let from_ms = START + from * HOUR;
            assert_eq!(calendar.passed(from_ms, now), hours * HOUR, "{from}");
        }
        for (span, from) in [(0, 10), (1, 9), (3, 0), (4, -1)] {
            assert_eq!(calendar.before(now, span * HOUR), START + from * HOUR, "{span}");
        }
        for (from, span, to) in [(0, 1, 1), (0, 2, 4), (0, 3, 10), (3, 0, 3), (3, 3, 11), (9, 2, 11)] {
            assert_eq!(calendar.after(START + from * HOUR, span * HOUR), START + to * HOUR, "{from} {span}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_old_either() {
        let calendar = set_twice();
        // Less than an hour: it stays ahead.
        let at = 1_000 + 3 * HOUR as u64;
        assert_eq!(calendar.follow(at, START + 10 * HOUR - CLOCK_BACK_LIMIT_MS + 1), None);
        assert_eq!(calendar.follow(at, START + 4 * HOUR), Some(-6 * HOUR));
        assert_eq!(calendar.known().len(), 3);
        let now = calendar.wall_at(at + HOUR as u64);
        assert_eq!(now, START + 5 * HOUR);
        // What was written at nine is an hour old, and now one more; so is what was written at four, of either time.
        for (from, hours) in [(0, 4), (1, 3), (3, 3), (4, 1), (5, 0), (9, -4)] {
            assert_eq!(calendar.passed(START + from * HOUR, now), hours * HOUR, "{from}");
        }
        // Nothing that is younger lies before it.
        for (span, from) in [(0, 5), (1, 4), (2, 4), (3, 3), (4, 0), (5, -1)] {
            assert_eq!(calendar.before(now, span * HOUR), START + from * HOUR, "{span}");
        }
        assert_eq!(calendar.after(START, 4 * HOUR), now);
    }

    #[test]
    fn a_mistake_that_is_put_right_changes_nothing_of_before() {
        // Back by a day, and forward again five minutes later.
        let calendar = Calendar::new(START, 0, Vec::new());
        calendar.follow(0, START - 24 * HOUR).unwrap();
        calendar.follow(300_000, START + 300_000).unwrap();
        let now = START + HOUR;
        for from in [-40, -30, -10, 0] {
            assert_eq!(calendar.passed(START + from * HOUR, now), (1 - from) * HOUR, "{from}");
        }
        // Two years and two hours forward, where two years were meant.
        const YEAR: i64 = 365 * 24 * HOUR;
        let calendar = Calendar::new(START, 0, Vec::new());
        calendar.follow(0, START + 2 * YEAR + 2 * HOUR).unwrap();
        calendar.follow(300_000, START + 2 * YEAR + 300_000).unwrap();
        assert_eq!(calendar.passed(START, START + 2 * YEAR + HOUR), HOUR);
        // The clock of a machine that boots was not set yet: what was written before that is as old as it looks.
        let calendar = Calendar::new(0, 0, Vec::new());
        calendar.follow(60_000, START).unwrap();
        assert_eq!(calendar.passed(START - 10 * HOUR, START + HOUR), 11 * HOUR);
        assert_eq!(calendar.passed(30_000, START + HOUR), HOUR + 30_000);
        // Of an earlier boot with such a clock: how long ago that was is not known, and at least it is not 56 years.
        assert!(calendar.passed(3 * HOUR, START + HOUR) <= HOUR);
        // A step of before such a boot still counts for what was written before it.
        let frozen = ClockStep { at_ms: START - 30 * HOUR, by_ms: 10 * HOUR };
        let calendar = Calendar::new(0, 0, vec![frozen]);
        calendar.follow(60_000, START).unwrap();
        assert_eq!(calendar.passed(START - 31 * HOUR, START + HOUR), 22 * HOUR);
    }

    #[test]
    fn a_clock_that_is_set_all_the_time_is_bounded() {
        let calendar = Calendar::new(START, 0, Vec::new());
        (1..100).for_each(|n| assert_eq!(calendar.follow(0, START + n * HOUR), Some(HOUR)));
        let steps = calendar.known();
        assert_eq!(steps.len(), CLOCK_STEPS_LIMIT);
        assert_eq!(steps.last().unwrap().at_ms, START + 98 * HOUR);
    }

    #[test]
    fn what_cannot_have_been_says_nothing() {
        let unknown = Calendar::new(START, 0, Vec::new());
        assert_eq!(unknown.plausible(5_000, START + 1), START);
        assert_eq!(unknown.plausible(START + 2, START + 1), START + 1);
        assert_eq!(unknown.plausible(START - HOUR, START + 1), START - HOUR);
        // A minute after the epoch the clock was set.
        let step = ClockStep { at_ms: 60_000, by_ms: START - HOUR - 60_000 };
        let known = Calendar::new(START, 0, vec![step]);
        assert_eq!(known.plausible(5_000, START + 1), 5_000);
        assert_eq!(known.passed(5_000, START), HOUR + 55_000);
        let still_unset = Calendar::new(60_000, 0, Vec::new());
        assert_eq!(still_unset.plausible(5_000, 60_001), 5_000);
    }
}
