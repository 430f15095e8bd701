//! The content of a file: what the running machine sees of it, and what its disk may hold.

use super::dice::Dice;

/// What a disk writes as a whole or not at all, in bytes.
pub(super) const SECTOR: usize = 512;

/// A change of a file's content.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Bytes from an offset on.
    Write(usize, Vec<u8>),
    /// A new length. What is new is zeros.
    Resize(usize),
}

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct Image {
    durable: Vec<u8>,
    /// With all changes.
    pub(super) seen: Vec<u8>,
    unsynced: Vec<Change>,
}

impl Image {
    /// Content that is durable.
    pub(super) fn synced(content: Vec<u8>) -> Self {
        Self { seen: content.clone(), durable: content, unsynced: Vec::new() }
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// What was written since the last sync never gets to the disk, whatever is synced later.
    pub(super) fn give_up(&mut self) {
        self.unsynced.clear();
    }

    /// What may be there after a power cut.
    pub(super) fn survivor(&self, dice: &mut Dice) -> Vec<u8> {
        let count = self.unsynced.len();
        let mut lengths = vec![self.durable.len()];
        lengths.extend(self.unsynced.iter().scan(self.durable.len(), |length, change| {
            *length = change.length_after(*length);
            Some(*length)
        }));
        let longest = lengths.iter().copied().max().unwrap_or_default();

        // How many of the changes had arrived, for each sector by itself and for the length.
        let arrived = Arrived::throw(count, dice);
        let length = lengths[arrived.of_one(dice)];
        let sectors: Vec<_> = (0..longest.div_ceil(SECTOR)).map(|_| arrived.of_one(dice)).collect();

        let garbage = dice.below(2) == 1;
        let mut content = self.durable.clone();
        content.resize(longest, 0);
        if garbage {
            dice.fill(&mut content[self.durable.len()..]);
        }
        for (number, change) in self.unsynced.iter().enumerate() {
            let (start, end) = match change {
                Change::Write(offset, bytes) => (*offset, offset + bytes.len()),
                Change::Resize(length) => (*length, longest),
            };
            let touched = sectors.iter().enumerate().take(end.div_ceil(SECTOR)).skip(start / SECTOR);
            for (sector, _) in touched.filter(|(_, arrived)| number < **arrived) {
                let (from, to) = (start.max(sector * SECTOR), end.min((sector + 1) * SECTOR));
                match change {
                    Change::Write(offset, bytes) => {
                        content[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
                    }
                    Change::Resize(_) => content[from..to].fill(0),
                }
            }
        }
        content.truncate(length);
        content
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                if content.len() < *offset {
                    content.resize(*offset, 0);
                }
                let (over, beyond) = bytes.split_at(bytes.len().min(content.len() - offset));
                content[*offset..offset + over.len()].copy_from_slice(over);
                content.extend_from_slice(beyond);
            }
            Self::Resize(length) => content.resize(*length, 0),
        }
    }

    fn length_after(&self, before: usize) -> usize {
        match self {
            Self::Write(offset, bytes) => before.max(offset + bytes.len()),
            Self::Resize(length) => *length,
        }
    }
}

/// How many of a file's unsynced changes had arrived when the power went.
#[derive(Debug, Clone, Copy)]
enum Arrived {
    /// The same number everywhere: none, all, or up to a moment.
    Just(usize),
    /// So many, and of the next one only some sectors.
    Torn(usize),
    /// Of every sector any number of at most so many: disks write in an order of their own.
    Scattered(usize),
}

impl Arrived {
    fn throw(count: usize, dice: &mut Dice) -> Self {
        match dice.below(5) {
            0 => Self::Just(0),
            1 => Self::Just(count),
            2 => Self::Just(dice.below(count + 1)),
            3 if count > 0 => Self::Torn(dice.below(count)),
            _ => Self::Scattered(count),
        }
    }

    /// The number for one sector, or for the length.
    fn of_one(self, dice: &mut Dice) -> usize {
        match self {
            Self::Just(count) => count,
            Self::Torn(count) => count + dice.below(2),
            Self::Scattered(count) => match dice.below(3) {
                0 => 0,
                1 => count,
                _ => dice.below(count + 1),
            },
        }
    }
}
