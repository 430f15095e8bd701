//! What the demo showed, as numbers and as a table.

use crate::screen::first_line;
use serde::Serialize;
use std::fmt::Write as _;

/// What the demo showed.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// What the users saw.
    pub requests: Requests,
    /// The releases, in order.
    pub releases: Vec<ReleaseLine>,
    /// What became of the orders.
    pub ledger: Ledger,
    /// What became of the requests that were queued.
    pub queue: Queue,
    /// What was killed on purpose.
    pub kills: Kills,
    /// The latency that 99 of 100 requests stayed under, over everything.
    pub p99_ms: f64,
    /// How long the story took.
    pub seconds: f64,
    /// The promises that were broken, in words. Empty: all were kept.
    pub broken: Vec<String>,
}

/// The requests of the users.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Requests {
    /// All.
    pub total: u64,
    /// Not as expected.
    pub failed: u64,
    /// Of these, ended without a complete answer.
    pub cut: u64,
    /// Of these, in flight on an instance that ended itself, as v3-crash does.
    pub instance_kill: u64,
    /// Of these, in flight on a gateway that was killed on purpose.
    pub gateway_kill: u64,
}

/// One release.
#[derive(Debug, Clone, Serialize)]
pub struct ReleaseLine {
    /// Its name.
    pub name: String,
    /// How it ended: `done`, `rolled_back` or `refused`.
    pub outcome: String,
    /// The same, under the name it has in `status`.
    pub state: String,
    /// Why it did not get through, for programs.
    pub reason: Option<String>,
    /// The same for people, in the words of the gate where that decided.
    pub reason_text: Option<String>,
    /// What the gate looked at that decided against it: `latency`, `tail`, `crash` and so on.
    pub check: Option<String>,
    /// The percentages of users that it had, one after the other.
    pub steps: Vec<f64>,
    /// From the decision to the last request on the stamp before it.
    pub switch_ms: Option<f64>,
    /// From the decision to take it back to the last request on its stamp.
    pub rollback_ms: Option<f64>,
    /// Requests that failed while it was under way.
    pub failed: u64,
    /// Requests of users that met what is wrong with it: those that failed and, where it was taken back because it
    /// was slow, those that it answered.
    pub users_hurt: u64,
}

/// The orders, looked up one by one.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ledger {
    /// Sent.
    pub intended: u64,
    /// Answered with 201.
    pub acknowledged: u64,
    /// Acknowledged and not there.
    pub lost: u64,
    /// There more than once.
    pub duplicated: u64,
    /// Without an answer.
    pub unknown: u64,
    /// Could not be looked up.
    pub unverified: u64,
}

/// The requests to queued routes, as the gateway counted them.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Queue {
    /// Written down.
    pub accepted: u64,
    /// Of these, answered with the shop's own answer while the client waited.
    pub answered_directly: u64,
    /// Of these, answered with 202.
    pub answered_202: u64,
    /// Delivered.
    pub delivered: u64,
    /// Not wanted by the shop after they were acknowledged.
    pub rejected: u64,
    /// Given up.
    pub dead: u64,
    /// Those whose outcome became unknown.
    pub unknown: u64,
    /// The most that waited at once.
    pub max_depth: u64,
    /// From the database's coming back until nothing was left of the backlog, in seconds.
    pub drain_s: f64,
}

/// What was killed on purpose.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Kills {
    /// mainstay's agent.
    pub agent: u64,
    /// mainstay's gateway.
    pub gateway: u64,
    /// An instance of the shop, by itself.
    pub instance: u64,
}

impl Summary {
    /// The table the demo ends with.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let ms = |value: Option<f64>| value.map_or_else(String::new, |ms| format!("{ms:.1} ms"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:10} {:12} {:>7} {:>9} {:>10} {:>5}  why",
            "release", "outcome", "users", "switched", "taken back", "hurt"
        );
        for release in &self.releases {
            let users = release.steps.iter().copied().reduce(f64::max);
            let users = users.map_or_else(String::new, |percent| format!("{percent:.0} %"));
            // The rest is in the story above: what was printed, and hints.
            let words = first_line(release.reason_text.as_deref().unwrap_or(""));
            let why = match &release.check {
                Some(check) => format!("{check}: {words}"),
                None => words,
            };
            let line = format!(
                "{:10} {:12} {users:>7} {:>9} {:>10} {:>5}  {why}",
                release.name,
                release.outcome,
                ms(release.switch_ms),
                ms(release.rollback_ms),
                release.users_hurt
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let Requests { total, failed, instance_kill, .. } = self.requests;
        let Ledger { acknowledged, lost, duplicated, unknown, .. } = self.ledger;
        let _ = write!(
            text,
            "\nrequests  {total}, {} failed, p99 {:.1} ms",
            failed.saturating_sub(instance_kill),
            self.p99_ms
        );
        let _ = match instance_kill {
            0 => writeln!(text),
            in_flight => {
                writeln!(text, "; not counted: {in_flight} in flight on v3-crash's instance as it aborted")
            }
        };
        let _ = writeln!(
            text,
            "orders    {acknowledged} acknowledged, {lost} lost, {duplicated} duplicated, {unknown} without an answer"
        );
        let Queue { accepted, answered_202, max_depth, drain_s, .. } = self.queue;
        let _ = writeln!(
            text,
            "queue     {accepted} accepted, {answered_202} of them answered with 202, at most {max_depth} waiting; the backlog took {drain_s:.1} s to drain"
        );
        let _ = writeln!(
            text,
            "killed    the agent with kill -9 in the middle of a release: {}",
            self.kills.agent
        );
        let _ = match self.broken.is_empty() {
            true => write!(text, "every promise was kept, in {:.0} s", self.seconds),
            false => write!(text, "BROKEN: {}", self.broken.join("\nBROKEN: ")),
        };
        text.truncate(text.trim_end().len());
        text
    }
}
