//! A line of jobs that grows and shrinks by cars, so that it takes no more memory than what is in it.

use std::collections::VecDeque;

/// Jobs in one car: 16 KiB.
const CAR: usize = 1_024;

/// It was accepted by this process and never attempted, so nothing of it has to be read but its request.
pub(crate) const FRESH: u64 = 1 << 62;
/// Its outcome is unknown, and it is only asked what became of it.
pub(crate) const PROBE: u64 = 1 << 63;

/// Bits of a job's number: at a million jobs a second they last for decades.
const ID_BITS: u32 = 48;
/// Bits of a route's place, and then two of flags.
pub(crate) const ROUTE_BITS: u32 = 14;

/// A pending job in 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// The number, the place of the route above it, and the flags above that.
    packed: u64,
    /// A hash of its value of order. 0: none.
    pub(crate) order: u64,
}

impl Entry {
    pub(crate) fn new(id: u64, route: u16, order: u64) -> Self {
        let route = u64::from(route) & ((1 << ROUTE_BITS) - 1);
        Self { packed: (id & ((1 << ID_BITS) - 1)) | (route << ID_BITS), order }
    }

    pub(crate) fn id(&self) -> u64 {
        self.packed & ((1 << ID_BITS) - 1)
    }

    /// The place of its route among the lines.
    pub(crate) fn route(&self) -> usize {
        (self.packed >> ID_BITS) as usize & ((1 << ROUTE_BITS) - 1)
    }

    pub(crate) fn has(&self, flag: u64) -> bool {
        self.packed & flag != 0
    }

    pub(crate) fn with(mut self, flag: u64) -> Self {
        self.packed |= flag;
        self
    }

    pub(crate) fn without(mut self, flag: u64) -> Self {
        self.packed &= !flag;
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
    fn a_job_takes_16_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
        let most = Entry::new((1 << 48) - 1, (1 << 14) - 1, u64::MAX);
        assert_eq!(
            (most.id(), most.route(), most.has(FRESH), most.has(PROBE)),
            ((1 << 48) - 1, 16_383, false, false)
        );
        let flags = most.with(FRESH).with(PROBE);
        assert!(flags.has(FRESH) && flags.has(PROBE) && !flags.without(FRESH).has(FRESH));
        assert_eq!((flags.id(), flags.route()), (most.id(), most.route()));
    }

    #[test]
    fn first_in_first_out() {
        let entry = |id| Entry::new(id, 0, 0);
        let mut train = Train::default();
        let (mut pushed, mut popped) = (0, 0);
        for round in 0..5_000_u64 {
            for _ in 0..round % 7 {
                train.push(entry(pushed));
                pushed += 1;
            }
            for _ in 0..round % 6 {
                if let Some(entry) = train.pop() {
                    assert_eq!(entry.id(), popped);
                    popped += 1;
                }
            }
            assert_eq!(train.is_empty(), pushed == popped);
            assert!(train.cars.len() as u64 <= (pushed - popped) / CAR as u64 + 2);
        }
        assert!(pushed > popped + 2 * CAR as u64);
    }
}
