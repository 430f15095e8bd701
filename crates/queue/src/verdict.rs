//! What an attempt's outcome makes of its job: the rules of what is sent again and what never is.
//!
//! | outcome | not idempotent | idempotent |
//! | --- | --- | --- |
//! | 2xx, 3xx | delivered | delivered |
//! | not sent | again, not counted | again, not counted |
//! | 425, 429, 503 with Retry-After | again | again |
//! | 401, 403 after a 202 | again, not counted: a credential may come back | the same |
//! | another 4xx after a 202 | rejected | rejected |
//! | any 4xx but 425 and 429 while the client waits | delivered: its own answer | the same |
//! | another 5xx, a timeout, a broken connection | unknown | again |
//!
//! With a doubt in its history, a 409 is as 425: the first of them may be under way still.
//!
//! Again becomes dead once the attempts are used up, or the job is too old.

use crate::call::CallOutcome;
use std::time::Duration;

/// The longest pause that a Retry-After can ask for: more is a mistake, or somebody else's outage made ours.
pub(crate) const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(3_600);

/// What the outcome is judged by besides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Situation {
    /// Whether the service honours `Idempotency-Key`.
    pub(crate) idempotent: bool,
    /// Whether the client still waits for its answer: it has not been told 202.
    pub(crate) waiting: bool,
}

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is done, and this is its answer.
    Done,
    /// It is refused for good, and this is its answer.
    Rejected,
    /// It is sent again.
    Again(Again),
    /// It may have happened, and must not be sent again before that is known.
    Unknown,
}

/// How a job is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Again {
    /// Whether the attempt uses one up.
    pub(crate) counted: bool,
    /// Whether it may have happened.
    pub(crate) doubt: bool,
    /// The least pause, asked for by the upstream.
    pub(crate) after: Option<Duration>,
}

/// What a status says of a request that was sent once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It was done.
    Success,
    /// It surely was not done, and may be later.
    NotYet(Option<Duration>),
    /// It surely was not done: the credentials are not good, now.
    Credentials,
    /// It surely was not done, and will not be.
    Refused,
    /// It may have been done.
    Doubt,
    /// It surely was not even sent.
    NotSent,
}

impl Meaning {
    /// What it says of a request that was sent before with the same key and may be under way still: a service that
    /// honours keys answers 409 until the first one is done (draft-ietf-httpapi-idempotency-key-header, 2.6), so
    /// that says nothing for good.
    pub(crate) fn after_doubt(self, outcome: &CallOutcome) -> Self {
        match outcome {
            CallOutcome::Answered { answer, retry_after } if answer.status == 409 => {
                Self::NotYet(retry_after.map(|after| after.min(RETRY_AFTER_LIMIT)))
            }
            CallOutcome::Withheld { .. } => Self::Doubt,
            CallOutcome::Answered { .. } | CallOutcome::NotSent { .. } | CallOutcome::Unanswered { .. } => {
                self
            }
        }
    }
}

/// What an outcome says (RFC 9110, 15; 425 is RFC 8470, 429 is RFC 6585). A 503 without Retry-After may come from
/// anything that broke down midway.
pub(crate) fn meaning(outcome: &CallOutcome) -> Meaning {
    match outcome {
        CallOutcome::NotSent { .. } | CallOutcome::Withheld { .. } => Meaning::NotSent,
        CallOutcome::Unanswered { .. } => Meaning::Doubt,
        CallOutcome::Answered { answer, retry_after } => {
            let after = retry_after.map(|after| after.min(RETRY_AFTER_LIMIT));
            match (answer.status, after) {
                (200..=399, _) => Meaning::Success,
                (425 | 429, after) | (503, after @ Some(_)) => Meaning::NotYet(after),
                (401 | 403, _) => Meaning::Credentials,
                (400..=499, _) => Meaning::Refused,
                (_, _) => Meaning::Doubt,
            }
        }
    }
}

/// The rules.
pub(crate) fn judge(meaning: Meaning, situation: Situation) -> Verdict {
    let again = |counted, doubt, after| Verdict::Again(Again { counted, doubt, after });
    match meaning {
        Meaning::Success => Verdict::Done,
        Meaning::NotSent => again(false, false, None),
        Meaning::NotYet(after) => again(true, false, after),
        Meaning::Credentials | Meaning::Refused if situation.waiting => Verdict::Done,
        Meaning::Credentials => again(false, false, None),
        Meaning::Refused => Verdict::Rejected,
        Meaning::Doubt if situation.idempotent => again(true, true, None),
        Meaning::Doubt => Verdict::Unknown,
    }
}

/// An outcome in a few words, for the history of a job.
pub(crate) fn words(outcome: &CallOutcome) -> String {
    match outcome {
        CallOutcome::Answered { answer, retry_after: None } => format!("answered {}", answer.status),
        CallOutcome::Answered { answer, retry_after: Some(after) } => {
            format!("answered {}, Retry-After {} s", answer.status, after.as_secs())
        }
        CallOutcome::NotSent { why, .. } => format!("not sent: {why}"),
        CallOutcome::Withheld { why } => format!("held back: {why}"),
        CallOutcome::Unanswered { why } => format!("no answer: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Answer;
    use bytes::Bytes;

    fn answered(status: u16, retry_after: Option<u64>) -> CallOutcome {
        let answer = Answer { status, fields: Vec::new(), body: Bytes::new(), truncated: false };
        CallOutcome::Answered { answer, retry_after: retry_after.map(Duration::from_secs) }
    }

    /// Every row of the table, for: not idempotent with the client waiting, after 202, idempotent with the client
    /// waiting, after 202.
    #[test]
    fn every_row() {
        let again = |counted, doubt, after: Option<u64>| {
            Verdict::Again(Again { counted, doubt, after: after.map(Duration::from_secs) })
        };
        let (done, rejected, unknown) = (Verdict::Done, Verdict::Rejected, Verdict::Unknown);
        let same = |verdict| [verdict; 4];
        let not_sent = CallOutcome::NotSent { why: "refused".into(), busy: false };
        let broken = CallOutcome::Unanswered { why: "timeout".into() };
        let credentials = [done, again(false, false, None), done, again(false, false, None)];
        let final_4xx = [done, rejected, done, rejected];
        let doubtful = [unknown, unknown, again(true, true, None), again(true, true, None)];
        let table = [
            (answered(200, None), same(done)),
            (answered(201, None), same(done)),
            (answered(204, Some(5)), same(done)),
            (answered(303, None), same(done)),
            (answered(400, None), final_4xx),
            (answered(401, None), credentials),
            (answered(403, Some(1)), credentials),
            (answered(404, None), final_4xx),
            (answered(408, None), final_4xx),
            (answered(409, None), final_4xx),
            (answered(413, Some(9)), final_4xx),
            (answered(422, None), final_4xx),
            (answered(425, None), same(again(true, false, None))),
            (answered(429, None), same(again(true, false, None))),
            (answered(429, Some(7)), same(again(true, false, Some(7)))),
            (answered(429, Some(100_000)), same(again(true, false, Some(3_600)))),
            (answered(500, None), doubtful),
            (answered(500, Some(7)), doubtful),
            (answered(502, None), doubtful),
            (answered(503, None), doubtful),
            (answered(503, Some(0)), same(again(true, false, Some(0)))),
            (answered(503, Some(7)), same(again(true, false, Some(7)))),
            (answered(504, Some(7)), doubtful),
            (broken, doubtful),
            (not_sent, same(again(false, false, None))),
        ];
        for (outcome, expected) in table {
            let situations = [(false, true), (false, false), (true, true), (true, false)];
            for ((idempotent, waiting), expected) in situations.into_iter().zip(expected) {
                let situation = Situation { idempotent, waiting };
                assert_eq!(judge(meaning(&outcome), situation), expected, "{outcome:?}, {situation:?}");
            }
        }
    }
}
