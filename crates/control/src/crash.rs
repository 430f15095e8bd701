//! Crash points: where an agent can be made to kill itself, so that tests of recovery hit every state
//! exactly. The keeper hands the variable to the first agent only.

use model::machine::State;
use model::name::ReleaseNumber;

/// `rN:recorded:STATE` or `rN:acted:STATE`.
pub(crate) const VARIABLE: &str = "MAINSTAY_CRASH_AT";

/// Where to crash, if anywhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct CrashPoint(Option<String>);

impl CrashPoint {
    pub(crate) fn from_environment() -> Self {
        Self(std::env::var(VARIABLE).ok())
    }

    /// The state has been recorded and nothing of it has been done.
    pub(crate) fn recorded(&self, number: ReleaseNumber, state: &State) {
        self.reached("recorded", number, state);
    }

    /// What the state does has been done, and what came of it has not been recorded.
    pub(crate) fn acted(&self, number: ReleaseNumber, state: &State) {
        self.reached("acted", number, state);
    }

    fn reached(&self, moment: &str, number: ReleaseNumber, state: &State) {
        if self.0.as_deref() == Some(&format!("{number}:{moment}:{}", state.name())) {
            tracing::warn!(state = state.name(), moment, "crash point reached");
            // SIGKILL, as an out-of-memory killer would: no destructor, no flush.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
