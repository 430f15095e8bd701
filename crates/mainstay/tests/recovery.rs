//! The processes of an environment are killed, and users notice nothing.

mod stage;

use serde_json::Value;
use stage::{MAINSTAY, agent_was_killed, assert_settled, kill, release, serving};
use testkit::{Environment, Users, get, wait_until};

/// A shop with two instances, up and serving v1.
fn shop(crash_at: Option<&str>) -> Environment {
    // Smoke is to notice it.
    let component = "env = { SHOP_ERROR_EVERY = \"1\" }";
    stage::shop(&stage::Shop { crash_at, component, ..stage::Shop::plain() })
}

/// A release of v2 with an agent killed at `moment` of `state`.
fn killed_going_forward(state: &str) {
    // What waits for a release to be done replaces it at once: there is no moment after acting.
    let moments: &[&str] = if state == "done" { &["recorded"] } else { &["recorded", "acted"] };
    for moment in moments {
        let environment = shop(Some(&format!("r2:{moment}:{state}")));
        let users = Users::of(environment.address, "/healthz");
        let released = release(&environment, "v2").ok().json();
        assert_eq!(released["release"]["reason"], Value::Null, "{released}");
        if matches!(state, "retiring" | "done") {
            // A newer release ends the keeping of the old stamp.
            release(&environment, "v3-errors");
        }
        wait_until("the agent is killed", || agent_was_killed(&environment).then_some(()));
        assert_settled(&environment);
        users.all_were_served();
        assert_eq!(serving(&environment), "v2", "{moment} {state}");
    }
}

#[test]
fn agent_killed_at_planned() {
    killed_going_forward("planned");
}

#[test]
fn agent_killed_at_provisioning() {
    killed_going_forward("provisioning");
}

#[test]
fn agent_killed_at_verifying() {
    killed_going_forward("verifying");
}

#[test]
fn agent_killed_at_switching() {
    killed_going_forward("switching");
}

#[test]
fn agent_killed_at_promoted() {
    killed_going_forward("promoted");
}

#[test]
fn agent_killed_at_retiring() {
    killed_going_forward("retiring");
}

#[test]
fn agent_killed_at_done() {
    killed_going_forward("done");
}

/// A release that does not get through, with an agent killed at `moment` of `state`.
fn killed_going_back(artifact: &str, state: &str, outcome: &str) {
    for moment in ["recorded", "acted"] {
        let environment = shop(Some(&format!("r2:{moment}:{state}")));
        let users = Users::of(environment.address, "/healthz");
        let released = release(&environment, artifact);
        assert_eq!(released.code, 1, "{released:?}");
        assert_eq!(released.json()["release"]["state"], outcome);
        wait_until("the agent is killed", || agent_was_killed(&environment).then_some(()));
        let status = assert_settled(&environment);
        users.all_were_served();
        assert_eq!(status["stamps"].as_array().map(Vec::len), Some(1), "{status}");
        assert_eq!(serving(&environment), "v1", "{moment} {state}");
    }
}

#[test]
fn agent_killed_at_aborting_before_anything_could_reach_the_candidate() {
    killed_going_back("v3-broken", "aborting", "refused");
}

#[test]
fn agent_killed_at_refused() {
    killed_going_back("v3-broken", "refused", "refused");
}

#[test]
fn agent_killed_at_aborting_after_smoke() {
    killed_going_back("v3-errors", "aborting", "rolled_back");
}

#[test]
fn agent_killed_at_rolled_back() {
    killed_going_back("v3-errors", "rolled_back", "rolled_back");
}

#[test]
fn agent_killed_at_taking_back() {
    for moment in ["recorded", "acted"] {
        let environment = shop(Some(&format!("r2:{moment}:taking_back")));
        let users = Users::of(environment.address, "/healthz");
        release(&environment, "v2").ok();
        environment.mainstay(&["rollback", "here"]).ok();
        wait_until("the agent is killed", || agent_was_killed(&environment).then_some(()));
        assert_settled(&environment);
        users.all_were_served();
        assert_eq!(serving(&environment), "v1", "{moment}");
    }
}

#[test]
fn an_agent_that_is_killed_when_nothing_happens_is_replaced_and_nothing_else_is() {
    let environment = shop(None);
    let before = assert_settled(&environment);
    let users = Users::of(environment.address, "/healthz");
    kill(&before["agent_pid"]);
    let after = wait_until("another agent", || {
        environment.status().filter(|status| status["agent_pid"] != before["agent_pid"])
    });
    let after = if after["active_ready"] == true { after } else { assert_settled(&environment) };
    users.all_were_served();
    assert_eq!(after["stamps"], before["stamps"], "instances live on");
    assert_eq!(after["gateway"]["pid"], before["gateway"]["pid"]);
}

#[test]
fn a_gateway_that_is_killed_is_replaced_and_new_connections_wait_for_it() {
    let environment = shop(None);
    let before = assert_settled(&environment);
    kill(&before["gateway"]["pid"]);
    // This connection is made while there is no gateway, or a new one: nothing was in flight on the old.
    let answer = get(environment.address, "/healthz").expect("it waits in the backlog of the socket");
    assert_eq!(answer.status, 200);
    wait_until("the agent knows the new gateway", || {
        let pid = environment.status()?["gateway"]["pid"].clone();
        (!pid.is_null() && pid != before["gateway"]["pid"]).then_some(())
    });
    let after = assert_settled(&environment);
    assert_eq!(after["stamps"], before["stamps"]);
}

#[test]
fn without_a_keeper_everything_goes_on_and_can_be_taken_down() {
    let environment = shop(None);
    let status = assert_settled(&environment);
    let users = Users::of(environment.address, "/healthz");
    let agent = status["agent_pid"].as_u64().expect("a process");
    let stat = std::fs::read_to_string(format!("/proc/{agent}/stat")).expect("the agent runs");
    let keeper: u64 =
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok()).expect("a parent");
    kill(&keeper.into());
    release(&environment, "v2").ok();
    users.all_were_served();
    let up = environment.mainstay(&["up", "here"]);
    assert_eq!(up.code, 3, "{up:?}");
    assert!(up.stderr.contains("hint: mainstay down here"), "{up:?}");
    environment.mainstay(&["down", "here"]).ok();
    environment.mainstay(&["up", "here"]).ok();
    assert_settled(&environment);
    assert_eq!(serving(&environment), "v2");
}

#[test]
fn an_instance_that_is_killed_is_started_again() {
    let environment = shop(None);
    let before = assert_settled(&environment);
    let killed = before["stamps"][0]["instances"][0].clone();
    kill(&killed["pid"]);
    let after = wait_until("the instance is started again", || {
        let status = environment.status()?;
        let instance = &status["stamps"][0]["instances"][0];
        (instance["ready"] == true && instance["pid"] != killed["pid"]).then_some(status)
    });
    assert_eq!(after["stamps"][0]["instances"][0]["restarts"], 1);
    assert_eq!(after["stamps"][0]["instances"][1], before["stamps"][0]["instances"][1]);
    assert_eq!(get(environment.address, "/healthz").expect("somebody serves").status, 200);
}

/// A service whose readiness path has begun to fail goes on serving when the agent is replaced.
#[test]
fn an_agent_that_takes_over_does_not_judge_what_serves() {
    let environment = Environment::new(MAINSTAY, "here");
    let address = environment.address;
    let script = "import http.server, os, sys\n\
        class H(http.server.BaseHTTPRequestHandler):\n\
        \x20   def do_GET(self):\n\
        \x20       bad = self.path == '/readyz' and os.path.exists(sys.argv[2])\n\
        \x20       self.send_response(503 if bad else 200)\n\
        \x20       self.end_headers()\n\
        \x20   def log_message(self, *a): pass\n\
        http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n";
    environment.write("app/app.py", script);
    environment.write(
        "mainstay.toml",
        &format!(
            "[workload]\nname = \"w\"\n[component.app]\nartifact = \"app\"\ninstances = 2\n\
             run = [\"python3\", \"app.py\", \"{{port}}\", \"{{data}}/away\"]\n\
             ready = {{ get = \"/readyz\", timeout = \"2s\" }}\ndrain_timeout = \"1s\"\n\
             [environment.here]\nclass = \"staging\"\nlisten = {{ http = \"{address}\" }}\n"
        ),
    );
    environment.mainstay(&["up", "here"]).ok();
    let before = assert_settled(&environment);
    let users = Users::of(address, "/");
    environment.write("state/data/away", "");
    kill(&before["agent_pid"]);
    let after = wait_until("another agent", || {
        let status = environment.status()?;
        (status["agent_pid"] != before["agent_pid"] && status["active_ready"] == true).then_some(status)
    });
    assert_eq!(after["stamps"], before["stamps"]);
    users.all_were_served();
}

/// The port of a service that others need stays the same when it is started again.
#[test]
fn what_is_needed_is_found_again_after_a_crash() {
    let environment = Environment::new(MAINSTAY, "here");
    let address = environment.address;
    environment.write("site/index.html", "x");
    environment.write(
        "mainstay.toml",
        &format!(
            "[workload]\nname = \"w\"\n\
             [component.back]\nrun = [\"python3\", \"-m\", \"http.server\", \"{{port}}\"]\nartifact = \"site\"\nas = \"BACK\"\n\
             [component.front]\nrun = [\"python3\", \"-m\", \"http.server\", \"{{port}}\"]\nartifact = \"site\"\nneeds = [\"back\"]\n\
             [gateway]\ndefault = \"front\"\n\
             [environment.here]\nclass = \"staging\"\nlisten = {{ http = \"{address}\" }}\n"
        ),
    );
    environment.mainstay(&["up", "here"]).ok();
    let instance = |status: &Value, component: &str| {
        let instances = status["stamps"][0]["instances"].as_array().cloned().unwrap_or_default();
        instances.into_iter().find(|instance| instance["component"] == component).expect("an instance")
    };
    let before = instance(&assert_settled(&environment), "back");
    kill(&before["pid"]);
    let after = wait_until("it is started again", || {
        let back = instance(&environment.status()?, "back");
        (back["ready"] == true && back["pid"] != before["pid"]).then_some(back)
    });
    let front = instance(&assert_settled(&environment), "front");
    let told = std::fs::read(format!("/proc/{}/environ", front["pid"])).expect("the front runs");
    let told = String::from_utf8_lossy(&told).into_owned();
    let back = format!("BACK=http://127.0.0.1:{}", after["port"]);
    assert!(told.split('\0').any(|variable| variable == back), "{back} is not in {told}");
}

#[test]
fn what_was_promoted_serves_again_after_down_and_up() {
    let environment = shop(None);
    release(&environment, "v2").ok();
    environment.mainstay(&["down", "here"]).ok();
    assert!(get(environment.address, "/healthz").is_err(), "nobody listens");
    environment.mainstay(&["up", "here"]).ok();
    assert_settled(&environment);
    assert_eq!(serving(&environment), "v2");
}

#[test]
fn a_rollback_right_after_an_agent_was_killed_is_carried_out() {
    for _ in 0..3 {
        let environment = shop(None);
        release(&environment, "v2").ok();
        let before = assert_settled(&environment);
        let users = Users::of(environment.address, "/healthz");
        kill(&before["agent_pid"]);
        environment.mainstay(&["rollback", "here"]).ok();
        users.all_were_served();
        assert_eq!(serving(&environment), "v1");
    }
}
