//! The smoke test.

use crate::upstream::{
    Reply, Upstream, expecting, flow, flows, json, saving, sending, step, target, template,
};
use model::flow::Method::{Get, Post};
use model::verdict::Verdict;
use model::workload::Class;
use std::time::Duration;
use validate::{Outcome, SmokeOptions, smoke};

const STAGING: SmokeOptions =
    SmokeOptions { class: Class::Staging, timeout: Duration::from_secs(10), follow: validate::FOLLOW_LIMIT };

#[tokio::test]
async fn every_flow_is_played_once_with_its_saved_values() {
    let upstream = Upstream::start(|request| match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/api/products") => json(200, r#"{"items":[{"sku":"a/1 b","n":7,"in":true}]}"#),
        ("GET", "/api/products/a%2F1%20b?n=7&in=true") => json(200, "{}"),
        ("POST", "/api/orders") => json(201, r#"{"id":1}"#),
        _ => json(404, ""),
    })
    .await;
    let list = saving("sku", "$.items[0].sku", step(Get, "/api/products"));
    let list = saving("in", "$.items[0].in", saving("n", "$.items[0].n", list));
    let mut order = expecting(201, sending("ref", "{uuid}", step(Post, "/api/orders")));
    order.headers.insert("x-user".into(), template("{user.id} in {environment.name}"));
    let flows = flows([
        ("browse", flow(vec![list, step(Get, "/api/products/{sku}?n={n}&in={in}")])),
        ("checkout", flow(vec![order])),
    ]);
    let mut target = upstream.target();
    target.host = Some("shop.example".into());
    target.headers.push(("x-stamp".into(), "s2".into()));
    let report = smoke(&target, &flows, &STAGING).await;
    assert_eq!(report.text(), "2 flows passed with 3 requests");
    assert_eq!(report.verdict, Verdict::Pass);
    assert!(!report.built_in);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 3);
    assert_eq!(*upstream.connections.lock().unwrap(), 1, "one connection is kept");
    assert!(seen.iter().all(|r| r.header("host") == Some("shop.example")), "{seen:?}");
    assert!(seen.iter().all(|r| r.header("x-stamp") == Some("s2")), "{seen:?}");
    let user = seen[2].header("x-user").unwrap();
    assert!(user.starts_with("user-") && user.ends_with(" in staging"), "{user}");
    let key = seen[2].header("idempotency-key").unwrap();
    assert_eq!(seen[2].body, format!(r#"{{"ref":"{}"}}"#, key.strip_suffix("-1").unwrap()));
    assert_eq!(seen[0].header("idempotency-key"), None);
}

#[tokio::test]
async fn the_first_failure_is_said_with_the_value_seen() {
    let upstream = Upstream::start(|request| match request.path.as_str() {
        "/api/products" => json(200, r#"{"items":[]}"#),
        "/api/orders" => json(500, "no\nstock"),
        "/half" => Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"),
        "/nothing" => Reply::Raw(""),
        "/silent" => Reply::Silence,
        _ => json(302, "not json"),
    })
    .await;
    let order = expecting(201, step(Post, "/api/orders"));
    let sku = saving("sku", "$.items[0].sku", step(Get, "/api/products"));
    let items = saving("items", "$.items", step(Get, "/api/products"));
    let table = [
        (
            vec![step(Get, "/api/products"), order],
            Outcome::UnexpectedStatus,
            "step 2 POST /api/orders: answered 500, expected 201",
        ),
        (
            vec![sku, step(Get, "/api/products/{sku}")],
            Outcome::BadBody,
            "step 1 GET /api/products: answered 200, where $.items[0].sku finds nothing to save as sku",
        ),
        (
            vec![items],
            Outcome::BadBody,
            "step 1 GET /api/products: answered 200, \
             where $.items is no text, number or boolean to save as items",
        ),
        (
            vec![saving("x", "$.x", step(Get, "/"))],
            Outcome::BadBody,
            "step 1 GET /: answered 302, not with JSON: expected ident at line 1 column 2",
        ),
        (
            vec![step(Get, "/half")],
            Outcome::Cut,
            "step 1 GET /half: answered 200, cut after 4 bytes of body: \
             error reading a body from connection: end of file before message length reached",
        ),
        (
            vec![step(Get, "/nothing")],
            Outcome::Cut,
            "step 1 GET /nothing: cut before an answer: connection closed before message completed",
        ),
        (
            vec![step(Get, "/{missing}")],
            Outcome::Unsendable,
            "step 1 GET /{missing}: there is no value for `{missing}`",
        ),
    ];
    for (steps, outcome, text) in table {
        let report = smoke(&upstream.target(), &flows([("checkout", flow(steps))]), &STAGING).await;
        assert_eq!(report.text(), format!("flow checkout, {text}"));
        assert_eq!(report.verdict, Verdict::Fail);
        assert_eq!(report.flows[0].steps.last().unwrap().outcome, outcome);
    }
    let options = SmokeOptions { timeout: Duration::from_millis(50), ..STAGING };
    let silent = flows([("slow", flow(vec![step(Get, "/silent")]))]);
    let report = smoke(&upstream.target(), &silent, &options).await;
    assert_eq!(report.text(), "flow slow, step 1 GET /silent: no complete answer within 50ms");
    assert_eq!(report.flows[0].steps[0].outcome, Outcome::Timeout);
}

#[tokio::test]
async fn the_beginning_of_an_unexpected_answer_is_kept() {
    let upstream = Upstream::start(|_| json(503, &format!("busy\r\n{}", "x".repeat(9000)))).await;
    let report = smoke(&upstream.target(), &flows([("browse", flow(vec![step(Get, "/")]))]), &STAGING).await;
    let step = &report.flows[0].steps[0];
    assert_eq!(step.snippet.chars().count(), validate::SNIPPET_LIMIT);
    assert!(step.snippet.starts_with("busy  xxx"), "{}", step.snippet);
    assert_eq!((step.status, report.text().lines().count()), (Some(503), 1));
}

#[tokio::test]
async fn nobody_listening_is_said_with_the_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let report = smoke(&target(address), &flows([("browse", flow(vec![step(Get, "/")]))]), &STAGING).await;
    let text = format!(
        "flow browse, step 1 GET /: could not connect to {address}: Connection refused (os error 111)"
    );
    assert_eq!(report.text(), text);
    assert_eq!(report.verdict, Verdict::Fail);
}

#[tokio::test]
async fn in_production_a_flow_that_writes_is_played_only_when_it_says_so() {
    let upstream = Upstream::start(|_| json(200, "")).await;
    let production = SmokeOptions { class: Class::Production, ..STAGING };
    let mut all = flows([
        ("browse", flow(vec![step(Get, "/")])),
        ("checkout", flow(vec![step(Get, "/"), step(Post, "/orders")])),
    ]);
    let report = smoke(&upstream.target(), &all, &production).await;
    assert_eq!(report.text(), "1 flow passed with 1 request, 1 flow skipped");
    assert_eq!(report.skipped[0].flow, "checkout");
    assert_eq!(report.skipped[0].why, "it writes, and does not say `production = true`");
    assert!(upstream.seen().iter().all(|request| request.method == "GET"));
    all.values_mut().for_each(|flow| flow.production = true);
    let report = smoke(&upstream.target(), &all, &production).await;
    assert_eq!(report.text(), "2 flows passed with 3 requests");
    assert_eq!(upstream.seen().last().unwrap().method, "POST");
}

#[tokio::test]
async fn without_a_flow_the_root_is_asked_and_that_is_said() {
    let good = Upstream::start(|_| json(404, "")).await;
    let bad = Upstream::start(|_| json(500, "")).await;
    let report = smoke(&good.target(), &flows([]), &STAGING).await;
    assert_eq!(report.text(), "no flow may be played here: GET / answered below 500");
    assert_eq!((report.verdict, report.built_in), (Verdict::Pass, true));
    let writes = flows([("checkout", flow(vec![step(Post, "/orders")]))]);
    let production = SmokeOptions { class: Class::Production, ..STAGING };
    let report = smoke(&bad.target(), &writes, &production).await;
    assert_eq!(report.text(), "built-in flow, step 1 GET /: answered 500, expected below 500");
    assert_eq!(report.verdict, Verdict::Fail);
    assert_eq!(bad.seen().len(), 1);
}

#[tokio::test]
async fn a_test_that_cannot_be_made_is_invalid() {
    let upstream = Upstream::start(|_| json(200, "")).await;
    let broken = flows([("browse", flow(vec![saving("x", "$.[", step(Get, "/"))]))]);
    let report = smoke(&upstream.target(), &broken, &STAGING).await;
    assert_eq!(report.verdict, Verdict::Invalid);
    assert!(report.text().starts_with("flow browse: `$.[` is no JSONPath"), "{}", report.text());
    let mut target = upstream.target();
    target.headers.push(("x-a".into(), "a\nb".into()));
    let report = smoke(&target, &flows([("browse", flow(vec![step(Get, "/")]))]), &STAGING).await;
    assert_eq!(report.verdict, Verdict::Invalid);
    assert_eq!(report.text(), r#"the value of header `x-a` cannot be sent: "a\nb""#);
    assert!(upstream.seen().is_empty());
}
