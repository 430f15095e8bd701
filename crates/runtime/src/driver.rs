//! Starts, adopts and stops instances, each through a shim of its own.

use crate::folder::ShimFolder;
use crate::process::{self, Family};
use api::PROTOCOL_VERSION;
use api::folder::StateFolder;
use api::memory::SPARING;
use api::shim::{Exit, Running, Start};
use model::name::{ComponentName, FenceToken, InstanceId, StampId};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;

mod heed;
mod hook;
mod instance;
mod probe;
mod ready;

pub use hook::{HOOK_GRACE, HOOK_LINES, HookEnd, HookError, UNSEEN_RUNS};
pub use instance::{Instance, StopError, describe_exit};
pub use probe::alive;
pub use ready::{ELSEWHERE_AFTER, LastSeen, NotReady, PROBE_TIMEOUT};

use instance::Began;

/// How long a shim may take to say that its instance runs. It reads one file, starts one process and syncs
/// another file to disk.
pub const START_DEADLINE: Duration = Duration::from_secs(10);

/// How often a file is looked for that another process is about to write.
const FILE_LOOK: Duration = Duration::from_millis(5);

/// How long to wait for the shim of an earlier run in the same folder, which may still be ending what its
/// instance left behind.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How long processes may take to vanish after SIGKILL. Longer only in an uninterruptible sleep, usually on
/// a disk that does not answer.
pub const KILL_WAIT: Duration = Duration::from_secs(10);

/// How long an instance that nobody wants may take to end by itself.
pub const SWEEP_GRACE: Duration = Duration::from_secs(10);

/// Starts, adopts and stops the instances of one environment.
#[derive(Debug, Clone)]
pub struct Driver {
    folder: StateFolder,
    fence: FenceToken,
    shim: ShimCommand,
}

#[derive(Debug, Clone)]
enum ShimCommand {
    /// This very program, also after its file was replaced by a newer one.
    Own,
    Other(Vec<OsString>),
}

/// Why an instance does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another shim is at work for this instance.
    #[error("another shim is at work for {instance}")]
    Busy {
        /// The instance.
        instance: InstanceId,
    },
    /// The instance runs already, and has lost its shim.
    #[error("{instance} runs already, as process {pid}")]
    Runs {
        /// The instance.
        instance: InstanceId,
        /// Its process.
        pid: u32,
    },
    /// Its command could not be executed.
    #[error("{reason}")]
    NotStarted {
        /// Why, with a hint where there is one.
        reason: String,
    },
    /// The shim ended or kept silent.
    #[error("the shim of {instance} {what}")]
    Shim {
        /// The instance.
        instance: InstanceId,
        /// What it did, and what it complained of.
        what: String,
    },
    /// The state folder or the process table refused. The system's words are part of the text.
    #[error("{instance} cannot be started: {cause}")]
    Machine {
        /// The instance.
        instance: InstanceId,
        /// What the operating system said.
        cause: io::Error,
    },
}

/// What is left of an instance that an earlier agent started.
#[derive(Debug, Clone)]
pub enum Adopted {
    /// It runs, with its shim or without.
    Running(Instance),
    /// It has ended. Without code and signal when nobody saw how.
    Ended(Exit),
    /// There is nothing of it: never started, or on another boot.
    Gone,
}

/// What [`Driver::sweep`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sweep {
    /// Instances that are stopped now and whose folders are gone.
    pub removed: Vec<InstanceId>,
    /// Instances that could not be removed, with the reason. Sweeping again may help.
    pub left: Vec<(InstanceId, String)>,
}

/// Why nothing could be swept.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read: {cause}", .path.display())]
pub struct SweepError {
    /// The folder of all shims.
    pub path: PathBuf,
    /// What the operating system said.
    pub cause: io::Error,
}

impl Driver {
    /// A driver for one environment, speaking with the agent's token. Nothing is touched yet.
    pub fn new(folder: StateFolder, fence: FenceToken) -> Self {
        Self { folder, fence, shim: ShimCommand::Own }
    }

    /// The same with another program as the shim; the instance's folder is added as its last argument. The
    /// first word is the program.
    #[must_use]
    pub fn with_shim_command(mut self, command: Vec<OsString>) -> Self {
        self.shim = ShimCommand::Other(command);
        self
    }

    /// Starts an instance and waits until it runs, which does not mean that it is ready
    /// ([`Instance::ready`]). Version and fence of `start` are set to this driver's own; its paths must be
    /// absolute, because the shim has another working directory.
    ///
    /// Not cancel-safe: a start that is dropped may or may not happen; [`Driver::adopt`] says.
    ///
    /// # Errors
    /// See [`StartError`]; the instance does not run then, except for [`StartError::Runs`] and
    /// [`StartError::Busy`]. An instance that ends right away is no error here: [`Instance::ended`] answers
    /// at once.
    pub async fn start(&self, start: &Start) -> Result<Instance, StartError> {
        let id = start.instance.clone();
        let machine = |cause| StartError::Machine { instance: id.clone(), cause };
        let folder = ShimFolder::new(self.folder.shim(&id));
        let lock = self.take_folder(&folder).await.map_err(machine)?;
        let lock = lock.ok_or_else(|| StartError::Busy { instance: id.clone() })?;
        match clear(&folder).await.map_err(machine)? {
            Clear::Empty => {}
            Clear::Runs(running) => {
                return Err(StartError::Runs { instance: id, pid: running.process.pid });
            }
        }
        let start = Start { v: PROTOCOL_VERSION, fence: self.fence, ..start.clone() };
        let written = {
            let (folder, start) = (folder.clone(), start.clone());
            blocking(move || folder.clean().and_then(|()| folder.write_start(&start))).await
        };
        written.map_err(machine)?;
        let began = Began::now(&start.log);
        let shim = self.spawn(&folder, lock).map_err(machine)?;
        let running = self.await_running(&folder, &id, shim).await?;
        Instance::new(id.clone(), folder, running, self.fence, began).map_err(machine)
    }

    /// Finds out what became of an instance that an earlier agent started. Where that agent died in the
    /// middle of starting it, waits for the shim's word, up to [`START_DEADLINE`].
    ///
    /// What an instance leaves behind that lost its shim before it could say what it had started is killed.
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the state folder or `/proc` cannot be read, or a shim is at work and keeps silent.
    pub async fn adopt(&self, id: &InstanceId) -> io::Result<Adopted> {
        let folder = ShimFolder::new(self.folder.shim(id));
        if !folder.path().is_dir() {
            return Ok(Adopted::Gone);
        }
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(exit) = folder.exit()? {
                return Ok(Adopted::Ended(exit));
            }
            if let Some(running) = folder.running()? {
                return self.adopt_running(id, folder, running).await;
            }
            // The lock tells a shim that has not spoken yet from one that never will.
            if let Some(_lock) = folder.try_lock()? {
                if folder.exit()?.is_some() || folder.running()?.is_some() {
                    continue;
                }
                clear(&folder).await?;
                return Ok(Adopted::Gone);
            }
            if Instant::now() >= deadline {
                let text = format!("the shim of {id} has said nothing for {START_DEADLINE:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            tokio::time::sleep(FILE_LOOK).await;
        }
    }

    async fn adopt_running(
        &self,
        id: &InstanceId,
        folder: ShimFolder,
        running: Running,
    ) -> io::Result<Adopted> {
        if process::boot_id()? != running.process.boot_id {
            return Ok(Adopted::Gone);
        }
        let began = Began::unknown(folder.start()?.map(|start| start.log));
        let instance = Instance::new(id.clone(), folder, running, self.fence, began)?;
        if instance.runs() {
            return Ok(Adopted::Running(instance));
        }
        // Between its end and the shim's record of it there is a moment.
        Ok(Adopted::Ended(instance.ended().await))
    }

    /// Stops every instance of this environment that is not in `keep`, with [`SWEEP_GRACE`], all at the
    /// same time, and removes their folders. Idempotent; dropped half-way it can be called again.
    ///
    /// # Errors
    /// When the folder of all shims cannot be read. What goes wrong with one instance is in
    /// [`Sweep::left`].
    pub async fn sweep(&self, keep: &BTreeSet<InstanceId>) -> Result<Sweep, SweepError> {
        let path = self.folder.run().join("shims");
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Sweep::default()),
            Err(cause) => return Err(SweepError { path, cause }),
        };
        let mut tasks = JoinSet::new();
        for entry in entries {
            let entry = entry.map_err(|cause| SweepError { path: path.clone(), cause })?;
            let Some(id) = entry.file_name().to_str().and_then(parse_instance) else {
                tracing::warn!(path = %entry.path().display(), "not the folder of an instance; left alone");
                continue;
            };
            if !keep.contains(&id) {
                let driver = self.clone();
                tasks.spawn(async move {
                    let removed = driver.remove(&id).await;
                    (id, removed)
                });
            }
        }
        let mut sweep = Sweep::default();
        while let Some(joined) = tasks.join_next().await {
            match joined.expect("removing an instance does not panic and is not aborted") {
                (id, Ok(())) => sweep.removed.push(id),
                (id, Err(reason)) => sweep.left.push((id, reason)),
            }
        }
        sweep.removed.sort();
        sweep.left.sort();
        Ok(sweep)
    }

    async fn remove(&self, id: &InstanceId) -> Result<(), String> {
        let text = |cause: io::Error| cause.to_string();
        if let Adopted::Running(instance) = self.adopt(id).await.map_err(text)? {
            instance.stop(SWEEP_GRACE).await.map_err(|error| error.to_string())?;
        }
        let folder = ShimFolder::new(self.folder.shim(id));
        let lock = self.take_folder(&folder).await.map_err(text)?;
        let _lock = lock.ok_or("its shim is still at work")?;
        match clear(&folder).await.map_err(text)? {
            Clear::Empty => std::fs::remove_dir_all(folder.path()).map_err(text),
            Clear::Runs(running) => Err(format!("process {} still runs", running.process.pid)),
        }
    }

    /// The locked folder; None if a shim holds it whose instance runs, or holds on to it for [`LOCK_WAIT`].
    async fn take_folder(&self, folder: &ShimFolder) -> io::Result<Option<File>> {
        folder.create()?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            if let Some(lock) = folder.try_lock()? {
                return Ok(Some(lock));
            }
            let runs = folder.running()?.is_some_and(|running| process::alive(&running.process));
            if runs || Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(FILE_LOOK).await;
        }
    }

    /// Starts the shim with the locked file as its standard input, so that the lock is never free between
    /// this process and that one.
    fn spawn(&self, folder: &ShimFolder, lock: File) -> io::Result<Child> {
        let mut command = match &self.shim {
            ShimCommand::Own => {
                let mut command = Command::new("/proc/self/exe");
                command.arg0("mainstay").arg("shim");
                command
            }
            ShimCommand::Other(words) => {
                let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
        };
        let complaints = folder.open_complaints()?;
        heed::not_ignored_in_children();
        // Dropped, the child is not killed, and tokio reaps it when it ends.
        command
            .arg(folder.path())
            .env_clear()
            .env(SPARING.0, SPARING.1)
            .stdin(Stdio::from(lock))
            .stdout(Stdio::null())
            .stderr(Stdio::from(complaints))
            .spawn()
    }

    async fn await_running(
        &self,
        folder: &ShimFolder,
        id: &InstanceId,
        mut shim: Child,
    ) -> Result<Running, StartError> {
        let machine = |cause| StartError::Machine { instance: id.clone(), cause };
        let failed = |what: String| StartError::Shim { instance: id.clone(), what };
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            // Asked before the files are looked at, so that a shim that has ended has written all it will.
            let ended = shim.try_wait().map_err(machine)?;
            if let Some(running) = folder.running().map_err(machine)? {
                return Ok(running);
            }
            if let Some(reason) = folder.exit().map_err(machine)?.and_then(|exit| exit.not_started) {
                return Err(StartError::NotStarted { reason });
            }
            if let Some(status) = ended {
                return Err(failed(complaint(folder, status)));
            }
            if Instant::now() >= deadline {
                // It must not start the instance later, when nobody expects it any more.
                let _ = shim.kill().await;
                clear(folder).await.map_err(machine)?;
                return Err(failed(format!("did not say within {START_DEADLINE:?} that it runs")));
            }
            tokio::time::sleep(FILE_LOOK).await;
        }
    }
}

/// Runs what may wait for the disk on another thread. Dropped, it goes on there.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("the work does not panic and is not aborted")
}

fn complaint(folder: &ShimFolder, status: ExitStatus) -> String {
    let said = folder.complaints().unwrap_or_default();
    format!("ended too early ({status}): {}", String::from_utf8_lossy(&said).trim())
}

/// Whether a locked folder is free for another run.
enum Clear {
    /// Nothing of an earlier instance is left.
    Empty,
    /// It runs, without a shim: its shim would hold the lock.
    Runs(Running),
}

/// Ends what an earlier run has left behind in a folder whose lock is held here: what an instance leaves
/// that lost its shim, or what a shim started that died before it could say so.
async fn clear(folder: &ShimFolder) -> io::Result<Clear> {
    let running = folder.running()?;
    if let Some(running) = &running
        && process::alive(&running.process)
    {
        return Ok(Clear::Runs(running.clone()));
    }
    let shim = running.as_ref().map(|running| running.shim.clone()).or_else(|| folder.last_shim());
    let Some(shim) = shim else { return Ok(Clear::Empty) };
    let family = Family { shim, leader: running.map(|running| running.process) };
    if kill(&family).await { Ok(Clear::Empty) } else { Err(unkillable(&family)) }
}

fn unkillable(family: &Family) -> io::Error {
    let pids: Vec<String> = family.members().iter().map(|member| member.pid.to_string()).collect();
    let text = format!("processes {} did not end after SIGKILL within {KILL_WAIT:?}", pids.join(", "));
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Kills a family until none of it is left; false if some is left after [`KILL_WAIT`].
async fn kill(family: &Family) -> bool {
    let deadline = Instant::now() + KILL_WAIT;
    loop {
        let all = family.clone();
        if blocking(move || all.signal(Signal::KILL, |_| true)).await == 0 {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(FILE_LOOK).await;
    }
}

/// Reads a folder's name as [`InstanceId`] writes it: `s4-api-0`. A component's name may hold dashes, the
/// numbers around it may not.
fn parse_instance(name: &str) -> Option<InstanceId> {
    let (stamp, rest) = name.strip_prefix('s')?.split_once('-')?;
    let (component, index) = rest.rsplit_once('-')?;
    let id = InstanceId {
        stamp: StampId(stamp.parse().ok()?),
        component: ComponentName::new(component).ok()?,
        index: index.parse().ok()?,
    };
    // `s+4-api-00` would be another folder.
    (id.to_string() == name).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_name_is_read_as_it_was_written() {
        for name in ["s4-api-0", "s12-my-api-2-17", "s1-a--3"] {
            assert_eq!(parse_instance(name).map(|id| id.to_string()).as_deref(), Some(name));
        }
        for name in ["", "s4", "s4-api", "4-api-0", "s4-API-0", "s04-api-0", "s4-api-00", "s4-api-+1", "s--0"]
        {
            assert_eq!(parse_instance(name), None, "{name}");
        }
    }
}
