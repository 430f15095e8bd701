//! Checks the shape of a file against the schema: unknown keys, missing keys, wrong types, all of them at
//! once and each at its place. What passes here can be read into the raw types.

use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::schema::{Kind, Node};
use serde_json::{Map, Value};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Characters of a wrong value that are shown.
const SHOWN_LIMIT: usize = 40;

/// How deep a JSON body may nest. What reads and renders it is recursive.
const JSON_DEPTH_LIMIT: usize = 32;

/// Where a value stands: the path of keys to it, and the bytes to point at when a key is missing.
struct Place<'p> {
    path: &'p str,
    span: Range<usize>,
}

/// Adds everything in `table` that is not as `node` wants it.
pub(crate) fn check(node: Node<'_>, table: &DeTable<'_>, findings: &mut Findings) {
    let Kind::Known(known) = node.kind() else { return };
    self::table(node, known, table, &Place { path: "", span: 0..0 }, findings);
}

fn value(node: Node<'_>, found: &Spanned<DeValue<'_>>, path: &str, findings: &mut Findings) {
    let span = found.span();
    match (node.kind(), found.get_ref()) {
        (Kind::Any, _) => any(found, path, 0, findings),
        (Kind::Text, DeValue::String(_)) | (Kind::Boolean | Kind::Switch(_), DeValue::Boolean(_)) => {}
        (Kind::Switch(table), DeValue::Table(_)) => value(table, found, path, findings),
        (Kind::Choice(choices), DeValue::String(text)) if choices.contains(&text.as_ref()) => {}
        (Kind::Choice(choices), DeValue::String(text)) => {
            let label = nearest(text, choices.iter().copied());
            let label = label.map_or_else(|| node.expected(), |near| format!("did you mean \"{near}\"?"));
            let message = format!("`{path}` must be {}, not \"{}\"", node.expected(), shorten(text));
            findings.add(Wrong::at(span, message).label(label));
        }
        (Kind::Integer { least, most }, DeValue::Integer(integer)) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix());
            if !number.is_ok_and(|number| (least..=most).contains(&number)) {
                let message = format!("`{path}` must be {}, not {integer}", node.expected());
                findings.add(Wrong::at(span, message).label(format!("{least} to {most}")));
            }
        }
        (Kind::List(items), DeValue::Array(array)) => {
            for (index, item) in array.iter().enumerate() {
                value(items, item, &format!("{path}[{index}]"), findings);
            }
        }
        (Kind::Known(known), DeValue::Table(table)) => {
            self::table(node, known, table, &Place { path, span }, findings);
        }
        (Kind::Named(values), DeValue::Table(table)) => {
            for (key, item) in table.iter() {
                value(values, item, &format!("{path}.{}", key.get_ref()), findings);
            }
        }
        (
            Kind::Text
            | Kind::Choice(_)
            | Kind::Integer { .. }
            | Kind::Boolean
            | Kind::Switch(_)
            | Kind::List(_)
            | Kind::Known(_)
            | Kind::Named(_),
            other,
        ) => wrong_type(node, other, span, path, findings),
    }
}

fn wrong_type(node: Node<'_>, found: &DeValue<'_>, span: Range<usize>, path: &str, findings: &mut Findings) {
    let expected = node.expected();
    let mut wrong = Wrong::at(span, format!("`{path}` must be {expected}, not {}", describe(found)))
        .label(format!("expected {expected}"));
    if let (Kind::Text, DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_)) = (node.kind(), found)
    {
        let written = findings.text().get(wrong.span()).unwrap_or_default();
        let quoted = format!("write it in quotes: \"{written}\"");
        wrong = wrong.help(node.example().map_or(quoted, |example| format!("such as \"{example}\"")));
    }
    if let (Kind::List(_), DeValue::String(_)) = (node.kind(), found) {
        wrong = wrong.help("write it in brackets, with each item in quotes");
    }
    findings.add(wrong);
}

fn table(
    node: Node<'_>,
    known: &Map<String, Value>,
    table: &DeTable<'_>,
    place: &Place<'_>,
    findings: &mut Findings,
) {
    for (key, item) in table.iter() {
        match known.get(key.get_ref().as_ref()) {
            Some(schema) => value(node.child(schema), item, &join(place.path, key.get_ref()), findings),
            None => {
                let name = shorten(key.get_ref());
                let near = nearest(key.get_ref(), known.keys().map(String::as_str));
                let label = near
                    .map_or_else(|| "not a key here".to_owned(), |near| format!("did you mean `{near}`?"));
                let keys = list(known.keys().map(String::as_str));
                let help = match place.path {
                    "" => format!("the file has the keys {keys}"),
                    path => format!("`{path}` has the keys {keys}"),
                };
                findings.add(Wrong::at(key.span(), format!("unknown key `{name}`")).label(label).help(help));
            }
        }
    }
    for key in node.required().filter(|key| !table.contains_key(*key)) {
        let message = match place.path {
            "" => format!("the file has no `{key}`"),
            path => format!("`{path}` has no `{key}`"),
        };
        let missing = known.get(key).map(|schema| node.child(schema));
        let help = missing.map(|missing| format!("`{key}` is {}: {}", missing.expected(), missing.meaning()));
        let wrong = Wrong::at(place.span.clone(), message).label(format!("`{key}` is missing"));
        findings.add(wrong.help(help.unwrap_or_default()));
    }
}

/// Where anything may stand, still only what JSON can say too.
fn any(found: &Spanned<DeValue<'_>>, path: &str, depth: usize, findings: &mut Findings) {
    if depth > JSON_DEPTH_LIMIT {
        let message = format!("`{path}` nests more than {JSON_DEPTH_LIMIT} deep");
        findings.add(Wrong::at(found.span(), message).label("one too deep"));
        return;
    }
    let mut refuse = |message: String| {
        findings.add(Wrong::at(found.span(), message).help("write it in quotes"));
    };
    match found.get_ref() {
        DeValue::Datetime(date) => refuse(format!("`{path}` holds the date {date}, and JSON has no dates")),
        DeValue::Integer(integer) if i64::from_str_radix(integer.as_str(), integer.radix()).is_err() => {
            refuse(format!("`{path}` holds {integer}, which is more than 64 bits"));
        }
        DeValue::Float(float) if !float.as_str().parse().is_ok_and(f64::is_finite) => {
            refuse(format!("`{path}` holds {float}, and JSON has only finite numbers"));
        }
        DeValue::Array(array) => array.iter().for_each(|item| any(item, path, depth + 1, findings)),
        DeValue::Table(table) => table.values().for_each(|item| any(item, path, depth + 1, findings)),
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => {}
    }
}

fn describe(found: &DeValue<'_>) -> String {
    match found {
        DeValue::String(text) => format!("the string \"{}\"", shorten(text)),
        DeValue::Integer(integer) => format!("the integer {integer}"),
        DeValue::Float(float) => format!("the number {float}"),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(date) => format!("the date {date}"),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A value of the user's in one line of a message.
pub(crate) fn shorten(text: &str) -> String {
    let line: String = text.chars().flat_map(char::escape_debug).take(SHOWN_LIMIT + 1).collect();
    match line.char_indices().nth(SHOWN_LIMIT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.replace("\\\"", "\"").replace("\\'", "'"),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
