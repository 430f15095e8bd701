//! What the kernel says of processes: who is who, who belongs together, who listens where (proc(5)).
//!
//! A process number is used again once its process is gone, so nothing is signalled by number alone: a
//! pidfd is opened first, then the start time is compared, and the signal goes through the pidfd.

use api::shim::ProcessId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

mod listening;

pub use listening::{Look, listening_ports, look};

pub(crate) use listening::reaches_itself;

/// The random id of this boot of the machine.
///
/// # Errors
/// When `/proc` is not there or not readable.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// When a process started, in clock ticks since boot (proc(5), `stat` field 22).
///
/// # Errors
/// `NotFound` when there is no such process.
pub fn start_ticks(pid: u32) -> io::Result<u64> {
    stat(pid).map(|stat| stat.start_ticks)
}

/// The process that has this number now, told apart from any later one.
///
/// # Errors
/// `NotFound` when there is no such process.
pub fn identify(pid: u32) -> io::Result<ProcessId> {
    Ok(ProcessId { pid, start_ticks: start_ticks(pid)?, boot_id: boot_id()? })
}

/// A pidfd of exactly this process; None when it is gone. A process that has ended and waits to be reaped
/// may still be opened: its pidfd is readable.
pub fn open(id: &ProcessId) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(id.pid).ok()?)?;
    let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Compared after the opening: from here on the pidfd cannot come to mean another process.
    let same = boot_id().ok()? == id.boot_id && start_ticks(id.pid).ok()? == id.start_ticks;
    same.then_some(fd)
}

/// Whether exactly this process runs. One that has ended and waits to be reaped does not.
pub fn alive(id: &ProcessId) -> bool {
    open(id).is_some_and(|fd| !has_ended(&fd))
}

/// Whether the process behind a pidfd has ended with all its threads.
pub(crate) fn has_ended(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// What is used of `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: u32,
    group: u32,
    session: u32,
    threads: u64,
    start_ticks: u64,
    /// Resident pages.
    resident: u64,
}

impl Stat {
    /// Ended, and waiting to be reaped. A first thread that ended before the others looks alike but for
    /// the number of threads.
    fn is_over(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as in proc(5)"))
    })
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The name in parentheses may itself hold spaces and parentheses: only the last one closes it.
    let close = text.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&text[close + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // `fields[0]` is field 3 of proc(5).
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let pid = |field: usize| number(field).and_then(|n| u32::try_from(n).ok());
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: pid(4)?,
        group: pid(5)?,
        session: pid(6)?,
        threads: number(20)?,
        start_ticks: number(22)?,
        resident: number(24)?,
    })
}

/// Every process there is. Those that end while the list is made may be missing.
fn all() -> io::Result<BTreeMap<u32, Stat>> {
    Ok(numbers()?.filter_map(|pid| Some((pid, stat(pid).ok()?))).collect())
}

/// The number of every process there is.
fn numbers() -> io::Result<impl Iterator<Item = u32>> {
    let folder = std::fs::read_dir("/proc")?;
    Ok(folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()))
}

/// Every process whose working directory is this folder, by number. Processes that do not let themselves be looked
/// into are left out. Blocking, but short.
///
/// # Errors
/// When the folder or `/proc` cannot be read.
pub(crate) fn working_in(folder: &Path) -> io::Result<Vec<u32>> {
    let wanted = std::fs::metadata(folder)?;
    let there = |pid: &u32| {
        let cwd = std::fs::metadata(format!("/proc/{pid}/cwd"));
        cwd.is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (wanted.dev(), wanted.ino()))
    };
    Ok(numbers()?.filter(there).collect())
}

/// The resident memory of each of these families, in bytes: the sum over all processes of each, as in proc(5),
/// `stat` field 24. A page that several processes share counts once for each of them. A family of which nothing is
/// left has 0.
///
/// Blocking, but short: the table of processes is read once, however many families are asked for.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn resident_bytes(families: &[Family]) -> io::Result<Vec<u64>> {
    let (all, boot) = (all()?, boot_id()?);
    let page = u64::try_from(rustix::param::page_size()).expect("a page has fewer than 2^64 bytes");
    let of = |family: &Family| {
        let members = family.among(&all, &boot);
        members.iter().map(|member| member.resident.saturating_mul(page)).sum()
    };
    Ok(families.iter().map(of).collect())
}

/// All processes of one instance: its process group, its shim's session, and the descendants of both.
///
/// The shim makes a session of its own and is the subreaper of what it starts (prctl(2)), so while it
/// lives even a process that has left group and session is found below it. Once it is dead, one that has
/// left both *and* lost its parents is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The shim, whose number is the session's.
    pub shim: ProcessId,
    /// The instance's first process, whose number is the group's. None: it is not known whether there is
    /// one, only the session counts.
    pub leader: Option<ProcessId>,
}

/// One process of a [`Family`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub pid: u32,
    /// Its process group.
    pub group: u32,
    start_ticks: u64,
    resident: u64,
}

impl Family {
    /// Who lives of it, the shim not counted. Empty on another boot.
    pub fn members(&self) -> Vec<Member> {
        match (all(), boot_id()) {
            (Ok(all), Ok(boot)) => self.among(&all, &boot),
            _ => Vec::new(),
        }
    }

    fn among(&self, all: &BTreeMap<u32, Stat>, boot: &str) -> Vec<Member> {
        if boot != self.shim.boot_id {
            return Vec::new();
        }
        let mut family = belonging(all, &self.shim, self.leader.as_ref());
        family.retain(|member| member.pid != std::process::id());
        family
    }

    /// Sends a signal to every living member that `wanted` accepts, and says how many there were. A member
    /// that is born meanwhile may be missed: whoever wants none left asks again until none is.
    pub fn signal(&self, signal: Signal, wanted: impl Fn(&Member) -> bool) -> usize {
        let members = self.members();
        for member in members.iter().filter(|member| wanted(member)) {
            let id = ProcessId {
                pid: member.pid,
                start_ticks: member.start_ticks,
                boot_id: self.shim.boot_id.clone(),
            };
            if let Some(fd) = open(&id) {
                // It may have ended since, which is what was wanted.
                let _ = pidfd_send_signal(fd.as_fd(), signal);
            }
        }
        members.len()
    }
}

fn belonging(all: &BTreeMap<u32, Stat>, shim: &ProcessId, leader: Option<&ProcessId>) -> Vec<Member> {
    // While anything is left of a session or group, its number is not given to a new process (the kernel
    // keeps the number taken). So a process that has the number but not the start time proves that the
    // old session or group is empty, and what now belongs to the number is somebody else's.
    let ours = |id: &ProcessId| all.get(&id.pid).is_none_or(|stat| stat.start_ticks == id.start_ticks);
    let session = ours(shim).then_some(shim.pid);
    let group = leader.filter(|leader| ours(leader)).map(|leader| leader.pid);
    let older = |stat: &Stat| stat.start_ticks < shim.start_ticks;
    let belongs = |pid: u32, stat: &Stat| {
        (Some(stat.session) == session || Some(stat.group) == group || Some(pid) == group) && !older(stat)
    };
    let descends = |pid: u32| {
        let mut at = pid;
        // No chain of parents is longer than there are processes; a list made while processes come and go
        // could otherwise hold a circle.
        for _ in 0..all.len() {
            let Some(stat) = all.get(&at) else { return false };
            if older(stat) {
                return false;
            }
            if Some(at) == session || belongs(at, stat) {
                return true;
            }
            at = stat.parent;
        }
        false
    };
    all.iter()
        .filter(|(pid, stat)| **pid != shim.pid && !stat.is_over() && descends(**pid))
        .map(|(pid, stat)| Member {
            pid: *pid,
            group: stat.group,
            start_ticks: stat.start_ticks,
            resident: stat.resident,
        })
        .collect()
}

#[cfg(test)]
mod tests;
