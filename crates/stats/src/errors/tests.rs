use super::*;
use proptest::prelude::*;

fn counts(
    candidate_requests: u64,
    candidate_errors: u64,
    active_requests: u64,
    active_errors: u64,
) -> Counts {
    Counts { candidate_requests, candidate_errors, active_requests, active_errors }
}

fn is_worse(test: &ErrorTest) -> bool {
    matches!(test.verdict(), ErrorVerdict::Worse(_))
}

/// How many seconds with this in each it takes.
fn needed(second: Counts) -> Option<u32> {
    let mut test = ErrorTest::new(ALPHA);
    (1..=1_000).find(|_| {
        test.observe(second);
        is_worse(&test)
    })
}

#[test]
fn a_few_errors_of_the_candidate_alone_are_enough() {
    assert_eq!(needed(counts(10, 1, 90, 0)), Some(5), "a tenth of the traffic");
    assert_eq!(needed(counts(50, 1, 50, 0)), Some(13), "half of the traffic");
    assert_eq!(needed(counts(500, 5, 500, 0)), Some(3));
    assert_eq!(needed(counts(500, 5, 500, 1)), Some(7));
    assert_eq!(needed(counts(500, 5, 500, 5)), None);
    assert_eq!(needed(counts(500, 1, 500, 5)), None);
}

#[test]
fn at_low_rates_windows_gather_until_a_share_is_known() {
    // One request of the candidate for every nine of the active one, all of its own failing.
    let mut test = ErrorTest::new(ALPHA);
    let found = (1..200).find(|second| {
        test.observe(if second % 10 == 0 { counts(1, 1, 0, 0) } else { counts(0, 0, 1, 0) });
        is_worse(&test)
    });
    assert!(found.is_some_and(|second| second <= 80), "{found:?}: {test:?}");
}

#[test]
fn one_burst_does_not_decide() {
    let mut test = ErrorTest::new(ALPHA);
    test.observe(counts(100, 100, 900, 0));
    assert!(!is_worse(&test), "{test:?}");
    // Nor does a burst of the active one hide a candidate that turns bad later.
    let mut test = ErrorTest::new(ALPHA);
    (0..20).for_each(|_| test.observe(counts(100, 0, 900, 900)));
    (0..6).for_each(|_| test.observe(counts(100, 5, 900, 0)));
    assert!(is_worse(&test), "{test:?}");
}

#[test]
fn an_outage_of_both_under_changing_shares_is_no_evidence() {
    let mut test = ErrorTest::new(ALPHA);
    (0..30).for_each(|_| test.observe(counts(100, 0, 900, 0)));
    for _ in 0..50 {
        test.observe(counts(500, 250, 500, 250));
    }
    assert!(test.finding().peak < 10.0, "{test:?}");
}

#[test]
fn with_one_side_alone_nothing_is_compared() {
    let mut test = ErrorTest::new(ALPHA);
    (0..100).for_each(|_| test.observe(counts(100, 100, 0, 0)));
    assert_eq!((test.e_value(), test.finding().counts), (1.0, Counts::default()));
    // What waited under the old share does not go with an error under the new one.
    test.observe(counts(0, 0, 90, 0));
    test.weights_changed();
    test.observe(counts(15, 1, 15, 0));
    assert_eq!(test.finding().counts, counts(15, 1, 15, 0));
}

#[test]
fn the_finding_reads_well() {
    let finding =
        ErrorFinding { counts: counts(412, 9, 3_801, 4), e_value: 2.0, peak: 1_044.0, alpha: ALPHA };
    assert_eq!(
        finding.to_string(),
        "candidate 2.2 % errors against 0.11 %, 412 and 3,801 requests, chance under 1 in 1,000"
    );
    let verdict = ErrorVerdict::Worse(finding);
    let text = serde_json::to_string(&verdict).unwrap();
    assert!(text.starts_with(r#"{"verdict":"worse","counts":{"candidate_requests":412,"#), "{text}");
    assert_eq!(serde_json::from_str::<ErrorVerdict>(&text).unwrap(), verdict);
}

#[test]
fn a_test_can_be_stored_and_goes_on() {
    let mut test = ErrorTest::new(ALPHA);
    (0..4).for_each(|_| test.observe(counts(10, 1, 90, 0)));
    let mut read: ErrorTest = serde_json::from_str(&serde_json::to_string(&test).unwrap()).unwrap();
    assert!(!is_worse(&read));
    read.observe(counts(10, 1, 90, 0));
    assert!(is_worse(&read));
}

fn ln_choose(n: u64, k: u64) -> f64 {
    (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum()
}

proptest! {
    /// Every way the errors of a window can fall, each with its chance: the evidence is expected not to grow.
    #[test]
    fn evidence_is_not_expected_to_grow(c in 1_u64..60, a in 20_u64..200, errors in 1_u64..40) {
        let mut expected = 0.0;
        for mine in errors.saturating_sub(a)..=errors.min(c) {
            let chance = ln_choose(c, mine) + ln_choose(a, errors - mine) - ln_choose(c + a, errors);
            let mut test = ErrorTest::new(ALPHA);
            test.observe(counts(c, mine, a, errors - mine));
            expected += chance.exp() * test.e_value();
        }
        prop_assert!(expected < 1.0 + 1e-9, "{}", expected);
    }
}
