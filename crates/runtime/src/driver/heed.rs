//! Signals that whoever started this process has it ignore.
//!
//! A shell has what it starts in the background ignore SIGINT and SIGQUIT, and `nohup` SIGHUP (POSIX.1-2024, XCU 2.12).
//! What is ignored stays so in every process that is started from there: a service whose `stop_signal` is INT would never
//! hear that it is to end, and be killed each time. What has a handler begins with the default in what is started.

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// Those that a service may be asked to end by, and that may come ignored.
const HEEDED: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// From now on these signals do nothing to this process, if they did nothing before, and are as usual in what it starts.
/// Nothing else changes.
pub(super) fn not_ignored_in_children() {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let Some(mask) = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else { return };
    for heeded in HEEDED.iter().filter(|heeded| mask >> (heeded.as_raw() - 1) & 1 == 1) {
        // The handler stays when nobody listens. An error leaves it as it was.
        drop(signal(SignalKind::from_raw(heeded.as_raw())));
    }
}
