//! Gives verdicts: pure functions from what was seen to what it means.

use crate::report::{FlowReport, LoadReport};
use crate::text::{millis, number, percent};
use model::verdict::Verdict;

/// The share of requests that may be longer than the p99 of an objective.
const P99_SHARE: f64 = 0.01;

/// Gives every flow its verdict and the report its verdict and reasons.
pub(crate) fn judge(report: &mut LoadReport) {
    let mut reasons = Vec::new();
    for flow in &mut report.flows {
        let before = reasons.len();
        let because = judge_flow(flow);
        reasons.extend(because);
        flow.verdict = reasons[before..].iter().map(|r| r.0).fold(Verdict::Pass, Verdict::and);
    }
    reasons.extend(ledger_reasons(report));
    reasons.extend(own_reasons(report));
    if report.requests == 0 {
        let why = if report.flows.is_empty() && report.broken.is_empty() {
            ": no flow with a weight may be played here"
        } else {
            ""
        };
        reasons.push((Verdict::Fail, format!("zero samples{why}")));
    }
    report.verdict = reasons.iter().map(|r| r.0).fold(Verdict::Pass, Verdict::and);
    // The worst first: what decides is what is read.
    reasons.sort_by_key(|(verdict, _)| *verdict != report.verdict);
    report.reasons = reasons.into_iter().map(|(_, text)| text).collect();
}

type Reason = (Verdict, String);

/// What keeps a flow from passing its objective.
fn judge_flow(flow: &FlowReport) -> Vec<Reason> {
    let name = &flow.flow;
    let (requests, failed) = (flow.outcomes.requests(), flow.outcomes.failed());
    let mut reasons = Vec::new();
    if requests == 0 {
        let text = format!("flow {name}: zero samples; a longer run or a higher rate has some");
        return vec![(Verdict::Inconclusive, text)];
    }
    if exceeds(failed, requests, flow.errors_limit) {
        let text = format!(
            "flow {name}: {} errors against {}, {} of {} requests",
            percent(failed as f64 / requests as f64),
            percent(flow.errors_limit),
            number(failed),
            number(requests)
        );
        reasons.push((Verdict::Fail, text));
    }
    if let Some(limit) = flow.p99_limit_ms
        && exceeds(flow.over_p99_limit, flow.latency.count, P99_SHARE)
    {
        let text = format!(
            "flow {name}: p99 {} against {}, {} of {} requests took longer",
            millis(flow.latency.p99_ms),
            millis(limit),
            number(flow.over_p99_limit),
            number(flow.latency.count)
        );
        reasons.push((Verdict::Fail, text));
    }
    if flow.outcomes.pending > 0 && !flow.looked_up {
        let text = format!(
            "flow {name}: {} of {} requests were accepted with 202 and not done while they were followed, and without \
             a ledger nothing looks them up; a ledger in the flow does",
            number(flow.outcomes.pending),
            number(requests)
        );
        reasons.push((Verdict::Inconclusive, text));
    }
    reasons
}

/// Whether `part` of `whole` is more than `share`. Exactly the share is not; the tolerance is for shares
/// that binary fractions only come near to, such as 29 of 100 against 0.29.
fn exceeds(part: u64, whole: u64, share: f64) -> bool {
    part as f64 > share * whole as f64 + 1e-9 * whole as f64
}

fn ledger_reasons(report: &LoadReport) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(ledger) = &report.ledger {
        if ledger.lost > 0 {
            let text = format!("{} of {} acknowledged", number(ledger.lost), number(ledger.acknowledged));
            reasons.push((Verdict::Fail, format!("ledger: {text} writes lost")));
        }
        if ledger.duplicated > 0 {
            let text = format!("{} of {} intended", number(ledger.duplicated), number(ledger.intended));
            reasons.push((Verdict::Fail, format!("ledger: {text} writes are there more than once")));
        }
        if ledger.unverified > 0 {
            let text = format!("{} of {} intended", number(ledger.unverified), number(ledger.intended));
            reasons.push((Verdict::Invalid, format!("ledger: {text} writes could not be looked up")));
        }
    }
    if report.ledger_refused > 0 {
        let text = format!(
            "ledger: full with {} intents, {} plays ended before their write; a shorter run or a lower rate fits",
            number(crate::ledger::INTENTS_LIMIT as u64),
            number(report.ledger_refused)
        );
        reasons.push((Verdict::Invalid, text));
    }
    reasons
}

/// What kept the test itself from working.
fn own_reasons(report: &LoadReport) -> Vec<Reason> {
    let mut texts = report.broken.clone();
    if report.not_started > 0 {
        texts.push(format!(
            "{} of {} planned starts were not made: {} plays were in flight already",
            number(report.not_started),
            number(report.not_started + report.started),
            number(report.in_flight_limit)
        ));
    }
    if report.lag.p99_ms > report.lag_budget_ms {
        texts.push(format!(
            "the engine was late: p99 of its lag is {} against {}; a lower rate or a less busy machine helps",
            millis(report.lag.p99_ms),
            millis(report.lag_budget_ms)
        ));
    }
    if report.outcomes.no_socket > 0 {
        texts.push(format!(
            "this machine gave no socket for {} requests; see `ulimit -n` and net.ipv4.ip_local_port_range",
            number(report.outcomes.no_socket)
        ));
    }
    texts.into_iter().map(|text| (Verdict::Invalid, text)).collect()
}

#[cfg(test)]
pub(crate) mod tests;
