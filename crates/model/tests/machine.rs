//! The release machine under every order of events, and under an agent that dies at any instant.

use model::machine::{
    Course, Event, Order, Reason, ReasonKind, Side, State, actions, falls_back, next, offers, order, runs,
    serving, was_taken_back, weight, workers,
};
use proptest::prelude::*;

fn reason() -> Reason {
    Reason { kind: ReasonKind::Smoke, text: "answered 500".into() }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Resolved),
        Just(Event::Expanded),
        Just(Event::Ready),
        Just(Event::SmokePassed),
        Just(Event::Warmed),
        Just(Event::GatePassed),
        Just(Event::Switched),
        Just(Event::Returned),
        Just(Event::KeepOldOver),
        Just(Event::OldStopped),
        Just(Event::Contracted),
        Just(Event::CandidateStopped),
        Just(Event::Failed { reason: reason() }),
        Just(Event::RollbackAsked),
        Just(Event::DeadlinePassed),
    ]
}

fn any_course() -> impl Strategy<Value = Course> {
    let weights = prop_oneof![Just(vec![]), Just(vec![5000]), Just(vec![1000, 5000])];
    (any::<[bool; 6]>(), weights).prop_map(
        |([has_old, expands, contracts, warms, rehearses, bakes], weights)| Course {
            has_old,
            expands,
            contracts,
            warms,
            weights: if has_old { weights } else { vec![] },
            rehearses: has_old && rehearses,
            bakes: has_old && bakes,
        },
    )
}

/// What comes next: mostly what the work of the state brings (none), so that every state is reached; now and then
/// something that comes by itself.
fn any_turn() -> impl Strategy<Value = Option<Event>> {
    prop_oneof![
        14 => Just(None),
        1 => Just(Some(Event::Failed { reason: reason() })),
        1 => Just(Some(Event::RollbackAsked)),
        1 => Just(Some(Event::DeadlinePassed)),
    ]
}

/// What the work of a state brings when nothing goes wrong.
fn natural(state: &State) -> Option<Event> {
    match state {
        State::Planned => Some(Event::Resolved),
        State::Expanding => Some(Event::Expanded),
        State::Provisioning => Some(Event::Ready),
        State::Verifying => Some(Event::SmokePassed),
        State::Warming => Some(Event::Warmed),
        State::Shifting { .. } | State::Baking => Some(Event::GatePassed),
        State::Switching | State::RehearsingForward => Some(Event::Switched),
        State::RehearsingBack => Some(Event::Returned),
        State::Contracting => Some(Event::Contracted),
        State::Promoted => Some(Event::KeepOldOver),
        State::Retiring => Some(Event::OldStopped),
        State::Aborting { .. } | State::TakingBack { .. } => Some(Event::CandidateStopped),
        State::Done | State::Refused { .. } | State::RolledBack { .. } => None,
    }
}

/// An agent, a gateway and two stamps, as far as the machine is concerned.
#[derive(Debug)]
struct World {
    course: Course,
    recorded: State,
    /// The stamp the gateway serves; none before the first switch of a first release.
    gateway: Option<Side>,
    /// The other stamp that users can get to: by its weight, or when the gateway's guard trips.
    beside: Option<Side>,
    /// The candidate's users so far.
    weight: u16,
    old_runs: bool,
    candidate_runs: bool,
    old_works: bool,
    candidate_works: bool,
}

impl World {
    fn new(course: Course) -> Self {
        let has_old = course.has_old;
        Self {
            course,
            recorded: State::Planned,
            gateway: has_old.then_some(Side::Old),
            beside: None,
            weight: 0,
            old_runs: has_old,
            candidate_runs: false,
            old_works: has_old,
            candidate_works: false,
        }
    }

    fn route(&mut self, state: &State) {
        let has_old = self.course.has_old;
        self.gateway = match serving(state) {
            Side::Old => has_old.then_some(Side::Old),
            Side::Candidate => Some(Side::Candidate),
        };
        self.beside = if offers(state) {
            Some(Side::Candidate)
        } else {
            (has_old && falls_back(state)).then_some(Side::Old)
        };
        self.weight = weight(&self.course, state);
        assert!(self.weight == 0 || offers(state), "{state} has users and cannot be reached");
    }

    /// The work of a recorded state, as far as it is told apart here.
    fn act(&mut self) {
        let state = self.recorded.clone();
        self.candidate_runs |= runs(&state, Side::Candidate);
        self.old_runs |= self.course.has_old && runs(&state, Side::Old);
        self.route(&state);
        // One side's workers stop before the other's start.
        match workers(&state) {
            Side::Old => {
                self.candidate_works = false;
                self.old_works = self.course.has_old;
            }
            Side::Candidate => {
                self.old_works = false;
                self.candidate_works = true;
            }
        }
        match natural(&state) {
            Some(Event::OldStopped) => self.old_runs = false,
            Some(Event::CandidateStopped) => self.candidate_runs = false,
            _ => {}
        }
    }

    /// One event. Nobody who was taken back gets users again. `dies` says after how many of its three parts the agent is killed: what acts first, the
    /// record, the work.
    fn step(&mut self, event: &Event, dies: Option<u8>) {
        let Ok(state) = next(&self.course, &self.recorded, event) else { return };
        if order(&state) == Order::ActThenRecord {
            self.route(&state);
        }
        self.check();
        if dies == Some(0) {
            let taken_back = matches!(state, State::TakingBack { .. });
            self.recover();
            let stays = matches!(self.recorded, State::TakingBack { .. } | State::RolledBack { .. });
            assert!(!taken_back || stays, "users went back to what was taken back: {self:?}");
            return;
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
        let taken_back = self.gateway == Some(Side::Old) && self.beside.is_none();
        if was_taken_back(&self.recorded) && taken_back {
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

    /// Whatever users can get to, runs; where something has served, something serves; workers run on one side.
    fn check(&self) {
        let runs = |side| match side {
            Side::Old => self.old_runs,
            Side::Candidate => self.candidate_runs,
        };
        match self.gateway {
            Some(side) => assert!(runs(side), "{self:?}"),
            None => assert!(!self.course.has_old, "{self:?}"),
        }
        assert!(self.beside.is_none_or(runs), "{self:?}");
        assert!(!(self.old_works && self.candidate_works), "{self:?}");
        assert!(self.old_works || self.candidate_works || !self.course.has_old, "{self:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_happens_exactly_one_stamp_serves_and_the_release_ends(
        course in any_course(),
        turns in proptest::collection::vec((any_turn(), proptest::option::of(0u8..3)), 0..20),
    ) {
        let mut world = World::new(course.clone());
        world.act();
        for (event, dies) in &turns {
            let Some(event) = event.clone().or_else(|| natural(&world.recorded)) else { break };
            world.step(&event, *dies);
        }
        let mut left = 20;
        while let Some(event) = natural(&world.recorded) {
            world.step(&event, None);
            left -= 1;
            prop_assert!(left > 0, "{} does not end", world.recorded);
        }
        let side = serving(&world.recorded);
        let expected = (side == Side::Candidate || course.has_old).then_some(side);
        prop_assert_eq!(world.gateway, expected);
        prop_assert_eq!(world.beside, None);
        prop_assert_eq!(world.old_runs, course.has_old && side == Side::Old);
        prop_assert_eq!(world.candidate_runs, side == Side::Candidate);
        prop_assert_eq!(world.candidate_works, side == Side::Candidate);
    }

    #[test]
    fn a_candidate_only_gains_users_until_it_is_taken_back(course in any_course()) {
        let mut state = State::Planned;
        let (mut share, mut seen) = (0, vec![]);
        while let Some(event) = natural(&state) {
            seen.push(state.name());
            state = next(&course, &state, &event).unwrap();
            let now = match serving(&state) {
                Side::Candidate => 10_000,
                Side::Old => weight(&course, &state),
            };
            // A rehearsal is the one exception, and asked for.
            prop_assert!(now >= share || state == State::RehearsingBack, "{state}: {share} to {now}");
            if state != State::RehearsingBack {
                share = now;
            }
        }
        prop_assert_eq!(state, State::Done);
        for (name, wanted) in [
            ("expanding", course.expands), ("warming", course.warms), ("shifting", !course.weights.is_empty()),
            ("rehearsing_back", course.rehearses), ("baking", course.bakes), ("promoted", course.has_old),
            ("contracting", course.contracts),
        ] {
            prop_assert_eq!(seen.contains(&name), wanted, "{}", name);
        }
        prop_assert_eq!(seen.iter().filter(|name| **name == "shifting").count(), course.weights.len());
    }

    #[test]
    fn a_final_state_stays(course in any_course(), event in any_event()) {
        for state in [State::Done, State::Refused { reason: reason() }, State::RolledBack { reason: reason() }] {
            prop_assert!(state.is_final());
            prop_assert!(next(&course, &state, &event).is_err());
        }
    }

    #[test]
    fn a_release_without_an_old_stamp_keeps_none(
        course in any_course(),
        events in proptest::collection::vec(any_event(), 0..60),
    ) {
        let course = Course { has_old: false, weights: vec![], rehearses: false, bakes: false, ..course };
        let mut state = State::Planned;
        for event in &events {
            state = next(&course, &state, event).unwrap_or(state);
            let keeps_one = matches!(state, State::Promoted | State::Retiring | State::TakingBack { .. });
            prop_assert!(!keeps_one);
        }
    }
}

/// A course through every state.
fn whole() -> Course {
    Course {
        has_old: true,
        expands: true,
        contracts: true,
        warms: true,
        weights: vec![1000, 5000],
        rehearses: true,
        bakes: true,
    }
}

#[test]
fn every_state_that_is_not_final_has_work_a_name_of_its_own_and_a_way_out() {
    let states = [
        State::Planned,
        State::Expanding,
        State::Provisioning,
        State::Verifying,
        State::Warming,
        State::Shifting { step: 0 },
        State::Switching,
        State::RehearsingBack,
        State::RehearsingForward,
        State::Baking,
        State::Promoted,
        State::TakingBack { reason: reason() },
        State::Retiring,
        State::Contracting,
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
            assert_ne!(next(&whole(), &state, &event).unwrap(), state);
            assert!(next(&whole(), &state, &Event::DeadlinePassed).is_ok(), "{state} has no deadline");
        }
    }
}

#[test]
fn a_candidate_nobody_could_reach_is_refused_and_another_rolled_back() {
    let failed = Event::Failed { reason: reason() };
    let ended = |state: State| {
        let aborting = next(&whole(), &state, &failed).unwrap();
        next(&whole(), &aborting, &Event::CandidateStopped).unwrap()
    };
    assert_eq!(ended(State::Provisioning), State::Refused { reason: reason() });
    assert_eq!(ended(State::Verifying), State::RolledBack { reason: reason() });
    assert_eq!(ended(State::Switching), State::RolledBack { reason: reason() });
}
