//! A worker's coarse clock: read by everything, moved by the worker's tick alone.

use crate::limits::TICK;
use std::cell::Cell;
use std::time::Duration;

/// Milliseconds of CLOCK_MONOTONIC as of the last tick.
#[derive(Debug)]
pub(crate) struct Clock(Cell<u64>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Cell::new(monotonic_ms()))
    }

    /// As of the last tick.
    pub(crate) fn now(&self) -> u64 {
        self.0.get()
    }

    /// A tick.
    pub(crate) fn advance(&self) {
        self.0.set(monotonic_ms());
    }

    /// The time that surely is not reached before `after` has passed: the clock may be a tick behind.
    pub(crate) fn deadline(&self, after: Duration) -> u64 {
        let after = after.saturating_add(TICK).as_millis();
        self.now().saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }
}

/// Milliseconds of CLOCK_MONOTONIC.
pub(crate) fn monotonic_ms() -> u64 {
    api::clock::monotonic_ns() / 1_000_000
}
