//! The life of a release, as one pure function.
//!
//! ```text
//! planned → expanding → provisioning → verifying → warming → shifting(i) → switching → rehearsing → baking
//!    │          │            │             │          │           │            │           │         │
//!    └──────────┴─ aborting ─┴─────────────┴──────────┘           └────────────┴─ taking back ───────┤
//!                     │                                                             │                │
//!           refused / rolled back                                              rolled back           │
//!                                     done ← contracting ← retiring ← promoted(old kept) ←───────────┘
//! ```
//!
//! Which of these a release goes through is its [`Course`]. What an agent does on entering a state is a
//! function of that state ([`actions`]), so an agent that finds a recorded state at its start does just what
//! the one before it would have done: recovery is not a second path. Every action is idempotent. Which stamp
//! serves, with what weight, and whose workers run are functions of the state too.

mod conduct;
mod reason;

pub use conduct::{
    Action, Order, SCHEMA_SMOKE_LIMIT, Side, actions, deadline, falls_back, offers, order, runs, serving,
    stops, weight, workers,
};
pub use conduct::{DEADLINE_SLACK, RESOLVE_LIMIT, SMOKE_LIMIT, STORE_LIMIT, SWITCH_LIMIT, TOP_UP_LIMIT};
pub use reason::{Reason, ReasonKind};

use crate::workload::Configuration;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a release is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Asked for: its artifacts are being stored.
    Planned,
    /// The stores' `expand` hooks run, then the old stamp is smoked on the new schema.
    Expanding,
    /// The candidate's instances are starting.
    Provisioning,
    /// The candidate is reached through its preview door only, and smoked.
    Verifying,
    /// The candidate is played read flows, so that it is warm when users come.
    Warming,
    /// The candidate has some of the users; it is compared with the old stamp.
    Shifting {
        /// Which of the course's steps, from 0.
        step: u32,
    },
    /// The candidate is to serve everybody; the gateway is being told.
    Switching,
    /// The old stamp is to serve again, to show that it can.
    RehearsingBack,
    /// The candidate is to serve again after that.
    RehearsingForward,
    /// The candidate serves everybody and is still judged; the old stamp is ready to take over.
    Baking,
    /// The candidate serves, its workers run; the old stamp stays warm.
    Promoted,
    /// The old stamp serves again; the candidate drains and stops.
    TakingBack {
        /// Why.
        reason: Reason,
    },
    /// The old stamp drains and stops.
    Retiring,
    /// The stores' `contract` hooks run.
    Contracting,
    /// The candidate serves alone.
    Done,
    /// The candidate never served; it stops.
    Aborting {
        /// Why.
        reason: Reason,
        /// Whether requests could have reached the candidate through the preview door.
        offered: bool,
    },
    /// Ended before anything could reach the candidate.
    Refused {
        /// Why.
        reason: Reason,
    },
    /// Ended after the candidate was offered or served.
    RolledBack {
        /// Why.
        reason: Reason,
    },
}

/// What happens to a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The artifacts are stored and the release is hashed.
    Resolved,
    /// The hooks have run, and the old stamp works on the new schema.
    Expanded,
    /// Every instance of the candidate is ready.
    Ready,
    /// Smoke passed on every instance of the candidate.
    SmokePassed,
    /// The candidate is warm.
    Warmed,
    /// The candidate is no worse than it may be, as far as its step could tell.
    GatePassed,
    /// The gateway serves from the candidate.
    Switched,
    /// The gateway serves from the old stamp, for a rehearsal.
    Returned,
    /// The old stamp need not be kept any longer.
    KeepOldOver,
    /// The old stamp has drained and is gone.
    OldStopped,
    /// The hooks have run, or were given up.
    Contracted,
    /// The candidate is gone.
    CandidateStopped,
    /// What the state was doing did not work.
    Failed {
        /// What went wrong.
        reason: Reason,
    },
    /// An operator wants the old stamp back.
    RollbackAsked,
    /// The state lasted as long as it may.
    DeadlinePassed,
}

/// Which states a release goes through: a function of its configuration, and of whether there was an old stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// Whether a stamp served when the release began.
    pub has_old: bool,
    /// Whether a store has an `expand` hook.
    pub expands: bool,
    /// Whether a store has a `contract` hook.
    pub contracts: bool,
    /// Whether the candidate is warmed up.
    pub warms: bool,
    /// The candidate's weight in each step below 100 percent, 1 to 9999. Empty without an old stamp.
    pub weights: Vec<u16>,
    /// Whether the old stamp takes over once and gives back, to show that it can.
    pub rehearses: bool,
    /// Whether the candidate is judged while everybody is on it.
    pub bakes: bool,
}

impl Course {
    /// The course of a release with this configuration.
    pub fn of(configuration: &Configuration, has_old: bool, rehearse: bool) -> Self {
        let policy = &configuration.policy;
        let partial = policy.shift.iter().filter(|percent| has_old && (1..100).contains(*percent));
        Self {
            has_old,
            expands: configuration.expanding().next().is_some(),
            contracts: configuration.contracting().next().is_some(),
            warms: !policy.warm_up.is_zero(),
            weights: partial.map(|percent| u16::from(*percent) * 100).collect(),
            rehearses: has_old && rehearse,
            bakes: has_old && !policy.bake.is_zero(),
        }
    }

    fn after_verifying(&self) -> State {
        match self.warms {
            true => State::Warming,
            false => self.after_warming(),
        }
    }

    fn after_warming(&self) -> State {
        match self.weights.is_empty() {
            true => State::Switching,
            false => State::Shifting { step: 0 },
        }
    }

    fn after_step(&self, step: u32) -> State {
        match (step as usize + 1) < self.weights.len() {
            true => State::Shifting { step: step + 1 },
            false => State::Switching,
        }
    }

    fn after_switching(&self) -> State {
        match (self.has_old, self.rehearses) {
            (false, _) => self.after_retiring(),
            (true, true) => State::RehearsingBack,
            (true, false) => self.after_rehearsing(),
        }
    }

    fn after_rehearsing(&self) -> State {
        match self.bakes {
            true => State::Baking,
            false => State::Promoted,
        }
    }

    fn after_retiring(&self) -> State {
        match self.contracts {
            true => State::Contracting,
            false => State::Done,
        }
    }
}

/// An event that means nothing in the state it came in: late answers of actions, and commands at the wrong
/// time. The state stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a release that is {state} does not take `{event}`")]
pub struct NotPossible {
    /// The state it is in.
    pub state: &'static str,
    /// What came.
    pub event: &'static str,
}

/// The state after `event`, on `course`.
pub fn next(course: &Course, state: &State, event: &Event) -> Result<State, NotPossible> {
    match (state, event) {
        (State::Planned, Event::Resolved) if course.expands => Ok(State::Expanding),
        (State::Planned, Event::Resolved) | (State::Expanding, Event::Expanded) => Ok(State::Provisioning),
        (State::Provisioning, Event::Ready) => Ok(State::Verifying),
        (State::Verifying, Event::SmokePassed) => Ok(course.after_verifying()),
        (State::Warming, Event::Warmed) => Ok(course.after_warming()),
        (State::Shifting { step }, Event::GatePassed) => Ok(course.after_step(*step)),
        (State::Switching, Event::Switched) => Ok(course.after_switching()),
        (State::RehearsingBack, Event::Returned) => Ok(State::RehearsingForward),
        (State::RehearsingForward, Event::Switched) => Ok(course.after_rehearsing()),
        (State::Baking, Event::GatePassed) => Ok(State::Promoted),
        (State::Promoted, Event::KeepOldOver | Event::DeadlinePassed) => Ok(State::Retiring),
        (State::Retiring, Event::OldStopped) => Ok(course.after_retiring()),
        // Users are served, and the code runs on the schema as it is: a hook that failed takes nothing back.
        (State::Contracting, Event::Contracted | Event::Failed { .. }) => Ok(State::Done),

        (
            State::Planned | State::Expanding | State::Provisioning | State::Verifying | State::Warming,
            Event::Failed { .. } | Event::RollbackAsked | Event::DeadlinePassed,
        ) => Ok(State::Aborting { reason: cause(state, event), offered: offers(state) }),
        (
            State::Shifting { .. }
            | State::Switching
            | State::RehearsingBack
            | State::RehearsingForward
            | State::Baking,
            Event::Failed { .. } | Event::RollbackAsked | Event::DeadlinePassed,
        ) => Ok(match course.has_old {
            true => State::TakingBack { reason: cause(state, event) },
            false => State::Aborting { reason: cause(state, event), offered: true },
        }),
        (State::Promoted, Event::RollbackAsked) => Ok(State::TakingBack { reason: cause(state, event) }),
        (State::Aborting { reason, offered: false }, Event::CandidateStopped) => {
            Ok(State::Refused { reason: reason.clone() })
        }
        (
            State::Aborting { reason, offered: true } | State::TakingBack { reason },
            Event::CandidateStopped,
        ) => Ok(State::RolledBack { reason: reason.clone() }),

        // What only stops things is tried again for as long as it takes: there is nothing to fall back to.
        (
            State::Aborting { .. } | State::TakingBack { .. } | State::Retiring | State::Contracting,
            Event::DeadlinePassed,
        ) => Ok(state.clone()),

        (
            State::Planned
            | State::Expanding
            | State::Provisioning
            | State::Verifying
            | State::Warming
            | State::Shifting { .. }
            | State::Switching
            | State::RehearsingBack
            | State::RehearsingForward
            | State::Baking
            | State::Promoted
            | State::TakingBack { .. }
            | State::Retiring
            | State::Contracting
            | State::Done
            | State::Aborting { .. }
            | State::Refused { .. }
            | State::RolledBack { .. },
            Event::Resolved
            | Event::Expanded
            | Event::Ready
            | Event::SmokePassed
            | Event::Warmed
            | Event::GatePassed
            | Event::Switched
            | Event::Returned
            | Event::KeepOldOver
            | Event::OldStopped
            | Event::Contracted
            | Event::CandidateStopped
            | Event::Failed { .. }
            | Event::RollbackAsked
            | Event::DeadlinePassed,
        ) => Err(NotPossible { state: state.name(), event: event.name() }),
    }
}

/// Whether a gateway that serves the old stamp and names no candidate has been told to take the candidate back.
/// Taking back acts before it is recorded, so an agent may die in between; in every other way to `state` the
/// gateway serves the candidate, or names it.
pub fn was_taken_back(state: &State) -> bool {
    match state {
        State::Shifting { .. }
        | State::Switching
        | State::RehearsingBack
        | State::RehearsingForward
        | State::Baking
        | State::Promoted => true,
        State::Planned
        | State::Expanding
        | State::Provisioning
        | State::Verifying
        | State::Warming
        | State::TakingBack { .. }
        | State::Retiring
        | State::Contracting
        | State::Done
        | State::Aborting { .. }
        | State::Refused { .. }
        | State::RolledBack { .. } => false,
    }
}

/// Why `event` ends what `state` was about.
fn cause(state: &State, event: &Event) -> Reason {
    if let Event::Failed { reason } = event {
        return reason.clone();
    }
    if *event == Event::RollbackAsked {
        return Reason { kind: ReasonKind::Operator, text: "taken back by an operator".into() };
    }
    Reason { kind: ReasonKind::Deadline, text: format!("{} lasted longer than it may", state.name()) }
}

impl State {
    /// The state's name, as recorded and shown.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Expanding => "expanding",
            Self::Provisioning => "provisioning",
            Self::Verifying => "verifying",
            Self::Warming => "warming",
            Self::Shifting { .. } => "shifting",
            Self::Switching => "switching",
            Self::RehearsingBack => "rehearsing_back",
            Self::RehearsingForward => "rehearsing_forward",
            Self::Baking => "baking",
            Self::Promoted => "promoted",
            Self::TakingBack { .. } => "taking_back",
            Self::Retiring => "retiring",
            Self::Contracting => "contracting",
            Self::Done => "done",
            Self::Aborting { .. } => "aborting",
            Self::Refused { .. } => "refused",
            Self::RolledBack { .. } => "rolled_back",
        }
    }

    /// Whether the release has come to its end.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Done | Self::Refused { .. } | Self::RolledBack { .. })
    }

    /// Whether users are settled on the candidate, so that a newer release or the end of the environment need
    /// not wait for this one.
    pub fn is_settled(&self) -> bool {
        self.is_final() || matches!(self, Self::Promoted | Self::Retiring | Self::Contracting)
    }

    /// Why it did not get through, when it did not.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::TakingBack { reason }
            | Self::Aborting { reason, .. }
            | Self::Refused { reason }
            | Self::RolledBack { reason } => Some(reason),
            Self::Planned
            | Self::Expanding
            | Self::Provisioning
            | Self::Verifying
            | Self::Warming
            | Self::Shifting { .. }
            | Self::Switching
            | Self::RehearsingBack
            | Self::RehearsingForward
            | Self::Baking
            | Self::Promoted
            | Self::Retiring
            | Self::Contracting
            | Self::Done => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Event {
    /// The event's name, as recorded.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Expanded => "expanded",
            Self::Ready => "ready",
            Self::SmokePassed => "smoke_passed",
            Self::Warmed => "warmed",
            Self::GatePassed => "gate_passed",
            Self::Switched => "switched",
            Self::Returned => "returned",
            Self::KeepOldOver => "keep_old_over",
            Self::OldStopped => "old_stopped",
            Self::Contracted => "contracted",
            Self::CandidateStopped => "candidate_stopped",
            Self::Failed { .. } => "failed",
            Self::RollbackAsked => "rollback_asked",
            Self::DeadlinePassed => "deadline_passed",
        }
    }
}
