//! The agent's API on its socket: requests become commands for the loop; events are read from the records.

use crate::agent::AgentError;
use crate::observe::Live;
use api::folder::StateFolder;
use api::operator::{
    Accepted, EVENTS_WAIT, Events, History, Plan, ReleaseEvent, ReleaseRequest, RollbackRequest, Status,
};
use api::problem::{Code, Problem};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use model::name::ReleaseNumber;
use model::workload::Configuration;
use std::os::unix::fs::PermissionsExt;
use store::records::{EventRecord, Records};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

/// The largest request, in bytes.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

type Reply<T> = oneshot::Sender<Result<T, Problem>>;

/// What the loop is asked.
pub(crate) enum Command {
    Status(oneshot::Sender<Status>),
    Configuration(Reply<Configuration>),
    Release(Box<ReleaseRequest>, Reply<Accepted>),
    Plan(Box<ReleaseRequest>, Reply<Plan>),
    Rollback(ReleaseNumber, Reply<Accepted>),
    Abort(ReleaseNumber, Reply<Accepted>),
    Down(Reply<()>),
}

#[derive(Clone)]
struct Server {
    commands: mpsc::Sender<Command>,
    records: Records,
    news: watch::Receiver<u64>,
    live: watch::Receiver<Live>,
}

/// The one place where errors become answers.
struct Refusal(Problem);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0.code.status(), Json(self.0)).into_response()
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

/// Listens on the agent's socket, for its owner only.
pub(crate) fn bind(folder: &StateFolder) -> std::io::Result<UnixListener> {
    let path = folder.agent_socket();
    // The agent's lock is ours, so whoever left this socket is gone.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until it is dropped.
pub(crate) async fn serve(
    listener: UnixListener,
    commands: mpsc::Sender<Command>,
    records: Records,
    news: watch::Receiver<u64>,
    live: watch::Receiver<Live>,
) -> Result<(), AgentError> {
    let routes = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/configuration", get(configuration))
        .route("/v1/releases", post(release))
        .route("/v1/plan", post(plan))
        .route("/v1/releases/{number}/events", get(events))
        .route("/v1/releases/{number}", get(history))
        .route("/v1/rollback", post(rollback))
        .route("/v1/abort", post(abort))
        .route("/v1/down", post(down))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Server { commands, records, news, live });
    axum::serve(listener, routes)
        .await
        .map_err(|cause| AgentError::Io { what: "the agent's socket".into(), cause })
}

impl Server {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let ending = || Refusal(Problem::new(Code::Conflict, "the agent is ending"));
        self.commands.send(command(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }
}

async fn status(State(server): State<Server>) -> Result<Json<Status>, Refusal> {
    server.ask(Command::Status).await.map(Json)
}

async fn configuration(State(server): State<Server>) -> Result<Json<Configuration>, Refusal> {
    Ok(Json(server.ask(Command::Configuration).await??))
}

fn spoken(v: u32) -> Result<(), Problem> {
    if v == api::PROTOCOL_VERSION {
        return Ok(());
    }
    let message = format!("protocol version {v} is not spoken here, {} is", api::PROTOCOL_VERSION);
    Err(Problem::new(Code::Version, message))
}

async fn release(
    State(server): State<Server>,
    request: Result<Json<ReleaseRequest>, JsonRejection>,
) -> Result<Json<Accepted>, Refusal> {
    let Json(request) = request.map_err(|e| Problem::new(Code::BadRequest, e.body_text()))?;
    spoken(request.v)?;
    Ok(Json(server.ask(|reply| Command::Release(Box::new(request), reply)).await??))
}

async fn plan(
    State(server): State<Server>,
    request: Result<Json<ReleaseRequest>, JsonRejection>,
) -> Result<Json<Plan>, Refusal> {
    let Json(request) = request.map_err(|e| Problem::new(Code::BadRequest, e.body_text()))?;
    spoken(request.v)?;
    Ok(Json(server.ask(|reply| Command::Plan(Box::new(request), reply)).await??))
}

async fn rollback(
    State(server): State<Server>,
    request: Result<Json<RollbackRequest>, JsonRejection>,
) -> Result<Json<Accepted>, Refusal> {
    let Json(request) = request.map_err(|e| Problem::new(Code::BadRequest, e.body_text()))?;
    spoken(request.v)?;
    Ok(Json(server.ask(|reply| Command::Rollback(request.number, reply)).await??))
}

async fn abort(
    State(server): State<Server>,
    request: Result<Json<RollbackRequest>, JsonRejection>,
) -> Result<Json<Accepted>, Refusal> {
    let Json(request) = request.map_err(|e| Problem::new(Code::BadRequest, e.body_text()))?;
    spoken(request.v)?;
    Ok(Json(server.ask(|reply| Command::Abort(request.number, reply)).await??))
}

async fn history(State(server): State<Server>, Path(number): Path<u64>) -> Result<Json<History>, Refusal> {
    let number = ReleaseNumber(number);
    let record = server.records.release(number).await.map_err(unreadable)?;
    let record = record.ok_or_else(|| no_such(number))?;
    let events = server.records.events(number, 0).await.map_err(unreadable)?;
    let points = server.records.ledger(number).await.map_err(unreadable)?;
    Ok(Json(History {
        release: crate::status::summary(&record, None, None),
        events: events.into_iter().map(told).collect(),
        ledger: crate::ledger::of_points(&points),
    }))
}

fn unreadable(error: store::commit::WriteError) -> Refusal {
    Refusal(Problem::new(Code::Machine, error.to_string()))
}

fn no_such(number: ReleaseNumber) -> Problem {
    Problem::new(Code::BadRequest, format!("there is no release {number}"))
}

/// A recorded event, as it is told.
fn told(event: EventRecord) -> ReleaseEvent {
    ReleaseEvent {
        seq: event.seq,
        at_ms: event.at_ms,
        state: event.state,
        text: event.text,
        // One that a newer agent has recorded in another shape is left out.
        decision: event.decision.and_then(|text| serde_json::from_str(&text).ok()),
    }
}

async fn down(State(server): State<Server>) -> Result<http::StatusCode, Refusal> {
    server.ask(Command::Down).await??;
    Ok(http::StatusCode::NO_CONTENT)
}

#[derive(serde::Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn events(
    State(server): State<Server>,
    Path(number): Path<u64>,
    Query(After { after }): Query<After>,
) -> Result<Json<Events>, Refusal> {
    let number = ReleaseNumber(number);
    let mut news = server.news.clone();
    let deadline = tokio::time::Instant::now() + EVENTS_WAIT;
    loop {
        // Marked as seen before the records are read, so that nothing recorded since is waited over.
        news.borrow_and_update();
        let record = server.records.release(number).await.map_err(unreadable)?;
        let record = record.ok_or_else(|| no_such(number))?;
        let found = server.records.events(number, after).await.map_err(unreadable)?;
        let late = tokio::time::Instant::now() >= deadline;
        if !found.is_empty() || record.state.is_final() || late {
            let release = crate::status::summary(&record, None, Some(&server.live.borrow()));
            return Ok(Json(Events { events: found.into_iter().map(told).collect(), release }));
        }
        tokio::select! {
            // A loop that has ended tells no more news; the deadline still holds.
            Ok(()) = news.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}
