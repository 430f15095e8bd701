//! The wire between the processes of one environment, and between them and the command line.
//!
//! Lives here: the messages, their version, error codes, the client, and where in a state folder each
//! socket and file lies. Never here: how anything behind a message works.

pub mod folder;

pub mod operator;

pub mod gateway;

pub mod keeper;

pub mod shim;

pub mod client;

pub mod problem;

pub mod clock;

/// The version every message carries. A process that speaks version N also speaks N−1, so that a shim
/// outlives an upgrade of what started it.
pub const PROTOCOL_VERSION: u32 = 1;
