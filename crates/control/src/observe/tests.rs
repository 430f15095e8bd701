use super::*;
use crate::testing::gateway;
use api::gateway::StampMeasures;
use api::operator::LedgerPoint;
use model::name::FenceToken;

fn measures(pid: u32, requests: u64, answered: [u64; 2], cut: u64) -> Measures {
    let stamp = |id: u64, answered: u64| StampMeasures {
        stamp: StampId(id),
        classes: [0, 0, answered, 0, 0, 0],
        connect_failures: 0,
        routes: vec![RouteMeasures {
            route: "GET /".into(),
            requests: answered,
            errors: 0,
            halves: [vec![(100, answered)], vec![]],
        }],
    };
    Measures {
        v: api::PROTOCOL_VERSION,
        pid,
        at_ns: 0,
        requests,
        held: 0,
        queued: 0,
        retries: 0,
        faults: BTreeMap::from([("upstream_cut".to_owned(), cut)]),
        stamps: vec![stamp(1, answered[0]), stamp(2, answered[1])],
    }
}

fn watching() -> Watching {
    Watching {
        release: ReleaseNumber(2),
        old: Some(StampId(1)),
        candidate: StampId(2),
        state: "shifting",
        weight: 1000,
        resumed: false,
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_is_new_is_told_from_what_was_there() {
    let (before, now) = (measures(7, 10, [8, 2], 0), measures(7, 25, [20, 5], 0));
    let increment = since(Some(&before), &now, SECOND);
    assert!(!increment.incomplete);
    let of = |id: u64| increment.stamps[&StampId(id)]["GET /"].clone();
    assert_eq!((of(1).requests, of(2).requests), (12, 3));
    assert_eq!(of(1).halves[0].count(), 12);
    // Without requests there is nothing to tell.
    assert!(since(Some(&now), &now, SECOND).stamps[&StampId(1)].is_empty());
}

#[test]
fn another_gateway_begins_at_zero_and_what_the_last_one_counted_is_not_known() {
    let (before, now) = (measures(7, 1000, [900, 100], 0), measures(8, 5, [4, 1], 0));
    let increment = since(Some(&before), &now, SECOND);
    assert!(increment.incomplete);
    assert_eq!(increment.stamps[&StampId(1)]["GET /"].requests, 4);

    let mut open = ledger::Open::new(1000);
    open.add(Some(&before), &now, &increment, &watching());
    let point = open.close(&watching(), 2000);
    assert!(point.not_accounted);
    assert_eq!((point.counts.active, point.counts.candidate), (4, 1));
}

#[test]
fn every_request_is_in_one_column_of_the_ledger() {
    let (first, second, third) =
        (measures(7, 10, [8, 2], 0), measures(7, 22, [16, 5], 1), measures(7, 23, [16, 6], 1));
    let mut open = ledger::Open::new(1000);
    for (before, now) in [(&first, &second), (&second, &third)] {
        open.add(Some(before), now, &since(Some(before), now, SECOND), &watching());
    }
    let point = open.close(&watching(), 3000);
    let counts = point.counts;
    assert_eq!((counts.active, counts.candidate, counts.cut), (8, 4, 1));
    assert_eq!(counts.active + counts.candidate + counts.cut, third.requests - first.requests);
    assert_eq!((point.span_ms, point.weight, point.not_accounted), (2000, 1000, false));
    assert!(point.candidate_p95_ms.is_some());

    let text = serde_json::to_string(&point).unwrap();
    let whole = ledger::of_points(&[text.clone(), "of another version".into(), text]);
    assert_eq!((whole.total.active, whole.points.len()), (16, 2));
    assert!(whole.not_accounted.is_empty());
    // The next point begins where this one ended.
    assert_eq!(open.close(&watching(), 3500).span_ms, 500);
}

#[test]
fn what_the_queue_answers_and_refuses_is_accounted_for_and_held_against_no_stamp() {
    let before = measures(7, 10, [8, 2], 0);
    let mut now = measures(7, 22, [10, 2], 0);
    now.stamps[0].classes[5] = 1;
    now.queued = 5;
    let kinds = [("queue_full", 1), ("queue_timeout", 2), ("key_missing", 1), ("upstream_cut", 0)];
    now.faults = kinds.map(|(kind, count)| (kind.to_owned(), count)).into();
    let mut open = ledger::Open::new(1000);
    open.add(Some(&before), &now, &since(Some(&before), &now, SECOND), &watching());
    let counts = open.close(&watching(), 2000).counts;
    assert_eq!((counts.queued, counts.shed, counts.failed, counts.refused), (5, 1, 2, 1));
    // The 5xx is the service's own, whatever the queue has answered with.
    assert_eq!((counts.active, counts.errors), (3, 1));
    let all = counts.active + counts.candidate + counts.queued + counts.shed + counts.failed + counts.refused;
    assert_eq!(all, now.requests - before.requests);
    let text = serde_json::to_string(&LedgerPoint { counts, ..open.close(&watching(), 3000) }).unwrap();
    assert_eq!(ledger::of_points(&[text.clone(), text]).total.queued, 10);
}

#[test]
fn a_long_release_is_told_more_coarsely() {
    assert_eq!([0, COARSER_AFTER - 1, COARSER_AFTER, 10 * COARSER_AFTER].map(span_ticks), [1, 1, 10, 60]);
}

#[tokio::test]
async fn the_end_of_a_release_is_recorded_although_the_gateway_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gateway.sock");
    let seen = gateway(&socket);
    let router = Router::start(socket, FenceToken(1));
    let records = Records::open(&folder.path().join("control.db")).await.unwrap();
    let release = records.create_release(None, None, "{}".into(), 1).await.unwrap().number;
    let watching = Watching { release, ..watching() };
    let increments = broadcast::channel(INCREMENTS_KEPT).0;
    // Until the first reading, and after one.
    for first in [None, Some(measures(7, 10, [8, 2], 0))] {
        let (watch, mut watched) = watch::channel(Some(watching.clone()));
        watched.mark_unchanged();
        let before = records.ledger(release).await.unwrap().len();
        seen.lock().unwrap().measures = first.clone();
        let weak = increments.downgrade();
        let measuring = measure(&router, &records, watching.clone(), &mut watched, &weak);
        let ending = async {
            let mut counted = increments.subscribe();
            if first.is_some() {
                counted.recv().await.unwrap();
            }
            seen.lock().unwrap().measures = None;
            watch.send_replace(None);
        };
        let (measured, ()) = tokio::join!(measuring, ending);
        assert!(measured.is_ok());
        let points = records.ledger(release).await.unwrap();
        assert!(points.len() > before, "{first:?}");
        let last: LedgerPoint = serde_json::from_str(points.last().unwrap()).unwrap();
        assert!(last.not_accounted, "{first:?}");
    }
}
