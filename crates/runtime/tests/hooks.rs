//! Hooks with real processes: that they run to their end once, whatever becomes of who asked for them.

#![expect(clippy::unwrap_used, reason = "tests")]

mod place;

use api::shim::Start;
use place::{PATIENCE, Place, kill, soon, wait_until};
use runtime::process::identify;
use runtime::{HookError, StartError, UNSEEN_RUNS};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A hook that says when it begins and when it ends, and waits in between for a file.
fn traced(place: &Place, end: &str) -> Start {
    let mut start =
        place.shell("db", &format!("echo begin; until test -e go; do sleep 0.01; done; echo end; {end}"));
    start.port = 0;
    start
}

fn trace(place: &Place) -> Vec<String> {
    place.log("db").lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_hook_that_succeeds_runs_once_and_is_quoted() {
    let place = Place::new();
    let script = r#"seq 1 30; printf '\033[31mred\377\n'"#;
    let start = place.shell("db", script);
    let done = soon("the hook", place.driver(1).run_hook(&start, PATIENCE)).await.unwrap();
    assert_eq!((done.exit.code, done.found), (Some(0), false));
    assert_eq!(done.lines.len(), 20);
    assert_eq!((done.lines[0].as_str(), done.lines[19].as_str()), ("12", "\\u{1b}[31mred\u{fffd}"));

    let again = soon("it is found", place.driver(2).run_hook(&start, PATIENCE)).await.unwrap();
    assert!(again.found);
    assert_eq!((again.exit, again.lines), (done.exit, done.lines));
    let log = std::fs::read(&start.log).unwrap();
    assert_eq!(log.split(|byte| *byte == b'\n').count(), 32, "it ran once");
}

#[tokio::test]
async fn a_hook_that_failed_is_run_again() {
    let place = Place::new();
    let start = place.shell("db", "echo trying; test -e mended || { echo 'no table' >&2; exit 4; }");
    let failed = soon("the hook", place.driver(1).run_hook(&start, PATIENCE)).await.unwrap_err();
    assert_eq!(failed.to_string(), "exited with code 4; last lines of its log:\n  trying\n  no table");
    std::fs::write(place.path("mended"), "").unwrap();
    let done = soon("the hook", place.driver(2).run_hook(&start, PATIENCE)).await.unwrap();
    assert!(!done.found);
    assert_eq!(done.lines, ["trying"], "only of this run");

    let missing = place.driver(1).run_hook(&place.start("web", &["no-such-command"]), PATIENCE).await;
    assert!(matches!(missing, Err(HookError::Start(StartError::NotStarted { .. }))), "{missing:?}");
}

#[tokio::test]
async fn a_hook_outlives_the_agent_that_is_killed_and_is_waited_for_by_the_next() {
    let place = Place::new();
    let start = traced(&place, "exit 0");
    let shim = place::shim_command().remove(0);
    let mut agent = Command::new(std::path::Path::new(&shim).with_file_name("hook"))
        .arg(place.state.root())
        .arg(serde_json::to_string(&start).unwrap())
        .arg(&shim)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    place.says("db", "begin").await;
    kill_child(&mut agent).await;

    let driver = place.driver(2);
    let (done, ()) = tokio::join!(soon("the hook", driver.run_hook(&start, PATIENCE)), async {
        wait_until("its shim has said so", async || place.running("db").is_some()).await;
        std::fs::write(place.path("go"), "").unwrap();
    });
    assert!(done.unwrap().found);
    assert_eq!(trace(&place), ["begin", "end"]);
}

async fn kill_child(agent: &mut std::process::Child) {
    let id = identify(agent.id()).unwrap();
    kill(&id).await;
    agent.wait().unwrap();
}

#[tokio::test]
async fn what_an_earlier_agent_began_and_that_then_fails_has_failed() {
    let place = Place::new();
    let start = traced(&place, "exit 9");
    let first = place.driver(1);
    let asked = {
        let start = start.clone();
        tokio::spawn(async move { first.run_hook(&start, PATIENCE).await.map(drop) })
    };
    place.says("db", "begin").await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    std::fs::write(place.path("go"), "").unwrap();
    let driver = place.driver(2);
    // It may have ended before it is found; then it is run again, and fails again.
    let failed = soon("the hook", driver.run_hook(&start, PATIENCE)).await.unwrap_err();
    assert!(matches!(&failed, HookError::Failed { exit, .. } if exit.code == Some(9)), "{failed}");
    let trace = trace(&place);
    assert!(trace == ["begin", "end"] || trace == ["begin", "end", "begin", "end"], "{trace:?}");
}

#[tokio::test]
async fn two_who_ask_at_a_time_wait_for_the_same_run() {
    let place = Place::new();
    let start = traced(&place, "exit 0");
    let (one, two) = (place.driver(1), place.driver(1));
    let (one, two, ()) = tokio::join!(
        soon("one", one.run_hook(&start, PATIENCE)),
        soon("two", two.run_hook(&start, PATIENCE)),
        async {
            place.says("db", "begin").await;
            std::fs::write(place.path("go"), "").unwrap();
        }
    );
    assert_ne!(one.unwrap().found, two.unwrap().found);
    assert_eq!(trace(&place), ["begin", "end"]);
}

#[tokio::test]
async fn a_hook_that_takes_too_long_is_stopped_and_has_not_succeeded() {
    let place = Place::new();
    // It ends in good order when it is told to, with a child that it started.
    let script =
        "trap 'echo interrupted; exit 0' TERM; echo begin; sleep 1000 & while :; do sleep 0.01; done";
    let start = place.shell("db", script);
    let limit = Duration::from_millis(300);
    let failed = soon("the hook", place.driver(1).run_hook(&start, limit)).await.unwrap_err();
    let text = failed.to_string();
    assert!(matches!(&failed, HookError::TimedOut { exit, .. } if exit.asked), "{failed:?}");
    assert!(text.starts_with("was not done within 300ms and was stopped: it exited with code 0"), "{text}");
    assert!(!text.contains("begin") || text.contains("interrupted"), "{text}");

    // What was stopped does not count as done.
    std::fs::write(place.path("go"), "").unwrap();
    let quick = Start { command: place.shell("db", "echo second").command, ..start };
    let done = soon("the next", place.driver(2).run_hook(&quick, PATIENCE)).await.unwrap();
    assert_eq!((done.found, done.lines), (false, vec!["second".to_owned()]));
}

#[tokio::test]
async fn a_hook_whose_end_nobody_saw_is_run_again_and_not_for_ever() {
    let place = Place::new();
    let start = traced(&place, "exit 0");
    let driver = place.driver(1);
    let killer = async {
        for round in 1..=UNSEEN_RUNS + 1 {
            let rounds = usize::try_from(round).unwrap();
            wait_until("it runs", async || trace(&place).len() == rounds && place.running("db").is_some())
                .await;
            let running = place.running("db").unwrap();
            kill(&running.shim).await;
            kill(&running.process).await;
        }
    };
    let (outcome, ()) = tokio::join!(soon("the hook", driver.run_hook(&start, PATIENCE)), killer);
    let failed = outcome.unwrap_err().to_string();
    assert!(failed.contains("with what code is not known"), "{failed}");
    assert_eq!(trace(&place), ["begin"; 4]);
}
