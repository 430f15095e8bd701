//! What outlives releases: databases, one task for each that has a server of the environment's own.

use crate::instance::{FIRST_BACKOFF, LONGEST_BACKOFF, Phase, STEADY_AFTER, View, Want, stop_wanted};
use crate::needs::Given;
use crate::stamp::PortBook;
use api::folder::StateFolder;
use api::operator::InstanceStatus;
use api::shim::Start;
use model::name::{ComponentName, FenceToken, InstanceId, StampId};
use model::workload::{Configuration, StoreKind};
use runtime::postgres::{Postgres, STOP_GRACE};
use runtime::{Adopted, Driver, Instance, describe_exit};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How long a server may take until it lets clients in. Longer than most recoveries after a crash.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// What a store's task needs of the agent.
#[derive(Debug, Clone)]
pub(crate) struct StoreSurroundings {
    pub(crate) driver: Arc<Driver>,
    pub(crate) ports: Arc<Mutex<PortBook>>,
    pub(crate) fence: FenceToken,
    pub(crate) base_env: BTreeMap<String, String>,
}

/// The stores of this environment that have a process.
#[derive(Debug)]
pub(crate) struct Stores {
    folder: StateFolder,
    nudge: mpsc::Sender<()>,
    servers: BTreeMap<ComponentName, Server>,
    /// Dropping them leaves the processes to the next agent.
    tasks: JoinSet<()>,
}

/// A server as others see it.
#[derive(Debug, Clone)]
struct Server {
    want: watch::Sender<Want>,
    view: watch::Receiver<View>,
    address: watch::Receiver<Option<String>>,
}

impl Stores {
    pub(crate) fn new(folder: StateFolder, nudge: mpsc::Sender<()>) -> Self {
        Self { folder, nudge, servers: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Starts what this configuration needs and does not run yet. What other configurations needed runs on.
    pub(crate) fn ensure(&mut self, configuration: &Configuration, surroundings: &StoreSurroundings) {
        for (name, store) in &configuration.stores {
            match store.kind {
                StoreKind::Sqlite | StoreKind::Url(_) => continue,
                StoreKind::Postgres => {}
            }
            if self.servers.contains_key(name) {
                continue;
            }
            let (want, wanted) = watch::channel(Want::Run);
            let (view_of, view) = watch::channel(View::unknown());
            let (address_of, address) = watch::channel(None);
            let keeper = Keeper {
                postgres: Postgres::new(self.folder.clone(), name.clone()),
                surroundings: surroundings.clone(),
                view: view_of,
                address: address_of,
                nudge: self.nudge.clone(),
            };
            self.tasks.spawn(keeper.keep(wanted));
            self.servers.insert(name.clone(), Server { want, view, address });
        }
    }

    /// The address of every store and external of a configuration, by its name.
    pub(crate) fn given(&self, configuration: &Configuration) -> BTreeMap<ComponentName, Given> {
        let constant = |text: String| watch::channel(Some(text)).1;
        let stores = configuration.stores.iter().filter_map(|(name, store)| {
            let address = match &store.kind {
                StoreKind::Sqlite => {
                    let file = self.folder.data().join(format!("{name}.db"));
                    constant(format!("sqlite:{}", file.display()))
                }
                StoreKind::Url(url) => constant(url.clone()),
                StoreKind::Postgres => self.servers.get(name)?.address.clone(),
            };
            Some((name.clone(), Given { address_as: store.address_as.clone(), address }))
        });
        let externals = configuration.externals.iter().map(|(name, external)| {
            let address = constant(external.url.clone());
            (name.clone(), Given { address_as: external.address_as.clone(), address })
        });
        stores.chain(externals).collect()
    }

    /// Every instance there may be.
    pub(crate) fn instances(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.servers.keys().map(|name| InstanceId {
            stamp: StampId::STORES,
            component: name.clone(),
            index: 0,
        })
    }

    pub(crate) fn status(&self) -> Vec<InstanceStatus> {
        let status = |(name, server): (&ComponentName, &Server)| {
            let view = server.view.borrow().clone();
            InstanceStatus {
                component: name.clone(),
                index: 0,
                port: view.port,
                pid: view.pid,
                ready: view.serves(),
                restarts: view.restarts,
                last_exit: view.last_exit,
                memory: None,
                failing: None,
                replaced: 0,
            }
        };
        self.servers.iter().map(status).collect()
    }

    /// Watches those that a configuration needs. What others needed is no concern of its release.
    pub(crate) fn needed(&self, configuration: &Configuration) -> StoresWatch {
        let needed = |name: &ComponentName| {
            configuration.stores.get(name).is_some_and(|store| store.kind == StoreKind::Postgres)
        };
        let servers = self.servers.iter().filter(|(name, _)| needed(name));
        StoresWatch { servers: servers.map(|(name, server)| (name.clone(), server.clone())).collect() }
    }

    /// Watches and stops all of them from elsewhere.
    pub(crate) fn watch(&self) -> StoresWatch {
        StoresWatch { servers: self.servers.clone() }
    }
}

/// The views of the stores, and the word to stop.
#[derive(Debug, Clone)]
pub(crate) struct StoresWatch {
    servers: BTreeMap<ComponentName, Server>,
}

impl StoresWatch {
    /// Waits until every store lets clients in. The error is the first that could not be started, in words.
    pub(crate) async fn ready(mut self) -> Result<(), String> {
        for (name, server) in &mut self.servers {
            let decided = |view: &View| view.serves() || view.phase == Phase::Down;
            match server.view.wait_for(decided).await {
                Ok(view) if view.serves() => {}
                Ok(view) => return Err(format!("{name} {}", view.last_exit.clone().unwrap_or_default())),
                Err(_) => return Err(format!("{name} is not supervised any longer")),
            }
        }
        Ok(())
    }

    /// Stops them all and waits.
    pub(crate) async fn stop(mut self) {
        for server in self.servers.values() {
            // A task that is gone has nothing left to stop.
            let _ = server.want.send(Want::Stop);
        }
        for server in self.servers.values_mut() {
            let _ = server.view.wait_for(|view| view.phase == Phase::Stopped).await;
        }
    }
}

/// Keeps one server running.
struct Keeper {
    postgres: Postgres,
    surroundings: StoreSurroundings,
    view: watch::Sender<View>,
    address: watch::Sender<Option<String>>,
    nudge: mpsc::Sender<()>,
}

impl Keeper {
    async fn keep(self, mut want: watch::Receiver<Want>) {
        let mut backoff = Duration::ZERO;
        loop {
            let began = Instant::now();
            let ended = match self.begin().await {
                Ok(instance) => self.live(&instance, &mut want).await,
                Err(text) => Some(text),
            };
            let Some(text) = ended else { break };
            tracing::warn!(store = %self.postgres.instance(), "{}", text.lines().next().unwrap_or_default());
            self.publish(|view| {
                view.phase = Phase::Down;
                view.pid = None;
                view.restarts += 1;
                view.last_exit = Some(text);
            });
            backoff = match began.elapsed() {
                lived if lived >= STEADY_AFTER => Duration::ZERO,
                _ => (backoff * 2).clamp(FIRST_BACKOFF, LONGEST_BACKOFF),
            };
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = stop_wanted(&mut want) => break,
            }
        }
        self.publish(|view| {
            view.phase = Phase::Stopped;
            view.pid = None;
        });
    }

    fn publish(&self, update: impl FnOnce(&mut View)) {
        self.view.send_modify(update);
        let _ = self.nudge.try_send(());
    }

    /// The server, found or started.
    async fn begin(&self) -> Result<Instance, String> {
        let driver = &self.surroundings.driver;
        let found = driver.adopt(&self.postgres.instance()).await;
        match found.map_err(|error| format!("cannot tell whether it runs: {error}"))? {
            Adopted::Running(instance) => return Ok(instance),
            Adopted::Ended(_) | Adopted::Gone => {}
        }
        self.publish(|view| view.phase = Phase::Starting);
        let start = self.prepare().await?;
        driver.start(&start).await.map_err(|error| format!("could not be started: {error}"))
    }

    async fn prepare(&self) -> Result<Start, String> {
        // A copy: the choice waits for programs, and nobody else is to wait for it.
        let (mut ports, mut taken) = {
            let book = self.surroundings.ports.lock().unwrap_or_else(PoisonError::into_inner);
            book.copy()
        };
        // Its own, which instances know, is taken by nobody else.
        taken.remove(&self.view.borrow().port);
        let start = loop {
            let start =
                self.postgres.prepare(&mut ports, &taken).await.map_err(|error| match error.hint() {
                    Some(hint) => format!("could not be started: {error}; hint: {hint}"),
                    None => format!("could not be started: {error}"),
                })?;
            let mut book = self.surroundings.ports.lock().unwrap_or_else(PoisonError::into_inner);
            if start.port == self.view.borrow().port || book.reserve(start.port) {
                break start;
            }
            // Somebody else was given it meanwhile.
            taken.insert(start.port);
        };
        let env: BTreeMap<String, String> = self
            .surroundings
            .base_env
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .chain(start.env.iter().cloned())
            .collect();
        Ok(Start { fence: self.surroundings.fence, env: env.into_iter().collect(), ..start })
    }

    /// From a running process to its end. None: it was stopped as wanted.
    async fn live(&self, instance: &Instance, want: &mut watch::Receiver<Want>) -> Option<String> {
        let running = instance.running();
        let (pid, port) = (running.process.pid, running.port);
        self.surroundings.ports.lock().unwrap_or_else(PoisonError::into_inner).take(port);
        self.publish(|view| {
            view.pid = Some(pid);
            view.port = port;
        });
        let ready = tokio::select! {
            ready = self.postgres.ready(instance, READY_LIMIT) => ready,
            () = stop_wanted(want) => return self.stop(instance).await,
        };
        let told = match ready {
            Ok(address) => self.postgres.address(port).map(|url| (address, url)).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match told {
            Ok((address, url)) => {
                self.address.send_if_modified(|now| now.replace(url.clone()) != Some(url));
                self.publish(|view| view.phase = Phase::Ready(address));
            }
            Err(text) => {
                self.stop(instance).await;
                return Some(text);
            }
        }
        tokio::select! {
            exit = instance.ended() => Some(describe_exit(&exit)),
            () = stop_wanted(want) => self.stop(instance).await,
        }
    }

    async fn stop(&self, instance: &Instance) -> Option<String> {
        if let Err(error) = instance.stop(STOP_GRACE).await {
            tracing::error!("{error}");
        }
        None
    }
}
