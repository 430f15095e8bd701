//! A slot: the right to dispatch to a stamp, and how many requests hold it.

use api::clock::monotonic_ns;
use api::gateway::ClosedSlot;
use model::name::StampId;
use std::sync::atomic::{AtomicU64, Ordering};

/// Set in [`Slot::word`] once no request may claim the slot any more. The bits below count claims.
const CLOSED: u64 = 1 << 63;

/// The slot of one stamp, from the table that first names it to the last.
///
/// Closed bit and count share one word, so there is no moment between looking at the one and changing the other.
/// Every `claim` is a single read-modify-write, and so is `close`; the word orders them. A claim ordered before
/// `close` is in the count that `close` returns and in every later [`Slot::in_flight`] until it is released: what
/// waits for zero waits for it. A claim ordered after `close` sees the bit and undoes itself; until then the
/// count is too high by one, never too low, so zero is never seen while a request is out.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Of which stamp.
    pub(crate) stamp: StampId,
    word: AtomicU64,
    last_dispatch_ns: AtomicU64,
}

impl Slot {
    /// An open slot without claims.
    pub(crate) fn new(stamp: StampId) -> Self {
        Self { stamp, word: AtomicU64::new(0), last_dispatch_ns: AtomicU64::new(0) }
    }

    /// Takes a claim, which must be released. False: the slot is closed, and the table that closed it is already
    /// there to be loaded, because it is stored before the bit is set.
    pub(crate) fn claim(&self) -> bool {
        let before = self.word.fetch_add(1, Ordering::AcqRel);
        if before & CLOSED == 0 {
            return true;
        }
        self.release();
        false
    }

    /// Gives a claim back.
    pub(crate) fn release(&self) {
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & !CLOSED > 0, "a claim is released once");
    }

    /// From now on nothing can be claimed. Harmless when repeated.
    pub(crate) fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
        self.last_dispatch_ns.fetch_max(monotonic_ns(), Ordering::AcqRel);
    }

    /// Whether nothing can be claimed any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Claims out.
    pub(crate) fn in_flight(&self) -> u64 {
        self.word.load(Ordering::Acquire) & !CLOSED
    }

    /// A request that holds a claim was dispatched. Only after closing is the time taken: until then the time of
    /// closing will be later.
    pub(crate) fn dispatched(&self) {
        if self.is_closed() {
            self.last_dispatch_ns.fetch_max(monotonic_ns(), Ordering::AcqRel);
        }
    }

    /// As the agent sees it, once closed.
    pub(crate) fn report(&self) -> ClosedSlot {
        ClosedSlot {
            stamp: self.stamp,
            last_dispatch_ns: self.last_dispatch_ns.load(Ordering::Acquire),
            in_flight: self.in_flight(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_closed_slot_is_never_claimed() {
        let slot = Slot::new(StampId(1));
        assert!(slot.claim());
        slot.close();
        assert!(!slot.claim());
        assert_eq!(slot.report().in_flight, 1);
        slot.release();
        assert_eq!(slot.report().in_flight, 0);
        assert!(slot.is_closed());
    }

    #[test]
    fn a_dispatch_after_closing_moves_the_last_dispatch() {
        let slot = Slot::new(StampId(1));
        assert!(slot.claim());
        slot.dispatched();
        assert_eq!(slot.report().last_dispatch_ns, 0, "closing takes the time, not every dispatch");
        slot.close();
        let closed = slot.report().last_dispatch_ns;
        slot.dispatched();
        assert!(slot.report().last_dispatch_ns >= closed);
        assert_ne!(closed, 0);
    }

    /// Threads claim and release as fast as they can while another closes. What holds a claim writes down that it
    /// does; once the slot was closed and its count was seen at zero, nobody may.
    #[test]
    fn zero_after_closing_is_final() {
        for _ in 0..200 {
            let slot = Slot::new(StampId(1));
            let holding = AtomicU64::new(0);
            let start = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        while !start.load(Ordering::Acquire) {
                            std::hint::spin_loop();
                        }
                        while slot.claim() {
                            holding.fetch_add(1, Ordering::SeqCst);
                            holding.fetch_sub(1, Ordering::SeqCst);
                            slot.release();
                        }
                    });
                }
                start.store(true, Ordering::Release);
                std::thread::yield_now();
                slot.close();
                while slot.in_flight() > 0 {
                    std::hint::spin_loop();
                }
                assert_eq!(holding.load(Ordering::SeqCst), 0, "a claim was out at zero");
            });
            assert_eq!(slot.in_flight(), 0);
        }
    }
}
