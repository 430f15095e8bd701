//! The way of a delivery: a stamp whose slot is claimed, and one of its instances, held. Both are released on drop.

use crate::choice::Choice;
use crate::courier::Carrier;
use crate::fault::{Fault, Refusal};
use crate::limits::CLAIM_TRIES;
use crate::routes::{Instance, Target};
use std::sync::Arc;

/// See the module.
pub(crate) struct Way {
    pub(crate) target: Arc<Target>,
    /// The target is the candidate because of its weight, so that the active stamp would do as well.
    pub(crate) by_weight: bool,
    held: Option<Arc<Instance>>,
}

impl Way {
    /// An open slot of the stamp the choice leads to by now, claimed.
    ///
    /// # Errors
    /// There is no stamp.
    pub(crate) fn claim(carrier: &Carrier, choice: &Choice) -> Result<Self, Refusal> {
        for _ in 0..CLAIM_TRIES {
            let (target, by_weight) = carrier.with_routes(|routes| {
                choice.target(routes).map(|chosen| (Arc::clone(chosen.target), chosen.by_weight))
            })?;
            // A slot is closed after the table without it was stored: the next look finds that one.
            if target.slot.claim() {
                return Ok(Self { target, by_weight, held: None });
            }
        }
        Err(Refusal::new(Fault::NoActiveStamp, "the release changes too quickly"))
    }

    /// Whether what was not sent yet is no longer this stamp's, as for requests that are forwarded.
    pub(crate) fn is_left(&self, carrier: &Carrier, choice: &Choice) -> bool {
        let same = || {
            carrier.with_routes(|routes| {
                choice.target(routes).is_ok_and(|chosen| Arc::ptr_eq(&chosen.target.slot, &self.target.slot))
            })
        };
        self.target.slot.is_closed() || (choice.wish.is_none() && !same())
    }

    /// Holds one of `limit` places of an instance; the one before is released. False: it has none.
    pub(crate) fn hold(&mut self, instance: &Arc<Instance>, limit: u32) -> bool {
        self.let_go();
        let held = instance.hold(limit);
        self.held = held.then(|| Arc::clone(instance));
        held
    }

    fn let_go(&mut self) {
        if let Some(instance) = self.held.take() {
            instance.release();
        }
    }

    /// The instance that is held.
    pub(crate) fn instance(&self) -> Option<&Arc<Instance>> {
        self.held.as_ref()
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.let_go();
        self.target.slot.release();
    }
}
