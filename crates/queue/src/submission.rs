//! What a request to a queued route is to the queue, and what the queue says to it.

use crate::job::{Answer, Fields, JobView};
use bytes::Bytes;
use model::flow::Method;
use model::queue::{QueuedRoute, Saga};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How long a client with more patience than that is not told that its [`Submission`] was accepted: most services have
/// answered by then.
pub const ANSWER_TIME: Duration = Duration::from_millis(50);

/// Whose requests they are. Each kind has lines, an order and paces of its own, so that what holds up users does not
/// hold up the release that would help them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// Users'.
    #[default]
    Users,
    /// Those that validate a stamp before users have it.
    Preview,
}

impl Traffic {
    /// Whether they are users'.
    pub(crate) fn is_users(&self) -> bool {
        *self == Self::Users
    }
}

/// A request to a queued route, whole.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The route's name, such as `POST /api/orders`.
    pub route: Arc<str>,
    /// What the route says of its requests. The job keeps a copy.
    pub settings: Arc<QueuedRoute>,
    /// What is done instead of sending the request to the service, where the route names a saga.
    pub saga: Option<Arc<Saga>>,
    /// Its method.
    pub method: Method,
    /// Its path and query, as they are sent on.
    pub path_and_query: String,
    /// Its fields, as they are sent on: without those of one hop, `idempotency-key` and `mainstay-attempt`.
    pub fields: Fields,
    /// Its body.
    pub body: Bytes,
    /// Whose it is.
    pub traffic: Traffic,
    /// A hash of the user's affinity key, by which each delivery chooses its stamp.
    pub user: Option<u64>,
    /// Its `Idempotency-Key`, checked: at most [`model::queue::KEY_LIMIT`] bytes.
    pub key: Option<String>,
    /// Whose it is, where the route names a principal: empty where the request does not say. None: the route names
    /// none, so keys are the route's.
    pub principal: Option<Bytes>,
    /// The credentials it came with (`Authorization`), or nothing: told apart where the route names no principal.
    pub credentials: Bytes,
    /// How long its client waits for its answer. Without any patience it is told 202 as soon as the job is on disk, and
    /// [`Ticket::wait`](crate::Ticket::wait) waits for nothing; with more than [`ANSWER_TIME`] nobody is woken only to
    /// hear that it was accepted, if the answer is there within that.
    pub patience: Duration,
    /// Whether whoever submits it makes its first call, where that can be made at once: nobody else is woken for it
    /// then. It comes with the [`Ticket`](crate::Ticket::first_call); or earlier, while the request is being written
    /// ([`Queue::submit`](crate::Queue::submit)), where the service honours keys and the client has sent one.
    pub carries: bool,
    /// How long its delivery is to be put off (`Mainstay-Deliver-After`), at most
    /// [`model::queue::FURTHEST_DELIVERY`].
    pub deliver_after: Option<Duration>,
}

/// What becomes of a [`Submission`].
#[derive(Debug)]
pub enum Submitted {
    /// It is on disk: it is delivered whatever happens.
    New(crate::Ticket),
    /// A request with this key and fingerprint is not done yet: 202 with the same Location, or 409 where the route
    /// says so.
    Repeated(JobView),
    /// A request with this key and fingerprint is done: its stored answer. None: it was given up without one
    /// (cancelled, dropped, or dead without any answer).
    Replay(JobView, Option<Answer>),
    /// The key was used for another request: 422.
    Mismatch,
    /// The key was used with other credentials, where the route names no principal: 422.
    OtherCredentials,
    /// A value that the route's saga needs is not in the request: 400.
    Invalid(String),
    /// Nothing was accepted: 503 with Retry-After.
    Full(Full),
    /// It could not be written, while it was sent to the service, which honours its key: it may have happened, and is
    /// not known here. 504 as well: repeated with the same key, it takes effect once.
    Unwritten(FullWhy),
    /// Its write or fsync failed, or its writer ended before it said so: whoever opens the file next may find it, and
    /// then delivers it. 504, as where the disk does not answer.
    Uncertain(String),
}

/// Why nothing more is accepted, and when it may be again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// The reason.
    pub why: FullWhy,
    /// When asking again may help.
    pub retry_after: Duration,
}

/// Why nothing more is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FullWhy {
    /// As many jobs as the environment allows are not done.
    #[error("the queue holds {jobs} jobs that are not done, which is its limit")]
    Jobs {
        /// The limit.
        jobs: u64,
    },
    /// Their requests are as large as the environment allows.
    #[error("the queue holds {bytes} bytes of requests that are not done; its limit is {limit}")]
    Bytes {
        /// What they are.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The disk is full, or nearly so.
    #[error("{0}")]
    Disk(String),
    /// A write or fsync failed: the file is not written again by this process.
    #[error("the queue's file is not trusted any longer: {0}")]
    Broken(String),
    /// Another process owns the queue's file.
    #[error("another gateway has taken the queue over")]
    Fenced,
    /// More waits for the disk than may, or another process holds the file: it may pass in a moment.
    #[error("the queue cannot be written at the moment: {0}")]
    Busy(String),
    /// The file refused what was to be written, or could not be read.
    #[error("the queue's file refused: {0}")]
    Refused(String),
}

/// What waiting for a job has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// It is settled. None: there never was an answer.
    Settled(JobView, Option<Answer>),
    /// It is not, after the time that was asked for: 202.
    Pending(JobView),
}

/// What became of a wish to cancel a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled and never delivered: 204.
    Yes,
    /// Its delivery has begun, or it is done: 409.
    TooLate(JobView),
    /// There is no such job, or none any longer.
    Gone,
    /// It could not be written: 503.
    Failed(FullWhy),
}
