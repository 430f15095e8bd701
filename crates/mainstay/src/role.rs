//! The processes of an environment: keeper, agent, gateway, shim. They are started by each other, never by
//! people, and so are not in the help.

use crate::failure::{Exit, Failure};
use api::folder::StateFolder;
use keeper::{Keeper, StartError};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a gateway tries to get the listening sockets from its keeper.
const LISTENERS_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the role named by the first argument; none when it names no role.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let role = arguments.next()?;
    match role.to_str()? {
        "keeper" => Some(keep(&state(arguments)?)),
        "agent" => Some(agent(&state(arguments)?)),
        "gateway" => Some(gateway(&state(arguments)?)),
        "shim" => Some(runtime::shim(&PathBuf::from(arguments.next()?))),
        #[cfg(feature = "demo")]
        demo::SHOP_ROLE => Some(shop::main(arguments.filter_map(|argument| argument.into_string().ok()))),
        _ => None,
    }
}

/// `--state FOLDER`.
fn state(mut arguments: impl Iterator<Item = OsString>) -> Option<StateFolder> {
    (arguments.next()? == "--state").then_some(())?;
    Some(StateFolder::new(PathBuf::from(arguments.next()?)))
}

/// Says on standard output, in one line, whether it has come up; then keeps.
fn keep(folder: &StateFolder) -> ExitCode {
    // Detached from the terminal of whoever ran `up`. It fails only for a process that leads its group
    // already, which then is detached enough.
    let _ = rustix::process::setsid();
    match Keeper::open(folder.clone()) {
        Ok(keeper) => keeper.keep(|| say(&serde_json::json!({ "up": true }).to_string())),
        Err(error) => {
            let failure = keeper_failure(error);
            say(&format!("{{\"error\":{}}}", failure.report()));
            Exit::Machine.code()
        }
    }
}

fn say(line: &str) {
    // Whoever started us may have gone: then nobody needs to know.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn keeper_failure(error: StartError) -> Failure {
    let text = error.to_string();
    match error {
        StartError::AlreadyUp => Failure::new(Exit::Conflict, text),
        StartError::Listen { address, cause } if cause.kind() == std::io::ErrorKind::AddrInUse => {
            let port = address.port();
            Failure::machine(format!("cannot listen on {address}: something else listens there already"))
                .hint(format!("see what it is with `ss -ltnp sport = :{port}`, or listen on another port"))
        }
        StartError::Listen { address, cause } if cause.kind() == std::io::ErrorKind::PermissionDenied => {
            Failure::machine(format!("not permitted to listen on {address}"))
                .hint("ports below 1024 need root or CAP_NET_BIND_SERVICE; a higher one does not")
        }
        StartError::Mark(_) | StartError::Listen { .. } | StartError::Io { .. } => Failure::machine(text),
    }
}

fn agent(folder: &StateFolder) -> ExitCode {
    log_to_stderr();
    ended("agent", control::run(&control::Options { folder: folder.clone() }))
}

fn gateway(folder: &StateFolder) -> ExitCode {
    log_to_stderr();
    let listeners = match listeners(folder) {
        Ok(listeners) => listeners,
        Err(error) => return ended("gateway", Err(error)),
    };
    let (mut http, mut admin) = (Vec::new(), None);
    for (name, listener) in listeners {
        match name.as_str() {
            "admin" => admin = Some(listener),
            _ => http.push(listener),
        }
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (folder, journal) = (folder.clone(), gateway::JournalOptions::default());
    ended("gateway", gateway::run(gateway::Options { folder, http, admin, workers, journal }))
}

/// The keeper answers one ask at a time, so that a first try may be too early.
fn listeners(folder: &StateFolder) -> std::io::Result<Vec<(String, std::net::TcpListener)>> {
    let deadline = Instant::now() + LISTENERS_PATIENCE;
    loop {
        match api::keeper::listeners(&folder.keeper_socket()) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            listeners => return listeners,
        }
    }
}

fn ended<E: std::error::Error>(role: &str, end: Result<(), E>) -> ExitCode {
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            tracing::error!("the {role} ends: {text}");
            Exit::Machine.code()
        }
    }
}

/// The keeper has pointed standard error at the role's log.
fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        // A line that a full disk has no room for is lost; said again on standard error it would panic.
        .log_internal_errors(false)
        .init();
}
