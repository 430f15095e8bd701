//! Running instances on this machine: what they run from, where they listen, who looks after them.
//!
//! Lives here: the content store of artifacts, the choice of ports, what the kernel says of processes,
//! the driver that starts, adopts and stops instances, and the shim, the small parent of each instance
//! that outlives the agent and keeps its exit status; hooks, which run under shims too; PostgreSQL servers of an
//! environment's own.
//!
//! The order of events that the rest relies on: the driver takes the `lock` of an instance's folder,
//! writes `start.json` and hands the locked file to the shim it spawns, so that from the first moment
//! there is exactly one shim for a folder. The shim says in `lock` who it is, starts the instance, writes
//! `running.json`; when the instance has ended it writes `exit.json`, sees that nothing of the instance's
//! family is left, and ends. Whatever dies in between, the files and the kernel's process table together
//! say what is left, and [`Driver::adopt`] reads them.
//!
//! Never here: traffic, promotion, records, the workload file. And no tokio in `shim`: one runs for each
//! instance, and what it does must fit into a few threads that are asleep.

pub mod artifacts;
pub mod ports;
pub mod postgres;

mod driver;
mod folder;
pub mod process;
mod shim;

pub use driver::{
    Adopted, Driver, ELSEWHERE_AFTER, HOOK_GRACE, HOOK_LINES, HookEnd, HookError, Instance, KILL_WAIT,
    LastSeen, NotReady, PROBE_TIMEOUT, START_DEADLINE, SWEEP_GRACE, StartError, StopError, Sweep, SweepError,
    UNSEEN_RUNS, alive, describe_exit,
};
pub use shim::shim;
