//! Whether instances that run still answer: live probes, and who is started again because of them.
//!
//! Each instance is asked by its own supervisor, one question at a time, so one that hangs delays nobody and nothing
//! piles up. What they find is laid together here, per service of a stamp. An instance that has failed
//! [`FAILURES_LIMIT`] times in a row is *failing*. It is taken out and started again only when another instance of
//! its service has answered a question that was asked after its own failures had begun: what brings all of them down
//! together, such as a database that is away, is no reason to start any of them again, and when the first one answers
//! again the failures of the others are forgotten. One of a service is started again at a time: one of a stamp would
//! be too few, as what is started again may have to wait for what it needs, which may be failing itself.
//!
//! An instance that is started again because of its probe has not crashed: a candidate's does not take its users
//! back. One that does not get ready after that has, as any that ends without being asked to.

use crate::instance::{Phase, Plan, View, Want};
use crate::needs::{Address, need_moved};
use model::away::Live;
use model::name::{ComponentName, InstanceId};
use model::workload::Service;
use runtime::Instance;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// Failures in a row after which an instance is failing.
pub(crate) const FAILURES_LIMIT: u32 = 3;
/// How soon it is looked again whether the gateway has let an instance go that it still sends requests.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What the last probes of an instance say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// Nothing yet: it is not there, was not asked since it became ready, or has failed less than
    /// [`FAILURES_LIMIT`] times.
    Open,
    /// It has answered the last question, asked then.
    Well { asked: Instant },
    /// It has failed since the question that was asked then.
    Failing { since: Instant },
}

/// What is to become of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It gets requests.
    Serves,
    /// It gets none, and another one of its service is being started again.
    Waits,
    /// It is to be started again.
    Goes,
}

/// The health of a stamp's instances.
#[derive(Debug, Default)]
struct Vitals {
    /// By index.
    services: BTreeMap<ComponentName, Vec<Health>>,
    /// The one of each service that is being started again.
    turns: BTreeMap<ComponentName, InstanceId>,
    /// Services of which every instance has failed, and none has answered since.
    together: BTreeSet<ComponentName>,
    /// When that ended last. Questions that were asked before are no one's fault.
    excused: BTreeMap<ComponentName, Instant>,
}

/// The health of a stamp's instances, shared by their supervisors.
#[derive(Debug)]
pub(crate) struct Ward(watch::Sender<Vitals>);

impl Vitals {
    fn fate(&self, id: &InstanceId) -> Fate {
        let Some(all) = self.services.get(&id.component) else { return Fate::Serves };
        let Some(Health::Failing { since }) = all.get(id.index as usize).copied() else {
            return Fate::Serves;
        };
        let outlives = |other: &Health| matches!(other, Health::Well { asked } if *asked > since);
        if !all.iter().any(outlives) {
            return Fate::Serves;
        }
        match self.turns.get(&id.component) {
            Some(other) if other != id => Fate::Waits,
            Some(_) | None => Fate::Goes,
        }
    }

    /// Takes the turn of its service where nobody has it; whether it did.
    fn take(&mut self, id: &InstanceId) -> bool {
        let free = !self.turns.contains_key(&id.component);
        if free {
            self.turns.insert(id.component.clone(), id.clone());
        }
        free
    }

    /// Gives the turn up; whether it had it.
    fn give_up(&mut self, id: &InstanceId) -> bool {
        let had = self.turns.get(&id.component) == Some(id);
        if had {
            self.turns.remove(&id.component);
        }
        had
    }

    /// Notes what was found; whether that is news. Says once when all fail, and when they no longer do.
    fn set(&mut self, id: &InstanceId, health: Health) -> bool {
        let (stamp, service) = (id.stamp, &id.component);
        let Some(all) = self.services.get_mut(service) else { return false };
        let Some(known) = all.get_mut(id.index as usize) else { return false };
        let news = std::mem::replace(known, health) != health;
        let failing = |health: &Health| matches!(health, Health::Failing { .. });
        if matches!(health, Health::Well { .. }) && self.together.remove(service) {
            tracing::info!(%stamp, %service, "an instance answers its live probe again");
            all.iter_mut().filter(|health| failing(health)).for_each(|health| *health = Health::Open);
            self.excused.insert(service.clone(), Instant::now());
        } else if all.iter().all(failing) && self.together.insert(service.clone()) {
            tracing::warn!(
                %stamp, %service,
                "every instance fails its live probe: none is started again, and all keep serving"
            );
        }
        news
    }
}

impl Ward {
    /// For a stamp with these services.
    pub(crate) fn of(services: &BTreeMap<ComponentName, Service>) -> Self {
        let probed = services.iter().filter(|(_, service)| service.live.is_some());
        let open = |(name, service): (&ComponentName, &Service)| {
            (name.clone(), vec![Health::Open; service.instances as usize])
        };
        Self(watch::Sender::new(Vitals { services: probed.map(open).collect(), ..Vitals::default() }))
    }

    /// Services of which every instance fails.
    pub(crate) fn all_failing(&self) -> Vec<ComponentName> {
        self.0.borrow().together.iter().cloned().collect()
    }

    /// It is ready, after having been started again or not: another one may be.
    pub(crate) fn ready(&self, id: &InstanceId) {
        self.0.send_if_modified(|vitals| vitals.give_up(id));
    }

    /// It is not there.
    pub(crate) fn away(&self, id: &InstanceId) {
        self.ready(id);
        self.set(id, Health::Open);
    }

    fn set(&self, id: &InstanceId, health: Health) {
        self.0.send_if_modified(|vitals| vitals.set(id, health));
    }

    fn excused(&self, component: &ComponentName) -> Option<Instant> {
        self.0.borrow().excused.get(component).copied()
    }

    /// What is to become of it; [`Fate::Goes`] takes the turn.
    fn fate(&self, id: &InstanceId) -> Fate {
        let fate = self.0.borrow().fate(id);
        if fate != Fate::Goes {
            return fate;
        }
        let mut fate = fate;
        self.0.send_if_modified(|vitals| {
            fate = vitals.fate(id);
            fate == Fate::Goes && vitals.take(id)
        });
        fate
    }

    /// Waits until no other instance of its service is being started again, and takes its turn. Cancel-safe; kept
    /// until [`Ward::ready`] or [`Ward::away`].
    async fn turn(&self, id: &InstanceId) {
        let mut others = self.0.subscribe();
        loop {
            self.0.send_if_modified(|vitals| vitals.take(id));
            if others.borrow_and_update().turns.get(&id.component) == Some(id) {
                return;
            }
            if others.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Until the instance, which listens at `address`, no longer answers its live probe while others do: then it gets no
/// more requests, and those it has may end. Says why. Cancel-safe; whoever drops it says [`Ward::away`] when the
/// instance has gone.
pub(crate) async fn failed(
    plan: &Plan,
    instance: &Instance,
    address: Option<SocketAddr>,
    mut want: watch::Receiver<Want>,
    publish: &impl Fn(&dyn Fn(&mut View)),
) -> String {
    let (Some(live), Some(address)) = (&plan.service.live, address) else {
        return std::future::pending().await;
    };
    loop {
        until(&mut want, |want| *want == Want::Run).await;
        let mut still = want.clone();
        tokio::select! {
            text = hangs(plan, live, instance, address, publish) => return text,
            // One that is to be stopped soon would not be started again.
            () = until(&mut still, |want| *want != Want::Run) => plan.ward.away(&plan.id),
        }
    }
}

/// Waits until the stamp wants that; for ever when it wants nothing any longer. Cancel-safe.
async fn until(want: &mut watch::Receiver<Want>, is: impl FnMut(&Want) -> bool) {
    if want.wait_for(is).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Until the instance is to be started again because of its probe, and the gateway has let it go.
async fn hangs(
    plan: &Plan,
    live: &Live,
    instance: &Instance,
    address: SocketAddr,
    publish: &impl Fn(&dyn Fn(&mut View)),
) -> String {
    let text = goes(plan, live, address, |failing, fate| {
        publish(&|view| {
            view.failing = failing.map(str::to_owned);
            view.phase = match (fate, view.phase) {
                (Fate::Waits | Fate::Goes, Phase::Ready(_)) => Phase::Failing,
                (Fate::Serves, Phase::Failing) => Phase::Ready(address),
                (_, phase) => phase,
            };
        });
    })
    .await;
    publish(&|view| {
        view.phase = Phase::Failing;
        view.failing = Some(text.clone());
    });
    let_go(plan, instance).await;
    text
}

/// Until something that the instance needs has another address than it was told, it is its turn to be started again,
/// and the gateway has let it go. Says why. Cancel-safe, as [`failed`].
pub(crate) async fn outdated(
    plan: &Plan,
    instance: &Instance,
    needed: Option<BTreeMap<String, Address>>,
    mut want: watch::Receiver<Want>,
    publish: &impl Fn(&dyn Fn(&mut View)),
) -> String {
    need_moved(plan, needed).await;
    // One that is to be stopped soon would not be started again.
    until(&mut want, |want| *want == Want::Run).await;
    plan.ward.turn(&plan.id).await;
    publish(&|view| view.phase = Phase::Starting);
    if plan.service.http {
        let_go(plan, instance).await;
    }
    "what it needs has another address".to_owned()
}

/// Waits until the gateway sends the instance nothing more and what it has is done, or that has taken its
/// `drain_timeout`. Never ends while the gateway still sends it something.
async fn let_go(plan: &Plan, instance: &Instance) {
    let pid = instance.running().process.pid;
    let mut said = false;
    while !plan.surroundings.router.let_go(&plan.id, pid, plan.service.drain_timeout).await {
        if !std::mem::replace(&mut said, true) {
            tracing::warn!(
                instance = %plan.id,
                "is to be started again, and runs on for as long as the gateway sends it requests"
            );
        }
        sleep(ASK_AGAIN).await;
    }
}

/// An instance was stopped although it had not ended by itself, such as because it failed its live probe, and is
/// started again at once.
pub(crate) fn replace(plan: &Plan, text: &str, publish: &impl Fn(&dyn Fn(&mut View))) {
    tracing::warn!(instance = %plan.id, "{text}: it is started again");
    plan.ward.set(&plan.id, Health::Open);
    publish(&|view| {
        view.phase = Phase::Starting;
        view.pid = None;
        view.failing = None;
        view.replaced += 1;
        view.last_exit = Some(text.to_owned());
    });
}

/// Asks a ready instance for as long as it may live, and returns why it is to be started again. `told` hears why the
/// probe fails and what becomes of the instance, when that changes.
async fn goes(
    plan: &Plan,
    live: &Live,
    address: SocketAddr,
    mut told: impl FnMut(Option<&str>, Fate),
) -> String {
    let (ward, id) = (&plan.ward, &plan.id);
    let mut others = ward.0.subscribe();
    let (mut failures, mut since) = (0_u32, Instant::now());
    let mut last: Option<(Option<String>, Fate)> = None;
    loop {
        let asked = Instant::now();
        let failing = match runtime::alive(address, &live.get, live.timeout).await {
            Ok(()) => {
                failures = 0;
                ward.set(id, Health::Well { asked });
                None
            }
            Err(why) => {
                let excused = ward.excused(&id.component).is_some_and(|at| since < at);
                if failures == 0 || excused {
                    (failures, since) = (0, asked);
                }
                failures = failures.saturating_add(1);
                let failing = failures >= FAILURES_LIMIT;
                ward.set(id, if failing { Health::Failing { since } } else { Health::Open });
                failing.then(|| format!("fails its live probe: GET {}: it {why}", live.get))
            }
        };
        // Whatever it took, the next question is asked no sooner than the instance could catch its breath.
        let next = (asked + live.every).max(Instant::now());
        loop {
            let fate = ward.fate(id);
            if let (Fate::Goes, Some(why)) = (fate, &failing) {
                return why.clone();
            }
            let found = (failing.clone(), fate);
            if last.as_ref() != Some(&found) {
                told(found.0.as_deref(), fate);
                last = Some(found);
            }
            tokio::select! {
                () = sleep_until(next) => break,
                changed = others.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::name::StampId;

    fn id(index: u32) -> InstanceId {
        InstanceId { stamp: StampId(1), component: ComponentName::new("api").unwrap(), index }
    }

    /// `.` open, `w3` well and asked at 3 s, `f2` failing since 2 s.
    fn vitals(healths: &str, turn: Option<u32>) -> Vitals {
        let zero = Instant::now();
        let at = |text: &str| zero + Duration::from_secs(text.parse().unwrap());
        let health = |word: &str| match word.split_at(1) {
            ("w", seconds) => Health::Well { asked: at(seconds) },
            ("f", seconds) => Health::Failing { since: at(seconds) },
            _ => Health::Open,
        };
        let all = healths.split(' ').map(health).collect();
        let services = BTreeMap::from([(id(0).component, all)]);
        let turns = turn.map(|index| (id(0).component, id(index))).into_iter().collect();
        Vitals { services, turns, ..Vitals::default() }
    }

    #[test]
    fn one_is_started_again_when_another_has_answered_since() {
        for (healths, turn, fate) in [
            ("w9 w9", None, Fate::Serves),
            (". w9", None, Fate::Serves),
            ("f2 w3", None, Fate::Goes),
            ("f2 w3", Some(0), Fate::Goes),
            // It answered before the first one began to fail, and may fail just as well.
            ("f2 w2", None, Fate::Serves),
            ("f2 w1", None, Fate::Serves),
            // It has failed meanwhile, is starting, or has not answered yet.
            ("f2 .", None, Fate::Serves),
            ("f2 f3", None, Fate::Serves),
            ("f2", None, Fate::Serves),
            ("f2 f3 f4", None, Fate::Serves),
            // One at a time.
            ("f2 f3 w9", None, Fate::Goes),
            ("f2 . w9", Some(1), Fate::Waits),
            ("f2 f3 f4", Some(1), Fate::Serves),
        ] {
            assert_eq!(vitals(healths, turn).fate(&id(0)), fate, "{healths} {turn:?}");
        }
    }

    #[test]
    fn what_all_have_failed_together_is_held_against_none() {
        let ward = Ward(watch::Sender::new(vitals("f1 .", None)));
        assert!(ward.all_failing().is_empty());
        let since = Instant::now();
        ward.set(&id(1), Health::Failing { since });
        assert_eq!(ward.all_failing(), [id(0).component]);
        // One that ends by itself and begins again has not answered yet.
        ward.away(&id(1));
        assert_eq!(ward.all_failing(), [id(0).component]);
        ward.set(&id(1), Health::Well { asked: since + Duration::from_secs(60) });
        assert!(ward.all_failing().is_empty());
        assert_eq!(ward.fate(&id(0)), Fate::Serves, "its failures are forgotten");
        assert!(ward.excused(&id(0).component).is_some_and(|at| at >= since));
        ward.set(&id(0), Health::Failing { since });
        assert_eq!(ward.fate(&id(0)), Fate::Goes, "new ones are not");
    }

    #[test]
    fn the_turn_goes_on_when_the_one_who_has_it_is_ready_or_gone() {
        let ward = Ward(watch::Sender::new(vitals("f2 f2 w9", None)));
        assert_eq!(ward.fate(&id(1)), Fate::Goes);
        assert_eq!(ward.fate(&id(0)), Fate::Waits);
        ward.ready(&id(2));
        assert_eq!(ward.fate(&id(0)), Fate::Waits, "another one being ready changes nothing");
        ward.away(&id(1));
        assert_eq!(ward.fate(&id(0)), Fate::Goes);
        ward.ready(&id(0));
        assert!(ward.0.borrow().turns.is_empty());
    }

    #[test]
    fn what_waits_for_a_need_does_not_keep_the_need_from_being_started_again() {
        let of = |name: &str, index| InstanceId { component: ComponentName::new(name).unwrap(), ..id(index) };
        let since = Instant::now();
        let asked = since + Duration::from_secs(1);
        let all = || vec![Health::Failing { since }, Health::Well { asked }];
        let services = BTreeMap::from([(of("api", 0).component, all()), (of("backend", 0).component, all())]);
        let ward = Ward(watch::Sender::new(Vitals { services, ..Vitals::default() }));
        assert_eq!(ward.fate(&of("api", 0)), Fate::Goes);
        // It is not ready before the other is, and that is to go as well.
        assert_eq!(ward.fate(&of("backend", 0)), Fate::Goes);
        assert_eq!(ward.0.borrow().turns.len(), 2);
    }

    #[tokio::test]
    async fn whoever_waits_for_its_turn_gets_it_from_the_one_before() {
        let ward = Ward(watch::Sender::new(vitals("f2 w9 .", None)));
        assert_eq!(ward.fate(&id(0)), Fate::Goes);
        {
            let next = id(2);
            let mut waits = std::pin::pin!(ward.turn(&next));
            tokio::select! {
                biased;
                () = waits.as_mut() => panic!("another one has the turn"),
                () = std::future::ready(()) => {}
            }
            ward.ready(&id(0));
            waits.await;
        }
        assert_eq!(ward.0.borrow().turns.get(&id(2).component), Some(&id(2)));
        // A second time is the same turn.
        ward.turn(&id(2)).await;
    }
}
