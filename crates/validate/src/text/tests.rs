use super::*;
use crate::judge::tests::report;
use crate::ledger::{Finding, LedgerReport, LedgerSample};
use crate::outcome::{FailureSample, Outcome};
use crate::report::{FlowReport, Queued, Skipped, StepReport, Window};
use model::verdict::Verdict;

#[test]
fn numbers_read_well() {
    for (count, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(number(count), text);
    }
    let shares = [(0.0, "0 %"), (0.001, "0.1 %"), (0.012, "1.2 %"), (1.0, "100 %"), (0.333_333, "33.333 %")];
    for (share, text) in shares {
        assert_eq!(percent(share), text);
    }
    let times = [
        (0.0, "0 µs"),
        (0.85, "850 µs"),
        (1.25, "1.25 ms"),
        (12.34, "12.3 ms"),
        (150.0, "150 ms"),
        (1500.0, "1.50 s"),
    ];
    for (ms, text) in times {
        assert_eq!(millis(ms), text);
    }
}

#[test]
fn a_report_is_a_table_with_its_reasons() {
    let outcomes = Outcomes { ok: 988, timeout: 10, cut: 2, ..Outcomes::default() };
    let latency = Latency { count: 1000, p50_ms: 0.9, p95_ms: 4.5, p99_ms: 210.0, max_ms: 1500.0 };
    let step =
        |step: &str| StepReport { step: step.to_owned(), outcomes, latency, queued: Queued::default() };
    let flow = |name: &str, steps| FlowReport {
        flow: name.to_owned(),
        plays: 1000,
        outcomes,
        errors_limit: 0.001,
        p99_limit_ms: None,
        over_p99_limit: 0,
        latency,
        steps,
        looked_up: false,
        verdict: Verdict::Inconclusive,
    };
    let mut report = report(vec![
        flow("browse", vec![step("1 GET /api/products/{sku}")]),
        flow("checkout", vec![step("1 GET /"), step("2 POST /api/orders")]),
    ]);
    report.latency = latency;
    report.lag.p99_ms = 1.5;
    report.steal = Some(0.012);
    report.skipped.push(Skipped { flow: "pay".into(), why: "it writes".into() });
    report.samples.push(FailureSample {
        flow: "checkout".into(),
        step: "2 POST /api/orders".into(),
        outcome: Outcome::UnexpectedStatus,
        status: Some(500),
        problem: "answered 500, expected 201".into(),
        snippet: "oops".into(),
        times: 3,
    });
    report.ledger = Some(LedgerReport {
        intended: 3,
        acknowledged: 2,
        unknown: 1,
        lost: 1,
        unknown_written: 1,
        samples: vec![LedgerSample {
            flow: "checkout".into(),
            reference: "r-1".into(),
            finding: Finding::Lost,
            text: "acknowledged and there 0 times".into(),
        }],
        ..LedgerReport::default()
    });
    crate::judge::judge(&mut report);
    let expected = "\
load: fail
  flow browse: 1.2 % errors against 0.1 %, 12 of 1,000 requests
  flow checkout: 1.2 % errors against 0.1 %, 12 of 1,000 requests
  ledger: 1 of 2 acknowledged writes lost

flow      step                       requests  failed     p50      p95     p99     max
browse    1 GET /api/products/{sku}     1,000      12  900 µs  4.50 ms  210 ms  1.50 s
checkout                                1,000      12  900 µs  4.50 ms  210 ms  1.50 s
          1 GET /                       1,000      12  900 µs  4.50 ms  210 ms  1.50 s
          2 POST /api/orders            1,000      12  900 µs  4.50 ms  210 ms  1.50 s
all                                     2,000      24  900 µs  4.50 ms  210 ms  1.50 s

2,000 requests in 10.0 s, 24 failed (4 cut, 20 timeout); 100.0 starts/s of 100.0 planned
ledger: 3 intended, 2 acknowledged, 0 failed, 1 unknown (1 of them written); 1 lost, 0 duplicated, 0 unverified
  r-1: flow checkout: acknowledged and there 0 times
engine: lag p99 1.50 ms, waits for a connection 0, processor time stolen 1.2 %, seed 7
not played: flow pay: it writes
failures, the first of each kind:
  3 × flow checkout, step 2 POST /api/orders: answered 500, expected 201: oops
";
    assert_eq!(report.text(), expected);
}

#[test]
fn progress_is_one_line() {
    let latency = Latency { count: 498, p50_ms: 1.2, p99_ms: 4.5, ..Latency::default() };
    let mut progress = Progress {
        phase: Phase::Playing,
        seconds: 12.02,
        planned_seconds: 30.0,
        requests: 5976,
        failed: 1024,
        in_flight: 3,
        last: Window { seconds: 1.0, requests: 498, failed: 2, latency },
    };
    let line =
        "12 s of 30 s  498 requests/s  p50 1.20 ms  p99 4.50 ms  failed 1,024 (2 just now)  in flight 3";
    assert_eq!(progress.line(), line);
    progress.phase = Phase::Finishing;
    assert!(progress.line().starts_with("12 s of 30 s, finishing  "));
    progress.phase = Phase::Confirming { done: 1234, of: 5000 };
    assert_eq!(progress.line(), "looking up writes: 1,234 of 5,000  failed 1,024");
}
