//! A stamp: all instances of one release, each in a task of its own.

use crate::instance::{self, Phase, Plan, View, Want};
use crate::live::Ward;
use crate::needs::{Given, Need};
use crate::router::Router;
use api::folder::StateFolder;
use model::artifact::Release;
use model::name::{ComponentName, EnvironmentName, FenceToken, InstanceId, StampId};
use runtime::Driver;
use runtime::ports::{NoPort, Ports};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// What every instance of a stamp sees alike.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) folder: StateFolder,
    pub(crate) driver: Arc<Driver>,
    pub(crate) ports: Arc<Mutex<PortBook>>,
    pub(crate) fence: FenceToken,
    pub(crate) environment: EnvironmentName,
    pub(crate) release_id: String,
    /// What services see of the variables of whoever brought the environment up.
    pub(crate) base_env: BTreeMap<String, String>,
    pub(crate) router: Router,
}

impl Surroundings {
    pub(crate) fn ports(&self) -> MutexGuard<'_, PortBook> {
        self.ports.lock().expect("nothing panics while it holds the ports")
    }
}

/// The ports of an environment, and which are in use by its instances.
#[derive(Debug)]
pub(crate) struct PortBook {
    ports: Ports,
    taken: BTreeSet<u16>,
}

impl PortBook {
    pub(crate) fn new(ports: Ports) -> Self {
        Self { ports, taken: BTreeSet::new() }
    }

    /// A free port: `last`, where it is one.
    pub(crate) fn allocate(&mut self, last: Option<u16>) -> Result<u16, NoPort> {
        let free = |port: &u16| {
            !self.taken.contains(port) && TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()
        };
        let port = match last.filter(free) {
            Some(last) => last,
            None => self.ports.allocate(&self.taken)?,
        };
        self.taken.insert(port);
        Ok(port)
    }

    /// The ports to choose from, and those in use.
    pub(crate) fn copy(&self) -> (Ports, BTreeSet<u16>) {
        (self.ports.clone(), self.taken.clone())
    }

    /// Takes a port that was chosen from a copy; false when somebody has it by now.
    pub(crate) fn reserve(&mut self, port: u16) -> bool {
        self.taken.insert(port)
    }

    /// An instance was found that uses `port`.
    pub(crate) fn take(&mut self, port: u16) {
        self.taken.insert(port);
    }

    pub(crate) fn release(&mut self, port: u16) {
        self.taken.remove(&port);
    }
}

/// One complete deployment of a release.
#[derive(Debug)]
pub(crate) struct Stamp {
    pub(crate) id: StampId,
    pub(crate) release: Arc<Release>,
    want: watch::Sender<Want>,
    /// The same for its workers.
    work: watch::Sender<Want>,
    instances: Vec<(InstanceId, watch::Receiver<View>)>,
    /// Of `instances`, those that are workers.
    workers: BTreeSet<InstanceId>,
    ward: Arc<Ward>,
    /// Dropping the stamp ends the tasks and leaves the processes to the next agent.
    _tasks: JoinSet<()>,
}

impl Stamp {
    /// Finds every instance, and starts it where it is wanted to run; workers are found and wait for
    /// [`Stamp::work`]. `served`: see [`Plan`]. `given` has the addresses of what is no instance. `changed` hears of
    /// every change of an instance; a full queue means that it is about to look anyway.
    pub(crate) fn run(
        id: StampId,
        release: Arc<Release>,
        surroundings: &Arc<Surroundings>,
        want: Want,
        served: bool,
        given: &BTreeMap<ComponentName, Given>,
        changed: &mpsc::Sender<()>,
    ) -> Self {
        let (want, wanted) = watch::channel(want);
        let (work, work_wanted) = watch::channel(Want::Keep);
        let services = &release.configuration.services;
        let mut views: BTreeMap<&ComponentName, Vec<watch::Receiver<View>>> = BTreeMap::new();
        let mut senders = Vec::new();
        for (component, service) in services {
            for index in 0..service.instances {
                let (sender, view) = watch::channel(View::unknown());
                views.entry(component).or_default().push(view);
                senders.push((InstanceId { stamp: id, component: component.clone(), index }, sender));
            }
        }
        let ward = Arc::new(Ward::of(services));
        let mut tasks = JoinSet::new();
        let mut instances = Vec::new();
        let mut workers = BTreeSet::new();
        for (instance, sender) in senders {
            let service = services[&instance.component].clone();
            let artifact = release.artifacts[&instance.component].clone();
            let need = |name: &ComponentName| {
                let copies = &views[name];
                // Copies of what is needed are shared out evenly among those who need it.
                let view = copies[instance.index as usize % copies.len()].clone();
                Need { address_as: services[name].address_as.clone(), view }
            };
            let needs = service.needs.iter().filter(|name| services.contains_key(*name)).map(need).collect();
            let given = service.needs.iter().filter_map(|name| given.get(name)).cloned().collect();
            instances.push((instance.clone(), sender.subscribe()));
            let wanted = match service.http {
                true => wanted.clone(),
                false => {
                    workers.insert(instance.clone());
                    work_wanted.clone()
                }
            };
            let surroundings = Arc::clone(surroundings);
            let plan = Plan {
                id: instance,
                service,
                artifact,
                needs,
                given,
                served,
                surroundings,
                ward: Arc::clone(&ward),
            };
            let changed = changed.clone();
            let nudge = move || {
                let _ = changed.try_send(());
            };
            tasks.spawn(instance::supervise(plan, wanted, sender, nudge));
        }
        Self { id, release: Arc::clone(&release), want, work, instances, workers, ward, _tasks: tasks }
    }

    /// Every instance that serves, with what is known of it.
    fn servers(&self) -> impl Iterator<Item = (&InstanceId, View)> {
        self.views().filter(|(id, _)| !self.workers.contains(*id))
    }

    /// Tells its workers whether to run.
    pub(crate) fn work(&self, want: Want) {
        self.work.send_if_modified(|now| std::mem::replace(now, want) != want);
    }

    /// Whether none of its workers runs, as far as this agent has looked.
    pub(crate) fn rests(&self) -> bool {
        self.views()
            .filter(|(id, _)| self.workers.contains(*id))
            .all(|(_, view)| view.phase == Phase::Stopped)
    }

    /// Every instance with what is known of it.
    pub(crate) fn views(&self) -> impl Iterator<Item = (&InstanceId, View)> {
        self.instances.iter().map(|(id, view)| (id, view.borrow().clone()))
    }

    /// Whether this agent has looked at every instance.
    pub(crate) fn known(&self) -> bool {
        self.servers().all(|(_, view)| view.phase != Phase::Unknown)
    }

    /// Whether this agent knows of every instance whether it may get requests.
    pub(crate) fn settled(&self) -> bool {
        self.servers().all(|(_, view)| !matches!(view.phase, Phase::Unknown | Phase::Starting))
    }

    /// Services of which every instance fails its live probe.
    pub(crate) fn all_failing(&self) -> Vec<ComponentName> {
        self.ward.all_failing()
    }

    /// Whether every instance was told to stop and has.
    pub(crate) fn stopped(&self) -> bool {
        self.views().all(|(_, view)| view.phase == Phase::Stopped)
    }

    /// Whether every instance may get requests.
    pub(crate) fn ready(&self) -> bool {
        self.servers().all(|(_, view)| view.ready().is_some())
    }

    /// Whether every instance is ready, some one has failed, or neither yet.
    pub(crate) fn readiness(&self) -> Result<bool, String> {
        match self.servers().find(|(_, view)| view.phase == Phase::Down) {
            Some((id, view)) => Err(format!("{id} {}", view.last_exit.unwrap_or_default())),
            None => Ok(self.ready()),
        }
    }

    /// Whether some instance may get users' requests.
    pub(crate) fn any_ready(&self) -> bool {
        let default = &self.release.configuration.gateway.default;
        self.views().any(|(id, view)| id.component == *default && view.ready().is_some())
    }

    /// An instance that serves and was started again because it had ended by itself, in words.
    pub(crate) fn has_crashed(&self) -> Option<String> {
        let crashed = self.servers().find(|(_, view)| view.restarts > 0);
        crashed.map(|(id, view)| format!("{id} {}", view.last_exit.unwrap_or_default()))
    }

    /// Watches and stops this stamp from elsewhere.
    pub(crate) fn watch(&self) -> StampWatch {
        let limits = self.instances.iter().map(|(id, _)| {
            self.release.configuration.services.get(&id.component).and_then(|service| service.limits.memory)
        });
        StampWatch {
            want: self.want.clone(),
            work: self.work.clone(),
            instances: self.instances.clone(),
            workers: self.workers.clone(),
            limits: limits.collect(),
        }
    }
}

/// An instance on which a test is played.
#[derive(Debug)]
pub(crate) struct Subject {
    view: watch::Receiver<View>,
    /// As it was when the test began.
    pid: Option<u32>,
    restarts: u32,
}

impl Subject {
    /// Whether it was, or is being, started again meanwhile through no fault of its own: then what it did not answer
    /// says nothing.
    pub(crate) fn was_replaced(&self) -> bool {
        let now = self.view.borrow();
        let another = now.pid != self.pid || now.ready().is_none();
        another && now.restarts == self.restarts && now.phase != Phase::Down
    }
}

/// The views of a stamp's instances, and the word to stop.
#[derive(Debug, Clone)]
pub(crate) struct StampWatch {
    want: watch::Sender<Want>,
    work: watch::Sender<Want>,
    instances: Vec<(InstanceId, watch::Receiver<View>)>,
    workers: BTreeSet<InstanceId>,
    /// The memory each instance may hold.
    limits: Vec<Option<u64>>,
}

impl StampWatch {
    /// Waits until every instance is ready. The error is the first one that could not get ready.
    pub(crate) async fn ready(mut self) -> Result<(), String> {
        self.instances.retain(|(id, _)| !self.workers.contains(id));
        let waits = self.instances.iter_mut().map(|(id, view)| async move {
            let decided = |view: &View| view.ready().is_some() || view.phase == Phase::Down;
            match view.wait_for(decided).await {
                Ok(view) if view.ready().is_some() => Ok(()),
                Ok(view) => Err(format!("{id} {}", view.last_exit.clone().unwrap_or_default())),
                Err(_) => Err(format!("{id} is not supervised any longer")),
            }
        });
        let mut waits: Vec<_> = waits.map(Box::pin).collect();
        // The first failure counts, whichever instance it comes from.
        std::future::poll_fn(|context| {
            let mut failed = None;
            waits.retain_mut(|wait| match wait.as_mut().poll(context) {
                std::task::Poll::Ready(Ok(())) => false,
                std::task::Poll::Ready(Err(text)) => {
                    failed.get_or_insert(text);
                    false
                }
                std::task::Poll::Pending => true,
            });
            match failed {
                Some(text) => std::task::Poll::Ready(Err(text)),
                None if waits.is_empty() => std::task::Poll::Ready(Ok(())),
                None => std::task::Poll::Pending,
            }
        })
        .await
    }

    /// Has no instance started again that ends or no longer answers: they are to be stopped soon.
    pub(crate) fn keep(&self) {
        self.want.send_if_modified(|want| match want {
            Want::Run => {
                *want = Want::Keep;
                true
            }
            Want::Keep | Want::Stop => false,
        });
    }

    /// Tells every instance to stop.
    pub(crate) fn stop(&self) {
        // Without receivers there is no instance left.
        let _ = self.work.send(Want::Stop);
        let _ = self.want.send(Want::Stop);
    }

    /// The instances of a component that may get requests now, by index.
    pub(crate) fn ready_indexes(&self, component: &ComponentName) -> Vec<u32> {
        let ready = self
            .instances
            .iter()
            .filter(|(id, view)| id.component == *component && view.borrow().ready().is_some());
        ready.map(|(id, _)| id.index).collect()
    }

    /// Waits until an instance may get requests, to play a test on it. The error says why it will not soon.
    pub(crate) async fn subject(&self, component: &ComponentName, index: u32) -> Result<Subject, String> {
        let known = self.instances.iter().find(|(id, _)| id.component == *component && id.index == index);
        let (id, view) = known.ok_or_else(|| format!("there is no instance {index} of {component}"))?;
        let mut view = view.clone();
        let over = |view: &View| matches!(view.phase, Phase::Down | Phase::Stopped);
        let now = view.wait_for(|view| view.ready().is_some() || over(view)).await;
        let now = now.map_err(|_| format!("{id} is not supervised any longer"))?.clone();
        match over(&now) {
            true => Err(format!("{id} {}", now.last_exit.unwrap_or_default())),
            false => Ok(Subject { view, pid: now.pid, restarts: now.restarts }),
        }
    }

    /// Waits until an instance that serves has ended although nobody asked it to, also if that was before. Says
    /// which, and how.
    pub(crate) async fn crashed(mut self) -> String {
        self.instances.retain(|(id, _)| !self.workers.contains(id));
        let waits = self.instances.iter_mut().map(|(id, view)| {
            Box::pin(async move {
                let down = |view: &View| view.phase == Phase::Down || view.restarts > 0;
                let exit = view.wait_for(down).await.map(|view| view.last_exit.clone());
                match exit {
                    Ok(exit) => format!("{id} {}", exit.unwrap_or_default()),
                    Err(_) => std::future::pending().await,
                }
            })
        });
        let mut waits: Vec<_> = waits.collect();
        std::future::poll_fn(|context| {
            let mut over = waits.iter_mut().filter_map(|wait| match wait.as_mut().poll(context) {
                std::task::Poll::Ready(text) => Some(text),
                std::task::Poll::Pending => None,
            });
            over.next().map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }

    /// The instances with a limit on their memory: what each holds, and what it may.
    pub(crate) fn memory(&self) -> impl Iterator<Item = (&InstanceId, u64, u64)> {
        let both = self.instances.iter().zip(&self.limits);
        both.filter_map(|((id, view), limit)| Some((id, view.borrow().memory?, (*limit)?)))
    }

    /// Waits until every instance has stopped.
    pub(crate) async fn stopped(mut self) {
        for (_, view) in &mut self.instances {
            // A task that is gone has nothing left to stop.
            let _ = view.wait_for(|view| view.phase == Phase::Stopped).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(pid: u32) -> View {
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        View { phase: Phase::Ready(address), pid: Some(pid), ..View::unknown() }
    }

    fn api() -> ComponentName {
        ComponentName::new("api").unwrap()
    }

    fn watching(view: &watch::Sender<View>) -> StampWatch {
        StampWatch {
            want: watch::Sender::new(Want::Run),
            work: watch::Sender::new(Want::Keep),
            instances: vec![(InstanceId { stamp: StampId(1), component: api(), index: 0 }, view.subscribe())],
            workers: BTreeSet::new(),
            limits: vec![None],
        }
    }

    #[tokio::test]
    async fn a_test_says_nothing_of_an_instance_that_was_replaced_meanwhile_but_much_of_one_that_crashed() {
        let replaced = View { replaced: 1, ..ready(8) };
        for (now, was_replaced) in [
            (ready(7), false),
            (View { phase: Phase::Failing, ..ready(7) }, true),
            (View { phase: Phase::Starting, pid: None, ..replaced.clone() }, true),
            (replaced.clone(), true),
            (View { phase: Phase::Down, pid: None, restarts: 1, ..ready(7) }, false),
            (View { phase: Phase::Down, ..ready(7) }, false),
            (View { restarts: 1, ..ready(8) }, false),
        ] {
            let view = watch::Sender::new(ready(7));
            let subject = watching(&view).subject(&api(), 0).await.unwrap();
            view.send_replace(now.clone());
            assert_eq!(subject.was_replaced(), was_replaced, "{now:?}");
        }
        let down = View { phase: Phase::Down, last_exit: Some("exited".into()), ..View::unknown() };
        let view = watch::Sender::new(down);
        let refused = watching(&view).subject(&api(), 0).await.unwrap_err();
        assert!(refused.ends_with(" exited"), "{refused}");
    }

    #[test]
    fn what_is_to_be_stopped_soon_is_not_started_again_and_what_stops_still_does() {
        let view = watch::Sender::new(ready(7));
        let watching = watching(&view);
        for (before, after) in [(Want::Run, Want::Keep), (Want::Keep, Want::Keep), (Want::Stop, Want::Stop)] {
            watching.want.send_replace(before);
            watching.keep();
            assert_eq!(*watching.want.borrow(), after, "{before:?}");
        }
    }
}
