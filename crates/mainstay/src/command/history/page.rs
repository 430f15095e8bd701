//! The history of a release as one HTML page with plots.
//!
//! It is read where there is no network and passed on as a file, so it holds all it needs and nothing that acts: no
//! script, and a policy (CSP) that would stop one. What comes from outside gets in through [`Text`] alone.

use crate::command::history::counts;
use crate::command::history::markup::{Text, count, day, number, took, words};
use crate::command::history::moments::{Moment, Window, joined, moments, shares, windows};
use crate::command::history::plot::{Frame, Line, Plot, percent};
use crate::follow::clock;
use api::operator::{Check, History, LedgerCounts, ReleaseEvent, ReleaseSummary, Status};
use model::verdict::Verdict;
use std::fmt::Write as _;

/// How it looks.
const STYLE: &str = include_str!("page.css");
/// How many moments a plot shows at most: about as many as there are pixels for them.
const PLOTTED: u64 = 600;
/// How many lines a table of the same numbers has at most.
const TABLED: u64 = 60;
/// How many intervals that are not accounted for are told one by one.
const GAPS_TOLD: usize = 20;
/// Numbers that are no longer than this, in bytes, are shown in one line.
const SHORT_JSON: usize = 72;

/// The page. It needs nothing else to be read.
pub(crate) fn page(status: &Status, history: &History) -> String {
    let release = &history.release;
    let place = format!("{}/{}", status.workload, status.environment);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{} {} – {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        release.number,
        Text(&release.name),
        Text(&place)
    );
    html.push_str(&heading(&place, history));
    html.push_str(&timeline(&history.events));
    html.push_str("<section>\n<h2>Requests over the time of the release</h2>\n");
    let windows = windows(&history.ledger.points, &history.events);
    match windows[..] {
        [] => html.push_str(
            "<p class=\"empty\">Nothing was counted during this release: its ledger is empty, so there is nothing \
             to plot.</p>\n",
        ),
        [moved, ref whole @ ..] => {
            html.push_str(
                "<p class=\"note\">The numbers above each plot are those of the list above. Smoke tests and warm-up \
                 are among the requests.</p>\n",
            );
            html.push_str(&plots(history, moved, "p"));
            for whole in whole {
                let _ = writeln!(
                    html,
                    "<details class=\"more\"><summary>The whole release, {}, with the time in which the old stamp \
                     was kept</summary>",
                    took(whole.length())
                );
                html.push_str(&plots(history, *whole, "w"));
                html.push_str("</details>\n");
            }
        }
    }
    html.push_str("</section>\n");
    html.push_str(&totals(history));
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

/// What the release is and what became of it.
fn heading(place: &str, history: &History) -> String {
    let release = &history.release;
    let (class, sign) = match release.state.as_str() {
        "promoted" | "retiring" | "contracting" | "done" => ("good", "✓"),
        "taking_back" | "aborting" | "rolled_back" | "refused" => ("bad", "✕"),
        _ => ("open", "…"),
    };
    let mut html = format!(
        "<header>\n<p class=\"place\">{}</p>\n<h1>Release {} <bdi class=\"name\">{}</bdi></h1>\n\
         <p class=\"outcome\"><span class=\"state {class}\"><span aria-hidden=\"true\">{sign}</span> {}</span>",
        Text(place),
        release.number,
        Text(&release.name),
        Text(&words(&release.state))
    );
    // Writing to a String cannot fail.
    if let Some(reason) = release.reason_text.as_ref().or(release.reason.as_ref()) {
        let _ = write!(html, " <span class=\"reason\">{}</span>", Text(reason));
    }
    html.push_str("</p>\n");
    if !release.ended {
        let _ = write!(
            html,
            "<p class=\"note\">When this page was written, the release had not come to its end: {} % of users were on \
             it",
            number(release.percent)
        );
        if let Some(gate) = &release.gate {
            let _ = write!(html, ", compared by {}", Text(gate));
        }
        if let Some(ms) = release.old_kept_ms {
            let _ = write!(html, ", and the old stamp was kept for {} more", took(ms));
        }
        html.push_str(".</p>\n");
    }
    html.push_str(&facts(release, &history.events));
    html.push_str("</header>\n");
    html
}

/// The numbers people look for first.
fn facts(release: &ReleaseSummary, events: &[ReleaseEvent]) -> String {
    let mut html = String::from("<dl class=\"facts\">\n");
    let mut fact = |name: &str, value: &str, what: &str| {
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{value}<small>{what}</small></dd></div>");
    };
    let times = [
        ("switched in", release.switch_ms, "from the decision to the last request on the old stamp"),
        ("taken back in", release.rollback_ms, "from the decision to the last request on the candidate"),
        ("rehearsed back in", release.rehearsal_ms, "the same, tried out before the release went on"),
    ];
    for (name, ms, what) in times {
        if let Some(ms) = ms {
            fact(name, &format!("{ms:.1} ms"), what);
        }
    }
    fact("asked for", &day(release.created_ms), &format!("{} UTC", clock(release.created_ms)));
    if let (Some(first), Some(last)) = (events.first(), events.last()) {
        let lasted = took(last.at_ms.saturating_sub(first.at_ms));
        fact(
            if release.ended { "lasted" } else { "told so far" },
            &lasted,
            "from the first event to the last",
        );
    }
    if let Some(digest) = &release.digest {
        fact("digest", &format!("<code>{}</code>", Text(digest.short())), "of artifact and configuration");
    }
    html.push_str("</dl>\n");
    html
}

/// The story.
fn timeline(events: &[ReleaseEvent]) -> String {
    let mut html = String::from("<section>\n<h2>What happened</h2>\n");
    let Some(first) = events.first() else {
        html.push_str("<p class=\"empty\">Nothing is recorded of this release yet.</p>\n</section>\n");
        return html;
    };
    html.push_str("<ol class=\"story\">\n");
    for event in events {
        let after = event.at_ms.saturating_sub(first.at_ms) as f64 / 1000.0;
        let _ = writeln!(
            html,
            "<li><span class=\"seq\">{}</span><span class=\"when\">+{after:.3} s<small>{}</small></span>\
             <span class=\"into\">{}</span><div class=\"what\"><p>{}</p>",
            event.seq,
            clock(event.at_ms),
            Text(&words(&event.state)),
            Text(&event.text)
        );
        if let Some(decision) = &event.decision {
            let (class, sign, open) = match decision.verdict {
                Verdict::Pass => ("good", "✓", ""),
                Verdict::Fail => ("bad", "✕", " open"),
                Verdict::Inconclusive => ("open", "?", " open"),
                Verdict::Invalid => ("open", "!", " open"),
            };
            let checks = if decision.checks.len() == 1 { "check" } else { "checks" };
            let _ = writeln!(
                html,
                "<details{open}><summary>decided by the gate: <span class=\"{class}\">{sign} {}</span>, {} {checks}\
                 </summary>",
                decision.verdict,
                decision.checks.len()
            );
            decision.checks.iter().for_each(|found| html.push_str(&check(found)));
            html.push_str("</details>\n");
        }
        html.push_str("</div></li>\n");
    }
    html.push_str("</ol>\n</section>\n");
    html
}

/// One thing a gate looked at.
fn check(check: &Check) -> String {
    let route =
        check.route.as_ref().map_or_else(String::new, |route| format!(" <code>{}</code>", Text(route)));
    let mut html = format!(
        "<div class=\"check\"><p><strong>{}</strong>: {}{route}<br>{}</p>",
        Text(&check.check),
        check.verdict,
        Text(&check.text)
    );
    if !check.numbers.is_null() {
        let line = check.numbers.to_string();
        // The alternate form of a JSON value is indented.
        let json = if line.len() <= SHORT_JSON { line } else { format!("{:#}", check.numbers) };
        let _ = write!(html, "<pre>{}</pre>", Text(&json));
    }
    html.push_str("</div>\n");
    html
}

/// The plots of a time, and their numbers as a table.
fn plots(history: &History, window: Window, id: &str) -> String {
    let ledger = &history.ledger;
    let told = |event: &ReleaseEvent| format!("{}: {}, {}", event.seq, words(&event.state), event.text);
    let frame = Frame {
        window,
        moments: moments(&ledger.points, window, PLOTTED),
        events: history.events.iter().map(|event| (event.at_ms, event.seq, told(event))).collect(),
        not_accounted: joined(&ledger.not_accounted, window),
    };
    let merged = frame.moments.iter().map(|moment| moment.points).max().unwrap_or(0) > 1;
    let mut html = requests(history, &frame, &format!("{id}-requests"));
    html.push_str(&latency(&frame, &format!("{id}-latency"), merged));
    html.push_str(&losses(&frame, &format!("{id}-losses")));
    html.push_str(&gaps_told(&frame.not_accounted));
    html.push_str(&table(&moments(&ledger.points, window, TABLED), window));
    html
}

fn line(
    name: &'static str,
    class: &'static str,
    moments: &[Moment],
    of: impl Fn(&Moment) -> Option<f64>,
) -> Line {
    Line { name, class, values: moments.iter().map(of).collect(), filled: false }
}

fn requests(history: &History, frame: &Frame, id: &str) -> String {
    let moments = &frame.moments;
    let active = line("active stamp", "active", moments, |m| m.rate(m.counts.active));
    let candidate = line("candidate", "candidate", moments, |m| m.rate(m.counts.candidate));
    let plot = Plot {
        id,
        title: "Requests answered",
        unit: "requests per second",
        lines: [active, candidate]
            .map(|line| Line { filled: true, values: without_rest(&line.values), ..line })
            .into(),
        shares: Some(shares(&history.ledger.points, frame.window)),
        note: "",
    };
    plot.figure(frame)
}

fn latency(frame: &Frame, id: &str, merged: bool) -> String {
    let plot = Plot {
        id,
        title: "Latency, 95th percentile",
        unit: "milliseconds",
        lines: vec![
            line("active stamp", "active", &frame.moments, |m| m.active_p95_ms),
            line("candidate", "candidate", &frame.moments, |m| m.candidate_p95_ms),
        ],
        shares: None,
        note: if merged { "Where seconds are merged, the highest of them is shown." } else { "" },
    };
    if plot.lines.iter().all(|line| line.values.iter().all(Option::is_none)) {
        return "<p class=\"empty\">No latency was measured in this time.</p>\n".into();
    }
    plot.figure(frame)
}

/// What went wrong, each kind only if there was any: most releases have none.
fn losses(frame: &Frame, id: &str) -> String {
    type Of = fn(&LedgerCounts) -> u64;
    let kinds: [(&'static str, &'static str, Of); 4] = [
        ("5xx by the service", "errors", |counts| counts.errors),
        ("failed in the gateway", "failed", |counts| counts.failed),
        ("cut", "cut", |counts| counts.cut),
        ("shed because of a limit", "shed", |counts| counts.shed),
    ];
    let (mut lines, mut none) = (Vec::new(), Vec::new());
    for (name, class, of) in kinds {
        if frame.moments.iter().all(|moment| of(&moment.counts) == 0) {
            none.push(name);
            continue;
        }
        let mut line = line(name, class, &frame.moments, |m| m.rate(of(&m.counts)));
        line.values = without_rest(&line.values);
        lines.push(line);
    }
    let none = none.join(", ");
    if lines.is_empty() {
        return format!("<p class=\"empty\">No request of this time went wrong. None: {none}.</p>\n");
    }
    let note = if none.is_empty() { none } else { format!("None: {none}.") };
    let plot = Plot {
        id,
        title: "Requests that went wrong",
        unit: "requests per second",
        lines,
        shares: None,
        note: &note,
    };
    plot.figure(frame)
}

/// The values without the zeros that have only zeros beside them: several lines on the ground hide each other.
fn without_rest(values: &[Option<f64>]) -> Vec<Option<f64>> {
    let some = |i: usize| values.get(i).copied().flatten().is_some_and(|value| value > 0.0);
    let kept = |i: usize| some(i) || some(i + 1) || (i > 0 && some(i - 1));
    values.iter().enumerate().map(|(i, value)| value.filter(|_| kept(i))).collect()
}

fn gaps_told(gaps: &[(u64, u64)]) -> String {
    if gaps.is_empty() {
        return String::new();
    }
    let mut html = String::from("<ul class=\"gaps\">\n");
    for (from, to) in gaps.iter().take(GAPS_TOLD) {
        let _ = writeln!(
            html,
            "<li>not accounted: {} to {}, when the gateway was not there or was started again</li>",
            clock(*from),
            clock(*to)
        );
    }
    if gaps.len() > GAPS_TOLD {
        let _ = writeln!(html, "<li>and {} more</li>", gaps.len() - GAPS_TOLD);
    }
    html.push_str("</ul>\n");
    html
}

/// The numbers of the plots.
fn table(moments: &[Moment], window: Window) -> String {
    let mut html = String::from(
        "<details class=\"more\"><summary>The plots as a table</summary>\n<div class=\"wide\"><table>\n<thead><tr>\
         <th scope=\"col\">seconds</th><th scope=\"col\" class=\"word\">state at the end</th><th scope=\"col\">share at the end</th>\
         <th scope=\"col\">active /s</th><th scope=\"col\">candidate /s</th><th scope=\"col\">active p95 ms</th>\
         <th scope=\"col\">candidate p95 ms</th><th scope=\"col\">5xx</th><th scope=\"col\">failed</th>\
         <th scope=\"col\">cut</th><th scope=\"col\">shed</th></tr></thead>\n<tbody>\n",
    );
    let or_none = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    for moment in moments {
        let after = |at: u64| at.saturating_sub(window.from) as f64 / 1000.0;
        let LedgerCounts { active, candidate, errors, failed, cut, shed, .. } = moment.counts;
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{:.1}–{:.1}</th><td class=\"word\">{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            after(moment.from),
            after(moment.to),
            Text(&words(&moment.state)),
            percent(moment.weight),
            or_none(moment.rate(active)),
            or_none(moment.rate(candidate)),
            or_none(moment.active_p95_ms),
            or_none(moment.candidate_p95_ms),
            count(errors),
            count(failed),
            count(cut),
            count(shed)
        );
    }
    html.push_str("</tbody>\n</table></div></details>\n");
    html
}

/// What became of every request, summed up.
fn totals(history: &History) -> String {
    let mut html = String::from(
        "<section>\n<h2>What became of every request</h2>\n<table class=\"totals\">\n\
         <caption>requests that arrived meanwhile (smoke and warm-up among them)</caption>\n<tbody>\n",
    );
    for (what, many) in counts(&history.ledger.total) {
        let class = if many == 0 { " class=\"none\"" } else { "" };
        let _ = writeln!(html, "<tr{class}><th scope=\"row\">{what}</th><td>{}</td></tr>", count(many));
    }
    html.push_str("</tbody>\n</table>\n");
    if !history.ledger.not_accounted.is_empty() {
        html.push_str(
            "<p class=\"note\">What the gateway counted in the intervals that are not accounted for may be \
             missing.</p>\n",
        );
    }
    html.push_str("</section>\n");
    html
}

#[cfg(test)]
mod tests;
