//! The writer's thread: batches of jobs, each one transaction.

use super::end::End;
use super::later::Later;
use super::{
    BATCH_BYTES_LIMIT, BATCH_LIMIT, Between, Cost, Guard, STATEMENTS_KEPT, Trouble, WriteError, Writing, gone,
};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// One write on its way.
pub(super) trait Job: Send {
    /// Adds to the batch.
    fn run(&mut self, transaction: &Transaction<'_>) -> Result<(), WriteError>;
    /// Called once the batch is on disk, or is not.
    fn answer(self: Box<Self>, committed: Result<(), WriteError>);
    /// Whether it may fail after it has written something, so that it needs a savepoint of its own.
    fn may_fail_halfway(&self) -> bool;
    /// About how many bytes it writes.
    fn bytes(&self) -> usize;
    /// Whether it is about nothing that was handed in before it.
    fn is_new(&self) -> bool;
}

/// A write and who is told of it.
pub(super) struct Submitted<T, W, D> {
    pub(super) work: Option<W>,
    pub(super) made: Option<T>,
    pub(super) done: D,
    pub(super) cost: Cost,
}

impl<T, W, D> Job for Submitted<T, W, D>
where
    T: Send,
    W: FnOnce(&Transaction<'_>) -> Result<T, WriteError> + Send,
    D: FnOnce(Result<T, WriteError>) + Send,
{
    fn run(&mut self, transaction: &Transaction<'_>) -> Result<(), WriteError> {
        if let Some(work) = self.work.take() {
            self.made = Some(work(transaction)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), WriteError>) {
        let Self { made, done, .. } = *self;
        done(committed.and_then(|()| made.ok_or_else(gone)));
    }

    fn may_fail_halfway(&self) -> bool {
        self.cost.may_fail_halfway
    }

    fn bytes(&self) -> usize {
        self.cost.bytes
    }

    fn is_new(&self) -> bool {
        self.cost.is_new
    }
}

/// The writer's thread.
pub(super) struct Thread {
    pub(super) queue: mpsc::Receiver<Box<dyn Job>>,
    pub(super) later: Arc<Later>,
    pub(super) waiting_bytes: Arc<AtomicUsize>,
    pub(super) trouble: Trouble,
    pub(super) guard: Option<Guard>,
    pub(super) between: Option<Between>,
    pub(super) end: Arc<End>,
}

impl Thread {
    pub(super) fn run(mut self, connection: Connection) {
        let mut connection = Writing::new(connection, self.trouble.clone());
        // Every text that the room uses stays prepared.
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        let (mut gathered, mut written) = (VecDeque::new(), Vec::new());
        let _watch = Watch(self.trouble.clone(), self.later.clone());
        while self.gather(&mut gathered) {
            let committed = match self.trouble.get() {
                Some(why) => {
                    written.extend(gathered.drain(..));
                    Err(why)
                }
                None => self.batch(&mut connection, &mut gathered, &mut written),
            };
            if let Err(why @ (WriteError::Broken(_) | WriteError::Damaged(_) | WriteError::Fenced { .. })) =
                &committed
            {
                self.trouble.set(why.clone());
            }
            // Clients wait for these; whoever asks when all else is done is told in its turn.
            written.sort_by_key(|job| !job.is_new());
            for job in written.drain(..) {
                job.answer(committed.clone());
            }
            if let Some(between) = self.between.as_mut().filter(|_| committed.is_ok())
                && let Err(why) = between(&connection)
            {
                self.trouble.set(why);
            }
        }
        // What works beside this thread closes its connection first: of two that are closed at once, each takes the
        // other for one that still needs the log.
        self.between = None;
    }

    /// Waits for what begins a batch: a job, or those that have waited for long enough. False: there will be none.
    fn gather(&mut self, gathered: &mut VecDeque<Box<dyn Job>>) -> bool {
        if !gathered.is_empty() {
            // What was too much for the batch before.
            return true;
        }
        match receive(&mut self.queue, &self.end, &self.later) {
            Received::Job(job) if job.is_new() => {
                self.take([job], gathered);
                self.take(self.later.for_company(), gathered);
            }
            Received::Job(job) => {
                self.take(self.later.all(), gathered);
                self.take([job], gathered);
            }
            Received::Due => self.take(self.later.all(), gathered),
            Received::Closed => self.take(self.later.close(), gathered),
        }
        !gathered.is_empty()
    }

    /// What has arrived meanwhile, behind what has to be written before it.
    fn gather_more(&mut self, gathered: &mut VecDeque<Box<dyn Job>>) {
        if let Ok(job) = self.queue.try_recv() {
            if !job.is_new() {
                self.take(self.later.all(), gathered);
            }
            self.take([job], gathered);
        }
    }

    fn take(&self, jobs: impl IntoIterator<Item = Box<dyn Job>>, gathered: &mut VecDeque<Box<dyn Job>>) {
        gathered.extend(jobs.into_iter().inspect(|job| {
            self.waiting_bytes.fetch_sub(job.bytes(), Ordering::Relaxed);
        }));
    }

    /// One transaction: what was gathered, and whatever has arrived meanwhile. `written` are the jobs that are to hear
    /// how it went; those that failed alone have heard already.
    fn batch(
        &mut self,
        connection: &mut Connection,
        gathered: &mut VecDeque<Box<dyn Job>>,
        written: &mut Vec<Box<dyn Job>>,
    ) -> Result<(), WriteError> {
        // The lock is taken before anything is read, so that no other process can write in between.
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let begun = begun.map_err(WriteError::from).and_then(|transaction| {
            self.guard.as_mut().map_or(Ok(()), |guard| guard(&transaction)).map(|()| transaction)
        });
        let transaction = match begun {
            Ok(transaction) => transaction,
            Err(why) => {
                written.extend(gathered.drain(..));
                return Err(why);
            }
        };
        let (mut count, mut bytes) = (0, 0);
        while count < BATCH_LIMIT && bytes < BATCH_BYTES_LIMIT {
            if gathered.is_empty() {
                self.gather_more(gathered);
            }
            let Some(mut job) = gathered.pop_front() else { break };
            count += 1;
            bytes += job.bytes();
            let ran = match job.may_fail_halfway() {
                true => in_savepoint(&transaction, &mut *job),
                false => job.run(&transaction),
            };
            match ran {
                Ok(()) => written.push(job),
                Err(why) if loses_batch(&transaction, &*job, &why) => {
                    written.push(job);
                    written.extend(gathered.drain(..));
                    return Err(why);
                }
                Err(why) => job.answer(Err(why)),
            }
        }
        Ok(transaction.commit()?)
    }
}

/// What came of waiting for a job.
enum Received {
    Job(Box<dyn Job>),
    /// None, and some have waited for long enough.
    Due,
    /// All who hand in jobs are gone, or are not heard any longer.
    Closed,
}

/// Waits for a job, or until those in `later` are due. When the end is asked for, nothing more is taken into the queue.
fn receive(queue: &mut mpsc::Receiver<Box<dyn Job>>, end: &End, later: &Later) -> Received {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if end.is_asked() {
            queue.close();
        }
        match queue.poll_recv(&mut context) {
            Poll::Ready(Some(job)) => return Received::Job(job),
            Poll::Ready(None) => return Received::Closed,
            Poll::Pending => {}
        }
        // The first of them unparks this thread, which then looks again.
        match later.due().map(|due| due.saturating_duration_since(Instant::now())) {
            None => std::thread::park(),
            Some(Duration::ZERO) => return Received::Due,
            Some(left) => std::thread::park_timeout(left),
        }
    }
}

/// Wakes a thread that waits for a job.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Says that nothing is written any longer when the thread panics, which nobody else would notice: whoever waits for
/// the disk would wait for ever.
struct Watch(Trouble, Arc<Later>);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set(WriteError::Broken("the writer's thread has panicked".into()));
        }
        // As the queue is closed with its receiver: who is asked to wait after this is told that nobody comes.
        drop(self.1.close());
    }
}

fn in_savepoint(transaction: &Transaction<'_>, job: &mut dyn Job) -> Result<(), WriteError> {
    let run = |sql: &str| transaction.prepare_cached(sql)?.execute([]);
    run("SAVEPOINT job")?;
    match job.run(transaction) {
        Ok(()) => {
            run("RELEASE job")?;
            Ok(())
        }
        Err(error) => {
            if !transaction.is_autocommit() {
                run("ROLLBACK TO job")?;
                run("RELEASE job")?;
            }
            Err(error)
        }
    }
}

/// Whether a failed job has taken its batch with it. SQLite undoes the whole transaction by itself on some errors, a
/// full disk among them.
fn loses_batch(transaction: &Transaction<'_>, job: &dyn Job, error: &WriteError) -> bool {
    let nothing_written = match error {
        WriteError::Refused(_) | WriteError::Reserve { .. } => true,
        WriteError::Full
        | WriteError::Fenced { .. }
        | WriteError::Busy(_)
        | WriteError::Damaged(_)
        | WriteError::Broken(_) => job.may_fail_halfway(),
    };
    !nothing_written || transaction.is_autocommit() || matches!(error, WriteError::Damaged(_))
}
