//! The gateway as its neighbours see it: real sockets in front, real sockets behind, a real state folder.

#![expect(clippy::unwrap_used, reason = "clippy knows tests, but not what they stand on")]

mod stage;

mod access;
mod forwarding;
mod holding;
mod limits;
mod malformed;
mod measuring;
mod previous;
mod queued;
mod retries;
mod shifting;
mod switching;
mod tables;
mod tracing;
