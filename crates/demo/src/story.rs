//! The story, act by act.

use crate::DemoError;
use crate::stage::{ENVIRONMENT, Stage};
use crate::summary::{Kills, Ledger, ReleaseLine, Requests, Summary};
use crate::traffic::{RATE, Traffic};
use api::operator::{ReleaseSummary, Status};
use model::workload::Configuration;
use rustix::process::{Pid, Signal};
use std::time::{Duration, Instant};
use validate::Target;

/// How long something that follows at once may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells the story. The stage is left as it is at the end.
pub(crate) async fn tell(stage: &Stage, say: &impl Fn(&str)) -> Result<Summary, DemoError> {
    let began = Instant::now();
    let line = |text: &str| say(&format!("{:5.1} s  {text}", began.elapsed().as_secs_f64()));
    let mut acts = Acts { stage, line: &line, failed: Vec::new(), agent_kills: 0 };

    line("A shop with 10,000 products comes up: two instances behind a gateway.");
    acts.must(&["up", ENVIRONMENT]).await?;
    let configuration: Configuration = stage.agent().get("/v1/configuration").await?;
    line(&format!("Users come: {RATE} journeys a second, one in five buys. They stay until the end."));
    let traffic = Traffic::start(&configuration, Target::of(&configuration, stage.address));
    acts.pause(&traffic).await;

    line("Release v2, and kill -9 of mainstay's own agent in the middle of it.");
    acts.release_with_a_crash(&traffic).await?;
    line("Roll it back: one swap, the old stamp is still warm.");
    acts.must(&["rollback", ENVIRONMENT]).await?;
    acts.pause(&traffic).await;
    line("And forward again.");
    acts.release(&traffic, "v2", "v2-again").await?;
    line("Release v3-broken, which never gets ready. No user may see it.");
    acts.release(&traffic, "v3-broken", "v3-broken").await?;
    line("Release v3-errors, which starts well and fails every order. Smoke finds it before any user does.");
    acts.release(&traffic, "v3-errors", "v3-errors").await?;

    line("The users go home. Every order is looked up by its reference.");
    let report = traffic.end().await;
    let status = stage.status().await?;
    let lines = acts.lines(&status);
    let ledger = report.ledger.as_ref();
    let summary = Summary {
        requests: Requests {
            total: report.requests,
            failed: report.failed,
            cut: report.outcomes.cut,
            instance_kill: 0,
            gateway_kill: 0,
        },
        releases: lines,
        ledger: Ledger {
            intended: ledger.map_or(0, |ledger| ledger.intended),
            acknowledged: ledger.map_or(0, |ledger| ledger.acknowledged),
            lost: ledger.map_or(0, |ledger| ledger.lost),
            duplicated: ledger.map_or(0, |ledger| ledger.duplicated),
            unknown: ledger.map_or(0, |ledger| ledger.unknown),
            unverified: ledger.map_or(0, |ledger| ledger.unverified),
        },
        kills: Kills { agent: acts.agent_kills, gateway: 0, instance: 0 },
        p99_ms: report.latency.p99_ms,
        seconds: began.elapsed().as_secs_f64(),
        broken: broken_promises(&report, &status),
    };
    Ok(summary)
}

struct Acts<'a, L> {
    stage: &'a Stage,
    line: &'a L,
    /// The failed requests seen when each release had ended, with its name.
    failed: Vec<(String, u64)>,
    agent_kills: u64,
}

impl<L: Fn(&str)> Acts<'_, L> {
    /// A command that has to succeed.
    async fn must(&self, arguments: &[&str]) -> Result<(), DemoError> {
        let printed = |text: &str| (self.line)(&format!("   {text}"));
        match self.stage.command(arguments, &printed).await? {
            true => Ok(()),
            false => Err(DemoError::Command {
                command: arguments.join(" "),
                status: "exit code 1".into(),
                output: String::new(),
            }),
        }
    }

    async fn release(&mut self, traffic: &Traffic, folder: &str, name: &str) -> Result<(), DemoError> {
        let artifact = self.stage.release(folder);
        let printed = |text: &str| (self.line)(&format!("   {text}"));
        let arguments = ["release", ENVIRONMENT, "--artifact", &artifact, "--name", name];
        self.stage.command(&arguments, &printed).await?;
        let failed = self.pause(traffic).await;
        self.failed.push((name.to_owned(), failed));
        Ok(())
    }

    async fn release_with_a_crash(&mut self, traffic: &Traffic) -> Result<(), DemoError> {
        let (released, killed) = {
            let stage = self.stage;
            let crash = async {
                let release = wait_for(stage, "the start of v2", |status| {
                    let state = status.releases.first().map(|release| release.state.as_str());
                    matches!(state, Some("provisioning" | "verifying"))
                });
                let agent = release.await?.agent_pid;
                kill(agent)?;
                (self.line)(&format!("   kill -9 {agent}: the agent is gone, the gateway serves on"));
                let next = wait_for(stage, "another agent", |status| status.agent_pid != agent).await?;
                (self.line)(&format!("   agent {} has taken over from the records", next.agent_pid));
                Ok::<(), DemoError>(())
            };
            let artifact = stage.release("v2");
            let printed = |text: &str| (self.line)(&format!("   {text}"));
            let arguments = ["release", ENVIRONMENT, "--artifact", &artifact, "--name", "v2"];
            tokio::join!(stage.command(&arguments, &printed), crash)
        };
        released?;
        killed?;
        self.agent_kills += 1;
        let failed = self.pause(traffic).await;
        self.failed.push(("v2".to_owned(), failed));
        Ok(())
    }

    /// Lets the users go on for two seconds and says how they fare. Gives the failed requests so far.
    async fn pause(&self, traffic: &Traffic) -> u64 {
        let (requests, failed) = traffic.watch(2).await;
        (self.line)(&format!("   users: {requests} requests so far, {failed} failed"));
        failed
    }

    fn lines(&self, status: &Status) -> Vec<ReleaseLine> {
        let mut releases: Vec<&ReleaseSummary> = status.releases.iter().collect();
        releases.reverse();
        let mut before = 0;
        let mut lines = Vec::new();
        for release in releases {
            let seen = self.failed.iter().find(|(name, _)| *name == release.name);
            let after = seen.map_or(before, |(_, failed)| *failed);
            lines.push(ReleaseLine {
                name: release.name.clone(),
                outcome: release.state.clone(),
                reason: release.reason.clone(),
                reason_text: release.reason_text.clone(),
                switch_ms: release.switch_ms,
                rollback_ms: release.rollback_ms,
                failed: after.saturating_sub(before),
            });
            before = after;
        }
        lines
    }
}

/// What the demo promises and did not hold, in words.
fn broken_promises(report: &validate::LoadReport, status: &Status) -> Vec<String> {
    let mut broken = Vec::new();
    if report.failed > 0 {
        let samples: Vec<_> = report.samples.iter().map(|sample| format!("{sample:?}")).collect();
        broken.push(format!(
            "{} of {} requests failed: {}",
            report.failed,
            report.requests,
            samples.join("; ")
        ));
    }
    match &report.ledger {
        None => broken.push("there is no ledger".into()),
        Some(ledger) => {
            if ledger.lost + ledger.duplicated + ledger.unverified > 0 || ledger.acknowledged == 0 {
                broken.push(format!(
                    "of {} acknowledged orders {} are lost, {} duplicated, {} could not be looked up",
                    ledger.acknowledged, ledger.lost, ledger.duplicated, ledger.unverified
                ));
            }
        }
    }
    // The oldest first, with how each has to end. The last that got through is the one that serves.
    let expected = [
        ("r1", "done"),
        ("v2", "rolled_back"),
        ("v2-again", "done"),
        ("v3-broken", "refused"),
        ("v3-errors", "rolled_back"),
    ];
    let seen: Vec<_> =
        status.releases.iter().rev().map(|release| (release.name.as_str(), release.state.as_str())).collect();
    if seen != expected {
        broken.push(format!("the releases ended as {seen:?}, not as {expected:?}"));
    }
    let serving = status.stamps.first().map(|stamp| stamp.name.as_str());
    if serving != Some("v2-again") || !status.active_ready {
        broken.push(format!("{serving:?} serves, not v2"));
    }
    broken
}

async fn wait_for(
    stage: &Stage,
    what: &'static str,
    happened: impl Fn(&Status) -> bool,
) -> Result<Status, DemoError> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        // An agent that was killed does not answer until the next one does.
        if let Ok(status) = stage.status().await
            && happened(&status)
        {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Err(DemoError::Late(what))
}

fn kill(pid: u32) -> Result<(), DemoError> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(DemoError::Late("an agent"))?;
    rustix::process::kill_process(pid, Signal::KILL)
        .map_err(|cause| DemoError::Io { what: "cannot kill the agent".into(), cause: cause.into() })
}
