//! The only room that opens SQLite. It keeps the agent's records and the gateway's journal of queued
//! requests, owns their invariants, decides nothing.
//!
//! - [`commit`]: one writer thread per file; whatever arrived during the last fsync is the next batch, so
//!   that many small writes share one fsync and nobody waits for a timer.
//! - [`journal`]: queued requests, what came of them, what operators did.
//! - [`records`]: releases and their events, as the agent writes them.
//!
//! What is acknowledged is on disk: write-ahead log with `synchronous=FULL`. Never here: retries,
//! transitions, networking.

pub mod commit;

pub mod journal;
pub mod records;
