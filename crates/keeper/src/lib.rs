//! The keeper: the small parent process of one environment.
//!
//! Lives here: the listening sockets, held open for as long as the environment is up so that clients queue
//! in the backlog while a gateway is replaced; the restart of agent and gateway, with backoff; the lock that
//! makes an environment be up once.
//!
//! Never here: an async runtime, the workload, releases, requests. A process that is never restarted has to
//! be too simple to fail.

mod children;
mod sockets;

use api::folder::{MarkError, StateFolder};
use api::keeper::{Answer, Ask, LINE_LIMIT};
use children::{Child, GATEWAY};
use sockets::Sockets;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long a connection to the keeper's socket may take to ask.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a keeper cannot start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another keeper holds the environment.
    #[error("the environment is already up")]
    AlreadyUp,
    /// The state folder is missing, damaged or newer.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        cause: std::io::Error,
    },
    /// Anything else of the operating system.
    #[error("cannot use {path}: {cause}")]
    Io {
        /// The file or socket.
        path: PathBuf,
        /// What it said.
        #[source]
        cause: std::io::Error,
    },
}

/// A keeper that holds the environment's lock and sockets, before it starts its children.
#[derive(Debug)]
pub struct Keeper {
    folder: StateFolder,
    /// Held until the process ends.
    _lock: File,
    sockets: Sockets,
    door: UnixListener,
}

impl Keeper {
    /// Takes the lock and the sockets.
    pub fn open(folder: StateFolder) -> Result<Self, StartError> {
        let mark = folder.read_mark()?;
        let io = |path: PathBuf| move |cause| StartError::Io { path, cause };
        let lock = File::create(folder.keeper_lock()).map_err(io(folder.keeper_lock()))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::AlreadyUp),
            Err(cause) => return Err(io(folder.keeper_lock())(cause.into())),
        }
        let sockets = Sockets::bind(&mark.listen)?;
        let path = folder.keeper_socket();
        // The lock is ours, so whoever left this socket is gone.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(path)(e)),
            Ok(()) | Err(_) => {}
        }
        let door = UnixListener::bind(&path).map_err(io(path.clone()))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).map_err(io(path))?;
        Ok(Self { folder, _lock: lock, sockets, door })
    }

    /// Starts agent and gateway, calls `started`, and keeps them until it is asked for `Down`.
    pub fn keep(self, started: impl FnOnce()) -> ExitCode {
        let state = self.folder.root().to_owned();
        let gateway = Child::start(GATEWAY, &state, self.folder.logs());
        let agent = Child::start("agent", &state, self.folder.logs());
        started();
        let family = Arc::new(Family { sockets: self.sockets, agent, gateway });
        // One at a time: every ask is answered at once, but for `Down`, which is the last.
        for connection in self.door.incoming() {
            let Ok(connection) = connection else { continue };
            if answer(&family, connection).is_ok_and(|last| last) {
                // Removed while the lock is held: the next keeper makes its own.
                let _ = std::fs::remove_file(self.folder.keeper_socket());
                return ExitCode::SUCCESS;
            }
        }
        ExitCode::FAILURE
    }
}

#[derive(Debug)]
struct Family {
    sockets: Sockets,
    agent: Child,
    gateway: Child,
}

/// Answers one connection; true when it was the last.
fn answer(family: &Family, mut connection: UnixStream) -> std::io::Result<bool> {
    connection.set_read_timeout(Some(ASK_TIMEOUT))?;
    connection.set_write_timeout(Some(ASK_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new((&connection).take(LINE_LIMIT as u64)).read_line(&mut line)?;
    let v = api::PROTOCOL_VERSION;
    let answer = match serde_json::from_str(&line) {
        Ok(Ask::Listeners { .. }) => {
            family.sockets.send(&connection)?;
            return Ok(false);
        }
        Ok(Ask::State { .. }) => Answer::State {
            v,
            pid: std::process::id(),
            agent: family.agent.pid(),
            gateway: family.gateway.pid(),
            agent_restarts: family.agent.restarts(),
            gateway_restarts: family.gateway.restarts(),
        },
        Ok(Ask::Down { .. }) => {
            family.agent.end();
            family.gateway.end();
            Answer::Down { v }
        }
        Err(e) => Answer::Refused { v, message: e.to_string() },
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    // After `Down` there is nothing left to keep, whether or not anybody hears of it.
    let last = matches!(answer, Answer::Down { .. });
    match connection.write_all(&text) {
        Err(error) if !last => Err(error),
        Ok(()) | Err(_) => Ok(last),
    }
}
