//! Releases that change the schema of a database while orders come in, on SQLite and on PostgreSQL; a worker that is
//! handed over with them; and a database server that is killed.

mod stage;

use serde_json::{Value, json};
use stage::{Load, MAINSTAY, Shop, assert_settled, kill, more_are_served, release, serving};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;
use testkit::{Environment, Users, get, wait_until};

/// Quick steps, each of which sees requests, and an old stamp that is soon gone.
const QUICK: &str = r#"
    shift        = [50, 100]
    step_time    = "2s"
    bake         = "1s"
    min_requests = 20
    keep_old     = "1s"
"#;

/// Everybody at once, and an old stamp to go back to.
const AT_ONCE: &str = r#"
    shift        = [100]
    min_requests = 0
    keep_old     = "1h"
"#;

/// Without anybody to do its work a worker must never be for longer than one takes to stop and the next to start. That
/// takes a fraction of a second; machines that run tests are busy.
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// A shop with a database of its own kind in `db`, and a ledger of its orders.
fn shop(store: &str, policy: &str, more: &str) -> Environment {
    let more = format!(
        r#"
        [flow.order.ledger]
        ref     = "{{uuid}}"
        confirm = {{ get = "/api/orders?ref={{ref}}", count = "$.items" }}
        [flow.look]
        [[flow.look.step]]
        get = "/api/products?page=2"
        [component.db]
        store    = "{store}"
        as       = "DATABASE_URL"
        artifact = "v1"
        expand   = ["{MAINSTAY}", "demo-shop", "migrate", "expand"]
        contract = ["{MAINSTAY}", "demo-shop", "migrate", "contract"]
        {more}
        "#
    );
    stage::shop(&Shop { component: "needs = [\"db\"]", more: &more, policy, ..Shop::plain() })
}

/// What `mainstay history show` says of the latest release.
fn history(environment: &Environment) -> Value {
    environment.mainstay(&["--json", "history", "show", "here"]).ok().json()
}

/// The address of the database, as the shop gets it.
fn database(environment: &Environment, store: &str) -> String {
    let state = environment.state();
    if store == "sqlite" {
        return format!("sqlite:{}", state.join("data/db.db").display());
    }
    let password = std::fs::read_to_string(state.join("secrets/db-password")).expect("it has a password");
    let port = server(environment).expect("it runs")["port"].clone();
    format!("postgres://mainstay:{}@127.0.0.1:{port}/db", password.trim())
}

/// The database server, once it lets clients in.
fn server(environment: &Environment) -> Option<Value> {
    let status = environment.status()?;
    status["stores"].as_array()?.iter().find(|store| store["ready"] == true).cloned()
}

/// The version of the schema, by the shop's own words.
fn schema(environment: &Environment, store: &str) -> String {
    let mut command = Command::new(MAINSTAY);
    command.args(["demo-shop", "schema"]).env("DATABASE_URL", database(environment, store));
    let output = command.output().expect("the shop can be run");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// From v1 to v2 under load, forward to the end; then a release whose migration breaks v2.
fn migrates(store: &str) {
    let environment = shop(store, QUICK, "");
    assert_eq!(schema(&environment, store), "1 base");
    let users = Load::on(&environment);
    let released =
        environment.mainstay(&["--json", "release", "here", "--artifact", "v2", "--name", "v2", "--wait"]);
    let released = released.ok().json();
    assert_eq!(released["release"]["state"], "done", "{released}");
    users.all_were_served();
    let story = history(&environment);
    let events = story["events"].to_string();
    assert!(events.contains("expand of db done") && events.contains("contract of db done"), "{story}");
    let total = &story["ledger"]["total"];
    for side in ["active", "candidate"] {
        assert!(total[side].as_u64().is_some_and(|requests| requests > 0), "nobody on {side}: {story}");
    }
    assert_eq!(schema(&environment, store), "3 contracted");
    assert_eq!(serving(&environment), "v2");
    broken_schema_is_stopped(&environment, store);
}

/// What an `expand` has done to the database that v2 works with stays done, so v2 itself has to notice; what it can do
/// without prices goes on, nobody gets the release, and releasing v2 once more is the way out.
fn broken_schema_is_stopped(environment: &Environment, store: &str) {
    let users = Users::of(environment.address, "/api/orders/count");
    let released = release(environment, "v3-broken-schema");
    assert_eq!(released.code, 1, "{released:?}");
    let released = released.json();
    assert_eq!(released["release"]["reason"], "schema", "{released}");
    assert_eq!(released["release"]["state"], "refused", "{released}");
    assert_eq!(schema(environment, store), "4 renamed");
    let story = history(environment);
    assert_eq!(story["ledger"]["total"]["candidate"], 0, "{story}");
    assert_settled(environment);
    assert_eq!(serving(environment), "v2");

    let products = || get(environment.address, "/api/products?page=1").expect("somebody serves").status;
    assert_eq!(products(), 500);
    let again = ["--json", "release", "here", "--artifact", "v2", "--name", "v2-again"];
    environment.mainstay(&again).ok();
    assert_eq!(products(), 200);
    users.all_were_served();
}

#[test]
fn sqlite_is_migrated_under_load_and_a_broken_migration_stopped() {
    migrates("sqlite");
}

#[test]
fn postgres_is_migrated_under_load_and_a_broken_migration_stopped() {
    migrates("postgres");
}

/// The lines of a file of JSON lines in the data folder.
fn lines(environment: &Environment, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(environment.state().join("data").join(file)).unwrap_or_default();
    // The last one may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Looks at every sign of life of the mailers: never two, never none for long. Gives their releases, in turn.
fn handed_over(signs: &[Value]) -> Result<Vec<String>, String> {
    let at = |sign: &Value| sign["at_ms"].as_u64().expect("a time");
    let mut turns = Vec::new();
    let mut at_work: Option<&Value> = None;
    let mut last = signs.first().map_or(0, at);
    for sign in signs {
        let pid = &sign["pid"];
        let expected = match sign["event"].as_str().expect("an event") {
            "started" => {
                turns.push(sign["release"].as_str().expect("a release").to_owned());
                at_work.replace(pid).is_none()
            }
            "beat" => at_work == Some(pid),
            "stopped" => at_work.take() == Some(pid),
            _ => false,
        };
        if !expected {
            return Err(format!("two mailers, or one that goes on after its end: {sign}"));
        }
        let gap = Duration::from_millis(at(sign).saturating_sub(last));
        if gap > LONGEST_GAP {
            return Err(format!("no mailer for {gap:?} before {sign}"));
        }
        last = at(sign);
    }
    Ok(turns)
}

#[test]
fn two_mailers_or_none_for_long_are_found() {
    let log = |signs: &[(u32, u64, &str)]| {
        let sign = |(pid, at_ms, event): &(u32, u64, &str)| {
            let release = format!("v{pid}");
            json!({ "pid": pid, "at_ms": at_ms, "event": event, "release": release })
        };
        handed_over(&signs.iter().map(sign).collect::<Vec<_>>())
    };
    let first = [(1, 0, "started"), (1, 50, "beat"), (1, 90, "stopped")];
    let and = |more: &[(u32, u64, &'static str)]| log(&[&first[..], more].concat());
    assert_eq!(and(&[(2, 300, "started"), (2, 350, "beat")]), Ok(vec!["v1".to_owned(), "v2".to_owned()]));
    assert!(log(&[(1, 0, "started"), (2, 1, "started")]).is_err(), "two begin");
    assert!(log(&[(1, 0, "started"), (2, 1, "beat")]).is_err(), "another one beats");
    assert!(and(&[(1, 100, "beat")]).is_err(), "one beats after its end");
    assert!(and(&[(2, 20_000, "started")]).is_err(), "none for long");
    assert!(and(&[(2, 100, "started"), (2, 20_000, "beat")]).is_err(), "one that hangs");
}

/// A release that is promoted and taken back while orders come in, with a mailer.
fn hands_the_mailer_over(store: &str) {
    let mailer = format!(
        r#"
        [component.mailer]
        run           = ["{MAINSTAY}", "demo-shop", "mailer", "--data", "{{data}}"]
        http          = false
        needs         = ["db"]
        artifact      = "v1"
        drain_timeout = "10s"
        "#
    );
    let environment = shop(store, AT_ONCE, &mailer);
    let turns = || {
        let turns = handed_over(&lines(&environment, "mailer.log.jsonl"));
        turns.unwrap_or_else(|error| panic!("{error}"))
    };
    let until = |expected: &[&str]| {
        wait_until(&format!("the mailer is that of {expected:?}, in turn"), || {
            (turns() == expected).then_some(())
        });
    };
    until(&["v1"]);
    let users = Load::on(&environment);
    release(&environment, "v2").ok();
    until(&["v1", "v2"]);
    more_are_served(&environment);
    environment.mainstay(&["rollback", "here"]).ok();
    until(&["v1", "v2", "v1"]);
    more_are_served(&environment);
    users.all_were_served();

    let orders = get(environment.address, "/api/orders/count").expect("somebody serves").body;
    let orders: Value = serde_json::from_str(&orders).expect("JSON");
    let orders = orders["count"].as_u64().expect("a number");
    let mails = wait_until("every order is mailed", || {
        let mails = lines(&environment, "outbox.jsonl");
        (mails.len() as u64 >= orders).then_some(mails)
    });
    let mailed: BTreeSet<u64> = mails.iter().map(|mail| mail["order"].as_u64().expect("an order")).collect();
    assert_eq!(mailed.len(), mails.len(), "an order was mailed twice");
    assert_eq!(mailed.len() as u64, orders);
    assert_eq!(turns(), ["v1", "v2", "v1"]);
}

#[test]
fn a_mailer_on_sqlite_is_handed_over_and_back() {
    hands_the_mailer_over("sqlite");
}

#[test]
fn a_mailer_on_postgres_is_handed_over_and_back() {
    hands_the_mailer_over("postgres");
}

#[test]
fn what_postgres_has_taken_outlives_its_kill() {
    let environment = shop("postgres", AT_ONCE, "");
    let before = server(&environment).expect("it runs");
    let pids = |instances: &[Value]| instances.iter().map(|one| one["pid"].clone()).collect::<Vec<_>>();
    let stamp = assert_settled(&environment)["stamps"][0]["instances"].clone();
    let pids_before = pids(stamp.as_array().expect("instances"));
    let users = Load::on(&environment);
    kill(&before["pid"]);
    let after = wait_until("the server is back", || {
        server(&environment).filter(|after| after["pid"] != before["pid"])
    });
    assert_eq!(after["port"], before["port"], "instances know this one");
    assert_eq!(after["restarts"], 1, "{after}");
    wait_until("users are served again", || {
        let products = get(environment.address, "/api/products?page=1").ok()?;
        (products.status == 200).then_some(())
    });
    more_are_served(&environment);
    // What was asked for meanwhile failed, and says so; what was promised is there.
    let report = users.stop();
    assert_eq!(report["outcomes"]["no_socket"], 0, "{report}");
    // The instances that served before serve still: they have found it again by themselves.
    let instances = assert_settled(&environment)["stamps"][0]["instances"].clone();
    let instances = instances.as_array().expect("instances");
    assert_eq!(instances.len(), 2, "{instances:?}");
    assert!(instances.iter().all(|instance| instance["restarts"] == 0), "{instances:?}");
    assert_eq!(pids(instances), pids_before);
}
