//! Damaged files: what is refused, and what a repair saves.

use super::*;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

const JOBS: u64 = 1_500;
const PAGE: u64 = 4096;

/// A journal with all that it can hold, closed.
fn filled(jobs: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let (journal, _) = open(&folder);
    accept_all(&journal, (1..=jobs).map(new_job));
    let (told, hear) = mpsc::channel();
    let changed: Vec<_> = (1..=jobs).step_by(3).collect();
    for id in &changed {
        let told = told.clone();
        journal.update(end(*id), move |result| drop(told.send(result)));
    }
    changed.iter().for_each(|_| hear.recv_timeout(PATIENCE).unwrap().unwrap());
    update(&journal, Change::Paused(Pause { scope: "*".into(), since_ms: 5 })).unwrap();
    close(&journal, &path);
    (folder, path)
}

/// What happened to every third job.
fn end(id: u64) -> Change {
    let step = StepRecord { step: 0, undo: false, at_ms: 3, record: Bytes::from(vec![3; id as usize % 900]) };
    Change::Several(vec![
        Change::Step { id: JobId(id), step },
        Change::Outcome {
            id: JobId(id),
            attempts: 1,
            at_ms: 9_000,
            state: JobState::Done,
            response: Some(Bytes::from(vec![4; id as usize % 700])),
            ended: Some(attempt(1)),
        },
        Change::Operation(Operation {
            at_ms: 9_000,
            verb: "x".into(),
            what: id.to_string(),
            count: 1,
            by_uid: 1,
        }),
    ])
}

/// What is to be found of a job that is whole.
fn whole(id: u64) -> JobRow {
    match id % 3 {
        1 => JobRow { state: JobState::Done, outcome_ms: Some(9_000), ..super::row(&new_job(id)) },
        _ => super::row(&new_job(id)),
    }
}

/// Closes a journal: what is in its log is in its file.
pub(super) fn close(journal: &Journal, path: &Path) {
    assert!(journal.close(PATIENCE), "the writer has not closed its file");
    assert!(!repair::beside(path, "-wal").exists());
}

/// The pages of a table, leaves only.
fn leaves(path: &Path, table: &str) -> Vec<u64> {
    let c = Connection::open(path).unwrap();
    let mut query =
        c.prepare("SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' ORDER BY pageno").unwrap();
    query.query_map([table], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Where the tree of a table begins.
fn root(path: &Path, table: &str) -> u64 {
    let c = Connection::open(path).unwrap();
    c.query_row("SELECT rootpage FROM sqlite_schema WHERE name = ?1", [table], |row| row.get(0)).unwrap()
}

fn garble(path: &Path, page: u64) {
    repair::write_at(path, (page - 1) * PAGE, &[0xa5; PAGE as usize]).unwrap();
}

fn change(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

fn opened(path: &Path) -> (Journal, Recovered) {
    Journal::open(path, JournalOptions { reserve_bytes: 0, ..JournalOptions::default() }).unwrap()
}

fn damaged(path: &Path) -> String {
    let error = Journal::open(path, JournalOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    error.to_string()
}

fn numbers(named: &Named) -> BTreeSet<u64> {
    assert_eq!(named.ids.len() as u64, named.count.min(NAMED_LIMIT as u64));
    named.ids.iter().map(|id| id.0).collect()
}

/// Every job is either in the repaired file as it was, but for what the report says of it, or lost.
fn assert_accounted_for(path: &Path, report: &RepairReport, jobs: u64) {
    let (journal, recovered) = opened(path);
    assert!(recovered.next > JobId(jobs), "no number is used twice: {recovered:?}");
    assert!(recovered.jobs.map(Result::unwrap).count() as u64 <= report.jobs);
    let (lost, doubtful) = (numbers(&report.lost), numbers(&report.doubtful));
    let missing = numbers(&report.missing);
    let (no_request, no_response) = (numbers(&report.without_request), numbers(&report.without_response));
    let saved = journal.list(&Filter::default(), JobId(0), LIST_LIMIT).unwrap();
    assert_eq!(saved.len() as u64, report.jobs);
    for job in &saved {
        let id = job.id.0;
        assert!(!lost.contains(&id), "{id} is lost and there");
        let mut expected = whole(id);
        if doubtful.contains(&id) {
            expected = JobRow { state: JobState::Unknown, ..expected };
        }
        if no_request.contains(&id) && expected.state.is_pending() {
            expected = JobRow { state: JobState::Dead, ..expected };
            let history = journal.attempts(job.id).unwrap();
            assert!(history.last().unwrap().text.contains("its request was lost"), "{history:?}");
        }
        let outcome_ms = expected.outcome_ms.or(job.outcome_ms);
        // When and how often something was tried is not vouched for where the state is not.
        let attempts = if doubtful.contains(&id) { job.attempts } else { expected.attempts };
        let due_ms = job.due_ms;
        assert_eq!(*job, JobRow { outcome_ms, attempts, due_ms, ..expected }, "{id}");
        let request = Some(new_job(id).request).filter(|_| !no_request.contains(&id));
        assert_eq!(journal.request(job.id).unwrap(), request, "{id}");
        let response = journal.response(job.id).unwrap();
        if let Some(response) = response {
            assert_eq!(response, vec![4; id as usize % 700], "{id}");
        } else {
            assert!(id % 3 != 1 || no_response.contains(&id), "{id}: {report:?}");
        }
    }
    let saved: BTreeSet<_> = saved.iter().map(|job| job.id.0).collect();
    for id in 1..=jobs {
        let known = saved.contains(&id) || lost.contains(&id) || missing.contains(&id);
        assert!(known, "{id} is neither there nor lost: {report:?}");
    }
    accept(&journal, new_job(recovered.next.0)).unwrap();
    assert_eq!(journal.trouble(), None);
    close(&journal, path);
}

#[test]
fn a_whole_file_is_saved_as_it_is() {
    let (_folder, path) = filled(JOBS);
    let report = repair(&path).unwrap();
    let done = JOBS.div_ceil(3);
    let nothing = Named::default();
    let expected = RepairReport {
        aside: path.with_file_name("queue.db.damaged-1"),
        jobs: JOBS,
        requests: JOBS,
        responses: done,
        operations: done,
        lost: nothing.clone(),
        missing: nothing.clone(),
        without_request: nothing.clone(),
        without_response: nothing.clone(),
        doubtful: nothing,
    };
    assert_eq!(report, expected);
    let names: BTreeSet<_> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.iter().collect::<Vec<_>>(), ["queue.db", "queue.db.damaged-1"]);
    let (journal, recovered) = opened(&path);
    assert_eq!((recovered.epoch, recovered.next), (2, JobId(JOBS + 1)));
    assert_eq!(recovered.paused, [Pause { scope: "*".into(), since_ms: 5 }]);
    assert_eq!(journal.steps(JobId(400)).unwrap().len(), 1);
    assert_eq!(journal.attempts(JobId(400)).unwrap(), [attempt(1)]);
    let what = "queue.db.damaged-1: 1500 jobs and 500 answers saved, 0 jobs lost, 0 not found, \
                0 without their requests, 0 in doubt";
    let (at_ms, by_uid) = REPAIRED;
    let entry = Operation { at_ms, verb: "repair".into(), what: what.into(), count: JOBS, by_uid };
    let logged = journal.operations(None, LIST_LIMIT).unwrap();
    assert_eq!((logged.len() as u64, &logged[0].1), (done + 1, &entry));
    close(&journal, &path);
    assert_accounted_for(&path, &report, JOBS);
    assert_eq!(repair(&path).unwrap().aside, path.with_file_name("queue.db.damaged-2"));
}

#[test]
fn a_file_without_its_header_loses_nothing() {
    for bytes in [16, 100, PAGE as usize] {
        let (_folder, path) = filled(JOBS);
        repair::write_at(&path, 0, &vec![0x5a; bytes]).unwrap();
        let error = damaged(&path);
        assert!(
            error.contains("queue.db is damaged") && error.contains("hint: mainstay queue repair ENV"),
            "{error}"
        );
        let report = repair(&path).unwrap();
        assert_eq!((report.jobs, report.requests, report.lost.count), (JOBS, JOBS, 0), "{bytes}");
        assert_accounted_for(&path, &report, JOBS);
    }
}

#[test]
fn no_number_is_used_twice_when_the_last_jobs_left_no_trace() {
    let (_folder, path) = filled(90);
    change(
        &path,
        "DELETE FROM job WHERE id > 50; DELETE FROM request WHERE id > 50; DELETE FROM response WHERE id > 50",
    );
    repair::write_at(&path, 0, &[0; 100]).unwrap();
    let report = repair(&path).unwrap();
    assert_eq!(report.jobs, 50);
    let (_, recovered) = opened(&path);
    assert!(recovered.next > JobId(90), "{recovered:?}");
}

#[test]
fn a_damaged_page_of_requests_is_found_when_it_is_read_and_ends_all_writing() {
    let (_folder, path) = filled(JOBS);
    let leaves = leaves(&path, "request");
    garble(&path, leaves[leaves.len() / 2]);
    let (journal, recovered) = opened(&path);
    assert_eq!(recovered.jobs.map(Result::unwrap).count(), (1..=JOBS).map(whole).filter(needed).count());
    accept(&journal, new_job(JOBS + 2)).unwrap();
    let unread: BTreeSet<_> = (1..=JOBS).filter(|id| journal.request(JobId(*id)).is_err()).collect();
    assert!((1..50).contains(&unread.len()), "{unread:?}");
    let first = JobId(*unread.first().unwrap());
    assert!(matches!(journal.request(first), Err(ReadError::Damaged { .. })));
    assert!(matches!(journal.trouble(), Some(WriteError::Damaged(_))));
    assert!(matches!(accept(&journal, new_job(JOBS + 3)), Err(WriteError::Damaged(_))));
    assert!(matches!(update(&journal, outcome(2, JobState::Done, 1)), Err(WriteError::Damaged(_))));
    assert_eq!(journal.job(JobId(2)).unwrap().unwrap().state, JobState::Dispatching, "reads go on");
    assert!(journal.close(PATIENCE));
    drop(journal);

    let report = repair(&path).unwrap();
    assert_eq!(numbers(&report.without_request), unread);
    assert_eq!((report.jobs, report.lost.count, report.doubtful.count), (JOBS + 1, 0, 0));
    assert_eq!(numbers(&report.missing), [JOBS + 1].into(), "it was never accepted");
    assert_accounted_for(&path, &report, JOBS);
}

/// Whether a restart has to know of a job.
fn needed(job: &JobRow) -> bool {
    job.state.is_pending() || job.key.is_some()
}

#[test]
fn a_damaged_page_of_jobs_loses_those_on_it() {
    let (_folder, path) = filled(JOBS);
    let leaves = leaves(&path, "job");
    garble(&path, leaves[leaves.len() / 2]);
    let (journal, recovered) = opened(&path);
    let read: Vec<_> = recovered.jobs.collect();
    assert!(matches!(read.last(), Some(Err(ReadError::Damaged { .. }))), "{:?}", read.last());
    assert!(journal.close(PATIENCE));
    drop(journal);
    let report = repair(&path).unwrap();
    let lost = numbers(&report.lost);
    assert!((10..60).contains(&lost.len()), "{lost:?}");
    assert_eq!(report.jobs + report.lost.count, JOBS);
    assert_eq!(lost.last().unwrap() - lost.first().unwrap() + 1, lost.len() as u64, "neighbours: {lost:?}");
    assert_accounted_for(&path, &report, JOBS);
}

#[test]
fn the_last_page_of_jobs_is_accounted_for_by_their_requests() {
    let (_folder, path) = filled(JOBS);
    garble(&path, *leaves(&path, "job").last().unwrap());
    let report = repair(&path).unwrap();
    assert!(numbers(&report.lost).contains(&JOBS));
    assert_eq!(report.jobs + report.lost.count, JOBS);
    assert_accounted_for(&path, &report, JOBS);
}

#[test]
fn without_the_root_of_the_jobs_all_are_named_lost_or_counted() {
    let (_folder, path) = filled(JOBS);
    garble(&path, root(&path, "job"));
    let error = damaged(&path);
    assert!(error.contains("malformed"), "{error}");
    let report = repair(&path).unwrap();
    assert_eq!((report.jobs, report.lost.count, report.lost.ids.len()), (0, JOBS, NAMED_LIMIT));
    assert_eq!(report.operations, JOBS.div_ceil(3));
    let (_, recovered) = opened(&path);
    assert!(recovered.next > JobId(JOBS), "{recovered:?}");
}

#[test]
fn a_file_that_was_cut_off_keeps_its_first_part() {
    let (_folder, path) = filled(JOBS);
    let length = std::fs::metadata(&path).unwrap().len();
    for (part, at_least) in [(900, JOBS / 2), (500, 1), (200, 0), (1, 0)] {
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length * part / 1_000).unwrap();
        damaged(&path);
        let report = repair(&path).unwrap();
        assert!(report.jobs >= at_least, "{part}: {report:?}");
        if report.lost.count <= NAMED_LIMIT as u64 && report.without_request.count <= NAMED_LIMIT as u64 {
            assert_accounted_for(&path, &report, JOBS);
        }
        assert!(report.jobs + report.lost.count >= JOBS, "{part}: {report:?}");
        std::fs::rename(&report.aside, &path).unwrap();
    }
}

#[test]
fn rows_that_are_not_what_was_written_are_found() {
    let (_folder, path) = filled(91);
    change(&path, "UPDATE job SET state = 2 WHERE id = 1");
    change(&path, "UPDATE job SET attempts = 9 WHERE id = 2");
    change(&path, "UPDATE job SET route = 'POST /api/evil' WHERE id = 3");
    change(&path, "UPDATE request SET bytes = zeroblob(105) WHERE id = 5");
    change(&path, "UPDATE response SET bytes = x'00' WHERE id = 7");
    change(&path, "UPDATE step SET record = x'00' WHERE job = 10");
    change(&path, "DELETE FROM request WHERE id = 11");
    change(&path, "DELETE FROM job WHERE id = 12");
    change(&path, "UPDATE job SET card = 'short' WHERE id = 14");
    change(&path, "UPDATE job SET due_ms = 'soon' WHERE id = 15");
    let (journal, recovered) = opened(&path);
    assert!(matches!(recovered.jobs.last(), Some(Err(ReadError::Damaged { .. }))));
    for id in [1, 2, 3, 14, 15] {
        assert!(matches!(journal.job(JobId(id)), Err(ReadError::Damaged { .. })), "{id}");
    }
    assert!(matches!(journal.request(JobId(5)), Err(ReadError::Damaged { .. })));
    assert!(matches!(journal.response(JobId(7)), Err(ReadError::Damaged { .. })));
    assert!(matches!(journal.steps(JobId(10)), Err(ReadError::Damaged { .. })));
    // One row is wrong, everything around it is not.
    assert_eq!(journal.trouble(), None);
    accept(&journal, new_job(92)).unwrap();
    close(&journal, &path);

    let report = repair(&path).unwrap();
    assert_eq!(numbers(&report.doubtful), [1, 2].into());
    assert_eq!(numbers(&report.lost), [3, 12, 14, 15].into());
    assert_eq!(numbers(&report.without_request), [5, 11].into());
    assert_eq!(numbers(&report.without_response), [7].into());
    assert_accounted_for(&path, &report, 92);
    let (journal, _) = opened(&path);
    // A saga that is done needs no steps any longer.
    assert_eq!(journal.job(JobId(10)).unwrap().unwrap().state, JobState::Done);
}

#[test]
fn a_saga_whose_steps_are_wrong_is_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let (journal, _) = open(&folder);
    for id in [1, 2] {
        accept(&journal, new_job(id)).unwrap();
        let step = StepRecord { step: 0, undo: false, at_ms: 3, record: "begun".into() };
        update(&journal, Change::Step { id: JobId(id), step }).unwrap();
    }
    close(&journal, &path);
    change(&path, "UPDATE step SET undo = 1 WHERE job = 1");
    let report = repair(&path).unwrap();
    assert_eq!(numbers(&report.doubtful), [1].into());
    let (journal, _) = opened(&path);
    assert_eq!(states(&journal), [(1, JobState::Unknown), (2, JobState::Dispatching)]);
}

#[test]
fn what_is_only_in_the_log_is_saved_too() {
    let (folder, path) = filled(50);
    let (journal, _) = opened(&path);
    accept_all(&journal, (51..=80).map(new_job));
    // As a killed owner leaves them.
    let killed = folder.path().join("killed");
    std::fs::create_dir(&killed).unwrap();
    for end in ["", "-wal"] {
        let file = repair::beside(&path, end);
        std::fs::copy(&file, killed.join(file.file_name().unwrap())).unwrap();
    }
    let path = killed.join("queue.db");
    assert!(std::fs::metadata(repair::beside(&path, "-wal")).unwrap().len() > 0);
    repair::write_at(&path, 0, &[0; 100]).unwrap();
    let report = repair(&path).unwrap();
    assert_eq!((report.jobs, report.requests, report.lost.count), (80, 80, 0));
    let (_, recovered) = opened(&path);
    assert_eq!(recovered.next, JobId(81));
}

#[test]
fn an_interrupted_repair_is_done_again() {
    // What has happened when it is interrupted, and what is there then.
    type Interrupt = fn(&Path);
    let interrupts: [Interrupt; 4] = [
        |_| (),
        |path| {
            std::fs::write(repair::beside(path, ".salvaged"), "a part").unwrap();
        },
        |path| std::fs::rename(path, repair::beside(path, ".damaged-1")).unwrap(),
        |path| {
            let aside = repair::beside(path, ".damaged-1");
            std::fs::rename(path, &aside).unwrap();
            std::fs::copy(&aside, path).unwrap();
        },
    ];
    for interrupt in interrupts {
        let (_folder, path) = filled(60);
        std::fs::write(repair::beside(&path, ".repairing"), "queue.db.damaged-1").unwrap();
        interrupt(&path);
        assert!(damaged(&path).contains("a repair is under way, or was interrupted"));
        let report = repair(&path).unwrap();
        assert_eq!(report.jobs, 60);
        assert_accounted_for(&path, &report, 60);
    }
    let (_folder, path) = filled(1);
    std::fs::write(repair::beside(&path, ".repairing"), "").unwrap();
    assert_eq!(repair(&path).unwrap().jobs, 1);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(repair(&path), Err(RepairError::Missing { .. })));
}

#[test]
fn what_is_no_journal_at_all_is_said_to_be_that_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    std::fs::write(&path, [7; 10_000]).unwrap();
    let report = repair(&path).unwrap();
    // The first page of a journal in front of garbage: every tree of it is damaged.
    assert_eq!(report.jobs, 0);
    assert_eq!(std::fs::read(&report.aside).unwrap(), [7; 10_000]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// The child process of the next test: has a journal open until its input ends.
#[test]
fn holds_a_journal_open_when_it_is_asked_to() {
    let Ok(path) = std::env::var("MAINSTAY_TEST_HOLD") else { return };
    let journal = opened(Path::new(&path));
    println!("holding");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(journal);
}

#[test]
fn a_file_that_is_in_use_is_not_repaired() {
    let (_folder, path) = filled(10);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "journal::tests::damage::holds_a_journal_open_when_it_is_asked_to", "--nocapture"])
        .env("MAINSTAY_TEST_HOLD", &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("holding")));
    let before = std::fs::read(&path).unwrap();
    let error = repair(&path).unwrap_err();
    assert!(matches!(error, RepairError::InUse { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(!repair::beside(&path, ".repairing").exists());
    // A repair that was interrupted after it had moved the log stays to be ended: the next owner would begin another.
    let marker = repair::beside(&path, ".repairing");
    std::fs::write(&marker, "queue.db.damaged-1").unwrap();
    let error = repair(&path).unwrap_err();
    assert!(matches!(error, RepairError::InUse { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&marker).unwrap(), "queue.db.damaged-1");
    std::fs::remove_file(&marker).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.flush().unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert_eq!(repair(&path).unwrap().jobs, 10);
}

#[test]
fn a_file_that_this_process_has_open_is_not_repaired() {
    let (_folder, path) = filled(10);
    let journal = opened(&path);
    let error = repair(&path).unwrap_err();
    assert!(matches!(error, RepairError::InUse { .. }), "{error}");
    // Its locks are still there, and so is what it writes.
    assert!(!repair::beside(&path, ".repairing").exists());
    accept(&journal.0, new_job(11)).unwrap();
    close(&journal.0, &path);
    assert_eq!(repair(&path).unwrap().jobs, 11);
}

#[test]
fn whatever_is_damaged_every_job_is_saved_or_named() {
    let (_folder, whole) = filled(300);
    let bytes = std::fs::read(&whole).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for seed in 1..=60_u64 {
        let path = folder.path().join(format!("queue-{seed}.db"));
        let mut damaged = bytes.clone();
        // xorshift: some damage, somewhere, of some size.
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        for _ in 0..=random(3) {
            let at = random(damaged.len());
            let length = [1, 8, 100, 4_096, 20_000][random(5)].min(damaged.len() - at);
            let what = random(256) as u8;
            damaged[at..at + length].iter_mut().for_each(|byte| *byte ^= what | 1);
        }
        std::fs::write(&path, damaged).unwrap();
        match repair(&path) {
            Ok(report) if report.lost.count <= NAMED_LIMIT as u64 => {
                assert_accounted_for(&path, &report, 300)
            }
            Ok(report) => assert!(report.jobs + report.lost.count >= 300, "{seed}: {report:?}"),
            Err(RepairError::Newer { .. }) => {}
            Err(error) => panic!("{seed}: {error}: {:?}", std::error::Error::source(&error)),
        }
    }
}
