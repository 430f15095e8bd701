//! A job as it is on disk, and in memory where that knows better.

use crate::job::{Answer, JobId, JobName, JobView, Tag};
use crate::shared::Shared;
use std::sync::Arc;
use store::journal::{Change, JobRow, ReadError};
use tokio::sync::oneshot;

impl Shared {
    /// A job and its answer as they are on disk, and in memory where that knows better.
    pub(crate) fn look(&self, id: JobId) -> Result<Option<(JobView, Option<Answer>)>, ReadError> {
        let Some(row) = self.journal.job(id)? else { return Ok(None) };
        let answer = if row.state.is_pending() { None } else { self.stored_answer(id)? };
        if !row.state.is_pending() && answer.is_none() && self.journal.job(id)?.is_none() {
            // Forgotten between the two looks.
            return Ok(None);
        }
        Ok(Some((self.view(&row), answer)))
    }

    /// The stored answer of a job. One that this program cannot read is none.
    pub(crate) fn stored_answer(&self, id: JobId) -> Result<Option<Answer>, ReadError> {
        let Some(record) = self.journal.response(id)? else { return Ok(None) };
        match Answer::decode(record) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                tracing::error!(job = id.0, %error, "a stored answer cannot be read");
                Ok(None)
            }
        }
    }

    /// A row as it is shown. What is under way is known in memory only.
    pub(crate) fn view(&self, row: &JobRow) -> JobView {
        let state = if row.state.is_pending() { self.lock().book.state(row.id.0) } else { row.state };
        JobView {
            name: JobName { id: row.id, tag: Tag(row.tag) },
            state,
            route: row.route.clone(),
            created_ms: row.created_ms,
            due_ms: row.due_ms,
            finished_ms: row.outcome_ms,
            attempts: row.attempts,
        }
    }

    /// Returns once what was handed to the journal before is on disk, or cannot be. Cancel-safe.
    pub(crate) async fn settled(&self) {
        let (done, settled) = oneshot::channel();
        // The writer does one after the other; nothing is the last of it, and lets nothing wait.
        self.journal.update(Change::Several(Vec::new()), move |_| {
            // Nobody may wait any longer.
            let _ = done.send(());
        });
        // An error says that the writer has ended: there is nothing left to wait for.
        let _ = settled.await;
    }

    /// Reads from disk on a thread that may block.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let shared = self.clone();
        let work = tokio::task::spawn_blocking(move || work(&shared));
        work.await.expect("reading neither panics nor is it cancelled")
    }
}
