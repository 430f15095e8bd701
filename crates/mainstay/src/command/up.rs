//! `run` and `up`.

use crate::command::down::{stop_everything, take_down};
use crate::command::release;
use crate::command::show::agent_status;
use crate::environment::{Found, Life, command_workload};
use crate::failure::{Exit, Failure};
use crate::flags::{CommandFlags, Flags, RunFlags};
use crate::follow::Until;
use crate::output::Output;
use api::folder::{Mark, MarkError, STATE_VERSION};
use api::keeper::{Answer, Ask};
use api::memory::SPARING;
use api::operator::{ReleaseRequest, Source, Status};
use model::name::EnvironmentName;
use model::workload::{Class, Configuration, Listen};
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use workfile::CommandOptions;

/// How long the agent may take to answer for the first time.
const AGENT_PATIENCE: Duration = Duration::from_secs(15);
/// An agent that has ended this often before it answered will not start.
const AGENT_RESTARTS: u32 = 4;
/// What is added to the time an environment may take to serve again.
const SLACK: Duration = Duration::from_secs(15);
/// A keeper's log that is larger when it starts is moved aside. It gets a line when a child ends.
const KEEPER_LOG_LIMIT: u64 = 8 * 1024 * 1024;

/// `mainstay run -- COMMAND`.
pub(crate) async fn run(flags: &Flags, run: &RunFlags, output: Output) -> Result<ExitCode, Failure> {
    if run.command.command.is_empty() {
        let hint = "mainstay run -- ./app --port {port}";
        return Err(Failure::usage("there is no command to run").hint(hint));
    }
    if run.listen.port() == 0 {
        return Err(Failure::usage(format!("`{}` names no port to listen on", run.listen)));
    }
    let found = Found::made_by_run(flags, &run.environment)?;
    let environment = &run.environment;
    let hint = format!("mainstay release {environment} -- COMMAND, or --env for another environment");
    must_be_down(&found, hint).await?;
    let listen = Listen { http: run.listen, admin: None, trusted_proxies: Vec::new() };
    let configuration = command_configuration(environment, listen.clone(), &run.command, None)?;
    let source = command_source()?;
    start(&found, mark(&found, Class::Development, listen, true)?, output).await?;
    let request = release::request(None, configuration, |_| source.clone())?;
    first_release(&found, request, output).await?;
    let url = url(run.listen);
    output.data(&url, &serde_json::json!({ "environment": environment, "url": url }));
    output.next(&[
        ("release a changed version to it", format!("mainstay release {environment} -- COMMAND")),
        ("take it back", format!("mainstay rollback {environment}")),
        ("see what serves", format!("mainstay status {environment}")),
        ("stop it", format!("mainstay down {environment}")),
    ]);
    Ok(ExitCode::SUCCESS)
}

/// `mainstay up ENV`.
pub(crate) async fn up(found: &Found, output: Output) -> Result<ExitCode, Failure> {
    let name = &found.name;
    let hint =
        format!("mainstay status {name}; a changed workload file acts through mainstay release {name}");
    must_be_down(found, hint).await?;
    let mark = match &found.file {
        Some((_, configuration)) => mark(found, configuration.class, configuration.listen.clone(), false)?,
        None => found.mark()?,
    };
    let url = url(mark.listen.http);
    start(found, mark, output).await?;
    let status = agent_status(found, output).await?;
    match &found.file {
        Some((file, configuration)) if status.active.is_none() => {
            let source = |artifact: &Path| Source::Path(file.folder().join(artifact));
            let request = release::request(None, release::at_home(configuration, file), source)?;
            first_release(found, request, output).await?;
        }
        None if status.active.is_none() => {
            take_down(found, output).await?;
            let message = format!("no release of {name} has ever got through: there is nothing to serve");
            let hint = format!("mainstay run --env {name} -- COMMAND");
            return Err(Failure::new(Exit::Conflict, message).hint(hint));
        }
        Some(_) | None => serve_again(found, output).await?,
    }
    output.data(format!("{name} is up: {url}"), &serde_json::json!({ "environment": name, "url": url }));
    output.say("It is not started again after a reboot of this machine: nothing is installed for that yet.");
    output.next(&[
        ("release a changed version", found.release_command()),
        ("see what serves", format!("mainstay status {name}")),
        ("play its flows under load", format!("mainstay load {name} --rate 50/s --for 30s")),
        ("stop it", format!("mainstay down {name}")),
    ]);
    Ok(ExitCode::SUCCESS)
}

/// What `mainstay run` and `mainstay release ENV -- COMMAND` make of a command. What the flags do not say is as
/// in `before`.
pub(crate) fn command_configuration(
    environment: &EnvironmentName,
    listen: Listen,
    flags: &CommandFlags,
    before: Option<&Configuration>,
) -> Result<Configuration, Failure> {
    let mut options = CommandOptions::new(flags.command.clone());
    options.environment = environment.clone();
    options.listen = listen;
    if let Some(before) = before {
        let service = &before.services[&before.gateway.default];
        options.instances = service.instances;
        options.ready_timeout = service.ready.timeout;
        options.keep_old = before.policy.keep_old;
    }
    options.instances = flags.instances.unwrap_or(options.instances);
    options.ready_timeout = flags.ready_timeout.unwrap_or(options.ready_timeout);
    options.keep_old = flags.keep_old.unwrap_or(options.keep_old);
    workfile::for_command(options).map_err(|error| Failure::usage(error.to_string()))
}

/// A command as it is found from here.
pub(crate) fn command_source() -> Result<Source, Failure> {
    Ok(Source::Command { folder: std::env::current_dir()?, search_path: std::env::var("PATH").ok() })
}

async fn must_be_down(found: &Found, hint: String) -> Result<(), Failure> {
    let name = &found.name;
    let conflict = |message: String| Failure::new(Exit::Conflict, message);
    match found.life().await {
        Life::Down => Ok(()),
        Life::Up => Err(conflict(format!("{name} is already up")).hint(hint)),
        Life::Orphaned => {
            let message = format!(
                "{name} serves, but its keeper was killed: nothing would start agent and gateway again"
            );
            Err(conflict(message).hint(format!("mainstay down {name}, then mainstay up {name}")))
        }
    }
}

/// The mark of an environment: the one it has, with the addresses of now, or a new one.
fn mark(found: &Found, class: Class, listen: Listen, inherit_env: bool) -> Result<Mark, Failure> {
    let workload = match &found.file {
        Some((file, _)) => file.workload().clone(),
        None => command_workload(),
    };
    match found.folder.read_mark() {
        Ok(mark) if (&mark.workload, &mark.environment) != (&workload, &found.name) => {
            let message = format!(
                "{} is the folder of {}/{}, not of {workload}/{}",
                found.folder.root().display(),
                mark.workload,
                mark.environment,
                found.name
            );
            Err(Failure::usage(message).hint("give another folder with --state"))
        }
        Ok(mark) if mark.class != class => {
            let message = format!("{} was made with another class, and a class does not change", found.name);
            Err(Failure::usage(message).hint("give the environment another name"))
        }
        Ok(mark) => Ok(Mark { listen, ..mark }),
        Err(MarkError::Missing(_)) => {
            let id = release::random_id()?;
            let environment = found.name.clone();
            Ok(Mark { v: STATE_VERSION, id, workload, environment, class, listen, inherit_env })
        }
        Err(error) => Err(found.mark_failure(error)),
    }
}

/// Starts the keeper and waits until the agent answers.
async fn start(found: &Found, mark: Mark, output: Output) -> Result<(), Failure> {
    let folder = &found.folder;
    folder
        .write_mark(&mark)
        .map_err(|e| Failure::machine(format!("cannot write {}: {e}", folder.root().display())))?;
    start_keeper(found)?;
    output.say(format!("{}: keeper, agent and gateway are started", mark.environment));
    let deadline = Instant::now() + AGENT_PATIENCE;
    while found.agent().get::<Status>("/v1/status").await.is_err() {
        if Instant::now() > deadline || agent_restarts(found) >= AGENT_RESTARTS {
            let log = folder.logs().join("agent.log");
            let failure = Failure::machine(format!("the agent does not start{}", last_lines(&log, 3)));
            // Nothing half-done stays.
            if let Err(second) = stop_everything(found, output).await {
                second.print(output.json);
            }
            return Err(failure.hint(format!("see {}", log.display())));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// How often the agent has ended so far.
fn agent_restarts(found: &Found) -> u32 {
    let ask = Ask::State { v: api::PROTOCOL_VERSION };
    match api::keeper::ask(&found.folder.keeper_socket(), &ask, Duration::from_secs(1)) {
        Ok(Answer::State { agent_restarts, .. }) => agent_restarts,
        Ok(Answer::Listeners { .. } | Answer::Down { .. } | Answer::Refused { .. }) | Err(_) => 0,
    }
}

/// The keeper says in one line on standard output whether it has come up.
fn start_keeper(found: &Found) -> Result<(), Failure> {
    let path = found.folder.logs().join("keeper.log");
    if path.metadata().is_ok_and(|log| log.len() > KEEPER_LOG_LIMIT) {
        std::fs::rename(&path, found.folder.logs().join("keeper.log.1"))?;
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let log = log.map_err(|e| Failure::machine(format!("cannot write {}: {e}", path.display())))?;
    let mut keeper = Command::new("/proc/self/exe")
        .arg0("mainstay")
        .arg("keeper")
        .arg("--state")
        .arg(found.folder.root())
        .env(SPARING.0, SPARING.1)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| Failure::machine(format!("cannot start the keeper: {e}")))?;
    let mut line = String::new();
    let stdout = keeper.stdout.take().expect("it was asked for above");
    BufReader::new(stdout).read_line(&mut line)?;
    let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
    if let Some(error) = said.get("error") {
        let text = |key: &str| error.get(key).and_then(|value| value.as_str()).map(str::to_owned);
        let exit = error.get("exit").and_then(serde_json::Value::as_u64).unwrap_or_default();
        let message = text("message").unwrap_or_default();
        return Err(Failure::new(Exit::from_number(exit), message).maybe_hint(text("hint")));
    }
    match said.get("up") {
        Some(_) => Ok(()),
        None => Err(Failure::machine("the keeper ended at once").hint(format!("see {}", path.display()))),
    }
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(count).collect();
    lines.into_iter().rev().map(|line| format!("\n  {line}")).collect()
}

/// The release an environment begins with. When it does not get through, everything is taken down again.
async fn first_release(found: &Found, request: ReleaseRequest, output: Output) -> Result<(), Failure> {
    let released = release::carry_out(&found.patient_agent(), &request, Until::Promoted, output).await;
    let failure = match released {
        Ok(release) if release.reason.is_none() => return Ok(()),
        Ok(release) => {
            let text = release.reason_text.unwrap_or_default();
            let message = format!("the first release did not get through: {text}");
            let hint = format!("its logs are in {}", found.folder.logs().display());
            Failure::new(Exit::Verdict, message).hint(hint)
        }
        Err(failure) => failure,
    };
    // What went wrong first is what matters.
    if let Err(second) = take_down(found, output).await {
        second.print(output.json);
    }
    Err(failure)
}

async fn serve_again(found: &Found, output: Output) -> Result<(), Failure> {
    let configuration: Result<Configuration, _> = found.agent().get("/v1/configuration").await;
    let patience = SLACK
        + configuration
            .map_or(Duration::ZERO, |c| c.services.values().map(|service| service.ready.timeout).sum());
    let began = Instant::now();
    loop {
        let status = agent_status(found, output).await?;
        // After a boot the gateway knows of the stamp by itself, and of nobody who listens.
        let told =
            |gateway: &api::gateway::GatewayState| gateway.revision > 0 && gateway.active == status.active;
        let told = status.gateway.as_ref().is_some_and(told);
        if status.active_ready && told {
            return Ok(());
        }
        if began.elapsed() > patience {
            let instances = status.stamps.iter().flat_map(|stamp| &stamp.instances);
            let exits: Vec<_> = instances.filter_map(|instance| instance.last_exit.clone()).collect();
            let message = format!("{} does not serve after {patience:?}: {}", found.name, exits.join("; "));
            let hint = format!("mainstay logs {}; it is still being tried", found.name);
            return Err(Failure::new(Exit::Verdict, message).hint(hint));
        }
        output.progress(&format!("  waiting for its instances, {} s", began.elapsed().as_secs()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn url(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("http://localhost:{}", address.port()),
        false => format!("http://{address}"),
    }
}
