use super::*;

/// `count` requests spread evenly from `low` to `high` milliseconds.
fn spread(count: u64, low: f64, high: f64) -> Histogram {
    let mut histogram = Histogram::default();
    for i in 0..count {
        histogram.record(((low + (high - low) * (i as f64 + 0.5) / count as f64) * 1_000.0) as u64);
    }
    histogram
}

fn push(test: &mut LatencyTest, candidate: &Histogram, active: [&Histogram; 2]) {
    test.push(BlockInput { candidate, active_halves: active });
}

/// So many blocks of a candidate and an active one, both from 0.8 to 1.2 times these milliseconds.
fn blocks(test: &mut LatencyTest, times: usize, candidate_ms: f64, active_ms: f64) {
    let candidate = spread(100, candidate_ms * 0.8, candidate_ms * 1.2);
    let half = spread(50, active_ms * 0.8, active_ms * 1.2);
    (0..times).for_each(|_| push(test, &candidate, [&half, &half]));
}

fn worse(test: &LatencyTest) -> Option<LatencyFinding> {
    match test.verdict() {
        LatencyVerdict::Worse(finding) => Some(finding),
        LatencyVerdict::Fine { .. } | LatencyVerdict::TooFew { .. } => None,
    }
}

#[test]
fn eight_of_the_last_ten_blocks_decide() {
    let mut test = LatencyTest::new();
    blocks(&mut test, 7, 60.0, 20.0);
    assert_eq!(test.verdict(), LatencyVerdict::TooFew { blocks: 7, over: 7 });
    blocks(&mut test, 3, 20.0, 20.0);
    assert_eq!(test.verdict(), LatencyVerdict::Fine { blocks: 10, over: 7 });
    blocks(&mut test, 7, 60.0, 20.0);
    assert!(worse(&test).is_none(), "the first seven are forgotten");
    blocks(&mut test, 1, 60.0, 20.0);
    let finding = worse(&test).unwrap();
    assert_eq!((finding.which, finding.over, finding.blocks), (Quantile::P50, 8, 10));
    assert!((finding.factor - 3.0).abs() < 0.1 && !finding.alone, "{finding:?}");
    blocks(&mut test, 3, 20.0, 20.0);
    assert!(worse(&test).is_none(), "it can be taken back");
}

#[test]
fn what_is_compared_and_what_is_allowed() {
    // Candidate, active one, whether ten such blocks are too slow.
    let table = [
        (20.0, 20.0, false),
        (28.0, 20.0, false),
        (36.0, 20.0, true),
        (20.0, 60.0, false),
        // Five milliseconds more are always allowed.
        (4.0, 1.0, false),
        (8.0, 1.0, true),
    ];
    for (candidate, active, expected) in table {
        let mut test = LatencyTest::new();
        blocks(&mut test, 10, candidate, active);
        assert_eq!(worse(&test).is_some(), expected, "{candidate} against {active}");
    }
}

#[test]
fn what_differs_between_the_halves_is_noise() {
    let (low, high) = (spread(50, 16.0, 24.0), spread(50, 64.0, 96.0));
    let candidate = spread(100, 60.0, 64.0);
    let mut test = LatencyTest::new();
    (0..10).for_each(|_| push(&mut test, &candidate, [&low, &high]));
    assert!(worse(&test).is_none());
    let mut test = LatencyTest::new();
    let mut even = spread(25, 16.0, 24.0);
    even.merge(&spread(25, 64.0, 96.0));
    (0..10).for_each(|_| push(&mut test, &candidate, [&even, &even]));
    assert!(worse(&test).is_some());
}

#[test]
fn one_slow_request_of_ten_is_luck() {
    let mut lucky = spread(9, 10.0, 12.0);
    lucky.record(300_000);
    let half = spread(45, 10.0, 12.0);
    let mut test = LatencyTest::new();
    (0..10).for_each(|_| push(&mut test, &lucky, [&half, &half]));
    assert!(worse(&test).is_none());
    // Ten of a hundred are not.
    let mut slow = spread(90, 10.0, 12.0);
    slow.add(crate::histogram::bucket_of(84_000), 10);
    (0..10).for_each(|_| push(&mut test, &slow, [&half, &half]));
    let finding = worse(&test).unwrap();
    assert_eq!(finding.which, Quantile::P95);
    assert_eq!(
        finding.text("GET /api/products"),
        "p95 84 ms against 12 ms on GET /api/products, in 10 of 10 blocks"
    );
    assert_eq!(finding.to_string(), "p95 84 ms against 12 ms, in 10 of 10 blocks");
    let text = serde_json::to_string(&test.verdict()).unwrap();
    assert!(text.starts_with(r#"{"verdict":"worse","which":"p95","factor":"#), "{text}");
    assert_eq!(serde_json::from_str::<LatencyVerdict>(&text).unwrap(), test.verdict());
}

#[test]
fn alone_it_is_compared_with_what_was_before() {
    let mut test = LatencyTest::new();
    (0..20).for_each(|_| test.push_alone(&spread(100, 50.0, 60.0)));
    assert_eq!(test.verdict(), LatencyVerdict::TooFew { blocks: 0, over: 0 }, "nothing is known of before");
    blocks(&mut test, 9, 20.0, 20.0);
    blocks(&mut test, 1, 25.0, 25.0);
    // Twice the slowest block of before is allowed.
    (0..10).for_each(|_| test.push_alone(&spread(100, 44.0, 48.0)));
    assert_eq!(test.verdict(), LatencyVerdict::Fine { blocks: 10, over: 0 });
    (0..8).for_each(|_| test.push_alone(&spread(100, 60.0, 64.0)));
    let finding = worse(&test).unwrap();
    assert_eq!(finding.text("GET /"), "p50 62 ms against 20 ms before on GET /, in 8 of 10 blocks");
}

#[test]
fn a_block_without_requests_says_nothing() {
    let (none, some) = (Histogram::default(), spread(20, 1.0, 2.0));
    let mut test = LatencyTest::new();
    (0..20).for_each(|_| push(&mut test, &none, [&some, &some]));
    (0..20).for_each(|_| push(&mut test, &some, [&none, &none]));
    assert_eq!(test.verdict(), LatencyVerdict::TooFew { blocks: 0, over: 0 });
}
