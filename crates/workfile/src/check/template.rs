//! Texts with values in braces, and the few other texts that have a grammar of their own.

use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::raw::{At, JsonPathText};
use crate::shape::shorten;
use model::flow::JsonPath;
use model::template::{Template, TemplateError};
use std::ops::{Deref, Range};

/// The values that mean something where a text stands.
pub(super) struct Known<'k> {
    /// All that can be used.
    pub(super) names: Vec<&'k str>,
    /// What a later step saves, and where: for a better message.
    pub(super) later: Vec<(&'k str, Range<usize>)>,
}

impl<'k> Known<'k> {
    /// Just these names.
    pub(super) fn of(names: &[&'k str]) -> Self {
        Self { names: names.to_vec(), later: Vec::new() }
    }
}

/// Reads a text with values.
pub(super) fn template<T: Deref<Target = str>>(
    raw: &At<T>,
    known: &Known<'_>,
    findings: &mut Findings,
) -> Option<Template> {
    text(raw, raw.span(), known, findings)
}

/// The same for a text whose place is known otherwise.
pub(super) fn text(
    raw: &str,
    span: Range<usize>,
    known: &Known<'_>,
    findings: &mut Findings,
) -> Option<Template> {
    if raw.contains('\0') {
        findings.add(Wrong::at(span, "a text here cannot hold the character NUL"));
        return None;
    }
    match Template::parse(raw, |name| known.names.contains(&name)) {
        Ok(template) => Some(template),
        Err(error) => {
            let wrong = explain(&error, raw, span, known, findings);
            findings.add(wrong);
            None
        }
    }
}

fn explain(
    error: &TemplateError,
    raw: &str,
    span: Range<usize>,
    known: &Known<'_>,
    findings: &Findings,
) -> Wrong {
    let literal = "a literal brace is written twice: `{{`";
    match error {
        TemplateError::Unclosed { at } => {
            let place = inside(raw, span, *at, 1, findings);
            Wrong::at(place, "`{` has no `}`").label("opened here").help(literal)
        }
        TemplateError::Unopened { at } => {
            let place = inside(raw, span, *at, 1, findings);
            Wrong::at(place, "`}` has no `{`")
                .label("closed here")
                .help("a literal brace is written twice: `}}`")
        }
        TemplateError::Unknown { name, at } => {
            let place = inside(raw, span, *at, name.len() + 2, findings);
            let values = list(
                known
                    .names
                    .iter()
                    .map(|name| format!("{{{name}}}"))
                    .collect::<Vec<_>>()
                    .iter()
                    .map(String::as_str),
            );
            let help = format!("known here: {values}; {literal}");
            if let Some((_, saved)) = known.later.iter().find(|(later, _)| later == name) {
                let wrong =
                    Wrong::at(place, format!("`{{{name}}}` is used before it is saved")).label("used here");
                return wrong.also(saved.clone(), "saved here").help(help);
            }
            let near = nearest(name, known.names.iter().copied());
            let label =
                near.map_or_else(|| "unknown".to_owned(), |near| format!("did you mean `{{{near}}}`?"));
            Wrong::at(place, format!("`{{{}}}` means nothing here", shorten(name))).label(label).help(help)
        }
    }
}

/// The bytes of the file that hold `length` bytes of the text from `at`; the whole text when escapes make
/// the two differ.
fn inside(raw: &str, span: Range<usize>, at: usize, length: usize, findings: &Findings) -> Range<usize> {
    let written = findings.text().get(span.clone()).unwrap_or_default();
    let quotes = ["\"\"\"", "'''", "\"", "'"];
    let opening = quotes.iter().find(|quote| written == format!("{quote}{raw}{quote}"));
    match opening {
        Some(quote) => {
            let start = span.start + quote.len() + at;
            start..(start + length).min(span.end)
        }
        None => span,
    }
}

/// Reads a path into a JSON document.
pub(super) fn json_path(raw: &At<JsonPathText>, findings: &mut Findings) -> Option<JsonPath> {
    match serde_json_path::JsonPath::parse(raw) {
        Ok(_) => Some(JsonPath(raw.to_string())),
        Err(error) => {
            let message = format!("\"{}\" is not a JSONPath (RFC 9535)", shorten(raw));
            let at =
                raw.char_indices().nth(error.position().saturating_sub(1)).map_or(raw.len(), |(at, _)| at);
            let place = inside(raw, raw.span(), at, 1, findings);
            let label = if raw.starts_with('$') { error.message() } else { "does not begin with `$`" };
            findings.add(Wrong::at(place, message).label(label).help("such as \"$.items[0].sku\""));
            None
        }
    }
}

/// Whether a path begins with `/` and holds only what may stand in a request line (RFC 9112, 3.2): the rest
/// must be percent-encoded. `#` begins a fragment, which is never sent.
pub(super) fn path(raw: &At<impl Deref<Target = str>>, findings: &mut Findings) -> bool {
    if !raw.starts_with('/') {
        let message = format!("\"{}\" is not a path: a path begins with `/`", shorten(raw));
        findings.add(Wrong::at(raw.span(), message).label("does not begin with `/`"));
        return false;
    }
    let unfit = |c: char| c.is_ascii_control() || c.is_whitespace() || "<>`#".contains(c);
    if let Some((at, c)) = raw.char_indices().find(|(_, c)| unfit(*c)) {
        let place = inside(raw, raw.span(), at, c.len_utf8(), findings);
        let encoded: String = c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
        let message = format!("a path cannot hold {c:?}");
        findings.add(Wrong::at(place, message).help(format!("write it as `{encoded}`")));
        return false;
    }
    true
}

/// Whether a text may be the value of a header field (RFC 9110, 5.5).
pub(super) fn field_value(raw: &At<String>, findings: &mut Findings) -> bool {
    let fits = !raw.chars().any(|c| c.is_control() && c != '\t');
    if !fits {
        findings.add(Wrong::at(raw.span(), "a header's value is one line without control characters"));
    }
    fits
}
