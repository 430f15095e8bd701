//! Releases in the middle of a backlog.

use crate::buyers::{Buyers, Crowd, Hurried, count, depth, document, drained, queue, queue_is};
use crate::stage::{self, Shop, assert_settled, kill, release, serving};
use serde_json::{Value, json};
use testkit::{Environment, Users, wait_until};

const BUYERS: usize = 16;
const EACH: usize = 625;

/// Fewer are no backlog that a release is in the middle of.
const BACKLOG: u64 = 4_000;

const QUICK: &str = r#"
    shift        = [50, 100]
    step_time    = "2s"
    bake         = "1s"
    min_requests = 20
    keep_old     = "1s"
"#;

const QUEUED: &str = r#"
    [route."POST /api/orders"]
    queue           = { wait = "2s", order_by = "$.customer", idempotent = true }
    idempotency_key = "required"
"#;

/// All orders of a buyer have one reference, and each is for another shoe: so they are found together, and in order.
fn another_shoe(buyer: usize, number: usize) -> String {
    let items = [json!({ "sku": shoe(number), "quantity": 1 })];
    json!({ "customer": format!("buyer {buyer}"), "ref": format!("b{buyer}"), "items": items }).to_string()
}

fn shoe(number: usize) -> String {
    format!("SHOE-{:05}", number + 1)
}

/// A shoe of each order of a buyer, in the order in which the shop has taken them.
fn taken(environment: &Environment, buyer: usize) -> Vec<String> {
    let found = document(environment.address, &format!("/api/orders?ref=b{buyer}"));
    let shoe = |order: &Value| order["items"][0]["sku"].as_str().expect("a shoe").to_owned();
    found["items"].as_array().expect("items").iter().map(shoe).collect()
}

fn queue_does(environment: &Environment, verb: &str) {
    environment.mainstay(&["queue", verb, "here"]).ok();
}

#[test]
fn a_backlog_of_ten_thousand_outlives_a_bad_release_a_good_one_and_a_killed_gateway() {
    let component = "env = { SHOP_ERROR_EVERY = \"5\" }";
    let environment = stage::shop(&Shop { component, more: QUEUED, policy: QUICK, ..Shop::plain() });
    queue_does(&environment, "pause");
    let crowd = Crowd { buyers: BUYERS, orders: Some(EACH), hurried: Hurried::All, order: another_shoe };
    let sales = Buyers::come(environment.address, crowd).have_enough();
    let all = (BUYERS * EACH) as u64;
    assert_eq!(sales.iter().map(Vec::len).sum::<usize>() as u64, all);
    queue_is(&environment, "all wait", |status| depth(status) == all);

    // One that answers every fifth request with an error, and gets its users' part of the backlog.
    queue_does(&environment, "resume");
    let users = Users::of(environment.address, "/healthz");
    let bad = release(&environment, "v3-errors");
    assert_eq!(bad.code, 1, "{bad:?}");
    let bad = bad.json();
    assert_eq!(
        (&bad["release"]["state"], &bad["release"]["reason"]),
        (&json!("rolled_back"), &json!("errors")),
        "{bad}"
    );
    let after = queue(&environment).expect("the gateway answers");
    println!("{} jobs wait after the bad release", depth(&after));
    assert!(depth(&after) >= BACKLOG, "the machine is too fast for this backlog: {after}");
    assert_eq!(serving(&environment), "v1");

    let good = environment.mainstay_later(&["--json", "release", "here", "--artifact", "v2", "--name", "v2"]);
    let shifting = wait_until("users shift to it", || {
        environment.status().filter(|status| status["gateway"]["weight"].as_u64() > Some(0))
    });
    kill(&shifting["gateway"]["pid"]);
    let after = queue_is(&environment, "the next gateway has the backlog", |status| depth(status) > 0);
    println!("{} jobs wait after the kill", depth(&after));
    let good = good.wait().ok().json();
    assert_eq!(good["release"]["reason"], Value::Null, "{good}");
    assert_eq!(serving(&environment), "v2");
    let failures = users.stop();
    println!("{} users were not served: {:?}", failures.len(), failures.first());

    let status = drained(&environment);
    for never in ["rejected", "dead", "unknown"] {
        assert_eq!(count(&status, never), 0, "{never}: {status}");
    }
    assert_settled(&environment);
    // None lost, none twice, each after the one before it.
    let expected: Vec<String> = (0..EACH).map(shoe).collect();
    for buyer in 0..BUYERS {
        assert_eq!(taken(&environment, buyer), expected, "buyer {buyer}");
    }
}
