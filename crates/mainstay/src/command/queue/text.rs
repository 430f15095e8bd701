//! The queue for people.

use crate::follow::clock;
use api::queue::{Content, Job, JobHistory, JobList, Operated, Operations, QueueStatus};
use std::fmt::Write as _;

/// How much of a body is shown.
const BODY_SHOWN: usize = 2_000;

pub(super) fn status(status: &QueueStatus) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match (&status.trouble, status.open) {
        (Some(trouble), _) => writeln!(text, "queued routes refuse: {trouble}"),
        (None, false) => writeln!(text, "there is no queue: no route is queued, and none was"),
        (None, true) => writeln!(
            text,
            "{} waiting ({} bytes), the oldest due for {:.1} s; at most {} since the gateway started",
            status.depth, status.bytes, status.oldest_s, status.max_depth
        ),
    };
    if status.paused {
        text.push_str("everything is paused\n");
    }
    for route in &status.paused_routes {
        let _ = writeln!(text, "paused: {route}");
    }
    for (state, count) in &status.states {
        let _ = writeln!(text, "{count:12}  {state}");
    }
    let counts = &status.counts;
    let _ = writeln!(text, "since the gateway started");
    for (what, count) in [
        ("written down", counts.accepted),
        ("of these, answered by the service while the client waited", counts.answered_directly),
        ("of these, answered with 202", counts.answered_202),
        ("answered again from what was stored", counts.replayed),
        ("refused, because a limit was reached or the disk refused", counts.refused),
        ("attempts", counts.attempts),
        ("delivered", counts.delivered),
        ("rejected by the service after they were acknowledged", counts.rejected),
        ("dead: their attempts or their time were used up", counts.dead),
        ("outcomes that became unknown", counts.unknown),
        ("went on behind an unknown one", counts.overtook_unknown),
        ("without a value to be ordered by", counts.unordered),
        ("sagas undone", counts.sagas_undone),
        ("sagas that could not be undone", counts.sagas_stuck),
    ] {
        if count > 0 {
            let _ = writeln!(text, "{count:12}  {what}");
        }
    }
    for upstream in &status.upstreams {
        let _ = writeln!(
            text,
            "{:12}  {}: breaker {}, {} of {} deliveries in flight",
            "", upstream.name, upstream.breaker, upstream.in_flight, upstream.concurrency
        );
    }
    text.truncate(text.trim_end().len());
    text
}

pub(super) fn list(list: &JobList) -> String {
    let lines: Vec<String> = list.jobs.iter().map(line).collect();
    if lines.is_empty() { "no jobs".into() } else { lines.join("\n") }
}

fn line(job: &Job) -> String {
    let why = if job.why.is_empty() { String::new() } else { format!("  {}", job.why) };
    format!(
        "{:>8}  {:11} {}  {}  attempts {}{why}",
        job.id,
        job.state,
        clock(at(job.created_ms)),
        job.route,
        job.attempts
    )
}

pub(super) fn history(history: &JobHistory) -> String {
    let job = &history.job;
    let mut text = format!("{} {}\n", job.name, job.state);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "accepted {} by {}", clock(at(job.created_ms)), job.route);
    match job.finished_ms {
        Some(finished) => drop(writeln!(text, "ended    {}", clock(at(finished)))),
        None => drop(writeln!(text, "due      {}", clock(at(job.due_ms)))),
    }
    if !job.why.is_empty() {
        let _ = writeln!(text, "{}", job.why);
    }
    let _ = writeln!(text, "\n{} {}\nidempotency-key: {}", history.method, history.target, history.key);
    for (name, value) in &history.fields {
        let _ = writeln!(text, "{name}: {value}");
    }
    let _ = writeln!(text, "\n{}", content(&history.body));
    for attempt in &history.attempts {
        let _ = writeln!(text, "attempt {:3}  {}  {}", attempt.number, clock(at(attempt.at_ms)), attempt.what);
    }
    for step in &history.steps {
        let undo = if step.undo { "undo of " } else { "" };
        let _ = writeln!(text, "{undo}{}: {} {}", step.name, step.state, step.what);
    }
    if let Some(answer) = &history.answer {
        let cut = if answer.truncated { " (cut to what is kept)" } else { "" };
        let _ = writeln!(text, "\nanswer {}{cut}\n{}", answer.status, content(&answer.body));
    }
    text.truncate(text.trim_end().len());
    text
}

fn content(content: &Content) -> String {
    let (text, kind) = match content {
        Content::Text(text) => (text, ""),
        Content::Hex(digits) => (digits, "in hexadecimal digits: "),
    };
    match text.char_indices().nth(BODY_SHOWN) {
        Some((end, _)) => format!("{kind}{}… ({} bytes in all; --json shows them)", &text[..end], text.len()),
        None => format!("{kind}{text}"),
    }
}

pub(super) fn operated(done: &Operated, did: &str) -> String {
    let ids: Vec<String> = done.ids.iter().map(u64::to_string).collect();
    let more = if done.count > done.ids.len() as u64 { ", …" } else { "" };
    let mut text = match done.count {
        0 => format!("0 jobs {did}"),
        count => format!("{count} jobs {did}: {}{more}", ids.join(", ")),
    };
    if done.passed_over > 0 {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{} were passed over: their state does not allow it", done.passed_over);
    }
    text
}

pub(super) fn operations(operations: &Operations) -> String {
    let line = |operation: &api::queue::Operation| {
        format!(
            "{}  user {}  {:8} {} ({} jobs)",
            clock(at(operation.at_ms)),
            operation.by_uid,
            operation.verb,
            operation.what,
            operation.count
        )
    };
    let lines: Vec<String> = operations.operations.iter().map(line).collect();
    if lines.is_empty() { "nothing was done to jobs".into() } else { lines.join("\n") }
}

fn at(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}
