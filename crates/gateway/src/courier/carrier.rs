//! What a thread has to make deliveries with. The courier has one, and so has each worker, for the first calls of the
//! requests that it has taken on.
//!
//! Deliveries are measured like users' requests, in the cells of the thread that makes them, so that a gate and the
//! guard see the errors of queued routes; whoever took the request on measures nothing.

use crate::clock::monotonic_ms;
use crate::courier::line;
use crate::ids::Random;
use crate::lines::Lines;
use crate::measures::Outcome;
use crate::metrics::Counts;
use crate::routes::{Routes, Target};
use crate::traces::{self, Finished, Leg};
use crate::worker::Shared;
use http::HeaderMap;
use model::name::StampId;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// See the module. It never leaves its thread.
pub(crate) struct Carrier {
    pub(crate) shared: Arc<Shared>,
    /// Which cells are its thread's.
    index: usize,
    pub(super) idle: RefCell<line::Lines>,
    pub(super) lines: RefCell<Lines>,
    pub(super) random: Random,
    traced: Sender<Finished>,
}

impl Carrier {
    pub(crate) fn new(
        shared: Arc<Shared>,
        index: usize,
        lines: Lines,
        traced: Sender<Finished>,
        seed: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            shared,
            index,
            idle: RefCell::default(),
            lines: RefCell::new(lines),
            random: Random::new(seed),
            traced,
        })
    }

    pub(super) fn with_routes<T>(&self, look: impl FnOnce(&Routes) -> T) -> T {
        look(&self.shared.routes.load())
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.shared.metrics.workers[self.index]
    }

    /// What is done every [`TICK`](crate::limits::TICK): idle connections, access lines.
    pub(crate) fn tick(&self) {
        self.with_routes(|routes| {
            self.idle.borrow_mut().sweep(monotonic_ms(), |key| routes.delivers_to(key));
        });
        self.lines.borrow_mut().hand_over(self.counts());
    }

    /// A delivery of a request with these fields begins, if it is traced.
    pub(super) fn begin_leg(&self, fields: &mut HeaderMap) -> Option<Leg> {
        let is_traced = traces::recall(fields) && self.with_routes(|routes| routes.traces().is_some());
        if is_traced { Leg::begin(fields, &self.random) } else { None }
    }

    /// Hands what was traced to the exporter. If that has [`TRACED_WAITING`](crate::limits::TRACED_WAITING) waiting, it
    /// is dropped and counted: nobody waits for a collector.
    pub(crate) fn export(&self, finished: Finished) {
        let spans = finished.spans();
        if self.traced.try_send(finished).is_err() {
            self.counts().spans_dropped.add(spans);
        }
    }

    /// An instance of this stamp did not take a connection, or there was none to ask.
    pub(super) fn connect_failed(&self, target: &Target) {
        target.counts.workers[self.index].connect_failures.add(1);
        self.look_after(target.slot.stamp);
    }

    /// A delivery came to an end on this stamp. `class`: of its answer's status.
    pub(super) fn record(&self, target: &Target, route: u16, class: usize, outcome: Outcome) {
        target.routes.record(self.index, route, outcome);
        let cells = &target.counts.workers[self.index];
        cells.classes[class].add(1);
        cells.requests.add(1);
        if outcome.error {
            cells.errors.add(1);
            self.look_after(target.slot.stamp);
        }
    }

    /// Users who are taken from a stamp need not wait for it.
    fn look_after(&self, stamp: StampId) {
        if self.with_routes(|routes| routes.look_after(stamp)) {
            self.shared.waiting.wake();
        }
    }
}
