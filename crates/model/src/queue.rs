//! Queued routes and sagas as checked: what a workload file says of writes that must not be lost.

use crate::flow::{JsonPath, JsonTemplate, Method};
use crate::name::{ComponentName, SagaName};
use crate::template::Template;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The longest that a client can ask to wait for an answer, by `Prefer: wait` (RFC 7240, 4.3).
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The longest `Idempotency-Key`, in bytes.
pub const KEY_LIMIT: usize = 255;
/// The furthest in the future that a job can be asked to be delivered.
pub const FURTHEST_DELIVERY: Duration = Duration::from_secs(365 * 86_400);
/// The most steps of a saga.
pub const SAGA_STEPS_LIMIT: usize = 32;
/// The most bytes that a queued route's limit of a body can be: a body is held in memory whole.
pub const BODY_LIMIT: u64 = 64 * 1024 * 1024;
/// The shortest time for which what is done, and its key, can be kept: within it a client that repeats a request
/// must find the first one (draft-ietf-httpapi-idempotency-key-header, 2.3).
pub const RETENTION_LEAST: Duration = Duration::from_secs(86_400);
/// The values in braces that are not the name of a saga's step.
pub const CALL_VALUES: [&str; 2] = ["body", "key"];

/// A route whose requests are written down before they are acknowledged, and delivered when the service can take
/// them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueuedRoute {
    /// How long a client waits for the service's own answer before it gets 202, where it asks for nothing else.
    pub wait: Duration,
    /// What is delivered in order: requests whose bodies have the same value here. None: no order.
    pub order_by: Option<JsonPath>,
    /// How often a delivery is attempted before the job is dead. At least 1.
    pub attempts: u32,
    /// Whether the service honours `Idempotency-Key`, so that what may have happened can be sent again.
    pub idempotent: bool,
    /// Asked after an attempt with an unknown outcome, where the service is not idempotent: a path with values of
    /// the request (`{body:JSONPATH}`, `{key}`), GET. 2xx: it happened, and this is the answer; 404 or 410: it did
    /// not; anything else: still unknown.
    pub probe: Option<Template>,
    /// How long a job with an unknown outcome holds up those that are delivered in order behind it.
    pub unknown_hold: Duration,
    /// How old a job may get before it is dead, counted from when it is due.
    pub max_age: Duration,
    /// Bytes of a request's body; more gets 413.
    pub body: u64,
    /// How long one attempt may take until the whole answer is there.
    pub attempt_timeout: Duration,
    /// What a repeated request gets while the first one is not done.
    pub in_flight: InFlightAnswer,
    /// Whether requests need an `Idempotency-Key`.
    pub key: KeyUse,
    /// Whose key it is. None: per route, and other credentials get 422.
    pub principal: Option<Principal>,
    /// What is done instead of sending the request to the service.
    pub saga: Option<SagaName>,
}

impl Default for QueuedRoute {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(2),
            order_by: None,
            attempts: 20,
            idempotent: false,
            probe: None,
            unknown_hold: Duration::from_secs(15 * 60),
            max_age: Duration::from_secs(86_400),
            body: 1024 * 1024,
            attempt_timeout: Duration::from_secs(30),
            in_flight: InFlightAnswer::Accepted,
            key: KeyUse::Optional,
            principal: None,
            saga: None,
        }
    }
}

/// What a request with the key of one that is not done gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InFlightAnswer {
    /// 202 with the same Location.
    Accepted,
    /// 409.
    Conflict,
}

/// What is made of the `Idempotency-Key` field (draft-ietf-httpapi-idempotency-key-header).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyUse {
    /// A request without one is a new one; the service gets a key that the gateway made.
    Optional,
    /// A request without one gets 400.
    Required,
}

/// Where a request says whose it is. Names of fields are lower-case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// The whole value of a field.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A claim of the JWT in `Authorization: Bearer` (RFC 7519), which is not verified here: the service does
    /// that. It survives a refreshed token.
    Claim(String),
}

/// The limits of an environment's queue. At each, requests to queued routes get 503 with Retry-After.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueLimits {
    /// Jobs that are not done.
    pub jobs: u64,
    /// Bytes of their requests.
    pub bytes: u64,
    /// How long what is done, and its key, is kept. At least 24 h.
    pub retention: Duration,
    /// Deliveries in flight to one upstream.
    pub concurrency: u32,
    /// The longest pause between two attempts.
    pub longest_pause: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            jobs: 1_000_000,
            bytes: 8 * 1024 * 1024 * 1024,
            retention: Duration::from_secs(86_400),
            concurrency: 32,
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// Calls that happen all, or are undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saga {
    /// The step whose answer the client gets.
    pub answer: String,
    /// In order. Never empty, names are unique.
    pub steps: Vec<SagaStep>,
}

/// One step of a saga.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SagaStep {
    /// Its name, by which later steps read its answer.
    pub name: String,
    /// What it does.
    pub call: SagaCall,
    /// What undoes it. None: a pivot; what follows it is tried until it succeeds.
    pub undo: Option<SagaCall>,
    /// How often it is attempted before it has failed.
    pub attempts: u32,
    /// Whether the upstream honours `Idempotency-Key`.
    pub idempotent: bool,
    /// As [`QueuedRoute::probe`], on the same upstream.
    pub probe: Option<Template>,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// A request that a saga makes. Values in braces: `{body:JSONPATH}` of the client's request, `{STEP:JSONPATH}` of an
/// earlier step's answer (in `undo` also the step's own), `{key}` the key that the call is sent with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SagaCall {
    /// POST, PUT, PATCH or DELETE.
    pub method: Method,
    /// A service of the stamp, or an external.
    pub to: ComponentName,
    /// Path and query.
    pub path: Template,
    /// The body. None: the client's own for a step, none for an undo. A text that is one value and nothing else is
    /// that JSON value, whatever its type.
    pub json: Option<JsonTemplate>,
}
