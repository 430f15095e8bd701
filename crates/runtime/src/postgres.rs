//! A PostgreSQL server of an environment's own: made once, run as an instance under a shim like any service, so that
//! it outlives agents and is adopted by the next.
//!
//! The data folder is made beside its place and renamed into it when it is whole; what is in its place is never
//! removed here. The server listens on 127.0.0.1 only, on a port that it keeps as long as nobody else takes it, and
//! lets in one user with a random password. The programs are those of the machine; nothing is downloaded.
//!
//! PostgreSQL refuses to run as root, whoever owns its files. Where this process is root, the server runs in a user
//! namespace (user_namespaces(7)) in which the same user is called `nobody`: its files stay root's, and signals and
//! the process table see it as any other child, as unshare(1) becomes the server.

use crate::ports::{NoPort, Ports};
use crate::{Instance, NotReady};
use api::PROTOCOL_VERSION;
use api::folder::{StateFolder, replace_file};
use api::shim::{Start, StopSignal};
use model::name::{ComponentName, FenceToken, InstanceId, StampId};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

mod greeting;
mod programs;

mod cluster;

pub(crate) use greeting::{Greeting, greet};

use cluster::Cluster;
use programs::Programs;

/// The one user of the server.
pub const USER: &str = "mainstay";

/// How long the server should be given to stop ([`Instance::stop`]): it ends its clients' connections at once and
/// writes to disk what it has in memory. Killed before it is done, it loses nothing and takes longer to start.
pub const STOP_GRACE: Duration = Duration::from_secs(60);

/// How long initdb(1), and making the database, may take each. A second or two where the disk is not asleep.
pub const MAKE_LIMIT: Duration = Duration::from_secs(120);

/// How long what a killed server leaves behind may take to notice and end by itself.
pub const ORPHAN_WAIT: Duration = Duration::from_secs(10);

/// A PostgreSQL store of one environment.
#[derive(Debug, Clone)]
pub struct Postgres {
    folder: StateFolder,
    component: ComponentName,
}

/// Why a server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The programs are not on this machine.
    #[error("there is no PostgreSQL here: no folder of PATH and of {} has both `initdb` and `postgres`", .places.join(", "))]
    Missing {
        /// Where else they were looked for.
        places: Vec<String>,
    },
    /// The data was made by another major version.
    #[error("{} was made by PostgreSQL {wanted}, and here is {}", .data.display(), versions(.found))]
    Version {
        /// The data folder.
        data: PathBuf,
        /// The major version that made it.
        wanted: u32,
        /// Those that are here.
        found: Vec<u32>,
    },
    /// This process is root, and the server cannot be run as anybody else.
    #[error("PostgreSQL refuses to run as root, and a user namespace for it cannot be made: {said}")]
    Namespace {
        /// What unshare(1) said.
        said: String,
    },
    /// There is something else in the data folder's place.
    #[error("{} is not a data folder of PostgreSQL", .path.display())]
    Foreign {
        /// The place.
        path: PathBuf,
    },
    /// There is data, and not its password.
    #[error("the password to {} is not in {}", .data.display(), .path.display())]
    Password {
        /// The data folder.
        data: PathBuf,
        /// Where the password was.
        path: PathBuf,
    },
    /// PostgreSQL has databases of this name for itself.
    #[error("a PostgreSQL store cannot be called `{component}`: that is a database of the server's own")]
    Name {
        /// The name.
        component: ComponentName,
    },
    /// A server that lost its shim, or a part of one, still works on the data.
    #[error("PostgreSQL still works in {}: process {}", .data.display(), numbers(.pids))]
    Occupied {
        /// The data folder.
        data: PathBuf,
        /// The processes.
        pids: Vec<u32>,
    },
    /// One of the programs failed.
    #[error("{program} {said}")]
    Program {
        /// Its name.
        program: String,
        /// How, with its last words.
        said: String,
    },
    /// There is no port for it.
    #[error(transparent)]
    Port(NoPort),
    /// The state folder or the machine refused. The system's words are part of the text.
    #[error("{}: {cause}", .path.display())]
    Machine {
        /// What it was about.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
}

fn versions(found: &[u32]) -> String {
    numbers(found).replace(", ", " and ")
}

fn numbers(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

impl PrepareError {
    /// What to do next, when there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => Some(
                "apt-get install postgresql, or dnf install postgresql-server; or give the address of a server \
                 that runs already"
                    .to_owned(),
            ),
            Self::Version { wanted, .. } => Some(format!(
                "apt-get install postgresql-{wanted}; to change the version, dump the data with the old one and \
                 load it into the new one"
            )),
            Self::Namespace { .. } => Some(
                "run mainstay as a normal user, or allow user namespaces: sysctl user.max_user_namespaces above 0, \
                 and an unshare (util-linux) that knows --map-user"
                    .to_owned(),
            ),
            Self::Foreign { path } => Some(format!("move it away, or give the store another name: {}", path.display())),
            Self::Password { path, .. } => Some(format!("put it back into {} (mode 0600)", path.display())),
            Self::Name { .. } => Some("give the store another name".to_owned()),
            Self::Occupied { pids, .. } => Some(format!("ps -fp {}", numbers(pids).replace(' ', ""))),
            Self::Port(none) => Some(none.hint()),
            Self::Program { .. } | Self::Machine { .. } => None,
        }
    }
}

impl Postgres {
    /// The server of this store. Nothing is touched yet.
    pub fn new(folder: StateFolder, component: ComponentName) -> Self {
        Self { folder, component }
    }

    /// The server as an instance: the only one, of no stamp.
    pub fn instance(&self) -> InstanceId {
        InstanceId { stamp: StampId::STORES, component: self.component.clone(), index: 0 }
    }

    /// Makes what is missing of data folder, database and password, puts in order what a killed server left, chooses
    /// the port, and says what to hand to [`crate::Driver::start`]. Only for a server that does not run: ask
    /// [`crate::Driver::adopt`] first. To be repeated before every start, as the port may have been taken meanwhile.
    ///
    /// The port is the one of the last start if that is free and not in `taken`. Takes a second or two the first
    /// time, at most [`MAKE_LIMIT`] for each of two programs, and does not block. Dropped or killed half-way it can
    /// be called again: what was half-made is removed and made again.
    ///
    /// # Errors
    /// See [`PrepareError`], which has a hint for most.
    pub async fn prepare(&self, ports: &mut Ports, taken: &BTreeSet<u16>) -> Result<Start, PrepareError> {
        if ["template0", "template1"].contains(&self.component.as_str()) {
            return Err(PrepareError::Name { component: self.component.clone() });
        }
        let cluster = Cluster {
            data: self.folder.store_data(&self.component),
            password: self.folder.store_password(&self.component),
        };
        let made_by = cluster.made_by()?;
        let programs = Programs::find(&cluster.data, made_by).await?;
        match made_by {
            None => cluster.make(&programs, self.component.as_str()).await?,
            Some(_) => {
                cluster.read_password()?;
                cluster.put_in_order().await?;
            }
        }
        let port = self.choose_port(ports, taken)?;
        Ok(self.start(&programs, cluster.data, port))
    }

    fn choose_port(&self, ports: &mut Ports, taken: &BTreeSet<u16>) -> Result<u16, PrepareError> {
        let path = self.folder.store_port(&self.component);
        // One that cannot be read is chosen anew: whoever needs it is told the new one.
        let before = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        let port = ports.again(before, taken).map_err(PrepareError::Port)?;
        if Some(port) != before {
            let folder = path.parent().expect("the file is in a folder of the state folder");
            cluster::make_folder(folder)
                .and_then(|()| replace_file(&path, format!("{port}\n").as_bytes()))
                .map_err(|cause| PrepareError::Machine { path, cause })?;
        }
        Ok(port)
    }

    fn start(&self, programs: &Programs, data: PathBuf, port: u16) -> Start {
        let mut command = programs.words("postgres");
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        command.extend(["-D".to_owned(), text(&data), "-p".to_owned(), port.to_string()]);
        // No socket in the file system: its name is limited to 107 bytes, and one address is enough.
        command.extend(["-h", "127.0.0.1", "-k", ""].map(str::to_owned));
        // What the environment relies on, whatever somebody writes into postgresql.conf. The shim keeps the log.
        for setting in ["fsync=on", "full_page_writes=on", "logging_collector=off", "log_destination=stderr"]
        {
            command.extend(["-c".to_owned(), setting.to_owned()]);
        }
        let instance = self.instance();
        Start {
            v: PROTOCOL_VERSION,
            fence: FenceToken(0),
            command,
            folder: data,
            env: programs.environment(),
            open_files: None,
            log: self.folder.instance_log(instance.stamp, &instance.component, instance.index),
            port,
            instance,
            stop_signal: StopSignal::Int,
        }
    }

    /// Waits until the server, started or adopted, lets clients in, which after a crash is when it has recovered.
    /// The time counts from its start, or from its adoption. Cancel-safe.
    ///
    /// # Errors
    /// See [`NotReady`]. The server is left as it is.
    pub async fn ready(&self, instance: &Instance, timeout: Duration) -> Result<SocketAddr, NotReady> {
        instance.ready_as_postgres(USER, self.component.as_str(), timeout).await
    }

    /// How clients reach it on the port of [`api::shim::Running`]:
    /// `postgres://mainstay:PASSWORD@127.0.0.1:PORT/NAME`. A secret.
    ///
    /// # Errors
    /// When the password cannot be read.
    pub fn address(&self, port: u16) -> Result<String, PrepareError> {
        let cluster = Cluster {
            data: self.folder.store_data(&self.component),
            password: self.folder.store_password(&self.component),
        };
        let password = cluster.read_password()?;
        Ok(format!("postgres://{USER}:{password}@127.0.0.1:{port}/{}", self.component))
    }
}
