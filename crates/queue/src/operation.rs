//! What operators see of a queue and do to it.

use crate::job::{Answer, Fields, JobId, JobState, JobView};
use bytes::Bytes;
use model::flow::Method;
use std::collections::BTreeMap;
pub use store::commit::WriteError;
pub use store::journal::{AttemptRecord, Filter, Operation, Pause, ReadError, Size};

/// What has happened since the queue was opened, for the demo and for metrics. None of it goes down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Jobs that were written down.
    pub accepted: u64,
    /// Of these, those whose client got the answer itself.
    pub answered_directly: u64,
    /// Of these, those whose client got 202.
    pub answered_202: u64,
    /// Repeated requests: the key was known.
    pub repeated: u64,
    /// Requests that were refused because the queue was full, or its disk.
    pub refused: u64,
    /// Jobs that were delivered.
    pub delivered: u64,
    /// Users' jobs that the service refused for good.
    pub rejected: u64,
    /// Users' jobs whose attempts were used up, or that got too old.
    pub dead: u64,
    /// Jobs whose outcome became unknown.
    pub unknown: u64,
    /// Dead and rejected jobs that nobody has dealt with for so long that they were forgotten.
    pub held_forgotten: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Jobs that operators dropped.
    pub dropped: u64,
    /// Calls that were made, probes not among them.
    pub attempts: u64,
    /// Probes that were made.
    pub probes: u64,
    /// Jobs with an unknown outcome that no longer held up those behind them.
    pub holds_expired: u64,
    /// Requests in which what their route orders by was not found.
    pub unordered: u64,
    /// Sagas of which every step was done.
    pub sagas_complete: u64,
    /// Sagas of which every step was undone.
    pub sagas_undone: u64,
    /// Sagas of which a step could not be undone: somebody has to look.
    pub sagas_undo_dead: u64,
}

/// Users' jobs that somebody has to deal with: retry, edit or drop them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldJobs {
    /// Whose attempts or time are used up.
    pub dead: u64,
    /// That the service refused for good.
    pub rejected: u64,
    /// Of the dead ones, those whose saga failed and could not be undone: it stands half undone.
    pub stuck_sagas: u64,
}

/// Whether calls to an upstream are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// They are.
    Closed,
    /// None is: it failed too often.
    Open,
    /// One is, to see whether it works again.
    HalfOpen,
}

impl Breaker {
    /// Its word: `closed`, `open` or `half_open`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// An upstream as deliveries see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// `default`, or the name of a component.
    pub name: String,
    /// Whether calls are made.
    pub breaker: Breaker,
    /// Calls under way.
    pub in_flight: u32,
    /// How many may be under way now.
    pub allowed: u32,
}

/// A queue at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Since it was opened.
    pub counters: Counters,
    /// Jobs that are not settled: waiting, dispatching, unknown.
    pub depth: u64,
    /// The most there were since it was opened.
    pub max_depth: u64,
    /// Bytes of their requests.
    pub bytes: u64,
    /// Of these, jobs whose outcome is unknown now.
    pub unknown_now: u64,
    /// Those that stand until somebody deals with them, from whenever.
    pub held: HeldJobs,
    /// How old the oldest of them is, in milliseconds. 0 without any.
    pub oldest_ms: u64,
    /// The upstreams that were called.
    pub upstreams: Vec<UpstreamStatus>,
    /// What is paused: routes, or `*`.
    pub paused: Vec<Pause>,
    /// Why nothing is written any longer. None: it is.
    pub trouble: Option<WriteError>,
}

/// Which jobs an operator means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These.
    Jobs(Vec<JobId>),
    /// Those that fit; only those to which it can be done are touched.
    Fitting(Filter),
    /// The job that has this `Idempotency-Key`, whatever its route and principal.
    Key(String),
}

/// Another request in place of the one that a job has. What is None stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Another path and query.
    pub path_and_query: Option<String>,
    /// Other fields: these, and no other.
    pub fields: Option<Fields>,
    /// Another body.
    pub body: Option<Bytes>,
}

/// What an operator has found out about a job whose outcome was unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It happened.
    Delivered,
    /// It did not happen: it is sent again.
    NotDelivered,
}

/// Everything that is kept of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobHistory {
    /// The job.
    pub job: JobView,
    /// The key that the client gave it.
    pub key: Option<String>,
    /// The request's method.
    pub method: Method,
    /// The request's path and query.
    pub path_and_query: String,
    /// The request's fields.
    pub fields: Fields,
    /// The request's body.
    pub body: Bytes,
    /// What it was answered.
    pub answer: Option<Answer>,
    /// Its attempts, in order.
    pub attempts: Vec<AttemptRecord>,
    /// What is known of the steps of its saga, in order. Empty: it has none.
    pub steps: Vec<StepView>,
}

/// What is known of one step of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// Whether this is its undo.
    pub undo: bool,
    /// When this was recorded, in Unix milliseconds.
    pub at_ms: i64,
    /// `begun`, `done`, `refused` or `unknown`.
    pub state: &'static str,
    /// How often it was attempted.
    pub attempts: u32,
    /// What it was answered.
    pub answer: Option<Answer>,
    /// What last went wrong. Empty: nothing.
    pub why: String,
}

/// What an operation would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// How many jobs it would touch, by route and state.
    pub jobs: BTreeMap<(String, &'static str), u64>,
    /// Some of them, the oldest.
    pub first: Vec<JobView>,
}

/// What an import has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Jobs that were accepted.
    pub accepted: u64,
    /// Jobs that were left out because their key is known here.
    pub known: u64,
}

/// Why an operation was not done, or not to the end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// There is no such job, or none any longer.
    #[error("there is no job {0}")]
    NoSuchJob(JobId),
    /// The job is in a state in which this cannot be done.
    #[error("job {id} is {}: only a job that is {possible} can be {what}", crate::job::state_name(*.state))]
    WrongState {
        /// The job.
        id: JobId,
        /// Its state.
        state: JobState,
        /// The states in which it can be done.
        possible: &'static str,
        /// What was to be done.
        what: &'static str,
    },
    /// The job is being attempted, asked about, or changed by somebody else at this moment.
    #[error("job {0} is under way: nothing was done; try again in a moment")]
    UnderWay(JobId),
    /// What was handed in is not what it should be.
    #[error("{0}")]
    Malformed(String),
    /// The queue's file could not be read.
    #[error("the queue could not be read")]
    Read(#[from] ReadError),
    /// It could not be written. What was done before, in batches, stays done.
    #[error("the queue could not be written: {cause} ({done} jobs were done before)")]
    Write {
        /// Why.
        cause: WriteError,
        /// Jobs that were done before.
        done: u64,
    },
}
