//! From what was asked for to a release: artifacts stored, everything hashed together.

use api::folder::StateFolder;
use api::operator::{ReleaseRequest, Source};
use model::artifact::{Artifact, Release};
use model::name::{ComponentName, Digest};
use model::template::Template;
use runtime::artifacts;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Why a release could not be resolved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("component {component}: {cause}")]
    Store { component: ComponentName, cause: artifacts::StoreError },
    #[error("component {component}: {cause}")]
    Executable { component: ComponentName, cause: artifacts::ExecutableError },
    #[error("component {component}: there is nothing at {}", path.display())]
    Missing { component: ComponentName, path: PathBuf },
    #[error("component {0} has no artifact")]
    NoSource(ComponentName),
}

impl ResolveError {
    /// What to do next.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Store { cause, .. } => Some(cause.hint().to_owned()),
            Self::Executable { cause, .. } => cause.hint(),
            Self::Missing { .. } => {
                Some("`artifact` of the component, or --artifact, names a file or folder".into())
            }
            Self::NoSource(_) => None,
        }
    }

    /// The error with its hint, as the reason of a release.
    pub(crate) fn text(&self) -> String {
        match self.hint() {
            Some(hint) => format!("{self}; hint: {hint}"),
            None => self.to_string(),
        }
    }
}

/// Whether everything the request names is there. Blocking: executables are read.
pub(crate) fn sources_exist(request: &ReleaseRequest) -> Result<(), ResolveError> {
    for (component, command_of) in components(request) {
        match request.sources.get(component) {
            Some(Source::Path(path)) if path.symlink_metadata().is_ok() => {}
            Some(Source::Path(path)) => {
                return Err(ResolveError::Missing { component: component.clone(), path: path.clone() });
            }
            Some(Source::Command { folder, search_path }) => {
                command(component, command_of, folder, search_path.as_deref())?;
            }
            None => return Err(ResolveError::NoSource(component.clone())),
        }
    }
    Ok(())
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
    for (component, command_of) in components(&request) {
        let artifact = match request.sources.get(component) {
            Some(Source::Path(path)) => {
                let digest = match stored.get(path) {
                    Some(digest) => digest.clone(),
                    None => store(component, folder, path)?,
                };
                stored.insert(path.clone(), digest.clone());
                Artifact::Stored { digest }
            }
            Some(Source::Command { folder, search_path }) => {
                command(component, command_of, folder, search_path.as_deref())?
            }
            None => return Err(ResolveError::NoSource(component.clone())),
        };
        resolved.insert(component.clone(), artifact);
    }
    let digest = hash(&resolved, &request);
    Ok(Release { name, digest, artifacts: resolved, configuration: request.configuration })
}

/// Everything that is run from an artifact, with its command: services, and stores with hooks.
fn components(request: &ReleaseRequest) -> Vec<(&ComponentName, &[Template])> {
    let configuration = &request.configuration;
    let services = configuration.services.iter().map(|(name, service)| (name, service.run.as_slice()));
    let stores = configuration.stores.iter().filter_map(|(name, store)| {
        let hook = [&store.expand, &store.contract].into_iter().find(|hook| !hook.is_empty())?;
        Some((name, hook.as_slice()))
    });
    services.chain(stores).collect()
}

fn store(component: &ComponentName, folder: &StateFolder, path: &Path) -> Result<Digest, ResolveError> {
    let stored = artifacts::store(folder, path, &|_| {});
    stored
        .map(|stored| stored.digest)
        .map_err(|cause| ResolveError::Store { component: component.clone(), cause })
}

fn command(
    component: &ComponentName,
    command: &[Template],
    folder: &Path,
    search_path: Option<&str>,
) -> Result<Artifact, ResolveError> {
    // The program's name has no values to fill in: `mainstay run` takes it literally.
    let program = command[0].render(|_| None).unwrap_or_default();
    let (executable, digest) = artifacts::executable(&program, folder, search_path.map(OsStr::new))
        .map_err(|cause| ResolveError::Executable { component: component.clone(), cause })?;
    Ok(Artifact::Command { digest, executable, folder: folder.to_owned() })
}

/// SHA-256 over artifacts and configuration as JSON. Maps are sorted, so equal releases hash alike.
fn hash(artifacts: &BTreeMap<ComponentName, Artifact>, request: &ReleaseRequest) -> Digest {
    let text = serde_json::to_vec(&(artifacts, &request.configuration))
        .expect("a release has string keys and finite numbers");
    Digest::from_bytes(Sha256::digest(&text).into())
}
