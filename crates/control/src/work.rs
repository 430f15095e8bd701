//! What the states of a release do. One task works at a time; it is dropped when the state changes, and
//! everything it does may be done again.

use crate::capacity;
use crate::evidence::{Evidence, Sides};
use crate::gate::Gate;
use crate::hooks::{self, Hook, Hooks};
use crate::needs::Given;
use crate::observe::Observer;
use crate::resolve;
use crate::retention::Kept;
use crate::router::{Router, RouterView};
use crate::stamp::{StampWatch, Surroundings};
use crate::stores::StoresWatch;
use crate::top_up::TopUp;
use api::folder::StateFolder;
use api::gateway::{INSTANCE_HEADER, PREVIEW_HEADER, STAMP_HEADER};
use api::operator::{Decision, ReleaseRequest};
use model::artifact::Release;
use model::machine::{Action, Course, Event, Reason, ReasonKind, State};
use model::name::{ComponentName, InstanceId, ReleaseNumber, StampId};
use model::verdict::Verdict;
use model::workload::Configuration;
use runtime::{Adopted, Driver, HOOK_GRACE};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use validate::{SmokeOptions, SmokeReport, Target};

/// How often smoke on an instance is repeated that did not pass while the instance was started again because of its
/// live probe; after that what it said counts. Each time waits until the instance is ready, at most until the
/// deadline of the state.
const SMOKE_REPEATS_LIMIT: u32 = 2;

/// Everything a state may need, gathered when it is entered.
pub(crate) struct Work {
    pub(crate) state: State,
    pub(crate) number: ReleaseNumber,
    pub(crate) course: Course,
    /// When the state was come to, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// What was asked for, once it is resolved.
    pub(crate) release: Option<Release>,
    /// The release of the stamp that served when this one began.
    pub(crate) old_release: Option<Arc<Release>>,
    pub(crate) stores: StoresWatch,
    /// The address of each store and external of the release.
    pub(crate) given: BTreeMap<ComponentName, Given>,
    pub(crate) surroundings: Option<Arc<Surroundings>>,
    pub(crate) observer: Observer,
    pub(crate) evidence: Arc<Mutex<Evidence>>,
    pub(crate) folder: StateFolder,
    pub(crate) name: String,
    pub(crate) kept: Kept,
    pub(crate) driver: Arc<Driver>,
    /// The instances of the stamps there are.
    pub(crate) running: BTreeSet<InstanceId>,
    pub(crate) request: ReleaseRequest,
    pub(crate) router: Router,
    /// The serial of this state's table.
    pub(crate) table: u64,
    pub(crate) candidate: Option<(StampId, StampWatch)>,
    pub(crate) old: Option<(StampId, StampWatch)>,
    pub(crate) preview_token: String,
    /// The address the gateway was started with.
    pub(crate) http: SocketAddr,
}

/// What came of a state's work.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// None for states that wait for a deadline or an operator.
    pub(crate) event: Option<Event>,
    /// For the story of the release.
    pub(crate) text: String,
    pub(crate) release: Option<Release>,
    /// The gateway, once it had taken on the table of this state.
    pub(crate) routed: Option<RouterView>,
    /// What a gate decided, with its numbers.
    pub(crate) decision: Option<Decision>,
    /// Stores whose schema was contracted, and to what version.
    pub(crate) contracted: Vec<(ComponentName, u32)>,
}

impl Outcome {
    fn event(event: Event, text: impl Into<String>) -> Self {
        Self {
            event: Some(event),
            text: text.into(),
            release: None,
            routed: None,
            decision: None,
            contracted: Vec::new(),
        }
    }

    pub(crate) fn decided(event: Event, text: String, decision: Decision) -> Self {
        Self { decision: Some(decision), ..Self::event(event, text) }
    }

    pub(crate) fn failed(kind: ReasonKind, text: String) -> Self {
        let reason = Reason { kind, text: text.clone() };
        Self::event(Event::Failed { reason }, text)
    }
}

impl Work {
    /// Does what the state does, in order.
    pub(crate) async fn perform(self) -> Outcome {
        let mut routed = None;
        let mut text = String::new();
        for action in model::machine::actions(&self.state) {
            let step = match action {
                Action::Resolve => self.resolve().await,
                Action::Expand => self.expand().await,
                Action::StartCandidate => self.start_candidate().await,
                Action::SmokeCandidate => self.smoke().await,
                Action::WarmCandidate => self.warm().await,
                Action::Judge => self.judge().await,
                Action::Contract => self.contract().await,
                Action::Route => {
                    routed = Some(self.router.applied(self.table).await);
                    continue;
                }
                Action::StopOld => {
                    let configuration = self.old_release.as_ref().map(|old| &old.configuration);
                    text = self.stop(&self.old, configuration.unwrap_or(&self.request.configuration)).await;
                    continue;
                }
                Action::StopCandidate => {
                    self.stop_hooks().await;
                    text = self.stop(&self.candidate, &self.request.configuration).await;
                    continue;
                }
            };
            return Outcome { routed, ..step };
        }
        if model::machine::falls_back(&self.state)
            && let Some(tripped) = self.tripped().await
        {
            return Outcome { routed, ..tripped };
        }
        let event = match &self.state {
            State::Switching | State::RehearsingForward => Some(Event::Switched),
            State::RehearsingBack => Some(Event::Returned),
            State::Retiring => Some(Event::OldStopped),
            State::TakingBack { .. } | State::Aborting { .. } => Some(Event::CandidateStopped),
            State::Planned
            | State::Expanding
            | State::Provisioning
            | State::Verifying
            | State::Warming
            | State::Shifting { .. }
            | State::Baking
            | State::Contracting
            | State::Promoted
            | State::Done
            | State::Refused { .. }
            | State::RolledBack { .. } => None,
        };
        Outcome { event, text, release: None, routed, decision: None, contracted: Vec::new() }
    }

    async fn resolve(&self) -> Outcome {
        let (folder, name, request) = (self.folder.clone(), self.name.clone(), self.request.clone());
        let kept = self.kept.clone();
        // What stopped stamps have left in `run/`. The candidate has no instances yet.
        if let Err(error) = self.driver.sweep(&self.running).await {
            tracing::warn!("{error}");
        }
        let work = tokio::task::spawn_blocking(move || {
            kept.clean(&folder);
            resolve::resolve(&folder, name, request)
        });
        match work.await {
            Ok(Ok(release)) => {
                let limited = release.configuration.services.values().any(|s| s.limits.memory.is_some());
                let memory =
                    if limited { "; `limits.memory` is watched by the gate, not enforced" } else { "" };
                let old = self.old_release.as_ref().map(|old| &old.configuration);
                let differ = old.map(|old| capacity::differences(old, &release.configuration));
                let differ = differ.and_then(|differ| capacity::differences_text(&differ));
                let differ = differ.map_or_else(String::new, |text| format!("; {text}"));
                let text = format!("resolved as {}{memory}{differ}", release.digest.short());
                Outcome { release: Some(release), ..Outcome::event(Event::Resolved, text) }
            }
            Ok(Err(error)) => Outcome::failed(ReasonKind::Artifact, error.text()),
            Err(error) => Outcome::failed(ReasonKind::Artifact, error.to_string()),
        }
    }

    async fn start_candidate(&self) -> Outcome {
        let Some((_, watch)) = &self.candidate else {
            return Outcome::failed(ReasonKind::NotReady, "the candidate has no stamp".into());
        };
        if let Err(text) = self.stores.clone().ready().await {
            return Outcome::failed(ReasonKind::Store, text);
        }
        match watch.clone().ready().await {
            Ok(()) => Outcome::event(Event::Ready, "every instance is ready"),
            Err(text) => Outcome::failed(ReasonKind::NotReady, text),
        }
    }

    /// Runs the `expand` hooks, then plays every flow on every instance of the stamp that serves: the code of before
    /// has to work on the new schema.
    async fn expand(&self) -> Outcome {
        let hooks = match self.hooks() {
            Ok(hooks) => hooks,
            Err(outcome) => return *outcome,
        };
        // Only what worked before is held against the schema. Once a hook has begun there is no before.
        let failed_before = match &self.old_release {
            Some(old) if !hooks.have_begun(Hook::Expand) => self.play(&old.configuration, &[]).await.err(),
            Some(_) | None => None,
        };
        let ran = hooks.run(Hook::Expand).await;
        let text = ran.text();
        if let Some(outcome) = ran.failed {
            return outcome;
        }
        let Some(old) = &self.old_release else { return Outcome::event(Event::Expanded, text) };
        if let Some(failed) = failed_before {
            let text = format!("{text}; {} did not pass its smoke before that either: {failed}", old.name);
            return Outcome::event(Event::Expanded, text);
        }
        match self.play(&old.configuration, &[]).await {
            Ok(played) => {
                Outcome::event(Event::Expanded, format!("{text}; the stamp before on it: {played}"))
            }
            Err(text) => {
                let text = format!("{} does not work on the new schema: {text}", old.name);
                Outcome::failed(ReasonKind::Schema, text)
            }
        }
    }

    async fn contract(&self) -> Outcome {
        let hooks = match self.hooks() {
            Ok(hooks) => hooks,
            Err(outcome) => return *outcome,
        };
        let ran = hooks.run(Hook::Contract).await;
        let text = ran.text();
        let stores = &self.request.configuration.stores;
        let version = |name: &ComponentName| Some((name.clone(), stores.get(name)?.schema?.newest));
        let contracted = ran.done.iter().filter_map(|(name, _)| version(name)).collect();
        let outcome = match ran.failed {
            None => Outcome::event(Event::Contracted, text),
            Some(outcome) => {
                let text = format!("{}; the schema stays expanded, and users are served", outcome.text);
                Outcome { text, ..outcome }
            }
        };
        Outcome { contracted, ..outcome }
    }

    fn hooks(&self) -> Result<Hooks, Box<Outcome>> {
        let (Some(release), Some(surroundings)) = (&self.release, &self.surroundings) else {
            let text = "the release is not resolved".to_owned();
            return Err(Box::new(Outcome::failed(ReasonKind::Machine, text)));
        };
        Ok(Hooks {
            number: self.number,
            release: Arc::new(release.clone()),
            surroundings: Arc::clone(surroundings),
            stores: self.stores.clone(),
            given: self.given.clone(),
        })
    }

    /// Plays every flow once on every instance of the candidate that gets requests, through the gateway.
    async fn smoke(&self) -> Outcome {
        let configuration = &self.request.configuration;
        match self.play(configuration, &[(STAMP_HEADER, "candidate")]).await {
            Ok(text) => Outcome::event(Event::SmokePassed, text),
            Err(text) => Outcome::failed(ReasonKind::Smoke, text),
        }
    }

    /// Plays every flow once on every instance of the stamp that `headers` pick.
    async fn play(&self, configuration: &Configuration, headers: &[(&str, &str)]) -> Result<String, String> {
        let default = &configuration.gateway.default;
        // Every instance of a candidate; of a stamp that serves, those that are there just now.
        let indexes: Vec<u32> = match (headers.is_empty(), &self.old) {
            (true, Some((_, old))) => old.ready_indexes(default),
            (true, None) | (false, _) => (0..configuration.services[default].instances).collect(),
        };
        if indexes.is_empty() {
            return Err("no instance is ready".into());
        }
        let stamp = match headers.is_empty() {
            true => &self.old,
            false => &self.candidate,
        };
        let Some((_, stamp)) = stamp else { return Err("it has no stamp".into()) };
        let instances = indexes.len();
        let options = SmokeOptions::new(configuration.class);
        let mut last: Option<SmokeReport> = None;
        for index in indexes {
            let mut target = Target::of(configuration, self.http);
            let pick = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            target.headers = pick.collect();
            target.headers.push((PREVIEW_HEADER.into(), self.preview_token.clone()));
            target.headers.push((INSTANCE_HEADER.into(), index.to_string()));
            let mut repeats = 0;
            let report = loop {
                let subject = stamp.subject(default, index).await?;
                let report = validate::smoke(&target, &configuration.flows, &options).await;
                let again = report.verdict != Verdict::Pass && subject.was_replaced();
                if !again || repeats == SMOKE_REPEATS_LIMIT {
                    break report;
                }
                repeats += 1;
            };
            if report.verdict != Verdict::Pass {
                return Err(format!("instance {index}: {}", report.text()));
            }
            last = Some(report);
        }
        let many = if instances == 1 { "" } else { "s" };
        Ok(last.map_or_else(String::new, |report| {
            format!("smoke on {instances} instance{many}: {}", report.text())
        }))
    }

    /// Plays read flows on the candidate, whatever they answer: what they fill and open is what counts.
    async fn warm(&self) -> Outcome {
        let time = self.request.configuration.policy.warm_up;
        let text = self.top_up(true).warm(&self.request.configuration, time).await;
        Outcome::event(Event::Warmed, text)
    }

    async fn judge(&self) -> Outcome {
        let Some((candidate, watch)) = &self.candidate else {
            return Outcome::failed(ReasonKind::Machine, "the candidate has no stamp".into());
        };
        let policy = &self.request.configuration.policy;
        let partial = model::machine::weight(&self.course, &self.state);
        let (weight, time) = match partial {
            0 => (10_000, policy.bake),
            partial => (partial, policy.step_time),
        };
        let gate = Gate {
            configuration: self.request.configuration.clone(),
            sides: Sides { old: self.old.as_ref().map(|(id, _)| *id), candidate: *candidate, weight },
            time,
            since_ms: self.since_ms,
            candidate: watch.clone(),
            router: self.router.clone(),
            observer: self.observer.clone(),
            evidence: Arc::clone(&self.evidence),
            top_up: self.top_up(partial > 0),
        };
        gate.judge().await
    }

    fn top_up(&self, compared: bool) -> TopUp {
        TopUp { http: self.http, preview_token: self.preview_token.clone(), compared }
    }

    /// A hook of a release that is given up is stopped: nobody waits for it any longer.
    async fn stop_hooks(&self) {
        for id in hooks::ids(self.number, &self.request.configuration) {
            match self.driver.adopt(&id).await {
                Ok(Adopted::Running(hook)) => {
                    if let Err(error) = hook.stop(HOOK_GRACE).await {
                        tracing::error!("{error}");
                    }
                }
                Ok(Adopted::Ended(_) | Adopted::Gone) => {}
                Err(error) => tracing::error!(hook = %id, "cannot tell whether it runs: {error}"),
            }
        }
    }

    /// The gateway's guard may have tripped while users were moved: then they are with the old stamp already.
    async fn tripped(&self) -> Option<Outcome> {
        let watched = self.router.look().await?.watched?;
        let (candidate, _) = self.candidate.as_ref()?;
        watched.tripped.filter(|_| watched.stamp == *candidate)?;
        let text = format!(
            "candidate {} errors of {} requests: the gateway took its users back",
            watched.errors, watched.requests
        );
        Some(Outcome::failed(ReasonKind::Errors, text))
    }

    /// Drains a stamp's closed slot and stops its instances.
    async fn stop(&self, stamp: &Option<(StampId, StampWatch)>, configuration: &Configuration) -> String {
        let Some((id, watch)) = stamp else { return "nothing was running".into() };
        let patience = configuration.drain_timeout();
        watch.keep();
        let left = self.router.drained(*id, patience).await;
        watch.stop();
        watch.clone().stopped().await;
        match left {
            0 => format!("{id} drained and stopped"),
            left => format!("{id} stopped with {left} requests in flight after {patience:?}"),
        }
    }
}
