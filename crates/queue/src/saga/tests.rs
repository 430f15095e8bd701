use super::*;
use model::flow::Method;
use model::name::ComponentName;
use model::queue::{SagaCall, SagaStep};
use model::template::Template;
use proptest::prelude::*;
use std::time::Duration;

fn saga(steps: &[(bool, bool)]) -> Saga {
    let call = SagaCall {
        method: Method::Post,
        to: ComponentName::new("a").unwrap(),
        path: Template::literal("/"),
        json: None,
    };
    let step = |(n, (undo, idempotent)): (usize, &(bool, bool))| SagaStep {
        name: format!("step-{n}"),
        call: call.clone(),
        undo: undo.then(|| call.clone()),
        attempts: 3,
        idempotent: *idempotent,
        probe: None,
        timeout: Duration::from_secs(1),
    };
    Saga { answer: "step-0".into(), steps: steps.iter().enumerate().map(step).collect() }
}

fn record(log: &mut Vec<Known>, place: Place, state: CallState) {
    match log.iter_mut().find(|known| known.place == place) {
        Some(known) => known.state = state,
        None => log.push(Known { place, state }),
    }
}

/// What the world thinks of one call: how often it has happened for good is at most once by its key.
fn is_resolved(state: Option<CallState>) -> bool {
    matches!(state, None | Some(CallState::Done | CallState::Refused | CallState::Again))
}

fn state(log: &[Known], step: u16, undo: bool) -> Option<CallState> {
    log.iter().find(|known| known.place == Place { step, undo }).map(|known| known.state)
}

proptest! {
    /// From every prefix of a run, with whatever outcome, a saga ends complete, or fully undone, or with an undo
    /// that is used up; past a pivot it only goes forward; nothing is done or undone while a call is in doubt.
    #[test]
    fn it_happens_or_is_undone(
        steps in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..6),
        outcomes in proptest::collection::vec(0_u8..8, 0..60),
    ) {
        let saga = saga(&steps);
        let mut log = Vec::new();
        let mut outcomes = outcomes.into_iter();
        let mut ended = None;
        for _ in 0..2_000 {
            let action = next(&saga, &log);
            // A crash loses nothing: the same log in another order says the same.
            let reversed: Vec<Known> = log.iter().rev().copied().collect();
            prop_assert_eq!(next(&saga, &reversed), action);
            let (place, resolving) = match action {
                Action::Call(place) => (place, false),
                Action::Resolve(place) => (place, true),
                Action::Complete | Action::Undone(_) | Action::Stuck(_) => {
                    ended = Some(action);
                    break;
                }
            };
            for other in &log {
                let own = other.place == place;
                prop_assert!(own || is_resolved(Some(other.state)), "{:?} is in doubt, {:?} is done", other, place);
            }
            if place.undo {
                prop_assert!(!is_past_pivot(&saga, usize::from(place.step) + 1), "a pivot is undone");
                prop_assert_eq!(state(&log, place.step, false), Some(CallState::Done));
                for later in place.step + 1..steps.len() as u16 {
                    let undone = state(&log, later, true) == Some(CallState::Done);
                    prop_assert!(undone || state(&log, later, false) != Some(CallState::Done), "not in reverse");
                }
            }
            if resolving {
                prop_assert!(!steps[usize::from(place.step)].1, "an idempotent call is resolved by its key");
                let found = outcomes.next().unwrap_or(0) % 3;
                record(&mut log, place, [CallState::Done, CallState::Again, CallState::Unknown][usize::from(found)]);
                continue;
            }
            record(&mut log, place, CallState::Begun);
            // Killed here: `next` sees it as begun. Otherwise its outcome is written down. Once the outcomes are
            // used up everything succeeds.
            let past_pivot = !place.undo && is_past_pivot(&saga, usize::from(place.step));
            match outcomes.next().unwrap_or(3) {
                0 => {}
                1 => record(&mut log, place, CallState::Again),
                2 if !past_pivot => record(&mut log, place, CallState::Refused),
                4 if !steps[usize::from(place.step)].1 => record(&mut log, place, CallState::Unknown),
                _ => record(&mut log, place, CallState::Done),
            }
        }
        let done = |step: &u16| state(&log, *step, false) == Some(CallState::Done);
        let undone = |step: &u16| state(&log, *step, true) == Some(CallState::Done);
        let all = 0..steps.len() as u16;
        match ended {
            Some(Action::Complete) => {
                prop_assert!(all.clone().all(|step| done(&step)));
                prop_assert!(!all.clone().any(|step| state(&log, step, true).is_some()));
            }
            Some(Action::Undone(refused)) => {
                prop_assert!(all.clone().filter(done).all(|step| undone(&step)));
                prop_assert!(!done(&refused));
            }
            Some(Action::Stuck(step)) => {
                prop_assert_eq!(state(&log, step, true), Some(CallState::Refused));
                prop_assert!(done(&step));
            }
            other => prop_assert!(false, "it does not end: {other:?}, {log:?}"),
        }
    }
}

#[test]
fn one_step_after_the_other() {
    let saga = saga(&[(true, true), (false, false), (true, true)]);
    let call = |step| Action::Call(Place { step, undo: false });
    let mut log = Vec::new();
    for step in 0..3 {
        assert_eq!(next(&saga, &log), call(step));
        record(&mut log, Place { step, undo: false }, CallState::Done);
    }
    assert_eq!(next(&saga, &log), Action::Complete);
    // The last step follows a pivot: refused or not, it is made again.
    record(&mut log, Place { step: 2, undo: false }, CallState::Refused);
    assert_eq!(next(&saga, &log), call(2));
    // A pivot that was refused did not happen: what is before it is undone.
    let pivot = Place { step: 1, undo: false };
    let mut log = vec![Known { place: Place { step: 0, undo: false }, state: CallState::Done }];
    record(&mut log, pivot, CallState::Begun);
    assert_eq!(next(&saga, &log), Action::Resolve(pivot), "it is not idempotent");
    record(&mut log, pivot, CallState::Refused);
    assert_eq!(next(&saga, &log), Action::Call(Place { step: 0, undo: true }));
    record(&mut log, Place { step: 0, undo: true }, CallState::Refused);
    assert_eq!(next(&saga, &log), Action::Stuck(0));
    record(&mut log, Place { step: 0, undo: true }, CallState::Done);
    assert_eq!(next(&saga, &log), Action::Undone(1));
}
