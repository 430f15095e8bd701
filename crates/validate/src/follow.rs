//! Follows a write that was accepted with 202 to its final answer (RFC 9110, 15.3.3 and 15.4.4; RFC 7240, 4.3).

use crate::client::CallError;
use crate::connection::{Answer, FullRequest, Keep};
use crate::engine::Engine;
use crate::outcome::snippet;
use crate::script::uri;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::Full;
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long an accepted write is followed when nothing else is said: longer than a database takes to come back.
/// What is not done by then is counted apart, and the flow ends there.
pub const FOLLOW_LIMIT: Duration = Duration::from_secs(30);

/// How many connections those have that wait for accepted writes. They are apart from the others, so that a backlog
/// does not slow down what users do meanwhile; beyond them a look waits for the one before.
pub const FOLLOW_CONNECTIONS: usize = 64;

/// How long the service is asked to hold an answer back until it is final, in whole seconds. Short, because there
/// are fewer connections than there may be writes to wait for.
const HOLD: u64 = 1;

/// The pause between the beginnings of two looks; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// What became of an accepted write.
#[derive(Debug)]
pub(crate) enum Followed {
    /// Its final answer.
    Done(Answer),
    /// It will have none, and was not done as far as is known.
    Over(String),
    /// It is not known what became of it.
    Unknown(String),
    /// It was not done in time, and may be yet.
    Pending,
}

/// What one look said.
enum Look {
    Done(Answer),
    Over(String),
    Unknown(String),
    /// The final answer is there (303).
    Elsewhere(Uri),
    /// Not yet, or not even that could be seen.
    Later,
    /// Nobody knows whether it happened; somebody may yet find out.
    Doubtful,
}

/// What is asked: how far the write is, or for its answer.
enum Asked {
    Job(Uri),
    Answer(Uri),
}

impl Engine {
    /// Asks `location` until the write is done, at most for as long as the run follows writes. Cancel-safe: it only
    /// reads.
    pub(crate) async fn follow(&self, location: Option<&str>) -> Followed {
        let Some(at) = location.and_then(target) else {
            return Followed::Unknown("no Location that could be followed".to_owned());
        };
        let deadline = Instant::now() + self.follow;
        let mut asked = Asked::Job(at);
        let mut pause = FIRST_PAUSE;
        let mut doubtful = false;
        loop {
            let begun = Instant::now();
            let left = deadline.saturating_duration_since(begun);
            if left.is_zero() {
                // A promise that is kept is looked up in the end; of this one the service itself says that it may not be.
                let why = "nobody knows whether it happened";
                return if doubtful { Followed::Unknown(why.to_owned()) } else { Followed::Pending };
            }
            match self.look(&asked, left).await {
                Look::Done(answer) => return Followed::Done(answer),
                Look::Over(why) => return Followed::Over(why),
                Look::Unknown(why) => return Followed::Unknown(why),
                Look::Elsewhere(uri) => {
                    asked = Asked::Answer(uri);
                    continue;
                }
                Look::Later => doubtful = false,
                Look::Doubtful => doubtful = true,
            }
            tokio::time::sleep_until((begun + pause).min(deadline).into()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn look(&self, asked: &Asked, left: Duration) -> Look {
        let mut request: FullRequest = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = Method::GET;
        *request.headers_mut() = self.base.clone();
        let uri = match asked {
            Asked::Job(uri) => {
                let hold = HeaderValue::try_from(format!("wait={HOLD}"));
                request.headers_mut().insert(PREFER, hold.expect("digits can be sent"));
                uri
            }
            Asked::Answer(uri) => uri,
        };
        *request.uri_mut() = uri.clone();
        let timeout = left.min(self.timeout + Duration::from_secs(HOLD));
        match (self.followers.call(request, Keep::All, timeout).await.result, asked) {
            (Ok(answer), Asked::Job(_)) => job(answer),
            (Ok(answer), Asked::Answer(_)) => response(answer),
            // It stays as large as it is.
            (Err(CallError::TooLarge { status }), _) => {
                Look::Unknown(format!("its answer, {status}, is too large"))
            }
            (
                Err(
                    CallError::Connect { .. }
                    | CallError::NoSocket { .. }
                    | CallError::NoneFree { .. }
                    | CallError::Timeout { .. }
                    | CallError::Cut(_),
                ),
                _,
            ) => Look::Later,
        }
    }
}

/// What a job's own resource says: a text `state` while it has no answer, 303 when it has. A service that answers
/// there with the result itself is understood too.
fn job(answer: Answer) -> Look {
    let state = || {
        let document: Value = serde_json::from_slice(&answer.body).ok()?;
        document.get("state")?.as_str().map(str::to_owned)
    };
    match answer.status {
        202 => Look::Later,
        303 => match answer.location.as_deref().and_then(target) {
            Some(uri) => Look::Elsewhere(uri),
            None => Look::Unknown("answered 303 without a Location that could be followed".to_owned()),
        },
        200 => match state().as_deref() {
            Some(state @ ("dead" | "rejected" | "cancelled" | "dropped")) => {
                Look::Over(format!("its job is {state}"))
            }
            Some("unknown") => Look::Doubtful,
            Some(_) => Look::Later,
            None => Look::Done(answer),
        },
        201 | 203..=299 => Look::Done(answer),
        429 | 500..=599 => Look::Later,
        status => Look::Unknown(format!("its job answered {status}: {}", snippet(&answer.body))),
    }
}

/// What the address of a final answer says. There too it may be whoever stands before the service that cannot answer at
/// the moment: that is not the write's own answer.
fn response(answer: Answer) -> Look {
    match answer.status {
        429 | 500..=599 => Look::Later,
        _ => Look::Done(answer),
    }
}

/// The path and query of a `Location`: the target is asked, whatever host stands there.
fn target(location: &str) -> Option<Uri> {
    let path = match location.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => location,
    };
    let path = path.split('#').next().unwrap_or_default();
    uri(path.to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(status: u16, location: Option<&str>, body: &str) -> String {
        let location = location.map(str::to_owned);
        said(job(Answer { status, body: body.into(), location, at: Instant::now() }))
    }

    fn said(look: Look) -> String {
        match look {
            Look::Done(answer) => format!("done {}", answer.status),
            Look::Over(why) => format!("over: {why}"),
            Look::Unknown(why) => format!("unknown: {why}"),
            Look::Elsewhere(uri) => format!("see {uri}"),
            Look::Later => "later".to_owned(),
            Look::Doubtful => "doubtful".to_owned(),
        }
    }

    #[test]
    fn a_job_says_whether_it_has_an_answer() {
        let table = [
            (202, None, "", "later"),
            (200, None, r#"{"state":"waiting"}"#, "later"),
            (200, None, r#"{"state":"unknown"}"#, "doubtful"),
            (200, None, r#"{"state":"dead"}"#, "over: its job is dead"),
            (200, None, r#"{"id":7}"#, "done 200"),
            (201, None, "", "done 201"),
            (303, Some("/jobs/1/response"), "", "see /jobs/1/response"),
            (303, None, "", "unknown: answered 303 without a Location that could be followed"),
            (410, None, "gone", "unknown: its job answered 410: gone"),
            (404, None, "", "unknown: its job answered 404: "),
            (429, None, "", "later"),
            (503, None, "", "later"),
        ];
        for (status, location, body, expected) in table {
            assert_eq!(look(status, location, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_gateway_that_cannot_answer_now_is_not_the_answer() {
        let table = [
            (201, "done 201"),
            (204, "done 204"),
            (404, "done 404"),
            (409, "done 409"),
            (429, "later"),
            (500, "later"),
            (502, "later"),
            (503, "later"),
        ];
        for (status, expected) in table {
            let answer = Answer { status, body: "".into(), location: None, at: Instant::now() };
            assert_eq!(said(response(answer)), expected, "{status}");
        }
    }

    #[test]
    fn a_location_is_followed_on_the_target_itself() {
        let table = [
            ("/.mainstay/jobs/1-a", Some("/.mainstay/jobs/1-a")),
            ("http://shop.example/jobs/1?a=b#c", Some("/jobs/1?a=b")),
            ("https://shop.example", Some("/")),
            ("jobs/1", None),
            ("", None),
        ];
        for (location, expected) in table {
            assert_eq!(target(location).map(|uri| uri.to_string()).as_deref(), expected, "{location}");
        }
    }
}
