//! The queue as the gateway has it in hand.

use crate::call::{Call, CallId, CallOutcome};
use crate::clock::Clock;
use crate::first::FirstCall;
use crate::job::{Answer, JobId, JobName, JobState, JobView};
use crate::operate::Verb;
use crate::operation::{
    Counters, Edit, Filter, Imported, JobHistory, Operation, OperationError, Plan, ReadError, Resolution,
    Selection, Size, Status, UpstreamStatus,
};
use crate::shared::Shared;
use crate::submission::{Cancelled, Submission, Submitted, Traffic, Waited};
use model::queue::{QueueLimits, QueuedRoute};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::journal::JournalOptions;

pub use store::commit::OpenError;

/// How a queue is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The limits of the environment; [`Queue::set_limits`] changes them.
    pub limits: QueueLimits,
    /// How its file is opened.
    pub journal: JournalOptions,
    /// Where it has its time from.
    pub clock: Clock,
    /// What its pauses are drawn from.
    pub seed: u64,
}

/// The queue of an environment. Clones are the same queue; any thread may use it.
#[derive(Debug, Clone)]
pub struct Queue {
    pub(crate) shared: Arc<Shared>,
}

impl Queue {
    /// Opens or creates the file at `path`, takes its ownership and reads what is pending. Blocks: a million
    /// pending jobs take about a second.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        Ok(Self { shared: Shared::open(path, options)? })
    }

    /// Whether this is the same queue, opened once.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Accepts a request, or says why not; returns once it is on disk. `begun` is called with its number as soon as it
    /// has one, while it is being written; and with its first call, if that is to be made meanwhile
    /// ([`Submission::carries`]). Cancel-safe in the sense that a caller who stops waiting has submitted all the same.
    pub async fn submit(
        &self,
        submission: Submission,
        begun: impl FnOnce(JobId, Option<FirstCall>),
    ) -> Submitted {
        self.shared.submit(submission, begun).await
    }

    /// Waits until the job is settled, at most for `time`. None: there is no such job, or none any longer.
    /// Cancel-safe.
    pub async fn wait(&self, name: JobName, time: Duration) -> Result<Option<Waited>, ReadError> {
        self.shared.wait(name, time).await
    }

    /// A job. None: there is none, or none any longer ([`is_past`](Self::is_past) tells).
    pub async fn job(&self, name: JobName) -> Result<Option<JobView>, ReadError> {
        Ok(self.shared.find(name).await?.map(|(view, _)| view))
    }

    /// The stored answer of a job. None: there is no such job, or no answer.
    pub async fn answer(&self, name: JobName) -> Result<Option<Answer>, ReadError> {
        Ok(self.shared.find(name).await?.and_then(|(_, answer)| answer))
    }

    /// Whether a job of this number was handed out: then one that is not there is forgotten (410), otherwise it
    /// never was (404).
    pub fn is_past(&self, id: JobId) -> bool {
        id.0 > 0 && id.0 < self.shared.lock().next_id
    }

    /// Takes a job back before it is dispatched. Cancel-safe in the sense that it is done all the same.
    pub async fn cancel(&self, name: JobName) -> Cancelled {
        self.shared.cancel(name).await
    }

    /// The next call to make, once there is one that may be made. For one courier: several would be served in
    /// turn. It reads a little from disk. Cancel-safe: a call that was not returned is not taken. Never returns once
    /// nothing is written any longer ([`Status::trouble`]).
    pub async fn next(&self) -> Call {
        self.shared.next().await
    }

    /// Says what came of a call. `settings` are those of the route on the stamp that took it; None: it is no
    /// queued route there, and the job's own settings hold. For a step of a saga they say nothing.
    pub fn report(&self, call: CallId, outcome: CallOutcome, settings: Option<&Arc<QueuedRoute>>) {
        self.shared.report(call, outcome, settings);
    }

    /// From now on no further job is picked: what [`next`](Self::next) still returns was announced on disk before, and
    /// is to be sent or reported as not sent, so that it is not found half-way at the next start. For a gateway that
    /// ends, with [`settled`](Self::settled): whatever is announced is returned by `next` once that has come back.
    pub fn rest(&self) {
        self.shared.lock().resting = true;
    }

    /// Returns once what was reported so far is on disk, or cannot be: for a gateway that ends. Cancel-safe.
    pub async fn settled(&self) {
        self.shared.settled().await;
    }

    /// Closes the file for all clones: nothing is written or read from now on. For a gateway that ends, after
    /// [`settled`](Self::settled). Blocks, at most for `limit`; false: the disk or who reads takes longer, and the next
    /// start finds in the log beside the file what is not in it.
    pub fn close(&self, limit: Duration) -> bool {
        self.shared.journal.close(limit)
    }

    /// Other limits from now on.
    pub fn set_limits(&self, limits: QueueLimits) {
        let mut state = self.shared.lock();
        state.book.set_concurrency(limits.concurrency);
        state.limits = limits;
        drop(state);
        self.shared.wake.notify_one();
    }

    /// What has to be done now and then: forgetting, jobs that got too old, outcomes that could not be written.
    /// For the gateway to call once a second, from the courier's thread: it reads a little from disk.
    pub fn tend(&self) {
        self.shared.tend();
    }

    /// What has happened, for metrics. Takes no disk access.
    pub fn counters(&self) -> Counters {
        self.shared.counters(&self.shared.lock())
    }

    /// The queue at this moment. Takes no disk access; the age is as of the last [`tend`](Self::tend).
    pub fn status(&self) -> Status {
        let now_ms = self.shared.wall_ms();
        let trouble = self.shared.trouble();
        let state = self.shared.lock();
        let upstreams = state.book.targets.iter().map(|target| UpstreamStatus {
            name: match target.traffic {
                Traffic::Users => target.upstream.to_string(),
                Traffic::Preview => format!("{} (preview)", target.upstream),
            },
            breaker: target.pace.breaker(),
            in_flight: target.pace.in_flight(),
            allowed: target.pace.allowed(),
        });
        let oldest = state.oldest_created_ms.filter(|_| state.book.depth > 0);
        Status {
            counters: self.shared.counters(&state),
            depth: state.book.depth,
            max_depth: state.book.max_depth,
            bytes: state.book.bytes,
            unknown_now: state.book.unknown_now(),
            held: state.held.now(),
            oldest_ms: oldest
                .map_or(0, |oldest| self.shared.calendar.passed(oldest, now_ms).max(0).unsigned_abs()),
            upstreams: upstreams.collect(),
            paused: state.pauses.clone(),
            trouble,
        }
    }

    /// What the queue takes on disk.
    pub async fn size(&self) -> Result<Size, OperationError> {
        Ok(self.shared.read(|shared| shared.journal.size()).await?)
    }

    /// How many jobs there are by the name of their state; states without any are left out. What is pending is known
    /// here, all else is counted on disk.
    pub async fn states(&self) -> Result<BTreeMap<&'static str, u64>, OperationError> {
        let ended = self.shared.read(|shared| shared.journal.outcomes()).await?;
        let state = self.shared.lock();
        let (depth, unknown) = (state.book.depth, state.book.unknown_now());
        let dispatching = state.flights.values().filter(|flight| !flight.probe).count() as u64;
        drop(state);
        let pending = [
            (JobState::Waiting, depth.saturating_sub(unknown + dispatching)),
            (JobState::Dispatching, dispatching),
            (JobState::Unknown, unknown),
        ];
        // Those in doubt are pending.
        let ended = ended.into_iter().filter(|(state, _)| *state != JobState::Unknown);
        let all = pending.into_iter().filter(|(_, count)| *count > 0).chain(ended);
        Ok(all.map(|(state, count)| (crate::job::state_name(state), count)).collect())
    }

    /// Jobs after `after` that fit, in the order of their numbers, at most `limit`.
    pub async fn list(
        &self,
        filter: Filter,
        after: JobId,
        limit: u32,
    ) -> Result<Vec<JobView>, OperationError> {
        self.shared.read(move |shared| shared.list(&filter, after, limit)).await
    }

    /// The jobs that have this `Idempotency-Key`, whatever their route and principal.
    pub async fn with_key(&self, key: &str) -> Result<Vec<JobView>, OperationError> {
        let ids = self.shared.lock().keys.with_key(crate::fingerprint::key_alone(key));
        let views = move |shared: &Shared| {
            let rows = ids.iter().map(|id| shared.journal.job(*id)).collect::<Result<Vec<_>, _>>()?;
            Ok(rows.iter().flatten().map(|row| shared.view(row)).collect())
        };
        self.shared.read(views).await
    }

    /// Everything that is kept of a job.
    pub async fn show(&self, id: JobId) -> Result<JobHistory, OperationError> {
        self.shared.read(move |shared| shared.history(id)).await
    }

    /// What came of the last attempt of each of these jobs, in their order. Empty where there was none.
    pub async fn last_words(&self, ids: Vec<JobId>) -> Result<Vec<String>, OperationError> {
        let last = move |shared: &Shared| {
            let words = |id: &JobId| {
                Ok(shared.journal.attempts(*id)?.pop().map_or_else(String::new, |last| last.text))
            };
            ids.iter().map(words).collect()
        };
        self.shared.read(last).await
    }

    /// What [`retry`](Self::retry) would do.
    pub async fn plan_retry(&self, which: Selection) -> Result<Plan, OperationError> {
        self.shared.plan(which, Verb::Retry).await
    }

    /// Sends dead and rejected jobs again, with all their attempts. How many. A selection of one job that is in
    /// another state is an error. Not for jobs whose outcome is unknown: these are resolved. A saga that was undone
    /// begins anew; one that could not be undone, or not finished, goes on where it was.
    pub async fn retry(&self, which: Selection, by_uid: u32) -> Result<u64, OperationError> {
        self.shared.retry(which, by_uid).await
    }

    /// Gives a dead or rejected job another request, and sends it. Its key and what it is compared with by stay.
    pub async fn edit(&self, id: JobId, edit: Edit, by_uid: u32) -> Result<(), OperationError> {
        self.shared.edit(id, edit, by_uid).await
    }

    /// What [`drop_jobs`](Self::drop_jobs) would do.
    pub async fn plan_drop(&self, which: Selection) -> Result<Plan, OperationError> {
        self.shared.plan(which, Verb::Drop).await
    }

    /// Gives jobs up: those that are dead, rejected, unknown or waiting. How many.
    pub async fn drop_jobs(&self, which: Selection, by_uid: u32) -> Result<u64, OperationError> {
        self.shared.drop_jobs(which, by_uid).await
    }

    /// Says what became of a job whose outcome is unknown, or of the step of its saga that is.
    pub async fn resolve(
        &self,
        id: JobId,
        resolution: Resolution,
        by_uid: u32,
    ) -> Result<(), OperationError> {
        self.shared.resolve(id, resolution, by_uid).await
    }

    /// Holds up deliveries: of a route, or all of them. Accepting goes on. False: they were held up, and nothing is
    /// written.
    pub async fn pause(&self, route: Option<&str>, by_uid: u32) -> Result<bool, OperationError> {
        self.shared.set_paused(route, true, by_uid).await
    }

    /// Lets deliveries go on that were held up by [`pause`](Self::pause) with the same `route`. False: they were not,
    /// and nothing is written.
    pub async fn resume(&self, route: Option<&str>, by_uid: u32) -> Result<bool, OperationError> {
        self.shared.set_paused(route, false, by_uid).await
    }

    /// Jobs after `after` that fit, each as one line of JSON without its line break, at most `limit`; and the
    /// number of the last one. None: there are no more. Those that are done and their answers are not exported.
    pub async fn export(
        &self,
        filter: Filter,
        after: JobId,
        limit: u32,
    ) -> Result<(Vec<String>, Option<JobId>), OperationError> {
        self.shared.read(move |shared| shared.export(&filter, after, limit)).await
    }

    /// Accepts exported jobs as new ones, with their keys; one whose key is known here is left out. Those whose client
    /// gave none are known by the random one that they were given, so that an import can be repeated. The lines are
    /// checked before anything is accepted. Beyond the queue's limits the rest is refused.
    pub async fn import(&self, lines: Vec<String>, by_uid: u32) -> Result<Imported, OperationError> {
        let shared = self.shared.clone();
        self.shared.read(move |_| shared.import(&lines, by_uid)).await
    }

    /// The newest entries of the audit log with their numbers, newest first; of those before the number `before`, if
    /// that is given.
    pub async fn operations(
        &self,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<(u64, Operation)>, OperationError> {
        Ok(self.shared.read(move |shared| shared.journal.operations(before, limit)).await?)
    }
}
