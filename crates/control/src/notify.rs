//! Tells others of every change of a release's state: a command or a webhook, tried again, never waited for.
//!
//! What has been told is remembered with the records, so that an agent that is killed forgets nothing: an event
//! may be told twice, and has the same `id` then.

use model::name::{EnvironmentName, WorkloadName};
use model::workload::Notify;
use serde_json::json;
use std::process::Stdio;
use std::time::Duration;
use store::commit::WriteError;
use store::records::{Records, Untold};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// How often an event is told at most; then it is given up and said in the agent's log.
const TRIES: u32 = 6;
/// The first wait between tries; each is twice the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait for a disk that has no room to record who was told.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a command or a call may take.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How much of an answer is read, in bytes.
const ANSWER_LIMIT: u64 = 64 * 1024;
/// How long the rest of an answer is waited for.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// How many events are read at a time.
const BATCH: u32 = 16;

/// Who tells, and whom.
pub(crate) struct Notifier {
    pub(crate) workload: WorkloadName,
    pub(crate) environment: EnvironmentName,
    pub(crate) records: Records,
    /// Rises with every record.
    pub(crate) news: watch::Receiver<u64>,
    /// Whom, as the latest release says.
    pub(crate) whom: watch::Receiver<Notify>,
}

impl Notifier {
    /// Tells what there is to tell, until the agent ends.
    pub(crate) async fn run(mut self) {
        // What was told and could not be recorded as told is not told again by this agent.
        let mut told = 0;
        let mut wait = FIRST_WAIT;
        loop {
            self.news.borrow_and_update();
            match self.tell_all(&mut told).await {
                Ok(()) => {
                    wait = FIRST_WAIT;
                    if self.news.changed().await.is_err() {
                        return;
                    }
                }
                Err(WriteError::Fenced { .. }) => return,
                Err(error) => {
                    tracing::warn!("that changes were told cannot be read or recorded: {error}");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    async fn tell_all(&self, told: &mut u64) -> Result<(), WriteError> {
        loop {
            let untold = self.records.untold(BATCH).await?;
            let Some(last) = untold.last().map(|event| event.id) else { return Ok(()) };
            for event in untold.iter().filter(|event| event.id > *told) {
                self.tell(event).await;
            }
            *told = last.max(*told);
            self.records.told(last).await?;
        }
    }

    async fn tell(&self, event: &Untold) {
        let whom = self.whom.borrow().clone();
        let body = json!({
            "id": event.id,
            "workload": self.workload,
            "environment": self.environment,
            "release": event.release,
            "state": event.state,
            "text": event.text,
            "at_ms": event.at_ms,
        })
        .to_string();
        if !whom.command.is_empty() {
            persist(&Door::Command(&whom.command), &body).await;
        }
        if let Some(url) = &whom.webhook {
            persist(&Door::Webhook(url), &body).await;
        }
    }
}

/// Who is told.
enum Door<'a> {
    Command(&'a [String]),
    Webhook(&'a str),
}

impl Door<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Command(command) => &command[0],
            Self::Webhook(url) => url,
        }
    }

    async fn tell(&self, body: &str) -> Result<(), String> {
        match self {
            Self::Command(command) => run_command(command, body).await,
            Self::Webhook(url) => post(url, body).await,
        }
    }
}

async fn persist(door: &Door<'_>, body: &str) {
    let mut wait = FIRST_WAIT;
    for left in (0..TRIES).rev() {
        let told = tokio::time::timeout(TIME_LIMIT, door.tell(body)).await;
        let error = match told {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => format!("not done within {TIME_LIMIT:?}"),
        };
        if left == 0 {
            tracing::error!("{} was not told of a change: {error}", door.name());
            return;
        }
        tracing::warn!("{} could not be told of a change and will be again: {error}", door.name());
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
}

async fn run_command(command: &[String], body: &str) -> Result<(), String> {
    let mut child = tokio::process::Command::new(&command[0])
        .args(&command[1..])
        .env_remove(api::memory::SPARING.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{}: {e}", command[0]))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input may well have done its work.
        let _ = stdin.write_all(body.as_bytes()).await;
    }
    match child.wait().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// POST over plain HTTP/1.1, a connection of its own. Any 2xx is taken as heard.
async fn post(url: &str, body: &str) -> Result<(), String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("{e}"))?;
    let host = uri.host().ok_or("no host")?;
    let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let mut stream = tokio::net::TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         User-Agent: mainstay\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.map_err(|e| e.to_string())?;
    stream.write_all(body.as_bytes()).await.map_err(|e| e.to_string())?;
    // `HTTP/1.1 200` is all that counts. The rest is read so that whoever answers is not cut short.
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.map_err(|e| e.to_string())?;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(ANSWER_TIME, stream.take(ANSWER_LIMIT).read_to_end(&mut rest)).await;
    match &status {
        [b'H', b'T', b'T', b'P', b'/', _, b'.', _, b' ', b'2', _, _] => Ok(()),
        other => Err(format!("answered {}", String::from_utf8_lossy(other))),
    }
}
