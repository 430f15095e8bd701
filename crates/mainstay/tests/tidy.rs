//! The rules of this repository that a compiler does not hold, as tests.
//!
//! Each rule is a function from text to findings, so that the tests at the end of this file can show that
//! it finds what it forbids and lets pass what it allows. Only the standard library is used: the rules
//! have to be checkable while no room compiles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, and the rooms that each may use outside its tests. `ARCHITECTURE.md` says why.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("api", &["model"]),
    ("store", &["model"]),
    ("workfile", &["model"]),
    ("runtime", &["model", "api"]),
    ("keeper", &["model", "api"]),
    ("gateway", &["model", "api"]),
    ("validate", &["model"]),
    ("control", &["model", "api", "store", "runtime", "validate"]),
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
const ONLY: &[(&str, &[&str])] =
    &[("rusqlite", &["store", "shop"]), ("libsqlite3-sys", &[]), ("tokio-rusqlite", &[]), ("sqlx", &[])];

/// Crates that a room may not use, and why.
const NEVER: &[(&str, &str, &str)] = &[
    ("model", "tokio", "the model is pure"),
    ("model", "serde_json", "the model knows no text formats"),
    ("model", "rustix", "the model is pure"),
    ("keeper", "tokio", "a process that is never restarted has to be too simple to fail"),
];

/// Names that say nothing about what belongs in a module and what does not.
const DRAWERS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// The most lines a source file may have. Tests and tables are exempt.
const LONGEST_FILE_LINES: usize = 500;

/// What a pause in a test has to say for itself.
const PAUSE_EXCUSE: &str = "waits on a condition";

/// The sections of a decision record, in this order.
const RECORD_SECTIONS: &[&str] = &["## Context", "## Decision", "## Consequences"];

/// What a rule found: a line, counted from 1, and what is wrong there.
type Finding = (usize, String);

// The rules, held against this repository.

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
    let workspace = entries(&read(&root().join("Cargo.toml")));
    let forbidden = workspace.iter().any(|(section, key, value)| {
        section == "workspace.lints.rust" && key == "unsafe_code" && value == "\"forbid\""
    });
    assert!(forbidden, "Cargo.toml: [workspace.lints.rust] has to say `unsafe_code = \"forbid\"`");
    let without: Vec<_> = crates()
        .into_iter()
        .filter(|(_, text)| !manifest(text, &BTreeMap::new()).inherits_lints)
        .map(|(folder, _)| format!("{}/Cargo.toml: no `[lints] workspace = true`", folder.display()))
        .collect();
    none(without);
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
    let looked_at = sources().iter().filter(|source| in_shim(&source.path)).count();
    assert!(looked_at > 0, "the shim is not in crates/runtime/src any more: tell `in_shim` where it is");
    hold(shim_with_runtime);
}

#[test]
fn documents_that_are_mentioned_exist() {
    let exists = |document: &str| root().join(document).is_file();
    let findings = sources().iter().flat_map(|source| at(source, lost_mentions(source, exists))).collect();
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
        if let Some(other) = numbers.insert(name.chars().take(4).collect::<String>(), name.clone()) {
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
fn sources() -> Vec<Source> {
    let sources: Vec<_> =
        files(&root(), "rs").into_iter().map(|path| Source::new(&path, &read(&root().join(&path)))).collect();
    assert!(sources.len() > 50, "only {} source files found below {}", sources.len(), root().display());
    sources
}

/// Fails with everything `rule` finds in the repository.
fn hold(rule: fn(&Source) -> Vec<Finding>) {
    none(sources().iter().flat_map(|source| at(source, rule(source))).collect());
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

// Rust text, taken apart just far enough: what is code and what is said about it.

/// A Rust file.
struct Source {
    /// Relative to the root.
    path: PathBuf,
    /// The code of each line, without comments and with every text and character literal emptied.
    code: Vec<String>,
    /// The comments of each line.
    comments: Vec<String>,
}

impl Source {
    fn new(path: impl AsRef<Path>, text: &str) -> Self {
        let mut source = Self { path: path.as_ref().into(), code: vec![], comments: vec![] };
        let (code, comments) = take_apart(text);
        source.code.extend(code.split('\n').map(str::to_owned));
        source.comments.extend(comments.split('\n').map(str::to_owned));
        source
    }

    /// Whether the file holds only tests, or what they use.
    fn is_test(&self) -> bool {
        let stem = self.path.file_stem().unwrap_or_default();
        stem == "tests" || self.path.iter().any(|part| part == "tests" || part == "benches")
    }

    /// Every word of the code, with its line and what follows it on that line.
    fn words(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        let lines = self.code.iter().enumerate();
        lines.flat_map(|(i, line)| words(line).map(move |(word, rest)| (i + 1, word, rest)))
    }

    /// Every attribute: its line and what stands between its brackets.
    fn attributes(&self) -> Vec<(usize, String)> {
        let code = self.code.join("\n");
        let mut found = Vec::new();
        for (start, _) in code.match_indices('#') {
            let rest = code[start + 1..].trim_start();
            let rest = rest.strip_prefix('!').unwrap_or(rest).trim_start();
            if let Some(inside) = rest.strip_prefix('[') {
                let length = closing(inside, '[', ']').unwrap_or(inside.len());
                found.push((code[..start].matches('\n').count() + 1, inside[..length].trim().to_owned()));
            }
        }
        found
    }

    /// The lines of `#[cfg(test)]` modules, counted from 1.
    fn test_lines(&self) -> BTreeSet<usize> {
        let mut lines = BTreeSet::new();
        if self.is_test() {
            lines.extend(1..=self.code.len());
        }
        for (first, attribute) in self.attributes() {
            let after = self.code[first - 1..].join("\n");
            let (head, body) = after.split_once('{').unwrap_or_default();
            if attribute == "cfg(test)" && !head.contains(';') {
                let length = closing(body, '{', '}').unwrap_or(body.len());
                let body_lines = head.matches('\n').count() + body[..length].matches('\n').count();
                lines.extend(first..=first + body_lines);
            }
        }
        lines
    }
}

/// The words of a line of code (identifiers and numbers), each with what follows it.
fn words(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = &rest[rest.find(in_word)?..];
        let (word, after) = rest.split_at(rest.find(|c| !in_word(c)).unwrap_or(rest.len()));
        rest = after;
        Some((word, after))
    })
}

/// Where in `text`, which begins after an opening bracket, its closing one is.
fn closing(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 1_usize;
    for (i, c) in text.char_indices() {
        depth = if c == open { depth + 1 } else { depth - usize::from(c == close) };
        if depth == 0 {
            return Some(i);
        }
    }
    None
}

/// The code and the comments of a Rust text, each with as many lines as the text.
fn take_apart(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::new(), String::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = literal(rest, &code) {
            // The quotes stay, so that what was a text still is one.
            code.push_str("\"\"");
            code.extend(rest[..length].chars().filter(|c| *c == '\n'));
            comments.extend(rest[..length].chars().filter(|c| *c == '\n'));
            rest = &rest[length..];
            continue;
        } else {
            code.push(c);
            comments.extend((c == '\n').then_some(c));
            rest = &rest[c.len_utf8()..];
            continue;
        };
        comments.push_str(&rest[..length]);
        code.extend(rest[..length].chars().filter(|c| *c == '\n'));
        rest = &rest[length..];
    }
    (code, comments)
}

/// How long the block comment is that `text` begins with. They nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut i) = (0_usize, 0);
    while i < text.len() {
        let step = match &text.as_bytes()[i..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        i += step;
        if depth == 0 {
            break;
        }
    }
    i
}

/// How long the text or character literal is that `text` begins with. `before` is the code so far: it
/// tells the `r` of a raw text from the end of a name.
fn literal(text: &str, before: &str) -> Option<usize> {
    let escaped = |quote: char| {
        let mut escape = false;
        let end = text.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == quote && !escape;
            escape = *c == '\\' && !escape;
            ends
        });
        end.map_or(text.len(), |(i, c)| i + c.len_utf8())
    };
    let mut chars = text.chars();
    match chars.next()? {
        '"' => Some(escaped('"')),
        '\'' => {
            // `'a` is a lifetime, `'a'` a character.
            let (first, second) = (chars.next()?, chars.next());
            (first == '\\' || second == Some('\'')).then(|| escaped('\''))
        }
        'r' => {
            let mut name = before.chars().rev().skip_while(|c| matches!(c, 'b' | 'c'));
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
                && name.next().is_some_and(|c| c.is_alphanumeric() || c == '_')
            {
                return None;
            }
            let hashes = text[1..].bytes().take_while(|b| *b == b'#').count();
            let body = text[1 + hashes..].strip_prefix('"')?;
            let end = format!("\"{}", "#".repeat(hashes));
            Some(body.find(&end).map_or(text.len(), |i| 2 + hashes + i + end.len()))
        }
        _ => None,
    }
}

// Rules about one source file.

fn too_long(source: &Source) -> Vec<Finding> {
    let stem = source.path.file_stem().unwrap_or_default().to_string_lossy();
    let exempt = source.is_test() || stem == "table" || stem.ends_with("_table");
    // The empty line after the last line break is none.
    let lines = source.code.len() - usize::from(source.code.last().is_some_and(String::is_empty));
    if exempt || lines <= LONGEST_FILE_LINES {
        return vec![];
    }
    vec![(
        lines,
        format!("{lines} lines, at most {LONGEST_FILE_LINES}: a part of it wants a name of its own"),
    )]
}

fn drawer(source: &Source) -> Vec<Finding> {
    let message = |name: &str| format!("`{name}` says nothing about what belongs in it: name what it does");
    let parts = source.path.iter().map(|part| part.to_string_lossy());
    let named = parts.map(|part| part.trim_end_matches(".rs").to_owned()).map(|part| (1, part));
    let inline = source.words().filter(|(_, word, _)| *word == "mod");
    let inline = inline.filter_map(|(line, _, rest)| Some((line, words(rest).next()?.0.to_owned())));
    named
        .chain(inline)
        .filter(|(_, name)| DRAWERS.contains(&name.as_str()))
        .map(|(line, name)| (line, message(&name)))
        .collect()
}

fn unsafe_code(source: &Source) -> Vec<Finding> {
    let found = source.words().filter(|(_, word, _)| *word == "unsafe");
    found.map(|(line, ..)| (line, "`unsafe` is forbidden".to_owned())).collect()
}

fn silenced_lint(source: &Source) -> Vec<Finding> {
    let judge = |(line, attribute): (usize, String)| {
        let mut inside = words(&attribute);
        let (first, _) = inside.next()?;
        let wrapped = |name| first == "cfg_attr" && words(&attribute).any(|(word, _)| word == name);
        if first == "allow" || wrapped("allow") {
            return Some((line, "`allow` outlives its cause: `#[expect(…, reason = \"…\")]`".to_owned()));
        }
        let expects = first == "expect" || wrapped("expect");
        let reasoned = words(&attribute).any(|(word, rest)| word == "reason" && rest.contains('='));
        (expects && !reasoned).then(|| (line, "`expect` without a `reason`".to_owned()))
    };
    source.attributes().into_iter().filter_map(judge).collect()
}

fn left_for_later(source: &Source) -> Vec<Finding> {
    let macros = source.words().filter(|(_, word, rest)| {
        ["todo", "unimplemented", "dbg"].contains(word) && rest.starts_with('!') && !rest.starts_with("!=")
    });
    let comments = source.comments.iter().enumerate();
    let marks = comments.flat_map(|(i, line)| words(line).map(move |(word, _)| (i + 1, word)));
    let marks = marks.filter(|(_, word)| ["TODO", "FIXME", "XXX"].contains(word));
    macros
        .map(|(line, word, _)| (line, format!("`{word}!`: do it now, or open an issue")))
        .chain(marks.map(|(line, word)| (line, format!("{word}: do it now, or open an issue"))))
        .collect()
}

fn sleeping_test(source: &Source) -> Vec<Finding> {
    let tests = source.test_lines();
    let excused = |line: usize| {
        let near = [line.checked_sub(2), Some(line - 1)];
        near.into_iter().flatten().any(|i| source.comments[i].contains(PAUSE_EXCUSE))
    };
    source
        .words()
        .filter(|(_, word, rest)| ["sleep", "sleep_until"].contains(word) && rest.starts_with('('))
        .filter(|(line, ..)| tests.contains(line) && !excused(*line))
        .map(|(line, word, _)| {
            (line, format!("a test calls `{word}`: poll with a deadline and say `// {PAUSE_EXCUSE}`"))
        })
        .collect()
}

fn ignored_test(source: &Source) -> Vec<Finding> {
    let attributes = source.attributes().into_iter().filter(|(_, attribute)| {
        let mut inside = words(attribute).map(|(word, _)| word);
        match inside.next() {
            Some("ignore") => true,
            Some("cfg_attr") => inside.any(|word| word == "ignore"),
            Some(_) | None => false,
        }
    });
    let examples = source.comments.iter().enumerate().filter(|(_, comment)| {
        let fence = comment.trim_start_matches(['/', '!', '*', ' ']).strip_prefix("```");
        fence.is_some_and(|tags| words(tags).any(|(word, _)| word == "ignore"))
    });
    let lines = attributes.map(|(line, _)| line).chain(examples.map(|(i, _)| i + 1));
    lines
        .map(|line| (line, "a test that is ignored shows nothing: make it run or delete it".into()))
        .collect()
}

fn purpose(source: &Source) -> Vec<Finding> {
    if !source.path.ends_with("src/lib.rs") {
        return vec![];
    }
    let opening: Vec<_> = source.comments.iter().map_while(|line| line.strip_prefix("//!")).collect();
    let says_never =
        opening.iter().any(|line| words(line).any(|(word, _)| ["Never", "never"].contains(&word)));
    match (opening.is_empty(), says_never) {
        (true, _) => vec![(1, "has to open with `//!`: what lives here, and what must never".to_owned())],
        (false, false) => vec![(1, "does not say what must never live here".to_owned())],
        (false, true) => vec![],
    }
}

/// Whether `path` is part of the shim.
fn in_shim(path: &Path) -> bool {
    let source = Path::new("crates/runtime/src");
    path.starts_with(source.join("shim")) || path == source.join("shim.rs")
}

fn shim_with_runtime(source: &Source) -> Vec<Finding> {
    let found = source.words().filter(|(_, word, _)| *word == "tokio" && in_shim(&source.path));
    found.map(|(line, ..)| (line, "a shim is there for every instance: no tokio".to_owned())).collect()
}

/// Documents that comments mention (`docs/….md`) and that are not there.
fn lost_mentions(source: &Source, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, comment) in source.comments.iter().enumerate() {
        let not_in_path = |c: char| !(c.is_ascii_alphanumeric() || "/_-.".contains(c));
        for mention in comment.split(not_in_path).map(|word| word.trim_end_matches('.')) {
            if mention.starts_with("docs/") && mention.ends_with(".md") && !exists(mention) {
                findings.push((i + 1, format!("`{mention}` does not exist")));
            }
        }
    }
    findings
}

// Rules about manifests.

/// What the rules want to know of a `Cargo.toml`.
#[derive(Default)]
struct Manifest {
    name: String,
    /// Dependencies outside tests, those of build scripts among them, under their real names.
    uses: BTreeSet<String>,
    inherits_lints: bool,
}

/// The keys of a TOML text with their sections and values, unparsed: `(section, key, value)`. Knows as
/// much of TOML as manifests use; values may go over several lines.
fn entries(text: &str) -> Vec<(String, String, String)> {
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
fn renames(workspace: &str) -> BTreeMap<String, String> {
    dependencies(&entries(workspace))
        .into_iter()
        .filter_map(|(_, name, package)| Some((name, package?)))
        .collect()
}

fn manifest(text: &str, renames: &BTreeMap<String, String>) -> Manifest {
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

/// What `manifest` uses and may not.
fn edges(manifest: &Manifest) -> Vec<String> {
    let name = manifest.name.as_str();
    let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| *room == name) else {
        return vec![format!(
            "the crate `{name}` is in no table: add it to ROOMS in crates/mainstay/tests/tidy.rs, with the \
             rooms it may use, and to ARCHITECTURE.md"
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

// Rules about documents.

/// What to say when `text` does not name `folder`. `crates/api` is not named by `crates/apiary`.
fn unnamed(text: &str, folder: &str) -> Option<String> {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || "_-".contains(c));
    let named = text.match_indices(folder).any(|(i, _)| ends(&text[i + folder.len()..]));
    (!named).then(|| format!("ARCHITECTURE.md does not name `{folder}`: say what lives there and why"))
}

/// The files that a Markdown text links to, as written, with their lines. What leads into the web or to
/// another place of the same document is left out, and so is code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence = None;
    for (i, line) in text.lines().enumerate() {
        let start = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (Some(_), _) => {}
            (None, None) => found.extend(targets(line).into_iter().map(|target| (i + 1, target))),
        }
    }
    found
}

/// The files that a line of Markdown links to.
fn targets(line: &str) -> Vec<String> {
    // What stands between backticks is code. An odd one at the end opens nothing.
    let parts: Vec<_> = line.split('`').collect();
    let spoken = |i: &usize| i % 2 == 0 || (i + 1 == parts.len());
    let text: Vec<_> = (0..parts.len()).map(|i| if spoken(&i) { parts[i] } else { "code" }).collect();
    let text = text.join(" ");

    let inline = text.match_indices("](").map(|(i, mark)| {
        let rest = &text[i + mark.len()..];
        &rest[..closing(rest, '(', ')').unwrap_or(rest.len())]
    });
    let html = ["href=\"", "src=\""].into_iter().flat_map(|mark| text.split(mark).skip(1));
    let html = html.filter_map(|rest| Some(rest.split_once('"')?.0));
    let reference =
        text.trim_start().strip_prefix('[').and_then(|rest| Some(rest.split_once("]:")?.1.trim()));
    inline.chain(html).chain(reference).filter_map(target).collect()
}

/// The file that a link leads to: without title, brackets and place in the file.
fn target(link: &str) -> Option<String> {
    let link = link.trim();
    let path = match link.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        Some((path, _)) => path,
        None => link.split_whitespace().next()?,
    };
    let path = path.split('#').next()?.replace("%20", " ");
    let web = path.contains("://") || path.starts_with("mailto:");
    (!web && !path.is_empty()).then_some(path)
}

/// What is wrong with a decision record.
fn record(name: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let (number, words) = name.split_once('-').unwrap_or((name, ""));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let named = words.strip_suffix(".md").is_some_and(|words| !words.is_empty() && words.chars().all(plain));
    if number.len() != 4 || !number.bytes().all(|b| b.is_ascii_digit()) || !named {
        findings.push(format!("{name}: the name has to be like 0007-what-was-decided.md"));
    }
    if !text.starts_with(&format!("# {number}")) {
        findings.push(format!("{name}: has to begin with `# {number}` and its title"));
    }
    let sections: Vec<_> = text.lines().filter(|line| RECORD_SECTIONS.contains(&line.trim_end())).collect();
    if sections != RECORD_SECTIONS {
        findings.push(format!("{name}: has the sections {sections:?}, not {RECORD_SECTIONS:?}"));
    }
    findings
}

// The rules themselves: each finds what it forbids and nothing else.

/// The lines in which `rule` finds something in `text`.
fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).into_iter().map(|(line, _)| line).collect()
}

#[test]
fn text_and_comments_are_not_code() {
    let cases: &[(&str, &str, &str)] = &[
        ("a // b", "a ", "// b"),
        ("a /* b /* c */ d */ e", "a  e", "/* b /* c */ d */"),
        ("a \"b // c\" d", "a \"\" d", ""),
        (r#"a "b \" c" d"#, "a \"\" d", ""),
        (r#"a "\\" b"#, "a \"\" b", ""),
        ("a r#\"b \" c\"# d", "a \"\" d", ""),
        ("a br\"b\\\" d", "a b\"\" d", ""),
        ("r#type \"x\"", "r#type \"\"", ""),
        ("bar\"x\"", "bar\"\"", ""),
        ("a<'b>('\"', '\\'', 'c') d", "a<'b>(\"\", \"\", \"\") d", ""),
        ("b'\"' x", "b\"\" x", ""),
        ("\"a\n// b\" c", "\"\"\n c", "\n"),
        ("/* a\nb */ c", "\n c", "/* a\nb */"),
        ("\"é\" ü // ö", "\"\" ü ", "// ö"),
    ];
    for (text, code, comments) in cases {
        assert_eq!(take_apart(text), ((*code).to_owned(), (*comments).to_owned()), "{text}");
    }
}

#[test]
fn long_files_are_found() {
    let (fits, too_many) = ("x\n".repeat(LONGEST_FILE_LINES), "x\n".repeat(LONGEST_FILE_LINES + 1));
    assert_eq!(lines(too_long, "crates/a/src/b.rs", &fits), [0; 0]);
    assert_eq!(lines(too_long, "crates/a/src/b.rs", &too_many), [LONGEST_FILE_LINES + 1]);
    for exempt in ["src/b/tests.rs", "tests/b.rs", "src/b/tests/c.rs", "src/table.rs", "src/key_table.rs"] {
        assert_eq!(lines(too_long, exempt, &too_many), [0; 0], "{exempt}");
    }
    assert_eq!(lines(too_long, "crates/a/src/stable.rs", &too_many).len(), 1);
}

#[test]
fn drawers_are_found() {
    for path in ["a/src/util.rs", "a/src/helpers/b.rs", "a/tests/common/mod.rs", "misc/src/a.rs"] {
        assert_eq!(lines(drawer, path, ""), [1], "{path}");
    }
    assert_eq!(lines(drawer, "a/src/b.rs", "mod c;\npub mod common {}\nmod utils;"), [2, 3]);
    assert_eq!(lines(drawer, "a/src/commonwealth.rs", "mod utilities; // mod util\nlet common = 1;"), [0; 0]);
}

#[test]
fn unsafe_code_is_found() {
    let text = "unsafe { }\n// unsafe\nlet a = \"unsafe\";\n#![forbid(unsafe_code)]\npub unsafe fn b() {}";
    assert_eq!(lines(unsafe_code, "a.rs", text), [1, 5]);
}

#[test]
fn silenced_lints_are_found() {
    let bad =
        "#[allow(dead_code)]\n#![allow(unused)]\n#[cfg_attr(test, allow(x))]\n#[expect(x)]\n# [\nallow(y)]";
    assert_eq!(lines(silenced_lint, "a.rs", bad), [1, 2, 3, 4, 5]);
    let good = "#[expect(x, reason = \"y\")]\n// #[allow(x)]\nfn allow(a: u8) {}\nlet a = \"#[allow(b)]\";\n\
                #[derive(A)]\nb.expect(c);\n#[cfg_attr(test, expect(x, reason = \"y\"))]";
    assert_eq!(lines(silenced_lint, "a.rs", good), [0; 0]);
}

#[test]
fn what_is_left_for_later_is_found() {
    let bad = "todo!()\nunimplemented!(\"x\")\na(dbg!(b))\n// TODO later\n/* FIXME */\n/// XXX: y";
    assert_eq!(lines(left_for_later, "a.rs", bad), [1, 2, 3, 4, 5, 6]);
    let good = "let todo = 1;\nif todo != 2 {}\nlet a = \"TODO dbg!(x)\";\n// XXXXXX and TODOs of a shop\nmy_todo!()";
    assert_eq!(lines(left_for_later, "a.rs", good), [0; 0]);
}

#[test]
fn sleeping_tests_are_found() {
    let text = "thread::sleep(a);\ntokio::time::sleep(b).await; // waits on a condition\n\n\
                // waits on a condition\nsleep(c);\nsleep_until(d);\nCommand::new(\"sleep(1)\");\nasleep(e);";
    assert_eq!(lines(sleeping_test, "a/tests/b.rs", text), [1, 6]);
    assert_eq!(lines(sleeping_test, "a/src/b/tests.rs", text), [1, 6]);
    assert_eq!(lines(sleeping_test, "a/src/b.rs", text), [0; 0]);
    let inside = "sleep(a);\n#[cfg(test)]\nmod tests {\n    fn b() { sleep(c); }\n}\nfn d() { sleep(e); }";
    assert_eq!(lines(sleeping_test, "a/src/b.rs", inside), [4]);
    assert_eq!(lines(sleeping_test, "a/src/b.rs", "#[cfg(test)]\nmod tests;\nfn d() { sleep(e); }"), [0; 0]);
}

#[test]
fn ignored_tests_are_found() {
    let bad = "#[ignore]\n#[ignore = \"slow\"]\n#[cfg_attr(x, ignore)]\n/// ```ignore\n//! ```rust,ignore";
    assert_eq!(lines(ignored_test, "a.rs", bad), [1, 2, 3, 4, 5]);
    let good = "#[test]\nfn ignore() {}\n// #[ignore]\n/// ```no_run\n/// ignore ```\n#[serde(ignore_x)]";
    assert_eq!(lines(ignored_test, "a.rs", good), [0; 0]);
}

#[test]
fn rooms_without_a_purpose_are_found() {
    assert_eq!(lines(purpose, "crates/a/src/lib.rs", "//! A.\n//!\n//! Never here: b.\nmod c;"), [0; 0]);
    for text in ["", "mod a;\n//! Never.", "//! A.\nmod b; // never", "// Never", "//! Nevertheless"] {
        assert_eq!(lines(purpose, "crates/a/src/lib.rs", text), [1], "{text}");
    }
    assert_eq!(lines(purpose, "crates/a/src/main.rs", ""), [0; 0]);
}

#[test]
fn a_runtime_in_the_shim_is_found() {
    let text = "// no tokio here\nuse tokio::net;";
    assert_eq!(lines(shim_with_runtime, "crates/runtime/src/shim.rs", text), [2]);
    assert_eq!(lines(shim_with_runtime, "crates/runtime/src/shim/serve.rs", text), [2]);
    assert_eq!(lines(shim_with_runtime, "crates/runtime/src/driver.rs", text), [0; 0]);
}

#[test]
fn lost_documents_are_found() {
    let text =
        "/// See `docs/here.md`.\n// (docs/decisions/0001-gone.md).\nlet a = \"docs/gone.md\"; // docs/ md";
    let findings = lost_mentions(&Source::new("a.rs", text), |document| document == "docs/here.md");
    assert_eq!(findings, [(2, "`docs/decisions/0001-gone.md` does not exist".to_owned())]);
}

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
fn forbidden_edges_are_found() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("model", &["serde", "thiserror"], &[]),
        ("model", &["api"], &["`model` may not use `api`"]),
        ("model", &["tokio", "rustix"], &["`model` may not use `rustix`", "`model` may not use `tokio`"]),
        ("gateway", &["api", "model", "tokio"], &[]),
        ("gateway", &["control"], &["`gateway` may not use `control`"]),
        ("validate", &["gateway"], &["`validate` may not use `gateway`"]),
        ("keeper", &["tokio"], &["`keeper` may not use `tokio`: a process"]),
        ("control", &["rusqlite"], &["`control` may not use `rusqlite`, only [\"store\", \"shop\"] may"]),
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

#[test]
fn crates_without_a_place_are_found() {
    assert_eq!(unnamed("| `crates/api` | the wire |", "crates/api"), None);
    assert_eq!(unnamed("see crates/api", "crates/api"), None);
    for text in ["", "the api", "crates/apiary", "crates/api-client and crates/api_x"] {
        assert!(unnamed(text, "crates/api").is_some(), "{text}");
    }
}

#[test]
fn links_are_read() {
    let text = "[a](b.md) and ![c](<d e.png>) [f](g.md#h \"title\") [i](#j) [k](https://l) [m](mailto:n)\n\
                ```\n[no](code.md)\n```\n`[no](code.md)` [o](/p%20q.md) it's ` [r](s_(t).md)\n\
                [u]: v.md\n<a href=\"w.md\"><img src=\"x.svg\"></a>\n~~~\n```\n[no](code.md)\n~~~\n[y](z)";
    let expected = [
        (1, "b.md"),
        (1, "d e.png"),
        (1, "g.md"),
        (5, "/p q.md"),
        (5, "s_(t).md"),
        (6, "v.md"),
        (7, "w.md"),
        (7, "x.svg"),
        (12, "z"),
    ];
    let found = links(text);
    assert_eq!(found.iter().map(|(line, file)| (*line, file.as_str())).collect::<Vec<_>>(), expected);
}

#[test]
fn incomplete_records_are_found() {
    let text = "# 0001: A\n\n## Context\n\nb\n\n## Decision\n\nc\n\n## Consequences\n\nd\n";
    assert_eq!(record("0001-a-b2.md", text), [""; 0]);
    assert_eq!(record("0002-a.md", text).len(), 1, "another number in the title");
    for name in ["1-a.md", "0001.md", "0001-A.md", "0001-a.txt", "0001-.md", "x001-a.md"] {
        assert!(record(name, text).iter().any(|found| found.contains("the name")), "{name}");
    }
    assert_eq!(record("0001-a.md", &text.replace("## Decision", "## Choice")).len(), 1);
    assert_eq!(record("0001-a.md", &text.replace("## Context", "## Consequences")).len(), 1);
}
