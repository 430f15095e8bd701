//! Waits for planned instants to some tens of microseconds.
//!
//! The runtime's own timer rounds up to the next millisecond. Latencies count from the planned instant, so
//! that would add up to a millisecond to each. A thread that sleeps until the next instant does not, and
//! unlike spinning it takes no processor time from what is tested.

use crate::plan::Plan;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::Notify;

/// Wakes its owner at every planned instant. Dropping it ends its thread.
pub(crate) struct Pacer {
    shared: Arc<Shared>,
    /// None when the machine gave no thread: then the runtime's timer serves, and the lag shows it.
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    due: Notify,
    /// Whether the thread is to end.
    quit: Mutex<bool>,
    told: Condvar,
}

impl Pacer {
    /// Paces a run of `plan` that began at `begun`.
    pub(crate) fn start(plan: Plan, begun: Instant) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("pacer".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.pace(plan, begun)
        });
        Self { shared, thread: thread.ok() }
    }

    /// Waits until `at`, which is one of the planned instants; returns at once when that is over.
    /// Cancel-safe.
    pub(crate) async fn due(&self, at: Instant) {
        while Instant::now() < at {
            match self.thread {
                // A wake-up may be of an instant before; the next one comes in time.
                Some(_) => self.shared.due.notified().await,
                None => tokio::time::sleep_until(at.into()).await,
            }
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        *self.shared.quit.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.told.notify_one();
        if let Some(thread) = self.thread.take() {
            // It ends without waiting for anything; that it panicked would have been said by itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn pace(&self, plan: Plan, begun: Instant) {
        let mut quit = self.quit.lock().unwrap_or_else(PoisonError::into_inner);
        for offset in (0..).map_while(|n| plan.at(n)) {
            let at = begun + offset;
            loop {
                if *quit {
                    return;
                }
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let waited = self.told.wait_timeout(quit, left);
                quit = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            self.due.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn it_is_never_early_and_misses_none_even_when_dropped_half_way() {
        let plan = Plan::constant(5_000.0, Duration::from_millis(100)).unwrap();
        let begun = Instant::now();
        let pacer = Pacer::start(plan, begun);
        for offset in (0..).map_while(|n| plan.at(n)) {
            // Dropped at its first wait, then taken up again.
            tokio::select! {
                biased;
                () = pacer.due(begun + offset) => {}
                () = std::future::ready(()) => {}
            }
            let due = pacer.due(begun + offset);
            tokio::time::timeout(Duration::from_secs(10), due).await.expect("every instant is announced");
            assert!(Instant::now() >= begun + offset);
        }
    }

    #[test]
    fn dropping_it_does_not_wait_for_the_next_instant() {
        let plan = Plan::constant(0.001, Duration::from_secs(3600)).unwrap();
        let begun = Instant::now();
        let pacer = Pacer::start(plan, begun);
        drop(pacer);
        assert!(begun.elapsed() < Duration::from_secs(1000), "the next instant is 1000 seconds away");
    }
}
