//! The routing table as requests see it: immutable, replaced as a whole.

use crate::limits::EJECTION;
use crate::metrics::{Metrics, StampCounts};
use crate::slot::Slot;
use api::gateway::{Table, TableInstance, TableStamp};
use model::workload::GatewaySettings;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What is served, as of one table.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) preview_token: String,
    pub(crate) trusted_proxies: Vec<IpAddr>,
    pub(crate) active: Option<Arc<Target>>,
    pub(crate) candidate: Option<Arc<Target>>,
}

/// A stamp as of one table. Its slot and its instances live on from table to table.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) slot: Arc<Slot>,
    pub(crate) instances: Vec<Arc<Instance>>,
    pub(crate) settings: GatewaySettings,
    pub(crate) name: String,
    pub(crate) counts: Arc<StampCounts>,
}

/// One process that answers requests.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Tells the idle connections of this process from those of others on the same address.
    pub(crate) key: u64,
    pub(crate) index: u32,
    pub(crate) address: SocketAddr,
    pid: u32,
    ejected_until_ms: AtomicU64,
    in_flight: Apart<AtomicU32>,
}

/// On a cache line of its own: it is written for every request by all cores, and what lies beside it is read.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// One worker's own reference to a target. Claims share it instead of the table's, whose count of references would
/// be written by all cores for every request.
#[derive(Debug)]
pub(crate) struct Local(pub(crate) Arc<Target>);

impl std::ops::Deref for Local {
    type Target = Target;
    fn deref(&self) -> &Target {
        &self.0
    }
}

static KEYS: AtomicU64 = AtomicU64::new(0);

impl Instance {
    fn new(instance: &TableInstance) -> Self {
        Self {
            key: KEYS.fetch_add(1, Ordering::Relaxed),
            index: instance.index,
            address: instance.address,
            pid: instance.pid,
            ejected_until_ms: AtomicU64::new(0),
            in_flight: Apart::default(),
        }
    }

    fn is(&self, instance: &TableInstance) -> bool {
        (self.index, self.address, self.pid) == (instance.index, instance.address, instance.pid)
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.0.load(Ordering::Relaxed)
    }

    /// One more in flight, which must be released; false if there are `limit` already.
    pub(crate) fn hold(&self, limit: u32) -> bool {
        if self.in_flight.0.fetch_add(1, Ordering::AcqRel) < limit {
            return true;
        }
        self.release();
        false
    }

    /// One less in flight.
    pub(crate) fn release(&self) {
        self.in_flight.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// A connection failed: others are preferred for [`EJECTION`].
    pub(crate) fn eject(&self, now_ms: u64) {
        let until = now_ms + EJECTION.as_millis() as u64;
        self.ejected_until_ms.fetch_max(until, Ordering::Relaxed);
    }

    /// Whether others are preferred.
    pub(crate) fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > now_ms
    }
}

impl Routes {
    /// The table that follows this one, and the slots it no longer names: to be closed once it is in place.
    pub(crate) fn next(&self, table: &Table, metrics: &Metrics) -> (Self, Vec<Arc<Slot>>) {
        let before: Vec<&Arc<Target>> = self.active.iter().chain(&self.candidate).collect();
        let mut made: Vec<Arc<Target>> = Vec::new();
        let mut target = |stamp: &Option<TableStamp>| {
            let stamp = stamp.as_ref()?;
            let same = |target: &&Arc<Target>| target.slot.stamp == stamp.stamp;
            let known = before.iter().copied().find(same).or_else(|| made.iter().find(same));
            let target = Arc::new(Target::next(known.map(|known| &**known), stamp, metrics));
            made.push(Arc::clone(&target));
            Some(target)
        };
        let next = Self {
            active: target(&table.active),
            candidate: target(&table.candidate),
            preview_token: table.preview_token.clone(),
            trusted_proxies: table.trusted_proxies.clone(),
        };
        let named = |slot: &Arc<Slot>| made.iter().any(|target| Arc::ptr_eq(&target.slot, slot));
        let mut gone: Vec<Arc<Slot>> = Vec::new();
        for target in before {
            if !named(&target.slot) && !gone.iter().any(|slot| Arc::ptr_eq(slot, &target.slot)) {
                gone.push(Arc::clone(&target.slot));
            }
        }
        (next, gone)
    }

    /// Whether an instance's idle connections may still be used.
    pub(crate) fn names(&self, key: u64) -> bool {
        self.active.iter().chain(&self.candidate).any(|target| target.instances.iter().any(|i| i.key == key))
    }
}

impl Target {
    fn next(before: Option<&Self>, stamp: &TableStamp, metrics: &Metrics) -> Self {
        let known = |instance: &TableInstance| {
            before.and_then(|before| before.instances.iter().find(|known| known.is(instance))).cloned()
        };
        let instance = |new: &TableInstance| known(new).unwrap_or_else(|| Arc::new(Instance::new(new)));
        Self {
            slot: before.map_or_else(|| Arc::new(Slot::new(stamp.stamp)), |before| Arc::clone(&before.slot)),
            instances: stamp.instances.iter().map(instance).collect(),
            settings: stamp.settings.clone(),
            name: stamp.name.clone(),
            counts: metrics.of_stamp(stamp.stamp, &stamp.name),
        }
    }

    /// The instance for the next request: of those not in `passed` (positions), the one with the least in flight,
    /// ties at random. Ejected ones count only if there are no others. `pinned` leaves one index to choose from.
    pub(crate) fn choose(
        &self,
        now_ms: u64,
        pinned: Option<u32>,
        passed: &[usize],
        mut random: impl FnMut() -> u64,
    ) -> Option<usize> {
        let mut pick = |ejected: bool| {
            let mut best: Option<(u32, usize)> = None;
            let mut ties = 0;
            for (position, instance) in self.instances.iter().enumerate() {
                let wanted = pinned.is_none_or(|index| instance.index == index);
                if !wanted || passed.contains(&position) || (instance.is_ejected(now_ms) != ejected) {
                    continue;
                }
                let load = instance.in_flight();
                match best {
                    Some((least, _)) if load > least => {}
                    Some((least, _)) if load == least => {
                        ties += 1;
                        // The n-th of n equal ones takes over with probability 1/n: each is as likely in the end.
                        if random().is_multiple_of(ties + 1) {
                            best = Some((load, position));
                        }
                    }
                    Some(_) | None => {
                        best = Some((load, position));
                        ties = 0;
                    }
                }
            }
            best.map(|(_, position)| position)
        };
        pick(false).or_else(|| pick(true))
    }
}

#[cfg(test)]
mod tests;
