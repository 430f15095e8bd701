//! `release`, `rollback` and `abort`.

mod plan;

use crate::command::show::agent_status;
use crate::command::up;
use crate::environment::Found;
use crate::failure::{Exit, Failure};
use crate::flags::{CommandFlags, Flags, ReleaseFlags};
use crate::follow::{Until, follow, persist};
use crate::output::Output;
use api::client::Client;
use api::operator::{Accepted, ReleaseRequest, ReleaseSummary, RollbackRequest, Source, Status};
use model::workload::Configuration;
use std::path::Path;
use std::process::ExitCode;
use workfile::Workfile;

/// `mainstay release ENV`.
pub(crate) async fn release(
    flags: &Flags,
    wanted: &ReleaseFlags,
    output: Output,
) -> Result<ExitCode, Failure> {
    let found = Found::find(flags, &wanted.environment)?;
    found.must_be_up().await?;
    let request = match &found.file {
        Some((file, configuration)) => of_file(&found, wanted, file, configuration)?,
        None => of_command(&found, wanted, output).await?,
    };
    let agent = found.patient_agent();
    if wanted.plan {
        return plan::show(&found, &request, output).await;
    }
    let until = if wanted.wait { Until::Ended } else { Until::Promoted };
    let release = carry_out(&agent, &request, until, output).await?;
    let environment = &found.name;
    output.data(line(&release), &serde_json::json!({ "release": release }));
    if release.reason.is_some() {
        output.next(&[
            ("see what its instances printed", format!("mainstay logs {environment} -n 50")),
            ("see what serves", format!("mainstay status {environment}")),
        ]);
        return Ok(Exit::Verdict.code());
    }
    let taken_back = ("take it back", format!("mainstay rollback {environment}"));
    let seen = ("see what serves", format!("mainstay status {environment}"));
    match release.ended {
        true => output.next(&[seen]),
        false => output.next(&[taken_back, seen]),
    }
    Ok(ExitCode::SUCCESS)
}

/// What an environment of a workload file is asked for.
fn of_file(
    found: &Found,
    wanted: &ReleaseFlags,
    file: &Workfile,
    configuration: &Configuration,
) -> Result<ReleaseRequest, Failure> {
    let CommandFlags { instances, ready_timeout, keep_old, command } = &wanted.command;
    if !command.is_empty() || instances.is_some() || ready_timeout.is_some() || keep_old.is_some() {
        let message = format!(
            "{} is described by a workload file: it takes no command, nor how one is run",
            found.name
        );
        return Err(Failure::usage(message).hint("change the workload file"));
    }
    let given = wanted.artifact.as_deref().map(std::path::absolute).transpose()?;
    let source =
        |artifact: &Path| Source::Path(given.clone().unwrap_or_else(|| file.folder().join(artifact)));
    let request = request(wanted.name.clone(), at_home(configuration, file), source)?;
    Ok(ReleaseRequest { rehearse: wanted.rehearse, ..request })
}

/// The configuration with what the agent runs itself named from where the workload file is: the agent runs
/// elsewhere.
pub(crate) fn at_home(configuration: &Configuration, file: &Workfile) -> Configuration {
    let mut configuration = configuration.clone();
    if let Some(program) = configuration.notify.command.first_mut()
        && program.contains('/')
    {
        *program = file.folder().join(&*program).to_string_lossy().into_owned();
    }
    configuration
}

/// What an environment of `mainstay run` is asked for. What is not said stays as it is.
async fn of_command(found: &Found, wanted: &ReleaseFlags, output: Output) -> Result<ReleaseRequest, Failure> {
    let name = &found.name;
    if wanted.artifact.is_some() {
        let message = format!("{name} runs a command; it takes no artifact");
        return Err(Failure::usage(message).hint(format!("mainstay release {name} -- COMMAND")));
    }
    if wanted.command.command.is_empty() {
        let hint = format!("mainstay release {name} -- COMMAND");
        return Err(Failure::usage("there is no command to release").hint(hint));
    }
    let agent = found.agent();
    let serving: Configuration = persist(output, async || agent.get("/v1/configuration").await).await?;
    let configuration =
        up::command_configuration(name, found.mark()?.listen, &wanted.command, Some(&serving))?;
    let source = up::command_source()?;
    let request = request(wanted.name.clone(), configuration, |_| source.clone())?;
    Ok(ReleaseRequest { rehearse: wanted.rehearse, ..request })
}

/// Which way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Back {
    /// Also once it is promoted, as long as the old stamp is kept.
    Rollback,
    /// Only while it is under way.
    Abort,
}

/// `mainstay rollback ENV` and `mainstay abort ENV`.
pub(crate) async fn back(found: &Found, how: Back, output: Output) -> Result<ExitCode, Failure> {
    let before = agent_status(found, output).await?;
    let agent = found.agent();
    let Some(latest) = before.releases.first() else {
        let hint = format!("mainstay release {}", found.name);
        return Err(Failure::new(Exit::Conflict, "nothing was ever released here").hint(hint));
    };
    if latest.reason.is_some() && latest.ended {
        let message = format!("{} ({}) was taken back already", latest.number, latest.name);
        return Err(Failure::new(Exit::Conflict, message).hint(format!("mainstay status {}", found.name)));
    }
    // What was said of it before is not said again.
    let seen = last_event(&agent, latest).await;
    let request = RollbackRequest { v: api::PROTOCOL_VERSION, number: latest.number };
    let path = match how {
        Back::Rollback => "/v1/rollback",
        Back::Abort => "/v1/abort",
    };
    let ask = async || agent.call(http::Method::POST, path, &request).await;
    let accepted: Accepted = persist(output, ask).await?;
    let release = follow(&agent, accepted.number, seen, Until::Ended, output).await?;
    output.data(line(&release), &serde_json::json!({ "release": release }));
    output.next(&[
        ("see what serves", format!("mainstay status {}", found.name)),
        ("see what its instances printed", format!("mainstay logs {}", found.name)),
    ]);
    Ok(ExitCode::SUCCESS)
}

async fn last_event(agent: &Client, release: &ReleaseSummary) -> u64 {
    let path = format!("/v1/releases/{}/events", release.number.0);
    let events = agent.get::<api::operator::Events>(&path).await;
    events.ok().and_then(|events| events.events.last().map(|event| event.seq)).unwrap_or(0)
}

/// What the agent is asked for, with a source for each service.
pub(crate) fn request(
    name: Option<String>,
    configuration: Configuration,
    source: impl Fn(&Path) -> Source,
) -> Result<ReleaseRequest, Failure> {
    let key = random_id()?;
    let sources = configuration.artifacts().map(|(name, artifact)| (name.clone(), source(artifact)));
    let sources = sources.collect();
    Ok(ReleaseRequest { v: api::PROTOCOL_VERSION, key, name, sources, configuration, rehearse: false })
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_id() -> Result<String, Failure> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| Failure::machine(format!("no random numbers: {e}")))?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Asks for a release and follows it.
pub(crate) async fn carry_out(
    agent: &Client,
    request: &ReleaseRequest,
    until: Until,
    output: Output,
) -> Result<ReleaseSummary, Failure> {
    let status: Status = persist(output, async || agent.get("/v1/status").await).await?;
    if let Some(last) = status.releases.first()
        && matches!(last.state.as_str(), "promoted" | "retiring" | "contracting")
    {
        output
            .say(format!("  waiting for the stamp before {} ({}) to drain and stop", last.number, last.name));
    }
    let ask = async || agent.call(http::Method::POST, "/v1/releases", request).await;
    let accepted: Accepted = persist(output, ask).await?;
    follow(agent, accepted.number, 0, until, output).await
}

fn line(release: &ReleaseSummary) -> String {
    let ReleaseSummary { number, name, state, .. } = release;
    match (&release.reason_text, release.old_kept_ms) {
        (Some(reason), _) => format!("{number} ({name}) {state}: {reason}"),
        (None, Some(ms)) => {
            format!("{number} ({name}) serves; the stamp before it is kept for {} s", ms / 1000)
        }
        (None, None) => format!("{number} ({name}) serves"),
    }
}
