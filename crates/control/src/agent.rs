//! The agent's loop: commands, instances, work and deadlines become events of the release machine; its
//! states become records, tables for the gateway, and work.

use crate::base_env::base_env;
use crate::crash::CrashPoint;
use crate::evidence::Evidence;
use crate::notify::Notifier;
use crate::observe::Observer;
use crate::retention::Kept;
use crate::router::Router;
use crate::server::{self, Command};
use crate::stamp::{PortBook, Stamp};
use crate::step::since;
use crate::stores::Stores;
use crate::work::Outcome;
use api::folder::{Mark, MarkError, StateFolder};
use api::gateway::{KeptArtifact, Persist, Table};
use api::operator::{Accepted, Decision, ReleaseRequest};
use api::problem::Problem;
use model::machine::{self, Course, Event, State};
use model::name::StampId;
use model::workload::Notify;
use runtime::Driver;
use runtime::ports::Ports;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::commit::WriteError;
use store::records::{Findings, Records, RecordsError, ReleaseRecord};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many commands may wait for the loop; more wait at their senders.
const COMMAND_LIMIT: usize = 64;
/// How long a gateway that does not answer may hold up a take-back before it is recorded all the same.
pub(crate) const ACT_FIRST_LIMIT: Duration = Duration::from_secs(2);
/// How soon a record that could not be written is tried again.
pub(crate) const RECORD_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What an agent needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The state folder of its environment.
    pub folder: StateFolder,
}

/// Why an agent ended, but for being told to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state folder is missing, damaged or newer.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// Another agent holds the environment.
    #[error("another agent holds {0}")]
    Locked(PathBuf),
    /// The records could not be opened.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The records cannot be trusted, or belong to a newer agent. The next agent starts from what is on disk.
    #[error("cannot record: {0}")]
    Record(#[from] WriteError),
    /// Anything else of the operating system.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        #[source]
        cause: std::io::Error,
    },
}

/// Runs the agent until SIGTERM. Instances go on without it.
pub fn run(options: &Options) -> Result<(), AgentError> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |cause| AgentError::Io { what, cause }
    };
    let folder = options.folder.clone();
    let mark = folder.read_mark()?;
    let lock = std::fs::File::create(folder.agent_lock()).map_err(io("cannot open the agent's lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| AgentError::Locked(folder.agent_lock()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io("cannot start the runtime"))?;
    let ended = runtime.block_on(async {
        let (commands, inbox) = mpsc::channel(COMMAND_LIMIT);
        let (agent, nudges) = Agent::open(folder.clone(), mark).await?;
        let api = server::bind(&folder).map_err(io("cannot listen on the agent's socket"))?;
        let serving = server::serve(
            api,
            commands,
            agent.records.clone(),
            agent.news.subscribe(),
            agent.observer.live(),
        );
        let serving = tokio::spawn(serving);
        let notifying = tokio::spawn(agent.notifier().run());
        let ended = agent.run(inbox, nudges).await;
        serving.abort();
        notifying.abort();
        ended
    });
    // What is being copied by a blocking task is of no use to anybody: the next agent does it again.
    runtime.shutdown_background();
    drop(lock);
    ended
}

/// The release that is under way, or was last.
pub(crate) struct Current {
    pub(crate) record: ReleaseRecord,
    pub(crate) request: ReleaseRequest,
    /// Which states it goes through.
    pub(crate) course: Course,
    /// When the decision for the present state was made, by CLOCK_MONOTONIC. None after a restart.
    pub(crate) decided_ns: Option<u64>,
    /// Whether the work of the state has begun; it waits until every instance has been looked for.
    pub(crate) begun: bool,
    pub(crate) deadline: Option<Instant>,
    /// Whether the work of the state waits for an instance of the candidate.
    pub(crate) waits: bool,
    /// The state whose table the gateway was last told: an earlier one while the work of the state waits.
    pub(crate) told: Option<State>,
    /// What of earlier releases stays on disk.
    pub(crate) kept: Kept,
    /// A state that the disk had no room for.
    pub(crate) unrecorded: Option<Unrecorded>,
}

impl Current {
    pub(crate) fn new(
        record: ReleaseRecord,
        request: ReleaseRequest,
        decided_ns: Option<u64>,
        kept: Kept,
    ) -> Self {
        let course = Course::of(&request.configuration, record.old.is_some(), request.rehearse);
        Self {
            record,
            request,
            course,
            decided_ns,
            begun: false,
            deadline: None,
            waits: false,
            told: None,
            kept,
            unrecorded: None,
        }
    }

    /// The work of the state waits for an instance of the candidate: it is given the time that starting one again
    /// takes, once.
    pub(crate) fn wait(&mut self, now: Instant) {
        if std::mem::replace(&mut self.waits, true) {
            return;
        }
        let configuration = &self.request.configuration;
        let ready = configuration.services.values().map(|service| service.ready.timeout).max();
        let limit = ready.unwrap_or_default() + configuration.drain_timeout() * 2 + machine::DEADLINE_SLACK;
        self.deadline = self.deadline.map(|deadline| deadline.max(now + limit));
    }

    /// The work of the state begins. After a wait it has all the time it would have had without.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.begun = true;
        if std::mem::take(&mut self.waits) {
            self.record.state_since_ms = api::clock::unix_ms();
            let limit = machine::deadline(&self.record.state, &self.request.configuration);
            self.deadline = limit.map(|limit| now + limit);
        }
    }

    /// The candidate's share of users, of 10,000.
    pub(crate) fn share(&self) -> u16 {
        match machine::serving(&self.record.state) {
            machine::Side::Candidate => 10_000,
            machine::Side::Old => machine::weight(&self.course, &self.record.state),
        }
    }
}

/// What is still to be recorded of the present state.
pub(crate) struct Unrecorded {
    pub(crate) findings: Findings,
    pub(crate) text: String,
    /// When it is tried again.
    pub(crate) again_at: Instant,
}

pub(crate) struct Agent {
    pub(crate) mark: Mark,
    pub(crate) folder: StateFolder,
    pub(crate) records: Records,
    pub(crate) router: Router,
    pub(crate) driver: Arc<Driver>,
    pub(crate) ports: Arc<Mutex<PortBook>>,
    pub(crate) base_env: BTreeMap<String, String>,
    pub(crate) preview_token: String,
    pub(crate) stamps: BTreeMap<StampId, Stamp>,
    /// What is left of the stamp before each one that may come to serve.
    pub(crate) before: BTreeMap<StampId, Option<KeptArtifact>>,
    pub(crate) stores: Stores,
    /// Measures the gateway while a release is under way.
    pub(crate) observer: Observer,
    /// What the gate has seen of the candidate so far.
    pub(crate) evidence: Arc<Mutex<Evidence>>,
    pub(crate) current: Option<Current>,
    /// A release that was asked for while the old stamp was still kept or being retired.
    pub(crate) waiting: Option<(ReleaseRequest, oneshot::Sender<Result<Accepted, Problem>>)>,
    pub(crate) work: JoinSet<Outcome>,
    /// Stopping everything, and whoever waits for it.
    pub(crate) down: bool,
    pub(crate) nudge: mpsc::Sender<()>,
    /// Rises with every record, for those who wait for events.
    pub(crate) news: watch::Sender<u64>,
    /// Who is told of changes, as the latest release says.
    pub(crate) whom: watch::Sender<Notify>,
    pub(crate) wanted: Option<(u64, Persist, Table)>,
    pub(crate) crash: CrashPoint,
}

/// What the loop reacts to.
enum Happening {
    Command(Command),
    /// An instance has changed.
    Nudge,
    Worked(Box<Outcome>),
    DeadlinePassed,
    RecordAgain,
    Terminate,
}

impl Agent {
    /// Takes over: records first, then whatever of the last release still runs.
    async fn open(folder: StateFolder, mark: Mark) -> Result<(Self, mpsc::Receiver<()>), AgentError> {
        let io = |what: &'static str| move |cause| AgentError::Io { what: what.into(), cause };
        let records = Records::open(&folder.control_db()).await?;
        let fence = records.fence();
        let preview_token = preview_token(&folder).map_err(io("cannot read or write the preview token"))?;
        let ports = PortBook::new(Ports::new(&mark.id, fence.0));
        // One nudge in the queue is enough: whoever takes it looks at everything.
        let (nudge, nudges) = mpsc::channel(1);
        let router = Router::start(folder.gateway_socket(), fence);
        let observer = Observer::start(router.clone(), records.clone());
        let driver = Arc::new(Driver::new(folder.clone(), fence));
        let mut agent = Self {
            router,
            driver,
            ports: Arc::new(Mutex::new(ports)),
            base_env: base_env(mark.inherit_env, mark.listen.http),
            preview_token,
            stamps: BTreeMap::new(),
            before: BTreeMap::new(),
            stores: Stores::new(folder.clone(), nudge.clone()),
            observer,
            evidence: Arc::default(),
            current: None,
            waiting: None,
            work: JoinSet::new(),
            down: false,
            nudge,
            news: watch::Sender::new(0),
            whom: watch::Sender::new(Notify::default()),
            wanted: None,
            crash: CrashPoint::from_environment(),
            mark,
            folder,
            records,
        };
        agent.recover().await?;
        Ok((agent, nudges))
    }

    fn notifier(&self) -> Notifier {
        Notifier {
            workload: self.mark.workload.clone(),
            environment: self.mark.environment.clone(),
            records: self.records.clone(),
            news: self.news.subscribe(),
            whom: self.whom.subscribe(),
        }
    }

    async fn recover(&mut self) -> Result<(), AgentError> {
        let latest = self.records.latest(1).await?.pop();
        if let Some(record) = latest {
            let damaged = |e: serde_json::Error| WriteError::Broken(format!("{}: {e}", record.number));
            let request = serde_json::from_str(&record.request).map_err(damaged)?;
            tracing::info!(release = %record.number, state = %record.state, "taking over");
            let kept = self.kept(&record).await?;
            let mut record = record;
            if matches!(record.state, State::Shifting { .. } | State::Baking) {
                // What the agent before has seen of the candidate went with it: its step is seen anew.
                record.state_since_ms = api::clock::unix_ms();
            }
            self.set_current(Current::new(record, request, None, kept));
            self.ensure_stamps().await?;
            self.believe_the_gateway().await?;
            self.enter();
        }
        let keep = self.instances();
        let driver = Arc::clone(&self.driver);
        // Instances nobody knows any longer: left by an agent that died between a start and its record.
        tokio::spawn(async move {
            match driver.sweep(&keep).await {
                Ok(swept) if swept.left.is_empty() => {}
                Ok(swept) => tracing::error!("instances that could not be removed: {:?}", swept.left),
                Err(error) => tracing::error!("{error}"),
            }
        });
        Ok(())
    }

    /// A take-back acts before it is recorded. If the last agent died in between, the gateway serves the old
    /// stamp already, and that stands.
    async fn believe_the_gateway(&mut self) -> Result<(), AgentError> {
        let Some(current) = &self.current else { return Ok(()) };
        let old = current.record.old;
        if machine::was_taken_back(&current.record.state)
            && self.router.look().await.is_some_and(|gateway| {
                gateway.active.is_some() && gateway.active == old && gateway.candidate.is_none()
            })
        {
            let text = "the gateway was found serving the old stamp: a take-back that was not recorded";
            self.event(Event::RollbackAsked, text.into(), Findings::default()).await?;
        }
        Ok(())
    }

    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Command>,
        mut nudges: mpsc::Receiver<()>,
    ) -> Result<(), AgentError> {
        let io = |cause| AgentError::Io { what: "cannot listen for signals".into(), cause };
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(io)?;
        loop {
            let deadline = self.current.as_ref().and_then(|current| current.deadline);
            let unrecorded = self.current.as_ref().and_then(|current| current.unrecorded.as_ref());
            let record_again = unrecorded.map(|unrecorded| unrecorded.again_at);
            // Everything awaited here is cancel-safe: what is not taken now is taken by the next turn.
            let happening = tokio::select! {
                Some(command) = inbox.recv() => Happening::Command(command),
                Some(()) = nudges.recv() => Happening::Nudge,
                Some(worked) = self.work.join_next() => match worked {
                    Ok(outcome) => Happening::Worked(Box::new(outcome)),
                    Err(error) if error.is_cancelled() => continue,
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = until(deadline) => Happening::DeadlinePassed,
                () = until(record_again) => Happening::RecordAgain,
                _ = terminate.recv() => Happening::Terminate,
            };
            match happening {
                Happening::Command(command) => self.command(command).await?,
                Happening::Nudge => self.instances_changed(),
                Happening::Worked(outcome) => self.worked(*outcome).await?,
                Happening::DeadlinePassed => {
                    let text = "its time is over".into();
                    self.event(Event::DeadlinePassed, text, Findings::default()).await?;
                }
                Happening::RecordAgain => self.record_again().await?,
                Happening::Terminate => return Ok(()),
            }
        }
    }

    /// A release is under way, or was last.
    pub(crate) fn set_current(&mut self, current: Current) {
        self.whom.send_replace(current.request.configuration.notify.clone());
        self.current = Some(current);
    }

    pub(crate) fn release_state(&self) -> Option<&State> {
        self.current.as_ref().map(|current| &current.record.state)
    }

    async fn worked(&mut self, outcome: Outcome) -> Result<(), AgentError> {
        let Some(current) = &self.current else { return Ok(()) };
        self.crash.acted(current.record.number, &current.record.state);
        let Some(event) = outcome.event else { return Ok(()) };
        let mut findings = Findings {
            release: outcome.release,
            decision: outcome.decision.map(|decision| decision_text(&decision)),
            contracted: outcome.contracted,
            ..Findings::default()
        };
        let mut text = outcome.text;
        if event == Event::Returned {
            let candidate = current.record.number.stamp();
            findings.rehearsal_ns = since(current.decided_ns, outcome.routed.as_ref(), Some(candidate));
            text = match findings.rehearsal_ns {
                Some(ns) => format!(
                    "rehearsed: the last request went to {candidate} {:.1} ms after the decision; and forward again",
                    ns as f64 / 1e6
                ),
                None => "rehearsed; and forward again".into(),
            };
        } else if event == Event::Switched && current.record.state == State::RehearsingForward {
            text = format!("users are on {} again", current.record.number.stamp());
        } else if event == Event::Switched {
            findings.switch_ns = since(current.decided_ns, outcome.routed.as_ref(), current.record.old);
            text = match findings.switch_ns {
                Some(ns) => format!(
                    "users are on {}; the last request went to the old stamp {:.1} ms after the decision",
                    current.record.number.stamp(),
                    ns as f64 / 1e6
                ),
                None => format!("users are on {}", current.record.number.stamp()),
            };
        }
        self.event(event, text, findings).await
    }
}

/// A decision as it is recorded.
pub(crate) fn decision_text(decision: &Decision) -> String {
    serde_json::to_string(decision).expect("a decision has string keys")
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Opens the preview door of this environment; random, made once.
fn preview_token(folder: &StateFolder) -> std::io::Result<String> {
    let path = folder.preview_token();
    match std::fs::read_to_string(&path) {
        Ok(token) if !token.is_empty() => return Ok(token),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        Ok(_) | Err(_) => {}
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    api::folder::replace_file(&path, token.as_bytes())?;
    Ok(token)
}

#[cfg(test)]
mod tests;
