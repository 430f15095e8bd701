//! What the program says of itself, as it is read first.

use std::process::Command;

fn printed(arguments: &[&str]) -> String {
    let ran = Command::new(env!("CARGO_BIN_EXE_mainstay"))
        .args(arguments)
        .env("COLUMNS", "100")
        .output()
        .expect("mainstay can be run");
    format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr))
}

#[test]
fn help() {
    insta::assert_snapshot!(printed(&["--help"]));
}

#[test]
fn help_of_release() {
    insta::assert_snapshot!(printed(&["release", "--help"]));
}

#[test]
fn help_of_load() {
    insta::assert_snapshot!(printed(&["load", "--help"]));
}

#[test]
fn help_of_queue() {
    insta::assert_snapshot!(printed(&["queue", "--help"]));
}

#[test]
fn help_of_queue_list() {
    insta::assert_snapshot!(printed(&["queue", "list", "--help"]));
}

#[test]
fn the_schema_is_json() {
    let schema: serde_json::Value = serde_json::from_str(&printed(&["schema"])).expect("JSON");
    assert_eq!(schema["type"], "object");
    assert_eq!(schema["additionalProperties"], false);
}
