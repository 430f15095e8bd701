//! What is told of a queue that somebody has to look after.

use super::delivering::{step, template};
use super::{call, location, order, queueing, serving, to};
use crate::stage::{Browser, Gateway, Reply, Upstream, error, ok, stamp, wait_for};
use api::gateway::{QueueHealth, QueueSummary, TableInstance, TableStamp, TableUpstream};
use api::queue::{Operated, QueueStatus};
use http::Method;
use model::name::{ComponentName, SagaName};
use model::queue::{QueuedRoute, Saga, SagaCall};
use model::workload::Route;
use serde_json::{Value, json};
use std::time::Duration;

/// The service refused for good.
fn refusal() -> Reply {
    Reply::Send(b"HTTP/1.1 422 No\r\ncontent-length: 0\r\n\r\n".to_vec())
}

/// `POST /orders` is a saga of `stock` and `shop`, `POST /notes` goes to `shop` as it is.
fn with_saga(shop: &Upstream, stock: &Upstream) -> TableStamp {
    let plain = QueuedRoute { attempts: 1, idempotent: true, wait: Duration::ZERO, ..QueuedRoute::default() };
    let mut stamp = queueing(stamp(1, &[shop]), |route| {
        *route = QueuedRoute { saga: Some(SagaName::new("checkout").unwrap()), ..plain.clone() };
    });
    stamp.settings.routes.push(Route {
        method: model::flow::Method::Post,
        path: "/notes".into(),
        objective: None,
        queue: Some(plain),
        previous_stamp: None,
    });
    let mut reserve = step("reserve", "stock", "/reservations");
    reserve.undo = Some(SagaCall { path: template("/given-back"), ..reserve.call.clone() });
    let saga = Saga { answer: "order".into(), steps: vec![reserve, step("order", "shop", "/made")] };
    stamp.settings.sagas.insert(SagaName::new("checkout").unwrap(), saga);
    let instance = TableInstance { index: 0, address: stock.address, pid: 7 };
    let component = ComponentName::new("stock").unwrap();
    stamp.upstreams.insert(component, TableUpstream::Instances(vec![instance]));
    stamp
}

fn queue_of(gateway: &Gateway) -> QueueSummary {
    wait_for("the queue", || gateway.state().queue.filter(|queue| !queue.opening))
}

/// What stands now: dead, rejected, half undone.
fn stands(gateway: &Gateway) -> (u64, u64, u64) {
    let held = |state| gateway.metric(&format!("queue_held_jobs{{state=\"{state}\"}}"));
    (held("dead"), held("rejected"), gateway.metric("queue_stuck_sagas"))
}

fn drops(gateway: &Gateway, state: &str) {
    let all = json!({ "v": 1, "by_uid": 0, "selection": { "state": state }, "plan": false });
    let _: Operated = call(gateway, Method::POST, "/v1/queue/drop", &all).unwrap();
}

#[test]
fn what_stands_is_told_by_the_next_gateway_until_somebody_deals_with_it() {
    let shop = Upstream::start(|seen, _| match seen.body.as_slice() {
        b"dies" => error(),
        _ => refusal(),
    });
    let stock = Upstream::start(|seen, _| match seen.line().contains("given-back") {
        true => refusal(),
        false => ok("reserved"),
    });
    let mut gateway = Gateway::start();
    gateway.activate(&with_saga(&shop, &stock));
    location(&gateway.ask(&to("/notes", &[], "dies")));
    location(&gateway.ask(&to("/notes", &[], "refused")));
    location(&gateway.ask(&order(&[], "half undone")));
    wait_for("all three stand", || (stands(&gateway) == (2, 1, 1)).then_some(()));
    let temp = gateway.temp();
    gateway.stop();

    let next = Gateway::start_in(temp);
    let queue = queue_of(&next);
    assert_eq!(
        next.metric("queue_dead_total") + next.metric("queue_sagas_stuck_total"),
        0,
        "since the start"
    );
    assert_eq!(stands(&next), (2, 1, 1));
    assert_eq!((queue.dead, queue.rejected, queue.sagas_stuck), (2, 1, 1));
    assert_eq!(queue.health, QueueHealth::Red);
    let status: QueueStatus = call(&next, Method::GET, "/v1/queue", &Value::Null).unwrap();
    assert_eq!(status.stuck_sagas, 1);
    drops(&next, "dead");
    assert_eq!((stands(&next), queue_of(&next).health), ((0, 1, 0), QueueHealth::Yellow));
    drops(&next, "rejected");
    assert_eq!((stands(&next), queue_of(&next).health), ((0, 0, 0), QueueHealth::Green));
}

#[test]
fn every_alert_is_on_something_that_is_told() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |_| {});
    assert_eq!(gateway.ask(&order(&[], "{}")).status, 200);
    let mut client = Browser::to(gateway.admin);
    client.send("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n");
    let told = client.answer();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/alerts.yml");
    let alerts = std::fs::read_to_string(path).unwrap();
    let mut names = 0;
    for expression in alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("mainstay_")) {
            names += 1;
            assert!(told.text().contains(&format!("# TYPE {name} ")), "{name} in {expression}");
        }
    }
    assert!(names > 5, "{names}");
}
