//! How quickly a journal takes jobs on this machine's disk, and how quickly it is there again after a restart.
//!
//! `cargo run --release -p store --example journal_rate [FOLDER]`; the folder is by default the current one, and
//! has to lie on a real disk. A file of its own is made in it and removed.

use bytes::Bytes;
use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use store::journal::{
    AttemptRecord, Change, JobId, JobState, Journal, JournalOptions, NewJob, Recovered, Retention,
};

/// A body of 512 bytes and a head of 300.
const REQUEST_BYTES: usize = 812;
const RESPONSE_BYTES: usize = 300;
const MEASURED_FOR: Duration = Duration::from_secs(3);
const PENDING: u64 = 1_000_000;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let folder = tempfile::tempdir_in(folder)?;
    disk(&folder.path().join("plain"))?;
    let path = folder.path().join("queue.db");
    let (journal, recovered) = Journal::open(&path, JournalOptions::default())?;
    let mut next = recovered.next.0;
    println!("accept, nearly empty");
    for at_once in [1, 16, 64, 256] {
        Rate::of(&journal, &mut next, at_once, MEASURED_FOR, accept)?.print(at_once);
    }
    println!("outcome with a response");
    let mut id = 1;
    for at_once in [1, 16, 64, 256] {
        Rate::of(&journal, &mut id, at_once, MEASURED_FOR / 8, outcome)?.print(at_once);
    }
    print!("filling up to {PENDING} pending: ");
    let begun = Instant::now();
    let before = next;
    while next <= PENDING {
        Rate::of(&journal, &mut next, 256, Duration::from_millis(200), accept)?;
    }
    println!("{:.0} rows/s", (next - before) as f64 / begun.elapsed().as_secs_f64());
    println!("accept, {next} jobs there");
    for at_once in [1, 16, 64, 256] {
        Rate::of(&journal, &mut next, at_once, MEASURED_FOR, accept)?.print(at_once);
    }
    println!("{:?}", journal.size()?);
    let begun = Instant::now();
    let outcomes = journal.outcomes()?;
    println!("counts of {} states: {:.0?}", outcomes.len(), begun.elapsed());
    let begun = Instant::now();
    forget(&journal)?;
    println!("forget: {:.0?}", begun.elapsed());

    drop(journal);
    let reopened = reopen(&path, "after an orderly end")?;
    Rate::of(&reopened, &mut next, 64, Duration::from_millis(300), accept)?;
    reopen(&path, "with a log, beside the last owner")?;
    Ok(())
}

/// What the disk can do at all: a file that grows by some bytes, each time with an fsync.
fn disk(path: &Path) -> Result<(), Failure> {
    let mut file = std::fs::File::create(path)?;
    let mut took = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < MEASURED_FOR / 3 {
        let one = Instant::now();
        file.write_all(&[b'z'; 64 * 1024])?;
        file.sync_data()?;
        took.push(one.elapsed());
    }
    took.sort_unstable();
    let last = took.len() - 1;
    println!(
        "64 KiB with fsync: p50 {:.2?}, p99 {:.2?}, longest {:.2?}",
        took[last / 2],
        took[last * 99 / 100],
        took[last]
    );
    Ok(())
}

fn cpu() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or(0))
}

fn reopen(path: &Path, how: &str) -> Result<Journal, Failure> {
    let (begun, cpu) = (Instant::now(), cpu());
    let (journal, Recovered { jobs, .. }) = Journal::open(path, JournalOptions::default())?;
    let opened = begun.elapsed();
    let mut rows = 0;
    for job in jobs {
        job?;
        rows += 1;
    }
    let (took, cpu) = (begun.elapsed(), self::cpu().saturating_sub(cpu));
    println!("reopen {how}: {opened:.0?}, with {rows} narrow rows read: {took:.2?} ({cpu:.2?} CPU)");
    Ok(journal)
}

fn forget(journal: &Journal) -> Result<(), Failure> {
    let (done, heard) = mpsc::channel();
    let all = Retention {
        finished_before_ms: i64::MAX,
        held_before_ms: None,
        operations_before_ms: None,
        limit: 1_000,
    };
    journal.forget(all, move |result| drop(done.send(result)));
    println!("{:?}", heard.recv()??);
    Ok(())
}

type Begin = fn(&Journal, u64, mpsc::Sender<Instant>);

fn accept(journal: &Journal, id: u64, done: mpsc::Sender<Instant>) {
    let mixed = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&mixed.to_le_bytes());
    let job = NewJob {
        id: JobId(id),
        tag,
        created_ms: 1_700_000_000_000 + id as i64,
        due_ms: 1_700_000_000_000 + id as i64,
        route: "POST /api/orders".into(),
        order: Some(mixed),
        key: Some(tag),
        fingerprint: [7; 32],
        credentials: [9; 16],
        user: Some(mixed),
        state: JobState::Dispatching,
        idempotent: true,
        preview: false,
        request: Bytes::from_static(&[b'x'; REQUEST_BYTES]),
    };
    let begun = Instant::now();
    journal.accept(job, answer(begun, done));
}

fn outcome(journal: &Journal, id: u64, done: mpsc::Sender<Instant>) {
    let at_ms = 1_700_000_100_000 + id as i64;
    let begun = Instant::now();
    let change = Change::Outcome {
        id: JobId(id),
        attempts: 1,
        at_ms,
        state: JobState::Done,
        response: Some(Bytes::from_static(&[b'y'; RESPONSE_BYTES])),
        ended: Some(AttemptRecord {
            number: 1,
            began_ms: at_ms - 5,
            ended_ms: at_ms,
            status: Some(201),
            text: String::new(),
        }),
    };
    journal.update(change, answer(begun, done));
}

fn answer<T>(
    begun: Instant,
    done: mpsc::Sender<Instant>,
) -> impl FnOnce(Result<T, store::commit::WriteError>) {
    move |result| match result {
        Ok(_) => drop(done.send(begun)),
        // Without an answer the measurement ends.
        Err(error) => println!("{error}"),
    }
}

/// What one measurement found.
struct Rate {
    rows: u64,
    took: Duration,
    /// Processor time of the whole process.
    cpu: Duration,
    latencies: Vec<Duration>,
}

impl Rate {
    /// Keeps `at_once` writes in flight for some time.
    fn of(
        journal: &Journal,
        id: &mut u64,
        at_once: usize,
        time: Duration,
        begin: Begin,
    ) -> Result<Self, Failure> {
        let (done, heard) = mpsc::channel();
        let (begun, cpu) = (Instant::now(), cpu());
        let mut start = || {
            begin(journal, *id, done.clone());
            *id += 1;
        };
        (0..at_once).for_each(|_| start());
        let mut latencies = Vec::new();
        let mut flying = at_once;
        while flying > 0 {
            let one = heard.recv_timeout(Duration::from_secs(30))?;
            latencies.push(one.elapsed());
            if begun.elapsed() < time {
                start();
            } else {
                flying -= 1;
            }
        }
        let cpu = self::cpu().saturating_sub(cpu);
        Ok(Self { rows: latencies.len() as u64, took: begun.elapsed(), cpu, latencies })
    }

    fn print(mut self, at_once: usize) {
        self.latencies.sort_unstable();
        let at = |share: f64| self.latencies[((self.latencies.len() - 1) as f64 * share) as usize];
        println!(
            "{at_once:4} in flight: {:7.0} rows/s, {:.1} µs CPU each, p50 {:.2?}, p99 {:.2?}, largest stall {:.1} ms",
            self.rows as f64 / self.took.as_secs_f64(),
            self.cpu.as_secs_f64() * 1e6 / self.rows as f64,
            at(0.5),
            at(0.99),
            at(1.0).as_secs_f64() * 1e3
        );
    }
}
