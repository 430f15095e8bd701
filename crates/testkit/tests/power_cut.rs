//! SQLite on a disk whose power is cut at every write: what it promises, it keeps, and what it does not
//! promise, the disk does not keep for it.

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testkit::vfs::Disk;

/// How many transactions a run makes.
const TRANSACTIONS: i64 = 14;
/// How many ways there are to lose power at each write.
const SEEDS: u64 = 3;
/// More than a page, so that a row is several writes.
const BODY_BYTES: usize = 5_000;

fn connect(disk: &Disk) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = Connection::open_with_flags_and_vfs("test.db", flags, disk.name())?;
    connection.busy_timeout(Duration::from_secs(30))?;
    Ok(connection)
}

/// How a run keeps its promises.
#[derive(Clone, Copy)]
struct Mode {
    journal: &'static str,
    synchronous: &'static str,
    /// The disk ignores syncs once the tables are there.
    lies: bool,
}

/// Makes transactions, each of which adds a row and replaces another. What was acknowledged: number and
/// content.
fn run(disk: &Disk, mode: Mode) -> BTreeMap<i64, u8> {
    let mut acknowledged = BTreeMap::new();
    // An error ends the run, as the loss of power does.
    let _: rusqlite::Result<()> = (|| {
        let connection = connect(disk)?;
        connection.pragma_update(None, "journal_mode", mode.journal)?;
        connection.pragma_update(None, "synchronous", mode.synchronous)?;
        connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB, pair INTEGER)")?;
        connection.pragma_update(None, "wal_autocheckpoint", 30)?;
        disk.ignore_sync(mode.lies);
        for n in 0..TRANSACTIONS {
            let byte = u8::try_from(n).expect("a small number");
            let transaction = connection.unchecked_transaction()?;
            let body = vec![byte; BODY_BYTES];
            transaction.execute("INSERT INTO t VALUES (?1, ?2, ?1)", (n, &body))?;
            transaction.execute("UPDATE t SET b = ?2, pair = ?3 WHERE n = ?1", (n / 2, &body, n))?;
            transaction.commit()?;
            acknowledged.insert(n, byte);
            acknowledged.insert(n / 2, byte);
        }
        Ok(())
    })();
    acknowledged
}

/// What is wrong after a power cut.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wrong {
    lost: usize,
    damaged: usize,
}

fn look(disk: &Disk, acknowledged: &BTreeMap<i64, u8>) -> Wrong {
    let mut wrong = Wrong::default();
    let found: rusqlite::Result<BTreeMap<i64, (Vec<u8>, i64)>> = (|| {
        let connection = connect(disk)?;
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        wrong.damaged += usize::from(check != "ok");
        let table = "SELECT 1 FROM sqlite_schema WHERE name = 't'";
        if connection.query_row(table, [], |_| Ok(())).optional()?.is_none() {
            return Ok(BTreeMap::new());
        }
        let mut query = connection.prepare("SELECT n, b, pair FROM t")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        rows.collect()
    })();
    let Ok(found) = found else {
        wrong.damaged += 1;
        return wrong;
    };
    // A later transaction than the last that was acknowledged may be there, as a whole.
    for (body, pair) in found.values() {
        let whole = u8::try_from(*pair).is_ok_and(|byte| *body == vec![byte; BODY_BYTES]);
        let together =
            found.contains_key(pair) && found.get(&(pair / 2)).is_some_and(|(_, other)| other >= pair);
        wrong.damaged += usize::from(!whole || !together);
    }
    for (n, byte) in acknowledged {
        let kept = found.get(n).is_some_and(|(_, pair)| *pair >= i64::from(*byte));
        wrong.lost += usize::from(!kept);
    }
    wrong
}

/// Cuts the power at every boundary of a run: how many cuts there were, and after how many something was
/// lost or damaged.
fn cut_everywhere(mode: Mode) -> (u64, u64, u64) {
    let whole = Disk::new("whole");
    assert_eq!(run(&whole, mode).len(), TRANSACTIONS as usize, "a run without a power cut is whole");
    let (mut cuts, mut lossy, mut damaged) = (0, 0, 0);
    for boundary in 1..=whole.writes() {
        let disk = Disk::new("cut");
        disk.cut_at(boundary);
        let acknowledged = run(&disk, mode);
        assert!(disk.is_off(), "boundary {boundary} was not reached");
        for seed in 0..SEEDS {
            let wrong = look(&disk.after_power_cut(seed * 1_000_003 + boundary), &acknowledged);
            cuts += 1;
            lossy += u64::from(wrong.lost > 0);
            damaged += u64::from(wrong.damaged > 0);
        }
    }
    println!(
        "{} {} lies={}: {} boundaries, {cuts} cuts, {lossy} lossy, {damaged} damaged",
        mode.journal,
        mode.synchronous,
        mode.lies,
        whole.writes()
    );
    (cuts, lossy, damaged)
}

#[test]
fn a_write_ahead_log_keeps_what_was_acknowledged() {
    let (cuts, lossy, damaged) = cut_everywhere(Mode { journal: "WAL", synchronous: "FULL", lies: false });
    assert!(cuts > 300, "{cuts} power cuts");
    assert_eq!((lossy, damaged), (0, 0), "of {cuts} power cuts");
}

#[test]
fn a_rollback_journal_keeps_what_was_acknowledged() {
    let (cuts, lossy, damaged) =
        cut_everywhere(Mode { journal: "DELETE", synchronous: "EXTRA", lies: false });
    assert_eq!((lossy, damaged), (0, 0), "of {cuts} power cuts");
}

#[test]
fn a_deletion_without_a_sync_of_the_folder_is_undone_but_leaves_no_damage() {
    // The commit is that the journal is gone.
    let (cuts, lossy, damaged) = cut_everywhere(Mode { journal: "DELETE", synchronous: "FULL", lies: false });
    assert_eq!(damaged, 0, "of {cuts} power cuts");
    assert!(lossy > 0, "nothing was lost in {cuts} power cuts");
}

#[test]
fn a_commit_without_a_sync_is_lost_but_leaves_no_damage() {
    let (cuts, lossy, damaged) = cut_everywhere(Mode { journal: "WAL", synchronous: "NORMAL", lies: false });
    assert_eq!(damaged, 0, "of {cuts} power cuts");
    assert!(lossy > 0, "nothing was lost in {cuts} power cuts");
}

#[test]
fn a_disk_that_ignores_syncs_loses_and_damages() {
    let (cuts, lossy, damaged) = cut_everywhere(Mode { journal: "WAL", synchronous: "FULL", lies: true });
    assert!(lossy > 0 && damaged > 0, "{lossy} lossy, {damaged} damaged in {cuts} power cuts");
}

/// Writers, readers and checkpoints at the same time, as connections of one process.
#[test]
fn connections_share_a_write_ahead_log() {
    const WRITERS: i64 = 3;
    const EACH: i64 = 60;
    let disk = Disk::new("shared");
    let setup = connect(&disk).unwrap();
    setup.pragma_update(None, "journal_mode", "WAL").unwrap();
    setup
        .execute_batch(
            "CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB); CREATE TABLE c (n); INSERT INTO c VALUES (0)",
        )
        .unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let disk = &disk;
                scope.spawn(move || {
                    let connection = connect(disk).unwrap();
                    connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
                    for n in 0..EACH {
                        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                        let row = (writer * EACH + n, vec![1; BODY_BYTES]);
                        connection.execute("INSERT INTO t VALUES (?1, ?2)", row).unwrap();
                        connection.execute("UPDATE c SET n = n + 1", []).unwrap();
                        connection.execute_batch("COMMIT").unwrap();
                    }
                })
            })
            .collect();
        let checkpoints = scope.spawn(|| {
            let connection = connect(&disk).unwrap();
            let mut copied = 0;
            while !done.load(Ordering::Relaxed) {
                copied += connection
                    .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(2))
                    .unwrap();
            }
            copied
        });
        let reader = scope.spawn(|| {
            let connection = connect(&disk).unwrap();
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                let one = "SELECT (SELECT count(*) FROM t), (SELECT n FROM c)";
                let (rows, counted): (i64, i64) =
                    connection.query_row(one, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
                assert_eq!(rows, counted, "a reader sees whole transactions");
                assert!(rows >= seen, "a reader does not go back");
                seen = rows;
            }
        });
        let joined: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        assert!(checkpoints.join().unwrap() > 0, "nothing was checkpointed");
        assert!(joined.iter().all(Result::is_ok));
    });
    drop(setup);
    let check = connect(&disk.after_power_cut(1)).unwrap();
    assert_eq!(check.query_row("SELECT n FROM c", [], |row| row.get::<_, i64>(0)).unwrap(), WRITERS * EACH);
    assert_eq!(check.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
}
