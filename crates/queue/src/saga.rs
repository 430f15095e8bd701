//! What a saga does next, from what is written down of its calls: one function for a saga that runs, and for one
//! that is found again after a crash.
//!
//! - Forward, in order, until every step is done, or one is refused.
//! - A refused step undoes those before it, from the last to the first; each of them has an undo, because a step
//!   without one is a pivot: once it is done, what follows is tried until it succeeds, and never refused.
//! - Whatever may have happened is resolved first, by the same key where the upstream honours it, otherwise by a
//!   probe or an operator: nothing is undone, and nothing done, while a call is in doubt.

use model::queue::Saga;
use serde::{Deserialize, Serialize};

/// What is known of one call: a step or its undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CallState {
    /// It was begun, and nothing is known of what came of it: it is under way, or was when the process ended.
    Begun,
    /// It has ended without effect, or may be repeated: it is to be made again.
    Again,
    /// It is done.
    Done,
    /// A step: it surely was not done, and will not be. An undo: it is used up, and the step stands.
    Refused,
    /// It may have happened, and must not be repeated before that is known.
    Unknown,
}

impl CallState {
    /// Its word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Again => "again",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// One call of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Its place among the steps.
    pub(crate) step: u16,
    /// Whether this is its undo.
    pub(crate) undo: bool,
}

/// What is written down of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) place: Place,
    pub(crate) state: CallState,
}

/// What a saga does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Makes this call.
    Call(Place),
    /// Finds out what came of this call, before anything else.
    Resolve(Place),
    /// Nothing: every step is done.
    Complete,
    /// Nothing: this step was refused, and all before it are undone.
    Undone(u16),
    /// Nothing by itself: this step could not be undone.
    Stuck(u16),
}

/// What follows from what is known. Of each call at most one thing is known; what is not known was not begun.
pub(crate) fn next(saga: &Saga, known: &[Known]) -> Action {
    let state = |step: usize, undo| {
        let place = Place { step: step as u16, undo };
        known.iter().find(|known| known.place == place).map(|known| known.state)
    };
    let mut refused = None;
    for (step, _) in saga.steps.iter().enumerate() {
        let place = Place { step: step as u16, undo: false };
        match state(step, false) {
            Some(CallState::Done) => {}
            None | Some(CallState::Again) => return Action::Call(place),
            Some(CallState::Begun) if saga.steps[step].idempotent => return Action::Call(place),
            Some(CallState::Begun | CallState::Unknown) => return Action::Resolve(place),
            Some(CallState::Refused) if is_past_pivot(saga, step) => return Action::Call(place),
            Some(CallState::Refused) => {
                refused = Some(step);
                break;
            }
        }
    }
    let Some(refused) = refused else { return Action::Complete };
    for step in (0..refused).rev() {
        let place = Place { step: step as u16, undo: true };
        match state(step, true) {
            Some(CallState::Done) => {}
            None | Some(CallState::Again) => return Action::Call(place),
            Some(CallState::Begun) if saga.steps[step].idempotent => return Action::Call(place),
            Some(CallState::Begun | CallState::Unknown) => return Action::Resolve(place),
            Some(CallState::Refused) => return Action::Stuck(place.step),
        }
    }
    Action::Undone(refused as u16)
}

/// Whether a step before `step` cannot be undone, so that there is no way back from `step`.
pub(crate) fn is_past_pivot(saga: &Saga, step: usize) -> bool {
    saga.steps[..step].iter().any(|before| before.undo.is_none())
}

#[cfg(test)]
mod tests;
