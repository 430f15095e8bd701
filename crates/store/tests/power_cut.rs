//! A journal on a disk whose power is cut at every write of a run: what was acknowledged is there and whole,
//! and nothing is there by halves.

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};
use store::commit::WriteError;
use store::journal::{
    Change, FORGET_LIMIT, Filter, JobId, JobState, Journal, JournalOptions, NewJob, Operation, Recovered,
    Retention, StepRecord,
};
use testkit::vfs::Disk;

/// Threads that hand in jobs at the same time.
const CLIENTS: u64 = 3;
/// Jobs of each client.
const JOBS: u64 = 3;
/// How many ways there are to lose power at each write.
const SEEDS: u64 = 3;
/// A second loss of power comes within so many boundaries of the first.
const REOPEN_BOUNDARIES: u64 = 40;
/// How many of the things that are wrong are shown.
const SHOWN: usize = 20;
/// No write takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far a job has come. Each step is one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Row and request.
    Accepted,
    /// Another due time, an attempt counted.
    Retried,
    /// A step of a saga, the outcome, the answer and a line of the audit log, all in one.
    Done,
}

/// What the clients of a run asked for, and what they were told, by job.
#[derive(Debug, Default)]
struct Told {
    asked: BTreeMap<JobId, Stage>,
    acknowledged: BTreeMap<JobId, Stage>,
    /// Done jobs up to this one were to be forgotten.
    forget_asked: Option<JobId>,
    /// The epoch of the owner, once it had opened the journal.
    epoch: Option<u64>,
}

/// Content that depends on the job, of a size that depends on it too: from a part of a page to several pages.
fn content(id: JobId, salt: u64) -> Bytes {
    let words = (25 + (id.0 * 331 + salt * 73) % 1_100) as usize;
    (id.0 * 1_000 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().repeat(words).into()
}

fn new_job(id: JobId) -> NewJob {
    let byte = u8::try_from(id.0 % 251).expect("a byte");
    NewJob {
        id,
        tag: [byte; 16],
        created_ms: 1_000,
        due_ms: 1_000,
        route: "POST /api/orders".into(),
        order: Some(id.0 / 3),
        key: Some([byte; 16]),
        fingerprint: [byte; 32],
        credentials: [byte; 16],
        user: Some(id.0),
        state: JobState::Dispatching,
        idempotent: true,
        preview: false,
        request: content(id, 1),
    }
}

/// When a job is done: jobs are forgotten by that.
fn done_ms(id: JobId) -> i64 {
    3_000 + i64::try_from(id.0).expect("a small number")
}

fn step(id: JobId) -> StepRecord {
    StepRecord { step: 0, undo: false, at_ms: 3_000, record: content(id, 3) }
}

fn change(id: JobId, stage: Stage) -> Change {
    match stage {
        Stage::Accepted => Change::Accept(Box::new(new_job(id))),
        Stage::Retried => {
            Change::Attempt { id, number: 1, due_ms: 2_000, state: JobState::Waiting, ended: None }
        }
        Stage::Done => {
            let response = Some(content(id, 2));
            let state = JobState::Done;
            let log =
                Operation { at_ms: 3_000, verb: "done".into(), what: id.to_string(), count: 1, by_uid: 0 };
            Change::Several(vec![
                Change::Step { id, step: step(id) },
                Change::Outcome { id, attempts: 2, at_ms: done_ms(id), state, response, ended: None },
                Change::Operation(log),
            ])
        }
    }
}

/// Opens the journal of a disk. The file is made here where the system would have made it.
fn open(disk: &Disk, path: &Path) -> Result<(Journal, Recovered), String> {
    connect(disk, path).map_err(text)?;
    let options = JournalOptions { vfs: Some(disk.name().to_owned()), ..JournalOptions::default() };
    Journal::open(path, options).map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))
}

fn connect(disk: &Disk, path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = Connection::open_with_flags_and_vfs(path, flags, disk.name())?;
    connection.busy_timeout(PATIENCE)?;
    Ok(connection)
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

/// One write, waited for.
fn write(journal: &Journal, id: JobId, stage: Stage) -> Result<(), WriteError> {
    let (told, hear) = mpsc::channel();
    let done = move |result| drop(told.send(result));
    match stage {
        Stage::Accepted => journal.accept(new_job(id), done),
        Stage::Retried | Stage::Done => journal.update(change(id, stage), done),
    }
    hear.recv_timeout(PATIENCE).expect("every write is answered")
}

/// Forgets the jobs up to `last` that are done, and waits for it.
fn forget(journal: &Journal, last: JobId) -> Result<(), WriteError> {
    let (told, hear) = mpsc::channel();
    let retention = Retention {
        finished_before_ms: done_ms(last) + 1,
        held_before_ms: None,
        operations_before_ms: None,
        limit: FORGET_LIMIT,
    };
    journal.forget(retention, move |result| drop(told.send(result)));
    hear.recv_timeout(PATIENCE).expect("every write is answered").map(drop)
}

/// Several clients take jobs from acceptance to their end, each until it is refused, while the log is
/// checkpointed over and over. Returns when the journal has closed its file, or the power is off.
fn run(disk: &Disk, path: &Path, lies: bool) -> Told {
    let told = Mutex::new(Told::default());
    let Ok((journal, recovered)) = open(disk, path) else { return Told::default() };
    held(&told).epoch = Some(recovered.epoch);
    disk.ignore_sync(lies);
    let next = AtomicU64::new(recovered.next.0);
    let clients_done = AtomicBool::new(false);
    drop(recovered);
    let client = |client| {
        for number in 0..JOBS {
            let id = JobId(next.fetch_add(1, Ordering::Relaxed));
            for stage in [Stage::Accepted, Stage::Retried, Stage::Done] {
                held(&told).asked.insert(id, stage);
                if write(&journal, id, stage).is_err() {
                    return;
                }
                held(&told).acknowledged.insert(id, stage);
            }
            if (client, number) == (0, JOBS / 2) {
                held(&told).forget_asked = Some(id);
                if forget(&journal, id).is_err() {
                    return;
                }
            }
        }
    };
    let client = &client;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let Ok(connection) = connect(disk, path) else { return };
            while !clients_done.load(Ordering::Relaxed) && !disk.is_off() {
                // What another connection is busy with is tried again, and without power it ends.
                let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                std::thread::yield_now();
            }
        });
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        let clients: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        clients_done.store(true, Ordering::Relaxed);
        assert!(clients.iter().all(Result::is_ok), "a client panicked");
    });
    drop(journal);
    let deadline = Instant::now() + PATIENCE;
    while disk.open_files() > 0 && !disk.is_off() {
        assert!(Instant::now() < deadline, "a journal that nobody has keeps its file open");
        std::thread::yield_now();
    }
    told.into_inner().expect("nobody panicked with it")
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// How far a job has come, by everything that is kept of it.
fn stage(journal: &Journal, id: JobId, logged: &[String]) -> Result<Option<Stage>, String> {
    let row = journal.job(id).map_err(text)?;
    let request = journal.request(id).map_err(text)?;
    let response = journal.response(id).map_err(text)?;
    let steps = journal.steps(id).map_err(text)?;
    let identity = journal.identity(id).map_err(text)?;
    let identity = identity.map(|identity| (identity.fingerprint, identity.credentials));
    let log = logged.contains(&id.to_string());
    let Some(row) = row else {
        let nothing = request.is_none() && response.is_none() && steps.is_empty() && identity.is_none();
        return if nothing { Ok(None) } else { Err(format!("job {id} has no row, but something else")) };
    };
    let wanted = new_job(id);
    let same = row.tag == wanted.tag
        && row.created_ms == wanted.created_ms
        && *row.route == *wanted.route
        && (row.order, row.key, row.user) == (wanted.order, wanted.key, wanted.user)
        && row.idempotent;
    if !same {
        return Err(format!("job {id} has another row: {row:?}"));
    }
    if identity != Some((wanted.fingerprint, wanted.credentials)) {
        return Err(format!("job {id} has another identity"));
    }
    if request != Some(wanted.request) {
        return Err(format!("job {id} has another request"));
    }
    match (row.state, row.attempts, row.due_ms) {
        (JobState::Dispatching, _, 1_000) if response.is_none() && steps.is_empty() && !log => {
            Ok(Some(Stage::Accepted))
        }
        (JobState::Waiting, 1, 2_000) if response.is_none() && steps.is_empty() && !log => {
            Ok(Some(Stage::Retried))
        }
        (JobState::Done, 2, _) if response == Some(content(id, 2)) && steps == [step(id)] && log => {
            Ok(Some(Stage::Done))
        }
        _ => Err(format!("job {id} is there by halves: {row:?}, {} steps, logged: {log}", steps.len())),
    }
}

/// What is wrong with a disk after a power cut, given what clients were told before.
fn look(disk: &Disk, path: &Path, told: &Told) -> Result<(), String> {
    let (journal, recovered) = open(disk, path)?;
    if told.epoch.is_some_and(|epoch| recovered.epoch <= epoch) {
        return Err(format!("epoch {} after {:?}", recovered.epoch, told.epoch));
    }
    let scanned: Result<Vec<_>, _> = recovered.jobs.collect();
    let scanned: Vec<_> = scanned.map_err(text)?.into_iter().map(|row| row.id).collect();
    let listed = journal.list(&Filter::default(), JobId(0), 1_000).map_err(text)?;
    let listed: Vec<_> = listed.into_iter().map(|row| row.id).collect();
    if scanned != listed {
        // Every job has a key, so both are all.
        return Err(format!("{scanned:?} at start, {listed:?} afterwards"));
    }
    if let Some(stranger) = listed.iter().find(|id| !told.asked.contains_key(id)) {
        return Err(format!("nobody handed in job {stranger}"));
    }
    let logged = journal.operations(None, 1_000).map_err(text)?;
    let logged: Vec<_> = logged.into_iter().map(|(_, operation)| operation.what).collect();
    for (id, asked) in &told.asked {
        let acknowledged = told.acknowledged.get(id).copied();
        let found = stage(&journal, *id, &logged)?;
        let forgotten = found.is_none() && *asked == Stage::Done && told.forget_asked >= Some(*id);
        if found > Some(*asked) || (found < acknowledged && !forgotten) {
            return Err(format!("job {id}: {found:?}, acknowledged {acknowledged:?}, asked {asked:?}"));
        }
        if found.max(acknowledged).is_some() && recovered.next <= *id {
            return Err(format!("{} is to be the next job after {id}", recovered.next));
        }
    }
    let check = connect(disk, path)
        .and_then(|c| c.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)))
        .map_err(text)?;
    if check != "ok" {
        return Err(check);
    }
    // And it goes on.
    write(&journal, recovered.next, Stage::Accepted).map_err(text)
}

/// Figures of many power cuts.
#[derive(Debug, Default)]
struct Cuts {
    /// Boundaries of the run without a cut.
    boundaries: u64,
    /// Power cuts that were looked at.
    cuts: u64,
    /// Those that came while something was acknowledged and something else under way.
    midway: u64,
    /// What was wrong after some.
    wrong: Vec<String>,
}

/// Cuts the power at every `stride`th boundary of a run.
fn cut_everywhere(lies: bool, stride: usize) -> Cuts {
    let folder = tempfile::tempdir().expect("a folder of its own");
    let path = folder.path().join("queue.db");
    let whole = Disk::new("whole");
    let told = run(&whole, &path, lies);
    assert_eq!(told.acknowledged.len() as u64, CLIENTS * JOBS, "a run without a power cut is whole");
    assert!(told.acknowledged.values().all(|stage| *stage == Stage::Done));
    let boundaries = whole.writes();
    let cuts = Mutex::new(Cuts { boundaries, ..Cuts::default() });
    let next = AtomicU64::new(1);
    let threads = std::thread::available_parallelism().map_or(2, |threads| threads.get().min(4));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let boundary = next.fetch_add(stride as u64, Ordering::Relaxed);
                    if boundary > boundaries {
                        return;
                    }
                    let disk = Disk::new("cut");
                    disk.cut_at(boundary);
                    let told = run(&disk, &path, lies);
                    for seed in (0..SEEDS).map(|seed| seed * 1_000_003 + boundary) {
                        let mut left = disk.after_power_cut(seed);
                        if seed % 2 == 0 {
                            // The power goes again while the journal is opened.
                            left.cut_at(1 + seed % REOPEN_BOUNDARIES);
                            drop(open(&left, &path));
                            left = left.after_power_cut(seed);
                        }
                        let wrong = look(&left, &path, &told).err();
                        let mut cuts = held(&cuts);
                        cuts.cuts += 1;
                        cuts.midway += u64::from(disk.is_off() && told.acknowledged != told.asked);
                        cuts.wrong
                            .extend(wrong.map(|why| format!("boundary {boundary}, seed {seed}: {why}")));
                    }
                }
            });
        }
    });
    let cuts = cuts.into_inner().expect("nobody panicked with it");
    println!(
        "lies={lies}: {boundaries} boundaries, {} cuts, {} midway, {} wrong",
        cuts.cuts,
        cuts.midway,
        cuts.wrong.len()
    );
    cuts
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_every_write() {
    let cuts = cut_everywhere(false, 1);
    let first: Vec<_> = cuts.wrong.iter().take(SHOWN).map(String::as_str).collect();
    assert!(cuts.wrong.is_empty(), "{} of {} power cuts:\n{}", cuts.wrong.len(), cuts.cuts, first.join("\n"));
    assert!(cuts.boundaries >= 100 && cuts.midway >= 100, "too little was cut: {cuts:?}");
}

/// Shows that the test above can fail.
#[test]
fn without_syncs_the_same_power_cuts_lose_jobs() {
    let cuts = cut_everywhere(true, 7);
    let lost = cuts.wrong.iter().filter(|why| why.contains("acknowledged")).count();
    assert!(lost > 0, "nothing was lost in {} power cuts: {:?}", cuts.cuts, cuts.wrong);
}
