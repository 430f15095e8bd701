use super::*;
use crate::random::Random;
use http_body_util::BodyExt;
use model::flow::{Expect, Ledger};
use std::collections::BTreeMap;

fn template(text: &str) -> Template {
    Template::parse(text, |_| true).unwrap()
}

fn step(method: Method, path: &str) -> Step {
    Step {
        method,
        path: template(path),
        headers: BTreeMap::new(),
        json: None,
        expect: Expect::default(),
        save: BTreeMap::new(),
    }
}

fn flow(steps: Vec<Step>) -> Flow {
    Flow { weight: 1, objective: Objective::default(), ledger: None, production: false, steps }
}

fn script(steps: Vec<Step>) -> Script {
    Script::new(&FlowName::new("shop").unwrap(), &flow(steps)).unwrap()
}

fn values() -> Values {
    let mut values = Values::new("u-u-i-d".into(), &mut Random::new(1), "staging");
    values.save("sku", "a/b c".into());
    values
}

fn base() -> HeaderMap {
    let mut base = HeaderMap::new();
    base.insert("host", HeaderValue::from_static("shop.example"));
    base.insert("x-kept", HeaderValue::from_static("base"));
    base
}

async fn body(request: FullRequest) -> String {
    String::from_utf8(request.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_step_with_json_makes_a_request_with_its_values() {
    let mut post = step(Method::Post, "/orders/{sku}?env={environment.name}");
    post.headers.insert("X-Sku".into(), template("<{sku}>"));
    post.headers.insert("X-Kept".into(), template("step"));
    post.json = Some(JsonTemplate::Table(BTreeMap::from([
        ("ref".to_owned(), JsonTemplate::Text(template("{uuid}"))),
        ("n".to_owned(), JsonTemplate::List(vec![JsonTemplate::Integer(-1), JsonTemplate::Float(0.5)])),
        ("quote".to_owned(), JsonTemplate::Text(template("\"{sku}\""))),
        ("no".to_owned(), JsonTemplate::List(vec![JsonTemplate::Null, JsonTemplate::Bool(true)])),
    ])));
    let script = script(vec![step(Method::Get, "/"), post]);
    let request = script.steps[1].request(&base(), &values()).unwrap();
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), "/orders/a%2Fb%20c?env=staging");
    let header = |name| request.headers().get(name).unwrap().to_str().unwrap();
    assert_eq!(header("x-sku"), "<a/b c>");
    assert_eq!(header("x-kept"), "step");
    assert_eq!(header("host"), "shop.example");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("idempotency-key"), "u-u-i-d-2");
    let expected = r#"{"n":[-1,0.5],"no":[null,true],"quote":"\"a/b c\"","ref":"u-u-i-d"}"#;
    assert_eq!(body(request).await, expected);
}

#[test]
fn only_writes_carry_an_idempotency_key_and_the_users_own_wins() {
    let mut own = step(Method::Delete, "/");
    own.headers.insert("idempotency-key".into(), template("mine"));
    let script = script(vec![step(Method::Get, "/"), step(Method::Patch, "/"), own]);
    let key = |index: usize| {
        let request = script.steps[index].request(&base(), &values()).unwrap();
        request.headers().get("idempotency-key").map(|key| key.to_str().unwrap().to_owned())
    };
    assert_eq!(key(0), None);
    assert_eq!(key(1).as_deref(), Some("u-u-i-d-2"));
    assert_eq!(key(2).as_deref(), Some("mine"));
    assert_eq!(script.last_write, Some(2));
}

#[test]
fn what_cannot_be_sent_is_said() {
    let refused =
        |step: Step| script(vec![step]).steps[0].request(&base(), &values()).unwrap_err().to_string();
    assert_eq!(refused(step(Method::Get, "/{order}")), "there is no value for `{order}`");
    assert!(refused(step(Method::Get, "/a b")).starts_with("`/a b` is no path"));
    assert!(refused(step(Method::Get, "shop")).starts_with("`shop` is no path"));
    let mut evil = step(Method::Get, "/");
    evil.headers.insert("x-a".into(), template("a\r\nhost: evil"));
    assert_eq!(refused(evil), r#"the value of header `x-a` cannot be sent: "a\r\nhost: evil""#);
}

#[test]
fn a_flow_that_cannot_be_played_is_refused() {
    let mut header = step(Method::Get, "/");
    header.headers.insert("a b".into(), template(""));
    let mut path = step(Method::Get, "/");
    path.save.insert("x".into(), PathText("$.[".into()));
    let mut ledger = flow(vec![step(Method::Post, "/")]);
    ledger.ledger =
        Some(Ledger { reference: template(""), confirm: template("/"), count: PathText("items".into()) });
    let table = [
        (flow(vec![header]), "`a b` is not the name of a header"),
        (flow(vec![path]), "`$.[` is no JSONPath"),
        (ledger, "`items` is no JSONPath"),
        (flow(Vec::new()), "it has no steps"),
    ];
    for (flow, expected) in table {
        let error = Script::new(&FlowName::new("shop").unwrap(), &flow).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn only_production_bars_writes() {
    let reads = flow(vec![step(Method::Get, "/"), step(Method::Head, "/")]);
    let writes = flow(vec![step(Method::Get, "/"), step(Method::Put, "/")]);
    let allowed = Flow { production: true, ..writes.clone() };
    for class in [Class::Production, Class::Staging, Class::Development] {
        assert_eq!(barred(&reads, class), None);
        assert_eq!(barred(&allowed, class), None);
        assert_eq!(barred(&writes, class).is_some(), class == Class::Production, "{class:?}");
    }
}

#[test]
fn a_reference_is_data_in_the_path_that_looks_it_up() {
    let mut flow = flow(vec![step(Method::Post, "/")]);
    let ledger = |confirm: &str| Ledger {
        reference: template("{uuid}"),
        confirm: template(confirm),
        count: PathText("$".into()),
    };
    let name = FlowName::new("shop").unwrap();
    flow.ledger = Some(ledger("/o?ref={ref}&e={environment.name}"));
    let plain = Script::new(&name, &flow).unwrap().ledger.unwrap();
    assert!(!plain.needs_play);
    assert_eq!(plain.confirm_path("a&b", None, "dev").unwrap(), "/o?ref=a%26b&e=dev");
    flow.ledger = Some(ledger("/{sku}?ref={ref}"));
    let played = Script::new(&name, &flow).unwrap().ledger.unwrap();
    assert!(played.needs_play);
    assert_eq!(played.confirm_path("r", Some(&values()), "").unwrap(), "/a%2Fb%20c?ref=r");
    assert!(played.confirm_path("r", None, "").is_err());
}

#[test]
fn statuses_are_held_against_what_is_expected() {
    let table = [
        (Expected::Exactly(201), 201, true),
        (Expected::Exactly(201), 200, false),
        (Expected::Below(400), 399, true),
        (Expected::Below(400), 400, false),
    ];
    for (expected, status, holds) in table {
        assert_eq!(expected.holds(status), holds, "{status} against {expected}");
    }
}
