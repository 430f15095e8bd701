//! From what came of a call to what becomes of its job.

use crate::book::{Carried, InDoubt};
use crate::call::{CallId, CallOutcome, Upstream};
use crate::clock::Moment;
use crate::deliver::{Flight, Job, Message, Step, settle};
use crate::first::Ended;
use crate::job::{Answer, JobState};
use crate::pace::Sign;
use crate::shared::{After, Settled, Shared, State, job_id, later, span_ms};
use crate::values::Values;
use crate::verdict::{Again, Meaning, Situation, Verdict, judge, meaning, words};
use model::flow::Method;
use model::queue::QueuedRoute;
use std::sync::Arc;
use std::time::Duration;
use store::journal::{AttemptRecord, Change};

/// How often in a row a probe has to say that an attempt did not happen, a pause apart, before that is believed. The
/// last of them counts only once the attempt has been over for as long as an attempt may take: until then it may
/// still be under way in the service, as behind a lock that reads do not wait for.
pub(crate) const DENIALS: u32 = 2;
/// The least pause before a probe.
pub(crate) const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// What came of a call, and what was known when it did.
pub(crate) struct Came {
    pub(crate) outcome: CallOutcome,
    pub(crate) meaning: Meaning,
    pub(crate) now: Moment,
    pub(crate) at_ms: i64,
    pub(crate) began_ms: i64,
    /// Whether its upstream as a whole does not work: no job is to blame for that.
    pub(crate) outage: bool,
}

impl Came {
    /// A line of the job's history.
    pub(crate) fn record(&self, number: u32, about: &str) -> AttemptRecord {
        let status = match &self.outcome {
            CallOutcome::Answered { answer, .. } => Some(answer.status),
            CallOutcome::NotSent { .. } | CallOutcome::Withheld { .. } | CallOutcome::Unanswered { .. } => {
                None
            }
        };
        let text = format!("{about}{}", words(&self.outcome));
        AttemptRecord { number, began_ms: self.began_ms, ended_ms: self.at_ms, status, text }
    }

    /// The answer, if there was one.
    pub(crate) fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            CallOutcome::Answered { answer, .. } => Some(answer),
            CallOutcome::NotSent { .. } | CallOutcome::Withheld { .. } | CallOutcome::Unanswered { .. } => {
                None
            }
        }
    }

    /// Whether its upstream did not work, and did not say when it will: then the job goes on as soon as it does.
    fn hurries(&self) -> bool {
        matches!(self.meaning, Meaning::NotSent | Meaning::Doubt)
    }
}

impl Shared {
    /// What a call that has ended makes of its job, which is on disk.
    pub(crate) fn has_ended(self: &Arc<Self>, id: CallId, ended: Ended) {
        let Ended { outcome, settings, now } = ended;
        let settings = settings.as_deref();
        let at_ms = self.calendar.wall_at(now);
        let meaning = meaning(&outcome);
        let mut state = self.lock();
        let Some(mut flight) = state.flights.remove(&id) else {
            drop(state);
            return tracing::error!(call = %id, "a call was reported that is not under way");
        };
        match (flight.probe, meaning) {
            (true, _) => state.counters.probes += 1,
            (false, Meaning::NotSent) => {}
            (false, _) => state.counters.attempts += 1,
        }
        let sign = sign(meaning, &outcome);
        let draw = state.dice.draw();
        let pace = &mut state.book.targets[flight.upstream].pace;
        let is_withheld = matches!(outcome, CallOutcome::Withheld { .. });
        let closes = if is_withheld {
            pace.undo(flight.begun, now);
            false
        } else {
            pace.end(flight.begun, flight.job.entry.id(), sign, now, draw)
        };
        let outage = sign == Sign::Failing && pace.is_failing() && !is_withheld;
        if closes {
            state.book.hurry(flight.upstream);
        }
        let doubted = !flight.probe && flight.is_doubted();
        let meaning = if doubted { meaning.after_doubt(&outcome) } else { meaning };
        let came = Came { outcome, meaning, now, at_ms, began_ms: flight.began_ms, outage };
        let own = flight.job.request.settings.clone();
        let (change, mut after) = match (flight.place, flight.probe) {
            (Some(place), true) => self.step_probed(&mut state, &mut flight, place, &came),
            (Some(place), false) => self.step_ended(&mut state, &mut flight, place, &came),
            (None, true) => self.probed(&mut state, &flight, settings.unwrap_or(&own), &came),
            (None, false) => self.ended(&mut state, &mut flight, settings.unwrap_or(&own), &came),
        };
        let mut telling = None;
        if let After::Settled(settled) = &mut after {
            // From here on the client waits for this answer, also if its time runs out while that is written.
            settled.client =
                state.waiting.get_mut(&settled.entry.id()).and_then(|waiting| waiting.client.take());
            if flight.place.is_none() && settings.unwrap_or(&own).idempotent {
                telling = after.telling();
            }
        }
        // Found again as it was, it is sent again, which does no harm; and nobody waits to hear that it is settled.
        let plain = flight.place.is_none();
        let soon = plain
            && own.idempotent
            && settings.unwrap_or(&own).idempotent
            && matches!(&after, After::Settled(settled) if state.nobody_waits_for(settled));
        let is_news = state.has_work();
        drop(state);
        self.tell(telling);
        match change {
            Some(change) if soon => self.write_soon(change, after),
            Some(change) => self.write(change, after),
            None => self.take_effect(after),
        }
        if is_news {
            self.wake.notify_one();
        }
    }

    /// An attempt of a plain job.
    fn ended(
        &self,
        state: &mut State,
        flight: &mut Flight,
        settings: &QueuedRoute,
        came: &Came,
    ) -> (Option<Change>, After) {
        let is_repeated = flight.is_repeated();
        let Flight { job, upstream, .. } = flight;
        if flight.unannounced && !is_repeated && matches!(came.outcome, CallOutcome::Withheld { .. }) {
            // Once more, and this time whoever finds it half-way knows that it may have happened.
            job.announce = true;
            state.book.lines[job.entry.route()].announces = true;
            job.attempts = job.attempts.saturating_sub(1);
            let change = self.waits(job, came, Duration::ZERO, None);
            return (Some(change), After::PutOff(Box::new(carried(job, *upstream, false)), came.now));
        }
        if settings.idempotent && !matches!(came.meaning, Meaning::NotSent) {
            state.book.lines[job.entry.route()].announces = false;
        }
        let situation =
            Situation { idempotent: settings.idempotent, waiting: state.has_client(job.entry.id()) };
        match judge(came.meaning, situation) {
            Verdict::Done => {
                // A delivery that went well at once needs no history.
                let ended = (job.attempts > 1).then(|| came.record(job.attempts, ""));
                some(settle(job, JobState::Done, came.at_ms, came.answer().cloned(), ended))
            }
            Verdict::Rejected => {
                let ended = came.record(job.attempts, "");
                some(settle(job, JobState::Rejected, came.at_ms, came.answer().cloned(), Some(ended)))
            }
            Verdict::Again(again) => self.again(state, job, *upstream, settings, came, again),
            Verdict::Unknown => self.unknown(state, job, *upstream, settings, came),
        }
    }

    fn again(
        &self,
        state: &mut State,
        job: &mut Job,
        upstream: usize,
        settings: &QueuedRoute,
        came: &Came,
        again: Again,
    ) -> (Option<Change>, After) {
        job.tries = job.tries.saturating_add(1);
        job.doubted |= again.doubt;
        let ended = came.record(job.attempts, "");
        if came.meaning == Meaning::NotSent {
            // What was not sent takes no number.
            job.attempts = job.attempts.saturating_sub(1);
        } else if !again.counted || came.outage {
            job.excused = job.excused.saturating_add(1);
        }
        let used_up = job.attempts.saturating_sub(job.excused) >= settings.attempts;
        let too_old = self.is_over(settings.max_age, job.from_ms, came.at_ms);
        if used_up || too_old {
            return some(settle(job, JobState::Dead, came.at_ms, came.answer().cloned(), Some(ended)));
        }
        let pause = state.pause(job.tries).max(again.after.unwrap_or_default());
        // What was not sent is no part of the history: an outage would fill it.
        let ended = (came.meaning != Meaning::NotSent).then_some(ended);
        let change = self.waits(job, came, pause, ended);
        let carried = carried(job, upstream, came.hurries() && again.after.is_none());
        (Some(change), After::PutOff(Box::new(carried), later(came.now, pause)))
    }

    /// The job waits for its next attempt.
    pub(crate) fn waits(
        &self,
        job: &Job,
        came: &Came,
        pause: Duration,
        ended: Option<AttemptRecord>,
    ) -> Change {
        // What was never sent stays due since when it was: a time to come would say that it is scheduled, and not in
        // order before then.
        let due_ms = match job.attempts {
            0 => job.from_ms,
            _ => came.at_ms.saturating_add(span_ms(pause)),
        };
        Change::Attempt {
            id: job_id(&job.entry),
            number: job.attempts,
            due_ms,
            state: JobState::Waiting,
            ended,
        }
    }

    fn unknown(
        &self,
        state: &mut State,
        job: &Job,
        upstream: usize,
        settings: &QueuedRoute,
        came: &Came,
    ) -> (Option<Change>, After) {
        let change = Change::Outcome {
            id: job_id(&job.entry),
            attempts: job.attempts,
            at_ms: came.at_ms,
            state: JobState::Unknown,
            response: None,
            ended: Some(came.record(job.attempts, "")),
        };
        // What is asked is what the job came with: only that is there after a restart as well.
        let has_probe = job.request.settings.probe.is_some();
        let probe = has_probe.then(|| later(came.now, state.pause(1).max(PROBE_PAUSE)));
        let hold = later(came.now, settings.unknown_hold);
        (
            Some(change),
            After::Doubt { doubt: Box::new(doubt(job, upstream, came.now)), hold: Some(hold), probe },
        )
    }

    /// Asks what became of a plain job, or of the step of a saga.
    pub(crate) fn probe(self: &Arc<Self>, job: Job) -> Step {
        if job.request.saga.is_some() {
            return self.probe_step(job);
        }
        let Some(message) = self.probe_message(&job) else {
            self.lock().book.probe_later(job.entry.id(), 0, None);
            return Step::Again;
        };
        let Some((upstream, begun)) = self.begin(&job, &Upstream::Default) else { return Step::Again };
        Step::Call(self.take_off(job, upstream, begun, None, true, message))
    }

    fn probe_message(&self, job: &Job) -> Option<Message> {
        let request = &job.request;
        let template = request.settings.probe.as_ref()?;
        let values = Values::new(&self.paths, &request.body, &request.head.key);
        match values.path(template) {
            Ok(target) => Some(probe_message(
                job,
                Upstream::Default,
                target,
                request.head.key.clone(),
                request.settings.attempt_timeout,
            )),
            Err(error) => {
                tracing::warn!(job = job.entry.id(), %error, "a probe cannot be made; an operator has to resolve it");
                None
            }
        }
    }

    /// What a probe of a plain job has brought.
    fn probed(
        &self,
        state: &mut State,
        flight: &Flight,
        settings: &QueuedRoute,
        came: &Came,
    ) -> (Option<Change>, After) {
        let Flight { job, upstream, .. } = flight;
        match probe_says(came) {
            Said::Happened => {
                let ended = came.record(job.attempts, "probe: ");
                some(settle(job, JobState::Done, came.at_ms, came.answer().cloned(), Some(ended)))
            }
            Said::Not if state.is_denied(job.entry.id(), came.now, flight.longest()) => {
                let ended = came.record(job.attempts, "probe: it did not happen: ");
                let used_up = job.attempts.saturating_sub(job.excused) >= settings.attempts;
                let too_old = self.is_over(settings.max_age, job.from_ms, came.at_ms);
                if used_up || too_old {
                    return some(settle(job, JobState::Dead, came.at_ms, None, Some(ended)));
                }
                let pause = state.pause(job.attempts);
                let change = self.waits(job, came, pause, Some(ended));
                (
                    Some(change),
                    After::PutOff(Box::new(carried(job, *upstream, false)), later(came.now, pause)),
                )
            }
            said @ (Said::Not | Said::Nothing) => {
                (None, self.ask_again(state, job, came, said, flight.longest()))
            }
        }
    }

    /// A probe has not settled the question: it is asked again, until the job is too old for that.
    pub(crate) fn ask_again(
        &self,
        state: &mut State,
        job: &Job,
        came: &Came,
        said: Said,
        attempt: Duration,
    ) -> After {
        let id = job.entry.id();
        let doubt = state.book.doubtful(id);
        let (probes, denials, since) =
            doubt.map_or((0, 0, came.now), |doubt| (doubt.probes, doubt.denials, doubt.since));
        let denials = if said == Said::Not { denials + 1 } else { 0 };
        // Its own pause is short where the service has just said no.
        let pause = state.pause(if said == Said::Not { 1 } else { probes + 1 }).max(PROBE_PAUSE);
        let too_old = self.is_over(job.request.settings.max_age, job.from_ms, came.at_ms);
        let at = (!too_old || said == Said::Not).then(|| match said {
            // Before that it would not be believed.
            Said::Not => later(came.now, pause).max(later(since, attempt)),
            Said::Happened | Said::Nothing => later(came.now, pause),
        });
        After::AskAgain { id, denials, at }
    }
}

/// What a probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Happened,
    Not,
    Nothing,
}

pub(crate) fn probe_says(came: &Came) -> Said {
    match came.answer().map(|answer| answer.status) {
        Some(200..=299) => Said::Happened,
        Some(404 | 410) => Said::Not,
        Some(_) | None => Said::Nothing,
    }
}

impl State {
    /// Whether no client waits for this to be on disk, and no job that comes after it in order.
    fn nobody_waits_for(&self, settled: &Settled) -> bool {
        let others =
            || self.waiting.get(&settled.entry.id()).is_some_and(|waiting| !waiting.others.is_empty());
        settled.client.is_none() && settled.saga.is_none() && settled.entry.order == 0 && !others()
    }

    /// Whether the client of a job waits for its answer.
    pub(crate) fn has_client(&self, id: u64) -> bool {
        self.waiting
            .get(&id)
            .is_some_and(|waiting| waiting.client.as_ref().is_some_and(|client| !client.answer.is_closed()))
    }

    /// Whether one more probe that says no, at `now`, is enough to believe it. `attempt` is how long one may take.
    pub(crate) fn is_denied(&self, id: u64, now: Moment, attempt: Duration) -> bool {
        let doubt = self.book.doubtful(id);
        doubt.is_some_and(|doubt| doubt.denials + 1 >= DENIALS && now >= later(doubt.since, attempt))
    }
}

/// What a call says of its upstream.
fn sign(meaning: Meaning, outcome: &CallOutcome) -> Sign {
    match (meaning, outcome) {
        (Meaning::Success | Meaning::Credentials | Meaning::Refused, _) => Sign::Well,
        (Meaning::NotYet(_), CallOutcome::Answered { answer, .. }) if answer.status != 503 => Sign::Strained,
        (Meaning::NotSent, CallOutcome::NotSent { busy: true, .. }) => Sign::Strained,
        (Meaning::NotYet(_) | Meaning::Doubt | Meaning::NotSent, _) => Sign::Failing,
    }
}

/// What is carried of a job from one attempt to the next.
pub(crate) fn carried(job: &Job, upstream: usize, hurries: bool) -> Carried {
    let mut carried = Carried::new(job.entry, job.attempts);
    carried.excused = job.excused;
    carried.tries = job.tries;
    carried.from_ms = Some(job.from_ms);
    carried.upstream = Some(upstream);
    carried.hurries = hurries;
    carried.doubted = job.doubted;
    carried.announce = job.announce;
    carried
}

/// What is kept of a job while its outcome is unknown.
pub(crate) fn doubt(job: &Job, upstream: usize, since: Moment) -> InDoubt {
    let mut doubt = InDoubt::new(job.entry, job.attempts, since);
    doubt.excused = job.excused;
    doubt.from_ms = Some(job.from_ms);
    doubt.upstream = Some(upstream);
    doubt
}

/// Fields that would make the answer to a probe say something else than whether there is anything (RFC 9110, 13.1
/// and 14.2), or that are the gateway's own.
const NOT_OF_A_PROBE: [&[u8]; 8] = [
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"mainstay-attempt",
    b"prefer",
    b"range",
];

/// A GET without effect, with the client's fields but those of its body, and those that would change the answer.
pub(crate) fn probe_message(
    job: &Job,
    to: Upstream,
    target: String,
    key: String,
    timeout: Duration,
) -> Message {
    let of_body = |name: &[u8]| name.starts_with(b"content-") || NOT_OF_A_PROBE.contains(&name);
    let fields = job.request.fields.iter().filter(|(name, _)| !of_body(name)).cloned().collect();
    Message { to, method: Method::Get, target, fields, body: bytes::Bytes::new(), key, timeout }
}

fn some((change, after): (Change, After)) -> (Option<Change>, After) {
    (Some(change), after)
}
