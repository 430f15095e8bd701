//! `Prefer` (RFC 7240): how long a client wants to wait for the service's own answer.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use std::time::Duration;

/// What a client prefers.
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Which of it was honoured (RFC 7240, 3).
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

const WAIT: &str = "wait";
const RESPOND_ASYNC: &str = "respond-async";

/// What of a request's preferences is for the gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Preferences {
    /// Seconds (RFC 7240, 4.3), as they were asked for.
    pub(crate) wait: Option<u64>,
    /// The client takes a 202 (RFC 7240, 4.1).
    pub(crate) respond_async: bool,
}

impl Preferences {
    /// Reads them and leaves in the request what is for the service: other preferences, in their order. Of one that
    /// is given more than once the first counts, also if its value cannot be read (RFC 7240, 2).
    pub(crate) fn take(fields: &mut HeaderMap) -> Self {
        let mut found = Self::default();
        let (mut waited, mut others) = (false, Vec::new());
        for line in fields.get_all(PREFER) {
            for member in split(line.as_bytes(), b',') {
                let (name, value) = preference(member);
                if name.eq_ignore_ascii_case(WAIT.as_bytes()) {
                    if !std::mem::replace(&mut waited, true) {
                        found.wait = value.as_deref().and_then(seconds);
                    }
                } else if name.eq_ignore_ascii_case(RESPOND_ASYNC.as_bytes()) {
                    found.respond_async = true;
                } else if !member.is_empty() {
                    others.push(member);
                }
            }
        }
        if waited || found.respond_async {
            let others = others.join(&b", "[..]);
            fields.remove(PREFER);
            if !others.is_empty() {
                let others = HeaderValue::from_bytes(&others).expect("parts of a value are a value");
                fields.insert(PREFER, others);
            }
        }
        found
    }

    /// How long to wait: what was asked for, up to `longest`; nothing for a client that takes a 202 and names no
    /// time; else `usual`.
    pub(crate) fn patience(self, usual: Duration, longest: Duration) -> Duration {
        match self.wait {
            Some(seconds) => Duration::from_secs(seconds).min(longest),
            None if self.respond_async => Duration::ZERO,
            None => usual,
        }
    }

    /// The value of `Preference-Applied`: the time that was granted, which may be less than what was asked for, and
    /// whether the answer is the 202 that was asked for. None: nothing was asked for that was honoured.
    pub(crate) fn applied(self, granted: Option<Duration>, accepted: bool) -> Option<HeaderValue> {
        let respond = (self.respond_async && accepted).then(|| RESPOND_ASYNC.to_owned());
        let wait = granted.filter(|_| self.wait.is_some()).map(|time| format!("{WAIT}={}", time.as_secs()));
        let both: Vec<String> = respond.into_iter().chain(wait).collect();
        let text = (!both.is_empty()).then(|| both.join(", "));
        text.map(|text| HeaderValue::try_from(text).expect("names and digits are visible ASCII"))
    }
}

/// The name and the value of a preference, without its parameters. A value that is empty is none (RFC 7240, 2).
fn preference(member: &[u8]) -> (&[u8], Option<Vec<u8>>) {
    let pair = split(member, b';').next().unwrap_or_default();
    let Some(equals) = pair.iter().position(|b| *b == b'=') else { return (pair, None) };
    let value = unquoted(pair[equals + 1..].trim_ascii());
    (pair[..equals].trim_ascii(), Some(value).filter(|value| !value.is_empty()))
}

/// A word (RFC 7240, 2): a token, or a quoted string without its quotes.
fn unquoted(word: &[u8]) -> Vec<u8> {
    let quoted = word.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let Some(quoted) = quoted else { return word.to_vec() };
    let mut value = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        let byte = if *byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte };
        value.push(*byte);
    }
    value
}

/// delta-seconds (RFC 9111, 1.2.2): more than can be counted is the most that can be.
fn seconds(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let step = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    digits.then(|| text.iter().fold(0, step))
}

/// The parts between separators that are not in a quoted string, without the white space around them.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(move |byte| {
        match (quoted, escaped, *byte) {
            (true, true, _) => escaped = false,
            (true, false, b'\\') => escaped = true,
            (_, false, b'"') => quoted = !quoted,
            (_, _, _) => {}
        }
        !quoted && *byte == separator
    });
    parts.map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> (Preferences, Vec<String>) {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(PREFER, HeaderValue::from_str(line).unwrap());
        }
        let found = Preferences::take(&mut fields);
        let left = fields.get_all(PREFER).iter().map(|value| value.to_str().unwrap().to_owned());
        (found, left.collect())
    }

    #[test]
    fn every_form_of_the_field() {
        let none = None;
        for (lines, wait, respond_async, left) in [
            (&[][..], none, false, &[][..]),
            (&["wait=10"], Some(10), false, &[]),
            (&["Wait = 10"], Some(10), false, &[]),
            (&["wait=\"10\""], Some(10), false, &[]),
            (&["wait=\"1\\0\""], Some(10), false, &[]),
            (&["wait=10; foo=bar"], Some(10), false, &[]),
            (&["wait=10;foo=\"a,b;wait=3\""], Some(10), false, &[]),
            (&["respond-async"], none, true, &[]),
            (&["Respond-Async"], none, true, &[]),
            (&["respond-async=\"\""], none, true, &[]),
            (&["respond-async; x=1, wait=5"], Some(5), true, &[]),
            (&["respond-async", "wait=5"], Some(5), true, &[]),
            (&["wait=0"], Some(0), false, &[]),
            // The first counts.
            (&["wait=3, wait=9"], Some(3), false, &[]),
            (&["wait=3", "wait=9"], Some(3), false, &[]),
            (&["wait=soon, wait=9"], none, false, &[]),
            (&["wait, wait=9"], none, false, &[]),
            (&["wait=-1"], none, false, &[]),
            (&["wait=1.5"], none, false, &[]),
            (&["wait=\"\""], none, false, &[]),
            (&["wait=99999999999999999999999"], Some(u64::MAX), false, &[]),
            // What is not ours is left.
            (&["return=minimal"], none, false, &["return=minimal"]),
            (&["return=minimal; a=\"x, y\", wait=1"], Some(1), false, &["return=minimal; a=\"x, y\""]),
            (&["handling=lenient", "respond-async, x"], none, true, &["handling=lenient, x"]),
            (&["waiting=3"], none, false, &["waiting=3"]),
            (&["note=\"wait=3, respond-async\""], none, false, &["note=\"wait=3, respond-async\""]),
            (&["note=\"a\\\", wait=3\""], none, false, &["note=\"a\\\", wait=3\""]),
            (&["note=\"open, wait=3"], none, false, &["note=\"open, wait=3"]),
            (&[", ,wait=1,,"], Some(1), false, &[]),
            (&["", "wait=1"], Some(1), false, &[]),
        ] {
            let (found, kept) = read(lines);
            assert_eq!((found.wait, found.respond_async), (wait, respond_async), "{lines:?}");
            assert_eq!(kept, left, "{lines:?}");
        }
    }

    #[test]
    fn what_was_honoured_is_said() {
        let (usual, longest) = (Duration::from_secs(2), Duration::from_secs(60));
        for (line, accepted, patience, applied) in [
            ("", true, 2, None),
            ("return=minimal", true, 2, None),
            ("respond-async", true, 0, Some("respond-async")),
            ("wait=5", true, 5, Some("wait=5")),
            ("wait=5", false, 5, Some("wait=5")),
            ("wait=600", true, 60, Some("wait=60")),
            ("wait=5, respond-async", true, 5, Some("respond-async, wait=5")),
            ("wait=5, respond-async", false, 5, Some("wait=5")),
            ("wait=soon", true, 2, None),
        ] {
            let (found, _) = read(&[line]);
            let granted = found.patience(usual, longest);
            assert_eq!(granted.as_secs(), patience, "{line}");
            let said = found.applied(Some(granted), accepted);
            assert_eq!(said.as_ref().map(|said| said.to_str().unwrap()), applied, "{line}");
        }
        let (found, _) = read(&["wait=5"]);
        assert_eq!(found.applied(None, true), None, "there was no wait");
    }
}
