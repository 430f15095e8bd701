//! Queued routes of a whole program: databases that go away in mid-traffic, services that keep no keys, and what
//! operators do to jobs. What kills do to sagas and releases is in `queue_kills`.

#[path = "queue/buyers.rs"]
mod buyers;
#[path = "queue/instances.rs"]
mod instances;
#[path = "queue/operators.rs"]
mod operators;
#[path = "queue/outages.rs"]
mod outages;
#[path = "queue/unknown.rs"]
mod unknown;

mod stage;
