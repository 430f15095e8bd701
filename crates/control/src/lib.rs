//! The agent: the control plane of one environment.
//!
//! Lives here: releases from request to end (`agent`, `command`, `step`), what each state of one does (`work`), the
//! stamps and their instances (`stamp`, `instance`), what the gateway is told (`router`), the API
//! (`server`).
//!
//! Never here: how a process is started (`runtime`), how a request is routed (`gateway`), how a flow is
//! played (`validate`), what is on the command line.
//!
//! Three things are kept apart: what is recorded (`store`), what is observed (views of instances and of the
//! gateway, each published by the task that watches it) and what is wanted (a function of the recorded state,
//! `model::machine`). An agent may be killed at any instant; the next one takes over from the records.

mod agent;

mod base_env;

mod command;

mod step;

mod table;

mod previous;

mod work;

mod capacity;

mod resolve;

mod retention;

mod stamp;

mod needs;

mod stores;

mod hooks;

mod schema;

mod gate;

mod evidence;

mod top_up;

mod observe;

mod ledger;

mod notify;

mod live;

mod instance;

mod router;

mod server;

mod status;

mod crash;

#[cfg(test)]
mod testing;

pub use agent::{AgentError, Options, run};
