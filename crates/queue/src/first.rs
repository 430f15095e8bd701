//! The first call of a job that can be called for as soon as it comes: when it is made, and by whom.
//!
//! As a rule it is made once the job is on disk, by whoever submitted it or by the courier. Where the service honours
//! keys and the client has sent one, whoever submits makes it while the job is being written (decision 22). What comes
//! of it is kept here until the job is on disk: before that nothing of it is written, and no client hears of it.

use crate::accept::Arrival;
use crate::book::Entry;
use crate::call::{Call, CallId, CallOutcome, Upstream};
use crate::clock::Moment;
use crate::codec::StoredRequest;
use crate::deliver::{Flight, Job, plain_message};
use crate::pace::Begun;
use crate::shared::{Shared, State};
use model::queue::QueuedRoute;
use std::sync::Arc;

/// The first call of a job that was just accepted, in the hands of whoever submitted it. Dropping it leaves the call to
/// [`crate::Queue::next`].
#[derive(Debug)]
pub struct FirstCall {
    shared: Arc<Shared>,
    call: Option<Call>,
}

impl FirstCall {
    pub(crate) fn new(shared: Arc<Shared>, call: Call) -> Self {
        Self { shared, call: Some(call) }
    }

    /// The call, which is to be made and reported as one that [`crate::Queue::next`] has returned. None: nothing is
    /// written any longer, so what came of it could not be; whoever opens the queue next makes it.
    pub fn take(mut self) -> Option<Call> {
        self.call.take_if(|_| self.shared.trouble().is_none())
    }

    /// Its job is not written: nobody makes it.
    pub(crate) fn forget(mut self) {
        if let Some(call) = self.call.take() {
            let now = self.shared.clock.now();
            self.shared.lock().unwritten_is_over(call.id, now);
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for FirstCall {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.shared.lock().prepared.push_back(call);
            self.shared.wake.notify_one();
        }
    }
}

/// A call that is made while its job is being written.
#[derive(Debug)]
pub(crate) enum Early {
    /// Both go on.
    UnderWay,
    /// The call has ended, and the job is not on disk yet.
    Ended(Ended),
    /// The job could not be written: what comes of the call concerns nobody here, but it holds its places until then.
    Unwritten(Box<Flight>),
}

/// What came of a call, and when.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: CallOutcome,
    pub(crate) settings: Option<Arc<QueuedRoute>>,
    pub(crate) now: Moment,
}

/// What came of a call before its job was on disk. It takes effect where this is dropped: with whoever submitted the
/// job, if that is still there.
#[derive(Debug)]
pub(crate) struct Outcome {
    shared: Arc<Shared>,
    call: CallId,
    ended: Option<Ended>,
}

impl Outcome {
    pub(crate) fn new(shared: Arc<Shared>, call: CallId, ended: Ended) -> Self {
        Self { shared, call, ended: Some(ended) }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            self.shared.has_ended(self.call, ended);
        }
    }
}

impl Shared {
    /// A call has ended: at once, or once its job is on disk.
    pub(crate) fn report(
        self: &Arc<Self>,
        id: CallId,
        outcome: CallOutcome,
        settings: Option<&Arc<QueuedRoute>>,
    ) {
        let ended = Ended { outcome, settings: settings.cloned(), now: self.clock.now() };
        let mut state = self.lock();
        let Some(early) = state.early.get_mut(&id) else {
            drop(state);
            return self.has_ended(id, ended);
        };
        match early {
            Early::UnderWay => *early = Early::Ended(ended),
            Early::Unwritten(_) => {
                state.unwritten_is_over(id, ended.now);
                drop(state);
                self.wake.notify_one();
            }
            Early::Ended(_) => tracing::error!(call = %id, "a call was reported twice"),
        }
    }
}

impl Arrival {
    /// Whether its client can repeat it with the same key if nothing is known of it here later, and the service takes
    /// it for the same then.
    pub(crate) fn may_happen_again(&self) -> bool {
        self.request.settings.idempotent && self.key.is_some()
    }
}

impl State {
    /// Begins the call of a job that can be called for at once, before it is even written.
    pub(crate) fn begin_at_once(
        &mut self,
        entry: &Entry,
        arrival: &Arrival,
        now: Moment,
    ) -> Option<(usize, Begun)> {
        let first = arrival.request.saga.as_ref().and_then(|saga| saga.steps.first());
        let upstream = first.map_or(Upstream::Default, |step| Upstream::Component(step.call.to.clone()));
        let target = self.book.target(arrival.request.head.traffic, &upstream);
        self.book.is_first_for(entry, target);
        if first.is_some() || !arrival.delay.is_zero() || self.resting || self.is_behind() {
            return None;
        }
        let at_once = self.book.go_at_once(entry, target, now);
        at_once.then(|| (target, self.book.targets[target].pace.begin(now)))
    }

    /// Makes up the first call of a job.
    pub(crate) fn first_call(
        &mut self,
        entry: Entry,
        (request, bytes): (&Arc<StoredRequest>, u64),
        (upstream, begun): (usize, Begun),
        unannounced: bool,
        began_ms: i64,
    ) -> Call {
        self.hot.keep(entry.id(), request, bytes as usize);
        let job = Job {
            entry,
            bytes,
            request: request.clone(),
            attempts: 1,
            excused: 0,
            tries: 0,
            from_ms: request.head.from_ms,
            doubted: false,
            announce: false,
            known: Vec::new(),
        };
        let flight = Flight { job, upstream, begun, place: None, probe: false, unannounced, began_ms };
        self.take_off(flight, plain_message(request))
    }

    /// The same for a call that is made while the job is being written, if it may be.
    pub(crate) fn early_call(
        &mut self,
        entry: Entry,
        arrival: &Arrival,
        begun: &mut Option<(usize, Begun)>,
        began_ms: i64,
    ) -> Option<Call> {
        // Where the disk has just refused something, it may refuse this.
        if !arrival.carries || !arrival.may_happen_again() || self.disk_refuses {
            return None;
        }
        let request = (&arrival.request, arrival.record.len() as u64);
        let call = self.first_call(entry, request, begun.take()?, true, began_ms);
        self.early.insert(call.id, Early::UnderWay);
        Some(call)
    }

    /// The job of an early call is on disk. What came of the call, if it has ended.
    pub(crate) fn early_is_written(&mut self, call: CallId) -> Option<Ended> {
        match self.early.remove(&call) {
            Some(Early::Ended(ended)) => Some(ended),
            Some(Early::UnderWay | Early::Unwritten(_)) | None => None,
        }
    }

    /// The job of an early call is not on disk. If the call goes on, what it was to be in order with waits for it.
    pub(crate) fn early_is_not_written(&mut self, call: CallId, now: Moment) {
        let Some(flight) = self.flights.remove(&call) else { return };
        self.hot.remove(flight.job.entry.id());
        let has_ended = matches!(self.early.remove(&call), Some(Early::Ended(_)));
        self.early.insert(call, Early::Unwritten(Box::new(flight)));
        if has_ended {
            self.unwritten_is_over(call, now);
        }
    }

    /// A call whose job is not on disk has ended, or is not made.
    fn unwritten_is_over(&mut self, call: CallId, now: Moment) {
        if let Some(Early::Unwritten(flight)) = self.early.remove(&call) {
            self.never_was(&flight.job.entry, flight.upstream, flight.begun, now);
        }
    }

    /// What had begun with a job that is not written is undone.
    pub(crate) fn never_was(&mut self, entry: &Entry, upstream: usize, begun: Begun, now: Moment) {
        self.book.settle(entry.id(), entry.order);
        self.book.targets[upstream].pace.undo(begun, now);
    }
}
