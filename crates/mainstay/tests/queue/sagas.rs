//! Sagas whose services refuse, fail, lie and die, while the gateway and instances are killed at random moments.

use crate::buyers::{Buyers, Crowd, Hurried, Traces, answer, count, drained, order, queue, traces};
use crate::stage::{self, Shop, assert_settled};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use testkit::{Environment, wait_until};

/// What goes wrong with payments and with orders, every so many writes in each process. One that dies all the time is
/// started again more and more slowly, so that they seldom die by themselves.
const PAYMENTS: &str = "fail:13,lie:11,die:89,undo-lie:4,undo-die:17";
const ORDERS: &str = "lie:25,die:97,undo-fail:4,undo-lie:5";

/// What failed many times is tried again soon: a test waits for all of it.
const GATEWAY: &str = r#"
    [gateway]
    default = "shop"
    queue   = { longest_pause = "1s" }
"#;

/// How often something is killed, and how many orders are acknowledged between two kills at most.
const KILLS: usize = 8;
const BETWEEN: usize = 25;

/// Small random numbers; the first one is printed, for whoever wants the same again.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64 | 1);
        println!("seed {seed}");
        Self(seed)
    }

    /// Below `end` (Marsaglia's xorshift).
    fn roll(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

/// Kills one of the processes that a status names: the gateway, or an instance of one of these components.
fn kill_one(environment: &Environment, dice: &mut Dice, victims: &[&str]) {
    let pid = wait_until("there is somebody to kill", || {
        let status = environment.status()?;
        let instances = status["stamps"][0]["instances"].as_array()?;
        match victims[dice.roll(victims.len())] {
            "gateway" => status["gateway"]["pid"].as_u64(),
            component => instances.iter().find(|one| one["component"] == component)?["pid"].as_u64(),
        }
    });
    // It may have died by itself in the meantime.
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
}

/// A shoe of which there is none: its order is refused when it has been paid for.
const SOLD_OUT: &str = "SHOE-00002";

fn every_fourth_is_sold_out(buyer: usize, number: usize) -> String {
    let order = order(&format!("buyer {buyer}"), &format!("b{buyer}-{number}"));
    if number % 4 == 3 { order.replace("SHOE-00001", SOLD_OUT) } else { order }
}

fn sell_out(environment: &Environment) {
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=30); \
                  c.execute('UPDATE products SET stock = 0 WHERE sku = ?', (sys.argv[2],)); c.commit()";
    let database = environment.state().join("data/shop.db");
    let done = Command::new("python3").args(["-c", script]).arg(database).arg(SOLD_OUT).status();
    assert!(done.expect("python3 can be run").success());
}

/// Every sale is complete, or nothing is left of it, and its buyer was told which.
fn complete_or_undone(shipping: &str, victims: &[&str]) {
    // What is refused after it may have been done is asked for again, until an attempt must be over.
    let soon = "timeout = \"1s\"\nattempts = 10\nundo = ";
    let checkout = stage::checkout([PAYMENTS, shipping]).replace("undo = ", soon);
    let more = checkout + GATEWAY;
    let component = format!("needs = [\"payments\", \"shipping\"]\nenv = {{ SHOP_MISHAPS = \"{ORDERS}\" }}");
    let environment = stage::shop(&Shop { component: &component, more: &more, ..Shop::plain() });
    sell_out(&environment);
    let mut dice = Dice::new();

    let crowd =
        Crowd { buyers: 8, orders: None, hurried: Hurried::EverySecond, order: every_fourth_is_sold_out };
    let buyers = Buyers::come(environment.address, crowd);
    for turn in 0..KILLS {
        buyers.more_are_acknowledged(1 + dice.roll(BETWEEN));
        // Every second time it is the gateway.
        let victims = if turn % 2 == 0 { &["gateway"] } else { victims };
        kill_one(&environment, &mut dice, victims);
    }
    buyers.more_are_acknowledged(40);
    let sales = buyers.stop();
    drained(&environment);
    assert_settled(&environment);

    let traces = traces(&environment, &sales);
    let (mut complete, mut undone, mut refunded) = (0, 0, 0);
    for sale in sales.iter().flatten() {
        let (found, answer) = (traces[&sale.reference], answer(&environment, sale));
        if found == Traces::COMPLETE {
            complete += 1;
            assert_eq!(answer, Ok(201), "{sale:?}: {found:?}");
        } else {
            undone += 1;
            refunded += found.refunded;
            assert!(found.is_undone(), "neither complete nor undone: {sale:?}: {found:?}, {answer:?}");
            assert_eq!(answer, Ok(409), "{sale:?}: {found:?}");
        }
    }
    println!("{complete} complete, {undone} undone, of which {refunded} were charged before");
    assert!(complete > 20 && undone > 5, "{complete} complete, {undone} undone");
    assert_eq!(refunded, undone, "what was refused was charged before");
    let status = queue(&environment).expect("the gateway answers");
    assert_eq!((count(&status, "sagas_stuck"), count(&status, "unknown")), (0, 0), "{status}");
    // What is dead would be a saga that nobody finishes.
    let dead = environment.mainstay(&["--json", "queue", "list", "here", "--only", "dead"]).ok().json();
    assert_eq!(dead["jobs"].as_array().map(Vec::len), Some(0), "{dead}");
    assert_eq!(dead["next"], Value::Null);
}

/// It refuses by count, and not by key: asked again after a kill it might refuse what it has done. So it is not killed.
#[test]
fn what_shipping_refuses_is_undone_whoever_dies() {
    complete_or_undone("refuse:5,fail:11", &["shop", "payments"]);
}

#[test]
fn what_shipping_lies_about_is_found_out_whoever_dies() {
    complete_or_undone("fail:11,lie:7,answer-and-die:53", &["shop", "payments", "shipping"]);
}
