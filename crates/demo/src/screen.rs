//! What is shown of the story: a line for each thing that happens, and how the users of a release move.

use crate::Told;
use crate::stage::Stage;
use api::operator::{History, ReleaseSummary};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// How often a release is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often its progress is told where it cannot replace itself.
const TELL: Duration = Duration::from_secs(2);
/// How wide the bar is, in characters.
const BAR: usize = 10;
/// How much of what happened is shown, in characters.
const TEXT_LIMIT: usize = 120;
/// How much of what replaces itself is shown, in characters: a line that wraps cannot be replaced.
const PROGRESS_LIMIT: usize = 79;

/// Where the story is shown.
pub(crate) struct Screen<'a, S> {
    say: &'a S,
    terminal: bool,
    began: Instant,
}

/// A release as far as it was shown.
#[derive(Debug)]
pub(crate) struct Shown {
    name: String,
    /// The last event that was shown.
    seq: u64,
}

impl Shown {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), seq: 0 }
    }
}

impl<'a, S: Fn(Told<'_>)> Screen<'a, S> {
    pub(crate) fn new(say: &'a S, terminal: bool) -> Self {
        Self { say, terminal, began: Instant::now() }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Something happens in the story.
    pub(crate) fn line(&self, text: &str) {
        (self.say)(Told::Line(&format!("{:5.1} s  {text}", self.seconds())));
    }

    /// How something stands. `told` is when that was last said where it cannot replace itself.
    pub(crate) fn progress(&self, text: &str, told: &mut Instant) {
        if self.terminal {
            (self.say)(Told::Progress(&cut(&format!("  {text}"), PROGRESS_LIMIT)));
        } else if told.elapsed() >= TELL {
            *told = Instant::now();
            self.line(&format!("   {text}"));
        }
    }

    /// Shows what happens to a release while `work` is done, and gives what came of that.
    pub(crate) async fn show<T>(
        &self,
        stage: &Stage,
        shown: &mut Shown,
        failed: impl Fn() -> u64,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Instant::now();
        loop {
            tokio::select! {
                done = &mut work => {
                    // What ended it is shown as well.
                    self.look(stage, shown).await;
                    return done;
                }
                _ = looks.tick() => {
                    let Some((release, history)) = self.look(stage, shown).await else { continue };
                    let Some(text) = standing(&release, &history, failed()) else { continue };
                    self.progress(&text, &mut told);
                }
            }
        }
    }

    /// Leaves out what has happened so far.
    pub(crate) async fn skip(&self, stage: &Stage, shown: &mut Shown) {
        let Ok(status) = stage.status().await else { return };
        let number = status.releases.iter().find(|release| release.name == shown.name).map(|r| r.number);
        if let Some(number) = number
            && let Ok(history) = stage.history(number).await
        {
            shown.seq = history.events.last().map_or(0, |event| event.seq);
        }
    }

    /// Shows what is new. None while the release is not known, or no agent answers: the next look tells.
    async fn look(&self, stage: &Stage, shown: &mut Shown) -> Option<(ReleaseSummary, History)> {
        let status = stage.status().await.ok()?;
        let release = status.releases.into_iter().find(|release| release.name == shown.name)?;
        let history = stage.history(release.number).await.ok()?;
        for event in history.events.iter().filter(|event| event.seq > shown.seq) {
            self.line(&format!("   {:13} {}", event.state, first_line(&stage.shortened(&event.text))));
        }
        shown.seq = history.events.last().map_or(shown.seq, |event| event.seq.max(shown.seq));
        Some((release, history))
    }
}

/// How a release stands that has users. None: there is nothing to say of it.
fn standing(release: &ReleaseSummary, history: &History, failed: u64) -> Option<String> {
    let about = match (release.state.as_str(), release.old_kept_ms) {
        ("shifting" | "switching" | "baking", _) => numbers(history),
        ("promoted", Some(kept)) => format!("the stamp before is kept warm for {} s", kept / 1000),
        _ => return None,
    };
    Some(format!("{} {:.0} % of users; {about}; {failed} failed", bar(release.percent), release.percent))
}

/// The second before, in numbers.
fn numbers(history: &History) -> String {
    let last = history.ledger.points.last().filter(|point| point.weight > 0);
    match last.map(|point| (point, point.active_p95_ms, point.candidate_p95_ms)) {
        Some((point, Some(active), Some(candidate))) => {
            let rate = |count: u64| count as f64 * 1000.0 / point.span_ms.max(1) as f64;
            format!(
                "old {:.0}/s {active:.0} ms, new {:.0}/s {candidate:.0} ms (p95)",
                rate(point.counts.active),
                rate(point.counts.candidate)
            )
        }
        Some((_, None, _) | (_, Some(_), None)) | None => "counting".into(),
    }
}

fn bar(percent: f64) -> String {
    let full = (percent / 100.0 * BAR as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full.min(BAR)), "-".repeat(BAR.saturating_sub(full)))
}

/// What happened, as one line that is not too long: logs follow it, and hints.
pub(crate) fn first_line(text: &str) -> String {
    cut(text.lines().next().unwrap_or(""), TEXT_LIMIT)
}

fn cut(line: &str, limit: usize) -> String {
    match line.char_indices().nth(limit) {
        // The last place is the ellipsis's.
        Some(_) => format!("{}…", line.chars().take(limit - 1).collect::<String>().trim_end()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_its_percentage() {
        let cases =
            [(0.0, "[----------]"), (10.0, "[#---------]"), (50.0, "[#####-----]"), (100.0, "[##########]")];
        for (percent, expected) in cases {
            assert_eq!(bar(percent), expected, "{percent}");
        }
    }

    #[test]
    fn a_line_is_the_first_one_and_not_too_long() {
        assert_eq!(first_line("not ready\nlog 1\nlog 2"), "not ready");
        assert_eq!(first_line(""), "");
        let long = first_line(&"é".repeat(TEXT_LIMIT + 1));
        assert_eq!(long, format!("{}…", "é".repeat(TEXT_LIMIT - 1)));
        assert_eq!(first_line(&"é".repeat(TEXT_LIMIT)), "é".repeat(TEXT_LIMIT));
    }
}
