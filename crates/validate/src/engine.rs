//! Plays one flow once.

use crate::client::{CallError, Called, Client};
use crate::connection::{Answer, Keep};
use crate::follow::{FOLLOW_CONNECTIONS, Followed};
use crate::ledger::{Book, Fate, INTENTS_LIMIT, Intent, IntentId};
use crate::outcome::{Outcome, snippet};
use crate::report::Skipped;
use crate::script::{LedgerScript, RequestError, Script, StepScript, barred};
use crate::target::{Target, TargetError};
use crate::values::Values;
use http::{HeaderMap, Uri};
use model::flow::Flow;
use model::name::FlowName;
use model::workload::Class;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long a step may take when nothing else is said.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// All that the plays of one run share.
pub(crate) struct Engine {
    pub(crate) client: Client,
    pub(crate) base: HeaderMap,
    pub(crate) scripts: Vec<Script>,
    pub(crate) environment: String,
    pub(crate) timeout: Duration,
    /// How long an accepted write is followed, and by whom.
    pub(crate) follow: Duration,
    pub(crate) followers: Client,
    book: Mutex<Book>,
}

/// What an engine may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    pub(crate) connections: usize,
    /// For one request.
    pub(crate) timeout: Duration,
    /// For an accepted write, from its 202.
    pub(crate) follow: Duration,
}

/// What one play saw.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) flow: usize,
    /// How long after its planned instant it began.
    pub(crate) lag: Duration,
    /// One for each step that was played: it ends at the first failure.
    pub(crate) seen: Vec<Seen>,
    /// The ledger was full: the play ended before its first write.
    pub(crate) refused: bool,
}

/// What one request saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) outcome: Outcome,
    pub(crate) status: Option<u16>,
    /// From the instant it was due to the last byte of its answer, or to its failure. Of an accepted write: to its
    /// 202.
    pub(crate) latency: Duration,
    pub(crate) accepted: Option<Accepted>,
    /// Whether it had to wait for a connection to become free.
    pub(crate) waited: bool,
    /// The path it was sent to; none when the values made no request.
    pub(crate) path: Option<Uri>,
    pub(crate) problem: Option<Problem>,
    sent: Sent,
    ended: Instant,
}

/// A write that was answered with 202 first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    /// From the instant it was due to its final answer. None: that did not come.
    pub(crate) until_done: Option<Duration>,
}

/// What is wrong with an answer, or with there being none.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) text: String,
    pub(crate) snippet: String,
}

impl Problem {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), snippet: String::new() }
    }
}

/// How far a request got: what the ledger has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// Not a byte was written.
    Never,
    /// It may have been written, and no complete answer came.
    Perhaps,
    /// Answered with the expected status.
    Accepted,
    /// Answered with 202, and with nothing else while it was followed.
    Promised,
    /// Answered with another status.
    Refused,
}

impl Engine {
    pub(crate) fn new(
        target: &Target,
        scripts: Vec<Script>,
        allowance: Allowance,
    ) -> Result<Self, TargetError> {
        let Allowance { connections, timeout, follow } = allowance;
        Ok(Self {
            client: Client::new(target.address, connections),
            follow,
            followers: Client::new(target.address, FOLLOW_CONNECTIONS),
            base: target.base_headers()?,
            scripts,
            environment: target.environment.clone(),
            timeout,
            book: Mutex::new(Book::new(INTENTS_LIMIT)),
        })
    }

    /// Plays script `flow` once. The first request counts from `planned`, each later one from when the
    /// answer before it was in. Not resumable: dropped, an intent it wrote down stays unknown.
    pub(crate) async fn play(&self, flow: usize, mut values: Values, planned: Instant) -> Played {
        let script = &self.scripts[flow];
        let mut played = Played { flow, lag: planned.elapsed(), seen: Vec::new(), refused: false };
        let mut since = planned;
        let mut intent = None;
        for (index, step) in script.steps.iter().enumerate() {
            if intent.is_none()
                && step.writes()
                && let Some(ledger) = &script.ledger
            {
                match self.intend(flow, ledger, &values) {
                    Ok(Some(id)) => intent = Some(id),
                    Ok(None) => {
                        played.refused = true;
                        break;
                    }
                    Err(problem) => {
                        played.seen.push(Seen::unsendable(problem, since));
                        break;
                    }
                }
            }
            let seen = self.request(step, &mut values, since).await;
            since = seen.ended;
            if let Some(id) = intent
                && let Some(fate) = fate(&seen, step.writes(), script.last_write == Some(index))
            {
                self.book().settle(id, fate);
            }
            let ok = seen.outcome == Outcome::Ok;
            played.seen.push(seen);
            if !ok {
                break;
            }
        }
        played
    }

    /// Takes the intents out, in the order in which they were written down.
    pub(crate) fn take_intents(&self) -> Vec<Intent> {
        std::mem::replace(&mut *self.book(), Book::new(0)).into_intents()
    }

    fn intend(
        &self,
        flow: usize,
        ledger: &LedgerScript,
        values: &Values,
    ) -> Result<Option<IntentId>, RequestError> {
        let reference = ledger.reference.render(|name| values.get(name))?;
        let confirm =
            if ledger.needs_play { Some(ledger.confirm_path(&reference, Some(values), "")?) } else { None };
        Ok(self.book().intend(flow, reference, confirm))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no code that holds the lock panics")
    }

    async fn request(&self, step: &StepScript, values: &mut Values, since: Instant) -> Seen {
        let request = match step.request(&self.base, values) {
            Ok(request) => request,
            Err(problem) => return Seen::unsendable(problem, since),
        };
        let path = Some(request.uri().clone());
        let keep = if step.save.is_empty() { Keep::Start } else { Keep::All };
        let Called { result, waited } = self.client.call(request, keep, self.timeout).await;
        let mut seen = match result {
            Ok(answer) if answer.status == 202 && step.is_followed() => {
                self.settled(step, &answer, values, since).await
            }
            Ok(answer) => judge_answer(step, &answer, values, since),
            Err(error) => Seen::without_answer(&error, since),
        };
        seen.path = path;
        seen.waited = waited;
        seen
    }

    /// What becomes of a write whose first answer was 202: its final answer is what the step is judged by.
    async fn settled(&self, step: &StepScript, first: &Answer, values: &mut Values, since: Instant) -> Seen {
        let failed = |outcome, sent, text: String| {
            Seen::failed(outcome, Some(first.status), Problem::new(text), sent, since)
        };
        let (mut seen, done) = match self.follow(first.location.as_deref()).await {
            Followed::Done(answer) => (judge_answer(step, &answer, values, since), Some(answer.at)),
            Followed::Over(why) => {
                let text = format!("accepted with 202, and then {why}");
                (failed(Outcome::UnexpectedStatus, Sent::Refused, text), None)
            }
            Followed::Unknown(why) => {
                let text = format!("accepted with 202, and then {why}");
                (failed(Outcome::UnexpectedStatus, Sent::Perhaps, text), None)
            }
            Followed::Pending => {
                let text = format!("accepted with 202, not yet done after {:?}", self.follow);
                (failed(Outcome::Pending, Sent::Promised, text), None)
            }
        };
        seen.latency = first.at.saturating_duration_since(since);
        seen.accepted = Some(Accepted { until_done: done.map(|at| at.saturating_duration_since(since)) });
        seen
    }
}

impl Seen {
    fn unsendable(problem: RequestError, since: Instant) -> Self {
        let problem = Problem::new(problem.to_string());
        Self::failed(Outcome::Unsendable, None, problem, Sent::Never, since)
    }

    fn without_answer(error: &CallError, since: Instant) -> Self {
        let (outcome, sent, status) = match error {
            CallError::Connect { .. } => (Outcome::ConnectFailed, Sent::Never, None),
            CallError::NoSocket { .. } => (Outcome::NoSocket, Sent::Never, None),
            CallError::NoneFree { .. } => (Outcome::Timeout, Sent::Never, None),
            CallError::Timeout { .. } => (Outcome::Timeout, Sent::Perhaps, None),
            CallError::Cut(_) => (Outcome::Cut, Sent::Perhaps, None),
            CallError::TooLarge { status } => (Outcome::BadBody, Sent::Perhaps, Some(*status)),
        };
        Self::failed(outcome, status, Problem::new(error.to_string()), sent, since)
    }

    fn failed(outcome: Outcome, status: Option<u16>, problem: Problem, sent: Sent, since: Instant) -> Self {
        let ended = Instant::now();
        let latency = ended.saturating_duration_since(since);
        let problem = Some(problem);
        Self { outcome, status, latency, accepted: None, waited: false, path: None, problem, sent, ended }
    }
}

/// Holds a complete answer against what the step expects, and saves from it what later steps use.
fn judge_answer(step: &StepScript, answer: &Answer, values: &mut Values, since: Instant) -> Seen {
    let mut seen = Seen {
        outcome: Outcome::Ok,
        status: Some(answer.status),
        latency: answer.at.saturating_duration_since(since),
        accepted: None,
        waited: false,
        path: None,
        problem: None,
        sent: Sent::Accepted,
        ended: answer.at,
    };
    let text = if step.expect.holds(answer.status) {
        match save(step, &answer.body, values) {
            Ok(()) => return seen,
            Err(text) => {
                seen.outcome = Outcome::BadBody;
                format!("answered {}, {text}", answer.status)
            }
        }
    } else {
        seen.outcome = Outcome::UnexpectedStatus;
        seen.sent = Sent::Refused;
        format!("answered {}, expected {}", answer.status, step.expect)
    };
    seen.problem = Some(Problem { text, snippet: snippet(&answer.body) });
    seen
}

fn save(step: &StepScript, body: &[u8], values: &mut Values) -> Result<(), String> {
    if step.save.is_empty() {
        return Ok(());
    }
    let document: Value = serde_json::from_slice(body).map_err(|e| format!("not with JSON: {e}"))?;
    for (name, path) in &step.save {
        let text = match path.query(&document).first() {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            Some(Value::Null | Value::Array(_) | Value::Object(_)) => {
                return Err(format!("where {path} is no text, number or boolean to save as {name}"));
            }
            None => return Err(format!("where {path} finds nothing to save as {name}")),
        };
        values.save(name, text);
    }
    Ok(())
}

/// What a request says of its play's intent: none while the flow goes on and its last write is not
/// answered.
fn fate(seen: &Seen, writes: bool, last_write: bool) -> Option<Fate> {
    match seen.sent {
        // The promise is in the status: a body without what a later step needs does not take it back.
        Sent::Accepted if last_write => Some(Fate::Acknowledged),
        Sent::Promised if last_write => Some(Fate::Accepted),
        Sent::Accepted if seen.outcome == Outcome::Ok => None,
        Sent::Perhaps if writes => Some(Fate::Unknown),
        // The flow ends here and its last write is never sent, or was refused.
        Sent::Accepted | Sent::Promised | Sent::Perhaps | Sent::Refused | Sent::Never => Some(Fate::Failed),
    }
}

/// The flows of a workload, sorted into those that are played and those that are not.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) scripts: Vec<Script>,
    pub(crate) skipped: Vec<Skipped>,
    /// Flows that cannot be played at all, each with why.
    pub(crate) broken: Vec<Skipped>,
}

/// Chooses what is played in an environment of `class`; a flow without weight only when `weightless`.
pub(crate) fn choose(flows: &BTreeMap<FlowName, Flow>, class: Class, weightless: bool) -> Chosen {
    let mut chosen = Chosen { scripts: Vec::new(), skipped: Vec::new(), broken: Vec::new() };
    for (name, flow) in flows {
        let skipped = |why: String| Skipped { flow: name.to_string(), why };
        if let Some(why) = barred(flow, class) {
            chosen.skipped.push(skipped(why.to_owned()));
        } else if flow.weight == 0 && !weightless {
            chosen.skipped.push(skipped("its weight is 0: only the smoke test plays it".to_owned()));
        } else {
            match Script::new(name, flow) {
                Ok(script) => chosen.scripts.push(script),
                Err(error) => chosen.broken.push(skipped(error.to_string())),
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fate_of_an_intent_is_what_its_writes_were_told() {
        use Fate::{Accepted, Acknowledged, Failed, Unknown};
        const READ: (bool, bool) = (false, false);
        const WRITE: (bool, bool) = (true, false);
        const LAST: (bool, bool) = (true, true);
        let table = [
            (Outcome::Ok, Sent::Accepted, READ, None),
            (Outcome::Ok, Sent::Accepted, WRITE, None),
            (Outcome::Ok, Sent::Accepted, LAST, Some(Acknowledged)),
            // The status promises, whatever the body lacks; but a write after it is then never sent.
            (Outcome::BadBody, Sent::Accepted, LAST, Some(Acknowledged)),
            (Outcome::BadBody, Sent::Accepted, WRITE, Some(Failed)),
            (Outcome::UnexpectedStatus, Sent::Refused, LAST, Some(Failed)),
            (Outcome::Pending, Sent::Promised, LAST, Some(Accepted)),
            // A write after it is never sent.
            (Outcome::Pending, Sent::Promised, WRITE, Some(Failed)),
            (Outcome::ConnectFailed, Sent::Never, LAST, Some(Failed)),
            (Outcome::Timeout, Sent::Never, WRITE, Some(Failed)),
            (Outcome::Timeout, Sent::Perhaps, LAST, Some(Unknown)),
            (Outcome::Cut, Sent::Perhaps, WRITE, Some(Unknown)),
            // The flow ends with a read, so that its last write was never sent.
            (Outcome::Cut, Sent::Perhaps, READ, Some(Failed)),
        ];
        for (outcome, sent, (writes, last), expected) in table {
            let problem = Problem::new("");
            let seen = Seen::failed(outcome, None, problem, sent, Instant::now());
            assert_eq!(fate(&seen, writes, last), expected, "{outcome:?} {sent:?} {writes} {last}");
        }
    }
}
