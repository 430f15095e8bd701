//! Disks that fail syncs, are full, or hold less than is kept free: what clients hear, and what is there afterwards.

use super::{bodies, call, delivered, location, order, queueing, to};
use crate::stage::{Answer, Gateway, Seen, Upstream, dead_address, ok, stamp, stamp_at, wait_for};
use api::queue::QueueStatus;
use gateway::JournalOptions;
use http::Method;
use model::queue::QueuedRoute;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use testkit::vfs::Disk;

/// What a disk may hold after a power cut is decided by these.
const SEEDS: u64 = 3;

fn operate(gateway: &Gateway, verb: &str) {
    let body = json!({ "v": 1, "by_uid": 0, "route": null });
    let _: QueueStatus = call(gateway, Method::POST, &format!("/v1/queue/{verb}"), &body).unwrap();
}

/// A gateway whose queue, on `disk`, is open. There is no table before the first.
fn opened(
    disk: &Disk,
    temp: &Arc<tempfile::TempDir>,
    upstream: &Upstream,
    change: impl FnOnce(&mut QueuedRoute),
) -> Gateway {
    let gateway = Gateway::start_on(disk, temp);
    gateway.activate(&queueing(stamp(1, &[upstream]), change));
    is_open(&gateway);
    gateway
}

fn is_open(gateway: &Gateway) {
    wait_for("the queue", || super::operating::status(gateway).open.then_some(()));
    wait_for("no trouble", || {
        gateway.state().queue.filter(|queue| queue.trouble.is_none() && !queue.opening)
    });
}

fn keyed(key: &str, more: &[&str], body: &str) -> String {
    let key = format!("idempotency-key: {key}");
    order(&[&[key.as_str()], more].concat(), body)
}

/// Checks a refusal: nothing was taken on, and its client hears when to come again.
fn refused(answer: &Answer, problem: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (503, problem), "{answer:?}");
    assert!(answer.one("retry-after").parse::<u64>().unwrap() >= 1);
}

/// What is only forwarded is served as ever.
fn forwards(gateway: &Gateway) {
    let answer = gateway.get("/plain");
    assert_eq!((answer.status, answer.text()), (200, "done"));
    let answer = gateway.ask(&to("/plain", &[], "plain"));
    assert_eq!((answer.status, answer.text()), (200, "done"));
}

/// How often each order was delivered.
fn effects(seen: &[Seen]) -> BTreeMap<String, usize> {
    let orders: Vec<Seen> =
        seen.iter().filter(|seen| seen.line().starts_with("POST /orders")).cloned().collect();
    bodies(&orders).into_iter().fold(BTreeMap::new(), |mut counts, body| {
        *counts.entry(body).or_default() += 1;
        counts
    })
}

/// Answered while their syncs fail.
fn caught_by_failing_syncs(gateway: &Gateway, disk: &Disk) -> Vec<Answer> {
    disk.hold_sync(true);
    let mut clients: Vec<_> = (0..3)
        .map(|n| {
            let mut client = gateway.browse();
            client.send(keyed(&format!("caught-{n}"), &["prefer: wait=0"], &format!("caught-{n}")));
            client
        })
        .collect();
    wait_for("a sync", || (disk.held_syncs() > 0).then_some(()));
    disk.fail_sync(true);
    disk.hold_sync(false);
    clients.iter_mut().map(|client| client.answer()).collect()
}

fn failed_syncs(seed: u64) {
    let (disk, temp) = (Disk::new("fails"), Arc::new(tempfile::tempdir().unwrap()));
    let upstream = Upstream::named("done");
    let mut gateway = opened(&disk, &temp, &upstream, |_| {});
    for n in 0..3 {
        assert_eq!(gateway.ask(&keyed(&format!("done-{n}"), &[], &format!("done-{n}"))).status, 200);
    }
    operate(&gateway, "pause");
    let ask = |gateway: &Gateway, n: usize| {
        gateway.ask(&keyed(&format!("waits-{n}"), &["prefer: wait=0"], &format!("waits-{n}")))
    };
    let waiting: Vec<String> = (0..4).map(|n| location(&ask(&gateway, n))).collect();

    let caught = caught_by_failing_syncs(&gateway, &disk);
    for answer in caught.iter().filter(|answer| answer.status != 503) {
        // Its commit is in the log, and may be there when that is read again.
        assert_eq!((answer.status, answer.problem().as_str()), (504, "queue-timeout"), "{answer:?}");
        assert!(answer.text().contains("not known"), "{}", answer.text());
    }
    for answer in caught.iter().filter(|answer| answer.status == 503) {
        // It came after that.
        refused(answer, "queue-closed");
        assert!(answer.text().contains("queue.db"), "{}", answer.text());
    }
    assert!(caught.iter().any(|answer| answer.status == 504), "{caught:?}");
    wait_for("the trouble", || gateway.state().queue.unwrap().trouble.filter(|why| why.contains("queue.db")));
    for n in 0..2 {
        let answer = gateway.ask(&keyed(&format!("refused-{n}"), &[], &format!("refused-{n}")));
        refused(&answer, "queue-closed");
        assert!(answer.text().contains("queue.db"), "{}", answer.text());
    }
    forwards(&gateway);
    assert_eq!(gateway.metric("queue_open"), 0);

    // It is opened again once the disk works, by itself.
    disk.fail_sync(false);
    is_open(&gateway);
    let answer = gateway.ask(&keyed("after", &["prefer: wait=0"], "after"));
    let after = location(&answer);

    // What was told before and after it is durable, although syncs had failed in between.
    let disk = disk.after_power_cut(seed);
    gateway.stop();
    let gateway = opened(&disk, &temp, &upstream, |_| {});
    for n in 0..3 {
        let again = gateway.ask(&keyed(&format!("done-{n}"), &[], &format!("done-{n}")));
        assert_eq!((again.status, again.one("idempotent-replayed")), (200, "true"));
    }
    assert!(super::operating::status(&gateway).paused, "that it is paused was acknowledged too");
    operate(&gateway, "resume");
    for job in waiting.iter().chain([&after]) {
        delivered(&gateway, job);
    }
    for (n, before) in caught.iter().enumerate() {
        // Whether it was taken on or not, repeated it happens once.
        let again = gateway.ask(&keyed(&format!("caught-{n}"), &[], &format!("caught-{n}")));
        assert_eq!(again.status, 200);
        assert!(before.status == 504 || again.all("idempotent-replayed").is_empty(), "a 503 was accepted");
    }
    let mut expected: Vec<String> = (0..3).map(|n| format!("done-{n}")).collect();
    expected.extend((0..4).map(|n| format!("waits-{n}")));
    expected.extend((0..3).map(|n| format!("caught-{n}")));
    expected.push("after".into());
    let expected: BTreeMap<String, usize> = expected.into_iter().map(|body| (body, 1)).collect();
    assert_eq!(effects(&upstream.seen()), expected);
}

#[test]
fn a_failed_sync_is_not_known_to_its_clients_and_loses_and_repeats_nothing() {
    (0..SEEDS).for_each(failed_syncs);
}

#[test]
fn what_is_under_way_when_a_sync_fails_is_not_sent_again_without_a_key() {
    let (disk, temp) = (Disk::new("fails"), Arc::new(tempfile::tempdir().unwrap()));
    let (upstream, go) = Upstream::waiting("done");
    let gateway = opened(&disk, &temp, &upstream, |_| {});
    let job = location(&gateway.ask(&order(&["prefer: wait=0"], "told")));
    let mut waits = gateway.browse();
    waits.send(order(&[], "waits"));
    upstream.wait(2);
    // Both are answered, and neither answer can be written.
    disk.fail_sync(true);
    (0..2).for_each(|_| go.send(()).unwrap());
    wait_for("the trouble", || gateway.state().queue.unwrap().trouble);
    // Who waits hears the truth, although the next owner of the file may not know it.
    let answer = waits.answer();
    assert_eq!((answer.status, answer.text()), (200, "done"));
    let other = format!("/.mainstay/jobs/{}", answer.one("mainstay-job"));
    disk.fail_sync(false);
    is_open(&gateway);
    for job in [&job, &other] {
        // The outcome's commit is in the log, or it is not: then nobody knows.
        wait_for("an end", || {
            let answer = gateway.get(job);
            let is_unknown = || super::json(&answer)["state"] == "unknown";
            (answer.status == 303 || is_unknown()).then_some(())
        });
    }
    assert_eq!(upstream.count(), 2);
}

#[test]
fn who_honours_keys_is_sent_again_with_the_same_one_what_a_failed_sync_has_caught() {
    let (disk, temp) = (Disk::new("fails"), Arc::new(tempfile::tempdir().unwrap()));
    let upstream = Upstream::named("done");
    let gateway = opened(&disk, &temp, &upstream, |route| route.idempotent = true);
    disk.hold_sync(true);
    let mut client = gateway.browse();
    client.send(keyed("k", &[], "caught"));
    // It is sent while it is being written.
    upstream.wait(1);
    wait_for("a sync", || (disk.held_syncs() > 0).then_some(()));
    disk.fail_sync(true);
    disk.hold_sync(false);
    let answer = client.answer();
    assert_eq!((answer.status, answer.problem().as_str()), (504, "queue-timeout"), "{answer:?}");
    wait_for("the trouble", || gateway.state().queue.unwrap().trouble);
    refused(&gateway.ask(&keyed("k", &[], "caught")), "queue-closed");
    assert_eq!(upstream.count(), 1, "what is refused is not sent");
    disk.fail_sync(false);
    is_open(&gateway);
    // It may be in the log, and on its way: then it is 202 until it has come back.
    let answer = wait_for("its answer", || {
        let answer = gateway.ask(&keyed("k", &[], "caught"));
        (answer.status != 202).then_some(answer)
    });
    assert_eq!((answer.status, answer.text()), (200, "done"));
    let seen = upstream.seen();
    assert!((1..=2).contains(&seen.len()), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.one("idempotency-key") == "k"), "{seen:?}");
}

#[test]
fn a_full_disk_is_503_and_accepts_again_once_there_is_room() {
    let (disk, temp) = (Disk::new("full"), Arc::new(tempfile::tempdir().unwrap()));
    let upstream = Upstream::named("done");
    let gateway = opened(&disk, &temp, &upstream, |_| {});
    assert_eq!(gateway.ask(&keyed("before", &[], "before")).status, 200);
    disk.fill(true);
    for n in 0..3 {
        let answer = gateway.ask(&keyed(&format!("k{n}"), &["prefer: wait=0"], &format!("{n}")));
        refused(&answer, "queue-full");
        assert!(answer.text().contains("disk is full"), "{}", answer.text());
    }
    forwards(&gateway);
    // The answers that it has are still given.
    assert_eq!(gateway.ask(&keyed("before", &[], "before")).one("idempotent-replayed"), "true");
    assert_eq!((gateway.metric("queue_open"), gateway.metric("queue_refused_total")), (1, 3));
    assert_eq!(gateway.metric("queue_depth"), 0, "what is refused takes no room");
    assert_eq!(gateway.state().queue.unwrap().trouble, None);

    disk.fill(false);
    for n in 0..3 {
        let answer = gateway.ask(&keyed(&format!("k{n}"), &[], &format!("{n}")));
        assert_eq!((answer.status, answer.text()), (200, "done"), "at once, and by itself");
        assert!(answer.all("idempotent-replayed").is_empty(), "it was never accepted before");
    }
    let once = ["0", "1", "2", "before"].map(|body| (body.to_owned(), 1));
    assert_eq!(effects(&upstream.seen()), BTreeMap::from(once));
}

#[test]
fn an_outcome_that_finds_no_room_is_written_once_there_is_some() {
    let (disk, temp) = (Disk::new("full"), Arc::new(tempfile::tempdir().unwrap()));
    let (upstream, go) = Upstream::waiting("done");
    let mut gateway = opened(&disk, &temp, &upstream, |_| {});
    let mut client = gateway.browse();
    client.send(keyed("k", &[], "{}"));
    upstream.wait(1);
    disk.fill(true);
    go.send(()).unwrap();
    // Its client hears of it all the same.
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "done"));
    let job = format!("/.mainstay/jobs/{}", answer.one("mainstay-job"));
    refused(&gateway.ask(&order(&[], "new")), "queue-full");
    assert_eq!(gateway.get(&job).status, 200, "it is not written");
    disk.fill(false);
    delivered(&gateway, &job);
    gateway.stop();
    let gateway = opened(&disk, &temp, &upstream, |_| {});
    assert_eq!(gateway.ask(&keyed("k", &[], "{}")).one("idempotent-replayed"), "true");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn what_a_full_disk_refuses_while_it_is_sent_is_504_and_the_next_is_not_sent() {
    let (disk, temp) = (Disk::new("full"), Arc::new(tempfile::tempdir().unwrap()));
    let upstream = Upstream::named("done");
    let gateway = opened(&disk, &temp, &upstream, |route| route.idempotent = true);
    // The second one waits behind the first for the disk, and is sent meanwhile.
    disk.hold_sync(true);
    let mut first = gateway.browse();
    first.send(keyed("first", &[], "{}"));
    wait_for("a sync", || (disk.held_syncs() > 0).then_some(()));
    let mut second = gateway.browse();
    second.send(keyed("k", &[], "{}"));
    upstream.wait(2);
    disk.fill(true);
    disk.hold_sync(false);
    assert_eq!(first.answer().text(), "done");
    let answer = second.answer();
    assert_eq!((answer.status, answer.problem().as_str()), (504, "queue-timeout"), "{answer:?}");
    assert!(answer.text().contains("same Idempotency-Key"), "{}", answer.text());
    for key in ["k", "l"] {
        refused(&gateway.ask(&keyed(key, &[], "{}")), "queue-full");
    }
    assert_eq!(upstream.count(), 2, "where the disk has refused, nothing is sent before it is written");
    disk.fill(false);
    assert_eq!(gateway.ask(&keyed("k", &[], "{}")).text(), "done");
    let keys: Vec<String> =
        upstream.seen().iter().map(|seen| seen.one("idempotency-key").to_owned()).collect();
    assert_eq!(keys, ["first", "k", "k"]);
}

#[test]
fn into_the_reserve_nothing_is_accepted_and_what_was_accepted_is_delivered() {
    let temp = Arc::new(tempfile::tempdir().unwrap());
    let keeping = |reserve_bytes| {
        let journal = JournalOptions { reserve_bytes, ..JournalOptions::default() };
        Gateway::start_with(Arc::clone(&temp), journal)
    };
    let mut gateway = keeping(0);
    gateway.activate(&queueing(stamp_at(1, &[dead_address()]), |_| {}));
    let jobs: Vec<String> =
        (0..3).map(|n| location(&gateway.ask(&order(&["prefer: wait=0"], &n.to_string())))).collect();
    gateway.stop();

    let upstream = Upstream::named("done");
    let mut gateway = keeping(u64::MAX);
    gateway.activate(&queueing(stamp(1, &[&upstream]), |_| {}));
    for job in &jobs {
        delivered(&gateway, job);
        assert_eq!(gateway.get(&format!("{job}/response")).text(), "done");
    }
    let answer = gateway.ask(&order(&[], "new"));
    refused(&answer, "queue-full");
    assert!(answer.text().contains("bytes are free on the disk"), "{}", answer.text());
    forwards(&gateway);
    gateway.stop();

    let gateway = keeping(0);
    assert_eq!(gateway.ask(&order(&[], "new")).text(), "done");
    let once = ["0", "1", "2", "new"].map(|body| (body.to_owned(), 1));
    assert_eq!(effects(&upstream.seen()), BTreeMap::from(once));
}

#[test]
fn a_disk_that_takes_its_time_delays_who_is_queued_and_nobody_else() {
    let (disk, temp) = (Disk::new("slow"), Arc::new(tempfile::tempdir().unwrap()));
    let upstream = Upstream::start(|_, _| ok("done"));
    let gateway = opened(&disk, &temp, &upstream, |_| {});
    disk.hold_sync(true);
    let mut client = gateway.browse();
    client.send(order(&["prefer: wait=0"], "slow"));
    wait_for("a sync", || (disk.held_syncs() > 0).then_some(()));
    forwards(&gateway);
    assert_eq!(effects(&upstream.seen()), BTreeMap::new(), "nothing is delivered before it is on disk");
    disk.hold_sync(false);
    delivered(&gateway, &location(&client.answer()));
}
