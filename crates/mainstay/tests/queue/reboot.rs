//! A machine that loses its power and boots: orders are taken as soon as somebody listens, before any service runs.

use crate::buyers::{Buyers, Crowd, Hurried, assert_all_are_there_once, count, drained, one_by_one, order};
use crate::stage::{self, Shop, assert_settled};
use serde_json::Value;
use testkit::{Environment, get, send, wait_until};

/// Orders are queued as they are, without a saga.
const QUEUED: &str = r#"
    [route."POST /api/orders"]
    queue           = { wait = "2s", order_by = "$.customer", idempotent = true }
    idempotency_key = "required"
"#;

const CROWD: Crowd = Crowd { buyers: 4, orders: None, hurried: Hurried::EverySecond, order: one_by_one };

/// Nothing of what the gateway knew of addresses is of this boot.
fn boot_again(environment: &Environment) {
    environment.kill_everything();
    wait_until("nobody listens", || get(environment.address, "/healthz").is_err().then_some(()));
    let path = environment.state().join("table.json");
    let mut stored: Value = serde_json::from_slice(&std::fs::read(&path).expect("a table")).expect("JSON");
    stored["boot"] = "another".into();
    std::fs::write(&path, stored.to_string()).expect("it can be written");
}

#[test]
fn after_a_boot_the_first_order_is_taken() {
    let environment = stage::shop(&Shop { more: QUEUED, ..Shop::plain() });
    let buyers = Buyers::come(environment.address, CROWD);
    buyers.more_are_acknowledged(40);
    boot_again(&environment);
    let up = environment.mainstay_later(&["up", "here"]);
    let fields = [("content-type", "application/json"), ("idempotency-key", "first")];
    let first = || send(environment.address, "POST", "/api/orders", &fields, &order("ada", "first")).ok();
    let first = wait_until("somebody listens", first);
    assert!(matches!(first.status, 201 | 202), "{first:?}");
    up.wait().ok();
    buyers.more_are_acknowledged(40);
    let sales = buyers.stop();
    let status = drained(&environment);
    for never in ["refused", "rejected", "dead", "unknown"] {
        assert_eq!(count(&status, never), 0, "{never}: {status}");
    }
    assert!(assert_all_are_there_once(&environment, &sales) >= 80);
    let mine = get(environment.address, "/api/orders?ref=first").expect("somebody serves");
    let mine: Value = serde_json::from_str(&mine.body).expect("JSON");
    assert_eq!(mine["items"].as_array().map(Vec::len), Some(1), "{mine}");
    assert_settled(&environment);
}
