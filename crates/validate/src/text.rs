//! Reports and progress for people: plain text, aligned, readable without colour.

use crate::latency::Latency;
use crate::outcome::Outcomes;
use crate::report::{LoadReport, Phase, Progress};
use std::fmt::Write as _;

impl LoadReport {
    /// The report as lines of text with an aligned table, ending with a line break.
    pub fn text(&self) -> String {
        let mut lines = vec![format!("load: {}", self.verdict)];
        lines.extend(self.reasons.iter().map(|reason| format!("  {reason}")));
        lines.push(String::new());
        lines.extend(table(&self.rows()));
        lines.push(String::new());
        lines.push(self.totals());
        lines.extend(self.queued_line());
        lines.extend(self.ledger_lines());
        lines.push(self.audit());
        lines.extend(self.skipped.iter().map(|s| format!("not played: flow {}: {}", s.flow, s.why)));
        if !self.samples.is_empty() {
            lines.push("failures, the first of each kind:".to_owned());
        }
        for sample in &self.samples {
            let snippet =
                if sample.snippet.is_empty() { String::new() } else { format!(": {}", sample.snippet) };
            lines.push(format!(
                "  {} × flow {}, step {}: {}{snippet}",
                number(sample.times),
                sample.flow,
                sample.step,
                sample.problem
            ));
        }
        lines.join("\n") + "\n"
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let head = ["flow", "step", "requests", "failed", "p50", "p95", "p99", "max"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for flow in &self.flows {
            if flow.steps.len() > 1 {
                rows.push(row(&flow.flow, "", &flow.outcomes, &flow.latency));
            }
            for step in &flow.steps {
                let name = if flow.steps.len() > 1 { "" } else { &flow.flow };
                rows.push(row(name, &step.step, &step.outcomes, &step.latency));
            }
        }
        if self.flows.len() > 1 {
            rows.push(row("all", "", &self.outcomes, &self.latency));
        }
        rows
    }

    fn totals(&self) -> String {
        let mut text = format!(
            "{} requests in {:.1} s, {} failed",
            number(self.requests),
            self.seconds,
            number(self.failed)
        );
        let kinds: Vec<String> =
            self.outcomes.failures().map(|(kind, count)| format!("{} {kind}", number(count))).collect();
        if !kinds.is_empty() {
            write!(text, " ({})", kinds.join(", ")).expect("writing to a String cannot fail");
        }
        let stopped = if self.stopped { ", stopped early" } else { "" };
        let (made, planned) = (self.achieved_rate, self.planned_rate);
        write!(text, "; {made:.1} starts/s of {planned:.1} planned{stopped}")
            .expect("writing to a String cannot fail");
        text
    }

    fn queued_line(&self) -> Option<String> {
        let queued = &self.queued;
        let done = queued.until_done;
        (queued.accepted > 0).then(|| {
            format!(
                "{} accepted with 202: {} done, after p50 {}, p99 {}, max {}; {} not yet done",
                number(queued.accepted),
                number(done.count),
                millis(done.p50_ms),
                millis(done.p99_ms),
                millis(done.max_ms),
                number(queued.not_done)
            )
        })
    }

    fn ledger_lines(&self) -> Vec<String> {
        let Some(ledger) = &self.ledger else { return Vec::new() };
        let mut lines = vec![format!(
            "ledger: {} intended, {} acknowledged{}, {} failed, {} unknown ({} of them written); \
             {} lost, {} duplicated, {} unverified",
            number(ledger.intended),
            number(ledger.acknowledged),
            match ledger.accepted {
                0 => String::new(),
                accepted => format!(" ({} of them by a 202 only)", number(accepted)),
            },
            number(ledger.failed),
            number(ledger.unknown),
            number(ledger.unknown_written),
            number(ledger.lost),
            number(ledger.duplicated),
            number(ledger.unverified)
        )];
        let sample = |s: &crate::LedgerSample| format!("  {}: flow {}: {}", s.reference, s.flow, s.text);
        lines.extend(ledger.samples.iter().map(sample));
        lines
    }

    fn audit(&self) -> String {
        let steal = self.steal.map_or("not known".to_owned(), percent);
        format!(
            "engine: lag p99 {}, waits for a connection {}, processor time stolen {steal}, seed {}",
            millis(self.lag.p99_ms),
            number(self.connection_waits),
            self.seed
        )
    }
}

impl Progress {
    /// One line, without a line break.
    pub fn line(&self) -> String {
        let failed = number(self.failed);
        if let Phase::Confirming { done, of } = self.phase {
            return format!("looking up writes: {} of {}  failed {failed}", number(done), number(of));
        }
        let finishing = if self.phase == Phase::Finishing { ", finishing" } else { "" };
        let per_second =
            if self.last.seconds > 0.0 { self.last.requests as f64 / self.last.seconds } else { 0.0 };
        format!(
            "{:.0} s of {:.0} s{finishing}  {per_second:.0} requests/s  p50 {}  p99 {}  failed {failed} \
             ({} just now)  in flight {}",
            self.seconds,
            self.planned_seconds,
            millis(self.last.latency.p50_ms),
            millis(self.last.latency.p99_ms),
            number(self.last.failed),
            number(self.in_flight)
        )
    }
}

fn row(flow: &str, step: &str, outcomes: &Outcomes, latency: &Latency) -> Vec<String> {
    vec![
        flow.to_owned(),
        step.to_owned(),
        number(outcomes.requests()),
        number(outcomes.failed()),
        millis(latency.p50_ms),
        millis(latency.p95_ms),
        millis(latency.p99_ms),
        millis(latency.max_ms),
    ]
}

/// The first two columns are names and stand left, the others are numbers and stand right.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    const NAMES: usize = 2;
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < NAMES { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A count with its thousands apart: `1,234,567`.
pub(crate) fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A share as percent, to three decimals: `0.012` is `1.2 %`.
pub(crate) fn percent(share: f64) -> String {
    let text = format!("{:.3}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Milliseconds in the unit that reads best, to three digits.
pub(crate) fn millis(ms: f64) -> String {
    match ms {
        _ if ms < 1.0 => format!("{:.0} µs", ms * 1000.0),
        _ if ms < 10.0 => format!("{ms:.2} ms"),
        _ if ms < 100.0 => format!("{ms:.1} ms"),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1000.0),
    }
}

#[cfg(test)]
mod tests;
