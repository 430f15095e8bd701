//! The life of a release, as one pure function.
//!
//! ```text
//! planned → provisioning → verifying → switching → promoted(old kept) → retiring → done
//!    │           │             │           │              │
//!    └───────────┴── aborting ─┘           └─ taking back ┘
//!                       │                        │
//!              refused / rolled back        rolled back
//! ```
//!
//! What an agent does on entering a state is a function of that state ([`actions`]), so an agent that finds
//! a recorded state at its start does just what the one before it would have done: recovery is not a second
//! path. Every action is idempotent. Which stamp serves is a function of the state too ([`serving`]).

use crate::workload::Configuration;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Where a release is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Asked for: its artifacts are being stored.
    Planned,
    /// The candidate's instances are starting.
    Provisioning,
    /// The candidate is reached through its preview door only, and smoked.
    Verifying,
    /// The candidate is to serve; the gateway is being told.
    Switching,
    /// The candidate serves; the old stamp stays warm.
    Promoted,
    /// The old stamp serves again; the candidate drains and stops.
    TakingBack {
        /// Why.
        reason: Reason,
    },
    /// The old stamp drains and stops.
    Retiring,
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

/// Why a release did not get through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What kind of thing went wrong: stable, for programs.
    pub kind: ReasonKind,
    /// What was seen, for people.
    pub text: String,
}

/// The kinds of [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// The artifact could not be stored as it was.
    Artifact,
    /// The candidate did not become ready.
    NotReady,
    /// Smoke did not pass.
    Smoke,
    /// An operator took it back.
    Operator,
    /// A state lasted longer than it may.
    Deadline,
    /// The machine has no room for it.
    Machine,
}

/// What happens to a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The artifacts are stored and the release is hashed.
    Resolved,
    /// Every instance of the candidate is ready.
    Ready,
    /// Smoke passed on every instance of the candidate.
    SmokePassed,
    /// The gateway serves from the candidate.
    Switched,
    /// The old stamp need not be kept any longer.
    KeepOldOver,
    /// The old stamp has drained and is gone.
    OldStopped,
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

/// What an agent does on entering a state. Each may be repeated at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Store the artifacts, hash the release. Answers with [`Event::Resolved`].
    Resolve,
    /// Start what is missing of the candidate. Answers with [`Event::Ready`].
    StartCandidate,
    /// Play the flows on every instance of the candidate. Answers with [`Event::SmokePassed`].
    SmokeCandidate,
    /// Tell the gateway what serves. Answers with [`Event::Switched`] when that is the candidate.
    Route,
    /// Drain and stop the old stamp. Answers with [`Event::OldStopped`].
    StopOld,
    /// Drain and stop the candidate. Answers with [`Event::CandidateStopped`].
    StopCandidate,
}

/// Whether a state is recorded before or after its first action. Giving a stamp users is recorded first,
/// so that no gateway serves from a stamp nobody knows of; taking them away is done first, so that it works
/// with a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Order {
    RecordThenAct,
    ActThenRecord,
}

/// One of the two stamps of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The stamp that served when the release began.
    Old,
    /// The stamp of this release.
    Candidate,
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

/// The state after `event`. `has_old` says whether a stamp served when the release began.
pub fn next(has_old: bool, state: &State, event: &Event) -> Result<State, NotPossible> {
    let no = || Err(NotPossible { state: state.name(), event: event.name() });
    let deadline =
        || Reason { kind: ReasonKind::Deadline, text: format!("{} lasted longer than it may", state.name()) };
    let operator = || Reason { kind: ReasonKind::Operator, text: "taken back by an operator".into() };
    let abort = |reason, offered| Ok(State::Aborting { reason, offered });
    let take_back = |reason| match has_old {
        true => Ok(State::TakingBack { reason }),
        false => Ok(State::Aborting { reason, offered: true }),
    };

    match (state, event) {
        (State::Planned, Event::Resolved) => Ok(State::Provisioning),
        (State::Provisioning, Event::Ready) => Ok(State::Verifying),
        (State::Verifying, Event::SmokePassed) => Ok(State::Switching),
        (State::Switching, Event::Switched) if has_old => Ok(State::Promoted),
        (State::Switching, Event::Switched) => Ok(State::Done),
        (State::Promoted, Event::KeepOldOver | Event::DeadlinePassed) => Ok(State::Retiring),
        (State::Retiring, Event::OldStopped) => Ok(State::Done),

        (State::Planned | State::Provisioning, Event::Failed { reason }) => abort(reason.clone(), false),
        (State::Planned | State::Provisioning, Event::DeadlinePassed) => abort(deadline(), false),
        (State::Planned | State::Provisioning, Event::RollbackAsked) => abort(operator(), false),
        (State::Verifying, Event::Failed { reason }) => abort(reason.clone(), true),
        (State::Verifying, Event::DeadlinePassed) => abort(deadline(), true),
        (State::Verifying, Event::RollbackAsked) => abort(operator(), true),
        (State::Switching, Event::Failed { reason }) => take_back(reason.clone()),
        (State::Switching, Event::DeadlinePassed) => take_back(deadline()),
        (State::Switching | State::Promoted, Event::RollbackAsked) => take_back(operator()),
        (State::Aborting { reason, offered: false }, Event::CandidateStopped) => {
            Ok(State::Refused { reason: reason.clone() })
        }
        (State::Aborting { reason, offered: true }, Event::CandidateStopped) => {
            Ok(State::RolledBack { reason: reason.clone() })
        }
        (State::TakingBack { reason }, Event::CandidateStopped) => {
            Ok(State::RolledBack { reason: reason.clone() })
        }

        // What only stops things is tried again for as long as it takes: there is nothing to fall back to.
        (State::Aborting { .. } | State::TakingBack { .. } | State::Retiring, Event::DeadlinePassed) => {
            Ok(state.clone())
        }

        (
            State::Planned
            | State::Provisioning
            | State::Verifying
            | State::Switching
            | State::Promoted
            | State::TakingBack { .. }
            | State::Retiring
            | State::Done
            | State::Aborting { .. }
            | State::Refused { .. }
            | State::RolledBack { .. },
            Event::Resolved
            | Event::Ready
            | Event::SmokePassed
            | Event::Switched
            | Event::KeepOldOver
            | Event::OldStopped
            | Event::CandidateStopped
            | Event::Failed { .. }
            | Event::RollbackAsked
            | Event::DeadlinePassed,
        ) => no(),
    }
}

/// What an agent does in `state`, on entering it and again when it finds it recorded at its start.
pub fn actions(state: &State) -> &'static [Action] {
    match state {
        State::Planned => &[Action::Resolve],
        State::Provisioning => &[Action::StartCandidate],
        State::Verifying => &[Action::Route, Action::SmokeCandidate],
        State::Switching | State::Promoted => &[Action::Route],
        State::TakingBack { .. } | State::Aborting { .. } => &[Action::Route, Action::StopCandidate],
        State::Retiring => &[Action::Route, Action::StopOld],
        State::Done | State::Refused { .. } | State::RolledBack { .. } => &[Action::Route],
    }
}

/// Whether `state` is recorded before its first action.
pub fn order(state: &State) -> Order {
    match state {
        State::TakingBack { .. } | State::Aborting { .. } => Order::ActThenRecord,
        State::Planned
        | State::Provisioning
        | State::Verifying
        | State::Switching
        | State::Promoted
        | State::Retiring
        | State::Done
        | State::Refused { .. }
        | State::RolledBack { .. } => Order::RecordThenAct,
    }
}

/// The stamp that serves users in `state`. [`Side::Old`] means nobody when the release had no old stamp.
pub fn serving(state: &State) -> Side {
    match state {
        State::Planned
        | State::Provisioning
        | State::Verifying
        | State::TakingBack { .. }
        | State::Aborting { .. }
        | State::Refused { .. }
        | State::RolledBack { .. } => Side::Old,
        State::Switching | State::Promoted | State::Retiring | State::Done => Side::Candidate,
    }
}

/// Whether the instances of `side` are to run in `state`.
pub fn runs(state: &State, side: Side) -> bool {
    match (side, state) {
        (Side::Old, State::Retiring | State::Done) => false,
        (
            Side::Old,
            State::Planned
            | State::Provisioning
            | State::Verifying
            | State::Switching
            | State::Promoted
            | State::TakingBack { .. }
            | State::Aborting { .. }
            | State::Refused { .. }
            | State::RolledBack { .. },
        ) => true,
        (
            Side::Candidate,
            State::Provisioning
            | State::Verifying
            | State::Switching
            | State::Promoted
            | State::Retiring
            | State::Done,
        ) => true,
        (
            Side::Candidate,
            State::Planned
            | State::TakingBack { .. }
            | State::Aborting { .. }
            | State::Refused { .. }
            | State::RolledBack { .. },
        ) => false,
    }
}

/// How long artifacts may take to be stored.
pub const RESOLVE_LIMIT: Duration = Duration::from_secs(600);
/// How long smoke may take on each instance.
pub const SMOKE_LIMIT: Duration = Duration::from_secs(60);
/// How long the gateway may take to be told. It is restarted within milliseconds when it dies.
pub const SWITCH_LIMIT: Duration = Duration::from_secs(30);
/// What a deadline adds to the times a user configured, for what surrounds them.
pub const DEADLINE_SLACK: Duration = Duration::from_secs(10);

/// How long a release may be in `state`; none for the final ones.
pub fn deadline(state: &State, configuration: &Configuration) -> Option<Duration> {
    let services = || configuration.services.values();
    let drain = || configuration.drain_timeout() * 2 + DEADLINE_SLACK;
    match state {
        State::Planned => Some(RESOLVE_LIMIT),
        // Services start one after the other where they need each other, so their times add up at worst.
        State::Provisioning => Some(services().map(|s| s.ready.timeout).sum::<Duration>() + DEADLINE_SLACK),
        State::Verifying => {
            let service = configuration.services.get(&configuration.gateway.default);
            Some(SMOKE_LIMIT * service.map_or(1, |service| service.instances) + DEADLINE_SLACK)
        }
        State::Switching => Some(SWITCH_LIMIT),
        State::Promoted => Some(configuration.policy.keep_old),
        State::TakingBack { .. } | State::Retiring | State::Aborting { .. } => Some(drain()),
        State::Done | State::Refused { .. } | State::RolledBack { .. } => None,
    }
}

impl State {
    /// The state's name, as recorded and shown.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Provisioning => "provisioning",
            Self::Verifying => "verifying",
            Self::Switching => "switching",
            Self::Promoted => "promoted",
            Self::TakingBack { .. } => "taking_back",
            Self::Retiring => "retiring",
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

    /// Why it did not get through, when it did not.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::TakingBack { reason }
            | Self::Aborting { reason, .. }
            | Self::Refused { reason }
            | Self::RolledBack { reason } => Some(reason),
            Self::Planned
            | Self::Provisioning
            | Self::Verifying
            | Self::Switching
            | Self::Promoted
            | Self::Retiring
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
            Self::Ready => "ready",
            Self::SmokePassed => "smoke_passed",
            Self::Switched => "switched",
            Self::KeepOldOver => "keep_old_over",
            Self::OldStopped => "old_stopped",
            Self::CandidateStopped => "candidate_stopped",
            Self::Failed { .. } => "failed",
            Self::RollbackAsked => "rollback_asked",
            Self::DeadlinePassed => "deadline_passed",
        }
    }
}

impl fmt::Display for ReasonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Artifact => "artifact",
            Self::NotReady => "not_ready",
            Self::Smoke => "smoke",
            Self::Operator => "operator",
            Self::Deadline => "deadline",
            Self::Machine => "machine",
        })
    }
}
