//! What the demo promises, held against what everybody saw: the users, the records, the gateway's ledger.

use crate::summary::ReleaseLine;
use api::operator::{History, LedgerCounts, Status};
use api::queue::QueueStatus;
use model::verdict::Verdict;
use validate::LoadReport;

/// How each release has to end, the oldest first: its name, its state, and why it did not get through.
const EXPECTED: &[(&str, &str, Option<&str>)] = &[
    ("r1", "done", None),
    ("v2", "done", None),
    ("v3-slow", "rolled_back", Some("latency")),
    ("v3-crash", "rolled_back", Some("crash")),
    ("v3", "rolled_back", Some("operator")),
];
/// The release whose instances end themselves.
const CRASHES: &str = "v3-crash";
/// The release that brings a migration and gets every user, step by step.
const MIGRATES: &str = "v2";
/// The share of users on it, in percent.
const STEPS: &[f64] = &[10.0, 50.0, 100.0];
/// As many requests may be in flight on an instance that ends itself: a tenth of the users, for a moment.
const IN_FLIGHT_LIMIT: u64 = 20;

/// Everything that was seen.
pub(crate) struct Told<'a> {
    pub(crate) report: &'a LoadReport,
    pub(crate) status: &'a Status,
    /// Every release, the oldest first.
    pub(crate) histories: &'a [History],
    /// The users' failed requests when each release had ended, by its name.
    pub(crate) failed: &'a [(String, u64)],
    /// The queue at the end.
    pub(crate) queue: &'a QueueStatus,
}

impl Told<'_> {
    /// What became of each release.
    pub(crate) fn lines(&self) -> Vec<ReleaseLine> {
        let mut before = 0;
        let mut lines = Vec::new();
        for history in self.histories {
            let seen = self.failed.iter().find(|(name, _)| *name == history.release.name);
            let after = seen.map_or(before, |(_, failed)| *failed);
            lines.push(line(history, after.saturating_sub(before)));
            before = after;
        }
        lines
    }

    /// Requests that failed because they were in flight on an instance that ended itself.
    pub(crate) fn in_flight(&self) -> u64 {
        let lines = self.lines();
        let seen = lines.iter().find(|line| line.name == CRASHES).map_or(0, |line| line.failed);
        let history = self.histories.iter().find(|history| history.release.name == CRASHES);
        history.map_or(0, |history| explained(seen, &history.ledger.total))
    }

    /// Releases that ended themselves.
    pub(crate) fn crashes(&self) -> u64 {
        self.lines().iter().filter(|line| line.reason.as_deref() == Some("crash")).count() as u64
    }
}

/// How many of the failures that users saw were requests in flight on an instance that ended itself. What the gateway
/// does not know to have been cut there has failed for another reason, and so has what is too much.
fn explained(seen: u64, counts: &LedgerCounts) -> u64 {
    seen.min(counts.cut + counts.failed).min(IN_FLIGHT_LIMIT)
}

/// What became of a release, during which so many requests failed.
fn line(history: &History, failed: u64) -> ReleaseLine {
    let release = &history.release;
    let decided = history.events.iter().rev().filter_map(|event| event.decision.as_ref());
    let against = decided.filter(|decision| decision.verdict == Verdict::Fail).find_map(|d| d.checks.first());
    let with_users = || history.ledger.points.iter().filter(|point| point.weight > 0);
    let mut steps: Vec<f64> = Vec::new();
    for percent in with_users().map(|point| f64::from(point.weight) / 100.0) {
        if !steps.contains(&percent) {
            steps.push(percent);
        }
    }
    let slow = release.reason.as_deref() == Some("latency");
    let answered: u64 = with_users().map(|point| point.counts.candidate).sum();
    ReleaseLine {
        name: release.name.clone(),
        outcome: release.state.clone(),
        state: release.state.clone(),
        reason: release.reason.clone(),
        reason_text: release.reason_text.clone(),
        check: against.map(|check| check.check.clone()),
        steps,
        switch_ms: release.switch_ms,
        rollback_ms: release.rollback_ms,
        failed,
        users_hurt: if slow { failed + answered } else { failed },
    }
}

/// What the demo promises and did not hold, in words.
pub(crate) fn broken(told: &Told<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    let Told { report, status, .. } = told;
    let unexplained = report.failed.saturating_sub(told.in_flight());
    if unexplained > 0 {
        let samples: Vec<_> = report.samples.iter().map(|sample| format!("{sample:?}")).collect();
        broken.push(format!(
            "{unexplained} of {} requests failed that were not in flight on an instance that ended itself: {}",
            report.requests,
            samples.join("; ")
        ));
    }
    match &report.ledger {
        None => broken.push("there is no ledger".into()),
        Some(ledger) => {
            if ledger.lost + ledger.duplicated + ledger.unverified > 0 || ledger.acknowledged == 0 {
                broken.push(format!(
                    "of {} acknowledged orders {} are lost, {} duplicated, {} could not be looked up",
                    ledger.acknowledged, ledger.lost, ledger.duplicated, ledger.unverified
                ));
            }
        }
    }
    let counts = &told.queue.counts;
    if counts.dead + counts.rejected + counts.unknown + counts.refused > 0 || told.queue.depth > 0 {
        broken.push(format!("the queue has not delivered everything that was accepted: {:?}", told.queue));
    }
    if counts.answered_202 == 0 {
        broken.push("no order had to wait while the database was away".into());
    }
    let lines = told.lines();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line.name.as_str(), line.outcome.as_str(), line.reason.as_deref()))
        .collect();
    if seen != EXPECTED {
        broken.push(format!("the releases ended as {seen:?}, not as {EXPECTED:?}"));
    }
    for history in told.histories.iter().filter(|history| history.release.name == MIGRATES) {
        let ran = |state: &str| history.events.iter().any(|event| event.state == state);
        if !ran("expanding") || !ran("contracting") {
            broken.push(format!("{MIGRATES} did not migrate the database"));
        }
    }
    for line in lines.iter().filter(|line| line.name == MIGRATES && line.steps != STEPS) {
        broken.push(format!("{MIGRATES} got {:?} percent of the users, not {STEPS:?}", line.steps));
    }
    let serving = status.stamps.first().map(|stamp| stamp.name.as_str());
    if serving != Some(MIGRATES) || !status.active_ready {
        broken.push(format!("{serving:?} serves, not {MIGRATES}"));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn history(reason: Option<&str>, weights: &[u16]) -> History {
        let counts = json!({
            "active": 90, "candidate": 10, "errors": 0, "retried": 0, "shed": 0, "cut": 0, "failed": 0,
            "client_gone": 0, "refused": 0,
        });
        let point = |weight: &u16| {
            json!({
                "at_ms": 2, "span_ms": 1, "state": "shifting", "weight": weight, "counts": counts,
                "active_p95_ms": 1.0, "candidate_p95_ms": 2.0,
            })
        };
        let check = |verdict: &str, what: &str| json!({ "check": what, "route": null, "verdict": verdict, "text": "words", "numbers": {} });
        let decided = |verdict: &str, what: &str| {
            let decision = json!({ "verdict": verdict, "checks": [check(verdict, what)] });
            json!({ "seq": 1, "at_ms": 1, "state": "shifting", "text": "t", "decision": decision })
        };
        let mut events = vec![decided("pass", "errors")];
        events.extend(reason.map(|_| decided("fail", "tail")));
        let history = json!({
            "release": {
                "number": 3, "name": "v3", "digest": null, "state": "rolled_back", "ended": true,
                "reason": reason, "reason_text": "words", "switch_ms": null, "rollback_ms": 1.5,
                "created_ms": 1, "old_kept_ms": null,
            },
            "events": events,
            "ledger": { "total": counts, "points": weights.iter().map(point).collect::<Vec<_>>(), "not_accounted": [] },
        });
        serde_json::from_value(history).expect("a history")
    }

    #[test]
    fn a_line_says_how_far_it_came_what_decided_and_whom_it_hurt() {
        let slow = line(&history(Some("latency"), &[0, 1_000, 1_000, 5_000, 0]), 2);
        assert_eq!(slow.steps, [10.0, 50.0]);
        assert_eq!(slow.check.as_deref(), Some("tail"));
        // Three seconds with users, ten answers each, and the two that failed.
        assert_eq!((slow.users_hurt, slow.failed), (32, 2));

        let crashed = line(&history(Some("crash"), &[0, 1_000]), 2);
        assert_eq!((crashed.users_hurt, crashed.failed), (2, 2));

        let refused = line(&history(None, &[0]), 0);
        assert_eq!((refused.steps, refused.check, refused.users_hurt), (vec![], None, 0));
    }

    #[test]
    fn only_what_the_gateway_knows_to_be_cut_was_in_flight() {
        let counts = |cut, failed| LedgerCounts { cut, failed, ..LedgerCounts::default() };
        let cases =
            [(0, counts(3, 0), 0), (3, counts(2, 1), 3), (3, counts(1, 0), 1), (30, counts(30, 9), 20)];
        for (seen, counts, expected) in cases {
            assert_eq!(explained(seen, &counts), expected, "{seen} {counts:?}");
        }
    }
}
