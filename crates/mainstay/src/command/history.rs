//! `history`: what was released, how it was decided, and what became of every request meanwhile.

use crate::command::show::{agent_status, release_line};
use crate::environment::Found;
use crate::failure::{Exit, Failure};
use crate::flags::{Flags, HistoryFlags, HistoryShowFlags, HistoryVerb};
use crate::follow::{clock, persist};
use crate::output::Output;
use api::operator::{Decision, History, LedgerCounts};
use std::fmt::Write as _;
use std::process::ExitCode;

mod markup;
mod moments;
mod page;
mod plot;

/// `mainstay history …`.
pub(crate) async fn history(
    flags: &Flags,
    wanted: &HistoryFlags,
    output: Output,
) -> Result<ExitCode, Failure> {
    match &wanted.verb {
        HistoryVerb::List(flag) => list(&Found::running(flags, &flag.environment)?, output).await,
        HistoryVerb::Show(show) => self::show(&Found::running(flags, &show.environment)?, show, output).await,
    }
}

async fn list(found: &Found, output: Output) -> Result<ExitCode, Failure> {
    let status = agent_status(found, output).await?;
    let lines: Vec<String> = status.releases.iter().map(release_line).collect();
    output.data(lines.join("\n"), &serde_json::json!({ "releases": status.releases }));
    output.next(&[("see one of them", format!("mainstay history show {} N", found.name))]);
    Ok(ExitCode::SUCCESS)
}

async fn show(found: &Found, wanted: &HistoryShowFlags, output: Output) -> Result<ExitCode, Failure> {
    let status = agent_status(found, output).await?;
    let latest = status.releases.first().map(|release| release.number.0);
    let Some(number) = wanted.number.or(latest) else {
        let hint = format!("mainstay release {}", found.name);
        return Err(Failure::new(Exit::Conflict, "nothing was ever released here").hint(hint));
    };
    let agent = found.agent();
    let path = format!("/v1/releases/{number}");
    let history: History = persist(output, async || agent.get(&path).await).await?;
    let json = serde_json::to_value(&history).map_err(|e| Failure::machine(e.to_string()))?;
    output.data(text(&history), &json);
    match &wanted.html {
        Some(file) => {
            let page = page::page(&status, &history);
            std::fs::write(file, page)
                .map_err(|e| Failure::machine(format!("{} cannot be written: {e}", file.display())))?;
            output.say(format!("\nwritten to {}", file.display()));
        }
        None => output.next(&[(
            "a page with plots",
            format!("mainstay history show {} {number} --html FILE", found.name),
        )]),
    }
    Ok(ExitCode::SUCCESS)
}

fn text(history: &History) -> String {
    let mut text = release_line(&history.release);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n");
    let began = history.events.first().map_or(0, |event| event.at_ms);
    for event in &history.events {
        let after = event.at_ms.saturating_sub(began) as f64 / 1000.0;
        let _ = writeln!(text, "{} {after:+9.3} s  {:19} {}", clock(event.at_ms), event.state, event.text);
        if let Some(decision) = &event.decision {
            checks(&mut text, decision);
        }
    }
    let _ = writeln!(text, "\nrequests that arrived meanwhile (smoke and warm-up among them)");
    for (what, count) in counts(&history.ledger.total) {
        let _ = writeln!(text, "{count:12}  {what}");
    }
    for (from, to) in &history.ledger.not_accounted {
        let _ = writeln!(
            text,
            "not accounted: {} to {}, when the gateway was not there or was started again",
            clock(*from),
            clock(*to)
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// What a decision was made of, below its line.
fn checks(text: &mut String, decision: &Decision) {
    for check in &decision.checks {
        let _ = writeln!(text, "{:27}{:12} {}: {}", "", check.verdict, check.check, check.text);
    }
}

/// Every kind of outcome with its count.
fn counts(counts: &LedgerCounts) -> [(&'static str, u64); 11] {
    let LedgerCounts {
        active,
        candidate,
        errors,
        retried,
        shed,
        cut,
        failed,
        client_gone,
        refused,
        held,
        queued,
    } = *counts;
    [
        ("answered by the stamp that served before", active),
        ("answered by the candidate", candidate),
        ("of these, with 5xx by the service", errors),
        ("sent to a stamp a second time", retried),
        ("shed because of a limit", shed),
        ("cut", cut),
        ("failed in the gateway", failed),
        ("given up by the client", client_gone),
        ("refused for what they were", refused),
        ("held until an instance took them", held),
        ("answered by the queue", queued),
    ]
}
