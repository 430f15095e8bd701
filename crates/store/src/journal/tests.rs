mod closing;
mod damage;

use super::*;
use rusqlite::OpenFlags;
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use testkit::vfs::Disk;

/// No answer of a writer takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

fn open(folder: &TempDir) -> (Journal, Recovered) {
    open_with(folder, JournalOptions { reserve_bytes: 0, ..JournalOptions::default() })
}

fn open_with(folder: &TempDir, options: JournalOptions) -> (Journal, Recovered) {
    Journal::open(&folder.path().join("queue.db"), options).unwrap()
}

/// When and for whom files are repaired.
const REPAIRED: (i64, u32) = (7_000_000, 7);

fn repair(path: &Path) -> Result<RepairReport, RepairError> {
    super::repair(path, REPAIRED.0, REPAIRED.1)
}

fn new_job(id: u64) -> NewJob {
    let byte = (id % 251) as u8;
    NewJob {
        id: JobId(id),
        tag: [byte; 16],
        created_ms: 1_000 + id as i64,
        due_ms: 2_000 + id as i64,
        route: ["POST /api/orders", "POST /api/payments"][id as usize % 2].into(),
        order: (!id.is_multiple_of(3)).then_some(u64::MAX - id),
        key: (!id.is_multiple_of(5)).then_some([byte; 16]),
        fingerprint: [byte ^ 1; 32],
        credentials: [byte ^ 2; 16],
        user: id.is_multiple_of(2).then_some(id),
        state: JobState::Dispatching,
        idempotent: id.is_multiple_of(2),
        preview: id.is_multiple_of(7),
        request: Bytes::from(vec![byte; 100 + id as usize % 5_000]),
    }
}

/// The row of a job that was accepted and not touched since.
fn row(new: &NewJob) -> JobRow {
    JobRow {
        id: new.id,
        tag: new.tag,
        created_ms: new.created_ms,
        due_ms: new.due_ms,
        route: new.route.clone(),
        order: new.order,
        key: new.key,
        user: new.user,
        state: new.state,
        idempotent: new.idempotent,
        preview: new.preview,
        attempts: u32::from(new.state == JobState::Dispatching),
        request_bytes: new.request.len() as u64,
        outcome_ms: new
            .state
            .is_pending()
            .then_some(new.created_ms)
            .filter(|_| new.state == JobState::Unknown),
    }
}

/// Begins something and waits for its answer.
fn wait<T: Send + 'static>(
    begin: impl FnOnce(Box<dyn FnOnce(Result<T, WriteError>) + Send>),
) -> Result<T, WriteError> {
    let (told, hear) = mpsc::channel();
    begin(Box::new(move |result| drop(told.send(result))));
    hear.recv_timeout(PATIENCE).expect("every write is answered")
}

fn accept(journal: &Journal, job: NewJob) -> Result<(), WriteError> {
    wait(|done| journal.accept(job, done))
}

fn update(journal: &Journal, change: Change) -> Result<(), WriteError> {
    wait(|done| journal.update(change, done))
}

/// Many jobs, some at once: fewer than are refused, even when they are large.
fn accept_all(journal: &Journal, jobs: impl Iterator<Item = NewJob>) {
    let (told, hear) = mpsc::channel();
    let mut flying = 0;
    for job in jobs {
        let told = told.clone();
        journal.accept(job, move |result| drop(told.send(result)));
        flying += 1;
        if flying > 40 {
            hear.recv_timeout(PATIENCE).unwrap().unwrap();
            flying -= 1;
        }
    }
    (0..flying).for_each(|_| hear.recv_timeout(PATIENCE).unwrap().unwrap());
}

fn outcome(id: u64, state: JobState, at_ms: i64) -> Change {
    let response = (state == JobState::Done).then(|| Bytes::from(format!("answer {id}")));
    Change::Outcome { id: JobId(id), attempts: 1, at_ms, state, response, ended: None }
}

fn attempt(number: u32) -> AttemptRecord {
    let (status, text) = (number.is_multiple_of(2).then_some(503), format!("attempt {number}"));
    AttemptRecord {
        number,
        began_ms: 10 * i64::from(number),
        ended_ms: 10 * i64::from(number) + 5,
        status,
        text,
    }
}

fn states(journal: &Journal) -> Vec<(u64, JobState)> {
    let all = journal.list(&Filter::default(), JobId(0), LIST_LIMIT).unwrap();
    all.into_iter().map(|job| (job.id.0, job.state)).collect()
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, recovered) = open(&folder);
    assert_eq!((recovered.next, recovered.epoch), (JobId(1), 1));
    assert_eq!(recovered.jobs.count(), 0);
    accept_all(&journal, (1..=9_000).map(new_job));
    for id in [1, 3, 10, 4_101] {
        update(&journal, outcome(id, JobState::Done, 5_000)).unwrap();
    }
    update(&journal, outcome(5, JobState::Unknown, 6_000)).unwrap();
    drop(journal);

    let (journal, recovered) = open(&folder);
    assert_eq!((recovered.next, recovered.epoch), (JobId(9_001), 2));
    accept(&journal, new_job(9_001)).unwrap();
    let jobs: Vec<_> = recovered.jobs.map(Result::unwrap).collect();
    // Job 10 is done and had no key: nobody asks for it.
    let expected = (1..=9_000).filter(|id| *id != 10).map(|id| match id {
        1 | 3 | 4_101 => JobRow { state: JobState::Done, outcome_ms: Some(5_000), ..row(&new_job(id)) },
        5 => JobRow { state: JobState::Unknown, outcome_ms: Some(6_000), ..row(&new_job(id)) },
        _ => row(&new_job(id)),
    });
    assert!(expected.eq(jobs.iter().cloned()), "{:?}", &jobs[..12]);
    for id in [1, 2, 777, 9_000] {
        assert_eq!(journal.request(JobId(id)).unwrap(), Some(new_job(id).request));
    }
    let identity = Identity { fingerprint: new_job(7).fingerprint, credentials: new_job(7).credentials };
    assert_eq!(journal.identity(JobId(7)).unwrap(), Some(identity));
    assert_eq!(journal.response(JobId(3)).unwrap(), Some("answer 3".into()));
    assert_eq!(journal.response(JobId(2)).unwrap(), None);
    for none in [0, 9_002, u64::MAX] {
        assert_eq!(journal.job(JobId(none)).unwrap(), None);
        assert_eq!(journal.request(JobId(none)).unwrap(), None);
    }
}

#[test]
fn an_owner_that_was_overtaken_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (older, _) = open(&folder);
    accept(&older, new_job(1)).unwrap();
    let (newer, recovered) = open(&folder);
    assert_eq!((recovered.epoch, recovered.next), (2, JobId(2)));
    let fenced = WriteError::Fenced { newest: 2, ours: 1 };
    assert_eq!(accept(&older, new_job(2)), Err(fenced.clone()));
    assert_eq!(update(&older, outcome(1, JobState::Done, 1)), Err(fenced.clone()));
    assert_eq!(older.trouble(), Some(fenced));
    assert_eq!(states(&newer), [(1, JobState::Dispatching)]);
    accept(&newer, new_job(2)).unwrap();
    assert_eq!(states(&older).len(), 2, "reads go on");
    assert_eq!(newer.trouble(), None);
}

#[test]
fn a_full_disk_refuses_and_then_works_again() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    accept(&journal, new_job(1)).unwrap();
    let limit = |pages: i64| {
        let cost = Cost { bytes: 0, may_fail_halfway: false, may_wait: false, is_new: false };
        wait(|done| {
            journal.inner.writer.submit(
                cost,
                move |t| Ok(t.pragma_update(None, "max_page_count", pages)?),
                done,
            );
        })
    };
    limit(20).unwrap();
    let large = NewJob { request: Bytes::from(vec![1; 200_000]), ..new_job(2) };
    assert_eq!(accept(&journal, large.clone()), Err(WriteError::Full));
    assert_eq!(states(&journal), [(1, JobState::Dispatching)]);
    assert_eq!(journal.request(JobId(2)).unwrap(), None);
    assert_eq!(journal.trouble(), None);
    limit(1_000_000).unwrap();
    accept(&journal, large).unwrap();
    assert_eq!(states(&journal).len(), 2);
}

#[test]
fn the_reserve_of_the_disk_is_for_outcomes() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    accept(&journal, new_job(1)).unwrap();
    drop(journal);
    let (journal, _) =
        open_with(&folder, JournalOptions { reserve_bytes: u64::MAX, ..JournalOptions::default() });
    let refused = accept(&journal, new_job(2)).unwrap_err();
    assert!(matches!(refused, WriteError::Reserve { reserve: u64::MAX, free } if free > 0), "{refused}");
    let import = Change::Several(vec![Change::Accept(Box::new(new_job(2)))]);
    assert!(matches!(update(&journal, import), Err(WriteError::Reserve { .. })));
    update(&journal, outcome(1, JobState::Done, 5)).unwrap();
    assert_eq!(states(&journal), [(1, JobState::Done)]);
}

#[test]
fn a_newer_file_is_refused_by_name_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    damage::close(&open(&folder).0, &path);
    let changed = Connection::open(&path).unwrap();
    changed.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
    drop(changed);
    let before = std::fs::read(&path).unwrap();
    let error = Journal::open(&path, JournalOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 3, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("queue.db was written by a newer mainstay"));
    assert!(matches!(repair(&path), Err(RepairError::Newer { found: 3, .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(!repair::beside(&path, ".damaged-1").exists() && !repair::beside(&path, ".repairing").exists());
}

/// A file of version 1 with a job that is done, one that waits, one that was under way and one that is damaged.
fn version_1(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("queue.db");
    let (journal, _) = open(folder);
    for id in 1..=5 {
        accept(&journal, new_job(id)).unwrap();
    }
    update(&journal, outcome(1, JobState::Done, 5)).unwrap();
    update(&journal, Change::Released { id: JobId(2), due_ms: 77, at_ms: 77, how: "retried" }).unwrap();
    damage::close(&journal, &path);
    let old = Connection::open(&path).unwrap();
    let created = |id| new_job(id).created_ms;
    let pending = [
        (2, JobState::Waiting, 0, 77),
        (3, JobState::Dispatching, 1, created(3)),
        (5, JobState::Dispatching, 1, created(5)),
    ];
    for (id, state, attempts, changed_ms) in pending {
        let moving = sum::Moving { state, attempts, changed_ms, due_ms: 0 };
        let changed = old.execute(
            "UPDATE job SET moving_sum = ?2 WHERE id = ?1 AND changed_ms = ?3 AND attempts = ?4",
            (id, sum::moving_without_due(id, moving), changed_ms, attempts),
        );
        assert_eq!(changed, Ok(1));
    }
    // The fourth has a checksum of neither version, the fifth a column of another type.
    old.execute("UPDATE job SET due_ms = due_ms + 1 WHERE id = 4", []).unwrap();
    old.execute("UPDATE job SET attempts = 'two' WHERE id = 5", []).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    path
}

#[test]
fn a_file_of_version_1_gets_checksums_over_when_jobs_are_due() {
    let folder = tempfile::tempdir().unwrap();
    let path = version_1(&folder);
    let (journal, recovered) = open(&folder);
    assert_eq!(recovered.epoch, 3, "whoever wrote the old version is fenced before its sums are changed");
    assert_eq!(
        [1, 2, 3].map(|id| journal.job(JobId(id)).unwrap().unwrap().state),
        [JobState::Done, JobState::Waiting, JobState::Dispatching]
    );
    for id in [4, 5] {
        let error = journal.job(JobId(id)).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
    }
    damage::close(&journal, &path);
    // Seen from then on.
    let late = Connection::open(&path).unwrap();
    late.execute("UPDATE job SET due_ms = due_ms + 1 WHERE id = 2", []).unwrap();
    drop(late);
    let error = open(&folder).0.job(JobId(2)).unwrap_err();
    assert!(error.to_string().contains("the checksum of job 2 is wrong"), "{error}");
}

#[test]
fn a_file_of_version_1_is_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let path = version_1(&folder);
    let report = repair(&path).unwrap();
    assert_eq!((report.doubtful.ids, report.lost.ids), (vec![JobId(4)], vec![JobId(5)]));
    let (journal, _) = open(&folder);
    let found = states(&journal);
    let whole = [(1, JobState::Done), (2, JobState::Waiting), (3, JobState::Dispatching)];
    assert_eq!((&found[..3], found[3]), (&whole[..], (4, JobState::Unknown)));
}

#[test]
fn the_log_has_its_length_from_the_beginning_where_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let length = || std::fs::metadata(folder.path().join("queue.db-wal")).unwrap().len();
    let options = |reserve_bytes| JournalOptions { reserve_bytes, ..JournalOptions::default() };
    // All that is free is kept for outcomes.
    let (journal, _) = open_with(&folder, options(u64::MAX / 2));
    assert!(length() < 1024 * 1024);
    drop(journal);
    let (journal, _) = open_with(&folder, options(0));
    assert_eq!(length(), LOG_WANTED);
    accept(&journal, new_job(1)).unwrap();
    assert_eq!(length(), LOG_WANTED, "it is written over");
    // Another owner, while the first one lives: what is in the log stays there.
    let (other, recovered) = open_with(&folder, options(0));
    assert_eq!(recovered.jobs.count(), 1);
    accept(&other, new_job(2)).unwrap();
    assert_eq!(length(), LOG_WANTED);
    let (_, recovered) = open_with(&folder, options(0));
    assert_eq!(recovered.jobs.count(), 2);
}

#[test]
fn a_power_failure_ends_all_writing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new("broken");
    let options = || JournalOptions { vfs: Some(disk.name().to_owned()), reserve_bytes: 0, log_bytes: 0 };
    let (journal, _) = open_with(&folder, options());
    accept(&journal, new_job(1)).unwrap();
    disk.cut_at(disk.writes() + 2);
    assert!(matches!(accept(&journal, new_job(2)), Err(WriteError::Broken(_))));
    assert!(matches!(journal.trouble(), Some(WriteError::Broken(_))));
    let before = disk.writes();
    assert!(matches!(update(&journal, outcome(1, JobState::Done, 1)), Err(WriteError::Broken(_))));
    assert_eq!(disk.writes(), before, "nothing is tried any longer");
}

#[test]
fn what_is_final_stays_and_other_states_move_on() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    let attempt = |id, state| Change::Attempt { id: JobId(id), number: 2, due_ms: 7, state, ended: None };
    let released = |id| Change::Released { id: JobId(id), due_ms: 9, at_ms: 9, how: "retried" };
    let replaced =
        |id| Change::Replaced { id: JobId(id), request: Bytes::from_static(b"new"), fingerprint: [8; 32] };
    let record = Bytes::from_static(b"step");
    let step = |id| Change::Step {
        id: JobId(id),
        step: StepRecord { step: 1, undo: true, at_ms: 3, record: record.clone() },
    };
    // Each by itself: from a state, what is possible.
    let cases = [
        (JobState::Waiting, [true, true, true, true, true]),
        (JobState::Dispatching, [true, true, true, false, true]),
        (JobState::Unknown, [true, true, true, true, true]),
        (JobState::Dead, [false, true, true, true, true]),
        (JobState::Rejected, [false, true, true, true, true]),
        (JobState::Done, [false; 5]),
        (JobState::Cancelled, [false; 5]),
        (JobState::Dropped, [false; 5]),
    ];
    let mut id = 0;
    for (state, possible) in cases {
        for (i, possible) in possible.into_iter().enumerate() {
            id += 1;
            let first = if state.is_final() { JobState::Waiting } else { state };
            accept(&journal, NewJob { state: first, ..new_job(id) }).unwrap();
            if state.is_final() {
                update(&journal, outcome(id, state, 4)).unwrap();
            }
            let before = journal.job(JobId(id)).unwrap().unwrap();
            assert_eq!(before.state, state);
            let change = [
                attempt(id, JobState::Dispatching),
                outcome(id, JobState::Done, 5),
                released(id),
                replaced(id),
                step(id),
            ][i]
                .clone();
            let changed = update(&journal, change.clone());
            assert_eq!(changed.is_ok(), possible, "{state}: {change:?}: {changed:?}");
            if !possible {
                assert!(
                    matches!(&changed, Err(WriteError::Refused(why)) if why.contains(state.name())),
                    "{changed:?}"
                );
                assert_eq!(journal.job(JobId(id)).unwrap(), Some(before));
            }
        }
    }
    for absent in [attempt(500, JobState::Waiting), released(500), replaced(500), step(500)] {
        assert_eq!(update(&journal, absent), Err(WriteError::Refused("there is no job 500".into())));
    }
    for senseless in
        [attempt(1, JobState::Done), outcome(1, JobState::Waiting, 1), released(0), released(u64::MAX)]
    {
        assert!(matches!(update(&journal, senseless), Err(WriteError::Refused(_))));
    }
    for state in [JobState::Done, JobState::Cancelled, JobState::Dropped] {
        let new = NewJob { state, ..new_job(501) };
        assert!(matches!(accept(&journal, new), Err(WriteError::Refused(_))));
    }
}

#[test]
fn a_job_keeps_its_history() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    let id = JobId(1);
    accept(&journal, new_job(1)).unwrap();
    let retried =
        Change::Attempt { id, number: 1, due_ms: 70, state: JobState::Waiting, ended: Some(attempt(1)) };
    update(&journal, retried).unwrap();
    let waiting = JobRow { state: JobState::Waiting, due_ms: 70, ..row(&new_job(1)) };
    assert_eq!(journal.job(id).unwrap(), Some(waiting));
    let step = |step, undo, record: &'static str| StepRecord { step, undo, at_ms: 3, record: record.into() };
    for known in
        [step(1, false, "begun"), step(1, true, "undone"), step(0, false, "done"), step(1, false, "done")]
    {
        update(&journal, Change::Step { id, step: known }).unwrap();
    }
    let refused = Change::Outcome {
        id,
        attempts: 2,
        at_ms: 80,
        state: JobState::Rejected,
        response: Some("409".into()),
        ended: Some(attempt(2)),
    };
    update(&journal, refused).unwrap();
    let long = Change::Attempt {
        id: JobId(2),
        number: 1,
        due_ms: 1,
        state: JobState::Waiting,
        ended: Some(AttemptRecord { text: "ä".repeat(ATTEMPT_TEXT_LIMIT), ..attempt(1) }),
    };
    accept(&journal, new_job(2)).unwrap();
    update(&journal, long).unwrap();
    assert_eq!(journal.attempts(JobId(2)).unwrap()[0].text, "ä".repeat(ATTEMPT_TEXT_LIMIT / 2));
    assert_eq!(journal.response(id).unwrap(), Some("409".into()));
    let rejected = JobRow {
        state: JobState::Rejected,
        due_ms: 70,
        attempts: 2,
        outcome_ms: Some(80),
        ..row(&new_job(1))
    };
    assert_eq!(journal.job(id).unwrap(), Some(rejected));

    let request = Bytes::from(vec![5; 9_000]);
    let retry = Operation { at_ms: 90, verb: "edit".into(), what: "1".into(), count: 1, by_uid: 1_000 };
    let edited = Change::Several(vec![
        Change::Replaced { id, request: request.clone(), fingerprint: [8; 32] },
        Change::Released { id, due_ms: 91, at_ms: 90, how: "edited" },
        Change::Operation(retry.clone()),
    ]);
    update(&journal, edited).unwrap();
    drop(journal);
    let (journal, _) = open(&folder);
    let released = JobRow {
        state: JobState::Waiting,
        due_ms: 91,
        attempts: 0,
        request_bytes: 9_000,
        ..row(&new_job(1))
    };
    assert_eq!(journal.job(id).unwrap(), Some(released));
    assert_eq!(journal.request(id).unwrap(), Some(request));
    assert_eq!(journal.identity(id).unwrap().unwrap().fingerprint, [8; 32]);
    assert_eq!(journal.response(id).unwrap(), None);
    let edited = AttemptRecord { number: 0, began_ms: 90, ended_ms: 90, status: None, text: "edited".into() };
    assert_eq!(journal.attempts(id).unwrap(), [attempt(1), attempt(2), edited]);
    assert_eq!(
        journal.steps(id).unwrap(),
        [step(0, false, "done"), step(1, false, "done"), step(1, true, "undone")]
    );
    assert_eq!(journal.operations(None, 10).unwrap(), [(1, retry)]);
}

#[test]
fn several_changes_are_all_there_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    let operation = |count| {
        Change::Operation(Operation {
            at_ms: 1,
            verb: "import".into(),
            what: String::new(),
            count,
            by_uid: 0,
        })
    };
    // In one batch with others, which are not touched by it.
    let (told, hear) = mpsc::channel();
    for id in 1..=50 {
        let told = told.clone();
        let changes = match id % 10 {
            0 => vec![
                Change::Accept(Box::new(new_job(id + 100))),
                operation(id),
                outcome(9_999, JobState::Done, 1),
            ],
            _ => vec![Change::Accept(Box::new(new_job(id))), operation(id)],
        };
        journal.update(Change::Several(changes), move |result| drop(told.send((id, result))));
    }
    for _ in 0..50 {
        let (id, result) = hear.recv_timeout(PATIENCE).unwrap();
        assert_eq!(result.is_err(), id % 10 == 0, "{id}: {result:?}");
    }
    assert_eq!(states(&journal).len(), 45);
    assert_eq!(journal.request(JobId(110)).unwrap(), None);
    assert_eq!(journal.operations(None, LIST_LIMIT).unwrap().len(), 45);
    assert!(matches!(accept(&journal, new_job(1)), Err(WriteError::Refused(_))), "a number is used once");
    assert_eq!(journal.request(JobId(1)).unwrap(), Some(new_job(1).request));

    let many = |count| Change::Several((0..count).map(|_| Change::Resumed("x".into())).collect());
    update(&journal, many(SEVERAL_LIMIT)).unwrap();
    assert!(matches!(update(&journal, many(SEVERAL_LIMIT + 1)), Err(WriteError::Refused(_))));
    assert!(matches!(update(&journal, Change::Several(vec![many(1)])), Err(WriteError::Refused(_))));
}

#[test]
fn how_the_clock_was_set_is_known_later() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, recovered) = open(&folder);
    assert_eq!(recovered.clock, []);
    let step = |at_ms, by_ms| ClockStep { at_ms, by_ms };
    update(&journal, Change::Clock(vec![step(5, 1), step(40, 30)])).unwrap();
    update(&journal, Change::Clock(vec![step(-9, -8), step(200, 100), step(40, 31)])).unwrap();
    let many = (0..=CLOCK_STEPS_LIMIT as i64).map(|n| step(n, 1)).collect();
    assert!(matches!(update(&journal, Change::Clock(many)), Err(WriteError::Refused(_))));
    drop(journal);
    let kept = [step(-9, -8), step(200, 100), step(40, 31)];
    let (journal, recovered) = open(&folder);
    assert_eq!(recovered.clock, kept);
    drop((journal, recovered));
    // A repair leaves it as it is.
    repair(&folder.path().join("queue.db")).unwrap();
    assert_eq!(open(&folder).1.clock, kept);
}

#[test]
fn what_is_paused_stays_paused() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, recovered) = open(&folder);
    assert_eq!(recovered.paused, []);
    let pause = |scope: &str, since_ms| Pause { scope: scope.into(), since_ms };
    for paused in [pause("b", 1), pause("a", 2), pause("c", 3), pause("a", 9)] {
        update(&journal, Change::Paused(paused)).unwrap();
    }
    update(&journal, Change::Resumed("c".into())).unwrap();
    drop(journal);
    let (journal, recovered) = open(&folder);
    assert_eq!(recovered.paused, [pause("a", 2), pause("b", 1)]);
    assert_eq!(journal.paused().unwrap(), recovered.paused);
}

#[test]
fn jobs_are_found_by_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    let state = |id| if u64::is_multiple_of(id, 8) { JobState::Waiting } else { JobState::Dispatching };
    accept_all(&journal, (1..=100).map(|id| NewJob { state: state(id), ..new_job(id) }));
    for id in 1..=100 {
        let state = JobState::ALL[id as usize % 8];
        if !matches!(state, JobState::Waiting | JobState::Dispatching) {
            // In another order than they were accepted in.
            update(&journal, outcome(id, state, 10_000 - id as i64)).unwrap();
        }
    }
    let all = |fits: &dyn Fn(&JobRow) -> bool| -> Vec<JobId> {
        let rows = (1..=100).map(|id| journal.job(JobId(id)).unwrap().unwrap());
        rows.filter(fits).map(|row| row.id).collect()
    };
    let none = Filter::default;
    let (dead, done) = (JobState::Dead, JobState::Done);
    let cases: Vec<(Filter, Vec<JobId>)> = vec![
        (none(), all(&|_| true)),
        (Filter { states: vec![dead], ..none() }, all(&|row| row.state == dead)),
        (
            Filter { states: vec![dead, JobState::Unknown], ..none() },
            all(&|row| row.state == dead || row.state == JobState::Unknown),
        ),
        (Filter { states: vec![dead, done], ..none() }, all(&|row| row.state == dead || row.state == done)),
        (Filter { route: Some("POST /api/orders".into()), ..none() }, all(&|row| row.id.0.is_multiple_of(2))),
        (Filter { route: Some("POST /api".into()), ..none() }, vec![]),
        (Filter { order: Some(u64::MAX - 4), ..none() }, vec![JobId(4)]),
        (Filter { created_from_ms: Some(1_090), ..none() }, all(&|row| row.created_ms >= 1_090)),
        (Filter { created_before_ms: Some(1_010), ..none() }, all(&|row| row.created_ms < 1_010)),
        (
            Filter {
                states: vec![dead],
                route: Some("POST /api/orders".into()),
                order: None,
                created_from_ms: Some(1_020),
                created_before_ms: Some(1_080),
            },
            all(&|row| {
                row.state == dead && row.id.0.is_multiple_of(2) && (1_020..1_080).contains(&row.created_ms)
            }),
        ),
    ];
    for (filter, expected) in cases {
        let found: Vec<_> =
            journal.list(&filter, JobId(0), 1_000).unwrap().into_iter().map(|row| row.id).collect();
        assert_eq!(found, expected, "{filter:?}");
        // And in pages of three.
        let mut paged = Vec::new();
        while let page = journal.list(&filter, paged.last().copied().unwrap_or(JobId(0)), 3).unwrap()
            && !page.is_empty()
        {
            assert!(page.len() <= 3);
            paged.extend(page.into_iter().map(|row| row.id));
        }
        assert_eq!(paged, expected, "{filter:?}");
    }
    let outcomes = journal.outcomes().unwrap();
    for (state, count) in &outcomes {
        let rows = journal.list(&Filter { states: vec![*state], ..none() }, JobId(0), 1_000).unwrap();
        assert_eq!(*count, rows.len() as u64, "{state}");
    }
    assert_eq!(outcomes.len(), 6, "all but waiting and dispatching");
}

fn forget(journal: &Journal, retention: Retention) -> Forgotten {
    wait(|done| journal.forget(retention, done)).unwrap()
}

/// How many jobs, and whether there may be more.
fn forgot(journal: &Journal, retention: Retention) -> (u32, bool) {
    let Forgotten { jobs, more, .. } = forget(journal, retention);
    (jobs, more)
}

#[test]
fn what_is_forgotten_is_gone_and_its_number_is_not_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    for (id, state) in (1..).zip(JobState::ALL) {
        accept(&journal, NewJob { state: JobState::Waiting, ..new_job(id) }).unwrap();
        let step = StepRecord { step: 0, undo: false, at_ms: 1, record: "x".into() };
        update(&journal, Change::Step { id: JobId(id), step }).unwrap();
        let ended = Some(attempt(1));
        if state == JobState::Dispatching {
            update(&journal, Change::Attempt { id: JobId(id), number: 1, due_ms: 100, state, ended })
                .unwrap();
        } else if state != JobState::Waiting {
            let response = Some("x".into());
            let at_ms = 100;
            let outcome = Change::Outcome { id: JobId(id), attempts: 1, at_ms, state, response, ended };
            update(&journal, outcome).unwrap();
        }
    }
    for at_ms in [99, 100] {
        let entry = Operation { at_ms, verb: "drop".into(), what: "8".into(), count: 1, by_uid: 0 };
        update(&journal, Change::Operation(entry)).unwrap();
    }
    let until = |finished_before_ms| Retention {
        finished_before_ms,
        held_before_ms: None,
        operations_before_ms: None,
        limit: 2,
    };
    assert_eq!(forgot(&journal, until(100)), (0, false));
    assert_eq!(forgot(&journal, until(101)), (2, true));
    assert_eq!(forgot(&journal, until(101)), (1, false));
    let kept =
        [JobState::Waiting, JobState::Dispatching, JobState::Rejected, JobState::Dead, JobState::Unknown];
    assert_eq!(states(&journal).into_iter().map(|(_, state)| state).collect::<Vec<_>>(), kept);
    let held = Retention { held_before_ms: Some(101), operations_before_ms: Some(100), ..until(0) };
    let Forgotten { jobs, held, more } = forget(&journal, held);
    let held: Vec<_> = held.iter().map(|row| (row.id.0, row.state)).collect();
    assert_eq!((jobs, more), (2, true));
    assert_eq!(held, [(4, JobState::Rejected), (5, JobState::Dead)]);
    assert_eq!(
        states(&journal),
        [(1, JobState::Waiting), (2, JobState::Dispatching), (6, JobState::Unknown)]
    );
    let left = journal.operations(None, 9).unwrap();
    assert_eq!(left.iter().map(|(_, entry)| entry.at_ms).collect::<Vec<_>>(), [100]);
    drop(journal);
    let tables = Connection::open(folder.path().join("queue.db")).unwrap();
    for (table, rows) in [("job", 3), ("request", 3), ("response", 1), ("attempt", 2), ("step", 3)] {
        let count: i64 =
            tables.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(count, rows, "{table}");
    }
    drop(tables);
    let (_, recovered) = open(&folder);
    assert_eq!(recovered.next, JobId(9));
}

#[test]
fn what_is_large_is_forgotten_a_little_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    let part = usize::try_from(FORGET_BYTES_LIMIT / 4).unwrap();
    for id in 1..=6 {
        accept(&journal, NewJob { request: vec![0; part / 2].into(), ..new_job(id) }).unwrap();
        let response = Some(vec![0; part / 2].into());
        let state = JobState::Done;
        let at_ms = 100;
        let outcome = Change::Outcome { id: JobId(id), attempts: 1, at_ms, state, response, ended: None };
        update(&journal, outcome).unwrap();
    }
    let retention = Retention {
        finished_before_ms: 101,
        held_before_ms: None,
        operations_before_ms: None,
        limit: FORGET_LIMIT,
    };
    assert_eq!(forgot(&journal, retention), (4, true));
    assert_eq!(forgot(&journal, retention), (2, false));
    // One that alone is larger than that is forgotten all the same.
    accept(&journal, NewJob { request: vec![0; 5 * part].into(), ..new_job(7) }).unwrap();
    update(&journal, outcome(7, JobState::Done, 100)).unwrap();
    assert_eq!(forgot(&journal, retention), (1, false));
}

#[test]
fn a_file_in_steady_use_does_not_grow_and_an_empty_one_shrinks() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    let large = |id| NewJob { request: Bytes::from(vec![id as u8; 16_000]), ..new_job(id) };
    let mut sizes = Vec::new();
    for round in 0..20_u64 {
        let ids = round * 500 + 1..=(round + 1) * 500;
        accept_all(&journal, ids.clone().map(large));
        for id in ids {
            // Only the last is waited for.
            if id.is_multiple_of(500) {
                update(&journal, outcome(id, JobState::Done, round as i64)).unwrap();
            } else {
                journal.update(outcome(id, JobState::Done, round as i64), |result| result.unwrap());
            }
        }
        // The last round stays.
        let retention = Retention {
            finished_before_ms: round as i64,
            held_before_ms: None,
            operations_before_ms: None,
            limit: 300,
        };
        while forget(&journal, retention).more {}
        sizes.push(journal.size().unwrap().file);
    }
    let (second, last) = (sizes[1], sizes[19]);
    assert!(second > 500 * 16_000, "{sizes:?}");
    assert!(last <= second + second / 10, "{sizes:?}");
    let everything = Retention {
        finished_before_ms: i64::MAX,
        held_before_ms: None,
        operations_before_ms: None,
        limit: 300,
    };
    while forget(&journal, everything).jobs > 0 {}
    // Room goes back a little at a time.
    for _ in 0..20 {
        forget(&journal, everything);
    }
    let size = journal.size().unwrap();
    assert!(size.file < last / 2 && size.free < 6 * 1024 * 1024, "{size:?} after {sizes:?}");
}

#[test]
fn a_read_that_takes_for_ever_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    accept_all(&journal, (1..=10).map(new_job));
    let reader =
        Connection::open_with_flags(folder.path().join("queue.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap();
    let read = reader.unchecked_transaction().unwrap();
    let count =
        |c: &Connection| c.query_row("SELECT count(*) FROM job", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(&read), 10);
    // More than the log holds: the writer cannot begin it anew as long as somebody reads from it.
    let large = |id| NewJob { request: Bytes::from(vec![id as u8; 1024 * 1024]), ..new_job(id) };
    accept_all(&journal, (11..=90).map(large));
    assert_eq!(count(&read), 10);
    let held = journal.size().unwrap().log;
    assert!(held > LOG_LIMIT, "{held}");
    drop(read);
    drop(reader);
    // And then it does, again and again.
    accept_all(&journal, (91..=250).map(large));
    let after = journal.size().unwrap().log;
    assert!(after < held + LOG_LIMIT / 2, "{after} after {held}");
    assert_eq!(states(&journal).len(), 250);
}

/// Holds the writer up in the middle of a batch, until what is returned is told or dropped.
fn hold_up(
    journal: &Journal,
    is_new: bool,
    done: impl FnOnce(Result<(), WriteError>) + Send + 'static,
) -> mpsc::Sender<()> {
    let (held, hold) = mpsc::channel();
    let (go, wait_for) = mpsc::channel::<()>();
    let cost = Cost { bytes: 0, may_fail_halfway: false, may_wait: false, is_new };
    let stop = move |_: &rusqlite::Transaction<'_>| {
        held.send(()).unwrap();
        let _ = wait_for.recv();
        Ok(())
    };
    journal.inner.writer.submit(cost, stop, done);
    hold.recv_timeout(PATIENCE).unwrap();
    go
}

#[test]
fn a_slow_disk_gets_no_more_jobs_than_it_can_write() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    accept(&journal, new_job(1)).unwrap();
    // The writer is held up in the middle of a batch.
    let go = hold_up(&journal, false, |result| result.unwrap());

    let (told, hear) = mpsc::channel();
    let tell = || {
        let told = told.clone();
        move |result| drop(told.send(result))
    };
    for id in 2..ACCEPT_QUEUE_LIMIT as u64 + 2 {
        journal.accept(NewJob { request: Bytes::new(), ..new_job(id) }, tell());
    }
    assert!(hear.try_recv().is_err(), "all of them wait");
    assert!(matches!(accept(&journal, new_job(60_000)), Err(WriteError::Busy(_))));
    journal.update(outcome(1, JobState::Done, 5), tell());
    assert!(hear.try_recv().is_err(), "an outcome waits too");
    go.send(()).unwrap();
    for _ in 0..=ACCEPT_QUEUE_LIMIT {
        hear.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    accept(&journal, new_job(60_000)).unwrap();
    assert_eq!(journal.job(JobId(1)).unwrap().unwrap().state, JobState::Done);
}

#[test]
fn of_one_commit_who_was_accepted_hears_first_and_others_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    accept(&journal, new_job(1)).unwrap();
    accept(&journal, new_job(2)).unwrap();
    // The writer is held up in the middle of a batch, to which the others are added.
    let (told, hear) = mpsc::channel();
    let tell = |what: &'static str| {
        let told = told.clone();
        move |result: Result<(), WriteError>| told.send((what, result)).unwrap()
    };
    let go = hold_up(&journal, false, tell("held up"));
    journal.update_soon(outcome(1, JobState::Done, 5), tell("outcome 1"));
    journal.accept(new_job(3), tell("accept 3"));
    journal.update(outcome(2, JobState::Done, 5), tell("outcome 2"));
    journal.accept(new_job(4), tell("accept 4"));
    journal.update(Change::Several(Vec::new()), tell("all else"));
    go.send(()).unwrap();
    let mut heard = Vec::new();
    while heard.len() < 6 {
        let (what, result) = hear.recv_timeout(PATIENCE).unwrap();
        result.unwrap();
        heard.push(what);
    }
    assert_eq!(heard, ["accept 3", "accept 4", "held up", "outcome 1", "outcome 2", "all else"]);
}

#[test]
fn what_may_wait_is_written_by_itself_and_before_all_but_new_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    for id in 1..=3 {
        accept(&journal, new_job(id)).unwrap();
    }
    let (told, hear) = mpsc::channel();
    let tell = |what: &'static str| {
        let told = told.clone();
        move |result: Result<(), WriteError>| told.send((what, result)).unwrap()
    };
    let heard = || {
        let (what, result) = hear.recv_timeout(PATIENCE).unwrap();
        result.unwrap();
        what
    };
    journal.update_soon(outcome(1, JobState::Done, 5), tell("outcome"));
    assert_eq!(heard(), "outcome", "nothing else comes");

    // A new job does not wait for it, in whose batch it would only take time.
    let go = hold_up(&journal, true, tell("held up"));
    journal.update_soon(outcome(3, JobState::Done, 5), tell("outcome"));
    let (clone, done) = (journal.clone(), tell("accepted"));
    journal.accept(new_job(1_000), move |result| {
        assert_eq!(clone.job(JobId(3)).unwrap().unwrap().state, JobState::Dispatching);
        done(result);
    });
    go.send(()).unwrap();
    assert_eq!([heard(), heard(), heard()], ["held up", "accepted", "outcome"]);

    // Refused unless the outcome is there before.
    journal.update_soon(outcome(2, JobState::Dead, 5), tell("outcome"));
    journal.update(Change::Released { id: JobId(2), due_ms: 6, at_ms: 6, how: "retried" }, tell("released"));
    assert_eq!([heard(), heard()], ["outcome", "released"]);
    assert_eq!(journal.job(JobId(2)).unwrap().unwrap().state, JobState::Waiting);

    // More than wait at a time: the others are written at once, after those that wait.
    let many = 2 * commit::BATCH_LIMIT as u64;
    for id in 4..4 + many {
        accept(&journal, new_job(id)).unwrap();
    }
    for id in 4..4 + many {
        journal.update_soon(outcome(id, JobState::Done, 5), tell("outcome"));
    }
    for _ in 0..many {
        assert_eq!(heard(), "outcome");
    }
}

#[test]
fn a_card_is_what_was_written_or_nothing() {
    use card::{Bound, Card};
    for id in 1..=30 {
        let new = new_job(id);
        let bound = Bound { id: id as i64, created_ms: new.created_ms, route: new.route.as_bytes() };
        let card = Card::of(&new);
        let bytes = card.encode(bound);
        assert_eq!(Card::decode(&bytes, bound), Some(card));
        for i in 0..bytes.len() {
            let mut changed = bytes;
            changed[i] ^= 1 << (i % 8);
            assert_eq!(Card::decode(&changed, bound), None, "byte {i}");
        }
        assert_eq!(Card::decode(&bytes[1..], bound), None);
        for other in
            [Bound { id: 99, ..bound }, Bound { created_ms: 0, ..bound }, Bound { route: b"GET /", ..bound }]
        {
            assert_eq!(Card::decode(&bytes, other), None, "{other:?}");
        }
    }
}
