//! The workload as checked: what a workload file says once it is resolved for one environment.

use crate::away::{Hold, Live, PreviousStamp};
use crate::flow::{Flow, Method, Objective};
use crate::name::{ComponentName, EnvironmentName, FlowName, SagaName, WorkloadName};
use crate::queue::{QueueLimits, QueuedRoute, Saga};
use crate::template::Template;
use crate::traces::Traces;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The names that mean something in braces in `run` and `env`.
pub const RUN_VALUES: &[&str] =
    &["port", "data", "release.id", "environment.name", "stamp.name", "instance.index"];

/// Everything the workload file says for one environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// The workload.
    pub workload: WorkloadName,
    /// The environment this is resolved for.
    pub environment: EnvironmentName,
    /// What the environment must fulfil.
    pub class: Class,
    /// Where the gateway listens. Taken when the environment starts, not by a release.
    pub listen: Listen,
    /// The services, by name. What stands in for an external below production is one of them.
    pub services: BTreeMap<ComponentName, Service>,
    /// What outlives releases, one of each for the environment.
    #[serde(default)]
    pub stores: BTreeMap<ComponentName, Store>,
    /// What other people run, where it is reached.
    #[serde(default)]
    pub externals: BTreeMap<ComponentName, External>,
    /// What the gateway does.
    pub gateway: GatewaySettings,
    /// What users do.
    pub flows: BTreeMap<FlowName, Flow>,
    /// How a release travels.
    pub policy: ReleasePolicy,
    /// Who is told of changes.
    #[serde(default)]
    pub notify: Notify,
}

impl Configuration {
    /// The longest any of its services may take to drain.
    pub fn drain_timeout(&self) -> Duration {
        self.services.values().map(|service| service.drain_timeout).max().unwrap_or_default()
    }

    /// Every component that runs from an artifact, with where that lies when it is not given with a release:
    /// services, and stores with hooks.
    pub fn artifacts(&self) -> impl Iterator<Item = (&ComponentName, &Path)> {
        let services = self.services.iter().map(|(name, service)| (name, service.artifact.as_path()));
        let hooked = |store: &Store| !(store.expand.is_empty() && store.contract.is_empty());
        let stores = self.stores.iter().filter(move |(_, store)| hooked(store));
        services.chain(stores.map(|(name, store)| (name, store.artifact.as_path())))
    }

    /// The stores with a hook to run before a candidate starts.
    pub fn expanding(&self) -> impl Iterator<Item = (&ComponentName, &Store)> {
        self.stores.iter().filter(|(_, store)| !store.expand.is_empty())
    }

    /// The stores with a hook to run when the old stamp is gone.
    pub fn contracting(&self) -> impl Iterator<Item = (&ComponentName, &Store)> {
        self.stores.iter().filter(|(_, store)| !store.contract.is_empty())
    }
}

/// What an environment must fulfil.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Serves users.
    Production,
    /// Mirrors production's shape and proves releases.
    Staging,
    /// One person's or branch's own.
    Development,
}

/// Addresses of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Plain HTTP for users.
    pub http: SocketAddr,
    /// `/metrics` and `/.mainstay/health`, when asked for.
    pub admin: Option<SocketAddr>,
    /// Whose `Forwarded` and `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpAddr>,
}

/// A component that every release creates anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Program and arguments; no shell. Never empty.
    pub run: Vec<Template>,
    /// Whether it answers HTTP on a port. One that does not is a worker: it runs in the active stamp only.
    #[serde(default = "yes")]
    pub http: bool,
    /// The artifact, when it is not given with the release: a file or folder.
    pub artifact: PathBuf,
    /// How many copies. At least 1.
    pub instances: u32,
    /// Components it uses: services and stores are ready before this one starts.
    pub needs: Vec<ComponentName>,
    /// The variable by which services that need this one get its address (`http://127.0.0.1:PORT`).
    pub address_as: Option<String>,
    /// Environment variables.
    pub env: BTreeMap<String, Template>,
    /// When an instance may get requests.
    pub ready: Ready,
    /// Whether an instance that runs still answers. None: it is not asked.
    #[serde(default)]
    pub live: Option<Live>,
    /// What an instance may use.
    pub limits: Limits,
    /// How long requests in flight may take to end before an instance is told to stop, and again how long
    /// it may take to stop before it is killed.
    pub drain_timeout: Duration,
}

fn yes() -> bool {
    true
}

/// A component that outlives releases: one for the environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Store {
    /// What it is.
    pub kind: StoreKind,
    /// The variable by which those who need it get its address.
    pub address_as: Option<String>,
    /// The artifact its hooks run from, when it is not given with the release: a file or folder.
    pub artifact: PathBuf,
    /// Run before a candidate starts; code that runs already must still work afterwards. Empty: nothing.
    pub expand: Vec<Template>,
    /// Run when the stamp before is gone. Empty: nothing.
    pub contract: Vec<Template>,
    /// Environment variables of the hooks, besides the store's own address.
    pub env: BTreeMap<String, Template>,
    /// How long a hook may take.
    pub hook_timeout: Duration,
    /// The versions of the schema that this release's code works with.
    pub schema: Option<SchemaRange>,
}

/// What a [`Store`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A file in the environment's data folder: `sqlite:PATH`.
    Sqlite,
    /// A server of the environment's own: `postgres://USER:PASSWORD@127.0.0.1:PORT/NAME`.
    Postgres,
    /// A server that exists already, at this address.
    Url(String),
}

/// From the oldest to the newest version of a schema that some code works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRange {
    /// The oldest.
    pub oldest: u32,
    /// The newest: what the `expand` hook brings about.
    pub newest: u32,
}

impl SchemaRange {
    /// Whether some version is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.oldest <= other.newest && other.oldest <= self.newest
    }
}

impl fmt::Display for SchemaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

/// A component that other people run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// Where it is reached: an absolute `http` or `https` URL.
    pub url: String,
    /// The variable by which those who need it get its address.
    pub address_as: Option<String>,
}

/// When an instance may get requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The path that must answer 2xx or 3xx. None: any HTTP answer to `GET /` counts.
    pub get: Option<String>,
    /// How long an instance may take from its start.
    pub timeout: Duration,
}

/// What an instance may use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// RLIMIT_NOFILE.
    pub open_files: Option<u64>,
    /// Resident memory in bytes, of the instance with all its children.
    #[serde(default)]
    pub memory: Option<u64>,
}

/// What the gateway does with requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewaySettings {
    /// The service that gets the requests.
    pub default: ComponentName,
    /// Lower-case names that requests may be for; empty: any. Others get 421.
    pub hosts: Vec<String>,
    /// One JSON line per request in `logs/access.log`.
    pub access_log: bool,
    /// The limits of a request.
    pub limits: GatewayLimits,
    /// What requests are told apart by: measured, compared and judged one by one. Requests that fit none are
    /// `other`.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// What keeps a user on one stamp while a release shifts.
    #[serde(default)]
    pub affinity: Affinity,
    /// Where traces of requests go. None: nobody is traced.
    #[serde(default)]
    pub traces: Option<Traces>,
    /// The limits of the environment's queue.
    #[serde(default)]
    pub queue: QueueLimits,
    /// What queued routes can do instead of sending a request to the service.
    #[serde(default)]
    pub sagas: BTreeMap<SagaName, Saga>,
    /// Requests that wait while no instance takes them.
    #[serde(default)]
    pub hold: Hold,
}

impl GatewaySettings {
    /// What holds where nothing is said but who gets the requests.
    pub fn of(default: ComponentName) -> Self {
        Self {
            default,
            hosts: Vec::new(),
            access_log: true,
            limits: GatewayLimits::default(),
            routes: Vec::new(),
            affinity: Affinity::default(),
            traces: None,
            queue: QueueLimits::default(),
            sagas: BTreeMap::new(),
            hold: Hold::default(),
        }
    }
}

/// The most routes; each has measures of its own for each stamp.
pub const ROUTES_LIMIT: usize = 1000;

/// The name under which requests are measured that fit no route.
pub const OTHER_ROUTE: &str = "other";

/// A method and a path pattern.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// Segments after slashes: text, `*` for any one segment, `**` at the end for any rest. Where several fit,
    /// text goes before `*` before `**`, from the left.
    pub path: String,
    /// What it must meet. None: the default objective.
    pub objective: Option<Objective>,
    /// What is written down before it is acknowledged. None: requests are forwarded.
    #[serde(default)]
    pub queue: Option<QueuedRoute>,
    /// Whether the stamp before is asked for what this one does not have. For GET only, and HEAD with it.
    #[serde(default)]
    pub previous_stamp: Option<PreviousStamp>,
}

impl Route {
    /// How it is written: `GET /api/products/*`.
    pub fn name(&self) -> String {
        format!("{} {}", self.method.as_str(), self.path)
    }
}

/// What keeps a user on one stamp while a release shifts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// A cookie that the gateway sets while users are shifted, and at no other time.
    #[default]
    OwnCookie,
    /// A cookie of the service's. Requests without it fall back to [`Affinity::OwnCookie`].
    Cookie(String),
    /// A field of the request, by its lower-case name. Requests without it fall back likewise.
    Header(String),
}

/// The limits of a request. Each has a chosen answer when it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayLimits {
    /// Bytes of a request's body; more gets 413.
    pub body: u64,
    /// Requests in flight per instance; more get 503 with Retry-After.
    pub in_flight: u32,
    /// How long the upstream may take to accept a connection; then another instance, then 502. Longer than
    /// the second after which the kernel asks again when a short backlog was full (RFC 6298, 2.1).
    pub connect_timeout: Duration,
    /// How long the upstream may take to begin its answer; then 504.
    pub first_byte_timeout: Duration,
    /// How long a body may pause, in either direction; then it is cut.
    pub idle_timeout: Duration,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            body: 64 * 1024 * 1024,
            in_flight: 1024,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// How a release travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleasePolicy {
    /// Percent of users on the candidate, step by step: ascending, 1 to 100, the last one 100.
    pub shift: Vec<u8>,
    /// How long each step below 100 lasts at least.
    pub step_time: Duration,
    /// How long everybody is on the candidate, with the old stamp ready to take over, before it is promoted.
    pub bake: Duration,
    /// How long the candidate is played read flows before it gets users. Zero: not at all.
    pub warm_up: Duration,
    /// How long the old stamp stays warm after promotion.
    pub keep_old: Duration,
    /// Requests that the candidate must have answered in a step before it can pass.
    pub min_requests: u64,
    /// How many users may be hurt, beyond what the old stamp's own errors explain, before all go back.
    pub max_excess_errors: u32,
    /// What too few requests mean when a step has lasted [`INCONCLUSIVE_STEPS`] times its time.
    pub on_inconclusive: OnInconclusive,
}

impl Default for ReleasePolicy {
    /// What was the only way before there were steps: everybody at once.
    fn default() -> Self {
        Self::of(Class::Development)
    }
}

/// A step that has seen too little lasts this many times its configured time, and at least
/// [`INCONCLUSIVE_LEAST`], before it is called inconclusive.
pub const INCONCLUSIVE_STEPS: u32 = 3;
/// See [`INCONCLUSIVE_STEPS`].
pub const INCONCLUSIVE_LEAST: Duration = Duration::from_secs(10);

impl ReleasePolicy {
    /// What holds where the workload file says nothing. Only where users are is it worth going slowly.
    pub fn of(class: Class) -> Self {
        let seconds = Duration::from_secs;
        let (shift, step_time, bake) = match class {
            Class::Production => (vec![10, 50, 100], seconds(30), seconds(30)),
            Class::Staging | Class::Development => (vec![100], seconds(30), Duration::ZERO),
        };
        Self {
            shift,
            step_time,
            bake,
            warm_up: Duration::ZERO,
            keep_old: seconds(600),
            min_requests: 100,
            max_excess_errors: 10,
            on_inconclusive: OnInconclusive::Abort,
        }
    }

    /// How long a step of `time` may go on without a decision.
    pub fn patience(time: Duration) -> Duration {
        (time * INCONCLUSIVE_STEPS).max(INCONCLUSIVE_LEAST)
    }
}

/// What too few requests mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// The release is taken back.
    Abort,
    /// It goes on, and says so.
    Continue,
}

/// Who is told of changes of a release's state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Notify {
    /// Program and arguments, run with the change as JSON on its standard input. Empty: none.
    pub command: Vec<String>,
    /// A plain HTTP URL that gets the change as JSON by POST.
    pub webhook: Option<String>,
}

/// A cycle in what services need: its members in order, the first repeated at the end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("services need each other in a circle: {}", .0.iter().map(ComponentName::as_str).collect::<Vec<_>>().join(" → "))]
pub struct NeedsCycle(pub Vec<ComponentName>);

/// The services in the order in which they start: each after all it needs, names ascending where free.
/// Names in `needs` that are no service are ignored: the reader of the file refuses them with their place.
pub fn start_order(services: &BTreeMap<ComponentName, Service>) -> Result<Vec<ComponentName>, NeedsCycle> {
    fn visit<'a>(
        name: &'a ComponentName,
        services: &'a BTreeMap<ComponentName, Service>,
        path: &mut Vec<&'a ComponentName>,
        order: &mut Vec<ComponentName>,
    ) -> Result<(), NeedsCycle> {
        if order.contains(name) {
            return Ok(());
        }
        if let Some(start) = path.iter().position(|seen| *seen == name) {
            let cycle = path[start..].iter().copied().chain([name]).cloned().collect();
            return Err(NeedsCycle(cycle));
        }
        let Some(service) = services.get(name) else { return Ok(()) };
        path.push(name);
        for need in &service.needs {
            visit(need, services, path, order)?;
        }
        path.pop();
        order.push(name.clone());
        Ok(())
    }
    let mut order = Vec::new();
    for name in services.keys() {
        visit(name, services, &mut Vec::new(), &mut order)?;
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(needs: &[(&str, &[&str])]) -> BTreeMap<ComponentName, Service> {
        let name = |text: &str| ComponentName::new(text).unwrap();
        let service = |needs: &[&str]| Service {
            run: vec![Template::literal("x")],
            http: true,
            artifact: ".".into(),
            instances: 1,
            needs: needs.iter().map(|n| name(n)).collect(),
            address_as: None,
            env: BTreeMap::new(),
            ready: Ready { get: None, timeout: Duration::from_secs(1) },
            live: None,
            limits: Limits::default(),
            drain_timeout: Duration::from_secs(1),
        };
        needs.iter().map(|(n, needs)| (name(n), service(needs))).collect()
    }

    fn order(needs: &[(&str, &[&str])]) -> Result<String, String> {
        let join =
            |names: &[ComponentName]| names.iter().map(ComponentName::as_str).collect::<Vec<_>>().join(" ");
        start_order(&services(needs)).map(|o| join(&o)).map_err(|NeedsCycle(c)| join(&c))
    }

    #[test]
    fn what_is_needed_starts_first() {
        assert_eq!(order(&[("a", &["c"]), ("b", &[]), ("c", &["b"])]).unwrap(), "b c a");
        assert_eq!(order(&[("a", &["missing"])]).unwrap(), "a");
    }

    #[test]
    fn a_cycle_is_named_in_order() {
        assert_eq!(order(&[("a", &["a"])]).unwrap_err(), "a a");
        assert_eq!(order(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]).unwrap_err(), "b c b");
    }
}
