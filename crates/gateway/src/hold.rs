//! Requests that wait because no instance takes them: all of their stamp's are being started again, or took no
//! connection a moment ago.
//!
//! Nobody asks again and again: a request that is held is woken by a table, by the guard, or by the end of its
//! instances' ejection. It keeps its claim of the stamp's slot, so that what becomes of it is told of that stamp; a
//! table that closes the slot wakes it to claim another.

use crate::choice::Choice;
use crate::client::Phase;
use crate::exchange::Exchange;
use crate::fault::{Fault, Refusal};
use crate::limits::TICK;
use crate::routes::{Routes, Target};
use crate::worker::Shared;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The requests of all workers that are held.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    count: AtomicU32,
    news: Notify,
}

/// One of them. Its place is free again on drop.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.count.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Waiting {
    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Something has changed by which some might go on: all look.
    pub(crate) fn wake(&self) {
        self.news.notify_waiters();
    }
}

impl Place {
    /// None when `limit` wait already.
    fn take(shared: &Arc<Shared>, limit: u32) -> Option<Self> {
        let place = Self(Arc::clone(shared));
        let before = place.0.waiting.count.fetch_add(1, Ordering::AcqRel);
        (before < limit).then_some(place)
    }
}

/// Waits until an instance of the stamp that `choice` leads to may take the request, which is to be claimed anew
/// then. `until` is when the request's patience ends, from its first wait on. Dropped before it is ready, it waits no
/// longer.
///
/// # Errors
/// `refusal`, what there was instead of an instance: after `hold.time`, when nobody is held by the release or by what
/// was asked for, and when the gateway drains. `overloaded` when too many wait already.
pub(crate) async fn hold(
    exchange: &mut Exchange,
    choice: &Choice,
    target: &Target,
    until: &mut Option<Instant>,
    refusal: Refusal,
) -> Result<(), Refusal> {
    let hold = target.settings.hold;
    // Checks of readiness and smoke come through the preview door, and must see what is there.
    if hold.is_off() || !choice.wish.is_none() || exchange.worker.is_draining() {
        return Err(refusal);
    }
    let until = *until.get_or_insert_with(|| Instant::now() + hold.time);
    let shared = Arc::clone(exchange.worker.shared());
    let Some(_place) = Place::take(&shared, hold.requests) else {
        let detail = format!("no instance is ready, and {} requests wait for one already", hold.requests);
        return Err(Refusal::new(Fault::Overloaded, detail));
    };
    if let Some(claim) = &mut exchange.claim {
        // An instance that is to be stopped must not be waited for because of this request.
        claim.let_go();
    }
    arm(exchange, until);
    exchange.hold_begins();
    let outcome = wait(exchange, choice, &shared, until).await;
    exchange.hold_ends();
    if outcome { Ok(()) } else { Err(refusal) }
}

/// Waits for a tick: whoever was held comes back together with all others, and an instance has room for so many at
/// once. `until` is when the request's patience ends, if it has waited. Dropped before it is ready, it waits no longer.
///
/// # Errors
/// `refusal`, when it has not waited, or for long enough, or when the gateway drains. `overloaded` when too many wait
/// already.
pub(crate) async fn hold_for_room(
    exchange: &mut Exchange,
    target: &Target,
    until: Option<Instant>,
    refusal: Refusal,
) -> Result<(), Refusal> {
    let Some(until) = until.filter(|until| Instant::now() < *until) else { return Err(refusal) };
    if exchange.worker.is_draining() {
        return Err(refusal);
    }
    let shared = Arc::clone(exchange.worker.shared());
    let Some(_place) = Place::take(&shared, target.settings.hold.requests) else { return Err(refusal) };
    arm(exchange, until);
    exchange.hold_begins();
    tokio::time::sleep_until(until.min(Instant::now() + TICK)).await;
    exchange.hold_ends();
    Ok(())
}

/// A client that leaves meanwhile has left: what is waited for is not its doing, and no time of its connection's is
/// over.
fn arm(exchange: &Exchange, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    // The answer that comes when it is over has begun by then.
    exchange.client().arm(Phase::Service, left + TICK);
}

/// Whether there is something to go on with, before it is too late.
async fn wait(exchange: &Exchange, choice: &Choice, shared: &Shared, until: Instant) -> bool {
    let worker = &exchange.worker;
    loop {
        let mut news = pin!(shared.waiting.news.notified());
        // From here on nothing is missed.
        news.as_mut().enable();
        if worker.is_draining() || Instant::now() >= until {
            return false;
        }
        let next = match worker.with_routes(|routes| free_in(routes, choice, worker.now_ms())) {
            Some(Duration::ZERO) => return true,
            // The worker's clock may be a tick behind.
            Some(ejected) => until.min(Instant::now() + ejected + TICK),
            None => until,
        };
        tokio::select! {
            () = news => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// When an instance may be tried, from now. None: there is none.
fn free_in(routes: &Routes, choice: &Choice, now_ms: u64) -> Option<Duration> {
    let Ok(chosen) = choice.target(routes) else {
        // Who claims is told why there is no stamp.
        return Some(Duration::ZERO);
    };
    let left = chosen.target.instances.iter().map(|instance| instance.ejected_for(now_ms));
    left.min()
}
