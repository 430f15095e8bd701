//! The gate of a step: whether the candidate may have more users, must give back those it has, or neither yet.
//!
//! It asks four things at once: has an instance ended, has the gateway's own guard tripped, what do the gateway's
//! counts say, and is the step long enough. The first that decides, decides.

use crate::evidence::{Evidence, Sides, check};
use crate::observe::{Increment, Observer};
use crate::router::Router;
use crate::stamp::StampWatch;
use crate::top_up::TopUp;
use crate::work::Outcome;
use api::clock::unix_ms;
use api::gateway::{RouteMeasures, Tripped, Watched};
use api::operator::{Check, Decision};
use model::machine::{Event, ReasonKind};
use model::verdict::Verdict;
use model::workload::{Configuration, OnInconclusive, ReleasePolicy};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior};

/// How often the gateway is asked whether its guard has tripped.
const TRIPPED_LOOK: Duration = Duration::from_millis(50);
/// A count this much before the end of a step is one to its end.
const COUNT_SLACK: Duration = Duration::from_millis(100);
/// The share of its memory limit from which on an instance is about to fail.
const MEMORY_SHARE: f64 = 0.9;
/// The most checks that are recorded with a decision; what is left out is said.
const CHECKS_RECORDED: usize = 50;

/// What one step needs to know.
pub(crate) struct Gate {
    pub(crate) configuration: Configuration,
    pub(crate) sides: Sides,
    /// How long the step lasts at least.
    pub(crate) time: Duration,
    /// When it began, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    pub(crate) candidate: StampWatch,
    pub(crate) router: Router,
    pub(crate) observer: Observer,
    pub(crate) evidence: Arc<Mutex<Evidence>>,
    pub(crate) top_up: TopUp,
}

impl Gate {
    /// Waits for the decision. Cancel-safe: what was seen stays.
    pub(crate) async fn judge(self) -> Outcome {
        let mut increments = self.observer.increments();
        self.with_evidence(|evidence| evidence.begin_step(self.sides.weight));
        if self.sides.weight == 10_000 {
            let (requests, errors) = self.before().await.unwrap_or_default();
            self.with_evidence(|evidence| evidence.alone(requests, errors));
        }
        let spent = Duration::from_millis(unix_ms().saturating_sub(self.since_ms)).min(self.time);
        let ends = Instant::now() + self.time - spent;
        let patience = ends + ReleasePolicy::patience(self.time).saturating_sub(self.time);
        let mut look = tokio::time::interval(TRIPPED_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let crashed = self.candidate.clone().crashed();
        tokio::pin!(crashed);
        let mut topped_up = false;
        loop {
            let mut counted = false;
            tokio::select! {
                text = &mut crashed => return self.crash(text),
                _ = look.tick() => {
                    if let Some(watched) = self.tripped().await {
                        return self.exposed(&watched);
                    }
                }
                increment = increments.recv() => match increment {
                    Ok(increment) => {
                        self.take(&increment);
                        counted = true;
                    }
                    // The seconds that were missed are missing on both sides.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                },
            }
            if let Some(outcome) = self.against() {
                return outcome;
            }
            // A step that is over is decided with what was counted to its end.
            let now = Instant::now();
            let over = counted && now + COUNT_SLACK >= ends;
            if !over && now < patience {
                continue;
            }
            match self.lacking() {
                None => return self.pass(None),
                Some(lack) if now >= patience => return self.inconclusive(lack),
                Some(lack) if !topped_up && lack.sample => {
                    topped_up = true;
                    // Crashes and the guard are watched meanwhile.
                    let played = tokio::select! {
                        text = &mut crashed => return self.crash(text),
                        watched = self.trips() => return self.exposed(&watched),
                        played = self.top_up.play(&self.configuration) => played,
                    };
                    while let Ok(increment) = increments.try_recv() {
                        self.take(&increment);
                    }
                    if let Some(outcome) = self.against() {
                        return outcome;
                    }
                    if let Some(outcome) = self.after_top_up(played, &lack) {
                        return outcome;
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Requests and errors of the stamp before, in all its time in this gateway.
    async fn before(&self) -> Option<(u64, u64)> {
        let measures = self.router.measures().await?;
        let old = measures.stamps.into_iter().find(|stamp| Some(stamp.stamp) == self.sides.old)?;
        let sum = |of: fn(&RouteMeasures) -> u64| old.routes.iter().map(of).sum();
        Some((sum(|route| route.requests), sum(|route| route.errors)))
    }

    fn with_evidence<T>(&self, work: impl FnOnce(&mut Evidence) -> T) -> T {
        work(&mut self.evidence.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, increment: &Increment) {
        let step = self.with_evidence(|evidence| {
            evidence.take(increment, self.sides, &self.configuration);
            evidence.step()
        });
        self.observer.tell(format!(
            "{} requests on the candidate, {} errors; {} and {} on the stamp before",
            step.candidate_requests, step.candidate_errors, step.active_requests, step.active_errors
        ));
    }

    async fn tripped(&self) -> Option<Watched> {
        let watched = self.router.look().await?.watched?;
        (watched.stamp == self.sides.candidate && watched.tripped.is_some()).then_some(watched)
    }

    async fn trips(&self) -> Watched {
        loop {
            if let Some(watched) = self.tripped().await {
                return watched;
            }
            tokio::time::sleep(TRIPPED_LOOK).await;
        }
    }

    /// What is bad enough to take the candidate back.
    fn against(&self) -> Option<Outcome> {
        for (id, resident, limit) in self.candidate.memory() {
            if resident as f64 > limit as f64 * MEMORY_SHARE {
                let text = format!(
                    "{id} holds {} MiB of the {} MiB it may",
                    resident / (1 << 20),
                    limit / (1 << 20)
                );
                let numbers = serde_json::json!({ "resident": resident, "limit": limit });
                return Some(fail(
                    ReasonKind::Memory,
                    vec![check("memory", None, Verdict::Fail, text, &numbers)],
                ));
            }
        }
        let found = self.with_evidence(|evidence| evidence.against());
        let kind = match found.first()?.check.as_str() {
            "latency" | "tail" => ReasonKind::Latency,
            "objective" if found[0].numbers["what"] == "over_p99" => ReasonKind::Latency,
            _ => ReasonKind::Errors,
        };
        Some(fail(kind, found))
    }

    /// What a step that has lasted long enough still lacks.
    fn lacking(&self) -> Option<Lack> {
        let (step, suspicion) = self.with_evidence(|evidence| (evidence.step(), evidence.suspicious()));
        let wanted = self.configuration.policy.min_requests;
        if step.candidate_requests < wanted {
            let text = format!("{} of {wanted} requests", step.candidate_requests);
            return Some(Lack { text, sample: true });
        }
        suspicion.map(|text| Lack { text, sample: false })
    }

    fn pass(&self, also: Option<Check>) -> Outcome {
        let (step, mut checks) = self.with_evidence(|evidence| (evidence.step(), evidence.in_favour()));
        let share = f64::from(self.sides.weight) / 100.0;
        let mut text = format!(
            "{share} % of users for {:.0?}: candidate {} of {} requests failed",
            self.time, step.candidate_errors, step.candidate_requests
        );
        if step.active_requests > 0 {
            text += &format!(", the stamp before {} of {}", step.active_errors, step.active_requests);
        }
        if let Some(also) = also {
            text = format!("{text}; {}", also.text);
            checks.insert(0, also);
        }
        Outcome::decided(Event::GatePassed, text, decision(Verdict::Pass, checks))
    }

    fn after_top_up(&self, played: Option<Check>, lack: &Lack) -> Option<Outcome> {
        // Without a flow that may be played there is nothing to do but wait.
        let mut played = played?;
        played.text = format!("live traffic was too little ({}); {}", lack.text, played.text);
        match played.verdict {
            Verdict::Pass => Some(self.pass(Some(played))),
            Verdict::Fail => {
                let kind = match played.numbers["slower"].as_bool() {
                    Some(true) => ReasonKind::Latency,
                    Some(false) | None => ReasonKind::Errors,
                };
                Some(fail(kind, vec![played]))
            }
            Verdict::Inconclusive | Verdict::Invalid => None,
        }
    }

    fn inconclusive(&self, lack: Lack) -> Outcome {
        let text =
            format!("too little to tell after {:.0?}: {}", ReleasePolicy::patience(self.time), lack.text);
        let numbers = serde_json::json!({ "min_requests": self.configuration.policy.min_requests });
        match self.configuration.policy.on_inconclusive {
            OnInconclusive::Continue => {
                let text = format!("{text}; going on, as `on_inconclusive` says");
                let check = check("sample", None, Verdict::Inconclusive, text.clone(), &numbers);
                Outcome::decided(Event::GatePassed, text, decision(Verdict::Inconclusive, vec![check]))
            }
            OnInconclusive::Abort => {
                let hint = "hint: a longer `step_time`, a smaller `min_requests`, or a flow that only reads";
                let check = check("sample", None, Verdict::Inconclusive, format!("{text}; {hint}"), &numbers);
                fail(ReasonKind::Inconclusive, vec![check])
            }
        }
    }

    fn crash(&self, text: String) -> Outcome {
        let check = check("crash", None, Verdict::Fail, text, &serde_json::json!({}));
        fail(ReasonKind::Crash, vec![check])
    }

    /// The gateway has already taken the users back.
    fn exposed(&self, watched: &Watched) -> Outcome {
        let limit = self.configuration.policy.max_excess_errors;
        let (kind, what, text) = match watched.tripped {
            Some(Tripped::Connects) => {
                let text =
                    format!("{} connections were not taken by the candidate", watched.connect_failures);
                (ReasonKind::Crash, "crash", text)
            }
            Some(Tripped::Errors) | None => {
                let text = format!(
                    "candidate {} errors of {} requests, the stamp before {} of {}: the gateway took its users back \
                     at {limit} errors too many",
                    watched.errors, watched.requests, watched.other_errors, watched.other_requests
                );
                (ReasonKind::Errors, "exposure", text)
            }
        };
        fail(kind, vec![check(what, None, Verdict::Fail, text, watched)])
    }
}

/// What keeps a step from passing.
struct Lack {
    text: String,
    /// Whether more requests would help.
    sample: bool,
}

fn fail(kind: ReasonKind, checks: Vec<Check>) -> Outcome {
    let text = checks.first().map_or_else(String::new, |check| check.text.clone());
    let verdict = checks.first().map_or(Verdict::Fail, |check| check.verdict);
    Outcome { decision: Some(decision(verdict, checks)), ..Outcome::failed(kind, text) }
}

fn decision(verdict: Verdict, mut checks: Vec<Check>) -> Decision {
    checks.truncate(CHECKS_RECORDED);
    Decision { verdict, checks }
}
