//! Everything that goes wrong with a request, and the one place that says what the client gets.

use crate::body::AnswerBody;
use crate::guard::framing::Rejection;
use crate::limits::RETRY_AFTER;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER as RETRY_AFTER_FIELD};
use http::{Response, StatusCode};
use std::borrow::Cow;

/// What went wrong. The label is stable: it is the end of the problem's `type`, the `error` of the access line
/// and the `kind` of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed,
    HeadTooLarge,
    HeadTimeout,
    Version,
    Coding,
    Connect,
    WrongHost,
    BadStamp,
    PreviewRefused,
    NoCandidate,
    NoInstance,
    NoActiveStamp,
    NoReadyInstance,
    Overloaded,
    BodyTooLarge,
    BodyTimeout,
    ConnectFailed,
    UpstreamCut,
    UpstreamMalformed,
    Timeout,
    ClientGone,
    IdleTimeout,
    DrainCut,
    KeyMissing,
    KeyMalformed,
    KeyReused,
    KeyOfOthers,
    KeyInFlight,
    BadDelivery,
    BadBody,
    QueueClosed,
    QueueFull,
    QueueTimeout,
    NotDelivered,
    GivenUp,
    NoJob,
    JobGone,
    JobBegun,
    JobMethod,
    NoResponse,
}

/// What the client sees of a fault.
struct Public {
    label: &'static str,
    /// None: there is no answer, or one had begun.
    status: Option<StatusCode>,
    title: &'static str,
    /// The connection is closed, because what follows on it cannot be told apart from what was refused.
    close: bool,
}

impl Fault {
    /// All of them, in order.
    pub(crate) const ALL: [Self; 40] = [
        Self::Malformed,
        Self::HeadTooLarge,
        Self::HeadTimeout,
        Self::Version,
        Self::Coding,
        Self::Connect,
        Self::WrongHost,
        Self::BadStamp,
        Self::PreviewRefused,
        Self::NoCandidate,
        Self::NoInstance,
        Self::NoActiveStamp,
        Self::NoReadyInstance,
        Self::Overloaded,
        Self::BodyTooLarge,
        Self::BodyTimeout,
        Self::ConnectFailed,
        Self::UpstreamCut,
        Self::UpstreamMalformed,
        Self::Timeout,
        Self::ClientGone,
        Self::IdleTimeout,
        Self::DrainCut,
        Self::KeyMissing,
        Self::KeyMalformed,
        Self::KeyReused,
        Self::KeyOfOthers,
        Self::KeyInFlight,
        Self::BadDelivery,
        Self::BadBody,
        Self::QueueClosed,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::NotDelivered,
        Self::GivenUp,
        Self::NoJob,
        Self::JobGone,
        Self::JobBegun,
        Self::JobMethod,
        Self::NoResponse,
    ];

    fn public(self) -> Public {
        use StatusCode as S;
        let answer = |label, status, title| Public { label, status: Some(status), title, close: false };
        let last = |label, status, title| Public { label, status: Some(status), title, close: true };
        let cut = |label, title| Public { label, status: None, title, close: true };
        match self {
            Self::Malformed => last("malformed", S::BAD_REQUEST, "The request is malformed"),
            Self::HeadTooLarge => {
                last("head_too_large", S::REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too large")
            }
            Self::HeadTimeout => {
                last("head_timeout", S::REQUEST_TIMEOUT, "The request's head did not come in time")
            }
            Self::Version => {
                last("version", S::HTTP_VERSION_NOT_SUPPORTED, "Only HTTP/1.0 and HTTP/1.1 are served here")
            }
            Self::Coding => {
                last("coding", S::NOT_IMPLEMENTED, "No transfer coding but chunked is understood")
            }
            Self::Connect => last("connect", S::NOT_IMPLEMENTED, "CONNECT is not served here"),
            Self::WrongHost => answer("wrong_host", S::MISDIRECTED_REQUEST, "This host is not served here"),
            Self::BadStamp => {
                answer("bad_stamp", S::BAD_REQUEST, "The wanted stamp or instance is not a valid one")
            }
            Self::PreviewRefused => {
                answer("preview_refused", S::FORBIDDEN, "The preview token is missing or wrong")
            }
            Self::NoCandidate => answer("no_candidate", S::NOT_FOUND, "There is no candidate"),
            Self::NoInstance => answer("no_instance", S::NOT_FOUND, "There is no such instance"),
            Self::NoActiveStamp => answer("no_active_stamp", S::SERVICE_UNAVAILABLE, "No release is serving"),
            Self::NoReadyInstance => {
                answer("no_ready_instance", S::SERVICE_UNAVAILABLE, "No instance is ready")
            }
            Self::Overloaded => {
                answer("overloaded", S::SERVICE_UNAVAILABLE, "Too many requests are in flight")
            }
            Self::BodyTooLarge => {
                last("body_too_large", S::PAYLOAD_TOO_LARGE, "The request's body is too large")
            }
            Self::BodyTimeout => {
                last("body_timeout", S::REQUEST_TIMEOUT, "The request's body did not come in time")
            }
            Self::ConnectFailed => answer("connect_failed", S::BAD_GATEWAY, "The service cannot be reached"),
            Self::UpstreamCut => {
                answer("upstream_cut", S::BAD_GATEWAY, "The service closed the connection without an answer")
            }
            Self::UpstreamMalformed => {
                answer("upstream_malformed", S::BAD_GATEWAY, "The service's answer is not HTTP")
            }
            Self::Timeout => answer("timeout", S::GATEWAY_TIMEOUT, "The service did not answer in time"),
            Self::ClientGone => cut("client_gone", "The client closed the connection"),
            Self::IdleTimeout => cut("idle_timeout", "A body paused for too long"),
            Self::DrainCut => cut("drain_cut", "The gateway stopped before the answer ended"),
            Self::KeyMissing => answer("key_missing", S::BAD_REQUEST, "An Idempotency-Key is needed here"),
            Self::KeyMalformed => answer("key_malformed", S::BAD_REQUEST, "The Idempotency-Key is malformed"),
            Self::KeyReused => answer(
                "key_reused",
                S::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key was used for another request",
            ),
            Self::KeyOfOthers => answer(
                "key_of_others",
                S::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key was used with other credentials",
            ),
            Self::KeyInFlight => {
                answer("key_in_flight", S::CONFLICT, "A request with this Idempotency-Key is not done yet")
            }
            Self::BadDelivery => {
                answer("bad_delivery", S::BAD_REQUEST, "The wanted time of delivery is not a valid one")
            }
            Self::BadBody => answer("bad_body", S::BAD_REQUEST, "The request's body lacks what is needed"),
            Self::QueueClosed => {
                answer("queue_closed", S::SERVICE_UNAVAILABLE, "Requests cannot be queued here now")
            }
            Self::QueueFull => {
                answer("queue_full", S::SERVICE_UNAVAILABLE, "The queue takes no more requests")
            }
            Self::QueueTimeout => {
                answer("queue_timeout", S::GATEWAY_TIMEOUT, "Whether the request was queued is not known")
            }
            Self::NotDelivered => {
                answer("not_delivered", S::BAD_GATEWAY, "The request could not be delivered to the service")
            }
            Self::GivenUp => {
                answer("given_up", S::CONFLICT, "The request was taken back before it was delivered")
            }
            Self::NoJob => answer("no_job", S::NOT_FOUND, "There is no such job"),
            Self::JobGone => answer("job_gone", S::GONE, "The job is not kept any longer"),
            Self::JobBegun => answer("job_begun", S::CONFLICT, "The job is taken back too late"),
            Self::JobMethod => {
                answer("job_method", S::METHOD_NOT_ALLOWED, "The job does not know this method")
            }
            Self::NoResponse => answer("no_response", S::NOT_FOUND, "The job has no response"),
        }
    }

    /// The stable name.
    pub(crate) fn label(self) -> &'static str {
        self.public().label
    }

    /// Whether the answer was refused or cut on this side of the client.
    pub(crate) fn counts_as_failed(self) -> bool {
        let refused = self.public().status.is_some_and(|status| matches!(status.as_u16(), 502..=504));
        refused || matches!(self, Self::IdleTimeout | Self::DrainCut)
    }
}

/// A fault as it is answered: the status by [`Fault::public`], a detail with the value seen.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) fault: Fault,
    pub(crate) detail: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(fault: Fault, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { fault, detail: detail.into() }
    }

    /// The answer: problem+json (RFC 9457), never stored by a cache.
    pub(crate) fn answer(&self) -> Response<AnswerBody> {
        let public = self.fault.public();
        let status = public.status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let name = public.label.replace('_', "-");
        let problem = serde_json::json!({
            "type": format!("urn:mainstay:problem:{name}"),
            "title": public.title,
            "status": status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(AnswerBody::own(Bytes::from(problem.to_string())));
        *response.status_mut() = status;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            fields.insert(RETRY_AFTER_FIELD, HeaderValue::from_static(RETRY_AFTER));
        }
        if public.close {
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<Rejection> for Refusal {
    fn from(why: Rejection) -> Self {
        match why {
            Rejection::Malformed(what) => Self::new(Fault::Malformed, what),
            Rejection::HeadTooLarge(what) => Self::new(Fault::HeadTooLarge, format!("too many {what}")),
            Rejection::Version => Self::new(Fault::Version, "another version was asked for"),
            Rejection::Coding => Self::new(Fault::Coding, "another transfer coding was used"),
            Rejection::HeadTime => Self::new(Fault::HeadTimeout, "it was awaited for 10 s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_in_the_order_of_the_metric_and_unique() {
        let labels: std::collections::BTreeSet<_> = Fault::ALL.iter().map(|fault| fault.label()).collect();
        assert_eq!(labels.len(), Fault::ALL.len());
        for (index, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, index);
        }
    }

    #[test]
    fn unavailable_says_when_to_try_again() {
        for fault in Fault::ALL {
            let response = Refusal::new(fault, "x").answer();
            let unavailable = response.status() == StatusCode::SERVICE_UNAVAILABLE;
            assert_eq!(response.headers().contains_key(RETRY_AFTER_FIELD), unavailable, "{fault:?}");
        }
    }
}
