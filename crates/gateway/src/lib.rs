//! The gateway: the data plane of one environment.
//!
//! Lives here: listening sockets' connections, the routing table and its slots, what happens to a request
//! (`request`, one list from top to bottom), access lines, metrics, drain. Never here: releases, drivers of
//! instances, the workload file. It is told what to serve by [`api::gateway`], and boots from what it was told
//! last.
//!
//! Invariants:
//! - A request is dispatched only under a claim of its stamp's slot, and a closed slot is never claimed (`slot`).
//! - A request that asks for no stamp gets the one its user has (`choice`), and the one before when the gateway's
//!   guard has tripped (`watch`) or the candidate takes no connection.
//! - A request that was sent nowhere may wait for an instance (`hold`), in one place of a limited number.
//! - What may have been sent is not sent again, unless it is safe and has no body (`forward`).
//! - What a queued route acknowledges is on disk (`queued`); no delivery depends on its client's connection (`courier`).
//! - Nothing that can be read in two ways gets past `guard`.
//! - Every wait has a deadline and every buffer a limit (`limits`).

mod limits;
mod run;

mod admin;
mod apply;
mod stored;

mod pattern;
mod routes;
mod slot;
mod watch;

mod clock;
mod worker;

mod client;
mod guard;
mod nudge;

mod request;

mod affinity;
mod choice;
mod door;
mod exchange;
mod fields;
mod forward;
mod hold;
mod upstream;

mod kept;
mod previous;

mod queued;

mod components;
mod courier;
mod desk;
mod jobs;
mod operate;

mod body;
mod fault;

mod access;
mod ids;
mod lines;
mod measures;
mod metrics;
mod traces;

pub use queue::JournalOptions;
pub use run::{Options, RunError, run, run_until};
