//! The workload as checked: what a workload file says once it is resolved for one environment.

use crate::flow::Flow;
use crate::name::{ComponentName, EnvironmentName, FlowName, WorkloadName};
use crate::template::Template;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
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
    /// The services, by name.
    pub services: BTreeMap<ComponentName, Service>,
    /// What the gateway does.
    pub gateway: GatewaySettings,
    /// What users do.
    pub flows: BTreeMap<FlowName, Flow>,
    /// How a release travels.
    pub policy: ReleasePolicy,
}

impl Configuration {
    /// The longest any of its services may take to drain.
    pub fn drain_timeout(&self) -> Duration {
        self.services.values().map(|service| service.drain_timeout).max().unwrap_or_default()
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
    /// The artifact, when it is not given with the release: a file or folder.
    pub artifact: PathBuf,
    /// How many copies. At least 1.
    pub instances: u32,
    /// Services that are ready before this one starts.
    pub needs: Vec<ComponentName>,
    /// The variable by which services that need this one get its address (`http://127.0.0.1:PORT`).
    pub address_as: Option<String>,
    /// Environment variables.
    pub env: BTreeMap<String, Template>,
    /// When an instance may get requests.
    pub ready: Ready,
    /// What an instance may use.
    pub limits: Limits,
    /// How long requests in flight may take to end before an instance is told to stop, and again how long
    /// it may take to stop before it is killed.
    pub drain_timeout: Duration,
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
}

/// What the gateway does with requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySettings {
    /// The service that gets the requests.
    pub default: ComponentName,
    /// Lower-case names that requests may be for; empty: any. Others get 421.
    pub hosts: Vec<String>,
    /// One JSON line per request in `logs/access.log`.
    pub access_log: bool,
    /// The limits of a request.
    pub limits: GatewayLimits,
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
pub struct ReleasePolicy {
    /// How long the old stamp stays warm after promotion.
    pub keep_old: Duration,
}

impl Default for ReleasePolicy {
    fn default() -> Self {
        Self { keep_old: Duration::from_secs(600) }
    }
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
            artifact: ".".into(),
            instances: 1,
            needs: needs.iter().map(|n| name(n)).collect(),
            address_as: None,
            env: BTreeMap::new(),
            ready: Ready { get: None, timeout: Duration::from_secs(1) },
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
