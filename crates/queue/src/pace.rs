//! How fast an upstream is called: how many calls at once, whether any at all, and how long a job pauses.
//!
//! Additive increase, multiplicative decrease (RFC 5681, 3.1, with calls for segments): after an outage one call is
//! made, then two, four and so on up to half of what was allowed before, then one more for each round. The breaker
//! opens when [`FAILING_JOBS`] different jobs have failed in a row: one job that always fails is that job's matter
//! and holds up nobody.

use crate::clock::{Moment, whole_ms};
use crate::operation::Breaker;
use std::time::Duration;

/// Different jobs that fail in a row before calls stop.
pub(crate) const FAILING_JOBS: usize = 5;
/// The first pause between attempts, of which a share is drawn.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest an open breaker waits before it tries one call: that costs an upstream little, and a backlog each
/// second.
pub(crate) const LONGEST_OPEN: Duration = Duration::from_secs(5);

/// A pause that doubles with each attempt and of which any share may be drawn ("full jitter"), so that what failed
/// together is not sent together again. `attempt` counts from 1; `draw` is any number.
pub(crate) fn pause(attempt: u32, longest: Duration, draw: u64) -> Duration {
    let doubled =
        FIRST_PAUSE.saturating_mul(1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
    let most = whole_ms(doubled.min(longest));
    Duration::from_millis(((u128::from(most + 1) * u128::from(draw)) >> 64) as u64)
}

/// What the end of a call says of its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It works.
    Well,
    /// It works, and has too much to do.
    Strained,
    /// It does not work.
    Failing,
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Now.
    Yes,
    /// One may be tried now, to see whether the upstream works again.
    Trial,
    /// Once a call has ended.
    Full,
    /// Not before this.
    NotBefore(Moment),
}

/// A call that was begun; [`Pace::end`] wants it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begun {
    number: u64,
    /// Whether it was begun to see whether the upstream works.
    pub(crate) trial: bool,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Moment },
    Trying,
}

/// The pace of one upstream.
#[derive(Debug)]
pub(crate) struct Pace {
    most: u32,
    /// How many calls may be under way; grows by shares of one.
    allowed: f64,
    /// Up to where it grows by one for each success.
    threshold: f64,
    in_flight: u32,
    state: State,
    /// The jobs that failed since one did not, each once.
    failing: Vec<u64>,
    /// How often the breaker has opened since it closed.
    opened: u32,
    begun: u64,
    /// Calls begun up to this one say nothing new about a strain that was reacted to.
    reacted: u64,
}

impl Pace {
    /// An upstream of which nothing is known: it gets all that is allowed.
    pub(crate) fn new(most: u32) -> Self {
        let most = most.max(1);
        Self {
            most,
            allowed: f64::from(most),
            threshold: f64::from(most),
            in_flight: 0,
            state: State::Closed,
            failing: Vec::new(),
            opened: 0,
            begun: 0,
            reacted: 0,
        }
    }

    /// Another limit from now on.
    pub(crate) fn set_most(&mut self, most: u32) {
        let most = most.max(1);
        if self.allowed >= f64::from(self.most) {
            self.allowed = f64::from(most);
        }
        self.most = most;
        self.allowed = self.allowed.min(f64::from(most));
        self.threshold = self.threshold.min(f64::from(most));
    }

    pub(crate) fn may_call(&self, now: Moment) -> Permission {
        match self.state {
            State::Open { until } if now < until => Permission::NotBefore(until),
            // Those from before may still be under way: the trial does not wait for them.
            State::Open { .. } => Permission::Trial,
            State::Trying => Permission::Full,
            State::Closed if f64::from(self.in_flight) + 1.0 <= self.allowed.max(1.0) => Permission::Yes,
            State::Closed => Permission::Full,
        }
    }

    /// A call begins that [`may_call`](Self::may_call) has permitted.
    pub(crate) fn begin(&mut self, now: Moment) -> Begun {
        let trial = self.may_call(now) == Permission::Trial;
        if trial {
            self.state = State::Trying;
        }
        self.in_flight += 1;
        self.begun += 1;
        Begun { number: self.begun, trial }
    }

    /// A call that was begun is not made after all.
    pub(crate) fn undo(&mut self, begun: Begun, now: Moment) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if begun.trial {
            self.state = State::Open { until: now };
        }
    }

    /// A call has ended. Whether the breaker closes with it: then what waited because of it may be tried at once.
    pub(crate) fn end(&mut self, begun: Begun, job: u64, sign: Sign, now: Moment, draw: u64) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let was_open = self.is_failing();
        match sign {
            Sign::Well => self.well(),
            Sign::Strained => self.strained(begun),
            Sign::Failing => {
                self.strained(begun);
                self.failed(begun, job, now, draw);
            }
        }
        if sign != Sign::Failing && (begun.trial || !was_open) {
            self.failing.clear();
        }
        if was_open && begun.trial && sign != Sign::Failing {
            self.close();
            return true;
        }
        false
    }

    /// Whether the upstream as a whole is taken not to work: no job is to blame for that.
    pub(crate) fn is_failing(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.opened = 0;
        self.allowed = 1.0;
        self.threshold = (f64::from(self.most) / 2.0).max(1.0);
    }

    fn well(&mut self) {
        let step = if self.allowed < self.threshold { 1.0 } else { 1.0 / self.allowed.floor() };
        self.allowed = (self.allowed + step).min(f64::from(self.most));
    }

    /// Halves what is allowed, once for all calls that were under way together.
    fn strained(&mut self, begun: Begun) {
        if begun.number > self.reacted {
            self.reacted = self.begun;
            self.allowed = (self.allowed / 2.0).max(1.0);
            self.threshold = self.allowed;
        }
    }

    fn failed(&mut self, begun: Begun, job: u64, now: Moment, draw: u64) {
        let open = match self.state {
            State::Closed => {
                if !self.failing.contains(&job) {
                    self.failing.push(job);
                }
                self.failing.len() >= FAILING_JOBS
            }
            State::Open { .. } | State::Trying => begun.trial,
        };
        if open {
            self.opened = self.opened.saturating_add(1);
            let pause = pause(self.opened, LONGEST_OPEN, draw);
            self.state = State::Open { until: now.saturating_add(whole_ms(pause).max(1)) };
            self.failing.clear();
        }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// How many calls may be under way now.
    pub(crate) fn allowed(&self) -> u32 {
        match self.state {
            State::Closed => self.allowed.max(1.0) as u32,
            State::Open { .. } => 0,
            State::Trying => 1,
        }
    }

    pub(crate) fn breaker(&self) -> Breaker {
        match self.state {
            State::Closed => Breaker::Closed,
            State::Open { .. } => Breaker::Open,
            State::Trying => Breaker::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests;
