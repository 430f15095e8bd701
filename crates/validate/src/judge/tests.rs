use super::*;
use crate::latency::Latency;
use crate::ledger::LedgerReport;
use crate::outcome::Outcomes;

fn flow(requests: u64, failed: u64, errors_limit: f64) -> FlowReport {
    FlowReport {
        flow: "checkout".into(),
        plays: requests,
        outcomes: Outcomes { ok: requests - failed, timeout: failed, ..Outcomes::default() },
        errors_limit,
        p99_limit_ms: None,
        over_p99_limit: 0,
        latency: Latency { count: requests, ..Latency::default() },
        steps: Vec::new(),
        looked_up: false,
        verdict: Verdict::Inconclusive,
    }
}

pub(crate) fn report(flows: Vec<FlowReport>) -> LoadReport {
    let mut outcomes = Outcomes::default();
    flows.iter().for_each(|flow| outcomes.add(&flow.outcomes));
    LoadReport {
        verdict: Verdict::Inconclusive,
        reasons: Vec::new(),
        seed: 7,
        planned_rate: 100.0,
        achieved_rate: 100.0,
        planned_seconds: 10.0,
        seconds: 10.0,
        stopped: false,
        started: 1000,
        not_started: 0,
        in_flight_limit: 10_000,
        requests: outcomes.requests(),
        failed: outcomes.failed(),
        outcomes,
        connection_waits: 0,
        latency: Latency::default(),
        queued: crate::report::Queued::default(),
        flows,
        skipped: Vec::new(),
        broken: Vec::new(),
        samples: Vec::new(),
        lag: Latency::default(),
        lag_budget_ms: 100.0,
        steal: None,
        ledger: None,
        ledger_refused: 0,
    }
}

fn judged(mut report: LoadReport) -> (Verdict, Vec<String>) {
    judge(&mut report);
    (report.verdict, report.reasons)
}

#[test]
fn a_share_exactly_at_the_limit_passes() {
    let table = [
        (1000, 1, 0.001, Verdict::Pass),
        (1000, 2, 0.001, Verdict::Fail),
        (100, 29, 0.29, Verdict::Pass),
        (100, 30, 0.29, Verdict::Fail),
        (10, 0, 0.0, Verdict::Pass),
        (10, 1, 0.0, Verdict::Fail),
        (1_000_000, 1, 0.0, Verdict::Fail),
        (3, 3, 1.0, Verdict::Pass),
        (999, 1, 0.001, Verdict::Fail),
    ];
    for (requests, failed, limit, verdict) in table {
        let report = report(vec![flow(requests, failed, limit)]);
        assert_eq!(judged(report).0, verdict, "{failed} of {requests} against {limit}");
    }
}

#[test]
fn a_share_above_the_limit_is_said_with_its_numbers() {
    let (_, reasons) = judged(report(vec![flow(1000, 12, 0.001)]));
    assert_eq!(reasons, ["flow checkout: 1.2 % errors against 0.1 %, 12 of 1,000 requests"]);
}

#[test]
fn one_of_a_hundred_may_be_longer_than_the_p99() {
    for (over, verdict) in [(0, Verdict::Pass), (10, Verdict::Pass), (11, Verdict::Fail)] {
        let mut slow = flow(1000, 0, 0.001);
        slow.p99_limit_ms = Some(150.0);
        slow.over_p99_limit = over;
        slow.latency.p99_ms = 210.0;
        let (seen, reasons) = judged(report(vec![slow]));
        assert_eq!(seen, verdict, "{over} longer");
        let text = "flow checkout: p99 210 ms against 150 ms, 11 of 1,000 requests took longer";
        assert_eq!(reasons.contains(&text.to_owned()), over == 11);
    }
}

#[test]
fn nothing_seen_is_never_a_pass() {
    let (verdict, reasons) = judged(report(Vec::new()));
    assert_eq!(verdict, Verdict::Fail);
    assert_eq!(reasons, ["zero samples: no flow with a weight may be played here"]);
    assert_eq!(judged(report(vec![flow(0, 0, 0.01)])).0, Verdict::Fail);
    // One flow of two: too little was seen of it, and that is no failure of the service.
    let mut half = report(vec![flow(100, 0, 0.01), flow(0, 0, 0.01)]);
    judge(&mut half);
    assert_eq!(half.verdict, Verdict::Inconclusive);
    assert_eq!(
        half.flows.iter().map(|f| f.verdict).collect::<Vec<_>>(),
        [Verdict::Pass, Verdict::Inconclusive]
    );
}

#[test]
fn writes_that_nobody_has_seen_done_are_no_pass() {
    let pending = |looked_up: bool, failed: u64| {
        let mut flow = flow(100, failed, 0.01);
        flow.outcomes.pending = 20;
        judged(report(vec![FlowReport { looked_up, ..flow }]))
    };
    assert_eq!(pending(true, 0), (Verdict::Pass, Vec::new()), "the ledger decides");
    let (verdict, reasons) = pending(false, 0);
    assert_eq!(verdict, Verdict::Inconclusive);
    assert!(
        reasons[0].starts_with("flow checkout: 20 of 120 requests were accepted with 202"),
        "{reasons:?}"
    );
    assert_eq!(pending(false, 100).0, Verdict::Fail, "it hides no failure");
}

#[test]
fn one_lost_or_duplicated_write_fails_whatever_the_averages_say() {
    let with = |ledger: LedgerReport| {
        let mut report = report(vec![flow(1_000_000, 0, 1.0)]);
        report.ledger = Some(ledger);
        judged(report)
    };
    let held = LedgerReport { intended: 10, acknowledged: 9, unknown: 1, ..LedgerReport::default() };
    assert_eq!(with(held.clone()), (Verdict::Pass, Vec::new()));
    let (verdict, reasons) = with(LedgerReport { lost: 1, ..held.clone() });
    assert_eq!((verdict, reasons[0].as_str()), (Verdict::Fail, "ledger: 1 of 9 acknowledged writes lost"));
    let (verdict, reasons) = with(LedgerReport { duplicated: 1, ..held.clone() });
    let text = "ledger: 1 of 10 intended writes are there more than once";
    assert_eq!((verdict, reasons[0].as_str()), (Verdict::Fail, text));
    let (verdict, reasons) = with(LedgerReport { unverified: 2, ..held });
    let text = "ledger: 2 of 10 intended writes could not be looked up";
    assert_eq!((verdict, reasons[0].as_str()), (Verdict::Invalid, text));
}

#[test]
fn a_test_that_did_not_work_is_invalid_and_hides_no_failure() {
    let change: [fn(&mut LoadReport); 5] = [
        |report| report.lag.p99_ms = 100.1,
        |report| report.not_started = 1,
        |report| report.outcomes.no_socket = 1,
        |report| report.ledger_refused = 1,
        |report| report.broken.push("flow x: `$.[` is no JSONPath".into()),
    ];
    for change in change {
        let mut invalid = report(vec![flow(1000, 0, 0.01)]);
        change(&mut invalid);
        let (verdict, reasons) = judged(invalid);
        assert_eq!((verdict, reasons.len()), (Verdict::Invalid, 1), "{reasons:?}");
        let mut failed = report(vec![flow(1000, 1000, 0.01)]);
        change(&mut failed);
        let (verdict, reasons) = judged(failed);
        assert_eq!((verdict, reasons.len()), (Verdict::Fail, 2), "{reasons:?}");
        assert!(reasons[0].starts_with("flow checkout"), "what decides comes first: {reasons:?}");
    }
    let mut in_budget = report(vec![flow(1000, 0, 0.01)]);
    in_budget.lag.p99_ms = 100.0;
    assert_eq!(judged(in_budget).0, Verdict::Pass);
}
