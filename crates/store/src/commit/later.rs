//! Writes that may wait: they are written with others, or by themselves once they have waited for long enough.

use super::batch::Job;
use super::{BATCH_BYTES_LIMIT, BATCH_LIMIT, PATIENCE};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// They wait here, apart from those that begin a batch, so that the writer's thread is woken once for many.
#[derive(Default)]
pub(super) struct Later(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    jobs: Vec<Box<dyn Job>>,
    bytes: usize,
    /// Since when the first of them waits.
    since: Option<Instant>,
    closed: bool,
}

impl Later {
    /// Lets a job wait. True: it is the first, and the thread does not know yet that there will be something to do.
    /// An error: it cannot wait, because there are as many as one batch may have, or because the thread ends.
    pub(super) fn put(&self, job: Box<dyn Job>) -> Result<bool, Box<dyn Job>> {
        let mut waiting = self.lock();
        if waiting.closed || waiting.jobs.len() >= BATCH_LIMIT || waiting.bytes >= BATCH_BYTES_LIMIT {
            return Err(job);
        }
        waiting.bytes += job.bytes();
        waiting.jobs.push(job);
        let is_first = waiting.since.is_none();
        if is_first {
            waiting.since = Some(Instant::now());
        }
        Ok(is_first)
    }

    /// When they are to be written by themselves.
    pub(super) fn due(&self) -> Option<Instant> {
        self.lock().since.map(|since| since + PATIENCE)
    }

    /// All of them, if they have waited for long enough to share the commit of whatever comes: half of the time after
    /// which they are written by themselves. Sooner they would only make that commit longer.
    pub(super) fn for_company(&self) -> Vec<Box<dyn Job>> {
        let mut waiting = self.lock();
        if waiting.since.is_some_and(|since| since.elapsed() >= PATIENCE / 2) {
            waiting.take()
        } else {
            Vec::new()
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Box<dyn Job>> {
        self.lock().take()
    }

    /// All of them, the last ones: none waits here any longer.
    pub(super) fn close(&self) -> Vec<Box<dyn Job>> {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.take()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self) -> Vec<Box<dyn Job>> {
        (self.bytes, self.since) = (0, None);
        std::mem::take(&mut self.jobs)
    }
}
