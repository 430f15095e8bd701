//! A machine that loses its power and boots: orders are taken as soon as somebody listens, before any service runs.

use crate::buyers::{Buyers, Crowd, Hurried, assert_all_are_there_once, count, drained, one_by_one, order};
use crate::stage::{self, Shop, assert_settled, serving};
use serde_json::Value;
use testkit::{Environment, Users, get, send, wait_until};

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

/// Quick steps, each of which sees enough requests; the first is long enough to be met.
const STEPS: &str = r#"
    shift        = [50, 100]
    step_time    = "3s"
    bake         = "1s"
    min_requests = 5
    keep_old     = "1h"
"#;

/// Nobody has taken it back: the gateway says by itself which stamps there are, and that is not to be taken for a
/// decision.
#[test]
fn a_release_that_shifts_users_goes_on_after_a_boot() {
    let environment = stage::shop(&Shop { policy: STEPS, ..Shop::plain() });
    let users = Users::of(environment.address, "/healthz");
    let released = environment.mainstay_later(&["release", "here", "--artifact", "v2", "--name", "v2"]);
    wait_until("users are shifted", || {
        let status = environment.status()?;
        (status["gateway"]["weight"].as_u64() > Some(0)).then_some(())
    });
    boot_again(&environment);
    // It can say nothing of a release whose agent is gone.
    released.wait();
    // Nobody served those who came meanwhile.
    users.stop();
    environment.mainstay(&["up", "here"]).ok();
    let users = Users::of(environment.address, "/healthz");
    assert_settled(&environment);
    users.all_were_served();
    assert_eq!(serving(&environment), "v2");
}
