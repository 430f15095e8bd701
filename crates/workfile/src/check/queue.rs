//! Queued routes, and the limits of the queue.

use super::call::probe;
use super::gateway::size;
use super::template::json_path;
use super::{duration, name, time_allowed};
use crate::error::{Findings, Wrong};
use crate::near::{list, nearest};
use crate::raw::{
    self, At, InFlight, KeyUse as RawKeyUse, Name, PrincipalText, RouteText, Saga, Switch, Table,
};
use crate::shape::shorten;
use crate::text::{show_duration, show_size};
use model::flow::Method;
use model::name::SagaName;
use model::queue::{
    BODY_LIMIT, InFlightAnswer, KeyUse, LONGEST_WAIT, Principal, QueueLimits, QueuedRoute, RETENTION_LEAST,
};
use std::time::Duration;

/// The least that a queue must be allowed to hold, in bytes: one body of the default limit.
const BYTES_LEAST: u64 = 1024 * 1024;

/// How the requests of a route are queued. None when they are not.
pub(super) fn queued(
    key: &At<RouteText>,
    method: Method,
    route: &raw::Route,
    sagas: &Table<Name, Saga>,
    findings: &mut Findings,
) -> Option<QueuedRoute> {
    let none = raw::QueuedRoute::default();
    let (switch, raw) = match &route.queue {
        None => {
            keys_of_queued_routes(route, findings);
            return None;
        }
        Some(switch) => match &**switch {
            Switch::Off => {
                saga_without_queue(route, switch, findings);
                return None;
            }
            Switch::On => (switch, &none),
            Switch::With(raw) => (switch, &**raw),
        },
    };
    if method.is_safe() {
        let message = format!("a request by {} changes nothing, so it is not queued", method.as_str());
        let wrong = Wrong::at(switch.span(), message).label("not for this method");
        let help = "`queue` is for POST, PUT, PATCH and DELETE";
        findings.add(wrong.also(key.span(), "of this route").help(help));
    }
    let default = QueuedRoute::default();
    Some(QueuedRoute {
        wait: wait(raw, default.wait, findings),
        order_by: raw.order_by.as_ref().and_then(|path| json_path(path, findings)),
        attempts: raw.attempts.unwrap_or(default.attempts),
        idempotent: raw.idempotent.unwrap_or(default.idempotent),
        probe: raw.probe.as_ref().and_then(|path| probe(path, findings)),
        unknown_hold: duration(raw.unknown_hold.as_ref(), default.unknown_hold, findings),
        max_age: time_allowed(raw.max_age.as_ref(), default.max_age, findings),
        body: body(raw, default.body, findings),
        attempt_timeout: time_allowed(raw.attempt_timeout.as_ref(), default.attempt_timeout, findings),
        in_flight: match raw.in_flight {
            Some(InFlight::Accepted) => InFlightAnswer::Accepted,
            Some(InFlight::Conflict) => InFlightAnswer::Conflict,
            None => default.in_flight,
        },
        key: match route.idempotency_key.as_deref() {
            Some(RawKeyUse::Required) => KeyUse::Required,
            Some(RawKeyUse::Optional) => KeyUse::Optional,
            None => default.key,
        },
        principal: route.principal.as_ref().and_then(|raw| principal(raw, findings)),
        saga: route.saga.as_ref().and_then(|raw| saga(raw, sagas, findings)),
    })
}

/// Keys that mean nothing without a queue.
fn keys_of_queued_routes(route: &raw::Route, findings: &mut Findings) {
    let keys = [
        ("idempotency_key", route.idempotency_key.as_ref().map(At::span)),
        ("principal", route.principal.as_ref().map(At::span)),
        ("saga", route.saga.as_ref().map(At::span)),
    ];
    for (stray, span) in keys {
        let Some(span) = span else { continue };
        let message = format!("`{stray}` is for queued routes, and this one has no `queue`");
        let help = "queue = true has a default for everything";
        findings.add(Wrong::at(span, message).label("needs `queue`").help(help));
    }
}

/// Turned off, a route forwards, and its keys mean nothing. But a saga would not happen, and nobody would be told.
fn saga_without_queue<T>(route: &raw::Route, switch: &At<T>, findings: &mut Findings) {
    let Some(saga) = &route.saga else { return };
    let message = "a saga is carried out by the queue, and here that is off";
    let wrong = Wrong::at(switch.span(), message).label("turned off");
    let help = "without the queue requests go to the service itself, and nothing else is called";
    findings.add(wrong.also(saga.span(), "the saga").help(help));
}

fn wait(raw: &raw::QueuedRoute, default: Duration, findings: &mut Findings) -> Duration {
    let wait = duration(raw.wait.as_ref(), default, findings);
    if let Some(at) = raw.wait.as_ref().filter(|_| wait > LONGEST_WAIT) {
        let message = format!("a client cannot be made to wait for \"{}\"", shorten(at));
        let help =
            "it gets 202 after this time and can ask for the answer later; what comes first is better short";
        let label = format!("at most {}", show_duration(LONGEST_WAIT));
        findings.add(Wrong::at(at.span(), message).label(label).help(help));
    }
    wait
}

fn body(raw: &raw::QueuedRoute, default: u64, findings: &mut Findings) -> u64 {
    let body = size(raw.body.as_ref(), default, findings);
    if let Some(at) = raw.body.as_ref().filter(|_| body > BODY_LIMIT) {
        let message = format!("a body of \"{}\" cannot be queued: it is held in memory whole", shorten(at));
        let label = format!("at most {}", show_size(BODY_LIMIT));
        findings.add(Wrong::at(at.span(), message).label(label));
    }
    body
}

/// Names of fields are the same in either case (RFC 9110, 5.1), those of cookies and claims are not.
fn principal(raw: &At<PrincipalText>, findings: &mut Findings) -> Option<Principal> {
    let token = |name: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !name.is_empty() && name.bytes().all(fits)
    };
    let found = match raw.split_once(':') {
        Some(("header", name)) if token(name) => Some(Principal::Header(name.to_ascii_lowercase())),
        Some(("cookie", name)) if token(name) => Some(Principal::Cookie(name.to_owned())),
        Some(("claim", name)) if !name.is_empty() => Some(Principal::Claim(name.to_owned())),
        Some(_) | None => None,
    };
    if found.is_none() {
        let message = format!("\"{}\" is not a field, a cookie or a claim", shorten(raw));
        let help = "such as \"header:authorization\", \"cookie:session\" or \"claim:sub\"";
        findings.add(Wrong::at(raw.span(), message).label("not a field, cookie or claim").help(help));
    }
    found
}

fn saga(raw: &At<Name>, sagas: &Table<Name, Saga>, findings: &mut Findings) -> Option<SagaName> {
    if sagas.contains_key(raw) {
        return name(raw, SagaName::new, findings);
    }
    let known = || sagas.keys().map(|name| &***name);
    let label = nearest(raw, known());
    let label = label.map_or_else(|| "no such saga".to_owned(), |near| format!("did you mean `{near}`?"));
    let message = format!("there is no saga `{}`", shorten(raw));
    let help = match sagas.is_empty() {
        true => format!(
            "such as:\n[[saga.{}.step]]\nname = \"charge\"\npost = \"payments:/charges\"",
            shorten(raw)
        ),
        false => format!("the sagas are {}", list(known())),
    };
    findings.add(Wrong::at(raw.span(), message).label(label).help(help));
    None
}

/// The limits of the environment's queue.
pub(super) fn limits(raw: Option<&raw::QueueLimits>, findings: &mut Findings) -> QueueLimits {
    let default = QueueLimits::default();
    let Some(raw) = raw else { return default };
    let bytes = size(raw.bytes.as_ref(), default.bytes, findings);
    if let Some(at) = raw.bytes.as_ref().filter(|_| bytes < BYTES_LEAST) {
        let message = format!("a queue of \"{}\" would be full at once", shorten(at));
        let label = format!("at least {}", show_size(BYTES_LEAST));
        findings.add(Wrong::at(at.span(), message).label(label));
    }
    let retention = duration(raw.retention.as_ref(), default.retention, findings);
    if let Some(at) = raw.retention.as_ref().filter(|_| retention < RETENTION_LEAST) {
        let message = format!("\"{}\" is too short to keep what is done", shorten(at));
        let help = "a client that repeats a request under its key must find the first one, not make a second";
        let label = format!("at least {}", show_duration(RETENTION_LEAST));
        findings.add(Wrong::at(at.span(), message).label(label).help(help));
    }
    QueueLimits {
        jobs: raw.jobs.unwrap_or(default.jobs),
        bytes,
        retention,
        concurrency: raw.concurrency.unwrap_or(default.concurrency),
        longest_pause: time_allowed(raw.longest_pause.as_ref(), default.longest_pause, findings),
    }
}
