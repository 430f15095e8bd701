//! One running instance, watched through pidfds and stopped through its shim.

use super::{FILE_LOOK, KILL_WAIT, blocking, kill, unkillable};
use crate::folder::ShimFolder;
use crate::process::{self, Family};
use crate::shim::signal;
use api::PROTOCOL_VERSION;
use api::shim::{Answer, Ask, Exit, ProcessId, Running};
use model::name::{FenceToken, InstanceId};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::time::Instant;

/// How long a shim may take to record an end that everybody can see.
const RECORD_WAIT: Duration = Duration::from_secs(5);

/// How much longer than the grace a shim may take to answer that it has stopped its instance, before its
/// work is done without it.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// The longest answer of a shim, in bytes.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// How much of a log's end is read to find its last lines, in bytes.
const TAIL_BYTES: u64 = 64 * 1024;

/// The longest line that is told further, in characters; the rest of it is cut.
const LINE_LIMIT: usize = 300;

/// A running instance. Clones are the same instance.
#[derive(Debug, Clone)]
pub struct Instance {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: InstanceId,
    folder: ShimFolder,
    running: Running,
    fence: FenceToken,
    /// Readable when the process has ended. None: it had ended before it was looked at.
    process: Option<AsyncFd<OwnedFd>>,
    shim: Option<AsyncFd<OwnedFd>>,
    began: Began,
}

/// When an instance's time to become ready began, and where its log was then.
#[derive(Debug)]
pub(super) struct Began {
    pub(super) at: Instant,
    log: Option<(PathBuf, u64)>,
}

impl Began {
    pub(super) fn now(log: &Path) -> Self {
        let size = std::fs::metadata(log).map_or(0, |meta| meta.len());
        Self { at: Instant::now(), log: Some((log.to_owned(), size)) }
    }

    pub(super) fn unknown(log: Option<PathBuf>) -> Self {
        Self { at: Instant::now(), log: log.map(|log| (log, 0)) }
    }
}

/// Why an instance was not stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Its shim refused, usually because a newer agent has spoken to it.
    #[error("the shim of {instance} refused: {message}")]
    Refused {
        /// The instance.
        instance: InstanceId,
        /// What the shim said.
        message: String,
    },
    /// Some of it is still there after SIGKILL.
    #[error("{instance} does not end: {cause}")]
    Remains {
        /// The instance.
        instance: InstanceId,
        /// Which processes.
        cause: io::Error,
    },
}

impl Instance {
    pub(super) fn new(
        id: InstanceId,
        folder: ShimFolder,
        running: Running,
        fence: FenceToken,
        began: Began,
    ) -> io::Result<Self> {
        let (process, shim) = (watched(&running.process)?, watched(&running.shim)?);
        Ok(Self { inner: Arc::new(Inner { id, folder, running, fence, process, shim, began }) })
    }

    /// Which instance this is.
    pub fn id(&self) -> &InstanceId {
        &self.inner.id
    }

    /// What its shim said when it had started it.
    pub fn running(&self) -> &Running {
        &self.inner.running
    }

    /// Whether its first process runs right now.
    pub fn runs(&self) -> bool {
        self.inner.process.as_ref().is_some_and(|fd| !process::has_ended(fd.get_ref()))
    }

    /// All its processes, its shim not among them.
    pub fn family(&self) -> Family {
        let running = self.running();
        Family { shim: running.shim.clone(), leader: Some(running.process.clone()) }
    }

    pub(super) fn began(&self) -> &Began {
        &self.inner.began
    }

    /// Waits for the end of the instance's first process. The end is seen at once, through the kernel;
    /// code and signal come from the shim, and are both None when it died before it could record them.
    ///
    /// Cancel-safe; any number of callers may wait.
    pub async fn ended(&self) -> Exit {
        until_ended(self.inner.process.as_ref()).await;
        let deadline = Instant::now() + RECORD_WAIT;
        loop {
            let shim_is_gone = self.shim_is_gone();
            match self.inner.folder.exit() {
                Ok(Some(exit)) => return exit,
                Ok(None) => {}
                Err(cause) => tracing::warn!(instance = %self.inner.id, %cause, "exit.json cannot be read"),
            }
            if shim_is_gone || Instant::now() >= deadline {
                return unseen(false);
            }
            tokio::time::sleep(FILE_LOOK).await;
        }
    }

    fn shim_is_gone(&self) -> bool {
        self.inner.shim.as_ref().is_none_or(|fd| process::has_ended(fd.get_ref()))
    }

    /// Stops the instance: its stop signal ([`api::shim::StopSignal`]) to its process group, SIGKILL to all its family after `grace`. Answers
    /// when nothing of it is left. Through the shim, or, if that is dead or does not react within the grace and
    /// five seconds more, directly.
    ///
    /// May be repeated; the signal is sent once, and a shorter grace shortens the first. Dropped after the
    /// shim was asked, the stop goes on; without a shim it does not, and is to be called again.
    ///
    /// # Errors
    /// See [`StopError`].
    pub async fn stop(&self, grace: Duration) -> Result<Exit, StopError> {
        if !self.shim_is_gone() {
            let patience = grace.saturating_add(STOP_SLACK);
            match tokio::time::timeout(patience, self.ask_to_stop(grace)).await {
                Ok(Ok(Answer::Ended(exit))) => return Ok(exit),
                Ok(Ok(Answer::Refused { message, .. })) => {
                    return Err(StopError::Refused { instance: self.inner.id.clone(), message });
                }
                Ok(Err(cause)) => {
                    tracing::debug!(instance = %self.inner.id, %cause, "no answer from the shim");
                }
                Err(_) => tracing::warn!(instance = %self.inner.id, "the shim does not react"),
            }
        }
        self.stop_directly(grace).await
    }

    async fn ask_to_stop(&self, grace: Duration) -> io::Result<Answer> {
        let ask = Ask::Stop {
            v: PROTOCOL_VERSION,
            fence: self.inner.fence,
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        };
        let mut line = serde_json::to_vec(&ask).expect("messages have string keys and finite numbers");
        line.push(b'\n');
        // Through the folder's descriptor, as a socket's name is limited to 107 bytes (unix(7)).
        let folder = File::open(self.inner.folder.path())?;
        let name = format!("/proc/self/fd/{}/sock", folder.as_raw_fd());
        let mut stream = UnixStream::connect(name).await?;
        // A shim that refuses at once may have closed before it is asked; its answer is there all the same.
        let _ = stream.write_all(&line).await;
        let mut answer = String::new();
        BufReader::new(stream.take(ANSWER_LIMIT)).read_line(&mut answer).await?;
        serde_json::from_str(&answer).map_err(io::Error::from)
    }

    /// Stops the instance without its shim, as far as that has not been done already.
    async fn stop_directly(&self, grace: Duration) -> Result<Exit, StopError> {
        let family = self.family();
        // The shim has ended because its work was done.
        let nothing_left = {
            let family = family.clone();
            blocking(move || family.members().is_empty()).await
        };
        if nothing_left {
            return Ok(self.ended().await);
        }
        let group = self.running().process.pid;
        {
            let family = family.clone();
            // As the shim was told. Without its word, what every server knows.
            let stop = self.inner.folder.start().ok().flatten().map(|start| start.stop_signal);
            let stop = signal(stop.unwrap_or_default());
            blocking(move || family.signal(stop, |member| member.group == group)).await;
        }
        // The first process is the one that shuts down in order; the others follow it or are killed.
        let ended = tokio::time::timeout(grace, until_ended(self.inner.process.as_ref())).await;
        tracing::debug!(instance = %self.inner.id, in_time = ended.is_ok(), "stopped without its shim");
        if !kill(&family).await {
            return Err(StopError::Remains { instance: self.inner.id.clone(), cause: unkillable(&family) });
        }
        // Orphans are reaped by whoever adopted them; until then the pidfd tells.
        let _ = tokio::time::timeout(KILL_WAIT, until_ended(self.inner.process.as_ref())).await;
        let recorded = self.inner.folder.exit().ok().flatten();
        Ok(recorded.unwrap_or_else(|| unseen(true)))
    }

    /// The resident memory of all its processes, in bytes ([`process::resident_bytes`], which is the cheaper way to
    /// ask for many). 0 when it has ended. Blocking, but short: it reads the table of processes.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        Ok(process::resident_bytes(&[self.family()])?[0])
    }

    /// The last lines of what the instance printed, at most `count`, since this start of it as far as that
    /// is known. Long lines are cut; what is not UTF-8 is replaced, and control characters are written as escapes,
    /// so that a log cannot steer the terminal it is quoted on. Blocking, but short.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let Some((log, offset)) = &self.inner.began.log else { return Vec::new() };
        last_lines(log, *offset, count).unwrap_or_default()
    }
}

/// A pidfd of exactly this process that can be awaited; None when it is gone.
#[expect(
    deprecated,
    reason = "its successor is unsafe because a type may close its descriptor while it is registered; an OwnedFd \
              that is only ever borrowed cannot, and unsafe is forbidden here"
)]
fn watched(process: &ProcessId) -> io::Result<Option<AsyncFd<OwnedFd>>> {
    process::open(process).map(|fd| AsyncFd::with_interest(fd, Interest::READABLE)).transpose()
}

/// Waits until the process behind the pidfd has ended.
async fn until_ended(process: Option<&AsyncFd<OwnedFd>>) {
    if let Some(fd) = process {
        // A pidfd once readable stays so; nothing is cleared, so that every waiter sees it. It fails only
        // when the runtime shuts down.
        let _ = fd.readable().await;
    }
}

/// An end that nobody saw.
fn unseen(asked: bool) -> Exit {
    Exit { v: PROTOCOL_VERSION, code: None, signal: None, not_started: None, asked }
}

/// How an instance ended, for people: `exited with code 1`.
pub fn describe_exit(exit: &Exit) -> String {
    match exit {
        Exit { not_started: Some(reason), .. } => format!("could not be started: {reason}"),
        Exit { code: Some(code), .. } => format!("exited with code {code}"),
        Exit { signal: Some(signal), .. } => match signal_name(*signal) {
            Some(name) => format!("was ended by signal {signal} ({name})"),
            None => format!("was ended by signal {signal}"),
        },
        Exit { code: None, signal: None, not_started: None, .. } => {
            "ended; with what code is not known, as its shim had died before it".to_owned()
        }
    }
}

/// The last lines of a log, at the end of a message.
pub(super) fn quote(f: &mut fmt::Formatter<'_>, lines: &[String]) -> fmt::Result {
    match lines {
        [] => f.write_str("; it printed nothing"),
        lines => write!(f, "; last lines of its log:\n  {}", lines.join("\n  ")),
    }
}

/// The signals that end services in practice, with their numbers on every Linux but MIPS and Alpha, which
/// differ only in SIGBUS.
fn signal_name(number: i32) -> Option<&'static str> {
    let names = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL: by somebody, or because memory ran out"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
    ];
    names.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

pub(super) fn last_lines(log: &Path, offset: u64, count: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(log)?;
    let size = file.metadata()?.len();
    // Shorter than when the instance started: it was rotated, so all of it is later.
    let offset = if size < offset { 0 } else { offset };
    let from = offset.max(size.saturating_sub(TAIL_BYTES));
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(count)..];
    Ok(last.iter().map(|line| printable(line).take(LINE_LIMIT).collect()).collect())
}

/// The characters of a line, those that steer a terminal as escapes.
fn printable(line: &str) -> impl Iterator<Item = char> {
    line.chars().flat_map(|one| {
        let (plain, escaped) = match one.is_control() && one != '\t' {
            true => (None, Some(one.escape_default())),
            false => (Some(one), None),
        };
        plain.into_iter().chain(escaped.into_iter().flatten())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_words() {
        let exit = unseen(false);
        let table = [
            (Exit { code: Some(3), ..exit.clone() }, "exited with code 3"),
            (Exit { signal: Some(15), ..exit.clone() }, "was ended by signal 15 (SIGTERM)"),
            (Exit { signal: Some(42), ..exit.clone() }, "was ended by signal 42"),
            (Exit { not_started: Some("no".to_owned()), ..exit.clone() }, "could not be started: no"),
            (exit, "ended; with what code is not known, as its shim had died before it"),
        ];
        for (exit, expected) in table {
            assert_eq!(describe_exit(&exit), expected);
        }
    }

    #[test]
    fn the_last_lines_are_of_this_start_only() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let text = format!("before\none\n\ntwo\n{}\nfour", "x".repeat(1000));
        std::fs::write(&log, text).unwrap();
        let lines = last_lines(&log, 7, 10).unwrap();
        assert_eq!(lines, ["one", "two", &"x".repeat(LINE_LIMIT), "four"]);
        assert_eq!(last_lines(&log, 7, 1).unwrap(), ["four"]);
        assert_eq!(last_lines(&log, 1_000_000, 10).unwrap()[0], "before", "the log was shortened since");
        std::fs::write(&log, b"\x1b[31mred\x07\tand \xff\n").unwrap();
        assert_eq!(last_lines(&log, 0, 1).unwrap(), ["\\u{1b}[31mred\\u{7}\tand \u{fffd}"]);
        std::fs::write(&log, "y\n".repeat(200_000)).unwrap();
        assert_eq!(last_lines(&log, 0, 3).unwrap(), ["y", "y", "y"]);
    }
}
