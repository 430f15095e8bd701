//! Finished requests as OTLP has them (opentelemetry-proto 1.x), named by the semantic conventions for HTTP spans.

use super::leg::Delivered;
use super::{Draft, End, Finished};
use http::{HeaderValue, Method};
use model::workload::OTHER_ROUTE;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

/// Bits of a span's flags that say that it is known whether its parent is in another process, and that it is
/// (`SpanFlags` of trace.proto).
const HAS_REMOTE: u32 = 0x100;
const REMOTE: u32 = 0x200;

/// Who exports.
pub(super) fn resource(workload: Option<(String, String)>) -> Resource {
    let mut attributes = vec![text("service.name", "mainstay-gateway")];
    if let Some((workload, environment)) = workload {
        attributes.push(text("service.namespace", workload));
        attributes.push(text("deployment.environment.name", environment));
    }
    attributes.push(text("service.version", env!("CARGO_PKG_VERSION")));
    attributes.push(number("process.pid", i64::from(std::process::id())));
    Resource { attributes, ..Resource::default() }
}

/// One message for all of these.
pub(super) fn message(resource: &Resource, batch: &[Finished]) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope { name: "mainstay".into(), ..InstrumentationScope::default() };
    let spans = batch.iter().flat_map(|finished| match finished {
        Finished::Request { draft, end } => [Some(server(draft, end)), client(draft, end)],
        Finished::Delivery(delivered) => [Some(delivery(delivered)), None],
    });
    let spans = spans.flatten();
    let spans = ScopeSpans { scope: Some(scope), spans: spans.collect(), ..ScopeSpans::default() };
    let spans =
        ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![spans], ..Default::default() };
    ExportTraceServiceRequest { resource_spans: vec![spans] }
}

/// The span of the request as its client sees it.
fn server(draft: &Draft, end: &End) -> Span {
    // `other` is what fits no route, so it is none.
    let route = end.route.as_deref().filter(|route| *route != OTHER_ROUTE);
    let route = route.and_then(|route| route.split_once(' ')).map(|(_, path)| path);
    let (method, mut attributes) = method(&draft.method);
    let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    attributes.push(text("url.scheme", "http"));
    attributes.push(text("url.path", draft.path.clone()));
    attributes.extend(route.map(|route| text("http.route", route)));
    if let Some((host, port)) = draft.host.as_ref().and_then(host_and_port) {
        attributes.push(text("server.address", host));
        attributes.extend(port.map(|port| number("server.port", port.into())));
    }
    attributes.push(text("client.address", draft.peer.to_string()));
    let error = failed(end.error, end.status, 500);
    outcome(&mut attributes, end.status, error.as_deref());
    if let Some((stamp, release)) = &end.stamp {
        attributes.push(text("mainstay.release", release.clone()));
        attributes.push(text("mainstay.stamp", stamp.to_string()));
    }
    attributes.extend(end.instance.map(|(index, _)| number("mainstay.instance", index.into())));
    attributes.push(number("mainstay.attempts", end.attempts.into()));
    attributes.extend(end.job.map(|job| number("mainstay.job", job.cast_signed())));
    Span {
        trace_id: bytes(&draft.trace),
        span_id: draft.server.to_be_bytes().into(),
        parent_span_id: draft.parent.map(|parent| bytes(&parent)).unwrap_or_default(),
        flags: u32::from(draft.flags) | HAS_REMOTE | if draft.parent.is_some() { REMOTE } else { 0 },
        name,
        kind: SpanKind::Server.into(),
        start_time_unix_nano: draft.started_ns,
        end_time_unix_nano: draft.started_ns.saturating_add(nanos(end.duration)),
        attributes,
        status: error.map(|_| Status { message: String::new(), code: StatusCode::Error.into() }),
        ..Span::default()
    }
}

/// The span of its exchange with an instance, to the end of the answer: all attempts together. None: no instance was
/// asked.
fn client(draft: &Draft, end: &End) -> Option<Span> {
    let asked = draft.asked(end)?;
    let (method, mut attributes) = method(&draft.method);
    if let Some((index, address)) = end.instance {
        attributes.push(text("server.address", address.ip().to_string()));
        attributes.push(number("server.port", address.port().into()));
        attributes.push(text("url.full", format!("http://{address}{}", draft.path)));
        attributes.push(number("mainstay.instance", index.into()));
    }
    let status = if end.answered { end.status } else { 0 };
    let error = failed(end.error, status, 400);
    outcome(&mut attributes, status, error.as_deref());
    if end.attempts > 1 {
        attributes.push(number("http.request.resend_count", i64::from(end.attempts) - 1));
    }
    Some(Span {
        trace_id: bytes(&draft.trace),
        span_id: draft.client.to_be_bytes().into(),
        parent_span_id: draft.server.to_be_bytes().into(),
        flags: u32::from(draft.flags) | HAS_REMOTE,
        name: method.to_owned(),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: draft.started_ns.saturating_add(nanos(asked)),
        end_time_unix_nano: draft.started_ns.saturating_add(nanos(end.duration)),
        attributes,
        status: error.map(|_| Status { message: String::new(), code: StatusCode::Error.into() }),
        ..Span::default()
    })
}

/// The span of one delivery of a job, or of a probe for it.
fn delivery(delivered: &Delivered) -> Span {
    let Delivered { leg, end } = delivered;
    let (method, mut attributes) = method(&end.method);
    match (end.instance, end.host.as_ref().and_then(host_and_port)) {
        (Some((index, address)), _) => {
            attributes.push(text("server.address", address.ip().to_string()));
            attributes.push(number("server.port", address.port().into()));
            attributes.push(text("url.full", format!("http://{address}{}", end.path)));
            attributes.push(number("mainstay.instance", index.into()));
        }
        // An external, or nobody was found.
        (None, host) => {
            attributes.push(text("url.path", end.path.clone()));
            attributes.extend(host.map(|(host, _)| text("server.address", host)));
            attributes.extend(host.and_then(|(_, port)| port).map(|port| number("server.port", port.into())));
        }
    }
    let error = failed(end.error, end.status, 400);
    outcome(&mut attributes, end.status, error.as_deref());
    if let Some((stamp, release)) = &end.stamp {
        attributes.push(text("mainstay.release", release.clone()));
        attributes.push(text("mainstay.stamp", stamp.to_string()));
    }
    attributes.push(number("mainstay.job", end.job.cast_signed()));
    if end.attempt > 1 && !end.is_probe {
        attributes.push(number("http.request.resend_count", i64::from(end.attempt) - 1));
    }
    Span {
        trace_id: bytes(&leg.parts.trace),
        span_id: leg.span.to_be_bytes().into(),
        parent_span_id: bytes(&leg.parts.parent),
        // The gateway that took the request on may have been another process.
        flags: u32::from(leg.parts.flags) | HAS_REMOTE | REMOTE,
        name: format!("{} {method}", if end.is_probe { "probe" } else { "delivery" }),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: leg.started_ns,
        end_time_unix_nano: leg.started_ns.saturating_add(nanos(end.duration)),
        attributes,
        status: error.map(|_| Status { message: String::new(), code: StatusCode::Error.into() }),
        ..Span::default()
    }
}

/// The name of a method in a span's name, and what says it in full. Anybody can make up methods, so those that no
/// standard knows are one.
fn method(method: &Method) -> (&'static str, Vec<KeyValue>) {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    match KNOWN.into_iter().find(|known| *known == method.as_str()) {
        Some(known) => (known, vec![text("http.request.method", known)]),
        None => {
            let original = text("http.request.method_original", method.as_str());
            ("HTTP", vec![text("http.request.method", "_OTHER"), original])
        }
    }
}

/// What went wrong: the gateway's own word for it, or the status from `least` on. What is answered with less than
/// that, and is a client's mistake, is no error of this side.
fn failed(error: Option<&str>, status: u16, least: u16) -> Option<String> {
    let blamed = error.filter(|_| !(400..least).contains(&status));
    blamed.map(str::to_owned).or_else(|| (status >= least).then(|| status.to_string()))
}

fn outcome(attributes: &mut Vec<KeyValue>, status: u16, error: Option<&str>) {
    if status != 0 {
        attributes.push(number("http.response.status_code", status.into()));
    }
    attributes.extend(error.map(|error| text("error.type", error)));
}

/// RFC 9110, 7.2. The brackets of an IPv6 address are not part of it.
fn host_and_port(host: &HeaderValue) -> Option<(&str, Option<u16>)> {
    let host = host.to_str().ok().filter(|host| !host.is_empty())?;
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, port.parse().ok()),
        Some(_) | None => (host, None),
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    Some((bare.unwrap_or(name), port))
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Bytes of hexadecimal digits.
fn bytes(digits: &[u8]) -> Vec<u8> {
    let value = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
    digits.chunks_exact(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_ports() {
        for (host, expected) in [
            ("shop.example", Some(("shop.example", None))),
            ("shop.example:8080", Some(("shop.example", Some(8080)))),
            ("shop.example:", Some(("shop.example", None))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("[::1]", Some(("::1", None))),
            ("", None),
        ] {
            assert_eq!(host_and_port(&HeaderValue::from_static(host)), expected, "{host}");
        }
    }

    #[test]
    fn who_is_to_blame_depends_on_the_side() {
        assert_eq!(failed(Some("wrong_host"), 421, 500), None);
        assert_eq!(failed(Some("timeout"), 504, 500), Some("timeout".into()));
        assert_eq!(failed(Some("timeout"), 0, 400), Some("timeout".into()));
        assert_eq!(failed(Some("client_gone"), 0, 500), Some("client_gone".into()));
        assert_eq!(failed(None, 503, 500), Some("503".into()));
        assert_eq!((failed(None, 404, 500), failed(None, 404, 400)), (None, Some("404".into())));
        assert_eq!(failed(Some("upstream_cut"), 200, 500), Some("upstream_cut".into()));
    }
}
