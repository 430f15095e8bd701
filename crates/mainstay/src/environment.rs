//! Which environment a command means: its folder, and what the workload file says of it.

use crate::failure::{Exit, Failure};
use crate::flags::Flags;
use api::client::Client;
use api::folder::{Mark, MarkError, StateFolder};
use model::name::{EnvironmentName, WorkloadName};
use model::workload::Configuration;
use std::path::{Path, PathBuf};
use std::time::Duration;
use workfile::Workfile;

/// The workload file that is looked for.
const DEFAULT_FILE: &str = "mainstay.toml";
/// The workload of environments that were made by `mainstay run`.
const COMMAND_WORKLOAD: &str = "run";
/// How long the agent may take to answer. Stopping everything is the longest thing it is asked.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// An environment, found.
pub(crate) struct Found {
    pub(crate) name: EnvironmentName,
    pub(crate) folder: StateFolder,
    /// None for an environment that was made by `mainstay run`.
    pub(crate) file: Option<(Workfile, Configuration)>,
}

impl Found {
    /// The environment `name`: of the workload file, or else one that `mainstay run` has made.
    pub(crate) fn find(flags: &Flags, name: &EnvironmentName) -> Result<Self, Failure> {
        let Some(file) = workload_file(flags)? else { return Self::made_by_run(flags, name) };
        match file.configuration(name) {
            Ok(configuration) => {
                let configuration = configuration.clone();
                let folder = folder(flags, file.workload(), name)?;
                Ok(Self { name: name.clone(), folder, file: Some((file, configuration)) })
            }
            Err(unknown) => match Self::made_by_run(flags, name) {
                Ok(found) if found.folder.mark().exists() => Ok(found),
                Ok(_) | Err(_) => Err(Failure::usage(unknown.to_string())),
            },
        }
    }

    /// The environment `name` of `mainstay run`, whether or not it exists.
    pub(crate) fn made_by_run(flags: &Flags, name: &EnvironmentName) -> Result<Self, Failure> {
        let folder = folder(flags, &command_workload(), name)?;
        Ok(Self { name: name.clone(), folder, file: None })
    }

    /// Whose folder it is.
    pub(crate) fn mark(&self) -> Result<Mark, Failure> {
        self.folder.read_mark().map_err(|error| self.mark_failure(error))
    }

    pub(crate) fn mark_failure(&self, error: MarkError) -> Failure {
        match error {
            MarkError::Missing(_) => {
                let hint = match self.file {
                    Some(_) => format!("mainstay up {}", self.name),
                    None => "mainstay run -- COMMAND, or give the workload file with --file".into(),
                };
                Failure::new(Exit::NotUp, format!("there is no environment {} yet", self.name)).hint(hint)
            }
            MarkError::Newer { .. } => Failure::machine(error.to_string()).hint("use that newer mainstay"),
            MarkError::Damaged { .. } | MarkError::Io { .. } => Failure::machine(error.to_string()),
        }
    }

    /// Speaks to the agent.
    pub(crate) fn agent(&self) -> Client {
        Client::new(self.folder.agent_socket(), CALL_TIMEOUT)
    }

    /// Speaks to the agent of an environment that has to be up.
    pub(crate) async fn agent_of_one_that_is_up(&self) -> Result<Client, Failure> {
        self.mark()?;
        // An agent goes on without its keeper, and is spoken to all the same.
        if self.is_up() || tokio::net::UnixStream::connect(self.folder.agent_socket()).await.is_ok() {
            return Ok(self.agent());
        }
        let hint = format!("mainstay up {}", self.name);
        Err(Failure::new(Exit::NotUp, format!("{} is not up", self.name)).hint(hint))
    }

    /// Whether a keeper holds it.
    pub(crate) fn is_up(&self) -> bool {
        let Ok(lock) = std::fs::File::open(self.folder.keeper_lock()) else { return false };
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
    }
}

/// The workload of `mainstay run`.
pub(crate) fn command_workload() -> WorkloadName {
    WorkloadName::new(COMMAND_WORKLOAD).expect("a name")
}

fn workload_file(flags: &Flags) -> Result<Option<Workfile>, Failure> {
    match &flags.file {
        Some(path) => Ok(Some(workfile::read(path)?)),
        None if Path::new(DEFAULT_FILE).exists() => Ok(Some(workfile::read(Path::new(DEFAULT_FILE))?)),
        None => Ok(None),
    }
}

/// `--state`, or the place of this workload and environment below the XDG state home (XDG Base Directory
/// Specification 0.8).
fn folder(flags: &Flags, workload: &WorkloadName, name: &EnvironmentName) -> Result<StateFolder, Failure> {
    let root = match &flags.state {
        Some(state) => std::path::absolute(state)?,
        None => state_home()?.join("mainstay").join(workload.as_str()).join(name.as_str()),
    };
    // Unix sockets have short names: say so here rather than as a puzzling error of the system later.
    let longest = StateFolder::new(&root).gateway_socket();
    if longest.as_os_str().len() > 100 {
        let message = format!(
            "the folder {} is too deep: unix sockets below it would have names of over 100 bytes",
            root.display()
        );
        return Err(Failure::usage(message).hint("give a shorter one with --state"));
    }
    Ok(StateFolder::new(root))
}

fn state_home() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(home) = absolute("XDG_STATE_HOME") {
        return Ok(home);
    }
    let home = absolute("HOME").ok_or_else(|| {
        Failure::usage("neither XDG_STATE_HOME nor HOME is set").hint("give --state FOLDER")
    })?;
    Ok(home.join(".local/state"))
}
