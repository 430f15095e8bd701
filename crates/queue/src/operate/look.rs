//! What operators look at: jobs one by one, and those that an operation would touch.

use super::Deed;
use crate::codec::StoredStep;
use crate::job::{JobId, JobView, state_name};
use crate::operation::{JobHistory, OperationError, Plan, Selection, StepView};
use crate::shared::Shared;
use std::sync::Arc;
use store::journal::{Filter, JobRow};

/// Rows that are read at once.
const PAGE: u32 = 1_000;
/// Jobs that a plan shows.
const PLAN_SHOWN: usize = 10;

impl Shared {
    pub(crate) async fn plan(self: &Arc<Self>, which: Selection, verb: Verb) -> Result<Plan, OperationError> {
        let deed = verb.deed();
        self.read(move |shared| {
            let mut plan = Plan::default();
            shared.each_page(&which, &deed, |rows| {
                for row in rows {
                    let state = state_name(row.state);
                    *plan.jobs.entry((row.route.to_string(), state)).or_default() += 1;
                    if plan.first.len() < PLAN_SHOWN {
                        plan.first.push(shared.view(&row));
                    }
                }
                Ok(())
            })?;
            Ok(plan)
        })
        .await
    }

    /// Everything that is kept of a job.
    pub(crate) fn history(&self, id: JobId) -> Result<JobHistory, OperationError> {
        let row = self.journal.job(id)?.ok_or(OperationError::NoSuchJob(id))?;
        let request = self.stored(id)?;
        let mut steps = Vec::new();
        for record in self.journal.steps(id)? {
            let name = request.saga.as_ref().and_then(|saga| saga.steps.get(usize::from(record.step)));
            let name = name.map_or_else(|| format!("step {}", record.step), |step| step.name.clone());
            let stored = StoredStep::decode(record.record)
                .map_err(|error| OperationError::Malformed(format!("job {id}, step `{name}`: {error}")))?;
            let StoredStep { head, answer } = stored;
            let (state, attempts, why) = (head.state.name(), head.attempts, head.why);
            steps.push(StepView {
                name,
                undo: record.undo,
                at_ms: record.at_ms,
                state,
                attempts,
                answer,
                why,
            });
        }
        let answer = self.stored_answer(id)?;
        let attempts = self.journal.attempts(id)?;
        Ok(JobHistory {
            job: self.view(&row),
            key: request.head.given.then_some(request.head.key),
            method: request.head.method,
            path_and_query: request.head.target,
            fields: request.fields,
            body: request.body,
            answer,
            attempts,
            steps,
        })
    }

    pub(crate) fn list(
        &self,
        filter: &Filter,
        after: JobId,
        limit: u32,
    ) -> Result<Vec<JobView>, OperationError> {
        let rows = self.journal.list(filter, after, limit)?;
        Ok(rows.iter().map(|row| self.view(row)).collect())
    }

    /// Hands over the rows of a selection to which a deed can be done, a page at a time.
    pub(super) fn each_page(
        &self,
        which: &Selection,
        deed: &Deed,
        mut page: impl FnMut(Vec<JobRow>) -> Result<(), OperationError>,
    ) -> Result<(), OperationError> {
        let ids = match which {
            Selection::Jobs(ids) => ids.clone(),
            Selection::Key(key) => self.lock().keys.with_key(crate::fingerprint::key_alone(key)),
            Selection::Fitting(filter) => return self.each_fitting(filter, deed, page),
        };
        let one = ids.len() == 1;
        for ids in ids.chunks(PAGE as usize) {
            let mut rows = Vec::new();
            for id in ids {
                match self.journal.job(*id)? {
                    Some(row) if deed.fits(row.state) => rows.push(row),
                    Some(row) if one => return Err(wrong_state(&row, deed)),
                    None if one => return Err(OperationError::NoSuchJob(*id)),
                    Some(_) | None => {}
                }
            }
            if !rows.is_empty() {
                page(rows)?;
            }
        }
        Ok(())
    }

    fn each_fitting(
        &self,
        filter: &Filter,
        deed: &Deed,
        mut page: impl FnMut(Vec<JobRow>) -> Result<(), OperationError>,
    ) -> Result<(), OperationError> {
        let mut filter = filter.clone();
        let possible = deed.states();
        filter.states = match filter.states.is_empty() {
            true => possible,
            false => filter.states.into_iter().filter(|state| deed.fits(*state)).collect(),
        };
        if filter.states.is_empty() {
            return Ok(());
        }
        let mut after = JobId(0);
        loop {
            let rows = self.journal.list(&filter, after, PAGE)?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.id;
            page(rows)?;
        }
    }
}

/// What can be planned.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verb {
    Retry,
    Drop,
}

impl Verb {
    fn deed(self) -> Deed {
        match self {
            Self::Retry => Deed::Retry,
            Self::Drop => Deed::Drop,
        }
    }
}

fn wrong_state(row: &JobRow, deed: &Deed) -> OperationError {
    let (what, possible) = deed.terms();
    OperationError::WrongState { id: row.id, state: row.state, possible, what }
}
