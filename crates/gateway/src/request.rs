//! What happens to a request, in the order in which it is decided.

use crate::affinity;
use crate::body::{AnswerBody, RequestBody};
use crate::choice::Choice;
use crate::client::Client;
use crate::exchange::{Claim, Exchange};
use crate::fault::{Fault, Refusal};
use crate::fields::{self, Passage};
use crate::forward;
use crate::jobs;
use crate::limits::CLAIM_TRIES;
use crate::previous;
use crate::queued;
use crate::routes::Target;
use crate::worker::Worker;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, SET_COOKIE};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use std::convert::Infallible;
use std::rc::Rc;

/// Answers one request. Dropped before it is ready, the request is cut and noted as such.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let rejected = client.take();
    let read = rejected.is_none().then_some(&request);
    // It is handed on with its answer: apart, it is moved once.
    let mut exchange = Box::new(Exchange::begin(worker, client, read));
    let outcome = match rejected {
        Some(why) => Err(why.into()),
        None => decide(&mut exchange, request).await,
    };
    let mut response = outcome.unwrap_or_else(|refusal| exchange.refuse(&refusal));
    let fields = response.headers_mut();
    fields.insert(fields::REQUEST_ID, exchange.id.clone());
    if let Some(cookie) = exchange.cookie {
        fields.append(SET_COOKIE, affinity::set_cookie(cookie));
    }
    if exchange.worker.is_draining() {
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.answered(response.status());
    response.body_mut().end(exchange);
    Ok(response)
}

async fn decide(
    exchange: &mut Exchange,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Refusal> {
    // Limits of the protocol were seen to by the guard. A tunnel would get around everything below.
    if request.method() == Method::CONNECT {
        return Err(Refusal::new(Fault::Connect, "tunnels are not opened here"));
    }

    // Host: the one of the target, when it names one.
    adopt_target(&mut request)?;

    // Jobs are the gateway's own, whichever stamp they were taken on by.
    if let Some(name) = request.uri().path().strip_prefix(jobs::PREFIX) {
        let name = name.to_owned();
        return jobs::answer(exchange, &name, &request).await;
    }

    // Stamp choice, from the fields alone; then the route, which is that stamp's.
    let worker = &exchange.worker;
    let mut choice =
        worker.with_routes(|routes| Choice::read(request.headers_mut(), routes, || worker.random()))?;
    exchange.cookie = choice.cookie;
    exchange.by_user = choice.wish.is_none();
    let claim = claim(&exchange.worker, &choice, &request)?;
    let target = Rc::clone(&claim.target);
    exchange.claim = Some(claim);

    // What that stamp's release says of requests.
    check_host(&target, request.headers())?;
    check_length(&target, request.body())?;
    let limits = &target.settings.limits;
    exchange.client().set_timeouts(limits.first_byte_timeout, limits.idle_timeout);

    // Request filters.
    let trusted = exchange.worker.trusts(exchange.client().peer.ip());
    let route = exchange.claim.as_ref().map_or(u16::MAX, |claim| claim.route);
    let queues = target.queued.at(route).is_some();
    let for_job = if queues { exchange.traced.for_job(&exchange.worker) } else { None };
    let chunked = !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH);
    let passage = Passage {
        worker: &exchange.worker,
        client: exchange.client(),
        trusted,
        id: &exchange.id,
        trace: exchange.trace.as_ref(),
        handed_on: for_job.as_ref().or(exchange.traced.handed_on.as_ref()),
        chunked,
    };
    fields::request(request.headers_mut(), &passage);
    *request.version_mut() = Version::HTTP_11;

    // Queue or forward: what is queued is written down, and chooses its stamp again when it is delivered.
    if queues {
        return queued::answer(exchange, &choice, &target, route, request).await;
    }
    let client = Rc::clone(exchange.client());
    let request = request.map(|body| RequestBody::new(body, client, limits.body));

    // Instance choice, upstream, and what may be repeated.
    let asked = previous::asked(exchange, &choice, &request);
    exchange.ask();
    let (response, upstream) = forward::forward(exchange, &mut choice, request).await?;
    exchange.upstream_answered();

    // What this stamp does not have, the one before may have had.
    let mut response = match asked.filter(|_| response.status() == StatusCode::NOT_FOUND) {
        Some(asked) => previous::answer(exchange, &asked, (response, upstream)).await,
        None => response.map(|body| AnswerBody::upstream(body, upstream)),
    };

    // Response filters.
    fields::response(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;

    // The access line is written when the body has ended.
    Ok(response)
}

/// An open slot of the stamp the choice leads to, claimed. The stamp may be another one than a moment ago.
pub(crate) fn claim<B>(worker: &Worker, choice: &Choice, request: &Request<B>) -> Result<Claim, Refusal> {
    for _ in 0..CLAIM_TRIES {
        let (target, by_weight) = worker.with_routes(|routes| {
            choice.target(routes).map(|chosen| (worker.share(chosen.target), chosen.by_weight))
        })?;
        // A slot is closed after the table without it was stored: the next look finds that one.
        if target.slot.claim() {
            let route = target.routes.find(request.method(), request.uri().path());
            return Ok(Claim::new(target, route, by_weight));
        }
    }
    Err(Refusal::new(Fault::NoActiveStamp, "the release changes too quickly"))
}

/// RFC 9112, 3.2.2: an absolute target names the host, whatever the field says. Forwarded is its path.
fn adopt_target(request: &mut Request<Incoming>) -> Result<(), Refusal> {
    let Some(authority) = request.uri().authority() else {
        return match request.uri().path_and_query() {
            Some(path) if path.as_str().starts_with('/') => Ok(()),
            Some(path) if path.as_str() == "*" && request.method() == Method::OPTIONS => Ok(()),
            Some(_) | None => Err(Refusal::new(Fault::Malformed, "a target that is no path")),
        };
    };
    if request.uri().scheme().is_none() {
        return Err(Refusal::new(Fault::Malformed, "a target that is a host alone"));
    }
    // What comes before an @ is for the client alone.
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host = HeaderValue::from_str(host)
        .map_err(|_| Refusal::new(Fault::Malformed, "a target with a host that is none"))?;
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    request.headers_mut().insert(HOST, host);
    Ok(())
}

/// The release's hosts, lower-case and without port, as the field is compared.
fn check_host(target: &Target, fields: &HeaderMap) -> Result<(), Refusal> {
    let hosts = &target.settings.hosts;
    if hosts.is_empty() {
        return Ok(());
    }
    let host = fields.get(HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let name = without_port(host);
    if hosts.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let detail = format!("`{}` is none of the hosts of this release", String::from_utf8_lossy(name));
    Err(Refusal::new(Fault::WrongHost, detail))
}

fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|b| *b == b':') {
        // An IPv6 address has colons of its own, before its bracket.
        Some(colon) if host[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
        Some(_) | None => host,
    }
}

/// A length that is too large is refused before anything is dispatched; chunks are counted as they come.
fn check_length(target: &Target, body: &Incoming) -> Result<(), Refusal> {
    let limit = target.settings.limits.body;
    match body.size_hint().exact() {
        Some(length) if length > limit => Err(too_large(limit)),
        Some(_) | None => Ok(()),
    }
}

/// More than the release allows.
pub(crate) fn too_large(limit: u64) -> Refusal {
    Refusal::new(Fault::BodyTooLarge, format!("at most {limit} bytes are taken"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_left_out() {
        for (host, name) in [
            ("example.org", "example.org"),
            ("example.org:80", "example.org"),
            ("example.org:", "example.org"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(without_port(host.as_bytes()), name.as_bytes());
        }
    }
}
