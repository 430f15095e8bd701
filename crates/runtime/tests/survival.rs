//! What is left when an agent, a shim or an instance dies at a bad moment, and that it is put in order.

#![expect(clippy::unwrap_used, reason = "tests")]

mod place;

use api::shim::{ProcessId, Running};
use place::{Place, all_gone, kill, soon, wait_until};
use runtime::process::{Family, alive, identify};
use runtime::{Adopted, Instance, StartError, StopError, describe_exit};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(20);
const SLEEP: &str = "exec sleep 1000";

fn adopted(found: Adopted) -> Instance {
    match found {
        Adopted::Running(instance) => instance,
        other @ (Adopted::Ended(_) | Adopted::Gone) => panic!("not running: {other:?}"),
    }
}

/// A process that has nothing to do with any instance.
struct Bystander(std::process::Child);

impl Bystander {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn id(&self) -> ProcessId {
        identify(self.0.id()).unwrap()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn the_next_agent_adopts_and_the_one_before_is_refused() {
    let place = Place::new();
    let old = place.driver(1).start(&place.shell("api", SLEEP)).await.unwrap();
    let new = adopted(place.driver(2).adopt(&place.id("api")).await.unwrap());
    assert_eq!(new.running(), old.running());
    let stubborn = place.shell("web", "trap 'echo told' TERM; echo ready; while :; do sleep 0.01; done");
    let web = place.driver(1).start(&stubborn).await.unwrap();
    place.says("web", "ready").await;
    let newer = adopted(place.driver(2).adopt(&place.id("web")).await.unwrap());
    let stopping = tokio::spawn(async move { newer.stop(Duration::from_secs(3600)).await });
    place.says("web", "told").await;
    let refused = soon("the older is refused", web.stop(Duration::ZERO)).await;
    assert!(matches!(refused, Err(StopError::Refused { .. })), "{refused:?}");
    assert!(web.runs());
    kill(&web.running().process).await;
    assert!(soon("the stop ends", stopping).await.unwrap().unwrap().asked);

    let exit = soon("stop", new.stop(GRACE)).await.unwrap();
    assert_eq!((exit.signal, exit.asked), (Some(15), true));
    assert_eq!(soon("the end", old.ended()).await, exit);
}

#[tokio::test]
async fn an_instance_outlives_its_shim_and_is_stopped_without_it() {
    let place = Place::new();
    let script = "trap 'echo ending; exit 0' TERM; sleep 1000 & echo ready; while :; do sleep 0.01; done";
    let driver = place.driver(1);
    let instance = driver.start(&place.shell("api", script)).await.unwrap();
    place.says("api", "ready").await;
    kill(&instance.running().shim).await;
    assert!(instance.runs());
    assert!(matches!(
        driver.start(&place.shell("api", SLEEP)).await,
        Err(StartError::Runs { pid, .. }) if pid == instance.running().process.pid
    ));
    let again = adopted(place.driver(2).adopt(&place.id("api")).await.unwrap());
    let exit = soon("stop", again.stop(GRACE)).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.asked), (None, None, true));
    assert!(place.log("api").contains("ending"), "it was told, not just killed");
    all_gone(&instance).await;
    assert!(soon("the end", instance.ended()).await.code.is_none());

    let next = soon("a fresh start", driver.start(&place.shell("api", SLEEP))).await.unwrap();
    soon("stop", next.stop(GRACE)).await.unwrap();
}

#[tokio::test]
async fn an_instance_that_resists_is_killed_without_its_shim_too() {
    let place = Place::new();
    let script = "trap '' TERM; sleep 1000 & echo ready; while :; do sleep 1000; done";
    let instance = place.driver(1).start(&place.shell("api", script)).await.unwrap();
    place.says("api", "ready").await;
    kill(&instance.running().shim).await;
    let exit = soon("stop", instance.stop(Duration::from_millis(50))).await.unwrap();
    assert!(exit.asked);
    all_gone(&instance).await;
}

#[tokio::test]
async fn a_shim_that_does_not_react_is_done_without() {
    let place = Place::new();
    let instance = place.driver(1).start(&place.shell("api", SLEEP)).await.unwrap();
    let shim = rustix::process::Pid::from_raw(instance.running().shim.pid.cast_signed()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).unwrap();
    let exit = soon("stop", instance.stop(Duration::from_millis(50))).await.unwrap();
    assert!(exit.asked);
    assert!(!alive(&instance.running().process));
    rustix::process::kill_process(shim, rustix::process::Signal::CONT).unwrap();
    all_gone(&instance).await;
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_an_end_without_a_code() {
    let place = Place::new();
    let driver = place.driver(1);
    let instance = driver.start(&place.shell("api", SLEEP)).await.unwrap();
    kill(&instance.running().shim).await;
    kill(&instance.running().process).await;
    let exit = soon("the end", instance.ended()).await;
    assert_eq!((exit.code, exit.signal, exit.asked), (None, None, false));
    assert!(describe_exit(&exit).contains("not known"));
    assert!(matches!(driver.adopt(&place.id("api")).await.unwrap(), Adopted::Ended(found) if found == exit));
}

#[tokio::test]
async fn an_end_while_no_agent_was_there_is_found() {
    let place = Place::new();
    let instance = place.driver(1).start(&place.shell("api", "exec sleep 1000")).await.unwrap();
    let process = instance.running().process.clone();
    drop(instance);
    kill(&process).await;
    match place.driver(2).adopt(&place.id("api")).await.unwrap() {
        Adopted::Ended(exit) => assert_eq!((exit.signal, exit.asked), (Some(9), false)),
        other @ (Adopted::Running(_) | Adopted::Gone) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_that_dies_before_the_shim_starts_leaves_nothing() {
    let place = Place::new();
    let driver = place.driver(1);
    assert!(matches!(driver.adopt(&place.id("api")).await.unwrap(), Adopted::Gone));
    let start = place.shell("api", SLEEP);
    std::fs::create_dir_all(place.shim_folder("api")).unwrap();
    let text = serde_json::to_vec(&start).unwrap();
    std::fs::write(place.shim_folder("api").join("start.json"), text).unwrap();
    assert!(matches!(driver.adopt(&place.id("api")).await.unwrap(), Adopted::Gone));
    let instance = driver.start(&start).await.unwrap();
    soon("stop", instance.stop(GRACE)).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_dies_right_after_the_shim_starts_loses_nothing() {
    let place = Place::new();
    let start = place.shell("api", SLEEP);
    std::fs::create_dir_all(place.shim_folder("api")).unwrap();
    let text = serde_json::to_vec(&start).unwrap();
    std::fs::write(place.shim_folder("api").join("start.json"), text).unwrap();
    // The next agent is there before the shim has done anything at all.
    let mut shim = place.spawn_shim("api");
    let driver = place.driver(2);
    assert!(matches!(driver.start(&start).await, Err(StartError::Busy { .. })));
    let instance = adopted(soon("adoption", driver.adopt(&place.id("api"))).await.unwrap());
    assert_eq!(instance.running().shim.pid, shim.id());
    soon("stop", instance.stop(GRACE)).await.unwrap();
    assert!(shim.wait().unwrap().success());
}

#[tokio::test]
async fn of_two_starts_at_the_same_time_one_runs() {
    let place = Place::new();
    let start = place.shell("api", "echo started; exec sleep 1000");
    let (one, two) = (place.driver(1), place.driver(2));
    let (first, second) = tokio::join!(one.start(&start), two.start(&start));
    let instance = match (first, second) {
        (Ok(instance), Err(StartError::Busy { .. })) | (Err(StartError::Busy { .. }), Ok(instance)) => {
            instance
        }
        other => panic!("{other:?}"),
    };
    place.says("api", "started").await;
    soon("stop", place.driver(3).adopt(&place.id("api"))).await.unwrap();
    soon("stop", instance.stop(GRACE)).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(place.log("api"), "started\n");
}

#[tokio::test]
async fn a_number_that_was_given_away_again_is_left_alone() {
    let place = Place::new();
    let bystander = Bystander::new();
    let stranger = bystander.id();
    let before = ProcessId { start_ticks: stranger.start_ticks - 1, ..stranger.clone() };
    std::fs::create_dir_all(place.shim_folder("api")).unwrap();
    let running = Running { v: 1, shim: before.clone(), process: before, port: 1 };
    let write = |running: &Running| {
        let text = serde_json::to_vec(running).unwrap();
        std::fs::write(place.shim_folder("api").join("running.json"), text).unwrap();
    };
    write(&running);
    let driver = place.driver(1);
    match soon("adoption", driver.adopt(&place.id("api"))).await.unwrap() {
        Adopted::Ended(exit) => assert_eq!((exit.code, exit.signal), (None, None)),
        other @ (Adopted::Running(_) | Adopted::Gone) => panic!("{other:?}"),
    }
    let elsewhen = ProcessId { boot_id: "another boot".to_owned(), ..stranger.clone() };
    write(&Running { shim: elsewhen.clone(), process: elsewhen, ..running });
    assert!(matches!(driver.adopt(&place.id("api")).await.unwrap(), Adopted::Gone));
    let swept = driver.sweep(&BTreeSet::new()).await.unwrap();
    assert_eq!((swept.removed, swept.left), (vec![place.id("api")], vec![]));
    assert!(alive(&stranger), "a bystander was killed");
}

#[tokio::test]
async fn an_instance_that_cannot_be_recorded_does_not_run() {
    let place = Place::new();
    let script = "echo $$ >pid; sleep 1000 & exec sleep 1000";
    // The file the record is written to first cannot be made.
    std::fs::create_dir_all(place.shim_folder("api").join("running.json.new")).unwrap();
    let error = place.driver(1).start(&place.shell("api", script)).await.unwrap_err();
    assert!(error.to_string().contains("running.json could not be written"), "{error}");
    let lock = std::fs::read(place.shim_folder("api").join("lock")).unwrap();
    let shim: ProcessId = serde_json::from_slice(&lock).unwrap();
    wait_until("nothing is left", async || Family { shim: shim.clone(), leader: None }.members().is_empty())
        .await;
}

#[tokio::test]
async fn what_a_shim_started_that_died_before_it_could_say_so_is_ended() {
    let place = Place::new();
    let driver = place.driver(1);
    let script = "trap '' TERM; sleep 1000 & echo ready; while :; do sleep 1000; done";
    let instance = driver.start(&place.shell("api", script)).await.unwrap();
    place.says("api", "ready").await;
    kill(&instance.running().shim).await;
    std::fs::remove_file(place.shim_folder("api").join("running.json")).unwrap();
    assert!(matches!(soon("adoption", driver.adopt(&place.id("api"))).await.unwrap(), Adopted::Gone));
    all_gone(&instance).await;
}

#[tokio::test]
async fn a_shim_that_fails_is_quoted() {
    let place = Place::new();
    // There is no room for a socket where a folder is.
    std::fs::create_dir_all(place.shim_folder("api")).unwrap();
    let driver = place
        .driver(1)
        .with_shim_command(["sh", "-c", "echo it hurts >&2; exit 4"].map(std::ffi::OsString::from).to_vec());
    let error = driver.start(&place.shell("api", SLEEP)).await.unwrap_err();
    assert_eq!(error.to_string(), "the shim of s1-api-0 ended too early (exit status: 4): it hurts");
    let nothing = place.driver(1).with_shim_command(vec!["/no/such/program".into()]);
    let error = nothing.start(&place.shell("api", SLEEP)).await.unwrap_err();
    assert!(matches!(error, StartError::Machine { .. }), "{error}");
}

#[tokio::test]
async fn sweeping_stops_what_nobody_wants_and_nothing_else() {
    let place = Place::new();
    let driver = place.driver(1);
    assert_eq!(driver.sweep(&BTreeSet::new()).await.unwrap(), runtime::Sweep::default());
    let wanted = driver.start(&place.shell("wanted", SLEEP)).await.unwrap();
    let plain = driver.start(&place.shell("plain", SLEEP)).await.unwrap();
    let orphan = driver.start(&place.shell("orphan", "sleep 1000 & exec sleep 1000")).await.unwrap();
    kill(&orphan.running().shim).await;
    let ended = driver.start(&place.shell("ended", "exit 0")).await.unwrap();
    soon("the end", ended.ended()).await;
    let foreign = place.state.run().join("shims/not-an-instance");
    std::fs::create_dir(&foreign).unwrap();

    let swept = soon("sweep", place.driver(2).sweep(&BTreeSet::from([place.id("wanted")]))).await.unwrap();
    assert_eq!(swept.removed, ["ended", "orphan", "plain"].map(|name| place.id(name)));
    assert!(swept.left.is_empty(), "{:?}", swept.left);
    for gone in [&plain, &orphan, &ended] {
        all_gone(gone).await;
    }
    assert!(!place.shim_folder("plain").exists() && !place.shim_folder("orphan").exists());
    assert!(wanted.runs() && foreign.exists());
    soon("stop", wanted.stop(GRACE)).await.unwrap();
}
