//! Queued routes: writes that are on disk before they are acknowledged, and delivered when the service can take them.
//!
//! [`Queue`] is the one handle: workers [`submit`](Queue::submit) requests and wait for their answers, one courier
//! takes what is due from [`next`](Queue::next) and [`report`](Queue::report)s what came of it, operators look and
//! act. What is on disk is kept by `store::journal`; what is retried, in which order, how fast, and what a repeated
//! request gets, is decided here.
//!
//! | module | decides |
//! | --- | --- |
//! | `verdict` | what an attempt's outcome makes of its job |
//! | `saga` | what a saga does next |
//! | `pace` | how many calls an upstream gets, and whether any |
//! | `book` | which job goes next |
//! | `keys` | which job has which key |
//! | `held` | what somebody has to deal with |
//! | `calendar`, `age` | how long ago something was, whatever the clock on the wall was set to |
//! | `accept`, `deliver`, `outcome`, `steps` | what is written, and then done: nothing takes effect before it is on disk |
//! | `recover` | what a queue does that is found again |
//!
//! Never here: listeners, weights, sockets, SQL.

mod queue;

mod call;
mod job;
mod operation;
mod submission;
mod ticket;

mod accept;
mod age;
mod deliver;
mod first;
mod outcome;
mod steps;

mod book;
mod held;
mod keys;
mod look;
mod pace;
mod saga;
mod verdict;

mod calendar;
mod clock;
mod codec;
mod draw;
mod fingerprint;
mod hex;
mod shared;
mod values;

mod operate;
mod recover;
mod tend;
mod transfer;

pub use call::{Call, CallId, CallOutcome, Upstream};
pub use clock::{Clock, Moment};
pub use first::FirstCall;
pub use job::{Answer, Fields, JobId, JobName, JobState, JobView, NotAJobName, Tag, state_name, state_named};
pub use operation::{
    AttemptRecord, Breaker, Counters, Edit, Filter, HeldJobs, Imported, JobHistory, Operation,
    OperationError, Pause, Plan, ReadError, Resolution, Selection, Size, Status, StepView, UpstreamStatus,
    WriteError,
};
pub use queue::{OpenError, Options, Queue};
pub use store::journal::{JournalOptions, Named, RepairError, RepairReport, repair};
pub use submission::{ANSWER_TIME, Cancelled, Full, FullWhy, Submission, Submitted, Traffic, Waited};
pub use ticket::Ticket;
