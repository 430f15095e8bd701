//! The resource of each job, on the addresses that users have: `/.mainstay/jobs/ID` and `…/response`.
//!
//! An id is a number and 128 random bits; who knows it may ask and cancel. Nothing here depends on a stamp.

use crate::body::AnswerBody;
use crate::desk::State;
use crate::exchange::Exchange;
use crate::fault::{Fault, Refusal};
use crate::queued::prefer::{PREFERENCE_APPLIED, Preferences};
use crate::queued::{not_written, replay, retry_after};
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, LOCATION, RETRY_AFTER,
};
use http::{Method, Request, Response, StatusCode};
use model::queue::LONGEST_WAIT;
use queue::{
    Answer, Cancelled, Filter, JobId, JobName, JobState, JobView, Queue, ReadError, Waited, state_name,
};
use std::sync::Arc;
use std::time::Duration;

/// What the paths of all jobs begin with.
pub(crate) const PREFIX: &str = "/.mainstay/jobs/";
/// What the path of a job's answer ends with.
const RESPONSE: &str = "/response";
/// How long the description of a job is, about.
const DESCRIPTION_BYTES: usize = 320;

/// Where a job is asked for.
pub(crate) fn location(name: JobName) -> HeaderValue {
    HeaderValue::try_from(format!("{PREFIX}{name}")).expect("a job's name is visible ASCII")
}

/// The name of a job as a field, and where it is asked for.
pub(crate) fn name_and_location(name: JobName) -> (HeaderValue, HeaderValue) {
    let location = format!("{PREFIX}{name}");
    let field = |text: &str| HeaderValue::try_from(text).expect("a job's name is visible ASCII");
    (field(&location[PREFIX.len()..]), field(&location))
}

fn response_of(name: JobName) -> String {
    format!("{PREFIX}{name}{RESPONSE}")
}

/// What users see of a job. Why a delivery failed is for operators.
pub(crate) fn describe(view: &JobView) -> Bytes {
    let name = view.name.to_string();
    // Written as it is: every 202 carries one, and none of its texts has anything in it that JSON would escape.
    let mut job = Vec::with_capacity(DESCRIPTION_BYTES);
    let mut put = |texts: &[&str]| texts.iter().for_each(|text| job.extend_from_slice(text.as_bytes()));
    put(&["{\"id\":\"", &name, "\",\"state\":\"", state_name(view.state)]);
    put(&["\",\"created\":\"", &time(view.created_ms), "\",\"due\":\"", &time(view.due_ms)]);
    put(&["\",\"attempts\":", &view.attempts.to_string(), ",\"links\":{\"self\":\"", PREFIX, &name, "\""]);
    if has_response(view.state) {
        put(&[",\"response\":\"", PREFIX, &name, RESPONSE, "\""]);
    }
    put(&["}}"]);
    job.into()
}

/// RFC 3339.
fn time(unix_ms: i64) -> String {
    let mut text = Vec::with_capacity(24);
    crate::access::timestamp(&mut text, u64::try_from(unix_ms).unwrap_or_default());
    String::from_utf8(text).expect("digits and their separators are ASCII")
}

/// Whether the service has spoken its last word.
fn has_response(state: JobState) -> bool {
    match state {
        JobState::Done | JobState::Rejected => true,
        JobState::Waiting
        | JobState::Dispatching
        | JobState::Dead
        | JobState::Unknown
        | JobState::Cancelled
        | JobState::Dropped => false,
    }
}

/// Answers a request for what `path` names after [`PREFIX`].
///
/// # Errors
/// There is no such job, or not any longer; or the method is not one of its.
pub(crate) async fn answer<B>(
    exchange: &mut Exchange,
    path: &str,
    request: &Request<B>,
) -> Result<Response<AnswerBody>, Refusal> {
    let (name, response) = match path.strip_suffix(RESPONSE) {
        Some(name) => (name, true),
        None => (path, false),
    };
    let Ok(name) = name.parse::<JobName>() else { return Err(no_job()) };
    let shared = Arc::clone(exchange.worker.shared());
    if matches!(shared.desk.state(), State::Unneeded) {
        return Err(no_job());
    }
    let method = request.method();
    let asks = *method == Method::GET || *method == Method::HEAD;
    let allowed = if response { "GET, HEAD" } else { "GET, HEAD, DELETE" };
    if !asks && (response || *method != Method::DELETE) {
        let mut answer =
            exchange.refuse(&Refusal::new(Fault::JobMethod, format!("{allowed} are known here")));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return Ok(answer);
    }
    let queue = shared.desk.queue().await?;
    if !asks {
        return cancel(exchange, &queue, name).await;
    }
    let mut preferences = request.headers().clone();
    let preferences = Preferences::take(&mut preferences);
    let patience = preferences.wait.filter(|_| !response).map(Duration::from_secs);
    let patience = patience.unwrap_or_default().min(LONGEST_WAIT);
    let waited = tokio::select! {
        waited = queue.wait(name, patience) => waited,
        () = shared.desk.closing() => queue.wait(name, Duration::ZERO).await,
    };
    let (view, kept) = match waited.map_err(|cause| unread(&cause))? {
        Some(Waited::Settled(view, answer)) => (view, answer),
        Some(Waited::Pending(view)) => (view, None),
        None => return Err(gone(&queue, name).await),
    };
    let mut answer = if response {
        kept_answer(&view, kept)?
    } else {
        let has_answer = kept.is_some() || view.state == JobState::Done;
        let mut answer = state(&view, has_answer, request.headers());
        if let Some(applied) = preferences.applied(Some(patience), false) {
            answer.headers_mut().insert(PREFERENCE_APPLIED, applied);
        }
        answer
    };
    if *method == Method::HEAD {
        without_body(&mut answer);
    }
    Ok(answer)
}

/// 200 with the state, or 304 to who knows it; 303 (RFC 9110, 15.4.4) once the service has answered for good.
fn state(view: &JobView, has_answer: bool, asked: &HeaderMap) -> Response<AnswerBody> {
    let done = has_response(view.state) && has_answer;
    let tag = format!("\"{}-{}-{}\"", state_name(view.state), view.attempts, view.due_ms);
    let known = !done && matches(asked, &tag);
    let body = if known { Bytes::new() } else { describe(view) };
    let mut response = Response::new(AnswerBody::own(body));
    let fields = response.headers_mut();
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if !known {
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if done {
        let location = HeaderValue::try_from(response_of(view.name));
        fields.insert(LOCATION, location.expect("a job's name is visible ASCII"));
    } else {
        fields.insert(ETAG, HeaderValue::try_from(tag).expect("words and digits are visible ASCII"));
        if !view.is_settled() {
            fields.insert(RETRY_AFTER, retry_after(view));
        }
    }
    *response.status_mut() = match (done, known) {
        (true, _) => StatusCode::SEE_OTHER,
        (false, true) => StatusCode::NOT_MODIFIED,
        (false, false) => StatusCode::OK,
    };
    response
}

/// RFC 9110, 13.1.2: the comparison is weak.
fn matches(asked: &HeaderMap, tag: &str) -> bool {
    let lines = asked.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

fn kept_answer(view: &JobView, kept: Option<Answer>) -> Result<Response<AnswerBody>, Refusal> {
    let mut response = match kept {
        Some(kept) => replay(kept),
        None if view.state == JobState::Done => no_content(),
        None => {
            let detail = format!("job {} is {}", view.name, state_name(view.state));
            return Err(Refusal::new(Fault::NoResponse, detail));
        }
    };
    const JOB: HeaderName = HeaderName::from_static("mainstay-job");
    let name = HeaderValue::try_from(view.name.to_string());
    response.headers_mut().insert(JOB, name.expect("a job's name is visible ASCII"));
    Ok(response)
}

/// What is said in place of the service's answer where there is none: an operator knew that the job was delivered, or
/// a repair has lost it. A page that waits for the job is at its end.
pub(crate) fn no_content() -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::own(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

async fn cancel(
    exchange: &mut Exchange,
    queue: &Queue,
    name: JobName,
) -> Result<Response<AnswerBody>, Refusal> {
    match queue.cancel(name).await {
        Cancelled::Yes => Ok(no_content()),
        Cancelled::TooLate(view) => {
            let detail = format!("job {name} is {}", state_name(view.state));
            let mut response = exchange.refuse(&Refusal::new(Fault::JobBegun, detail));
            response.headers_mut().insert(LOCATION, location(name));
            Ok(response)
        }
        Cancelled::Gone => Err(gone(queue, name).await),
        Cancelled::Failed(why) => Err(not_written(&exchange.worker.shared().desk, &why)),
    }
}

/// 410 for a job that was forgotten; 404 for one that never was, also where the number is right and the rest is
/// guessed.
async fn gone(queue: &Queue, name: JobName) -> Refusal {
    if !queue.is_past(name.id) {
        return no_job();
    }
    let before = JobId(name.id.0.saturating_sub(1));
    match queue.list(Filter::default(), before, 1).await {
        Ok(next) if next.first().is_some_and(|view| view.name.id == name.id) => no_job(),
        Ok(_) => Refusal::new(Fault::JobGone, format!("job {name} was forgotten after its time")),
        Err(cause) => Refusal::new(Fault::QueueClosed, cause.to_string()),
    }
}

fn no_job() -> Refusal {
    Refusal::new(Fault::NoJob, "nobody was ever told of a job of this name")
}

fn unread(cause: &ReadError) -> Refusal {
    Refusal::new(Fault::QueueClosed, cause.to_string())
}

/// RFC 9110, 9.3.2: what GET would get, without its body. What has no body has no length either (8.6).
fn without_body(response: &mut Response<AnswerBody>) {
    use hyper::body::Body as _;
    if matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return;
    }
    let length = response.body().size_hint().exact().unwrap_or_default();
    *response.body_mut() = AnswerBody::own(Bytes::new());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
}
