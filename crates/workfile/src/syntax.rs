//! From text to TOML tables that know their places, or to what is wrong with the text as TOML.

use crate::error::{Findings, Wrong};
use std::collections::BTreeSet;
use std::ops::Range;
use toml::de::{DeTable, DeValue};
use toml_parser::lexer::TokenKind;

/// The most dots in one key. The file format needs five. The parser allows 80 of them in each of 80 nested
/// inline tables and makes a table for each; tables are dropped recursively, and so many use up the stack.
const DOTS_LIMIT: usize = 16;

/// What the parser says of a key or table that was given before.
const DUPLICATE: &str = "duplicate key";

/// Reads `text`. None when it is no TOML: then the findings say why.
pub(crate) fn read<'t>(text: &'t str, findings: &mut Findings) -> Option<DeTable<'t>> {
    if let Some(span) = too_deep(text) {
        let message = format!("a key with more than {DOTS_LIMIT} dots");
        findings.add(Wrong::at(span, message).label("one too many"));
        return None;
    }
    let (tree, errors) = DeTable::parse_recoverable(text);
    let tree = tree.into_inner();
    let mut lines = BTreeSet::new();
    let mut table_twice = 0..0;
    for error in &errors {
        let span = within(error.span().unwrap_or_default(), text);
        // One slip can make several errors of a line, and a table that is given twice has most of its keys
        // twice: the first error says it best.
        if table_twice.contains(&span.start) || !lines.insert(line_of(text, span.start).start) {
            continue;
        }
        if error.message() == DUPLICATE && header(text, line_of(text, span.start)).is_some() {
            let next = text[span.start..].find("\n[").map_or(text.len(), |next| span.start + next + 1);
            table_twice = span.start..next;
        }
        findings.add(explain(error.message(), span, text, &tree));
    }
    errors.is_empty().then_some(tree)
}

fn explain(message: &str, span: Range<usize>, text: &str, tree: &DeTable<'_>) -> Wrong {
    if message != DUPLICATE {
        return Wrong::at(span, format!("not TOML: {message}"));
    }
    let name = &text[span.clone()];
    let wrong = Wrong::at(span.clone(), format!("`{name}` is given twice")).label("given again");
    match first_place(span, text, tree) {
        Some(first) => wrong.also(first, "given here first"),
        None => wrong,
    }
}

/// Where the key at `again` was given before. The parser keeps only the later place.
fn first_place(again: Range<usize>, text: &str, tree: &DeTable<'_>) -> Option<Range<usize>> {
    let line = line_of(text, again.start);
    if let Some((path, _)) = header(text, line.clone()) {
        let mut start = 0;
        for earlier in text[..line.start].split_inclusive('\n') {
            match header(text, start..start + earlier.len()) {
                Some((other, place)) if other == path => return Some(place),
                Some(_) | None => start += earlier.len(),
            }
        }
        return None;
    }
    let mut places = Vec::new();
    keys_named(&text[again.clone()], tree, &mut places);
    places.into_iter().filter(|place| place.start < again.start).max_by_key(|place| place.start)
}

/// The path of the table that the line opens, and the place of its last key.
fn header(text: &str, line: Range<usize>) -> Option<(Vec<String>, Range<usize>)> {
    let written = text[line.clone()].trim_end();
    written.trim_start().starts_with('[').then_some(())?;
    let parsed = DeTable::parse(written).ok()?.into_inner();
    let (mut path, mut place, mut table) = (Vec::new(), 0..0, &parsed);
    while let Some((key, value)) = table.iter().next() {
        path.push(key.get_ref().to_string());
        place = line.start + key.span().start..line.start + key.span().end;
        table = match value.get_ref() {
            DeValue::Table(inner) => inner,
            DeValue::Array(array) => array.iter().next()?.get_ref().as_table()?,
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => return None,
        };
    }
    Some((path, place))
}

fn keys_named(name: &str, table: &DeTable<'_>, places: &mut Vec<Range<usize>>) {
    for (key, value) in table.iter() {
        if key.get_ref() == name {
            places.push(key.span());
        }
        let inner = match value.get_ref() {
            DeValue::Table(inner) => vec![inner],
            DeValue::Array(array) => array.iter().filter_map(|item| item.get_ref().as_table()).collect(),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => Vec::new(),
        };
        inner.into_iter().for_each(|table| keys_named(name, table, places));
    }
}

fn too_deep(text: &str) -> Option<Range<usize>> {
    let mut dots = 0;
    for token in toml_parser::Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::Atom | TokenKind::Whitespace | TokenKind::BasicString | TokenKind::LiteralString => {}
            TokenKind::Equals
            | TokenKind::Comma
            | TokenKind::LeftSquareBracket
            | TokenKind::RightSquareBracket
            | TokenKind::LeftCurlyBracket
            | TokenKind::RightCurlyBracket
            | TokenKind::Comment
            | TokenKind::Newline
            | TokenKind::MlLiteralString
            | TokenKind::MlBasicString
            | TokenKind::Eof => dots = 0,
        }
        if dots > DOTS_LIMIT {
            return Some(token.span().start()..token.span().end());
        }
    }
    None
}

fn line_of(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    start..end
}

/// The span, moved to whole characters inside the text: the parser may point just past its end.
fn within(span: Range<usize>, text: &str) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    let end = text.ceil_char_boundary(span.end.min(text.len())).max(start);
    start..end
}
