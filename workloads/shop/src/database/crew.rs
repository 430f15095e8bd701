//! Threads with a connection each, taking jobs from one bounded line.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::connection::Connection;

/// How long a job may wait in line before it is refused instead of done.
const LINE_WAIT: Duration = Duration::from_secs(5);

/// Why a job was not done. None of them has touched the database, except `Lost`, of which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// As many jobs wait as may.
    #[error("too many requests wait for the database")]
    Full,
    /// It waited in line for longer than `LINE_WAIT`.
    #[error("the request waited too long for the database")]
    Late,
    /// The thread is gone; only a bug can do that.
    #[error("the database thread is gone")]
    Lost,
}

/// What becomes of a job whose caller has gone before its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    Skipped,
    Done,
}

/// What a job gets when its turn comes: the connection, or why it may not have it.
type Turn<'a> = Result<&'a mut Connection, CallError>;
type Work = Box<dyn FnOnce(Turn<'_>) + Send>;

struct Job {
    since: Instant,
    work: Work,
}

/// A line and the threads behind it. Dropping the last owner finishes what is in line, then ends the threads.
pub(super) struct Crew(Arc<Line>);

struct Line {
    /// `None` only while being dropped, which tells the threads to finish.
    line: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// One thread for each connection, and a line of at most `waiting` jobs before them.
    pub(super) fn start(name: &str, connections: Vec<Connection>, waiting: usize) -> std::io::Result<Self> {
        let (line, jobs) = sync_channel(waiting);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut crew = Line { line: Some(line), threads: Vec::with_capacity(connections.len()) };
        for mut connection in connections {
            let jobs = Arc::clone(&jobs);
            let work = move || {
                while let Some(job) = next(&jobs) {
                    let late = job.since.elapsed() > LINE_WAIT;
                    (job.work)(if late { Err(CallError::Late) } else { Ok(&mut connection) });
                }
            };
            crew.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(work)?);
        }
        Ok(Self(Arc::new(crew)))
    }

    /// Another owner of the same line.
    pub(super) fn same(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// Puts `work` in line and waits for what it returns.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
        abandoned: Abandoned,
    ) -> Result<T, CallError> {
        let (answer, answered) = oneshot::channel();
        self.send(Box::new(move |turn| {
            if abandoned == Abandoned::Done || !answer.is_closed() {
                let _ = answer.send(turn.map(work));
            }
        }))?;
        answered.await.unwrap_or(Err(CallError::Lost))
    }

    fn send(&self, work: Work) -> Result<(), CallError> {
        let line = self.0.line.as_ref().expect("the line is taken only by drop");
        line.try_send(Job { since: Instant::now(), work }).map_err(|refused| match refused {
            TrySendError::Full(_) => CallError::Full,
            TrySendError::Disconnected(_) => CallError::Lost,
        })
    }
}

/// The next job, or `None` when there will be none. The lock is held only while taking one, never while
/// working, so a poisoned lock protects nothing.
fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Drop for Line {
    fn drop(&mut self) {
        self.line = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on stderr already.
            let _ = thread.join();
        }
    }
}
