//! The agent's API: HTTP/1.1 and JSON on `run/agent.sock`.
//!
//! | request | body | answer |
//! | --- | --- | --- |
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/configuration` | | the `model::workload::Configuration` of the release that serves |
//! | `POST /v1/releases` | [`ReleaseRequest`] | [`Accepted`] |
//! | `POST /v1/plan` | [`ReleaseRequest`] | [`Plan`]; nothing is begun |
//! | `GET /v1/releases/{number}/events?after=SEQ` | | [`Events`]; waits up to [`EVENTS_WAIT`] for news |
//! | `GET /v1/releases/{number}` | | [`History`] |
//! | `POST /v1/rollback` | [`RollbackRequest`] | [`Accepted`] |
//! | `POST /v1/abort` | [`RollbackRequest`] | [`Accepted`]; refused once the release is promoted |
//! | `POST /v1/down` | | [`Accepted`]-less `204`; instances are stopped when it answers |
//!
//! Errors are [`crate::problem::Problem`] with the status of their code.

use model::name::{ComponentName, Digest, EnvironmentName, ReleaseNumber, StampId, WorkloadName};
use model::workload::{Class, Configuration};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How long a request for events waits for one.
pub const EVENTS_WAIT: Duration = Duration::from_secs(2);

/// What a release is to be made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Random. A request that is sent again with the same key, because its answer was lost with an agent, is
    /// the same request.
    pub key: String,
    /// What people call it.
    pub name: Option<String>,
    /// Where the artifact of each service lies. A service without one is refused.
    pub sources: BTreeMap<ComponentName, Source>,
    /// The workload file, resolved for this environment.
    pub configuration: Configuration,
    /// Whether to roll back once and forward again before the release goes on, to show that it can.
    #[serde(default)]
    pub rehearse: bool,
}

/// Where an artifact comes from. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file or folder, copied into the content store.
    Path(PathBuf),
    /// A command, run in this folder; its executable is looked up as a shell would from there.
    Command {
        /// The folder it was given in.
        folder: PathBuf,
        /// `PATH` of whoever gave it.
        search_path: Option<String>,
    },
}

/// Which release is to be taken back. Asking again is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// The release.
    pub number: ReleaseNumber,
}

/// What is known of a release before it is begun: whether it fits, and whether it can be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// `memory`, `disk`, `ports`, `open_files`, and `limits` where a stamp serves. One that fails is why the release
    /// would be refused; an inconclusive one is to be known.
    pub checks: Vec<Check>,
}

/// A release or a rollback was taken on; its events tell the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The release concerned.
    pub number: ReleaseNumber,
}

/// What happened to a release after a given event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// In order; empty when nothing happened while waiting.
    pub events: Vec<ReleaseEvent>,
    /// The release as it is now.
    pub release: ReleaseSummary,
}

/// One recorded step of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseEvent {
    /// Counts the events of one release, from 1.
    pub seq: u64,
    /// When it was recorded, in milliseconds since 1970.
    pub at_ms: u64,
    /// The state the release was in afterwards, by name.
    pub state: String,
    /// What happened, for people.
    pub text: String,
    /// The numbers that made a decision, as JSON: a [`Decision`].
    #[serde(default)]
    pub decision: Option<Decision>,
}

/// What a gate decided, with the numbers that made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// `pass`, `fail` or `inconclusive`.
    pub verdict: model::verdict::Verdict,
    /// What was looked at, the one that decided first.
    pub checks: Vec<Check>,
}

/// One thing that a gate or a [`Plan`] looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Of a gate `crash`, `errors`, `exposure`, `latency`, `tail`, `objective`, `memory` or `sample`; of a plan as said
    /// there.
    pub check: String,
    /// The route, where it is about one.
    pub route: Option<String>,
    /// What it says.
    pub verdict: model::verdict::Verdict,
    /// In words.
    pub text: String,
    /// The numbers behind it; their names depend on the check.
    pub numbers: serde_json::Value,
}

/// Everything recorded of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The release.
    pub release: ReleaseSummary,
    /// Its story.
    pub events: Vec<ReleaseEvent>,
    /// The switch ledger: what became of every request that arrived during the release.
    pub ledger: Ledger,
}

/// What became of every request that arrived during a release.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Over the whole release.
    pub total: LedgerCounts,
    /// Second by second, or coarser for long releases.
    pub points: Vec<LedgerPoint>,
    /// Intervals in which the gateway was not there to count, in milliseconds since 1970.
    pub not_accounted: Vec<(u64, u64)>,
}

/// Requests by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerCounts {
    /// Answered by the stamp that served when the release began.
    pub active: u64,
    /// Answered by the candidate.
    pub candidate: u64,
    /// Of both: answered with 5xx by the service.
    pub errors: u64,
    /// Sent upstream a second time.
    pub retried: u64,
    /// Refused because of a limit, with 503 and Retry-After.
    pub shed: u64,
    /// Cut after the answer had begun, or in the head of it.
    pub cut: u64,
    /// Answered by the gateway with 502, 503 or 504.
    pub failed: u64,
    /// Given up by the client.
    pub client_gone: u64,
    /// Refused for what the client sent (4xx of the gateway).
    pub refused: u64,
    /// Held for a while because no instance took them, whatever became of them.
    #[serde(default)]
    pub held: u64,
    /// Answered by the queue: taken on by a queued route, or told what became of an earlier one.
    #[serde(default)]
    pub queued: u64,
}

/// The ledger of one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerPoint {
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// How long it is, in milliseconds.
    pub span_ms: u64,
    /// The state the release was in.
    pub state: String,
    /// The candidate's users of 10,000; 10,000 when it serves alone.
    pub weight: u16,
    /// Requests that ended in it.
    pub counts: LedgerCounts,
    /// 95 of 100 answers of the old stamp were quicker, in milliseconds.
    pub active_p95_ms: Option<f64>,
    /// The same of the candidate.
    pub candidate_p95_ms: Option<f64>,
    /// Whether the gateway was started again in it, so that what the one before had counted since the last point is
    /// not known.
    #[serde(default)]
    pub not_accounted: bool,
}

/// A release in one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseSummary {
    /// Its number.
    pub number: ReleaseNumber,
    /// Its name.
    pub name: String,
    /// Its digest, once it is resolved.
    pub digest: Option<Digest>,
    /// Its state, by name (`model::machine::State::name`).
    pub state: String,
    /// Whether that state is final.
    pub ended: bool,
    /// The kind of reason for which it did not get through.
    pub reason: Option<String>,
    /// That reason in words.
    pub reason_text: Option<String>,
    /// From the decision to the last dispatch on the stamp that lost its users, by the gateway's clock.
    pub switch_ms: Option<f64>,
    /// The same, when it was taken back.
    pub rollback_ms: Option<f64>,
    /// The same, when that was rehearsed.
    #[serde(default)]
    pub rehearsal_ms: Option<f64>,
    /// What the candidate is compared by at the moment, in words.
    #[serde(default)]
    pub gate: Option<String>,
    /// The percentage of users on it.
    #[serde(default)]
    pub percent: f64,
    /// When it was asked for, in milliseconds since 1970.
    pub created_ms: u64,
    /// How long the old stamp is still kept, when it is.
    pub old_kept_ms: Option<u64>,
}

/// An environment at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// The workload.
    pub workload: WorkloadName,
    /// The environment.
    pub environment: EnvironmentName,
    /// Its class.
    pub class: Class,
    /// Where users reach it.
    pub http: SocketAddr,
    /// The agent's process.
    pub agent_pid: u32,
    /// The gateway as last seen by the agent; none when it does not answer.
    pub gateway: Option<crate::gateway::GatewayState>,
    /// The stamp that serves.
    pub active: Option<StampId>,
    /// Whether every instance of the active stamp is ready.
    pub active_ready: bool,
    /// The stamps that run, the active one first.
    pub stamps: Vec<StampStatus>,
    /// The stores of this environment that have a process.
    #[serde(default)]
    pub stores: Vec<InstanceStatus>,
    /// The latest releases, newest first.
    pub releases: Vec<ReleaseSummary>,
}

/// One stamp in a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StampStatus {
    /// The stamp.
    pub stamp: StampId,
    /// The name of its release.
    pub name: String,
    /// `active`, `candidate`, `previous` or `stopping`.
    pub role: String,
    /// Its instances.
    pub instances: Vec<InstanceStatus>,
    /// Services of which every instance fails its live probe: none is started again, and all keep serving.
    #[serde(default)]
    pub all_failing: Vec<ComponentName>,
}

/// One instance in a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Its component.
    pub component: ComponentName,
    /// Which copy.
    pub index: u32,
    /// Its port on loopback.
    pub port: u16,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// Whether it gets requests, or works where it is a worker.
    pub ready: bool,
    /// Resident memory in bytes, as last looked at; only where a limit is set.
    #[serde(default)]
    pub memory: Option<u64>,
    /// How often it was started again after an exit nobody asked for.
    pub restarts: u32,
    /// The last such exit or failed start, in words.
    pub last_exit: Option<String>,
    /// Why its live probe fails, while it does. It may be ready all the same, when no other instance answers either.
    #[serde(default)]
    pub failing: Option<String>,
    /// How often it was started again because it no longer answered its live probe.
    #[serde(default)]
    pub replaced: u32,
}
