//! From what is on disk to a book: what a queue does when it is opened.

use crate::age::written_ms;
use crate::book::{Book, Carried, Entry, InDoubt};
use crate::calendar::{CLOCK_BACK_LIMIT_MS, Calendar};
use crate::clock::whole_ms;
use crate::codec::StoredRequest;
use crate::held::{self, Held};
use crate::job::{JobId, JobState};
use crate::keys::{HashedMap, KeyHash, Keys};
use crate::operation::Counters;
use crate::queue::Options;
use crate::shared::{Dice, Hot, Shared, State, span_ms};
use crate::submission::Traffic;
use crate::verdict::RETRY_AFTER_LIMIT;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use store::commit::{OpenError, WriteError};
use store::journal::{Change, JobRow, Journal, ReadError, SEVERAL_LIMIT};

/// What scope stands for everything, where deliveries are paused.
pub(crate) const EVERYTHING: &str = "*";

/// What has to wait until the time is known.
struct Later {
    entry: Entry,
    due_ms: i64,
    /// How long it is until then by the machine's clock.
    left_ms: i64,
    created_ms: i64,
    attempts: u32,
}

impl Shared {
    /// Opens the journal and reads what is pending. Blocks.
    pub(crate) fn open(path: &Path, options: Options) -> Result<Arc<Self>, OpenError> {
        let Options { limits, journal, clock, seed } = options;
        let (journal, recovered) = Journal::open(path, journal)?;
        let mut book = Book::new(limits.concurrency);
        let mut keys = Keys::default();
        let (mut later, mut doubtful) = (Vec::new(), Vec::new());
        let stuck = held::stuck(&journal).map_err(|error| unreadable(path, error))?;
        let mut held = Held::default();
        let mut scheduled: BTreeMap<(i64, JobId), Entry> = BTreeMap::new();
        let (opened_ms, mut newest_ms) = (clock.wall_ms(), i64::MIN);
        let calendar = Calendar::new(opened_ms, clock.now(), recovered.clock.clone());
        for row in recovered.jobs {
            let row = row.map_err(|error| unreadable(path, error))?;
            // Not the highest: the clock may have been set back.
            newest_ms = row.created_ms;
            held.add(row.id, row.state, !row.preview, stuck.contains(&row.id));
            if let Some(key) = row.key {
                keys.insert(KeyHash::from_bytes(key), row.id, row.created_ms);
            }
            // What was put off has its place from when it was due, before what came after that.
            while let Some(first) = scheduled.first_entry().filter(|first| first.key().0 < row.created_ms) {
                book.push(first.remove());
            }
            let left_ms = left_ms(&journal, &row, &calendar, opened_ms);
            if is_between(&row, left_ms) && was_put_off(&journal, &row) {
                book.count(row.request_bytes);
                let due_ms = calendar.after(row.created_ms, row.due_ms.saturating_sub(row.created_ms));
                scheduled.insert((due_ms, row.id), entry_of(&mut book, &row));
                continue;
            }
            enter(&mut book, row, left_ms, &mut later, &mut doubtful);
        }
        scheduled.into_values().for_each(|entry| book.push(entry));
        // A clock that was set back a little must not put off what is due. What is further ahead was written by a
        // clock that was wrong, and must not make everything else old.
        let ahead = newest_ms.saturating_sub(opened_ms);
        let comparable = ahead <= CLOCK_BACK_LIMIT_MS;
        let wall_ms = if comparable { opened_ms.max(newest_ms) } else { opened_ms };
        let now = clock.now();
        let calendar = Calendar::new(wall_ms, now, recovered.clock);
        let longest = span_ms(limits.longest_pause.max(RETRY_AFTER_LIMIT));
        for Later { entry, due_ms, left_ms, created_ms, attempts } in later {
            let left = left_ms.saturating_sub(wall_ms.saturating_sub(opened_ms)).max(0);
            // Nothing that was attempted pauses for longer than that, and nothing waits for longer than it was to.
            let most = match attempts {
                0 => due_ms.saturating_sub(created_ms).max(0),
                _ if comparable => longest,
                // How much of its pause is left cannot be told.
                _ => 0,
            };
            let left = left.min(most);
            let at = now.saturating_add(left.unsigned_abs());
            match attempts {
                // It is due already, and in order: not put off, or what comes now would be before it.
                0 if left == 0 => book.push(entry),
                0 => book.schedule(entry, at),
                _ => book.put_off(Carried::new(entry, attempts), at),
            }
        }
        for pause in &recovered.paused {
            if pause.scope == EVERYTHING {
                book.paused = true;
            } else {
                book.pause(&pause.scope, true);
            }
        }
        let state = State {
            limits,
            book,
            keys,
            reserved: HashMap::new(),
            waiting: HashedMap::default(),
            flights: HashMap::new(),
            early: HashMap::new(),
            disk_refuses: false,
            prepared: VecDeque::new(),
            hot: Hot::default(),
            unwritten: VecDeque::new(),
            rewriting: 0,
            found_below: recovered.next.0,
            counters: Counters::default(),
            held,
            dice: Dice(seed),
            next_id: recovered.next.0,
            next_call: 0,
            pauses: recovered.paused,
            oldest_created_ms: None,
            tended: crate::tend::Tended::default(),
            resting: false,
        };
        let shared = Arc::new(Self::new(journal, clock, calendar, state));
        shared.doubt_all(doubtful);
        Ok(shared)
    }

    /// Those of which it is not known what became of them hold up what is behind them, and are asked for.
    fn doubt_all(self: &Arc<Self>, rows: Vec<JobRow>) {
        let (now, wall_ms) = (self.clock.now(), self.wall_ms());
        let found = rows.iter().filter(|row| row.state == JobState::Dispatching);
        let found: Vec<Change> = found.map(|row| unknown_now(row, wall_ms)).collect();
        for batch in found.chunks(SEVERAL_LIMIT) {
            if let Err(error) = self.written_now(Change::Several(batch.to_vec())) {
                // They are found in the same state next time, and are in doubt here all the same.
                tracing::error!(%error, "jobs that were under way could not be noted as unknown");
            }
        }
        for row in rows {
            let since = row.outcome_ms.filter(|_| row.state == JobState::Unknown).unwrap_or(wall_ms);
            // One that is over holds up nobody again.
            let hold = row.order.and_then(|_| {
                let passed =
                    Duration::from_millis(self.calendar.passed(since, wall_ms).max(0).unsigned_abs());
                let left = self.unknown_hold(&row).checked_sub(passed).filter(|left| !left.is_zero())?;
                Some(now.saturating_add(whole_ms(left)))
            });
            let mut state = self.lock();
            let entry = entry_of(&mut state.book, &row);
            state.book.doubt(InDoubt::new(entry, row.attempts, now), hold, Some(now));
        }
    }

    /// How long an unknown outcome holds up others, as the job's own settings say.
    pub(crate) fn unknown_hold(&self, row: &JobRow) -> Duration {
        let record = self.journal.request(row.id).ok().flatten();
        let request = record.and_then(|record| StoredRequest::decode(record).ok());
        request.map_or_else(
            || model::queue::QueuedRoute::default().unknown_hold,
            |request| request.settings.unknown_hold,
        )
    }

    /// Writes a change and waits for it. Blocks; for the time before there is a courier.
    fn written_now(&self, change: Change) -> Result<(), WriteError> {
        let (sender, written) = mpsc::channel();
        self.journal.update(change, move |result| {
            // Whoever waits does so until this.
            let _ = sender.send(result);
        });
        written.recv().unwrap_or_else(|_| Err(WriteError::Broken("its writer has ended".into())))
    }
}

/// Whether a job that was never attempted became due after it had come, and before now.
fn is_between(row: &JobRow, left_ms: i64) -> bool {
    let untouched = row.state == JobState::Waiting && row.attempts == 0;
    untouched && row.created_ms < row.due_ms && left_ms <= 0
}

/// How long it is until a job is due.
fn left_ms(journal: &Journal, row: &JobRow, calendar: &Calendar, wall_ms: i64) -> i64 {
    let plain = row.due_ms.saturating_sub(wall_ms);
    // When a pause of what was attempted began is not on disk. It is bounded.
    if row.attempts > 0 || !calendar.was_set() {
        return plain;
    }
    if row.due_ms <= row.created_ms || !was_put_off(journal, row) {
        // It was due when that was written, by a clock that was ahead.
        return plain.min(0);
    }
    let written_ms = written_ms(journal, row, row.due_ms).unwrap_or(row.created_ms);
    let passed = calendar.passed(written_ms, wall_ms);
    row.due_ms.saturating_sub(written_ms.saturating_add(passed))
}

/// Whether its client has put it off: what an operator has released has the place that it had.
fn was_put_off(journal: &Journal, row: &JobRow) -> bool {
    let record = journal.request(row.id).ok().flatten();
    let request = record.and_then(|record| StoredRequest::decode(record).ok());
    request.is_some_and(|request| request.head.from_ms == row.due_ms)
}

/// Puts a pending job where it belongs, as far as that is known before the time is.
fn enter(book: &mut Book, row: JobRow, left_ms: i64, later: &mut Vec<Later>, doubtful: &mut Vec<JobRow>) {
    if !row.state.is_pending() {
        return;
    }
    let entry = entry_of(book, &row);
    book.count(row.request_bytes);
    match row.state {
        JobState::Waiting if left_ms > 0 => {
            let (due_ms, created_ms, attempts) = (row.due_ms, row.created_ms, row.attempts);
            later.push(Later { entry, due_ms, left_ms, created_ms, attempts });
        }
        JobState::Dispatching if !row.idempotent => doubtful.push(row),
        JobState::Unknown => doubtful.push(row),
        // What can be sent again is, in the order of the numbers.
        JobState::Waiting | JobState::Dispatching => book.push(entry),
        JobState::Done | JobState::Rejected | JobState::Dead | JobState::Cancelled | JobState::Dropped => {}
    }
}

/// A row as the book knows it. Whether it is a user's is known once its request is read.
pub(crate) fn entry_of(book: &mut Book, row: &JobRow) -> Entry {
    Entry::new(row.id.0, book.line(Traffic::Users, &row.route), row.order.unwrap_or_default())
}

fn unknown_now(row: &JobRow, at_ms: i64) -> Change {
    let (id, attempts) = (row.id, row.attempts);
    let ended = store::journal::AttemptRecord {
        number: attempts,
        began_ms: row.due_ms,
        ended_ms: at_ms,
        status: None,
        text: "the gateway ended before it was answered".into(),
    };
    Change::Outcome { id, attempts, at_ms, state: JobState::Unknown, response: None, ended: Some(ended) }
}

fn unreadable(path: &Path, error: ReadError) -> OpenError {
    // Without the file and the hint, which are said once.
    let (ReadError::Damaged { cause, .. } | ReadError::Unreadable { cause, .. }) = error;
    OpenError::Damaged { path: path.to_owned(), cause, hint: Some(store::journal::REPAIR_HINT) }
}
