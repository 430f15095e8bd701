//! The workload file: from the text somebody typed to [`Configuration`] values, one per environment.
//!
//! Lives here: the raw types of the file, the checks of its shape and meaning, messages that point into the
//! file, its JSON Schema and the table of its keys. Reading has these steps, each a module:
//!
//! 1. `syntax`: text to TOML tables that know their places;
//! 2. `shape`: unknown keys, missing keys and wrong types, by the schema that the types in `raw` give;
//! 3. `environments`: what each environment sees, overlays merged;
//! 4. `check`: what was typed to what it means.
//!
//! A step that finds something tells all it found, and the next one does not begin.
//!
//! Never here: processes, sockets, or anything that is true of a machine and not of the file. The only file
//! that is read is the workload file itself.

mod command;
mod error;

mod syntax;

mod raw;
mod schema;
mod shape;

mod environments;

mod check;

mod near;
mod table;
mod text;

pub use command::{COMMAND_INSTANCES_LIMIT, CommandError, CommandOptions, for_command};
pub use error::{FILE_LIMIT, FINDINGS_LIMIT, Finding, Invalid, ReadError};
pub use schema::schema;
pub use table::key_table;
pub use text::{DURATION_LIMIT, DurationError, parse_duration as duration};

use error::{Findings, Wrong};
use model::name::{ComponentName, EnvironmentName, WorkloadName};
use model::workload::Configuration;
use serde::Deserialize as _;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, Deserializer};

/// A workload file, read and checked for every environment it names.
#[derive(Debug, Clone, PartialEq)]
pub struct Workfile {
    workload: WorkloadName,
    folder: PathBuf,
    environments: BTreeMap<EnvironmentName, Configuration>,
}

/// An environment that the file does not name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no environment `{name}`{}; the file has {}", did_you_mean(near), list_names(known))]
pub struct UnknownEnvironment {
    /// What was asked for.
    pub name: EnvironmentName,
    /// What the file has.
    pub known: Vec<EnvironmentName>,
    /// Which of them was probably meant.
    pub near: Option<EnvironmentName>,
}

fn did_you_mean(near: &Option<EnvironmentName>) -> String {
    near.as_ref().map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"))
}

fn list_names(known: &[EnvironmentName]) -> String {
    near::list(known.iter().map(EnvironmentName::as_str))
}

/// Reads the file at `path`, at most [`FILE_LIMIT`] bytes of it, and checks it for every environment.
///
/// # Errors
/// When the file cannot be read, is too large, is not UTF-8, or says something that is wrong; then everything
/// that the first failing step found is in the error.
pub fn read(path: &Path) -> Result<Workfile, ReadError> {
    let open = |source| ReadError::Open { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let most = u64::try_from(FILE_LIMIT).expect("a file's limit is far below 64 bits") + 1;
    std::fs::File::open(path).map_err(open)?.take(most).read_to_end(&mut bytes).map_err(open)?;
    let name = path.display().to_string();
    if bytes.len() > FILE_LIMIT {
        return Err(ReadError::TooLarge { name });
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let at = error.valid_up_to();
        let (line, column) = error::position(&bytes, at);
        ReadError::Encoding { name: name.clone(), line, column, byte: bytes[at] }
    })?;
    let path = std::path::absolute(path).map_err(open)?;
    parse(&name, text, path.parent().unwrap_or(&path))
}

/// Checks `text`, which messages call `name`; relative paths in it are relative to `folder`.
///
/// # Errors
/// As [`read`], but for what only a file on disk can have wrong.
pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Workfile, ReadError> {
    if text.len() > FILE_LIMIT {
        return Err(ReadError::TooLarge { name: name.to_owned() });
    }
    let mut findings = Findings::new(name, text);
    let environments = check(text, &mut findings);
    if let Some(error) = findings.into_error() {
        return Err(error);
    }
    let workload = environments.values().next().map(|configuration| configuration.workload.clone());
    let workload = workload.expect("a file without findings has at least one environment");
    Ok(Workfile { workload, folder: folder.to_owned(), environments })
}

/// The steps. What it returns is whole only when there are no findings.
fn check(text: &str, findings: &mut Findings) -> BTreeMap<EnvironmentName, Configuration> {
    let mut environments = BTreeMap::new();
    let Some(tree) = syntax::read(text, findings) else { return environments };
    let schema = schema();
    shape::check(schema::Node::root(&schema), &tree, findings);
    if !findings.is_empty() {
        return environments;
    }
    let Some(file) = typed(tree.clone(), findings) else { return environments };
    for seen in environments::resolve(&file, &tree, findings) {
        let Some(file) = typed(seen.tree, findings) else { continue };
        if let Some(found) = check::configuration(&file, &seen.environment, seen.place, findings) {
            environments.insert(found.environment.clone(), found);
        }
    }
    environments
}

/// The raw types. What the shape was checked for fits them; should a type and its schema ever disagree, the
/// reader is still told where.
fn typed(tree: DeTable<'_>, findings: &mut Findings) -> Option<raw::File> {
    raw::File::deserialize(Deserializer::from(Spanned::new(0..0, tree)))
        .map_err(|error| findings.add(Wrong::at(error.span().unwrap_or_default(), error.message())))
        .ok()
}

/// The name of the workload in a file that need not be right: what serves can be looked at, rolled back and
/// taken down while its file is being edited. None when there is no such line.
pub fn workload_name(path: &Path) -> Option<WorkloadName> {
    let mut text = String::new();
    let most = u64::try_from(FILE_LIMIT).expect("a file's limit is far below 64 bits");
    std::fs::File::open(path).ok()?.take(most).read_to_string(&mut text).ok()?;
    let table = text.lines().skip_while(|line| line.trim() != "[workload]").skip(1);
    let mut keys = table.take_while(|line| !line.trim_start().starts_with('['));
    keys.find_map(|line| {
        let (key, value) = line.split_once('=')?;
        let value = value.split('#').next()?.trim().trim_matches(['"', '\'']);
        (key.trim() == "name").then(|| WorkloadName::new(value).ok())?
    })
}

impl Workfile {
    /// The workload's name.
    pub fn workload(&self) -> &WorkloadName {
        &self.workload
    }

    /// The folder that relative paths in the file, such as [`model::workload::Service::artifact`], are
    /// relative to. Absolute when the file was [`read`].
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The environments, by name. Never none.
    pub fn environments(&self) -> impl Iterator<Item = &EnvironmentName> {
        self.environments.keys()
    }

    /// Where the artifact of each component lies when it is not given with the release: of every service, and of
    /// every store that has a hook. `configuration` is one of this file's.
    pub fn artifacts(&self, configuration: &Configuration) -> BTreeMap<ComponentName, PathBuf> {
        let at_home = |(name, artifact): (&ComponentName, &Path)| (name.clone(), self.folder.join(artifact));
        configuration.artifacts().map(at_home).collect()
    }

    /// What the file says for one environment.
    ///
    /// # Errors
    /// When the file does not name it; the error lists those it does.
    pub fn configuration(&self, environment: &EnvironmentName) -> Result<&Configuration, UnknownEnvironment> {
        self.environments.get(environment).ok_or_else(|| {
            let known: Vec<_> = self.environments.keys().cloned().collect();
            let near = near::nearest(environment.as_str(), known.iter().map(EnvironmentName::as_str));
            let near = known.iter().find(|name| Some(name.as_str()) == near).cloned();
            UnknownEnvironment { name: environment.clone(), known, near }
        })
    }
}
