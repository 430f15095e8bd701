//! Killed at random, with an upstream that comes and goes: nothing is lost, nothing happens twice.

use crate::stage::{Stage, answered, broken, busy, idempotent, keyed, not_sent};
use model::flow::JsonPath;
use model::queue::{QueueLimits, QueuedRoute};
use queue::{Call, CallOutcome, JobState, Submitted};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A service that keeps a count of effects by the client's own reference, which is the body.
#[derive(Default)]
pub(crate) struct Service {
    honours_keys: bool,
    pub(crate) effects: BTreeMap<String, u32>,
    keys: BTreeSet<String>,
    order: Vec<String>,
}

impl Service {
    pub(crate) fn new(honours_keys: bool) -> Self {
        Self { honours_keys, ..Self::default() }
    }

    pub(crate) fn take(&mut self, call: &Call) {
        if self.honours_keys && !self.keys.insert(call.key.clone()) {
            return;
        }
        let reference = String::from_utf8(call.body.to_vec()).unwrap();
        *self.effects.entry(reference.clone()).or_default() += 1;
        self.order.push(reference);
    }

    /// The numbers at the end of the references that begin like this, in the order of their first effects.
    pub(crate) fn order_of(&self, prefix: &str) -> Vec<u32> {
        let number = |line: &String| line.rsplit(':').next().unwrap().trim_end_matches('}').parse().unwrap();
        self.order.iter().filter(|line| line.starts_with(prefix)).map(number).collect()
    }

    /// What it does with a call, and what of that is seen.
    pub(crate) fn answer(&mut self, call: &Call, random: &mut Random) -> CallOutcome {
        match random.below(12) {
            0 => not_sent(),
            1 => busy(503, 2),
            2 => broken(),
            3 => {
                self.take(call);
                broken()
            }
            4 => {
                self.take(call);
                answered(500, "")
            }
            5 => answered(502, ""),
            _ => {
                self.take(call);
                answered(201, "")
            }
        }
    }
}

/// Rounds of submits, calls, ticks and kills; then peace, until nothing is pending but what is unknown.
async fn torture(settings: QueuedRoute, seed: u64) {
    let mut random = Random(seed);
    let limits = QueueLimits { longest_pause: Duration::from_secs(5), ..QueueLimits::default() };
    let mut stage = Stage::with(limits, 0);
    let mut service = Service::new(settings.idempotent);
    let mut acknowledged = BTreeMap::new();
    let mut next = 0;
    for _ in 0..150 {
        match random.below(10) {
            0..4 => {
                let reference = format!(r#"{{"c":{},"n":{next}}}"#, next % 3);
                next += 1;
                let submitted = stage.submit(keyed(settings.clone(), &reference, &reference)).await;
                let Submitted::New(ticket) = submitted else { panic!("{submitted:?}") };
                acknowledged.insert(reference, ticket.name());
                drop(ticket);
            }
            4..7 => {
                if let Some(call) = stage.due().await {
                    match random.below(6) {
                        // Taken, and never reported: the process is about to die.
                        0 => {
                            if random.below(2) == 0 {
                                service.take(&call);
                            }
                            stage = stage.kill();
                        }
                        _ => {
                            let outcome = service.answer(&call, &mut random);
                            stage.report(&call, outcome);
                        }
                    }
                }
            }
            7 | 8 => {
                stage.clock.advance(Duration::from_millis(random.below(3_000)));
                stage.queue.tend();
            }
            _ => stage = stage.kill(),
        }
    }
    let pending = |stage: &Stage| stage.queue.status().depth - stage.queue.status().unknown_now;
    for _ in 0..1_200 {
        while let Some(call) = stage.due().await {
            service.take(&call);
            stage.report(&call, answered(201, ""));
        }
        if pending(&stage) == 0 {
            break;
        }
        stage.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(pending(&stage), 0, "seed {seed}");
    for (reference, name) in &acknowledged {
        let state = stage.state(*name).await;
        let effects = service.effects.get(reference).copied().unwrap_or_default();
        match state {
            JobState::Done => assert_eq!(effects, 1, "{reference}, seed {seed}"),
            JobState::Unknown if !settings.idempotent => assert!(effects <= 1, "{reference}, seed {seed}"),
            other => panic!("{reference} is {other:?}, seed {seed}"),
        }
    }
    // First effects are in order for each customer, where each takes effect once and nothing is unknown.
    if settings.idempotent && settings.order_by.is_some() {
        for customer in 0..3 {
            let numbers = service.order_of(&format!(r#"{{"c":{customer},"#));
            assert!(numbers.is_sorted(), "{numbers:?}, seed {seed}");
        }
    }
}

#[tokio::test]
async fn a_service_that_honours_keys() {
    for seed in 0..12 {
        torture(QueuedRoute { attempts: 1_000, ..idempotent() }, seed).await;
    }
}

#[tokio::test]
async fn a_service_that_honours_keys_in_order() {
    let settings = QueuedRoute { attempts: 1_000, order_by: Some(JsonPath("$.c".into())), ..idempotent() };
    for seed in 100..112 {
        torture(settings.clone(), seed).await;
    }
}

#[tokio::test]
async fn a_service_that_does_not() {
    let settings = QueuedRoute {
        attempts: 1_000,
        unknown_hold: Duration::from_secs(30),
        order_by: Some(JsonPath("$.c".into())),
        ..QueuedRoute::default()
    };
    for seed in 200..212 {
        torture(settings.clone(), seed).await;
    }
}
