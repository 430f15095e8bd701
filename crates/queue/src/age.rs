//! How old a job is, by the time that has passed since it was due.

use crate::book::{Entry, PROBE};
use crate::codec::StoredRequest;
use crate::deliver::{Job, Unloadable};
use crate::job::JobState;
use crate::shared::{Shared, job_id, span_ms};
use std::time::Duration;
use store::journal::{JobRow, Journal, ReadError};

impl Shared {
    /// Whether a job may be called for no longer.
    pub(crate) fn is_too_old(&self, job: &Job) -> bool {
        self.is_over(job.request.settings.max_age, job.from_ms, self.wall_ms())
    }

    /// Whether more than `most` has passed since `from_ms` at `at_ms`, both on the wall.
    pub(crate) fn is_over(&self, most: Duration, from_ms: i64, at_ms: i64) -> bool {
        self.calendar.passed(from_ms, at_ms) > span_ms(most)
    }

    /// The attempts of a job and from when its age counts, as they are on disk.
    pub(crate) fn recorded(&self, entry: Entry, request: &StoredRequest) -> Result<(u32, i64), Unloadable> {
        let id = job_id(&entry);
        let row = self.journal.job(id)?.filter(|row| row.state.is_pending()).ok_or(Unloadable::Gone)?;
        if row.state == JobState::Unknown && !entry.has(PROBE) {
            return Err(Unloadable::InDoubt(row.attempts));
        }
        if row.attempts == 0 {
            return Ok((0, self.due_since(&row, request)?));
        }
        let attempts = self.journal.attempts(id)?;
        let released = attempts.iter().rev().find(|attempt| attempt.number == 0);
        let from_ms = self.first_due(&row, request)?;
        Ok((row.attempts, self.plausible(released.map_or(from_ms, |at| at.ended_ms.max(from_ms)))))
    }

    /// Since when a job is due that was never attempted, or was released by an operator.
    pub(crate) fn due_since(&self, row: &JobRow, request: &StoredRequest) -> Result<i64, ReadError> {
        let from_ms = self.first_due(row, request)?;
        // What was released since is due since then.
        let is_first = row.due_ms == request.head.from_ms;
        Ok(self.plausible(if is_first { from_ms } else { row.due_ms.max(from_ms) }))
    }

    /// When a job was due at first. It may have been put off by a clock that was set since.
    fn first_due(&self, row: &JobRow, request: &StoredRequest) -> Result<i64, ReadError> {
        let from_ms = request.head.from_ms;
        if !self.calendar.was_set() {
            return Ok(from_ms);
        }
        let written_ms = written_ms(&self.journal, row, from_ms)?;
        Ok(self.calendar.after(written_ms, from_ms.saturating_sub(written_ms)))
    }

    /// A time on the wall from which the age of a job that is due counts, as it can have been.
    fn plausible(&self, from_ms: i64) -> i64 {
        self.calendar.plausible(from_ms, self.wall_ms())
    }
}

/// When it was written down here that a job is due at `due_ms`: when it came, or was imported, which is a time of
/// another machine's clock before that.
pub(crate) fn written_ms(journal: &Journal, row: &JobRow, due_ms: i64) -> Result<i64, ReadError> {
    let attempts = journal.attempts(row.id)?;
    let imported = attempts.iter().rev().find(|attempt| attempt.number == 0 && attempt.ended_ms <= due_ms);
    Ok(imported.map_or(row.created_ms, |attempt| attempt.ended_ms))
}
