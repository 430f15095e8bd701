use super::*;
use proptest::prelude::*;

fn fails(test: &ObjectiveTest) -> bool {
    matches!(test.verdict(), ObjectiveVerdict::Fails(_))
}

/// After how many seconds with this in each it fails.
fn needed(mut test: ObjectiveTest, requests: u64, exceptions: u64) -> Option<u32> {
    (1..=2_000).find(|_| {
        test.observe(requests, exceptions);
        fails(&test)
    })
}

#[test]
fn a_share_above_its_limit_fails() {
    let errors = || ObjectiveTest::errors(0.01, ALPHA);
    assert_eq!(needed(errors(), 100, 5), Some(4));
    assert_eq!(needed(errors(), 100, 100), Some(3), "no second decides alone");
    assert_eq!(needed(errors(), 100, 1), None);
    assert_eq!(needed(errors(), 1, 1), Some(4));
    assert_eq!(needed(ObjectiveTest::errors(0.0, ALPHA), 100, 1), Some(4));
    let p99 = || ObjectiveTest::p99(200_000, ALPHA);
    assert_eq!(needed(p99(), 100, 10), Some(10));
    assert_eq!(needed(p99(), 100, 1), None);
}

#[test]
fn the_limit_alone_is_what_was_before() {
    let test = ObjectiveTest::errors_as_before(2_000, 1, ALPHA).unwrap();
    assert!((test.limit - 0.0045).abs() < 1e-9, "1 and 2 and 3, times 1.5, of 2,000");
    assert_eq!(needed(test.clone(), 50, 0), None);
    assert!(needed(test, 50, 1).is_some_and(|seconds| seconds < 40));
    assert_eq!(ObjectiveTest::errors_as_before(99, 0, ALPHA), None);
}

#[test]
fn three_answers() {
    let mut test = ObjectiveTest::errors(0.01, ALPHA);
    test.observe(299, 0);
    assert!(matches!(test.verdict(), ObjectiveVerdict::TooFew(_)));
    test.observe(1, 0);
    assert!(matches!(test.verdict(), ObjectiveVerdict::Holds(_)));
    test.observe(0, 5);
    test.observe(1, 4);
    assert!(matches!(test.verdict(), ObjectiveVerdict::Holds(f) if f.exceptions == 1));
    test.observe(10, 3);
    assert!(matches!(test.verdict(), ObjectiveVerdict::TooFew(_)), "above, by no more than chance explains");
}

#[test]
fn a_good_hour_does_not_hide_a_bad_minute() {
    let mut test = ObjectiveTest::p99(200_000, ALPHA);
    (0..3_600).for_each(|_| test.observe(100, 0));
    let found = needed(test, 100, 30);
    assert!(found.is_some_and(|seconds| seconds <= 60), "{found:?}");
}

#[test]
fn findings_read_well() {
    let finding = |what| ObjectiveFinding {
        what,
        limit: 0.01,
        requests: 1_204,
        exceptions: 26,
        e_value: 1.0,
        peak: 2_100.0,
    };
    let table = [
        (What::Errors, "2.2 % errors on GET /, 1 % allowed, 1,204 requests, chance under 1 in 1,000"),
        (
            What::ErrorsAlone { requests_before: 2_000, errors_before: 1 },
            "2.2 % errors on GET /, 0.05 % before with the active one, 1,204 requests, chance under 1 in 1,000",
        ),
        (
            What::OverP99 { limit_us: 200_000 },
            "2.2 % of requests over 200 ms on GET /, 1 % allowed, 1,204 requests, chance under 1 in 1,000",
        ),
    ];
    for (what, text) in table {
        let finding = finding(what);
        assert_eq!(finding.text("GET /"), text);
        assert_eq!(finding.to_string(), text.replace(" on GET /", ""));
        let verdict = ObjectiveVerdict::Fails(finding);
        let json = serde_json::to_string(&verdict).unwrap();
        assert_eq!(serde_json::from_str::<ObjectiveVerdict>(&json).unwrap(), verdict, "{json}");
    }
}

proptest! {
    /// Every number of exceptions with its chance: the evidence is expected not to grow, at the limit or
    /// below.
    #[test]
    fn evidence_is_not_expected_to_grow(n in 1_u64..80, limit in 0.001..0.3_f64, below in 0.0..1.0_f64) {
        let p = limit * below;
        let (mut expected, mut chance) = (0.0, (1.0 - p).powi(n as i32));
        for k in 0..=n {
            let mut test = ObjectiveTest::errors(limit, ALPHA);
            test.observe(n, k);
            expected += chance * test.finding().e_value;
            chance *= (n - k) as f64 / (k + 1) as f64 * p / (1.0 - p);
        }
        prop_assert!(expected < 1.0 + 1e-9, "{}", expected);
    }
}
