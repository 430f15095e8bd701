//! `release` and `rollback`.

use crate::command::up;
use crate::environment::Found;
use crate::failure::{Exit, Failure};
use crate::flags::{Flags, ReleaseFlags};
use crate::follow::{Until, follow};
use crate::output::Output;
use api::client::Client;
use api::operator::{Accepted, ReleaseRequest, ReleaseSummary, Source, Status};
use model::workload::{Configuration, Service};
use std::process::ExitCode;

/// `mainstay release ENV`.
pub(crate) async fn release(flags: &Flags, wanted: &ReleaseFlags, output: Output) -> Result<ExitCode, Failure> {
    let found = Found::find(flags, &wanted.environment)?;
    let agent = found.agent_of_one_that_is_up()?;
    let name = wanted.name.clone();
    let request = match &found.file {
        Some((file, configuration)) => {
            if !wanted.command.command.is_empty() {
                let message = format!("{} is described by a workload file; it takes no command", found.name);
                return Err(Failure::usage(message).hint("change `run` in the workload file"));
            }
            let given = wanted.artifact.as_deref().map(std::path::absolute).transpose()?;
            let source = |service: &Service| {
                Source::Path(given.clone().unwrap_or_else(|| file.folder().join(&service.artifact)))
            };
            request(name, configuration.clone(), source)
        }
        None => {
            if wanted.command.command.is_empty() {
                let hint = format!("mainstay release {} -- COMMAND", found.name);
                return Err(Failure::usage("there is no command to release").hint(hint));
            }
            let listen = found.mark()?.listen;
            let configuration = up::command_configuration(&found.name, listen, &wanted.command)?;
            let source = Source::Command { folder: std::env::current_dir()? };
            request(name, configuration, |_| source.clone())
        }
    };
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

/// `mainstay rollback ENV`.
pub(crate) async fn rollback(found: &Found, output: Output) -> Result<ExitCode, Failure> {
    let agent = found.agent_of_one_that_is_up()?;
    let before: Status = agent.get("/v1/status").await?;
    let seen = match before.releases.first() {
        // What was said of it before is not said again.
        Some(release) => last_event(&agent, release).await,
        None => 0,
    };
    let accepted: Accepted = agent.call(http::Method::POST, "/v1/rollback", &()).await?;
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
    source: impl Fn(&Service) -> Source,
) -> ReleaseRequest {
    let sources = configuration.services.iter().map(|(name, service)| (name.clone(), source(service)));
    ReleaseRequest { v: api::PROTOCOL_VERSION, name, sources: sources.collect(), configuration }
}

/// Asks for a release and follows it.
pub(crate) async fn carry_out(
    agent: &Client,
    request: &ReleaseRequest,
    until: Until,
    output: Output,
) -> Result<ReleaseSummary, Failure> {
    let status: Status = agent.get("/v1/status").await?;
    if let Some(last) = status.releases.first()
        && !last.ended
    {
        output.say(format!("  waiting for the stamp before {} ({}) to drain and stop", last.number, last.name));
    }
    let accepted: Accepted = agent.call(http::Method::POST, "/v1/releases", request).await?;
    follow(agent, accepted.number, 0, until, output).await
}

fn line(release: &ReleaseSummary) -> String {
    let ReleaseSummary { number, name, state, .. } = release;
    match (&release.reason_text, release.old_kept_ms) {
        (Some(reason), _) => format!("{number} ({name}) {state}: {reason}"),
        (None, Some(ms)) => format!("{number} ({name}) serves; the stamp before it is kept for {} s", ms / 1000),
        (None, None) => format!("{number} ({name}) serves"),
    }
}
