//! The calls of a saga: how each is made, and what its outcome makes of the saga.

mod ask;
mod told;

use crate::call::{CallOutcome, Upstream};
use crate::codec::{Head, StepHead, StoredRequest, StoredStep};
use crate::deliver::{Flight, Job, Message, Step, settle};
use crate::fingerprint::step_key;
use crate::job::{Answer, Fields, JobState};
use crate::outcome::{Came, PROBE_PAUSE, Said, carried, doubt, probe_says};
use crate::saga::{Action, CallState, Known, Place, is_past_pivot, next};
use crate::shared::{After, Shared, State, job_id, later, span_ms};
use crate::values::{NoValue, Values};
use crate::verdict::{Meaning, words};
use bytes::Bytes;
use model::flow::Method;
use model::queue::{Saga, SagaCall, SagaStep};
use std::sync::Arc;
use std::time::Duration;
use store::journal::{AttemptRecord, Change, StepRecord};

/// For how many times as long as an attempt may take a 409 is put down to one that may have happened and is under way
/// still. Then the step counts as refused: otherwise what came before it would stay done until the job is too old.
const CONFLICT_PATIENCE: u32 = 10;

/// What an attempt of a step makes of it.
enum StepVerdict {
    Done,
    Refused,
    Again(Option<Duration>),
    Unknown,
    /// Nothing more is tried by itself: the job is a dead letter, as it stands.
    GivenUp,
}

impl Shared {
    /// Does what comes next in a saga.
    pub(crate) fn saga_step(self: &Arc<Self>, mut job: Job) -> Step {
        let Some(saga) = job.request.saga.clone() else { return Step::Again };
        let place = match next(&saga, &known(&job)) {
            Action::Call(place) => place,
            Action::Resolve(place) => return self.found_in_doubt(job, place),
            action @ (Action::Complete | Action::Undone(_) | Action::Stuck(_)) => {
                let (change, after) = self.finish(&job, &saga, action, self.wall_ms(), false, None);
                self.write(change, after);
                return Step::Again;
            }
        };
        if job.known.is_empty() && self.is_too_old(&job) {
            return self.die_of_age(job);
        }
        let message = match self.message(&job, &saga, place) {
            Ok(message) => message,
            Err(error) => return self.cannot_be_made(job, &saga, place, &error),
        };
        let Some((upstream, begun)) = self.begin(&job, &message.to) else { return Step::Again };
        job.attempts += 1;
        let mut head = head(&job, place);
        let at_ms = self.wall_ms();
        if head.state == CallState::Begun {
            // It was under way when the process ended, and may have happened.
            (head.doubt, head.doubt_ms) = (true, at_ms);
        }
        head.attempts += 1;
        head.state = CallState::Begun;
        let step = note(&mut job, place, StoredStep { head, answer: None }, at_ms);
        let id = job_id(&job.entry);
        let state = JobState::Dispatching;
        let attempt = Change::Attempt { id, number: job.attempts, due_ms: at_ms, state, ended: None };
        let call = self.take_off(job, upstream, begun, Some(place), false, message);
        self.write(Change::Several(vec![Change::Step { id, step }, attempt]), After::Go(call));
        Step::Again
    }

    /// A call that was begun before the process ended, and may have happened.
    fn found_in_doubt(self: &Arc<Self>, mut job: Job, place: Place) -> Step {
        let at_ms = self.wall_ms();
        let mut head = head(&job, place);
        (head.state, head.doubt, head.doubt_ms) = (CallState::Unknown, true, at_ms);
        let step = note(&mut job, place, StoredStep { head, answer: None }, at_ms);
        let now = self.clock.now();
        let target = self.lock().book.target(job.request.head.traffic, &upstream_of(&job, place));
        let (change, after) = self.in_doubt(&job, place, target, step, None, (now, at_ms));
        self.write(change, after);
        Step::Again
    }

    fn in_doubt(
        &self,
        job: &Job,
        place: Place,
        target: usize,
        step: StepRecord,
        ended: Option<AttemptRecord>,
        (now, at_ms): (u64, i64),
    ) -> (Change, After) {
        let id = job_id(&job.entry);
        let (state, attempts) = (JobState::Unknown, job.attempts);
        let outcome = Change::Outcome { id, attempts, at_ms, state, response: None, ended };
        let probed = !place.undo && step_of(job, place).is_some_and(|step| step.probe.is_some());
        let probe = probed.then(|| later(now, PROBE_PAUSE));
        let hold = Some(later(now, job.request.settings.unknown_hold));
        let change = Change::Several(vec![Change::Step { id, step }, outcome]);
        (change, After::Doubt { doubt: Box::new(doubt(job, target, now)), hold, probe })
    }

    /// A call for which a value is missing surely does not happen.
    fn cannot_be_made(self: &Arc<Self>, mut job: Job, saga: &Saga, place: Place, error: &NoValue) -> Step {
        let at_ms = self.wall_ms();
        let mut head = head(&job, place);
        head.why = error.to_string();
        let past_pivot = !place.undo && is_past_pivot(saga, usize::from(place.step));
        head.state = if past_pivot { CallState::Again } else { CallState::Refused };
        let name = &saga.steps[usize::from(place.step)].name;
        let ended = AttemptRecord {
            number: job.attempts,
            began_ms: at_ms,
            ended_ms: at_ms,
            status: None,
            text: format!("{}: {error}", about(name, place)),
        };
        let step = note(&mut job, place, StoredStep { head, answer: None }, at_ms);
        let (change, after) = if past_pivot {
            let (outcome, after) = settle(&job, JobState::Dead, at_ms, None, Some(ended));
            (Change::Several(vec![Change::Step { id: job_id(&job.entry), step }, outcome]), after)
        } else {
            self.go_on(&job, saga, step, Some(ended), (self.clock.now(), at_ms), false)
        };
        self.write(change, after);
        Step::Again
    }

    /// An attempt of a step, or of its undo, has ended.
    pub(crate) fn step_ended(
        &self,
        state: &mut State,
        flight: &mut Flight,
        place: Place,
        came: &Came,
    ) -> (Option<Change>, After) {
        let Flight { job, upstream, .. } = flight;
        let Some(saga) = job.request.saga.clone() else { return (None, After::Nothing) };
        let step = &saga.steps[usize::from(place.step)];
        let past_pivot = !place.undo && is_past_pivot(&saga, usize::from(place.step));
        job.tries = job.tries.saturating_add(1);
        let mut head = head(job, place);
        let not_sent = came.meaning == Meaning::NotSent;
        // An upstream that does not work uses no attempts up, and neither do credentials that may come back when nobody
        // waits to hear that they are not good.
        let patient = !place.undo && !state.has_client(job.entry.id());
        let expired = patient && came.meaning == Meaning::Credentials;
        if not_sent || came.outage || expired {
            head.excused = head.excused.saturating_add(1);
        }
        if came.meaning == Meaning::Doubt {
            (head.doubt, head.doubt_ms) = (true, came.at_ms);
        }
        let too_old = !place.undo && self.is_over(job.request.settings.max_age, job.from_ms, came.at_ms);
        let used_up = head.attempts.saturating_sub(head.excused) >= step.attempts;
        let in_doubt_ms = self.calendar.passed(head.doubt_ms, came.at_ms);
        let verdict = judge_step(
            came,
            place,
            step,
            past_pivot,
            &head,
            (used_up || too_old, too_old, expired),
            in_doubt_ms,
        );
        let name = about(&step.name, place);
        let ended = (!not_sent).then(|| came.record(job.attempts, &format!("{name}: ")));
        head.state = match verdict {
            StepVerdict::Done => CallState::Done,
            StepVerdict::Refused => CallState::Refused,
            StepVerdict::Again(_) | StepVerdict::GivenUp => CallState::Again,
            StepVerdict::Unknown => CallState::Unknown,
        };
        head.why = if matches!(verdict, StepVerdict::Done) { String::new() } else { words(&came.outcome) };
        let answer = match verdict {
            StepVerdict::Done | StepVerdict::Refused => came.answer().cloned(),
            StepVerdict::Again(_) | StepVerdict::Unknown | StepVerdict::GivenUp => None,
        };
        let record = note(job, place, StoredStep { head, answer }, came.at_ms);
        let id = job_id(&job.entry);
        let (change, after) = match verdict {
            StepVerdict::Done | StepVerdict::Refused => {
                job.tries = 0;
                let waiting = state.has_client(job.entry.id());
                self.go_on_at(state, job, &saga, record, ended, (came.now, came.at_ms), waiting)
            }
            StepVerdict::Again(after) => {
                let pause = state.pause(job.tries).max(after.unwrap_or_default());
                let attempt = self.waits(job, came, pause, ended);
                let hurries = matches!(came.meaning, Meaning::NotSent | Meaning::Doubt) && after.is_none();
                let carried = carried(job, *upstream, hurries);
                let after = After::PutOff(Box::new(carried), later(came.now, pause));
                (Change::Several(vec![Change::Step { id, step: record }, attempt]), after)
            }
            StepVerdict::Unknown => {
                self.in_doubt(job, place, *upstream, record, ended, (came.now, came.at_ms))
            }
            StepVerdict::GivenUp => {
                let (outcome, after) = settle(job, JobState::Dead, came.at_ms, came.answer().cloned(), ended);
                (Change::Several(vec![Change::Step { id, step: record }, outcome]), after)
            }
        };
        (Some(change), after)
    }

    /// One call is done or refused: what is written with it, and what comes next.
    fn go_on(
        &self,
        job: &Job,
        saga: &Saga,
        step: StepRecord,
        ended: Option<AttemptRecord>,
        at: (u64, i64),
        waiting: bool,
    ) -> (Change, After) {
        let mut state = self.lock();
        self.go_on_at(&mut state, job, saga, step, ended, at, waiting)
    }

    #[expect(clippy::too_many_arguments, reason = "what is known at the end of a call, each used once")]
    fn go_on_at(
        &self,
        state: &mut State,
        job: &Job,
        saga: &Saga,
        step: StepRecord,
        ended: Option<AttemptRecord>,
        (now, at_ms): (u64, i64),
        waiting: bool,
    ) -> (Change, After) {
        let id = job_id(&job.entry);
        let step = Change::Step { id, step };
        match next(saga, &known(job)) {
            Action::Call(place) | Action::Resolve(place) => {
                let upstream = state.book.target(job.request.head.traffic, &upstream_of(job, place));
                let attempt = Change::Attempt {
                    id,
                    number: job.attempts,
                    due_ms: at_ms,
                    state: JobState::Waiting,
                    ended,
                };
                let carried = carried(job, upstream, false);
                (Change::Several(vec![step, attempt]), After::PutOff(Box::new(carried), now))
            }
            action @ (Action::Complete | Action::Undone(_) | Action::Stuck(_)) => {
                let (outcome, after) = self.finish(job, saga, action, at_ms, waiting, ended);
                (Change::Several(vec![step, outcome]), after)
            }
        }
    }

    /// A saga has come to an end.
    fn finish(
        &self,
        job: &Job,
        saga: &Saga,
        action: Action,
        at_ms: i64,
        waiting: bool,
        ended: Option<AttemptRecord>,
    ) -> (Change, After) {
        let (state, answer) = match action {
            Action::Undone(step) => {
                let answer = told::undone(job, saga, step);
                (if waiting { JobState::Done } else { JobState::Rejected }, Some(answer))
            }
            Action::Stuck(step) => (JobState::Dead, Some(told::stuck(job, saga, step))),
            Action::Complete | Action::Call(_) | Action::Resolve(_) => {
                (JobState::Done, Some(told::complete(job, saga)))
            }
        };
        let (change, mut after) = settle(job, state, at_ms, answer, ended);
        if let After::Settled(settled) = &mut after {
            settled.saga = Some(action);
        }
        (change, after)
    }

    /// What a probe of a step has brought.
    pub(crate) fn step_probed(
        &self,
        state: &mut State,
        flight: &mut Flight,
        place: Place,
        came: &Came,
    ) -> (Option<Change>, After) {
        let longest = flight.longest();
        let Flight { job, .. } = flight;
        let Some(saga) = job.request.saga.clone() else { return (None, After::Nothing) };
        let said = probe_says(came);
        let denied = said == Said::Not && state.is_denied(job.entry.id(), came.now, longest);
        if said != Said::Happened && !denied {
            return (None, self.ask_again(state, job, came, said, longest));
        }
        let step = &saga.steps[usize::from(place.step)];
        let mut head = head(job, place);
        head.doubt = false;
        let used_up = head.attempts.saturating_sub(head.excused) >= step.attempts;
        head.state = match said {
            Said::Happened => CallState::Done,
            Said::Not | Said::Nothing if used_up && !is_past_pivot(&saga, usize::from(place.step)) => {
                CallState::Refused
            }
            Said::Not | Said::Nothing => CallState::Again,
        };
        let answer = if said == Said::Happened { came.answer().cloned() } else { None };
        let ended = came.record(job.attempts, &format!("probe of {}: ", step.name));
        let record = note(job, place, StoredStep { head, answer }, came.at_ms);
        let waiting = state.has_client(job.entry.id());
        let (change, after) =
            self.go_on_at(state, job, &saga, record, Some(ended), (came.now, came.at_ms), waiting);
        (Some(change), after)
    }

    fn values<'a>(&'a self, job: &'a Job) -> Values<'a> {
        let mut values = Values::new(&self.paths, &job.request.body, &job.request.head.key);
        let Some(saga) = &job.request.saga else { return values };
        for (place, stored) in &job.known {
            let done = !place.undo && stored.head.state == CallState::Done;
            let step = saga.steps.get(usize::from(place.step));
            if let (true, Some(step), Some(answer)) = (done, step, &stored.answer) {
                values = values.with_answer(&step.name, &answer.body);
            }
        }
        values
    }

    fn message(&self, job: &Job, saga: &Saga, place: Place) -> Result<Message, NoValue> {
        let key = key_of(&job.request, place);
        let values = self.values(job).with_key(&key);
        let step = &saga.steps[usize::from(place.step)];
        let call = call_of(step, place);
        let target = values.path(&call.path)?;
        let (body, fields) = match &call.json {
            Some(json) => {
                let body = values.json(json)?.to_string();
                (Bytes::from(body), with_type(&job.request.fields, Some("application/json")))
            }
            None if place.undo => (Bytes::new(), with_type(&job.request.fields, None)),
            None => (job.request.body.clone(), job.request.fields.clone()),
        };
        let to = Upstream::Component(call.to.clone());
        Ok(Message { to, method: call.method, target, fields, body, timeout: step.timeout, key })
    }
}

/// The rules of a step. Whatever may have happened is sent again with the same key, or asked for; a step is refused
/// only when it surely did not happen.
fn judge_step(
    came: &Came,
    place: Place,
    step: &SagaStep,
    past_pivot: bool,
    head: &StepHead,
    (used_up, too_old, expired): (bool, bool, bool),
    in_doubt_ms: i64,
) -> StepVerdict {
    let after = match &came.outcome {
        CallOutcome::Answered { retry_after, .. } => {
            retry_after.map(|a| a.min(crate::verdict::RETRY_AFTER_LIMIT))
        }
        CallOutcome::NotSent { .. } | CallOutcome::Withheld { .. } | CallOutcome::Unanswered { .. } => None,
    };
    let gone = |answer: &Answer| matches!(answer.status, 404 | 410);
    match came.meaning {
        Meaning::Success => StepVerdict::Done,
        Meaning::Doubt if !step.idempotent => StepVerdict::Unknown,
        // What is not there needs no deleting.
        Meaning::Refused
            if place.undo
                && call_of(step, place).method == Method::Delete
                && came.answer().is_some_and(gone) =>
        {
            StepVerdict::Done
        }
        Meaning::Refused | Meaning::Credentials if !place.undo && !past_pivot && !head.doubt && !expired => {
            StepVerdict::Refused
        }
        // The attempt in doubt is over in the service by now, and the same key was refused again and again.
        Meaning::Refused if !place.undo && !past_pivot && used_up && is_long_over(in_doubt_ms, step, 1) => {
            StepVerdict::Refused
        }
        // A 409 that does not end is about something else than that attempt: nobody would ever undo what came before.
        Meaning::NotYet(_)
            if is_conflict(came)
                && !place.undo
                && !past_pivot
                && used_up
                && is_long_over(in_doubt_ms, step, CONFLICT_PATIENCE) =>
        {
            StepVerdict::Refused
        }
        Meaning::Refused | Meaning::Credentials | Meaning::NotYet(_) | Meaning::NotSent | Meaning::Doubt => {
            match (used_up, place.undo || !past_pivot) {
                (false, _) => StepVerdict::Again(after),
                (true, _) if place.undo => StepVerdict::Refused,
                (true, true) if !head.doubt => StepVerdict::Refused,
                // It may have happened: the same key resolves it, as long as the job is not too old for that.
                (true, true) if !too_old => StepVerdict::Again(after),
                (true, _) => StepVerdict::GivenUp,
            }
        }
    }
}

/// Whether it was answered with 409: the first attempt may be under way still, or the step is refused.
fn is_conflict(came: &Came) -> bool {
    came.answer().is_some_and(|answer| answer.status == 409)
}

/// Whether the last attempt in doubt has been over for so many times as long as one may take.
fn is_long_over(in_doubt_ms: i64, step: &SagaStep, times: u32) -> bool {
    in_doubt_ms >= span_ms(step.timeout.saturating_mul(times))
}

/// The state of each call.
pub(crate) fn known(job: &Job) -> Vec<Known> {
    job.known.iter().map(|(place, step)| Known { place: *place, state: step.head.state }).collect()
}

/// What is known of one call so far.
fn head(job: &Job, place: Place) -> StepHead {
    let known = job.known.iter().find(|(known, _)| *known == place).map(|(_, step)| step.head.clone());
    known.unwrap_or(StepHead {
        state: CallState::Again,
        generation: job.request.head.generation,
        attempts: 0,
        excused: 0,
        doubt: false,
        doubt_ms: 0,
        why: String::new(),
    })
}

/// Notes what is known of a call from now on; returns how that is written.
fn note(job: &mut Job, place: Place, stored: StoredStep, at_ms: i64) -> StepRecord {
    let record = stored.encode();
    match job.known.iter_mut().find(|(known, _)| *known == place) {
        Some((_, known)) => *known = stored,
        None => job.known.push((place, stored)),
    }
    StepRecord { step: place.step, undo: place.undo, at_ms, record }
}

fn step_of(job: &Job, place: Place) -> Option<&SagaStep> {
    job.request.saga.as_ref()?.steps.get(usize::from(place.step))
}

fn call_of(step: &SagaStep, place: Place) -> &SagaCall {
    // The machine undoes no step that has no undo.
    if place.undo { step.undo.as_ref().unwrap_or(&step.call) } else { &step.call }
}

fn upstream_of(job: &Job, place: Place) -> Upstream {
    step_of(job, place).map_or(Upstream::Default, |step| Upstream::Component(call_of(step, place).to.clone()))
}

fn key_of(request: &StoredRequest, place: Place) -> String {
    let Head { key, seed, generation, .. } = &request.head;
    step_key(seed.as_ref().unwrap_or(key), *generation, place.step, place.undo)
}

fn about(name: &str, place: Place) -> String {
    if place.undo { format!("undo of {name}") } else { name.to_owned() }
}

/// The client's fields, with another type of body, or none.
fn with_type(fields: &Fields, content_type: Option<&'static str>) -> Fields {
    let others = fields.iter().filter(|(name, _)| !name.starts_with(b"content-")).cloned();
    let own =
        content_type.map(|value| (Bytes::from_static(b"content-type"), Bytes::from_static(value.as_bytes())));
    others.chain(own).collect()
}
