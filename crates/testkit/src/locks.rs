//! The locks that SQLite takes on a file, between the connections of one process.
//!
//! Two tables, both without waiting: a lock that cannot be had is refused and SQLite's busy handler decides.
//! The levels of a database file are those of <https://www.sqlite.org/lockingv3.html>, the slots of its shared
//! memory those of <https://www.sqlite.org/walformat.html#wal_locks>.

use std::collections::{BTreeMap, BTreeSet};

/// How many slots the shared memory has (`SQLITE_SHM_NLOCK`).
pub(crate) const SHARED_SLOTS: usize = 8;

/// One opened file, as the owner of locks.
pub(crate) type Owner = u64;

/// What a connection holds of a database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing.
    None,
    /// It reads.
    Shared,
    /// It is going to write; others still read.
    Reserved,
    /// It waits for the readers to go; nobody new comes.
    Pending,
    /// It writes; nobody else does anything.
    Exclusive,
}

/// Who holds what of one database file. An owner who is not here holds nothing.
#[derive(Debug, Default)]
pub(crate) struct FileLocks(BTreeMap<Owner, Level>);

impl FileLocks {
    /// Raises what `owner` holds to `wanted`. Whether that was possible; on the way to an exclusive lock a
    /// pending one may be kept even if it was not.
    pub(crate) fn raise(&mut self, owner: Owner, wanted: Level) -> bool {
        let held = self.0.get(&owner).copied().unwrap_or(Level::None);
        if held >= wanted {
            return true;
        }
        let others = self.0.iter().filter(|(other, _)| **other != owner).map(|(_, level)| *level);
        let strongest = others.max().unwrap_or(Level::None);
        let (granted, left_with) = match wanted {
            Level::None => (true, Level::None),
            Level::Shared => (strongest < Level::Pending, Level::Shared),
            Level::Reserved => (strongest < Level::Reserved, Level::Reserved),
            Level::Pending => (strongest < Level::Reserved, Level::Pending),
            Level::Exclusive if strongest == Level::Shared => {
                self.0.insert(owner, Level::Pending);
                (false, Level::Pending)
            }
            Level::Exclusive => (strongest == Level::None, Level::Exclusive),
        };
        if granted {
            self.0.insert(owner, left_with);
        }
        granted
    }

    /// Lowers what `owner` holds to `wanted`.
    pub(crate) fn lower(&mut self, owner: Owner, wanted: Level) {
        if wanted == Level::None {
            self.0.remove(&owner);
        } else if let Some(held) = self.0.get_mut(&owner) {
            *held = wanted.min(*held);
        }
    }

    /// Whether somebody is going to write.
    pub(crate) fn reserved(&self) -> bool {
        self.0.values().any(|held| *held > Level::Shared)
    }
}

/// Who holds which slots of the shared memory of one database file.
#[derive(Debug, Default)]
pub(crate) struct SlotLocks {
    shared: [BTreeSet<Owner>; SHARED_SLOTS],
    exclusive: [Option<Owner>; SHARED_SLOTS],
}

impl SlotLocks {
    /// Takes `slots` for reading, all or none. Whether that was possible.
    pub(crate) fn share(&mut self, owner: Owner, slots: std::ops::Range<usize>) -> bool {
        let free = slots.clone().all(|slot| self.exclusive[slot].is_none_or(|other| other == owner));
        if free {
            self.shared[slots].iter_mut().for_each(|owners| _ = owners.insert(owner));
        }
        free
    }

    /// Takes `slots` alone, all or none. Whether that was possible.
    pub(crate) fn exclude(&mut self, owner: Owner, slots: std::ops::Range<usize>) -> bool {
        let free = slots.clone().all(|slot| {
            self.exclusive[slot].is_none_or(|other| other == owner)
                && self.shared[slot].iter().all(|other| *other == owner)
        });
        if free {
            self.exclusive[slots].fill(Some(owner));
        }
        free
    }

    /// Gives back whatever `owner` holds of `slots`.
    pub(crate) fn release(&mut self, owner: Owner, slots: std::ops::Range<usize>) {
        for slot in slots {
            self.shared[slot].remove(&owner);
            self.exclusive[slot].take_if(|holder| *holder == owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_when_nobody_reads() {
        let mut locks = FileLocks::default();
        assert!(locks.raise(1, Level::Shared) && locks.raise(2, Level::Shared));
        assert!(!locks.reserved());
        assert!(locks.raise(1, Level::Reserved));
        assert!(locks.reserved());
        assert!(!locks.raise(2, Level::Reserved), "one writer");
        assert!(locks.raise(3, Level::Shared), "readers still come");
        assert!(!locks.raise(1, Level::Exclusive), "readers are there");
        assert!(!locks.raise(4, Level::Shared), "nobody new comes");
        locks.lower(2, Level::None);
        locks.lower(3, Level::None);
        assert!(locks.raise(1, Level::Exclusive));
        assert!(!locks.raise(2, Level::Shared));
        locks.lower(1, Level::Shared);
        assert!(locks.raise(2, Level::Shared) && locks.raise(2, Level::Reserved));
    }

    #[test]
    fn slots_are_shared_or_one_owners() {
        let mut slots = SlotLocks::default();
        assert!(slots.share(1, 3..4) && slots.share(2, 3..4));
        assert!(!slots.exclude(3, 2..8), "slot 3 is read");
        assert!(slots.exclude(3, 2..3), "nothing of it was kept");
        slots.release(1, 3..4);
        assert!(!slots.exclude(3, 3..8));
        slots.release(2, 3..4);
        assert!(slots.exclude(3, 3..8));
        assert!(!slots.share(1, 7..8) && slots.share(1, 0..1));
        slots.release(3, 0..8);
        assert!(slots.share(1, 7..8));
    }
}
