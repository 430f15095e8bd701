//! What a load test says, as values.

use crate::latency::Latency;
use crate::ledger::LedgerReport;
use crate::outcome::{FailureSample, Outcomes};
use model::verdict::Verdict;
use serde::Serialize;

/// A flow that was not played.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The flow.
    pub flow: String,
    /// Why.
    pub why: String,
}

/// What a load test says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    /// Whether the service met its objectives.
    pub verdict: Verdict,
    /// Why the verdict is not a pass, one sentence each.
    pub reasons: Vec<String>,
    /// Picks the flows: the same seed plays the same flows in the same order.
    pub seed: u64,
    /// Planned starts of flows per second.
    pub planned_rate: f64,
    /// Starts of flows per second that were made.
    pub achieved_rate: f64,
    /// How long starts were planned, in seconds.
    pub planned_seconds: f64,
    /// From the first start to the last answer, in seconds.
    pub seconds: f64,
    /// Whether it was told to stop before its plan was done.
    pub stopped: bool,
    /// Plays that were started.
    pub started: u64,
    /// Planned starts that were not made because too many plays were in flight.
    pub not_started: u64,
    /// The limit of plays in flight.
    pub in_flight_limit: u64,
    /// Requests that say something of the service: all outcomes but `no_socket`.
    pub requests: u64,
    /// Requests that were not as expected.
    pub failed: u64,
    /// All requests, by what became of them.
    pub outcomes: Outcomes,
    /// Requests that had to wait for a connection to become free.
    pub connection_waits: u64,
    /// The latency of all requests, failed ones included.
    pub latency: Latency,
    /// The writes that were accepted first.
    pub queued: Queued,
    /// Each flow that was played.
    pub flows: Vec<FlowReport>,
    /// Flows that may not be played here.
    pub skipped: Vec<Skipped>,
    /// What kept the test itself from working, such as a flow that cannot be played at all.
    pub broken: Vec<String>,
    /// The first distinct failures.
    pub samples: Vec<FailureSample>,
    /// How late plays began after their planned instant: the engine's own fault.
    pub lag: Latency,
    /// The highest p99 of the lag with which the run is valid, in milliseconds.
    pub lag_budget_ms: f64,
    /// The share of processor time that a hypervisor gave to others, 0 to 1. None when it is not known.
    pub steal: Option<f64>,
    /// The ledger. None when no flow has one.
    pub ledger: Option<LedgerReport>,
    /// Plays that ended before their first write because the ledger was full.
    pub ledger_refused: u64,
}

/// One flow in a [`LoadReport`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlowReport {
    /// The flow.
    pub flow: String,
    /// How often it was played.
    pub plays: u64,
    /// Its requests, by what became of them.
    pub outcomes: Outcomes,
    /// The share of requests that may fail, 0 to 1.
    pub errors_limit: f64,
    /// The latency that 99 of 100 requests stay within, in milliseconds. None: no limit.
    pub p99_limit_ms: Option<f64>,
    /// How many requests took longer than that.
    pub over_p99_limit: u64,
    /// The latency of its requests, failed ones included.
    pub latency: Latency,
    /// Its steps, in order.
    pub steps: Vec<StepReport>,
    /// Whether a ledger looks up in the end what it wrote.
    pub looked_up: bool,
    /// Whether it met its objective.
    pub verdict: Verdict,
}

/// One step in a [`FlowReport`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Its number from 1, its method and its path as the workload file has it.
    pub step: String,
    /// Its requests, by what became of them.
    pub outcomes: Outcomes,
    /// Their latency, failed ones included.
    pub latency: Latency,
    /// Those that were accepted first.
    pub queued: Queued,
}

/// Writes that were answered with 202 first: to that their latency is counted.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Queued {
    /// How many.
    pub accepted: u64,
    /// Those that were not done while they were followed.
    pub not_done: u64,
    /// From when the request was due to its final answer, of those that had one.
    pub until_done: Latency,
}

/// How a load test is getting on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Since the first start, in seconds.
    pub seconds: f64,
    /// How long starts are planned, in seconds.
    pub planned_seconds: f64,
    /// Requests so far.
    pub requests: u64,
    /// Those that were not as expected.
    pub failed: u64,
    /// Plays in flight.
    pub in_flight: u64,
    /// What was seen since the last progress: about a second.
    pub last: Window,
}

/// What a load test is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Starting plays.
    Playing,
    /// Waiting for the plays in flight.
    Finishing,
    /// Looking up what became of the intended writes.
    Confirming {
        /// How many were looked up.
        done: u64,
        /// Out of how many.
        of: u64,
    },
}

/// A short stretch of a run.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Window {
    /// How long it was, in seconds.
    pub seconds: f64,
    /// Requests that ended in it.
    pub requests: u64,
    /// Those that were not as expected.
    pub failed: u64,
    /// Their latency.
    pub latency: Latency,
}
