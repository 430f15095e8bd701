//! One step of the release machine: what is recorded, what the gateway is told, what runs, what is done.

use crate::agent::{ACT_FIRST_LIMIT, Agent, AgentError, RECORD_AGAIN_AFTER, Unrecorded};
use crate::hooks;
use crate::instance::Want;
use crate::observe::Watching;
use crate::router::RouterView;
use crate::stamp::{Stamp, Surroundings};
use crate::stores::StoreSurroundings;
use crate::table::persist_of;
use crate::work::{Outcome, Work};
use api::clock::{monotonic_ns, unix_ms};
use api::gateway::Persist;
use model::artifact::Release;
use model::machine::{self, Event, Order, ReasonKind, Side, State};
use model::name::{InstanceId, StampId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use store::commit::WriteError;
use store::records::Findings;
use tokio::task::JoinSet;
use tokio::time::Instant;

impl Agent {
    /// One step of the machine: recorded and acted in the order the new state asks for.
    pub(crate) async fn event(
        &mut self,
        event: Event,
        text: String,
        mut findings: Findings,
    ) -> Result<(), AgentError> {
        let Some(current) = &self.current else { return Ok(()) };
        let decided_ns = monotonic_ns();
        let from = current.record.state.clone();
        let state = match machine::next(&current.course, &from, &event) {
            Ok(state) => state,
            Err(not_possible) => {
                tracing::info!("{not_possible}");
                return Ok(());
            }
        };
        if state == from {
            // Tried again, with all the time it has.
            if let Some(current) = &mut self.current {
                current.record.state_since_ms = unix_ms();
            }
            self.enter();
            return Ok(());
        }
        if machine::order(&state) == Order::ActThenRecord
            && let Some(table) = self.table(&state)
        {
            let serial = self.want(&state, table, Persist::After);
            let lost = match &self.current {
                Some(current) if current.share() > 0 => self.candidate(),
                Some(_) | None => None,
            };
            let routed = tokio::time::timeout(ACT_FIRST_LIMIT, self.router.applied(serial)).await.ok();
            findings.rollback_ns = since(Some(decided_ns), routed.as_ref(), lost);
        }
        match self.record(&state, &findings, &text).await {
            Ok(()) => {}
            Err(WriteError::Full) if forward(&state) => {
                let reason = machine::Reason {
                    kind: machine::ReasonKind::Machine,
                    text: format!("the disk is full: {state} could not be recorded"),
                };
                let (text, failed) = (reason.text.clone(), Event::Failed { reason });
                return Box::pin(self.event(failed, text, Findings::default())).await;
            }
            Err(WriteError::Full) => {
                tracing::error!("the disk is full: {state} is not recorded yet");
                self.set_unrecorded(findings.clone(), text);
            }
            Err(error) => return Err(error.into()),
        }
        let current = self.current.as_mut().expect("it was there above");
        current.record.state = state;
        current.record.state_since_ms = unix_ms();
        current.record.switch_ns = findings.switch_ns.or(current.record.switch_ns);
        current.record.rollback_ns = findings.rollback_ns.or(current.record.rollback_ns);
        current.record.rehearsal_ns = findings.rehearsal_ns.or(current.record.rehearsal_ns);
        current.record.release = findings.release.or(current.record.release.take());
        current.decided_ns = Some(decided_ns);
        current.begun = false;
        self.crash.recorded(current.record.number, &current.record.state);
        self.tell_news();
        self.ensure_stamps().await?;
        self.enter();
        self.begin_waiting().await
    }

    async fn record(&mut self, state: &State, findings: &Findings, text: &str) -> Result<(), WriteError> {
        let current = self.current.as_ref().expect("there is a release to record");
        let number = current.record.number;
        self.records.transition(number, state.clone(), findings.clone(), text.into(), unix_ms()).await
    }

    /// Remembers what the disk had no room for, together with what it had no room for before.
    fn set_unrecorded(&mut self, findings: Findings, text: String) {
        let Some(current) = &mut self.current else { return };
        let (findings, text) = match current.unrecorded.take() {
            None => (findings, text),
            Some(before) => {
                let Findings { release, switch_ns, rollback_ns, rehearsal_ns, decision, contracted } =
                    before.findings;
                let merged = Findings {
                    release: findings.release.or(release),
                    switch_ns: findings.switch_ns.or(switch_ns),
                    rollback_ns: findings.rollback_ns.or(rollback_ns),
                    rehearsal_ns: findings.rehearsal_ns.or(rehearsal_ns),
                    decision: findings.decision.or(decision),
                    contracted: findings.contracted.into_iter().chain(contracted).collect(),
                };
                (merged, format!("{}; {text}", before.text))
            }
        };
        let again_at = Instant::now() + RECORD_AGAIN_AFTER;
        current.unrecorded = Some(Unrecorded { findings, text, again_at });
    }

    /// Tries again what the disk had no room for.
    pub(crate) async fn record_again(&mut self) -> Result<(), AgentError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let Some(Unrecorded { findings, text, .. }) = current.unrecorded.take() else { return Ok(()) };
        let state = current.record.state.clone();
        match self.record(&state, &findings, &text).await {
            Ok(()) => {
                self.tell_news();
                if self.current.as_ref().is_some_and(|current| !current.begun) {
                    self.begin_work();
                }
            }
            Err(WriteError::Full) => self.set_unrecorded(findings, text),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub(crate) fn tell_news(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// The stamp that serves.
    pub(crate) fn active(&self) -> Option<StampId> {
        let record = &self.current.as_ref()?.record;
        match machine::serving(&record.state) {
            Side::Old => record.old,
            Side::Candidate => Some(record.number.stamp()),
        }
    }

    pub(crate) fn candidate(&self) -> Option<StampId> {
        self.current.as_ref().map(|current| current.record.number.stamp())
    }

    /// Has a stamp for each side of the release that is to run or still to be stopped, and forgets the others.
    pub(crate) async fn ensure_stamps(&mut self) -> Result<(), AgentError> {
        let Some(current) = &self.current else { return Ok(()) };
        let state = current.record.state.clone();
        let (old, candidate) = (current.record.old, current.record.number.stamp());
        if machine::runs(&state, Side::Candidate) || state == State::Expanding {
            self.stores.ensure(&current.request.configuration, &self.store_surroundings());
        }
        let sides = [(Side::Old, old), (Side::Candidate, Some(candidate))];
        for (side, id) in sides {
            let Some(id) = id.filter(|id| !self.stamps.contains_key(id)) else { continue };
            let want = match machine::runs(&state, side) {
                true => Want::Run,
                // What a killed agent was stopping is found again, drained and stopped by this one.
                false if machine::stops(&state, side) => Want::Keep,
                false => continue,
            };
            let Some(release) = self.release_of(id).await? else { continue };
            let served = side == Side::Old || machine::serving(&state) == Side::Candidate;
            let surroundings = self.surroundings(&release);
            let configuration = &release.configuration;
            self.stores.ensure(configuration, &self.store_surroundings());
            let given = self.stores.given(configuration);
            let stamp = Stamp::run(id, release, &surroundings, want, served, &given, &self.nudge);
            self.stamps.insert(id, stamp);
        }
        self.stamps.retain(|id, stamp| {
            let wanted = sides.iter().any(|(side, of)| *of == Some(*id) && machine::runs(&state, *side));
            wanted || !stamp.stopped()
        });
        self.learn_previous().await?;
        self.hand_over();
        Ok(())
    }

    /// Tells the workers of both sides what they are wanted for: those of one side start when those of the other
    /// are known to have stopped.
    pub(crate) fn hand_over(&mut self) {
        let Some(current) = &self.current else { return };
        let side = machine::workers(&current.record.state);
        let candidate = current.record.number.stamp();
        let works = match side {
            Side::Old => current.record.old,
            Side::Candidate => Some(candidate),
        };
        let others_rest = self.stamps.values().filter(|stamp| Some(stamp.id) != works).all(|stamp| {
            stamp.work(Want::Stop);
            stamp.rests()
        });
        let runs = machine::runs(&current.record.state, side);
        if let Some(stamp) = works.and_then(|id| self.stamps.get(&id))
            && others_rest
            && runs
        {
            stamp.work(Want::Run);
        }
    }

    fn store_surroundings(&self) -> StoreSurroundings {
        StoreSurroundings {
            driver: Arc::clone(&self.driver),
            ports: Arc::clone(&self.ports),
            fence: self.records.fence(),
            base_env: self.base_env.clone(),
        }
    }

    pub(crate) async fn release_of(&self, id: StampId) -> Result<Option<Arc<Release>>, AgentError> {
        if let Some(current) = &self.current
            && current.record.number.stamp() == id
        {
            return Ok(current.record.release.clone().map(Arc::new));
        }
        let record = self.records.release(id.release()).await?;
        Ok(record.and_then(|record| record.release).map(Arc::new))
    }

    fn surroundings(&self, release: &Release) -> Arc<Surroundings> {
        Arc::new(Surroundings {
            folder: self.folder.clone(),
            driver: Arc::clone(&self.driver),
            ports: Arc::clone(&self.ports),
            fence: self.records.fence(),
            environment: self.mark.environment.clone(),
            release_id: release.digest.short().to_owned(),
            base_env: self.base_env.clone(),
            router: self.router.clone(),
        })
    }

    /// Begins the work of the present state: on coming to it, and when this agent finds it recorded.
    pub(crate) fn enter(&mut self) {
        // The work of the state before is dropped; whatever it did is done again if it is still wanted.
        self.work = JoinSet::new();
        let Some(current) = &mut self.current else { return };
        let configuration = &current.request.configuration;
        let state = current.record.state.clone();
        let spent = unix_ms().saturating_sub(current.record.state_since_ms);
        let limit = machine::deadline(&state, configuration);
        // By the wall clock, which may have jumped: never longer than the limit from now.
        current.deadline =
            limit.map(|limit| Instant::now() + limit.saturating_sub(Duration::from_millis(spent)).min(limit));
        (current.begun, current.waits) = (false, false);
        self.observe();
        self.begin_work();
    }

    /// Has the gateway measured for the present state, while a release is under way.
    fn observe(&self) {
        let Some(current) = &self.current else { return };
        let record = &current.record;
        let watched = (!record.state.is_final() && record.state != State::Planned).then(|| Watching {
            release: record.number,
            old: record.old,
            candidate: record.number.stamp(),
            state: record.state.name(),
            weight: current.share(),
            resumed: current.decided_ns.is_none(),
        });
        self.observer.watch(watched);
    }

    /// Begins the work of the present state, unless it has to wait: for instances that may be serving and have
    /// not been looked for, and for those of a candidate that is to be offered.
    fn begin_work(&mut self) {
        let Some(current) = &self.current else { return };
        if self.down {
            return;
        }
        let state = current.record.state.clone();
        let goes_for_good = matches!(state, State::Retiring | State::Contracting);
        if goes_for_good && current.unrecorded.is_some() {
            // A new agent would still believe that there is a way back.
            return;
        }
        // Users are given to a stamp that is ready; one that is not, after a restart of this agent, is waited for.
        let gains_users = machine::offers(&state) || machine::falls_back(&state);
        if gains_users && let Some(candidate) = self.stamps.get(&current.record.number.stamp()) {
            match candidate.readiness() {
                Ok(true) => {}
                Ok(false) => return self.candidate_awaited(),
                // Whatever smoke has said of it before.
                Err(text) => {
                    let kind = if current.share() > 0 { ReasonKind::Crash } else { ReasonKind::NotReady };
                    self.work.spawn(async move { Outcome::failed(kind, text) });
                    return self.work_has_begun();
                }
            }
            if let Some(text) = candidate.has_crashed().filter(|_| current.share() > 0) {
                self.work.spawn(async move { Outcome::failed(ReasonKind::Crash, text) });
                return self.work_has_begun();
            }
        }
        let Some(table) = self.table(&state) else { return };
        let persist = persist_of(&current.course, &state);
        self.work_has_begun();
        let serial = self.want(&state, table, persist);
        let watch = |id: Option<StampId>| id.and_then(|id| Some((id, self.stamps.get(&id)?.watch())));
        let old_release = current_old(self).map(|stamp| Arc::clone(&stamp.release));
        let current = self.current.as_ref().expect("it was there above");
        let work = Work {
            state,
            number: current.record.number,
            course: current.course.clone(),
            since_ms: current.record.state_since_ms,
            release: current.record.release.clone(),
            old_release,
            stores: self.stores.needed(&current.request.configuration),
            given: self.stores.given(&current.request.configuration),
            surroundings: current.record.release.as_ref().map(|release| self.surroundings(release)),
            observer: self.observer.clone(),
            evidence: Arc::clone(&self.evidence),
            folder: self.folder.clone(),
            name: current.record.name.clone(),
            kept: current.kept.clone(),
            driver: Arc::clone(&self.driver),
            running: self.instances(),
            request: current.request.clone(),
            router: self.router.clone(),
            table: serial,
            candidate: watch(Some(current.record.number.stamp())),
            old: watch(current.record.old),
            preview_token: self.preview_token.clone(),
            http: self.mark.listen.http,
        };
        self.work.spawn(work.perform());
    }

    /// The work of the state waits until an instance of the candidate is ready again.
    fn candidate_awaited(&mut self) {
        if let Some(current) = &mut self.current {
            current.wait(Instant::now());
        }
    }

    fn work_has_begun(&mut self) {
        if let Some(current) = &mut self.current {
            current.begin(Instant::now());
        }
    }

    /// Every instance of the stamps there are, of their stores, and the hooks of the release.
    pub(crate) fn instances(&self) -> BTreeSet<InstanceId> {
        let of_stamps = self.stamps.values().flat_map(|stamp| stamp.views().map(|(id, _)| id.clone()));
        let of_release = self
            .current
            .iter()
            .flat_map(|current| hooks::ids(current.record.number, &current.request.configuration));
        of_stamps.chain(of_release).chain(self.stores.instances()).collect()
    }

    /// Starts the release that waited for the old stamp to be gone.
    async fn begin_waiting(&mut self) -> Result<(), AgentError> {
        let ended = self.current.as_ref().is_some_and(|current| current.record.state.is_final());
        let Some((request, reply)) = self.waiting.take_if(|_| ended) else { return Ok(()) };
        // What it waited for may have contracted a schema.
        let checked = match self.check(&request) {
            Ok(()) => self.check_schemas(&request.configuration).await?,
            Err(problem) => Err(problem),
        };
        // And the machine may have become fuller since it was asked for.
        let checked = match checked {
            Ok(()) => self.check_capacity(&request).await?,
            refused @ Err(_) => refused,
        };
        match checked {
            Ok(()) => self.begin(request, reply).await,
            Err(problem) => {
                // Whoever asked may have gone.
                let _ = reply.send(Err(problem));
                Ok(())
            }
        }
    }

    /// An instance has changed: the gateway hears of it, and work that waited for it begins.
    pub(crate) fn instances_changed(&mut self) {
        if self.down {
            return;
        }
        self.hand_over();
        let Some(current) = &self.current else { return };
        let begins = !current.begun;
        if begins {
            self.begin_work();
        }
        if begins && self.current.as_ref().is_some_and(|current| current.begun) {
            return;
        }
        // Work that waits gives no users to anybody, and yet the gateway has to leave out an instance that has gone or
        // is to be started again: in what it has been told before.
        if let Some(state) = self.told()
            && let Some(table) = self.table(&state)
        {
            // It gives nobody users they did not have: a full disk must not keep it from the gateway.
            self.want(&state, table, Persist::After);
        }
    }
}

/// The stamp that served when the release began, where it still runs.
fn current_old(agent: &Agent) -> Option<&Stamp> {
    agent.current.as_ref().and_then(|current| agent.stamps.get(&current.record.old?))
}

/// Whether a state moves towards serving from the candidate, so that it can be given up.
fn forward(state: &State) -> bool {
    match state {
        State::Expanding
        | State::Provisioning
        | State::Verifying
        | State::Warming
        | State::Shifting { .. }
        | State::Switching
        | State::RehearsingBack
        | State::RehearsingForward
        | State::Baking => true,
        State::Planned
        | State::Promoted
        | State::TakingBack { .. }
        | State::Retiring
        | State::Contracting
        | State::Done
        | State::Aborting { .. }
        | State::Refused { .. }
        | State::RolledBack { .. } => false,
    }
}

/// From the decision to the last dispatch on the stamp that lost its users.
pub(crate) fn since(
    decided_ns: Option<u64>,
    view: Option<&RouterView>,
    lost: Option<StampId>,
) -> Option<u64> {
    let slot = view?.closed.get(&lost?)?;
    Some(slot.last_dispatch_ns.saturating_sub(decided_ns?))
}
