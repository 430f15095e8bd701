//! What of earlier releases stays on disk: enough to look at and to release again, and no more.

use crate::agent::{Agent, AgentError};
use model::name::{Digest, StampId};
use std::collections::BTreeSet;
use std::path::Path;
use store::records::ReleaseRecord;

/// The artifacts and logs of this many releases stay, besides those that run. Records stay for good.
pub(crate) const RELEASES_KEPT: u32 = 10;

/// What stays when a release begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    artifacts: BTreeSet<Digest>,
    stamps: BTreeSet<StampId>,
}

impl Agent {
    /// What stays while `current` is under way.
    pub(crate) async fn kept(&self, current: &ReleaseRecord) -> Result<Kept, AgentError> {
        self.latest_and(RELEASES_KEPT, current.old).await
    }

    /// What would stay if a release began now, that release itself not counted.
    pub(crate) async fn kept_by_next(&self) -> Result<Kept, AgentError> {
        self.latest_and(RELEASES_KEPT - 1, self.active()).await
    }

    async fn latest_and(&self, count: u32, old: Option<StampId>) -> Result<Kept, AgentError> {
        let mut records = self.records.latest(count).await?;
        if let Some(old) = old {
            // It serves, however many releases have failed since.
            let old = self.records.release(old.release()).await?;
            // What users of the stamp that serves may still have open comes from the one before it.
            if let Some(before) = old.as_ref().and_then(|old| old.old) {
                records.extend(self.records.release(before.release()).await?);
            }
            records.extend(old);
        }
        let stamps = records.iter().map(|record| record.number.stamp()).collect();
        let releases = records.iter().filter_map(|record| record.release.as_ref());
        let artifacts = releases.flat_map(|release| release.artifacts.values());
        Ok(Kept { artifacts: artifacts.map(|artifact| artifact.digest().clone()).collect(), stamps })
    }
}

impl Kept {
    /// Bytes that [`Kept::clean`] would free of stored artifacts. Blocking.
    pub(crate) fn reclaimable(&self, folder: &api::folder::StateFolder) -> u64 {
        runtime::artifacts::reclaimable(folder, &self.artifacts).unwrap_or(0)
    }

    /// Removes everything else. Called before an artifact is stored, never beside it. What cannot be removed
    /// is said and tried again with the next release.
    pub(crate) fn clean(&self, folder: &api::folder::StateFolder) {
        if let Err(error) = runtime::artifacts::retain(folder, &self.artifacts) {
            tracing::warn!("artifacts of earlier releases stay: {error}");
        }
        if let Err(error) = self.clean_logs(&folder.logs()) {
            tracing::warn!("logs of earlier releases stay: {error}");
        }
    }

    fn clean_logs(&self, logs: &Path) -> std::io::Result<()> {
        for entry in std::fs::read_dir(logs)? {
            let entry = entry?;
            let stamp = entry.file_name().to_str().and_then(stamp_of);
            if stamp.is_some_and(|stamp| !self.stamps.contains(&stamp)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// `s2-api-0.log` and `s2-api-0.log.1` belong to stamp 2; `agent.log` belongs to none.
fn stamp_of(name: &str) -> Option<StampId> {
    let (stamp, _) = name.strip_prefix('s')?.split_once('-')?;
    stamp.parse().ok().map(StampId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_instances_belong_to_their_stamp() {
        let table = [
            ("s2-api-0.log", Some(2)),
            ("s12-a-b-0.log.1", Some(12)),
            ("agent.log", None),
            ("s-a.log", None),
        ];
        for (name, stamp) in table {
            assert_eq!(stamp_of(name), stamp.map(StampId), "{name}");
        }
    }
}
