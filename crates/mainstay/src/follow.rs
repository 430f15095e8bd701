//! Follows a release by its events, across agents: one that is killed is replaced, and the story goes on.

use crate::failure::Failure;
use crate::output::Output;
use api::client::{CallError, Client};
use api::operator::{Events, ReleaseSummary};
use model::name::ReleaseNumber;
use std::time::{Duration, Instant};

/// How long no agent may answer before it is given up.
const AGENT_PATIENCE: Duration = Duration::from_secs(20);

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
    let mut silent: Option<Instant> = None;
    loop {
        let path = format!("/v1/releases/{}/events?after={seen}", number.0);
        let news = match agent.get::<Events>(&path).await {
            Ok(news) => news,
            Err(CallError::Refused(problem)) => return Err(problem.into()),
            Err(error) => {
                if silent.is_none() {
                    output.say("          the agent does not answer; waiting for the next one");
                }
                let since = *silent.get_or_insert_with(Instant::now);
                if since.elapsed() > AGENT_PATIENCE {
                    return Err(error.into());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        silent = None;
        for event in &news.events {
            seen = event.seq;
            output.say(format!("  {} {:13} {}", clock(event.at_ms), event.state, event.text));
        }
        let arrived = match until {
            Until::Promoted => news.release.state == "promoted" || news.release.ended,
            Until::Ended => news.release.ended,
        };
        // The release is as it was when its events were read: what ended it is among them.
        if arrived {
            return Ok(news.release);
        }
    }
}

/// The time of day, UTC.
fn clock(at_ms: u64) -> String {
    let seconds = at_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, at_ms % 1000)
}
