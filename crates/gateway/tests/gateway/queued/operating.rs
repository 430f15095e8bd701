//! What operators see and do.

use super::{becomes, call, delivered, location, order, queueing, serving};
use crate::stage::{Gateway, PATIENCE, Reply, Upstream, dead_address, ok, stamp, stamp_at, wait_for};
use api::client::{CallError, Client};
use api::problem::Code;
use api::queue::{
    CARGO_LIMIT, Exported, Halted, Imported, JobHistory, JobList, Operated, Operations, PAGE_BYTES,
    QueueStatus,
};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn post<A: serde::de::DeserializeOwned>(gateway: &Gateway, verb: &str, body: Value) -> A {
    call(gateway, Method::POST, &format!("/v1/queue/{verb}"), &body).unwrap()
}

pub(super) fn status(gateway: &Gateway) -> QueueStatus {
    call(gateway, Method::GET, "/v1/queue", &Value::Null).unwrap()
}

fn number(location: &str) -> u64 {
    let name = location.strip_prefix("/.mainstay/jobs/").unwrap();
    name.split('-').next().unwrap().parse().unwrap()
}

#[test]
fn paused_and_resumed() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |_| {});
    // The first request opens the queue for sure.
    assert_eq!(gateway.ask(&order(&[], "{}")).status, 200);
    let paused: QueueStatus = post(&gateway, "pause", json!({ "v": 1, "by_uid": 7, "route": null }));
    assert!(paused.open && paused.paused, "{paused:?}");
    let job = location(&gateway.ask(&order(&["prefer: wait=0"], "{}")));
    let status = status(&gateway);
    assert_eq!((status.depth, status.counts.accepted, status.counts.answered_202), (1, 2, 1));
    assert_eq!(status.counts.answered_directly, 1);
    let states: Vec<_> = status.states.iter().map(|(state, count)| (state.as_str(), *count)).collect();
    assert_eq!(states, [("delivered", 1), ("waiting", 1)], "{status:?}");
    assert!(status.disk_bytes > 0);
    assert_eq!(upstream.count(), 1);
    assert!(gateway.state().queue.unwrap().paused);
    let resumed: QueueStatus = post(&gateway, "resume", json!({ "v": 1, "by_uid": 7, "route": null }));
    assert!(!resumed.paused);
    delivered(&gateway, &job);
    let log: Operations = call(&gateway, Method::GET, "/v1/queue/operations", &Value::Null).unwrap();
    let verbs: Vec<_> = log.operations.iter().map(|entry| (entry.verb.as_str(), entry.by_uid)).collect();
    assert_eq!(verbs, [("resume", 7), ("pause", 7)]);
    assert_eq!(log.next, None, "that is all of it");
    let latest: Operations = post(&gateway, "operations", json!({ "limit": 1 }));
    let verbs = |log: &Operations| log.operations.iter().map(|entry| entry.verb.clone()).collect::<Vec<_>>();
    assert_eq!((verbs(&latest), latest.next), (vec!["resume".to_owned()], Some(latest.operations[0].id)));
    let before: Operations = post(&gateway, "operations", json!({ "before": latest.next, "limit": 1 }));
    assert_eq!((verbs(&before), before.next), (vec!["pause".to_owned()], None));
}

fn halted(gateway: &Gateway, verb: &str, route: &str) -> Result<Halted, CallError> {
    let body = json!({ "v": 1, "by_uid": 7, "route": route });
    call(gateway, Method::POST, &format!("/v1/queue/{verb}"), &body)
}

#[test]
fn a_route_that_is_none_is_not_paused() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |route| route.wait = Duration::ZERO);
    wait_for("the queue", || status(&gateway).open.then_some(()));
    match halted(&gateway, "pause", "POST /order") {
        Err(CallError::Refused(problem)) => {
            assert_eq!(problem.code, Code::BadRequest);
            let told = "\"POST /order\" is no queued route, and no job of it is pending; queued are \"POST /orders\"";
            assert_eq!(problem.message, told);
        }
        other => panic!("{other:?}"),
    }
    let paused = halted(&gateway, "pause", "POST /orders").unwrap();
    assert_eq!((paused.unchanged, paused.status.paused_routes), (false, vec!["POST /orders".to_owned()]));
    assert!(halted(&gateway, "pause", "POST /orders").unwrap().unchanged);
    let job = location(&gateway.ask(&order(&[], "{}")));
    // The next release has no such route: its jobs are there all the same.
    gateway.activate(&stamp(2, &[&upstream]));
    assert!(!halted(&gateway, "resume", "POST /orders").unwrap().unchanged);
    assert!(halted(&gateway, "resume", "POST /orders").unwrap().unchanged, "it was not paused");
    delivered(&gateway, &job);
    match halted(&gateway, "pause", "POST /orders") {
        Err(CallError::Refused(problem)) => {
            assert!(problem.message.ends_with("no route is queued"), "{problem:?}");
        }
        other => panic!("{other:?}"),
    }
    let log: Operations = call(&gateway, Method::GET, "/v1/queue/operations", &Value::Null).unwrap();
    let verbs: Vec<_> = log.operations.iter().map(|entry| entry.verb.as_str()).collect();
    assert_eq!(verbs, ["resume", "pause"], "what changes nothing is not written");
}

#[test]
fn what_waits_of_a_route_that_is_gone_is_paused() {
    let gateway = Gateway::start();
    gateway.activate(&queueing(stamp_at(1, &[dead_address()]), |route| route.wait = Duration::ZERO));
    location(&gateway.ask(&order(&[], "{}")));
    gateway.activate(&stamp_at(2, &[dead_address()]));
    assert!(!halted(&gateway, "pause", "POST /orders").unwrap().unchanged);
}

#[test]
fn dead_ones_are_listed_shown_and_tried_again() {
    let works = Arc::new(AtomicBool::new(false));
    let working = Arc::clone(&works);
    let upstream = Upstream::start(move |_, _| match working.load(Ordering::SeqCst) {
        true => ok("done"),
        false => Reply::Send(b"HTTP/1.1 503 No\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n".to_vec()),
    });
    let gateway = serving(&upstream, |route| {
        route.attempts = 2;
        route.wait = Duration::ZERO;
    });
    let job = location(&gateway.ask(&order(&["idempotency-key: k", "authorization: secret"], "{\"a\":1}")));
    let id = number(&job);
    wait_for("its end", || (gateway.state().queue.unwrap().dead == 1).then_some(()));
    becomes(&gateway, &job, "dead");
    let dead = json!({ "selection": { "state": "dead" }, "page": { "after": 0, "limit": 10 } });
    let list: JobList = post(&gateway, "list", dead);
    assert_eq!(list.jobs.iter().map(|job| (job.id, job.attempts)).collect::<Vec<_>>(), [(id, 2)]);
    assert_eq!((list.jobs[0].state.as_str(), list.jobs[0].route.as_str()), ("dead", "POST /orders"));
    assert!(list.jobs[0].why.contains("503"), "{:?}", list.jobs);
    let history: JobHistory =
        call(&gateway, Method::GET, &format!("/v1/queue/jobs/{id}"), &Value::Null).unwrap();
    assert_eq!(
        (history.key.as_str(), history.method.as_str(), history.target.as_str()),
        ("k", "POST", "/orders")
    );
    assert_eq!(history.body, api::queue::Content::Text("{\"a\":1}".into()));
    assert!(history.fields.contains(&("authorization".into(), "…".into())), "{:?}", history.fields);
    assert!(history.attempts.iter().any(|attempt| attempt.what.contains("503")), "{:?}", history.attempts);

    works.store(true, Ordering::SeqCst);
    let all = |plan| json!({ "v": 1, "by_uid": 0, "selection": { "state": "dead" }, "plan": plan });
    let plan: Operated = post(&gateway, "retry", all(true));
    assert_eq!((plan.count, plan.ids), (1, vec![id]));
    assert_eq!(upstream.count(), 2, "a plan does nothing");
    let done: Operated = post(&gateway, "retry", all(false));
    assert_eq!(done.count, 1);
    delivered(&gateway, &job);
}

#[test]
fn given_up_by_an_operator() {
    let gateway = Gateway::start();
    gateway.activate(&queueing(stamp_at(1, &[dead_address()]), |route| route.wait = Duration::ZERO));
    post_paused(&gateway);
    let jobs: Vec<String> = (0..3).map(|_| location(&gateway.ask(&order(&[], "{}")))).collect();
    let one = json!({ "v": 1, "by_uid": 0, "selection": { "id": number(&jobs[1]) }, "plan": false });
    let done: Operated = post(&gateway, "drop", one);
    assert_eq!((done.count, done.ids), (1, vec![number(&jobs[1])]));
    becomes(&gateway, &jobs[1], "dropped");
    let again = json!({ "v": 1, "by_uid": 0, "selection": { "state": "dropped" }, "plan": false });
    let again: Operated = post(&gateway, "drop", again);
    assert_eq!((again.count, again.passed_over), (0, 1));
    assert_eq!(gateway.metric("queue_depth"), 2);
    let none = json!({ "v": 1, "by_uid": 0, "selection": { "id": 99 }, "plan": false });
    let refused: Result<Operated, CallError> = call(&gateway, Method::POST, "/v1/queue/drop", &none);
    assert!(
        matches!(refused, Err(CallError::Refused(ref problem)) if problem.code == Code::BadRequest),
        "{refused:?}"
    );
}

fn post_paused(gateway: &Gateway) {
    wait_for("the queue", || status(gateway).open.then_some(()));
    let _: QueueStatus = post(gateway, "pause", json!({ "v": 1, "by_uid": 0, "route": null }));
}

#[test]
fn unknown_ones_are_resolved_by_hand() {
    let upstream = Upstream::start(|seen, _| if seen.body == b"cut" { Reply::Close } else { ok("done") });
    let gateway = serving(&upstream, |route| route.wait = Duration::ZERO);
    let jobs: Vec<String> = (0..2).map(|_| location(&gateway.ask(&order(&[], "cut")))).collect();
    for job in &jobs {
        becomes(&gateway, job, "unknown");
    }
    let resolve = |job: &str, delivered: bool| json!({ "v": 1, "by_uid": 0, "id": number(job), "delivered": delivered });
    let _: Operated = post(&gateway, "resolve", resolve(&jobs[0], true));
    becomes(&gateway, &jobs[0], "delivered");
    // A page that waits for it is at its end, although there is no answer to show.
    let done = gateway.get(&jobs[0]);
    assert_eq!((done.status, done.one("location")), (303, format!("{}/response", jobs[0]).as_str()));
    for method in ["GET", "HEAD"] {
        let mut browser = gateway.browse();
        browser.send(format!("{method} {}/response HTTP/1.1\r\nhost: a\r\n\r\n", jobs[0]));
        let none = browser.head().unwrap();
        assert_eq!((none.status, none.all("content-length").len()), (204, 0), "{method}");
    }
    let _: Operated = post(&gateway, "resolve", resolve(&jobs[1], false));
    upstream.wait(3);
    becomes(&gateway, &jobs[1], "unknown");
    assert_eq!(gateway.metric("queue_unknown"), 1);
}

#[test]
fn exported_from_one_and_imported_into_another() {
    let from = Gateway::start();
    from.activate(&queueing(stamp_at(1, &[dead_address()]), |route| route.wait = Duration::ZERO));
    // What is under way is exported as such, and nobody else knows what becomes of it.
    post_paused(&from);
    for n in 0..3 {
        location(&from.ask(&order(&[&format!("idempotency-key: k{n}")], &format!("{n}"))));
    }
    let first: Exported = post(&from, "export", json!({ "after": 0, "limit": 2 }));
    assert_eq!(first.jobs.len(), 2);
    let rest: Exported = post(&from, "export", json!({ "after": first.next.unwrap(), "limit": 2 }));
    assert_eq!((rest.jobs.len(), rest.next), (1, None));
    let jobs: Vec<_> = first.jobs.into_iter().chain(rest.jobs).collect();

    let upstream = Upstream::named("done");
    let into = serving(&upstream, |_| {});
    wait_for("the queue", || status(&into).open.then_some(()));
    let import = json!({ "v": 1, "by_uid": 0, "jobs": jobs });
    let done: Imported = post(&into, "import", import.clone());
    assert_eq!((done.accepted, done.repeated), (3, 0));
    let seen = super::bodies(&upstream.wait(3));
    assert!(["0", "1", "2"].iter().all(|body| seen.contains(&(*body).to_owned())), "{seen:?}");
    let again: Imported = post(&into, "import", import);
    assert_eq!((again.accepted, again.repeated), (0, 3));
}

#[test]
fn the_largest_jobs_come_along_too() {
    // More than other answers may have, and more than any page; what JSON would take six bytes for, and a text.
    let bodies = [vec![1; 17 << 20], vec![b'x'; 5 << 20], vec![b'y'; 5 << 20]];
    let wide = |route: &mut model::queue::QueuedRoute| {
        (route.wait, route.body) = (Duration::ZERO, model::queue::BODY_LIMIT);
    };
    let from = Gateway::start();
    from.activate(&queueing(stamp_at(1, &[dead_address()]), wide));
    post_paused(&from);
    for body in &bodies {
        location(&from.ask(&order(&[], std::str::from_utf8(body).unwrap())));
    }
    let client = |gateway: &Gateway| {
        Client::new(gateway.folder.gateway_socket(), PATIENCE).with_answer_limit(CARGO_LIMIT)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let upstream = Upstream::named("done");
    let into = serving(&upstream, wide);
    wait_for("the queue", || status(&into).open.then_some(()));
    let (mut after, mut pages) = (0, 0);
    loop {
        let page = json!({ "after": after, "limit": 500 });
        let call = async { client(&from).call(Method::POST, "/v1/queue/export", &page).await.unwrap() };
        let exported: Exported = runtime.block_on(call);
        pages += u32::from(!exported.jobs.is_empty());
        let bytes = serde_json::to_vec(&exported).unwrap().len();
        assert!(bytes < 3 * (17 << 20) + PAGE_BYTES, "{bytes}");
        let import = json!({ "v": 1, "by_uid": 0, "jobs": exported.jobs });
        let call = async { client(&into).call(Method::POST, "/v1/queue/import", &import).await.unwrap() };
        let _: Imported = runtime.block_on(call);
        match exported.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(pages, 3, "none has two of these");
    let seen = upstream.wait(3);
    assert!(bodies.iter().all(|body| seen.iter().any(|seen| seen.body == *body)));
}

#[test]
fn a_gateway_without_a_queue_says_so() {
    let upstream = Upstream::named("plain");
    let gateway = Gateway::start();
    gateway.activate(&stamp(1, &[&upstream]));
    assert!(!status(&gateway).open);
    let refused: Result<JobList, CallError> = call(
        &gateway,
        Method::POST,
        "/v1/queue/list",
        &json!({ "selection": {}, "page": { "after": 0, "limit": 1 } }),
    );
    assert!(
        matches!(refused, Err(CallError::Refused(ref problem)) if problem.code == Code::Conflict),
        "{refused:?}"
    );
    let refused: Result<Value, CallError> = call(&gateway, Method::POST, "/v1/queue/other", &json!({}));
    assert!(
        matches!(refused, Err(CallError::Refused(ref problem)) if problem.code == Code::BadRequest),
        "{refused:?}"
    );
}
