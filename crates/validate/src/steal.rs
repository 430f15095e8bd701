//! The share of processor time that a hypervisor gave to others: a machine that is not there half of the
//! time measures its own absence.

/// Processor time since boot, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuTimes {
    steal: u64,
    total: u64,
}

impl CpuTimes {
    /// Reads the text of `/proc/stat` (proc_stat(5)). None when it has no such line or column.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().map_while(|column| column.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; the guest columns behind are part of user and nice.
        let steal = *ticks.get(7)?;
        Some(Self { steal, total: ticks[..8].iter().sum() })
    }

    /// The share of time stolen from `self` to `later`, 0 to 1. None when no time went by.
    pub(crate) fn steal_until(self, later: Self) -> Option<f64> {
        let total = later.total.checked_sub(self.total).filter(|ticks| *ticks > 0)?;
        Some(later.steal.saturating_sub(self.steal) as f64 / total as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_stolen_is_between_two_readings() {
        let before = CpuTimes::parse("cpu  10 0 10 70 0 0 0 10 5 0\ncpu0 1 1 1 1 1 1 1 1\n").unwrap();
        let after = CpuTimes::parse("cpu  20 0 20 120 0 0 0 40 9 0\n").unwrap();
        assert_eq!(before.steal_until(after), Some(0.3));
        assert_eq!(before.steal_until(before), None);
        assert_eq!(after.steal_until(before), None);
    }

    #[test]
    fn a_text_without_the_column_is_none() {
        for text in ["", "cpu  1 2 3", "cpu0 1 2 3 4 5 6 7 8", "cpu  a b"] {
            assert_eq!(CpuTimes::parse(text), None, "{text:?}");
        }
    }
}
