use super::*;
use model::flow::{Method, Objective};
use model::workload::Route as Listed;
use std::time::Duration;

const OLD: StampId = StampId(1);
const NEW: StampId = StampId(2);

/// What a service did on a route in a second.
#[derive(Clone, Copy)]
struct Second {
    requests: u64,
    errors: u64,
    us: u64,
    /// Of a hundred requests, how many take ten times as long.
    slow: u64,
}

const FINE: Second = Second { requests: 200, errors: 0, us: 20_000, slow: 0 };

fn counted(second: Second) -> Counted {
    let mut halves = [Histogram::default(), Histogram::default()];
    for request in 0..second.requests {
        // Spread evenly over a third around the middle, the same way each second.
        let us = second.us * (5 + request * 7 % 3) / 6;
        let slow = (request * 37 % 100) < second.slow;
        halves[(request % 2) as usize].record(if slow { us * 10 } else { us });
    }
    Counted { requests: second.requests, errors: second.errors, halves }
}

fn configuration(objective: Option<Objective>) -> Configuration {
    let mut configuration = crate::testing::configuration();
    configuration.gateway.routes =
        vec![Listed { method: Method::Get, path: "/a".into(), objective, queue: None, previous_stamp: None }];
    configuration
}

/// What is held against a candidate after so many seconds beside the old stamp.
fn after(seconds: u64, old: Second, new: Second, weight: u16, objective: Option<Objective>) -> Vec<Check> {
    seen(seconds, old, new, weight, objective).against()
}

fn seen(seconds: u64, old: Second, new: Second, weight: u16, objective: Option<Objective>) -> Evidence {
    let configuration = configuration(objective);
    let mut evidence = Evidence::default();
    evidence.begin_step(weight);
    if weight == 10_000 {
        evidence.alone(100_000, 0);
    }
    for _ in 0..seconds {
        let mut stamps = BTreeMap::from([(NEW, BTreeMap::from([("GET /a".to_owned(), counted(new))]))]);
        if weight < 10_000 {
            stamps.insert(OLD, BTreeMap::from([("GET /a".to_owned(), counted(old))]));
        }
        let increment = Increment { span: Duration::from_secs(1), stamps, incomplete: false };
        evidence.take(&increment, Sides { old: Some(OLD), candidate: NEW, weight }, &configuration);
    }
    assert_eq!(evidence.step().candidate_requests, new.requests * seconds);
    evidence
}

fn first(found: &[Check]) -> Option<&str> {
    found.first().map(|check| check.check.as_str())
}

#[test]
fn one_that_is_no_worse_is_not_blamed() {
    let errors = Second { errors: 2, ..FINE };
    for (old, new) in [(FINE, FINE), (errors, errors), (errors, FINE), (FINE, Second { us: 15_000, ..FINE })]
    {
        assert!(after(60, old, new, 5000, None).is_empty());
    }
}

#[test]
fn each_way_of_being_worse_is_found_by_its_check() {
    let table = [
        ("errors", Second { errors: 4, ..FINE }, 5000, None),
        ("latency", Second { us: 60_000, ..FINE }, 5000, None),
        ("tail", Second { slow: 3, ..FINE }, 5000, None),
        ("errors", Second { errors: 20, ..FINE }, 10_000, None),
        (
            "objective",
            Second { slow: 3, ..FINE },
            10_000,
            Some(Objective { errors: 0.01, p99: Some(Duration::from_millis(100)) }),
        ),
    ];
    for (expected, new, weight, objective) in table {
        let found = after(60, FINE, new, weight, objective);
        assert_eq!(first(&found), Some(expected), "{found:?}");
        assert!(found[0].numbers.is_object() && found[0].verdict == Verdict::Fail, "{found:?}");
    }
}

#[test]
fn an_objective_that_the_old_stamp_misses_too_is_not_held_against_the_new_one() {
    let slow = Second { us: 150_000, ..FINE };
    let objective = Some(Objective { errors: 0.01, p99: Some(Duration::from_millis(100)) });
    assert!(after(60, slow, slow, 5000, objective).is_empty());
    assert_eq!(first(&after(60, FINE, slow, 5000, objective)), Some("latency"));
}

#[test]
fn a_step_that_is_too_short_for_a_verdict_can_still_look_bad() {
    let slow = Second { us: 60_000, ..FINE };
    for (seconds, new, suspicious) in [(5, slow, true), (2, slow, false), (5, FINE, false)] {
        let evidence = seen(seconds, FINE, new, 5000, None);
        assert!(evidence.against().is_empty());
        assert_eq!(evidence.suspicious().is_some(), suspicious, "{seconds}");
    }
}

#[test]
fn a_step_counts_its_own_requests() {
    let configuration = configuration(None);
    let mut evidence = Evidence::default();
    evidence.begin_step(1000);
    let stamps = BTreeMap::from([(NEW, BTreeMap::from([("GET /a".to_owned(), counted(FINE))]))]);
    let increment = Increment { span: Duration::from_secs(1), stamps, incomplete: false };
    let sides = Sides { old: Some(OLD), candidate: NEW, weight: 1000 };
    evidence.take(&increment, sides, &configuration);
    assert_eq!(evidence.step().candidate_requests, 200);
    evidence.begin_step(5000);
    assert_eq!(evidence.step().candidate_requests, 0);
}
