//! Jobs that go one after the other: for each value of order one job that holds it, and those behind it.

use super::Entry;
use crate::keys::HashedMap;
use std::collections::VecDeque;

/// Who holds each value, and who waits for it. A value that nobody holds takes no room.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    held: HashedMap<u64, Lane>,
}

#[derive(Debug)]
struct Lane {
    holder: u64,
    behind: VecDeque<Entry>,
}

impl Lanes {
    pub(crate) fn is_free(&self, order: u64) -> bool {
        order == 0 || !self.held.contains_key(&order)
    }

    pub(crate) fn is_held_by(&self, order: u64, id: u64) -> bool {
        self.held.get(&order).is_some_and(|lane| lane.holder == id)
    }

    /// Takes the value of `entry`, if it has one and nobody holds it. Whether it holds it now.
    pub(crate) fn take(&mut self, entry: &Entry) -> bool {
        if entry.order == 0 {
            return true;
        }
        let lane = self.held.entry(entry.order);
        lane.or_insert(Lane { holder: entry.id(), behind: VecDeque::new() }).holder == entry.id()
    }

    /// Puts a job behind the one that holds its value.
    pub(crate) fn wait(&mut self, entry: Entry) {
        if let Some(lane) = self.held.get_mut(&entry.order) {
            lane.behind.push_back(entry);
        }
    }

    /// Gives the value up, if `id` holds it: the next one holds it then.
    pub(crate) fn release(&mut self, id: u64, order: u64) -> Option<Entry> {
        let lane = self.held.get_mut(&order).filter(|lane| lane.holder == id)?;
        match lane.behind.pop_front() {
            Some(next) => {
                lane.holder = next.id();
                Some(next)
            }
            None => {
                self.held.remove(&order);
                None
            }
        }
    }
}

#[cfg(test)]
impl Lanes {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
