//! `Prefer`, every form of it, and scheduled delivery.

use super::{becomes, delivered, json, location, order, serving};
use crate::stage::{PATIENCE, Upstream, wait_for};
use std::time::{Duration, Instant};

#[test]
fn nothing_is_awaited_for_who_takes_a_202() {
    let (upstream, go) = Upstream::waiting("done");
    let gateway = serving(&upstream, |_| {});
    for (prefer, applied) in [
        (&["prefer: respond-async"][..], &["respond-async"][..]),
        (&["prefer: Respond-Async; foo=\"bar\", return=minimal"], &["respond-async"]),
        (&["prefer: return=minimal", "prefer: respond-async"], &["respond-async"]),
        (&["prefer: wait=0"], &["wait=0"]),
        (&["prefer: wait=\"0\""], &["wait=0"]),
        (&["prefer: respond-async, wait=0"], &["respond-async, wait=0"]),
        (&["prefer: wait=0", "prefer: wait=600", "prefer: respond-async"], &["respond-async, wait=0"]),
        // Nothing that can be honoured is asked for by these, and the route waits for as long as the test.
        (&["prefer: note=\"wait=60\", wait=0"], &["wait=0"]),
    ] {
        let answer = gateway.ask(&order(prefer, "{}"));
        location(&answer);
        assert_eq!(answer.all("preference-applied"), applied, "{prefer:?}");
    }
    for _ in 0..8 {
        go.send(()).unwrap();
    }
    // Whatever else was preferred is for the service.
    let seen = upstream.wait(8);
    let prefers: Vec<String> = seen.iter().flat_map(|seen| seen.all("prefer")).map(str::to_owned).collect();
    assert_eq!(prefers.len(), 3, "{prefers:?}");
    assert_eq!(prefers.iter().filter(|prefer| *prefer == "return=minimal").count(), 2);
    assert!(prefers.contains(&"note=\"wait=60\"".to_owned()));
}

#[test]
fn an_answer_in_time_says_that_it_was_waited_for() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |route| route.wait = Duration::ZERO);
    for (prefer, applied) in [
        ("prefer: wait=30", "wait=30"),
        ("prefer: wait=3600", "wait=60"),
        ("prefer: respond-async, wait=30", "wait=30"),
        ("prefer: wait=30, wait=0", "wait=30"),
    ] {
        let answer = gateway.ask(&order(&[prefer], "{}"));
        assert_eq!((answer.status, answer.text()), (200, "done"), "{prefer}");
        assert_eq!(answer.one("preference-applied"), applied, "{prefer}");
    }
    // What cannot be honoured is as good as not said.
    let (upstream, go) = Upstream::waiting("done");
    let gateway = serving(&upstream, |route| route.wait = Duration::ZERO);
    for prefer in
        ["prefer: wait=soon", "prefer: wait", "prefer: wait=soon, wait=30", "prefer: return=minimal"]
    {
        let answer = gateway.ask(&order(&[prefer], "{}"));
        location(&answer);
        assert!(answer.all("preference-applied").is_empty(), "{prefer}");
    }
    drop(go);
}

#[test]
fn the_route_says_how_long_is_usual() {
    let (upstream, go) = Upstream::waiting("done");
    let gateway = serving(&upstream, |route| route.wait = Duration::from_millis(50));
    let answer = gateway.ask(&order(&[], "{}"));
    location(&answer);
    assert!(answer.all("preference-applied").is_empty());
    assert_eq!(json(&answer)["state"], "dispatching");
    // A gateway that ends waits for what is under way.
    drop(go);
}

#[test]
fn what_is_scheduled_is_not_delivered_before_it_is_due() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |_| {});
    let later = gateway.ask(&order(&["mainstay-deliver-after: 3600", "prefer: wait=30"], "later"));
    let job = location(&later);
    assert_eq!(json(&later)["state"], "waiting");
    assert!(later.all("preference-applied").is_empty(), "nothing was waited for");
    let seconds: u64 = later.one("retry-after").parse().unwrap();
    assert!((3500..=3600).contains(&seconds), "{seconds}");
    let began = Instant::now();
    let soon = location(&gateway.ask(&order(&["mainstay-deliver-after: 1"], "soon")));
    wait_for("the delivery", || (upstream.count() > 0).then_some(()));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    delivered(&gateway, &soon);
    assert_eq!(upstream.wait(1)[0].body, b"soon");
    assert!(upstream.wait(1)[0].all("mainstay-deliver-after").is_empty());
    becomes(&gateway, &job, "waiting");
    // What was due in the past is delivered at once, and answered.
    let past = gateway.ask(&order(&["mainstay-deliver-after: Sun, 06 Nov 1994 08:49:37 GMT"], "past"));
    assert_eq!((past.status, past.text()), (200, "done"));
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn a_time_of_delivery_that_is_none_is_400() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |_| {});
    for time in ["tomorrow", "-1", "31536001", "Sun, 06 Nov 2094 08:49:37 GMT", "1, 2"] {
        let answer = gateway.ask(&order(&[&format!("mainstay-deliver-after: {time}")], "{}"));
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-delivery"), "{time}");
    }
    assert_eq!(upstream.count(), 0);
}
