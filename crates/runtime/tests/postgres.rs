//! A real PostgreSQL server of an environment's own: made, killed, adopted, stopped. Where the machine has no
//! PostgreSQL, each test says that it was skipped.

#![expect(clippy::unwrap_used, reason = "tests")]

mod place;

use model::name::ComponentName;
use place::{PATIENCE, Place, all_gone, kill, soon, wait_until};
use runtime::ports::Ports;
use runtime::postgres::{Postgres, PrepareError, STOP_GRACE};
use runtime::process::{alive, identify};
use runtime::{Adopted, Driver, Instance, LastSeen, NotReady};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;
use tokio::process::Command;

/// A store called like this test's own, with ports of its own.
struct Store {
    place: Place,
    postgres: Postgres,
    ports: Ports,
}

impl Store {
    /// None, and said so, where there is no PostgreSQL on this machine.
    async fn new(test: &str) -> Option<Self> {
        let place = Place::new();
        let postgres = Postgres::new(place.state.clone(), ComponentName::new("my-db").unwrap());
        let ports = Ports::new(test, std::process::id().into());
        let mut store = Self { place, postgres, ports };
        match store.prepare().await {
            Err(PrepareError::Missing { .. }) => {
                eprintln!("skipped: {test}: there is no PostgreSQL on this machine");
                None
            }
            Ok(_) => Some(store),
            Err(error) => panic!("{error}; hint: {:?}", error.hint()),
        }
    }

    async fn prepare(&mut self) -> Result<api::shim::Start, PrepareError> {
        // Bounded by limits of its own: a busy machine may need longer than anything else may take in a test.
        self.postgres.prepare(&mut self.ports, &BTreeSet::new()).await
    }

    /// Prepared, started, ready.
    async fn run(&mut self, driver: &Driver) -> Instance {
        let start = self.prepare().await.unwrap();
        let instance = driver.start(&start).await.unwrap();
        let address = self.postgres.ready(&instance, PATIENCE).await.unwrap();
        assert_eq!(address.to_string(), format!("127.0.0.1:{}", start.port));
        instance
    }

    fn address(&self, instance: &Instance) -> String {
        self.postgres.address(instance.running().port).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.place.state.data().join("my-db")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.state.logs().join("s0-my-db-0.log")).unwrap_or_default()
    }
}

fn psql(address: &str, statement: &str) -> Command {
    let mut command = Command::new("psql");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).kill_on_drop(true);
    command.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", address, "-c", statement]);
    command
}

async fn ask(address: &str, statement: &str) -> String {
    let output: Output = soon(statement, psql(address, statement).output()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{statement}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_server_outlives_agents_and_kills_and_keeps_its_data_and_its_address() {
    let Some(mut store) = Store::new("a life").await else { return };
    let driver = store.place.driver(1);
    let instance = store.run(&driver).await;
    let address = store.address(&instance);
    ask(&address, "create table kept (what text); insert into kept values ('a'), ('ä')").await;
    assert_eq!(ask(&address, "show server_encoding").await, "UTF8");
    assert_eq!(ask(&address, "show fsync").await, "on");
    assert_eq!(ask(&address, "select current_user, current_database()").await, "mainstay|my-db");
    assert_eq!(
        (mode(&store.data()), mode(&store.place.state.secrets().join("my-db-password"))),
        (0o700, 0o600)
    );
    assert_eq!(mode(&store.place.state.secrets()), 0o700);
    let password = address.split([':', '@']).nth(2).unwrap();
    assert_eq!(password.len(), 32);
    let wrong = address.replace(password, "00000000000000000000000000000000");
    let refused = psql(&wrong, "select 1").output().await.unwrap();
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("password authentication failed"),
        "{refused:?}"
    );

    // The next agent finds it.
    let process = instance.running().process.clone();
    drop((driver, instance));
    let driver = store.place.driver(2);
    let adopted = match driver.adopt(&store.postgres.instance()).await.unwrap() {
        Adopted::Running(instance) => instance,
        other @ (Adopted::Ended(_) | Adopted::Gone) => panic!("{other:?}"),
    };
    assert_eq!(adopted.running().process, process);
    store.postgres.ready(&adopted, PATIENCE).await.unwrap();
    assert_eq!(store.address(&adopted), address);
    assert!(adopted.family().members().len() > 3, "its children are of the family");
    assert!(adopted.resident_bytes().unwrap() > 8 << 20, "{:?}", adopted.resident_bytes());

    // Killed in the middle of work.
    let mut busy =
        psql(&address, "insert into kept values ('c'); begin; select pg_sleep(1000)").spawn().unwrap();
    wait_until("it works", async || {
        ask(&address, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'").await == "1"
    })
    .await;
    kill(&process).await;
    assert_eq!(soon("the end", adopted.ended()).await.signal, Some(9));
    assert!(!soon("its client sees it", busy.wait()).await.unwrap().success());
    let again = store.run(&driver).await;
    assert_eq!(store.address(&again), address, "whoever knows it finds it again");
    assert_eq!(
        ask(&address, "select string_agg(what, ',' order by what) from kept where what <> 'c'").await,
        "a,ä"
    );

    // Stopped with a client that would stay.
    let mut idle = psql(&address, "select pg_sleep(1000)").spawn().unwrap();
    wait_until("it has a client", async || {
        ask(&address, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'").await == "1"
    })
    .await;
    let exit = soon("stop", again.stop(STOP_GRACE)).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.asked), (Some(0), None, true), "{}", store.log());
    assert!(store.log().contains("received fast shutdown request"), "{}", store.log());
    assert!(!soon("its client sees it", idle.wait()).await.unwrap().success());
    all_gone(&again).await;
    let kept = store.run(&driver).await;
    assert_eq!(ask(&address, "select count(*) from kept where what <> 'c'").await, "2");
    soon("stop", kept.stop(STOP_GRACE)).await.unwrap();
}

#[tokio::test]
async fn what_a_killed_server_and_shim_leave_does_not_keep_the_next_from_starting() {
    let Some(mut store) = Store::new("a bad end").await else { return };
    let driver = store.place.driver(1);
    let instance = store.run(&driver).await;
    let address = store.address(&instance);
    ask(&address, "create table kept (what text)").await;
    let mut busy = psql(&address, "select pg_sleep(1000)").spawn().unwrap();
    wait_until("it works", async || {
        ask(&address, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'").await == "1"
    })
    .await;
    let children: Vec<_> = instance.family().members().iter().filter_map(|m| identify(m.pid).ok()).collect();
    kill(&instance.running().shim).await;
    kill(&instance.running().process).await;
    assert!(matches!(driver.adopt(&store.postgres.instance()).await.unwrap(), Adopted::Ended(_)));
    let start = store.prepare().await.unwrap();
    assert!(children.iter().all(|child| !alive(child)), "it waited until all had ended");
    assert!(!store.data().join("postmaster.pid").exists());

    // After a reboot the number may be anybody's.
    let stranger = store.place.driver(1).start(&store.place.shell("other", "exec sleep 1000")).await.unwrap();
    let pid = stranger.running().process.pid;
    let lock = format!("{pid}\n{}\n1\n{}\n\n127.0.0.1\n\nready\n", store.data().display(), start.port);
    std::fs::write(store.data().join("postmaster.pid"), lock).unwrap();
    let again = store.run(&driver).await;
    assert_eq!(ask(&address, "select count(*) from kept").await, "0");
    assert!(stranger.runs());
    soon("stop", again.stop(STOP_GRACE)).await.unwrap();
    let _ = busy.kill().await;
}

#[tokio::test]
async fn a_server_that_lost_its_shim_is_stopped_in_order() {
    let Some(mut store) = Store::new("no shim").await else { return };
    let instance = store.run(&store.place.driver(1)).await;
    let address = store.address(&instance);
    let mut idle = psql(&address, "select pg_sleep(1000)").spawn().unwrap();
    wait_until("it has a client", async || {
        ask(&address, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'").await == "1"
    })
    .await;
    kill(&instance.running().shim).await;
    let exit = soon("stop", instance.stop(STOP_GRACE)).await.unwrap();
    assert!(exit.asked);
    assert!(store.log().contains("received fast shutdown request"), "{}", store.log());
    assert!(store.log().contains("database system is shut down"), "{}", store.log());
    assert!(!soon("its client sees it", idle.wait()).await.unwrap().success());
}

#[tokio::test]
async fn data_is_made_whole_or_not_at_all_and_nobody_elses_is_touched() {
    let Some(mut store) = Store::new("making").await else { return };
    let data = store.place.state.data();
    assert!(store.data().join("PG_VERSION").exists());
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1, "nothing is left of making it");
    let password = store.postgres.address(1).unwrap();

    // An attempt that was killed.
    let half = data.join(".my-db.making-00");
    std::fs::rename(store.data(), &half).unwrap();
    std::fs::remove_file(half.join("PG_VERSION")).unwrap();
    store.prepare().await.unwrap();
    assert!(store.data().join("PG_VERSION").exists() && !half.exists());
    assert_eq!(store.postgres.address(1).unwrap(), password, "the password stays");

    // One that is dropped.
    std::fs::remove_dir_all(store.data()).unwrap();
    let none = BTreeSet::new();
    let making = store.postgres.prepare(&mut store.ports, &none);
    let dropped = tokio::time::timeout(Duration::from_millis(200), making);
    assert!(dropped.await.is_err() && !store.data().exists());
    store.prepare().await.unwrap();

    // The port is another one only when it cannot be had.
    let port = store.prepare().await.unwrap().port;
    assert_eq!(store.prepare().await.unwrap().port, port);
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let other = store.prepare().await.unwrap().port;
    assert_ne!(other, port);
    drop(taken);
    assert_eq!(store.prepare().await.unwrap().port, other, "it stays");

    let secret = store.place.state.secrets().join("my-db-password");
    std::fs::rename(&secret, store.place.path("away")).unwrap();
    let error = store.prepare().await.unwrap_err();
    assert!(
        matches!(error, PrepareError::Password { .. }) && error.hint().unwrap().contains("my-db-password")
    );
    std::fs::rename(store.place.path("away"), &secret).unwrap();

    std::fs::write(store.data().join("PG_VERSION"), "9\n").unwrap();
    let error = store.prepare().await.unwrap_err();
    assert!(error.to_string().contains("was made by PostgreSQL 9, and here is 1"), "{error}");
    assert!(error.hint().unwrap().contains("apt-get install postgresql-9"));

    std::fs::remove_file(store.data().join("PG_VERSION")).unwrap();
    let error = store.prepare().await.unwrap_err();
    assert!(matches!(error, PrepareError::Foreign { .. }), "{error}");
    assert!(store.data().join("base").exists());

    let reserved = Postgres::new(store.place.state.clone(), ComponentName::new("template1").unwrap());
    let error = reserved.prepare(&mut store.ports, &BTreeSet::new()).await.unwrap_err();
    assert!(matches!(error, PrepareError::Name { .. }), "{error}");
}

#[tokio::test]
async fn what_listens_and_is_no_server_that_lets_clients_in_is_not_ready() {
    let place = Place::new();
    let postgres = Postgres::new(place.state.clone(), ComponentName::new("db").unwrap());
    let mut start = place.start("db", &["python3", "-m", "http.server", "--bind", "127.0.0.1"]);
    start.port = Ports::new("no server", std::process::id().into()).allocate(&BTreeSet::new()).unwrap();
    start.command.push(start.port.to_string());
    let instance = place.driver(1).start(&start).await.unwrap();
    wait_until("it listens", async || instance.listens().await.is_some()).await;
    let error = soon("not ready", postgres.ready(&instance, Duration::ZERO)).await.unwrap_err();
    let NotReady::Timeout { last: LastSeen::NotYet { what }, .. } = &error else { panic!("{error}") };
    assert!(
        what.contains("not PostgreSQL") || what.contains("without an answer") || what.contains("no answer"),
        "{error}"
    );
    soon("stop", instance.stop(Duration::ZERO)).await.unwrap();
}
