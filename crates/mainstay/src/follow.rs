//! Follows a release by its events, across agents: one that is killed is replaced, and the story goes on.

use crate::failure::Failure;
use crate::output::Output;
use api::client::{CallError, Client};
use api::operator::{Events, ReleaseSummary};
use model::name::ReleaseNumber;
use std::time::{Duration, Instant};

/// How soon an agent that does not answer is asked again.
const AGENT_AGAIN: Duration = Duration::from_millis(20);
/// How long no agent may answer before it is given up.
const AGENT_PATIENCE: Duration = Duration::from_secs(20);

/// Calls again until an agent has answered. Only for what may be asked twice.
pub(crate) async fn persist<A>(
    output: Output,
    mut call: impl AsyncFnMut() -> Result<A, CallError>,
) -> Result<A, Failure> {
    let began = Instant::now();
    let mut said = false;
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(CallError::Refused(problem)) => return Err(problem.into()),
            Err(error) if began.elapsed() > AGENT_PATIENCE => return Err(error.into()),
            Err(CallError::NotThere { .. } | CallError::NoAnswer { .. }) => {
                if !said {
                    output.say("  the agent does not answer; waiting for the next one");
                }
                said = true;
                tokio::time::sleep(AGENT_AGAIN).await;
            }
        }
    }
}

/// Until when a release is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Its users have moved, or it has come to its end.
    Promoted,
    /// It has come to its end.
    Ended,
}

/// Shows what happens to a release until it is where it is wanted.
pub(crate) async fn follow(
    agent: &Client,
    number: ReleaseNumber,
    after: u64,
    until: Until,
    output: Output,
) -> Result<ReleaseSummary, Failure> {
    let mut seen = after;
    loop {
        let path = format!("/v1/releases/{}/events?after={seen}", number.0);
        let news: Events = persist(output, async || agent.get(&path).await).await?;
        for event in &news.events {
            seen = event.seq;
            output.say(format!("  {} {:13} {}", clock(event.at_ms), event.state, event.text));
        }
        if let Some(gate) = news.release.gate.as_ref().filter(|_| news.events.is_empty()) {
            output.say(format!(
                "  {} {:13} {} % of users: {gate}",
                clock(now_ms()),
                news.release.state,
                news.release.percent
            ));
        }
        let arrived = match until {
            // A first release has no stamp before it to keep: it tidies up at once.
            Until::Promoted => {
                let settled = matches!(news.release.state.as_str(), "promoted" | "retiring" | "contracting");
                settled || news.release.ended
            }
            Until::Ended => news.release.ended,
        };
        // The release is as it was when its events were read: what ended it is among them.
        if arrived {
            return Ok(news.release);
        }
    }
}

fn now_ms() -> u64 {
    api::clock::unix_ms()
}

/// The time of day, UTC.
pub(crate) fn clock(at_ms: u64) -> String {
    let seconds = at_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, at_ms % 1000)
}
