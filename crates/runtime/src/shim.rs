//! The shim: a process of its own for each instance, its parent, and what keeps its exit status while
//! agents come and go. Threads that sleep, no tokio, a few pages of memory.
//!
//! | thread | sleeps in | does |
//! | --- | --- | --- |
//! | the first | `waitid` | reaps; says when the instance, and when all of its family, has ended |
//! | `clock` | a condition, at most a second | kills when a grace is over; keeps the log short |
//! | `door` | `accept` | starts a thread for each connection, at most [`serve::CONNECTIONS`] |
//!
//! Killed itself, the shim leaves the instance running: it is in a process group of its own and its output
//! goes to a file.

/// Says something on standard error. `eprintln!` would panic where that is a file on a full disk, and a shim has
/// to go on.
macro_rules! complain {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

use crate::folder::{ShimFolder, sign_lock};
use crate::process::{self, Family};
use api::PROTOCOL_VERSION;
use api::shim::{Exit, ProcessId, Running, Start, StopSignal};
use model::name::FenceToken;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

mod launch;
mod rotate;
mod serve;

/// How long what an instance leaves behind may go on when the instance ended without having been asked:
/// it gets SIGTERM at once and SIGKILL after this.
pub(crate) const LEFTOVER_GRACE: Duration = Duration::from_secs(2);

/// How often SIGKILL is repeated while some of the family is left: a process may have been born just when
/// the others were killed.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// How often the size of the log is looked at.
const LOG_LOOK: Duration = Duration::from_secs(1);

/// How long the answers of the last connections may take before the shim ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The stack of a thread. Only pages that are touched cost memory.
const STACK: usize = 256 * 1024;

/// The whole life of a shim in `folder` (`run/shims/INSTANCE`, absolute): reads `start.json`, runs the
/// instance, returns when nothing of it is left. To be called first thing in a process of its own, with a
/// single thread, whose standard input is the locked file `lock` of the folder; when it is not, the lock is
/// taken here. Complaints go to standard error.
///
/// The exit code is a success also when the instance failed: that stands in `exit.json`. It is a failure
/// when the shim itself could not do its work.
pub fn shim(folder: &Path) -> ExitCode {
    match live(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("the shim in {} failed: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// Why a shim could not do its work.
#[derive(Debug, thiserror::Error)]
enum ShimError {
    #[error("the folder cannot be used: {0}")]
    Folder(io::Error),
    #[error("another shim is at work here")]
    Taken,
    #[error("the lock cannot be taken: {0}")]
    Lock(io::Error),
    #[error("no session of its own: {0}")]
    Session(Errno),
    #[error("it cannot know itself in /proc: {0}")]
    Identity(io::Error),
    #[error("the socket cannot be opened: {0}")]
    Socket(io::Error),
    #[error("how the instance ended cannot be written: {0}")]
    Exit(io::Error),
}

fn live(path: &Path) -> Result<(), ShimError> {
    // Socket names are limited to 107 bytes (unix(7)), folder names are not: from here on `sock` is enough.
    std::env::set_current_dir(path).map_err(ShimError::Folder)?;
    let folder = ShimFolder::new(path.to_owned());
    let lock = take_lock(&folder)?;
    own_session().map_err(ShimError::Session)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(ShimError::Session)?;
    let own = process::identify(std::process::id()).map_err(ShimError::Identity)?;
    folder.clean().map_err(ShimError::Folder)?;
    sign_lock(&lock, &own).map_err(ShimError::Lock)?;

    let start = match folder.start() {
        Ok(Some(start)) if start.v <= PROTOCOL_VERSION => start,
        Ok(Some(start)) => return refuse(&folder, format!("start.json has version {}", start.v)),
        Ok(None) => return refuse(&folder, "there is no start.json".to_owned()),
        Err(cause) => return refuse(&folder, cause.to_string()),
    };
    let door = open_door().map_err(ShimError::Socket)?;
    let leader = match launch::launch(&start) {
        Ok(pid) => pid,
        Err(reason) => return refuse(&folder, reason),
    };
    let leader_pid = Pid::from_raw(leader.cast_signed()).expect("the number of a child is positive");
    let identity = match process::identify(leader) {
        Ok(identity) => identity,
        Err(cause) => return give_up(&folder, own, leader_pid, None, cause),
    };
    let running =
        Running { v: PROTOCOL_VERSION, shim: own.clone(), process: identity.clone(), port: start.port };
    if let Err(cause) = folder.write_running(&running) {
        return give_up(&folder, own, leader_pid, Some(identity), cause);
    }
    let family = Family { shim: own, leader: Some(identity) };
    let shared = Arc::new(Shared::new(folder, family, leader_pid, &start));
    look_after(&shared, door, start.log)
}

/// Leaves the session of whoever started it, so that no terminal's end reaches the instance, and so that the
/// instance's processes can be told by their session.
fn own_session() -> Result<(), Errno> {
    match rustix::process::setsid() {
        // It leads one already: whoever started it has seen to it.
        Err(_) if rustix::process::getsid(None)? == rustix::process::getpid() => Ok(()),
        other => other.map(drop),
    }
}

/// The socket, for this user alone. Its folder is closed to others from the beginning.
fn open_door() -> io::Result<UnixListener> {
    let door = UnixListener::bind("sock")?;
    std::fs::set_permissions("sock", Permissions::from_mode(0o600))?;
    Ok(door)
}

/// The lock of the folder: what standard input is already, or one of its own.
fn take_lock(folder: &ShimFolder) -> Result<File, ShimError> {
    let file = folder.open_lock().map_err(ShimError::Lock)?;
    let named = file.metadata().map_err(ShimError::Lock)?;
    let input: OwnedFd = io::stdin().as_fd().try_clone_to_owned().map_err(ShimError::Lock)?;
    let input = File::from(input);
    if input.metadata().is_ok_and(|meta| (meta.dev(), meta.ino()) == (named.dev(), named.ino())) {
        // Locks belong to the open file, which is the one the driver locked.
        return Ok(input);
    }
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ShimError::Taken),
        Err(std::fs::TryLockError::Error(cause)) => Err(ShimError::Lock(cause)),
    }
}

/// Records that the instance could not be started.
fn refuse(folder: &ShimFolder, reason: String) -> Result<(), ShimError> {
    let exit =
        Exit { v: PROTOCOL_VERSION, code: None, signal: None, not_started: Some(reason), asked: false };
    let written = folder.write_exit(&exit).map_err(ShimError::Exit);
    // Goes where the driver looks when there is no exit.json.
    written.inspect_err(|_| complain!("{}", exit.not_started.unwrap_or_default()))
}

/// An instance that nobody can be told of must not run: it would hold its port and nobody would stop it.
fn give_up(
    folder: &ShimFolder,
    shim: ProcessId,
    leader_pid: Pid,
    leader: Option<ProcessId>,
    cause: io::Error,
) -> Result<(), ShimError> {
    let family = Family { shim, leader };
    // It has just been started and has not been waited for, so the number is still its own.
    let _ = rustix::process::kill_process_group(leader_pid, Signal::KILL);
    loop {
        family.signal(Signal::KILL, |_| true);
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(KILL_AGAIN),
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    refuse(folder, format!("it was stopped again because running.json could not be written: {cause}"))
}

/// What the threads of a shim have in common.
struct Shared {
    folder: ShimFolder,
    family: Family,
    leader: Pid,
    stop_signal: Signal,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How the instance's first process ended.
    exit: Option<Exit>,
    /// Nothing of the family is left.
    gone: bool,
    asked: bool,
    fence: FenceToken,
    /// When whatever is left is killed.
    kill_at: Option<Instant>,
    connections: usize,
}

/// What is sent to ask an instance to end.
pub(crate) fn signal(stop: StopSignal) -> Signal {
    match stop {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
    }
}

impl Shared {
    fn new(folder: ShimFolder, family: Family, leader: Pid, start: &Start) -> Self {
        let fence = start.fence;
        let state = State { exit: None, gone: false, asked: false, fence, kill_at: None, connections: 0 };
        let stop_signal = signal(start.stop_signal);
        Self { folder, family, leader, stop_signal, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked has left nothing half-done: every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Asks the instance to end, and sees to it that it does. Asking again never repeats the signal, which
    /// many servers take for "at once"; it can only shorten the grace.
    fn stop(&self, state: &mut State, grace: Duration) {
        // A grace longer than clocks can tell is for ever.
        if let Some(kill_at) = Instant::now().checked_add(grace) {
            state.kill_at = Some(state.kill_at.map_or(kill_at, |before| before.min(kill_at)));
        }
        if state.exit.is_none() && !state.asked {
            // Not reaped yet (that happens under the same mutex), so the number is still its own.
            let _ = rustix::process::kill_process_group(self.leader, self.stop_signal);
        }
        state.asked = true;
        self.changed.notify_all();
    }

    /// The first process has ended: what it left behind is told to end too.
    fn leader_ended(&self, state: &mut State, status: WaitStatus) {
        state.exit = Some(Exit {
            v: PROTOCOL_VERSION,
            code: status.exit_status(),
            signal: status.terminating_signal(),
            not_started: None,
            asked: state.asked,
        });
        let group = self.leader.as_raw_pid().cast_unsigned();
        // Who was asked before as part of the group is not asked again.
        self.family.signal(Signal::TERM, |member| !state.asked || member.group != group);
        state.kill_at = state.kill_at.or(Some(Instant::now() + LEFTOVER_GRACE));
    }
}

fn look_after(shared: &Arc<Shared>, door: UnixListener, log: PathBuf) -> Result<(), ShimError> {
    let clock = Arc::clone(shared);
    let ticking = spawn("clock", move || tick(&clock, &log));
    let answering = Arc::clone(shared);
    let listening = spawn("door", move || serve::serve(&answering, &door));
    for failed in [ticking.err(), listening.err()].into_iter().flatten() {
        // Without its threads the shim still keeps the exit status, which nobody else can.
        complain!("a thread could not be started: {failed}");
    }
    let written = reap(shared);
    let mut state = shared.state();
    let until = Instant::now() + LAST_ANSWERS;
    while state.connections > 0 {
        let Some(left) = until.checked_duration_since(Instant::now()) else { break };
        state = shared.wait(state, left);
    }
    // The other threads end with the process; none holds anything but its own socket.
    let _ = std::fs::remove_file("sock");
    match (written, &state.exit) {
        (Err(_), Some(exit)) => shared.folder.write_exit(exit).map_err(ShimError::Exit),
        (written, _) => written.map_err(ShimError::Exit),
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work).map(drop)
}

/// Reaps until no child is left. As the shim is the subreaper of all it started, that is: until nothing of
/// the family is left.
fn reap(shared: &Shared) -> io::Result<()> {
    let mut written = Ok(());
    loop {
        // Waits without reaping, so that reaping can happen under the mutex: a number is free for another
        // process from the moment it is reaped.
        match rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => break,
        }
        let mut state = shared.state();
        let before = state.exit.is_some();
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == shared.leader {
                shared.leader_ended(&mut state, status);
            }
        }
        if let (false, Some(exit)) = (before, &state.exit) {
            // Before anybody is told, so that who is told finds it.
            written = shared.folder.write_exit(exit);
            if let Err(cause) = &written {
                complain!("exit.json could not be written: {cause}");
            }
        }
        shared.changed.notify_all();
    }
    shared.state().gone = true;
    shared.changed.notify_all();
    written
}

/// Kills when a grace is over, and keeps the log short.
fn tick(shared: &Shared, log: &Path) {
    let mut look_at = Instant::now() + LOG_LOOK;
    let mut state = shared.state();
    while !state.gone {
        let now = Instant::now();
        if state.kill_at.is_some_and(|at| at <= now) {
            shared.family.signal(Signal::KILL, |_| true);
            state.kill_at = Some(now + KILL_AGAIN);
        }
        if look_at <= now {
            look_at = now + LOG_LOOK;
            drop(state);
            if let Err(cause) = rotate::rotate(log) {
                complain!("{} could not be shortened: {cause}", log.display());
            }
            state = shared.state();
            continue;
        }
        let next = state.kill_at.map_or(look_at, |at| at.min(look_at));
        state = shared.wait(state, next.saturating_duration_since(now));
    }
}
