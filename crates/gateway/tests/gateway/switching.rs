//! Stamps change under load, and nobody notices.

use crate::stage::{Gateway, Upstream, get, ok, put, stamp, stamp_at, wait_for};
use model::name::StampId;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};

#[test]
fn a_swap_under_load_loses_nothing_and_leaves_nothing_behind() {
    const SWAPS: u64 = 12;
    let upstreams = [Upstream::named("one"), Upstream::named("two")];
    let gateway = Gateway::serving(&upstreams[0]);
    let stop = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    // The swap that had been answered when a request was begun; the request carries it.
    let answered = AtomicUsize::new(1);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut browser = gateway.browse();
                let mut post = false;
                while !stop.load(Ordering::SeqCst) {
                    let epoch = answered.load(Ordering::SeqCst);
                    post = !post;
                    browser.send(if post {
                        format!(
                            "POST / HTTP/1.1\r\nhost: a\r\nx-epoch: {epoch}\r\ncontent-length: 3\r\n\r\nabc"
                        )
                    } else {
                        format!("GET / HTTP/1.1\r\nhost: a\r\nx-epoch: {epoch}\r\n\r\n")
                    });
                    let answer = browser.answer();
                    assert_eq!(answer.status, 200, "{answer:?}");
                    assert!(!answer.broken);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for swap in 2..=SWAPS {
            let before = served.load(Ordering::SeqCst);
            wait_for("some load", || (served.load(Ordering::SeqCst) > before + 30).then_some(()));
            let applied = gateway.activate(&stamp(swap, &[&upstreams[(swap as usize + 1) % 2]]));
            answered.store(swap as usize, Ordering::SeqCst);
            assert_eq!(applied.closed.len(), 1);
            assert_eq!(applied.closed[0].stamp, StampId(swap - 1));
            assert!(applied.closed[0].last_dispatch_ns > 0);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let state = gateway.state();
    assert_eq!((state.failed, state.active), (0, Some(StampId(SWAPS))));
    assert_eq!(state.requests as usize, served.load(Ordering::SeqCst));
    for (index, upstream) in upstreams.iter().enumerate() {
        for seen in upstream.seen() {
            let epoch: usize = seen.one("x-epoch").parse().unwrap();
            // Begun after swap `epoch` was answered, seen by the stamp of this or a later swap. Odd stamps are
            // the first upstream; one that begins in an epoch may still see the next swap happen.
            let may = (epoch + 1) % 2 == index || epoch < SWAPS as usize;
            assert!(may, "epoch {epoch} at upstream {index}");
        }
    }
    let total: usize = upstreams.iter().map(Upstream::count).sum();
    assert_eq!(total, served.load(Ordering::SeqCst), "none was sent twice");
}

#[test]
fn after_the_answer_nothing_new_goes_to_the_old_stamp() {
    let (old, new) = (Upstream::named("old"), Upstream::named("new"));
    let gateway = Gateway::serving(&old);
    let mut browsers: Vec<_> = (0..20).map(|_| gateway.browse()).collect();
    for round in 0..2 {
        for browser in &mut browsers {
            browser.send(get("/"));
        }
        for browser in &mut browsers {
            assert_eq!(browser.answer().text(), ["old", "new"][round]);
        }
        if round == 0 {
            gateway.activate(&stamp(2, &[&new]));
        }
    }
    assert_eq!((old.count(), new.count()), (20, 20));
}

#[test]
fn what_is_in_flight_is_counted_until_its_body_has_ended() {
    let (upstream, go) = Upstream::waiting("old");
    let next = Upstream::named("new");
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    browser.send(get("/"));
    upstream.wait(1);
    assert_eq!(gateway.state().in_flight, 1);
    let applied = gateway.activate(&stamp(2, &[&next]));
    assert_eq!((applied.closed[0].stamp, applied.closed[0].in_flight), (StampId(1), 1));
    // Another table leaves the slot in the state for as long as something is in flight on it.
    gateway.activate(&stamp(2, &[&next]));
    let closed = gateway.state().closed;
    assert_eq!((closed.len(), closed[0].in_flight), (1, 1));
    assert_eq!(closed[0].last_dispatch_ns, applied.closed[0].last_dispatch_ns);
    go.send(()).unwrap();
    assert_eq!(browser.answer().text(), "old");
    wait_for("the old slot to be empty", || {
        gateway.state().closed.iter().all(|s| s.in_flight == 0).then_some(())
    });
    gateway.activate(&stamp(2, &[&next]));
    assert!(gateway.state().closed.is_empty());
    assert_eq!(gateway.state().in_flight, 0);
}

#[test]
fn a_slot_lives_on_from_candidate_to_active() {
    let (upstream, go) = Upstream::waiting("candidate");
    let active = Upstream::named("active");
    let gateway = Gateway::start();
    gateway.put(&put(Some(&stamp(1, &[&active])), Some(&stamp(2, &[&upstream])))).unwrap();
    let mut browser = gateway.browse();
    browser.send(preview("mainstay-stamp: candidate\r\n"));
    upstream.wait(1);
    let applied = gateway.activate(&stamp(2, &[&upstream]));
    assert_eq!(applied.closed.iter().map(|slot| slot.stamp).collect::<Vec<_>>(), [StampId(1)]);
    assert_eq!(gateway.state().in_flight, 1, "the request went along with the promotion");
    go.send(()).unwrap();
    assert_eq!(browser.answer().text(), "candidate");
}

#[test]
fn a_stamp_that_comes_back_is_served_again() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let gateway = Gateway::serving(&one);
    let mut browser = gateway.browse();
    for (number, upstream, name) in [(2, &two, "two"), (1, &one, "one"), (2, &two, "two")] {
        gateway.activate(&stamp(number, &[upstream]));
        browser.send(get("/"));
        assert_eq!(browser.answer().text(), name);
    }
    gateway.put(&put(None, None)).unwrap();
    browser.send(get("/"));
    let answer = browser.answer();
    assert_eq!((answer.status, answer.problem().as_str()), (503, "no-active-stamp"));
    assert_eq!(answer.one("retry-after"), "1");
    gateway.activate(&stamp(1, &[&one]));
    browser.send(get("/"));
    assert_eq!(browser.answer().text(), "one", "a refusal does not end the connection");
}

#[test]
fn another_process_on_the_same_address_gets_connections_of_its_own() {
    let upstream = Upstream::named("same");
    let gateway = Gateway::serving(&upstream);
    let mut browser = gateway.browse();
    let mut ask = || {
        browser.send(get("/"));
        assert_eq!(browser.answer().text(), "same");
    };
    let mut restarted = stamp(1, &[&upstream]);
    ask();
    gateway.activate(&restarted);
    ask();
    restarted.instances[0].pid += 1;
    let applied = gateway.activate(&restarted);
    assert!(applied.closed.is_empty(), "the stamp is the same");
    ask();
    let connections: Vec<_> = upstream.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 1]);
}

fn preview(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: a\r\nmainstay-preview: {}\r\n{fields}\r\n", crate::stage::TOKEN)
}

#[test]
fn the_preview_door_leads_to_candidates_and_instances() {
    let active = [Upstream::named("active 0"), Upstream::named("active 1")];
    let candidate = [Upstream::named("candidate 0"), Upstream::named("candidate 1")];
    let gateway = Gateway::start();
    let mut stamps = [stamp(1, &[&active[0], &active[1]]), stamp(2, &[&candidate[0], &candidate[1]])];
    stamps[1].instances.reverse();
    gateway.put(&put(Some(&stamps[0]), Some(&stamps[1]))).unwrap();
    for (fields, expected) in [
        ("mainstay-instance: 1\r\n", "active 1"),
        ("mainstay-instance: 0\r\n", "active 0"),
        ("mainstay-stamp: active\r\nmainstay-instance: 1\r\n", "active 1"),
        ("mainstay-stamp: candidate\r\nmainstay-instance: 0\r\n", "candidate 0"),
        ("mainstay-stamp: candidate\r\nmainstay-instance: 1\r\n", "candidate 1"),
    ] {
        assert_eq!(gateway.ask(&preview(fields)).text(), expected);
    }
    assert!(gateway.ask(&preview("mainstay-stamp: candidate\r\n")).text().starts_with("candidate"));
    assert!(gateway.ask(&preview("")).text().starts_with("active"));
    for (request, status, problem) in [
        (preview("mainstay-stamp: other\r\n"), 400, "bad-stamp"),
        (preview("mainstay-instance: x\r\n"), 400, "bad-stamp"),
        (preview("mainstay-instance: 2\r\n"), 404, "no-instance"),
        (preview("mainstay-stamp: candidate\r\n").replace("a-token", "b-token"), 403, "preview-refused"),
        ("GET / HTTP/1.1\r\nhost: a\r\nmainstay-stamp: candidate\r\n\r\n".into(), 403, "preview-refused"),
        ("GET / HTTP/1.1\r\nhost: a\r\nmainstay-instance: 0\r\n\r\n".into(), 403, "preview-refused"),
    ] {
        let answer = gateway.ask(&request);
        assert_eq!((answer.status, answer.problem().as_str()), (status, problem), "{request}");
    }
    for upstream in active.iter().chain(&candidate) {
        for seen in upstream.seen() {
            assert!(seen.head.iter().all(|line| !line.to_lowercase().starts_with("mainstay-")), "{seen:?}");
        }
    }
    gateway.put(&put(Some(&stamps[0]), None)).unwrap();
    let answer = gateway.ask(&preview("mainstay-stamp: candidate\r\n"));
    assert_eq!((answer.status, answer.problem().as_str()), (404, "no-candidate"));
}

#[test]
fn the_instance_with_the_least_in_flight_is_chosen() {
    let barrier = Arc::new(Barrier::new(4 + 1));
    let upstreams: Vec<_> = (0..4)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            Upstream::start(move |_, _| {
                barrier.wait();
                ok("done")
            })
        })
        .collect();
    let gateway = Gateway::start();
    gateway.activate(&stamp(1, &upstreams.iter().collect::<Vec<_>>()));
    let mut browsers: Vec<_> = (0..4).map(|_| gateway.browse()).collect();
    for (count, browser) in browsers.iter_mut().enumerate() {
        browser.send(get("/"));
        wait_for("the request to arrive", || {
            (upstreams.iter().map(Upstream::count).sum::<usize>() > count).then_some(())
        });
    }
    assert!(upstreams.iter().all(|upstream| upstream.count() == 1), "each has one of four");
    barrier.wait();
    for browser in &mut browsers {
        assert_eq!(browser.answer().text(), "done");
    }
}

#[test]
fn a_draining_gateway_answers_what_it_has_and_goes() {
    let (upstream, go) = Upstream::waiting("last");
    let mut gateway = Gateway::serving(&upstream);
    let mut idle = gateway.browse();
    go.send(()).unwrap();
    idle.send(get("/"));
    assert_eq!(idle.answer().text(), "last");
    let mut busy = gateway.browse();
    busy.send(get("/"));
    upstream.wait(2);
    gateway.begin_stop();
    wait_for("connections to be refused or left alone", || {
        let mut client = crate::stage::Browser::to(gateway.admin);
        client.send("GET /.mainstay/health HTTP/1.1\r\nhost: a\r\n\r\n");
        (client.answer().status == 503).then_some(())
    });
    // The idle one may still be used for a moment; its answer is the last.
    idle.send(get("/"));
    upstream.wait(3);
    assert!(!gateway.has_stopped());
    go.send(()).unwrap();
    go.send(()).unwrap();
    for browser in [&mut idle, &mut busy] {
        let answer = browser.answer();
        assert_eq!((answer.text(), answer.one("connection")), ("last", "close"));
        assert!(browser.closed());
    }
    wait_for("the gateway to end", || gateway.has_stopped().then_some(()));
    assert!(!gateway.folder.gateway_socket().exists());
    let errors: Vec<_> = gateway.lines(3).iter().map(|line| line["error"].clone()).collect();
    assert!(errors.iter().all(serde_json::Value::is_null), "{errors:?}");
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let upstream = Upstream::named("hello");
    let mut gateway = Gateway::serving(&upstream);
    let mut used = gateway.browse();
    used.send(get("/"));
    used.answer();
    let mut fresh = gateway.browse();
    wait_for("both connections", || (gateway.state().connections == 2).then_some(()));
    gateway.stop();
    assert!(used.closed() && fresh.closed());
}

/// A listener whose backlog is used up: further connections wait until it accepts.
pub(crate) fn full_listener() -> (std::net::TcpListener, Vec<std::net::TcpStream>) {
    let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let address = full.local_addr().unwrap();
    let timeout = std::time::Duration::from_millis(50);
    let fill = (0..3).filter_map(|_| std::net::TcpStream::connect_timeout(&address, timeout).ok());
    let fill = fill.collect();
    (full, fill)
}

/// Sends a POST that waits for a connection to `stuck`, then puts a table with another stamp; returns the answer.
fn retire_while_connecting(stuck: &api::gateway::TableStamp, then: impl FnOnce()) {
    let gateway = Gateway::start();
    gateway.activate(stuck);
    let mut browser = gateway.browse();
    browser.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi");
    wait_for("the request to claim the stamp", || (gateway.state().in_flight == 1).then_some(()));
    let next = Upstream::start(|seen, _| ok(std::str::from_utf8(&seen.body).unwrap()));
    gateway.activate(&stamp(2, &[&next]));
    then();
    let answer = browser.answer();
    assert_eq!((answer.status, answer.text(), next.count()), (200, "hi", 1));
    let state = gateway.state();
    assert_eq!((state.failed, state.closed.iter().map(|slot| slot.in_flight).sum::<u64>()), (0, 0));
}

#[test]
fn a_request_whose_stamp_retires_while_it_fails_to_connect_goes_to_the_next() {
    let (full, _fill) = full_listener();
    let mut stuck = stamp_at(1, &[full.local_addr().unwrap()]);
    stuck.settings.limits.connect_timeout = std::time::Duration::from_secs(2);
    retire_while_connecting(&stuck, || {});
}

#[test]
fn a_request_whose_stamp_retires_before_it_has_connected_goes_to_the_next() {
    let (full, fill) = full_listener();
    let mut stuck = stamp_at(1, &[full.local_addr().unwrap()]);
    stuck.settings.limits.connect_timeout = std::time::Duration::from_secs(15);
    let (tell, told) = mpsc::channel();
    retire_while_connecting(&stuck, move || {
        // Room at last: the connection comes about, too late.
        drop(fill);
        std::thread::spawn(move || {
            for socket in full.incoming() {
                let mut text = Vec::new();
                let _ = std::io::Read::read_to_end(&mut socket.unwrap(), &mut text);
                let _ = tell.send(text);
            }
        });
    });
    while let Ok(text) = told.try_recv() {
        assert!(text.is_empty(), "the old stamp got {text:?}");
    }
}
