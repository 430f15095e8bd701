//! A database that goes away in mid-traffic: locked, stopped, killed. Checkouts go on.

use crate::buyers::{
    Buyers, Crowd, Hurried, Traces, answers, assert_all_are_there_once, count, depth, drained, one_by_one,
    queue_is, traces,
};
use crate::stage::{self, MAINSTAY, Shop, assert_settled};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use testkit::{Environment, get, wait_until};

/// So many orders are acknowledged while the database is away.
const MEANWHILE: usize = 40;
/// So many jobs wait then: each buyer has one under way at least, and those who do not wait have more.
const BACKLOG: u64 = 20;

const CROWD: Crowd = Crowd { buyers: 8, orders: None, hurried: Hurried::EverySecond, order: one_by_one };

/// A shop whose checkout is a saga, with its orders in a database of this kind.
fn shop(store: &str) -> Environment {
    let database = format!(
        r#"
        [component.db]
        store    = "{store}"
        as       = "DATABASE_URL"
        artifact = "v1"
        [gateway]
        default = "shop"
        "#
    );
    let more = stage::checkout(["", ""]) + &database;
    let component = "needs = [\"db\", \"payments\", \"shipping\"]";
    stage::shop(&Shop { component, more: &more, ..Shop::plain() })
}

/// Buyers come, the database goes away, orders go on being acknowledged while the backlog fills; it comes back, the
/// backlog drains, and every order is there once: charged, recorded and shipped, in its buyer's order.
fn goes_away<Away>(environment: &Environment, away: impl FnOnce() -> Away, back: impl FnOnce(Away)) {
    let before = drained(environment);
    let buyers = Buyers::come(environment.address, CROWD);
    buyers.more_are_acknowledged(MEANWHILE);
    let is_away = away();
    buyers.more_are_acknowledged(MEANWHILE);
    let filled = queue_is(environment, "the backlog fills", |status| depth(status) >= BACKLOG);
    assert_eq!(filled["trouble"], Value::Null, "{filled}");
    back(is_away);
    buyers.more_are_acknowledged(MEANWHILE);
    let sales = buyers.stop();

    let status = drained(environment);
    let orders = assert_all_are_there_once(environment, &sales);
    assert!(orders > 3 * MEANWHILE, "{orders}");
    for (reference, traces) in traces(environment, &sales) {
        assert_eq!(traces, Traces::COMPLETE, "{reference}");
    }
    assert_eq!(answers(environment, &sales).into_iter().collect::<Vec<_>>(), [(Ok(201), orders)]);

    for all in ["accepted", "delivered"] {
        assert_eq!(count(&status, all) - count(&before, all), orders, "{all}: {status}");
    }
    for never in ["refused", "rejected", "dead", "unknown", "sagas_undone", "sagas_stuck"] {
        assert_eq!(count(&status, never), 0, "{never}: {status}");
    }
    assert!(status["max_depth"].as_u64().is_some_and(|most| most >= BACKLOG), "{status}");
    assert_settled(environment);
}

/// Another process that keeps everybody else from writing to the shop's SQLite file.
fn lock(environment: &Environment) -> Child {
    let database = format!("sqlite:{}", environment.state().join("data/db.db").display());
    let mut command = Command::new(MAINSTAY);
    command.args(["demo-shop", "lock", "--database", &database]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the shop can be run");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("it is piped")).read_line(&mut line).expect("it can be read");
    assert!(line.contains("locked"), "{line:?}");
    child
}

#[test]
fn sqlite_that_is_locked_by_another_process_stops_no_checkout() {
    let environment = shop("sqlite");
    let unlock = |mut lock: Child| {
        drop(lock.stdin.take());
        assert!(lock.wait().expect("it ends").success());
    };
    goes_away(&environment, || lock(&environment), unlock);
}

/// The database server and all its processes, the server first.
fn servers(environment: &Environment) -> Vec<u32> {
    let server = wait_until("the database is ready", || {
        let status = environment.status()?;
        let store = status["stores"].as_array()?.iter().find(|store| store["ready"] == true)?.clone();
        u32::try_from(store["pid"].as_u64()?).ok()
    });
    let mut family = vec![server];
    for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has ended meanwhile is nobody's child.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if parent == Some(server) {
            family.push(pid);
        }
    }
    family
}

fn signal(signal: &str, pids: &[u32]) {
    for pid in pids {
        // One that served a connection may have ended meanwhile.
        let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
    }
}

#[test]
fn postgres_that_is_stopped_stops_no_checkout() {
    let environment = shop("postgres");
    let stop = || {
        let pids = servers(&environment);
        signal("-STOP", &pids);
        // Those that came meanwhile; the server itself makes no more.
        let pids = [pids, servers(&environment)].concat();
        signal("-STOP", &pids);
        pids
    };
    goes_away(&environment, stop, |pids| signal("-CONT", &pids));
}

#[test]
fn postgres_that_is_killed_stops_no_checkout() {
    let environment = shop("postgres");
    let before = drained(&environment);
    let buyers = Buyers::come(environment.address, CROWD);
    for _ in 0..2 {
        buyers.more_are_acknowledged(MEANWHILE);
        let pids = servers(&environment);
        signal("-KILL", &pids);
        buyers.more_are_acknowledged(MEANWHILE);
        let again = servers(&environment);
        assert_ne!(again[0], pids[0]);
    }
    buyers.more_are_acknowledged(MEANWHILE);
    let sales = buyers.stop();
    let status = drained(&environment);
    let orders = assert_all_are_there_once(&environment, &sales);
    for (reference, traces) in traces(&environment, &sales) {
        assert_eq!(traces, Traces::COMPLETE, "{reference}");
    }
    for all in ["accepted", "delivered"] {
        assert_eq!(count(&status, all) - count(&before, all), orders, "{all}: {status}");
    }
    let products = get(environment.address, "/api/products?page=1").expect("somebody serves");
    assert_eq!(products.status, 200);
}
