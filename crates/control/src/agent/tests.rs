use super::*;
use crate::testing::configuration;
use model::name::ReleaseNumber;

fn switching() -> Current {
    let request = ReleaseRequest {
        v: api::PROTOCOL_VERSION,
        key: "k".into(),
        name: None,
        sources: BTreeMap::new(),
        configuration: configuration(),
        rehearse: false,
    };
    let record = ReleaseRecord {
        number: ReleaseNumber(2),
        name: "two".into(),
        created_ms: 0,
        old: Some(StampId(1)),
        request: String::new(),
        release: None,
        state: State::Switching,
        state_since_ms: 0,
        switch_ns: None,
        rollback_ns: None,
        rehearsal_ns: None,
    };
    Current::new(record, request, None, Kept::default())
}

#[test]
fn what_waits_for_an_instance_has_its_time_afterwards() {
    let (mut current, entered) = (switching(), Instant::now());
    current.deadline = Some(entered + machine::SWITCH_LIMIT);
    // It begins at once: nothing changes.
    current.begin(entered);
    assert_eq!((current.deadline, current.record.state_since_ms), (Some(entered + machine::SWITCH_LIMIT), 0));

    current.begun = false;
    let late = entered + machine::SWITCH_LIMIT - Duration::from_secs(1);
    current.wait(late);
    let waits_until = current.deadline.unwrap();
    assert!(waits_until >= late + machine::DEADLINE_SLACK, "the instance has time to get ready");
    // It waits once, whatever changes meanwhile.
    current.wait(waits_until);
    assert_eq!(current.deadline, Some(waits_until));
    let begun = waits_until - Duration::from_secs(1);
    current.begin(begun);
    assert!(current.begun && current.record.state_since_ms > 0);
    assert_eq!(current.deadline, Some(begun + machine::SWITCH_LIMIT));
}

#[test]
fn a_short_wait_takes_no_time_away_and_going_down_has_no_deadline() {
    let (mut current, now) = (switching(), Instant::now());
    let long = now + Duration::from_secs(86_400);
    current.deadline = Some(long);
    current.wait(now);
    assert_eq!(current.deadline, Some(long));
    let mut current = switching();
    current.wait(now);
    assert_eq!(current.deadline, None);
}
