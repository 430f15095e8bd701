//! The demo, as a newcomer runs it.

use std::process::Command;

const MAINSTAY: &str = env!("CARGO_BIN_EXE_mainstay");

#[test]
fn the_demo_keeps_every_promise_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let ran = Command::new(MAINSTAY).args(["--json", "demo"]).env("TMPDIR", home.path()).output();
    let ran = ran.expect("mainstay can be run");
    let text = String::from_utf8_lossy(&ran.stdout);
    let last = text.lines().last().unwrap_or_default();
    let shown: serde_json::Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    assert_eq!(ran.status.code(), Some(0), "{shown}");

    assert!(shown["requests"]["total"].as_u64().is_some_and(|total| total > 500), "{shown}");
    for (group, key) in
        [("requests", "failed"), ("requests", "cut"), ("ledger", "lost"), ("ledger", "duplicated")]
    {
        assert_eq!(shown[group][key], 0, "{shown}");
    }
    assert!(shown["ledger"]["acknowledged"].as_u64().is_some_and(|orders| orders > 20), "{shown}");
    assert_eq!(shown["kills"]["agent"], 1);
    let releases = shown["releases"].as_array().expect("releases").iter();
    let releases: Vec<_> =
        releases.map(|r| (r["name"].as_str().unwrap_or(""), r["outcome"].as_str().unwrap_or(""))).collect();
    let expected = [
        ("r1", "done"),
        ("v2", "rolled_back"),
        ("v2-again", "done"),
        ("v3-broken", "refused"),
        ("v3-errors", "rolled_back"),
    ];
    assert_eq!(releases, expected);

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
