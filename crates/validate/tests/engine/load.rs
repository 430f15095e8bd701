//! The load engine.

use crate::upstream::{Reply, Upstream, expecting, flow, flows, json, sending, step, target};
use model::flow::Flow;
use model::flow::Method::{Get, Post};
use model::name::FlowName;
use model::verdict::Verdict;
use model::workload::Class;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use validate::{LoadOptions, LoadReport, Phase, Plan, Progress, Target, load};

/// Far more than any machine that runs these tests is late: they are about the service.
const NO_LAG_BUDGET: Duration = Duration::from_secs(3600);

pub(crate) fn options(rate: f64, duration_ms: u64) -> LoadOptions {
    let plan = Plan::constant(rate, Duration::from_millis(duration_ms)).unwrap();
    LoadOptions { lag_budget: NO_LAG_BUDGET, ..LoadOptions::new(plan, Class::Staging) }
}

/// A run that nobody stops, within a task of its own: the future must be `Send`.
pub(crate) async fn run(target: Target, flows: BTreeMap<FlowName, Flow>, options: LoadOptions) -> LoadReport {
    let (_keep, stop) = watch::channel(false);
    tokio::spawn(async move { load(target, &flows, options, |_| {}, stop).await }).await.unwrap()
}

fn browse() -> BTreeMap<FlowName, Flow> {
    flows([("browse", flow(vec![step(Get, "/a"), step(Get, "/b")]))])
}

#[tokio::test]
async fn every_planned_start_is_made_and_every_request_is_counted() {
    let upstream = Upstream::start(|_| json(200, "hello")).await;
    let report = run(upstream.target(), browse(), options(200.0, 500)).await;
    assert_eq!((report.verdict, report.reasons.as_slice()), (Verdict::Pass, [].as_slice()));
    assert_eq!((report.started, report.requests, report.failed), (100, 200, 0));
    assert_eq!(upstream.seen().len(), 200);
    let flow = &report.flows[0];
    assert_eq!((flow.plays, flow.latency.count), (100, 200));
    let counts: Vec<_> = flow.steps.iter().map(|s| (s.step.as_str(), s.latency.count)).collect();
    assert_eq!(counts, [("1 GET /a", 100), ("2 GET /b", 100)]);
    assert_eq!(report.lag.count, 100);
    assert!(report.achieved_rate <= 200.0, "{}", report.achieved_rate);
    assert!(report.seconds >= 0.495, "the last start is planned at 495 ms: {}", report.seconds);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["verdict"], "pass");
    assert_eq!(json["flows"][0]["steps"][1]["outcomes"]["ok"], 100);
}

#[tokio::test]
async fn a_stall_is_charged_to_everybody_who_would_have_come_meanwhile() {
    let stall_until = Mutex::new((0, Instant::now()));
    let upstream = Upstream::start(move |_| {
        let mut stall = stall_until.lock().unwrap();
        stall.0 += 1;
        if stall.0 == 100 {
            stall.1 = Instant::now() + Duration::from_millis(300);
        }
        Reply::Late(stall.1.saturating_duration_since(Instant::now()), 200, String::new())
    })
    .await;
    let mut flow = flow(vec![step(Get, "/")]);
    flow.objective.p99 = Some(Duration::from_millis(100));
    // One connection: whoever measured from the sending would see one slow request, the one that stalled.
    let options = LoadOptions { max_connections: 1, ..options(200.0, 1000) };
    let report = run(upstream.target(), flows([("browse", flow)]), options).await;
    // 60 starts fall into the stall, and 40 of them have more than 100 ms of it before them.
    assert!(report.flows[0].over_p99_limit >= 20, "{}", report.text());
    assert!(report.connection_waits >= 20, "{}", report.text());
    assert_eq!((report.verdict, report.failed, report.started), (Verdict::Fail, 0, 200));
    assert!(report.reasons[0].starts_with("flow browse: p99 "), "{:?}", report.reasons);
    assert_eq!(*upstream.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_late_engine_charges_its_lateness_and_makes_the_run_invalid() {
    let upstream = Upstream::start(|_| json(200, "")).await;
    let mut flow = flow(vec![step(Get, "/")]);
    flow.objective.p99 = Some(Duration::from_millis(100));
    let mut stalls = 0;
    // What is called from within the run holds the engine up, as a machine that is too busy would.
    let stall = move |_: &Progress| {
        stalls += 1;
        if stalls == 1 {
            // slow on purpose
            std::thread::sleep(Duration::from_millis(300));
        }
    };
    let options = LoadOptions { lag_budget: Duration::from_millis(100), ..options(200.0, 1500) };
    let (_keep, stop) = watch::channel(false);
    let report = load(upstream.target(), &flows([("browse", flow)]), options, stall, stop).await;
    assert!(report.flows[0].over_p99_limit >= 20, "{}", report.text());
    assert_eq!((report.started, report.failed), (300, 0), "late starts are made all the same");
    let late = |reason: &String| reason.starts_with("the engine was late: p99 of its lag is ");
    assert!(report.reasons.iter().any(late), "{:?}", report.reasons);
}

#[tokio::test]
async fn a_later_step_counts_from_the_answer_before_it() {
    let upstream = Upstream::start(|request| match request.path.as_str() {
        "/a" => Reply::Late(Duration::from_millis(200), 200, String::new()),
        _ => json(200, ""),
    })
    .await;
    let report = run(upstream.target(), browse(), options(10.0, 300)).await;
    let steps = &report.flows[0].steps;
    assert!(steps[0].latency.p50_ms >= 200.0, "{}", report.text());
    assert!(steps[1].latency.p50_ms < 200.0, "{}", report.text());
}

#[tokio::test]
async fn connections_that_the_server_closes_unsaid_are_no_failures() {
    let upstream = Upstream::start(|_| Reply::AnswerAndClose(200, "hello".into())).await;
    let report = run(upstream.target(), browse(), options(200.0, 500)).await;
    assert_eq!((report.verdict, report.failed), (Verdict::Pass, 0), "{}", report.text());
    assert_eq!(upstream.seen().len(), 200, "and nothing was sent twice");
    assert_eq!(*upstream.connections.lock().unwrap(), 200);
}

#[tokio::test]
async fn every_kind_of_failure_is_counted_as_itself() {
    let upstream = Upstream::start(|request| match request.path.as_str() {
        "/status" => json(500, "oops"),
        "/cut" => Reply::Raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        "/silent" => Reply::Silence,
        _ => json(200, "{}"),
    })
    .await;
    let one = |path: &str| flow(vec![step(Get, path), step(Get, "/never")]);
    let mut all = flows([("status", one("/status")), ("cut", one("/cut")), ("silent", one("/silent"))]);
    all.extend(flows([("body", flow(vec![crate::upstream::saving("x", "$.x", step(Get, "/body"))]))]));
    let options = LoadOptions { timeout: Duration::from_secs(2), seed: 3, ..options(200.0, 300) };
    let report = run(upstream.target(), all, options).await;
    let outcomes = report.outcomes;
    let kinds = [outcomes.unexpected_status, outcomes.cut, outcomes.timeout, outcomes.bad_body];
    assert_eq!(kinds.iter().sum::<u64>(), 60, "{}", report.text());
    assert!(kinds.iter().all(|count| *count > 0), "{}", report.text());
    assert_eq!((report.requests, report.failed, report.verdict), (60, 60, Verdict::Fail));
    assert_eq!(report.samples.len(), 4, "one for each kind: {}", report.text());
    assert_eq!(report.samples.iter().map(|sample| sample.times).sum::<u64>(), 60);
    let status = report.samples.iter().find(|sample| sample.flow == "status").unwrap();
    assert_eq!((status.status, status.snippet.as_str()), (Some(500), "oops"));
    assert_eq!(status.step, "1 GET /status");
    assert!(upstream.seen().iter().all(|r| r.path != "/never"), "a flow ends at its first failure");
}

#[tokio::test]
async fn nobody_listening_is_a_connect_failure() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let report = run(target(address), browse(), options(100.0, 100)).await;
    assert_eq!((report.outcomes.connect_failed, report.requests), (10, 10), "{}", report.text());
    let reason = "flow browse: 100 % errors against 1 %, 10 of 10 requests";
    assert_eq!((report.verdict, report.reasons[0].as_str()), (Verdict::Fail, reason));
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_a_bad_body() {
    let body = "x".repeat(validate::ANSWER_LIMIT + 1);
    let upstream = Upstream::start(move |_| json(200, &body)).await;
    let report = run(upstream.target(), flows([("big", flow(vec![step(Get, "/")]))]), options(1.0, 1)).await;
    assert_eq!((report.outcomes.bad_body, report.requests), (1, 1), "{}", report.text());
    assert_eq!(report.samples[0].problem, "answered 200 with a body of more than 16 MiB");
}

#[tokio::test]
async fn zero_samples_are_a_failure() {
    let upstream = Upstream::start(|_| json(200, "")).await;
    let mut idle = flow(vec![step(Get, "/")]);
    idle.weight = 0;
    let report = run(upstream.target(), flows([("idle", idle)]), options(100.0, 100)).await;
    assert_eq!((report.verdict, report.requests), (Verdict::Fail, 0));
    assert_eq!(report.reasons, ["zero samples: no flow with a weight may be played here"]);
    assert_eq!(report.skipped[0].flow, "idle");
    let writes = flows([("checkout", flow(vec![step(Post, "/orders")]))]);
    let production = LoadOptions { class: Class::Production, ..options(100.0, 100) };
    assert_eq!(run(upstream.target(), writes, production).await.verdict, Verdict::Fail);
    assert!(upstream.seen().is_empty());
    // Told to stop before it began: nothing was seen either.
    let (_keep, stop) = watch::channel(true);
    let report = load(upstream.target(), &browse(), options(100.0, 100), |_| {}, stop).await;
    assert_eq!((report.verdict, report.stopped, report.requests), (Verdict::Fail, true, 0));
}

#[tokio::test]
async fn the_same_seed_plays_the_same_flows_and_users_but_not_the_same_references() {
    let all = || {
        let buy = flow(vec![sending("ref", "{uuid}", step(Post, "/buy/{user.id}"))]);
        let mut browse = flow(vec![step(Get, "/browse/{user.id}")]);
        browse.weight = 3;
        flows([("buy", buy), ("browse", browse)])
    };
    let played = async |seed| {
        let upstream = Upstream::start(|_| json(200, "")).await;
        // With one connection requests arrive in the order in which they were planned.
        let options = LoadOptions { seed, max_connections: 1, ..options(500.0, 200) };
        run(upstream.target(), all(), options).await;
        let seen = upstream.seen();
        assert_eq!(seen.len(), 100);
        let bodies: Vec<String> = seen.iter().map(|r| r.body.clone()).filter(|b| !b.is_empty()).collect();
        (seen.into_iter().map(|request| request.path).collect::<Vec<_>>(), bodies)
    };
    let (first, second, other) = (played(7).await, played(7).await, played(8).await);
    assert_eq!(first.0, second.0);
    assert_ne!(first.0, other.0);
    assert!(first.1.iter().all(|reference| !second.1.contains(reference)));
}

#[tokio::test]
async fn starts_beyond_the_limit_in_flight_make_the_run_invalid() {
    let upstream = Upstream::start(|_| Reply::Silence).await;
    let options = LoadOptions { max_in_flight: 5, timeout: Duration::from_secs(2), ..options(100.0, 200) };
    let mut all = browse();
    all.values_mut().for_each(|flow| flow.objective.errors = 1.0);
    let report = run(upstream.target(), all, options).await;
    assert_eq!((report.started, report.not_started), (5, 15), "{}", report.text());
    assert_eq!(report.verdict, Verdict::Invalid);
    assert_eq!(report.reasons, ["15 of 20 planned starts were not made: 5 plays were in flight already"]);
}

#[tokio::test]
async fn a_late_engine_makes_the_run_invalid() {
    let upstream = Upstream::start(|_| json(200, "")).await;
    // No engine is on time to the nanosecond.
    let options = LoadOptions { lag_budget: Duration::ZERO, ..options(100.0, 100) };
    let report = run(upstream.target(), browse(), options).await;
    assert_eq!(report.verdict, Verdict::Invalid);
    assert!(report.reasons[0].starts_with("the engine was late: p99 of its lag is "), "{:?}", report.reasons);
}

#[tokio::test]
async fn a_run_that_is_stopped_is_judged_on_what_it_saw() {
    let upstream = Upstream::start(|_| json(200, "")).await;
    let (tell, stop) = watch::channel(false);
    let seen = Arc::new(Mutex::new(Vec::<Progress>::new()));
    let kept = Arc::clone(&seen);
    let progress = move |progress: &Progress| {
        kept.lock().unwrap().push(progress.clone());
        tell.send_replace(true);
    };
    let report = load(upstream.target(), &browse(), options(100.0, 3_600_000), progress, stop).await;
    assert_eq!((report.verdict, report.stopped, report.failed), (Verdict::Pass, true, 0));
    assert_eq!(report.requests, report.started * 2, "what was in flight ended");
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].phase, Phase::Playing);
    assert!(seen[0].last.requests > 0 && seen[0].requests == seen[0].last.requests);
}

#[tokio::test]
async fn stolen_time_is_reported_when_it_can_be_read() {
    fn stat() -> Option<String> {
        static TICKS: Mutex<u64> = Mutex::new(0);
        let mut ticks = TICKS.lock().unwrap();
        *ticks += 100;
        Some(format!("cpu  {ticks} 0 0 {ticks} 0 0 0 {ticks} 0 0\n"))
    }
    let upstream = Upstream::start(|_| json(200, "")).await;
    let with = LoadOptions { cpu: Some(stat), ..options(100.0, 50) };
    let steal = run(upstream.target(), browse(), with).await.steal.unwrap();
    assert!((0.33..0.34).contains(&steal), "{steal}");
    assert_eq!(run(upstream.target(), browse(), options(100.0, 50)).await.steal, None);
}

#[tokio::test]
async fn a_failure_within_the_objective_passes() {
    let count = Mutex::new(0);
    let upstream = Upstream::start(move |_| {
        let mut count = count.lock().unwrap();
        *count += 1;
        json(if *count % 10 == 0 { 500 } else { 201 }, "")
    })
    .await;
    for (errors, verdict) in [(0.1, Verdict::Pass), (0.09, Verdict::Fail)] {
        let mut flow = flow(vec![expecting(201, step(Get, "/"))]);
        flow.objective.errors = errors;
        let report = run(upstream.target(), flows([("browse", flow)]), options(1000.0, 100)).await;
        assert_eq!((report.failed, report.requests, report.verdict), (10, 100, verdict), "{}", report.text());
    }
}
