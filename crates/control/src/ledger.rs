//! The switch ledger: what became of every request that arrived during a release, second by second.

use crate::observe::{Increment, Watching};
use api::gateway::Measures;
use api::operator::{Ledger, LedgerCounts, LedgerPoint};
use model::name::StampId;
use stats::histogram::Histogram;

/// A point of the ledger that is still counted.
#[derive(Debug)]
pub(crate) struct Open {
    began_ms: u64,
    counts: LedgerCounts,
    active: Histogram,
    candidate: Histogram,
    incomplete: bool,
}

impl Open {
    pub(crate) fn new(began_ms: u64) -> Self {
        Self {
            began_ms,
            counts: LedgerCounts::default(),
            active: Histogram::default(),
            candidate: Histogram::default(),
            incomplete: false,
        }
    }

    /// The gateway did not answer, or was started again.
    pub(crate) fn incomplete(&mut self) {
        self.incomplete = true;
    }

    /// Counts what happened between two readings.
    pub(crate) fn add(
        &mut self,
        before: Option<&Measures>,
        now: &Measures,
        increment: &Increment,
        watching: &Watching,
    ) {
        let before = before.filter(|before| before.pid == now.pid);
        self.incomplete |= increment.incomplete;
        let answered = |stamp: StampId| {
            let of = |measures: &Measures| {
                let stamp = measures.stamps.iter().find(|known| known.stamp == stamp);
                // Class 0 ended without an answer: it is among the faults.
                stamp.map_or((0, 0), |stamp| (stamp.classes[1..].iter().sum::<u64>(), stamp.classes[5]))
            };
            let (now, earlier) = (of(now), before.map_or((0, 0), of));
            (now.0.saturating_sub(earlier.0), now.1.saturating_sub(earlier.1))
        };
        let fault = |kinds: &[&str]| {
            let of = |measures: &Measures| -> u64 {
                kinds.iter().filter_map(|kind| measures.faults.get(*kind)).sum()
            };
            of(now).saturating_sub(before.map_or(0, of))
        };
        let (active, active_errors) = watching.old.map_or((0, 0), answered);
        let (candidate, candidate_errors) = answered(watching.candidate);
        let (failed, shed) = (fault(FAILED), fault(SHED));
        let (queue_failed, queue_shed) = (fault(QUEUE_FAILED), fault(QUEUE_SHED));
        let counts = &mut self.counts;
        counts.active += active;
        counts.candidate += candidate;
        // The gateway's own 5xx are among the answers of the stamp they were meant for, the queue's among nobody's.
        let own = failed + shed + fault(UPSTREAM_CUT);
        counts.errors += (active_errors + candidate_errors).saturating_sub(own);
        counts.retried += now.retries.saturating_sub(before.map_or(0, |before| before.retries));
        counts.held += now.held.saturating_sub(before.map_or(0, |before| before.held));
        counts.queued += now.queued.saturating_sub(before.map_or(0, |before| before.queued));
        counts.shed += shed + queue_shed;
        counts.cut += fault(CUT);
        counts.failed += failed + queue_failed;
        counts.client_gone += fault(CLIENT_GONE);
        counts.refused += fault(REFUSED);
        for (stamp, routes) in &increment.stamps {
            let sum = match *stamp {
                stamp if stamp == watching.candidate => &mut self.candidate,
                stamp if Some(stamp) == watching.old => &mut self.active,
                _ => continue,
            };
            routes.values().flat_map(|route| &route.halves).for_each(|half| sum.merge(half));
        }
    }

    /// Ends the point and begins the next.
    pub(crate) fn close(&mut self, watching: &Watching, at_ms: u64) -> LedgerPoint {
        let p95 = |histogram: &Histogram| histogram.quantile(0.95).map(|us| us / 1000.0);
        let point = LedgerPoint {
            at_ms,
            span_ms: at_ms.saturating_sub(self.began_ms),
            state: watching.state.into(),
            weight: watching.weight,
            counts: self.counts,
            active_p95_ms: p95(&self.active),
            candidate_p95_ms: p95(&self.candidate),
            not_accounted: self.incomplete,
        };
        *self = Self::new(at_ms);
        point
    }
}

/// The kinds of the gateway's own errors (`Measures::faults`), by what became of the request.
const FAILED: &[&str] =
    &["connect_failed", "no_active_stamp", "no_ready_instance", "timeout", "upstream_malformed"];
const SHED: &[&str] = &["overloaded"];
/// Of the queue, likewise.
const QUEUE_FAILED: &[&str] = &["queue_closed", "queue_timeout", "not_delivered"];
const QUEUE_SHED: &[&str] = &["queue_full"];
const UPSTREAM_CUT: &[&str] = &["upstream_cut"];
const CUT: &[&str] = &["upstream_cut", "drain_cut", "idle_timeout"];
const CLIENT_GONE: &[&str] = &["client_gone"];
const REFUSED: &[&str] = &[
    "malformed",
    "head_too_large",
    "head_timeout",
    "version",
    "coding",
    "connect",
    "wrong_host",
    "bad_stamp",
    "preview_refused",
    "no_candidate",
    "no_instance",
    "body_too_large",
    "body_timeout",
    "key_missing",
    "key_malformed",
    "key_reused",
    "key_of_others",
    "key_in_flight",
    "bad_delivery",
    "bad_body",
    "given_up",
    "no_job",
    "job_gone",
    "job_begun",
    "job_method",
    "no_response",
];

/// The whole ledger, from its recorded points. Points that a newer agent has recorded in another shape are left out.
pub(crate) fn of_points(points: &[String]) -> Ledger {
    let points: Vec<LedgerPoint> = points.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
    let mut ledger = Ledger::default();
    for point in &points {
        let (sum, more) = (&mut ledger.total, &point.counts);
        sum.active += more.active;
        sum.candidate += more.candidate;
        sum.errors += more.errors;
        sum.retried += more.retried;
        sum.shed += more.shed;
        sum.cut += more.cut;
        sum.failed += more.failed;
        sum.client_gone += more.client_gone;
        sum.refused += more.refused;
        sum.held += more.held;
        sum.queued += more.queued;
        if point.not_accounted {
            ledger.not_accounted.push((point.at_ms.saturating_sub(point.span_ms), point.at_ms));
        }
    }
    ledger.points = points;
    ledger
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kinds as the gateway has them: the two rooms share no code, and know each other's names.
    fn kinds() -> Vec<String> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/src/fault.rs");
        let source = std::fs::read_to_string(path).unwrap();
        let calls = ["answer(", "last(", "cut("].iter().flat_map(|call| source.split(call).skip(1));
        let quoted = calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
        let kinds: Vec<String> = quoted.map(str::to_owned).collect();
        let all = source.split("const ALL: [Self; ").nth(1).and_then(|rest| rest.split(']').next());
        assert_eq!(kinds.len().to_string(), all.unwrap(), "each kind is found once");
        kinds
    }

    #[test]
    fn every_kind_of_fault_is_in_one_column() {
        let columns = [FAILED, QUEUE_FAILED, SHED, QUEUE_SHED, CUT, CLIENT_GONE, REFUSED];
        let kinds = kinds();
        for kind in &kinds {
            let times = columns.iter().flat_map(|column| *column).filter(|known| *known == kind).count();
            assert_eq!(times, 1, "{kind}");
        }
        let unknown = |kind: &&&str| !kinds.iter().any(|known| known == **kind);
        let stale: Vec<_> = columns.iter().flat_map(|column| *column).filter(|kind| unknown(kind)).collect();
        assert!(stale.is_empty(), "{stale:?}");
    }
}
