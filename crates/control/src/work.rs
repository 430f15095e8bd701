//! What the states of a release do. One task works at a time; it is dropped when the state changes, and
//! everything it does may be done again.

use crate::resolve;
use crate::retention::Kept;
use crate::router::{Router, RouterView};
use crate::stamp::StampWatch;
use api::folder::StateFolder;
use api::gateway::{INSTANCE_HEADER, PREVIEW_HEADER, STAMP_HEADER};
use api::operator::ReleaseRequest;
use model::artifact::Release;
use model::machine::{Action, Event, Reason, ReasonKind, State};
use model::name::{InstanceId, StampId};
use model::verdict::Verdict;
use runtime::Driver;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use validate::{SmokeOptions, SmokeReport, Target};

/// Everything a state may need, gathered when it is entered.
pub(crate) struct Work {
    pub(crate) state: State,
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
}

impl Outcome {
    fn event(event: Event, text: impl Into<String>) -> Self {
        Self { event: Some(event), text: text.into(), release: None, routed: None }
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
                Action::StartCandidate => self.start_candidate().await,
                Action::SmokeCandidate => self.smoke().await,
                Action::Route => {
                    routed = Some(self.router.applied(self.table).await);
                    continue;
                }
                Action::StopOld => {
                    text = self.stop(&self.old).await;
                    continue;
                }
                Action::StopCandidate => {
                    text = self.stop(&self.candidate).await;
                    continue;
                }
            };
            return Outcome { routed, ..step };
        }
        let event = match &self.state {
            State::Switching => Some(Event::Switched),
            State::Retiring => Some(Event::OldStopped),
            State::TakingBack { .. } | State::Aborting { .. } => Some(Event::CandidateStopped),
            State::Planned
            | State::Provisioning
            | State::Verifying
            | State::Promoted
            | State::Done
            | State::Refused { .. }
            | State::RolledBack { .. } => None,
        };
        Outcome { event, text, release: None, routed }
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
                let text = format!("resolved as {}", release.digest.short());
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
        match watch.clone().ready().await {
            Ok(()) => Outcome::event(Event::Ready, "every instance is ready"),
            Err(text) => Outcome::failed(ReasonKind::NotReady, text),
        }
    }

    /// Plays every flow once on every instance of the service that gets requests, through the gateway.
    async fn smoke(&self) -> Outcome {
        let configuration = &self.request.configuration;
        let instances = configuration.services[&configuration.gateway.default].instances;
        let options = SmokeOptions::new(configuration.class);
        let mut last: Option<SmokeReport> = None;
        for index in 0..instances {
            let mut target = Target::of(configuration, self.http);
            target.headers = vec![
                (STAMP_HEADER.into(), "candidate".into()),
                (PREVIEW_HEADER.into(), self.preview_token.clone()),
                (INSTANCE_HEADER.into(), index.to_string()),
            ];
            let report = validate::smoke(&target, &configuration.flows, &options).await;
            if report.verdict != Verdict::Pass {
                let text = format!("instance {index}: {}", report.text());
                return Outcome::failed(ReasonKind::Smoke, text);
            }
            last = Some(report);
        }
        let text = last.map_or_else(String::new, |report| {
            format!(
                "smoke on {instances} instance{}: {}",
                if instances == 1 { "" } else { "s" },
                report.text()
            )
        });
        Outcome::event(Event::SmokePassed, text)
    }

    /// Drains a stamp's closed slot and stops its instances.
    async fn stop(&self, stamp: &Option<(StampId, StampWatch)>) -> String {
        let Some((id, watch)) = stamp else { return "nothing was running".into() };
        let patience = self.request.configuration.drain_timeout();
        let left = self.router.drained(*id, patience).await;
        watch.stop();
        watch.clone().stopped().await;
        match left {
            0 => format!("{id} drained and stopped"),
            left => format!("{id} stopped with {left} requests in flight after {patience:?}"),
        }
    }
}
