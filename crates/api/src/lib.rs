//! The wire between the processes of one environment, and between them and the command line.
//!
//! Lives here: the messages, their version, error codes, the client, and where in a state folder each
//! socket and file lies. Never here: how anything behind a message works.

pub mod folder;

pub mod operator;

pub mod gateway;

pub mod queue;

pub mod keeper;

pub mod memory;

pub mod shim;

pub mod client;

pub mod problem;

pub mod clock;

/// The version every message carries, so that processes of different ages can be told apart. There is one so far;
/// the agent refuses another by name.
pub const PROTOCOL_VERSION: u32 = 1;
