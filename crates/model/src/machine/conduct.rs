//! What holds while a release is in a state: what is done, who serves, what runs, for how long.

use super::{Course, State};
use crate::workload::{Configuration, ReleasePolicy, StoreKind};
use std::time::Duration;

/// What an agent does on entering a state. Each may be repeated at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Store the artifacts, hash the release. Answers with [`super::Event::Resolved`].
    Resolve,
    /// Run the `expand` hooks, then smoke the old stamp. Answers with [`super::Event::Expanded`].
    Expand,
    /// Start what is missing of the candidate. Answers with [`super::Event::Ready`].
    StartCandidate,
    /// Play the flows on every instance of the candidate. Answers with [`super::Event::SmokePassed`].
    SmokeCandidate,
    /// Play read flows on the candidate for a while. Answers with [`super::Event::Warmed`].
    WarmCandidate,
    /// Tell the gateway what serves.
    Route,
    /// Compare the candidate with the old stamp. Answers with [`super::Event::GatePassed`].
    Judge,
    /// Drain and stop the old stamp. Answers with [`super::Event::OldStopped`].
    StopOld,
    /// Run the `contract` hooks. Answers with [`super::Event::Contracted`].
    Contract,
    /// Drain and stop the candidate. Answers with [`super::Event::CandidateStopped`].
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

/// What an agent does in `state`, on entering it and again when it finds it recorded at its start.
pub fn actions(state: &State) -> &'static [Action] {
    match state {
        State::Planned => &[Action::Resolve],
        State::Expanding => &[Action::Expand],
        State::Provisioning => &[Action::StartCandidate],
        State::Verifying => &[Action::Route, Action::SmokeCandidate],
        State::Warming => &[Action::Route, Action::WarmCandidate],
        State::Shifting { .. } | State::Baking => &[Action::Route, Action::Judge],
        State::Switching | State::RehearsingBack | State::RehearsingForward | State::Promoted => {
            &[Action::Route]
        }
        State::TakingBack { .. } | State::Aborting { .. } => &[Action::Route, Action::StopCandidate],
        State::Retiring => &[Action::Route, Action::StopOld],
        State::Contracting => &[Action::Route, Action::Contract],
        State::Done | State::Refused { .. } | State::RolledBack { .. } => &[Action::Route],
    }
}

/// Whether `state` is recorded before its first action.
pub fn order(state: &State) -> Order {
    match state {
        State::TakingBack { .. } | State::Aborting { .. } => Order::ActThenRecord,
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
        | State::Retiring
        | State::Contracting
        | State::Done
        | State::Refused { .. }
        | State::RolledBack { .. } => Order::RecordThenAct,
    }
}

/// The stamp that serves users in `state`, or most of them. [`Side::Old`] means nobody when the release had no
/// old stamp.
pub fn serving(state: &State) -> Side {
    match state {
        State::Planned
        | State::Expanding
        | State::Provisioning
        | State::Verifying
        | State::Warming
        | State::Shifting { .. }
        | State::RehearsingBack
        | State::TakingBack { .. }
        | State::Aborting { .. }
        | State::Refused { .. }
        | State::RolledBack { .. } => Side::Old,
        State::Switching
        | State::RehearsingForward
        | State::Baking
        | State::Promoted
        | State::Retiring
        | State::Contracting
        | State::Done => Side::Candidate,
    }
}

/// Of 10,000 users, how many the candidate has while the old stamp serves: 0 to 9999.
pub fn weight(course: &Course, state: &State) -> u16 {
    match state {
        State::Shifting { step } => course.weights.get(*step as usize).copied().unwrap_or(0),
        State::Planned
        | State::Expanding
        | State::Provisioning
        | State::Verifying
        | State::Warming
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
        | State::RolledBack { .. } => 0,
    }
}

/// Whether the candidate can be reached in `state` while the old stamp serves: through the preview door, and by
/// its weight. That the gateway names no candidate in one of them means that it was taken back.
pub fn offers(state: &State) -> bool {
    match state {
        State::Verifying | State::Warming | State::Shifting { .. } | State::RehearsingBack => true,
        State::Planned
        | State::Expanding
        | State::Provisioning
        | State::Switching
        | State::RehearsingForward
        | State::Baking
        | State::Promoted
        | State::TakingBack { .. }
        | State::Retiring
        | State::Contracting
        | State::Done
        | State::Aborting { .. }
        | State::Refused { .. }
        | State::RolledBack { .. } => false,
    }
}

/// Whether in `state` the gateway itself goes back to the old stamp when the candidate, which serves, hurts too
/// many.
pub fn falls_back(state: &State) -> bool {
    match state {
        State::Switching | State::RehearsingForward | State::Baking => true,
        State::Planned
        | State::Expanding
        | State::Provisioning
        | State::Verifying
        | State::Warming
        | State::Shifting { .. }
        | State::RehearsingBack
        | State::Promoted
        | State::TakingBack { .. }
        | State::Retiring
        | State::Contracting
        | State::Done
        | State::Aborting { .. }
        | State::Refused { .. }
        | State::RolledBack { .. } => false,
    }
}

/// Whose workers are to run in `state`. They change hands when the release is settled, and only then.
pub fn workers(state: &State) -> Side {
    match state {
        State::Promoted | State::Retiring | State::Contracting | State::Done => Side::Candidate,
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
        | State::TakingBack { .. }
        | State::Aborting { .. }
        | State::Refused { .. }
        | State::RolledBack { .. } => Side::Old,
    }
}

/// Whether the instances of `side` are to run in `state`; its workers, see [`workers`].
pub fn runs(state: &State, side: Side) -> bool {
    match state {
        State::Planned | State::Expanding => side == Side::Old,
        State::Provisioning
        | State::Verifying
        | State::Warming
        | State::Shifting { .. }
        | State::Switching
        | State::RehearsingBack
        | State::RehearsingForward
        | State::Baking
        | State::Promoted => true,
        State::Retiring | State::Contracting | State::Done => side == Side::Candidate,
        State::TakingBack { .. }
        | State::Aborting { .. }
        | State::Refused { .. }
        | State::RolledBack { .. } => side == Side::Old,
    }
}

/// Whether the instances of `side` are drained and stopped in `state`.
pub fn stops(state: &State, side: Side) -> bool {
    actions(state).iter().any(|action| match action {
        Action::StopOld => side == Side::Old,
        Action::StopCandidate => side == Side::Candidate,
        Action::Resolve
        | Action::Expand
        | Action::StartCandidate
        | Action::SmokeCandidate
        | Action::WarmCandidate
        | Action::Route
        | Action::Judge
        | Action::Contract => false,
    })
}

/// How long artifacts may take to be stored.
pub const RESOLVE_LIMIT: Duration = Duration::from_secs(600);
/// How long smoke may take on each instance.
pub const SMOKE_LIMIT: Duration = Duration::from_secs(60);
/// How long smoke of the old stamp may take on a new schema, on each instance.
pub const SCHEMA_SMOKE_LIMIT: Duration = SMOKE_LIMIT;
/// How long the gateway may take to be told. It is restarted within milliseconds when it dies.
pub const SWITCH_LIMIT: Duration = Duration::from_secs(30);
/// How long a database server may take until it lets clients in: it may have to be made, or to recover.
pub const STORE_LIMIT: Duration = Duration::from_secs(150);
/// How long flows are played for a candidate that has too few requests.
pub const TOP_UP_LIMIT: Duration = Duration::from_secs(30);
/// What a deadline adds to the times a user configured, for what surrounds them.
pub const DEADLINE_SLACK: Duration = Duration::from_secs(10);

/// How long a release may be in `state`; none for the final ones.
pub fn deadline(state: &State, configuration: &Configuration) -> Option<Duration> {
    let services = || configuration.services.values();
    let drain = || configuration.drain_timeout() * 2 + DEADLINE_SLACK;
    let instances = || {
        let service = configuration.services.get(&configuration.gateway.default);
        service.map_or(1, |service| service.instances)
    };
    let policy = &configuration.policy;
    let servers = || match configuration.stores.values().any(|store| store.kind == StoreKind::Postgres) {
        true => STORE_LIMIT,
        false => Duration::ZERO,
    };
    let judged = |time| ReleasePolicy::patience(time) + TOP_UP_LIMIT + DEADLINE_SLACK;
    match state {
        State::Planned => Some(RESOLVE_LIMIT),
        State::Expanding => {
            let hooks: Duration = configuration.expanding().map(|(_, store)| store.hook_timeout).sum();
            Some(servers() + hooks + SCHEMA_SMOKE_LIMIT * instances() + DEADLINE_SLACK)
        }
        // Services start one after the other where they need each other, so their times add up at worst.
        State::Provisioning => {
            Some(servers() + services().map(|s| s.ready.timeout).sum::<Duration>() + DEADLINE_SLACK)
        }
        State::Verifying => Some(SMOKE_LIMIT * instances() + DEADLINE_SLACK),
        State::Warming => Some(policy.warm_up + DEADLINE_SLACK),
        State::Shifting { .. } => Some(judged(policy.step_time)),
        State::Baking => Some(judged(policy.bake)),
        State::Switching | State::RehearsingBack | State::RehearsingForward => Some(SWITCH_LIMIT),
        State::Promoted => Some(policy.keep_old),
        State::Contracting => {
            let hooks: Duration = configuration.contracting().map(|(_, store)| store.hook_timeout).sum();
            Some(hooks + DEADLINE_SLACK)
        }
        State::TakingBack { .. } | State::Retiring | State::Aborting { .. } => Some(drain()),
        State::Done | State::Refused { .. } | State::RolledBack { .. } => None,
    }
}
