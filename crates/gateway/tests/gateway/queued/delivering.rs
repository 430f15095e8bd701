//! Deliveries: what the service gets, to whom jobs go, and what is measured.

use super::{becomes, bodies, delivered, json, location, order, queueing, serving, to};
use crate::stage::{
    Browser, Gateway, Reply, TOKEN, Upstream, dead_address, error, ok, put, stamp, stamp_at, wait_for,
};
use api::gateway::{Guard, TableInstance, TableUpstream, Tripped};
use model::flow::{JsonPath, Method};
use model::name::{ComponentName, SagaName};
use model::queue::{Saga, SagaCall, SagaStep};
use model::template::Template;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn what_the_service_gets() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |_| {});
    let fields = [
        "content-type: application/json",
        "connection: keep-alive, x-hop",
        "x-hop: 1",
        "te: trailers",
        "keep-alive: 5",
        "x-forwarded-for: 192.0.2.1",
        "x-one: 1",
        "x-one: 2",
        "mainstay-attempt: 99",
        "mainstay-stamp-other: kept",
        "idempotency-key: \"k 1\"",
    ];
    let answer = gateway.ask(&to("/orders?a=b", &fields, "{\"n\":1}"));
    assert_eq!((answer.status, answer.text()), (200, "done"));
    let seen = &upstream.wait(1)[0];
    assert_eq!(seen.line(), "POST /orders?a=b HTTP/1.1");
    assert_eq!(seen.body, b"{\"n\":1}");
    assert_eq!(seen.one("host"), "example.org");
    assert_eq!(seen.one("content-length"), "7");
    assert_eq!(seen.one("content-type"), "application/json");
    assert_eq!(seen.all("x-one"), ["1", "2"]);
    assert_eq!(seen.one("mainstay-attempt"), "1");
    assert_eq!(seen.one("mainstay-stamp-other"), "kept");
    assert_eq!(seen.one("idempotency-key"), "\"k 1\"");
    assert_eq!(seen.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.one("x-forwarded-proto"), "http");
    assert_eq!(seen.one("x-forwarded-host"), "example.org");
    assert_eq!(seen.one("forwarded"), "for=127.0.0.1;host=\"example.org\";proto=http");
    assert_eq!(seen.one("via"), "1.1 mainstay");
    assert_eq!(seen.one("x-request-id"), answer.one("x-request-id"));
    assert!(!seen.one("traceparent").is_empty());
    for gone in ["connection", "x-hop", "te", "keep-alive", "transfer-encoding", "prefer", "expect"] {
        assert!(seen.all(gone).is_empty(), "{gone} in {:?}", seen.head);
    }
}

#[test]
fn a_key_is_made_for_who_has_none() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |_| {});
    for _ in 0..2 {
        assert_eq!(gateway.ask(&order(&[], "{}")).status, 200);
    }
    let seen = upstream.wait(2);
    assert_ne!(seen[0].one("idempotency-key"), seen[1].one("idempotency-key"));
    assert!(!seen[0].one("idempotency-key").contains('"'));
}

#[test]
fn chunks_and_an_expected_100_are_understood() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |_| {});
    let mut client = gateway.browse();
    client.send("POST /orders HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 100);
    client.send("hello");
    assert_eq!(client.answer().status, 200);
    client.send("POST /orders HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send("3\r\none\r\n3\r\ntwo\r\n0\r\nx-sum: 1\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    client.send("POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(bodies(&upstream.wait(3)), ["hello", "onetwo", ""]);
}

#[test]
fn a_client_that_goes_away_has_ordered_all_the_same() {
    let (upstream, go) = Upstream::waiting("done");
    let gateway = serving(&upstream, |_| {});
    let mut client = gateway.browse();
    client.send(order(&["idempotency-key: k"], "{}"));
    upstream.wait(1);
    drop(client);
    go.send(()).unwrap();
    let answer = wait_for("the answer", || {
        let answer = gateway.ask(&order(&["idempotency-key: k"], "{}"));
        (answer.status == 200).then_some(answer)
    });
    assert_eq!((answer.text(), answer.one("idempotent-replayed")), ("done", "true"));
    assert_eq!(upstream.count(), 1);
    assert_eq!(gateway.metric("queue_delivered_total"), 1);
    wait_for("both lines", || {
        let lines = gateway.lines(2);
        let of = |what: &str| lines.iter().filter(|line| line["queued"] == what).count();
        (of("delivery") == 1 && of("waiting") == 1).then_some(())
    });
}

#[test]
fn what_is_ordered_while_the_service_is_away_is_delivered_in_order_when_it_is_back() {
    let gateway = Gateway::start();
    let by_customer = JsonPath("$.customer".into());
    let of = |stamp| queueing(stamp, |route| route.order_by = Some(by_customer.clone()));
    gateway.activate(&of(stamp_at(1, &[dead_address()])));
    let mut jobs = Vec::new();
    for number in 0..20 {
        let body = format!("{{\"customer\":{},\"n\":{number}}}", number % 2);
        jobs.push(location(&gateway.ask(&order(&["prefer: wait=0"], &body))));
    }
    assert_eq!(gateway.metric("queue_depth"), 20);
    assert_eq!(gateway.state().queue.unwrap().depth, 20);
    let upstream = Upstream::named("done");
    gateway.activate(&of(stamp(1, &[&upstream])));
    for job in &jobs {
        delivered(&gateway, job);
    }
    let seen = bodies(&upstream.wait(20));
    assert_eq!(seen.len(), 20);
    for customer in 0..2 {
        let mine: Vec<_> =
            seen.iter().filter(|body| body.contains(&format!("\"customer\":{customer},"))).collect();
        let mut sorted = mine.clone();
        sorted.sort_by_key(|body| {
            body.split("\"n\":").nth(1).unwrap().trim_end_matches('}').parse::<u32>().unwrap()
        });
        assert_eq!(mine, sorted, "in order for each customer");
    }
    assert_eq!(gateway.metric("queue_depth"), 0);
    assert_eq!(gateway.metric("queue_delivered_total"), 20);
}

#[test]
fn what_has_no_value_to_be_ordered_by_is_unordered_and_counted() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |route| route.order_by = Some(JsonPath("$.customer".into())));
    for body in ["not json", "{}", "{\"customer\":1}"] {
        assert_eq!(gateway.ask(&order(&[], body)).status, 200, "{body}");
    }
    assert_eq!(gateway.metric("queue_unordered_total"), 2);
    assert_eq!(upstream.count(), 3);
}

#[test]
fn an_outcome_that_is_not_known_is_never_sent_again() {
    let upstream = Upstream::start(|seen, _| match seen.body.as_slice() {
        b"close" => Reply::Close,
        b"error" => error(),
        _ => ok("done"),
    });
    let gateway = serving(&upstream, |route| route.wait = Duration::from_millis(100));
    for body in ["close", "error"] {
        let job = location(&gateway.ask(&order(&[], body)));
        becomes(&gateway, &job, "unknown");
    }
    assert_eq!(gateway.ask(&order(&["prefer: wait=30"], "other")).status, 200, "others are not held up");
    assert_eq!(upstream.count(), 3);
    assert_eq!(gateway.metric("queue_unknown"), 2);
}

#[test]
fn what_may_have_happened_is_not_sent_again_to_a_release_that_honours_no_keys() {
    let before = Upstream::start(|_, _| Reply::Close);
    let gateway = Gateway::start();
    gateway.activate(&queueing(stamp(1, &[&before]), |route| route.idempotent = true));
    let job = location(&gateway.ask(&order(&["prefer: respond-async"], "{}")));
    before.wait(1);
    let next = Upstream::named("next");
    gateway.activate(&queueing(stamp(2, &[&next]), |_| {}));
    becomes(&gateway, &job, "unknown");
    assert_eq!(next.count(), 0);
    assert_eq!(gateway.ask(&order(&[], "other")).text(), "next");
}

#[test]
fn a_connection_that_was_closed_while_idle_costs_nothing() {
    // Each connection takes one request, and says so to nobody.
    let upstream = Upstream::start(|_, _| {
        Reply::SendClose(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone".to_vec())
    });
    let gateway = serving(&upstream, |_| {});
    for _ in 0..10 {
        assert_eq!(gateway.ask(&order(&[], "{}")).status, 200);
    }
    assert_eq!(upstream.count(), 10);
    assert_eq!(gateway.metric("queue_unknown_total"), 0);
}

#[test]
fn deliveries_are_measured_once() {
    let count = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, _| match count.fetch_add(1, Ordering::SeqCst) {
        0 => error(),
        _ => ok("done"),
    });
    let gateway = serving(&upstream, |route| route.idempotent = true);
    assert_eq!(gateway.ask(&order(&["idempotency-key: k"], "{}")).status, 200);
    // Neither a repetition nor a replay is a request to the stamp.
    wait_for("a replay", || (gateway.ask(&order(&["idempotency-key: k"], "{}")).status == 200).then_some(()));
    let measured = wait_for("two measures", || {
        let measures = gateway.measures();
        let routes = &measures.stamps[0].routes;
        let route = routes.iter().find(|route| route.route == "POST /orders")?.clone();
        (route.requests >= 2).then_some((route, measures.stamps[0].classes))
    });
    let (route, classes) = measured;
    assert_eq!((route.requests, route.errors), (2, 1));
    let latencies: u64 = route.halves.iter().flatten().map(|(_, count)| count).sum();
    assert_eq!(latencies, 2);
    assert_eq!((classes[2], classes[5]), (1, 1), "of the deliveries alone");
    let lines = wait_for("all lines", || {
        let lines = gateway.lines(4);
        let told = |(what, status): &(&str, u64)| {
            lines.iter().any(|line| line["queued"] == *what && line["status"] == *status && line["job"] == 1)
        };
        let all = [("delivery", 500), ("delivery", 200), ("answered", 200), ("replayed", 200)];
        all.iter().all(told).then_some(lines)
    });
    let delivery = lines.iter().find(|line| line["queued"] == "delivery" && line["status"] == 200).unwrap();
    assert_eq!(delivery["client"], serde_json::Value::Null);
    assert_eq!((&delivery["attempts"], &delivery["route"]), (&2.into(), &"POST /orders".into()));
    assert_eq!((&delivery["stamp"], &delivery["instance"]), (&"s1".into(), &0.into()));
}

#[test]
fn connections_that_are_not_taken_are_held_against_the_stamp() {
    let gateway = Gateway::start();
    gateway.activate(&queueing(stamp_at(1, &[dead_address()]), |route| route.wait = Duration::ZERO));
    location(&gateway.ask(&order(&[], "{}")));
    wait_for("a failed connection", || (gateway.measures().stamps[0].connect_failures > 0).then_some(()));
}

#[test]
fn a_job_goes_to_the_stamp_that_serves_its_user_when_it_is_delivered() {
    let gateway = Gateway::start();
    gateway.activate(&queueing(stamp_at(1, &[dead_address()]), |_| {}));
    let job = location(&gateway.ask(&order(&["prefer: wait=0"], "{}")));
    let next = Upstream::named("next");
    gateway.activate(&queueing(stamp(2, &[&next]), |_| {}));
    delivered(&gateway, &job);
    assert_eq!(gateway.get(&format!("{job}/response")).text(), "next");
}

#[test]
fn jobs_of_clients_who_say_nothing_of_themselves_are_shared_out_as_their_requests_would_be() {
    let gateway = Gateway::start();
    gateway.activate(&queueing(stamp_at(1, &[dead_address()]), |_| {}));
    let jobs: Vec<String> =
        (0..40).map(|_| location(&gateway.ask(&order(&["prefer: respond-async"], "{}")))).collect();
    let (active, candidate) = (Upstream::named("active"), Upstream::named("candidate"));
    let mut shift =
        put(Some(&queueing(stamp(2, &[&active]), |_| {})), Some(&queueing(stamp(3, &[&candidate]), |_| {})));
    shift.table.weight = 5000;
    gateway.put(&shift).unwrap();
    for job in &jobs {
        delivered(&gateway, job);
    }
    assert_eq!(active.count() + candidate.count(), 40);
    // One in 2^39.
    assert!(active.count() > 0 && candidate.count() > 0, "{} on the candidate", candidate.count());
}

#[test]
fn a_service_that_is_away_does_not_hold_up_its_candidate() {
    let candidate = Upstream::named("candidate");
    let gateway = Gateway::start();
    let one = queueing(stamp_at(1, &[dead_address()]), |_| {});
    gateway.put(&put(Some(&one), Some(&queueing(stamp(2, &[&candidate]), |_| {})))).unwrap();
    for _ in 0..20 {
        gateway.ask(&order(&["prefer: respond-async"], "{}"));
    }
    let breaker = r#"queue_breaker_open{upstream="default"}"#;
    wait_for("calls to have stopped", || (gateway.sample(breaker) != "0").then_some(()));
    let token = format!("mainstay-preview: {TOKEN}");
    let answer = gateway.ask(&order(&["mainstay-stamp: candidate", &token], "{}"));
    assert_eq!((answer.status, answer.text()), (200, "candidate"));
}

#[test]
fn the_guard_sees_the_errors_of_deliveries_and_takes_the_jobs_back_too() {
    let (active, candidate) = (Upstream::named("active"), Upstream::start(|_, _| error()));
    let gateway = Gateway::start();
    let of = |stamp| queueing(stamp, |route| route.idempotent = true);
    let mut shift = put(Some(&of(stamp(1, &[&active]))), Some(&of(stamp(2, &[&candidate]))));
    shift.table.weight = 9999;
    shift.table.guard = Some(Guard { max_excess_errors: 3, max_connect_failures: 100 });
    gateway.put(&shift).unwrap();
    for _ in 0..10 {
        let answer = gateway.ask(&order(&[], "{}"));
        assert_eq!((answer.status, answer.text()), (200, "active"));
    }
    let watched = gateway.state().watched.unwrap();
    assert_eq!(watched.tripped, Some(Tripped::Errors), "{watched:?}");
    assert!(watched.errors >= 3, "{watched:?}");
    assert!(candidate.count() >= 3);
}

#[test]
fn what_comes_by_the_preview_door_goes_to_the_candidate() {
    let (active, candidate) = (Upstream::named("active"), Upstream::named("candidate"));
    let gateway = Gateway::start();
    let (one, two) = (queueing(stamp(1, &[&active]), |_| {}), queueing(stamp(2, &[&candidate]), |_| {}));
    gateway.put(&put(Some(&one), Some(&two))).unwrap();
    let token = format!("mainstay-preview: {TOKEN}");
    let answer = gateway.ask(&order(&["mainstay-stamp: candidate", "mainstay-instance: 0", &token], "{}"));
    assert_eq!((answer.status, answer.text()), (200, "candidate"));
    let seen = &candidate.wait(1)[0];
    for gone in ["mainstay-stamp", "mainstay-instance", "mainstay-preview"] {
        assert!(seen.all(gone).is_empty(), "{gone}");
    }
    assert_eq!(gateway.ask(&order(&[], "{}")).text(), "active");
    let measured: u64 = gateway.measures().stamps.iter().flat_map(|s| &s.routes).map(|r| r.requests).sum();
    assert_eq!(measured, 1, "only users are measured");
}

#[test]
fn an_answer_is_kept_up_to_a_limit() {
    let large = "x".repeat(1024 * 1024 + 1);
    let upstream = Upstream::start(move |_, _| ok(&large));
    let gateway = serving(&upstream, |_| {});
    let answer = gateway.ask(&order(&[], "{}"));
    assert_eq!((answer.status, answer.body.len()), (200, 1024 * 1024));
    assert_eq!(answer.one("mainstay-answer-truncated"), "?1");
}

#[test]
fn forwarded_requests_are_not_queued() {
    let upstream = Upstream::named("plain");
    let gateway = serving(&upstream, |_| {});
    let answer = gateway.ask(&to("/other", &["idempotency-key: a b c"], "{}"));
    assert_eq!((answer.status, answer.text()), (200, "plain"));
    assert_eq!(upstream.wait(1)[0].one("idempotency-key"), "a b c");
    assert!(answer.all("mainstay-job").is_empty());
}

pub(super) fn step(name: &str, to: &str, path: &str) -> SagaStep {
    SagaStep {
        name: name.into(),
        call: SagaCall {
            method: Method::Post,
            to: ComponentName::new(to).unwrap(),
            path: template(path),
            json: None,
        },
        undo: None,
        attempts: 5,
        idempotent: true,
        probe: None,
        timeout: Duration::from_secs(5),
    }
}

pub(super) fn template(text: &str) -> Template {
    Template::literal(text)
}

#[test]
fn a_saga_calls_services_and_externals() {
    let (shop, stock, payments) =
        (Upstream::named("order"), Upstream::named("reserved"), Upstream::named("paid"));
    let gateway = Gateway::start();
    let mut stamp =
        queueing(stamp(1, &[&shop]), |route| route.saga = Some(SagaName::new("checkout").unwrap()));
    let steps = vec![
        step("pay", "payments", "/charges"),
        step("reserve", "stock", "/reservations"),
        step("order", "shop", "/made"),
    ];
    let saga = Saga { answer: "order".into(), steps };
    stamp.settings.sagas.insert(SagaName::new("checkout").unwrap(), saga);
    let instance = TableInstance { index: 0, address: stock.address, pid: 7 };
    stamp.upstreams.insert(ComponentName::new("stock").unwrap(), TableUpstream::Instances(vec![instance]));
    let url = format!("http://{}/v1/", payments.address);
    stamp.upstreams.insert(ComponentName::new("payments").unwrap(), TableUpstream::Url(url));
    gateway.activate(&stamp);
    let answer = gateway.ask(&order(&["authorization: Bearer secret", "cookie: s=1"], "{\"total\":5}"));
    assert_eq!((answer.status, answer.text()), (200, "order"));
    let paid = &payments.wait(1)[0];
    assert_eq!(paid.line(), "POST /v1/charges HTTP/1.1");
    assert_eq!(paid.one("host"), payments.address.to_string());
    assert_eq!(paid.body, b"{\"total\":5}");
    for secret in ["authorization", "cookie", "x-forwarded-for", "forwarded", "via"] {
        assert!(paid.all(secret).is_empty(), "{secret} is nobody's business");
    }
    let reserved = &stock.wait(1)[0];
    assert_eq!(
        (reserved.line(), reserved.one("authorization")),
        ("POST /reservations HTTP/1.1", "Bearer secret")
    );
    let keys: Vec<_> =
        [paid, reserved, &shop.wait(1)[0]].iter().map(|s| s.one("idempotency-key").to_owned()).collect();
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2], "{keys:?}");
    assert_eq!(gateway.metric("queue_sagas_complete_total"), 1);
}

/// That a candidate is gone says nothing of what it has done: it is undone by whoever serves.
#[test]
fn what_a_candidate_that_is_gone_has_done_is_undone() {
    let (active, stock) = (Upstream::named("active"), Upstream::named("reserved"));
    // It surely did not take the order, and says so.
    let candidate = Upstream::start(|_, _| {
        Reply::Send(b"HTTP/1.1 503 No\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n".to_vec())
    });
    let away = Upstream::named("reserved");
    let gateway = Gateway::start();
    let checkout = |stamp, stock: &Upstream| {
        let mut stamp = queueing(stamp, |route| route.saga = Some(SagaName::new("checkout").unwrap()));
        let mut reserve = step("reserve", "stock", "/reservations");
        reserve.undo = Some(SagaCall { path: template("/given-back"), ..reserve.call.clone() });
        let saga = Saga { answer: "order".into(), steps: vec![reserve, step("order", "shop", "/made")] };
        stamp.settings.sagas.insert(SagaName::new("checkout").unwrap(), saga);
        let instance = TableInstance { index: 0, address: stock.address, pid: 7 };
        let component = ComponentName::new("stock").unwrap();
        stamp.upstreams.insert(component, TableUpstream::Instances(vec![instance]));
        stamp
    };
    let (one, two) = (checkout(stamp(1, &[&active]), &stock), checkout(stamp(2, &[&candidate]), &away));
    gateway.put(&put(Some(&one), Some(&two))).unwrap();
    let token = format!("mainstay-preview: {TOKEN}");
    let mut client = gateway.browse();
    client.send(order(&["mainstay-stamp: candidate", &token], "{}"));
    assert_eq!(away.wait(1)[0].line(), "POST /reservations HTTP/1.1");
    candidate.wait(1);
    gateway.activate(&one);
    assert_eq!(stock.wait(1)[0].line(), "POST /given-back HTTP/1.1");
    assert_eq!(client.answer().status, 404);
    assert_eq!((active.count(), away.count()), (0, 1));
    wait_for("it is undone", || (gateway.metric("queue_sagas_undone_total") == 1).then_some(()));
}

#[test]
fn what_only_sagas_call_is_not_let_go_while_it_is_called() {
    let (shop, (stock, go)) = (Upstream::named("order"), Upstream::waiting("reserved"));
    let gateway = Gateway::start();
    let mut stamp =
        queueing(stamp(1, &[&shop]), |route| route.saga = Some(SagaName::new("checkout").unwrap()));
    let saga = Saga { answer: "reserve".into(), steps: vec![step("reserve", "stock", "/reservations")] };
    stamp.settings.sagas.insert(SagaName::new("checkout").unwrap(), saga);
    let component = ComponentName::new("stock").unwrap();
    let instance = TableInstance { index: 0, address: stock.address, pid: 7 };
    stamp.upstreams.insert(component.clone(), TableUpstream::Instances(vec![instance]));
    let load = |gateway: &Gateway| {
        let loads = gateway.state().instances;
        loads.into_iter().find(|load| load.pid == 7).map(|load| (load.stamp, load.index, load.in_flight))
    };
    gateway.activate(&stamp);
    assert_eq!(load(&gateway), Some((stamp.stamp, 0, 0)), "it may be called");
    let mut client = gateway.browse();
    client.send(order(&[], "{}"));
    stock.wait(1);
    assert_eq!(load(&gateway), Some((stamp.stamp, 0, 1)));
    stamp.upstreams.insert(component, TableUpstream::Instances(Vec::new()));
    gateway.activate(&stamp);
    assert_eq!(load(&gateway), Some((stamp.stamp, 0, 1)), "it is called, but not for others");
    go.send(()).unwrap();
    assert_eq!(client.answer().text(), "reserved");
    wait_for("it is let go", || load(&gateway).is_none().then_some(()));
}

#[test]
fn who_drains_delivers_what_is_under_way_and_leaves_the_rest() {
    let (upstream, go) = Upstream::waiting("done");
    let mut gateway = serving(&upstream, |_| {});
    let mut client: Browser = gateway.browse();
    client.send(order(&["idempotency-key: k"], "{}"));
    upstream.wait(1);
    gateway.begin_stop();
    // The answer need not be waited for any longer: its client can ask the next gateway.
    let answer = client.answer();
    assert_eq!(json(&answer)["state"], "dispatching");
    location(&answer);
    assert!(!gateway.has_stopped());
    go.send(()).unwrap();
    gateway.stop();
    let next = Gateway::start_in(gateway.temp());
    let replayed = next.ask(&order(&["idempotency-key: k"], "{}"));
    assert_eq!((replayed.status, replayed.text()), (200, "done"));
    assert_eq!(upstream.count(), 1);
}
