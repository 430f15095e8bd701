//! The demo, as a newcomer runs it.

use serde_json::Value;
use std::process::Command;

const MAINSTAY: &str = env!("CARGO_BIN_EXE_mainstay");

#[test]
fn the_demo_keeps_every_promise_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let ran = Command::new(MAINSTAY).args(["--json", "demo"]).env("TMPDIR", home.path()).output();
    let ran = ran.expect("mainstay can be run");
    let text = String::from_utf8_lossy(&ran.stdout);
    let last = text.lines().last().unwrap_or_default();
    let shown: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    assert_eq!(ran.status.code(), Some(0), "{shown}");

    let number = |group: &str, key: &str| shown[group][key].as_u64().unwrap_or_else(|| panic!("{shown}"));
    assert!(number("requests", "total") > 5_000, "{shown}");
    // Nobody but those who were in flight on the instance that ended itself.
    assert_eq!(number("requests", "failed"), number("requests", "instance_kill"), "{shown}");
    assert!(number("requests", "instance_kill") <= 20, "{shown}");
    for key in ["lost", "duplicated", "unverified"] {
        assert_eq!(number("ledger", key), 0, "{shown}");
    }
    assert!(number("ledger", "acknowledged") > 500, "{shown}");
    assert_eq!(shown["kills"], serde_json::json!({ "agent": 1, "gateway": 0, "instance": 1 }));

    let releases = shown["releases"].as_array().expect("releases");
    let text = |release: &Value, key: &str| release[key].as_str().unwrap_or("").to_owned();
    let ended = releases.iter().map(|r| ["name", "state", "reason"].map(|key| text(r, key)));
    let expected = [
        ["r1", "done", ""],
        ["v2", "done", ""],
        ["v3-slow", "rolled_back", "latency"],
        ["v3-crash", "rolled_back", "crash"],
        ["v3", "rolled_back", "operator"],
    ];
    assert_eq!(ended.collect::<Vec<_>>(), expected, "{shown}");
    assert!(releases.iter().all(|release| release["outcome"] == release["state"]), "{shown}");

    let [_, v2, slow, crash, v3] = releases.as_slice() else { unreachable!("their names are as expected") };
    for good in [v2, v3] {
        assert_eq!(good["steps"], serde_json::json!([10.0, 50.0, 100.0]), "{shown}");
        assert_eq!(good["users_hurt"], 0, "{shown}");
        assert!(good["switch_ms"].is_f64(), "{shown}");
    }
    for bad in [slow, crash] {
        assert_eq!(bad["steps"][0], 10.0, "{shown}");
        assert!(bad["rollback_ms"].is_f64(), "{shown}");
    }
    // On a machine that is slow itself another of the rules about slowness may be the first.
    let check = text(slow, "check");
    assert!(["latency", "tail", "objective"].contains(&check.as_str()), "{shown}");
    assert_eq!(text(crash, "check"), "crash", "{shown}");
    assert!(slow["users_hurt"].as_u64().is_some_and(|hurt| hurt > 50), "{shown}");
    assert_eq!(crash["users_hurt"], shown["requests"]["instance_kill"], "{shown}");
    assert!(!text(slow, "reason_text").is_empty(), "{shown}");

    let left: Vec<_> = std::fs::read_dir(home.path()).expect("the folder").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(processes_below(home.path()).is_empty());
}

/// The command lines that name a folder.
fn processes_below(folder: &std::path::Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains(&folder))
        .collect()
}
