//! What has to be done now and then, a little each time.

use crate::book::Entry;
use crate::clock::Moment;
use crate::codec::StoredRequest;
use crate::deliver::{Job, settle};
use crate::job::{JobId, JobState};
use crate::keys::Stretch;
use crate::shared::{After, REWRITE_PAUSE, Shared, job_id, later, span_ms};
use std::sync::Arc;
use std::time::Duration;
use store::commit::WriteError;
use store::journal::{AttemptRecord, Change, Filter, JobRow, Retention};

/// Jobs that are forgotten in one transaction, so that none of those that wait for it waits for long.
const FORGET_JOBS: u32 = 500;
/// How long after everything old was forgotten it is looked for again.
const FORGET_PAUSE: Duration = Duration::from_secs(60);
/// How long dead and rejected jobs are kept, or as long as what is done where that is longer: they count neither as
/// jobs nor as bytes of the queue, so that nothing else bounds what they take on disk.
const HELD_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// How long the audit log is kept.
const OPERATIONS_KEPT: Duration = Duration::from_secs(400 * 86_400);
/// Rows that are looked at to see which keys are forgotten.
const SWEEP_ROWS: u32 = 1_000;
/// Jobs of one line that are given up for their age at a time.
const TOO_OLD_JOBS: usize = 100;

/// Where tending is.
#[derive(Debug, Default)]
pub(crate) struct Tended {
    forget_at: Moment,
    forgetting: bool,
    rewrite_at: Moment,
    sweep: Option<Sweep>,
}

/// A stretch of keys that is compared with the rows, some at a time.
#[derive(Debug)]
struct Sweep {
    stretch: Stretch,
    after: JobId,
    left: Vec<JobId>,
}

impl Shared {
    /// Does a little of everything that is due. Reads from disk.
    pub(crate) fn tend(self: &Arc<Self>) {
        self.follow_clock();
        self.rewrite();
        if self.trouble().is_some() {
            return;
        }
        self.forget();
        self.sweep();
        self.give_up_old();
        self.note_oldest();
    }

    /// Goes with the clock on the wall where that was set.
    fn follow_clock(self: &Arc<Self>) {
        let Some(by_ms) = self.calendar.follow(self.clock.now(), self.clock.wall_ms()) else { return };
        let by_s = by_ms / 1_000;
        tracing::warn!(
            by_s,
            "the clock was set; what is due and how old anything is goes by the time that passed"
        );
        self.write(Change::Clock(self.calendar.known()), After::Nothing);
    }

    /// Writes again what could not be written.
    fn rewrite(self: &Arc<Self>) {
        let now = self.clock.now();
        let mut state = self.lock();
        if now < state.tended.rewrite_at {
            return;
        }
        state.tended.rewrite_at = later(now, REWRITE_PAUSE);
        let unwritten = std::mem::take(&mut state.unwritten);
        // Until each is written, or lies there again, it holds deliveries up: thus there are never more of them.
        state.rewriting += unwritten.len();
        drop(state);
        for (change, after) in unwritten {
            // There may be more of them by now, and these are all of them.
            let change =
                if let Change::Clock(_) = change { Change::Clock(self.calendar.known()) } else { change };
            let (shared, kept) = (self.clone(), change.clone());
            self.journal.update(change, move |written| {
                shared.written(kept, after, written);
                shared.lock().rewriting -= 1;
                shared.wake.notify_one();
            });
        }
    }

    fn forget(self: &Arc<Self>) {
        let now = self.clock.now();
        let wall_ms = self.wall_ms();
        let mut state = self.lock();
        if state.tended.forgetting || now < state.tended.forget_at {
            return;
        }
        state.tended.forgetting = true;
        let retention = Retention {
            finished_before_ms: self.calendar.before(wall_ms, span_ms(state.limits.retention)),
            // These are counted: their turn is when nothing else is old.
            held_before_ms: None,
            operations_before_ms: Some(self.calendar.before(wall_ms, span_ms(OPERATIONS_KEPT))),
            limit: FORGET_JOBS,
        };
        drop(state);
        self.forget_batch(retention);
    }

    /// Forgets one batch after the other, until nothing more is old. Each waits in line behind what was written
    /// meanwhile, so that nobody waits for more than one of them.
    fn forget_batch(self: &Arc<Self>, retention: Retention) {
        let shared = self.clone();
        self.journal.forget(retention, move |forgotten| {
            if forgotten.as_ref().is_ok_and(|forgotten| forgotten.more) {
                return shared.forget_batch(retention);
            }
            match forgotten {
                Ok(_) => shared.forget_held(),
                Err(error) => shared.forgotten(Err(error)),
            }
        });
    }

    /// Forgets dead and rejected jobs that nobody has dealt with for long, a batch at a time.
    fn forget_held(self: &Arc<Self>) {
        let kept = self.lock().limits.retention.max(HELD_KEPT);
        let retention = Retention {
            finished_before_ms: i64::MIN,
            held_before_ms: Some(self.calendar.before(self.wall_ms(), span_ms(kept))),
            operations_before_ms: None,
            limit: FORGET_JOBS,
        };
        let shared = self.clone();
        self.journal.forget(retention, move |forgotten| match forgotten {
            Ok(forgotten) => {
                let jobs = forgotten.jobs;
                if jobs > 0 {
                    let days = kept.as_secs() / 86_400;
                    tracing::warn!(
                        jobs,
                        days,
                        "dead and rejected jobs were forgotten: nobody has dealt with them"
                    );
                    let mut state = shared.lock();
                    state.counters.held_forgotten += u64::from(jobs);
                    forgotten.held.iter().for_each(|row| state.held.remove(row));
                }
                if forgotten.more { shared.forget_held() } else { shared.forgotten(Ok(())) }
            }
            Err(error) => shared.forgotten(Err(error)),
        });
    }

    /// Nothing more is forgotten for now.
    fn forgotten(&self, result: Result<(), WriteError>) {
        let mut state = self.lock();
        state.tended.forgetting = false;
        state.tended.forget_at = later(self.clock.now(), FORGET_PAUSE);
        drop(state);
        if let Err(error) = result {
            tracing::warn!(%error, "old jobs could not be forgotten; it is tried again");
        }
    }

    /// Compares some keys with the rows: those of forgotten jobs are forgotten.
    fn sweep(&self) {
        let wall_ms = self.wall_ms();
        let mut state = self.lock();
        let retention = span_ms(state.limits.retention);
        let sweep = state.tended.sweep.take().or_else(|| {
            let before = self.calendar.before(wall_ms, retention);
            let stretch = state.keys.to_sweep(before, wall_ms.saturating_sub(retention / 8))?;
            Some(Sweep { stretch, after: JobId(stretch.first.0.saturating_sub(1)), left: Vec::new() })
        });
        drop(state);
        let Some(mut sweep) = sweep else { return };
        let rows = match self.journal.list(&Filter::default(), sweep.after, SWEEP_ROWS) {
            Ok(rows) => rows,
            Err(error) => return tracing::warn!(%error, "keys cannot be compared with their jobs"),
        };
        let last = rows.last().map(|row| row.id);
        let inside = rows.iter().map(|row| row.id).filter(|id| *id <= sweep.stretch.last);
        sweep.left.extend(inside);
        let mut state = self.lock();
        match last.filter(|last| *last < sweep.stretch.last && rows.len() == SWEEP_ROWS as usize) {
            Some(last) => {
                sweep.after = last;
                state.tended.sweep = Some(sweep);
            }
            None => state.keys.sweep(sweep.stretch, &sweep.left, wall_ms),
        }
    }

    /// Gives up jobs that got too old while they waited for their turn.
    fn give_up_old(self: &Arc<Self>) {
        for _ in 0..TOO_OLD_JOBS {
            if self.lock().is_behind() {
                // Their outcomes could not be written either.
                return;
            }
            let heads = self.lock().book.heads();
            let old: Vec<Job> = heads.into_iter().filter_map(|entry| self.too_old(entry)).collect();
            if old.is_empty() {
                return;
            }
            for job in old {
                self.give_up(job);
            }
        }
    }

    /// The job of a fresh entry, if it is too old. None also where it cannot be read: its turn shows why.
    fn too_old(&self, entry: Entry) -> Option<Job> {
        let id = job_id(&entry);
        let hot = self.lock().hot.get(entry.id());
        let (request, bytes) = match hot {
            Some((request, bytes)) => (request, bytes as u64),
            None => {
                let record = self.journal.request(id).ok()??;
                let bytes = record.len() as u64;
                (Arc::new(StoredRequest::decode(record).ok()?), bytes)
            }
        };
        let row = self.journal.job(id).ok()??;
        let untouched = row.state == JobState::Waiting && row.attempts == 0;
        let from_ms = self.due_since(&row, &request).ok()?;
        let job = Job {
            entry,
            bytes,
            request,
            attempts: 0,
            excused: 0,
            tries: 0,
            from_ms,
            doubted: false,
            announce: false,
            known: Vec::new(),
        };
        (untouched && self.is_too_old(&job)).then_some(job)
    }

    fn give_up(self: &Arc<Self>, job: Job) {
        let at_ms = self.wall_ms();
        {
            let mut state = self.lock();
            if !state.book.claim_head(job.entry) {
                return;
            }
        }
        let text = format!("given up: older than {} s", job.request.settings.max_age.as_secs());
        let ended = AttemptRecord { number: 0, began_ms: at_ms, ended_ms: at_ms, status: None, text };
        let (change, after) = settle(&job, JobState::Dead, at_ms, None, Some(ended));
        self.write(change, after);
    }

    fn note_oldest(&self) {
        let oldest = self.lock().book.oldest();
        let row = oldest.and_then(|id| self.journal.job(JobId(id)).ok().flatten());
        // One that was put off is late only from when it was due.
        let since =
            |row: JobRow| if row.attempts == 0 { row.created_ms.max(row.due_ms) } else { row.created_ms };
        self.lock().oldest_created_ms = row.map(since);
    }
}
