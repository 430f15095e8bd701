//! Which job has which `Idempotency-Key`: a hash of each key and the number of its job, 24 bytes a key and two for a
//! filter.
//!
//! The newest keys lie in an open map. Once it is full it is sealed: sorted into a segment that is searched by
//! interpolation, because hashes are spread evenly, and only for keys that its filter lets pass. Segments follow each
//! other in time, so what expires lies together.

mod filter;

use crate::job::JobId;
use filter::Filter;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Keys in the open map before it is sealed. Sealing sorts them while the book is locked: a few milliseconds.
const SEGMENT_KEYS: usize = 32_768;
/// Small segments that are merged into a large one, so that a lookup searches few: also some milliseconds. Large
/// ones are not merged again, because that would double the memory while it lasts.
const MERGED_SEGMENTS: usize = 8;

/// A hash of the route, the principal and the key. Its first half is that of the key alone, so that an operator can
/// look for a key without knowing whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyHash {
    /// Of the key.
    pub(crate) key: u64,
    /// Of the route and the principal.
    pub(crate) scope: u64,
}

impl KeyHash {
    /// As it is written down.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        ((u128::from(self.key) << 64) | u128::from(self.scope)).to_be_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Self { key: (both >> 64) as u64, scope: both as u64 }
    }

    /// Both halves in one.
    fn spread(self) -> u64 {
        self.key ^ self.scope.rotate_left(32)
    }
}

impl std::hash::Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.spread());
    }
}

/// Hands a hash on as it is: what it is used for is hashed already.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Spread once more: numbers of jobs are no hashes.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// A map by something that is a hash, or a number.
pub(crate) type HashedMap<K, V> = HashMap<K, V, BuildHasherDefault<AsItIs>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    hash: KeyHash,
    id: u64,
}

#[derive(Debug)]
struct Segment {
    /// Sorted; under one hash the newest job is the last.
    entries: Vec<Entry>,
    /// Lets all of them pass.
    filter: Filter,
    first_id: u64,
    last_id: u64,
    /// When its newest key was accepted, in Unix milliseconds.
    newest_ms: i64,
    /// When it was last looked through for what is forgotten.
    swept_ms: i64,
}

/// A stretch of jobs whose keys may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The first job.
    pub(crate) first: JobId,
    /// The last one.
    pub(crate) last: JobId,
}

/// The keys of all jobs that are known.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    open: HashedMap<KeyHash, u64>,
    open_newest_ms: i64,
    /// Old to new.
    sealed: Vec<Segment>,
}

impl Keys {
    /// The newest job under `hash`. It may have been forgotten since.
    pub(crate) fn get(&self, hash: KeyHash) -> Option<JobId> {
        if let Some(id) = self.open.get(&hash) {
            return Some(JobId(*id));
        }
        self.sealed.iter().rev().find_map(|segment| segment.get(hash)).map(JobId)
    }

    /// All jobs with this key, of whatever route and principal, in order.
    pub(crate) fn with_key(&self, key: u64) -> Vec<JobId> {
        let open = self.open.iter().filter(|(hash, _)| hash.key == key).map(|(_, id)| *id);
        let mut found: Vec<u64> = open.collect();
        for segment in &self.sealed {
            let from = segment.entries.partition_point(|entry| entry.hash.key < key);
            let same = segment.entries[from..].iter().take_while(|entry| entry.hash.key == key);
            found.extend(same.map(|entry| entry.id));
        }
        found.sort_unstable();
        found.into_iter().map(JobId).collect()
    }

    /// Binds `hash` to a job that was accepted at `created_ms`, whatever it was bound to before.
    pub(crate) fn insert(&mut self, hash: KeyHash, id: JobId, created_ms: i64) {
        self.open.insert(hash, id.0);
        self.open_newest_ms = self.open_newest_ms.max(created_ms);
        if self.open.len() >= SEGMENT_KEYS {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let mut entries: Vec<Entry> = self.open.drain().map(|(hash, id)| Entry { hash, id }).collect();
        entries.sort_unstable();
        // A clock that was ahead for a moment must not make all keys to come look new.
        let newest_ms = std::mem::replace(&mut self.open_newest_ms, i64::MIN);
        self.push(entries, newest_ms);
        let small = |segment: &&Segment| segment.entries.len() <= SEGMENT_KEYS;
        let run = self.sealed.iter().rev().take_while(small).count();
        if run < MERGED_SEGMENTS {
            return;
        }
        let parts: Vec<Segment> = self.sealed.drain(self.sealed.len() - run..).collect();
        let newest_ms = parts.iter().map(|part| part.newest_ms).max().unwrap_or_default();
        let mut merged = Vec::with_capacity(parts.iter().map(|part| part.entries.len()).sum());
        for part in parts {
            merged.extend(part.entries);
        }
        // In place: a sort that is stable takes as much memory again, which is never given back.
        merged.sort_unstable();
        self.push(merged, newest_ms);
    }

    fn push(&mut self, entries: Vec<Entry>, newest_ms: i64) {
        let ids = || entries.iter().map(|entry| entry.id);
        let (Some(first_id), Some(last_id)) = (ids().min(), ids().max()) else { return };
        let filter = Filter::of(&entries);
        self.sealed.push(Segment { entries, filter, first_id, last_id, newest_ms, swept_ms: i64::MIN });
    }

    /// The oldest stretch with keys from before `before_ms` only that was not swept since `swept_ms`.
    pub(crate) fn to_sweep(&self, before_ms: i64, swept_ms: i64) -> Option<Stretch> {
        let due = |s: &&Segment| s.newest_ms < before_ms && s.swept_ms < swept_ms;
        let segment = self.sealed.iter().find(due)?;
        Some(Stretch { first: JobId(segment.first_id), last: JobId(segment.last_id) })
    }

    /// Leaves of a stretch only the keys of jobs in `left`, which is sorted.
    pub(crate) fn sweep(&mut self, stretch: Stretch, left: &[JobId], now_ms: i64) {
        for segment in &mut self.sealed {
            if (segment.first_id, segment.last_id) == (stretch.first.0, stretch.last.0) {
                segment.swept_ms = now_ms;
                let before = segment.entries.len();
                segment.entries.retain(|entry| left.binary_search(&JobId(entry.id)).is_ok());
                if segment.entries.len() < before {
                    segment.entries.shrink_to_fit();
                    segment.filter = Filter::of(&segment.entries);
                }
            }
        }
        self.sealed.retain(|segment| !segment.entries.is_empty());
    }

    /// How many keys are known, those of a job each.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.open.len() + self.sealed.iter().map(|segment| segment.entries.len()).sum::<usize>()
    }
}

impl Segment {
    /// The last entry under `hash`: an interpolation search between `low` and `high`, which halves at least every
    /// other step so that uneven hashes cost no more than a binary search.
    fn get(&self, hash: KeyHash) -> Option<u64> {
        if !self.filter.passes(hash) {
            return None;
        }
        let (mut low, mut high) = (0, self.entries.len());
        let mut guess = true;
        while low < high {
            let (first, last) = (self.entries[low].hash.key, self.entries[high - 1].hash.key);
            if hash.key < first || hash.key > last {
                return None;
            }
            let middle = if guess && last > first {
                let share = u128::from(hash.key - first) * (high - low - 1) as u128;
                low + (share / u128::from(last - first)) as usize
            } else {
                low + (high - low) / 2
            };
            guess = !guess;
            if self.entries[middle].hash <= hash {
                low = middle + 1;
            } else {
                high = middle;
            }
            // `low` is now behind every entry that is known to be at most `hash`.
            if low > 0 && self.entries[low - 1].hash == hash && self.next_differs(low, hash) {
                return Some(self.entries[low - 1].id);
            }
        }
        None
    }

    fn next_differs(&self, next: usize, hash: KeyHash) -> bool {
        self.entries.get(next).is_none_or(|entry| entry.hash != hash)
    }
}

#[cfg(test)]
mod tests;
