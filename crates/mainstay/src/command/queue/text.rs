//! The queue for people.

use crate::follow::clock;
use api::queue::{Content, Halted, Job, JobHistory, JobList, Operated, Operations, QueueStatus};
use std::fmt::Write as _;

/// Text that anybody may have sent, in one line for a terminal: what would move its cursor, change its colours or turn
/// the direction of writing is shown as an escape.
pub(super) fn plain(text: &str) -> String {
    escaped(text, |_| false)
}

/// The same where lines and tabs are as they came.
fn plain_lines(text: &str) -> String {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, kept: impl Fn(char) -> bool) -> String {
    // Control characters of Unicode (Cc, with those of ISO 6429), and marks, embeddings and isolates of its
    // bidirectional algorithm (UAX 9, 2).
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) && !kept(c) {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// How much of a body is shown.
const BODY_SHOWN: usize = 2_000;

pub(super) fn status(status: &QueueStatus) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match (&status.trouble, status.open) {
        (Some(trouble), _) => writeln!(text, "queued routes refuse: {}", plain(trouble)),
        (None, false) if status.opening => writeln!(text, "being read; queued requests wait for that"),
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
        let _ = writeln!(text, "paused: {}", plain(route));
    }
    for (state, count) in &status.states {
        let _ = writeln!(text, "{count:12}  {state}");
    }
    if status.stuck_sagas > 0 {
        let _ = writeln!(text, "{:12}  sagas among the dead that stand half undone", status.stuck_sagas);
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

/// What came of a `pause` or a `resume`.
pub(super) fn halted(halted: &Halted, verb: &str, route: Option<&str>) -> String {
    let what = route.map_or_else(|| "everything".to_owned(), plain);
    let note = match (halted.unchanged, verb) {
        (false, _) => String::new(),
        (true, "resume") => format!("{what} was not paused\n"),
        (true, _) => format!("{what} was paused already\n"),
    };
    note + &status(&halted.status)
}

pub(super) fn list(list: &JobList) -> String {
    let lines: Vec<String> = list.jobs.iter().map(line).collect();
    if lines.is_empty() { "no jobs".into() } else { lines.join("\n") }
}

fn line(job: &Job) -> String {
    let why = if job.why.is_empty() { String::new() } else { format!("  {}", plain(&job.why)) };
    format!(
        "{:>8}  {:11} {}  {}  attempts {}{why}",
        job.id,
        job.state,
        clock(at(job.created_ms)),
        plain(&job.route),
        job.attempts
    )
}

pub(super) fn history(history: &JobHistory) -> String {
    let job = &history.job;
    let mut text = format!("{} {}\n", job.name, job.state);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "accepted {} by {}", clock(at(job.created_ms)), plain(&job.route));
    match job.finished_ms {
        Some(finished) => drop(writeln!(text, "ended    {}", clock(at(finished)))),
        None => drop(writeln!(text, "due      {}", clock(at(job.due_ms)))),
    }
    if !job.why.is_empty() {
        let _ = writeln!(text, "{}", plain(&job.why));
    }
    let (target, key) = (plain(&history.target), plain(&history.key));
    let _ = writeln!(text, "\n{} {target}\nidempotency-key: {key}", plain(&history.method));
    for (name, value) in &history.fields {
        let _ = writeln!(text, "{}: {}", plain(name), plain(value));
    }
    let _ = writeln!(text, "\n{}", content(&history.body));
    for attempt in &history.attempts {
        let what = plain(&attempt.what);
        let _ = writeln!(text, "attempt {:3}  {}  {what}", attempt.number, clock(at(attempt.at_ms)));
    }
    for step in &history.steps {
        let undo = if step.undo { "undo of " } else { "" };
        let _ = writeln!(text, "{undo}{}: {} {}", plain(&step.name), step.state, plain(&step.what));
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
        Some((end, _)) => {
            let shown = plain_lines(&text[..end]);
            format!("{kind}{shown}… ({} bytes in all; --json shows them)", text.len())
        }
        None => format!("{kind}{}", plain_lines(text)),
    }
}

pub(super) fn operated(done: &Operated, did: &str) -> String {
    let ids: Vec<String> = done.ids.iter().map(u64::to_string).collect();
    let more = if done.count > done.ids.len() as u64 { ", …" } else { "" };
    let mut text = match done.count {
        0 => format!("0 jobs {did}"),
        count => format!("{} {did}: {}{more}", jobs(count), ids.join(", ")),
    };
    if done.passed_over > 0 {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{} were passed over: their state does not allow it", done.passed_over);
    }
    text
}

fn jobs(count: u64) -> String {
    if count == 1 { "1 job".into() } else { format!("{count} jobs") }
}

pub(super) fn operations(operations: &Operations) -> String {
    let line = |operation: &api::queue::Operation| {
        format!(
            "{}  user {}  {:8} {} ({})",
            clock(at(operation.at_ms)),
            operation.by_uid,
            operation.verb,
            plain(&operation.what),
            jobs(operation.count)
        )
    };
    let mut lines: Vec<String> = operations.operations.iter().map(line).collect();
    if lines.is_empty() {
        return "nothing was done to jobs".into();
    }
    lines.extend(operations.next.map(|before| format!("… and what was done before entry {before}")));
    lines.join("\n")
}

fn at(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::queue::{Attempt, SagaStep, StoredAnswer};

    #[test]
    fn a_queue_that_is_being_read_is_neither_in_trouble_nor_absent() {
        let opening = QueueStatus { opening: true, ..QueueStatus::default() };
        assert!(status(&opening).starts_with("being read"), "{}", status(&opening));
        let trouble = Some("no room".to_owned());
        let troubled = QueueStatus { trouble, ..QueueStatus::default() };
        assert!(status(&troubled).starts_with("queued routes refuse: no room"));
        assert!(status(&QueueStatus::default()).starts_with("there is no queue"));
    }

    #[test]
    fn what_clients_sent_does_nothing_to_a_terminal() {
        let evil = "a\x1b]0;title\x07\u{9b}2J\r\u{202e}b\u{7f}é".to_owned();
        let lines = Content::Text(format!("one\n\ttwo {evil}"));
        let job = Job {
            id: 1,
            name: "1-a".into(),
            state: "dead".into(),
            route: evil.clone(),
            created_ms: 0,
            due_ms: 0,
            finished_ms: None,
            attempts: 1,
            why: evil.clone(),
        };
        let shown = history(&JobHistory {
            job: job.clone(),
            key: evil.clone(),
            method: evil.clone(),
            target: evil.clone(),
            fields: vec![(evil.clone(), evil.clone())],
            body: lines.clone(),
            answer: Some(StoredAnswer { status: 200, fields: Vec::new(), body: lines, truncated: false }),
            attempts: vec![Attempt { number: 1, at_ms: 0, what: evil.clone() }],
            steps: vec![SagaStep {
                name: evil.clone(),
                undo: false,
                state: "done".into(),
                what: evil.clone(),
            }],
        });
        let listed = list(&JobList { jobs: vec![job], next: None });
        for text in [&shown, &listed] {
            let acts = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
            assert!(!text.contains(acts), "{text:?}");
            assert!(text.contains("a\\u{1b}]0;title\\u{7}\\u{9b}2J\\r\\u{202e}b\\u{7f}é"), "{text:?}");
        }
        assert!(shown.contains("one\n\ttwo a"), "{shown}");
        assert_eq!(plain("two\nlines"), "two\\nlines");
    }
}
