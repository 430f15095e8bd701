//! Writes that are accepted with 202 first, and their final answers.

use crate::load::{options, run};
use crate::upstream::{
    Reply, Request, Upstream, expecting, flow, flows, json, saving, sending, step, template,
};
use model::flow::Method::{Get, Post};
use model::flow::{Flow, JsonPath, Ledger};
use model::name::FlowName;
use model::verdict::Verdict;
use model::workload::Class;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use validate::{LoadOptions, Outcome, SmokeOptions, smoke};

const ORDERS: u64 = 20;

/// What becomes of the orders that a service has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// Done after so many looks at its job.
    Done(usize),
    /// Done, and whoever has the answer is away when it is asked for the first time.
    AwayOnce,
    /// Done, and the answer is a refusal.
    Refused,
    /// Never done while it is followed, but there when it is looked up for the second time.
    There,
    /// Never done and never there.
    Lost,
    /// Nobody knows.
    Doubtful,
    /// Given up.
    Dead,
    /// Forgotten.
    Gone,
}

/// A service that accepts every order and answers for it later. An order is known by its key.
#[derive(Default)]
struct Queue {
    /// References by key.
    orders: BTreeMap<String, String>,
    looks: BTreeMap<String, usize>,
    stored: Vec<String>,
}

impl Queue {
    fn answer(&mut self, request: &Request, course: Course) -> Reply {
        let path = request.path.as_str();
        if request.method == "POST" {
            let key = request.header("idempotency-key").expect("each write has a key").to_owned();
            let reference = request.body.split('"').nth(3).unwrap().to_owned();
            self.orders.insert(key.clone(), reference);
            return Reply::Located(202, format!("http://elsewhere.example/jobs/{key}"), "{}".to_owned());
        }
        if let Some(key) = path.strip_prefix("/jobs/").and_then(|path| path.strip_suffix("/response")) {
            let looks = self.looks.entry(format!("{key}/response")).or_default();
            *looks += 1;
            if course == Course::AwayOnce && *looks == 1 {
                return json(503, r#"{"type":"overloaded"}"#);
            }
            let reference = self.orders[key].clone();
            self.stored.push(reference);
            return json(if course == Course::Refused { 409 } else { 201 }, r#"{"id":7}"#);
        }
        if let Some(key) = path.strip_prefix("/jobs/") {
            let looks = self.looks.entry(key.to_owned()).or_default();
            *looks += 1;
            let waiting = json(200, r#"{"state":"waiting"}"#);
            return match course {
                // A look that fails says nothing of the job.
                Course::Done(_) if *looks == 1 => json(503, ""),
                Course::Done(after) if *looks <= after => waiting,
                Course::Done(_) | Course::AwayOnce | Course::Refused => {
                    Reply::Located(303, format!("/jobs/{key}/response"), String::new())
                }
                Course::There | Course::Lost => waiting,
                Course::Doubtful => json(200, r#"{"state":"unknown"}"#),
                Course::Dead => json(200, r#"{"state":"dead"}"#),
                Course::Gone => json(410, "gone"),
            };
        }
        if let Some(reference) = path.strip_prefix("/orders?ref=") {
            let looks = self.looks.entry(reference.to_owned()).or_default();
            *looks += 1;
            let there = self.stored.iter().filter(|known| *known == reference).count();
            let count = if course == Course::There && *looks > 1 { 1 } else { there };
            return json(200, &format!(r#"{{"items":[{}]}}"#, vec!["{}"; count].join(",")));
        }
        json(200, "{}")
    }
}

async fn accepting(course: Course) -> Upstream {
    let queue = Mutex::new(Queue::default());
    Upstream::start(move |request| queue.lock().unwrap().answer(request, course)).await
}

fn checkout() -> BTreeMap<FlowName, Flow> {
    let order = expecting(201, sending("ref", "{uuid}", step(Post, "/orders")));
    let mut checkout = flow(vec![saving("order", "$.id", order), step(Get, "/orders/{order}")]);
    checkout.objective.errors = 1.0;
    checkout.ledger = Some(Ledger {
        reference: template("{uuid}"),
        confirm: template("/orders?ref={ref}"),
        count: JsonPath("$.items".into()),
    });
    flows([("checkout", checkout)])
}

fn orders(follow: Duration, drain: Duration) -> LoadOptions {
    LoadOptions { follow, drain, timeout: Duration::from_secs(5), ..options(100.0, 10 * ORDERS) }
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn an_accepted_write_is_followed_to_its_final_answer() {
    let upstream = accepting(Course::Done(3)).await;
    let report = run(upstream.target(), checkout(), orders(LONG, LONG)).await;
    let text = report.text();
    assert_eq!((report.verdict, report.failed, report.requests), (Verdict::Pass, 0, 2 * ORDERS), "{text}");
    let write = &report.flows[0].steps[0];
    assert_eq!((write.queued.accepted, write.queued.not_done, write.queued.until_done.count), (20, 0, 20));
    assert_eq!((report.queued, report.flows[0].steps[1].queued.accepted), (write.queued, 0));
    // To its end each took three pauses more than to its 202: 50, 100 and 200 ms.
    assert!(write.queued.until_done.p50_ms >= write.latency.p50_ms + 300.0, "{text}");
    assert!(text.contains("20 accepted with 202: 20 done, after p50 "), "{text}");
    let ledger = report.ledger.unwrap();
    assert_eq!((ledger.acknowledged, ledger.accepted, ledger.lost, ledger.duplicated), (20, 0, 0, 0));
    let seen = upstream.seen();
    // What was saved comes from the final answer.
    assert_eq!(seen.iter().filter(|request| request.path == "/orders/7").count() as u64, ORDERS);
    let jobs: Vec<_> = seen.iter().filter(|request| request.path.starts_with("/jobs/")).collect();
    assert!(jobs.iter().all(|request| request.method == "GET"));
    for request in jobs {
        let wanted = (!request.path.ends_with("/response")).then_some("wait=1");
        assert_eq!(request.header("prefer"), wanted, "{}", request.path);
    }
    let mut keys: Vec<_> = seen.iter().filter_map(|request| request.header("idempotency-key")).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len() as u64, ORDERS, "one key for each intent, and only for writes");
}

#[tokio::test]
async fn what_is_not_done_in_time_is_counted_apart_and_looked_up_in_the_end() {
    for (course, lost, verdict) in [(Course::There, 0, Verdict::Pass), (Course::Lost, 20, Verdict::Fail)] {
        let upstream = accepting(course).await;
        let drain = if course == Course::There { LONG } else { SHORT };
        let report = run(upstream.target(), checkout(), orders(SHORT, drain)).await;
        let text = report.text();
        assert_eq!((report.verdict, report.failed), (verdict, 0), "{text}");
        assert_eq!(
            (report.outcomes.pending, report.requests),
            (ORDERS, ORDERS),
            "the flow ends there: {text}"
        );
        assert_eq!((report.queued.accepted, report.queued.not_done), (20, 20), "{text}");
        let ledger = report.ledger.unwrap();
        assert_eq!((ledger.acknowledged, ledger.accepted, ledger.lost), (20, 20, lost), "{text}");
        assert!(text.contains("20 acknowledged (20 of them by a 202 only)"), "{text}");
        assert_eq!(report.samples[0].problem, "accepted with 202, not yet done after 200ms");
    }
}

#[tokio::test]
async fn a_final_answer_that_is_none_or_another_one_is_a_failure() {
    let table = [
        (Course::Refused, "answered 409, expected 201", [0, 20, 0]),
        (Course::Dead, "accepted with 202, and then its job is dead", [0, 20, 0]),
        (Course::Doubtful, "accepted with 202, and then nobody knows whether it happened", [0, 0, 20]),
        (Course::Gone, "accepted with 202, and then its job answered 410: gone", [0, 0, 20]),
    ];
    for (course, problem, fates) in table {
        let upstream = accepting(course).await;
        let follow = if course == Course::Doubtful { SHORT } else { LONG };
        let report = run(upstream.target(), checkout(), orders(follow, LONG)).await;
        let ledger = report.ledger.as_ref().unwrap();
        let told = [ledger.acknowledged, ledger.failed, ledger.unknown];
        assert_eq!((told, report.failed), (fates, ORDERS), "{course:?}\n{}", report.text());
        assert_eq!(report.samples[0].problem, problem, "{course:?}");
        assert_eq!(report.queued.accepted, ORDERS, "{course:?}");
    }
}

#[tokio::test]
async fn a_final_answer_that_cannot_be_had_now_is_asked_for_again() {
    let upstream = accepting(Course::AwayOnce).await;
    let report = run(upstream.target(), checkout(), orders(LONG, LONG)).await;
    assert_eq!((report.verdict, report.failed), (Verdict::Pass, 0), "{}", report.text());
    assert_eq!(report.ledger.unwrap().acknowledged, ORDERS);
}

#[tokio::test]
async fn without_a_ledger_what_is_not_done_is_no_pass() {
    let mut checkout = checkout();
    checkout.values_mut().for_each(|flow| flow.ledger = None);
    let upstream = accepting(Course::Lost).await;
    let report = run(upstream.target(), checkout, orders(SHORT, SHORT)).await;
    assert_eq!(
        (report.verdict, report.outcomes.pending),
        (Verdict::Inconclusive, ORDERS),
        "{}",
        report.text()
    );
}

#[tokio::test]
async fn a_202_that_is_expected_is_the_answer() {
    let upstream = accepting(Course::Lost).await;
    let order = expecting(202, sending("ref", "{uuid}", step(Post, "/orders")));
    let report = run(upstream.target(), flows([("order", flow(vec![order]))]), orders(LONG, LONG)).await;
    assert_eq!((report.verdict, report.queued.accepted), (Verdict::Pass, 0), "{}", report.text());
    assert!(upstream.seen().iter().all(|request| request.method == "POST"));
}

#[tokio::test]
async fn followers_do_not_use_up_the_connections_of_the_others() {
    // Every job's resource is held for longer than the run: nobody else may notice.
    let upstream = Upstream::start(|request| match request.path.as_str() {
        "/orders" => Reply::Located(202, "/jobs/1".to_owned(), String::new()),
        "/jobs/1" => Reply::Silence,
        _ => json(200, ""),
    })
    .await;
    let both = flows([
        ("order", flow(vec![sending("ref", "{uuid}", step(Post, "/orders"))])),
        ("browse", flow(vec![step(Get, "/")])),
    ]);
    // Longer than a step may wait for a connection.
    let options = LoadOptions {
        max_connections: 2,
        timeout: Duration::from_secs(2),
        ..orders(Duration::from_secs(4), SHORT)
    };
    let report = run(upstream.target(), both, options).await;
    assert_eq!((report.failed, report.requests), (0, ORDERS), "{}", report.text());
    assert!(report.outcomes.pending > 2 && report.outcomes.ok > 0, "{}", report.text());
}

#[tokio::test]
async fn smoke_follows_too_and_fails_what_is_not_done() {
    let options = |follow| SmokeOptions { follow, ..SmokeOptions::new(Class::Staging) };
    let upstream = accepting(Course::Done(2)).await;
    let report = smoke(&upstream.target(), &checkout(), &options(LONG)).await;
    assert_eq!(report.verdict, Verdict::Pass, "{}", report.text());
    let upstream = accepting(Course::Lost).await;
    let report = smoke(&upstream.target(), &checkout(), &options(SHORT)).await;
    assert_eq!((report.verdict, report.flows[0].steps[0].outcome), (Verdict::Fail, Outcome::Pending));
}
