//! The desk at which queued requests are taken on: the environment's queue, if it has one.
//!
//! An environment without queued routes has no file, no thread and no courier. The first table that queues, or a file
//! that is there from before, opens the desk: on the courier's own thread, because reading a million jobs takes a
//! second and forwarding must not wait for it. A queue that cannot be opened is tried again and again, so that
//! `mainstay queue repair` is all that it takes; meanwhile its routes are refused, and forwarding goes on. The same
//! holds for a queue that writes nothing any longer while it is open: it is closed, and opened anew.

pub(crate) mod metrics;

use crate::courier::{Carrier, Courier, End};
use crate::fault::{Fault, Refusal};
use crate::limits::{ACCEPT_TIME, DRAIN_GRACE, QUEUE_CLOSE_TIME, REOPEN_PAUSE};
use crate::lines::{Bundle, Lines};
use crate::routes::Routes;
use crate::traces::Finished;
use crate::worker::Shared;
use model::queue::QueueLimits;
use queue::{Clock, JournalOptions, Options, Queue, RepairReport, WriteError};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;

/// See the module.
pub(crate) struct Desk {
    path: PathBuf,
    journal: JournalOptions,
    state: watch::Sender<State>,
    end: watch::Sender<End>,
    /// Whether deliveries are under way, or may come.
    delivers: watch::Sender<bool>,
    staff: Mutex<Staff>,
    /// Held while the file is opened or repaired.
    file: Mutex<()>,
    /// Changes with every repair.
    repairs: watch::Sender<u64>,
    /// Bytes of bodies that are in memory and not on disk yet.
    pub(crate) gathered: AtomicU64,
    /// First calls that workers make.
    pub(crate) carried: AtomicUsize,
}

/// Whether there is a queue.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// Nobody needs one.
    Unneeded,
    /// Soon.
    Opening,
    /// Here.
    Open(Queue),
    /// There should be one, but it cannot be opened, and this is why.
    Closed(Arc<str>),
}

#[derive(Default)]
struct Staff {
    /// Where deliveries' access lines and spans go. None: before the gateway runs, and when it ends.
    outlets: Option<Outlets>,
    courier: Option<JoinHandle<()>>,
}

/// Where what is told of deliveries goes.
#[derive(Clone)]
pub(crate) struct Outlets {
    pub(crate) lines: SyncSender<Bundle>,
    pub(crate) traced: Sender<Finished>,
}

impl Desk {
    /// For the queue at `path`. Nothing is opened.
    pub(crate) fn new(path: PathBuf, journal: JournalOptions) -> Self {
        Self {
            path,
            journal,
            state: watch::Sender::new(State::Unneeded),
            end: watch::Sender::new(End::No),
            delivers: watch::Sender::new(false),
            staff: Mutex::default(),
            file: Mutex::default(),
            repairs: watch::Sender::new(0),
            gathered: AtomicU64::new(0),
            carried: AtomicUsize::new(0),
        }
    }

    /// From now on the desk may be opened.
    pub(crate) fn staff(&self, outlets: Outlets) {
        self.lock().outlets = Some(outlets);
    }

    /// A table is about to be in place, or is: opens the desk if it needs to be, and tells it its limits.
    pub(crate) fn look(&self, shared: &Arc<Shared>, routes: &Routes) {
        let limits = routes.active.as_ref().or(routes.candidate.as_ref()).map(|t| t.settings.queue.clone());
        // Where no table says how long answers and keys are kept, none is forgotten.
        let unknown = || QueueLimits { retention: Duration::MAX, ..QueueLimits::default() };
        let limits = limits.unwrap_or_else(unknown);
        if let State::Open(queue) = self.state() {
            queue.set_limits(limits);
            return;
        }
        let mut staff = self.lock();
        let needed = staff.courier.is_none() && (routes.queues() || self.path.exists());
        let Some(outlets) = staff.outlets.clone().filter(|_| needed) else { return };
        self.state.send_replace(State::Opening);
        self.delivers.send_replace(true);
        let shared = Arc::clone(shared);
        let started = std::thread::Builder::new()
            .name("courier".into())
            .spawn(move || keep_open(&shared, limits, outlets));
        match started {
            Ok(courier) => staff.courier = Some(courier),
            // The next table tries again.
            Err(cause) => {
                self.delivers.send_replace(false);
                let why = format!("the machine has no thread for deliveries: {cause}").into();
                self.state.send_replace(State::Closed(why));
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Staff> {
        self.staff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Why the queue's file is not used, with its name: what clients and operators are told.
    pub(crate) fn explained(&self, cause: &dyn Error) -> String {
        explain(&self.path, cause)
    }

    fn open(&self, limits: &QueueLimits) -> Result<(Queue, u64), String> {
        let seed =
            getrandom::u64().map_err(|cause| format!("the machine gives no random numbers: {cause}"))?;
        let (limits, journal) = (limits.clone(), self.journal.clone());
        let options = Options { limits, journal, clock: Clock::system(), seed };
        let _file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = Queue::open(&self.path, options).map_err(|cause| explain(&self.path, &cause))?;
        Ok((queue, seed.rotate_left(32)))
    }

    /// Saves what is whole of a file that cannot be opened, for this user; it is opened again within [`REOPEN_PAUSE`]. Blocks, as
    /// long as reading the file takes.
    ///
    /// # Errors
    /// The queue is open, or the file cannot be repaired, and why.
    pub(crate) fn repair(&self, by_uid: u32) -> Result<RepairReport, String> {
        let _file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match self.state() {
            State::Closed(_) => {}
            State::Open(_) | State::Opening => {
                return Err("the queue is open: there is nothing to repair".into());
            }
            State::Unneeded => return Err("there is no queue: no route is queued, and none was".into()),
        }
        let now_ms = i64::try_from(api::clock::unix_ms()).unwrap_or(i64::MAX);
        let report =
            queue::repair(&self.path, now_ms, by_uid).map_err(|cause| explain(&self.path, &cause))?;
        self.repairs.send_modify(|repairs| *repairs += 1);
        Ok(report)
    }

    /// There is no queue from now on, and why.
    fn shut(&self, why: String) {
        if !matches!(self.state(), State::Closed(known) if *known == *why) {
            tracing::error!(%why, "queued routes are refused");
        }
        self.state.send_replace(State::Closed(why.into()));
    }

    /// Whether there is a queue now.
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The queue, once it is open.
    ///
    /// # Errors
    /// [`Fault::QueueClosed`]: there is none, it cannot be opened, or it takes too long. [`Fault::NoJob`]: nobody ever
    /// queued anything.
    pub(crate) async fn queue(&self) -> Result<Queue, Refusal> {
        if let State::Open(queue) = self.state() {
            return Ok(queue);
        }
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !matches!(state, State::Opening));
        let state = match tokio::time::timeout(ACCEPT_TIME, settled).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) | Err(_) => State::Opening,
        };
        match state {
            State::Open(queue) => Ok(queue),
            State::Closed(why) => Err(Refusal::new(Fault::QueueClosed, why.to_string())),
            State::Opening => {
                Err(Refusal::new(Fault::QueueClosed, format!("{} is still being read", self.path.display())))
            }
            State::Unneeded => Err(Refusal::new(Fault::NoJob, "nothing was ever queued here")),
        }
    }

    /// Returns a moment after the gateway has begun to drain, or once the queue is closed: whoever waits for an outcome
    /// waits no longer. For who has the queue.
    pub(crate) async fn closing(&self) {
        let (mut end, mut state) = (self.end.subscribe(), self.state.subscribe());
        // Both senders are this desk's.
        tokio::select! {
            _ = state.wait_for(|state| !matches!(state, State::Open(_))) => {}
            _ = end.wait_for(|end| *end >= End::Near) => tokio::time::sleep(DRAIN_GRACE).await,
        }
    }

    /// Returns once this queue is closed: what is still under way for it is to be cut, before its file is opened again.
    pub(crate) async fn shut_down(&self, queue: &Queue) {
        let mut state = self.state.subscribe();
        // The sender is this desk's.
        let _ = state.wait_for(|state| !matches!(state, State::Open(open) if open.is(queue))).await;
    }

    /// The gateway begins to drain: see [`Self::closing`].
    pub(crate) fn hurry(&self) {
        self.end.send_replace(End::Near);
    }

    /// Clients are gone, or take too long: the courier takes no further calls, and ends with those in flight.
    pub(crate) fn drain(&self) {
        self.end.send_replace(End::Drain);
        self.lock().outlets = None;
    }

    /// Returns once the courier makes no delivery any more, after [`Self::drain`].
    pub(crate) async fn delivered(&self) {
        // The sender is this desk's.
        let _ = self.delivers.subscribe().wait_for(|delivers| !delivers).await;
    }

    /// Cuts what is still in flight and waits for the courier's end. Then the queue is closed, for which this waits
    /// for [`QUEUE_CLOSE_TIME`] at most, and its file is nobody's.
    pub(crate) fn close(&self) {
        self.end.send_replace(End::Cut);
        let courier = self.lock().courier.take();
        if let Some(courier) = courier {
            // A courier that panics takes the process with it.
            let _ = courier.join();
        }
        let before = self.state.send_replace(State::Closed("the gateway ends".into()));
        if let State::Open(queue) = before
            && !queue.close(QUEUE_CLOSE_TIME)
        {
            let path = self.path.display();
            tracing::warn!(%path, "the queue is not closed within {QUEUE_CLOSE_TIME:?}: the next start reads its log");
        }
    }
}

/// Tells of the courier's end. When it panics the process ends: nobody else delivers, and the keeper starts another
/// gateway.
struct Shift<'a>(&'a Desk);

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
        self.0.delivers.send_replace(false);
    }
}

/// The courier's thread, from opening the queue to the end of the last delivery.
fn keep_open(shared: &Arc<Shared>, limits: QueueLimits, outlets: Outlets) {
    let _shift = Shift(&shared.desk);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("the operating system gives the courier its event queue");
    runtime.block_on(async {
        let desk = &shared.desk;
        let mut end = desk.end.subscribe();
        loop {
            let mut repairs = desk.repairs.subscribe();
            let again = match desk.open(&limits) {
                Err(why) => {
                    desk.shut(why);
                    Again::Soon
                }
                Ok((queue, seed)) => {
                    desk.state.send_replace(State::Open(queue.clone()));
                    // A table may have come meanwhile.
                    desk.look(shared, &shared.routes.load());
                    // The cells after those of the workers.
                    let index = shared.metrics.workers.len() - 1;
                    let (lines, traced) = (Lines::new(outlets.lines.clone()), outlets.traced.clone());
                    let carrier = Carrier::new(Arc::clone(shared), index, lines, traced, seed);
                    let Err(trouble) = Courier::new(carrier, queue).work(end.clone()).await else { return };
                    desk.shut(explain(&desk.path, &trouble) + hint(&trouble));
                    Again::after(&trouble)
                }
            };
            let reopen = async {
                match again {
                    Again::Soon => tokio::time::sleep(REOPEN_PAUSE).await,
                    // The sender is this desk's.
                    Again::Repaired => drop(repairs.changed().await),
                    Again::Never => std::future::pending().await,
                }
            };
            tokio::select! {
                // An error says that the gateway is gone.
                _ = end.wait_for(|end| *end >= End::Drain) => return,
                () = reopen => {}
            }
        }
    });
}

/// When a queue that is not open is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// After [`REOPEN_PAUSE`].
    Soon,
    /// Once it was repaired. Sooner it may well open, because opening does not read everything, and lose what is
    /// written next.
    Repaired,
    /// Not by this gateway.
    Never,
}

impl Again {
    /// After the queue has written nothing any longer.
    fn after(trouble: &WriteError) -> Self {
        match trouble {
            WriteError::Fenced { .. } => Self::Never,
            WriteError::Damaged(_) => Self::Repaired,
            // Whatever the log holds is written anew and synced when the file is opened: a failed fsync is made good.
            WriteError::Broken(_)
            | WriteError::Full
            | WriteError::Reserve { .. }
            | WriteError::Busy(_)
            | WriteError::Refused(_) => Self::Soon,
        }
    }
}

/// What an operator can do about it.
fn hint(trouble: &WriteError) -> &'static str {
    match Again::after(trouble) {
        Again::Repaired => "; hint: mainstay queue repair ENV",
        Again::Soon | Again::Never => "",
    }
}

/// Why the file is not used, with its name and what to do.
fn explain(path: &Path, cause: &dyn Error) -> String {
    let mut text = cause.to_string();
    let mut source = cause.source();
    while let Some(further) = source {
        text = format!("{text}: {further}");
        source = further.source();
    }
    let name = path.display().to_string();
    if text.contains(&name) { text } else { format!("{name} cannot be used: {text}") }
}
