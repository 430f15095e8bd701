//! What the courier sends, and what it says has come of it.

use crate::job::{Answer, Fields, JobId};
use bytes::Bytes;
use model::flow::Method;
use model::name::ComponentName;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A call under way: what [`crate::Queue::report`] is told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Whom a call is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Upstream {
    /// The service that forwarded requests go to, on the stamp of the job's user.
    Default,
    /// Another service of that stamp, or an external.
    Component(ComponentName),
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Component(name) => name.fmt(f),
        }
    }
}

/// A request to be sent once, now. Each call that was taken is reported, whatever becomes of it: it holds a place in
/// its upstream's concurrency until then.
#[derive(Debug, Clone)]
pub struct Call {
    /// By which it is reported.
    pub id: CallId,
    /// The job it is for.
    pub job: JobId,
    /// The route that took the job.
    pub route: Arc<str>,
    /// Whom it is for.
    pub to: Upstream,
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub path_and_query: String,
    /// The client's fields, without `idempotency-key`, `mainstay-attempt` and `content-length`, which the courier
    /// adds. Where the body is not the client's, `content-type` is that of the body.
    pub fields: Fields,
    /// Its body.
    pub body: Bytes,
    /// Its `Idempotency-Key`, always the same for the same effect.
    pub key: String,
    /// Its `Mainstay-Attempt`, from 1.
    pub attempt: u32,
    /// How long it may take until the whole answer is there.
    pub timeout: Duration,
    /// A hash of the user's affinity key, by which the stamp is chosen.
    pub user: Option<u64>,
    /// Whether an earlier attempt that is known of may have happened: then it is only for a service that honours its
    /// key.
    pub doubted: bool,
    /// Whether nothing on disk says yet that it may have happened: then as well.
    pub unannounced: bool,
    /// Whether it only asks what became of an attempt: a GET without effect.
    pub probe: bool,
    /// Whether it is a step of a saga, whose settings are its own.
    pub saga: bool,
    /// Whether it undoes such a step.
    pub undo: bool,
}

/// What came of a [`Call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOutcome {
    /// A whole answer, or one whose body was cut to what is kept.
    Answered {
        /// The answer.
        answer: Answer,
        /// What its Retry-After says, from now.
        retry_after: Option<Duration>,
    },
    /// Surely nothing was sent: no instance, no connection, or the request was handed back.
    NotSent {
        /// Why.
        why: String,
        /// Whether whom it was for works, and has as much to do as it may: it is called less, and not given up.
        busy: bool,
    },
    /// It was not sent, because whom it was for honours no keys, and it is unannounced or an earlier attempt may have
    /// happened. It says nothing of whom it was for. One that was only unannounced is made again at once, announced.
    Withheld {
        /// Why.
        why: String,
    },
    /// It may have been received, and no whole answer came: a timeout, a broken connection, a malformed answer.
    Unanswered {
        /// Why.
        why: String,
    },
}
