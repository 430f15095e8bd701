//! What mainstay talks about: names, the workload as checked, the release machine, verdicts.
//!
//! Everything here is pure: no clocks, no sockets, no disk, no JSON text. Types that are part of a
//! release derive serde because a release *is* its resolved configuration: it is hashed, recorded and
//! sent as one value (`docs/decisions/0003-the-release-record-is-the-checked-type.md`).
//!
//! Never here: anything that can fail for another reason than its arguments.

pub mod name;
pub mod template;
pub mod workload;

pub mod artifact;
pub mod flow;
pub mod queue;

pub mod away;

pub mod traces;

pub mod machine;
pub mod verdict;
