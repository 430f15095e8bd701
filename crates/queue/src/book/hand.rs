//! Jobs that an operator or a client has in hand, and what becomes of them when they are let go.

use super::{Aside, Book, Due, Entry, UpstreamIndex};
use std::cmp::Reverse;

/// Timers of no use that are kept in any case before they are swept.
pub(super) const STALE_TIMERS_LIMIT: usize = 1_024;

impl Book {
    /// Takes a job in hand, so that nothing else happens to it. False: it is under way, or in other hands.
    pub(crate) fn claim(&mut self, id: u64) -> bool {
        if self.busy.contains_key(&id) || self.aside.contains_key(&id) {
            return false;
        }
        self.aside.insert(id, Aside::Claimed(None));
        true
    }

    /// Whether somebody has it in hand, who may let it go again.
    pub(super) fn is_claimed(&self, id: u64) -> bool {
        matches!(self.aside.get(&id), Some(Aside::Claimed(_)))
    }

    /// Lets a job out of hand again, unchanged.
    pub(crate) fn unclaim(&mut self, id: u64) {
        if let Some(Aside::Claimed(Some(came_up))) = self.aside.remove(&id) {
            let (upstream, entry) = *came_up;
            match upstream {
                Some(upstream) => self.targets[upstream].ready.push_front(entry),
                None => self.lines[entry.route()].again.push_front(entry),
            }
        }
    }

    /// A pending job in hand is settled, or begins anew elsewhere.
    pub(crate) fn remove_claimed(&mut self, id: u64, order: u64) {
        let carried = self.carried.remove(&id).map(|carried| carried.queued);
        let doubtful = self.doubtful.remove(&id);
        let came_up = matches!(self.aside.remove(&id), Some(Aside::Claimed(Some(_))));
        if self.scheduled.remove(&id).is_some() {
            return self.forget_timer();
        }
        match (doubtful, carried) {
            (Some(doubt), _) if doubt.queued && !came_up => {
                self.take_out(id, doubt.upstream, doubt.entry.route())
            }
            // What was put off or is in doubt lies in no line, unless its time has come.
            (Some(_), _) | (None, Some(false)) => {}
            (None, Some(true) | None) if came_up => {}
            (None, Some(true) | None) => drop(self.aside.insert(id, Aside::Gone)),
        }
        self.release(id, order);
    }

    /// A timer is of no use any longer. They are swept before they outnumber the others, as where jobs are scheduled
    /// for next year and taken back, again and again.
    fn forget_timer(&mut self) {
        self.stale += 1;
        if self.stale < STALE_TIMERS_LIMIT || self.stale * 2 < self.timers.len() {
            return;
        }
        self.stale = 0;
        let scheduled = &self.scheduled;
        self.timers.retain(|Reverse(timer)| match timer.due {
            Due::Scheduled(id) => scheduled.contains_key(&id),
            Due::Again(_) | Due::Probe(_) | Due::Hold { .. } => true,
        });
    }

    /// A job in hand whose doubt is resolved is sent again, before what is behind it: its value stays with it, if it
    /// has that still, and it goes first where it has not.
    pub(crate) fn begin_anew(&mut self, entry: Entry) {
        let id = entry.id();
        let carried = self.carried.remove(&id).filter(|carried| carried.queued);
        let doubtful = self.doubtful.remove(&id).filter(|doubt| doubt.queued);
        self.aside.remove(&id);
        let lies = carried.map(|carried| carried.upstream);
        if let Some(upstream) = lies.or(doubtful.map(|doubt| doubt.upstream)) {
            self.take_out(id, upstream, entry.route());
        }
        self.lines[entry.route()].again.push_front(entry);
    }

    /// Takes a probe that is due out of wherever it lies, because its job may come up anew.
    fn take_out(&mut self, id: u64, upstream: Option<UpstreamIndex>, route: usize) {
        let line = &mut self.lines[route];
        line.held.retain(|(_, entry)| entry.id() != id);
        match upstream {
            Some(upstream) => self.targets[upstream].ready.retain(|entry| entry.id() != id),
            None => line.again.retain(|entry| entry.id() != id),
        }
    }

    /// Takes the first fresh job out of its line, if it is still that. It is busy then.
    pub(crate) fn claim_head(&mut self, entry: Entry) -> bool {
        let line = &mut self.lines[entry.route()];
        if line.fresh.first() != Some(entry) || self.aside.contains_key(&entry.id()) {
            return false;
        }
        line.fresh.pop();
        self.busy.insert(entry.id(), ());
        true
    }

    /// A settled job in hand stays so, or is pushed by the caller.
    pub(crate) fn release_claim(&mut self, id: u64) {
        self.aside.remove(&id);
    }
}
