//! A waker for what one task drives inside its own poll.
//!
//! Both ends of hyper's channels for an upstream connection are polled by the same task, one after the other, so
//! most wakes come from the task itself while it runs, about something it is going to look at anyway. Passed on to
//! the runtime each would cost another poll of everything: one for every request. They are remembered instead; what
//! is still outstanding when the poll ends is passed on then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// See the module.
pub(crate) struct Nudge {
    task: Waker,
    polling: AtomicBool,
    nudged: AtomicBool,
}

impl Nudge {
    /// For the task that `task` wakes.
    pub(crate) fn new(task: Waker) -> Arc<Self> {
        Arc::new(Self { task, polling: AtomicBool::new(false), nudged: AtomicBool::new(false) })
    }

    /// Whether it wakes the same task.
    pub(crate) fn is_for(&self, task: &Waker) -> bool {
        self.task.will_wake(task)
    }

    /// The task's poll begins.
    pub(crate) fn begin(&self) {
        self.polling.store(true, Ordering::SeqCst);
    }

    /// Everything that was nudged for is about to be looked at.
    pub(crate) fn attend(&self) {
        self.nudged.store(false, Ordering::Relaxed);
    }

    /// The task's poll ends.
    pub(crate) fn end(&self) {
        // In this order: a nudge from another thread sees that the poll has ended, or is seen here.
        self.polling.store(false, Ordering::SeqCst);
        if self.nudged.swap(false, Ordering::SeqCst) {
            self.task.wake_by_ref();
        }
    }

    /// Wakes the task, from outside its poll.
    pub(crate) fn wake_task(&self) {
        self.task.wake_by_ref();
    }
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.polling.load(Ordering::SeqCst) {
            self.nudged.store(true, Ordering::SeqCst);
            if self.polling.load(Ordering::SeqCst) {
                return;
            }
        }
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn nudges_from_inside_are_passed_on_at_the_end_unless_attended_to() {
        let counter = Arc::new(Counter::default());
        let count = || counter.0.load(Ordering::SeqCst);
        let nudge = Nudge::new(Waker::from(Arc::clone(&counter)));
        let waker = Waker::from(Arc::clone(&nudge));
        waker.wake_by_ref();
        assert_eq!(count(), 1, "outside a poll at once");
        nudge.begin();
        waker.wake_by_ref();
        nudge.attend();
        nudge.end();
        assert_eq!(count(), 1, "attended to");
        nudge.begin();
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(count(), 1);
        nudge.end();
        assert_eq!(count(), 2, "outstanding");
        nudge.begin();
        nudge.end();
        assert_eq!(count(), 2);
    }
}
