use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// An even spread, as real hashes have.
fn spread(n: u64) -> KeyHash {
    let mix = |n: u64| {
        let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    };
    KeyHash { key: mix(n), scope: mix(n.wrapping_add(1 << 40)) }
}

#[test]
fn a_key_takes_24_bytes() {
    assert_eq!(size_of::<Entry>(), 24);
}

#[test]
fn hashes_are_written_and_read() {
    let hash = spread(5);
    assert_eq!(KeyHash::from_bytes(hash.to_bytes()), hash);
    assert_eq!(hash.to_bytes()[..8], hash.key.to_be_bytes());
}

#[test]
fn keys_are_found_in_whatever_segment_they_lie() {
    let mut keys = Keys::default();
    let many = (SEGMENT_KEYS * (MERGED_SEGMENTS + 1) + 100) as u64;
    for n in 1..=many {
        keys.insert(spread(n), JobId(n), n as i64);
    }
    assert_eq!(keys.len() as u64, many);
    assert_eq!(keys.sealed.len(), 2, "the first ones are merged");
    for n in (1..=many).step_by(97) {
        assert_eq!(keys.get(spread(n)), Some(JobId(n)));
        assert_eq!(keys.with_key(spread(n).key), [JobId(n)]);
        assert_eq!(keys.get(spread(n + many)), None);
    }
}

#[test]
fn what_is_forgotten_is_swept_and_what_is_not_stays() {
    let mut keys = Keys::default();
    for n in 1..=(2 * SEGMENT_KEYS as u64) {
        keys.insert(spread(n), JobId(n), n as i64);
    }
    assert_eq!(keys.to_sweep(SEGMENT_KEYS as i64, 0), None, "its newest key is too new");
    let stretch = keys.to_sweep(SEGMENT_KEYS as i64 + 1, 0).unwrap();
    assert_eq!(stretch, Stretch { first: JobId(1), last: JobId(SEGMENT_KEYS as u64) });
    keys.sweep(stretch, &[JobId(7)], 10);
    assert_eq!(keys.to_sweep(SEGMENT_KEYS as i64 + 1, 10), None, "swept already");
    assert_eq!(keys.len(), 1 + SEGMENT_KEYS);
    assert_eq!((keys.get(spread(7)), keys.get(spread(8))), (Some(JobId(7)), None));
    let again = keys.to_sweep(SEGMENT_KEYS as i64 + 1, 11).unwrap();
    keys.sweep(again, &[], 12);
    assert_eq!(keys.sealed.len(), 1);
    assert_eq!(keys.get(spread(SEGMENT_KEYS as u64 + 1)), Some(JobId(SEGMENT_KEYS as u64 + 1)));
}

#[test]
fn few_keys_that_are_not_there_are_searched_for() {
    let entries: Vec<Entry> = (0..SEGMENT_KEYS as u64).map(|n| Entry { hash: spread(n), id: n }).collect();
    let filter = Filter::of(&entries);
    assert!(entries.iter().all(|entry| filter.passes(entry.hash)));
    let others = SEGMENT_KEYS as u64..2 * SEGMENT_KEYS as u64;
    let passed = others.filter(|n| filter.passes(spread(*n))).count();
    assert!(passed * 50 < SEGMENT_KEYS, "{passed} of {SEGMENT_KEYS} pass");
}

proptest! {
    /// Segments of any hashes, equal and uneven ones among them, say what a map says.
    #[test]
    fn segments_are_maps(keys in proptest::collection::vec((0_u64..40, 0_u64..3, any::<bool>()), 1..200)) {
        let hash = |(key, scope, far): (u64, u64, bool)| KeyHash { key: if far { key << 50 } else { key }, scope };
        let mut expected = BTreeMap::new();
        let mut entries = Vec::new();
        for (id, key) in keys.iter().enumerate() {
            expected.insert(hash(*key), id as u64);
            entries.push(Entry { hash: hash(*key), id: id as u64 });
        }
        entries.sort();
        let filter = Filter::of(&entries);
        let segment = Segment { entries, filter, first_id: 0, last_id: 0, newest_ms: 0, swept_ms: 0 };
        for key in 0..41 {
            for scope in 0..4 {
                for far in [false, true] {
                    let hash = hash((key, scope, far));
                    prop_assert_eq!(segment.get(hash), expected.get(&hash).copied());
                }
            }
        }
    }
}
