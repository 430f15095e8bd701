//! What operators see of the queue and do to it: [`api::queue`] on the gateway's own socket.

mod halt;

use crate::desk::{Desk, State};
use crate::worker::Shared;
use api::PROTOCOL_VERSION;
use api::gateway::QueueSummary;
use api::problem::{Code, Problem};
use api::queue as wire;
use queue::{
    Answer, Filter, JobId, JobView, OperationError, Queue, Resolution, Selection, state_name, state_named,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

/// What the paths of all operations begin with.
pub(crate) const PREFIX: &str = "/v1/queue";

/// Jobs that are read at once where they are counted.
const COUNTED_AT_ONCE: u32 = 1_000;

/// Answers `GET` or `POST` on a path below [`PREFIX`]. None: there is no such operation.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    get: bool,
    path: &str,
    body: &[u8],
) -> Option<Result<serde_json::Value, Problem>> {
    let desk = &shared.desk;
    if get && path == PREFIX {
        return Some(to_json(&status(desk).await));
    }
    let verb = path.strip_prefix(PREFIX)?.strip_prefix('/')?;
    let job = verb.strip_prefix("jobs/").map(str::parse::<u64>);
    let known = match get {
        true => verb == "operations" || matches!(job, Some(Ok(_))),
        false => POSTS.contains(&verb),
    };
    if !known {
        return None;
    }
    if verb == "repair" {
        return Some(repair(shared, body).await);
    }
    let queue = match open(desk) {
        Ok(queue) => queue,
        Err(problem) => return Some(Err(problem)),
    };
    Some(match (verb, job) {
        (_, Some(Ok(number))) => show(&queue, JobId(number)).await,
        ("operations", _) if get => operations(&queue, wire::LogRequest::default()).await,
        ("operations", _) => log(&queue, body).await,
        ("list", _) => list(&queue, body).await,
        ("retry", _) => retry(&queue, body).await,
        ("drop", _) => drop_jobs(&queue, body).await,
        ("edit", _) => edit(&queue, body).await,
        ("resolve", _) => resolve(&queue, body).await,
        ("pause", _) => halt::pause(shared, &queue, body).await,
        ("resume", _) => halt::resume(shared, &queue, body).await,
        ("export", _) => export(&queue, body).await,
        ("import", _) => import(&queue, body).await,
        (_, _) => return None,
    })
}

/// Operations that are asked for by POST.
const POSTS: [&str; 11] = [
    "list",
    "retry",
    "drop",
    "edit",
    "resolve",
    "pause",
    "resume",
    "export",
    "import",
    "operations",
    "repair",
];

fn open(desk: &Desk) -> Result<Queue, Problem> {
    let conflict = |message: String| Problem::new(Code::Conflict, message);
    match desk.state() {
        State::Open(queue) => Ok(queue),
        State::Unneeded => Err(conflict("there is no queue: no route is queued, and none was".to_owned())),
        State::Opening => {
            Err(conflict("the queue is still being read".to_owned()).hint("ask again in a moment"))
        }
        State::Closed(why) => Err(conflict(why.to_string())),
    }
}

fn to_json(value: &impl Serialize) -> Result<serde_json::Value, Problem> {
    serde_json::to_value(value).map_err(|cause| Problem::new(Code::Machine, cause.to_string()))
}

/// Reads a message and checks its version, where it has one.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let bad = |cause: serde_json::Error| {
        Problem::new(Code::BadRequest, format!("this is no such message: {cause}"))
    };
    let value: serde_json::Value = serde_json::from_slice(body).map_err(bad)?;
    if let Some(v) = value.get("v").and_then(serde_json::Value::as_u64)
        && v > u64::from(PROTOCOL_VERSION)
    {
        let message = format!("the message has version {v}, this gateway speaks {PROTOCOL_VERSION}");
        return Err(Problem::new(Code::Version, message).hint("upgrade the gateway first"));
    }
    serde_json::from_value(value).map_err(bad)
}

fn refused(error: OperationError) -> Problem {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    let code = match error {
        OperationError::NoSuchJob(_) | OperationError::Malformed(_) => Code::BadRequest,
        OperationError::WrongState { .. } | OperationError::UnderWay(_) => Code::Conflict,
        OperationError::Read(_) | OperationError::Write { .. } => Code::Machine,
    };
    Problem::new(code, message)
}

/// For [`api::gateway::GatewayState`]. Takes no disk access.
pub(crate) fn summary(desk: &Desk) -> Option<QueueSummary> {
    let nothing = QueueSummary::default();
    let troubled = |why: String| Some(QueueSummary { trouble: Some(why), ..nothing.clone() }.judged());
    let status = match desk.state() {
        State::Unneeded => return None,
        State::Opening => return Some(QueueSummary { opening: true, ..nothing }.judged()),
        State::Closed(why) => return troubled(why.to_string()),
        State::Open(queue) => queue.status(),
    };
    let summary = QueueSummary {
        trouble: status.trouble.map(|trouble| trouble.to_string()),
        opening: false,
        depth: status.depth,
        oldest_ms: status.oldest_ms,
        unknown: status.unknown_now,
        dead: status.held.dead,
        rejected: status.held.rejected,
        sagas_stuck: status.held.stuck_sagas,
        paused: !status.paused.is_empty(),
        ..QueueSummary::default()
    };
    Some(summary.judged())
}

async fn status(desk: &Desk) -> wire::QueueStatus {
    let nothing = wire::QueueStatus { v: PROTOCOL_VERSION, ..wire::QueueStatus::default() };
    let troubled = |why: String| wire::QueueStatus { trouble: Some(why), ..nothing.clone() };
    let queue = match desk.state() {
        State::Unneeded => return nothing,
        State::Opening => return wire::QueueStatus { opening: true, ..nothing },
        State::Closed(why) => return troubled(why.to_string()),
        State::Open(queue) => queue,
    };
    let status = queue.status();
    // Without them the rest is worth knowing.
    let states = queue.states().await.unwrap_or_default();
    let states: BTreeMap<_, _> = states.into_iter().map(|(state, count)| (state.to_owned(), count)).collect();
    let counts = status.counters;
    let upstreams = status.upstreams.into_iter().map(|upstream| wire::UpstreamStatus {
        name: upstream.name,
        breaker: upstream.breaker.name().to_owned(),
        in_flight: upstream.in_flight,
        concurrency: upstream.allowed,
    });
    let scopes = || status.paused.iter().map(|pause| pause.scope.clone());
    wire::QueueStatus {
        trouble: status.trouble.map(|trouble| trouble.to_string()),
        open: true,
        paused: scopes().any(|scope| scope == "*"),
        paused_routes: scopes().filter(|scope| scope != "*").collect(),
        depth: status.depth,
        max_depth: status.max_depth,
        bytes: status.bytes,
        oldest_s: status.oldest_ms as f64 / 1000.0,
        states,
        counts: wire::QueueCounts {
            accepted: counts.accepted,
            answered_directly: counts.answered_directly,
            answered_202: counts.answered_202,
            replayed: counts.repeated,
            refused: counts.refused,
            attempts: counts.attempts,
            delivered: counts.delivered,
            rejected: counts.rejected,
            dead: counts.dead,
            unknown: counts.unknown,
            overtook_unknown: counts.holds_expired,
            unordered: counts.unordered,
            sagas_undone: counts.sagas_undone,
            sagas_stuck: counts.sagas_undo_dead,
        },
        stuck_sagas: status.held.stuck_sagas,
        upstreams: upstreams.collect(),
        disk_bytes: disk_bytes(desk),
        ..nothing
    }
}

/// The file, and what SQLite keeps beside it.
fn disk_bytes(desk: &Desk) -> u64 {
    let beside = ["", "-wal", "-shm"].map(|end| {
        let mut path = desk.path().as_os_str().to_owned();
        path.push(end);
        fs::metadata(path).map_or(0, |file| file.len())
    });
    beside.into_iter().sum()
}

fn job(view: &JobView, why: String) -> wire::Job {
    wire::Job {
        id: view.name.id.0,
        name: view.name.to_string(),
        state: state_name(view.state).to_owned(),
        route: view.route.to_string(),
        created_ms: view.created_ms,
        due_ms: view.due_ms,
        finished_ms: view.finished_ms,
        attempts: view.attempts,
        why,
    }
}

fn filter(selection: &wire::Selection) -> Result<Filter, Problem> {
    let named = |name: &String| {
        let unknown = || Problem::new(Code::BadRequest, format!("`{name}` is no state of a job"));
        state_named(name).ok_or_else(unknown)
    };
    Ok(Filter {
        states: selection.state.iter().map(named).collect::<Result<_, _>>()?,
        route: selection.route.clone(),
        created_before_ms: selection.before_ms,
        ..Filter::default()
    })
}

async fn list(queue: &Queue, body: &[u8]) -> Result<serde_json::Value, Problem> {
    let request: wire::ListRequest = read(body)?;
    let limit =
        if request.page.limit == 0 { wire::PAGE_LIMIT } else { request.page.limit.min(wire::PAGE_LIMIT) };
    let (after, limit) = match request.selection.id {
        Some(id) => (id.saturating_sub(1), 1),
        None => (request.page.after, limit),
    };
    let mut views = queue.list(filter(&request.selection)?, JobId(after), limit).await.map_err(refused)?;
    if let Some(id) = request.selection.id {
        views.retain(|view| view.name.id.0 == id);
    }
    let full = request.selection.id.is_none() && views.len() == limit as usize;
    let next = views.last().filter(|_| full).map(|view| view.name.id.0);
    let whys = queue.last_words(views.iter().map(|view| view.name.id).collect()).await.map_err(refused)?;
    to_json(&wire::JobList { jobs: views.iter().zip(whys).map(|(view, why)| job(view, why)).collect(), next })
}

/// What a selection means to the queue. One job has to fit the rest of it too; otherwise nothing is meant.
async fn selected(queue: &Queue, selection: &wire::Selection) -> Result<Selection, Problem> {
    let Some(id) = selection.id else { return Ok(Selection::Fitting(filter(selection)?)) };
    let rest = wire::Selection { id: None, ..selection.clone() };
    if rest != wire::Selection::default() {
        let before = JobId(id.saturating_sub(1));
        let found = queue.list(filter(&rest)?, before, 1).await.map_err(refused)?;
        if found.first().is_none_or(|view| view.name.id.0 != id) {
            let message = format!("job {id} is not one of those that are meant");
            return Err(Problem::new(Code::BadRequest, message));
        }
    }
    Ok(Selection::Jobs(vec![JobId(id)]))
}

/// What was done to the jobs of `plan`. None: nothing, it was to be seen what would be.
async fn operated(
    queue: &Queue,
    selection: &wire::Selection,
    plan: &queue::Plan,
    done: Option<u64>,
) -> Result<serde_json::Value, Problem> {
    let planned: u64 = plan.jobs.values().sum();
    let ids = plan.first.iter().map(|view| view.name.id.0).take(wire::LISTED_LIMIT);
    let passed_over = match (planned, done) {
        // They may all be in a state in which this cannot be done.
        (0, _) if selection.state.is_some() => count(queue, selection).await?,
        // They have changed meanwhile.
        (planned, Some(done)) => planned.saturating_sub(done),
        (_, None) => 0,
    };
    to_json(&wire::Operated { count: done.unwrap_or(planned), ids: ids.collect(), passed_over })
}

/// How many jobs fit, whatever can be done to them.
async fn count(queue: &Queue, selection: &wire::Selection) -> Result<u64, Problem> {
    let filter = filter(selection)?;
    let (mut count, mut after) = (0, JobId(0));
    loop {
        let views = queue.list(filter.clone(), after, COUNTED_AT_ONCE).await.map_err(refused)?;
        let Some(last) = views.last() else { return Ok(count) };
        (count, after) = (count + views.len() as u64, last.name.id);
    }
}

async fn retry(queue: &Queue, body: &[u8]) -> Result<serde_json::Value, Problem> {
    let request: wire::Operate = read(body)?;
    let which = selected(queue, &request.selection).await?;
    let plan = queue.plan_retry(which.clone()).await.map_err(refused)?;
    let done = match request.plan {
        true => None,
        false => Some(queue.retry(which, request.by_uid).await.map_err(refused)?),
    };
    operated(queue, &request.selection, &plan, done).await
}

async fn drop_jobs(queue: &Queue, body: &[u8]) -> Result<serde_json::Value, Problem> {
    let request: wire::Operate = read(body)?;
    let which = selected(queue, &request.selection).await?;
    let plan = queue.plan_drop(which.clone()).await.map_err(refused)?;
    let done = match request.plan {
        true => None,
        false => Some(queue.drop_jobs(which, request.by_uid).await.map_err(refused)?),
    };
    operated(queue, &request.selection, &plan, done).await
}

fn one(id: u64) -> Result<serde_json::Value, Problem> {
    to_json(&wire::Operated { count: 1, ids: vec![id], passed_over: 0 })
}

async fn edit(queue: &Queue, body: &[u8]) -> Result<serde_json::Value, Problem> {
    let request: wire::Edit = read(body)?;
    let Some(bytes) = request.body.bytes() else {
        return Err(Problem::new(Code::BadRequest, "the body's hexadecimal digits are none"));
    };
    let edit = queue::Edit { body: Some(bytes.into()), ..queue::Edit::default() };
    queue.edit(JobId(request.id), edit, request.by_uid).await.map_err(refused)?;
    one(request.id)
}

async fn resolve(queue: &Queue, body: &[u8]) -> Result<serde_json::Value, Problem> {
    let request: wire::Resolve = read(body)?;
    let found = if request.delivered { Resolution::Delivered } else { Resolution::NotDelivered };
    queue.resolve(JobId(request.id), found, request.by_uid).await.map_err(refused)?;
    one(request.id)
}

/// One job at a time, because one may be large.
async fn export(queue: &Queue, body: &[u8]) -> Result<serde_json::Value, Problem> {
    let page: wire::Page = read(body)?;
    let limit = if page.limit == 0 { wire::PAGE_LIMIT } else { page.limit.min(wire::PAGE_LIMIT) };
    let (mut jobs, mut bytes, mut after) = (Vec::new(), 0, page.after);
    loop {
        let (lines, last) = queue.export(Filter::default(), JobId(after), 1).await.map_err(refused)?;
        for line in &lines {
            bytes += line.len();
            let job = serde_json::from_str(line);
            let job =
                job.map_err(|cause| Problem::new(Code::Machine, format!("job after {after}: {cause}")))?;
            jobs.push(wire::ExportedJob(job));
        }
        let Some(last) = last else { return to_json(&wire::Exported { jobs, next: None }) };
        after = last.0;
        if jobs.len() >= limit as usize || bytes >= wire::PAGE_BYTES {
            return to_json(&wire::Exported { jobs, next: Some(after) });
        }
    }
}

async fn import(queue: &Queue, body: &[u8]) -> Result<serde_json::Value, Problem> {
    let request: wire::Import = read(body)?;
    if request.jobs.len() > wire::PAGE_LIMIT as usize {
        let message =
            format!("{} jobs in one message; at most {} are taken", request.jobs.len(), wire::PAGE_LIMIT);
        return Err(Problem::new(Code::BadRequest, message));
    }
    let lines: Vec<String> = request.jobs.iter().map(|job| job.0.to_string()).collect();
    let done = queue.import(lines, request.by_uid).await.map_err(refused)?;
    let imported = wire::Imported { accepted: done.accepted, repeated: done.known };
    to_json(&imported)
}

async fn log(queue: &Queue, body: &[u8]) -> Result<serde_json::Value, Problem> {
    operations(queue, read(body)?).await
}

async fn operations(queue: &Queue, wanted: wire::LogRequest) -> Result<serde_json::Value, Problem> {
    let limit = if wanted.limit == 0 { wire::PAGE_LIMIT } else { wanted.limit.min(wire::PAGE_LIMIT) };
    // One more tells whether there are more.
    let mut found = queue.operations(wanted.before, limit + 1).await.map_err(refused)?;
    let has_older = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| has_older).map(|(id, _)| *id);
    let entry = |(id, operation): (u64, queue::Operation)| wire::Operation {
        id,
        at_ms: operation.at_ms,
        by_uid: operation.by_uid,
        verb: operation.verb,
        what: operation.what,
        count: operation.count,
    };
    to_json(&wire::Operations { operations: found.into_iter().map(entry).collect(), next })
}

/// Fields for people. Values of credentials are left out: they are nobody's to read.
fn fields(fields: &queue::Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let shown = |name: &[u8], value: &[u8]| {
        let secret: [&[u8]; 4] = [b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"];
        if secret.contains(&name) { "…".to_owned() } else { text(value) }
    };
    fields.iter().map(|(name, value)| (text(name), shown(name, value))).collect()
}

async fn show(queue: &Queue, id: JobId) -> Result<serde_json::Value, Problem> {
    let history = queue.show(id).await.map_err(refused)?;
    let why = history.attempts.last().map(|last| last.text.clone()).unwrap_or_default();
    let summary = job(&history.job, why);
    let answer = |answer: Answer| wire::StoredAnswer {
        status: answer.status,
        fields: fields(&answer.fields),
        body: wire::Content::of(&answer.body),
        truncated: answer.truncated,
    };
    let attempts = history.attempts.iter().map(|attempt| wire::Attempt {
        number: attempt.number,
        at_ms: attempt.ended_ms,
        what: match attempt.status {
            Some(status) => format!("{status} {}", attempt.text),
            None => attempt.text.clone(),
        },
    });
    let steps = history.steps.iter().map(|step| wire::SagaStep {
        name: step.name.clone(),
        undo: step.undo,
        state: step.state.to_owned(),
        what: match &step.answer {
            Some(answer) => format!("{} {}", answer.status, step.why),
            None => step.why.clone(),
        },
    });
    to_json(&wire::JobHistory {
        key: history.key.unwrap_or_default(),
        method: history.method.as_str().to_owned(),
        target: history.path_and_query,
        fields: fields(&history.fields),
        body: wire::Content::of(&history.body),
        answer: history.answer.map(answer),
        attempts: attempts.collect(),
        steps: steps.collect(),
        job: summary,
    })
}

async fn repair(shared: &Arc<Shared>, body: &[u8]) -> Result<serde_json::Value, Problem> {
    let request: wire::RepairRequest = read(body)?;
    let desk = Arc::clone(shared);
    // Reading the file may take minutes.
    let done = tokio::task::spawn_blocking(move || desk.desk.repair(request.by_uid)).await;
    let broken = |cause: tokio::task::JoinError| Problem::new(Code::Machine, cause.to_string());
    let report = done.map_err(broken)?.map_err(|why| Problem::new(Code::Conflict, why))?;
    let ids = |named: &queue::Named| {
        let ids: Vec<String> = named.ids.iter().take(wire::LISTED_LIMIT).map(|id| id.0.to_string()).collect();
        let more = if named.count > ids.len() as u64 { ", …" } else { "" };
        format!("{}: {}{more}", named.count, ids.join(", "))
    };
    let mut notes = Vec::new();
    for (named, what) in [
        (&report.without_request, "jobs whose request is lost; what was not finished is dead"),
        (&report.without_response, "jobs whose answer is lost"),
        (&report.doubtful, "jobs of which it cannot be told how far they had come; they are unknown"),
    ] {
        if named.count > 0 {
            notes.push(format!("{what}: {}", ids(named)));
        }
    }
    to_json(&wire::Repaired {
        aside: report.aside.display().to_string(),
        jobs: report.jobs,
        responses: report.responses,
        lost: report.lost.count,
        lost_ids: report.lost.ids.iter().take(wire::LISTED_LIMIT).map(|id| id.0).collect(),
        notes,
    })
}
