//! The release machine under every order of events, and under an agent that dies at any instant.

use model::machine::{Event, Order, Reason, ReasonKind, Side, State, actions, next, order, runs, serving};
use proptest::prelude::*;

fn reason() -> Reason {
    Reason { kind: ReasonKind::Smoke, text: "answered 500".into() }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Resolved),
        Just(Event::Ready),
        Just(Event::SmokePassed),
        Just(Event::Switched),
        Just(Event::KeepOldOver),
        Just(Event::OldStopped),
        Just(Event::CandidateStopped),
        Just(Event::Failed { reason: reason() }),
        Just(Event::RollbackAsked),
        Just(Event::DeadlinePassed),
    ]
}

/// What comes next: mostly what the work of the state brings (none), so that every state is reached; now and then
/// something that comes by itself.
fn any_turn() -> impl Strategy<Value = Option<Event>> {
    prop_oneof![
        8 => Just(None),
        1 => Just(Some(Event::Failed { reason: reason() })),
        1 => Just(Some(Event::RollbackAsked)),
        1 => Just(Some(Event::DeadlinePassed)),
    ]
}

/// What the work of a state brings when nothing goes wrong.
fn natural(state: &State) -> Option<Event> {
    match state {
        State::Planned => Some(Event::Resolved),
        State::Provisioning => Some(Event::Ready),
        State::Verifying => Some(Event::SmokePassed),
        State::Switching => Some(Event::Switched),
        State::Promoted => Some(Event::KeepOldOver),
        State::Retiring => Some(Event::OldStopped),
        State::Aborting { .. } | State::TakingBack { .. } => Some(Event::CandidateStopped),
        State::Done | State::Refused { .. } | State::RolledBack { .. } => None,
    }
}

/// An agent, a gateway and two stamps, as far as the machine is concerned.
#[derive(Debug)]
struct World {
    has_old: bool,
    recorded: State,
    /// The stamp the gateway serves; none before the first switch of a first release.
    gateway: Option<Side>,
    old_runs: bool,
    candidate_runs: bool,
}

impl World {
    fn new(has_old: bool) -> Self {
        let gateway = has_old.then_some(Side::Old);
        Self { has_old, recorded: State::Planned, gateway, old_runs: has_old, candidate_runs: false }
    }

    fn route(&mut self, state: &State) {
        self.gateway = match serving(state) {
            Side::Old => self.has_old.then_some(Side::Old),
            Side::Candidate => Some(Side::Candidate),
        };
    }

    /// The work of a recorded state, as far as it is told apart here.
    fn act(&mut self) {
        let state = self.recorded.clone();
        self.candidate_runs |= runs(&state, Side::Candidate);
        self.old_runs |= self.has_old && runs(&state, Side::Old);
        self.route(&state);
        match natural(&state) {
            Some(Event::OldStopped) => self.old_runs = false,
            Some(Event::CandidateStopped) => self.candidate_runs = false,
            _ => {}
        }
    }

    /// One event. `dies` says after how many of its three parts the agent is killed: what acts first, the
    /// record, the work.
    fn step(&mut self, event: &Event, dies: Option<u8>) {
        let Ok(state) = next(self.has_old, &self.recorded, event) else { return };
        if order(&state) == Order::ActThenRecord {
            self.route(&state);
        }
        self.check();
        if dies == Some(0) {
            return self.recover();
        }
        self.recorded = state;
        self.check();
        if dies == Some(1) {
            return self.recover();
        }
        self.act();
        self.check();
        if dies == Some(2) {
            self.recover();
        }
    }

    /// What the next agent does: it believes a gateway that was told to take back, then does the work of the
    /// recorded state.
    fn recover(&mut self) {
        if self.recorded == State::Promoted && self.gateway == Some(Side::Old) {
            return self.step(&Event::RollbackAsked, None);
        }
        if self.recorded.is_final() {
            // What is not to run and is found all the same is swept.
            self.old_runs &= runs(&self.recorded, Side::Old);
            self.candidate_runs &= runs(&self.recorded, Side::Candidate);
        }
        self.act();
        self.check();
    }

    /// Whatever serves, runs; and where something has served, something serves.
    fn check(&self) {
        match self.gateway {
            Some(Side::Old) => assert!(self.old_runs, "{self:?}"),
            Some(Side::Candidate) => assert!(self.candidate_runs, "{self:?}"),
            None => assert!(!self.has_old, "{self:?}"),
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_exactly_one_stamp_serves_and_the_release_ends(
        has_old: bool,
        turns in proptest::collection::vec((any_turn(), proptest::option::of(0u8..3)), 0..12),
    ) {
        let mut world = World::new(has_old);
        world.act();
        for (event, dies) in &turns {
            let Some(event) = event.clone().or_else(|| natural(&world.recorded)) else { break };
            world.step(&event, *dies);
        }
        let mut left = 10;
        while let Some(event) = natural(&world.recorded) {
            world.step(&event, None);
            left -= 1;
            prop_assert!(left > 0, "{} does not end", world.recorded);
        }
        let side = serving(&world.recorded);
        let expected = (side == Side::Candidate || has_old).then_some(side);
        prop_assert_eq!(world.gateway, expected);
        prop_assert_eq!(world.old_runs, has_old && side == Side::Old);
        prop_assert_eq!(world.candidate_runs, side == Side::Candidate);
    }

    #[test]
    fn a_final_state_stays(has_old: bool, event in any_event()) {
        for state in [State::Done, State::Refused { reason: reason() }, State::RolledBack { reason: reason() }] {
            prop_assert!(state.is_final());
            prop_assert!(next(has_old, &state, &event).is_err());
        }
    }

    #[test]
    fn a_release_without_an_old_stamp_keeps_none(events in proptest::collection::vec(any_event(), 0..40)) {
        let mut state = State::Planned;
        for event in &events {
            state = next(false, &state, event).unwrap_or(state);
            let keeps_one = matches!(state, State::Promoted | State::Retiring | State::TakingBack { .. });
            prop_assert!(!keeps_one);
        }
    }
}

#[test]
fn every_state_that_is_not_final_has_work_a_name_of_its_own_and_a_way_out() {
    let states = [
        State::Planned,
        State::Provisioning,
        State::Verifying,
        State::Switching,
        State::Promoted,
        State::TakingBack { reason: reason() },
        State::Retiring,
        State::Aborting { reason: reason(), offered: true },
        State::Done,
        State::Refused { reason: reason() },
        State::RolledBack { reason: reason() },
    ];
    let names: std::collections::BTreeSet<_> = states.iter().map(State::name).collect();
    assert_eq!(names.len(), states.len());
    for state in states {
        assert!(!actions(&state).is_empty());
        assert_eq!(natural(&state).is_none(), state.is_final());
        if let Some(event) = natural(&state) {
            assert_ne!(next(true, &state, &event).unwrap(), state);
            assert!(next(true, &state, &Event::DeadlinePassed).is_ok(), "{state} has no deadline");
        }
    }
}

#[test]
fn a_candidate_nobody_could_reach_is_refused_and_another_rolled_back() {
    let failed = Event::Failed { reason: reason() };
    let ended = |state: State| {
        let aborting = next(true, &state, &failed).unwrap();
        next(true, &aborting, &Event::CandidateStopped).unwrap()
    };
    assert_eq!(ended(State::Provisioning), State::Refused { reason: reason() });
    assert_eq!(ended(State::Verifying), State::RolledBack { reason: reason() });
    assert_eq!(ended(State::Switching), State::RolledBack { reason: reason() });
}
