//! A buyer with a real browser finds a shoe, opens it, fills in the form, buys and sees the order, while releases come
//! and go.

#[path = "browser/driver.rs"]
mod driver;

mod stage;

use driver::Browser;
use serde_json::{Value, json};
use stage::{Shop, assert_settled, serving};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use testkit::{Environment, get, wait_until};

/// A shoe whose page is open.
struct Shoe {
    sku: String,
    /// The one-time key of its form, which is a part of the order's reference.
    key: String,
}

/// Finds a shoe by its name and opens it.
fn find_a_shoe(browser: &Browser, address: SocketAddr) -> Shoe {
    browser.open(&format!("http://{address}/"));
    let name = browser.text("main li:nth-of-type(3) a").expect("the shop has shoes");
    browser.fill_in("input[type=search]", &name);
    browser.click("form[role=search] button");
    wait_until("the search has found something", || {
        (browser.url().contains("/?q=") && browser.text("main li a")? == name).then_some(())
    });
    browser.click("main li a");
    let sku = wait_until("the shoe is opened", || {
        let url = browser.url();
        url.split_once("/shoes/").map(|(_, sku)| sku.to_owned())
    });
    Shoe { sku, key: browser.attribute("form input[name=key]", "value") }
}

fn fill_in(browser: &Browser) {
    browser.fill_in("input[name=customer]", "Ada <Lovelace>");
    browser.fill_in("input[name=quantity]", "2");
}

/// Presses the button and sees the order. Gives its URL.
fn buy(browser: &Browser, address: SocketAddr, shoe: &Shoe) -> String {
    browser.click("form[action='/buy'] button");
    let url = wait_until("the order is shown", || Some(browser.url()).filter(|url| url.contains("/orders/")));
    assert_is_of(browser, shoe);
    // It is there for everybody else as well, and once.
    let found = get(address, &format!("/api/orders?ref=web-{}", shoe.key)).expect("somebody serves").body;
    let found: Value = serde_json::from_str(&found).expect("JSON");
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "{found}");
    url
}

/// The page shows the order of this shoe.
fn assert_is_of(browser: &Browser, shoe: &Shoe) {
    let text = browser.text("main").unwrap_or_default();
    let all = ["Thank you, Ada <Lovelace>.", &shoe.sku, &format!("Reference: web-{}", shoe.key)];
    assert!(all.iter().all(|part| text.contains(part)), "{}", browser.page());
    assert_eq!(browser.text("tbody td:nth-of-type(2)").as_deref(), Some("2"), "{}", browser.page());
}

/// The release that answers this browser, asked from within the page.
fn answered_by(browser: &Browser) -> String {
    let script = "return fetch('/healthz').then(answer => answer.headers.get('X-Shop-Release'))";
    let release = browser.run(script, &json!([]));
    release.as_str().unwrap_or_else(|| panic!("the shop says its release, not {release}")).to_owned()
}

/// The release that a page about money comes from: prices have a currency from v2 on.
fn made_by(browser: &Browser) -> &'static str {
    let price = browser.text("main p b").unwrap_or_else(|| panic!("a price in {}", browser.page()));
    if price.ends_with(" EUR") { "v2" } else { "v1" }
}

fn release(environment: &Environment, more: &[&str]) -> testkit::Ran {
    let arguments = ["--json", "release", "here", "--artifact", "v2", "--name", "v2"];
    environment.mainstay(&[&arguments[..], more].concat())
}

#[test]
fn a_form_that_one_release_made_is_taken_by_the_next() {
    let environment = stage::shop(&Shop { policy: "keep_old = \"0s\"", ..Shop::plain() });
    let browser = Browser::start();
    let shoe = find_a_shoe(&browser, environment.address);
    assert_eq!(made_by(&browser), "v1");
    fill_in(&browser);
    // Waits until nothing is left of v1.
    release(&environment, &["--wait"]).ok();
    buy(&browser, environment.address, &shoe);
    assert_eq!(made_by(&browser), "v2");
    assert_eq!(answered_by(&browser), "v2");
}

#[test]
fn a_buyer_buys_all_through_a_release_that_moves_users_step_by_step() {
    let policy = r#"
        shift        = [50, 100]
        step_time    = "4s"
        min_requests = 0
        keep_old     = "1h"
    "#;
    let environment = stage::shop(&Shop { policy, ..Shop::plain() });
    let browser = Browser::start();
    let go_shopping = || {
        let shoe = find_a_shoe(&browser, environment.address);
        fill_in(&browser);
        buy(&browser, environment.address, &shoe)
    };
    let mut orders = BTreeSet::from([go_shopping()]);
    std::thread::scope(|scope| {
        let released = scope.spawn(|| release(&environment, &[]));
        // Whoever bought while it was under way has bought, and so has the one who comes after it.
        while !released.is_finished() {
            assert!(orders.insert(go_shopping()), "an order was given twice");
        }
        released.join().expect("it does not panic").ok();
    });
    assert!(orders.insert(go_shopping()), "an order was given twice");
    assert_eq!(answered_by(&browser), "v2");
    assert!(orders.len() > 2, "nobody bought meanwhile");
}

#[test]
fn a_form_and_an_order_outlive_a_rollback() {
    let environment = stage::shop(&Shop::plain());
    release(&environment, &[]).ok();
    let browser = Browser::start();
    let first = find_a_shoe(&browser, environment.address);
    fill_in(&browser);
    let first_order = buy(&browser, environment.address, &first);
    assert_eq!(made_by(&browser), "v2");

    let second = find_a_shoe(&browser, environment.address);
    assert_eq!(made_by(&browser), "v2");
    fill_in(&browser);
    environment.mainstay(&["rollback", "here"]).ok();
    let second_order = buy(&browser, environment.address, &second);
    assert_eq!(made_by(&browser), "v1");
    assert_eq!(answered_by(&browser), "v1");
    assert_ne!(first_order, second_order);
    // What was bought from the release that is gone is still bought.
    browser.open(&first_order);
    assert_is_of(&browser, &first);
}

/// How often a visitor looks at a page. By chance alone, one in half a million would stay on one release.
const LOOKS: usize = 20;

/// How many visitors may come until both releases were seen. By chance, all but one in 10^12 cases need fewer.
const VISITORS: usize = 40;

#[test]
fn while_users_are_split_each_stays_where_it_began() {
    let policy = r#"
        shift        = [50, 100]
        step_time    = "1h"
        min_requests = 0
        keep_old     = "1h"
    "#;
    let environment = stage::shop(&Shop { policy, ..Shop::plain() });
    let browser = Browser::start();
    // Its step never ends by itself.
    let arguments = ["--json", "release", "here", "--artifact", "v2", "--name", "v2"];
    let released = environment.mainstay_later(&arguments);
    wait_until("half of the users are on v2", || {
        (environment.status()?["gateway"]["weight"] == 5000).then_some(())
    });
    let shoe = format!("http://{}/shoes/SHOE-00001", environment.address);
    let mut seen = BTreeSet::new();
    for _ in 0..VISITORS {
        browser.forget_cookies();
        browser.open(&shoe);
        let first = made_by(&browser);
        if !seen.insert(first) {
            continue;
        }
        for _ in 0..LOOKS {
            browser.open(&shoe);
            assert_eq!(made_by(&browser), first);
            assert_eq!(answered_by(&browser), first);
        }
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen, BTreeSet::from(["v1", "v2"]), "users were not split");
    // The last of them may be on v2, and goes on with v1.
    environment.mainstay(&["abort", "here"]).ok();
    let released = released.wait();
    assert_eq!(released.code, 1, "{released:?}");
    browser.open(&shoe);
    assert_eq!(made_by(&browser), "v1");
    assert_settled(&environment);
    assert_eq!(serving(&environment), "v1");
}
