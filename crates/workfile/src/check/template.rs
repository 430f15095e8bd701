//! Texts with values in braces, and the few other texts that have a grammar of their own.

use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::raw::{At, JsonPathText, UrlText};
use crate::shape::shorten;
use model::flow::JsonPath;
use model::template::{Template, TemplateError};
use model::workload::RUN_VALUES;
use std::ops::{Deref, Range};

/// The values that mean something where a text stands.
pub(super) struct Known<'k> {
    /// All that can be used.
    pub(super) names: Vec<&'k str>,
    /// What a later step saves, and where: for a better message.
    pub(super) later: Vec<(&'k str, Range<usize>)>,
    /// What could be used elsewhere, and why it cannot be here.
    pub(super) absent: Option<(&'k str, &'static str)>,
}

impl<'k> Known<'k> {
    /// Just these names.
    pub(super) fn of(names: &[&'k str]) -> Self {
        Self { names: names.to_vec(), later: Vec::new(), absent: None }
    }

    /// The values of `run` and `env` for what has no port, and why it has none.
    pub(super) fn without_port(why: &'static str) -> Self {
        let names = RUN_VALUES.iter().copied().filter(|name| *name != "port").collect();
        Self { names, later: Vec::new(), absent: Some(("port", why)) }
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

/// What to say of an error.
pub(super) fn explain(
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
            if let Some((_, why)) = known.absent.filter(|(absent, _)| absent == name) {
                let message = format!("`{{{name}}}` means nothing here: {why}");
                return Wrong::at(place, message).label(why).help(help);
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
pub(super) fn inside(
    raw: &str,
    span: Range<usize>,
    at: usize,
    length: usize,
    findings: &Findings,
) -> Range<usize> {
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
    if let Some((at, c)) = unfit_in_path(raw) {
        let place = inside(raw, raw.span(), at, c.len_utf8(), findings);
        findings.add(cannot_be_in_path(c, place));
        return false;
    }
    true
}

/// The first character of a path that must be percent-encoded, and where it stands.
pub(super) fn unfit_in_path(path: &str) -> Option<(usize, char)> {
    let unfit = |c: char| c.is_ascii_control() || c.is_whitespace() || "<>`#".contains(c);
    path.char_indices().find(|(_, c)| unfit(*c))
}

pub(super) fn cannot_be_in_path(c: char, place: Range<usize>) -> Wrong {
    let encoded: String = c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    Wrong::at(place, format!("a path cannot hold {c:?}")).help(format!("write it as `{encoded}`"))
}

/// Whether a text may be the value of a header field (RFC 9110, 5.5).
pub(super) fn field_value(raw: &At<String>, findings: &mut Findings) -> bool {
    let fits = !raw.chars().any(|c| c.is_control() && c != '\t');
    if !fits {
        findings.add(Wrong::at(raw.span(), "a header's value is one line without control characters"));
    }
    fits
}

/// An absolute URL of any scheme, which `what` has. None when it is none; then there is a finding.
pub(super) fn any_url(
    raw: &At<UrlText>,
    what: &str,
    example: &str,
    findings: &mut Findings,
) -> Option<String> {
    if raw.starts_with("secret:") {
        let message = format!("\"{}\": secrets are not part of this version", shorten(raw));
        findings.add(Wrong::at(raw.span(), message).label("a secret").help("give the URL itself"));
        return None;
    }
    let wrong = url_fault(raw).map(|fault| {
        let message = format!("\"{}\" is not a URL: {fault}", shorten(raw));
        Wrong::at(raw.span(), message).label(format!("of {what}")).help(format!("such as \"{example}\""))
    });
    match wrong {
        None => Some(raw.to_string()),
        Some(wrong) => {
            findings.add(wrong);
            None
        }
    }
}

/// The same for `http` and `https`, with a host and perhaps a port.
pub(super) fn http_url(
    raw: &At<UrlText>,
    what: &str,
    example: &str,
    findings: &mut Findings,
) -> Option<String> {
    let url = any_url(raw, what, example, findings)?;
    let fault = http_fault(&url);
    if let Some(fault) = fault {
        let message = format!("\"{}\" is not an http URL: {fault}", shorten(raw));
        let help = format!("such as \"{example}\"");
        findings.add(Wrong::at(raw.span(), message).label(format!("of {what}")).help(help));
    }
    fault.is_none().then_some(url)
}

/// What keeps a text from being an absolute URL (RFC 3986, 3): a scheme, `//`, and only characters that need not
/// be percent-encoded.
fn url_fault(text: &str) -> Option<String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Some("it has no scheme, such as `http://`".to_owned());
    };
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(inner) {
        return Some(format!("`{}` is not a scheme", shorten(scheme)));
    }
    if rest.is_empty() {
        return Some("nothing follows the scheme".to_owned());
    }
    let unfit = |c: &char| !c.is_ascii_graphic() || "<>\"{}|\\^`".contains(*c);
    rest.chars().find(unfit).map(|c| {
        let encoded: String = c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("it cannot hold {c:?}, which is written `{encoded}`")
    })
}

/// What keeps an absolute URL from being one of `http` or `https` (RFC 9110, 4.2).
fn http_fault(url: &str) -> Option<&'static str> {
    let (scheme, rest) = url.split_once("://")?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Some("its scheme is neither `http` nor `https`");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some("it names a user, which an http URL must not");
    }
    // The colons of an IPv6 address stand in brackets.
    let after_address = authority.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match authority[after_address..].split_once(':') {
        Some((name, port)) => (&authority[..after_address + name.len()], Some(port)),
        None => (authority, None),
    };
    let number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if host.is_empty() {
        return Some("it has no host");
    }
    if url.contains('#') {
        return Some("a fragment is never sent");
    }
    port.is_some_and(|port| !number(port)).then_some("its port is not a number up to 65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_scheme_and_only_what_may_stand_in_one() {
        for good in
            ["postgres://u:p@h:5432/db", "http://a", "redis+tls://[::1]:1/0?a=b", "mysql://h1:1,h2:2/x%20y"]
        {
            assert_eq!(url_fault(good), None, "{good}");
        }
        for bad in
            ["", "host", "host:80", "://x", "1x://h", "http://", "http://a b", "http://é", "x://{data}"]
        {
            assert!(url_fault(bad).is_some(), "{bad:?} was taken for a URL");
        }
    }

    #[test]
    fn an_http_url_has_a_host_and_perhaps_a_port() {
        for good in
            ["http://a", "https://a.example/b?c=d", "HTTP://a:80/", "http://[::1]:8080/x", "http://[::1]"]
        {
            assert_eq!(http_fault(good), None, "{good}");
        }
        let bad = [
            "ftp://a",
            "http:///a",
            "http://:80/",
            "http://a:x",
            "http://a:65536",
            "http://a:/",
            "http://u@a",
            "http://a/#b",
        ];
        for bad in bad {
            assert!(http_fault(bad).is_some(), "{bad:?} was taken for an http URL");
        }
    }
}
