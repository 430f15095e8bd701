//! Users go from one stamp to the next one by one, stay where they are, and are taken back at once.

use crate::stage::{Answer, Gateway, Upstream, dead_address, error, get, ok, put, stamp, stamp_at, wait_for};
use api::gateway::{Guard, PutTable, TableStamp, Tripped};
use model::name::StampId;
use model::workload::Affinity;
use std::collections::BTreeSet;

/// A table in which the candidate has users.
fn shift(active: &TableStamp, candidate: &TableStamp, weight: u16) -> PutTable {
    let mut put = put(Some(active), Some(candidate));
    put.table.weight = weight;
    put.table.guard = Some(Guard { max_excess_errors: 1000, max_connect_failures: 1000 });
    put
}

/// Told apart by a field.
fn by_header(mut stamp: TableStamp) -> TableStamp {
    stamp.settings.affinity = Affinity::Header("x-user".into());
    stamp
}

fn ask(gateway: &Gateway, fields: &str) -> Answer {
    gateway.ask(&format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"))
}

fn as_user(gateway: &Gateway, user: usize) -> Answer {
    ask(gateway, &format!("x-user: {user}\r\n"))
}

fn preview(gateway: &Gateway, fields: &str) -> Answer {
    ask(gateway, &format!("mainstay-preview: {}\r\n{fields}", crate::stage::TOKEN))
}

#[test]
fn the_own_cookie_keeps_a_user_where_they_are() {
    let service = |name: &'static str| {
        Upstream::start(move |_, _| {
            let cookies = "set-cookie: sid=1\r\nset-cookie: b=2; Path=/b";
            let head = format!("HTTP/1.1 200 OK\r\n{cookies}\r\ncontent-length: {}", name.len());
            crate::stage::Reply::Send(format!("{head}\r\n\r\n{name}").into_bytes())
        })
    };
    let (active, candidate) = (service("active"), service("candidate"));
    let gateway = Gateway::start();
    gateway.put(&shift(&stamp(1, &[&active]), &stamp(2, &[&candidate]), 5000)).unwrap();
    let mut users = Vec::new();
    for _ in 0..40 {
        let answer = gateway.get("/");
        let cookies = answer.all("set-cookie");
        let [first, second, own] = cookies[..] else { panic!("{cookies:?}") };
        assert_eq!((first, second), ("sid=1", "b=2; Path=/b"));
        let rest = own.strip_prefix("mainstay-affinity=").unwrap();
        let (value, attributes) = rest.split_once(';').unwrap();
        assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Lax");
        assert!(
            value.len() == 16 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
            "{value}"
        );
        users.push((value.to_owned(), answer.text().to_owned()));
    }
    assert_eq!(users.iter().map(|(value, _)| value).collect::<BTreeSet<_>>().len(), 40);
    assert_eq!(users.iter().map(|(_, stamp)| stamp.as_str()).collect::<BTreeSet<_>>().len(), 2);
    for (value, stamp) in &users {
        let answer = ask(&gateway, &format!("cookie: x=y; mainstay-affinity={value}; sid=1\r\n"));
        assert_eq!((answer.text(), answer.all("set-cookie").len()), (stamp.as_str(), 2));
    }
    for upstream in [&active, &candidate] {
        let seen: Vec<_> =
            upstream.seen().into_iter().filter(|seen| !seen.all("cookie").is_empty()).collect();
        assert!(!seen.is_empty() && seen.iter().all(|seen| seen.all("cookie") == ["x=y; sid=1"]));
    }
    // Nobody is moved but to the candidate, and an abort moves everybody back.
    gateway.put(&shift(&stamp(1, &[&active]), &stamp(2, &[&candidate]), 9999)).unwrap();
    for (value, stamp) in &users {
        let answer = ask(&gateway, &format!("cookie: mainstay-affinity={value}\r\n"));
        assert!(answer.text() == stamp || answer.text() == "candidate");
    }
    gateway.put(&shift(&stamp(1, &[&active]), &stamp(2, &[&candidate]), 0)).unwrap();
    assert_eq!(gateway.state().weight, 0);
    for (value, _) in &users {
        let answer = ask(&gateway, &format!("cookie: mainstay-affinity={value}\r\n"));
        assert_eq!(
            (answer.text(), answer.all("set-cookie").len()),
            ("active", 2),
            "no cookie outside a shift"
        );
    }
}

#[test]
fn users_are_told_apart_by_a_cookie_or_field_of_the_service() {
    let (active, candidate) = (Upstream::named("active"), Upstream::named("candidate"));
    for affinity in [Affinity::Cookie("sid".into()), Affinity::Header("x-user".into())] {
        let gateway = Gateway::start();
        let mut first = stamp(1, &[&active]);
        first.settings.affinity = affinity.clone();
        // What the candidate says of it does not count yet.
        gateway.put(&shift(&first, &stamp(2, &[&candidate]), 5000)).unwrap();
        let mut there = BTreeSet::new();
        for user in 0..40 {
            let fields = match &affinity {
                Affinity::Cookie(_) => format!("cookie: a=b; sid=user-{user}\r\n"),
                Affinity::Header(_) | Affinity::OwnCookie => format!("X-User: user-{user}\r\n"),
            };
            let answers = [ask(&gateway, &fields), ask(&gateway, &fields)];
            assert_eq!(answers[0].text(), answers[1].text());
            assert!(answers.iter().all(|answer| answer.all("set-cookie").is_empty()));
            there.insert(answers[0].text().to_owned());
        }
        assert_eq!(there.len(), 2);
        assert_eq!(ask(&gateway, "").all("set-cookie").len(), 1, "without it the own cookie does");
    }
}

#[test]
fn the_preview_door_is_none_of_the_weights_business() {
    let (active, candidate) = (Upstream::named("active"), Upstream::named("candidate"));
    let gateway = Gateway::start();
    for weight in [0, 1, 9999] {
        gateway.put(&shift(&stamp(1, &[&active]), &stamp(2, &[&candidate]), weight)).unwrap();
        for (fields, text) in
            [("mainstay-stamp: candidate\r\n", "candidate"), ("mainstay-instance: 0\r\n", "active")]
        {
            let answer = preview(&gateway, fields);
            assert_eq!((answer.text(), answer.all("set-cookie").len()), (text, 0));
        }
    }
    let refused = gateway.put(&shift(&stamp(1, &[&active]), &stamp(2, &[&candidate]), 10_000));
    assert!(refused.unwrap_err().to_string().contains("10000"));
    assert_eq!(gateway.state().weight, 9999);
}

#[test]
fn users_whose_candidate_takes_no_connection_are_served_by_the_active_stamp() {
    let dead = [dead_address(), dead_address(), dead_address(), dead_address(), dead_address()];
    for (addresses, least, preview_problem) in [
        (&dead[..1], 10, (502, "connect-failed")),
        (&dead[..], 10, (502, "connect-failed")),
        (&[], 10, (503, "no-ready-instance")),
    ] {
        let active = Upstream::start(|seen, _| ok(std::str::from_utf8(&seen.body).unwrap()));
        let gateway = Gateway::start();
        let candidate = stamp_at(2, addresses);
        gateway.put(&shift(&by_header(stamp(1, &[&active])), &candidate, 9999)).unwrap();
        for user in 0..10 {
            let answer = gateway
                .ask(&format!("POST / HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\ncontent-length: 2\r\n\r\nhi"));
            assert_eq!((answer.status, answer.text()), (200, "hi"), "with {} instances", addresses.len());
        }
        let lines = gateway.lines(10);
        assert!(lines.iter().all(|line| line["stamp"] == "s1" && line["attempts"] == 1), "{lines:?}");
        assert_eq!((active.count(), gateway.state().failed), (10, 0));
        let measures = gateway.measures();
        let of = |id| measures.stamps.iter().find(|stamp| stamp.stamp == StampId(id)).unwrap();
        assert!(of(2).connect_failures >= least, "{}", of(2).connect_failures);
        assert_eq!((of(1).connect_failures, of(1).routes[0].requests, of(2).routes[0].requests), (0, 10, 0));
        let name = "connect_failures_total{stamp=\"s2\",release=\"release-2\"}";
        assert_eq!(gateway.metric(name), of(2).connect_failures);
        // Who asks for the candidate gets to know.
        let answer = preview(&gateway, "mainstay-stamp: candidate\r\n");
        assert_eq!((answer.status, answer.problem().as_str()), preview_problem);
    }
}

/// Asks as one user after the other until the guard has tripped; returns what they got.
fn until_tripped(gateway: &Gateway) -> Vec<Answer> {
    let mut users = 0..;
    let mut answers = Vec::new();
    wait_for("the guard to trip", || {
        answers.push(as_user(gateway, users.next().unwrap()));
        gateway.state().watched.and_then(|watched| watched.tripped)
    });
    answers
}

#[test]
fn errors_of_the_candidate_take_its_users_away_at_once() {
    let (active, candidate) = (Upstream::named("active"), Upstream::start(|_, _| error()));
    let gateway = Gateway::start();
    let stamps = [by_header(stamp(1, &[&active])), stamp(2, &[&candidate])];
    let mut table = shift(&stamps[0], &stamps[1], 5000);
    table.table.guard = Some(Guard { max_excess_errors: 5, max_connect_failures: 5 });
    gateway.put(&table).unwrap();
    assert_eq!(gateway.state().weight, 5000);
    let answers = until_tripped(&gateway);
    assert_eq!(answers.iter().filter(|answer| answer.status == 500).count(), 5, "no more users than allowed");
    let state = gateway.state();
    let watched = state.watched.unwrap();
    assert_eq!((watched.stamp, watched.requests, watched.errors), (StampId(2), 5, 5));
    assert_eq!((watched.other_requests as usize, watched.other_errors), (answers.len() - 5, 0));
    assert_eq!((watched.tripped, state.weight), (Some(Tripped::Errors), 0));
    for user in 0..20 {
        assert_eq!(as_user(&gateway, user).text(), "active");
    }
    assert_eq!(ask(&gateway, "").all("set-cookie").len(), 0, "nobody is shifted any more");
    assert_eq!(preview(&gateway, "mainstay-stamp: candidate\r\n").status, 500, "it can still be looked at");
    // The same stamps again, with more users or after none: it stays tripped.
    for weight in [9000, 0, 9000] {
        table.table.weight = weight;
        gateway.put(&table).unwrap();
        assert_eq!((gateway.state().weight, as_user(&gateway, 3).text()), (0, "active"));
    }
    // Another candidate begins anew.
    let better = Upstream::named("better");
    table.table.candidate = Some(stamp(3, &[&better]));
    gateway.put(&table).unwrap();
    let watched = gateway.state().watched.unwrap();
    assert_eq!((watched.stamp, watched.requests, watched.tripped), (StampId(3), 0, None));
    assert!((0..20).any(|user| as_user(&gateway, user).text() == "better"));
}

#[test]
fn what_is_in_flight_when_the_guard_trips_is_left_alone_and_what_is_not_sent_goes_to_the_active_stamp() {
    let active = Upstream::named("active");
    let (go, going) = std::sync::mpsc::channel::<()>();
    let going = std::sync::Mutex::new(going);
    let slow = Upstream::start(move |seen, _| {
        if !seen.line().starts_with("GET /slow") {
            return error();
        }
        let _ = going.lock().unwrap().recv();
        ok("slow")
    });
    let (full, fill) = crate::switching::full_listener();
    let first = by_header(stamp(1, &[&active]));
    let candidate = |addresses: &[_]| {
        let mut candidate = stamp_at(2, addresses);
        candidate.settings.limits.connect_timeout = crate::stage::PATIENCE;
        candidate
    };
    let stuck = full.local_addr().unwrap();
    let gateway = Gateway::start();
    let mut table = shift(&first, &candidate(&[stuck]), 9999);
    table.table.guard = Some(Guard { max_excess_errors: 5, max_connect_failures: 5 });
    gateway.put(&table).unwrap();
    let mut unsent = gateway.browse();
    unsent.send("POST / HTTP/1.1\r\nhost: a\r\nx-user: 1\r\ncontent-length: 0\r\n\r\n");
    let connecting = "in_flight{stamp=\"s2\",role=\"candidate\"}";
    wait_for("it to connect", || (gateway.metric(connecting) == 1).then_some(()));
    table.table.candidate = Some(candidate(&[slow.address]));
    gateway.put(&table).unwrap();
    let mut sent = gateway.browse();
    sent.send("GET /slow HTTP/1.1\r\nhost: a\r\nx-user: 2\r\n\r\n");
    slow.wait(1);
    // All users are on it, as good as alone: it takes three times as many, one after the other.
    for user in 0..15 {
        assert_eq!(as_user(&gateway, user).status, 500);
    }
    assert_eq!(gateway.state().watched.unwrap().tripped, Some(Tripped::Errors));
    // Room at last: the connection comes about, too late. Nobody would answer on it.
    drop(fill);
    std::thread::spawn(move || full.incoming().collect::<Vec<_>>());
    let unsent = unsent.answer();
    assert_eq!((unsent.status, unsent.text(), active.count()), (200, "active", 1));
    go.send(()).unwrap();
    assert_eq!(sent.answer().text(), "slow");
}

#[test]
fn a_candidate_that_is_no_worse_is_left_alone() {
    let (active, candidate) = (Upstream::start(|_, _| error()), Upstream::start(|_, _| error()));
    let gateway = Gateway::start();
    // The active stamp had all its errors before; it gets no request meanwhile.
    gateway.activate(&by_header(stamp(1, &[&active])));
    for user in 0..5 {
        as_user(&gateway, user);
    }
    let mut table = shift(&by_header(stamp(1, &[&active])), &stamp(2, &[&candidate]), 9999);
    table.table.guard = Some(Guard { max_excess_errors: 1, max_connect_failures: 1 });
    gateway.put(&table).unwrap();
    for user in 0..30 {
        assert_eq!(as_user(&gateway, user).status, 500);
    }
    let watched = gateway.state().watched.unwrap();
    assert_eq!((watched.other_requests, watched.other_errors, watched.tripped), (5, 5, None));
    assert_eq!(candidate.count(), 30);
}

#[test]
fn connections_the_candidate_does_not_take_trip_the_guard() {
    let active = Upstream::named("active");
    let gateway = Gateway::start();
    let mut table = shift(&by_header(stamp(1, &[&active])), &stamp_at(2, &[dead_address()]), 9999);
    table.table.guard = Some(Guard { max_excess_errors: 5, max_connect_failures: 3 });
    gateway.put(&table).unwrap();
    let answers = until_tripped(&gateway);
    assert!(answers.iter().all(|answer| answer.text() == "active"));
    let watched = gateway.state().watched.unwrap();
    assert_eq!((watched.connect_failures, watched.tripped), (3, Some(Tripped::Connects)));
    as_user(&gateway, 7);
    assert_eq!(gateway.state().watched.unwrap().connect_failures, 3, "it is not tried any more");
}

#[test]
fn the_fallback_takes_over_from_the_active_stamp() {
    let old = Upstream::named("old");
    // Four errors as the candidate, then eleven as the active stamp: all of them count.
    let new = Upstream::start(|_, _| error());
    let gateway = Gateway::start();
    let stamps = [by_header(stamp(1, &[&old])), by_header(stamp(2, &[&new]))];
    let mut table = shift(&stamps[0], &stamps[1], 9999);
    table.table.guard = Some(Guard { max_excess_errors: 5, max_connect_failures: 5 });
    gateway.put(&table).unwrap();
    for user in 0..4 {
        assert_eq!(as_user(&gateway, user).status, 500);
    }
    let mut table = put(Some(&stamps[1]), None);
    table.table.fallback = Some(stamps[0].clone());
    table.table.guard = Some(Guard { max_excess_errors: 5, max_connect_failures: 5 });
    let applied = gateway.put(&table).unwrap();
    assert_eq!(applied.closed.iter().map(|slot| slot.stamp).collect::<Vec<_>>(), [StampId(1)]);
    let watched = gateway.state().watched.unwrap();
    assert_eq!((watched.stamp, watched.errors, watched.tripped), (StampId(2), 4, None));
    for user in 4..15 {
        assert_eq!(as_user(&gateway, user).status, 500);
    }
    let watched = gateway.state().watched.unwrap();
    assert_eq!((watched.errors, watched.tripped), (15, Some(Tripped::Errors)));
    for user in 0..10 {
        let answer = as_user(&gateway, user);
        assert_eq!((answer.text(), answer.all("set-cookie").len()), ("old", 0));
    }
    assert_eq!(gateway.state().active, Some(StampId(2)), "that is for the agent to change");
    assert_eq!(gateway.metric("in_flight{stamp=\"s1\",role=\"fallback\"}"), 0);
    // The agent does.
    let applied = gateway.put(&put(Some(&stamps[0]), Some(&stamps[1]))).unwrap();
    let closed: Vec<_> = applied.closed.iter().map(|slot| slot.stamp).collect();
    assert!(closed.contains(&StampId(1)) && closed.contains(&StampId(2)), "{closed:?}");
    assert!(gateway.state().watched.is_none());
    assert_eq!(as_user(&gateway, 1).text(), "old");
}

#[test]
fn the_fallback_takes_over_when_the_active_stamp_is_gone() {
    let old = Upstream::named("old");
    for addresses in [&[dead_address()][..], &[]] {
        let gateway = Gateway::start();
        let mut table = put(Some(&stamp_at(2, addresses)), None);
        table.table.fallback = Some(stamp(1, &[&old]));
        table.table.guard = Some(Guard { max_excess_errors: 100, max_connect_failures: 3 });
        gateway.put(&table).unwrap();
        for expected in [false, false, true, true] {
            // The third one makes the guard trip, and is the first to profit: it was not sent.
            assert_eq!(gateway.get("/").status == 200, expected);
        }
        assert_eq!(gateway.state().watched.unwrap().tripped, Some(Tripped::Connects));
        // A fallback without instances would be worse than anything.
        table.table.fallback = Some(stamp_at(1, &[]));
        gateway.put(&table).unwrap();
        let answer = gateway.get("/");
        assert_eq!(answer.status, if addresses.is_empty() { 503 } else { 502 });
        assert_eq!(gateway.lines(5).iter().filter(|line| line["stamp"] == "s2").count(), 3);
    }
}

#[test]
fn what_is_in_flight_on_a_stamp_that_becomes_the_fallback_is_counted() {
    let ((old, go), new) = (Upstream::waiting("old"), Upstream::named("new"));
    let gateway = Gateway::start();
    let (first, second) = (stamp(1, &[&old]), stamp(2, &[&new]));
    gateway.activate(&first);
    let mut before = gateway.browse();
    before.send(get("/"));
    old.wait(1);
    let mut table = put(Some(&second), None);
    table.table.fallback = Some(first.clone());
    let closed = gateway.put(&table).unwrap().closed;
    assert_eq!((closed.len(), closed[0].stamp, closed[0].in_flight), (1, StampId(1), 1));
    assert!(closed[0].last_dispatch_ns > 0);
    assert_eq!(gateway.get("/").text(), "new");
    // Taken back: the slot as a fallback is closed too, and the active one is a third.
    let closed = gateway.put(&put(Some(&first), None)).unwrap().closed;
    assert_eq!(
        closed.iter().map(|slot| slot.stamp).collect::<BTreeSet<_>>(),
        [StampId(1), StampId(2)].into()
    );
    let mut after = gateway.browse();
    after.send(get("/"));
    old.wait(2);
    assert_eq!(gateway.state().in_flight, 1);
    // Gone for good: what is in flight on either of its slots is there.
    gateway.activate(&second);
    let left = || {
        let closed = gateway.state().closed;
        closed.iter().filter(|slot| slot.stamp == StampId(1)).map(|slot| slot.in_flight).sum::<u64>()
    };
    assert_eq!(left(), 2);
    for (browser, left_over) in [(&mut before, 1), (&mut after, 0)] {
        go.send(()).unwrap();
        assert_eq!(browser.answer().text(), "old");
        wait_for("it to be over", || (left() == left_over).then_some(()));
    }
}

#[test]
fn a_restarted_gateway_gives_the_candidate_no_weight_until_the_agent_confirms() {
    let (active, candidate) = (Upstream::named("active"), Upstream::named("candidate"));
    let mut gateway = Gateway::start();
    let table = shift(&by_header(stamp(1, &[&active])), &stamp(2, &[&candidate]), 9999);
    gateway.put(&table).unwrap();
    assert_eq!(as_user(&gateway, 1).text(), "candidate");
    gateway.stop();
    let gateway = Gateway::start_in(gateway.temp());
    let state = gateway.state();
    assert_eq!((state.weight, state.candidate, state.watched), (0, Some(StampId(2)), None));
    assert_eq!(as_user(&gateway, 1).text(), "active");
    gateway.put(&table).unwrap();
    assert_eq!((gateway.state().weight, as_user(&gateway, 1).text()), (9999, "candidate"));
}
