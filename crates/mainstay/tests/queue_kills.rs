//! Queued routes of a whole program while its processes are killed: sagas are complete or undone, a backlog outlives
//! releases, and orders are taken right after a boot. What databases and operators do to them is in `queue`.

#[path = "queue/backlog.rs"]
mod backlog;
#[path = "queue/buyers.rs"]
mod buyers;
#[path = "queue/reboot.rs"]
mod reboot;
#[path = "queue/sagas.rs"]
mod sagas;

mod stage;
