//! A queue on a disk whose power is cut at every write of a run: whatever was acknowledged happens, and once; a sale of
//! several calls happens whole or not at all; and a service that knows no keys is not sent again what it may have had.

use crate::sagas::{World, checkout};
use crate::stage::{self, START, Stage, answered, broken, idempotent, keyed, not_sent};
use crate::torture::{Random, Service};
use model::flow::JsonPath;
use model::queue::{QueueLimits, QueuedRoute};
use queue::{Call, CallOutcome, Clock, JobName, JobState, Submission, Submitted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use testkit::vfs::Disk;

/// Requests of a run. Every third is a sale.
const REQUESTS: u64 = 9;
/// Whose they are, in turn.
const CUSTOMERS: u64 = 2;
/// The most calls that are made between two of them.
const CALLS_BETWEEN: u64 = 4;
/// How many ways there are to lose power at each write.
const SEEDS: u64 = 2;
/// Seconds until all that is pending has to have ended once there is peace.
const PEACE_S: u64 = 600;
/// How many of the things that are wrong are shown.
const SHOWN: usize = 10;

/// All that a loss of power leaves alone: who was told what, and what the services have done.
struct Outside {
    folder: Arc<tempfile::TempDir>,
    clock: Clock,
    asked: BTreeSet<String>,
    acknowledged: BTreeMap<String, JobName>,
    /// Of the acknowledged ones those that are sales.
    sales: usize,
    sales_asked: usize,
    /// Calls that went on when their jobs were on disk.
    early: u64,
    service: Service,
    world: World,
}

impl Outside {
    fn new(settings: &QueuedRoute, folder: &Arc<tempfile::TempDir>) -> Self {
        Self {
            folder: folder.clone(),
            clock: Clock::manual(START),
            asked: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            sales: 0,
            sales_asked: 0,
            early: 0,
            service: Service::new(settings.idempotent),
            world: World::default(),
        }
    }

    /// What becomes of a call while things go wrong now and then.
    fn answer(&mut self, call: &Call, random: &mut Random) -> CallOutcome {
        if !call.saga {
            return self.service.answer(call, random);
        }
        match random.below(8) {
            0 => not_sent(),
            1 => {
                self.world.take(call, false);
                broken()
            }
            // What undoes is not refused.
            2 if !call.undo => self.world.take(call, true),
            _ => self.world.take(call, false),
        }
    }

    /// The same in peace.
    fn answer_well(&mut self, call: &Call) -> CallOutcome {
        if call.saga {
            return self.world.take(call, false);
        }
        self.service.take(call);
        answered(201, "")
    }
}

fn limits() -> QueueLimits {
    QueueLimits { longest_pause: Duration::from_secs(5), ..QueueLimits::default() }
}

/// The request of this number; for a sale that is a saga.
fn request(settings: &QueuedRoute, number: u64) -> (String, Submission) {
    let reference = format!(r#"{{"customer":{},"n":{number}}}"#, number % CUSTOMERS);
    let plain = Submission { carries: true, ..keyed(settings.clone(), &reference, &reference) };
    let submission = match number % 3 {
        2 => Submission { saga: Some(Arc::new(checkout())), ..plain },
        _ => plain,
    };
    (reference, submission)
}

/// Requests come, calls are made and go wrong, until all have come or the power is off.
async fn run(disk: &Disk, settings: &QueuedRoute, random: &mut Random, outside: &mut Outside) {
    let Ok(stage) = Stage::on(disk, &outside.folder, limits(), &outside.clock) else { return };
    for number in 0..REQUESTS {
        let (reference, submission) = request(settings, number);
        let is_sale = usize::from(submission.saga.is_some());
        outside.asked.insert(reference.clone());
        outside.sales_asked += is_sale;
        // Its first call may be made while it is being written, and may have ended before it is.
        let mut under_way = None;
        let (ends_early, shared) = (random.below(2) == 0, &mut *outside);
        let submitted = stage.submit_with(submission, |early| {
            if let Some(call) = early {
                let outcome = shared.answer(&call, random);
                if ends_early {
                    stage.report(&call, outcome);
                } else {
                    under_way = Some((call, outcome));
                }
            }
        });
        let submitted = submitted.await;
        outside.early += u64::from(under_way.is_some());
        if let Some((call, outcome)) = under_way {
            stage.report(&call, outcome);
        }
        match submitted {
            Submitted::New(ticket) => {
                outside.acknowledged.insert(reference, ticket.name());
                outside.sales += is_sale;
            }
            Submitted::Full(_) | Submitted::Uncertain(_) | Submitted::Unwritten(_) if disk.is_off() => return,
            other => panic!("{other:?}"),
        }
        for _ in 0..random.below(CALLS_BETWEEN + 1) {
            let Some(call) = stage.due().await else { break };
            let outcome = outside.answer(&call, random);
            stage.report(&call, outcome);
        }
        stage.clock.advance(Duration::from_millis(random.below(3_000)));
        stage.queue.tend();
    }
    stage.settled().await;
}

/// What is wrong once a queue on this disk had all the time and peace it needs.
async fn look(disk: &Disk, settings: &QueuedRoute, mut outside: Outside) -> Result<(), String> {
    let stage =
        Stage::on(disk, &outside.folder, limits(), &outside.clock).map_err(|error| error.to_string())?;
    let pending = || stage.queue.status().depth - stage.queue.status().unknown_now;
    for _ in 0..PEACE_S {
        while let Some(call) = stage.due().await {
            let outcome = outside.answer_well(&call);
            stage.report(&call, outcome);
        }
        if pending() == 0 {
            break;
        }
        stage.clock.advance(Duration::from_secs(1));
        stage.queue.tend();
    }
    stage.settled().await;
    if pending() > 0 {
        return Err(format!("{} jobs do not come to an end", pending()));
    }
    for (reference, name) in &outside.acknowledged {
        let job = stage.queue.job(*name).await.map_err(|error| error.to_string())?;
        let Some(job) = job else { return Err(format!("{reference} was acknowledged, and is not there")) };
        let effects = outside.service.effects.get(reference).copied().unwrap_or_default();
        let is_sale = request(settings, number_of(reference)).1.saga.is_some();
        match job.state {
            JobState::Done | JobState::Rejected if is_sale => {}
            JobState::Done if effects == 1 => {}
            JobState::Unknown if !is_sale && !settings.idempotent && effects <= 1 => {}
            state => return Err(format!("{reference} is {state:?} with {effects} effects")),
        }
    }
    for (reference, effects) in &outside.service.effects {
        if *effects > 1 || !outside.asked.contains(reference) {
            return Err(format!("{reference} had {effects} effects"));
        }
    }
    if settings.idempotent {
        for customer in 0..CUSTOMERS {
            let numbers = outside.service.order_of(&format!(r#"{{"customer":{customer},"#));
            if !numbers.is_sorted() {
                return Err(format!("orders of customer {customer} came as {numbers:?}"));
            }
        }
    }
    let sales = outside.world.whole_sales()?;
    if sales > outside.sales_asked {
        return Err(format!("{sales} sales of {} happened", outside.sales_asked));
    }
    Ok(())
}

fn number_of(reference: &str) -> u64 {
    let number = reference.rsplit(':').next().unwrap();
    number.trim_end_matches('}').parse().unwrap()
}

#[derive(Debug, Default)]
struct Cuts {
    boundaries: u64,
    cuts: u64,
    /// With something acknowledged and not all that was asked for.
    midway: u64,
    wrong: Vec<String>,
}

/// Cuts the power at every `stride`th boundary of a run.
fn cut_everywhere(settings: &QueuedRoute, lies: bool, stride: u64) -> Cuts {
    let found = Mutex::new(Cuts::default());
    let folder = Arc::new(stage::folder());
    // The same dice for each boundary: up to its cut a run is, but for what its threads make of it, the whole one.
    let whole = Disk::new("whole");
    let mut outside = Outside::new(settings, &folder);
    alone(run(&whole, settings, &mut Random(3), &mut outside));
    assert_eq!(outside.acknowledged.len() as u64, REQUESTS, "a run without a power cut is whole");
    let boundaries = whole.writes();
    assert_eq!(outside.early > 0, settings.idempotent, "first calls are made early where keys are honoured");
    assert_eq!(alone(look(&whole, settings, outside)), Ok(()));
    let next = AtomicU64::new(1);
    let threads = std::thread::available_parallelism().map_or(2, |threads| threads.get().min(4));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let boundary = next.fetch_add(stride, Ordering::Relaxed);
                    if boundary > boundaries {
                        return;
                    }
                    for seed in 0..SEEDS {
                        let disk = Disk::new("cut");
                        disk.cut_at(boundary);
                        disk.ignore_sync(lies);
                        let mut outside = Outside::new(settings, &folder);
                        alone(run(&disk, settings, &mut Random(3), &mut outside));
                        let told = outside.acknowledged.len() as u64;
                        let left = disk.after_power_cut(boundary * SEEDS + seed);
                        let wrong = alone(look(&left, settings, outside)).err();
                        let mut found = found.lock().unwrap();
                        found.cuts += 1;
                        found.midway += u64::from(disk.is_off() && told > 0 && told < REQUESTS);
                        found
                            .wrong
                            .extend(wrong.map(|why| format!("boundary {boundary}, seed {seed}: {why}")));
                    }
                }
            });
        }
    });
    let found = Cuts { boundaries, ..found.into_inner().unwrap() };
    println!(
        "lies={lies}: {boundaries} boundaries, {} cuts, {} midway, {} wrong",
        found.cuts,
        found.midway,
        found.wrong.len()
    );
    found
}

/// Runs this on a runtime of its own.
fn alone<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

fn is_kept(settings: &QueuedRoute) {
    let found = cut_everywhere(settings, false, 1);
    let first: Vec<_> = found.wrong.iter().take(SHOWN).map(String::as_str).collect();
    assert!(
        found.wrong.is_empty(),
        "{} of {} power cuts:\n{}",
        found.wrong.len(),
        found.cuts,
        first.join("\n")
    );
    assert!(found.boundaries >= 100 && found.midway >= 100, "too little was cut: {found:?}");
}

#[test]
fn what_was_acknowledged_happens_once_whenever_the_power_goes() {
    is_kept(&QueuedRoute { attempts: 1_000, order_by: Some(JsonPath("$.customer".into())), ..idempotent() });
}

#[test]
fn a_service_without_keys_is_not_sent_again_what_it_may_have_had() {
    is_kept(&QueuedRoute {
        attempts: 1_000,
        unknown_hold: Duration::from_secs(30),
        order_by: Some(JsonPath("$.customer".into())),
        ..QueuedRoute::default()
    });
}

/// Shows that the tests above can fail.
#[test]
fn without_syncs_the_same_power_cuts_lose_requests() {
    let settings =
        QueuedRoute { attempts: 1_000, order_by: Some(JsonPath("$.customer".into())), ..idempotent() };
    let found = cut_everywhere(&settings, true, 7);
    let lost = found.wrong.iter().filter(|why| why.contains("acknowledged")).count();
    assert!(lost > 0, "nothing was lost in {} power cuts: {:?}", found.cuts, found.wrong);
}
