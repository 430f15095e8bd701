//! What a gate has seen of a candidate: the tests of `stats`, one set for everything and one for each route, fed with
//! what the gateway counts.

use crate::observe::{Counted, Increment};
use api::operator::Check;
use model::flow::Objective;
use model::name::StampId;
use model::verdict::Verdict;
use model::workload::{Configuration, OTHER_ROUTE};
use serde::Serialize;
use stats::block::{BlockBuilder, BlockInput};
use stats::errors::{self, Counts, ErrorTest, ErrorVerdict};
use stats::histogram::Histogram;
use stats::latency::{LatencyTest, LatencyVerdict};
use stats::objective::{self, ObjectiveTest, ObjectiveVerdict};
use stats::tail::{self, TailTest, TailVerdict};
use std::collections::BTreeMap;

/// As many of the last ten blocks found the candidate slower: reason to look longer.
const SUSPICIOUS_BLOCKS: usize = 5;

/// The same of fewer blocks, when they are half of them.
const SUSPICIOUS_FEW: usize = 3;

/// What is known of a candidate, over all steps of its release. Lost with the agent: the next one looks afresh.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    errors: Option<ErrorTest>,
    routes: BTreeMap<String, Route>,
    /// Requests of this step, on all routes.
    step: Counts,
    /// Requests and errors of the stamp before, over all steps.
    active: (u64, u64),
    /// Once the candidate serves alone: its errors against those of the stamp before, all routes together.
    alone: Option<ObjectiveTest>,
    /// The weight under which the last increment was counted.
    weight: Option<u16>,
}

/// One route.
#[derive(Debug)]
struct Route {
    errors: ErrorTest,
    blocks: BlockBuilder,
    latency: LatencyTest,
    tail: TailTest,
    /// Of the candidate and, for what it says of the objective itself, of the old stamp.
    objectives: Vec<[ObjectiveTest; 2]>,
    p99_us: Option<u64>,
}

/// Who is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sides {
    pub(crate) old: Option<StampId>,
    pub(crate) candidate: StampId,
    /// The candidate's users of 10,000.
    pub(crate) weight: u16,
}

impl Evidence {
    /// A step begins: its requests are counted from here.
    pub(crate) fn begin_step(&mut self, weight: u16) {
        self.step = Counts::default();
        if self.weight.replace(weight) == Some(weight) {
            return;
        }
        if let Some(errors) = &mut self.errors {
            errors.weights_changed();
        }
        for route in self.routes.values_mut() {
            route.errors.weights_changed();
            route.blocks.weights_changed(weight == 10_000);
        }
    }

    /// The candidate serves alone from here: its errors are held against those that the stamp before had.
    pub(crate) fn alone(&mut self, requests_before: u64, errors_before: u64) {
        if self.alone.is_some() {
            return;
        }
        // A gateway that was started again has forgotten what this agent has seen.
        let (requests, errors) = match self.active {
            (requests, errors) if requests > requests_before => (requests, errors),
            _ => (requests_before, errors_before),
        };
        let default = || ObjectiveTest::errors(Objective::default().errors, objective::ALPHA);
        let test = ObjectiveTest::errors_as_before(requests, errors, objective::ALPHA);
        self.alone = Some(test.unwrap_or_else(default));
    }

    /// Requests of this step.
    pub(crate) fn step(&self) -> Counts {
        self.step
    }

    /// Takes in what was counted.
    pub(crate) fn take(&mut self, increment: &Increment, sides: Sides, configuration: &Configuration) {
        let routes = configuration.gateway.routes.len() as f64 + 1.0;
        let none = BTreeMap::new();
        let of = |stamp: Option<StampId>| stamp.and_then(|id| increment.stamps.get(&id)).unwrap_or(&none);
        let (old, candidate) = (of(sides.old), of(Some(sides.candidate)));
        let idle = Counted::default();
        let mut all = Counts::default();
        let names: std::collections::BTreeSet<&String> = old.keys().chain(candidate.keys()).collect();
        for name in names {
            let (active, new) = (old.get(name).unwrap_or(&idle), candidate.get(name).unwrap_or(&idle));
            let counts = Counts {
                candidate_requests: new.requests,
                candidate_errors: new.errors,
                active_requests: active.requests,
                active_errors: active.errors,
            };
            all = all.plus(counts);
            let route =
                self.routes.entry(name.clone()).or_insert_with(|| Route::new(name, routes, configuration));
            route.take(counts, new, active, increment, sides.weight);
        }
        self.step = self.step.plus(all);
        self.active = (self.active.0 + all.active_requests, self.active.1 + all.active_errors);
        self.errors.get_or_insert_with(|| ErrorTest::new(errors::ALPHA / 2.0)).observe(all);
        if let Some(alone) = self.alone.as_mut().filter(|_| sides.weight == 10_000) {
            alone.observe(all.candidate_requests, all.candidate_errors);
        }
    }

    /// What speaks against the candidate, the clearest first. Empty: nothing.
    pub(crate) fn against(&self) -> Vec<Check> {
        let mut found = Vec::new();
        if let Some(ErrorVerdict::Worse(finding)) = self.errors.as_ref().map(ErrorTest::verdict) {
            found.push(check("errors", None, Verdict::Fail, finding.to_string(), &finding));
        }
        if let Some(ObjectiveVerdict::Fails(finding)) = self.alone.as_ref().map(ObjectiveTest::verdict) {
            found.push(check("errors", None, Verdict::Fail, finding.to_string(), &finding));
        }
        for (name, route) in &self.routes {
            route.against(name, &mut found);
        }
        found
    }

    /// Whether something looks bad enough to look longer before more users come.
    pub(crate) fn suspicious(&self) -> Option<String> {
        self.routes.iter().find_map(|(name, route)| match route.latency.verdict() {
            LatencyVerdict::Fine { blocks, over } if over >= SUSPICIOUS_BLOCKS => {
                Some(format!("{over} of {blocks} blocks on {name} are slower"))
            }
            LatencyVerdict::TooFew { blocks, over } if over >= SUSPICIOUS_FEW && over * 2 >= blocks => {
                Some(format!("{over} of {blocks} blocks on {name} are slower"))
            }
            LatencyVerdict::Fine { .. } | LatencyVerdict::Worse(_) | LatencyVerdict::TooFew { .. } => None,
        })
    }

    /// What was looked at and found well.
    pub(crate) fn in_favour(&self) -> Vec<Check> {
        let mut found = Vec::new();
        if let Some(ErrorVerdict::Undecided(finding)) = self.errors.as_ref().map(ErrorTest::verdict) {
            found.push(check("errors", None, Verdict::Pass, finding.to_string(), &finding));
        }
        for (name, route) in &self.routes {
            match route.latency.verdict() {
                LatencyVerdict::Fine { blocks, over } => {
                    let text = format!("slower in {over} of {blocks} blocks on {name}");
                    let numbers = LatencyVerdict::Fine { blocks, over };
                    found.push(check("latency", Some(name), Verdict::Pass, text, &numbers));
                }
                LatencyVerdict::TooFew { .. } | LatencyVerdict::Worse(_) => {}
            }
        }
        found
    }
}

impl Route {
    fn new(name: &str, routes: f64, configuration: &Configuration) -> Self {
        let listed = configuration.gateway.routes.iter().find(|route| route.name() == name);
        // What no route of the file and no flow names has no objective of its own.
        let objective = listed.and_then(|route| route.objective).filter(|_| name != OTHER_ROUTE);
        let alpha = objective::ALPHA / routes;
        let mut objectives = Vec::new();
        let mut p99_us = None;
        if let Some(objective) = objective {
            let both = |test: ObjectiveTest| [test.clone(), test];
            objectives.push(both(ObjectiveTest::errors(objective.errors, alpha)));
            if let Some(p99) = objective.p99 {
                let limit = u64::try_from(p99.as_micros()).unwrap_or(u64::MAX);
                p99_us = Some(limit);
                objectives.push(both(ObjectiveTest::p99(limit, alpha)));
            }
        }
        Self {
            errors: ErrorTest::new(errors::ALPHA / 2.0 / routes),
            blocks: BlockBuilder::new(),
            latency: LatencyTest::new(),
            tail: TailTest::new(tail::ALPHA / routes),
            objectives,
            p99_us,
        }
    }

    fn take(&mut self, counts: Counts, new: &Counted, active: &Counted, increment: &Increment, weight: u16) {
        self.errors.observe(counts);
        let over = |halves: &[Histogram; 2], limit: u64| {
            let slow: u64 = halves.iter().map(|half| half.above(limit)).sum();
            (halves.iter().map(Histogram::count).sum::<u64>(), slow)
        };
        if let Some([candidate, old]) = self.objectives.first_mut() {
            candidate.observe(counts.candidate_requests, counts.candidate_errors);
            old.observe(counts.active_requests, counts.active_errors);
        }
        if let (Some([candidate, old]), Some(limit)) = (self.objectives.get_mut(1), self.p99_us) {
            let ((requests, slow), (old_requests, old_slow)) =
                (over(&new.halves, limit), over(&active.halves, limit));
            candidate.observe(requests, slow);
            old.observe(old_requests, old_slow);
        }
        let mut candidate = new.halves[0].clone();
        candidate.merge(&new.halves[1]);
        let input =
            BlockInput { candidate: &candidate, active_halves: [&active.halves[0], &active.halves[1]] };
        if let Some(block) = self.blocks.push(input, increment.span) {
            if weight == 10_000 {
                self.latency.push_alone(&block.candidate);
            } else {
                self.latency.push(block.input());
                self.tail.push(block.input());
            }
        }
    }

    fn against(&self, name: &str, found: &mut Vec<Check>) {
        if let ErrorVerdict::Worse(finding) = self.errors.verdict() {
            let text = format!("on {name}: {finding}");
            found.push(check("errors", Some(name), Verdict::Fail, text, &finding));
        }
        if let LatencyVerdict::Worse(finding) = self.latency.verdict() {
            found.push(check("latency", Some(name), Verdict::Fail, finding.text(name), &finding));
        }
        if let TailVerdict::Worse(finding) = self.tail.verdict() {
            found.push(check("tail", Some(name), Verdict::Fail, finding.text(name), &finding));
        }
        for [candidate, old] in &self.objectives {
            // What the old stamp does not keep either is no fault of the candidate's.
            let old_fails = matches!(old.verdict(), ObjectiveVerdict::Fails(_));
            if let ObjectiveVerdict::Fails(finding) = candidate.verdict()
                && !old_fails
            {
                found.push(check("objective", Some(name), Verdict::Fail, finding.text(name), &finding));
            }
        }
    }
}

/// One thing that was looked at, with its numbers.
pub(crate) fn check(
    what: &str,
    route: Option<&str>,
    verdict: Verdict,
    text: String,
    numbers: &impl Serialize,
) -> Check {
    let numbers = serde_json::to_value(numbers).expect("findings have string keys and finite numbers");
    Check { check: what.into(), route: route.map(str::to_owned), verdict, text, numbers }
}

#[cfg(test)]
mod tests;
