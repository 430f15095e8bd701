//! Queued routes of a whole program while its processes are killed: sagas are complete or undone, and a backlog
//! outlives releases. What databases and operators do to them is in `queue`.

#[path = "queue/backlog.rs"]
mod backlog;
#[path = "queue/buyers.rs"]
mod buyers;
#[path = "queue/sagas.rs"]
mod sagas;

mod stage;
