//! One request and its answer, from the head to the end of the answer's body: what it holds, and what is noted
//! of it when it ends, whichever way.

use crate::access;
use crate::body::AnswerBody;
use crate::client::Client;
use crate::fault::{Fault, Refusal};
use crate::measures::Outcome;
use crate::routes::{Instance, Local, Target};
use crate::traces::{self, Decided, Draft};
use crate::upstream::Upstream;
use crate::worker::Worker;
use http::{HeaderValue, Request, Response};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client that gave up after this long without an answer is held against the stamp; one that went sooner is not.
const ABANDONED_AFTER: Duration = Duration::from_secs(5);

/// How long an answer of the gateway's own may take to be taken by the client.
const OWN_ANSWER_TIME: Duration = Duration::from_secs(10);

/// A stamp's slot, claimed, and one of its instances, held. Both are released on drop.
pub(crate) struct Claim {
    pub(crate) target: Rc<Local>,
    /// The place of the request's route in the target's.
    pub(crate) route: u16,
    /// The target is the candidate because of its weight, so that the active stamp would do as well.
    pub(crate) by_weight: bool,
    /// The position of the instance in the target.
    held: Option<usize>,
}

impl Claim {
    /// For a slot that was just claimed.
    pub(crate) fn new(target: Rc<Local>, route: u16, by_weight: bool) -> Self {
        Self { target, route, by_weight, held: None }
    }

    /// Adds a held instance; the one before is released.
    pub(crate) fn hold(&mut self, position: usize) {
        self.let_go();
        self.held = Some(position);
    }

    /// Releases the instance.
    pub(crate) fn let_go(&mut self) {
        if let Some(position) = self.held.take() {
            self.target.instances[position].release();
        }
    }

    pub(crate) fn instance(&self) -> Option<&Arc<Instance>> {
        self.held.map(|position| &self.target.instances[position])
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.let_go();
        self.target.slot.release();
    }
}

/// What took a request to a queued route on: a stamp whose slot is not claimed for it.
struct Taken {
    target: Rc<Local>,
    route: u16,
    /// The number of the job, and what its client was told.
    job: (Option<u64>, &'static str),
}

/// See the module. Dropped without [`Exchange::complete`] or [`Exchange::fail`], it was cut by the client, or by
/// the end of the gateway.
pub(crate) struct Exchange {
    pub(crate) worker: Rc<Worker>,
    client: Rc<Client>,
    /// The request id, for both directions.
    pub(crate) id: HeaderValue,
    /// The trace the request begins, if it brings none.
    pub(crate) trace: Option<HeaderValue>,
    /// Nothing is decided while traces are off.
    pub(crate) traced: Decided,
    pub(crate) claim: Option<Claim>,
    /// Instead of a claim.
    taken: Option<Taken>,
    /// It asked for no stamp and no instance: what becomes of it is held against the stamp.
    pub(crate) by_user: bool,
    /// Upstream exchanges begun.
    pub(crate) attempts: u32,
    /// The value of the affinity cookie to set.
    pub(crate) cookie: Option<u64>,
    /// The stamp before, which has answered.
    previous: Option<Claim>,
    /// The answer is that of the stamp before, or a file that is left of it.
    by_previous: bool,
    /// How long it has waited for an instance, but for the wait that goes on.
    held: Duration,
    held_since: Option<Instant>,
    started: Instant,
    /// From the start to the head of the instance's answer.
    latency: Option<Duration>,
    /// Whether there is a line to end.
    logs: bool,
    status: u16,
    bytes_out: u64,
    fault: Option<Fault>,
    complete: bool,
}

impl Exchange {
    /// A request has arrived. None: a stand-in for one that was rejected unread.
    pub(crate) fn begin<B>(worker: Rc<Worker>, client: Rc<Client>, request: Option<&Request<B>>) -> Self {
        let started = Instant::now();
        let trusted = worker.trusts(client.peer.ip());
        let (id, trace) = worker.request_id(request.map(Request::headers).filter(|_| trusted));
        client.bytes_in.set(0);
        client.set_timeouts(OWN_ANSWER_TIME, OWN_ANSWER_TIME);
        client.await_answer();
        // A request that was rejected unread has nothing to tell.
        let traced = match (worker.traces(), request) {
            (Some(share), Some(request)) => {
                traces::decide(&worker, share, trusted, request, client.peer.ip(), trace.as_ref())
            }
            (_, _) => Decided::default(),
        };
        let logs = worker.logs();
        if logs {
            access::begin(&mut client.line.borrow_mut(), &id, client.peer.ip(), request);
        }
        Self {
            worker,
            client,
            id,
            trace,
            traced,
            claim: None,
            taken: None,
            by_user: true,
            attempts: 0,
            cookie: None,
            previous: None,
            by_previous: false,
            held: Duration::ZERO,
            held_since: None,
            started,
            latency: None,
            logs,
            status: 0,
            bytes_out: 0,
            fault: None,
            complete: false,
        }
    }

    pub(crate) fn client(&self) -> &Rc<Client> {
        &self.client
    }

    /// An instance is about to be asked.
    pub(crate) fn ask(&mut self) {
        if let Some(draft) = &mut self.traced.draft {
            draft.ask(self.started.elapsed());
        }
    }

    /// The head of an instance's answer is there.
    pub(crate) fn upstream_answered(&mut self) {
        self.latency = Some(self.started.elapsed());
    }

    /// No instance takes it: it waits from now on.
    pub(crate) fn hold_begins(&mut self) {
        if self.held.is_zero() {
            self.worker.counts().held.add(1);
        }
        self.held_since = Some(Instant::now());
    }

    /// It waits no longer.
    pub(crate) fn hold_ends(&mut self) {
        self.held += self.held_since.take().map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// The answer is not that of the stamp that was claimed, but of the one before. None: of a file that is left of
    /// it.
    pub(crate) fn answered_by_previous(&mut self, claim: Option<Claim>) {
        self.worker.counts().previous.add(1);
        self.previous = claim;
        self.by_previous = true;
    }

    /// It is not dispatched under its claim, but written down: a stamp that goes need not wait for it.
    pub(crate) fn queue_up(&mut self) {
        if let Some(claim) = self.claim.take() {
            let target = Rc::clone(&claim.target);
            self.taken = Some(Taken { target, route: claim.route, job: (None, "refused") });
        }
    }

    /// It is this job, if any, and this is what its client is told, unless something else comes of it.
    pub(crate) fn told(&mut self, job: Option<u64>, what: &'static str) {
        if let Some(taken) = &mut self.taken {
            taken.job = (job, what);
        }
    }

    /// The answer that is about to be given.
    pub(crate) fn answered(&mut self, status: http::StatusCode) {
        self.status = status.as_u16();
        self.client.begin_answer();
    }

    /// The gateway's own answer.
    pub(crate) fn refuse(&mut self, refusal: &Refusal) -> Response<AnswerBody> {
        self.fault = Some(refusal.fault);
        refusal.answer()
    }

    /// Bytes of the answer's body are on their way.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// All of the answer is on its way.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// The answer is cut.
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// Keeps the connection for other requests, if it can serve any.
    pub(crate) fn keep(&self, upstream: Box<Upstream>) {
        self.client.let_upstream_go();
        if let Some(instance) = self.previous.as_ref().or(self.claim.as_ref()).and_then(Claim::instance) {
            self.worker.keep(instance.key, upstream);
        }
    }

    /// What became of the request on its stamp, for better or worse. None: that is not the stamp's doing, because
    /// the client or the gateway went, or the request was refused as it stood.
    fn outcome(&self) -> Option<Outcome> {
        // Not what is worked out on drop: that is about the client's side.
        let (dispatched, failed) = match self.fault {
            Some(
                Fault::ConnectFailed
                | Fault::UpstreamCut
                | Fault::UpstreamMalformed
                | Fault::Timeout
                | Fault::IdleTimeout
                | Fault::NoReadyInstance,
            ) => (true, true),
            Some(Fault::Overloaded) => (true, false),
            Some(
                Fault::Malformed
                | Fault::HeadTooLarge
                | Fault::HeadTimeout
                | Fault::Version
                | Fault::Coding
                | Fault::Connect
                | Fault::WrongHost
                | Fault::BadStamp
                | Fault::PreviewRefused
                | Fault::NoCandidate
                | Fault::NoInstance
                | Fault::NoActiveStamp
                | Fault::BodyTooLarge
                | Fault::BodyTimeout
                | Fault::ClientGone
                | Fault::DrainCut
                | Fault::KeyMissing
                | Fault::KeyMalformed
                | Fault::KeyReused
                | Fault::KeyOfOthers
                | Fault::KeyInFlight
                | Fault::BadDelivery
                | Fault::BadBody
                | Fault::QueueClosed
                | Fault::QueueFull
                | Fault::QueueTimeout
                | Fault::NotDelivered
                | Fault::GivenUp
                | Fault::NoJob
                | Fault::JobGone
                | Fault::JobBegun
                | Fault::JobMethod
                | Fault::NoResponse,
            ) => (false, false),
            // Dropped before there was an answer: the client has gone. One that has waited so long went because
            // of the service.
            None => {
                let hung = self.attempts > 0
                    && self.latency.is_none()
                    && !self.worker.is_cutting()
                    && self.started.elapsed() >= ABANDONED_AFTER;
                (hung, hung)
            }
        };
        let answered = self.latency.is_some();
        (answered || dispatched).then(|| Outcome {
            error: failed || (answered && self.status >= 500),
            latency_us: self.latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
        })
    }

    /// The stamp that took it, and the place of its route there.
    fn stamp(&self) -> Option<(&Target, u16)> {
        let claimed = self.claim.as_ref().map(|claim| (&**claim.target, claim.route));
        claimed.or_else(|| self.taken.as_ref().map(|taken| (&**taken.target, taken.route)))
    }

    /// Hands what is known of a traced request on.
    fn export(&self, draft: Box<Draft>, fault: Option<Fault>) {
        let claim = self.claim.as_ref();
        let instance = claim.and_then(Claim::instance);
        self.worker.export(draft.end(traces::End {
            duration: self.started.elapsed(),
            status: self.status,
            answered: self.latency.is_some(),
            stamp: self.stamp().map(|(target, _)| (target.slot.stamp, target.name.clone())),
            route: self.stamp().map(|(target, route)| target.routes.name(route).to_owned()),
            instance: instance.map(|instance| (instance.index, instance.address)),
            attempts: self.attempts,
            job: self.taken.as_ref().and_then(|taken| taken.job.0),
            error: fault.map(Fault::label),
        }));
    }

    fn note(&self, fault: Option<Fault>) {
        let counts = self.worker.counts();
        counts.requests.add(1);
        counts.bytes_in.add(self.client.bytes_in.get());
        counts.bytes_out.add(self.bytes_out);
        if let Some(fault) = fault {
            counts.faults[fault as usize].add(1);
            counts.failed.add(u64::from(fault.counts_as_failed()));
        }
        if let Some(claim) = &self.claim {
            let classes = &claim.target.counts.workers[self.worker.index].classes;
            classes[usize::from(self.status / 100).min(5)].add(1);
            if let Some(outcome) = self.outcome().filter(|_| self.by_user) {
                self.worker.record(&claim.target, claim.route, outcome);
            }
        } else if fault.is_none() {
            // Without a stamp there is only the queue to answer.
            counts.queued.add(1);
        }
        if self.logs {
            let mut line = self.client.line.borrow_mut();
            let stamp = self.stamp();
            access::end(
                &mut line,
                &access::End {
                    status: self.status,
                    bytes_in: self.client.bytes_in.get(),
                    bytes_out: self.bytes_out,
                    duration: self.started.elapsed(),
                    held: self.held,
                    previous: self.by_previous,
                    target: stamp.map(|(target, _)| target),
                    route: stamp.map(|(target, route)| target.routes.name(route)),
                    instance: self.claim.as_ref().and_then(Claim::instance).map(|instance| instance.index),
                    attempts: self.attempts,
                    error: fault.map(Fault::label),
                    job: self.taken.as_ref().map(|taken| taken.job),
                },
            );
            self.worker.write_line(&line);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let cut = || {
            if self.worker.is_cutting() {
                Fault::DrainCut
            } else if self.client.deadline_passed() {
                // The guard ended the connection, because neither side moved.
                Fault::IdleTimeout
            } else {
                Fault::ClientGone
            }
        };
        let fault = self.fault.or_else(|| (!self.complete).then(cut));
        self.hold_ends();
        self.note(fault);
        if let Some(draft) = self.traced.draft.take() {
            self.export(draft, fault);
        }
        self.client.head.borrow_mut().clear();
        self.client.finish();
        // What is left of the answer may take as long as any pause.
        self.client.begin_answer();
    }
}
