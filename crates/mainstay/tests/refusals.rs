//! What a user can get wrong, and what a machine can refuse: one message, a hint, the documented exit code,
//! nothing half-done, and what serves goes on serving.

use std::net::TcpListener;
use testkit::{Environment, Ran, Users, get, wait_until};

const MAINSTAY: &str = env!("CARGO_BIN_EXE_mainstay");

const USAGE: i32 = 2;
const VERDICT: i32 = 1;
const CONFLICT: i32 = 3;
const NOT_UP: i32 = 4;
const MACHINE: i32 = 5;

/// The exit code, and texts that standard error has to have.
#[track_caller]
fn refused(ran: &Ran, code: i32, texts: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    for text in texts {
        assert!(ran.stderr.contains(text), "no `{text}` in: {}", ran.stderr);
    }
}

fn workload(environment: &Environment, more: &str) {
    let address = environment.address;
    let text = format!(
        "[workload]\nname = \"site\"\n\
         [component.site]\n\
         run = [\"python3\", \"-m\", \"http.server\", \"{{port}}\", \"--bind\", \"127.0.0.1\"]\n\
         artifact = \"v1\"\nready = {{ timeout = \"5s\" }}\ndrain_timeout = \"2s\"\n{more}\n\
         [environment.here]\nclass = \"development\"\nlisten = {{ http = \"{address}\" }}\n"
    );
    environment.write("mainstay.toml", &text);
    environment.write("v1/index.html", "the first version");
}

fn is_up(environment: &Environment) -> bool {
    environment.state().join("run/keeper.sock").exists()
}

#[test]
fn a_wrong_workload_file_is_pointed_into() {
    let table: &[(&str, &[&str])] = &[
        ("instnaces = 2", &["instnaces", "instances", "mainstay.toml"]),
        ("instances = \"two\"", &["instances", "two"]),
        ("needs = [\"site\"]", &["circle"]),
        ("[component.site]", &["site"]),
        ("env = { A = \"{prt}\" }", &["{prt}", "port"]),
    ];
    for (line, texts) in table {
        let environment = Environment::new(MAINSTAY, "here");
        workload(&environment, line);
        let ran = environment.mainstay(&["up", "here"]);
        refused(&ran, USAGE, texts);
        assert!(!environment.state().exists(), "{line}: nothing is made");
    }
}

#[test]
fn what_does_not_exist_is_named_with_what_does() {
    let environment = Environment::new(MAINSTAY, "here");
    workload(&environment, "");
    refused(&environment.mainstay(&["up", "hree"]), USAGE, &["hree", "here"]);
    refused(&environment.mainstay(&["status", "here"]), NOT_UP, &["here", "hint: mainstay up here"]);
    refused(&environment.mainstay(&["lod", "here"]), USAGE, &["lod", "load"]);
    refused(&environment.mainstay(&["run"]), USAGE, &["no command", "hint: mainstay run --"]);
}

#[test]
fn a_port_in_use_is_said_and_nothing_stays() {
    let environment = Environment::new(MAINSTAY, "here");
    workload(&environment, "");
    let stranger = TcpListener::bind(environment.address).expect("the port is free");
    let ran = environment.mainstay(&["up", "here"]);
    refused(&ran, MACHINE, &[&environment.address.to_string(), "something else listens", "hint: "]);
    assert!(!is_up(&environment));
    drop(stranger);
    environment.mainstay(&["up", "here"]).ok();
}

#[test]
fn a_second_up_is_refused_and_the_first_goes_on() {
    let environment = Environment::new(MAINSTAY, "here");
    workload(&environment, "");
    environment.mainstay(&["up", "here"]).ok();
    let users = Users::of(environment.address, "/");
    refused(&environment.mainstay(&["up", "here"]), CONFLICT, &["already up", "hint: "]);
    let second = environment.mainstay(&["--json", "up", "here"]);
    assert_eq!(second.json()["error"]["exit"], CONFLICT);
    users.all_were_served();
}

#[test]
fn a_first_release_that_does_not_get_through_leaves_nothing_behind() {
    for (command, code, texts) in [
        (vec!["./nothing-of-that-name"], USAGE, vec!["there is no command", "nothing-of-that-name"]),
        (vec!["sh", "-c", "echo out of order; exit 7"], VERDICT, vec!["exited with code 7", "out of order"]),
    ] {
        let environment = Environment::new(MAINSTAY, "run");
        let listen = environment.address.to_string();
        let ran = environment.mainstay(&[&["run", "--listen", &listen, "--"], &command[..]].concat());
        refused(&ran, code, &texts);
        assert!(!is_up(&environment));
        assert!(get(environment.address, "/").is_err(), "nobody listens");
    }
}

/// Bad releases of an environment that serves: each is refused for its own reason.
#[test]
fn bad_releases_are_refused_and_what_serves_goes_on() {
    let environment = Environment::new(MAINSTAY, "run");
    environment.write("index.html", "the first version");
    let listen = environment.address.to_string();
    let serve = ["python3", "-m", "http.server", "{port}"];
    environment.mainstay(&[&["run", "--listen", &listen, "--"], &serve[..]].concat()).ok();
    let users = Users::of(environment.address, "/");
    let table: &[(&[&str], &[&str])] = &[
        (&["sh", "-c", "exit 3"], &["exited with code 3"]),
        (&["python3", "-m", "http.server", "0"], &["was told port", "hint: use {port}"]),
        (&["sleep", "600"], &["was not ready on port"]),
    ];
    for (command, texts) in table {
        let release = ["release", "run", "--ready-timeout", "3s", "--"];
        refused(&environment.mainstay(&[&release[..], command].concat()), VERDICT, texts);
        let status = environment.status().expect("an agent");
        assert_eq!(status["stamps"].as_array().map(Vec::len), Some(1), "{status}");
        assert_eq!(status["active"], 1);
    }
    let nothing = environment.mainstay(&["release", "run", "--", "./nothing-of-that-name"]);
    refused(&nothing, USAGE, &["there is no command"]);
    let no_command = environment.mainstay(&["release", "run"]);
    refused(&no_command, USAGE, &["no command to release", "hint: "]);
    users.all_were_served();
}

#[test]
fn an_artifact_that_changes_while_it_is_copied_is_refused() {
    let environment = Environment::new(MAINSTAY, "here");
    workload(&environment, "");
    environment.mainstay(&["up", "here"]).ok();
    // Large enough to be copied for a while, and written to all the time.
    let growing = environment.write("v2/growing", "");
    for number in 0..2000 {
        environment.write(&format!("v2/part-{number}"), &"x".repeat(20_000));
    }
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let writer = std::thread::spawn(move || {
        let mut number = 0_u64;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            number += 1;
            std::fs::write(&growing, number.to_string()).expect("it can be written");
        }
    });
    let ran = environment.mainstay(&["--json", "release", "here", "--artifact", "v2"]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().expect("it does not panic");
    assert_eq!(ran.code, VERDICT, "{ran:?}");
    let release = &ran.json()["release"];
    assert_eq!((&release["state"], &release["reason"]), (&"refused".into(), &"artifact".into()), "{release}");
    assert!(release["reason_text"].as_str().is_some_and(|text| text.contains("growing")), "{release}");
    let left = std::fs::read_dir(environment.state().join("artifacts")).expect("a folder").count();
    assert_eq!(left, 1, "only the artifact that serves is stored");
    assert_eq!(get(environment.address, "/").expect("somebody serves").body, "the first version");
}

#[test]
fn a_state_folder_of_a_newer_version_is_refused_by_name() {
    let environment = Environment::new(MAINSTAY, "here");
    workload(&environment, "");
    environment.mainstay(&["up", "here"]).ok();
    environment.mainstay(&["down", "here"]).ok();
    let mark = environment.state().join("environment.json");
    let text = std::fs::read_to_string(&mark).expect("a mark");
    std::fs::write(&mark, text.replacen("\"v\": 1", "\"v\": 2", 1)).expect("it can be written");
    refused(
        &environment.mainstay(&["up", "here"]),
        MACHINE,
        &["environment.json", "newer mainstay", "hint: "],
    );
    std::fs::write(&mark, text).expect("it can be written");

    // A database of a newer version, such as one that was restored.
    let database = environment.state().join("control.db");
    let script =
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('pragma user_version = 9')";
    let set = std::process::Command::new("python3").args(["-c", script]).arg(&database).status();
    assert!(set.expect("python3 can be run").success());
    refused(&environment.mainstay(&["up", "here"]), MACHINE, &["control.db", "newer mainstay"]);
    assert!(!is_up(&environment));
}

#[test]
fn what_cannot_be_released_does_not_end_the_keeping_of_the_old_stamp() {
    let environment = Environment::new(MAINSTAY, "here");
    workload(&environment, "");
    environment.write("v2/index.html", "the second version");
    environment.mainstay(&["up", "here"]).ok();
    environment.mainstay(&["release", "here", "--artifact", "v2"]).ok();
    let typo = environment.mainstay(&["release", "here", "--artifact", "v22"]);
    refused(&typo, USAGE, &["there is nothing at", "v22", "hint: "]);
    environment.mainstay(&["rollback", "here"]).ok();
    assert_eq!(get(environment.address, "/").expect("somebody serves").body, "the first version");
}

#[test]
fn a_workload_file_in_the_making_stands_in_nobodys_way() {
    let environment = Environment::new(MAINSTAY, "here");
    workload(&environment, "");
    environment.write("v2/index.html", "the second version");
    environment.mainstay(&["up", "here"]).ok();
    environment.mainstay(&["release", "here", "--artifact", "v2"]).ok();
    environment.write("mainstay.toml", "[workload]\nname = \"site\"\n[component.site]\nrnu = 1\n");
    refused(&environment.mainstay(&["release", "here"]), USAGE, &["rnu"]);
    environment.mainstay(&["status", "here"]).ok();
    environment.mainstay(&["rollback", "here"]).ok();
    environment.mainstay(&["logs", "here", "agent"]).ok();
    environment.mainstay(&["down", "here"]).ok();
    assert!(!is_up(&environment));
}

#[test]
fn what_a_release_of_a_command_does_not_say_stays_as_it_is() {
    let environment = Environment::new(MAINSTAY, "run");
    environment.write("index.html", "the first version");
    let listen = environment.address.to_string();
    let serve = ["python3", "-m", "http.server", "{port}"];
    let run = ["run", "--listen", &listen, "--instances", "2", "--"];
    environment.mainstay(&[&run[..], &serve[..]].concat()).ok();
    environment.mainstay(&[&["release", "run", "--"], &serve[..]].concat()).ok();
    let status = environment.status().expect("an agent");
    assert_eq!(status["stamps"][0]["instances"].as_array().map(Vec::len), Some(2), "{status}");
    refused(&environment.mainstay(&["release", "run", "--artifact", "x"]), USAGE, &["no artifact", "hint: "]);
}

#[test]
fn a_second_release_waits_for_nobody_and_is_told_of_the_first() {
    let environment = Environment::new(MAINSTAY, "run");
    environment.write("index.html", "the first version");
    let listen = environment.address.to_string();
    let serve = ["python3", "-m", "http.server", "{port}"];
    environment.mainstay(&[&["run", "--listen", &listen, "--"], &serve[..]].concat()).ok();
    let hanging = ["release", "run", "--ready-timeout", "1h", "--", "sleep", "3600"];
    let mut first = environment.command(&hanging).spawn().expect("mainstay can be run");
    wait_until("the first release provisions", || {
        let status = environment.status()?;
        (status["releases"][0]["state"] == "provisioning").then_some(())
    });
    let second = environment.mainstay(&[&["release", "run", "--"], &serve[..]].concat());
    refused(&second, CONFLICT, &["one release at a time", "hint: ", "mainstay rollback run"]);
    refused(&environment.mainstay(&["down", "run"]), CONFLICT, &["provisioning", "hint: "]);
    environment.mainstay(&["rollback", "run"]).ok();
    assert_eq!(first.wait().expect("it ends").code(), Some(VERDICT));
    refused(&environment.mainstay(&["rollback", "run"]), CONFLICT, &["taken back already"]);
}

/// There is no machine with that much memory, and none is asked to find out.
#[test]
fn a_release_that_does_not_fit_is_refused_by_name_and_nothing_is_started() {
    let environment = Environment::new(MAINSTAY, "here");
    workload(&environment, "limits = { memory = \"256MiB\" }");
    environment.write("v2/index.html", "the second version");
    environment.mainstay(&["up", "here"]).ok();
    let before = environment.status().expect("an agent");

    workload(&environment, "limits = { memory = \"4000000GiB\" }");
    let planned = environment.mainstay(&["--json", "release", "here", "--artifact", "v2", "--plan"]);
    assert_eq!(planned.code, VERDICT, "{planned:?}");
    let checks = planned.json()["checks"].as_array().expect("checks").clone();
    let of = |name: &str| checks.iter().find(|check| check["check"] == name).expect(name);
    assert_eq!(of("memory")["verdict"], "fail", "{checks:?}");
    assert_eq!(of("memory")["numbers"]["needed"], 4_000_000_u64 << 30);
    for fits in ["disk", "ports", "open_files"] {
        assert_eq!(of(fits)["verdict"], "pass", "{checks:?}");
    }
    let limits = of("limits")["text"].as_str().expect("a text");
    assert!(limits.contains("limits differ: site.memory 256 MiB → "), "{limits}");

    let ran = environment.mainstay(&["release", "here", "--artifact", "v2"]);
    refused(
        &ran,
        MACHINE,
        &["does not fit", "memory: ", "needed (site 1 × ", "available", "hint: ", "`limits.memory`"],
    );
    let after = environment.status().expect("an agent");
    assert_eq!(after["releases"], before["releases"], "nothing was begun");
    assert_eq!(after["stamps"], before["stamps"], "nothing was started");

    // Less is another limit too, which is said and no reason against it.
    workload(&environment, "limits = { memory = \"128MiB\" }");
    environment.mainstay(&["release", "here", "--artifact", "v2"]).ok();
    let history = environment.mainstay(&["--json", "history", "show", "here"]).ok().json();
    let events = history["events"].as_array().expect("events");
    let told = |event: &serde_json::Value| {
        let text = event["text"].as_str().unwrap_or_default();
        text.contains("limits differ: site.memory 256 MiB → 128 MiB; the gate compares unequal deployments")
    };
    assert!(events.iter().any(told), "{history}");
}
