//! The stamp before the one that serves, and what is left of it: for routes with `previous_stamp`.

use crate::agent::{Agent, AgentError};
use crate::stamp::Stamp;
use api::gateway::KeptArtifact;
use model::artifact::{Artifact, Release};
use model::machine::{self, Side, State};
use model::name::StampId;

impl Agent {
    /// Looks up what was before each stamp that may come to serve; the records tell.
    pub(crate) async fn learn_previous(&mut self) -> Result<(), AgentError> {
        let Some(current) = &self.current else { return Ok(()) };
        let (old, candidate) = (current.record.old, current.record.number.stamp());
        self.before.retain(|stamp, _| *stamp == candidate || Some(*stamp) == old);
        for stamp in old.into_iter().chain([candidate]) {
            if self.before.contains_key(&stamp) {
                continue;
            }
            let before = match stamp == candidate {
                true => old,
                false => self.records.release(stamp.release()).await?.and_then(|record| record.old),
            };
            let artifact = match before {
                Some(before) => self.release_of(before).await?.and_then(|release| artifact(before, &release)),
                None => None,
            };
            self.before.insert(stamp, artifact);
        }
        Ok(())
    }

    /// The stamp before the active one that is kept warm beside it, where `active` asks it. While a release is judged
    /// it is the fallback, and needs no name of its own.
    pub(crate) fn previous(&self, state: &State, active: Option<&Stamp>) -> Option<&Stamp> {
        let asks =
            active?.release.configuration.gateway.routes.iter().any(|route| route.previous_stamp.is_some());
        let old = self.current.as_ref()?.record.old.filter(|_| asks && *state == State::Promoted)?;
        self.stamps.get(&old)
    }

    /// What is left of the stamp before the active one, where `active` names a folder of it. Users who were taken
    /// back come from the candidate.
    pub(crate) fn kept_artifact(&self, state: &State, active: Option<&Stamp>) -> Option<KeptArtifact> {
        let active = active?;
        let mut asked = active.release.configuration.gateway.routes.iter();
        asked.find(|route| route.previous_stamp.as_ref().is_some_and(|asked| asked.files.is_some()))?;
        let record = &self.current.as_ref()?.record;
        let taken_back = matches!(state, State::TakingBack { .. } | State::RolledBack { .. });
        if taken_back && machine::serving(state) == Side::Old {
            return artifact(record.number.stamp(), record.release.as_ref()?);
        }
        self.before.get(&active.id).cloned().flatten()
    }
}

/// A command's files are wherever it was given, and are not kept.
fn artifact(stamp: StampId, release: &Release) -> Option<KeptArtifact> {
    match release.artifacts.get(&release.configuration.gateway.default)? {
        Artifact::Stored { digest } => Some(KeptArtifact { stamp, digest: digest.clone() }),
        Artifact::Command { .. } => None,
    }
}
