//! Agent and gateway: started, and started again when they end.

use api::memory::SPARING;
use rustix::process::{Pid, Signal};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The child that may need much memory.
pub(crate) const GATEWAY: &str = "gateway";

/// A child that lived this long is started again at once; one that did not waits longer each time.
pub(crate) const STEADY_AFTER: Duration = Duration::from_secs(5);
/// The first wait.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The longest wait.
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// How long a child may take to end when it is told to. The gateway's own drain is 30 s.
pub(crate) const END_GRACE: Duration = Duration::from_secs(40);
/// A log that is larger when its process starts is moved aside (one is kept).
pub(crate) const LOG_LIMIT: u64 = 8 * 1024 * 1024;
/// The variable that makes an agent stop at a given point, for tests of recovery. It is given to the first
/// agent only, so that the one after it gets through.
pub(crate) const CRASH_VARIABLE: &str = "MAINSTAY_CRASH_AT";

/// One child, with the thread that waits for it.
#[derive(Debug)]
pub(crate) struct Child {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    pid: Option<u32>,
    restarts: u32,
    ending: bool,
    gone: bool,
}

impl Child {
    pub(crate) fn start(role: &'static str, folder: &Path, logs: PathBuf) -> Self {
        let state = State { pid: None, restarts: 0, ending: false, gone: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let worker = Arc::clone(&shared);
        let folder = folder.to_owned();
        std::thread::Builder::new()
            .name(role.into())
            .stack_size(64 * 1024)
            .spawn(move || worker.run(role, &folder, &logs))
            .expect("the second and third thread of a process can be started");
        Self { shared }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.shared.lock().pid
    }

    pub(crate) fn restarts(&self) -> u32 {
        self.shared.lock().restarts
    }

    /// SIGTERM, then SIGKILL after [`END_GRACE`]. Returns when the child is gone.
    pub(crate) fn end(&self) {
        let mut state = self.shared.lock();
        state.ending = true;
        self.shared.changed.notify_all();
        signal(state.pid, Signal::TERM);
        let deadline = Instant::now() + END_GRACE;
        while !state.gone {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                signal(state.pid, Signal::KILL);
            }
            let wait = if left.is_zero() { END_GRACE } else { left };
            state = self.shared.changed.wait_timeout(state, wait).expect("no holder of the lock panics").0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    fn run(&self, role: &str, folder: &Path, logs: &Path) {
        let mut backoff = Duration::ZERO;
        let mut first = true;
        while self.pause(backoff) {
            let started = Instant::now();
            if let Err(error) = self.one_life(role, folder, logs, first) {
                complain(format_args!("cannot start the {role}: {error}"));
            }
            first = false;
            backoff = next_backoff(backoff, started.elapsed());
            let mut state = self.lock();
            state.pid = None;
            if !state.ending {
                state.restarts += 1;
            }
        }
        let mut state = self.lock();
        state.gone = true;
        self.changed.notify_all();
    }

    /// Waits; false when the child is to end.
    fn pause(&self, backoff: Duration) -> bool {
        let wait = self.changed.wait_timeout_while(self.lock(), backoff, |state| !state.ending);
        !wait.expect("no holder of the lock panics").0.ending
    }

    fn one_life(&self, role: &str, folder: &Path, logs: &Path, first: bool) -> std::io::Result<()> {
        // A child without a log is better than no child.
        let log = open_log(&logs.join(format!("{role}.log"))).or_else(|_| File::create("/dev/null"))?;
        // /proc/self/exe is this very program even when its file has been replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("mainstay").arg(role).arg("--state").arg(folder);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        match role {
            GATEWAY => command.env_remove(SPARING.0),
            _ => command.env(SPARING.0, SPARING.1),
        };
        if !first {
            command.env_remove(CRASH_VARIABLE);
        }
        let mut child = {
            let mut state = self.lock();
            if state.ending {
                return Ok(());
            }
            let child = command.spawn()?;
            state.pid = Some(child.id());
            child
        };
        let status = child.wait()?;
        if !self.lock().ending {
            complain(format_args!("the {role} (pid {}) has ended: {status}", child.id()));
        }
        Ok(())
    }
}

/// How long to wait after a life of `lived`, when the wait before it was `last`.
fn next_backoff(last: Duration, lived: Duration) -> Duration {
    if lived >= STEADY_AFTER { Duration::ZERO } else { (last * 2).clamp(FIRST_BACKOFF, LONGEST_BACKOFF) }
}

fn signal(pid: Option<u32>, signal: Signal) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself just now: then there is nothing to signal. Its number is not used
        // again before our thread has waited for it.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Says something in the keeper's log. `eprintln!` would panic where that is a file on a full disk, and with it
/// the thread that starts a child again.
fn complain(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "keeper: {text}");
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if path.metadata().is_ok_and(|m| m.len() > LOG_LIMIT) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_does_not_live_long_waits_longer_each_time() {
        let short = Duration::from_millis(1);
        let mut waits = vec![Duration::ZERO];
        for _ in 0..9 {
            waits.push(next_backoff(waits[waits.len() - 1], short));
        }
        let millis: Vec<_> = waits.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(next_backoff(LONGEST_BACKOFF, STEADY_AFTER), Duration::ZERO);
    }
}
