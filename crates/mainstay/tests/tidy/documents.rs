//! Rules about documents: links, decision records, the table of rooms.

use crate::text::closing;

/// The parts of a decision record, in this order. There may be others between them.
const RECORD_PARTS: &[&str] = &["**Context.**", "**Decision.**", "**Consequences.**"];

/// What to say when `text` does not name `folder`. `crates/api` is not named by `crates/apiary`.
pub(crate) fn unnamed(text: &str, folder: &str) -> Option<String> {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || "_-".contains(c));
    let named = text.match_indices(folder).any(|(i, _)| ends(&text[i + folder.len()..]));
    (!named).then(|| format!("ARCHITECTURE.md does not name `{folder}`: say what lives there and why"))
}

/// The files that a Markdown text links to, as written, with their lines. What leads into the web or to
/// another place of the same document is left out, and so is code.
pub(crate) fn links(text: &str) -> Vec<(usize, String)> {
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
    let spoken = |i: &usize| i.is_multiple_of(2) || i + 1 == parts.len();
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
pub(crate) fn record(name: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let (number, words) = name.split_once('-').unwrap_or((name, ""));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let named = words.strip_suffix(".md").is_some_and(|words| !words.is_empty() && words.chars().all(plain));
    if number.len() != 4 || !number.bytes().all(|b| b.is_ascii_digit()) || !named {
        findings.push(format!("{name}: the name has to be like 0007-what-was-decided.md"));
    }
    let title = format!("# {}. ", number.trim_start_matches('0'));
    if !text.starts_with(&title) {
        findings.push(format!("{name}: has to begin with `{title}` and a title"));
    }
    let begins = |line: &str| RECORD_PARTS.iter().find(|part| line.starts_with(**part)).copied();
    let parts: Vec<_> = text.lines().filter_map(begins).collect();
    if parts != RECORD_PARTS {
        findings.push(format!("{name}: has the parts {parts:?}, not {RECORD_PARTS:?}"));
    }
    findings
}

// Each rule finds what it forbids and lets pass what it allows.

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
    let text = "# 1. A\n\n**Context.** b\n\n**Decision.** c\n\n**Why.** d\n\n**Consequences.** e\n";
    assert_eq!(record("0001-a-b2.md", text), [""; 0]);
    assert_eq!(record("0002-a.md", text).len(), 1, "another number in the title");
    for name in ["1-a.md", "0001.md", "0001-A.md", "0001-a.txt", "0001-.md", "x001-a.md"] {
        assert!(record(name, text).iter().any(|found| found.contains("the name")), "{name}");
    }
    assert_eq!(record("0001-a.md", &text.replace("**Decision.**", "Decision:")).len(), 1);
    assert_eq!(record("0001-a.md", &text.replace("**Context.**", "**Consequences.**")).len(), 1);
}
