use super::*;
use crate::pace::{Begun, Sign};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn entry(book: &mut Book, id: u64, order: u64, route: &str) -> Entry {
    Entry::new(id, book.line(Traffic::Users, route), order).with(FRESH)
}

fn pick(book: &mut Book, now: Moment) -> Option<Entry> {
    loop {
        match book.pick(now) {
            Pick::Job(picked) => return Some(picked.entry),
            Pick::More => {}
            Pick::Wait(_) => return None,
        }
    }
}

#[test]
fn what_somebody_has_in_hand_is_left_alone() {
    let mut book = Book::new(4);
    for id in 1..=4 {
        let entry = entry(&mut book, id, 9, "a");
        book.push(entry);
    }
    assert!(book.claim(1) && book.claim(2) && !book.claim(1));
    // The first two are in hand, and keep their places there.
    assert_eq!(pick(&mut book, 0), None);
    let fifth = entry(&mut book, 5, 9, "a");
    let upstream = book.target(Traffic::Users, &Upstream::Default);
    assert!(!book.go_at_once(&fifth, upstream, 0));
    book.remove_claimed(1, 9);
    assert_eq!(pick(&mut book, 0), None, "the second is still in hand");
    book.unclaim(2);
    for id in 2..=4 {
        assert_eq!(pick(&mut book, 0).unwrap().id(), id);
        assert!(!book.claim(id), "it is under way");
        book.settle(id, 9);
    }
    assert_eq!(pick(&mut book, 0), None);
}

#[test]
fn what_has_become_due_is_before_what_comes() {
    let mut book = Book::new(4);
    let upstream = book.target(Traffic::Users, &Upstream::Default);
    let [first, second] = [1, 2].map(|id| entry(&mut book, id, 9, "a"));
    book.schedule(first, 5);
    assert!(!book.go_at_once(&second, upstream, 5));
    book.arrive(second, 5);
    for id in [1, 2] {
        assert_eq!(pick(&mut book, 5).unwrap().id(), id);
        book.settle(id, 9);
    }
}

/// Each doubt holds up others for as long as it says, whatever one before it said.
#[test]
fn a_hold_ends_with_its_own_time() {
    let mut book = Book::new(4);
    for id in [1, 2] {
        let entry = entry(&mut book, id, 9, "a");
        book.push(entry);
    }
    let first = pick(&mut book, 0).unwrap();
    book.doubt(InDoubt::new(first, 1, 0), Some(10), None);
    assert!(book.claim(1));
    book.begin_anew(first);
    let again = pick(&mut book, 8).unwrap();
    assert_eq!(again.id(), 1);
    book.doubt(InDoubt::new(again, 2, 8), Some(18), None);
    assert_eq!(pick(&mut book, 17), None);
    assert_eq!(pick(&mut book, 18).unwrap().id(), 2);
}

#[test]
fn a_paused_route_holds_up_itself_alone() {
    let mut book = Book::new(4);
    let upstream = book.target(Traffic::Users, &Upstream::Default);
    let first = entry(&mut book, 1, 0, "a");
    book.push(first);
    assert_eq!(pick(&mut book, 0), Some(first));
    let mut carried = Carried::new(first, 1);
    carried.upstream = Some(upstream);
    book.put_off(carried, 5);
    for (id, route) in [(2, "b"), (3, "a")] {
        let entry = entry(&mut book, id, 0, route);
        book.push(entry);
    }
    book.pause(&book.lines[first.route()].name.clone(), true);
    assert_eq!(pick(&mut book, 10).unwrap().id(), 2);
    assert_eq!(pick(&mut book, 10), None);
    book.pause(&book.lines[first.route()].name.clone(), false);
    assert_eq!(pick(&mut book, 10).map(|e| e.id()), Some(1), "what was attempted goes first");
    book.paused = true;
    assert_eq!(pick(&mut book, 10), None);
    book.paused = false;
    assert_eq!(pick(&mut book, 10).map(|e| e.id()), Some(3));
}

#[test]
fn an_upstream_that_does_not_work_holds_up_itself_alone() {
    let mut book = Book::new(1);
    let (down, up) = (book.target(Traffic::Users, &Upstream::Default), book.line(Traffic::Users, "up"));
    let name = model::name::ComponentName::new("other").unwrap();
    let other = book.target(Traffic::Users, &Upstream::Component(name));
    let line = book.line(Traffic::Users, "down");
    book.lines[usize::from(line)].first = Some(down);
    book.lines[usize::from(up)].first = Some(other);
    for job in 1..=5 {
        let begun = book.targets[down].pace.begin(0);
        book.targets[down].pace.end(begun, job, Sign::Failing, 0, u64::MAX);
    }
    for (id, route) in [(1, "down"), (2, "up"), (3, "up")] {
        let entry = entry(&mut book, id, 0, route);
        book.push(entry);
    }
    assert_eq!(pick(&mut book, 0).unwrap().id(), 2);
    assert_eq!(pick(&mut book, 0).unwrap().id(), 3);
    assert_eq!(book.pick(0), Pick::Wait(Some(500)), "it is tried again then");
    assert_eq!(pick(&mut book, 500).unwrap().id(), 1);
}

#[test]
fn a_probe_that_is_due_does_not_outlive_its_job() {
    let mut book = Book::new(4);
    let upstream = book.target(Traffic::Users, &Upstream::Default);
    let first = entry(&mut book, 1, 0, "a");
    book.push(first);
    let picked = pick(&mut book, 0).unwrap();
    let mut doubt = InDoubt::new(picked, 1, 0);
    doubt.upstream = Some(upstream);
    book.doubt(doubt, None, Some(5));
    assert_eq!(book.state(1), JobState::Unknown);
    // The probe lies with its upstream, which has no place for it; an operator says that it did not happen.
    let begun: Vec<Begun> = (0..4).map(|_| book.targets[upstream].pace.begin(0)).collect();
    assert_eq!(pick(&mut book, 10), None);
    assert!(book.claim(1));
    book.remove_claimed(1, 0);
    book.push(first);
    for begun in begun {
        book.targets[upstream].pace.undo(begun, 10);
    }
    let again = pick(&mut book, 10).unwrap();
    assert!(!again.has(PROBE));
    assert_eq!(pick(&mut book, 10), None);
}

/// What happens to a job that was picked.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Settle,
    PutOff,
    Doubt,
    GiveBack,
}

proptest! {
    /// Whatever happens: of each value of order one job at most is under way, their first attempts are in the order
    /// in which they came, and all are settled in the end, each once.
    #[test]
    fn order_is_kept_and_nothing_is_lost(
        steps in proptest::collection::vec((0_u8..8, 0_u64..4, 0_u8..4), 1..200),
    ) {
        let mut book = Book::new(3);
        let upstream = book.target(Traffic::Users, &Upstream::Default);
        let (mut now, mut next) = (0, 1);
        let mut came: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut begun: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut under_way: Vec<Entry> = Vec::new();
        let mut settled = BTreeSet::new();
        let mut doubted = BTreeSet::new();
        let mut in_hand = Vec::new();
        let mut step = |book: &mut Book, what: u8, order: u64, fate: u8, last: bool| -> Result<(), TestCaseError> {
            match what {
                0 | 1 if !last => {
                    let entry = entry(book, next, order, if order < 2 { "a" } else { "b" });
                    came.entry(order).or_default().push(next);
                    next += 1;
                    let at_once = book.go_at_once(&entry, upstream, now);
                    if at_once {
                        under_way.push(entry);
                        begun.entry(order).or_default().push(entry.id());
                    } else {
                        book.push(entry);
                    }
                }
                2 if !last => now += 3,
                6 if !last => {
                    let id = 1 + (order * 4 + u64::from(fate)) % next;
                    if id < next && !settled.contains(&id) && book.claim(id) {
                        in_hand.push(id);
                    }
                }
                7 if !last => in_hand.drain(..).for_each(|id| book.unclaim(id)),
                _ => {
                    if last {
                        in_hand.drain(..).for_each(|id| book.unclaim(id));
                    }
                    if let Some(entry) = pick(book, now) {
                        prop_assert!(!under_way.iter().any(|other| other.id() == entry.id()));
                        let first = begun.entry(entry.order).or_default();
                        if !first.contains(&entry.id()) {
                            first.push(entry.id());
                        }
                        under_way.push(entry);
                    }
                }
            }
            let orders: Vec<u64> = under_way.iter().filter(|e| e.order != 0 && !e.has(PROBE)).map(|e| e.order).collect();
            let different: BTreeSet<&u64> = orders.iter().collect();
            prop_assert_eq!(different.len(), orders.len(), "two of one value at once");
            let fate = if last { 0 } else { fate };
            if (3..6).contains(&what) || last {
                let Some(entry) = under_way.pop() else { return Ok(()) };
                let fate = [Fate::Settle, Fate::PutOff, Fate::Doubt, Fate::GiveBack][usize::from(fate)];
                match fate {
                    Fate::Settle => {
                        book.settle(entry.id(), entry.order);
                        prop_assert!(settled.insert(entry.id()), "settled twice");
                    }
                    Fate::PutOff => {
                        let mut carried = Carried::new(entry, 1);
                        carried.upstream = Some(upstream);
                        book.put_off(carried, now + 2);
                    }
                    Fate::Doubt => {
                        doubted.insert(entry.order);
                        let mut doubt = InDoubt::new(entry, 1, 0);
                        doubt.upstream = Some(upstream);
                        book.doubt(doubt, Some(now + 4), Some(now + 1));
                    }
                    Fate::GiveBack => book.give_back(entry, upstream),
                }
            }
            Ok(())
        };
        for (what, order, fate) in &steps {
            step(&mut book, *what, *order, *fate, false)?;
        }
        for _ in 0..2_000 {
            step(&mut book, 2, 0, 0, false)?;
            step(&mut book, 3, 0, 0, true)?;
        }
        prop_assert_eq!(settled.len() as u64, next - 1, "all are settled");
        for (order, came) in came.into_iter().filter(|(order, _)| *order != 0) {
            prop_assert_eq!(&came, &begun[&order], "first attempts of {} are in order", order);
        }
        prop_assert!(book.carried.is_empty() && book.doubtful.is_empty() && book.busy.is_empty());
        prop_assert!(book.lanes.is_empty() && book.aside.is_empty());
    }
}

#[test]
fn what_is_scheduled_and_taken_back_leaves_nothing() {
    let mut book = Book::new(4);
    let kept = entry(&mut book, 1, 0, "a");
    book.schedule(kept, 1_000_000);
    for id in 2..20_000 {
        let scheduled = entry(&mut book, id, 0, "a");
        book.schedule(scheduled, 1_000_000);
        assert!(book.claim(id));
        book.remove_claimed(id, 0);
    }
    assert!(book.aside.is_empty() && book.scheduled.len() == 1);
    assert!(book.timers.len() <= 2 * hand::STALE_TIMERS_LIMIT, "{}", book.timers.len());
    assert_eq!(pick(&mut book, 1_000_000).map(|entry| entry.id()), Some(1));
    assert_eq!(pick(&mut book, 1_000_000), None);
}

/// A probe that came back without being made is found where it lies, and one without a doubt is none.
#[test]
fn a_probe_that_was_given_back_does_not_outlive_its_doubt() {
    let mut book = Book::new(4);
    let upstream = book.target(Traffic::Users, &Upstream::Default);
    let first = entry(&mut book, 1, 0, "a");
    book.push(first);
    let picked = pick(&mut book, 0).unwrap();
    book.doubt(InDoubt::new(picked, 1, 0), None, Some(0));
    let probe = pick(&mut book, 0).unwrap();
    assert!(probe.has(PROBE));
    book.give_back(probe, upstream);
    assert!(book.claim(1));
    book.begin_anew(first);
    assert!(!pick(&mut book, 0).unwrap().has(PROBE));
    book.settle(1, 0);
    book.give_back(probe, upstream);
    assert_eq!(pick(&mut book, 0), None);
}
