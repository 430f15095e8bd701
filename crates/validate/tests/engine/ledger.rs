//! The ledger: nothing lost, nothing twice, against services that do both.

use crate::load::{options, run};
use crate::upstream::{Reply, Request, Upstream, expecting, flow, flows, json, sending, step, template};
use model::flow::Method::{Get, Post};
use model::flow::{Flow, JsonPath, Ledger};
use model::name::FlowName;
use model::verdict::Verdict;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use validate::{Finding, LedgerReport, LoadOptions, LoadReport};

/// What a shop does with one order of every run; the others it stores once and answers 201.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    StoreTwice,
    Lose,
    StoreAndCut,
    StoreTwiceAndCut,
    CutOnly,
    StoreAndSilence,
    Refuse,
    RefuseAndStoreTwice,
}

/// The order that meets the fault.
const FAULTY: usize = 3;

const ORDERS: u64 = 20;

#[derive(Default)]
struct Shop {
    orders: Vec<String>,
    posts: usize,
    look_ups: usize,
}

impl Shop {
    fn order(&mut self, request: &Request, fault: Fault) -> Reply {
        let reference = request.body.split('"').nth(3).unwrap().to_owned();
        self.posts += 1;
        let fault = if self.posts == FAULTY { fault } else { Fault::None };
        let (copies, reply) = match fault {
            Fault::None => (1, json(201, "{}")),
            Fault::StoreTwice => (2, json(201, "{}")),
            Fault::Lose => (0, json(201, "{}")),
            Fault::StoreAndCut => (1, Reply::Raw("")),
            Fault::StoreTwiceAndCut => (2, Reply::Raw("")),
            Fault::CutOnly => (0, Reply::Raw("")),
            Fault::StoreAndSilence => (1, Reply::Silence),
            Fault::Refuse => (0, json(422, "{}")),
            Fault::RefuseAndStoreTwice => (2, json(500, "{}")),
        };
        self.orders.extend(std::iter::repeat_n(reference, copies));
        reply
    }

    fn list(&self, reference: &str) -> Reply {
        let count = self.orders.iter().filter(|order| *order == reference).count();
        json(200, &format!(r#"{{"items":[{}]}}"#, vec!["{}"; count].join(",")))
    }
}

fn checkout() -> BTreeMap<FlowName, Flow> {
    let order = expecting(201, sending("ref", "{uuid}", step(Post, "/orders")));
    let mut checkout = flow(vec![step(Get, "/"), order, step(Get, "/thanks")]);
    checkout.objective.errors = 1.0;
    checkout.ledger = Some(Ledger {
        reference: template("{uuid}"),
        confirm: template("/orders?ref={ref}"),
        count: JsonPath("$.items".into()),
    });
    flows([("checkout", checkout)])
}

async fn shop(fault: Fault) -> Upstream {
    let shop = Mutex::new(Shop::default());
    Upstream::start(move |request| {
        let mut shop = shop.lock().unwrap();
        match request.path.strip_prefix("/orders?ref=") {
            Some(reference) => shop.list(reference),
            None if request.method == "POST" => shop.order(request, fault),
            None => json(200, "{}"),
        }
    })
    .await
}

fn orders() -> LoadOptions {
    LoadOptions { timeout: Duration::from_secs(5), ..options(100.0, 10 * ORDERS) }
}

async fn played(fault: Fault) -> LoadReport {
    let upstream = shop(fault).await;
    run(upstream.target(), checkout(), orders()).await
}

/// Acknowledged, failed, unknown; lost, duplicated, unverified.
fn counts(ledger: &LedgerReport) -> [u64; 6] {
    assert_eq!(ledger.intended, ledger.acknowledged + ledger.failed + ledger.unknown);
    let [a, f, u] = [ledger.acknowledged, ledger.failed, ledger.unknown];
    [a, f, u, ledger.lost, ledger.duplicated, ledger.unverified]
}

#[tokio::test]
async fn every_way_to_lose_or_to_duplicate_a_write_is_found_and_no_other() {
    let table = [
        (Fault::None, [20, 0, 0, 0, 0, 0], Verdict::Pass),
        (Fault::StoreTwice, [20, 0, 0, 0, 1, 0], Verdict::Fail),
        (Fault::Lose, [20, 0, 0, 1, 0, 0], Verdict::Fail),
        (Fault::StoreAndCut, [19, 0, 1, 0, 0, 0], Verdict::Pass),
        (Fault::StoreTwiceAndCut, [19, 0, 1, 0, 1, 0], Verdict::Fail),
        (Fault::CutOnly, [19, 0, 1, 0, 0, 0], Verdict::Pass),
        (Fault::StoreAndSilence, [19, 0, 1, 0, 0, 0], Verdict::Pass),
        (Fault::Refuse, [19, 1, 0, 0, 0, 0], Verdict::Pass),
        (Fault::RefuseAndStoreTwice, [19, 1, 0, 0, 1, 0], Verdict::Fail),
    ];
    for (fault, expected, verdict) in table {
        let report = played(fault).await;
        let ledger = report.ledger.as_ref().unwrap();
        assert_eq!(counts(ledger), expected, "{fault:?}\n{}", report.text());
        assert_eq!(report.verdict, verdict, "{fault:?}\n{}", report.text());
        assert_eq!(ledger.samples.is_empty(), verdict == Verdict::Pass, "{fault:?}");
        let written = matches!(fault, Fault::StoreAndCut | Fault::StoreTwiceAndCut | Fault::StoreAndSilence);
        assert_eq!(ledger.unknown_written, u64::from(written), "{fault:?}");
    }
}

#[tokio::test]
async fn a_finding_names_its_reference() {
    let upstream = shop(Fault::Lose).await;
    let report = run(upstream.target(), checkout(), orders()).await;
    let posts: Vec<Request> = upstream.seen().into_iter().filter(|r| r.method == "POST").collect();
    let sample = &report.ledger.unwrap().samples[0];
    assert_eq!(sample.finding, Finding::Lost);
    assert!(posts[FAULTY - 1].body.contains(&sample.reference), "{sample:?}");
    assert_eq!(sample.text, "acknowledged and there 0 times");
    assert_eq!(report.reasons, ["ledger: 1 of 20 acknowledged writes lost"]);
}

#[tokio::test]
async fn a_read_after_the_last_write_takes_no_acknowledgement_back() {
    let shop = Mutex::new(Shop::default());
    let upstream = Upstream::start(move |request| {
        let mut shop = shop.lock().unwrap();
        match request.path.strip_prefix("/orders?ref=") {
            Some(reference) => shop.list(reference),
            None if request.method == "POST" => shop.order(request, Fault::Lose),
            None if request.path == "/thanks" => Reply::Raw(""),
            None => json(200, "{}"),
        }
    })
    .await;
    let report = run(upstream.target(), checkout(), orders()).await;
    assert_eq!(counts(report.ledger.as_ref().unwrap()), [20, 0, 0, 1, 0, 0], "{}", report.text());
    assert_eq!((report.outcomes.cut, report.verdict), (20, Verdict::Fail));
}

#[tokio::test]
async fn a_flow_that_ends_before_its_write_intends_nothing() {
    let upstream = Upstream::start(|_| json(500, "")).await;
    let report = run(upstream.target(), checkout(), orders()).await;
    assert_eq!(report.ledger.unwrap(), LedgerReport::default());
    assert_eq!(upstream.seen().len() as u64, ORDERS);
}

#[tokio::test]
async fn a_look_up_is_tried_again_and_at_last_unverified() {
    // Every reference is found only at the third time; with a 403 it never is.
    for (refusal, expected, verdict) in
        [(503, [20, 0, 0, 0, 0, 0], Verdict::Pass), (403, [20, 0, 0, 0, 0, 20], Verdict::Invalid)]
    {
        let shop = Mutex::new((Shop::default(), BTreeMap::<String, usize>::new()));
        let upstream = Upstream::start(move |request| {
            let (shop, asked) = &mut *shop.lock().unwrap();
            let Some(reference) = request.path.strip_prefix("/orders?ref=") else {
                let post = request.method == "POST";
                return if post { shop.order(request, Fault::None) } else { json(200, "{}") };
            };
            shop.look_ups += 1;
            let times = asked.entry(reference.to_owned()).or_default();
            *times += 1;
            match *times {
                1 => json(refusal, "later"),
                2 if refusal == 503 => Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"),
                _ => shop.list(reference),
            }
        })
        .await;
        let report = run(upstream.target(), checkout(), orders()).await;
        let ledger = report.ledger.as_ref().unwrap();
        assert_eq!(counts(ledger), expected, "{}", report.text());
        assert_eq!(report.verdict, verdict, "{}", report.text());
        if refusal == 403 {
            assert_eq!(report.reasons, ["ledger: 20 of 20 intended writes could not be looked up"]);
            assert_eq!(ledger.samples[0].text, "answered 403: later");
        }
    }
}

#[tokio::test]
async fn what_is_looked_up_by_its_own_address_and_not_found_is_not_there() {
    let stored = Mutex::new(Vec::<String>::new());
    let upstream = Upstream::start(move |request| {
        let mut stored = stored.lock().unwrap();
        match (request.method.as_str(), request.path.strip_prefix("/order/")) {
            ("POST", _) if request.body.contains("user-") => {
                stored.push(request.body.split('"').nth(3).unwrap().replace('/', "%2F"));
                json(201, r#"{}"#)
            }
            ("GET", Some(reference)) if stored.iter().any(|known| known == reference) => {
                json(200, r#"{"id":1}"#)
            }
            ("GET", Some(_)) => json(404, "{}"),
            _ => json(200, "{}"),
        }
    })
    .await;
    let order = expecting(201, sending("ref", "{user.id}/{uuid}", step(Post, "/orders")));
    let mut checkout = flow(vec![order]);
    checkout.ledger = Some(Ledger {
        reference: template("{user.id}/{uuid}"),
        confirm: template("/order/{ref}"),
        count: JsonPath("$.id".into()),
    });
    let report = run(upstream.target(), flows([("checkout", checkout.clone())]), orders()).await;
    assert_eq!(counts(report.ledger.as_ref().unwrap()), [20, 0, 0, 0, 0, 0], "{}", report.text());
    // The same shop, asked for another address than it stores under: all are lost.
    checkout.ledger.as_mut().unwrap().confirm = template("/order/x{ref}");
    let report = run(upstream.target(), flows([("checkout", checkout)]), orders()).await;
    assert_eq!(counts(report.ledger.as_ref().unwrap()), [20, 0, 0, 20, 0, 0], "{}", report.text());
}
