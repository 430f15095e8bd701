//! `down`: stops everything of an environment, whatever state it is in.

use crate::command::show::agent_status;
use crate::environment::{Found, Life};
use crate::failure::{Exit, Failure};
use crate::follow::persist;
use crate::output::Output;
use api::client::Client;
use api::gateway::GatewayState;
use api::keeper::{Answer, Ask};
use api::operator::Status;
use model::name::FenceToken;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long gateway and agent may take to end.
const DOWN_PATIENCE: Duration = Duration::from_secs(90);
/// How long a gateway without a keeper may take to say who it is.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(5);

/// `mainstay down ENV`.
pub(crate) async fn down(found: &Found, output: Output) -> Result<ExitCode, Failure> {
    let name = &found.name;
    found.must_be_up().await?;
    output.say(format!("{name}: no new requests; what is in flight ends, then everything stops"));
    take_down(found, output).await?;
    output.data(format!("{name} is down"), &serde_json::json!({ "environment": name, "down": true }));
    output.next(&[("bring it up again, with the release it served", format!("mainstay up {name}"))]);
    Ok(ExitCode::SUCCESS)
}

/// Drains and stops instances, then agent, gateway and keeper. What of these does not answer is stopped without
/// being asked.
pub(crate) async fn take_down(found: &Found, output: Output) -> Result<(), Failure> {
    let agent = found.patient_agent();
    let ask = async || agent.call(http::Method::POST, "/v1/down", &()).await;
    let drained: Result<(), Failure> = persist(output, ask).await;
    match drained {
        Err(failure) if failure.exit() == Exit::NotUp => {
            output.say("the agent does not answer: everything is stopped without it");
        }
        drained => drained?,
    }
    stop_everything(found, output).await
}

/// Stops whatever runs, without asking the agent.
pub(crate) async fn stop_everything(found: &Found, output: Output) -> Result<(), Failure> {
    match found.life().await {
        Life::Up => end_keeper(found).await?,
        Life::Orphaned | Life::Down => end_orphans(found, output).await?,
    }
    // Instances that no agent has stopped. No agent is left that could start one again.
    let driver = runtime::Driver::new(found.folder.clone(), FenceToken(u64::MAX));
    let swept = driver.sweep(&BTreeSet::new()).await.map_err(|e| Failure::machine(e.to_string()))?;
    match swept.left.first() {
        Some((instance, why)) => Err(Failure::machine(format!("{instance} does not stop: {why}"))),
        None => Ok(()),
    }
}

async fn end_keeper(found: &Found) -> Result<(), Failure> {
    let (socket, ask) = (found.folder.keeper_socket(), Ask::Down { v: api::PROTOCOL_VERSION });
    let answer = tokio::task::spawn_blocking(move || api::keeper::ask(&socket, &ask, DOWN_PATIENCE)).await;
    let answer = answer.map_err(|e| Failure::machine(e.to_string()))?;
    match answer.map_err(|e| Failure::new(Exit::NotUp, format!("the keeper does not answer: {e}")))? {
        Answer::Down { .. } => {}
        answer @ (Answer::Listeners { .. } | Answer::State { .. } | Answer::Refused { .. }) => {
            return Err(Failure::machine(format!("the keeper answered {answer:?}")));
        }
    }
    // It holds its lock until it has ended.
    let lock = std::fs::File::open(found.folder.keeper_lock())?;
    let free = || rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok();
    soon("the keeper does not end", free).await
}

/// Ends agent and gateway, which have gone on without a keeper.
async fn end_orphans(found: &Found, output: Output) -> Result<(), Failure> {
    let gateway = Client::new(found.folder.gateway_socket(), ORPHAN_PATIENCE);
    let agent: Option<Status> = agent_status(found, output).await.ok();
    let gateway: Option<GatewayState> = gateway.get("/v1/state").await.ok();
    let pids = [agent.map(|agent| agent.agent_pid), gateway.map(|gateway| gateway.pid)];
    for pid in pids.into_iter().flatten() {
        // Held before it is signalled, so that another process with its number is never meant.
        let Ok(process) = runtime::process::identify(pid) else { continue };
        let Some(handle) = runtime::process::open(&process) else { continue };
        rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::TERM)
            .map_err(|e| Failure::machine(format!("cannot end process {pid}: {e}")))?;
        soon(&format!("process {pid} does not end"), || !runtime::process::alive(&process)).await?;
    }
    Ok(())
}

async fn soon(otherwise: &str, happened: impl Fn() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + DOWN_PATIENCE;
    while !happened() {
        if Instant::now() > deadline {
            return Err(Failure::machine(otherwise));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
