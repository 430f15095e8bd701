//! Which environment a command means: its folder, and what the workload file says of it.

use crate::failure::{Exit, Failure};
use crate::flags::Flags;
use api::client::Client;
use api::folder::{Mark, MarkError, StateFolder};
use model::name::{EnvironmentName, WorkloadName};
use model::workload::Configuration;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use workfile::Workfile;

/// The workload file that is looked for.
const DEFAULT_FILE: &str = "mainstay.toml";
/// The workload of environments that were made by `mainstay run`.
const COMMAND_WORKLOAD: &str = "run";
/// How long the agent may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take when it drains a stamp first. The limit of what a workload file may say for that is
/// longer; who waits can interrupt, and ask again.
const DRAIN_CALL_TIMEOUT: Duration = Duration::from_secs(3600);

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

    /// The environment `name`, for verbs that need nothing from the workload file but its workload's name: they
    /// work while the file is being edited, and for an environment that it no longer has.
    pub(crate) fn running(flags: &Flags, name: &EnvironmentName) -> Result<Self, Failure> {
        let path = flags.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let of_file = workfile::workload_name(path);
        for workload in of_file.into_iter().chain([command_workload()]) {
            let folder = folder(flags, &workload, name)?;
            if folder.read_mark().is_ok_and(|mark| mark.environment == *name) {
                return Ok(Self { name: name.clone(), folder, file: None });
            }
        }
        // There is none: the strict way says what is wrong.
        Self::find(flags, name)
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

    /// Speaks to the gateway.
    pub(crate) fn gateway(&self) -> Client {
        Client::new(self.folder.gateway_socket(), CALL_TIMEOUT)
    }

    /// Speaks to the gateway about what may take as long as reading a damaged file.
    pub(crate) fn patient_gateway(&self) -> Client {
        Client::new(self.folder.gateway_socket(), DRAIN_CALL_TIMEOUT)
    }

    /// Speaks to the agent about what may take as long as a drain.
    pub(crate) fn patient_agent(&self) -> Client {
        Client::new(self.folder.agent_socket(), DRAIN_CALL_TIMEOUT)
    }

    /// How a changed version is released to it.
    pub(crate) fn release_command(&self) -> String {
        let by_command = self.mark().is_ok_and(|mark| mark.workload == command_workload());
        let command = if by_command { " -- COMMAND" } else { "" };
        format!("mainstay release {}{command}", self.name)
    }

    /// Fails unless something of it runs.
    pub(crate) async fn must_be_up(&self) -> Result<(), Failure> {
        self.mark()?;
        match self.life().await {
            Life::Up | Life::Orphaned => Ok(()),
            Life::Down => {
                let hint = format!("mainstay up {}", self.name);
                Err(Failure::new(Exit::NotUp, format!("{} is not up", self.name)).hint(hint))
            }
        }
    }

    /// What of its family runs.
    pub(crate) async fn life(&self) -> Life {
        let answers = async |socket: PathBuf| UnixStream::connect(socket).await.is_ok();
        if answers(self.folder.keeper_socket()).await {
            Life::Up
        } else if answers(self.folder.agent_socket()).await || answers(self.folder.gateway_socket()).await {
            Life::Orphaned
        } else {
            Life::Down
        }
    }
}

/// What runs of an environment's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Its keeper, and so everything else, or soon.
    Up,
    /// Agent or gateway, without a keeper that would start them again.
    Orphaned,
    /// Nothing.
    Down,
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
