use super::*;
use model::name::{ComponentName, ReleaseNumber, StampId};
use model::workload::GatewaySettings;

fn stamp(number: u64, ports: &[u16]) -> TableStamp {
    let release = ReleaseNumber(number);
    let instance = |(index, port): (usize, &u16)| TableInstance {
        index: index as u32,
        address: SocketAddr::from(([127, 0, 0, 1], *port)),
        pid: 1,
    };
    TableStamp {
        stamp: release.stamp(),
        release,
        name: format!("r{number}"),
        instances: ports.iter().enumerate().map(instance).collect(),
        settings: GatewaySettings {
            access_log: false,
            ..GatewaySettings::of(ComponentName::new("a").unwrap())
        },
        upstreams: Default::default(),
    }
}

fn table(active: Option<TableStamp>, candidate: Option<TableStamp>) -> Table {
    Table {
        preview_token: "t".into(),
        trusted_proxies: vec![],
        active,
        candidate,
        weight: 0,
        fallback: None,
        guard: None,
        previous: None,
        kept: None,
    }
}

fn target(ports: &[u16]) -> Target {
    Target::next(None, &[], &stamp(1, ports), &Metrics::new(1))
}

#[test]
fn slots_and_instances_live_on_as_long_as_tables_name_them() {
    let metrics = Metrics::new(1);
    let (first, gone) =
        Routes::default().next(&table(Some(stamp(1, &[1, 2])), Some(stamp(2, &[3]))), &metrics);
    assert!(gone.is_empty());
    let (promoted, gone) = first.next(&table(Some(stamp(2, &[3, 4])), None), &metrics);
    assert_eq!(gone.iter().map(|slot| slot.stamp).collect::<Vec<_>>(), [StampId(1)]);
    let (before, after) = (first.candidate.as_ref().unwrap(), promoted.active.as_ref().unwrap());
    assert!(Arc::ptr_eq(&before.slot, &after.slot));
    assert!(Arc::ptr_eq(&before.instances[0], &after.instances[0]));
    assert!(promoted.names(before.instances[0].key));
    assert!(!promoted.names(first.active.as_ref().unwrap().instances[0].key));
    // A stamp that comes back has a new slot: the old one stays closed for what is still in flight on it.
    // So has one that serves no longer: its last dispatch is the end of the switch.
    let (back, gone) = promoted.next(&table(Some(stamp(1, &[1, 2])), Some(stamp(2, &[3, 4]))), &metrics);
    assert!(gone.len() == 1 && Arc::ptr_eq(&gone[0], &promoted.active.as_ref().unwrap().slot));
    assert!(!Arc::ptr_eq(&gone[0], &back.candidate.as_ref().unwrap().slot));
    assert!(!Arc::ptr_eq(&first.active.as_ref().unwrap().slot, &back.active.as_ref().unwrap().slot));
}

#[test]
fn a_stamp_that_is_named_twice_has_one_slot() {
    let (routes, _) =
        Routes::default().next(&table(Some(stamp(1, &[1])), Some(stamp(1, &[1]))), &Metrics::new(1));
    assert!(Arc::ptr_eq(&routes.active.as_ref().unwrap().slot, &routes.candidate.as_ref().unwrap().slot));
    let (_, gone) = routes.next(&table(None, None), &Metrics::new(1));
    assert_eq!(gone.len(), 1);
}

#[test]
fn the_least_loaded_is_chosen_and_ties_fall_everywhere() {
    let target = target(&[1, 2, 3, 4]);
    assert!(target.instances[1].hold(10));
    let mut dice = 0_u64;
    let mut hits = [0; 4];
    for _ in 0..3000 {
        let random = || {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            dice >> 33
        };
        hits[target.choose(0, None, &[], random).unwrap()] += 1;
    }
    assert_eq!(hits[1], 0);
    assert!(hits.iter().enumerate().all(|(i, n)| i == 1 || *n > 800), "{hits:?}");
}

#[test]
fn ejection_and_passing_over_never_leave_none_but_all() {
    let target = target(&[1, 2]);
    target.instances[0].eject(1000);
    for _ in 0..10 {
        assert_eq!(target.choose(1500, None, &[], || 0), Some(1));
    }
    assert_eq!(target.choose(1500, None, &[1], || 0), Some(0), "the ejected one is better than none");
    assert_eq!(target.choose(1500, Some(0), &[], || 0), Some(0));
    assert_eq!(target.choose(1500, Some(7), &[], || 0), None);
    assert_eq!(target.choose(1500, None, &[0, 1], || 0), None);
    target.instances[1].eject(1000);
    assert!(target.choose(1500, None, &[], || 0).is_some());
    assert!(!target.instances[0].is_ejected(2000));
}

#[test]
fn an_instance_takes_as_many_as_the_limit_says() {
    let target = target(&[1]);
    let instance = &target.instances[0];
    assert!(instance.hold(2) && instance.hold(2) && !instance.hold(2));
    assert_eq!(instance.in_flight(), 2);
    instance.release();
    assert!(instance.hold(2));
}

fn slot(target: &Option<Arc<Target>>) -> Arc<Slot> {
    Arc::clone(&target.as_ref().unwrap().slot)
}

#[test]
fn a_fallback_has_a_slot_of_its_own_and_the_same_instances() {
    let metrics = Metrics::new(1);
    let (first, _) = Routes::default().next(&table(Some(stamp(1, &[1])), None), &metrics);
    let mut switched = table(Some(stamp(2, &[2])), None);
    switched.fallback = Some(stamp(1, &[1]));
    let (second, gone) = first.next(&switched, &metrics);
    assert!(gone.len() == 1 && Arc::ptr_eq(&gone[0], &slot(&first.active)));
    assert!(!Arc::ptr_eq(&slot(&first.active), &slot(&second.fallback)));
    let instance = |target: &Option<Arc<Target>>| Arc::clone(&target.as_ref().unwrap().instances[0]);
    assert!(Arc::ptr_eq(&instance(&first.active), &instance(&second.fallback)));
    assert!(second.names(instance(&second.fallback).key));
    // It keeps the slot as long as it is the fallback.
    let (third, gone) = second.next(&switched, &metrics);
    assert!(gone.is_empty() && Arc::ptr_eq(&slot(&second.fallback), &slot(&third.fallback)));
    // And back: users begin anew on a slot that was never closed.
    let (back, gone) = third.next(&table(Some(stamp(1, &[1])), Some(stamp(2, &[2]))), &metrics);
    let closed = |slot: Arc<Slot>| gone.iter().any(|gone| Arc::ptr_eq(gone, &slot));
    assert!(gone.len() == 2 && closed(slot(&third.fallback)) && closed(slot(&third.active)));
    assert!(!Arc::ptr_eq(&slot(&third.fallback), &slot(&back.active)));
    assert!(!Arc::ptr_eq(&slot(&third.active), &slot(&back.candidate)));
}

#[test]
fn a_weight_needs_two_stamps() {
    let metrics = Metrics::new(1);
    for (active, candidate, shifts) in [(true, true, true), (true, false, false), (false, true, false)] {
        let mut table = table(active.then(|| stamp(1, &[1])), candidate.then(|| stamp(2, &[2])));
        table.weight = 1;
        let (routes, _) = Routes::default().next(&table, &metrics);
        assert_eq!(routes.shift().map(|shift| shift.weight), shifts.then_some(1));
    }
}

#[test]
fn an_instance_is_ejected_after_five_errors_in_a_row_unless_it_is_the_last() {
    let target = target(&[1, 2]);
    let [one, two] = &target.instances[..] else { panic!("two instances") };
    for _ in 0..4 {
        target.answered(one, true, 1000);
    }
    target.answered(one, false, 1000);
    for _ in 0..4 {
        target.answered(one, true, 1000);
    }
    assert!(!one.is_ejected(1000), "a success begins the count anew");
    target.answered(one, true, 1000);
    assert!(one.is_ejected(1500) && !one.is_ejected(2000));
    for _ in 0..10 {
        target.answered(two, true, 1500);
    }
    assert!(!two.is_ejected(1500), "the last one stays");
    target.answered(two, true, 2000);
    assert!(two.is_ejected(2000), "there is another one again");
}
