//! What the client of a saga gets in the end.

use super::Place;
use crate::deliver::Job;
use crate::job::Answer;
use bytes::Bytes;
use model::queue::Saga;

/// What the client of a complete saga gets: the answer of the step that the saga names.
pub(super) fn complete(job: &Job, saga: &Saga) -> Answer {
    let step = saga.steps.iter().position(|step| step.name == saga.answer);
    let place = step.map(|step| Place { step: step as u16, undo: false });
    let found = job.known.iter().find(|(known, _)| Some(*known) == place);
    // A step that an operator has resolved has no answer.
    found.and_then(|(_, stored)| stored.answer.clone()).unwrap_or(Answer {
        status: 204,
        fields: Vec::new(),
        body: Bytes::new(),
        truncated: false,
    })
}

/// What the client of a saga gets that was undone: which step failed, and how.
pub(super) fn undone(job: &Job, saga: &Saga, step: u16) -> Answer {
    let place = Place { step, undo: false };
    let stored = job.known.iter().find(|(known, _)| *known == place).map(|(_, stored)| stored);
    let status = stored.and_then(|stored| stored.answer.as_ref()).map(|answer| answer.status);
    let name = &saga.steps[usize::from(step)].name;
    let detail = match (status, stored) {
        (Some(status), _) => {
            format!("step `{name}` was answered {status}; what was done before it is undone")
        }
        (None, Some(stored)) => {
            format!("step `{name}` failed ({}); what was done before it is undone", stored.head.why)
        }
        (None, None) => format!("step `{name}` failed; what was done before it is undone"),
    };
    // What the step was refused with is the client's matter; anything else is ours.
    let status = status.filter(|status| (400..=499).contains(status)).unwrap_or(502);
    problem(status, "saga-undone", "One of several steps failed, and the others were undone", &detail, name)
}

/// What stands for an answer while a saga could not be undone.
pub(super) fn stuck(job: &Job, saga: &Saga, step: u16) -> Answer {
    let name = &saga.steps[usize::from(step)].name;
    let why = job.known.iter().find(|(known, _)| *known == Place { step, undo: true });
    let why = why.map_or("", |(_, stored)| stored.head.why.as_str());
    let detail = format!("step `{name}` could not be undone ({why}); an operator has to see to it");
    problem(
        502,
        "saga-stuck",
        "One of several steps failed, and not all others could be undone",
        &detail,
        name,
    )
}

/// RFC 9457.
fn problem(status: u16, kind: &str, title: &str, detail: &str, step: &str) -> Answer {
    let problem = serde_json::json!({
        "type": format!("urn:mainstay:problem:{kind}"),
        "title": title,
        "status": status,
        "detail": detail,
        "step": step,
    });
    let content_type = (Bytes::from_static(b"content-type"), Bytes::from_static(b"application/problem+json"));
    let no_store = (Bytes::from_static(b"cache-control"), Bytes::from_static(b"no-store"));
    Answer {
        status,
        fields: vec![content_type, no_store],
        body: Bytes::from(problem.to_string()),
        truncated: false,
    }
}
