//! What a backlog costs: accepts jobs while deliveries are paused, then opens the file again.
//!
//! `cargo run --release -p queue --example backlog -- [JOBS] [IN_FLIGHT] [FOLDER]` prints one line of figures for each
//! tenth of the jobs (accepts a second, the longest that one took, resident memory), and how long a restart takes
//! until the first call. The file stays in FOLDER, if one is given: with 0 JOBS only the restart is played.

use bytes::Bytes;
use model::flow::Method;
use model::queue::{QueueLimits, QueuedRoute};
use queue::{Clock, JournalOptions, Options, Queue, Submission, Submitted};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let jobs: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let in_flight: u64 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let scratch = tempfile::tempdir()?;
    let folder = arguments.next().map_or_else(|| scratch.path().to_owned(), std::path::PathBuf::from);
    let path = folder.join("queue.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;

    let queue = open(&path)?;
    runtime.block_on(queue.pause(None, 0))?;
    let empty = resident();
    println!("empty: {empty} KiB resident");
    let route: Arc<str> = Arc::from("POST /orders");
    let settings = Arc::new(QueuedRoute { idempotent: true, ..QueuedRoute::default() });
    let next = Arc::new(AtomicU64::new(0));
    for tenth in (1..=10).filter(|_| jobs > 0) {
        let end = jobs * tenth / 10;
        let began = Instant::now();
        let before = next.load(Ordering::SeqCst);
        let longest = runtime.block_on(fill(&queue, &route, &settings, &next, end, in_flight));
        let rate = (end - before) as f64 / began.elapsed().as_secs_f64();
        let added = resident().saturating_sub(empty);
        println!("{end} jobs: {rate:.0} accepts/s, longest {longest:?}, {added} KiB added");
    }
    runtime.block_on(queue.resume(None, 0))?;
    drop(queue);
    // The writer ends with what holds on to it.
    let began = Instant::now();
    let queue = open(&path)?;
    let opened = began.elapsed();
    let call = runtime.block_on(queue.next());
    println!("restart: opened after {opened:?}, first call (job {}) after {:?}", call.job, began.elapsed());
    println!("depth {}, {} KiB resident", queue.status().depth, resident());
    Ok(())
}

async fn fill(
    queue: &Queue,
    route: &Arc<str>,
    settings: &Arc<QueuedRoute>,
    next: &Arc<AtomicU64>,
    end: u64,
    in_flight: u64,
) -> Duration {
    let tasks = tokio::task::LocalSet::new();
    let handles: Vec<_> = (0..in_flight)
        .map(|_| {
            let (queue, route, settings, next) =
                (queue.clone(), route.clone(), settings.clone(), next.clone());
            tasks.spawn_local(async move {
                let mut longest = Duration::ZERO;
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= end {
                        next.fetch_sub(1, Ordering::SeqCst);
                        return longest;
                    }
                    let began = Instant::now();
                    let submitted = queue.submit(submission(n, &route, &settings), |_, _| {}).await;
                    let Submitted::New(ticket) = submitted else {
                        eprintln!("job {n} was not accepted: {submitted:?}");
                        return longest;
                    };
                    drop(ticket.wait(Duration::ZERO).await);
                    longest = longest.max(began.elapsed());
                }
            })
        })
        .collect();
    tasks
        .run_until(async {
            let mut longest = Duration::ZERO;
            for handle in handles {
                longest = longest.max(handle.await.unwrap_or_default());
            }
            longest
        })
        .await
}

fn submission(n: u64, route: &Arc<str>, settings: &Arc<QueuedRoute>) -> Submission {
    let field = |name: &'static str, value: &'static str| {
        (Bytes::from_static(name.as_bytes()), Bytes::from_static(value.as_bytes()))
    };
    Submission {
        route: route.clone(),
        settings: settings.clone(),
        saga: None,
        method: Method::Post,
        path_and_query: "/orders".into(),
        fields: vec![
            field("host", "127.0.0.1:8080"),
            field("content-type", "application/json"),
            field("user-agent", "mainstay-bench"),
            field("accept", "*/*"),
            field("x-request-id", "4bf92f3577b34da6a3ce929d0e0e4736"),
            field("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ],
        body: Bytes::from(format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(480))),
        traffic: queue::Traffic::Users,
        user: Some(n),
        patience: Duration::ZERO,
        carries: false,
        key: Some(format!("key-{n}")),
        principal: None,
        credentials: Bytes::new(),
        deliver_after: None,
    }
}

fn open(path: &Path) -> Result<Queue, queue::OpenError> {
    let (limits, journal) = (QueueLimits::default(), JournalOptions::default());
    Queue::open(
        path,
        Options {
            limits: QueueLimits { jobs: u64::MAX, ..limits },
            journal,
            clock: Clock::system(),
            seed: 1,
        },
    )
}

/// Resident memory of this process in KiB (`VmRSS` of `/proc/self/status`).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or_default()
}
