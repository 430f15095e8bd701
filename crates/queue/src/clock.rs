//! The time of a queue, which a test can move by hand.

use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// A moment of a queue's own time, in milliseconds since it was opened. It never goes back: whatever waits in
/// memory waits by it, and only what is written down is told by the clock on the wall.
pub type Moment = u64;

/// How long is slept at once: timers do not count while the machine is suspended, and it is looked again after that.
const SLEEP_LIMIT: Duration = Duration::from_secs(10);

/// Where a queue has its time from. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    /// Since when the machine runs, suspended or not.
    System {
        start: Duration,
    },
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    moment: AtomicU64,
    wall: AtomicI64,
    moved: Notify,
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self(Source::System { start: since_boot() })
    }

    /// A clock that stands still until it is moved, for tests. On the wall it is `wall_ms`, in Unix milliseconds.
    pub fn manual(wall_ms: i64) -> Self {
        let manual =
            Manual { moment: AtomicU64::new(0), wall: AtomicI64::new(wall_ms), moved: Notify::new() };
        Self(Source::Manual(Arc::new(manual)))
    }

    /// Moves a manual clock on; that of the machine moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            let by = whole_ms(by);
            manual.moment.fetch_add(by, Ordering::SeqCst);
            manual.wall.fetch_add(by as i64, Ordering::SeqCst);
            manual.moved.notify_waiters();
        }
    }

    /// Turns a manual clock's hands on the wall, and nothing else: what happens to a machine whose clock is set.
    pub fn set_wall(&self, wall_ms: i64) {
        if let Source::Manual(manual) = &self.0 {
            manual.wall.store(wall_ms, Ordering::SeqCst);
        }
    }

    /// Now, for what waits in memory.
    pub fn now(&self) -> Moment {
        match &self.0 {
            Source::System { start } => whole_ms(since_boot().saturating_sub(*start)),
            Source::Manual(manual) => manual.moment.load(Ordering::SeqCst),
        }
    }

    /// Now on the wall, in Unix milliseconds, for what is written down.
    pub fn wall_ms(&self) -> i64 {
        match &self.0 {
            Source::System { .. } => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| whole_ms(since) as i64)
            }
            Source::Manual(manual) => manual.wall.load(Ordering::SeqCst),
        }
    }

    /// Returns once it is `until`. Cancel-safe.
    pub async fn sleep_until(&self, until: Moment) {
        match &self.0 {
            Source::System { .. } => {
                while let Some(left) = until.checked_sub(self.now()).filter(|left| *left > 0) {
                    tokio::time::sleep(Duration::from_millis(left).min(SLEEP_LIMIT)).await;
                }
            }
            Source::Manual(manual) => loop {
                let moved = manual.moved.notified();
                if self.now() >= until {
                    return;
                }
                moved.await;
            },
        }
    }
}

/// How long the machine runs. While it is suspended a job becomes due, and its answer older: `Instant` would not know.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    // Neither is negative for this clock.
    Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32)
}

/// `time` in milliseconds, cut; more than fits is the most that fits.
pub(crate) fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
