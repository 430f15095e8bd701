//! What the agent tells the gateway, and what the gateway tells everybody: HTTP/1.1 and JSON on
//! `run/gateway.sock`.
//!
//! | request | body | answer |
//! | --- | --- | --- |
//! | `PUT /v1/table` | [`PutTable`] | [`Applied`] |
//! | `GET /v1/state` | | [`GatewayState`] |
//! | `GET /v1/measures` | | [`Measures`] |
//! | `GET /metrics` | | Prometheus text |
//! | `GET /.mainstay/health` | | 200 when a stamp serves, else 503 |
//!
//! A table is the whole truth, not a change: putting the same one twice is harmless. SIGTERM drains.

use model::name::{ComponentName, Digest, FenceToken, ReleaseNumber, StampId};
use model::workload::GatewaySettings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The header that asks for a stamp, whichever the user has: `candidate` or `active`. Removed before forwarding.
pub const STAMP_HEADER: &str = "mainstay-stamp";
/// The header that carries the preview token, without which [`STAMP_HEADER`] and [`INSTANCE_HEADER`] get 403.
pub const PREVIEW_HEADER: &str = "mainstay-preview";
/// The header that asks for one instance by its index, with the preview token. Removed before forwarding.
pub const INSTANCE_HEADER: &str = "mainstay-instance";

/// What the gateway is to serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutTable {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Of the agent that speaks. A lower one than the gateway has seen is refused as `fenced`.
    pub fence: FenceToken,
    /// Whether the table is stored before or after it acts.
    pub persist: Persist,
    /// The table.
    pub table: Table,
}

/// When a table is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Persist {
    /// Before it acts; if it cannot be stored nothing changes. For the first stamp there is.
    First,
    /// After it acts; if it cannot be stored it acts all the same, and the answer says so.
    After,
}

/// Which stamps there are for the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Opens the preview door.
    pub preview_token: String,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// The stamp that serves. None: 503 with Retry-After.
    pub active: Option<TableStamp>,
    /// The stamp behind the preview door, and of `weight` users of 10,000.
    pub candidate: Option<TableStamp>,
    /// How many users of 10,000 the candidate has, 0 to 9999. A user is an affinity key
    /// (`model::workload::Affinity`), and has the candidate when a hash of the candidate's release and the key is
    /// below the weight: raising it only moves users to the candidate.
    #[serde(default)]
    pub weight: u16,
    /// The stamp that takes over from the active one when `guard` trips.
    #[serde(default)]
    pub fallback: Option<TableStamp>,
    /// When users are taken from the watched stamp at once, before any agent has looked. The watched stamp is the
    /// candidate when it has a weight; otherwise the active one, when there is a fallback; otherwise none.
    #[serde(default)]
    pub guard: Option<Guard>,
    /// The stamp that served before the active one and is kept warm, which routes with `previous_stamp` ask. While
    /// there is a fallback, or a candidate with users, that is it without being named here.
    #[serde(default)]
    pub previous: Option<TableStamp>,
    /// What is left of the stamp before the active one once it has stopped: for routes with `previous_stamp` that
    /// name a folder of its artifact.
    #[serde(default)]
    pub kept: Option<KeptArtifact>,
}

/// The artifact of a stamp that has stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptArtifact {
    /// The stamp.
    pub stamp: StampId,
    /// The artifact of the service that got its requests, in the environment's content store.
    pub digest: Digest,
}

/// What trips the gateway's own guard over the stamp of a new release. It stays tripped until a table names other
/// stamps, and users are on the stamp before meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Errors of the watched stamp beyond what the other stamp's rate of errors explains, counted since the stamp
    /// was first watched. Errors are as in [`RouteMeasures::errors`].
    pub max_excess_errors: u32,
    /// Connections that the watched stamp's instances did not take within two seconds.
    pub max_connect_failures: u32,
}

/// One stamp in a [`Table`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableStamp {
    /// The stamp. Its slot lives on, with what is in flight, as long as tables name it.
    pub stamp: StampId,
    /// Its release.
    pub release: ReleaseNumber,
    /// The release's name, for access lines and metrics.
    pub name: String,
    /// The ready instances of the service that gets requests.
    pub instances: Vec<TableInstance>,
    /// What the release's configuration says of requests.
    pub settings: GatewaySettings,
    /// Where sagas reach what else they call, by component.
    #[serde(default)]
    pub upstreams: BTreeMap<ComponentName, TableUpstream>,
}

/// A component that a saga calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableUpstream {
    /// A service of the stamp: its ready instances.
    Instances(Vec<TableInstance>),
    /// An external: an absolute `http` or `https` URL, to whose path that of a call is appended.
    Url(String),
}

/// One instance in a [`TableStamp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInstance {
    /// Which copy.
    pub index: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// The process that was checked to listen there. Another number means another process, so that idle
    /// connections to the one before are not used.
    pub pid: u32,
}

/// A table was taken on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Counts the tables this gateway has applied.
    pub revision: u64,
    /// Why the table could not be stored, with [`Persist::After`].
    pub not_stored: Option<String>,
    /// The slots this table closed.
    pub closed: Vec<ClosedSlot>,
}

/// A slot that takes no more requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedSlot {
    /// Its stamp.
    pub stamp: StampId,
    /// The last dispatch on it, by CLOCK_MONOTONIC in nanoseconds. No request can be dispatched on it after the slot is
    /// closed, but for one that had claimed it before and is still connecting: then this moves.
    pub last_dispatch_ns: u64,
    /// Requests still in flight on it.
    pub in_flight: u64,
}

/// The gateway at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayState {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// The gateway's process.
    pub pid: u32,
    /// Counts the tables applied; 0: serving from the stored one.
    pub revision: u64,
    /// The stamp that serves.
    pub active: Option<StampId>,
    /// The stamp behind the preview door.
    pub candidate: Option<StampId>,
    /// The candidate's users of 10,000, as in the table; none of them when the guard has tripped.
    #[serde(default)]
    pub weight: u16,
    /// What the guard has seen of the stamp it watches.
    #[serde(default)]
    pub watched: Option<Watched>,
    /// Requests in flight on the active stamp.
    pub in_flight: u64,
    /// Client connections open.
    pub connections: u64,
    /// Requests answered since the gateway started.
    pub requests: u64,
    /// Of these, answered by the gateway itself with 502, 503 or 504, or cut after the answer had begun.
    pub failed: u64,
    /// Slots that are closed and still have requests in flight, or were closed by the latest table.
    pub closed: Vec<ClosedSlot>,
    /// The instances that the table names, and those that it names no longer and that still have requests in flight.
    #[serde(default)]
    pub instances: Vec<InstanceLoad>,
    /// The environment's queue. None: no route is queued, and none was.
    #[serde(default)]
    pub queue: Option<QueueSummary>,
}

/// The queue at a glance; [`crate::queue::QueueStatus`] has the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueSummary {
    /// Why queued routes are refused. None: they are not.
    pub trouble: Option<String>,
    /// Its file is being read: queued requests wait for that, and nothing else here is known yet.
    #[serde(default)]
    pub opening: bool,
    /// Jobs that are waiting, being delivered or of unknown outcome.
    pub depth: u64,
    /// How long ago the oldest of them was accepted, in milliseconds.
    pub oldest_ms: u64,
    /// Of these, jobs whose outcome is unknown.
    pub unknown: u64,
    /// Users' jobs that stand with their attempts or time used up, from whenever.
    pub dead: u64,
    /// Users' jobs that stand refused by the service after they were acknowledged, from whenever.
    pub rejected: u64,
    /// Of the dead ones, sagas that could not be undone and stand half undone.
    pub sagas_stuck: u64,
    /// Deliveries are held up by an operator, all or some.
    pub paused: bool,
    /// What all of this comes to.
    pub health: QueueHealth,
}

/// How well a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueHealth {
    /// Nothing stands that somebody has to deal with.
    #[default]
    Green,
    /// Somebody has to look: at rejected jobs, unknown outcomes or deliveries that are held up, or it is being read.
    Yellow,
    /// Writes are refused, or acknowledged ones are dead, or a saga is half undone.
    Red,
}

impl QueueSummary {
    /// The same with its health.
    #[must_use]
    pub fn judged(mut self) -> Self {
        self.health = if self.trouble.is_some() || self.dead > 0 || self.sagas_stuck > 0 {
            QueueHealth::Red
        } else if self.rejected > 0 || self.unknown > 0 || self.paused || self.opening {
            QueueHealth::Yellow
        } else {
            QueueHealth::Green
        };
        self
    }
}

/// What an instance has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceLoad {
    /// Its stamp.
    pub stamp: StampId,
    /// Which copy.
    pub index: u32,
    /// Its process, as in [`TableInstance::pid`].
    pub pid: u32,
    /// Requests in flight on it.
    pub in_flight: u32,
}

/// The stamp that a [`Guard`] watches, since it was first watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    /// The stamp.
    pub stamp: StampId,
    /// Requests it has answered or failed.
    pub requests: u64,
    /// Of these, errors as in [`RouteMeasures::errors`].
    pub errors: u64,
    /// The same of the stamp that serves beside it.
    pub other_requests: u64,
    /// The same of the stamp that serves beside it.
    pub other_errors: u64,
    /// Connections that its instances did not take.
    pub connect_failures: u64,
    /// Why the guard has tripped, if it has.
    pub tripped: Option<Tripped>,
}

/// Why a guard has tripped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tripped {
    /// Too many errors.
    Errors,
    /// Too many connections were not taken.
    Connects,
}

/// What was measured since the gateway started. All numbers only grow, as long as `pid` is the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// The gateway's process.
    pub pid: u32,
    /// When this was read, by CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
    /// Requests that came to an end.
    pub requests: u64,
    /// Requests repeated upstream.
    pub retries: u64,
    /// Requests that had to wait because no instance took them, whatever became of them.
    #[serde(default)]
    pub held: u64,
    /// Requests that the queue has answered, whether it took them on or told what became of an earlier one. They are
    /// among no stamp's answers.
    #[serde(default)]
    pub queued: u64,
    /// Requests that went wrong, by the kind of the gateway's own errors; kinds never seen are left out.
    pub faults: BTreeMap<String, u64>,
    /// The stamps of the latest tables, at most the active, candidate and fallback ones and the one before.
    pub stamps: Vec<StampMeasures>,
}

/// What was measured of one stamp.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StampMeasures {
    /// The stamp.
    pub stamp: StampId,
    /// Answers by class of status, from 1xx at index 1 to 5xx at index 5; at 0 what ended without one.
    pub classes: [u64; 6],
    /// Connections that its instances did not take.
    pub connect_failures: u64,
    /// Its routes that had requests, and [`model::workload::OTHER_ROUTE`].
    pub routes: Vec<RouteMeasures>,
}

/// What was measured of one route on one stamp.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteMeasures {
    /// `model::workload::Route::name`.
    pub route: String,
    /// Requests that were dispatched, or failed to be, on this stamp, and have an outcome. What clients gave up
    /// is left out, and what asked for a stamp or an instance at the preview door: only users are measured.
    pub requests: u64,
    /// Of these: answered with 5xx by the service, or 502 or 504 by the gateway, or 503 because no instance was
    /// ready, or cut after the answer began, or given up by a client who had waited for five seconds.
    pub errors: u64,
    /// Latencies from the arrival of a request's head to the head of its answer, in two halves to which requests
    /// went in turn: pairs of bucket and count, ascending, empty buckets left out. Buckets are those of
    /// `stats::histogram`.
    pub halves: [Vec<(u16, u64)>; 2],
}
