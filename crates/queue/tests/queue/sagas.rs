//! Calls that happen all, or are undone.

use crate::stage::{Stage, answered, broken, busy, idempotent, not_sent, request};
use bytes::Bytes;
use model::flow::{JsonTemplate, Method};
use model::name::ComponentName;
use model::queue::{QueueLimits, QueuedRoute, Saga, SagaCall, SagaStep};
use model::template::Template;
use queue::{
    Call, CallOutcome, Cancelled, Filter, JobState, Resolution, Selection, Submission, Submitted, Upstream,
    Waited,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn template(text: &str) -> Template {
    Template::parse(text, |_| true).unwrap()
}

fn call(method: Method, to: &str, path: &str, json: Option<&str>) -> SagaCall {
    let json = json
        .map(|text| JsonTemplate::Table(BTreeMap::from([("of".into(), JsonTemplate::Text(template(text)))])));
    SagaCall { method, to: ComponentName::new(to).unwrap(), path: template(path), json }
}

fn step(name: &str, call: SagaCall, undo: Option<SagaCall>) -> SagaStep {
    SagaStep {
        name: name.into(),
        call,
        undo,
        attempts: 3,
        idempotent: true,
        probe: None,
        timeout: Duration::from_secs(5),
    }
}

/// As in the design of the workload file.
pub(crate) fn checkout() -> Saga {
    let steps = vec![
        step(
            "charge",
            call(Method::Post, "payments", "/charges", Some("{body:$.customer}")),
            Some(call(Method::Post, "payments", "/charges/{charge:$.id}/refund", None)),
        ),
        step(
            "record",
            call(Method::Post, "api", "/orders", None),
            Some(call(Method::Delete, "api", "/orders/{record:$.id}", None)),
        ),
        step(
            "ship",
            call(Method::Post, "shipping", "/labels", Some("{record:$.id}")),
            Some(call(Method::Delete, "shipping", "/labels/{ship:$.id}", None)),
        ),
    ];
    Saga { answer: "record".into(), steps }
}

pub(crate) fn sale(saga: &Saga) -> Submission {
    Submission { saga: Some(Arc::new(saga.clone())), ..request(idempotent(), r#"{"customer":7}"#) }
}

fn line(call: &Call) -> String {
    format!(
        "{} {}:{} {}",
        call.method.as_str(),
        call.to,
        call.path_and_query,
        String::from_utf8_lossy(&call.body)
    )
}

/// Says yes, with an id for each kind of thing.
pub(crate) fn yes(call: &Call) -> CallOutcome {
    match call.path_and_query.as_str() {
        "/charges" => answered(201, r#"{"id":"c1"}"#),
        "/orders" => answered(201, r#"{"id":17}"#),
        "/labels" => answered(201, r#"{"id":"l 1"}"#),
        _ => answered(200, "{}"),
    }
}

#[tokio::test]
async fn every_step_and_the_answer_of_the_named_one() {
    let stage = Stage::new();
    let ticket = stage.accept(sale(&checkout())).await;
    let waits = tokio::spawn(ticket.wait(Duration::from_secs(60)));
    let (mut lines, mut keys) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let call = stage.call().await;
        assert!(call.saga && call.attempt == 1 && call.timeout == Duration::from_secs(5));
        let of_type = call.fields.iter().filter(|(name, _)| &name[..] == b"content-type").count();
        assert_eq!(of_type, 1);
        lines.push(line(&call));
        keys.push(call.key.clone());
        stage.report(&call, yes(&call));
    }
    assert_eq!(
        lines,
        [
            r#"POST payments:/charges {"of":7}"#,
            r#"POST api:/orders {"customer":7}"#,
            r#"POST shipping:/labels {"of":17}"#,
        ]
    );
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3, "each call has its own key");
    let Waited::Settled(view, Some(answer)) = waits.await.unwrap() else { panic!("an answer") };
    assert_eq!((view.state, answer.status, &answer.body[..]), (JobState::Done, 201, &br#"{"id":17}"#[..]));
    assert_eq!(stage.counters().sagas_complete, 1);
    let history = stage.queue.show(view.name.id).await.unwrap();
    let steps: Vec<(&str, &str)> =
        history.steps.iter().map(|step| (step.name.as_str(), step.state)).collect();
    assert_eq!(steps, [("charge", "done"), ("record", "done"), ("ship", "done")]);
}

#[tokio::test]
async fn a_refused_step_undoes_those_before_it_in_reverse() {
    let stage = Stage::new();
    let name = stage.enqueue(sale(&checkout())).await;
    let mut lines = Vec::new();
    stage
        .play(Duration::from_secs(5), |call| {
            lines.push(line(call));
            if call.path_and_query == "/labels" { answered(409, "no address") } else { yes(call) }
        })
        .await;
    assert_eq!(lines[3..], ["DELETE api:/orders/17 ", "POST payments:/charges/c1/refund "]);
    assert_eq!((stage.state(name).await, stage.counters().sagas_undone), (JobState::Rejected, 1));
    let (status, body) = stage.answer(name).await.unwrap();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["step"], &problem["status"]), (409, &"ship".into(), &409.into()));
    assert_eq!(problem["type"], "urn:mainstay:problem:saga-undone");
    // Retried, it begins anew: the calls have other keys, or they would be answered as before.
    let before: Vec<String> =
        stage.queue.show(name.id).await.unwrap().steps.iter().map(|s| s.name.clone()).collect();
    assert_eq!(before.len(), 5);
    assert_eq!(stage.queue.retry(Selection::Jobs(vec![name.id]), 0).await.unwrap(), 1);
    let stage = stage.kill();
    let mut again = Vec::new();
    stage
        .play(Duration::from_secs(5), |call| {
            again.push(line(call));
            yes(call)
        })
        .await;
    assert_eq!(again, lines[..3]);
    assert_eq!(stage.state(name).await, JobState::Done);
}

#[tokio::test]
async fn a_client_that_waits_hears_which_step_failed() {
    let stage = Stage::new();
    let ticket = stage.accept(sale(&checkout())).await;
    let waits = tokio::spawn(ticket.wait(Duration::from_secs(60)));
    let first = stage.call().await;
    stage.report(&first, answered(402, "no money"));
    let Waited::Settled(view, Some(answer)) = waits.await.unwrap() else { panic!("an answer") };
    assert_eq!((view.state, answer.status), (JobState::Done, 402));
    assert!(String::from_utf8_lossy(&answer.body).contains("step `charge` was answered 402"));
}

#[tokio::test]
async fn past_a_pivot_there_is_no_way_but_on() {
    let mut saga = checkout();
    saga.steps[1].undo = None;
    let stage =
        Stage::with(QueueLimits { longest_pause: Duration::from_secs(1), ..QueueLimits::default() }, 0);
    let name = stage.enqueue(sale(&saga)).await;
    let mut labels = 0;
    let mut upstream = |call: &Call| match call.path_and_query.as_str() {
        "/labels" => {
            labels += 1;
            answered(if labels < 6 { 422 } else { 201 }, r#"{"id":1}"#)
        }
        "/charges" | "/orders" => yes(call),
        other => panic!("{other} is undone"),
    };
    stage.play(Duration::from_secs(20), &mut upstream).await;
    // Its attempts are used up; an operator gives it new ones.
    assert_eq!(stage.state(name).await, JobState::Dead);
    assert_eq!(stage.queue.retry(Selection::Jobs(vec![name.id]), 0).await.unwrap(), 1);
    let stage = stage.kill();
    stage.play(Duration::from_secs(20), &mut upstream).await;
    assert_eq!((stage.state(name).await, labels), (JobState::Done, 6));
}

#[tokio::test]
async fn what_is_in_doubt_is_resolved_before_anything_is_undone() {
    // With the same key, beyond its attempts, until it is answered.
    let stage = Stage::new();
    let name = stage.enqueue(sale(&checkout())).await;
    let (mut labels, mut keys) = (0, Vec::new());
    stage
        .play(Duration::from_secs(400), |call| match call.path_and_query.as_str() {
            "/labels" => {
                labels += 1;
                keys.push(call.key.clone());
                match labels {
                    1..8 => answered(500, ""),
                    // The first may be under way still.
                    8..10 => answered(409, ""),
                    _ => answered(422, ""),
                }
            }
            "/charges" | "/orders" => yes(call),
            _ => {
                assert_eq!(labels, 10, "undone before it was known");
                yes(call)
            }
        })
        .await;
    keys.dedup();
    assert_eq!((labels, keys.len(), stage.state(name).await), (10, 1, JobState::Rejected));

    // A 409 that does not end is no longer about an attempt under way: the step was refused.
    let stage = Stage::new();
    let name = stage.enqueue(sale(&checkout())).await;
    let (mut labels, mut undone) = (0, Vec::new());
    stage
        .play(Duration::from_secs(600), |call| match call.path_and_query.as_str() {
            "/labels" => {
                labels += 1;
                if labels == 1 { answered(500, "") } else { answered(409, "sold out") }
            }
            "/charges" | "/orders" => yes(call),
            _ => {
                undone.push(line(call));
                yes(call)
            }
        })
        .await;
    assert_eq!((undone.len(), stage.state(name).await), (2, JobState::Rejected), "{undone:?}, {labels}");

    // Without a key: a probe, or an operator.
    let mut saga = checkout();
    saga.steps[2].idempotent = false;
    let stage = Stage::new();
    let name = stage.enqueue(sale(&saga)).await;
    stage
        .play(
            Duration::from_secs(60),
            |call| if call.path_and_query == "/labels" { broken() } else { yes(call) },
        )
        .await;
    assert_eq!(stage.state(name).await, JobState::Unknown);
    let stage = stage.kill();
    stage.play(Duration::from_secs(60), |call| panic!("{call:?}")).await;
    stage.queue.resolve(name.id, Resolution::NotDelivered, 0).await.unwrap();
    let mut lines = Vec::new();
    stage
        .play(Duration::from_secs(60), |call| {
            lines.push(line(call));
            yes(call)
        })
        .await;
    assert_eq!(lines, [r#"POST shipping:/labels {"of":17}"#]);
    assert_eq!(stage.state(name).await, JobState::Done);

    saga.steps[2].probe = Some(template("/labels?key={key}"));
    let stage = Stage::new();
    let name = stage.enqueue(sale(&saga)).await;
    let mut key = String::new();
    stage
        .play(Duration::from_secs(60), |call| match (call.probe, call.path_and_query.as_str()) {
            (true, path) => {
                assert_eq!(path, format!("/labels?key={key}"));
                assert_eq!(call.to, Upstream::Component(ComponentName::new("shipping").unwrap()));
                answered(200, r#"{"id":"found"}"#)
            }
            (false, "/labels") => {
                key.clone_from(&call.key);
                broken()
            }
            (false, _) => yes(call),
        })
        .await;
    assert_eq!(stage.state(name).await, JobState::Done);
}

#[tokio::test]
async fn an_undo_that_is_used_up_is_a_dead_letter() {
    let stage = Stage::new();
    let name = stage.enqueue(sale(&checkout())).await;
    let mut refunds = 0;
    let mut good = false;
    for _ in 0..2 {
        stage
            .play(Duration::from_secs(60), |call| match call.path_and_query.as_str() {
                "/orders" => answered(409, ""),
                "/charges/c1/refund" if !good => {
                    refunds += 1;
                    answered(400, "")
                }
                _ => yes(call),
            })
            .await;
        if good {
            break;
        }
        assert_eq!((refunds, stage.state(name).await), (3, JobState::Dead));
        assert_eq!(stage.counters().sagas_undo_dead, 1);
        stage.queue.retry(Selection::Jobs(vec![name.id]), 0).await.unwrap();
        good = true;
    }
    assert_eq!((stage.state(name).await, stage.counters().sagas_undone), (JobState::Rejected, 1));
}

#[tokio::test]
async fn what_is_deleted_already_is_undone() {
    let stage = Stage::new();
    let name = stage.enqueue(sale(&checkout())).await;
    stage
        .play(Duration::from_secs(10), |call| match call.path_and_query.as_str() {
            "/labels" => answered(409, ""),
            "/orders/17" => answered(404, ""),
            _ => yes(call),
        })
        .await;
    assert_eq!(stage.state(name).await, JobState::Rejected);
}

#[tokio::test]
async fn values_that_are_missing() {
    let stage = Stage::new();
    let wrong = Submission { body: Bytes::from_static(b"a=b"), ..sale(&checkout()) };
    let Submitted::Invalid(why) = stage.submit(wrong).await else { panic!("it is refused") };
    assert!(why.contains("{body:$.customer}"), "{why}");
    // An answer without what the next step wants: the step cannot be made, and the others are undone.
    let name = stage.enqueue(sale(&checkout())).await;
    let mut lines = Vec::new();
    stage
        .play(Duration::from_secs(10), |call| {
            lines.push(line(call));
            if call.path_and_query == "/orders" { answered(201, "no json") } else { yes(call) }
        })
        .await;
    // The order cannot be undone either: its path wants the same value.
    assert_eq!(lines.len(), 2);
    assert_eq!((stage.state(name).await, stage.counters().sagas_undo_dead), (JobState::Dead, 1));
}

#[tokio::test]
async fn nothing_is_lost_while_the_first_upstream_is_away() {
    let stage = Stage::new();
    let name = stage.enqueue(sale(&checkout())).await;
    let mut away = true;
    stage.play(Duration::from_secs(600), |_| not_sent()).await;
    assert_eq!(stage.state(name).await, JobState::Waiting);
    stage
        .play(Duration::from_secs(120), |call| if std::mem::take(&mut away) { not_sent() } else { yes(call) })
        .await;
    assert_eq!(stage.state(name).await, JobState::Done);
}

/// A step that was under way when the process ended may have happened: it is neither refused nor undone for want of
/// attempts, nor because the first one is still under way.
#[tokio::test]
async fn a_step_found_under_way_is_in_doubt() {
    for outcome in [crate::stage::busy(503, 1), answered(409, ""), answered(401, ""), answered(422, "")] {
        let mut saga = checkout();
        saga.steps[1].attempts = 1;
        let stage = Stage::new();
        let name = stage.enqueue(sale(&saga)).await;
        let first = stage.call().await;
        stage.report(&first, yes(&first));
        let second = stage.call().await;
        assert_eq!(second.path_and_query, "/orders");
        let stage = stage.kill();
        let again = stage.call().await;
        assert_eq!((again.key.as_str(), again.attempt), (second.key.as_str(), 2));
        stage.report(&again, outcome);
        let undone = |call: &Call| {
            assert!(!call.path_and_query.ends_with("/refund"), "undone before it was known");
            yes(call)
        };
        stage.play(Duration::from_secs(60), undone).await;
        assert_eq!(stage.state(name).await, JobState::Done);
    }
}

/// From its beginning, what stands would be done again.
#[tokio::test]
async fn a_saga_whose_steps_are_lost_waits_for_an_operator() {
    let stage = Stage::new();
    let name = stage.enqueue(sale(&checkout())).await;
    stage
        .play(Duration::from_secs(5), |call| {
            if call.path_and_query == "/labels" { answered(409, "no address") } else { yes(call) }
        })
        .await;
    assert_eq!(stage.state(name).await, JobState::Rejected);
    let stage = stage.damaged_and_repaired(br#"{"id":"c1"}"#);
    stage.play(Duration::from_secs(2_000), |call| panic!("{call:?}")).await;
    assert_eq!((stage.state(name).await, stage.queue.status().unknown_now), (JobState::Unknown, 1));
}

/// 204 says that nothing of it happens.
#[tokio::test]
async fn what_an_operator_has_released_is_not_cancelled_when_something_of_it_stands() {
    let mut saga = checkout();
    saga.steps[1].undo = None;
    for submission in [sale(&saga), request(QueuedRoute { attempts: 2, ..idempotent() }, "{}")] {
        let stage = Stage::new();
        let name = stage.enqueue(submission).await;
        stage
            .play(Duration::from_secs(600), |call| match call.path_and_query.as_str() {
                "/charges" | "/orders" => yes(call),
                "/labels" => answered(422, ""),
                // It may have happened.
                _ => crate::stage::busy(500, 1),
            })
            .await;
        assert_eq!(stage.state(name).await, JobState::Dead);
        stage.queue.pause(None, 0).await.unwrap();
        assert_eq!(stage.queue.retry(Selection::Jobs(vec![name.id]), 0).await.unwrap(), 1);
        assert!(matches!(stage.queue.cancel(name).await, Cancelled::TooLate(_)));
        stage.queue.resume(None, 0).await.unwrap();
        let well = |call: &Call| match call.path_and_query.as_str() {
            "/labels" => answered(201, r#"{"id":1}"#),
            _ => yes(call),
        };
        stage.play(Duration::from_secs(60), well).await;
        assert_eq!(stage.state(name).await, JobState::Done);
    }
}

/// However long it takes: what is charged is a sale that is late, not one that is lost.
#[tokio::test]
async fn an_outage_in_the_middle_of_a_saga_undoes_nothing() {
    let limits = QueueLimits { longest_pause: Duration::from_secs(10), ..QueueLimits::default() };
    for outcome in [not_sent(), answered(401, "expired"), answered(403, "")] {
        let stage = Stage::with(limits.clone(), 0);
        let name = stage.enqueue(sale(&checkout())).await;
        let mut calls = 0;
        let mut upstream = |call: &Call| match call.path_and_query.as_str() {
            "/orders" if calls < 50 => {
                calls += 1;
                outcome.clone()
            }
            "/orders" | "/charges" | "/labels" => yes(call),
            other => panic!("{other} is undone"),
        };
        stage.play(Duration::from_secs(2_000), &mut upstream).await;
        assert_eq!((calls, stage.state(name).await), (50, JobState::Done));
    }
    // Not for ever.
    let stage = Stage::with(limits, 0);
    let settings = QueuedRoute { max_age: Duration::from_secs(300), ..idempotent() };
    let name = stage.enqueue(Submission { settings: settings.into(), ..sale(&checkout()) }).await;
    let upstream = |call: &Call| if call.path_and_query == "/orders" { not_sent() } else { yes(call) };
    stage.play(Duration::from_secs(400), upstream).await;
    assert_eq!(stage.state(name).await, JobState::Rejected);
}

/// What an operator has sent again is as old as that, also for a process that finds it after it was killed.
#[tokio::test]
async fn a_sale_that_is_sent_again_is_young_again() {
    let settings = QueuedRoute { max_age: Duration::from_secs(300), ..idempotent() };
    let sale = Submission { settings: settings.into(), ..sale(&checkout()) };
    let stage = Stage::new();
    let retried = stage.enqueue(sale.clone()).await;
    let upstream = |call: &Call| if call.path_and_query == "/orders" { not_sent() } else { yes(call) };
    stage.play(Duration::from_secs(400), upstream).await;
    assert_eq!(stage.state(retried).await, JobState::Rejected);
    stage.queue.pause(None, 0).await.unwrap();
    stage.enqueue(sale).await;
    let (lines, _) = stage.queue.export(Filter::default(), retried.id, 100).await.unwrap();
    stage.clock.advance(Duration::from_secs(400));
    stage.queue.resume(None, 0).await.unwrap();
    assert_eq!(stage.queue.retry(Selection::Jobs(vec![retried.id]), 0).await.unwrap(), 1);
    let elsewhere = Stage::new();
    elsewhere.clock.advance(Duration::from_secs(3_600));
    assert_eq!(elsewhere.queue.import(lines, 0).await.unwrap().accepted, 1);
    for stage in [stage, elsewhere] {
        let id = stage.ids(&[JobState::Waiting]).await[0];
        let begun = loop {
            let call = stage.call().await;
            if call.job.0 == id {
                break call;
            }
        };
        assert_eq!(begun.path_and_query, "/charges");
        stage.settled().await;
        let stage = stage.kill();
        let mut failures = 0;
        let upstream = |call: &Call| {
            failures += 1;
            if failures <= 2 { busy(503, 1) } else { yes(call) }
        };
        stage.play(Duration::from_secs(60), upstream).await;
        assert_eq!(stage.ids(&[JobState::Done]).await, [id]);
    }
}

/// The calls of another sale are other calls, whoever may have sent the same key.
#[tokio::test]
async fn each_sale_has_keys_of_its_own() {
    let stage = Stage::new();
    let ann = Submission { principal: Some("ann".into()), key: Some("1".into()), ..sale(&checkout()) };
    let bob = Submission { principal: Some("bob".into()), ..ann.clone() };
    let elsewhere = Submission { route: "POST /other".into(), ..ann.clone() };
    let mut keys = std::collections::BTreeSet::new();
    for submission in [ann, bob, elsewhere] {
        stage.enqueue(submission).await;
        keys.insert(stage.call().await.key);
    }
    assert_eq!(keys.len(), 3);
    let stage = stage.kill();
    for _ in 0..3 {
        assert!(keys.remove(&stage.call().await.key), "the same after a restart");
    }
}

/// What payments, orders and shipping hold, by key: each call counts once.
#[derive(Default)]
pub(crate) struct World {
    done: BTreeMap<String, (String, bool)>,
}

impl World {
    /// An upstream that honours keys: the effect happens once, whether it is answered or not.
    pub(crate) fn take(&mut self, call: &Call, refuse: bool) -> CallOutcome {
        let (_, refused) = self.done.entry(call.key.clone()).or_insert((line(call), refuse));
        if *refused { answered(422, "") } else { yes(call) }
    }

    fn count(&self, what: &str) -> usize {
        self.done.values().filter(|(line, refused)| !refused && line.contains(what)).count()
    }

    fn is_whole_or_nothing(&self, sales: usize) {
        assert!(self.whole_sales().unwrap() <= sales);
    }

    /// How many sales happened, if each happened whole or not at all.
    pub(crate) fn whole_sales(&self) -> Result<usize, String> {
        let made = [self.count(":/charges {"), self.count("POST api:/orders"), self.count("/labels {")];
        let undone = [self.count("/refund"), self.count("DELETE api:/orders"), self.count("DELETE shipping")];
        let net: Vec<Option<usize>> =
            made.iter().zip(undone).map(|(made, undone)| made.checked_sub(undone)).collect();
        match net[..] {
            [Some(charged), recorded, shipped] if recorded == shipped && recorded == Some(charged) => {
                Ok(charged)
            }
            _ => Err(format!("{made:?} made, {undone:?} undone")),
        }
    }
}

/// Killed at every call, before and after it took effect, forward and undoing.
#[tokio::test]
async fn killed_at_every_call_it_happens_or_is_undone() {
    for refused in [None, Some("/charges"), Some("/orders"), Some("/labels")] {
        for killed_at in 0..7 {
            for took_effect in [false, true] {
                let mut stage = Stage::new();
                let name = stage.enqueue(sale(&checkout())).await;
                let mut world = World::default();
                let mut calls = 0;
                while !stage.view(name).await.is_settled() {
                    let Some(call) = stage.due().await else {
                        stage.clock.advance(Duration::from_secs(1));
                        continue;
                    };
                    let refuse = refused == Some(call.path_and_query.as_str());
                    let killed = calls == killed_at;
                    calls += 1;
                    if !killed || took_effect {
                        let outcome = world.take(&call, refuse);
                        if !killed {
                            stage.report(&call, outcome);
                            stage.settled().await;
                            continue;
                        }
                    }
                    stage = stage.kill();
                }
                let expected = if refused.is_none() { JobState::Done } else { JobState::Rejected };
                assert_eq!(stage.state(name).await, expected, "{refused:?} {killed_at}");
                world.is_whole_or_nothing(1);
                assert_eq!(
                    world.count("POST api:/orders") - world.count("DELETE api"),
                    usize::from(refused.is_none())
                );
            }
        }
    }
}

#[tokio::test]
async fn a_saga_of_an_old_release_ends_as_it_began() {
    let stage = Stage::new();
    let name = stage.enqueue(sale(&checkout())).await;
    let first = stage.call().await;
    stage.report(&first, yes(&first));
    stage.settled().await;
    let stage = stage.kill();
    // The route has other settings, and no saga, by now: that changes nothing of what was begun.
    let second = stage.call().await;
    stage.queue.report(second.id, yes(&second), Some(&Arc::new(QueuedRoute::default())));
    let third = stage.call().await;
    stage.queue.report(third.id, yes(&third), None);
    assert_eq!(stage.state(name).await, JobState::Done);
}
