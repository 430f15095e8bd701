//! Deliveries of traced requests. Each attempt is a span of its own, below that of the request whose job it is, however
//! long that has had its answer.

use super::{Finished, context, cut, own, unix_ns};
use crate::fields;
use crate::ids::{self, Parts, Random};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use model::name::StampId;
use std::net::SocketAddr;
use std::time::Duration;

/// Written into a request that is traced when it is written down. The flag of its `traceparent` would not do: where
/// traces are off it is whatever the client says.
const TRACED: HeaderName = HeaderName::from_static("mainstay-traced");

/// Writes down whether a request is traced, for [`recall`]: what is decided when it comes holds for all its deliveries.
pub(crate) fn remember(is_traced: bool, fields: &mut HeaderMap) {
    match is_traced {
        true => drop(fields.insert(TRACED, HeaderValue::from_static("1"))),
        false => drop(fields.remove(TRACED)),
    }
}

/// Takes out what [`remember`] wrote.
pub(crate) fn recall(fields: &mut HeaderMap) -> bool {
    fields.remove(TRACED).is_some()
}

/// One attempt while it is under way.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(super) parts: Parts,
    pub(super) span: u64,
    /// Nanoseconds since 1970.
    pub(super) started_ns: u64,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct LegEnd {
    pub(crate) duration: Duration,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) job: u64,
    pub(crate) attempt: u32,
    /// It only asked what became of an attempt.
    pub(crate) is_probe: bool,
    /// 0: there was no answer.
    pub(crate) status: u16,
    pub(crate) stamp: Option<(StampId, String)>,
    pub(crate) instance: Option<(u32, SocketAddr)>,
    pub(crate) error: Option<&'static str>,
}

/// An attempt that has ended.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(super) leg: Leg,
    pub(super) end: LegEnd,
}

impl Leg {
    /// Begins one, below the span that the fields name; the service is told of this one instead.
    pub(crate) fn begin(fields: &mut HeaderMap, random: &Random) -> Option<Self> {
        let parts = context(fields)?;
        // An id of zeros is invalid; the 1 costs one bit of 64.
        let span = random.next() | 1;
        let told = HeaderValue::from_bytes(&ids::under(&parts, span)).ok()?;
        fields::set_traceparent(fields, told);
        Some(Self { parts, span, started_ns: unix_ns() })
    }

    pub(crate) fn end(self, end: LegEnd) -> Finished {
        // It waits for the exporter: no longer than it has to be, and in memory of its own.
        let path = cut(&end.path).to_owned();
        let host = end.host.as_ref().and_then(own);
        Finished::Delivery(Box::new(Delivered { leg: self, end: LegEnd { path, host, ..end } }))
    }
}
