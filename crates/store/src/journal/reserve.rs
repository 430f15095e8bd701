//! Room on the disk that is kept for outcomes: what was accepted has to be recordable to its end.

use crate::commit::WriteError;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old a look at the disk may be.
pub const SAMPLE_AGE: Duration = Duration::from_millis(100);
/// What part of the reserve may be accepted after one look at the disk.
const SAMPLE_PART: u64 = 16;

/// Looks at the disk now and then.
#[derive(Debug)]
pub(super) struct Reserve {
    folder: PathBuf,
    reserve: u64,
    sample: Mutex<Option<Sample>>,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    free: u64,
    /// Accepted since.
    taken: u64,
}

impl Reserve {
    pub(super) fn new(path: &Path, reserve: u64) -> Self {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        Self { folder, reserve, sample: Mutex::new(None) }
    }

    /// Refuses what would go into the reserve.
    pub(super) fn take(&self, bytes: u64) -> Result<(), WriteError> {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = sample.take().filter(|sample| {
            now.duration_since(sample.at) < SAMPLE_AGE && sample.taken < self.reserve / SAMPLE_PART
        });
        let current = sample.insert(match fresh {
            Some(fresh) => fresh,
            None => Sample { at: now, free: self.free(), taken: 0 },
        });
        current.taken = current.taken.saturating_add(bytes);
        let free = current.free.saturating_sub(current.taken);
        if free < self.reserve {
            return Err(WriteError::Reserve { free, reserve: self.reserve });
        }
        Ok(())
    }

    /// Whether so much can be written without going into the reserve.
    pub(super) fn has(&self, bytes: u64) -> bool {
        self.free() >= self.reserve.saturating_add(bytes)
    }

    /// Bytes that this user may still write. A file system that does not say is taken to have room: the writes
    /// themselves will tell.
    fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.folder)
            .map_or(u64::MAX, |found| found.f_bavail.saturating_mul(found.f_frsize))
    }
}
