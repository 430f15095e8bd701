//! What stands until somebody deals with it: dead and rejected jobs, and sagas that are half undone.
//!
//! Counted once when the queue is opened, and kept in step with every job from then on: counting what has ended on disk
//! takes longer the more of it there is. Jobs of previews are left out: what became of them is seen by whoever made
//! them.

use crate::codec::{StoredRequest, StoredStep};
use crate::job::{JobId, JobState};
use crate::operation::HeldJobs;
use crate::saga::{Action, Known, Place, next};
use model::queue::Saga;
use std::collections::HashSet;
use store::journal::{JobRow, Journal, ReadError, StepRecord};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Held {
    dead: u64,
    rejected: u64,
    /// The dead ones among them whose sagas are half undone.
    stuck: HashSet<u64>,
}

impl Held {
    /// A job has come to this state, or is found in it. `is_stuck`: its saga is half undone.
    pub(crate) fn add(&mut self, id: JobId, state: JobState, is_users: bool, is_stuck: bool) {
        if !is_users {
            return;
        }
        if let Some(count) = self.count(state) {
            *count += 1;
        }
        if state == JobState::Dead && is_stuck {
            self.stuck.insert(id.0);
        }
    }

    /// A job that stood like this is in this state no longer, or is forgotten.
    pub(crate) fn remove(&mut self, row: &JobRow) {
        if let Some(count) = self.count(row.state).filter(|_| !row.preview) {
            *count = count.saturating_sub(1);
        }
        self.stuck.remove(&row.id.0);
    }

    /// How many stand in this state. None: it needs nobody to deal with it.
    fn count(&mut self, state: JobState) -> Option<&mut u64> {
        match state {
            JobState::Dead => Some(&mut self.dead),
            JobState::Rejected => Some(&mut self.rejected),
            JobState::Waiting
            | JobState::Dispatching
            | JobState::Done
            | JobState::Unknown
            | JobState::Cancelled
            | JobState::Dropped => None,
        }
    }

    pub(crate) fn now(&self) -> HeldJobs {
        HeldJobs { dead: self.dead, rejected: self.rejected, stuck_sagas: self.stuck.len() as u64 }
    }
}

/// The dead jobs whose sagas are half undone.
pub(crate) fn stuck(journal: &Journal) -> Result<HashSet<JobId>, ReadError> {
    let mut stuck = HashSet::new();
    // Most have no undo, and are not looked at further.
    for id in journal.dead_with_undo()? {
        if is_stuck_on_disk(journal, id) {
            stuck.insert(id);
        }
    }
    Ok(stuck)
}

/// Whether a step of the saga of this dead job could not be undone. One that has begun to be undone and cannot be read
/// counts: nobody goes on with it.
pub(crate) fn is_stuck_on_disk(journal: &Journal, id: JobId) -> bool {
    let Ok(steps) = journal.steps(id) else { return true };
    if !steps.iter().any(|step| step.undo) {
        return false;
    }
    let request = journal.request(id).ok().flatten();
    match request.and_then(|record| StoredRequest::decode(record).ok()) {
        Some(StoredRequest { saga: Some(saga), head, .. }) => is_stuck(&saga, &steps, head.generation),
        Some(StoredRequest { saga: None, .. }) | None => true,
    }
}

/// Whether a step could not be undone, by what is recorded of them.
pub(crate) fn is_stuck(saga: &Saga, steps: &[StepRecord], generation: u32) -> bool {
    let known = known_of(steps, generation);
    let known: Vec<Known> =
        known.iter().map(|(place, step)| Known { place: *place, state: step.head.state }).collect();
    match next(saga, &known) {
        Action::Stuck(_) => true,
        Action::Call(_) | Action::Resolve(_) | Action::Complete | Action::Undone(_) => false,
    }
}

/// What is recorded of a saga's present run.
pub(crate) fn known_of(steps: &[StepRecord], generation: u32) -> Vec<(Place, StoredStep)> {
    let read = |record: &StepRecord| {
        let place = Place { step: record.step, undo: record.undo };
        Some((place, StoredStep::decode(record.record.clone()).ok()?))
    };
    let all = steps.iter().filter_map(read);
    all.filter(|(_, step)| step.head.generation == generation).collect()
}
