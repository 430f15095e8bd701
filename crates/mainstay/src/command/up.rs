//! `run`, `up` and `down`.

use crate::command::release;
use crate::environment::{Found, command_workload};
use crate::failure::{Exit, Failure};
use crate::flags::{CommandFlags, Flags, RunFlags};
use crate::output::Output;
use api::folder::{Mark, MarkError, STATE_VERSION};
use api::keeper::{Answer, Ask};
use api::operator::{Source, Status};
use model::name::EnvironmentName;
use model::workload::{Class, Configuration, Listen};
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use workfile::CommandOptions;

/// How long the agent may take to answer for the first time.
const AGENT_PATIENCE: Duration = Duration::from_secs(15);
/// What is added to the time an environment may take to serve again.
const SLACK: Duration = Duration::from_secs(15);
/// How long gateway and agent may take to end.
const DOWN_PATIENCE: Duration = Duration::from_secs(90);

/// `mainstay run -- COMMAND`.
pub(crate) async fn run(flags: &Flags, run: &RunFlags, output: Output) -> Result<ExitCode, Failure> {
    if run.command.command.is_empty() {
        let hint = "mainstay run -- ./app --port {port}";
        return Err(Failure::usage("there is no command to run").hint(hint));
    }
    let found = Found::made_by_run(flags, &run.environment)?;
    let environment = &run.environment;
    if found.is_up() {
        let hint = format!("mainstay release {environment} -- COMMAND, or --env for another environment");
        return Err(Failure::new(Exit::Conflict, format!("{environment} is already up")).hint(hint));
    }
    let listen = Listen { http: run.listen, admin: None, trusted_proxies: Vec::new() };
    let configuration = command_configuration(environment, listen.clone(), &run.command)?;
    start(&found, mark(&found, Class::Development, listen, true)?, output).await?;
    let source = Source::Command { folder: std::env::current_dir()? };
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
    if found.is_up() {
        let hint =
            format!("mainstay status {name}; a changed workload file acts through mainstay release {name}");
        return Err(Failure::new(Exit::Conflict, format!("{name} is already up")).hint(hint));
    }
    if found.agent().get::<Status>("/v1/status").await.is_ok() {
        let message =
            format!("{name} serves, but its keeper was killed: nothing would start agent and gateway again");
        return Err(Failure::new(Exit::Conflict, message)
            .hint(format!("mainstay down {name}, then mainstay up {name}")));
    }
    let mark = match &found.file {
        Some((_, configuration)) => mark(found, configuration.class, configuration.listen.clone(), false)?,
        None => found.mark()?,
    };
    let url = url(mark.listen.http);
    start(found, mark, output).await?;
    let status: Status = found.agent().get("/v1/status").await?;
    match &found.file {
        Some((file, configuration)) if status.active.is_none() => {
            let folder = file.folder().to_owned();
            let path = |service: &model::workload::Service| Source::Path(folder.join(&service.artifact));
            let request = release::request(None, configuration.clone(), path)?;
            first_release(found, request, output).await?;
        }
        Some(_) | None => serve_again(found, output).await?,
    }
    output.data(format!("{name} is up: {url}"), &serde_json::json!({ "environment": name, "url": url }));
    output.say("It is not started again after a reboot of this machine: nothing is installed for that yet.");
    output.next(&[
        ("release a changed version", format!("mainstay release {name}")),
        ("see what serves", format!("mainstay status {name}")),
        ("play its flows under load", format!("mainstay load {name} --rate 50/s --for 30s")),
        ("stop it", format!("mainstay down {name}")),
    ]);
    Ok(ExitCode::SUCCESS)
}

/// `mainstay down ENV`.
pub(crate) async fn down(found: &Found, output: Output) -> Result<ExitCode, Failure> {
    let name = &found.name;
    found.mark()?;
    let orphaned = !found.is_up() && found.agent().get::<Status>("/v1/status").await.is_ok();
    if !found.is_up() && !orphaned {
        let hint = format!("mainstay up {name}");
        return Err(Failure::new(Exit::NotUp, format!("{name} is not up")).hint(hint));
    }
    output.say(format!("{name}: no new requests; what is in flight ends, then everything stops"));
    match orphaned {
        true => take_down_orphans(found).await?,
        false => take_down(found).await?,
    }
    output.data(format!("{name} is down"), &serde_json::json!({ "environment": name, "down": true }));
    output.next(&[("bring it up again, with the release it served", format!("mainstay up {name}"))]);
    Ok(ExitCode::SUCCESS)
}

/// What `mainstay run` and `mainstay release ENV -- COMMAND` make of a command.
pub(crate) fn command_configuration(
    environment: &EnvironmentName,
    listen: Listen,
    flags: &CommandFlags,
) -> Result<Configuration, Failure> {
    workfile::for_command(CommandOptions {
        environment: environment.clone(),
        command: flags.command.clone(),
        listen,
        instances: flags.instances,
        ready_timeout: flags.ready_timeout,
        keep_old: flags.keep_old,
    })
    .map_err(|error| Failure::usage(error.to_string()))
}

/// The mark of an environment: the one it has, with the addresses of now, or a new one.
fn mark(found: &Found, class: Class, listen: Listen, inherit_env: bool) -> Result<Mark, Failure> {
    let workload = match &found.file {
        Some((file, _)) => file.workload().clone(),
        None => command_workload(),
    };
    match found.folder.read_mark() {
        Ok(mark) if (&mark.workload, &mark.environment) != (&workload, &found.name) => {
            let folder = found.folder.root().display();
            let message = format!(
                "{folder} is the folder of {}/{}, not of {workload}/{}",
                mark.workload, mark.environment, found.name
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
    let path = folder.logs().join("keeper.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let log = log.map_err(|e| Failure::machine(format!("cannot write {}: {e}", path.display())))?;
    let mut keeper = Command::new("/proc/self/exe")
        .arg0("mainstay")
        .arg("keeper")
        .arg("--state")
        .arg(folder.root())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| Failure::machine(format!("cannot start the keeper: {e}")))?;
    // It says in one line whether it has come up; the pipe is of no further use.
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
    if said.get("up").is_none() {
        return Err(Failure::machine("the keeper ended at once").hint(format!("see {}", path.display())));
    }
    output.say(format!("{}: keeper, agent and gateway are started", mark.environment));
    let deadline = Instant::now() + AGENT_PATIENCE;
    while found.agent().get::<Status>("/v1/status").await.is_err() {
        if Instant::now() > deadline {
            let log = folder.logs().join("agent.log");
            let end = last_lines(&log, 3);
            let failure = Failure::machine(format!("the agent does not answer{end}"));
            // Nothing half-done stays.
            let _ = ask_keeper(found, &Ask::Down { v: api::PROTOCOL_VERSION }).await;
            return Err(failure.hint(format!("see {}", log.display())));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn last_lines(path: &std::path::Path, count: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(count).collect();
    lines.into_iter().rev().map(|line| format!("\n  {line}")).collect()
}

/// The release an environment begins with. When it does not get through, everything is taken down again.
async fn first_release(
    found: &Found,
    request: api::operator::ReleaseRequest,
    output: Output,
) -> Result<(), Failure> {
    let released = release::carry_out(&found.agent(), &request, crate::follow::Until::Promoted, output).await;
    let failure = match released {
        Ok(release) if release.reason.is_none() => return Ok(()),
        Ok(release) => {
            let text = release.reason_text.unwrap_or_default();
            let failure =
                Failure::new(Exit::Verdict, format!("the first release did not get through: {text}"));
            failure.hint(format!("its logs are in {}", found.folder.logs().display()))
        }
        Err(failure) => failure,
    };
    take_down(found).await?;
    Err(failure)
}

async fn serve_again(found: &Found, output: Output) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let status: Status = found.agent().get("/v1/status").await?;
        if status.active_ready
            && status.gateway.as_ref().is_some_and(|gateway| gateway.active == status.active)
        {
            return Ok(());
        }
        let instances = status.stamps.iter().flat_map(|stamp| &stamp.instances);
        let patience = SLACK + ready_timeout(found).await;
        if began.elapsed() > patience {
            let exits: Vec<_> = instances.filter_map(|instance| instance.last_exit.clone()).collect();
            let message = format!("{} does not serve after {patience:?}: {}", found.name, exits.join("; "));
            let hint = format!("mainstay logs {}; it is still being tried", found.name);
            return Err(Failure::new(Exit::Verdict, message).hint(hint));
        }
        output.progress(&format!("  waiting for its instances, {} s", began.elapsed().as_secs()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ready_timeout(found: &Found) -> Duration {
    let configuration: Result<Configuration, _> = found.agent().get("/v1/configuration").await;
    configuration.map_or(Duration::ZERO, |c| c.services.values().map(|service| service.ready.timeout).sum())
}

/// Stops instances, then agent, gateway and keeper.
async fn take_down(found: &Found) -> Result<(), Failure> {
    found.agent().call::<()>(http::Method::POST, "/v1/down", &()).await?;
    match ask_keeper(found, &Ask::Down { v: api::PROTOCOL_VERSION }).await? {
        Answer::Down { .. } => {}
        answer @ (Answer::Listeners { .. } | Answer::State { .. } | Answer::Refused { .. }) => {
            return Err(Failure::machine(format!("the keeper answered {answer:?}")));
        }
    }
    let deadline = Instant::now() + DOWN_PATIENCE;
    while found.is_up() {
        if Instant::now() > deadline {
            return Err(Failure::machine("the keeper does not end"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The same without a keeper: it was killed, and agent and gateway have gone on without it.
async fn take_down_orphans(found: &Found) -> Result<(), Failure> {
    let status: Status = found.agent().get("/v1/status").await?;
    found.agent().call::<()>(http::Method::POST, "/v1/down", &()).await?;
    let pids = [Some(status.agent_pid), status.gateway.map(|gateway| gateway.pid)];
    for pid in pids.into_iter().flatten() {
        // Held before it is signalled, so that another process with its number is never meant.
        let Ok(process) = runtime::process::identify(pid) else { continue };
        let Some(handle) = runtime::process::open(&process) else { continue };
        let signalled = rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::TERM);
        signalled.map_err(|e| Failure::machine(format!("cannot end process {pid}: {e}")))?;
        let deadline = Instant::now() + DOWN_PATIENCE;
        while runtime::process::alive(&process) {
            if Instant::now() > deadline {
                return Err(Failure::machine(format!("process {pid} does not end")));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

async fn ask_keeper(found: &Found, ask: &Ask) -> Result<Answer, Failure> {
    let (socket, ask) = (found.folder.keeper_socket(), ask.clone());
    let answer = tokio::task::spawn_blocking(move || api::keeper::ask(&socket, &ask, DOWN_PATIENCE)).await;
    let answer = answer.map_err(|e| Failure::machine(e.to_string()))?;
    answer.map_err(|e| Failure::new(Exit::NotUp, format!("the keeper does not answer: {e}")))
}

fn url(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("http://localhost:{}", address.port()),
        false => format!("http://{address}"),
    }
}
