//! The users of the demo: the workload's own flows at a steady rate, from before the first release until
//! after the last.

use model::workload::Configuration;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use validate::{LoadOptions, LoadReport, Phase, Plan, Progress, Target};

/// Flows started per second: few enough for a small machine that is busy, and as many as let the gate see ten requests
/// of the candidate in most seconds on the route of the product list while one in ten users has it (`stats::block`).
pub(crate) const RATE: f64 = 90.0;
/// The longest the story may take.
const LONGEST: Duration = Duration::from_secs(600);
/// How often it is looked at how far the look-ups are.
const LOOK: Duration = Duration::from_millis(200);
/// The picks of flows and users.
const SEED: u64 = 42;

/// Users who come until they are told to stop.
pub(crate) struct Traffic {
    stop: watch::Sender<bool>,
    seen: Arc<Seen>,
    report: JoinHandle<LoadReport>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: AtomicU64,
    failed: AtomicU64,
    ticks: AtomicU64,
    /// Orders to look up, and those that are.
    intended: AtomicU64,
    looked_up: AtomicU64,
}

impl Traffic {
    pub(crate) fn start(configuration: &Configuration, target: Target) -> Self {
        let (stop, stopped) = watch::channel(false);
        let seen = Arc::new(Seen::default());
        let plan = Plan::constant(RATE, LONGEST).expect("a rate and a duration above zero");
        let mut options = LoadOptions::new(plan, configuration.class);
        options.seed = SEED;
        let (flows, tell) = (configuration.flows.clone(), Arc::clone(&seen));
        let report = tokio::spawn(async move {
            let progress = |progress: &Progress| {
                tell.requests.store(progress.requests, Ordering::Relaxed);
                tell.failed.store(progress.failed, Ordering::Relaxed);
                tell.ticks.fetch_add(1, Ordering::Relaxed);
                if let Phase::Confirming { done, of } = progress.phase {
                    tell.looked_up.store(done, Ordering::Relaxed);
                    tell.intended.store(of, Ordering::Relaxed);
                }
            };
            validate::load(target, &flows, options, progress, stopped).await
        });
        Self { stop, seen, report }
    }

    /// The requests and failures so far, as of less than a second ago.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        (self.seen.requests.load(Ordering::Relaxed), self.seen.failed.load(Ordering::Relaxed))
    }

    /// Waits until `seconds` of further traffic were seen. Gives the requests and failures so far.
    pub(crate) async fn watch(&self, seconds: u64) -> (u64, u64) {
        let until = self.seen.ticks.load(Ordering::Relaxed) + seconds;
        while self.seen.ticks.load(Ordering::Relaxed) < until && !self.report.is_finished() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.so_far()
    }

    /// Sends the users home and looks up every order; `tell` hears how many are, out of how many.
    pub(crate) async fn end(mut self, mut tell: impl FnMut(u64, u64)) -> LoadReport {
        // A run that has ended by itself needs no stop.
        let _ = self.stop.send(true);
        let report = loop {
            tokio::select! {
                report = &mut self.report => break report,
                () = tokio::time::sleep(LOOK) => {
                    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
                    tell(count(&self.seen.looked_up), count(&self.seen.intended));
                }
            }
        };
        match report {
            Ok(report) => report,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
