//! Routes with `previous_stamp`: what a stamp answers with 404 is asked of the stamp before, once, so that an open
//! page of the release before still finds its assets.

use crate::body::AnswerBody;
use crate::choice::Choice;
use crate::exchange::{Claim, Exchange};
use crate::forward::{Again, Sent, send};
use crate::kept;
use crate::limits::PREVIOUS_TIME;
use crate::routes::{Instance, Routes, Target};
use crate::upstream::Upstream;
use http::header::{HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use model::away::PreviousStamp;
use std::rc::Rc;

/// What the stamp before is to be asked, should this one answer 404.
pub(crate) struct Asked {
    again: Again,
    /// The folder of its artifact.
    files: Option<String>,
}

/// A stamp's answer, with the connection it comes on.
type Answer = (Response<Incoming>, Box<Upstream>);

/// What is to be asked for `request`. None: its route asks nobody, it has a body, or it came through the preview
/// door, which shows a stamp as it is.
pub(crate) fn asked<B: Body>(exchange: &Exchange, choice: &Choice, request: &Request<B>) -> Option<Asked> {
    let claim = exchange.claim.as_ref().filter(|_| choice.wish.is_none())?;
    let routes = &claim.target.routes;
    let PreviousStamp { files } = routes.previous(request.method(), request.uri().path(), claim.route)?;
    let again = Again { method: request.method().clone(), uri: request.uri().clone() };
    request.body().is_end_stream().then(|| Asked { again, files: files.clone() })
}

/// The answer to give instead of `own`, which is a 404: the one of the stamp before, unless that is a 404 or an error
/// of that stamp's; a file that is left of it; or `own`.
pub(crate) async fn answer(exchange: &mut Exchange, asked: &Asked, own: Answer) -> Response<AnswerBody> {
    let given = match ask(exchange, &asked.again).await {
        Some((claim, (response, upstream))) => {
            let status = response.status();
            let helps = status != StatusCode::NOT_FOUND && !status.is_server_error();
            helps.then(|| {
                exchange.answered_by_previous(Some(claim));
                response.map(|body| AnswerBody::upstream(body, upstream))
            })
        }
        None => file(exchange, asked).await,
    };
    given.unwrap_or_else(|| {
        let (response, upstream) = own;
        response.map(|body| AnswerBody::upstream(body, upstream))
    })
}

/// What the stamp before answers. None: there is none, or it does not, or not within [`PREVIOUS_TIME`]. Who waits here
/// could have had a 404 long ago, so an instance that was of no help a moment ago is not asked.
async fn ask(exchange: &Exchange, again: &Again) -> Option<(Claim, Answer)> {
    let mut claim = claim(exchange)?;
    let worker = &exchange.worker;
    let target = Rc::clone(&claim.target);
    let position = target.choose(worker.now_ms(), None, &[], || worker.random())?;
    let instance = &target.instances[position];
    if instance.is_ejected(worker.now_ms()) || !instance.hold(target.settings.limits.in_flight) {
        return None;
    }
    claim.hold(position);
    let answer = tokio::time::timeout(PREVIOUS_TIME, ask_instance(exchange, again, &target, instance)).await;
    let Ok(answer) = answer else {
        instance.eject(worker.now_ms());
        return None;
    };
    answer.map(|answer| (claim, answer))
}

/// What this instance of it answers. None: it does not.
async fn ask_instance(
    exchange: &Exchange,
    again: &Again,
    target: &Target,
    instance: &Instance,
) -> Option<Answer> {
    let worker = &exchange.worker;
    let mut idle = worker.take_connection(instance.key, true);
    loop {
        let was_idle = idle.is_some();
        let mut upstream = match idle.take() {
            Some(upstream) => upstream,
            None => Upstream::connect(instance.address, target.settings.limits.connect_timeout)
                .await
                .map_err(|_| instance.eject(worker.now_ms()))
                .ok()?,
        };
        let mut request = again.request(exchange);
        if !request.headers().contains_key(HOST) {
            let address = HeaderValue::try_from(instance.address.to_string());
            request.headers_mut().insert(HOST, address.expect("an address is visible ASCII"));
        }
        match send(exchange, target, &mut upstream, request).await {
            Sent::Answered(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => return None,
            Sent::Answered(response) => return Some((response, upstream)),
            // It was closed meanwhile: a new one tells more.
            Sent::Unsent(_) | Sent::Died if was_idle => {}
            Sent::Unsent(_) | Sent::Died | Sent::Refused(_) => return None,
        }
    }
}

/// The slot of the stamp before, claimed. One that closes meanwhile is not the stamp before any longer.
fn claim(exchange: &Exchange) -> Option<Claim> {
    let (worker, own) = (&exchange.worker, exchange.claim.as_ref()?);
    let stamp = own.target.slot.stamp;
    let before = |routes: &Routes| routes.before(stamp).map(|target| worker.share(target));
    let target = worker.with_routes(before)?;
    target.slot.claim().then(|| Claim::new(target, own.route, false))
}

/// What is left of the stamp before.
async fn file(exchange: &mut Exchange, asked: &Asked) -> Option<Response<AnswerBody>> {
    let files = asked.files.as_deref()?;
    let artifact =
        exchange.worker.with_routes(|routes| routes.kept.as_ref().map(|kept| kept.digest.clone()))?;
    let fields = exchange.client().head.borrow().clone();
    let head_only = asked.again.method == Method::HEAD;
    let folder = exchange.worker.shared().folder.clone();
    let found = kept::find(&folder, &artifact, files, asked.again.uri.path()).await?;
    exchange.answered_by_previous(None);
    Some(found.answer(&fields, head_only))
}
