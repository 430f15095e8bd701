use super::*;
use crate::saga::CallState;
use model::flow::{JsonPath, JsonTemplate};
use model::name::ComponentName;
use model::queue::{InFlightAnswer, SagaCall, SagaStep};
use model::template::Template;
use proptest::prelude::*;
use std::time::Duration;

fn saga() -> Saga {
    let call = SagaCall {
        method: Method::Post,
        to: ComponentName::new("payments").unwrap(),
        path: Template::parse("/charges/{body:$.id}", |_| true).unwrap(),
        json: Some(JsonTemplate::List(vec![
            JsonTemplate::Null,
            JsonTemplate::Integer(5),
            JsonTemplate::Float(0.5),
        ])),
    };
    let step = SagaStep {
        name: "charge".into(),
        call: call.clone(),
        undo: Some(SagaCall { json: None, ..call }),
        attempts: 3,
        idempotent: true,
        probe: Some(Template::literal("/x")),
        timeout: Duration::from_millis(1500),
    };
    Saga { answer: "charge".into(), steps: vec![step] }
}

fn request(fields: Fields, body: Bytes) -> StoredRequest {
    let head = Head {
        method: Method::Patch,
        target: "/a?b".into(),
        key: "k\"1".into(),
        given: true,
        user: Some(u64::MAX),
        traffic: crate::submission::Traffic::Preview,
        from_ms: -5,
        seed: Some("s".into()),
        generation: 3,
    };
    let settings = QueuedRoute {
        order_by: Some(JsonPath("$.customer".into())),
        in_flight: InFlightAnswer::Conflict,
        wait: Duration::from_millis(250),
        ..QueuedRoute::default()
    };
    StoredRequest { head, settings: Arc::new(settings), saga: Some(Arc::new(saga())), fields, body }
}

#[test]
fn usual_settings_take_no_room() {
    assert_eq!(encode_settings(&QueuedRoute::default()), "{}");
    let own = QueuedRoute { attempts: 3, ..QueuedRoute::default() };
    assert_eq!(encode_settings(&own), r#"{"attempts":3}"#);
}

/// What version 1 wrote is read for ever.
#[test]
fn an_older_record_is_read() {
    let head = br#"{"method":"POST","target":"/a","key":"k"}"#;
    let mut record = BytesMut::new();
    record.put_u8(1);
    for part in [&head[..], br#"{"attempts":7}"#, b""] {
        put_part(&mut record, part);
    }
    record.put_u32(1);
    put_part(&mut record, b"accept");
    put_part(&mut record, b"*/*");
    record.put_slice(b"body");
    let read = StoredRequest::decode(record.freeze()).unwrap();
    assert_eq!(read.head.key, "k");
    assert_eq!((read.settings.attempts, read.settings.wait), (7, QueuedRoute::default().wait));
    assert_eq!(read.fields, [(Bytes::from_static(b"accept"), Bytes::from_static(b"*/*"))]);
    assert_eq!((read.saga, read.body), (None, Bytes::from_static(b"body")));
}

#[test]
fn a_newer_record_is_refused_by_its_version() {
    let mut record = request(Vec::new(), Bytes::new()).encode_alone().to_vec();
    record[0] = 2;
    assert_eq!(StoredRequest::decode(record.into()), Err(CodecError::Newer(2)));
    assert_eq!(Answer::decode(Bytes::from_static(&[9, 0])), Err(CodecError::Newer(9)));
    assert!(matches!(Answer::decode(Bytes::new()), Err(CodecError::Malformed(_))));
}

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        fields in proptest::collection::vec((bytes(9), bytes(9)), 0..5),
        body in bytes(40),
        status in 100_u16..600,
        truncated: bool,
        cut in 0_usize..2000,
    ) {
        let request = request(fields.clone(), body.clone());
        let record = request.encode_alone();
        prop_assert_eq!(StoredRequest::decode(record.clone()).unwrap(), request);
        let answer = Answer { status, fields, body, truncated };
        prop_assert_eq!(Answer::decode(answer.encode()).unwrap(), answer.clone());
        for answer in [None, Some(answer)] {
            let head = StepHead {
                state: CallState::Done, generation: 2, attempts: 3, excused: 1, doubt: true, doubt_ms: 5, why: "x".into(),
            };
            let step = StoredStep { head, answer };
            prop_assert_eq!(StoredStep::decode(step.encode()).unwrap(), step);
        }
        // Whatever is cut off or mixed up is an error or another record, never a panic.
        let _ = StoredRequest::decode(record.slice(..cut.min(record.len())));
    }

    #[test]
    fn noise_is_no_record(noise in bytes(200)) {
        let mut record = vec![1];
        record.extend(&noise);
        let _ = StoredRequest::decode(record.clone().into());
        let _ = StoredStep::decode(record.clone().into());
        let _ = Answer::decode(record.into());
    }
}
