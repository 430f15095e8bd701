//! Requests and answers as the queue keeps them, and as they are sent.

use crate::fields::REQUEST_ID;
use crate::queued::key::IDEMPOTENCY_KEY;
use bytes::BytesMut;
use http::Method;
use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, CONNECTION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE,
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE, TE, TRAILER, TRANSFER_ENCODING,
};
use queue::{Call, Fields};

/// Counts the deliveries of a call, from 1.
const ATTEMPT: HeaderName = HeaderName::from_static("mainstay-attempt");

/// What an external gets of a request's fields.
const FOR_STRANGERS: [HeaderName; 9] = [
    ACCEPT,
    ACCEPT_LANGUAGE,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    IDEMPOTENCY_KEY,
    ATTEMPT,
    REQUEST_ID,
    HeaderName::from_static("traceparent"),
];

/// What a client has said of its own request, and would make another answer of a probe's: 304, 206 or 412.
const PARTIAL: [HeaderName; 7] =
    [ATTEMPT, RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];

/// Fields as the queue keeps them. The length is that of a body, and is known from it.
pub(crate) fn listed(fields: &HeaderMap) -> Fields {
    let kept = || fields.iter().filter(|(name, _)| **name != CONTENT_LENGTH);
    // One piece of memory for all of them.
    let length = kept().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let mut all = BytesMut::with_capacity(length);
    for (name, value) in kept() {
        all.extend_from_slice(name.as_str().as_bytes());
        all.extend_from_slice(value.as_bytes());
    }
    let mut all = all.freeze();
    let cut = |(name, value): (&HeaderName, &HeaderValue)| {
        let name = all.split_to(name.as_str().len());
        (name, all.split_to(value.len()))
    };
    let mut listed = Fields::with_capacity(fields.len());
    listed.extend(kept().map(cut));
    listed
}

/// The same in a map. An operator may have written what is no field: that is left out.
pub(crate) fn map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        match (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(value.clone())) {
            (Ok(name), Ok(value)) => {
                map.append(name, value);
            }
            (_, _) => tracing::debug!(name = %String::from_utf8_lossy(name), "what is no field is not sent"),
        }
    }
    map
}

/// Takes out what says how a body is framed: it is sent with its length.
pub(crate) fn without_framing(fields: &mut HeaderMap) {
    for name in [&TRANSFER_ENCODING, &CONNECTION, &TE, &TRAILER, &CONTENT_LENGTH] {
        fields.remove(name);
    }
}

/// The fields of a call.
pub(crate) fn fields(call: &Call) -> HeaderMap {
    let mut fields = map(&call.fields);
    without_framing(&mut fields);
    if call.probe {
        // It has no effect that a key could tell apart, and asks for all there is.
        PARTIAL.iter().for_each(|name| drop(fields.remove(name)));
    } else {
        fields.insert(IDEMPOTENCY_KEY, key(&call.key));
        fields.insert(ATTEMPT, HeaderValue::from(call.attempt));
    }
    fields
}

/// A key is sent bare, as it is widely understood; one that cannot be goes in quotes.
fn key(key: &str) -> HeaderValue {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
    let text =
        if bare { key.to_owned() } else { format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\"")) };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// Leaves what an external may know: nothing of who the client is.
pub(crate) fn for_strangers(fields: &mut HeaderMap) {
    let mut left = HeaderMap::new();
    for name in FOR_STRANGERS {
        for value in fields.get_all(&name) {
            left.append(name.clone(), value.clone());
        }
    }
    *fields = left;
}

/// The method of a call as HTTP has it.
pub(crate) fn method(method: model::flow::Method) -> Method {
    use model::flow::Method as M;
    match method {
        M::Get => Method::GET,
        M::Head => Method::HEAD,
        M::Options => Method::OPTIONS,
        M::Post => Method::POST,
        M::Put => Method::PUT,
        M::Patch => Method::PATCH,
        M::Delete => Method::DELETE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn keys_are_sent_as_they_are_understood() {
        for (given, sent) in [
            ("8e03978e-40d5-43dc", "8e03978e-40d5-43dc"),
            ("a b", "\"a b\""),
            ("a\"b\\", "\"a\\\"b\\\\\""),
            ("", "\"\""),
        ] {
            assert_eq!(key(given), sent);
        }
    }

    #[test]
    fn a_probe_asks_for_all_there_is() {
        let names = ["range", "if-none-match", "if-match", "mainstay-attempt", "idempotency-key", "cookie"];
        let field = |name: &&'static str| (Bytes::from_static(name.as_bytes()), Bytes::from_static(b"1"));
        let call = |probe| Call {
            id: queue::CallId(1),
            job: queue::JobId(1),
            route: "POST /orders".into(),
            to: queue::Upstream::Default,
            method: model::flow::Method::Get,
            path_and_query: "/orders/1".into(),
            fields: names.iter().map(field).collect(),
            body: Bytes::new(),
            key: "k".into(),
            attempt: 3,
            timeout: std::time::Duration::from_secs(1),
            user: None,
            doubted: false,
            unannounced: false,
            probe,
            saga: false,
            undo: false,
        };
        let probe = fields(&call(true));
        let mut left: Vec<&str> = probe.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["cookie", "idempotency-key"]);
        let delivery = fields(&call(false));
        assert_eq!(delivery.len(), names.len());
        assert_eq!(
            (&delivery["mainstay-attempt"], &delivery["idempotency-key"]),
            (&"3".parse().unwrap(), &"k".parse().unwrap())
        );
    }

    #[test]
    fn strangers_do_not_learn_who_the_client_is() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("cookie", "session=1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
            ("content-type", "application/json"),
            ("accept", "application/json"),
            ("accept", "text/html"),
            ("idempotency-key", "k"),
        ] {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        for_strangers(&mut fields);
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "accept", "content-type", "idempotency-key"]);
    }

    #[test]
    fn fields_are_kept_in_their_order() {
        let mut fields = HeaderMap::new();
        for (name, value) in [("set-cookie", "a=1"), ("content-length", "3"), ("set-cookie", "b=2")] {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let kept = listed(&fields);
        let cookies: Vec<_> = map(&kept).get_all("set-cookie").iter().cloned().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(kept.len(), 2, "the length goes");
    }
}
