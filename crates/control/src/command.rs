//! What an operator can ask of the agent.

use crate::agent::{ACT_FIRST_LIMIT, Agent, AgentError, Current};
use crate::resolve;
use crate::server::Command;
use crate::stamp::Stamp;
use crate::status;
use api::clock::{monotonic_ns, unix_ms};
use api::gateway::{Persist, Table};
use api::operator::{Accepted, Plan, ReleaseRequest};
use api::problem::{Code, Problem};
use model::machine::{self, Event, Side, State};
use model::name::ReleaseNumber;
use std::sync::Arc;
use store::commit::WriteError;
use store::records::{Findings, ReleaseRecord};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The longest name of a release, in characters.
const RELEASE_NAME_LIMIT: usize = 64;

impl Agent {
    pub(crate) async fn command(&mut self, command: Command) -> Result<(), AgentError> {
        // Whoever asked may have gone; what was asked for is done all the same.
        match command {
            Command::Status(reply) => {
                let _ = reply.send(status::status(self).await?);
            }
            Command::Configuration(reply) => {
                let active = self.active().and_then(|id| self.stamps.get(&id));
                let _ =
                    reply.send(active.map(|stamp| stamp.release.configuration.clone()).ok_or_else(|| {
                        Problem::new(Code::Conflict, "no release serves here yet")
                            .hint(format!("mainstay release {}", self.mark.environment))
                    }));
            }
            Command::Plan(request, reply) => {
                let checks = self.capacity(&request).await?;
                let _ = reply.send(Ok(Plan { v: api::PROTOCOL_VERSION, checks }));
            }
            Command::Release(request, reply) => self.release(*request, reply).await?,
            Command::Rollback(number, reply) => {
                let answer = self.rollback(number).await?;
                let _ = reply.send(answer);
            }
            Command::Abort(number, reply) => {
                let answer = match self.may_abort(number) {
                    Ok(()) => self.rollback(number).await?,
                    Err(problem) => Err(problem),
                };
                let _ = reply.send(answer);
            }
            Command::Down(reply) => self.go_down(reply),
        }
        Ok(())
    }

    async fn release(
        &mut self,
        request: ReleaseRequest,
        reply: oneshot::Sender<Result<Accepted, Problem>>,
    ) -> Result<(), AgentError> {
        if let Some(current) = self.current.as_ref().filter(|current| current.request.key == request.key) {
            let _ = reply.send(Ok(Accepted { number: current.record.number }));
            return Ok(());
        }
        if let Some((_, waiting)) = self.waiting.as_mut().filter(|(known, _)| known.key == request.key) {
            // Whoever asked before has gone and asks again.
            *waiting = reply;
            return Ok(());
        }
        let checked = match self.check(&request) {
            Ok(()) => self.check_schemas(&request.configuration).await?,
            Err(problem) => Err(problem),
        };
        if let Err(problem) = checked {
            let _ = reply.send(Err(problem));
            return Ok(());
        }
        // A release that cannot be is told so before the old stamp is given up for it.
        let wanted = request.clone();
        let found = tokio::task::spawn_blocking(move || resolve::sources_exist(&wanted)).await;
        if let Ok(Err(error)) = found {
            let _ =
                reply.send(Err(Problem::new(Code::BadRequest, error.to_string()).maybe_hint(error.hint())));
            return Ok(());
        }
        if let Err(problem) = self.check_capacity(&request).await? {
            let _ = reply.send(Err(problem));
            return Ok(());
        }
        match self.current.as_ref().map(|current| &current.record.state) {
            Some(State::Promoted) => {
                // One at a time: what it waits for is the end of keeping the old stamp.
                self.waiting = Some((request, reply));
                let text = "a newer release is asked for".into();
                self.event(Event::KeepOldOver, text, Findings::default()).await
            }
            Some(State::Retiring | State::Contracting) => {
                self.waiting = Some((request, reply));
                Ok(())
            }
            _ => self.begin(request, reply).await,
        }
    }

    pub(crate) fn check(&self, request: &ReleaseRequest) -> Result<(), Problem> {
        let environment = &self.mark.environment;
        let bad = |message: String| Err(Problem::new(Code::BadRequest, message));
        let configuration = &request.configuration;
        if (&configuration.workload, &configuration.environment) != (&self.mark.workload, environment) {
            return bad(format!(
                "the release is for {}/{}, this is {}/{environment}",
                configuration.workload, configuration.environment, self.mark.workload
            ));
        }
        if configuration.class != self.mark.class {
            return bad(format!("the class of {environment} cannot change by a release"));
        }
        if let Some(name) = &request.name
            && (name.is_empty()
                || name.chars().count() > RELEASE_NAME_LIMIT
                || name.chars().any(char::is_control))
        {
            return bad(format!("a release's name has 1 to {RELEASE_NAME_LIMIT} visible characters"));
        }
        if self.down || self.waiting.is_some() {
            let (doing, hint) = match self.down {
                true => ("is going down, or half-way down", format!("mainstay down {environment}")),
                false => ("has another release waiting", format!("mainstay status {environment}")),
            };
            return Err(Problem::new(Code::Conflict, format!("{environment} {doing}")).hint(hint));
        }
        match &self.current {
            Some(Current { record: ReleaseRecord { number, name, state, .. }, .. })
                if !state.is_settled() =>
            {
                let message = format!("release {number} ({name}) is {state}; one release at a time");
                let hint = format!("wait for it, or take it back: mainstay rollback {environment}");
                Err(Problem::new(Code::Conflict, message).hint(hint))
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn begin(
        &mut self,
        request: ReleaseRequest,
        reply: oneshot::Sender<Result<Accepted, Problem>>,
    ) -> Result<(), AgentError> {
        self.record_again().await?;
        if self.current.as_ref().is_some_and(|current| current.unrecorded.is_some()) {
            let message = "the disk is full: the end of the release before is not recorded yet";
            let _ = reply.send(Err(Problem::new(Code::Machine, message)));
            return Ok(());
        }
        let text = serde_json::to_string(&request).expect("a request has string keys and finite numbers");
        let created = self.records.create_release(request.name.clone(), self.active(), text, unix_ms()).await;
        let record = match created {
            Ok(record) => record,
            Err(WriteError::Full) => {
                let message = "the disk is full: a release is recorded before it begins";
                let _ = reply.send(Err(Problem::new(Code::Machine, message)));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let _ = reply.send(Ok(Accepted { number: record.number }));
        self.crash.recorded(record.number, &record.state);
        let decided_ns = Some(monotonic_ns());
        let kept = self.kept(&record).await?;
        self.evidence = Arc::default();
        self.set_current(Current::new(record, request, decided_ns, kept));
        self.tell_news();
        self.enter();
        Ok(())
    }

    async fn rollback(&mut self, asked: ReleaseNumber) -> Result<Result<Accepted, Problem>, AgentError> {
        let environment = &self.mark.environment;
        let nothing = |message: String| {
            let hint = format!("release the earlier artifact again: mainstay release {environment}");
            Problem::new(Code::Conflict, message).hint(hint)
        };
        let Some(current) = &self.current else {
            return Ok(Err(nothing("nothing was ever released here".into())));
        };
        let (number, name) = (current.record.number, current.record.name.clone());
        if asked != number {
            let message = format!("{asked} is not the latest release, {number} ({name}) is");
            return Ok(Err(Problem::new(Code::Conflict, message)));
        }
        if current.record.state.reason().is_some() {
            // It is being taken back, or was: what was asked for happens.
            return Ok(Ok(Accepted { number }));
        }
        if machine::next(&current.course, &current.record.state, &Event::RollbackAsked).is_err() {
            let state = &current.record.state;
            let contracted = self.records.contracted().await?;
            let by_this = contracted.iter().find(|(_, contracted)| contracted.by == number);
            let message = match by_this {
                Some((store, _)) => format!(
                    "release {number} ({name}) has contracted the schema of {store}: code of before cannot run on it"
                ),
                None => {
                    format!(
                        "release {number} ({name}) is {state}: the stamp before it is not kept any longer"
                    )
                }
            };
            return Ok(Err(nothing(message)));
        }
        let serving = machine::serving(&current.record.state) == Side::Candidate;
        // An agent that has just taken over has not looked at every instance yet: they serve until it knows better,
        // and the gateway is told when it does.
        let may_serve = |stamp: &Stamp| stamp.any_ready() || !stamp.known();
        let old_ready = current.record.old.and_then(|id| self.stamps.get(&id)).is_some_and(may_serve);
        if serving && current.record.old.is_some() && !old_ready {
            let message = format!("the stamp before {number} ({name}) has no instance that is ready");
            return Ok(Err(
                Problem::new(Code::Conflict, message).hint(format!("mainstay status {environment}"))
            ));
        }
        self.event(Event::RollbackAsked, "taken back by an operator".into(), Findings::default()).await?;
        Ok(Ok(Accepted { number }))
    }

    fn may_abort(&self, asked: ReleaseNumber) -> Result<(), Problem> {
        let settled = self.current.as_ref().filter(|current| {
            current.record.number == asked
                && current.record.state.reason().is_none()
                && current.record.state.is_settled()
        });
        let Some(Current { record: ReleaseRecord { number, name, state, .. }, .. }) = settled else {
            return Ok(());
        };
        let message = format!("release {number} ({name}) is {state}: there is nothing left to abort");
        let hint = format!(
            "take it back, while the stamp before is kept: mainstay rollback {}",
            self.mark.environment
        );
        Err(Problem::new(Code::Conflict, message).hint(hint))
    }

    fn go_down(&mut self, reply: oneshot::Sender<Result<(), Problem>>) {
        if let Some(Current { record: ReleaseRecord { number, name, state, .. }, .. }) = &self.current
            && !state.is_settled()
        {
            let message = format!("release {number} ({name}) is {state}");
            let hint = format!("wait for it, or take it back: mainstay rollback {}", self.mark.environment);
            let _ = reply.send(Err(Problem::new(Code::Conflict, message).hint(hint)));
            return;
        }
        self.down = true;
        if let Some(current) = &mut self.current {
            current.deadline = None;
        }
        if let Some((_, waiting)) = self.waiting.take() {
            let message = format!("{} is going down", self.mark.environment);
            let _ = waiting.send(Err(Problem::new(Code::Conflict, message)));
        }
        let table = Table {
            preview_token: self.preview_token.clone(),
            trusted_proxies: self.mark.listen.trusted_proxies.clone(),
            active: None,
            candidate: None,
            weight: 0,
            fallback: None,
            guard: None,
            previous: None,
            kept: None,
        };
        self.work = JoinSet::new();
        let serial = self.router.want(table, Persist::After);
        let router = self.router.clone();
        let (stores, servers) = (self.stores.watch(), self.stores.instances().collect());
        let driver = Arc::clone(&self.driver);
        let stamps: Vec<_> = self
            .stamps
            .values()
            .map(|stamp| (stamp.id, stamp.watch(), stamp.release.configuration.drain_timeout()))
            .collect();
        tokio::spawn(async move {
            // A gateway that does not answer has nothing in flight that could be drained.
            let _ = tokio::time::timeout(ACT_FIRST_LIMIT, router.applied(serial)).await;
            stamps.iter().for_each(|(_, watch, _)| watch.keep());
            for (id, watch, patience) in &stamps {
                router.drained(*id, *patience).await;
                watch.stop();
            }
            for (_, watch, _) in stamps {
                watch.stopped().await;
            }
            // A hook that runs is stopped too, while it still has its store.
            if let Err(error) = driver.sweep(&servers).await {
                tracing::error!("{error}");
            }
            // What others have stopped using.
            stores.stop().await;
            let _ = reply.send(Ok(()));
        });
    }
}
