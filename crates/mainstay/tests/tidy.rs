//! The rules of this repository that a compiler does not hold, as tests.
//!
//! Each rule is a function from text to findings (`rules`, `manifests`, `documents`), so that tests next to
//! it can show that it finds what it forbids and lets pass what it allows. Here they are held against the
//! repository. Only the standard library is used: the rules have to be checkable while no room compiles.

#[path = "tidy/text.rs"]
mod text;

#[path = "tidy/rules.rs"]
mod rules;

#[path = "tidy/manifests.rs"]
mod manifests;

#[path = "tidy/documents.rs"]
mod documents;

use documents::{links, record, unnamed};
use manifests::{ROOMS, edges, entries, manifest, own_lints, renames};
use rules::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use text::Source;

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let renames = renames(&read(&root().join("Cargo.toml")));
    let crates = crates();
    let mut findings: Vec<String> = Vec::new();
    for (folder, text) in &crates {
        let manifest = manifest(text, &renames);
        if folder.file_name().is_none_or(|name| name != manifest.name.as_str()) {
            findings.push(format!("{}: holds the crate `{}`", folder.display(), manifest.name));
        }
        findings.extend(edges(&manifest).iter().map(|m| format!("{}/Cargo.toml: {m}", folder.display())));
    }
    for (room, _) in ROOMS {
        if !crates.iter().any(|(folder, _)| folder.ends_with(room)) {
            findings.push(format!("the room `{room}` of ROOMS has no folder: take it out of the table"));
        }
    }
    none(findings);
}

#[test]
fn unsafe_code_is_forbidden_by_the_compiler_too() {
    let text = read(&root().join("Cargo.toml"));
    let forbidden = entries(&text).iter().any(|(section, key, value)| {
        section == "workspace.lints.rust" && key == "unsafe_code" && value == "\"forbid\""
    });
    assert!(forbidden, "Cargo.toml: [workspace.lints.rust] has to say `unsafe_code = \"forbid\"`");
    let crates = crates();
    let manifests = crates.iter().map(|(_, text)| (manifest(text, &BTreeMap::new()), text));
    let own = manifests.filter(|(manifest, _)| !manifest.inherits_lints);
    none(own.flat_map(|(manifest, own)| own_lints(&manifest.name, own, &text)).collect());
}

#[test]
fn every_crate_is_in_the_architecture() {
    let path = root().join("ARCHITECTURE.md");
    assert!(path.is_file(), "ARCHITECTURE.md is missing: it names every room, what lives there and why");
    let text = read(&path);
    let missing: Vec<_> = crates()
        .into_iter()
        .filter_map(|(folder, _)| unnamed(&text, &folder.display().to_string()))
        .collect();
    none(missing);
}

#[test]
fn files_are_short() {
    hold(too_long);
}

#[test]
fn no_module_is_a_drawer() {
    hold(drawer);
}

#[test]
fn nothing_is_unsafe() {
    hold(unsafe_code);
}

#[test]
fn testkit_speaks_to_sqlite_in_one_file() {
    hold(sqlite_beside_the_vfs);
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    hold(silenced_lint);
}

#[test]
fn nothing_is_left_for_later() {
    hold(left_for_later);
}

#[test]
fn tests_do_not_sleep() {
    hold(sleeping_test);
}

#[test]
fn every_test_runs() {
    hold(ignored_test);
}

#[test]
fn every_room_says_what_it_is_for() {
    hold(purpose);
}

#[test]
fn the_shim_has_no_async_runtime() {
    let looked_at = SOURCES.iter().filter(|source| in_shim(&source.path)).count();
    assert!(looked_at > 0, "the shim is not in crates/runtime/src any more: tell `in_shim` where it is");
    hold(shim_with_runtime);
}

#[test]
fn documents_that_are_mentioned_exist() {
    let exists = |document: &str| root().join(document).is_file();
    let findings = SOURCES.iter().flat_map(|source| at(source, lost_mentions(source, exists))).collect();
    none(findings);
}

#[test]
fn links_lead_to_files() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        assert!(root().join(document).is_file(), "{document} is missing");
    }
    let mut findings = Vec::new();
    for path in files(&root(), "md") {
        let full = root().join(&path);
        let folder = full.parent().expect("a file is in a folder");
        for (line, target) in links(&read(&full)) {
            let file = match target.strip_prefix('/') {
                Some(from_root) => root().join(from_root),
                None => folder.join(&target),
            };
            if !file.exists() {
                findings.push(format!("{}:{line}: `{target}` does not exist", path.display()));
            }
        }
    }
    none(findings);
}

#[test]
fn decision_records_are_numbered_and_complete() {
    let mut findings = Vec::new();
    let mut numbers = BTreeMap::new();
    for path in files(&root().join("docs/decisions"), "md") {
        let name = path.display().to_string();
        if name == "README.md" {
            continue;
        }
        let text = read(&root().join("docs/decisions").join(&path));
        findings.extend(record(&name, &text).into_iter().map(|message| format!("docs/decisions/{message}")));
        let number = name.split('-').next().unwrap_or_default().to_owned();
        if let Some(other) = numbers.insert(number, name.clone()) {
            findings.push(format!("docs/decisions/{name}: {other} has the same number"));
        }
    }
    none(findings);
}

// The repository, as the rules see it.

/// The folder of the repository.
fn root() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    folder.canonicalize().expect("the crate is two folders below the root")
}

/// The text of a file.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The files below `folder` whose name ends in `.extension`, relative to it and sorted. Folders that git
/// or cargo own, and hidden ones, are left out.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        // A folder may vanish while other tests run: then nothing in it is ours.
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().expect("the kind of a file is known");
            if kind.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|e| e == extension) {
                found.push(path.strip_prefix(folder).expect("it is below the folder").to_path_buf());
            }
        }
    }
    found.sort();
    found
}

/// The folder of every crate, relative to the root, and its manifest's text.
fn crates() -> Vec<(PathBuf, String)> {
    let manifests = files(&root(), "toml").into_iter().filter(|path| path.ends_with("Cargo.toml"));
    let crates: Vec<_> = manifests
        .map(|path| (path.parent().expect("a file is in a folder").to_path_buf(), read(&root().join(&path))))
        .filter(|(folder, _)| !folder.as_os_str().is_empty())
        .collect();
    assert!(crates.len() >= ROOMS.len() / 2, "only {} crates found below {}", crates.len(), root().display());
    crates
}

/// Every Rust file of the repository.
static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let paths = files(&root(), "rs").into_iter();
    let sources: Vec<_> = paths.map(|path| Source::new(&path, &read(&root().join(&path)))).collect();
    assert!(sources.len() > 50, "only {} source files found below {}", sources.len(), root().display());
    sources
});

/// Fails with everything `rule` finds in the repository.
fn hold(rule: fn(&Source) -> Vec<Finding>) {
    none(SOURCES.iter().flat_map(|source| at(source, rule(source))).collect());
}

/// Findings with the place where they are.
fn at(source: &Source, findings: Vec<Finding>) -> Vec<String> {
    findings
        .into_iter()
        .map(|(line, message)| format!("{}:{line}: {message}", source.path.display()))
        .collect()
}

/// Fails with all `findings`, if there are any.
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "{} found:\n{}", findings.len(), findings.join("\n"));
}
