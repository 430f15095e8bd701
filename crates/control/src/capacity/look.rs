//! The numbers: what the machine has, and what the stamps that run hold.

use super::{Seen, checks, refusal};
use crate::agent::{Agent, AgentError};
use api::operator::{Check, ReleaseRequest, Source};
use api::problem::Problem;
use model::name::{ComponentName, InstanceId, StampId};
use runtime::Adopted;
use runtime::process::{Family, resident_bytes};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// CAP_SYS_RESOURCE (capabilities(7)): who has it may raise a limit above the hard one.
const SYS_RESOURCE: u32 = 24;

impl Agent {
    /// Refuses a release for which there is no room.
    pub(crate) async fn check_capacity(
        &self,
        request: &ReleaseRequest,
    ) -> Result<Result<(), Problem>, AgentError> {
        let checks = self.capacity(request).await?;
        Ok(refusal(&checks).map_or(Ok(()), Err))
    }

    /// What a release needs, against what there is. The stamps that neither serve nor are to serve are counted as
    /// gone: a release begins when they are.
    pub(crate) async fn capacity(&self, request: &ReleaseRequest) -> Result<Vec<Check>, AgentError> {
        let active = self.active();
        let mut families: Vec<(InstanceId, Family)> = Vec::new();
        let mut going = BTreeSet::new();
        for stamp in self.stamps.values() {
            for (id, view) in stamp.views() {
                if Some(stamp.id) != active && view.port != 0 {
                    going.insert(view.port);
                }
                // One that cannot be looked for, or has ended, holds nothing that is known.
                if view.pid.is_some()
                    && let Ok(Adopted::Running(instance)) = self.driver.adopt(id).await
                {
                    families.push((id.clone(), instance.family()));
                }
            }
        }
        let (ports, taken) = self.ports.lock().expect("nothing panics while it holds the ports").copy();
        // A port of a stamp that is going can be had when it has gone, and not be bound before.
        let going =
            going.range(ports.first()..=ports.last()).filter(|port| taken.contains(port)).count() as u64;
        let kept = self.kept_by_next().await?;
        let (folder, sources) = (self.folder.clone(), request.sources.clone());
        let seen = tokio::task::spawn_blocking(move || {
            let (resident, memory_freed) = held(&families, active);
            Seen {
                memory_available: memory_available(),
                memory_freed,
                resident,
                disk_free: disk_free(folder.root()),
                disk_freed: kept.reclaimable(&folder),
                artifacts: room(&sources),
                ports_free: ports.free(&taken) + going,
                open_files: open_files(),
            }
        });
        let seen = seen.await.map_err(|cause| AgentError::Io {
            what: "cannot look at what there is room for".into(),
            cause: std::io::Error::other(cause),
        })?;
        let old = active.and_then(|id| self.stamps.get(&id)).map(|stamp| &stamp.release.configuration);
        Ok(checks(&request.configuration, old, &seen))
    }
}

type Resident = BTreeMap<ComponentName, (u64, u64)>;

/// What the instances of the stamp that serves hold, by component, and what all others hold together.
fn held(families: &[(InstanceId, Family)], active: Option<StampId>) -> (Resident, u64) {
    let wanted: Vec<Family> = families.iter().map(|(_, family)| family.clone()).collect();
    let (mut resident, mut freed) = (Resident::new(), 0_u64);
    let bytes = resident_bytes(&wanted).unwrap_or_default();
    for ((id, _), bytes) in families.iter().zip(bytes) {
        if Some(id.stamp) == active {
            let (instances, sum) = resident.entry(id.component.clone()).or_default();
            *instances += 1;
            *sum += bytes;
        } else {
            freed += bytes;
        }
    }
    (resident, freed)
}

/// The room of everything that is to be stored, what several components share once.
fn room(sources: &BTreeMap<ComponentName, Source>) -> Option<u64> {
    let paths: BTreeSet<&Path> = sources
        .values()
        .filter_map(|source| match source {
            Source::Path(path) => Some(path.as_path()),
            Source::Command { .. } => None,
        })
        .collect();
    paths.into_iter().map(|path| runtime::artifacts::room(path).ok()).sum()
}

/// `MemAvailable` of proc_meminfo(5), in bytes.
fn memory_available() -> Option<u64> {
    parse_memory(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn disk_free(root: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(root).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// The hard limit, which instances have from the agent; for who may raise it, what the kernel allows at most.
fn open_files() -> Option<u64> {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !may_raise(&status) {
        return hard;
    }
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok()?;
    most.trim().parse().ok()
}

fn may_raise(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    effective.is_some_and(|effective| effective >> SYS_RESOURCE & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_read_as_it_writes() {
        let text = "MemTotal:        8000 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\nBuffers: 0 kB\n";
        assert_eq!(parse_memory(text), Some(2 * 1024 * 1024));
        assert_eq!(parse_memory("MemTotal: 8000 kB\n"), None);
        assert!(may_raise("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_raise("CapEff:\t0000000000000000\n") && !may_raise(""));
        assert!(memory_available().is_some_and(|bytes| bytes > 0));
        assert!(disk_free(Path::new("/")).is_some());
    }
}
