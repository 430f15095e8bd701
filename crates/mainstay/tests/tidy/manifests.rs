//! Rules about manifests: which room may use what.

use std::collections::{BTreeMap, BTreeSet};

/// The rooms, and the rooms that each may use outside its tests. `ARCHITECTURE.md` says why.
pub(crate) const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("api", &["model"]),
    ("stats", &[]),
    ("store", &["model"]),
    ("workfile", &["model"]),
    ("runtime", &["model", "api"]),
    ("keeper", &["model", "api"]),
    ("queue", &["model", "store"]),
    ("gateway", &["model", "api", "queue"]),
    ("validate", &["model"]),
    ("control", &["model", "api", "stats", "store", "runtime", "validate"]),
    ("demo", &["model", "api", "validate", "workfile"]),
    (
        "mainstay",
        &[
            "model", "api", "store", "workfile", "runtime", "keeper", "gateway", "validate", "control",
            "demo", "shop",
        ],
    ),
    ("testkit", &["model"]),
    // The sample workload is an ordinary service: it does not know what runs it.
    ("shop", &[]),
];

/// Crates that only some rooms may use: what is behind a wall stays there.
const ONLY: &[(&str, &[&str])] = &[
    ("rusqlite", &["store", "shop", "testkit"]),
    ("libsqlite3-sys", &[]),
    ("tokio-rusqlite", &[]),
    ("sqlx", &[]),
];

/// Crates that a room may not use, and why.
const NEVER: &[(&str, &str, &str)] = &[
    ("model", "tokio", "the model is pure"),
    ("model", "serde_json", "the model knows no text formats"),
    ("model", "rustix", "the model is pure"),
    ("keeper", "tokio", "a process that is never restarted has to be too simple to fail"),
];

/// What the rules want to know of a `Cargo.toml`.
#[derive(Default)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    /// Dependencies outside tests, those of build scripts among them, under their real names.
    pub(crate) uses: BTreeSet<String>,
    pub(crate) inherits_lints: bool,
}

/// The keys of a TOML text with their sections and values, unparsed: `(section, key, value)`. Knows as
/// much of TOML as manifests use; values may go over several lines.
pub(crate) fn entries(text: &str) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    let (mut section, mut depth) = (String::new(), 0_isize);
    for line in text.lines() {
        let mut quote = None;
        let mut code = String::new();
        let mut change = 0;
        for c in line.chars() {
            match (c, quote) {
                ('#', None) => break,
                ('"' | '\'', None) => quote = Some(c),
                (_, Some(open)) if open == c => quote = None,
                ('[' | '{', None) => change += 1,
                (']' | '}', None) => change -= 1,
                (_, _) => {}
            }
            code.push(c);
        }
        let code = code.trim();
        if depth == 0 && code.starts_with('[') {
            section = code.trim_matches(['[', ']', ' ']).to_owned();
            continue;
        }
        if let Some((_, _, value)) = found.last_mut().filter(|_| depth > 0) {
            value.push_str(code);
        } else if let Some((key, value)) = code.split_once('=') {
            found.push((section.clone(), key.trim().replace('"', ""), value.trim().to_owned()));
        }
        depth += change;
    }
    found
}

/// The dependencies of `entries`: whether of tests, the name, and the name on the registry if it is another.
fn dependencies(entries: &[(String, String, String)]) -> Vec<(bool, String, Option<String>)> {
    let mut found = Vec::new();
    for (section, key, value) in entries {
        let Some((kind, table)) = section.rsplit_once("dependencies") else { continue };
        let (name, property) = match table.strip_prefix('.') {
            Some(name) => (name, key.as_str()),
            None => key.split_once('.').unwrap_or((key, "")),
        };
        let package = match property {
            "package" => Some(value.as_str()),
            _ => value.split_once("package").and_then(|(_, rest)| rest.trim_start().strip_prefix('=')),
        };
        let package = package.and_then(|value| value.split(['"', '\'']).nth(1)).map(str::to_owned);
        found.push((kind.ends_with("dev-"), name.trim_matches(['"', '\'']).to_owned(), package));
    }
    found
}

/// What the workspace's manifest calls otherwise than the registry does.
pub(crate) fn renames(workspace: &str) -> BTreeMap<String, String> {
    dependencies(&entries(workspace))
        .into_iter()
        .filter_map(|(_, name, package)| Some((name, package?)))
        .collect()
}

pub(crate) fn manifest(text: &str, renames: &BTreeMap<String, String>) -> Manifest {
    let entries = entries(text);
    let mut manifest = Manifest::default();
    for (section, key, value) in &entries {
        match (section.as_str(), key.as_str()) {
            ("package", "name") => manifest.name = value.trim_matches('"').to_owned(),
            ("lints", "workspace") => manifest.inherits_lints = value == "true",
            (_, _) => {}
        }
    }
    for (of_tests, name, package) in dependencies(&entries) {
        if !of_tests {
            manifest.uses.insert(package.or_else(|| renames.get(&name).cloned()).unwrap_or(name));
        }
    }
    manifest
}

/// The lints that a manifest's text sets itself, or the workspace's for all: `(group, lint, level)`.
pub(crate) fn lints(text: &str, above: &str) -> BTreeSet<(String, String, String)> {
    let own = entries(text).into_iter();
    own.filter_map(|(section, key, value)| Some((section.strip_prefix(above)?.to_owned(), key, value)))
        .collect()
}

/// How the lints that a crate sets itself differ from the workspace's. Only one may have its own: the faulty
/// VFS is in it, and what is forbidden cannot be expected.
pub(crate) fn own_lints(name: &str, text: &str, workspace: &str) -> Vec<String> {
    if name != "testkit" {
        return vec![format!("`{name}`: no `[lints] workspace = true`")];
    }
    let mut expected = lints(workspace, "workspace.lints.");
    let level = |level: &str| ("rust".to_owned(), "unsafe_code".to_owned(), format!("\"{level}\""));
    expected.remove(&level("forbid"));
    expected.insert(level("deny"));
    let own = lints(text, "lints.");
    let differences = own.symmetric_difference(&expected);
    differences.map(|lint| format!("`{name}`: {lint:?} is here or in the workspace alone")).collect()
}

/// What `manifest` uses and may not.
pub(crate) fn edges(manifest: &Manifest) -> Vec<String> {
    let name = manifest.name.as_str();
    let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| *room == name) else {
        return vec![format!(
            "the crate `{name}` is in no table: add it to ROOMS in {}, with the rooms \
             it may use, and to ARCHITECTURE.md",
            file!()
        )];
    };
    let mut findings = Vec::new();
    for used in manifest.uses.iter().map(String::as_str) {
        let is_room = ROOMS.iter().any(|(room, _)| *room == used);
        if used == "testkit" {
            findings.push(format!("`{name}` uses `testkit` outside its tests"));
        } else if is_room && !allowed.contains(&used) {
            findings.push(format!("`{name}` may not use `{used}`, only {allowed:?}"));
        }
        if let Some((_, rooms)) = ONLY.iter().find(|(only, rooms)| *only == used && !rooms.contains(&name)) {
            findings.push(format!("`{name}` may not use `{used}`, only {rooms:?} may"));
        }
        if let Some((.., why)) = NEVER.iter().find(|(room, never, _)| *room == name && *never == used) {
            findings.push(format!("`{name}` may not use `{used}`: {why}"));
        }
    }
    findings
}

// Each rule finds what it forbids and lets pass what it allows.

#[test]
fn manifests_are_read() {
    let text = "[package] # the name\nname = \"a\"\n[lints]\nworkspace = true\n[dependencies]\nb.workspace = true\n\
                c = { version = \"1\", features = [\n  \"d # no comment\",\n] }\n\
                e = { package = \"f\", path = \"../f\" }\n[dependencies.g]\nversion = \"1\"\n\
                [target.'cfg(unix)'.dependencies]\nh = \"1\"\n[target.'cfg(unix)'.dependencies.i]\npackage = \"j\"\n\
                version = \"1\"\n[build-dependencies]\nk = \"1\"\n[dev-dependencies]\nl.workspace = true\n\
                [features]\nm = []";
    let renames = renames("[workspace.dependencies]\nb = { package = \"bee\", version = \"1\" }\nc = \"1\"");
    assert_eq!(renames, BTreeMap::from([("b".to_owned(), "bee".to_owned())]));
    let manifest = manifest(text, &renames);
    assert_eq!(manifest.name, "a");
    assert!(manifest.inherits_lints);
    // `i` is there twice: once under its real name, once from the line that gives its version.
    let expected = ["bee", "c", "f", "g", "h", "i", "j", "k"];
    assert_eq!(manifest.uses.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn lints_of_ones_own_are_compared() {
    let workspace =
        "[workspace.lints.rust]\nunsafe_code = \"forbid\"\n[workspace.lints.clippy]\na = \"warn\"";
    let good = "[lints.rust]\nunsafe_code = \"deny\"\n[lints.clippy]\na = \"warn\"";
    assert_eq!(own_lints("testkit", good, workspace), [""; 0]);
    assert_eq!(own_lints("store", good, workspace).len(), 1);
    for bad in [good.replace("deny", "warn"), good.replace("a = ", "b = "), "[lints.rust]".to_owned()] {
        assert_eq!(own_lints("testkit", &bad, workspace).len(), 2, "{bad}");
    }
}

#[test]
fn forbidden_edges_are_found() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("model", &["serde", "thiserror"], &[]),
        ("model", &["api"], &["`model` may not use `api`"]),
        ("model", &["tokio", "rustix"], &["`model` may not use `rustix`", "`model` may not use `tokio`"]),
        ("gateway", &["api", "model", "tokio"], &[]),
        ("gateway", &["control"], &["`gateway` may not use `control`"]),
        ("validate", &["gateway"], &["`validate` may not use `gateway`"]),
        ("keeper", &["tokio"], &["`keeper` may not use `tokio`: a process"]),
        (
            "control",
            &["rusqlite"],
            &["`control` may not use `rusqlite`, only [\"store\", \"shop\", \"testkit\"] may"],
        ),
        ("store", &["rusqlite"], &[]),
        ("shop", &["rusqlite"], &[]),
        ("shop", &["model"], &["`shop` may not use `model`"]),
        ("mainstay", &["shop", "keeper"], &[]),
        ("mainstay", &["testkit"], &["`mainstay` uses `testkit` outside its tests"]),
        ("demo", &["mainstay"], &["`demo` may not use `mainstay`"]),
        ("newcomer", &[], &["the crate `newcomer` is in no table: add it to ROOMS"]),
    ];
    for (name, uses, expected) in cases {
        let uses = uses.iter().map(|used| (*used).to_owned()).collect();
        let found = edges(&Manifest { name: (*name).to_owned(), uses, inherits_lints: true });
        assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }
}

#[test]
fn the_table_of_rooms_has_no_circle() {
    let mut below = BTreeSet::new();
    for _ in ROOMS {
        let ready = ROOMS.iter().filter(|(_, uses)| uses.iter().all(|used| below.contains(used)));
        below.extend(ready.map(|(room, _)| *room).collect::<Vec<_>>());
    }
    let circular: Vec<_> = ROOMS.iter().map(|(room, _)| *room).filter(|room| !below.contains(room)).collect();
    assert_eq!(circular, [""; 0], "these use each other, or a room that is not in the table");
}
