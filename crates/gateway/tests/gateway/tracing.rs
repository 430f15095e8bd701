//! Traces: what a collector gets, what services are told, and that nobody waits for a collector.

use crate::queued::{delivered, location, order, queueing};
use crate::stage::{Gateway, Reply, Upstream, dead_address, error, ok, put, stamp, stamp_at, wait_for};
use api::gateway::TableStamp;
use model::traces::Traces;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that takes everything.
fn collector() -> Upstream {
    Upstream::start(|_, _| taken())
}

fn taken() -> Reply {
    Reply::SendClose(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())
}

/// What it got.
fn messages(collector: &Upstream) -> Vec<ExportTraceServiceRequest> {
    let read = |seen: crate::stage::Seen| {
        assert_eq!(seen.line(), "POST /v1/traces HTTP/1.1");
        assert_eq!(seen.one("content-type"), "application/x-protobuf");
        ExportTraceServiceRequest::decode(seen.body.as_slice()).unwrap()
    };
    collector.seen().into_iter().map(read).collect()
}

fn spans(collector: &Upstream) -> Vec<Span> {
    let resources = messages(collector).into_iter().flat_map(|message| message.resource_spans);
    resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

/// The spans, once there are `count`.
fn wait_spans(collector: &Upstream, count: usize) -> Vec<Span> {
    wait_for("spans", || Some(spans(collector)).filter(|spans| spans.len() >= count))
}

fn to(mut stamp: TableStamp, collector: SocketAddr, share: f64) -> TableStamp {
    stamp.settings.traces = Some(Traces { endpoint: format!("http://{collector}"), share });
    stamp
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An attribute, as text.
fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    let number =
        |value: &Value| if let Value::IntValue(number) = value { Some(number.to_string()) } else { None };
    let text = number(&value).or(if let Value::StringValue(text) = value { Some(text) } else { None });
    Some(text.unwrap_or_else(|| panic!("{key} is neither text nor a whole number")))
}

#[track_caller]
fn has(span: &Span, attributes: &[(&str, &str)]) {
    for (key, value) in attributes {
        assert_eq!(attribute(&span.attributes, key).as_deref(), Some(*value), "{key} of {span:#?}");
    }
}

fn traceparent(upstream: &Upstream, request: usize) -> Vec<String> {
    upstream.seen()[request].one("traceparent").split('-').map(str::to_owned).collect()
}

#[test]
fn a_traced_request_is_a_span_and_one_below_it_for_the_instance() {
    let (upstream, collector) = (Upstream::named("hello"), collector());
    let gateway = Gateway::start();
    let mut traced = to(stamp(1, &[&upstream]), collector.address, 1.0);
    // As it is stored, so that what routes say besides need not be known here.
    let route = serde_json::json!({ "method": "POST", "path": "/a/*", "objective": null });
    traced.settings.routes = vec![serde_json::from_value(route).unwrap()];
    gateway.activate(&traced);
    let answer =
        gateway.ask("POST /a/b?secret=c HTTP/1.1\r\nhost: shop.example:81\r\ncontent-length: 1\r\n\r\nx");
    assert_eq!(answer.status, 200);
    let spans = wait_spans(&collector, 2);
    let [server, client] = &spans[..] else { panic!("{spans:#?}") };

    let told = traceparent(&upstream, 0);
    assert_eq!((told[0].as_str(), told[3].as_str()), ("00", "01"));
    assert_eq!(told[1], answer.one("x-request-id"), "a new trace begins with the request id");
    for span in [server, client] {
        assert_eq!(hex(&span.trace_id), told[1]);
        assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano);
        assert_eq!(span.status, None);
    }
    assert_eq!(told[2], hex(&client.span_id), "what the service does is below the exchange with it");
    assert_eq!(client.parent_span_id, server.span_id);
    assert!(server.parent_span_id.is_empty(), "the trace begins here");
    assert!(client.start_time_unix_nano >= server.start_time_unix_nano);

    assert_eq!((server.kind(), server.name.as_str()), (SpanKind::Server, "POST /a/*"));
    has(
        server,
        &[
            ("http.request.method", "POST"),
            ("url.scheme", "http"),
            ("url.path", "/a/b"),
            ("http.route", "/a/*"),
            ("http.response.status_code", "200"),
            ("server.address", "shop.example"),
            ("server.port", "81"),
            ("client.address", "127.0.0.1"),
            ("mainstay.release", "release-1"),
            ("mainstay.stamp", "s1"),
            ("mainstay.instance", "0"),
            ("mainstay.attempts", "1"),
        ],
    );
    assert_eq!(attribute(&server.attributes, "error.type"), None);
    assert_eq!((client.kind(), client.name.as_str()), (SpanKind::Client, "POST"));
    has(
        client,
        &[
            ("http.request.method", "POST"),
            ("http.response.status_code", "200"),
            ("server.port", &upstream.address.port().to_string()),
            ("url.full", &format!("http://{}/a/b", upstream.address)),
        ],
    );
    let resource = messages(&collector)[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("mainstay-gateway"));
    assert_eq!(gateway.metric("spans_exported_total"), 2);
    assert_eq!(gateway.metric("spans_dropped_total"), 0);
}

/// The collector gets each attempt, although the client has its 202 long before the last of them.
#[test]
fn a_traced_order_is_a_span_and_one_below_it_for_each_delivery() {
    let tries = AtomicU32::new(0);
    let upstream = Upstream::start(move |_, _| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => error(),
        _ => ok("made"),
    });
    let collector = collector();
    let gateway = Gateway::start();
    let queued = queueing(stamp(1, &[&upstream]), |queue| queue.idempotent = true);
    gateway.activate(&to(queued, collector.address, 1.0));
    let answer = gateway.ask(&order(&["prefer: respond-async"], "x"));
    let id = answer.one("x-request-id").to_owned();
    let job = location(&answer);
    delivered(&gateway, &job);
    // Looking after the job is traced as well.
    let of_it = |spans: Vec<Span>| -> Vec<Span> {
        spans.into_iter().filter(|span| hex(&span.trace_id) == id).collect()
    };
    let mut spans = wait_for("spans", || Some(of_it(spans(&collector))).filter(|spans| spans.len() >= 3));
    spans.sort_by_key(|span| (span.kind() != SpanKind::Server, span.start_time_unix_nano));
    let [server, first, second] = &spans[..] else { panic!("{spans:#?}") };
    let number = job.rsplit('/').next().unwrap().split('-').next().unwrap();
    assert_eq!(server.name, "POST /orders");
    has(server, &[("http.response.status_code", "202"), ("mainstay.job", number)]);
    let told = [traceparent(&upstream, 0), traceparent(&upstream, 1)];
    for (attempt, told) in [first, second].into_iter().zip(&told) {
        assert_eq!((attempt.kind(), attempt.name.as_str()), (SpanKind::Client, "delivery POST"));
        assert_eq!(attempt.parent_span_id, server.span_id);
        assert_eq!([&told[1], &told[2], &told[3]], [&id, &hex(&attempt.span_id), "01"]);
        let url = format!("http://{}/orders", upstream.address);
        has(attempt, &[("mainstay.job", number), ("mainstay.release", "release-1"), ("url.full", &url)]);
    }
    has(first, &[("http.response.status_code", "500"), ("error.type", "500")]);
    has(second, &[("http.response.status_code", "200"), ("http.request.resend_count", "1")]);
    assert_eq!(second.status, None);
}

/// What is not traced when it comes is not when it is delivered.
#[test]
fn an_order_that_is_not_traced_has_no_spans() {
    let (upstream, collector) = (Upstream::named("made"), collector());
    let gateway = Gateway::start();
    gateway.activate(&to(queueing(stamp(1, &[&upstream]), |_| {}), collector.address, 0.0));
    let fields = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    assert_eq!(gateway.ask(&order(&[&fields], "x")).status, 200);
    let told = traceparent(&upstream, 0);
    assert_eq!((told[1].as_str(), told[3].as_str()), (TRACE, "00"));
    assert_eq!(gateway.metric("spans_exported_total") + gateway.metric("spans_dropped_total"), 0);
    assert!(spans(&collector).is_empty());
}

/// Nor is what came while traces were off, whatever its client says of it.
#[test]
fn a_backlog_from_before_traces_has_no_spans() {
    let (upstream, collector) = (Upstream::named("made"), collector());
    let gateway = Gateway::start();
    let mut queued = queueing(stamp(1, &[]), |queue| queue.idempotent = true);
    gateway.activate(&queued);
    let fields = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let fields = [fields.as_str(), "mainstay-traced: 1", "prefer: respond-async"];
    let job = location(&gateway.ask(&order(&fields, "x")));
    queued = queueing(stamp(2, &[&upstream]), |queue| queue.idempotent = true);
    gateway.activate(&to(queued, collector.address, 0.0));
    delivered(&gateway, &job);
    let told = traceparent(&upstream, 0);
    assert_eq!([&told[1], &told[2], &told[3]], [TRACE, PARENT, "01"], "what the client says is handed on");
    assert!(upstream.seen()[0].all("mainstay-traced").is_empty());
    assert_eq!(gateway.metric("spans_exported_total") + gateway.metric("spans_dropped_total"), 0);
}

/// Whoever is not trusted does not decide how much is exported.
#[test]
fn a_trusted_proxy_decides_and_for_all_others_the_share_does() {
    for (trusted, share, came, traced) in [
        (true, 0.0, Some("01"), true),
        (true, 1.0, Some("00"), false),
        (true, 1.0, None, true),
        (true, 0.0, None, false),
        (false, 0.0, Some("01"), false),
        (false, 1.0, Some("00"), true),
        (false, 0.0, None, false),
    ] {
        let case = format!("trusted {trusted}, share {share}, came {came:?}");
        let (upstream, collector) = (Upstream::named("hello"), collector());
        let mut gateway = Gateway::start();
        let mut table = put(Some(&to(stamp(1, &[&upstream]), collector.address, share)), None);
        if trusted {
            table.table.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        }
        gateway.put(&table).unwrap();
        let field = came.map_or_else(String::new, |flags| {
            format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\ntracestate: a=b\r\n")
        });
        gateway.ask(&format!("GET /x HTTP/1.1\r\nhost: a\r\n{field}\r\n"));
        let told = traceparent(&upstream, 0);
        assert_eq!(told[3], if traced { "01" } else { "00" }, "{case}");
        assert_eq!(upstream.seen()[0].all("tracestate").len(), usize::from(came.is_some()), "{case}");
        if came.is_some() {
            assert_eq!(told[1], TRACE, "{case}");
            let as_it_came = !traced && came == Some("00");
            assert_eq!(told[2] == PARENT, as_it_came, "{case}");
        }
        // What waits is sent before the gateway ends.
        gateway.stop();
        let spans = spans(&collector);
        assert_eq!(spans.len(), if traced { 2 } else { 0 }, "{case}");
        for server in spans.iter().filter(|span| span.kind() == SpanKind::Server) {
            assert_eq!(hex(&server.parent_span_id), if came.is_some() { PARENT } else { "" }, "{case}");
        }
    }
}

#[test]
fn what_goes_wrong_is_said() {
    let (upstream, collector) = (Upstream::start(|_, _| error()), collector());
    let mut gateway = Gateway::start();
    gateway.activate(&to(stamp(1, &[&upstream]), collector.address, 1.0));
    assert_eq!(gateway.get("/fails").status, 500);
    gateway.activate(&to(stamp_at(2, &[dead_address()]), collector.address, 1.0));
    assert_eq!(gateway.get("/unreachable").status, 502);
    let mut elsewhere = to(stamp(3, &[&upstream]), collector.address, 1.0);
    elsewhere.settings.hosts = vec!["shop.example".into()];
    gateway.activate(&elsewhere);
    assert_eq!(gateway.get("/misdirected").status, 421);
    gateway.ask("FETCH /odd HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    gateway.stop();
    let spans = spans(&collector);
    let of = |path: &str| {
        let server =
            spans.iter().find(|span| attribute(&span.attributes, "url.path").as_deref() == Some(path));
        let server = server.unwrap_or_else(|| panic!("{path} in {spans:#?}"));
        (server, spans.iter().find(|span| span.parent_span_id == server.span_id))
    };
    let is_error = |span: &Span| span.status.as_ref().is_some_and(|s| s.code() == StatusCode::Error);

    let (server, client) = of("/fails");
    has(server, &[("http.response.status_code", "500"), ("error.type", "500")]);
    assert!(is_error(server) && client.is_some_and(is_error));
    assert_eq!(server.name, "GET", "what fits no route is named by its method alone");

    let (server, client) = of("/unreachable");
    has(
        server,
        &[
            ("http.response.status_code", "502"),
            ("error.type", "connect_failed"),
            ("mainstay.attempts", "0"),
            ("mainstay.stamp", "s2"),
        ],
    );
    assert!(is_error(server) && client.is_none(), "no instance was asked");

    let (server, client) = of("/misdirected");
    has(server, &[("http.response.status_code", "421")]);
    assert!(!is_error(server) && client.is_none(), "it is the client's mistake");

    let (server, _) = of("/odd");
    has(server, &[("http.request.method", "_OTHER"), ("http.request.method_original", "FETCH")]);
    assert_eq!(server.name, "HTTP");
}

#[test]
fn a_collector_that_hangs_costs_spans_and_nothing_else() {
    // What may wait, what is in hand, and some that have to be dropped.
    const REQUESTS: u64 = 4096 + 512 + 400;
    let (upstream, hung) = (Upstream::named("hello"), Upstream::start(|_, _| Reply::Hang));
    let mut gateway = Gateway::start();
    gateway.activate(&to(stamp(1, &[&upstream]), hung.address, 1.0));
    let mut browser = gateway.browse();
    for _ in 0..REQUESTS {
        browser.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = browser.answer();
        assert_eq!((answer.status, answer.text()), (200, "hello"));
    }
    let dropped = gateway.metric("spans_dropped_total");
    assert!(dropped >= 2 * 400, "{dropped} of {} spans were dropped", 2 * REQUESTS);
    assert_eq!(gateway.metric("spans_exported_total"), 0);
    assert_eq!(gateway.metric("failed_total"), 0);
    hung.wait(1);
    gateway.stop();
}

#[test]
fn the_exporter_goes_where_the_active_release_says() {
    let (upstream, first, second) = (Upstream::named("hello"), collector(), collector());
    let gateway = Gateway::start();
    gateway.activate(&to(stamp(1, &[&upstream]), dead_address(), 1.0));
    gateway.get("/nobody");
    wait_for("a message to be given up", || (gateway.metric("spans_dropped_total") == 2).then_some(()));
    for (number, collector) in [(2, &first), (3, &second)] {
        gateway.activate(&to(stamp(number, &[&upstream]), collector.address, 1.0));
        gateway.get("/somebody");
        let spans = wait_spans(collector, 2);
        has(&spans[0], &[("mainstay.stamp", &format!("s{number}"))]);
    }
    gateway.activate(&stamp(4, &[&upstream]));
    gateway.get("/off");
    assert_eq!(upstream.seen()[3].one("traceparent").len(), 55);
    assert_eq!((spans(&first).len(), spans(&second).len()), (2, 2));
    assert_eq!(gateway.metric("spans_exported_total"), 4);
}

#[test]
fn a_collector_that_is_busy_is_asked_again() {
    let asked = AtomicU32::new(0);
    let collector = Upstream::start(move |_, _| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::SendClose(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec()),
        _ => taken(),
    });
    let upstream = Upstream::start(|_, _| ok("hello"));
    let gateway = Gateway::start();
    gateway.activate(&to(stamp(1, &[&upstream]), collector.address, 1.0));
    gateway.get("/");
    wait_for("the spans to be taken", || (gateway.metric("spans_exported_total") == 2).then_some(()));
    assert_eq!(gateway.metric("spans_dropped_total"), 0);
    let all = spans(&collector);
    assert_eq!((collector.count(), all.len()), (2, 4));
    assert_eq!(all[..2], all[2..], "the same message twice");
}

#[test]
fn a_long_target_and_a_long_host_are_cut() {
    let (upstream, collector) = (Upstream::named("there"), collector());
    let gateway = Gateway::start();
    gateway.activate(&to(stamp(1, &[&upstream]), collector.address, 1.0));
    let (path, host) = (format!("/{}", "p".repeat(20_000)), "h".repeat(20_000));
    let answer = gateway.ask(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    assert_eq!(answer.status, 200);
    let spans = wait_spans(&collector, 2);
    let longest =
        |key: &str| spans.iter().filter_map(|span| attribute(&span.attributes, key)).map(|a| a.len()).max();
    assert_eq!((longest("url.path"), longest("server.address")), (Some(4096), Some(4096)));
    assert!(longest("url.full") < Some(5_000));
    assert_eq!(upstream.seen()[0].line().len(), path.len() + 13, "the service gets it whole");
}
