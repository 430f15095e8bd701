//! Rust text, taken apart just far enough: what is code and what is said about it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A Rust file.
pub(crate) struct Source {
    /// Relative to the root.
    pub(crate) path: PathBuf,
    /// The code of each line, without comments and with every text and character literal emptied.
    pub(crate) code: Vec<String>,
    /// The comments of each line.
    pub(crate) comments: Vec<String>,
}

impl Source {
    pub(crate) fn new(path: impl AsRef<Path>, text: &str) -> Self {
        let mut source = Self { path: path.as_ref().into(), code: vec![], comments: vec![] };
        let (code, comments) = take_apart(text);
        source.code.extend(code.split('\n').map(str::to_owned));
        source.comments.extend(comments.split('\n').map(str::to_owned));
        source
    }

    /// Whether the file holds only tests, or what they use.
    pub(crate) fn is_test(&self) -> bool {
        let stem = self.path.file_stem().unwrap_or_default();
        stem == "tests" || self.path.iter().any(|part| part == "tests")
    }

    /// Every word of the code, with its line and what follows it on that line.
    pub(crate) fn words(&self) -> impl Iterator<Item = (usize, &str, &str)> {
        let lines = self.code.iter().enumerate();
        lines.flat_map(|(i, line)| words(line).map(move |(word, rest)| (i + 1, word, rest)))
    }

    /// Every attribute: its line and what stands between its brackets.
    pub(crate) fn attributes(&self) -> Vec<(usize, String)> {
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
    pub(crate) fn test_lines(&self) -> BTreeSet<usize> {
        let mut lines = BTreeSet::new();
        if self.is_test() {
            lines.extend(1..=self.code.len());
        }
        let marks = self.attributes().into_iter().filter(|(_, attribute)| attribute == "cfg(test)");
        for (first, _) in marks {
            let after = self.code[first - 1..].join("\n");
            let (head, body) = after.split_once('{').unwrap_or_default();
            // `mod tests;` has a file of its own.
            if !head.contains(';') {
                let length = closing(body, '{', '}').unwrap_or(body.len());
                let body_lines = head.matches('\n').count() + body[..length].matches('\n').count();
                lines.extend(first..=first + body_lines);
            }
        }
        lines
    }
}

/// The words of a line of code (identifiers and numbers), each with what follows it.
pub(crate) fn words(line: &str) -> impl Iterator<Item = (&str, &str)> {
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
pub(crate) fn closing(text: &str, open: char, close: char) -> Option<usize> {
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
