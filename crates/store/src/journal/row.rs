//! What stands in a journal, as it is handed in and out.

use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// A job's number: its row, from 1. Numbers are never used twice, not even after their jobs are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a job is. On disk a small number that is never given another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    /// Not under way: due later, paused, or behind another one.
    Waiting,
    /// An attempt is under way. Found at start: what came of it is not known.
    Dispatching,
    /// Delivered, with the service's answer.
    Done,
    /// The service refused it for good.
    Rejected,
    /// Its attempts are used up.
    Dead,
    /// It may have happened.
    Unknown,
    /// Taken back before it was dispatched.
    Cancelled,
    /// Given up by an operator.
    Dropped,
}

impl JobState {
    /// All states, in the order of their numbers on disk.
    pub const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Dispatching,
        Self::Done,
        Self::Rejected,
        Self::Dead,
        Self::Unknown,
        Self::Cancelled,
        Self::Dropped,
    ];

    /// Its number on disk, from 2: 0 and 1 take no byte there, and a row has to keep its length.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Waiting => 2,
            Self::Dispatching => 3,
            Self::Done => 4,
            Self::Rejected => 5,
            Self::Dead => 6,
            Self::Unknown => 7,
            Self::Cancelled => 8,
            Self::Dropped => 9,
        }
    }

    pub(super) fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| i64::from(state.code()) == code)
    }

    /// Its word, as commands and answers use it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Dispatching => "dispatching",
            Self::Done => "done",
            Self::Rejected => "rejected",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
            Self::Cancelled => "cancelled",
            Self::Dropped => "dropped",
        }
    }

    /// Whether something is still to be done or found out: waiting, dispatching or unknown. Such a job is never
    /// forgotten.
    pub fn is_pending(self) -> bool {
        match self {
            Self::Waiting | Self::Dispatching | Self::Unknown => true,
            Self::Done | Self::Rejected | Self::Dead | Self::Cancelled | Self::Dropped => false,
        }
    }

    /// Whether nothing changes it any longer: done, cancelled or dropped.
    pub fn is_final(self) -> bool {
        match self {
            Self::Done | Self::Cancelled | Self::Dropped => true,
            Self::Waiting | Self::Dispatching | Self::Rejected | Self::Dead | Self::Unknown => false,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A job as it is accepted. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Handed out by the caller, upwards from [`Recovered::next`](super::Recovered::next).
    pub id: JobId,
    /// Random: who knows it may ask for the job.
    pub tag: [u8; 16],
    /// When it came.
    pub created_ms: i64,
    /// When it may be delivered.
    pub due_ms: i64,
    /// The route that took it, such as `POST /api/orders`.
    pub route: Arc<str>,
    /// Hash of the route and the value by which deliveries are ordered.
    pub order: Option<u64>,
    /// Hash of the route, the principal and the `Idempotency-Key`. None: none was given.
    pub key: Option<[u8; 16]>,
    /// What a repeated request must equal.
    pub fingerprint: [u8; 32],
    /// Hash of the credentials it came with.
    pub credentials: [u8; 16],
    /// Hash of the user's affinity key.
    pub user: Option<u64>,
    /// `Dispatching` (attempt 1 begins at once), `Waiting`, or what an imported job was in elsewhere. A state that
    /// is final is refused.
    pub state: JobState,
    /// Whether it may be sent again when it may have happened.
    pub idempotent: bool,
    /// Whether it is for a release that serves no users yet. Jobs of before there was this are users'.
    pub preview: bool,
    /// Encoded, with a version of its own: head, body, saga, limits.
    pub request: Bytes,
}

/// What is known of a job without reading its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// As accepted.
    pub id: JobId,
    /// As accepted.
    pub tag: [u8; 16],
    /// As accepted.
    pub created_ms: i64,
    /// When it may be delivered (next).
    pub due_ms: i64,
    /// As accepted. Rows of one read share it.
    pub route: Arc<str>,
    /// As accepted.
    pub order: Option<u64>,
    /// As accepted.
    pub key: Option<[u8; 16]>,
    /// As accepted.
    pub user: Option<u64>,
    /// Where it is.
    pub state: JobState,
    /// As accepted.
    pub idempotent: bool,
    /// As accepted.
    pub preview: bool,
    /// Attempts that were begun since it was accepted or last released.
    pub attempts: u32,
    /// Bytes of the encoded request.
    pub request_bytes: u64,
    /// When its last outcome was recorded, an unknown one among them. None while it waits or is under way.
    pub outcome_ms: Option<i64>,
}

/// What a repeated request is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// As accepted, or as replaced.
    pub fingerprint: [u8; 32],
    /// As accepted.
    pub credentials: [u8; 16],
}

/// How one attempt ended, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// From 1. A job that was released begins again at 1; both are kept, and between them one with the number 0, which
    /// says so.
    pub number: u32,
    /// When it began.
    pub began_ms: i64,
    /// When it ended.
    pub ended_ms: i64,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// What happened, in a few words; [`ATTEMPT_TEXT_LIMIT`](super::ATTEMPT_TEXT_LIMIT).
    pub text: String,
}

/// What was last recorded of one step of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRecord {
    /// Its place among the steps.
    pub step: u16,
    /// Whether this is its undo.
    pub undo: bool,
    /// When it was recorded.
    pub at_ms: i64,
    /// Encoded by the caller, with a version of its own.
    pub record: Bytes,
}

/// What an operator did: one line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// `retry`, `edit`, `drop`, `pause`, `resume`, `import`, `repair` and the like.
    pub verb: String,
    /// To what: a filter or numbers, as text.
    pub what: String,
    /// To how many jobs.
    pub count: u64,
    /// The user id of who asked.
    pub by_uid: u32,
}

/// Deliveries that are held up by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// What is paused; the caller's word for it, such as a route, or `*`.
    pub scope: String,
    /// Since when.
    pub since_ms: i64,
}

/// That the clock on the wall was set while the journal was open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStep {
    /// What it said just before, Unix milliseconds.
    pub at_ms: i64,
    /// By how much, in milliseconds; less than 0: it was set back.
    pub by_ms: i64,
}

/// What changes. Each is one transaction, or part of one.
///
/// A job that is not there, or that is done, cancelled or dropped already, refuses its change
/// ([`WriteError::Refused`](crate::commit::WriteError::Refused)); nothing of it is written then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// As [`Journal::accept`](super::Journal::accept), for imports.
    Accept(Box<NewJob>),
    /// Attempt `number` begins (`Dispatching`), or is to begin at `due_ms` (`Waiting`; `number` are those begun).
    /// Refused for a job that is dead or rejected: that one is released.
    Attempt {
        /// Which job.
        id: JobId,
        /// Attempts that have begun, this one among them.
        number: u32,
        /// When it may be delivered.
        due_ms: i64,
        /// `Dispatching` or `Waiting`.
        state: JobState,
        /// The attempt that ended before.
        ended: Option<AttemptRecord>,
    },
    /// The job came to an end, or its outcome is unknown.
    Outcome {
        /// Which job.
        id: JobId,
        /// Attempts that have begun.
        attempts: u32,
        /// When this was found.
        at_ms: i64,
        /// Any but `Waiting` and `Dispatching`.
        state: JobState,
        /// The answer, encoded. Replaces an earlier one; None keeps it.
        response: Option<Bytes>,
        /// The attempt that led to it, where its story is worth a row of its own.
        ended: Option<AttemptRecord>,
    },
    /// A dead, rejected or unknown job, or one that waits, is to be delivered once more: it waits until `due_ms`
    /// with no attempts, and the answer it had is gone. In its story this is attempt 0.
    Released {
        /// Which job.
        id: JobId,
        /// When it may be delivered.
        due_ms: i64,
        /// When it was released: those attempts that follow are counted anew, and so is its age.
        at_ms: i64,
        /// By what, for people.
        how: &'static str,
    },
    /// Another request takes the place of the one that was accepted. The key stays with the job.
    Replaced {
        /// Which job.
        id: JobId,
        /// Encoded.
        request: Bytes,
        /// The new request's.
        fingerprint: [u8; 32],
    },
    /// What is now known of a step of a saga; replaces what was recorded of it before.
    Step {
        /// Which job.
        id: JobId,
        /// What is recorded.
        step: StepRecord,
    },
    /// Deliveries of `scope` are held up, also after a restart.
    Paused(Pause),
    /// Deliveries of this scope go on.
    Resumed(String),
    /// An entry of the audit log, next to what it tells of.
    Operation(Operation),
    /// These, old to new, take the place of all that was known of how the clock was set; at most
    /// [`CLOCK_STEPS_LIMIT`](super::CLOCK_STEPS_LIMIT), more are refused.
    Clock(Vec<ClockStep>),
    /// All of these or none, at most [`SEVERAL_LIMIT`](super::SEVERAL_LIMIT); more are refused. May not be nested.
    Several(Vec<Change>),
}

/// Which jobs to list. Everything that is given has to fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// In one of these states. Empty: in any.
    pub states: Vec<JobState>,
    /// Taken by this route.
    pub route: Option<String>,
    /// Ordered by this value.
    pub order: Option<u64>,
    /// Accepted at or after this time.
    pub created_from_ms: Option<i64>,
    /// Accepted before this time.
    pub created_before_ms: Option<i64>,
}

/// What the journal takes on disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The file.
    pub file: u64,
    /// What of it is free for new rows.
    pub free: u64,
    /// The write-ahead log beside it.
    pub log: u64,
}

/// What may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Jobs that were done, cancelled or dropped before this time.
    pub finished_before_ms: i64,
    /// Dead and rejected jobs whose outcome was recorded before this time. None: these are kept.
    pub held_before_ms: Option<i64>,
    /// Entries of the audit log before this time. None: these are kept.
    pub operations_before_ms: Option<i64>,
    /// How many jobs at most, up to [`FORGET_LIMIT`](super::FORGET_LIMIT).
    pub limit: u32,
}

/// What was forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Jobs, with everything that belonged to them.
    pub jobs: u32,
    /// Those of them that were dead or rejected, as far as their rows could be believed.
    pub held: Vec<JobRow>,
    /// Whether a limit was reached, of jobs or of bytes, so that there may be more.
    pub more: bool,
}
