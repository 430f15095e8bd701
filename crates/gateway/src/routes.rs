//! The routing table as requests see it: immutable, replaced as a whole.

use crate::affinity::{EVERYBODY, Key};
use crate::components::{self, Components};
use crate::limits::{EJECTING_ERRORS, EJECTION};
use crate::measures::StampRoutes;
use crate::metrics::{Metrics, StampCounts};
use crate::queued::QueuedRoutes;
use crate::slot::Slot;
use crate::watch::Watch;
use api::gateway::{Guard, KeptArtifact, Table, TableInstance, TableStamp, Watched};
use model::name::{ReleaseNumber, StampId};
use model::traces::Traces;
use model::workload::GatewaySettings;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What is served, as of one table.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) preview_token: String,
    pub(crate) trusted_proxies: Vec<IpAddr>,
    pub(crate) active: Option<Arc<Target>>,
    pub(crate) candidate: Option<Arc<Target>>,
    pub(crate) fallback: Option<Arc<Target>>,
    /// The stamp before the active one, where that is neither of the others.
    pub(crate) previous: Option<Arc<Target>>,
    /// What is left of it once it has stopped.
    pub(crate) kept: Option<KeptArtifact>,
    /// 0 also when there are not both an active stamp and a candidate.
    weight: u16,
    /// What limits hold for whom in `watch`. None: nobody is watched.
    guarded: Option<(Role, Guard)>,
    /// Kept while both its stamps are named, also by tables by which nobody is watched: a guard that has tripped
    /// stays tripped.
    watch: Option<Arc<Watch>>,
}

/// Which stamp is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Active,
    Candidate,
}

/// Users are being shifted.
pub(crate) struct Shift<'a> {
    pub(crate) active: &'a Target,
    pub(crate) candidate: &'a Arc<Target>,
    /// Of [`EVERYBODY`], more than none.
    pub(crate) weight: u16,
}

/// A stamp as of one table. Its slot and its instances live on from table to table.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) slot: Arc<Slot>,
    pub(crate) release: ReleaseNumber,
    pub(crate) instances: Vec<Arc<Instance>>,
    pub(crate) settings: GatewaySettings,
    pub(crate) affinity: Key,
    pub(crate) name: String,
    pub(crate) counts: Arc<StampCounts>,
    pub(crate) routes: Arc<StampRoutes>,
    pub(crate) queued: QueuedRoutes,
    /// What sagas call.
    pub(crate) components: Components,
}

/// One process that answers requests.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Tells the idle connections of this process from those of others on the same address.
    pub(crate) key: u64,
    pub(crate) index: u32,
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    ejected_until_ms: AtomicU64,
    /// Answers with 5xx since the last other one.
    errors: AtomicU32,
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

/// A key that nothing else has to which connections are kept.
pub(crate) fn next_key() -> u64 {
    KEYS.fetch_add(1, Ordering::Relaxed)
}

impl Instance {
    fn new(instance: &TableInstance) -> Self {
        Self {
            key: next_key(),
            index: instance.index,
            address: instance.address,
            pid: instance.pid,
            ejected_until_ms: AtomicU64::new(0),
            errors: AtomicU32::new(0),
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

    /// A connection failed, or too many answers were errors: others are preferred for [`EJECTION`].
    pub(crate) fn eject(&self, now_ms: u64) {
        let until = now_ms + EJECTION.as_millis() as u64;
        self.ejected_until_ms.fetch_max(until, Ordering::Relaxed);
    }

    /// How long others are still preferred.
    pub(crate) fn ejected_for(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.ejected_until_ms.load(Ordering::Relaxed).saturating_sub(now_ms))
    }

    /// Whether others are preferred.
    pub(crate) fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > now_ms
    }
}

impl Routes {
    /// The table that follows this one, and the slots it no longer names: to be closed once it is in place.
    ///
    /// A stamp keeps its slot as the active one and the candidate, between which users go one by one, and as the
    /// fallback. From one to the other it gets a new slot, so that the old one can be closed: its last dispatch is
    /// the end of a switch.
    pub(crate) fn next(&self, table: &Table, metrics: &Metrics) -> (Self, Vec<Arc<Slot>>) {
        let before: Vec<Arc<Target>> = self.targets().cloned().collect();
        let mut known = before.clone();
        let mut target = |stamp: &Option<TableStamp>, slots: &[&Option<Arc<Target>>]| {
            let stamp = stamp.as_ref()?;
            let slot = slots.iter().copied().flatten().map(|target| &target.slot);
            let slot = slot.into_iter().find(|slot| slot.stamp == stamp.stamp);
            let target = Arc::new(Target::next(slot, &known, stamp, metrics));
            known.push(Arc::clone(&target));
            Some(target)
        };
        let active = target(&table.active, &[&self.active, &self.candidate]);
        // One that served and serves no longer begins anew, so that its last dispatch can be told.
        let candidate = target(&table.candidate, &[&self.candidate, &active]);
        let fallback = target(&table.fallback, &[&self.fallback]);
        // Kept warm after it was the fallback, it goes on being the same one.
        let previous = match (&fallback, &table.previous) {
            (Some(fallback), Some(previous)) if fallback.slot.stamp == previous.stamp => None,
            (_, previous) => target(previous, &[&self.previous, &self.fallback]),
        };
        let both = active.is_some() && candidate.is_some();
        let mut next = Self {
            preview_token: table.preview_token.clone(),
            trusted_proxies: table.trusted_proxies.clone(),
            active,
            candidate,
            fallback,
            previous,
            kept: table.kept.clone(),
            weight: if both { table.weight.min(EVERYBODY - 1) } else { 0 },
            guarded: None,
            watch: None,
        };
        next.take_on_watch(self, table.guard);
        let mut gone: Vec<Arc<Slot>> = Vec::new();
        for target in before {
            let same = |slot: &Arc<Slot>| Arc::ptr_eq(slot, &target.slot);
            if !next.targets().any(|named| same(&named.slot)) && !gone.iter().any(same) {
                gone.push(Arc::clone(&target.slot));
            }
        }
        (next, gone)
    }

    /// Goes on watching whom `before` watched, or begins to.
    fn take_on_watch(&mut self, before: &Self, guard: Option<Guard>) {
        let wanted = match (&self.active, &self.candidate, &self.fallback) {
            (Some(active), Some(candidate), _) if self.weight > 0 => {
                Some((Role::Candidate, candidate, active))
            }
            (Some(active), _, Some(fallback)) => Some((Role::Active, active, fallback)),
            (_, _, _) => None,
        };
        let kept = before.watch.clone();
        // A stamp beside itself would explain all of its own errors.
        let wanted = wanted.filter(|(_, watched, beside)| watched.slot.stamp != beside.slot.stamp);
        let (Some((role, watched, beside)), Some(guard)) = (wanted, guard) else {
            let named = |stamp: StampId| self.targets().any(|target| target.slot.stamp == stamp);
            self.watch = kept.filter(|watch| named(watch.stamp()) && named(watch.beside()));
            return;
        };
        let same =
            |watch: &Arc<Watch>| (watch.stamp(), watch.beside()) == (watched.slot.stamp, beside.slot.stamp);
        let new = || Arc::new(Watch::new(Arc::clone(&watched.counts), Arc::clone(&beside.counts)));
        let watch = kept.filter(same).unwrap_or_else(new);
        let was = (before.weight, before.guarded.as_ref().map(|(role, _)| *role));
        if was != (self.weight, Some(role)) {
            watch.weights_changed();
        }
        self.watch = Some(watch);
        self.guarded = Some((role, guard));
    }

    /// Where traces go: as the active release says, or the candidate if there is none.
    pub(crate) fn traces(&self) -> Option<&Traces> {
        self.active.as_ref().or(self.candidate.as_ref())?.settings.traces.as_ref()
    }

    /// All stamps that are named.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.active.iter().chain(&self.candidate).chain(&self.fallback).chain(&self.previous)
    }

    /// Whether an instance's idle connections may still be used.
    pub(crate) fn names(&self, key: u64) -> bool {
        self.targets().any(|target| target.instances.iter().any(|i| i.key == key))
    }

    /// Whether the courier's idle connections to this instance or external may still be used.
    pub(crate) fn delivers_to(&self, key: u64) -> bool {
        self.names(key) || self.targets().any(|target| components::keys(&target.components).any(|k| k == key))
    }

    /// Whether any stamp has queued routes.
    pub(crate) fn queues(&self) -> bool {
        self.targets().any(|target| !target.queued.is_empty())
    }

    /// Which users have the candidate, if any have. One branch when none have by the table.
    pub(crate) fn shift(&self) -> Option<Shift<'_>> {
        if self.weight == 0 {
            return None;
        }
        // A stamp that has no instance takes users back from nobody.
        let back = self.active.as_ref().is_some_and(|active| !active.instances.is_empty());
        if back && self.has_tripped(Role::Candidate) {
            return None;
        }
        let (active, candidate) = (self.active.as_ref()?, self.candidate.as_ref()?);
        // With nobody to answer on the one, everybody is better off on the other.
        let alone = active.instances.is_empty() && !candidate.instances.is_empty();
        let weight = if alone { EVERYBODY } else { self.weight };
        Some(Shift { active, candidate, weight })
    }

    /// The stamp of all other users. One branch without a fallback. A fallback that has no instance takes over from
    /// nobody.
    pub(crate) fn serving(&self) -> Option<&Arc<Target>> {
        match &self.fallback {
            Some(fallback) if self.has_tripped(Role::Active) && !fallback.instances.is_empty() => {
                Some(fallback)
            }
            Some(_) | None => self.active.as_ref(),
        }
    }

    /// Whom to ask for what users of `stamp` may still know from the stamp they had before; it has instances. Who is
    /// on the active stamp may come from the candidate only after its users were taken back.
    pub(crate) fn before(&self, stamp: StampId) -> Option<&Arc<Target>> {
        let serves = self.active.as_ref().is_some_and(|active| active.slot.stamp == stamp);
        let taken_back = self.candidate.as_ref().filter(|_| self.has_tripped(Role::Candidate));
        let order = match serves {
            true => [taken_back, self.previous.as_ref(), self.fallback.as_ref()],
            false => [self.active.as_ref(), None, None],
        };
        let there = |target: &&Arc<Target>| target.slot.stamp != stamp && !target.instances.is_empty();
        order.into_iter().flatten().find(there)
    }

    fn has_tripped(&self, role: Role) -> bool {
        let guarded = self.guarded.as_ref().is_some_and(|(guarded, _)| *guarded == role);
        guarded && self.watch.as_ref().is_some_and(|watch| watch.tripped().is_some())
    }

    /// Something went wrong on a stamp, and was counted: the guard looks, if it is the one it watches. Whether it has
    /// tripped.
    pub(crate) fn look_after(&self, stamp: StampId) -> bool {
        if let (Some((_, guard)), Some(watch)) = (&self.guarded, &self.watch)
            && watch.stamp() == stamp
        {
            watch.look(guard);
            return watch.tripped().is_some();
        }
        false
    }

    /// What the guard has seen.
    pub(crate) fn watched(&self) -> Option<Watched> {
        self.guarded.as_ref().and(self.watch.as_ref()).map(|watch| watch.report())
    }
}

impl Target {
    /// A stamp with the slot it has, or a new one, and with those of its instances that are `known`.
    fn next(slot: Option<&Arc<Slot>>, known: &[Arc<Self>], stamp: &TableStamp, metrics: &Metrics) -> Self {
        let before = known;
        let known = |new: &TableInstance| {
            let same = before.iter().filter(|target| target.slot.stamp == stamp.stamp);
            let all = |target| components::instances(target).find(|known| known.is(new)).cloned();
            same.map(|target| &**target).find_map(all)
        };
        let instance = |new: &TableInstance| known(new).unwrap_or_else(|| Arc::new(Instance::new(new)));
        Self {
            slot: slot.cloned().unwrap_or_else(|| Arc::new(Slot::new(stamp.stamp))),
            release: stamp.release,
            instances: stamp.instances.iter().map(instance).collect(),
            settings: stamp.settings.clone(),
            affinity: Key::from(&stamp.settings.affinity),
            name: stamp.name.clone(),
            counts: metrics.of_stamp(stamp.stamp, &stamp.name),
            routes: metrics.routes_of(stamp.stamp, &stamp.settings.routes),
            queued: QueuedRoutes::new(&stamp.settings),
            components: components::next(&stamp.upstreams, before, instance),
        }
    }

    /// As [`answered`], among the instances that get requests.
    pub(crate) fn answered(&self, instance: &Instance, error: bool, now_ms: u64) {
        answered(&self.instances, instance, error, now_ms);
    }

    /// As [`choose`], of the instances that get requests.
    pub(crate) fn choose(
        &self,
        now_ms: u64,
        pinned: Option<u32>,
        passed: &[usize],
        random: impl FnMut() -> u64,
    ) -> Option<usize> {
        choose(&self.instances, now_ms, pinned, passed, random)
    }
}

/// An instance has answered. After [`EJECTING_ERRORS`] errors in a row it is ejected, unless it is the last one
/// that is not. An answer that is none costs a load.
pub(crate) fn answered(instances: &[Arc<Instance>], instance: &Instance, error: bool, now_ms: u64) {
    if !error {
        if instance.errors.load(Ordering::Relaxed) > 0 {
            instance.errors.store(0, Ordering::Relaxed);
        }
        return;
    }
    let errors = instance.errors.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    let others = || instances.iter().any(|o| o.key != instance.key && !o.is_ejected(now_ms));
    if errors >= EJECTING_ERRORS && others() {
        instance.eject(now_ms);
    }
}

/// The instance for the next request: of those not in `passed` (positions), the one with the least in flight,
/// ties at random. Ejected ones count only if there are no others. `pinned` leaves one index to choose from.
pub(crate) fn choose(
    instances: &[Arc<Instance>],
    now_ms: u64,
    pinned: Option<u32>,
    passed: &[usize],
    mut random: impl FnMut() -> u64,
) -> Option<usize> {
    let mut pick = |ejected: bool| {
        let mut best: Option<(u32, usize)> = None;
        let mut ties = 0;
        for (position, instance) in instances.iter().enumerate() {
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

#[cfg(test)]
mod tests;
