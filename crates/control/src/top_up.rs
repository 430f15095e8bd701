//! Requests for a candidate that has too few: read flows, played on it and, for comparison, on the stamp before.
//! What they say is kept apart from what users' requests say.

use crate::evidence::check;
use api::gateway::{PREVIEW_HEADER, STAMP_HEADER};
use api::operator::Check;
use model::flow::Flow;
use model::machine::TOP_UP_LIMIT;
use model::name::FlowName;
use model::verdict::Verdict;
use model::workload::Configuration;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use validate::{LoadOptions, LoadReport, Plan, Target};

/// How fast flows are played: slow enough not to be noticed by users.
const PLAYS_PER_SECOND: f64 = 20.0;
/// So many requests more may fail than on the stamp before: fewer are chance.
const FAILURES_MORE: u64 = 2;
/// So many times as slow, at p95, is not chance.
const SLOWER_FACTOR: f64 = 3.0;
/// And so much slower, in milliseconds.
const SLOWER_MS: f64 = 20.0;

/// How to reach both stamps.
#[derive(Debug, Clone)]
pub(crate) struct TopUp {
    pub(crate) http: SocketAddr,
    pub(crate) preview_token: String,
    /// Whether the candidate is behind the preview door; otherwise it is the one that serves, alone.
    pub(crate) compared: bool,
}

impl TopUp {
    /// Plays until the candidate has had enough requests. None when no flow may be played.
    pub(crate) async fn play(&self, configuration: &Configuration) -> Option<Check> {
        let flows = read_flows(configuration);
        if flows.is_empty() {
            return None;
        }
        let steps = flows.values().map(|flow| flow.steps.len()).min().unwrap_or(1).max(1) as f64;
        let plays = (configuration.policy.min_requests as f64 / steps).ceil();
        let seconds = (plays / PLAYS_PER_SECOND).max(1.0).min(TOP_UP_LIMIT.as_secs_f64());
        let plan = Plan::constant(PLAYS_PER_SECOND, Duration::from_secs_f64(seconds)).ok()?;
        let play = |stamp: &'static str| self.play_on(stamp, configuration, &flows, plan);
        match self.compared {
            true => {
                let (candidate, active) = tokio::join!(play("candidate"), play("active"));
                Some(compare(&candidate, Some(&active)))
            }
            false => Some(compare(&play("active").await, None)),
        }
    }

    /// Plays read flows on the candidate for a while. Says what was played.
    pub(crate) async fn warm(&self, configuration: &Configuration, time: Duration) -> String {
        let flows = read_flows(configuration);
        let Ok(plan) = Plan::constant(PLAYS_PER_SECOND, time) else { return "not warmed up".into() };
        if flows.is_empty() {
            return "not warmed up: no flow only reads".into();
        }
        let report = self.play_on("candidate", configuration, &flows, plan).await;
        format!("warmed up with {} requests in {:.1} s", report.requests, report.seconds)
    }

    async fn play_on(
        &self,
        stamp: &'static str,
        configuration: &Configuration,
        flows: &BTreeMap<FlowName, Flow>,
        plan: Plan,
    ) -> LoadReport {
        let mut target = Target::of(configuration, self.http);
        target.headers =
            vec![(STAMP_HEADER.into(), stamp.into()), (PREVIEW_HEADER.into(), self.preview_token.clone())];
        let options = LoadOptions::new(plan, configuration.class);
        let (_running, stop) = watch::channel(false);
        validate::load(target, flows, options, |_| {}, stop).await
    }
}

/// The flows that may be played on a stamp with users, whatever its class.
fn read_flows(configuration: &Configuration) -> BTreeMap<FlowName, Flow> {
    let reads = configuration.flows.iter().filter(|(_, flow)| !flow.writes() && flow.weight > 0);
    reads.map(|(name, flow)| (name.clone(), flow.clone())).collect()
}

fn compare(candidate: &LoadReport, active: Option<&LoadReport>) -> Check {
    let (failed, p95) = (candidate.failed, candidate.latency.p95_ms);
    let mut text =
        format!("read flows played: {} requests, {failed} failed, p95 {p95:.1} ms", candidate.requests);
    let (mut fails, mut slower) = (failed > FAILURES_MORE, false);
    if let Some(active) = active {
        text += &format!(
            ", against {} failed, p95 {:.1} ms on the stamp before",
            active.failed, active.latency.p95_ms
        );
        fails = failed > active.failed + FAILURES_MORE;
        slower = p95 > active.latency.p95_ms * SLOWER_FACTOR && p95 > active.latency.p95_ms + SLOWER_MS;
    }
    let verdict = match candidate.requests {
        0 => Verdict::Invalid,
        _ if fails || slower => Verdict::Fail,
        _ => Verdict::Pass,
    };
    let numbers = serde_json::json!({
        "requests": candidate.requests, "failed": failed, "p95_ms": p95, "slower": slower && !fails,
        "active_requests": active.map(|active| active.requests),
        "active_failed": active.map(|active| active.failed),
        "active_p95_ms": active.map(|active| active.latency.p95_ms),
    });
    check("top_up", None, verdict, text, &numbers)
}
