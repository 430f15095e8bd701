//! A gateway without an agent:
//! `standalone LISTEN UPSTREAM [--access-log] [--workers N] [--folder PATH] [--queued PATH]`.
//!
//! Writes a table with one instance into its state folder, runs the gateway on it, and drains on SIGTERM. With
//! `--queued`, POST to that path is a queued route, to a service that honours keys. For benchmarks and for looking
//! at a gateway by itself.

use api::folder::{STATE_VERSION, StateFolder};
use api::gateway::{Table, TableInstance, TableStamp};
use model::flow::Method;
use model::name::{ComponentName, ReleaseNumber};
use model::queue::{QueueLimits, QueuedRoute};
use model::workload::{GatewaySettings, Route};
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

/// Room for a backlog of a million and what comes on top of it.
const JOBS_LIMIT: u64 = 4_000_000;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str =
    "usage: standalone LISTEN UPSTREAM [--access-log] [--workers N] [--folder PATH] [--queued PATH]";

fn main() -> Result<(), Box<dyn Error>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let (mut access_log, mut workers, mut queued) = (false, 2, None);
    let mut folder = std::env::temp_dir().join(format!("mainstay-standalone-{}", std::process::id()));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--access-log" => access_log = true,
            "--workers" => workers = value()?.parse()?,
            "--folder" => folder = PathBuf::from(value()?),
            "--queued" => queued = Some(value()?),
            address => addresses.push(address.parse().map_err(|_| format!("`{address}` is no address"))?),
        }
    }
    let [listen, upstream] = addresses[..] else {
        return Err(USAGE.into());
    };
    std::fs::create_dir_all(&folder)?;
    let folder = StateFolder::new(folder);
    let stored = serde_json::json!({
        "v": STATE_VERSION,
        "boot": std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim(),
        "fence": 1,
        "table": table(upstream, access_log, queued)?,
    });
    std::fs::write(folder.table(), stored.to_string())?;
    let http = vec![TcpListener::bind(listen)?];
    gateway::run(gateway::Options { folder, http, admin: None, workers, journal: Default::default() })?;
    Ok(())
}

fn table(upstream: SocketAddr, access_log: bool, queued: Option<String>) -> Result<Table, Box<dyn Error>> {
    let release = ReleaseNumber(1);
    let queue = QueuedRoute { idempotent: true, ..QueuedRoute::default() };
    let route = |path| Route {
        method: Method::Post,
        path,
        objective: None,
        queue: Some(queue),
        previous_stamp: None,
    };
    let settings = GatewaySettings {
        access_log,
        routes: queued.map(route).into_iter().collect(),
        queue: QueueLimits { jobs: JOBS_LIMIT, ..QueueLimits::default() },
        ..GatewaySettings::of(ComponentName::new("service")?)
    };
    let instances = vec![TableInstance { index: 0, address: upstream, pid: 0 }];
    let stamp = TableStamp {
        stamp: release.stamp(),
        release,
        name: "r1".into(),
        instances,
        settings,
        upstreams: Default::default(),
    };
    Ok(Table {
        preview_token: String::new(),
        trusted_proxies: Vec::new(),
        active: Some(stamp),
        candidate: None,
        weight: 0,
        fallback: None,
        guard: None,
        previous: None,
        kept: None,
    })
}
