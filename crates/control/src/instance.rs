//! One instance, supervised: found again or started, made ready, started again when it ends, stopped.

use crate::live::{self, Ward};
use crate::needs::{Address, Given, Need, addresses_of_needs};
use crate::stamp::Surroundings;
use api::shim::{Exit, Start, StopSignal};
use model::artifact::Artifact;
use model::name::InstanceId;
use model::template::MissingValue;
use model::workload::Service;
use runtime::{Adopted, Instance, NotReady, describe_exit};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// An instance that ran this long is started again at once; one that did not waits longer each time.
pub(crate) const STEADY_AFTER: Duration = Duration::from_secs(10);
/// The first wait.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait.
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A worker that has lived this long works.
const WORKER_STEADY: Duration = Duration::from_millis(500);
/// How often the memory of an instance with a limit is looked at.
const MEMORY_LOOK: Duration = Duration::from_secs(1);
/// How soon a worker is looked for again of which nothing could be found out.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How many ports are tried when strangers take them between the check and the start.
const PORT_TRIES: u32 = 5;

/// What is known of an instance.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) port: u16,
    pub(crate) pid: Option<u32>,
    /// Starts after an exit that nobody asked for.
    pub(crate) restarts: u32,
    /// The last exit nobody asked for, or the last start that failed.
    pub(crate) last_exit: Option<String>,
    /// Resident bytes, where a limit is set.
    pub(crate) memory: Option<u64>,
    /// Why its live probe fails, while it does.
    pub(crate) failing: Option<String>,
    /// Starts because of that, or of something else that is no fault of its own.
    pub(crate) replaced: u32,
}

/// Where an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// This agent has not looked for it yet: it may be serving.
    Unknown,
    /// It runs and has not answered yet, or waits for what it needs.
    Starting,
    /// It may get requests.
    Ready(SocketAddr),
    /// It runs, fails its live probe while others do not, and gets no requests until it is started again.
    Failing,
    /// It is a worker, and works.
    Working,
    /// It has ended, or did not get ready, and will be started again.
    Down,
    /// It was told to stop, and has.
    Stopped,
}

/// What the stamp wants of its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Found or started, and started again when it ends.
    Run,
    /// Left running when it is found, and not started: it is to be stopped soon, or another may still run in its
    /// place.
    Keep,
    Stop,
}

/// What is to run, and where.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) id: InstanceId,
    pub(crate) service: Service,
    pub(crate) artifact: Artifact,
    /// The instances it uses, with the variable that gets their address.
    pub(crate) needs: Vec<Need>,
    /// Addresses of what is no instance of a stamp: stores, and what others run.
    pub(crate) given: Vec<Given>,
    /// Whether the stamp has served: then an instance that is found and listens is ready, whatever its
    /// readiness path says at this moment. It may be answering users.
    pub(crate) served: bool,
    pub(crate) surroundings: Arc<Surroundings>,
    /// What the live probes of the stamp say.
    pub(crate) ward: Arc<Ward>,
}

impl View {
    pub(crate) fn unknown() -> Self {
        Self {
            phase: Phase::Unknown,
            port: 0,
            pid: None,
            restarts: 0,
            last_exit: None,
            memory: None,
            failing: None,
            replaced: 0,
        }
    }

    pub(crate) fn ready(&self) -> Option<SocketAddr> {
        match self.phase {
            Phase::Ready(address) => Some(address),
            Phase::Unknown
            | Phase::Starting
            | Phase::Failing
            | Phase::Working
            | Phase::Down
            | Phase::Stopped => None,
        }
    }

    /// Whether it does what it is there for.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.phase, Phase::Ready(_) | Phase::Working)
    }
}

/// How a life of an instance ended.
enum Life {
    /// It was wanted no longer.
    Stopped,
    /// It ended or did not get ready; `blameless` when a stranger had taken its port.
    Over { text: String, blameless: bool, was_ready: bool },
    /// It was stopped to be started again: it no longer answered its live probe, or what it needs has moved.
    Replaced { text: String },
}

/// How a running process was come by.
struct Found {
    /// The addresses of what it needs, as it was told. None when an earlier agent told it.
    needed: Option<BTreeMap<String, Address>>,
    /// Whether an earlier agent had started it.
    again: bool,
}

/// Keeps one instance as wanted. One that serves is done when it was stopped; a worker may be wanted again.
/// `changed` is called after every change of the view.
pub(crate) async fn supervise(
    plan: Plan,
    mut want: watch::Receiver<Want>,
    view: watch::Sender<View>,
    changed: impl Fn(),
) {
    loop {
        keep(&plan, &mut want, &view, &changed).await;
        if plan.service.http {
            return;
        }
        if want.wait_for(|want| *want == Want::Run).await.is_err() {
            return;
        }
    }
}

/// Until it is stopped.
async fn keep(
    plan: &Plan,
    want: &mut watch::Receiver<Want>,
    view: &watch::Sender<View>,
    changed: &impl Fn(),
) {
    let publish = |update: &dyn Fn(&mut View)| {
        view.send_modify(|view| update(view));
        changed();
    };
    let mut backoff = Duration::ZERO;
    let mut port_tries = 0;
    let mut last_port = None;
    loop {
        let began = Instant::now();
        let life = match find(plan).await {
            Some(instance) => {
                let needed = None;
                live(plan, instance, Found { needed, again: true }, want, &publish).await
            }
            None if *want.borrow() != Want::Run => break,
            None => {
                publish(&|view| view.phase = Phase::Starting);
                begin(plan, last_port, want, &publish).await
            }
        };
        let port = view.borrow().port;
        plan.surroundings.ports().release(port);
        // Whoever is started again keeps the turn until it is ready.
        if !matches!(life, Life::Replaced { .. }) {
            plan.ward.away(&plan.id);
        }
        // Those who need it have its address in their environment: it keeps it where it can. A port on which
        // it did not get ready is not tried again.
        last_port =
            matches!(life, Life::Over { was_ready: true, .. } | Life::Replaced { .. }).then_some(port);
        let (text, blameless) = match life {
            Life::Stopped => break,
            Life::Replaced { text } => {
                live::replace(plan, &text, &publish);
                continue;
            }
            Life::Over { text, blameless, .. } => (text, blameless),
        };
        port_tries += 1;
        if blameless && port_tries < PORT_TRIES {
            continue;
        }
        port_tries = 0;
        // The rest of it is in the instance's own log.
        tracing::warn!(instance = %plan.id, "{}", text.lines().next().unwrap_or_default());
        publish(&|view| {
            view.phase = Phase::Down;
            view.pid = None;
            view.failing = None;
            view.restarts += 1;
            view.last_exit = Some(text.clone());
        });
        backoff = match began.elapsed() {
            lived if lived >= STEADY_AFTER => Duration::ZERO,
            _ => (backoff * 2).clamp(FIRST_BACKOFF, LONGEST_BACKOFF),
        };
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = stop_wanted(want) => break,
        }
    }
    plan.ward.away(&plan.id);
    publish(&|view| {
        view.phase = Phase::Stopped;
        view.pid = None;
    });
}

pub(crate) async fn stop_wanted(want: &mut watch::Receiver<Want>) {
    // A stamp that is dropped without stopping leaves its instances to the next agent.
    if want.wait_for(|want| *want == Want::Stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The instance, when an earlier agent has left it running.
async fn find(plan: &Plan) -> Option<Instance> {
    loop {
        match plan.surroundings.driver.adopt(&plan.id).await {
            Ok(Adopted::Running(instance)) => return Some(instance),
            Ok(Adopted::Ended(_) | Adopted::Gone) => return None,
            Err(error) => tracing::warn!(instance = %plan.id, "cannot tell whether it runs: {error}"),
        }
        if plan.service.http {
            // Starting it says what is wrong, if anything is.
            return None;
        }
        // Another worker may start in its place, so it has to be known.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Starts the instance and lives its life.
async fn begin(
    plan: &Plan,
    last_port: Option<u16>,
    want: &mut watch::Receiver<Want>,
    publish: &impl Fn(&dyn Fn(&mut View)),
) -> Life {
    let needed = tokio::select! {
        needed = addresses_of_needs(plan) => needed,
        () = stop_wanted(want) => return Life::Stopped,
    };
    let over = |text: String| Life::Over { text, blameless: false, was_ready: false };
    let port = match plan.service.http {
        // A worker has none.
        false => 0,
        true => match plan.surroundings.ports().allocate(last_port) {
            Ok(port) => port,
            Err(error) => return over(format!("{error}; hint: {}", error.hint())),
        },
    };
    publish(&|view| view.port = port);
    let start = match start_of(plan, port, &needed) {
        Ok(start) => start,
        Err(error) => return over(error.to_string()),
    };
    match plan.surroundings.driver.start(&start).await {
        Ok(instance) => {
            let needed = Some(needed);
            live(plan, instance, Found { needed, again: false }, want, publish).await
        }
        Err(error) => over(error.to_string()),
    }
}

/// From a running process to its end.
async fn live(
    plan: &Plan,
    instance: Instance,
    found: Found,
    want: &mut watch::Receiver<Want>,
    publish: &impl Fn(&dyn Fn(&mut View)),
) -> Life {
    let running = instance.running();
    let (pid, port) = (running.process.pid, running.port);
    if port != 0 {
        plan.surroundings.ports().take(port);
    }
    publish(&|view| {
        view.pid = Some(pid);
        view.port = port;
    });
    let mut address = None;
    let end = tokio::select! {
        ready = get_ready(plan, &instance, found.again) => match ready {
            Ok(phase) => {
                publish(&|view| view.phase = phase);
                plan.ward.ready(&plan.id);
                if let Phase::Ready(at) = phase {
                    address = Some(at);
                }
                None
            }
            Err(not_ready) => Some(never_ready(&not_ready, port)),
        },
        () = stop_wanted(want) => Some(Life::Stopped),
    };
    let end = match end {
        Some(end) => end,
        None => tokio::select! {
            exit = instance.ended() => return over(&exit),
            never = watch_memory(plan, &instance, publish) => match never {},
            text = live::failed(plan, &instance, address, want.clone(), publish) => Life::Replaced { text },
            text = live::outdated(plan, &instance, found.needed, want.clone(), publish) => {
                Life::Replaced { text }
            }
            () = stop_wanted(want) => Life::Stopped,
        },
    };
    if let Life::Over { text, blameless: false, .. } = &end {
        // The gateway hears of it before the process does.
        publish(&|view| {
            view.phase = Phase::Down;
            view.last_exit = Some(text.clone());
        });
    }
    stop(plan, &instance).await;
    end
}

/// The end of an instance that was ready. One that was asked to end has not crashed: an agent before this one was
/// about to start it again when it was killed.
fn over(exit: &Exit) -> Life {
    match exit.asked {
        true => Life::Replaced { text: stopped_before(exit) },
        false => Life::Over { text: describe_exit(exit), blameless: false, was_ready: true },
    }
}

fn stopped_before(exit: &Exit) -> String {
    format!("{}, as the agent before had asked it to", describe_exit(exit))
}

async fn get_ready(plan: &Plan, instance: &Instance, again: bool) -> Result<Phase, NotReady> {
    if !plan.service.http {
        let long = if again { Duration::ZERO } else { WORKER_STEADY };
        return instance.steady(long).await.map(|()| Phase::Working);
    }
    if again
        && plan.served
        && let Some(address) = instance.listens().await
    {
        return Ok(Phase::Ready(address));
    }
    instance.ready(&plan.service.ready).await.map(Phase::Ready)
}

/// Looks at the memory of an instance with a limit, for as long as it lives.
async fn watch_memory(plan: &Plan, instance: &Instance, publish: &impl Fn(&dyn Fn(&mut View))) -> Infallible {
    if plan.service.limits.memory.is_none() {
        return std::future::pending().await;
    }
    let mut seen = None;
    loop {
        // What cannot be read is gone, and its end is noticed elsewhere.
        let resident = instance.resident_bytes().ok();
        if resident != seen {
            publish(&|view| view.memory = resident);
            seen = resident;
        }
        tokio::time::sleep(MEMORY_LOOK).await;
    }
}

fn never_ready(not_ready: &NotReady, port: u16) -> Life {
    if let NotReady::Exited { exit, .. } = not_ready
        && exit.asked
    {
        return Life::Replaced { text: stopped_before(exit) };
    }
    // A port is checked before an instance is told it, and may be taken in between.
    let blameless = match not_ready {
        _ if port == 0 => false,
        NotReady::Stranger { .. } => true,
        NotReady::Exited { .. } => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err(),
        NotReady::Elsewhere { .. } | NotReady::Timeout { .. } => false,
    };
    Life::Over { text: not_ready.to_string(), blameless, was_ready: false }
}

fn start_of(plan: &Plan, port: u16, needed: &BTreeMap<String, Address>) -> Result<Start, MissingValue> {
    let surroundings = &plan.surroundings;
    let value = |name: &str| {
        Some(Cow::Owned(match name {
            "port" => port.to_string(),
            "data" => surroundings.folder.data().display().to_string(),
            "release.id" => surroundings.release_id.clone(),
            "environment.name" => surroundings.environment.to_string(),
            "stamp.name" => plan.id.stamp.to_string(),
            "instance.index" => plan.id.index.to_string(),
            _ => return None,
        }))
    };
    let mut command = Vec::new();
    for part in &plan.service.run {
        command.push(with_port(&part.render(value)?, port));
    }
    let folder = match &plan.artifact {
        Artifact::Stored { digest } => surroundings.folder.artifact(digest),
        Artifact::Command { executable, folder, .. } => {
            command[0] = executable.display().to_string();
            folder.clone()
        }
    };
    let mut env: BTreeMap<String, String> = surroundings.base_env.clone();
    if port != 0 {
        env.insert("PORT".into(), port.to_string());
    }
    for (name, address) in needed {
        env.insert(name.clone(), address.url());
    }
    for (name, text) in &plan.service.env {
        env.insert(name.clone(), text.render(value)?);
    }
    Ok(Start {
        v: api::PROTOCOL_VERSION,
        fence: surroundings.fence,
        instance: plan.id.clone(),
        command,
        folder,
        env: env.into_iter().collect(),
        open_files: plan.service.limits.open_files,
        log: surroundings.folder.instance_log(plan.id.stamp, &plan.id.component, plan.id.index),
        port,
        stop_signal: StopSignal::Term,
    })
}

/// Stops it. What cannot be stopped is said: there is nothing else to do about it.
async fn stop(plan: &Plan, instance: &Instance) {
    while let Err(error) = instance.stop(plan.service.drain_timeout).await {
        tracing::error!("{error}");
        if plan.service.http {
            return;
        }
        // Another worker may start in its place, so it has to be gone.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Fills in `$PORT` as well, although there is no shell: it is what many commands already say. `$PORTAL` is
/// another variable, and stays.
fn with_port(argument: &str, port: u16) -> String {
    let mut filled = String::new();
    let mut rest = argument;
    while let Some((before, after)) = rest.split_once("$PORT") {
        filled.push_str(before);
        match after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            true => filled.push_str("$PORT"),
            false => filled.push_str(&port.to_string()),
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests;
