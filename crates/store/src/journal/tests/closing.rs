//! A journal that is closed in order leaves one file.

use super::*;
use std::fs;

/// The journal of a copy of the file alone.
fn copied(path: &Path) -> (TempDir, Journal, Recovered) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(path, folder.path().join("queue.db")).unwrap();
    let (journal, recovered) = open(&folder);
    (folder, journal, recovered)
}

/// Whether there is anything beside the file.
fn has_log(path: &Path) -> bool {
    log::path_of(path).exists() || repair::beside(path, "-shm").exists()
}

#[test]
fn a_closed_journal_is_one_file_with_everything_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let (journal, recovered) = open(&folder);
    let (other, mut scan) = (journal.clone(), recovered.jobs);
    accept_all(&journal, (1..=3_000).map(new_job));
    assert_eq!(scan.next(), None, "nothing was there");
    assert_eq!(states(&journal).len(), 3_000);
    // Handed in, and not written yet.
    let (told, hear) = mpsc::channel();
    let tell = || {
        let told = told.clone();
        move |result| drop(told.send(result))
    };
    (3_001..=3_500).for_each(|id| journal.accept(new_job(id), tell()));
    (1..=500).for_each(|id| other.update_soon(outcome(id, JobState::Done, 9_000), tell()));

    assert!(journal.close(PATIENCE));
    assert!(other.close(Duration::ZERO), "it is closed already");
    for _ in 0..1_000 {
        hear.try_recv().expect("whoever closes hears last").unwrap();
    }
    assert!(!has_log(&path));
    assert!(matches!(accept(&other, new_job(9_999)), Err(WriteError::Broken(_))));
    assert!(matches!(other.job(JobId(1)), Err(ReadError::Unreadable { .. })));
    assert!(!has_log(&path), "what came later has opened nothing");

    let (_folder, journal, recovered) = copied(&path);
    assert_eq!(recovered.next, JobId(3_501));
    for (id, state) in states(&journal) {
        assert_eq!(state, if id <= 500 { JobState::Done } else { JobState::Dispatching }, "{id}");
        assert_eq!(journal.request(JobId(id)).unwrap(), Some(new_job(id).request));
    }
    assert_eq!(states(&journal).len(), 3_500);
    assert_eq!(journal.response(JobId(500)).unwrap(), Some("answer 500".into()));
}

#[test]
fn who_closes_waits_no_longer_than_it_wants_to() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder);
    accept(&journal, new_job(1)).unwrap();
    let hold_up = || {
        let (held, hold) = mpsc::channel::<()>();
        let (go, wait_for) = mpsc::channel::<()>();
        let stop = move || {
            held.send(()).unwrap();
            let _ = wait_for.recv();
        };
        (stop, hold, go)
    };
    std::thread::scope(|scope| {
        // A reader in the middle of its work, and a disk that hangs.
        let (stop, reads, read_on) = hold_up();
        let readers = journal.inner.readers.clone();
        let reader = scope.spawn(move || {
            readers.read(|c| {
                let found = read::paused(c)?;
                stop();
                Ok(found)
            })
        });
        let (stop, writes, write_on) = hold_up();
        let cost = Cost { bytes: 0, may_fail_halfway: false, may_wait: false, is_new: false };
        let work = move |_: &rusqlite::Transaction<'_>| {
            stop();
            Ok(())
        };
        let (told, hear) = mpsc::channel();
        journal.inner.writer.submit(cost, work, |result| result.unwrap());
        journal.accept(new_job(2), move |result| drop(told.send(result)));
        for held in [reads, writes] {
            held.recv_timeout(PATIENCE).unwrap();
        }
        assert!(!journal.close(Duration::from_millis(1)));
        drop(write_on);
        hear.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(!journal.close(Duration::from_millis(1)), "somebody reads");
        drop(read_on);
        assert_eq!(reader.join().unwrap().unwrap(), []);
    });
    assert!(journal.close(PATIENCE));
    drop(journal);
    assert_eq!(states(&open(&folder).0).len(), 2, "wherever it is");
}

#[test]
fn a_file_that_is_not_trusted_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let (journal, _) = open(&folder);
    accept_all(&journal, (1..=50).map(new_job));
    let files = || (fs::read(&path).unwrap(), fs::read(log::path_of(&path)).unwrap());
    let before = files();
    journal.inner.writer.trouble().set(WriteError::Broken("on purpose".into()));
    assert!(journal.close(PATIENCE));
    assert!(files() == before, "the file or its log has changed");
    drop(journal);
    assert_eq!(states(&open(&folder).0).len(), 50);
}
