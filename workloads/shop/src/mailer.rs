//! `shop mailer`: sends a confirmation for each order, once and in the order of their numbers, by appending a
//! line to a file. There must be one mailer at a time; it takes no lock to make sure, because that is the
//! business of whoever runs it, and its log lets anybody see whether it was so.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::database::{self, CallError, Connection, Database, Error, OpenError, Target};
use crate::release::Release;
use crate::serve::Signals;

/// The outbox's name in the data folder.
pub(crate) const OUTBOX: &str = "outbox.jsonl";
/// The log's name, next to the outbox.
const LOG: &str = "mailer.log.jsonl";
/// Between two signs of life.
const BEAT: Duration = Duration::from_millis(50);
/// Between two looks for new orders.
const POLL: Duration = Duration::from_millis(50);
/// Mails in one go; a signal is heeded between two.
const BATCH: i64 = 100;

/// Why the mailer did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailerError {
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The system gives no runtime, or no signal handler.
    #[error("cannot start the mailer")]
    Start(#[source] std::io::Error),
    /// A file cannot be read or written: missing folder, no permission, full disk. Mails that may or may not
    /// be in it are looked for by the next mailer.
    #[error("cannot write `{}`", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// A mail, as a line of the outbox.
#[derive(Debug, Deserialize, Serialize)]
struct Mail {
    order: i64,
    at_ms: u64,
}

/// A sign of life, as a line of the log.
#[derive(Debug, Serialize)]
struct Sign {
    pid: u32,
    at_ms: u64,
    event: Event,
    release: &'static str,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Event {
    Started,
    Beat,
    Stopped,
}

/// Sends mails until a signal.
pub(crate) fn run(target: &Target, release: Release, outbox: &Path) -> Result<(), MailerError> {
    let (database, _) = database::open(target, release)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(MailerError::Start)?;
    let outbox = Outbox::open(outbox)?;
    let log = Log::open(&outbox.path.with_file_name(LOG), release)?;
    let done = runtime.block_on(work(&database, outbox, log));
    // What the database is still busy with is found by the next mailer; waiting for it could take longer than
    // a stop may.
    std::mem::forget(database);
    done
}

async fn work(database: &Database, mut outbox: Outbox, mut log: Log) -> Result<(), MailerError> {
    let mut signals = Signals::install().map_err(MailerError::Start)?;
    log.write(Event::Started)?;
    crate::log(&format!("mailer: sending to {}", outbox.path.display()));
    let beating = async {
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            if let Err(error) = log.write(Event::Beat) {
                return error;
            }
        }
    };
    // Whichever ends first ends the others, at a point where they wait: never between the two halves of a line.
    let ended = tokio::select! {
        () = signals.received() => Ok(()),
        error = beating => Err(error),
        error = send_for_ever(database, &mut outbox) => Err(error),
    };
    log.write(Event::Stopped)?;
    ended
}

/// Returns only when the outbox fails. While the database is away it goes on trying.
async fn send_for_ever(database: &Database, outbox: &mut Outbox) -> MailerError {
    let mut polls = tokio::time::interval(POLL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut recovered = false;
    let mut complained = false;
    loop {
        let done =
            if recovered { send_batch(database, outbox).await } else { recover(database, outbox).await };
        match done {
            Ok(Sent::Some) => recovered = true,
            Ok(Sent::Nothing) => {
                recovered = true;
                complained = false;
                polls.tick().await;
            }
            Err(SendError::File(error)) => return error,
            Err(SendError::Passing(cause)) => {
                // Said once, until the database is back.
                if !complained {
                    crate::log(&format!("mailer: waiting for the database: {cause}"));
                }
                complained = true;
                // Whether its last step counted may be unknown, so it begins as a new mailer does.
                recovered = false;
                polls.tick().await;
            }
        }
    }
}

enum Sent {
    Some,
    Nothing,
}

enum SendError {
    File(MailerError),
    Passing(String),
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        Self::Passing(error.to_string())
    }
}

impl From<CallError> for SendError {
    fn from(error: CallError) -> Self {
        Self::Passing(error.to_string())
    }
}

/// Mails that an earlier mailer began with and did not finish: those in the outbox were sent.
async fn recover(database: &Database, outbox: &mut Outbox) -> Result<Sent, SendError> {
    let begun = database
        .read(|connection| {
            let sql = connection.sql();
            connection.query(sql.mails_begun, &[], |row| row.int(0))
        })
        .await??;
    if begun.is_empty() {
        return Ok(Sent::Nothing);
    }
    let sent = outbox.orders().map_err(SendError::File)?;
    let unsent: Vec<i64> = begun.iter().copied().filter(|order| !sent.contains(order)).collect();
    outbox.append(&unsent).map_err(SendError::File)?;
    finish(database, begun).await?;
    Ok(Sent::Some)
}

/// Claims, sends and ticks off the next mails.
async fn send_batch(database: &Database, outbox: &mut Outbox) -> Result<Sent, SendError> {
    // Looked for without a lock first: most of the time there is nothing to do.
    let owed = database
        .read(|connection| {
            let sql = connection.sql();
            connection.query(sql.mails_owed, &[BATCH.into()], |row| row.int(0))
        })
        .await??;
    if owed.is_empty() {
        return Ok(Sent::Nothing);
    }
    let claimed = database.write(move |connection| claim(connection, &owed)).await??;
    outbox.append(&claimed).map_err(SendError::File)?;
    finish(database, claimed).await?;
    Ok(Sent::Some)
}

fn claim(connection: &mut Connection, orders: &[i64]) -> Result<Vec<i64>, Error> {
    connection.transaction(|transaction| {
        let sql = transaction.sql();
        let now = clock::now();
        let mut claimed = Vec::with_capacity(orders.len());
        for &order in orders {
            let values = [(&now).into(), order.into()];
            claimed.extend(transaction.query_first(sql.claim_mail, &values, |row| row.int(0))?);
        }
        Ok(claimed)
    })
}

/// Ticks off mails that are in the outbox, before anything else is sent. Until then they count as begun.
async fn finish(database: &Database, orders: Vec<i64>) -> Result<(), SendError> {
    loop {
        let sent = orders.clone();
        let done = database
            .write(move |connection| {
                connection.transaction(|transaction| {
                    let sql = transaction.sql();
                    let now = clock::now();
                    sent.iter().try_for_each(|&order| {
                        transaction.execute(sql.mail_sent, &[(&now).into(), order.into()])
                    })
                })
            })
            .await;
        match done {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.is_passing() => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The file of mails, one JSON object a line.
struct Outbox {
    path: PathBuf,
    file: File,
}

impl Outbox {
    /// Opens it and cuts off a line that a killed mailer did not write to its end.
    fn open(path: &Path) -> Result<Self, MailerError> {
        let failed = |source| MailerError::File { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        let text = std::fs::read(path).map_err(failed)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// The orders whose mail is in it.
    fn orders(&self) -> Result<HashSet<i64>, MailerError> {
        let failed = |source| MailerError::File { path: self.path.clone(), source };
        let mut orders = HashSet::new();
        for line in BufReader::new(File::open(&self.path).map_err(failed)?).lines() {
            let line = line.map_err(failed)?;
            // Somebody else's line is nobody's mail.
            orders.extend(serde_json::from_str::<Mail>(&line).map(|mail| mail.order));
        }
        Ok(orders)
    }

    /// Appends a mail for each order; on disk when this returns.
    fn append(&mut self, orders: &[i64]) -> Result<(), MailerError> {
        let mut lines = String::new();
        for &order in orders {
            lines.push_str(&line(&Mail { order, at_ms: clock::now_ms() }));
        }
        self.file
            .write_all(lines.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|source| MailerError::File { path: self.path.clone(), source })
    }
}

/// The file of signs of life.
struct Log {
    path: PathBuf,
    file: File,
    release: Release,
}

impl Log {
    fn open(path: &Path, release: Release) -> Result<Self, MailerError> {
        let failed = |source| MailerError::File { path: path.to_owned(), source };
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, release })
    }

    /// One line in one write, so that lines of several mailers never mix.
    fn write(&mut self, event: Event) -> Result<(), MailerError> {
        let (pid, at_ms) = (std::process::id(), clock::now_ms());
        let sign = line(&Sign { pid, at_ms, event, release: self.release.name() });
        self.file
            .write_all(sign.as_bytes())
            .map_err(|source| MailerError::File { path: self.path.clone(), source })
    }
}

fn line(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("numbers and words serialise");
    line.push('\n');
    line
}
