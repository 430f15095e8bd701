//! From a claimed stamp to an answer: instance choice, connection, exchange, and what may be tried again.
//!
//! A request that surely was not sent may go anywhere: to another instance, to the stamp that takes over from one
//! that retires or whose guard has tripped, and to the active stamp if the candidate was chosen by weight and has no
//! instance that takes it; where no instance takes it, it may wait for one (`hold`). One that may have been sent is sent again only if it is safe (RFC 9110, 9.2.1), has no
//! body, got no byte of an answer, and the budget for it lasts. Everything else ends here: a write is never sent
//! twice.

use crate::body::RequestBody;
use crate::choice::Choice;
use crate::client::Upload;
use crate::exchange::Exchange;
use crate::fault::{Fault, Refusal};
use crate::hold::{hold, hold_for_room};
use crate::limits::{CONNECT_TRIES, UNSENT_TRIES};
use crate::request::{claim, too_large};
use crate::routes::{Local, Routes, Target};
use crate::upstream::Upstream;
use http::header::{HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::{Body as _, Incoming};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::time::Instant;

/// What was tried for one request.
#[derive(Default)]
struct Tries {
    /// Positions of instances that did not take a connection, in the target of the claim.
    unreachable: Vec<usize>,
    connects: u32,
    /// Connections that turned out to be closed.
    handed_back: u32,
    repeated: bool,
    /// When its patience with instances that are away ends.
    held_until: Option<Instant>,
}

/// How one exchange ended.
pub(crate) enum Sent {
    Answered(Response<Incoming>),
    /// Nothing was written; here it is again.
    Unsent(Request<RequestBody>),
    /// No byte of an answer came.
    Died,
    Refused(Refusal),
}

/// What a safe request without a body is made from again.
pub(crate) struct Again {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
}

/// Brings `request` to an instance of the claimed stamp and returns its answer, with the connection it comes on.
/// Dropped before it is ready, the upstream connection is closed.
pub(crate) async fn forward(
    exchange: &mut Exchange,
    choice: &mut Choice,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Box<Upstream>), Refusal> {
    let again = remember(exchange, &request);
    let mut tries = Tries::default();
    loop {
        let (mut upstream, target) = connection(exchange, choice, &request, &mut tries).await?;
        if !request.headers().contains_key(HOST) {
            // Only HTTP/1.0 may come without, and HTTP/1.1 may not go without.
            let address =
                exchange.claim.as_ref().and_then(|claim| claim.instance()).map(|i| i.address.to_string());
            let address =
                HeaderValue::try_from(address.unwrap_or_default()).expect("an address is visible ASCII");
            request.headers_mut().insert(HOST, address);
        }
        exchange.attempts += 1;
        match send(exchange, &target, &mut upstream, request).await {
            Sent::Answered(response) => {
                if let Some(instance) = exchange.claim.as_ref().and_then(|claim| claim.instance()) {
                    target.answered(instance, response.status().is_server_error(), exchange.worker.now_ms());
                }
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    let detail = "the service switched protocols, which was not asked for";
                    return Err(Refusal::new(Fault::UpstreamMalformed, detail));
                }
                return Ok((response, upstream));
            }
            Sent::Unsent(unsent) if tries.handed_back < UNSENT_TRIES => {
                exchange.attempts -= 1;
                tries.handed_back += 1;
                request = unsent;
            }
            Sent::Unsent(_) => return Err(cut("every connection was closed before it was used")),
            Sent::Died => match &again {
                Some(again) if !tries.repeated && exchange.worker.may_repeat() => {
                    tries.repeated = true;
                    request = again.request(exchange);
                }
                Some(_) | None => return Err(cut("the connection ended before an answer began")),
            },
            Sent::Refused(refusal) => return Err(refusal),
        }
    }
}

fn cut(detail: &'static str) -> Refusal {
    Refusal::new(Fault::UpstreamCut, detail)
}

/// A connection to an instance of the claimed stamp: an idle one, or a new one. If users are taken from the stamp
/// while a connection is being made, the one they go to is claimed instead.
async fn connection(
    exchange: &mut Exchange,
    choice: &mut Choice,
    request: &Request<RequestBody>,
    tries: &mut Tries,
) -> Result<(Box<Upstream>, Rc<Local>), Refusal> {
    loop {
        let target = match hold_instance(exchange, choice, tries) {
            Ok(target) => target,
            Err(refusal) if refusal.fault == Fault::NoReadyInstance => {
                let claim = exchange.claim.as_ref().expect("a request is forwarded under a claim");
                let target = Rc::clone(&claim.target);
                if choice.wish.is_none() {
                    exchange.worker.connect_failed(&target);
                }
                if is_left(exchange, choice, &target) {
                    claim_again(exchange, choice, request, tries)?;
                } else if let Some(diverted) = divert(exchange, choice, request, tries) {
                    diverted?;
                } else {
                    wait(exchange, choice, request, tries, refusal).await?;
                }
                continue;
            }
            Err(refusal) => {
                // Only those who have waited already: whom there is no room for otherwise is told at once.
                let target =
                    Rc::clone(&exchange.claim.as_ref().expect("a request is forwarded under a claim").target);
                hold_for_room(exchange, &target, tries.held_until, refusal).await?;
                claim_again(exchange, choice, request, tries)?;
                continue;
            }
        };
        let claimed = exchange.claim.as_ref().and_then(|claim| claim.instance().map(Arc::clone));
        let instance = claimed.expect("an instance is held by now");
        if let Some(upstream) = exchange.worker.take_connection(instance.key, tries.handed_back > 0) {
            return Ok((upstream, target));
        }
        match Upstream::connect(instance.address, target.settings.limits.connect_timeout).await {
            Ok(upstream) if is_left(exchange, choice, &target) => {
                // Nothing was sent yet, so the request belongs to whoever serves now.
                exchange.keep(upstream);
                claim_again(exchange, choice, request, tries)?;
            }
            Ok(upstream) => return Ok((upstream, target)),
            Err(cause) => {
                instance.eject(exchange.worker.now_ms());
                let position = target.instances.iter().position(|i| i.key == instance.key);
                tries.unreachable.extend(position);
                tries.connects += 1;
                tracing::debug!(instance = instance.index, address = %instance.address, %cause, "no connection");
                if choice.wish.is_none() {
                    exchange.worker.connect_failed(&target);
                }
                let pinned = choice.wish.instance.is_some();
                let others = tries.unreachable.len() < target.instances.len() && !pinned;
                if is_left(exchange, choice, &target) {
                    claim_again(exchange, choice, request, tries)?;
                } else if !others || tries.connects >= CONNECT_TRIES {
                    if let Some(diverted) = divert(exchange, choice, request, tries) {
                        diverted?;
                        continue;
                    }
                    let failed = Refusal::new(Fault::ConnectFailed, "no instance tried takes a connection");
                    wait(exchange, choice, request, tries, failed).await?;
                }
            }
        }
    }
}

/// Whether a request that was not sent yet is no longer the claimed stamp's: its slot was closed, or its user is on
/// another one by now, because the guard has tripped or the weight was changed. What was asked for at the preview
/// door stays.
fn is_left(exchange: &Exchange, choice: &Choice, target: &Target) -> bool {
    let same = |routes: &Routes| {
        choice.target(routes).is_ok_and(|chosen| Arc::ptr_eq(&chosen.target.slot, &target.slot))
    };
    target.slot.is_closed() || (choice.wish.is_none() && !exchange.worker.with_routes(same))
}

/// Claims the stamp that the choice leads to by now.
fn claim_again(
    exchange: &mut Exchange,
    choice: &Choice,
    request: &Request<RequestBody>,
    tries: &mut Tries,
) -> Result<(), Refusal> {
    let claim = claim(&exchange.worker, choice, request)?;
    let limits = &claim.target.settings.limits;
    exchange.client().set_timeouts(limits.first_byte_timeout, limits.idle_timeout);
    exchange.claim = Some(claim);
    tries.unreachable.clear();
    Ok(())
}

/// Waits for an instance, then claims the stamp that the choice leads to by then.
async fn wait(
    exchange: &mut Exchange,
    choice: &Choice,
    request: &Request<RequestBody>,
    tries: &mut Tries,
    refusal: Refusal,
) -> Result<(), Refusal> {
    let target = Rc::clone(&exchange.claim.as_ref().expect("a request is forwarded under a claim").target);
    hold(exchange, choice, &target, &mut tries.held_until, refusal).await?;
    tries.connects = 0;
    claim_again(exchange, choice, request, tries)
}

/// Claims the active stamp for a request whose candidate does not take it. None: the candidate was asked for, or is
/// not what was claimed. Once at most for a request.
fn divert(
    exchange: &mut Exchange,
    choice: &mut Choice,
    request: &Request<RequestBody>,
    tries: &mut Tries,
) -> Option<Result<(), Refusal>> {
    if !exchange.claim.as_ref()?.by_weight {
        return None;
    }
    choice.divert();
    tries.connects = 0;
    Some(claim_again(exchange, choice, request, tries))
}

/// Holds the best instance that has room.
fn hold_instance(exchange: &mut Exchange, choice: &Choice, tries: &Tries) -> Result<Rc<Local>, Refusal> {
    let claim = exchange.claim.as_mut().expect("a request is forwarded under a claim");
    let target = Rc::clone(&claim.target);
    claim.let_go();
    let worker = &exchange.worker;
    let mut full: Vec<usize> = Vec::new();
    loop {
        let chosen = if full.is_empty() {
            target.choose(worker.now_ms(), choice.wish.instance, &tries.unreachable, || worker.random())
        } else {
            let passed: Vec<usize> = full.iter().chain(&tries.unreachable).copied().collect();
            target.choose(worker.now_ms(), choice.wish.instance, &passed, || worker.random())
        };
        let Some(position) = chosen else {
            return Err(if full.is_empty() {
                Refusal::new(Fault::NoReadyInstance, "the release has no ready instance")
            } else {
                let limit = target.settings.limits.in_flight;
                Refusal::new(Fault::Overloaded, format!("every instance has {limit} requests in flight"))
            });
        };
        if target.instances[position].hold(target.settings.limits.in_flight) {
            claim.hold(position);
            return Ok(target);
        }
        full.push(position);
    }
}

pub(crate) async fn send(
    exchange: &Exchange,
    target: &Target,
    upstream: &mut Upstream,
    request: Request<RequestBody>,
) -> Sent {
    let client = exchange.client();
    client.await_answer();
    let read_before = upstream.bytes_read();
    let mut answer = pin!(upstream.send(request));
    let mut dispatched = false;
    let result = poll_fn(|_| {
        if client.deadline_passed() {
            return Poll::Ready(None);
        }
        client.drive(|cx| upstream.drive(cx));
        if !dispatched {
            dispatched = true;
            target.slot.dispatched();
        }
        let mut nobody = Context::from_waker(Waker::noop());
        answer.as_mut().poll(&mut nobody).map(Some)
    })
    .await;
    match result {
        None => Sent::Refused(late(client.upload.get())),
        Some(Ok(response)) => Sent::Answered(response),
        Some(Err(mut failed)) => match failed.take_message() {
            Some(request) => Sent::Unsent(request),
            None => failure(exchange, target, &failed.into_error(), upstream.bytes_read() > read_before),
        },
    }
}

/// Whom the exchange waited for when its time was over.
fn late(upload: Upload) -> Refusal {
    match upload {
        Upload::Client => Refusal::new(Fault::BodyTimeout, "the request's body paused for too long"),
        Upload::Upstream => {
            Refusal::new(Fault::Timeout, "the service did not take the request's body in time")
        }
        Upload::Done | Upload::TooLarge | Upload::Broken => {
            Refusal::new(Fault::Timeout, "the service did not begin its answer in time")
        }
    }
}

/// Why an exchange that was begun has no answer.
fn failure(exchange: &Exchange, target: &Target, error: &hyper::Error, answer_begun: bool) -> Sent {
    let client = exchange.client();
    match client.upload.get() {
        Upload::TooLarge => return Sent::Refused(too_large(target.settings.limits.body)),
        Upload::Broken => {
            return Sent::Refused(match client.rejected_body() {
                Some(why) => why.into(),
                None => Refusal::new(Fault::ClientGone, "the request's body ended early"),
            });
        }
        Upload::Done | Upload::Upstream | Upload::Client => {}
    }
    tracing::debug!(%error, "the exchange failed");
    if error.is_parse() {
        Sent::Refused(Refusal::new(Fault::UpstreamMalformed, "the service's answer cannot be read"))
    } else if answer_begun {
        Sent::Refused(cut("the connection ended in the head of the answer"))
    } else {
        Sent::Died
    }
}

/// Keeps the head of a request that may be sent twice. hyper uses the map again, so it is kept as a list.
fn remember(exchange: &Exchange, request: &Request<RequestBody>) -> Option<Again> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe || !request.body().is_end_stream() {
        return None;
    }
    let mut head = exchange.client().head.borrow_mut();
    head.clear();
    head.extend(request.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
    Some(Again { method: request.method().clone(), uri: request.uri().clone() })
}

impl Again {
    /// The request that [`remember`] has kept the head of.
    pub(crate) fn request(&self, exchange: &Exchange) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::none(Rc::clone(exchange.client())));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        for (name, value) in &*exchange.client().head.borrow() {
            request.headers_mut().append(name.clone(), value.clone());
        }
        request
    }
}
