//! The story, act by act.

use crate::promises::{self, Told as Ended};
use crate::screen::{Screen, Shown};
use crate::stage::{CRASH_AFTER, ENVIRONMENT, SLOW_MS, Stage};
use crate::summary::{Kills, Ledger, Queue, Requests, Summary};
use crate::traffic::{RATE, Traffic};
use crate::{DemoError, Told};
use api::operator::Status;
use model::workload::Configuration;
use rustix::process::{Pid, Signal};
use std::time::{Duration, Instant};
use validate::Target;

/// How long something that has to come may take: a release as far as half of its users.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// How long the database is away.
const OUTAGE: Duration = Duration::from_secs(15);
/// How often the backlog is told.
const TELL_BACKLOG: Duration = Duration::from_secs(3);
/// A backlog is gone when the oldest order that is not delivered has been due for no longer than this, in seconds:
/// some are always under way.
const NO_BACKLOG_S: f64 = 1.0;

/// Tells the story. The stage is left as it is at the end.
pub(crate) async fn tell<S: Fn(Told<'_>)>(
    stage: &Stage,
    screen: &Screen<'_, S>,
) -> Result<Summary, DemoError> {
    screen.line("A shop with 10,000 shoes comes up: v1, two instances behind a gateway, one database.");
    screen.show(stage, &mut Shown::new("r1"), || 0, stage.must(&["up", ENVIRONMENT])).await?;
    let configuration: Configuration = stage.agent().get("/v1/configuration").await?;
    let traffic = Traffic::start(&configuration, Target::of(&configuration, stage.address));
    screen.line(&format!(
        "1,000 users come: {RATE} journeys a second, one in five buys. They stay to the end."
    ));
    let mut acts =
        Acts { stage, screen, traffic: &traffic, failed: Vec::new(), agent_kills: 0, drain_s: 0.0 };
    acts.pause(2).await;

    screen.line("Release v2, which brings a migration: expanded before, contracted once v1 is gone.");
    acts.release("v2", "v2", &["--wait"]).await?;
    screen.line(&format!(
        "Another process locks the database for {} s: nothing can be written. An order is payment, order and label.",
        OUTAGE.as_secs()
    ));
    acts.take_the_database_away().await?;
    screen.line(&format!("Release v3-slow: it passes smoke, but every request takes {SLOW_MS} ms longer."));
    acts.release("v3-slow", "v3-slow", &[]).await?;
    screen.line(&format!("Release v3-crash: it passes smoke, and aborts after {CRASH_AFTER} requests."));
    acts.release("v3-crash", "v3-crash", &[]).await?;
    screen.line("Release v3, which is in order, and kill -9 of mainstay's own agent in the middle of it.");
    acts.release_with_a_crash("v3-identical", "v3").await?;
    screen.line("Roll it back by hand: one swap, v2 is still warm.");
    acts.roll_back("v3").await?;

    screen.line("The users go home. Every order is looked up by its reference.");
    let (failed, agent_kills, drain_s) = (acts.failed, acts.agent_kills, acts.drain_s);
    let mut told = Instant::now();
    let look_ups = |done, of| match of {
        0 => screen.progress("the last journeys come to their end", &mut told),
        of => screen.progress(&format!("{done} of {of} orders are looked up"), &mut told),
    };
    let report = traffic.end(look_ups).await;
    let status = stage.status().await?;
    let queue = stage.queue().await?;
    let mut histories = Vec::new();
    for release in status.releases.iter().rev() {
        histories.push(stage.history(release.number).await?);
    }
    let ended =
        Ended { report: &report, status: &status, histories: &histories, failed: &failed, queue: &queue };
    let ledger = report.ledger.as_ref();
    Ok(Summary {
        requests: Requests {
            total: report.requests,
            failed: report.failed,
            cut: report.outcomes.cut,
            instance_kill: ended.in_flight(),
            gateway_kill: 0,
        },
        releases: ended.lines(),
        ledger: Ledger {
            intended: ledger.map_or(0, |ledger| ledger.intended),
            acknowledged: ledger.map_or(0, |ledger| ledger.acknowledged),
            lost: ledger.map_or(0, |ledger| ledger.lost),
            duplicated: ledger.map_or(0, |ledger| ledger.duplicated),
            unknown: ledger.map_or(0, |ledger| ledger.unknown),
            unverified: ledger.map_or(0, |ledger| ledger.unverified),
        },
        queue: Queue {
            accepted: queue.counts.accepted,
            answered_directly: queue.counts.answered_directly,
            answered_202: queue.counts.answered_202,
            delivered: queue.counts.delivered,
            rejected: queue.counts.rejected,
            dead: queue.counts.dead,
            unknown: queue.counts.unknown,
            max_depth: queue.max_depth,
            drain_s,
        },
        kills: Kills { agent: agent_kills, gateway: 0, instance: ended.crashes() },
        p99_ms: report.latency.p99_ms,
        seconds: screen.seconds(),
        broken: promises::broken(&ended),
    })
}

struct Acts<'a, S> {
    stage: &'a Stage,
    screen: &'a Screen<'a, S>,
    traffic: &'a Traffic,
    /// The failed requests seen when each release had ended, with its name.
    failed: Vec<(String, u64)>,
    agent_kills: u64,
    /// How long the backlog took to drain once the database was back.
    drain_s: f64,
}

impl<S: Fn(Told<'_>)> Acts<'_, S> {
    /// A release, good or bad.
    async fn release(&mut self, folder: &str, name: &str, more: &[&str]) -> Result<(), DemoError> {
        let artifact = self.stage.release(folder);
        let arguments = [&["release", ENVIRONMENT, "--artifact", &artifact, "--name", name], more].concat();
        self.show(&mut Shown::new(name), self.stage.command(&arguments)).await?;
        self.over(name).await;
        Ok(())
    }

    /// Locks the database for [`OUTAGE`], and waits until what was accepted meanwhile is delivered.
    async fn take_the_database_away(&mut self) -> Result<(), DemoError> {
        let mut lock = self.stage.lock_database(OUTAGE).await?;
        let began = Instant::now();
        let mut told = Instant::now();
        let mut back: Option<Instant> = None;
        let drained = loop {
            if back.is_none() && lock.try_wait().is_ok_and(|ended| ended.is_some()) {
                back = Some(Instant::now());
                self.screen.line("   the database is back");
            }
            let queue = self.stage.queue().await?;
            if let Some(back) = back.filter(|_| queue.oldest_s < NO_BACKLOG_S) {
                break back.elapsed();
            }
            if told.elapsed() >= TELL_BACKLOG {
                told = Instant::now();
                self.screen.line(&format!(
                    "   {:4} orders wait on disk, {} were answered with 202, {} delivered; {} requests failed",
                    queue.depth,
                    queue.counts.answered_202,
                    queue.counts.delivered,
                    self.traffic.so_far().1
                ));
            }
            if began.elapsed() > OUTAGE + PATIENCE {
                return Err(DemoError::Late("the backlog's draining"));
            }
            tokio::time::sleep(LOOK * 10).await;
        };
        self.drain_s = drained.as_secs_f64();
        self.screen.line(&format!(
            "   the backlog is delivered, {:.1} s after the database came back",
            self.drain_s
        ));
        self.pause(1).await;
        Ok(())
    }

    async fn release_with_a_crash(&mut self, folder: &str, name: &str) -> Result<(), DemoError> {
        let (stage, screen) = (self.stage, self.screen);
        let crash = async {
            let halfway = wait_for(stage, "half of the users' having v3", |status| {
                let release = status.releases.first().filter(|release| release.name == name);
                // Once the gate has counted there.
                release.is_some_and(|release| release.percent == 50.0 && release.gate.is_some())
            });
            let agent = halfway.await?.agent_pid;
            kill(agent)?;
            screen.line(&format!("   kill -9 {agent}: the agent is gone, the gateway serves on"));
            let next = wait_for(stage, "another agent", |status| status.agent_pid != agent).await?;
            screen.line(&format!("   agent {} has taken over from the records", next.agent_pid));
            Ok::<(), DemoError>(())
        };
        let artifact = stage.release(folder);
        let arguments = ["release", ENVIRONMENT, "--artifact", &artifact, "--name", name];
        let both = async { tokio::try_join!(stage.must(&arguments), crash) };
        self.show(&mut Shown::new(name), both).await?;
        self.agent_kills += 1;
        Ok(())
    }

    /// Takes back the release that serves.
    async fn roll_back(&mut self, name: &str) -> Result<(), DemoError> {
        let mut shown = Shown::new(name);
        self.screen.skip(self.stage, &mut shown).await;
        self.show(&mut shown, self.stage.must(&["rollback", ENVIRONMENT])).await?;
        self.over(name).await;
        Ok(())
    }

    async fn show<T>(&self, shown: &mut Shown, work: impl Future<Output = T>) -> T {
        self.screen.show(self.stage, shown, || self.traffic.so_far().1, work).await
    }

    /// What users saw of a release, now that it is over.
    async fn over(&mut self, name: &str) {
        let failed = self.pause(1).await;
        self.failed.push((name.to_owned(), failed));
    }

    /// Lets the users go on for a while and says how they fare. Gives the failed requests so far.
    async fn pause(&self, seconds: u64) -> u64 {
        let (requests, failed) = self.traffic.watch(seconds).await;
        self.screen.line(&format!("   users: {requests} requests so far, {failed} failed"));
        failed
    }
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
        tokio::time::sleep(LOOK).await;
    }
    Err(DemoError::Late(what))
}

fn kill(pid: u32) -> Result<(), DemoError> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(DemoError::Late("an agent"))?;
    rustix::process::kill_process(pid, Signal::KILL)
        .map_err(|cause| DemoError::Io { what: "cannot kill the agent".into(), cause: cause.into() })
}
