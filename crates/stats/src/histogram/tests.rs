use super::*;
use proptest::prelude::*;

#[test]
fn the_layout_is_what_others_have_copied() {
    assert_eq!(BUCKETS, 16 + 16 * 22);
    let table = [
        (0, 0, (0, 1)),
        (15, 15, (15, 16)),
        (16, 16, (16, 17)),
        (31, 31, (31, 32)),
        (32, 32, (32, 34)),
        (33, 32, (32, 34)),
        (1_000, 16 + 5 * 16 + 15, (992, 1_024)),
        (1_000_000, 16 + 15 * 16 + 14, (983_040, 1_015_808)),
        ((1 << 26) - 1, BUCKETS - 1, (65_011_712, 1 << 26)),
        (1 << 26, BUCKETS - 1, (65_011_712, 1 << 26)),
        (u64::MAX, BUCKETS - 1, (65_011_712, 1 << 26)),
    ];
    for (us, bucket, ends) in table {
        assert_eq!((bucket_of(us), bounds(bucket)), (bucket, ends), "{us} µs");
    }
}

#[test]
fn buckets_lie_end_to_end() {
    for bucket in 1..BUCKETS {
        assert_eq!(bounds(bucket - 1).1, bounds(bucket).0, "bucket {bucket}");
        let (low, high) = bounds(bucket);
        assert!(low < 16 || high - low <= low / 16, "bucket {bucket} is too wide");
    }
}

fn histogram(values: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    values.iter().for_each(|us| histogram.record(*us));
    histogram
}

#[test]
fn quantiles_are_interpolated() {
    assert_eq!(Histogram::default().quantile(0.5), None);
    assert_eq!(histogram(&[10]).quantile(0.5), Some(10.5));
    assert_eq!(histogram(&[1, 3]).quantile(0.5), Some(2.0));
    assert_eq!(histogram(&[1, 3]).quantile(0.0), Some(1.0));
    assert_eq!(histogram(&[1, 3]).quantile(7.0), Some(4.0));
    let even: Vec<u64> = (0..1 << 17).collect();
    for q in [0.1, 0.5, 0.95, 0.99] {
        let found = histogram(&even).quantile(q).unwrap();
        assert!((found - q * 131_072.0).abs() < 2.0, "{q}: {found}");
    }
}

#[test]
fn only_what_is_certainly_above_is_counted() {
    let histogram = histogram(&[5, 100, 300, 70_000_000]);
    assert_eq!(histogram.above(0), 4);
    assert_eq!(histogram.above(5), 4);
    assert_eq!(histogram.above(6), 3);
    // 101 lies within the bucket of 100.
    assert_eq!(histogram.above(101), 2);
    assert_eq!(histogram.above(1 << 26), 0);
}

#[test]
fn a_counter_that_was_started_over_is_all_new() {
    let before = histogram(&[10, 10, 500]);
    let mut after = before.clone();
    after.record(700);
    assert_eq!(after.since(&before), histogram(&[700]));
    assert_eq!(histogram(&[10]).since(&before), histogram(&[10]));
    assert_eq!(before.since(&before), Histogram::default());
}

#[test]
fn counts_do_not_start_over() {
    let mut full = Histogram::default();
    full.add(3, u64::MAX);
    full.add(BUCKETS + 5, 2);
    full.record(2);
    assert_eq!(full.count(), u64::MAX);
}

proptest! {
    #[test]
    fn every_value_lies_in_its_bucket(us in 0_u64..(1 << 27)) {
        let (low, high) = bounds(bucket_of(us));
        prop_assert!(low <= us && (us < high || us >= 1 << 26));
    }

    #[test]
    fn a_merge_counts_both(
        a in prop::collection::vec(0_u64..1 << 28, 0..50),
        b in prop::collection::vec(0_u64..1 << 28, 0..50),
    ) {
        let mut merged = histogram(&a);
        merged.merge(&histogram(&b));
        prop_assert_eq!(&merged, &histogram(&[a.clone(), b].concat()));
        prop_assert_eq!(merged.since(&histogram(&a)).count() + a.len() as u64, merged.count());
    }

    #[test]
    fn quantiles_rise(
        values in prop::collection::vec(0_u64..1 << 28, 1..80),
        q in 0.0..1.0_f64,
        r in 0.0..1.0_f64,
    ) {
        let h = histogram(&values);
        let (low, high) = (q.min(r), q.max(r));
        prop_assert!(h.quantile(low) <= h.quantile(high));
    }

    #[test]
    fn text_and_back(values in prop::collection::vec(0_u64..1 << 28, 0..50)) {
        let h = histogram(&values);
        let text = serde_json::to_string(&h).unwrap();
        prop_assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), h);
    }
}
