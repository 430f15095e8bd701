//! The queue in `/metrics`. An environment without one has none of these.

use crate::desk::{Desk, State};
use crate::metrics::{label, metric, sample};
use queue::{Breaker, JobState, state_name};

/// Adds what there is to say.
pub(crate) fn render(desk: &Desk, text: &mut String) {
    let queue = match desk.state() {
        State::Unneeded => return,
        State::Opening | State::Closed(_) => None,
        State::Open(queue) => Some(queue),
    };
    let status = queue.map(|queue| queue.status());
    let works = status.as_ref().is_some_and(|status| status.trouble.is_none());
    metric(text, "queue_open", "gauge", "1 while requests to queued routes are taken on.");
    sample(text, "queue_open", "", u64::from(works));
    let Some(status) = status else { return };
    let counters = status.counters;
    for (name, help, value) in [
        ("queue_accepted_total", "Jobs that were written down.", counters.accepted),
        (
            "queue_answered_directly_total",
            "Jobs whose clients got the service's own answer.",
            counters.answered_directly,
        ),
        ("queue_answered_202_total", "Jobs whose clients got 202.", counters.answered_202),
        ("queue_repeated_total", "Requests that came again with their key.", counters.repeated),
        ("queue_refused_total", "Requests for which there was no room.", counters.refused),
        ("queue_attempts_total", "Deliveries begun, probes not among them.", counters.attempts),
        ("queue_probes_total", "Questions after what became of a delivery.", counters.probes),
        ("queue_delivered_total", "Jobs that were delivered.", counters.delivered),
        ("queue_rejected_total", "Users' jobs that the service refused for good.", counters.rejected),
        ("queue_dead_total", "Users' jobs whose attempts or time were used up.", counters.dead),
        ("queue_unknown_total", "Times that an outcome became unknown.", counters.unknown),
        ("queue_cancelled_total", "Jobs that their clients took back.", counters.cancelled),
        ("queue_dropped_total", "Jobs that operators gave up.", counters.dropped),
        (
            "queue_held_forgotten_total",
            "Dead and rejected jobs that were forgotten before anybody dealt with them.",
            counters.held_forgotten,
        ),
        (
            "queue_holds_expired_total",
            "Jobs with an unknown outcome that no longer hold up others.",
            counters.holds_expired,
        ),
        ("queue_unordered_total", "Requests without what they are ordered by.", counters.unordered),
        ("queue_sagas_complete_total", "Sagas of which every step was done.", counters.sagas_complete),
        ("queue_sagas_undone_total", "Sagas of which every step was undone.", counters.sagas_undone),
        ("queue_sagas_stuck_total", "Sagas that could not be undone.", counters.sagas_undo_dead),
    ] {
        metric(text, name, "counter", help);
        sample(text, name, "", value);
    }
    for (name, help, value) in [
        ("queue_depth", "Jobs that are waiting, under way or unknown.", status.depth),
        ("queue_depth_max", "The most of them since the start.", status.max_depth),
        ("queue_bytes", "Bytes of their requests.", status.bytes),
        ("queue_unknown", "Jobs whose outcome is unknown now.", status.unknown_now),
        ("queue_paused", "1 while an operator holds deliveries up.", u64::from(!status.paused.is_empty())),
    ] {
        metric(text, name, "gauge", help);
        sample(text, name, "", value);
    }
    metric(text, "queue_oldest_seconds", "gauge", "How long ago the oldest of them was accepted.");
    let oldest = format!("{}.{:03}", status.oldest_ms / 1000, status.oldest_ms % 1000);
    sample(text, "queue_oldest_seconds", "", oldest);
    metric(
        text,
        "queue_held_jobs",
        "gauge",
        "Jobs that stand in this state until somebody deals with them; users' where they are dead or rejected.",
    );
    for (state, value) in [
        (JobState::Dead, status.held.dead),
        (JobState::Rejected, status.held.rejected),
        (JobState::Unknown, status.unknown_now),
    ] {
        sample(text, "queue_held_jobs", &format!("{{state=\"{}\"}}", state_name(state)), value);
    }
    metric(
        text,
        "queue_stuck_sagas",
        "gauge",
        "Of the dead ones, users' sagas that could not be undone and stand half undone.",
    );
    sample(text, "queue_stuck_sagas", "", status.held.stuck_sagas);
    metric(
        text,
        "queue_breaker_open",
        "gauge",
        "By upstream: 1 while no calls are made, 0.5 while one tries.",
    );
    for upstream in &status.upstreams {
        let value = match upstream.breaker {
            Breaker::Closed => "0",
            Breaker::HalfOpen => "0.5",
            Breaker::Open => "1",
        };
        sample(text, "queue_breaker_open", &format!("{{upstream=\"{}\"}}", label(&upstream.name)), value);
    }
    metric(text, "queue_in_flight", "gauge", "Calls under way by upstream.");
    for upstream in &status.upstreams {
        let labels = format!("{{upstream=\"{}\"}}", label(&upstream.name));
        sample(text, "queue_in_flight", &labels, upstream.in_flight);
    }
}
