//! Adds up what plays saw: memory depends on the number of steps, never on how long a run is.

use crate::engine::{Played, Seen};
use crate::latency::Latencies;
use crate::outcome::{FailureSample, Outcome, Outcomes, SAMPLES_LIMIT};
use crate::report::{FlowReport, Queued, StepReport, Window};
use crate::script::Script;
use std::time::{Duration, Instant};

/// All that a run has seen so far.
pub(crate) struct Tally {
    flows: Vec<FlowTally>,
    pub(crate) outcomes: Outcomes,
    pub(crate) lag: Latencies,
    pub(crate) connection_waits: u64,
    /// Plays that ended before their first write because the ledger was full.
    pub(crate) refused: u64,
    pub(crate) samples: Vec<FailureSample>,
    window: Outcomes,
    window_latency: Latencies,
    window_since: Instant,
}

struct FlowTally {
    plays: u64,
    steps: Vec<StepTally>,
}

struct StepTally {
    outcomes: Outcomes,
    latency: Latencies,
    accepted: u64,
    /// Made when it is first needed: most steps are never queued.
    until_done: Option<Box<Latencies>>,
}

impl StepTally {
    fn queued(&self) -> Queued {
        let until_done = self.until_done.as_ref().map(|done| done.summary()).unwrap_or_default();
        Queued { accepted: self.accepted, not_done: self.outcomes.pending, until_done }
    }
}

impl Tally {
    pub(crate) fn new(scripts: &[Script]) -> Self {
        let step = |_: &_| StepTally {
            outcomes: Outcomes::default(),
            latency: Latencies::new(),
            accepted: 0,
            until_done: None,
        };
        let flow = |script: &Script| FlowTally { plays: 0, steps: script.steps.iter().map(step).collect() };
        Self {
            flows: scripts.iter().map(flow).collect(),
            outcomes: Outcomes::default(),
            lag: Latencies::new(),
            connection_waits: 0,
            refused: 0,
            samples: Vec::new(),
            window: Outcomes::default(),
            window_latency: Latencies::new(),
            window_since: Instant::now(),
        }
    }

    pub(crate) fn take(&mut self, played: Played, scripts: &[Script]) {
        self.lag.record(played.lag);
        self.refused += u64::from(played.refused);
        self.flows[played.flow].plays += 1;
        for (index, seen) in played.seen.into_iter().enumerate() {
            let step = &mut self.flows[played.flow].steps[index];
            step.outcomes.count(seen.outcome);
            self.outcomes.count(seen.outcome);
            self.window.count(seen.outcome);
            // A request for which this machine had no socket says nothing of the service's latency.
            if seen.outcome != Outcome::NoSocket {
                step.latency.record(seen.latency);
                self.window_latency.record(seen.latency);
            }
            if let Some(accepted) = seen.accepted {
                step.accepted += 1;
                if let Some(until_done) = accepted.until_done {
                    step.until_done.get_or_insert_with(|| Box::new(Latencies::new())).record(until_done);
                }
            }
            self.connection_waits += u64::from(seen.waited);
            self.sample(&scripts[played.flow], index, seen);
        }
    }

    fn sample(&mut self, script: &Script, index: usize, seen: Seen) {
        let Some(problem) = seen.problem else { return };
        let step = &script.steps[index].label;
        let known = self.samples.iter_mut().find(|sample| {
            sample.flow == script.name && sample.step == *step && sample.problem == problem.text
        });
        if let Some(sample) = known {
            sample.times += 1;
        } else if self.samples.len() < SAMPLES_LIMIT {
            self.samples.push(FailureSample {
                flow: script.name.clone(),
                step: step.clone(),
                outcome: seen.outcome,
                status: seen.status,
                problem: problem.text,
                snippet: problem.snippet,
                times: 1,
            });
        }
    }

    /// The writes of all flows that were accepted first.
    pub(crate) fn queued(&self) -> Queued {
        let mut all = Latencies::new();
        let mut queued = Queued::default();
        for step in self.flows.iter().flat_map(|flow| &flow.steps) {
            queued.accepted += step.accepted;
            queued.not_done += step.outcomes.pending;
            step.until_done.iter().for_each(|done| all.merge(done));
        }
        queued.until_done = all.summary();
        queued
    }

    /// What was seen since the last call.
    pub(crate) fn take_window(&mut self) -> Window {
        let now = Instant::now();
        let window = Window {
            seconds: now.saturating_duration_since(self.window_since).as_secs_f64(),
            requests: self.window.requests(),
            failed: self.window.failed(),
            latency: self.window_latency.summary(),
        };
        self.window = Outcomes::default();
        self.window_latency.reset();
        self.window_since = now;
        window
    }

    /// The flows as they stand in a report, and the latencies of all requests. Verdicts are given later.
    pub(crate) fn flows(&self, scripts: &[Script]) -> (Vec<FlowReport>, Latencies) {
        let mut all = Latencies::new();
        let flows = scripts.iter().zip(&self.flows).map(|(script, tally)| {
            let mut latency = Latencies::new();
            let mut outcomes = Outcomes::default();
            for step in &tally.steps {
                latency.merge(&step.latency);
                outcomes.add(&step.outcomes);
            }
            all.merge(&latency);
            let steps = script.steps.iter().zip(&tally.steps).map(|(step, tally)| StepReport {
                step: step.label.clone(),
                outcomes: tally.outcomes,
                latency: tally.latency.summary(),
                queued: tally.queued(),
            });
            let p99 = script.objective.p99;
            FlowReport {
                flow: script.name.clone(),
                plays: tally.plays,
                outcomes,
                errors_limit: script.objective.errors,
                p99_limit_ms: p99.map(|limit| limit.as_secs_f64() * 1000.0),
                over_p99_limit: p99.map_or(0, |limit: Duration| latency.longer_than(limit)),
                latency: latency.summary(),
                steps: steps.collect(),
                looked_up: script.ledger.is_some(),
                verdict: model::verdict::Verdict::Inconclusive,
            }
        });
        (flows.collect(), all)
    }
}
