//! Rules about one source file.

use crate::text::{Source, words};
use std::path::Path;

/// Names that say nothing about what belongs in a module and what does not.
const DRAWERS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// The most lines a source file may have. Tests and tables are exempt.
const LONGEST_FILE_LINES: usize = 500;

/// What a pause in a test has to say for itself: that it is between two looks at a condition, or that it
/// plays a slow peer. Nothing else may depend on how long something takes.
const PAUSE_EXCUSES: &[&str] = &["waits on a condition", "slow on purpose"];

/// The one file with `unsafe` code, and the one of its crate that speaks to SQLite:
/// `docs/decisions/0017-a-faulty-vfs-for-power-cuts.md`.
const FAULTY_VFS: &str = "crates/testkit/src/vfs.rs";

/// What a rule found: a line, counted from 1, and what is wrong there.
pub(crate) type Finding = (usize, String);

pub(crate) fn too_long(source: &Source) -> Vec<Finding> {
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

pub(crate) fn drawer(source: &Source) -> Vec<Finding> {
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

pub(crate) fn unsafe_code(source: &Source) -> Vec<Finding> {
    if source.path == Path::new(FAULTY_VFS) {
        return vec![];
    }
    let found = source.words().filter(|(_, word, _)| *word == "unsafe");
    found.map(|(line, ..)| (line, "`unsafe` is forbidden".to_owned())).collect()
}

/// `testkit` may use SQLite for its faulty VFS and for nothing else; its tests may.
pub(crate) fn sqlite_beside_the_vfs(source: &Source) -> Vec<Finding> {
    let other = source.path.starts_with("crates/testkit/src") && source.path != Path::new(FAULTY_VFS);
    let found = source.words().filter(|(_, word, _)| other && *word == "rusqlite");
    found.map(|(line, ..)| (line, format!("only {FAULTY_VFS} speaks to SQLite"))).collect()
}

pub(crate) fn silenced_lint(source: &Source) -> Vec<Finding> {
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

pub(crate) fn left_for_later(source: &Source) -> Vec<Finding> {
    let macros = source.words().filter(|(_, word, rest)| {
        ["todo", "unimplemented", "dbg"].contains(word) && rest.starts_with('!') && !rest.starts_with("!=")
    });
    let comments = source.comments.iter().enumerate();
    let marks = comments.flat_map(|(i, line)| words(line).map(move |(word, _)| (i + 1, word)));
    let marks = marks.filter(|(_, word)| ["TODO", "FIXME", "XXX"].contains(word));
    macros
        .map(|(line, word, _)| (line, format!("`{word}!`: do it now, or leave it out")))
        .chain(marks.map(|(line, word)| (line, format!("{word}: do it now, or leave it out"))))
        .collect()
}

pub(crate) fn sleeping_test(source: &Source) -> Vec<Finding> {
    let tests = source.test_lines();
    let excused = |line: usize| {
        let near = [line.checked_sub(2), Some(line - 1)];
        let mut near = near.into_iter().flatten().map(|i| &source.comments[i]);
        near.any(|comment| PAUSE_EXCUSES.iter().any(|excuse| comment.contains(excuse)))
    };
    source
        .words()
        .filter(|(_, word, rest)| ["sleep", "sleep_until"].contains(word) && rest.starts_with('('))
        .filter(|(line, ..)| tests.contains(line) && !excused(*line))
        .map(|(line, word, _)| {
            (line, format!("a test calls `{word}`: say next to it which it is, {PAUSE_EXCUSES:?}"))
        })
        .collect()
}

pub(crate) fn ignored_test(source: &Source) -> Vec<Finding> {
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

pub(crate) fn purpose(source: &Source) -> Vec<Finding> {
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
pub(crate) fn in_shim(path: &Path) -> bool {
    let source = Path::new("crates/runtime/src");
    path.starts_with(source.join("shim")) || path == source.join("shim.rs")
}

pub(crate) fn shim_with_runtime(source: &Source) -> Vec<Finding> {
    let found = source.words().filter(|(_, word, _)| *word == "tokio" && in_shim(&source.path));
    found.map(|(line, ..)| (line, "a shim is there for every instance: no tokio".to_owned())).collect()
}

/// Documents that comments mention (`docs/….md`) and that are not there.
pub(crate) fn lost_mentions(source: &Source, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
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

// Each rule finds what it forbids and lets pass what it allows.

/// The lines in which `rule` finds something in `text`.
fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).into_iter().map(|(line, _)| line).collect()
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
    assert_eq!(lines(unsafe_code, "crates/testkit/src/vfs/more.rs", text), [1, 5]);
    assert_eq!(lines(unsafe_code, FAULTY_VFS, text), [0; 0]);
}

#[test]
fn sqlite_in_other_files_of_testkit_is_found() {
    let text = "// rusqlite\nuse rusqlite::ffi;\nlet a = \"rusqlite\";";
    assert_eq!(lines(sqlite_beside_the_vfs, "crates/testkit/src/users.rs", text), [2]);
    for allowed in [FAULTY_VFS, "crates/testkit/tests/a.rs", "crates/store/src/commit.rs"] {
        assert_eq!(lines(sqlite_beside_the_vfs, allowed, text), [0; 0], "{allowed}");
    }
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
