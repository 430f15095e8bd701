//! What changes in the fields of a head on its way through. Maps are edited in place: hyper uses them again.

use crate::client::Client;
use crate::ids;
use crate::limits::REQUEST_ID_BYTES;
use crate::worker::Worker;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// RFC 9110, 7.6.3; the same in both directions.
const OUR_VIA: HeaderValue = HeaderValue::from_static("1.1 mainstay");

/// What a request's head needs besides itself.
pub(crate) struct Passage<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) client: &'a Client,
    /// Whether the client's address is that of a proxy whose word is taken.
    pub(crate) trusted: bool,
    pub(crate) id: &'a HeaderValue,
    /// The trace that was made with the id.
    pub(crate) trace: Option<&'a HeaderValue>,
    /// The trace as it goes on, where this gateway has decided of it.
    pub(crate) handed_on: Option<&'a HeaderValue>,
    /// Whether the body comes in chunks, which hyper is to be told.
    pub(crate) chunked: bool,
}

/// Fields of a request, as the instance is to see them.
pub(crate) fn request(fields: &mut HeaderMap, passage: &Passage<'_>) {
    let trailers = remove_hop_by_hop(fields);
    // hyper answers 100 by itself, when the instance takes the body.
    fields.remove(EXPECT);
    if trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
        fields.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if passage.chunked {
        fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    forwarded(fields, passage);
    fields.append(VIA, OUR_VIA);
    trace(fields, passage);
    fields.insert(REQUEST_ID, passage.id.clone());
}

/// Fields of an answer, as the client is to see them. The request id is added for every answer, see
/// [`crate::request`].
pub(crate) fn response(fields: &mut HeaderMap) {
    if fields.contains_key(TRANSFER_ENCODING) {
        // RFC 9112, 6.3: the coding is what counted, so a length beside it says something else to the next.
        fields.remove(CONTENT_LENGTH);
    }
    remove_hop_by_hop(fields);
    fields.append(VIA, OUR_VIA);
}

/// Removes what is meant for one connection only (RFC 9110, 7.6.1). `Trailer` stays: trailers pass. True: the
/// other side said it takes trailers.
fn remove_hop_by_hop(fields: &mut HeaderMap) -> bool {
    if fields.contains_key(CONNECTION) {
        remove_named(fields);
    }
    let takes = |value: &HeaderValue| {
        let text = value.as_bytes();
        text.split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    };
    let trailers = fields.contains_key(TE) && {
        let takes = fields.get_all(TE).iter().any(takes);
        fields.remove(TE);
        takes
    };
    for name in [&TRANSFER_ENCODING, &UPGRADE, &KEEP_ALIVE, &PROXY_CONNECTION] {
        fields.remove(name);
    }
    trailers
}

/// Removes `Connection` and the fields it names, but for those without which the message would be another one.
fn remove_named(fields: &mut HeaderMap) {
    let mut named: Vec<HeaderName> = Vec::new();
    for value in fields.get_all(CONNECTION) {
        for part in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            let usual = [&b"close"[..], b"keep-alive"].iter().any(|usual| part.eq_ignore_ascii_case(usual));
            if !usual && let Ok(name) = HeaderName::from_bytes(part) {
                named.push(name);
            }
        }
    }
    for name in named {
        // TE is looked at by the caller.
        if ![HOST, CONTENT_LENGTH, TE].contains(&name) {
            fields.remove(name);
        }
    }
    fields.remove(CONNECTION);
}

/// RFC 7239 and its forerunners. From a proxy that is trusted the chain is continued, from anybody else begun.
fn forwarded(fields: &mut HeaderMap, passage: &Passage<'_>) {
    let client = passage.client;
    let host = fields.get(HOST).cloned();
    let ours = forwarded_element(client, host.as_ref());
    if passage.trusted {
        if fields.contains_key(FORWARDED) {
            fields.append(FORWARDED, ours);
        } else if !fields.contains_key(FORWARDED_FOR) {
            fields.insert(FORWARDED, ours);
        }
        let chain = continued(fields, &client.address);
        fields.insert(FORWARDED_FOR, chain);
        if !fields.contains_key(FORWARDED_PROTO) {
            fields.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        if let (Some(host), false) = (host, fields.contains_key(FORWARDED_HOST)) {
            fields.insert(FORWARDED_HOST, host);
        }
        return;
    }
    fields.insert(FORWARDED, ours);
    fields.insert(FORWARDED_FOR, client.address.clone());
    fields.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    match host {
        Some(host) => fields.insert(FORWARDED_HOST, host),
        None => fields.remove(FORWARDED_HOST),
    };
}

/// All of `X-Forwarded-For` in one line, and the client's address at its end.
fn continued(fields: &HeaderMap, address: &HeaderValue) -> HeaderValue {
    let mut chain = Vec::new();
    for value in fields.get_all(FORWARDED_FOR) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(address.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(chain)).expect("values joined by commas are a value")
}

/// `for=192.0.2.1;host="example.org";proto=http`. Made once for all requests of a connection for the same host.
fn forwarded_element(client: &Client, host: Option<&HeaderValue>) -> HeaderValue {
    let none = HeaderValue::from_static("");
    let host = host.unwrap_or(&none);
    let mut last = client.forwarded.borrow_mut();
    if let Some((known, element)) = &*last
        && known == host
    {
        return element.clone();
    }
    let mut text = Vec::from(&b"for="[..]);
    if client.peer.is_ipv6() {
        // RFC 7239, 6: quoted for its colons.
        text.extend_from_slice(format!("\"[{}]\"", client.peer.ip()).as_bytes());
    } else {
        text.extend_from_slice(client.address.as_bytes());
    }
    if !host.is_empty() {
        // The guard lets no quote or backslash into a Host.
        text.extend_from_slice(b";host=\"");
        text.extend_from_slice(host.as_bytes());
        text.push(b'"');
    }
    text.extend_from_slice(b";proto=http");
    let element = HeaderValue::from_maybe_shared(Bytes::from(text)).expect("parts of values are a value");
    *last = Some((host.clone(), element.clone()));
    element
}

/// A well-formed trace is kept. A new one has the request id for its trace id, if that is one of ours.
fn trace(fields: &mut HeaderMap, passage: &Passage<'_>) {
    let kept = traceparent(fields).is_some();
    if let Some(ours) = passage.handed_on {
        fields.insert(TRACEPARENT, ours.clone());
    } else if !kept {
        let new = passage.trace.cloned().unwrap_or_else(|| passage.worker.traceparent());
        fields.insert(TRACEPARENT, new);
    }
    if !kept {
        fields.remove(TRACESTATE);
    }
}

/// The trace that a request is part of, if it names one, and well-formed.
pub(crate) fn traceparent(fields: &HeaderMap) -> Option<&HeaderValue> {
    let mut there = fields.get_all(TRACEPARENT).iter();
    let one = there.next().filter(|text| ids::is_traceparent(text.as_bytes()))?;
    there.next().is_none().then_some(one)
}

/// Says which trace a request is part of, in place of what it said.
pub(crate) fn set_traceparent(fields: &mut HeaderMap, text: HeaderValue) {
    fields.insert(TRACEPARENT, text);
}

/// The request id of a trusted proxy, if it is one that can be written anywhere.
pub(crate) fn sane_request_id(fields: &HeaderMap) -> Option<HeaderValue> {
    let id = fields.get(REQUEST_ID)?;
    let sane =
        !id.is_empty() && id.len() <= REQUEST_ID_BYTES && id.as_bytes().iter().all(u8::is_ascii_graphic);
    sane.then(|| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_connection_names_is_removed_but_not_what_frames_the_message() {
        let mut fields = map(&[
            ("connection", "keep-alive, X-One,content-length"),
            ("connection", "x-two, host, , Close"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("host", "h"),
            ("content-length", "0"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "x"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
        ]);
        assert!(!remove_hop_by_hop(&mut fields));
        assert_eq!(names(&fields), ["content-length", "host", "x-three"]);
    }

    #[test]
    fn te_says_whether_trailers_are_taken() {
        for (te, takes) in
            [("trailers", true), ("gzip;q=1, Trailers", true), ("gzip", false), ("x-trailers", false)]
        {
            let mut fields = map(&[("te", te), ("connection", "te")]);
            assert_eq!(remove_hop_by_hop(&mut fields), takes, "{te}");
            assert!(fields.is_empty());
        }
    }

    #[test]
    fn an_answer_with_a_coding_has_no_length() {
        let mut fields =
            map(&[("transfer-encoding", "chunked"), ("content-length", "5"), ("via", "1.0 other")]);
        response(&mut fields);
        assert_eq!(names(&fields), ["via"]);
        let via: Vec<_> = fields.get_all(VIA).iter().collect();
        assert_eq!(via, ["1.0 other", "1.1 mainstay"]);
    }

    #[test]
    fn a_request_id_is_short_and_visible() {
        for (id, sane) in [
            ("abc-1", true),
            (&*"x".repeat(128), true),
            (&*"x".repeat(129), false),
            ("a b", false),
            ("", false),
        ] {
            assert_eq!(sane_request_id(&map(&[("x-request-id", id)])).is_some(), sane, "{id}");
        }
    }
}
