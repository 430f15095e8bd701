//! Who waits for a job, and what they are told.

use crate::first::FirstCall;
use crate::job::{Answer, JobName, JobView};
use crate::shared::{Shared, State, later};
use crate::submission::{Cancelled, Waited};
use std::sync::Arc;
use std::time::Duration;
use store::journal::{Change, ReadError};
use tokio::sync::oneshot;

/// A job that was just accepted, in the hands of whoever answers its client. Dropping it says that the client is
/// gone.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
    view: JobView,
    /// None: its client does not wait.
    answered: Option<oneshot::Receiver<Waited>>,
    first: Option<FirstCall>,
    /// Whether it is still known as its job's client.
    waits: bool,
}

impl Ticket {
    pub(crate) fn new(
        shared: Arc<Shared>,
        view: JobView,
        answered: Option<oneshot::Receiver<Waited>>,
        first: Option<FirstCall>,
    ) -> Self {
        let waits = answered.is_some();
        Self { shared, view, answered, first, waits }
    }

    /// The job's first call, to be made now. None: its turn comes later, or it was not asked for
    /// ([`Submission::carries`](crate::Submission::carries)).
    pub fn first_call(&mut self) -> Option<FirstCall> {
        self.first.take()
    }

    /// The job's name.
    pub fn name(&self) -> JobName {
        self.view.name
    }

    /// Waits for the answer, at most for `time`, and not at all without
    /// [patience](crate::Submission::patience). After [`Waited::Pending`] the client is told 202: what happens to the
    /// job from now on is no longer an answer to it. Cancel-safe: the job goes on, and the client is gone.
    pub async fn wait(mut self, time: Duration) -> Waited {
        let Some(mut answered) = self.answered.take() else {
            self.shared.count_202();
            return Waited::Pending(self.view.clone());
        };
        if !time.is_zero() {
            let until = later(self.shared.clock.now(), time);
            let clock = self.shared.clock.clone();
            tokio::select! {
                biased;
                answered = &mut answered => return self.answered(answered.ok()),
                () = clock.sleep_until(until) => {}
            }
        }
        if let Some(pending) = self.give_up() {
            return pending;
        }
        // Its answer is there, and being written down.
        let answered = answered.await.ok();
        self.answered(answered)
    }

    /// What was told; nothing where the job went another way.
    fn answered(&mut self, answered: Option<Waited>) -> Waited {
        self.waits = false;
        answered.unwrap_or_else(|| pending(&self.shared, &self.shared.lock(), &self.view))
    }

    /// Waits no longer. None: nothing was left to wait for.
    fn give_up(&mut self) -> Option<Waited> {
        self.waits = false;
        let mut state = self.shared.lock();
        leave(&mut state, self.view.name).then(|| pending(&self.shared, &state, &self.view))
    }
}

fn pending(shared: &Shared, state: &State, view: &JobView) -> Waited {
    shared.count_202();
    Waited::Pending(JobView { state: state.book.state(view.name.id.0), ..view.clone() })
}

/// Nobody waits for this job as its client any longer. Whether somebody did.
fn leave(state: &mut State, name: JobName) -> bool {
    let id = name.id.0;
    let Some(waiting) = state.waiting.get_mut(&id) else { return false };
    let left = waiting.client.take().is_some();
    if waiting.others.is_empty() {
        state.waiting.remove(&id);
    }
    left
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.waits {
            leave(&mut self.shared.lock(), self.view.name);
        }
    }
}

impl Shared {
    /// Waits until a job is settled.
    pub(crate) async fn wait(
        self: &Arc<Self>,
        name: JobName,
        time: Duration,
    ) -> Result<Option<Waited>, ReadError> {
        let until = later(self.clock.now(), time);
        let guard = Waits { shared: self, id: name.id.0 };
        // First to wait, then to look: what is settled in between is not missed.
        let (sender, mut settled) = oneshot::channel();
        {
            let mut state = self.lock();
            let others = &mut state.waiting.entry(name.id.0).or_default().others;
            others.retain(|other| !other.is_closed());
            others.push(sender);
        }
        let mut found = self.find(name).await?;
        if matches!(&found, Some((view, _)) if !view.is_settled()) && !time.is_zero() {
            tokio::select! {
                _ = &mut settled => {}
                () = self.clock.sleep_until(until) => {}
            }
            found = self.find(name).await?;
        }
        drop(settled);
        drop(guard);
        Ok(found.map(|(view, answer)| match view.is_settled() {
            true => Waited::Settled(view, answer),
            false => Waited::Pending(view),
        }))
    }

    /// A job of this name, and its answer.
    pub(crate) async fn find(
        self: &Arc<Self>,
        name: JobName,
    ) -> Result<Option<(JobView, Option<Answer>)>, ReadError> {
        let found = self.read(move |shared| shared.look(name.id)).await?;
        Ok(found.filter(|(view, _)| view.name.tag.matches(&name.tag)))
    }

    /// Takes a job back for its client.
    pub(crate) async fn cancel(self: &Arc<Self>, name: JobName) -> Cancelled {
        let shared = self.clone();
        // Detached: whoever asked may go, and what was begun is done.
        let work = tokio::spawn(async move { shared.cancel_now(name).await });
        work.await.expect("cancelling neither panics nor is it cancelled")
    }

    async fn cancel_now(self: &Arc<Self>, name: JobName) -> Cancelled {
        let read =
            |error: ReadError| Cancelled::Failed(crate::submission::FullWhy::Refused(error.to_string()));
        let id = name.id;
        match self.find(name).await {
            Err(error) => return read(error),
            Ok(None) => return Cancelled::Gone,
            Ok(Some((view, _))) if view.state != crate::job::JobState::Waiting || view.attempts > 0 => {
                return Cancelled::TooLate(view);
            }
            Ok(Some(_)) => {}
        }
        if !self.lock().book.claim(id.0) {
            return match self.find(name).await {
                Err(error) => read(error),
                Ok(None) => Cancelled::Gone,
                Ok(Some((view, _))) => Cancelled::TooLate(view),
            };
        }
        // In hand, nothing changes it any more.
        let row = self.read(move |shared| {
            let row = shared.journal.job(id)?;
            let begun = row.as_ref().map(|row| shared.may_have_begun(row)).transpose()?;
            Ok((row, begun.unwrap_or_default()))
        });
        let row = match row.await {
            Ok((Some(row), false)) => row,
            Ok((found, _)) => {
                self.lock().book.unclaim(id.0);
                self.wake.notify_one();
                return found.map_or(Cancelled::Gone, |row| Cancelled::TooLate(self.view(&row)));
            }
            Err(error) => {
                self.lock().book.unclaim(id.0);
                self.wake.notify_one();
                return read(error);
            }
        };
        let state = crate::job::JobState::Cancelled;
        let at_ms = self.wall_ms();
        let change = Change::Outcome { id, attempts: 0, at_ms, state, response: None, ended: None };
        match self.written_down(change).await {
            Ok(()) => {
                self.let_go(&row, state);
                Cancelled::Yes
            }
            Err(error) => {
                self.lock().book.unclaim(id.0);
                self.wake.notify_one();
                Cancelled::Failed(crate::shared::full_why(error))
            }
        }
    }
}

impl Shared {
    /// Whether anything of a job may have happened.
    fn may_have_begun(&self, row: &store::journal::JobRow) -> Result<bool, ReadError> {
        if row.state != crate::job::JobState::Waiting || row.attempts > 0 {
            return Ok(true);
        }
        // By an earlier process: what can be sent again is sent without a word on disk.
        let found = row.id.0 < self.lock().found_below;
        if found && row.idempotent && row.due_ms <= self.calendar.opened_ms() {
            return Ok(true);
        }
        // Before an operator released it: its attempts are counted anew since then.
        let attempted = self.journal.attempts(row.id)?.iter().any(|attempt| attempt.number > 0);
        Ok(attempted || !self.journal.steps(row.id)?.is_empty())
    }
}

/// Forgets, when it goes, that somebody waits for a job nobody else waits for.
struct Waits<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(waiting) = state.waiting.get_mut(&self.id) {
            waiting.others.retain(|other| !other.is_closed());
            if waiting.others.is_empty() && waiting.client.is_none() {
                state.waiting.remove(&self.id);
            }
        }
    }
}
