//! A release through every state there is, with hooks and workers, and an agent that is killed at each of them,
//! going forward and going back: users notice nothing, hooks never overlap, workers are never two.

mod stage;

use serde_json::Value;
use stage::{Shop, agent_was_killed, assert_settled, release, serving};
use testkit::{Environment, Users, wait_until};

/// Quick steps, each of which sees enough requests.
const POLICY: &str = r#"
    shift        = [50, 100]
    step_time    = "1s"
    bake         = "1s"
    warm_up      = "300ms"
    min_requests = 5
    keep_old     = "1h"
"#;

/// A store with hooks that say when they begin and end, and a worker that says when it lives.
const MORE: &str = r#"
    [flow.look]
    [[flow.look.step]]
    get = "/api/products?page=2"
    [component.db]
    store    = "sqlite"
    as       = "DB"
    artifact = "v1"
    expand   = ["sh", "-c", "echo begin >> \"$0\"; sleep 0.3; echo end >> \"$0\"", "{data}/hooks"]
    contract = ["sh", "-c", "echo begin >> \"$0\"; sleep 0.3; echo end >> \"$0\"", "{data}/hooks"]
    schema   = "1-2"
    [component.worker]
    http     = false
    artifact = "v1"
    drain_timeout = "2s"
    run      = ["python3", "-c", """
import os, signal, sys, time
path = sys.argv[1]
# Fails when another one lives: this is what may never be.
lock = os.open(path + '/worker.lock', os.O_CREAT | os.O_RDWR)
import fcntl
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    open(path + '/two', 'a').write('two workers')
    sys.exit(1)
say = lambda what: open(path + '/worker', 'a').write('%s %s %.3f\\n' % (what, sys.argv[2], time.time()))
say('begin')
def stop(*a):
    say('end')
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
while True:
    time.sleep(1)
""", "{data}", "{stamp.name}"]
    [gateway]
    default = "shop"
"#;

fn full(crash_at: Option<&str>) -> Environment {
    stage::shop(&Shop { crash_at, more: MORE, policy: POLICY, ..Shop::plain() })
}

fn lines(environment: &Environment, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(environment.state().join("data").join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// What holds after any release: hooks ran one after the other, and one worker lives, that of `stamp`.
fn assert_in_order(environment: &Environment, stamp: &str) {
    let hooks = lines(environment, "hooks");
    for (index, line) in hooks.iter().enumerate() {
        let expected = if index % 2 == 0 { "begin" } else { "end" };
        assert_eq!(line, expected, "hooks overlapped or were cut: {hooks:?}");
    }
    assert_eq!(lines(environment, "two"), Vec::<String>::new());
    wait_until("the worker of the stamp that serves lives", || {
        let worker = lines(environment, "worker");
        let last = worker.last()?;
        last.starts_with(&format!("begin {stamp} ")).then_some(())
    });
}

fn killed_going_forward(state: &str) {
    for moment in ["recorded", "acted"] {
        let environment = full(Some(&format!("r2:{moment}:{state}")));
        let users = Users::of(environment.address, "/healthz");
        let released = environment.mainstay(&[
            "--json",
            "release",
            "here",
            "--artifact",
            "v2",
            "--name",
            "v2",
            "--rehearse",
        ]);
        let released = released.ok().json();
        assert_eq!(released["release"]["reason"], Value::Null, "{released}");
        if state == "contracting" {
            // A newer release ends the keeping of the old stamp.
            release(&environment, "v3-broken");
        }
        wait_until("the agent is killed", || agent_was_killed(&environment).then_some(()));
        assert_settled(&environment);
        users.all_were_served();
        assert_eq!(serving(&environment), "v2", "{moment} {state}");
        assert_in_order(&environment, "s2");
    }
}

#[test]
fn agent_killed_at_expanding() {
    killed_going_forward("expanding");
}

#[test]
fn agent_killed_at_warming() {
    killed_going_forward("warming");
}

#[test]
fn agent_killed_at_shifting() {
    killed_going_forward("shifting");
}

#[test]
fn agent_killed_at_switching_with_more_to_come() {
    killed_going_forward("switching");
}

#[test]
fn agent_killed_at_rehearsing_back() {
    killed_going_forward("rehearsing_back");
}

#[test]
fn agent_killed_at_rehearsing_forward() {
    killed_going_forward("rehearsing_forward");
}

#[test]
fn agent_killed_at_baking() {
    killed_going_forward("baking");
}

#[test]
fn agent_killed_at_promoted_with_a_worker() {
    killed_going_forward("promoted");
}

#[test]
fn agent_killed_at_contracting() {
    killed_going_forward("contracting");
}

/// A release that is aborted in `state`, and the agent killed while it is taken back.
fn killed_going_back(aborted_in: &str, state: &str) {
    for moment in ["recorded", "acted"] {
        let environment = full(Some(&format!("r2:{moment}:{state}")));
        let users = Users::of(environment.address, "/healthz");
        let arguments = ["--json", "release", "here", "--artifact", "v2", "--name", "v2"];
        let running = environment.mainstay_later(&arguments);
        wait_until("the release is there", || {
            let status = environment.status()?;
            (status["releases"][0]["state"] == aborted_in).then_some(())
        });
        environment.mainstay(&["abort", "here"]).ok();
        let released = running.wait();
        assert_eq!(released.code, 1, "{released:?}");
        assert_eq!(released.json()["release"]["reason"], "operator", "{released:?}");
        wait_until("the agent is killed", || agent_was_killed(&environment).then_some(()));
        assert_settled(&environment);
        users.all_were_served();
        assert_eq!(serving(&environment), "v1", "{moment} {state}");
        assert_in_order(&environment, "s1");
    }
}

#[test]
fn agent_killed_when_an_expanding_release_is_aborted() {
    killed_going_back("expanding", "aborting");
}

#[test]
fn agent_killed_when_a_shifting_release_is_aborted() {
    killed_going_back("shifting", "taking_back");
}

#[test]
fn agent_killed_when_a_baking_release_is_aborted() {
    killed_going_back("baking", "taking_back");
}

#[test]
fn a_worker_is_handed_over_and_back() {
    let environment = full(None);
    assert_in_order(&environment, "s1");
    release(&environment, "v2").ok();
    assert_in_order(&environment, "s2");
    environment.mainstay(&["rollback", "here"]).ok();
    assert_in_order(&environment, "s1");
    let story: Vec<String> = lines(&environment, "worker")
        .iter()
        .map(|line| line.rsplit_once(' ').expect("three words").0.to_owned())
        .collect();
    assert_eq!(story, ["begin s1", "end s1", "begin s2", "end s2", "begin s1"]);
}

#[test]
fn after_contracting_code_of_before_is_refused_by_name() {
    let environment = full(None);
    let users = Users::of(environment.address, "/healthz");
    release(&environment, "v2").ok();
    release(&environment, "v3-identical").ok();
    // r2 was retired for r3, and has contracted.
    let contracted = wait_until("r2 has contracted", || {
        let shown = environment.mainstay(&["--json", "history", "show", "here", "2"]);
        (shown.code == 0).then(|| shown.json()).filter(|history| history["release"]["state"] == "done")
    });
    assert!(contracted["events"].to_string().contains("contract of db done"), "{contracted}");
    users.all_were_served();
    let file = environment.folder().join("mainstay.toml");
    let text = std::fs::read_to_string(&file).expect("it was written");
    environment.write("mainstay.toml", &text.replace("schema   = \"1-2\"", "schema   = \"1\""));
    let refused = release(&environment, "v1");
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(
        refused.stderr.contains("schema 1 of db") || refused.stdout.contains("schema 1 of db"),
        "{refused:?}"
    );
    let refused = format!("{refused:?}");
    assert!(refused.contains("has contracted it to 2") && refused.contains("(v2)"), "{refused}");
}

#[test]
fn a_plan_says_what_would_happen_and_nothing_does() {
    let environment = full(None);
    let planned =
        environment.mainstay(&["--json", "release", "here", "--artifact", "v2", "--plan"]).ok().json();
    let states: Vec<_> =
        planned["plan"].as_array().expect("steps").iter().map(|step| &step["state"]).collect();
    assert_eq!(
        states,
        [
            "planned",
            "expanding",
            "provisioning",
            "verifying",
            "warming",
            "shifting",
            "switching",
            "baking",
            "promoted",
            "retiring",
            "contracting",
            "done"
        ]
    );
    let status = environment.status().expect("it is up");
    assert_eq!(status["releases"].as_array().map(Vec::len), Some(1), "{status}");
}

#[test]
fn down_stops_a_hook_that_runs() {
    let more = MORE.replace(
        "contract = [\"sh\", \"-c\", \"echo begin >> \\\"$0\\\"; sleep 0.3;",
        "contract = [\"sh\", \"-c\", \"echo contracting >> \\\"$0\\\"; sleep 600;",
    );
    assert_ne!(more, MORE);
    let environment = stage::shop(&Shop { more: &more, policy: POLICY, ..Shop::plain() });
    let contracting = wait_until("the hook of the first release runs", || {
        let shim = environment.state().join("run/shims/s1-db-1/running.json");
        let running: Value = serde_json::from_str(&std::fs::read_to_string(shim).ok()?).ok()?;
        running["process"]["pid"].as_u64()
    });
    environment.mainstay(&["down", "here"]).ok();
    assert!(!std::path::Path::new(&format!("/proc/{contracting}")).exists(), "the hook goes on");
}
