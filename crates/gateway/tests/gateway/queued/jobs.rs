//! The job resource: its state, its answer, its end.

use super::{becomes, delivered, json, location, order, queueing, serving};
use crate::stage::{Gateway, Reply, Upstream, ok, stamp, wait_for};
use std::time::Duration;

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: example.org\r\n{fields}\r\n")
}

/// A request whose answer has no body.
fn bare(gateway: &Gateway, method: &str, path: &str, fields: &str) -> crate::stage::Answer {
    let mut browser = gateway.browse();
    browser.send(format!("{method} {path} HTTP/1.1\r\nhost: example.org\r\n{fields}\r\n"));
    let head = browser.head().expect("an answer");
    // Nothing follows it, so that the next answer begins at once.
    browser.send("GET /.mainstay/jobs/none HTTP/1.1\r\nhost: example.org\r\n\r\n");
    assert_eq!(browser.answer().status, 404);
    head
}

#[test]
fn pending_then_303_then_the_answer() {
    let (go, going) = std::sync::mpsc::channel::<()>();
    let going = std::sync::Mutex::new(going);
    let upstream = Upstream::start(move |_, _| {
        let _ = going.lock().unwrap().recv();
        Reply::Send(
            b"HTTP/1.1 201 Created\r\nlocation: /orders/1\r\nx-made: yes\r\ncontent-length: 4\r\n\r\nmade"
                .to_vec(),
        )
    });
    let gateway = serving(&upstream, |_| {});
    let job = location(&gateway.ask(&order(&["prefer: respond-async"], "{}")));
    upstream.wait(1);

    let pending = gateway.get(&job);
    assert_eq!(pending.status, 200);
    // Neither answer is any stamp's.
    wait_for("both to be accounted for", || (gateway.measures().queued == 2).then_some(()));
    let body = json(&pending);
    assert_eq!(body["state"], "dispatching");
    assert_eq!(body["attempts"], 1);
    assert_eq!(body["id"], job.strip_prefix("/.mainstay/jobs/").unwrap());
    assert_eq!(body["links"], serde_json::json!({ "self": job }));
    assert!(body["created"].as_str().unwrap().ends_with('Z'));
    assert_eq!(pending.one("cache-control"), "private, no-cache");
    assert!(pending.one("retry-after").parse::<u64>().unwrap() >= 1);
    let tag = pending.one("etag").to_owned();

    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let unchanged = bare(&gateway, "GET", &job, &format!("if-none-match: {known}\r\n"));
        assert_eq!(unchanged.status, 304, "{known}");
        let head = bare(&gateway, "HEAD", &job, &format!("if-none-match: {known}\r\n"));
        assert_eq!((head.status, head.all("content-length").len()), (304, 0));
        assert_eq!(unchanged.one("etag"), tag);
        assert!(unchanged.all("content-type").is_empty());
    }
    assert_eq!(gateway.ask(&get(&job, "if-none-match: \"other\"\r\n")).status, 200);

    let early = gateway.get(&format!("{job}/response"));
    assert_eq!((early.status, early.problem().as_str()), (404, "no-response"));

    // A long poll ends with the time that was asked for, or with the answer.
    let waited = gateway.ask(&get(&job, "prefer: wait=0\r\n"));
    assert_eq!((waited.status, waited.one("preference-applied")), (200, "wait=0"));
    let mut poll = gateway.browse();
    poll.send(get(&job, &format!("prefer: wait=30\r\nif-none-match: {tag}\r\n")));
    go.send(()).unwrap();
    let done = poll.answer();
    assert_eq!(done.status, 303);
    assert_eq!(done.one("preference-applied"), "wait=30");
    assert_eq!(done.one("location"), format!("{job}/response"));
    assert_eq!(json(&done)["state"], "delivered");
    assert_eq!(json(&done)["links"]["response"], format!("{job}/response"));

    let answer = gateway.get(&format!("{job}/response"));
    assert_eq!((answer.status, answer.text()), (201, "made"));
    assert_eq!(answer.one("location"), "/orders/1");
    assert_eq!(answer.one("x-made"), "yes");
    assert_eq!(answer.one("mainstay-job"), job.strip_prefix("/.mainstay/jobs/").unwrap());

    let head = bare(&gateway, "HEAD", &format!("{job}/response"), "");
    assert_eq!((head.status, head.one("content-length"), head.one("x-made")), (201, "4", "yes"));
    let head = bare(&gateway, "HEAD", &job, "");
    assert_eq!(head.status, 303);
    assert!(head.one("content-length").parse::<u64>().unwrap() > 10);
}

#[test]
fn names_that_are_none_and_methods_that_are_none() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |_| {});
    let answer = gateway.ask(&order(&[], "{}"));
    let name = answer.one("mainstay-job").to_owned();
    let (number, tag) = name.split_once('-').unwrap();
    let other: String = tag.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect();
    for wrong in [
        format!("{number}-{other}"),
        format!("2-{tag}"),
        number.to_owned(),
        format!("0{name}"),
        name.to_uppercase() + "X",
        format!("{name}/"),
        format!("{name}/other"),
        String::new(),
    ] {
        let answer = gateway.get(&format!("/.mainstay/jobs/{wrong}"));
        assert_eq!((answer.status, answer.problem().as_str()), (404, "no-job"), "{wrong}");
    }
    for (path, method, allowed) in [
        (name.clone(), "POST", "GET, HEAD, DELETE"),
        (name.clone(), "PUT", "GET, HEAD, DELETE"),
        (format!("{name}/response"), "DELETE", "GET, HEAD"),
    ] {
        let request =
            format!("{method} /.mainstay/jobs/{path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
        let answer = gateway.ask(&request);
        assert_eq!((answer.status, answer.problem().as_str()), (405, "job-method"), "{request}");
        assert_eq!(answer.one("allow"), allowed);
    }
    assert_eq!(upstream.count(), 1, "nothing of this is for the service");
}

#[test]
fn cancelled_before_it_is_dispatched() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |_| {});
    let key = "idempotency-key: k";
    let job = location(&gateway.ask(&order(&["mainstay-deliver-after: 3600", key], "{}")));
    assert_eq!(bare(&gateway, "DELETE", &job, "").status, 204);
    becomes(&gateway, &job, "cancelled");
    let cancelled = gateway.get(&job);
    assert!(cancelled.all("retry-after").is_empty());
    let answer = gateway.get(&format!("{job}/response"));
    assert_eq!((answer.status, answer.problem().as_str()), (404, "no-response"));
    // Once more it is too late, and its key leads to it.
    let again = gateway.ask(&format!("DELETE {job} HTTP/1.1\r\nhost: a\r\n\r\n"));
    assert_eq!((again.status, again.problem().as_str()), (409, "job-begun"));
    let repeated = gateway.ask(&order(&[key], "{}"));
    assert_eq!((repeated.status, repeated.problem().as_str()), (409, "given-up"));
    assert_eq!(repeated.one("location"), job);
    assert_eq!(upstream.count(), 0);
}

#[test]
fn too_late_to_cancel_once_it_is_dispatched() {
    let (upstream, go) = Upstream::waiting("done");
    let gateway = serving(&upstream, |_| {});
    let job = location(&gateway.ask(&order(&["prefer: respond-async"], "{}")));
    upstream.wait(1);
    let delete = format!("DELETE {job} HTTP/1.1\r\nhost: a\r\n\r\n");
    let answer = gateway.ask(&delete);
    assert_eq!((answer.status, answer.problem().as_str()), (409, "job-begun"));
    assert_eq!(answer.one("location"), job);
    go.send(()).unwrap();
    delivered(&gateway, &job);
    assert_eq!(gateway.ask(&delete).status, 409);
}

#[test]
fn forgotten_after_its_time() {
    let upstream = Upstream::named("done");
    let mut first = Gateway::start();
    let mut stamp = queueing(stamp(1, &[&upstream]), |_| {});
    stamp.settings.queue.retention = Duration::from_millis(1);
    first.activate(&stamp);
    let job = first.ask(&order(&["idempotency-key: k"], "{}")).one("mainstay-job").to_owned();
    let job = format!("/.mainstay/jobs/{job}");
    // Forgetting is done now and then, and when a gateway starts.
    let temp = first.temp();
    first.stop();
    let gateway = Gateway::start_in(temp);
    let gone = wait_for("forgetting", || {
        let answer = gateway.get(&job);
        (!matches!(answer.status, 303 | 503)).then_some(answer)
    });
    assert_eq!((gone.status, gone.problem().as_str()), (410, "job-gone"));
    assert_eq!(gateway.get(&format!("{job}/response")).problem(), "job-gone");
    assert_eq!(gateway.ask(&format!("DELETE {job} HTTP/1.1\r\nhost: a\r\n\r\n")).problem(), "job-gone");
}

#[test]
fn what_the_service_refuses_after_a_202_is_rejected_with_its_answer() {
    let (go, going) = std::sync::mpsc::channel::<()>();
    let going = std::sync::Mutex::new(going);
    let upstream = Upstream::start(move |_, _| {
        let _ = going.lock().unwrap().recv();
        Reply::Send(b"HTTP/1.1 409 Conflict\r\ncontent-length: 8\r\n\r\nsold out".to_vec())
    });
    let gateway = serving(&upstream, |_| {});
    let job = location(&gateway.ask(&order(&["prefer: respond-async"], "{}")));
    upstream.wait(1);
    go.send(()).unwrap();
    let rejected = wait_for("the end", || {
        let answer = gateway.get(&job);
        (answer.status == 303).then_some(answer)
    });
    assert_eq!(json(&rejected)["state"], "rejected");
    let answer = gateway.get(rejected.one("location"));
    assert_eq!((answer.status, answer.text()), (409, "sold out"));
}

#[test]
fn a_gateway_without_a_queue_knows_no_jobs() {
    let upstream = Upstream::start(|_, _| ok("hello"));
    let gateway = Gateway::serving(&upstream);
    let answer = gateway.get(&format!("/.mainstay/jobs/1-{}", "0".repeat(32)));
    assert_eq!((answer.status, answer.problem().as_str()), (404, "no-job"));
    assert!(!gateway.folder.queue_db().exists(), "what is not needed is not made");
    assert_eq!(gateway.state().queue, None);
}
