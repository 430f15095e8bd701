//! The life of instances with real processes: start, end, stop, and what each leaves behind.

#![expect(clippy::unwrap_used, reason = "tests")]

mod place;

use api::shim::{Answer, Ask, Exit, Start, StopSignal};
use model::name::FenceToken;
use place::{Place, all_gone, soon, wait_until};
use runtime::process::alive;
use runtime::{NotReady, StartError, describe_exit};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// What this process was itself started with and hands to every child: not the shim's doing.
fn inheritable() -> BTreeSet<String> {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let mut found = BTreeSet::new();
    for fd in std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.file_name()) {
        let Ok(info) = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(&fd)) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        if u32::from_str_radix(flags.trim(), 8).unwrap() & CLOSE_ON_EXEC == 0
            && let Ok(target) = std::fs::read_link(Path::new("/proc/self/fd").join(&fd))
        {
            found.insert(target.to_str().unwrap().to_owned());
        }
    }
    found
}

const GRACE: Duration = Duration::from_secs(20);
/// Says that this process was started with signals ignored.
const IGNORING: &str = "MAINSTAY_TEST_IGNORING";

#[tokio::test]
async fn an_instance_gets_what_it_is_told_and_nothing_else() {
    let place = Place::new();
    let script = "echo \"in $(pwd)\"; echo \"input $(readlink /proc/self/fd/0)\"; \
                  ls -l /proc/$$/fd; echo \"soft $(ulimit -Sn) hard $(ulimit -Hn)\"; \
                  /usr/bin/env; echo \"group $(ps -o pgid= -p $$ | tr -d ' ') is $$\"; echo to-errors >&2; exec sleep 1000";
    let mut start = place.shell("api", script);
    start.env.push(("GREETING".to_owned(), "hello = there".to_owned()));
    start.open_files = Some(123);
    let instance = place.driver(1).start(&start).await.unwrap();
    place.says("api", "to-errors").await;

    let log = place.log("api");
    let expected = [
        format!("in {}", start.folder.display()),
        "input /dev/null".to_owned(),
        "soft 123 hard 123".to_owned(),
        "GREETING=hello = there".to_owned(),
    ];
    for line in expected {
        assert!(log.lines().any(|found| found == line), "no line {line:?} in {log}");
    }
    let inherited = inheritable();
    for open in log.lines().filter_map(|line| Some(line.split_once(" -> ")?.1)) {
        let known = open == "/dev/null" || open == start.log.to_str().unwrap();
        assert!(known || inherited.contains(open), "{open} was handed down");
    }
    // The shell itself adds some.
    let own = ["GREETING=", "PATH=", "PWD=", "_=", "SHLVL=", "OLDPWD="];
    for line in log.lines().filter(|line| line.split_once('=').is_some_and(|(name, _)| !name.contains(' '))) {
        assert!(own.iter().any(|name| line.starts_with(name)), "a variable that was not given: {line}");
    }
    assert!(log.contains(&format!("is {}", instance.running().process.pid)), "{log}");
    let mode = std::fs::metadata(&start.log).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");

    for file in std::fs::read_dir(place.shim_folder("api")).unwrap().flatten() {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?} has {mode:o}", file.file_name());
    }

    let exit = soon("stop", instance.stop(GRACE)).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.asked), (None, Some(15), true));
    all_gone(&instance).await;
    assert!(!place.shim_folder("api").join("sock").exists());
}

#[tokio::test]
async fn an_end_is_seen_by_all_who_wait_and_recorded() {
    let place = Place::new();
    let go = place.path("go");
    let script = format!("until test -e {}; do sleep 0.01; done; exit 3", go.display());
    let driver = place.driver(1);
    let instance = driver.start(&place.shell("api", &script)).await.unwrap();
    let clone = instance.clone();
    // A waiter that is dropped takes nothing from the others.
    assert!(tokio::time::timeout(Duration::ZERO, instance.ended()).await.is_err());
    let (one, two, ()) = soon("both see the end", async {
        tokio::join!(instance.ended(), clone.ended(), async { std::fs::write(&go, "").unwrap() })
    })
    .await;
    assert_eq!(one, two);
    assert_eq!((one.code, one.signal, one.asked), (Some(3), None, false));
    assert_eq!(describe_exit(&one), "exited with code 3");
    all_gone(&instance).await;
    assert_eq!(soon("stopping what has ended", instance.stop(GRACE)).await.unwrap(), one);
}

#[tokio::test]
async fn what_cannot_be_executed_is_said_and_why() {
    let place = Place::new();
    let script = place.path("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let plain = place.path("plain");
    std::fs::write(&plain, "text").unwrap();
    let (script, plain) = (script.to_str().unwrap(), plain.to_str().unwrap());

    let table: [(&[&str], &str); 5] = [
        (&["no-such-command-anywhere"], "there is no command `no-such-command-anywhere`"),
        (&[script], "the interpreter `/no/such/interpreter`, which does not exist"),
        (&[plain], "is not executable; hint: chmod +x"),
        (&["/"], "is a folder"),
        (&[], "the command is empty"),
    ];
    let driver = place.driver(1);
    for (command, expected) in table {
        let error = driver.start(&place.start("api", command)).await.unwrap_err();
        assert!(
            matches!(&error, StartError::NotStarted { reason } if reason.contains(expected)),
            "{error:?}"
        );
    }
    let mut start = place.shell("api", "exit 0");
    start.folder = place.path("nowhere");
    let error = driver.start(&start).await.unwrap_err();
    assert!(error.to_string().contains("nowhere does not exist"), "{error}");
}

#[tokio::test]
async fn stopping_ends_the_whole_family_however_it_resists() {
    let place = Place::new();
    // Ignores SIGTERM, has a child in the group, and one that has left group, session and parents.
    let script = "trap '' TERM; sleep 1000 & (setsid sh -c 'trap \"\" TERM; echo left; sleep 1000; sleep 1000' &); \
                  while :; do sleep 1000; done";
    let instance = place.driver(1).start(&place.shell("api", script)).await.unwrap();
    place.says("api", "left").await;
    let family = instance.family();
    wait_until("all are there", async || family.members().len() >= 4).await;

    let exit = soon("stop", instance.stop(Duration::from_millis(50))).await.unwrap();
    assert_eq!((exit.signal, exit.asked), (Some(9), true));
    assert!(family.members().is_empty(), "answered while some were left: {:?}", family.members());
    all_gone(&instance).await;
}

#[tokio::test]
async fn a_server_that_ends_in_order_is_not_killed() {
    let place = Place::new();
    let script = "trap 'echo ending; exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    let instance = place.driver(1).start(&place.shell("api", script)).await.unwrap();
    place.says("api", "ready").await;
    let exit = soon("stop", instance.stop(GRACE)).await.unwrap();
    assert_eq!((exit.code, exit.asked), (Some(5), true));
    assert_eq!(place.log("api").matches("ending").count(), 1);
}

#[tokio::test]
async fn stopping_again_shortens_the_grace_and_does_not_repeat_the_signal() {
    let place = Place::new();
    let script = "trap 'echo told' TERM; echo ready; while :; do sleep 0.01; done";
    let instance = place.driver(1).start(&place.shell("api", script)).await.unwrap();
    place.says("api", "ready").await;
    let long = instance.clone();
    // As long as can be: the grace must not overflow.
    let patient = tokio::spawn(async move { long.stop(Duration::MAX).await });
    place.says("api", "told").await;
    let exit = soon("the impatient", instance.stop(Duration::from_millis(100))).await.unwrap();
    assert_eq!(exit.signal, Some(9));
    assert_eq!(soon("the patient", patient).await.unwrap().unwrap(), exit);
    assert_eq!(place.log("api").matches("told").count(), 1);
}

#[tokio::test]
async fn what_an_instance_leaves_behind_ends_with_it() {
    let place = Place::new();
    // It does not end when it is told to.
    let script = "(trap '' TERM; echo up >up; while :; do sleep 1000; done) & \
                  until test -e up; do sleep 0.01; done; exit 7";
    let instance = place.driver(1).start(&place.shell("api", script)).await.unwrap();
    let exit = soon("the end", instance.ended()).await;
    assert_eq!((exit.code, exit.asked), (Some(7), false));
    all_gone(&instance).await;
}

#[tokio::test]
async fn an_instance_is_started_again_in_the_same_place() {
    let place = Place::new();
    let driver = place.driver(1);
    for round in 0..3 {
        let script = format!("echo round {round}; sleep 1000 & exit {round}");
        let instance = driver.start(&place.shell("api", &script)).await.unwrap();
        assert_eq!(soon("the end", instance.ended()).await.code, Some(round));
        assert_eq!(instance.last_lines(10), [format!("round {round}")], "only of this start");
    }
    assert_eq!(place.log("api"), "round 0\nround 1\nround 2\n");
}

#[tokio::test]
async fn a_state_folder_may_have_a_long_name() {
    let place = Place::below(&"long/".repeat(60));
    assert!(place.shim_folder("api").as_os_str().len() > 300);
    let instance = place.driver(1).start(&place.shell("api", "exec sleep 1000")).await.unwrap();
    // Through the socket: without it there would be no record of the signal.
    let exit = soon("stop", instance.stop(GRACE)).await.unwrap();
    assert_eq!((exit.signal, exit.asked), (Some(15), true));
}

#[tokio::test]
async fn a_log_is_kept_short_and_complete_while_it_is_written() {
    let place = Place::new();
    // 20 MiB and some, then more after it was shortened.
    let script = "seq -f %030.0f 1 700000; echo waiting; until test -e more; do sleep 0.01; done; \
                  seq -f %030.0f 700001 700010; exec sleep 1000";
    let start = place.shell("api", script);
    let instance = place.driver(1).start(&start).await.unwrap();
    let older = start.log.with_extension("log.1");
    wait_until("the log is shortened", async || older.exists()).await;
    wait_until("it is short", async || std::fs::metadata(&start.log).unwrap().len() < 16 << 20).await;
    place.says("api", "waiting").await;
    std::fs::write(place.path("more"), "").unwrap();
    place.says("api", "00700010").await;
    let all = std::fs::read_to_string(&older).unwrap() + &place.log("api");
    let numbers: Vec<u32> = all.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.iter().copied().eq(1..=700_010), "{} lines", numbers.len());
    soon("stop", instance.stop(GRACE)).await.unwrap();
}

#[tokio::test]
async fn the_socket_answers_what_it_is_asked_and_refuses_the_rest() {
    let place = Place::new();
    let instance = place.driver(5).start(&place.shell("api", "exec sleep 1000")).await.unwrap();
    let sock = place.shim_folder("api").join("sock");
    let ask = |line: &str| {
        let mut stream = UnixStream::connect(&sock).unwrap();
        // One that is refused at once may be closed before it has asked; its answer is there all the same.
        let _ = stream.write_all(format!("{line}\n").as_bytes());
        stream.set_read_timeout(Some(place::PATIENCE)).unwrap();
        BufReader::new(stream)
    };
    let answer = |mut stream: BufReader<UnixStream>| {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        // When the shim closes it has made room already. What it left unread resets the connection.
        let _ = stream.read(&mut [0]);
        serde_json::from_str::<Answer>(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    };
    let text = |ask: &Ask| serde_json::to_string(ask).unwrap();
    let refusals = [
        ("".to_owned(), "does not parse"),
        ("hello".to_owned(), "does not parse"),
        ("x".repeat(4096), "does not parse"),
        (text(&Ask::Watch { v: 99 }), "version 99"),
        (text(&Ask::Stop { v: 1, fence: FenceToken(4), grace_ms: 0 }), "token t5"),
    ];
    for (line, expected) in refusals {
        match answer(ask(&line)) {
            Answer::Refused { message, .. } => assert!(message.contains(expected), "{message}"),
            Answer::Ended(exit) => panic!("{line} ended it: {exit:?}"),
        }
    }
    assert!(instance.runs());

    // Sixteen may wait; one more may not, until one of them hangs up.
    let watch = text(&Ask::Watch { v: 1 });
    let mut watchers: Vec<_> = (0..16).map(|_| ask(&watch)).collect();
    match answer(ask(&watch)) {
        Answer::Refused { message, .. } => assert!(message.contains("16 connections"), "{message}"),
        Answer::Ended(exit) => panic!("{exit:?}"),
    }
    drop(watchers.pop());
    let stop = text(&Ask::Stop { v: 1, fence: FenceToken(5), grace_ms: 20_000 });
    let mut last = None;
    wait_until("there is room again", async || {
        last = Some(answer(ask(&stop)));
        matches!(last, Some(Answer::Ended(_)))
    })
    .await;
    let ended = Answer::Ended(Exit { v: 1, code: None, signal: Some(15), not_started: None, asked: true });
    assert_eq!(last, Some(ended.clone()));
    for watcher in watchers {
        assert_eq!(answer(watcher), ended);
    }
    wait_until("the shim ends", async || !alive(&instance.running().shim)).await;
}

#[tokio::test]
async fn what_has_no_port_is_steady_when_it_has_lived_long_enough() {
    let place = Place::new();
    let driver = place.driver(1);
    let mut start = place.shell("worker", "echo working; exec sleep 1000");
    start.port = 0;
    let instance = driver.start(&start).await.unwrap();
    assert_eq!(instance.running().port, 0);
    soon("it is steady", instance.steady(Duration::from_millis(50))).await.unwrap();
    assert!(instance.runs());
    assert_eq!(instance.listens().await, None);
    soon("stop", instance.stop(GRACE)).await.unwrap();

    let start = place.shell("worker", "echo no queue; exit 2");
    let instance = driver.start(&start).await.unwrap();
    let error = soon("it is not", instance.steady(Duration::MAX)).await.unwrap_err();
    assert!(matches!(&error, NotReady::Exited { exit, .. } if exit.code == Some(2)), "{error}");
    assert!(error.to_string().contains("no queue"), "{error}");
}

#[tokio::test]
async fn memory_is_that_of_the_whole_family() {
    let place = Place::new();
    // The child has left group and session, and holds the most.
    let script = "(setsid python3 -c 'import time; held = bytearray(b\"x\" * (64 << 20)); print(\"held\", flush=True); time.sleep(1000)' &); \
                  echo up; exec sleep 1000";
    let instance = place.driver(1).start(&place.shell("api", script)).await.unwrap();
    place.says("api", "held").await;
    let small = place.driver(1).start(&place.shell("web", "exec sleep 1000")).await.unwrap();
    let held = instance.resident_bytes().unwrap();
    assert!((64 << 20..256 << 20).contains(&held), "{held}");
    let both = runtime::process::resident_bytes(&[small.family(), instance.family()]).unwrap();
    assert!(both[0] > 0 && both[0] < 16 << 20 && both[1] >= 64 << 20, "{both:?}");
    soon("stop", instance.stop(GRACE)).await.unwrap();
    soon("stop", small.stop(GRACE)).await.unwrap();
    assert_eq!(instance.resident_bytes().unwrap(), 0);
}

#[tokio::test]
async fn an_instance_is_asked_to_end_by_the_signal_of_its_own() {
    let place = Place::new();
    let script = "trap 'echo by INT; exit 6' INT; trap 'echo by TERM; exit 7' TERM; echo ready; \
                  while :; do sleep 0.01; done";
    let mut start = place.shell("api", script);
    start.stop_signal = StopSignal::Int;
    let instance = place.driver(1).start(&start).await.unwrap();
    place.says("api", "ready").await;
    let exit = soon("stop", instance.stop(GRACE)).await.unwrap();
    assert_eq!((exit.code, exit.asked), (Some(6), true), "{}", place.log("api"));

    // Also where this was started by a shell that has it ignore them, as in the background.
    let ignoring = std::env::var_os(IGNORING).is_some();
    if !ignoring {
        let mut again = std::process::Command::new("sh");
        again
            .args(["-c", "trap '' HUP INT QUIT TERM; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap());
        again.args(["--exact", "an_instance_is_asked_to_end_by_the_signal_of_its_own"]).env(IGNORING, "1");
        let output = again.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    // An agent of before wrote none.
    let mut json = serde_json::to_value(&start).unwrap();
    json.as_object_mut().unwrap().remove("stop_signal").unwrap();
    assert_eq!(serde_json::from_value::<Start>(json).unwrap().stop_signal, StopSignal::Term);
}
