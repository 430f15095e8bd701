//! Bad releases under live traffic: each is taken back for the right reason, before it has hurt many, and one that is
//! no worse goes through.

mod stage;

use serde_json::Value;
use stage::{Shop, assert_settled, release, serving};
use testkit::{Environment, Users};

/// Long enough for what needs blocks of a second; what is found early ends early.
const POLICY: &str = r#"
    shift        = [50, 100]
    step_time    = "20s"
    bake         = "0s"
    min_requests = 50
    keep_old     = "1h"
"#;

/// The same for what takes a number of requests to be found, however few of them a busy machine serves in a second.
const PATIENT: &str = r#"
    shift        = [50, 100]
    step_time    = "90s"
    bake         = "0s"
    min_requests = 50
    keep_old     = "1h"
"#;

/// Users of both kinds of routes.
fn users(environment: &Environment) -> Vec<Users> {
    let paths = ["/api/products?page=1", "/api/products?page=7", "/api/orders/count", "/api/products?page=3"];
    paths.iter().map(|path| Users::of(environment.address, path)).collect()
}

/// A release under traffic that has to be taken back for this reason. Gives what users saw go wrong, and the history.
fn taken_back(environment: &Environment, artifact: &str, reason: &str) -> (Vec<String>, Value) {
    let users = users(environment);
    let released = release(environment, artifact);
    assert_eq!(released.code, 1, "{released:?}");
    let released = released.json();
    assert_eq!(released["release"]["reason"], reason, "{released}");
    let failures: Vec<String> = users.into_iter().flat_map(Users::stop).collect();
    assert_settled(environment);
    assert_eq!(serving(environment), "v1");
    let history = environment.mainstay(&["--json", "history", "show", "here"]).ok().json();
    (failures, history)
}

/// The check that decided.
fn deciding(history: &Value) -> Value {
    let events = history["events"].as_array().expect("events");
    let decided =
        events.iter().rev().find(|event| event["decision"]["verdict"] == "fail").expect("a decision");
    decided["decision"]["checks"][0].clone()
}

#[test]
fn a_release_that_is_slow_is_taken_back() {
    let environment = stage::shop(&Shop { policy: POLICY, ..Shop::plain() });
    let (failures, history) = taken_back(&environment, "v3-slow", "latency");
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(deciding(&history)["check"], "latency", "{history}");
}

#[test]
fn a_release_whose_slowest_requests_are_slower_is_taken_back() {
    let environment = stage::shop(&Shop { policy: PATIENT, ..Shop::plain() });
    let (failures, history) = taken_back(&environment, "v3-slow-tail", "latency");
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(deciding(&history)["check"], "tail", "{history}");
}

#[test]
fn a_release_that_fails_one_in_fifty_hurts_few_users() {
    let component = "env = { SHOP_ERROR_EVERY = \"50\" }";
    let environment = stage::shop(&Shop { policy: POLICY, component, ..Shop::plain() });
    let (failures, history) = taken_back(&environment, "v3-errors", "errors");
    let check = deciding(&history)["check"].clone();
    assert!(check == "errors" || check == "exposure", "{history}");
    // Those in flight at that moment may be hurt as well: at most one for each of the users.
    assert!(failures.len() <= 10 + 4, "{} users were hurt: {failures:?}", failures.len());
    assert!(failures.iter().all(|failure| failure.starts_with("500")), "{failures:?}");
}

#[test]
fn a_release_that_leaks_is_taken_back() {
    let component = "limits = { memory = \"96MiB\" }";
    let environment = stage::shop(&Shop { policy: PATIENT, component, ..Shop::plain() });
    let (failures, history) = taken_back(&environment, "v3-leak", "memory");
    assert_eq!(failures, Vec::<String>::new());
    assert!(
        deciding(&history)["text"].as_str().is_some_and(|text| text.contains("of the 96 MiB")),
        "{history}"
    );
}

#[test]
fn a_release_that_crashes_is_taken_back() {
    let environment = stage::shop(&Shop { policy: POLICY, ..Shop::plain() });
    let (failures, history) = taken_back(&environment, "v3-crash", "crash");
    assert_eq!(deciding(&history)["check"], "crash", "{history}");
    // What was in flight on the killed instance, and nothing else.
    assert!(failures.len() <= 4, "{failures:?}");
}

#[test]
fn a_migration_that_breaks_the_code_that_serves_is_stopped_before_any_user() {
    let more = format!(
        r#"
        [flow.look]
        [[flow.look.step]]
        get = "/api/products?page=1"
        [component.db]
        store    = "sqlite"
        artifact = "v1"
        expand   = ["{0}", "demo-shop", "migrate", "expand", "--data", "{{data}}"]
        contract = ["{0}", "demo-shop", "migrate", "contract", "--data", "{{data}}"]
        [gateway]
        default = "shop"
        "#,
        stage::MAINSTAY
    );
    let environment = stage::shop(&Shop { policy: POLICY, more: &more, ..Shop::plain() });
    let released = release(&environment, "v3-broken-schema");
    assert_eq!(released.code, 1, "{released:?}");
    let released = released.json();
    assert_eq!(released["release"]["reason"], "schema", "{released}");
    assert_eq!(released["release"]["state"], "refused", "{released}");
}

#[test]
fn a_release_that_is_no_worse_goes_through() {
    let environment = stage::shop(&Shop {
        policy: r#"
            shift = [10, 50, 100]
            step_time = "10s"
            bake = "3s"
            min_requests = 50
            keep_old = "1h"
        "#,
        ..Shop::plain()
    });
    let users = users(&environment);
    let released = release(&environment, "v3-identical").ok().json();
    assert_eq!(released["release"]["reason"], Value::Null, "{released}");
    users.into_iter().for_each(Users::all_were_served);
    assert_eq!(serving(&environment), "v3-identical");
}

#[test]
fn without_traffic_read_flows_are_played_and_decide() {
    let policy = r#"
        shift = [50, 100]
        step_time = "1s"
        min_requests = 20
        keep_old = "1h"
    "#;
    let look = "[flow.look]\n[[flow.look.step]]\nget = \"/api/products?page=2\"\n";
    let environment = stage::shop(&Shop { policy, more: look, ..Shop::plain() });
    release(&environment, "v2").ok();
    let history = environment.mainstay(&["--json", "history", "show", "here"]).ok().json();
    assert!(history.to_string().contains("read flows played: 20 requests, 0 failed"), "{history}");
}

#[test]
fn without_traffic_and_without_read_flows_nothing_can_be_said() {
    let policy = |more: &str| format!("shift = [50, 100]\nstep_time = \"1s\"\nmin_requests = 20\n{more}");
    let environment = stage::shop(&Shop { policy: &policy(""), ..Shop::plain() });
    let released = release(&environment, "v2");
    assert_eq!(released.code, 1, "{released:?}");
    assert_eq!(released.json()["release"]["reason"], "inconclusive", "{released:?}");

    let environment =
        stage::shop(&Shop { policy: &policy("on_inconclusive = \"continue\""), ..Shop::plain() });
    release(&environment, "v2").ok();
    assert_eq!(serving(&environment), "v2");
}
