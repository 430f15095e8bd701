//! `status` and `logs`.

use crate::environment::Found;
use crate::failure::Failure;
use crate::flags::LogsFlags;
use crate::follow::persist;
use crate::output::Output;
use api::gateway::{QueueHealth, QueueSummary};
use api::operator::{ReleaseSummary, Status};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How much of the end of a log is looked at for its last lines.
const TAIL_BYTES: u64 = 1024 * 1024;
/// How often a log that is followed is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// `mainstay status ENV`.
pub(crate) async fn status(found: &Found, output: Output) -> Result<ExitCode, Failure> {
    let status = agent_status(found, output).await?;
    let json = serde_json::to_value(&status).map_err(|e| Failure::machine(e.to_string()))?;
    output.data(text(&status), &json);
    let name = &found.name;
    let latest = status.releases.first().map(|release| release.state.as_str());
    // What is being stopped, tidied up or has ended cannot be taken back any more.
    let over = matches!(
        latest,
        None | Some(
            "taking_back" | "aborting" | "retiring" | "contracting" | "done" | "refused" | "rolled_back"
        )
    );
    let mut next = Vec::new();
    if let Some(queue) = status.gateway.as_ref().and_then(|gateway| gateway.queue.as_ref())
        && queue.health != QueueHealth::Green
    {
        next.push(("see what the queue needs", format!("mainstay queue status {name}")));
    }
    match over {
        false => next.push(("take the release back", format!("mainstay rollback {name}"))),
        true => next.extend([
            ("release a changed version", found.release_command()),
            ("see what became of every request", format!("mainstay history show {name}")),
        ]),
    }
    output.next(&next);
    Ok(ExitCode::SUCCESS)
}

/// The status of an environment that has to be up.
pub(crate) async fn agent_status(found: &Found, output: Output) -> Result<Status, Failure> {
    found.must_be_up().await?;
    let agent = found.agent();
    persist(output, async || agent.get("/v1/status").await).await
}

fn text(status: &Status) -> String {
    let mut text = format!("{}/{} on http://{}\n", status.workload, status.environment, status.http);
    // Writing to a String cannot fail.
    let _ = match &status.gateway {
        Some(gateway) => writeln!(
            text,
            "gateway    {} requests, {} failed, {} in flight, {} connections",
            gateway.requests, gateway.failed, gateway.in_flight, gateway.connections
        ),
        None => writeln!(text, "gateway    does not answer"),
    };
    if let Some(queue) = status.gateway.as_ref().and_then(|gateway| gateway.queue.as_ref()) {
        text.push_str(&queue_line(queue));
    }
    for stamp in &status.stamps {
        let _ = writeln!(text, "{:10} {} ({})", stamp.role, stamp.stamp, stamp.name);
        for instance in &stamp.instances {
            let state = if instance.ready { "ready" } else { "not ready" };
            let pid = instance.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
            let place = match instance.port {
                0 => "worker".to_owned(),
                port => format!("port {port}"),
            };
            let _ = write!(
                text,
                "           {}-{} {place} pid {pid} {state}",
                instance.component, instance.index
            );
            if let Some(bytes) = instance.memory {
                let _ = write!(text, ", {} MiB", bytes >> 20);
            }
            if instance.restarts > 0 {
                let _ = write!(
                    text,
                    ", {} restarts, last: {}",
                    instance.restarts,
                    instance.last_exit.as_deref().unwrap_or("?")
                );
            }
            if instance.replaced > 0 {
                let _ =
                    write!(text, ", started again {} times because its live probe failed", instance.replaced);
            }
            if let Some(why) = &instance.failing {
                let _ = write!(text, ", {why}");
            }
            text.push('\n');
        }
        for service in &stamp.all_failing {
            let _ = writeln!(
                text,
                "           every instance of {service} fails its live probe: none is started again, and all keep serving"
            );
        }
    }
    for store in &status.stores {
        let state = if store.ready { "ready" } else { "not ready" };
        let pid = store.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
        let _ = writeln!(text, "store      {} port {} pid {pid} {state}", store.component, store.port);
        if let Some(exit) = store.last_exit.as_ref().filter(|_| !store.ready) {
            let _ = writeln!(text, "           {exit}");
        }
    }
    if status.stamps.is_empty() {
        text.push_str("nothing serves yet\n");
    }
    for release in &status.releases {
        let _ = writeln!(text, "{}", release_line(release));
    }
    text.truncate(text.trim_end().len());
    text
}

/// What an operator may have to look after, with a command for more.
fn queue_line(queue: &QueueSummary) -> String {
    if let Some(trouble) = &queue.trouble {
        return format!("queue      red: queued routes refuse: {trouble}\n");
    }
    if queue.opening {
        return "queue      being read; queued requests wait for that\n".to_owned();
    }
    let health = match queue.health {
        QueueHealth::Green => "",
        QueueHealth::Yellow => "yellow: ",
        QueueHealth::Red => "red: ",
    };
    let mut line = format!("queue      {health}{} waiting", queue.depth);
    // Writing to a String cannot fail.
    let _ = match queue.depth {
        0 => Ok(()),
        _ => write!(line, ", the oldest for {:.1} s", queue.oldest_ms as f64 / 1000.0),
    };
    let dead = match queue.sagas_stuck {
        0 => "dead".to_owned(),
        1 => "dead (1 a saga that stands half undone)".to_owned(),
        stuck => format!("dead ({stuck} sagas that stand half undone)"),
    };
    for (count, what) in
        [(queue.unknown, "of unknown outcome"), (queue.dead, dead.as_str()), (queue.rejected, "rejected")]
    {
        if count > 0 {
            let _ = write!(line, ", {count} {what}");
        }
    }
    if queue.paused {
        line.push_str(", paused");
    }
    line.push('\n');
    line
}

pub(crate) fn release_line(release: &ReleaseSummary) -> String {
    let digest = release.digest.as_ref().map_or("", |digest| digest.short());
    let mut line = format!("{:10} {:12} {:12} {digest}", release.number, release.name, release.state);
    if let Some(ms) = release.switch_ms {
        let _ = write!(line, "  switched in {ms:.1} ms");
    }
    if let Some(ms) = release.rehearsal_ms {
        let _ = write!(line, "  rehearsed back in {ms:.1} ms");
    }
    if let Some(gate) = &release.gate {
        let _ = write!(line, "  {} % of users: {gate}", release.percent);
    }
    if let Some(ms) = release.rollback_ms {
        let _ = write!(line, "  taken back in {ms:.1} ms");
    }
    if let Some(ms) = release.old_kept_ms {
        let _ = write!(line, "  old stamp kept for {} s", ms / 1000);
    }
    if let Some(reason) = &release.reason_text {
        let _ = write!(line, "  {reason}");
    }
    line
}

/// `mainstay logs ENV [WHOSE]`.
pub(crate) async fn logs(found: &Found, wanted: &LogsFlags, output: Output) -> Result<ExitCode, Failure> {
    found.mark()?;
    let mut read: BTreeMap<PathBuf, u64> = BTreeMap::new();
    loop {
        let files = log_files(found, wanted.whose.as_deref())?;
        if files.is_empty() && read.is_empty() {
            let whose = wanted.whose.as_deref().unwrap_or("any instance");
            return Err(Failure::usage(format!("there is no log of {whose}"))
                .hint(format!("the logs lie in {}", found.folder.logs().display())));
        }
        let several = files.len() > 1;
        for path in files {
            let seen = read.get(&path).copied();
            let (new, end) = new_text(&path, seen, wanted.lines)?;
            read.insert(path.clone(), end);
            let whose = path.file_stem().unwrap_or_default().to_string_lossy();
            for line in new.lines() {
                let text = if several { format!("{whose}: {line}") } else { line.to_owned() };
                output.data(text, &serde_json::json!({ "log": whose, "line": line }));
            }
        }
        if !wanted.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::io::stdout().flush()?;
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

fn log_files(found: &Found, whose: Option<&str>) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(found.folder.logs())? {
        let path = entry?.path();
        let Some(stem) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".log")) else {
            continue;
        };
        // s2-api-0: the stamp, the component, the number of the copy.
        let component =
            stem.split_once('-').and_then(|(_, rest)| rest.rsplit_once('-')).map(|(name, _)| name);
        let wanted = match whose {
            Some(whose) => stem == whose || component == Some(whose),
            None => component.is_some(),
        };
        if wanted {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The last `lines` lines, or what was written after `seen`; and how far the file goes.
fn new_text(path: &std::path::Path, seen: Option<u64>, lines: usize) -> std::io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // A shorter file than before was rotated: what is in it is new.
    let from = match seen {
        Some(seen) if seen <= length => seen,
        Some(_) => 0,
        None => length.saturating_sub(TAIL_BYTES),
    };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(length - from).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if seen.is_some() {
        return Ok((text, length));
    }
    let skip = text.lines().count().saturating_sub(lines);
    Ok((text.lines().skip(skip).map(|line| format!("{line}\n")).collect(), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_somebody_has_to_look_after_says_so_first() {
        let line = |summary: QueueSummary| queue_line(&summary.judged());
        let well = QueueSummary { depth: 2, oldest_ms: 1_500, ..QueueSummary::default() };
        assert_eq!(line(well.clone()), "queue      2 waiting, the oldest for 1.5 s\n");
        let rejected = QueueSummary { rejected: 3, ..QueueSummary::default() };
        assert_eq!(line(rejected), "queue      yellow: 0 waiting, 3 rejected\n");
        let stuck = QueueSummary { dead: 2, sagas_stuck: 1, ..QueueSummary::default() };
        assert_eq!(line(stuck), "queue      red: 0 waiting, 2 dead (1 a saga that stands half undone)\n");
        let troubled = QueueSummary { trouble: Some("no room".into()), ..well };
        assert_eq!(line(troubled), "queue      red: queued routes refuse: no room\n");
    }
}
