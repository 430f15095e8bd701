use super::*;
use crate::histogram::bucket_of;

/// `fast` requests of 10 ms and `slow` ones of 310 ms.
fn requests(fast: u64, slow: u64) -> Histogram {
    [(bucket_of(10_000), fast), (bucket_of(310_000), slow)].into_iter().collect()
}

fn push(test: &mut TailTest, candidate: (u64, u64), active: (u64, u64)) {
    let candidate = requests(candidate.0, candidate.1);
    let halves =
        [requests(active.0 / 2, active.1 / 2), requests(active.0 - active.0 / 2, active.1 - active.1 / 2)];
    test.push(BlockInput { candidate: &candidate, active_halves: [&halves[0], &halves[1]] });
}

fn is_worse(test: &TailTest) -> bool {
    matches!(test.verdict(), TailVerdict::Worse(_))
}

/// After how many such blocks the candidate is blamed.
fn needed(candidate: (u64, u64), active: (u64, u64)) -> Option<u32> {
    let mut test = TailTest::new(ALPHA);
    push(&mut test, (100, 0), (900, 0));
    (1..=1_000).find(|_| {
        push(&mut test, candidate, active);
        is_worse(&test)
    })
}

#[test]
fn a_tail_of_the_candidate_alone_is_found() {
    assert_eq!(needed((97, 3), (900, 0)), Some(14));
    assert_eq!(needed((97, 3), (892, 8)), Some(14), "more than twice the share");
    assert_eq!(needed((99, 1), (892, 8)), None, "not more than twice the share");
    assert_eq!(needed((100, 0), (900, 0)), None);
    assert_eq!(needed((100, 0), (880, 20)), None);
    // With nine tenths of the traffic, most very slow requests are its own anyway.
    assert!(needed((900, 1), (100, 0)).is_none_or(|blocks| blocks > 80));
}

#[test]
fn pauses_that_hit_either_side_are_no_evidence() {
    let mut test = TailTest::new(ALPHA);
    for block in 0..600 {
        let (candidate, active) = match block % 30 {
            0 => ((90, 10), (900, 0)),
            10 => ((100, 0), (810, 90)),
            20 => ((90, 10), (810, 90)),
            _ => ((100, 0), (900, 0)),
        };
        push(&mut test, candidate, active);
    }
    assert_eq!((test.finding().blocks, test.finding().against), (59, 19));
    assert!(test.finding().peak < 20.0, "{:?}", test.finding());
    // A candidate that turns bad after that is found none the less.
    let found = (1..100).find(|_| {
        push(&mut test, (97, 3), (900, 0));
        is_worse(&test)
    });
    assert!(found.is_some_and(|blocks| blocks <= 40), "{found:?}");
}

#[test]
fn the_limit_comes_from_earlier_blocks_of_the_active_one() {
    let mut test = TailTest::new(ALPHA);
    push(&mut test, (97, 3), (REQUESTS_MIN - 1, 0));
    assert_eq!((test.limit_us(), test.finding().blocks), (None, 0));
    push(&mut test, (97, 3), (1, 0));
    assert_eq!(test.finding().blocks, 0);
    let limit = test.limit_us().unwrap();
    assert!((19_000..22_000).contains(&limit), "{limit}");
    push(&mut test, (97, 3), (100, 0));
    assert_eq!((test.finding().blocks, test.finding().against), (1, 1));
    // Where the active one has the same tail, it is not very slow.
    let mut test = TailTest::new(ALPHA);
    (0..100).for_each(|_| push(&mut test, (95, 5), (880, 20)));
    assert_eq!(test.finding().blocks, 0);
}

#[test]
fn the_finding_reads_well() {
    let mut test = TailTest::new(ALPHA);
    (0..21).for_each(|_| push(&mut test, (97, 3), (1_000, 0)));
    let finding = test.finding();
    let text = finding.text("GET /api/products");
    assert_eq!(
        text,
        "3 % of the candidate's requests took over 20 ms on GET /api/products, against 0 %, \
         2,000 and 20,000 requests, chance under 1 in 100,000"
    );
    let json = serde_json::to_string(&test.verdict()).unwrap();
    assert!(json.starts_with(r#"{"verdict":"worse","limit_us":"#), "{json}");
    assert_eq!(serde_json::from_str::<TailVerdict>(&json).unwrap(), test.verdict());
}
