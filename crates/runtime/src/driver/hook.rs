//! Hooks: commands that run to their end once for a step of a release, under a shim, so that a new agent waits for
//! the one that an earlier agent started instead of starting a second beside it.

use super::instance::{last_lines, quote};
use super::{Adopted, Driver, Instance, StartError, StopError, describe_exit};
use crate::folder::ShimFolder;
use api::shim::{Exit, Start};
use model::name::InstanceId;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a hook that took too long may take to end when it is told to.
pub const HOOK_GRACE: Duration = Duration::from_secs(10);

/// How many times a hook is run again because nobody saw how it ended: its shim was killed. Then it has failed.
pub const UNSEEN_RUNS: u32 = 3;

/// How many of its last lines a hook is quoted with. Each is cut to 300 characters.
pub const HOOK_LINES: usize = 20;

/// What a timeout counts as that is longer than clocks can tell.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A hook that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookEnd {
    /// Its exit code is 0.
    pub exit: Exit,
    /// It had been started, and perhaps had ended, before it was asked for here.
    pub found: bool,
    /// The last lines it printed, at most [`HOOK_LINES`], control characters as escapes.
    pub lines: Vec<String>,
}

/// Why a hook did not succeed. Nothing of it runs then, except for [`HookError::Stop`] and [`HookError::Machine`].
#[derive(Debug)]
pub enum HookError {
    /// It could not be started.
    Start(StartError),
    /// It ended otherwise than with code 0.
    Failed {
        /// How.
        exit: Exit,
        /// The last lines it printed.
        lines: Vec<String>,
    },
    /// It took too long and was stopped.
    TimedOut {
        /// How long it could take.
        limit: Duration,
        /// How it ended when it was stopped.
        exit: Exit,
        /// The last lines it printed.
        lines: Vec<String>,
    },
    /// It took too long and could not be stopped.
    Stop {
        /// How long it could take.
        limit: Duration,
        /// Why it could not be stopped.
        cause: StopError,
    },
    /// Whether it runs could not be found out.
    Machine {
        /// The hook.
        hook: InstanceId,
        /// What the operating system said.
        cause: io::Error,
    },
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "could not be started: {error}"),
            Self::Failed { exit, lines } => {
                f.write_str(&describe_exit(exit))?;
                quote(f, lines)
            }
            Self::TimedOut { limit, exit, lines } => {
                write!(f, "was not done within {limit:?} and was stopped: it {}", describe_exit(exit))?;
                quote(f, lines)
            }
            Self::Stop { limit, cause } => {
                write!(f, "was not done within {limit:?} and could not be stopped: {cause}")
            }
            Self::Machine { hook, cause } => write!(f, "whether {hook} runs cannot be found out: {cause}"),
        }
    }
}

impl std::error::Error for HookError {}

/// How one run of a hook ended.
struct Run {
    instance: Instance,
    exit: Exit,
    found: bool,
}

impl Driver {
    /// Runs a hook to its end. A hook has an identity, `start.instance`, that no other hook ever has: the stamp of
    /// the release, the store, 0 for `expand` and 1 for `contract`. `start.port` is 0.
    ///
    /// - One that an earlier agent started and that still runs is waited for. Never do two run at a time.
    /// - One that succeeded earlier counts, also on an earlier boot, as long as its folder is not swept away.
    /// - One that failed, or that was stopped, or whose end nobody saw, is run again: hooks must be re-runnable.
    ///
    /// The time counts from here, also for one that ran already. After `timeout` it gets SIGTERM, and SIGKILL
    /// [`HOOK_GRACE`] later.
    ///
    /// Dropped, or killed with its agent, the hook runs on; call again. [`Driver::sweep`] stops a hook like any
    /// other instance unless it is to be kept.
    ///
    /// # Errors
    /// See [`HookError`].
    pub async fn run_hook(&self, start: &Start, timeout: Duration) -> Result<HookEnd, HookError> {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + LONGEST);
        let mut unseen = 0;
        loop {
            let run = match self.find_or_start(start, deadline).await? {
                Found::Done(done) => return Ok(done),
                Found::Run { instance, found } => wait(instance, found, timeout, deadline).await?,
            };
            if nobody_saw(&run.exit) && unseen < UNSEEN_RUNS {
                unseen += 1;
                tracing::warn!(hook = %start.instance, "nobody saw how it ended; it is run again");
                continue;
            }
            let lines = run.instance.last_lines(HOOK_LINES);
            return match succeeded(&run.exit) {
                true => Ok(HookEnd { exit: run.exit, found: run.found, lines }),
                false => Err(HookError::Failed { exit: run.exit, lines }),
            };
        }
    }

    async fn find_or_start(&self, start: &Start, deadline: Instant) -> Result<Found, HookError> {
        let id = &start.instance;
        let machine = |cause| HookError::Machine { hook: id.clone(), cause };
        loop {
            match self.adopt(id).await.map_err(machine)? {
                Adopted::Running(instance) => return Ok(Found::Run { instance, found: true }),
                Adopted::Ended(exit) if succeeded(&exit) => {
                    let folder = ShimFolder::new(self.folder.shim(id));
                    let log = folder.start().map_err(machine)?.map(|start| start.log);
                    let lines = log.and_then(|log| last_lines(&log, 0, HOOK_LINES).ok());
                    return Ok(Found::Done(HookEnd { exit, found: true, lines: lines.unwrap_or_default() }));
                }
                Adopted::Ended(_) | Adopted::Gone => {}
            }
            match self.start(start).await {
                Ok(instance) => return Ok(Found::Run { instance, found: false }),
                // Somebody has started it meanwhile: then it is found.
                Err(StartError::Busy { .. } | StartError::Runs { .. }) if Instant::now() < deadline => {}
                Err(error) => return Err(HookError::Start(error)),
            }
        }
    }
}

enum Found {
    Done(HookEnd),
    Run { instance: Instance, found: bool },
}

async fn wait(instance: Instance, found: bool, limit: Duration, deadline: Instant) -> Result<Run, HookError> {
    match timeout_at(deadline, instance.ended()).await {
        Ok(exit) => Ok(Run { instance, exit, found }),
        Err(_) => match instance.stop(HOOK_GRACE).await {
            // It was done in the moment before it was told to end.
            Ok(exit) if succeeded(&exit) => Ok(Run { instance, exit, found }),
            Ok(exit) => {
                let lines = instance.last_lines(HOOK_LINES);
                Err(HookError::TimedOut { limit, exit, lines })
            }
            Err(cause) => Err(HookError::Stop { limit, cause }),
        },
    }
}

/// One that was told to end and says 0 has been interrupted in good order; that is not done.
fn succeeded(exit: &Exit) -> bool {
    exit.code == Some(0) && !exit.asked
}

fn nobody_saw(exit: &Exit) -> bool {
    let Exit { code, signal, not_started, asked, .. } = exit;
    code.is_none() && signal.is_none() && not_started.is_none() && !asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_done_and_what_as_unseen() {
        let exit = Exit { v: 1, code: None, signal: None, not_started: None, asked: false };
        let table = [
            (Exit { code: Some(0), ..exit.clone() }, true, false),
            (Exit { code: Some(0), asked: true, ..exit.clone() }, false, false),
            (Exit { code: Some(1), ..exit.clone() }, false, false),
            (Exit { signal: Some(9), ..exit.clone() }, false, false),
            (Exit { not_started: Some("no".to_owned()), ..exit.clone() }, false, false),
            (Exit { asked: true, ..exit.clone() }, false, false),
            (exit, false, true),
        ];
        for (exit, done, unseen) in table {
            assert_eq!((succeeded(&exit), nobody_saw(&exit)), (done, unseen), "{exit:?}");
        }
    }
}
