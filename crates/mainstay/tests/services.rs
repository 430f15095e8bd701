//! Services that nobody here wrote, unmodified, released to a changed version while users come.

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use testkit::{Environment, get, wait_until};

const MAINSTAY: &str = env!("CARGO_BIN_EXE_mainstay");

/// A load test in the background. The journeys of its users are `GET /`.
fn load(environment: &Environment, rate: &str, seconds: u32) -> Child {
    let duration = format!("{seconds}s");
    let arguments = ["--json", "load", "run", "--rate", rate, "--for", &duration];
    environment.command(&arguments).stdout(Stdio::piped()).spawn().expect("mainstay can be run")
}

/// The report of a load test that has to have passed.
fn passed(load: Child) -> Value {
    let output = load.wait_with_output().expect("it ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["failed"], 0, "{report}");
    assert!(report["requests"].as_u64().is_some_and(|requests| requests > 100), "{report}");
    report
}

fn run(environment: &Environment, command: &[&str]) {
    let listen = environment.address.to_string();
    let arguments = [&["run", "--listen", &listen, "--instances", "2", "--"], command].concat();
    environment.mainstay(&arguments).ok();
}

/// Releases `command` while users come, takes it back, and releases it again.
fn release_under_load(environment: &Environment, command: &[&str], is_new: impl Fn(&str) -> bool) {
    let answer = || get(environment.address, "/").expect("somebody serves").body;
    assert!(!is_new(&answer()));
    let users = load(environment, "40/s", 10);
    wait_until("users come", || {
        let status = environment.status()?;
        status["gateway"]["requests"].as_u64().filter(|requests| *requests > 20)
    });
    let release = [&["--json", "release", "run", "--instances", "2", "--"], command].concat();
    let released = environment.mainstay(&release).ok().json();
    assert!(released["release"]["switch_ms"].is_number(), "{released}");
    assert!(is_new(&answer()));
    environment.mainstay(&["rollback", "run"]).ok();
    assert!(!is_new(&answer()));
    environment.mainstay(&release).ok();
    assert!(is_new(&answer()));
    passed(users);
}

#[test]
fn the_http_server_of_python_is_released_under_load() {
    let environment = Environment::new(MAINSTAY, "run");
    environment.write("v1/index.html", "the first version");
    environment.write("v2/index.html", "the second version");
    run(&environment, &["python3", "-m", "http.server", "{port}", "--directory", "v1"]);
    let second = ["python3", "-m", "http.server", "{port}", "--directory", "v2"];
    release_under_load(&environment, &second, |body| body.contains("second"));
}

/// Where `./test` has installed datasette.
fn datasette() -> String {
    let venv = std::env::var_os("MAINSTAY_TEST_VENV").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/test-venv"),
        PathBuf::from,
    );
    let program = venv.join("bin/datasette");
    assert!(program.exists(), "{} is missing: ./test installs it", program.display());
    program.display().to_string()
}

#[test]
fn datasette_is_released_under_load() {
    let program = datasette();
    let environment = Environment::new(MAINSTAY, "run");
    let script = "import sqlite3; c = sqlite3.connect('shoes.db'); \
                  c.execute('create table shoes (name text)'); \
                  c.executemany('insert into shoes values (?)', [('shoe %d' % n,) for n in range(100)]); \
                  c.commit()";
    let made = Command::new("python3").args(["-c", script]).current_dir(environment.folder()).status();
    assert!(made.expect("python3 can be run").success());
    let serve = [program.as_str(), "serve", "shoes.db", "--port", "{port}"];
    run(&environment, &serve);
    let body = get(environment.address, "/shoes/shoes.json").expect("somebody serves").body;
    assert!(body.contains("shoe 1"), "{body}");
    let changed =
        [&serve[..], &["--setting", "default_page_size", "7", "--metadata", "metadata.json"]].concat();
    environment.write("metadata.json", r#"{"title": "the second version"}"#);
    release_under_load(&environment, &changed, |body| body.contains("the second version"));
}
