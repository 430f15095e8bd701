//! A line of jobs that grows and shrinks by cars, so that it takes no more memory than what is in it.

use std::collections::VecDeque;

/// Jobs in one car: 24 KiB.
const CAR: usize = 1_024;

/// It was accepted by this process and never attempted, so nothing of it has to be read but its request.
pub(crate) const FRESH: u16 = 1;
/// Its outcome is unknown, and it is only asked what became of it.
pub(crate) const PROBE: u16 = 2;

/// A pending job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    /// A hash of its value of order. 0: none.
    pub(crate) order: u64,
    /// Bytes of its encoded request.
    pub(crate) bytes: u32,
    pub(crate) route: u16,
    pub(crate) flags: u16,
}

impl Entry {
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn with(mut self, flag: u16) -> Self {
        self.flags |= flag;
        self
    }

    pub(crate) fn without(mut self, flag: u16) -> Self {
        self.flags &= !flag;
        self
    }
}

/// First in, first out.
#[derive(Debug, Default)]
pub(crate) struct Train {
    cars: VecDeque<Vec<Entry>>,
    /// How many of the first car are gone.
    gone: usize,
}

impl Train {
    pub(crate) fn push(&mut self, entry: Entry) {
        match self.cars.back_mut() {
            Some(car) if car.len() < CAR => car.push(entry),
            _ => {
                let mut car = Vec::with_capacity(CAR);
                car.push(entry);
                self.cars.push_back(car);
            }
        }
    }

    pub(crate) fn first(&self) -> Option<Entry> {
        self.cars.front()?.get(self.gone).copied()
    }

    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let first = self.first()?;
        self.gone += 1;
        if self.cars.front().is_some_and(|car| self.gone >= car.len()) {
            self.cars.pop_front();
            self.gone = 0;
        }
        Some(first)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cars.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_takes_24_bytes() {
        assert_eq!(size_of::<Entry>(), 24);
    }

    #[test]
    fn first_in_first_out() {
        let entry = |id| Entry { id, order: 0, bytes: 0, route: 0, flags: 0 };
        let mut train = Train::default();
        let (mut pushed, mut popped) = (0, 0);
        for round in 0..5_000_u64 {
            for _ in 0..round % 7 {
                train.push(entry(pushed));
                pushed += 1;
            }
            for _ in 0..round % 6 {
                if let Some(entry) = train.pop() {
                    assert_eq!(entry.id, popped);
                    popped += 1;
                }
            }
            assert_eq!(train.is_empty(), pushed == popped);
            assert!(train.cars.len() as u64 <= (pushed - popped) / CAR as u64 + 2);
        }
        assert!(pushed > popped + 2 * CAR as u64);
    }
}
