//! Requests to queued routes: taken on, written down, answered by the service if it answers in time, else with 202.
//!
//! Nothing of a delivery happens here: the courier makes them, or a task of the worker's own, so that an accepted
//! request does not depend on its client's connection.

pub(crate) mod due;
mod gather;
mod key;
pub(crate) mod prefer;
pub(crate) mod sent;

use crate::affinity;
use crate::body::AnswerBody;
use crate::choice::Choice;
use crate::desk::Desk;
use crate::door;
use crate::exchange::Exchange;
use crate::fault::{Fault, Refusal};
use crate::jobs;
use crate::limits::{ACCEPT_TIME, JOB_RETRY_AFTER};
use crate::routes::Target;
use crate::traces;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use key::{IDEMPOTENCY_KEY, Whose};
use model::queue::{InFlightAnswer, KeyUse, LONGEST_WAIT, QueuedRoute, Saga};
use model::workload::GatewaySettings;
use prefer::{PREFERENCE_APPLIED, Preferences};
use queue::{
    Answer, Fields, FirstCall, Full, FullWhy, JobState, JobView, Queue, Submission, Submitted, Ticket,
    Traffic, Waited,
};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The name of the job, on each answer that has to do with one.
const JOB: HeaderName = HeaderName::from_static("mainstay-job");
/// The answer was given before (Stripe's name for it; the draft has no field for this).
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// The answer was longer than what is kept of one.
const TRUNCATED: HeaderName = HeaderName::from_static("mainstay-answer-truncated");

/// Fields of a 202, with those that every answer gets.
const ACCEPTED_FIELDS: usize = 10;

/// A route whose requests are queued.
#[derive(Debug)]
pub(crate) struct Queued {
    name: Arc<str>,
    pub(crate) settings: Arc<QueuedRoute>,
    /// None: the request goes to the service.
    saga: Option<Arc<Saga>>,
}

/// Those of a stamp, by the places of its routes.
#[derive(Debug, Default)]
pub(crate) struct QueuedRoutes(Vec<(u16, Queued)>);

impl QueuedRoutes {
    /// Safe requests are never queued, whatever the settings say, and neither are those of a saga that is not there:
    /// checks of the workload file see to both.
    pub(crate) fn new(settings: &GatewaySettings) -> Self {
        let queued = settings.routes.iter().enumerate().filter_map(|(place, route)| {
            let queue = route.queue.as_ref().filter(|_| !route.method.is_safe())?;
            let saga = match &queue.saga {
                Some(name) => Some(Arc::new(settings.sagas.get(name)?.clone())),
                None => None,
            };
            let queued = Queued { name: route.name().into(), settings: Arc::new(queue.clone()), saga };
            Some((u16::try_from(place).ok()?, queued))
        });
        Self(queued.collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By the place of the route. One branch where nothing is queued.
    pub(crate) fn at(&self, place: u16) -> Option<&Queued> {
        let found = self.0.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        Some(&self.0[found].1)
    }

    /// By the name of the route.
    pub(crate) fn named(&self, name: &str) -> Option<&Queued> {
        self.0.iter().map(|(_, queued)| queued).find(|queued| *queued.name == *name)
    }
}

/// What a request says of how it is to be queued.
struct Wanted {
    preferences: Preferences,
    key: Option<String>,
    whose: Whose,
    after: Option<Duration>,
}

impl Wanted {
    /// Reads and removes what is for the gateway.
    fn take(fields: &mut HeaderMap, settings: &QueuedRoute) -> Result<Self, Refusal> {
        let key = key::key(fields)?;
        if key.is_none() && settings.key == KeyUse::Required {
            let hint = "send a fresh random one with each new request, and the same one to repeat it";
            return Err(Refusal::new(Fault::KeyMissing, format!("there is no Idempotency-Key: {hint}")));
        }
        fields.remove(IDEMPOTENCY_KEY);
        let after = due::take(fields, SystemTime::now())?;
        let whose = Whose::read(fields, settings.principal.as_ref());
        Ok(Self { preferences: Preferences::take(fields), key, whose, after })
    }
}

/// Answers a request to the queued route at `place` of `target`, whose fields are as they are sent on. Dropped before
/// it is ready, the request may have been accepted, and is delivered then.
///
/// # Errors
/// The request is refused, or cannot be taken on, or what became of it is not its client's to have.
pub(crate) async fn answer(
    exchange: &mut Exchange,
    choice: &Choice,
    target: &Target,
    place: u16,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Refusal> {
    let queued = target.queued.at(place).expect("the caller has asked");
    let settings = &queued.settings;
    exchange.queue_up();
    let (mut head, body) = request.into_parts();
    let wanted = Wanted::take(&mut head.headers, settings)?;
    let method = unsafe_method(&head.method)?;
    let shared = Arc::clone(exchange.worker.shared());
    let queue = shared.desk.queue().await?;
    let limit = settings.body.min(target.settings.limits.body);
    let body = gather::gather(exchange, body, limit).await?;
    let preferences = wanted.preferences;
    // Nothing is answered before it is due.
    let at_once = wanted.after.is_none_or(|after| after.is_zero());
    let usual = preferences.patience(settings.wait, LONGEST_WAIT);
    let patience = if at_once { usual } else { Duration::ZERO };
    let began = Instant::now();
    let submission = Submission {
        route: Arc::clone(&queued.name),
        settings: Arc::clone(settings),
        saga: queued.saga.clone(),
        method,
        path_and_query: head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        traffic: if choice.wish.is_none() { Traffic::Users } else { Traffic::Preview },
        user: Some(user(exchange, &mut head.headers, choice, target)),
        fields: kept(&mut head.headers, choice, exchange.traced.draft.is_some()),
        body: body.bytes(),
        key: wanted.key,
        principal: wanted.whose.principal.map(Bytes::from),
        credentials: Bytes::from(wanted.whose.credentials),
        deliver_after: wanted.after,
        patience,
        carries: true,
    };
    // Its client may be gone before it is answered.
    let begun = |id: queue::JobId, early: Option<FirstCall>| {
        exchange.told(Some(id.0), "waiting");
        if let Some(first) = early {
            exchange.worker.carry(&queue, first);
        }
    };
    let submitted = tokio::time::timeout(ACCEPT_TIME, queue.submit(submission, begun)).await;
    if !matches!(submitted, Ok(Submitted::New(_))) {
        exchange.told(None, "refused");
    }
    let Ok(submitted) = submitted else {
        let detail = format!("it was not on disk within {ACCEPT_TIME:?}, and may get there yet");
        return Err(Refusal::new(Fault::QueueTimeout, detail));
    };
    drop(body);
    match submitted {
        Submitted::New(mut ticket) => {
            if let Some(first) = ticket.first_call() {
                exchange.worker.carry(&queue, first);
            }
            let left = patience.saturating_sub(began.elapsed());
            let waited = wait(&shared.desk, &queue, ticket, left).await?;
            let (mut response, is_accepted) = match waited {
                Waited::Settled(view, answer) => (settled(exchange, &view, answer, "answered"), false),
                Waited::Pending(view) => (accepted(exchange, &view, "accepted"), true),
            };
            apply(&mut response, preferences.applied(at_once.then_some(patience), is_accepted));
            Ok(response)
        }
        Submitted::Repeated(view) => Ok(repeated(exchange, &view, settings.in_flight, preferences)),
        Submitted::Replay(view, answer) => {
            let mut response = settled(exchange, &view, answer, "replayed");
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            Ok(response)
        }
        Submitted::Mismatch => {
            let detail = "another method, path, query or body came with this key first";
            Err(Refusal::new(Fault::KeyReused, detail))
        }
        Submitted::OtherCredentials => {
            let detail = "another Authorization came with this key first, and the route names no `principal`";
            Err(Refusal::new(Fault::KeyOfOthers, detail))
        }
        Submitted::Invalid(why) => Err(Refusal::new(Fault::BadBody, why)),
        Submitted::Full(full) => Ok(refused(exchange, &full)),
        Submitted::Unwritten(why) => {
            let detail = format!(
                "it was sent to the service, and could not be written down: {why}; \
                 repeated with the same Idempotency-Key, it takes effect once"
            );
            Err(Refusal::new(Fault::QueueTimeout, detail))
        }
        Submitted::Uncertain(why) => {
            let detail = format!("whether it is on disk is not known: {why}");
            Err(Refusal::new(Fault::QueueTimeout, detail))
        }
    }
}

/// A request's fields as they are kept: the length and the like are another matter with each delivery.
fn kept(fields: &mut HeaderMap, choice: &Choice, is_traced: bool) -> Fields {
    sent::without_framing(fields);
    door::remember(choice.wish, fields);
    traces::remember(is_traced, fields);
    sent::listed(fields)
}

/// The key is that of a job that is not done.
fn repeated(
    exchange: &mut Exchange,
    view: &JobView,
    answer: InFlightAnswer,
    preferences: Preferences,
) -> Response<AnswerBody> {
    if answer == InFlightAnswer::Accepted {
        let mut response = accepted(exchange, view, "repeated");
        apply(&mut response, preferences.applied(None, true));
        return response;
    }
    exchange.told(Some(view.name.id.0), "repeated");
    let detail = format!("job {} has the key; its state is {}", view.name, queue::state_name(view.state));
    let mut response = exchange.refuse(&Refusal::new(Fault::KeyInFlight, detail));
    about(view, response.headers_mut());
    response.headers_mut().insert(RETRY_AFTER, retry_after(view));
    response
}

/// Nothing was taken on.
fn refused(exchange: &mut Exchange, full: &Full) -> Response<AnswerBody> {
    let mut response = exchange.refuse(&not_written(&exchange.worker.shared().desk, &full.why));
    let seconds = full.retry_after.as_secs().max(1);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Why nothing was written: there is no room, or no queue to be trusted.
pub(crate) fn not_written(desk: &Desk, why: &FullWhy) -> Refusal {
    match why {
        FullWhy::Jobs { .. } | FullWhy::Bytes { .. } | FullWhy::Disk(_) | FullWhy::Busy(_) => {
            Refusal::new(Fault::QueueFull, why.to_string())
        }
        FullWhy::Broken(_) | FullWhy::Fenced | FullWhy::Refused(_) => {
            Refusal::new(Fault::QueueClosed, desk.explained(why))
        }
    }
}

fn apply(response: &mut Response<AnswerBody>, applied: Option<HeaderValue>) {
    if let Some(applied) = applied {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
}

/// Routes of other methods are not queued.
fn unsafe_method(method: &Method) -> Result<model::flow::Method, Refusal> {
    use model::flow::Method as M;
    let known = [M::Post, M::Put, M::Patch, M::Delete];
    let found = known.into_iter().find(|known| known.as_str() == method.as_str());
    found.ok_or_else(|| Refusal::new(Fault::Malformed, format!("{method} is not queued")))
}

/// The hash of the user, by which each delivery chooses its stamp: drawn where the request says nothing, as for one
/// that is forwarded. The gateway's own cookie is removed: it means nothing to the service.
fn user(exchange: &Exchange, fields: &mut HeaderMap, choice: &Choice, target: &Target) -> u64 {
    choice.user().unwrap_or_else(|| {
        // Nobody is shifted now, but somebody may be when the job is delivered.
        let (user, _) = affinity::recognise(fields, &target.affinity, || exchange.worker.random());
        user.0
    })
}

/// Waits for the answer to a job, at most for `patience`. When the gateway drains, what is not answered soon gets its
/// 202: a client that has the job's address misses nothing.
///
/// # Errors
/// The queue cannot be read.
async fn wait(desk: &Desk, queue: &Queue, ticket: Ticket, patience: Duration) -> Result<Waited, Refusal> {
    if patience.is_zero() {
        return Ok(ticket.wait(patience).await);
    }
    let name = ticket.name();
    tokio::select! {
        waited = ticket.wait(patience) => Ok(waited),
        () = desk.closing() => {
            let now = queue.wait(name, Duration::ZERO).await;
            let missing = |why: &dyn std::fmt::Display| Refusal::new(Fault::QueueTimeout, format!("job {name}: {why}"));
            now.map_err(|cause| missing(&cause))?.ok_or_else(|| missing(&"it cannot be found"))
        }
    }
}

/// What became of a job: the service's own answer, or why there never was one.
fn settled(
    exchange: &mut Exchange,
    view: &JobView,
    answer: Option<Answer>,
    what: &'static str,
) -> Response<AnswerBody> {
    exchange.told(Some(view.name.id.0), what);
    let response = match (view.state, answer) {
        // What the service once said no to is not its last word on a job that was given up since.
        (JobState::Cancelled | JobState::Dropped, _) => None,
        (_, Some(answer)) => Some(replay(answer)),
        (JobState::Done, None) => Some(jobs::no_content()),
        (_, None) => None,
    };
    if let Some(mut response) = response {
        response.headers_mut().insert(JOB, job_field(view));
        return response;
    }
    let mut response = exchange.refuse(&given_up(view));
    about(view, response.headers_mut());
    response
}

/// Why a job that is settled has no answer.
fn given_up(view: &JobView) -> Refusal {
    let name = view.name;
    match view.state {
        JobState::Cancelled | JobState::Dropped => {
            Refusal::new(Fault::GivenUp, format!("job {name} was {}", queue::state_name(view.state)))
        }
        JobState::Waiting
        | JobState::Dispatching
        | JobState::Done
        | JobState::Rejected
        | JobState::Dead
        | JobState::Unknown => Refusal::new(
            Fault::NotDelivered,
            format!("job {name} got no answer in {} attempts", view.attempts),
        ),
    }
}

/// The service's answer as it was kept.
pub(crate) fn replay(answer: Answer) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::own(answer.body));
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.status_mut() = status;
    *response.headers_mut() = sent::map(&answer.fields);
    if answer.truncated {
        response.headers_mut().insert(TRUNCATED, HeaderValue::from_static("?1"));
    }
    response
}

/// 202 (RFC 9110, 15.3.3), with where to ask.
fn accepted(exchange: &mut Exchange, view: &JobView, what: &'static str) -> Response<AnswerBody> {
    exchange.told(Some(view.name.id.0), what);
    let mut response = Response::new(AnswerBody::own(jobs::describe(view)));
    *response.status_mut() = StatusCode::ACCEPTED;
    let fields = response.headers_mut();
    fields.reserve(ACCEPTED_FIELDS);
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(RETRY_AFTER, retry_after(view));
    about(view, fields);
    response
}

/// Which job this is, and where.
fn about(view: &JobView, fields: &mut HeaderMap) {
    let (name, location) = jobs::name_and_location(view.name);
    fields.insert(JOB, name);
    fields.insert(LOCATION, location);
}

fn job_field(view: &JobView) -> HeaderValue {
    HeaderValue::try_from(view.name.to_string()).expect("digits and a dash are visible ASCII")
}

/// When asking for a job may bring news: not before it is due.
pub(crate) fn retry_after(view: &JobView) -> HeaderValue {
    let now = i64::try_from(api::clock::unix_ms()).unwrap_or(i64::MAX);
    let due = u64::try_from(view.due_ms.saturating_sub(now)).unwrap_or_default().div_ceil(1000);
    HeaderValue::from(due.max(JOB_RETRY_AFTER))
}
