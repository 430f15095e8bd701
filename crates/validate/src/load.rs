//! The load test: an open model. Plays start at planned instants whatever the service does, and each is
//! charged from its planned instant, so that a stall is charged to everybody who would have come meanwhile.

use crate::confirm::{CONFIRM_DRAIN, confirm};
use crate::engine::{Allowance, Chosen, Engine, Played, STEP_TIMEOUT, choose};
use crate::follow::FOLLOW_LIMIT;
use crate::ledger::LedgerReport;
use crate::pacer::Pacer;
use crate::plan::Plan;
use crate::random::{Mix, Random, Uuids};
use crate::report::{LoadReport, Phase, Progress, Skipped};
use crate::steal::CpuTimes;
use crate::tally::Tally;
use crate::target::Target;
use crate::values::Values;
use model::flow::Flow;
use model::name::FlowName;
use model::verdict::Verdict;
use model::workload::Class;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

/// How many connections a run opens when nothing else is said: below the 1024 descriptors that a process
/// commonly has. A request that finds none free waits, and its wait is part of its latency.
pub const MAX_CONNECTIONS: usize = 256;

/// How many plays are in flight when nothing else is said: some kilobytes each. At the limit a planned start
/// is not made and the run is invalid.
pub const IN_FLIGHT_LIMIT: usize = 10_000;

/// The p99 of the engine's own lateness with which a run is valid when nothing else is said.
pub const LAG_BUDGET: Duration = Duration::from_millis(100);

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How a load test is made.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// When plays start.
    pub plan: Plan,
    /// Picks flows and users.
    pub seed: u64,
    /// The class of the environment: in production a flow that writes is not played unless it says so.
    pub class: Class,
    /// How many connections are open at a time.
    pub max_connections: usize,
    /// How many plays are in flight at a time.
    pub max_in_flight: usize,
    /// How long a step may take, from when it begins.
    pub timeout: Duration,
    /// How long a write that was accepted with 202 is followed to its final answer.
    pub follow: Duration,
    /// How long the look-up waits, after the run, for writes that were accepted and not yet done.
    pub drain: Duration,
    /// The p99 of the engine's own lateness with which the run is valid.
    pub lag_budget: Duration,
    /// Reads the text of `/proc/stat`, for the share of processor time stolen by a hypervisor.
    pub cpu: Option<fn() -> Option<String>>,
}

impl LoadOptions {
    /// The defaults: seed 0, [`MAX_CONNECTIONS`], [`IN_FLIGHT_LIMIT`], [`STEP_TIMEOUT`], [`FOLLOW_LIMIT`],
    /// [`CONFIRM_DRAIN`], [`LAG_BUDGET`].
    pub fn new(plan: Plan, class: Class) -> Self {
        Self {
            plan,
            seed: 0,
            class,
            max_connections: MAX_CONNECTIONS,
            max_in_flight: IN_FLIGHT_LIMIT,
            timeout: STEP_TIMEOUT,
            follow: FOLLOW_LIMIT,
            drain: CONFIRM_DRAIN,
            lag_budget: LAG_BUDGET,
            cpu: None,
        }
    }
}

/// Plays `flows` against `target` as planned, then looks up what became of the intended writes.
///
/// `progress` is called about once a second from within the run and must return quickly. When `stop` becomes
/// true no more plays are started, those in flight end, and the run is judged on what it saw; a sender that
/// is dropped stops nothing. After its plan or a stop the run ends within the number of steps times the
/// timeout, for each accepted write the time it is followed, and the look-ups.
///
/// Must run within a tokio runtime with IO and time. Dropping the future ends all plays at once: writes that
/// were sent are not undone, and there is no report.
pub async fn load(
    target: Target,
    flows: &BTreeMap<FlowName, Flow>,
    options: LoadOptions,
    mut progress: impl FnMut(&Progress) + Send,
    stop: watch::Receiver<bool>,
) -> LoadReport {
    let Chosen { scripts, skipped, broken } = choose(flows, options.class, false);
    let mut broken: Vec<String> = broken.into_iter().map(|b| format!("flow {}: {}", b.flow, b.why)).collect();
    let allowance =
        Allowance { connections: options.max_connections, timeout: options.timeout, follow: options.follow };
    let engine = match Engine::new(&target, scripts, allowance) {
        Ok(engine) => Some(Arc::new(engine)),
        Err(error) => {
            broken.push(error.to_string());
            None
        }
    };
    let mix = engine.as_ref().and_then(|e| Mix::new(e.scripts.iter().map(|script| script.weight)));
    let (Some(engine), Some(mix)) = (engine, mix) else {
        return Ended::default().report(&options, None, skipped, broken, None);
    };
    let before = cpu_times(&options);
    let mut run = Run::new(Arc::clone(&engine), &options, mix);
    let mut ended = run.play(&mut progress, stop).await;
    ended.steal = before.zip(cpu_times(&options)).and_then(|(before, after)| before.steal_until(after));
    let ledger = if engine.scripts.iter().any(|script| script.ledger.is_some()) {
        let intents = engine.take_intents();
        let tell = |done, of| progress(&run.progress(Phase::Confirming { done, of }));
        Some(confirm(Arc::clone(&engine), intents, options.drain, tell).await)
    } else {
        None
    };
    ended.report(&options, Some((&engine, &run.tally)), skipped, broken, ledger)
}

fn cpu_times(options: &LoadOptions) -> Option<CpuTimes> {
    CpuTimes::parse(&options.cpu?()?)
}

/// The part of a run in which plays are started and end.
struct Run<'a> {
    engine: Arc<Engine>,
    options: &'a LoadOptions,
    mix: Mix,
    random: Random,
    uuids: Uuids,
    plays: JoinSet<Played>,
    tally: Tally,
    begun: Instant,
    /// The number of the next planned start.
    next: u64,
    started: u64,
    not_started: u64,
}

/// What a run waits for.
enum Event {
    Stop,
    Due,
    Ended(Result<Played, JoinError>),
    Tick,
}

impl<'a> Run<'a> {
    fn new(engine: Arc<Engine>, options: &'a LoadOptions, mix: Mix) -> Self {
        Self {
            tally: Tally::new(&engine.scripts),
            engine,
            options,
            mix,
            random: Random::new(options.seed),
            uuids: Uuids::from_system(),
            plays: JoinSet::new(),
            begun: Instant::now(),
            next: 0,
            started: 0,
            not_started: 0,
        }
    }

    async fn play(
        &mut self,
        progress: &mut (impl FnMut(&Progress) + Send),
        mut stop: watch::Receiver<bool>,
    ) -> Ended {
        self.begun = Instant::now();
        let pacer = Pacer::start(self.options.plan, self.begun);
        let mut ticks = tokio::time::interval_at((self.begun + TELL_EVERY).into(), TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut stopped = None;
        let mut last_start = self.begun;
        loop {
            let planned = self.options.plan.at(self.next).filter(|_| stopped.is_none());
            let due = planned.map(|offset| self.begun + offset);
            if due.is_none() && self.plays.is_empty() {
                break;
            }
            let event = tokio::select! {
                biased;
                () = told_to_stop(&mut stop), if due.is_some() => Event::Stop,
                // What has ended comes before what is due: it makes room, and there is never more of it.
                Some(ended) = self.plays.join_next() => Event::Ended(ended),
                () = pacer.due(due.unwrap_or(self.begun)), if due.is_some() => Event::Due,
                _ = ticks.tick() => Event::Tick,
            };
            match event {
                Event::Stop => stopped = Some(Instant::now()),
                Event::Ended(Ok(played)) => self.tally.take(played, &self.engine.scripts),
                // Nobody cancels a play, so that it panicked.
                Event::Ended(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                Event::Due => {
                    last_start = self.start_due();
                    // Far behind its plan the loop would never wait, and the plays never be polled.
                    tokio::task::yield_now().await;
                }
                Event::Tick => {
                    self.engine.client.drop_idle();
                    self.engine.followers.drop_idle();
                    let phase = if due.is_some() { Phase::Playing } else { Phase::Finishing };
                    progress(&self.progress(phase));
                }
            }
        }
        self.ended(stopped, last_start)
    }

    /// Starts everything planned until now; returns that instant.
    fn start_due(&mut self) -> Instant {
        let now = Instant::now();
        while let Some(offset) = self.options.plan.at(self.next) {
            let planned = self.begun + offset;
            if planned > now {
                break;
            }
            self.next += 1;
            // Drawn before the limit is looked at, so that the order of flows depends on the seed alone.
            let flow = self.mix.pick(&mut self.random);
            let values = Values::new(self.uuids.next(), &mut self.random, &self.engine.environment);
            if self.plays.len() >= self.options.max_in_flight {
                self.not_started += 1;
                continue;
            }
            self.started += 1;
            let engine = Arc::clone(&self.engine);
            self.plays.spawn(async move { engine.play(flow, values, planned).await });
        }
        now
    }

    fn progress(&mut self, phase: Phase) -> Progress {
        Progress {
            phase,
            seconds: self.begun.elapsed().as_secs_f64(),
            planned_seconds: self.options.plan.duration().as_secs_f64(),
            requests: self.tally.outcomes.requests(),
            failed: self.tally.outcomes.failed(),
            in_flight: self.plays.len() as u64,
            last: self.tally.take_window(),
        }
    }

    fn ended(&self, stopped: Option<Instant>, last_start: Instant) -> Ended {
        let starting = match stopped {
            Some(at) => at - self.begun,
            None => self.options.plan.duration().max(last_start - self.begun),
        };
        Ended {
            started: self.started,
            not_started: self.not_started,
            achieved_rate: self.started as f64 / starting.as_secs_f64().max(f64::EPSILON),
            seconds: self.begun.elapsed().as_secs_f64(),
            stopped: stopped.is_some(),
            steal: None,
        }
    }
}

/// Ends when `stop` becomes true; never, when its sender is gone.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// How a run ended, besides what its plays saw.
#[derive(Debug, Default)]
struct Ended {
    started: u64,
    not_started: u64,
    achieved_rate: f64,
    seconds: f64,
    stopped: bool,
    steal: Option<f64>,
}

impl Ended {
    fn report(
        self,
        options: &LoadOptions,
        seen: Option<(&Engine, &Tally)>,
        skipped: Vec<Skipped>,
        broken: Vec<String>,
        ledger: Option<LedgerReport>,
    ) -> LoadReport {
        let flows = seen.map(|(engine, tally)| tally.flows(&engine.scripts));
        let (flows, latency) = flows.map(|(flows, all)| (flows, all.summary())).unwrap_or_default();
        let tally = seen.map(|(_, tally)| tally);
        let outcomes = tally.map(|tally| tally.outcomes).unwrap_or_default();
        let mut report = LoadReport {
            verdict: Verdict::Inconclusive,
            reasons: Vec::new(),
            seed: options.seed,
            planned_rate: options.plan.rate(),
            achieved_rate: self.achieved_rate,
            planned_seconds: options.plan.duration().as_secs_f64(),
            seconds: self.seconds,
            stopped: self.stopped,
            started: self.started,
            not_started: self.not_started,
            in_flight_limit: options.max_in_flight as u64,
            requests: outcomes.requests(),
            failed: outcomes.failed(),
            outcomes,
            connection_waits: tally.map_or(0, |tally| tally.connection_waits),
            queued: tally.map(Tally::queued).unwrap_or_default(),
            latency,
            flows,
            skipped,
            broken,
            samples: tally.map(|tally| tally.samples.clone()).unwrap_or_default(),
            lag: tally.map(|tally| tally.lag.summary()).unwrap_or_default(),
            lag_budget_ms: options.lag_budget.as_secs_f64() * 1000.0,
            steal: self.steal,
            ledger,
            ledger_refused: tally.map_or(0, |tally| tally.refused),
        };
        crate::judge::judge(&mut report);
        report
    }
}
