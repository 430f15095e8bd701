//! Which requests are traced, what the service is told of it (W3C Trace Context, level 1), and what is known of a
//! traced request, and of each delivery of one that is queued. Requests that are not traced cost one branch while traces
//! are off, and one draw while they are on.

mod export;
mod leg;
mod otlp;

use crate::fields;
use crate::ids::{self, Parts};
use crate::limits::LINE_FIELD_BYTES;
use crate::worker::Worker;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use leg::Delivered;
use model::name::StampId;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use export::start;
pub(crate) use leg::{Leg, LegEnd, recall, remember};

/// The bit of the flags that says whether spans are recorded (W3C Trace Context, 3.2.2.1).
const SAMPLED: u8 = 1;

/// What is decided of the trace of one request.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// The `traceparent` for the instance. None: the one that came, as it is.
    pub(crate) handed_on: Option<HeaderValue>,
    /// What is to be exported. None: the request is not traced.
    pub(crate) draft: Option<Box<Draft>>,
}

/// A traced request while it is under way.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Hexadecimal digits.
    trace: [u8; 32],
    /// The span that sent the request, in hexadecimal digits.
    parent: Option<[u8; 16]>,
    flags: u8,
    /// The span of the request.
    server: u64,
    /// The span of its exchange with an instance.
    client: u64,
    /// Nanoseconds since 1970.
    started_ns: u64,
    method: Method,
    path: String,
    host: Option<HeaderValue>,
    peer: IpAddr,
    /// From the start to the first instance that is asked.
    asked: Option<Duration>,
}

/// How a traced request ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) duration: Duration,
    /// 0: there was no answer.
    pub(crate) status: u16,
    /// Whether the answer is an instance's.
    pub(crate) answered: bool,
    pub(crate) stamp: Option<(StampId, String)>,
    /// The name of its route, `other` among them.
    pub(crate) route: Option<String>,
    pub(crate) instance: Option<(u32, SocketAddr)>,
    pub(crate) attempts: u32,
    /// The number of its job, if it is one.
    pub(crate) job: Option<u64>,
    pub(crate) error: Option<&'static str>,
}

/// What was traced, and has ended.
#[derive(Debug)]
pub(crate) enum Finished {
    Request { draft: Box<Draft>, end: End },
    Delivery(Box<Delivered>),
}

/// Decides whether a request is traced: a trusted proxy's word is taken, for all others `share` of them are. `begun`
/// is the trace that the request begins, if one was made for its id already.
pub(crate) fn decide<B>(
    worker: &Worker,
    share: f64,
    trusted: bool,
    request: &Request<B>,
    peer: IpAddr,
    begun: Option<&HeaderValue>,
) -> Decided {
    let came = context(request.headers());
    let sampled = match &came {
        Some(came) if trusted => came.flags & SAMPLED != 0,
        Some(_) | None => drawn(worker.random(), share),
    };
    let parts = match (&came, begun) {
        (Some(came), _) => *came,
        (None, Some(begun)) => begins(begun.as_bytes()),
        (None, None) => begins(worker.traceparent().as_bytes()),
    };
    let flags = if sampled { parts.flags | SAMPLED } else { parts.flags & !SAMPLED };
    if !sampled && came.is_some_and(|came| came.flags == flags) {
        return Decided::default();
    }
    let client = span_id(worker);
    let handed_on = Some(worker.hand_on(&Parts { flags, ..parts }, client));
    let draft = sampled.then(|| {
        Box::new(Draft {
            trace: parts.trace,
            parent: came.map(|came| came.parent),
            flags,
            server: span_id(worker),
            client,
            started_ns: unix_ns(),
            method: request.method().clone(),
            path: cut(request.uri().path()).to_owned(),
            host: request.headers().get(header::HOST).and_then(own),
            peer,
            asked: None,
        })
    });
    Decided { handed_on, draft }
}

/// What the request says of its trace, if that is one thing and well-formed.
fn context(fields: &HeaderMap) -> Option<Parts> {
    fields::traceparent(fields).and_then(|text| ids::parts(text.as_bytes()))
}

/// What is kept of a text that somebody sent, at most [`LINE_FIELD_BYTES`] as in access lines: traced requests wait for
/// the exporter, thousands of them.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LINE_FIELD_BYTES)]
}

/// As much of a field's value, in memory of its own: a value that came shares that of its whole head.
fn own(value: &HeaderValue) -> Option<HeaderValue> {
    let bytes = value.as_bytes();
    HeaderValue::from_bytes(&bytes[..bytes.len().min(LINE_FIELD_BYTES)]).ok()
}

/// Of a trace that this gateway makes up. Whether it is sampled is decided afterwards.
fn begins(text: &[u8]) -> Parts {
    let made = ids::parts(text).expect("a traceparent of our own is well-formed");
    Parts { flags: 0, ..made }
}

/// An id of zeros is invalid; the 1 costs one bit of 64.
fn span_id(worker: &Worker) -> u64 {
    worker.random() | 1
}

/// Whether a draw is among the first `share` of all, with the 53 bits that a double holds.
fn drawn(random: u64, share: f64) -> bool {
    const STEPS: f64 = (1_u64 << 53) as f64;
    (((random >> 11) as f64) / STEPS) < share
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Draft {
    /// An instance is about to be asked, this long after the start.
    pub(crate) fn ask(&mut self, after: Duration) {
        self.asked.get_or_insert(after);
    }

    /// When an instance was asked, from the start. None: none was.
    fn asked(&self, end: &End) -> Option<Duration> {
        self.asked.filter(|_| end.attempts > 0)
    }

    /// It has ended.
    pub(crate) fn end(self: Box<Self>, end: End) -> Finished {
        Finished::Request { draft: self, end }
    }
}

impl Finished {
    /// How many spans it is exported as: its own, and one for the exchange of a request with an instance.
    pub(crate) fn spans(&self) -> u64 {
        match self {
            Self::Request { draft, end } => 1 + u64::from(draft.asked(end).is_some()),
            Self::Delivery(_) => 1,
        }
    }
}

impl Decided {
    /// The `traceparent` that is written down with a request that becomes a job: its deliveries are below its own span,
    /// for it has no exchange with an instance.
    pub(crate) fn for_job(&self, worker: &Worker) -> Option<HeaderValue> {
        match &self.draft {
            Some(draft) => {
                let parts = Parts { trace: draft.trace, parent: [b'0'; 16], flags: draft.flags };
                Some(worker.hand_on(&parts, draft.server))
            }
            None => self.handed_on.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_all_draws() {
        for (random, share, expected) in [
            (0, 0.0, false),
            (0, 0.01, true),
            (u64::MAX, 1.0, true),
            (u64::MAX, 0.999, false),
            (u64::MAX / 2, 0.5, true),
            (u64::MAX / 2 + 2048, 0.5, false),
        ] {
            assert_eq!(drawn(random, share), expected, "{random} of {share}");
        }
    }
}
