//! `queue`: the writes that were accepted, and what operators do to them. Speaks to the gateway, so that it works
//! while no agent does.

use crate::environment::{Found, Life};
use crate::failure::{Exit, Failure};
use crate::flags::{
    EditFlags, FileFlags, Flags, ListFlags, OperateFlags, PauseFlags, QueueFlags, QueueLogFlags, QueueVerb,
    ResolveFlags, SelectionFlags,
};
use crate::output::Output;
use api::PROTOCOL_VERSION;
use api::queue::{
    Content, Edit, Halted, JobHistory, JobList, ListRequest, LogRequest, Operate, Operated, Operations, Page,
    PauseRequest, QueueStatus, Resolve, Selection,
};
use http::Method;
use model::name::EnvironmentName;
use serde_json::Value;
use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

mod carry;
mod repair;
mod text;

/// `mainstay queue …`.
pub(crate) async fn queue(flags: &Flags, wanted: &QueueFlags, output: Output) -> Result<ExitCode, Failure> {
    let found = |environment| Found::running(flags, environment);
    match &wanted.verb {
        QueueVerb::Status(flag) => status(&found(&flag.environment)?, output).await,
        QueueVerb::List(list) => self::list(&found(&list.environment)?, list, output).await,
        QueueVerb::Show(show) => self::show(&found(&show.environment)?, show.job, output).await,
        QueueVerb::Retry(flags) => operate(&found(&flags.environment)?, Verb::Retry, flags, output).await,
        QueueVerb::Edit(edit) => self::edit(&found(&edit.job.environment)?, edit, output).await,
        QueueVerb::Drop(flags) => operate(&found(&flags.environment)?, Verb::Drop, flags, output).await,
        QueueVerb::Resolve(resolve) => {
            self::resolve(&found(&resolve.job.environment)?, resolve, output).await
        }
        QueueVerb::Pause(pause) => halt(&found(&pause.environment)?, "pause", pause, output).await,
        QueueVerb::Resume(pause) => halt(&found(&pause.environment)?, "resume", pause, output).await,
        QueueVerb::Export(FileFlags { environment, jobs: file }) => {
            carry::export(&found(environment)?, file, output).await
        }
        QueueVerb::Import(FileFlags { environment, jobs: file }) => {
            carry::import(&found(environment)?, file, output).await
        }
        QueueVerb::Log(wanted) => log(&found(&wanted.environment)?, wanted, output).await,
        QueueVerb::Repair(flag) => repair::repair(&found(&flag.environment)?, output).await,
    }
}

/// Fails unless there is a gateway to ask.
async fn must_serve(found: &Found) -> Result<(), Failure> {
    found.mark()?;
    match found.life().await {
        Life::Up | Life::Orphaned => Ok(()),
        Life::Down => Err(Failure::new(Exit::NotUp, format!("{} is not up; its queue rests", found.name))
            .hint(format!("mainstay up {}", found.name))),
    }
}

/// Who asks, for the audit log.
fn by_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("messages have string keys and finite numbers")
}

async fn status(found: &Found, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let status: QueueStatus = found.gateway().get("/v1/queue").await?;
    output.data(text::status(&status), &json(&status));
    let name = &found.name;
    let count = |state: &str| status.states.get(state).copied().unwrap_or(0);
    let mut next = Vec::new();
    if status.trouble.is_some() {
        next.push(("save what can be saved", format!("mainstay queue repair {name}")));
    }
    for (state, what) in [
        ("dead", "those that nobody took"),
        ("rejected", "those that the service did not want"),
        ("unknown", "those that may have happened"),
    ] {
        if count(state) > 0 {
            next.push((what, format!("mainstay queue list {name} --only {state}")));
        }
    }
    next.extend(resume(&status, name));
    if next.is_empty() {
        next.push(("see what waits", format!("mainstay queue list {name}")));
    }
    output.next(&next);
    Ok(ExitCode::SUCCESS)
}

/// What the flags mean, by the clock of this machine, which is the gateway's.
fn selection(flags: &SelectionFlags, id: Option<u64>) -> Selection {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let before = flags.older_than.map(|age| now.saturating_sub(age).as_millis());
    Selection {
        id,
        state: flags.only.clone(),
        route: flags.route.clone(),
        before_ms: before.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
    }
}

async fn list(found: &Found, wanted: &ListFlags, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let page = Page { after: wanted.after.unwrap_or(0), limit: wanted.limit };
    let request = ListRequest { selection: selection(&wanted.selection, None), page };
    let list: JobList = found.gateway().call(Method::POST, "/v1/queue/list", &request).await?;
    output.data(text::list(&list), &json(&list));
    let mut next = Vec::new();
    if let Some(after) = list.next {
        next.push(("see more", format!("mainstay queue list {} --after {after}", found.name)));
    }
    if let Some(job) = list.jobs.first() {
        next.push(("see one of them", format!("mainstay queue show {} {}", found.name, job.id)));
    }
    output.next(&next);
    Ok(ExitCode::SUCCESS)
}

async fn show(found: &Found, id: u64, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let job: JobHistory = found.gateway().get(&format!("/v1/queue/jobs/{id}")).await?;
    output.data(text::history(&job), &json(&job));
    let name = &found.name;
    output.next(&match job.job.state.as_str() {
        "dead" | "rejected" => vec![
            ("deliver it once more", format!("mainstay queue retry {name} {id}")),
            ("with another body", format!("mainstay queue edit {name} {id} --body FILE")),
        ],
        "unknown" => vec![
            ("it took effect", format!("mainstay queue resolve {name} {id} --delivered")),
            ("it did not: send it again", format!("mainstay queue resolve {name} {id} --not-delivered")),
        ],
        _ => Vec::new(),
    });
    Ok(ExitCode::SUCCESS)
}

/// What is done to jobs.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Retry,
    Drop,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Drop => "drop",
        }
    }
}

async fn operate(
    found: &Found,
    verb: Verb,
    wanted: &OperateFlags,
    output: Output,
) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let selection = selection(&wanted.selection, wanted.job);
    if selection == Selection::default() {
        let hint = format!("mainstay queue {} {} --only dead", verb.name(), found.name);
        return Err(Failure::usage("it is not said which jobs are meant").hint(hint));
    }
    // One job that is to be tried once more is named already, and what is tried can be dropped later.
    let named = matches!(verb, Verb::Retry) && wanted.job.is_some();
    let plan = !(wanted.yes || named);
    let request = Operate { v: PROTOCOL_VERSION, by_uid: by_uid(), selection, plan };
    let path = format!("/v1/queue/{}", verb.name());
    // There may be a million of them.
    let done: Operated = found.patient_gateway().call(Method::POST, &path, &request).await?;
    let did = match (plan, verb) {
        (true, Verb::Retry) => "would be delivered once more",
        (true, Verb::Drop) => "would be given up",
        (false, Verb::Retry) => "are delivered once more",
        (false, Verb::Drop) => "are given up",
    };
    let mut shown = json(&done);
    shown["planned"] = plan.into();
    output.data(text::operated(&done, did), &shown);
    if plan && done.count > 0 {
        output.next(&[("do it", format!("the same command with --yes ({} {})", verb.name(), done.count))]);
    } else {
        output.next(&[("see what becomes of it", format!("mainstay queue status {}", found.name))]);
    }
    Ok(ExitCode::SUCCESS)
}

async fn edit(found: &Found, wanted: &EditFlags, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let body = Content::of(&read(&wanted.body)?);
    let request = Edit { v: PROTOCOL_VERSION, by_uid: by_uid(), id: wanted.job.job, body };
    let done: Operated = found.gateway().call(Method::POST, "/v1/queue/edit", &request).await?;
    output.data(text::operated(&done, "are delivered with another body"), &json(&done));
    output.next(&[(
        "see what becomes of it",
        format!("mainstay queue show {} {}", found.name, wanted.job.job),
    )]);
    Ok(ExitCode::SUCCESS)
}

async fn resolve(found: &Found, wanted: &ResolveFlags, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let delivered = wanted.outcome.delivered;
    let request = Resolve { v: PROTOCOL_VERSION, by_uid: by_uid(), id: wanted.job.job, delivered };
    let done: Operated = found.gateway().call(Method::POST, "/v1/queue/resolve", &request).await?;
    let did = if delivered { "count as delivered" } else { "are sent again" };
    output.data(text::operated(&done, did), &json(&done));
    Ok(ExitCode::SUCCESS)
}

async fn halt(found: &Found, verb: &str, wanted: &PauseFlags, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let request = PauseRequest { v: PROTOCOL_VERSION, by_uid: by_uid(), route: wanted.route.clone() };
    let path = format!("/v1/queue/{verb}");
    let halted: Halted = found.gateway().call(Method::POST, &path, &request).await?;
    output.data(text::halted(&halted, verb, wanted.route.as_deref()), &json(&halted));
    let next = resume(&halted.status, &found.name);
    if !next.is_empty() {
        output.next(&next);
    }
    Ok(ExitCode::SUCCESS)
}

/// How what is paused goes on: each scope by itself.
fn resume(status: &QueueStatus, name: &EnvironmentName) -> Vec<(&'static str, String)> {
    let everything = status.paused.then(|| format!("mainstay queue resume {name}"));
    let routes = status.paused_routes.iter();
    let routes =
        routes.map(|route| format!("mainstay queue resume {name} --route \"{}\"", text::plain(route)));
    everything.into_iter().chain(routes).map(|command| ("let deliveries go on", command)).collect()
}

async fn log(found: &Found, wanted: &QueueLogFlags, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let request = LogRequest { before: wanted.before, limit: wanted.limit };
    let operations: Operations = found.gateway().call(Method::POST, "/v1/queue/operations", &request).await?;
    output.data(text::operations(&operations), &json(&operations));
    if let Some(before) = operations.next {
        let older = format!("mainstay queue log {} -n {} --before {before}", found.name, wanted.limit);
        output.next(&[("see older ones", older)]);
    }
    Ok(ExitCode::SUCCESS)
}

/// A file, or standard input.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(path).map_err(|cause| Failure::usage(format!("{} cannot be read: {cause}", path.display())))
}
