//! The smoke test: does every flow work once?

use crate::engine::{Allowance, Chosen, Engine, Played, STEP_TIMEOUT, choose};
use crate::follow::FOLLOW_LIMIT;
use crate::outcome::Outcome;
use crate::random::{Random, Uuids};
use crate::report::Skipped;
use crate::script::{BUILT_IN, Script};
use crate::target::Target;
use crate::text::number;
use crate::values::Values;
use model::flow::Flow;
use model::name::FlowName;
use model::verdict::Verdict;
use model::workload::Class;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How a smoke test is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmokeOptions {
    /// The class of the environment: in production a flow that writes is not played unless it says so.
    pub class: Class,
    /// How long a step may take.
    pub timeout: Duration,
    /// How long a write that was accepted with 202 is followed to its final answer.
    pub follow: Duration,
}

impl SmokeOptions {
    /// For an environment of `class`, with [`STEP_TIMEOUT`] and [`FOLLOW_LIMIT`].
    pub fn new(class: Class) -> Self {
        Self { class, timeout: STEP_TIMEOUT, follow: FOLLOW_LIMIT }
    }
}

/// What a smoke test says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SmokeReport {
    /// Pass when every step of every flow that may be played was as expected.
    pub verdict: Verdict,
    /// The flows that were played.
    pub flows: Vec<SmokeFlow>,
    /// The flows that may not be played here.
    pub skipped: Vec<Skipped>,
    /// Whether no flow may be played, so that only `GET /` was asked for an answer below 500.
    pub built_in: bool,
    /// What kept the test itself from working.
    pub broken: Vec<String>,
}

/// One flow in a [`SmokeReport`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SmokeFlow {
    /// The flow.
    pub flow: String,
    /// Whether every step was as expected.
    pub passed: bool,
    /// The steps that were played: a flow ends at its first failure.
    pub steps: Vec<SmokeStep>,
}

/// One request in a [`SmokeFlow`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SmokeStep {
    /// Which step, from 1.
    pub step: usize,
    /// Its method.
    pub method: String,
    /// The path it was sent to; as the workload file has it when it could not be sent.
    pub path: String,
    /// What became of it.
    pub outcome: Outcome,
    /// The status, when there was an answer.
    pub status: Option<u16>,
    /// Until the last byte of the answer, in milliseconds.
    pub latency_ms: f64,
    /// What is wrong, with the value seen.
    pub problem: Option<String>,
    /// The beginning of an answer that is not as expected.
    pub snippet: String,
}

/// Plays each flow that may be played once, one after the other. When none may, `GET /` is asked for any
/// answer below 500, and the report says so.
///
/// Ends after at most the number of steps times the timeout, and for each accepted write the time it is followed.
/// Dropping it closes its connection; a write that
/// was sent is not undone.
pub async fn smoke(target: &Target, flows: &BTreeMap<FlowName, Flow>, options: &SmokeOptions) -> SmokeReport {
    let Chosen { mut scripts, skipped, broken } = choose(flows, options.class, true);
    let built_in = scripts.is_empty() && broken.is_empty();
    if built_in {
        scripts.push(Script::built_in());
    }
    let broken = broken.into_iter().map(|b| format!("flow {}: {}", b.flow, b.why)).collect();
    let mut report = SmokeReport { verdict: Verdict::Pass, flows: Vec::new(), skipped, built_in, broken };
    let allowance = Allowance { connections: 1, timeout: options.timeout, follow: options.follow };
    match Engine::new(target, scripts, allowance) {
        Ok(engine) => {
            let mut uuids = Uuids::from_system();
            for flow in 0..engine.scripts.len() {
                // Always the same user: a smoke test asks whether it works, not for whom.
                let values = Values::new(uuids.next(), &mut Random::new(0), &engine.environment);
                let played = engine.play(flow, values, Instant::now()).await;
                report.flows.push(smoke_flow(&engine.scripts[flow], played));
            }
        }
        Err(error) => report.broken.push(error.to_string()),
    }
    report.verdict = verdict(&report);
    report
}

fn verdict(report: &SmokeReport) -> Verdict {
    let own = if report.broken.is_empty() { Verdict::Pass } else { Verdict::Invalid };
    let flow = |flow: &SmokeFlow| match flow.steps.last().map(|step| step.outcome) {
        _ if flow.passed => Verdict::Pass,
        Some(Outcome::NoSocket) => Verdict::Invalid,
        _ => Verdict::Fail,
    };
    report.flows.iter().map(flow).fold(own, Verdict::and)
}

fn smoke_flow(script: &Script, played: Played) -> SmokeFlow {
    let steps: Vec<SmokeStep> = script
        .steps
        .iter()
        .zip(played.seen)
        .enumerate()
        .map(|(index, (step, seen))| {
            let (problem, snippet) = seen.problem.map(|p| (p.text, p.snippet)).unzip();
            SmokeStep {
                step: index + 1,
                method: step.method.as_str().to_owned(),
                path: seen.path.map_or_else(|| step.shown_path(), |path| path.to_string()),
                outcome: seen.outcome,
                status: seen.status,
                latency_ms: seen.latency.as_secs_f64() * 1000.0,
                problem,
                snippet: snippet.unwrap_or_default(),
            }
        })
        .collect();
    let complete = steps.len() == script.steps.len();
    let passed = complete && steps.iter().all(|step| step.outcome == Outcome::Ok);
    SmokeFlow { flow: script.name.clone(), passed, steps }
}

impl SmokeReport {
    /// One line: the first failure, or what was played.
    pub fn text(&self) -> String {
        let failed = self.flows.iter().find(|flow| !flow.passed);
        if let Some((flow, step)) = failed.and_then(|flow| Some((flow, flow.steps.last()?))) {
            let problem = step.problem.as_deref().unwrap_or_default();
            let name = &flow.flow;
            let whose = if self.built_in { format!("{BUILT_IN} flow") } else { format!("flow {name}") };
            return format!("{whose}, step {} {} {}: {problem}", step.step, step.method, step.path);
        }
        if let Some(broken) = self.broken.first() {
            return broken.clone();
        }
        let requests: usize = self.flows.iter().map(|flow| flow.steps.len()).sum();
        let skipped = match self.skipped.len() {
            0 => String::new(),
            count => format!(", {} skipped", count_of(count, "flow")),
        };
        if self.built_in {
            return format!("no flow may be played here: GET / answered below 500{skipped}");
        }
        let flows = count_of(self.flows.len(), "flow");
        format!("{flows} passed with {}{skipped}", count_of(requests, "request"))
    }
}

fn count_of(count: usize, thing: &str) -> String {
    format!("{} {thing}{}", number(count as u64), if count == 1 { "" } else { "s" })
}
