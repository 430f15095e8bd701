//! From what was asked for to a release: artifacts stored, everything hashed together.

use api::folder::StateFolder;
use api::operator::{ReleaseRequest, Source};
use model::artifact::{Artifact, Release};
use model::name::{ComponentName, Digest};
use model::workload::Service;
use runtime::artifacts;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why a release could not be resolved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("component {component}: {cause}; hint: {}", cause.hint())]
    Store { component: ComponentName, cause: artifacts::StoreError },
    #[error("component {component}: {cause}{}", cause.hint().map(|hint| format!("; hint: {hint}")).unwrap_or_default())]
    Executable { component: ComponentName, cause: artifacts::ExecutableError },
    #[error("component {0} has no artifact")]
    NoSource(ComponentName),
}

/// Stores what the request names and hashes the release. Blocking: it copies files and waits for the disk.
/// Doing it again gives the same release, as long as the sources are the same.
pub(crate) fn resolve(
    folder: &StateFolder,
    name: String,
    request: ReleaseRequest,
) -> Result<Release, ResolveError> {
    let mut stored: BTreeMap<PathBuf, Digest> = BTreeMap::new();
    let mut resolved = BTreeMap::new();
    for (component, service) in &request.configuration.services {
        let artifact = match request.sources.get(component) {
            Some(Source::Path(path)) => {
                let digest = match stored.get(path) {
                    Some(digest) => digest.clone(),
                    None => store(folder, path)
                        .map_err(|cause| ResolveError::Store { component: component.clone(), cause })?,
                };
                stored.insert(path.clone(), digest.clone());
                Artifact::Stored { digest }
            }
            Some(Source::Command { folder }) => command(service, folder)
                .map_err(|cause| ResolveError::Executable { component: component.clone(), cause })?,
            None => return Err(ResolveError::NoSource(component.clone())),
        };
        resolved.insert(component.clone(), artifact);
    }
    let digest = hash(&resolved, &request);
    Ok(Release { name, digest, artifacts: resolved, configuration: request.configuration })
}

fn store(folder: &StateFolder, path: &Path) -> Result<Digest, artifacts::StoreError> {
    artifacts::store(folder, path, &|_| {}).map(|stored| stored.digest)
}

fn command(service: &Service, folder: &Path) -> Result<Artifact, artifacts::ExecutableError> {
    // The program's name has no values to fill in: `mainstay run` takes it literally.
    let program = service.run[0].render(|_| None).unwrap_or_default();
    let path = std::env::var_os("PATH");
    let (executable, digest) = artifacts::executable(&program, folder, path.as_deref())?;
    Ok(Artifact::Command { digest, executable, folder: folder.to_owned() })
}

/// SHA-256 over artifacts and configuration as JSON. Maps are sorted, so equal releases hash alike.
fn hash(artifacts: &BTreeMap<ComponentName, Artifact>, request: &ReleaseRequest) -> Digest {
    let text = serde_json::to_vec(&(artifacts, &request.configuration))
        .expect("a release has string keys and finite numbers");
    Digest::from_bytes(Sha256::digest(&text).into())
}
