//! What operators see of the queue and do to it: HTTP/1.1 and JSON on `run/gateway.sock`.
//!
//! | request | body | answer |
//! | --- | --- | --- |
//! | `GET /v1/queue` | | [`QueueStatus`] |
//! | `POST /v1/queue/list` | [`ListRequest`] | [`JobList`] |
//! | `GET /v1/queue/jobs/{id}` | | [`JobHistory`] |
//! | `POST /v1/queue/retry` | [`Operate`] | [`Operated`] |
//! | `POST /v1/queue/drop` | [`Operate`] | [`Operated`] |
//! | `POST /v1/queue/edit` | [`Edit`] | [`Operated`] |
//! | `POST /v1/queue/resolve` | [`Resolve`] | [`Operated`] |
//! | `POST /v1/queue/pause`, `POST /v1/queue/resume` | [`PauseRequest`] | [`Halted`] |
//! | `POST /v1/queue/export` | [`Page`] | [`Exported`] |
//! | `POST /v1/queue/import` | [`Import`] | [`Imported`] |
//! | `GET /v1/queue/operations` | | [`Operations`], the latest [`PAGE_LIMIT`] |
//! | `POST /v1/queue/operations` | [`LogRequest`] | [`Operations`] |
//! | `POST /v1/queue/repair` | [`RepairRequest`] | [`Repaired`]; only while the file cannot be used |
//!
//! What changes something is recorded in the same transaction, with who asked for it. Without a queue, or with one
//! that cannot be opened, everything but `GET /v1/queue` is [`crate::problem::Code::Conflict`] and says why.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most jobs of one page of a list, an export or an import.
pub const PAGE_LIMIT: u32 = 500;
/// Bytes of the jobs of a page of an export or an import, in JSON, after which no further one is added to it: a page has
/// one job at least, however large that is.
pub const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// The most bytes of a message with jobs in it, either way; more is refused. It has room for a page and one job of the
/// largest kind: a body of 64 MiB, which takes three times that at most, and all answers to the steps of a saga.
pub const CARGO_LIMIT: usize = 384 * 1024 * 1024;
/// The most numbers of jobs that [`Operated`] lists.
pub const LISTED_LIMIT: usize = 100;

/// The queue at a glance.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct QueueStatus {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Why there is no queue to speak of: queued routes refuse with this text. None: it works, or none is needed.
    pub trouble: Option<String>,
    /// Whether there is a queue at all.
    pub open: bool,
    /// Its file is being read: queued requests wait for that, and nothing else here is known yet.
    #[serde(default)]
    pub opening: bool,
    /// Everything is paused.
    pub paused: bool,
    /// Routes that are paused.
    pub paused_routes: Vec<String>,
    /// Jobs that are waiting, being delivered or of unknown outcome.
    pub depth: u64,
    /// The highest depth since the gateway started.
    pub max_depth: u64,
    /// Bytes of the requests of these jobs.
    pub bytes: u64,
    /// How long the oldest of them has been due, in seconds.
    pub oldest_s: f64,
    /// Jobs by the name of their state; those that were done are counted while they are kept.
    pub states: BTreeMap<String, u64>,
    /// Of those that are dead, users' sagas that could not be undone and stand half undone.
    #[serde(default)]
    pub stuck_sagas: u64,
    /// Since the gateway started.
    pub counts: QueueCounts,
    /// Whom jobs are delivered to.
    pub upstreams: Vec<UpstreamStatus>,
    /// What the queue takes on disk, in bytes.
    pub disk_bytes: u64,
}

/// What has become of requests to queued routes since the gateway started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueCounts {
    /// Written down.
    pub accepted: u64,
    /// Of these, answered with the service's own answer while the client waited.
    pub answered_directly: u64,
    /// Of these, answered with 202.
    pub answered_202: u64,
    /// Answered from what was stored for their key.
    pub replayed: u64,
    /// Refused because a limit was reached or the disk refused.
    pub refused: u64,
    /// Attempts that were made.
    pub attempts: u64,
    /// Jobs that were delivered.
    pub delivered: u64,
    /// Users' jobs that the service did not want after they were acknowledged.
    pub rejected: u64,
    /// Users' jobs whose attempts or time were used up.
    pub dead: u64,
    /// Times that an outcome became unknown.
    pub unknown: u64,
    /// Jobs that went on behind one whose outcome stayed unknown.
    pub overtook_unknown: u64,
    /// Jobs whose body had no value to be ordered by.
    pub unordered: u64,
    /// Sagas that were undone.
    pub sagas_undone: u64,
    /// Sagas that could not be undone: somebody has to look.
    pub sagas_stuck: u64,
}

/// Whom jobs are delivered to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// `default` is the service that gets the requests; otherwise a component.
    pub name: String,
    /// `closed`: deliveries go out; `open`: none for a while; `half_open`: one to try.
    pub breaker: String,
    /// Deliveries in flight.
    pub in_flight: u32,
    /// How many may be.
    pub concurrency: u32,
}

/// Which jobs are meant. All fields that are given must fit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// One job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// `waiting`, `dispatching`, `delivered`, `rejected`, `dead`, `unknown`, `cancelled` or `dropped`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The route's name, such as `POST /api/orders`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Accepted before this, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_ms: Option<i64>,
}

/// A part of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Page {
    /// After this number. 0: from the beginning.
    pub after: u64,
    /// How many at most, up to [`PAGE_LIMIT`].
    pub limit: u32,
}

/// Which jobs are to be listed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListRequest {
    /// Those that fit.
    pub selection: Selection,
    /// Of them, this part.
    pub page: Page,
}

/// One job in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// Its name, by which clients ask for it: number, dash, tag.
    pub name: String,
    /// Its state, as in [`Selection::state`].
    pub state: String,
    /// The route that took it.
    pub route: String,
    /// When it was accepted, in Unix milliseconds.
    pub created_ms: i64,
    /// When it was, or is, to be delivered, or tried again.
    pub due_ms: i64,
    /// When it came to an end.
    pub finished_ms: Option<i64>,
    /// Attempts that were begun.
    pub attempts: u32,
    /// What last went wrong. Empty: nothing.
    pub why: String,
}

/// A page of jobs, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobList {
    /// At most [`PAGE_LIMIT`].
    pub jobs: Vec<Job>,
    /// There are more after this number.
    pub next: Option<u64>,
}

/// A body: as text where it is UTF-8, otherwise in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// UTF-8.
    Text(String),
    /// Anything.
    Hex(String),
}

impl Content {
    /// These bytes.
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }

    /// The bytes. None: not hexadecimal digits in pairs.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Hex(digits) => {
                let digit =
                    |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
                let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
                rest.is_empty().then(|| pairs.iter().map(byte).collect())?
            }
        }
    }
}

/// Everything about one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobHistory {
    /// What a list says.
    pub job: Job,
    /// Its `Idempotency-Key` as it is sent.
    pub key: String,
    /// Method and target.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The fields of the request. Values of `authorization` and `cookie` are left out.
    pub fields: Vec<(String, String)>,
    /// Its body.
    pub body: Content,
    /// What was stored as its answer.
    pub answer: Option<StoredAnswer>,
    /// Its attempts, in order; of many, the latest.
    pub attempts: Vec<Attempt>,
    /// Its steps, where it is a saga.
    pub steps: Vec<SagaStep>,
}

/// An answer that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAnswer {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub fields: Vec<(String, String)>,
    /// Its body.
    pub body: Content,
    /// The body was longer than what is kept.
    pub truncated: bool,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// When it ended, in Unix milliseconds.
    pub at_ms: i64,
    /// What came of it.
    pub what: String,
}

/// A step of a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SagaStep {
    /// Its name.
    pub name: String,
    /// Whether it is the undoing of the step.
    pub undo: bool,
    /// Where it stands.
    pub state: String,
    /// What came of it.
    pub what: String,
}

/// Who asks for what to be done to which jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operate {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Who asks: the number of a user of this machine.
    pub by_uid: u32,
    /// Which jobs.
    pub selection: Selection,
    /// Only count them.
    pub plan: bool,
}

/// A job is to be tried again with another body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Who asks.
    pub by_uid: u32,
    /// Which job: rejected, dead, or waiting.
    pub id: u64,
    /// Its new body.
    pub body: Content,
}

/// What became of a job whose outcome is unknown, by somebody who has looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolve {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Who says so.
    pub by_uid: u32,
    /// Which job.
    pub id: u64,
    /// Whether it took effect. If not, it is sent again.
    pub delivered: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operated {
    /// How many jobs it was done to, or would be.
    pub count: u64,
    /// The first of them, at most [`LISTED_LIMIT`].
    pub ids: Vec<u64>,
    /// Jobs that were meant but whose state does not allow it: those of a state that was asked for by name, and those
    /// that have changed meanwhile.
    pub passed_over: u64,
}

/// Deliveries are to stop, or to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseRequest {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Who asks.
    pub by_uid: u32,
    /// Of one route. None: of all.
    pub route: Option<String>,
}

/// What came of a [`PauseRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Halted {
    /// What was to be paused was paused already, or what was to go on was not paused.
    #[serde(default)]
    pub unchanged: bool,
    /// The queue as it is now.
    #[serde(flatten)]
    pub status: QueueStatus,
}

/// A job outside of its queue, as `export` writes it, one in a line: a JSON object with a version of its own, which
/// is the queue's business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExportedJob(pub serde_json::Value);

/// A page of jobs that are not done, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// At most [`PAGE_LIMIT`].
    pub jobs: Vec<ExportedJob>,
    /// There are more after this number.
    pub next: Option<u64>,
}

/// Jobs from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Who asks.
    pub by_uid: u32,
    /// At most [`PAGE_LIMIT`].
    pub jobs: Vec<ExportedJob>,
}

/// What became of an [`Import`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Imported {
    /// Taken on, as new jobs.
    pub accepted: u64,
    /// There already, by their keys.
    pub repeated: u64,
}

/// Which entries of the audit log are to be shown, the latest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogRequest {
    /// Of those before this number. None: of all.
    #[serde(default)]
    pub before: Option<u64>,
    /// How many at most, up to [`PAGE_LIMIT`]. 0: as many.
    #[serde(default)]
    pub limit: u32,
}

/// What operators did, the latest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// Entries of the audit log.
    pub operations: Vec<Operation>,
    /// There are older ones before this number. None: there are not.
    #[serde(default)]
    pub next: Option<u64>,
}

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its number: those after it have higher ones.
    #[serde(default)]
    pub id: u64,
    /// When, in Unix milliseconds.
    pub at_ms: i64,
    /// Who: the number of a user of this machine.
    pub by_uid: u32,
    /// What: `retry`, `drop`, `edit`, `resolve`, `pause`, `resume`, `import`, `repair`.
    pub verb: String,
    /// To what.
    pub what: String,
    /// To how many jobs.
    pub count: u64,
}

/// A damaged file is to be saved as far as it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairRequest {
    /// [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// Who asks.
    pub by_uid: u32,
}

/// What was saved of a damaged file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Repaired {
    /// Where the damaged file lies now.
    pub aside: String,
    /// Jobs that were saved whole.
    pub jobs: u64,
    /// Answers that were saved.
    pub responses: u64,
    /// Jobs of which something is left, but not all: they are not in the new file.
    pub lost: u64,
    /// The first of them, at most [`LISTED_LIMIT`].
    pub lost_ids: Vec<u64>,
    /// What could not be read, in words.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_body_comes_back() {
        for bytes in [&b""[..], b"{\"a\":1}", b"\xff\x00\x7f", "ä".as_bytes()] {
            assert_eq!(Content::of(bytes).bytes().as_deref(), Some(bytes));
        }
        assert_eq!(Content::Hex("0".into()).bytes(), None);
        assert_eq!(Content::Hex("zz".into()).bytes(), None);
    }
}
