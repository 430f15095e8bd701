//! Deliveries, and the courier: the thread that makes all of them but the first calls that workers make themselves.
//!
//! It takes what may be sent from [`queue::Queue::next`], each call in a task of its own, and says what came of it.
//! What is retried, in which order and how fast is the queue's business; whom a call goes to is decided here, by the
//! table as it is then: a job goes to the stamp that would serve its user now.

mod external;
mod line;

mod carrier;
mod delivery;
mod note;
mod way;

pub(crate) use carrier::Carrier;
pub(crate) use delivery::deliver;
pub(crate) use external::External;

use crate::limits::{SETTLE_TIME, TICK};
use queue::{Call, CallOutcome, Queue, WriteError};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often the queue is told to look after itself.
const TEND: Duration = Duration::from_secs(1);

/// See the module. It never leaves its thread.
pub(crate) struct Courier {
    carrier: Rc<Carrier>,
    queue: Queue,
}

/// How far the end of the gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// It serves.
    No,
    /// It drains: nobody waits for an outcome any longer, and the workers end.
    Near,
    /// No further call is taken; those in flight may end.
    Drain,
    /// What is in flight is cut: its jobs find out at the next start what became of it.
    Cut,
}

impl Courier {
    pub(crate) fn new(carrier: Rc<Carrier>, queue: Queue) -> Self {
        Self { carrier, queue }
    }

    /// Delivers until the gateway drains, and what is in flight then has come to its end or is cut. Only in a local
    /// runtime.
    ///
    /// # Errors
    /// The queue writes nothing any longer, and why. What was in flight has had [`SETTLE_TIME`] to answer its clients,
    /// and is cut: none of it is under way when the file is opened again.
    pub(crate) async fn work(self, end: watch::Receiver<End>) -> Result<(), WriteError> {
        let mut calls = JoinSet::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tends = tokio::time::interval(TEND);
        tends.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut next = pin!(self.queue.next());
        let mut drains = pin!(reached(end.clone(), End::Drain));
        loop {
            tokio::select! {
                () = &mut drains => break,
                call = &mut next => {
                    let (carrier, queue) = (Rc::clone(&self.carrier), self.queue.clone());
                    calls.spawn_local(async move { deliver(&carrier, &queue, call).await });
                    next.set(self.queue.next());
                }
                Some(ended) = calls.join_next() => abort_on_panic(ended),
                _ = ticks.tick() => self.carrier.tick(),
                _ = tends.tick() => {
                    if let Some(trouble) = self.queue.status().trouble {
                        self.abandon(calls).await;
                        return Err(trouble);
                    }
                    self.queue.tend();
                }
            }
        }
        self.queue.rest();
        let mut cut = pin!(reached(end.clone(), End::Cut));
        // What workers still have in flight may come back, and its outcomes are to be on disk.
        let carried = &self.carrier.shared.desk.carried;
        while !calls.is_empty() || carried.load(Ordering::Relaxed) > 0 {
            tokio::select! {
                () = &mut cut => break,
                call = &mut next => {
                    self.give_back(&call);
                    next.set(self.queue.next());
                }
                Some(ended) = calls.join_next() => abort_on_panic(ended),
                _ = ticks.tick() => self.carrier.tick(),
            }
        }
        drop(calls);
        let settle = async {
            loop {
                self.queue.settled().await;
                // What was announced by then is there at once.
                let Ok(call) = tokio::time::timeout(Duration::ZERO, &mut next).await else { break };
                self.give_back(&call);
                next.set(self.queue.next());
            }
        };
        if tokio::time::timeout(SETTLE_TIME, settle).await.is_err() {
            tracing::warn!("the last outcomes are not on disk: their jobs find out at the next start");
        }
        self.carrier.tick();
        Ok(())
    }

    /// Lets what is in flight answer whoever waits for it, here and on the workers, for [`SETTLE_TIME`]; its outcomes
    /// cannot be written. What workers have in flight then is cut when the queue is closed.
    async fn abandon(&self, mut calls: JoinSet<()>) {
        let answers = async {
            while let Some(ended) = calls.join_next().await {
                abort_on_panic(ended);
            }
            // Nothing tells of the last of them: that would cost every request something for this rare moment.
            while self.carrier.shared.desk.carried.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(TICK).await;
            }
        };
        // What takes longer is cut.
        let _ = tokio::time::timeout(SETTLE_TIME, answers).await;
        calls.shutdown().await;
        self.carrier.tick();
    }

    /// Does not send what was about to be: the next gateway does.
    fn give_back(&self, call: &Call) {
        let why = "the gateway ends".to_owned();
        self.queue.report(call.id, CallOutcome::NotSent { why, busy: false }, None);
    }
}

/// Returns once the end of the gateway is that far, or nobody is left to say.
async fn reached(mut end: watch::Receiver<End>, far: End) {
    // An error says that the sender is gone, and with it the gateway.
    let _ = end.wait_for(|end| *end >= far).await;
}

/// tokio would keep a delivery's panic to itself, and its job under way for ever. The keeper starts another gateway.
fn abort_on_panic(ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err_and(|cause| cause.is_panic()) {
        std::process::abort();
    }
}
