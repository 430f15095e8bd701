//! Instances that run and have stopped answering, a service that is away for a moment, and pages of the release
//! before.

mod stage;

use serde_json::{Value, json};
use stage::{MAINSTAY, assert_settled, kill};
use testkit::{Environment, Users, get, wait_until};

/// Answers everything, but for the live probe when a file named after its process is there.
const APP: &str = "import http.server, os, sys, threading\n\
    class H(http.server.BaseHTTPRequestHandler):\n\
    \x20   def do_GET(self):\n\
    \x20       if self.path == '/healthz' and os.path.exists('%s/hung-%d' % (sys.argv[2], os.getpid())):\n\
    \x20           threading.Event().wait()\n\
    \x20       self.send_response(200)\n\
    \x20       self.send_header('content-length', '0')\n\
    \x20       self.end_headers()\n\
    \x20   def log_message(self, *a): pass\n\
    class S(http.server.ThreadingHTTPServer):\n\
    \x20   request_queue_size = 128\n\
    S(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n";

/// The app with so many instances, up and serving, and its users.
fn app(instances: u32) -> (Environment, Users) {
    let environment = Environment::new(MAINSTAY, "here");
    let address = environment.address;
    environment.write("app/app.py", APP);
    environment.write(
        "mainstay.toml",
        &format!(
            r#"
            [workload]
            name = "w"
            [component.app]
            run           = ["python3", "app.py", "{{port}}", "{{data}}"]
            artifact      = "app"
            instances     = {instances}
            live          = {{ get = "/healthz", every = "100ms" }}
            drain_timeout = "5s"
            [gateway]
            hold = {{ time = "30s" }}
            [environment.here]
            class  = "staging"
            listen = {{ http = "{address}" }}
            "#
        ),
    );
    environment.mainstay(&["up", "here"]).ok();
    assert_settled(&environment);
    let users = Users::of(address, "/");
    (environment, users)
}

/// From now on the instance hangs when it is asked whether it lives.
fn hang(environment: &Environment, instance: &Value) {
    environment.write(&format!("state/data/hung-{}", instance["pid"]), "");
}

fn instances(environment: &Environment) -> Option<Vec<Value>> {
    environment.status()?["stamps"][0]["instances"].as_array().cloned()
}

fn more_come(users: &Users) {
    let before = users.served();
    wait_until("users are served", || (users.served() > before + 50).then_some(()));
}

#[test]
fn one_that_hangs_is_replaced_and_nobody_notices() {
    let (environment, users) = app(2);
    let before = instances(&environment).expect("it is up");
    more_come(&users);
    hang(&environment, &before[0]);
    let after = wait_until("it is started again", || {
        let now = instances(&environment)?;
        (now[0]["replaced"] == 1 && now[0]["ready"] == true).then_some(now)
    });
    assert_ne!(after[0]["pid"], before[0]["pid"]);
    assert_eq!((&after[0]["restarts"], &after[0]["failing"]), (&json!(0), &Value::Null), "it did not crash");
    let why = after[0]["last_exit"].as_str().unwrap_or_default();
    assert!(why.contains("GET /healthz") && why.contains("did not answer within 500ms"), "{why}");
    assert_eq!(after[1], before[1]);
    more_come(&users);
    users.all_were_served();
    assert_eq!(environment.status().expect("it is up")["gateway"]["failed"], 0);
}

#[test]
fn when_all_hang_together_none_is_replaced_and_all_serve() {
    const SAID: &str = "every instance fails its live probe";
    let (environment, users) = app(2);
    let before = instances(&environment).expect("it is up");
    before.iter().for_each(|instance| hang(&environment, instance));
    wait_until("all are known to hang", || {
        (environment.status()?["stamps"][0]["all_failing"] == json!(["app"])).then_some(())
    });
    more_come(&users);
    let now = instances(&environment).expect("it is up");
    for (now, before) in now.iter().zip(&before) {
        assert!(now["failing"].as_str().is_some_and(|why| why.contains("GET /healthz")), "{now}");
        for same in ["pid", "ready", "restarts", "replaced"] {
            assert_eq!(now[same], before[same], "{same}: {now}");
        }
    }
    let shown = environment.mainstay(&["status", "here"]).ok().stdout;
    assert!(shown.contains("every instance of app fails its live probe"), "{shown}");
    for instance in &before {
        let flag = environment.state().join(format!("data/hung-{}", instance["pid"]));
        std::fs::remove_file(flag).expect("it is there");
    }
    wait_until("they answer again", || {
        let status = environment.status()?;
        let stamp = &status["stamps"][0];
        let well = stamp["instances"].as_array()?.iter().all(|instance| instance["failing"].is_null());
        (stamp["all_failing"] == json!([]) && well).then_some(())
    });
    for (now, before) in instances(&environment).expect("it is up").iter().zip(&before) {
        assert_eq!((&now["pid"], &now["replaced"]), (&before["pid"], &json!(0)), "nor afterwards: {now}");
    }
    users.all_were_served();
    let log = std::fs::read_to_string(environment.state().join("logs/agent.log")).expect("a log");
    assert_eq!(log.matches(SAID).count(), 1, "{log}");
}

#[test]
fn users_of_the_only_instance_wait_while_it_is_started_again() {
    let (environment, users) = app(1);
    let before = instances(&environment).expect("it is up");
    more_come(&users);
    kill(&before[0]["pid"]);
    wait_until("it is started again", || {
        let now = instances(&environment)?;
        (now[0]["restarts"] == 1 && now[0]["ready"] == true).then_some(())
    });
    more_come(&users);
    users.all_were_served();
    assert_eq!(environment.status().expect("it is up")["gateway"]["failed"], 0);
    let lines = std::fs::read_to_string(environment.state().join("logs/access.log")).expect("access lines");
    let held = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["held_ms"].as_u64().filter(|ms| *ms > 0)
    };
    assert!(lines.lines().any(|line| held(line).is_some()), "nobody had to wait: {lines}");
}

/// While the old stamp is kept warm it is asked itself; afterwards its files are.
#[test]
fn a_page_of_the_release_before_still_finds_its_assets() {
    let environment = Environment::new(MAINSTAY, "here");
    let address = environment.address;
    for release in ["v1", "v2", "v3"] {
        environment.write(&format!("{release}/public/assets/{release}.js"), release);
    }
    environment.write(
        "mainstay.toml",
        &format!(
            r#"
            [workload]
            name = "w"
            [component.site]
            run           = ["python3", "-m", "http.server", "{{port}}", "--directory", "public"]
            artifact      = "v1"
            drain_timeout = "2s"
            [route."GET /assets/**"]
            previous_stamp = {{ files = "public" }}
            [environment.here]
            class  = "staging"
            listen = {{ http = "{address}" }}
            [release]
            keep_old = "1h"
            "#
        ),
    );
    environment.mainstay(&["up", "here"]).ok();
    let asset = |release: &str| get(address, &format!("/assets/{release}.js")).expect("somebody serves");
    let of_a_file = |head: &str| head.to_lowercase().contains("\netag:");
    environment.mainstay(&["release", "here", "--artifact", "v2"]).ok();
    let kept_warm = asset("v1");
    assert_eq!((kept_warm.status, kept_warm.body.as_str(), of_a_file(&kept_warm.head)), (200, "v1", false));
    assert_eq!((asset("v2").status, asset("v3").status), (200, 404));
    // The next release begins with the end of what is kept.
    environment.mainstay(&["release", "here", "--artifact", "v3"]).ok();
    assert_eq!((asset("v3").body.as_str(), asset("v2").body.as_str()), ("v3", "v2"));
    environment.mainstay(&["rollback", "here"]).ok();
    wait_until("the files of the stamp that was taken back", || {
        let answer = asset("v3");
        (answer.status == 200 && of_a_file(&answer.head)).then_some(())
    });
    let answer = asset("v2");
    assert_eq!((answer.body.as_str(), of_a_file(&answer.head)), ("v2", false));
}
