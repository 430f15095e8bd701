//! Takes tables on, one after the other.

use crate::affinity::EVERYBODY;
use crate::components;
use crate::operate;
use crate::routes::{Instance, Routes};
use crate::slot::Slot;
use crate::stored::{self, LoadError, Stored};
use crate::worker::Shared;
use api::PROTOCOL_VERSION;
use api::folder::STATE_VERSION;
use api::gateway::{
    Applied, ClosedSlot, GatewayState, InstanceLoad, Persist, PutTable, Table, TableStamp, TableUpstream,
};
use api::problem::{Code, Problem};
use model::name::{FenceToken, StampId};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The one writer of the routing table.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    path: PathBuf,
    boot: String,
    /// Held while a table is taken on, so that they do not overtake each other between disk and memory.
    fence: tokio::sync::Mutex<FenceToken>,
    revision: AtomicU64,
    /// Slots that were closed: by the latest table, or with requests still in flight.
    closed: std::sync::Mutex<Vec<Arc<Slot>>>,
    /// Instances that are named no longer: by the latest table, or with requests still in flight.
    parted: std::sync::Mutex<Vec<(StampId, Arc<Instance>)>>,
}

impl Applier {
    /// Puts the stored table in place; of one of another boot only which stamps there are ([`unconfirmed`]). The fence
    /// counts in any case.
    pub(crate) fn load(shared: Arc<Shared>, path: PathBuf, boot: String) -> Self {
        let mut fence = FenceToken(0);
        match stored::load(&path) {
            Ok(Some(stored)) => {
                fence = stored.fence;
                let table = if stored.boot == boot {
                    // Whether the guard has tripped meanwhile was not stored, and the candidate may have been taken
                    // back since: the agent has to confirm its weight.
                    Table { weight: 0, ..stored.table }
                } else {
                    tracing::info!(
                        "the stored table is of another boot: nothing is sent until the agent speaks"
                    );
                    unconfirmed(stored.table)
                };
                let (routes, _) = Routes::default().next(&table, &shared.metrics);
                shared.routes.store(Arc::new(routes));
            }
            Ok(None) => {}
            Err(
                error @ (LoadError::Corrupt { .. } | LoadError::Newer { .. } | LoadError::Unreadable { .. }),
            ) => {
                tracing::error!(%error, "the stored table is not used: nothing is served until the agent speaks");
            }
        }
        let revision = AtomicU64::new(0);
        Self {
            shared,
            path,
            boot,
            fence: tokio::sync::Mutex::new(fence),
            revision,
            closed: std::sync::Mutex::default(),
            parted: std::sync::Mutex::default(),
        }
    }

    /// Takes a table on. Not cancel-safe between disk and memory: run it to its end.
    ///
    /// # Errors
    /// `version`, `fenced` and `bad_request`: refused. `machine`: it could not be stored and was to be first; nothing changed.
    pub(crate) async fn put(&self, put: PutTable) -> Result<Applied, Problem> {
        if put.v > PROTOCOL_VERSION {
            let message = format!("the table has version {}, this gateway speaks {PROTOCOL_VERSION}", put.v);
            return Err(Problem::new(Code::Version, message).hint("upgrade the gateway first"));
        }
        if put.table.weight >= EVERYBODY {
            let message = format!("a candidate cannot have {} users of {EVERYBODY}", put.table.weight);
            let hint = "the stamp that has all of them is the active one";
            return Err(Problem::new(Code::BadRequest, message).hint(hint));
        }
        let mut fence = self.fence.lock().await;
        if put.fence < *fence {
            let message = format!("an agent with {} spoke before this one with {}", *fence, put.fence);
            return Err(Problem::new(Code::Fenced, message).hint("this agent was replaced and should end"));
        }
        *fence = put.fence;
        let not_stored = match put.persist {
            Persist::First => {
                self.store(&put).await.map_err(|cause| {
                    let hint = "is the disk full, or the state folder read-only?";
                    Problem::new(Code::Machine, format!("the table cannot be stored: {cause}")).hint(hint)
                })?;
                let closed = self.act(&put);
                return Ok(self.applied(None, &closed));
            }
            Persist::After => {
                let closed = self.act(&put);
                (self.store(&put).await.err(), closed)
            }
        };
        let (cause, closed) = not_stored;
        Ok(self.applied(cause.map(|cause| cause.to_string()), &closed))
    }

    async fn store(&self, put: &PutTable) -> std::io::Result<()> {
        let stored =
            Stored { v: STATE_VERSION, boot: self.boot.clone(), fence: put.fence, table: put.table.clone() };
        let path = self.path.clone();
        // The disk may take its time; accepting must not wait for it.
        tokio::task::spawn_blocking(move || stored::store(&path, &stored))
            .await
            .map_err(std::io::Error::other)?
    }

    /// First the new table, then the closed bits: a claim that is refused finds the new table.
    fn act(&self, put: &PutTable) -> Vec<Arc<Slot>> {
        let before = self.shared.routes.load_full();
        let (next, gone) = before.next(&put.table, &self.shared.metrics);
        // Whoever sees the new table finds a queue that is open, or about to be.
        self.shared.desk.look(&self.shared, &next);
        self.shared.routes.store(Arc::new(next));
        for slot in &gone {
            slot.close();
        }
        self.part_from(&before);
        // Those who are held find the new table, and claim no slot that was closed.
        self.shared.waiting.wake();
        self.revision.fetch_add(1, Ordering::AcqRel);
        let mut closed = self.closed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        closed.retain(|slot| slot.in_flight() > 0);
        closed.extend(gone.iter().cloned());
        gone
    }

    /// Remembers the instances that `before` had named and the table in place does not.
    fn part_from(&self, before: &Routes) {
        let now = self.shared.routes.load();
        let mut parted = self.parted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        parted.retain(|(_, instance)| instance.in_flight() > 0);
        for (stamp, instance) in instances(before) {
            let known = parted.iter().any(|(_, known)| known.key == instance.key);
            if !now.delivers_to(instance.key) && !known {
                parted.push((stamp, Arc::clone(instance)));
            }
        }
    }

    /// The load of the instances that are named, and of those that are not and still have some.
    fn loads(&self) -> Vec<InstanceLoad> {
        let parted = self.parted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let routes = self.shared.routes.load();
        let left = parted
            .iter()
            .filter(|(_, instance)| instance.in_flight() > 0 && !routes.delivers_to(instance.key));
        let left = left.map(|(stamp, instance)| (*stamp, instance));
        let load = |(stamp, instance): (StampId, &Arc<Instance>)| InstanceLoad {
            stamp,
            index: instance.index,
            pid: instance.pid,
            in_flight: instance.in_flight(),
        };
        instances(&routes).chain(left).map(load).collect()
    }

    fn applied(&self, not_stored: Option<String>, closed: &[Arc<Slot>]) -> Applied {
        let closed = closed.iter().map(|slot| slot.report()).collect();
        Applied { revision: self.revision(), not_stored, closed }
    }

    /// Tables applied since the start.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// The gateway at a glance.
    pub(crate) fn state(&self) -> GatewayState {
        let routes = self.shared.routes.load();
        let stamp = |target: &Option<_>| -> Option<StampId> {
            target.as_ref().map(|target: &Arc<crate::routes::Target>| target.slot.stamp)
        };
        let closed = self.closed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let closed: Vec<ClosedSlot> = closed.iter().map(|slot| slot.report()).collect();
        GatewayState {
            v: PROTOCOL_VERSION,
            pid: std::process::id(),
            revision: self.revision(),
            active: stamp(&routes.active),
            candidate: stamp(&routes.candidate),
            weight: routes.shift().map_or(0, |shift| shift.weight),
            watched: routes.watched(),
            in_flight: routes.active.as_ref().map_or(0, |target| target.slot.in_flight()),
            connections: self.shared.connections() as u64,
            requests: self.shared.metrics.sum(|counts| &counts.requests),
            failed: self.shared.metrics.sum(|counts| &counts.failed),
            closed,
            instances: self.loads(),
            queue: operate::summary(&self.shared.desk),
        }
    }
}

/// What is left of a table of another boot: which stamps there are, and nobody of theirs, because nothing is known of who
/// listens on their addresses. Until an agent has spoken, requests wait as if all instances were being started again,
/// those to queued routes are written down, and nothing is sent. The candidate stays named: a table without one would
/// say that it was taken back.
fn unconfirmed(table: Table) -> Table {
    let nobody = |mut stamp: TableStamp| {
        stamp.instances.clear();
        // Externals neither: a saga goes on once all that it calls can be called.
        stamp.upstreams.values_mut().for_each(|upstream| *upstream = TableUpstream::Instances(Vec::new()));
        stamp
    };
    let (active, candidate) = (table.active.map(nobody), table.candidate.map(nobody));
    Table { active, candidate, weight: 0, fallback: None, guard: None, previous: None, ..table }
}

/// Those that get requests, and those that only sagas call.
fn instances(routes: &Routes) -> impl Iterator<Item = (StampId, &Arc<Instance>)> {
    let of = |target| components::instances(target).map(|instance| (target.slot.stamp, instance));
    routes.targets().map(Arc::as_ref).flat_map(of)
}
