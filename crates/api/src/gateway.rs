//! What the agent tells the gateway, and what the gateway tells everybody: HTTP/1.1 and JSON on
//! `run/gateway.sock`.
//!
//! | request | body | answer |
//! | --- | --- | --- |
//! | `PUT /v1/table` | [`PutTable`] | [`Applied`] |
//! | `GET /v1/state` | | [`GatewayState`] |
//! | `GET /metrics` | | Prometheus text |
//! | `GET /.mainstay/health` | | 200 when a stamp serves, else 503 |
//!
//! A table is the whole truth, not a change: putting the same one twice is harmless. SIGTERM drains.

use model::name::{FenceToken, ReleaseNumber, StampId};
use model::workload::GatewaySettings;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// The header that asks for a stamp other than the one that serves: `candidate`. Removed before forwarding.
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
    /// Before it acts; if it cannot be stored nothing changes. For giving a stamp users.
    First,
    /// After it acts; if it cannot be stored it acts all the same, and the answer says so. For taking them
    /// away.
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
    /// The stamp behind the preview door.
    pub candidate: Option<TableStamp>,
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
}
