//! A PostgreSQL server of a test's own: on loopback, in a temporary folder, stopped at the end.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::running::DEADLINE;

const PASSWORD: &str = "s3cret";
/// PostgreSQL refuses to run as root, and needs no user that exists.
const NOBODY: u32 = 65_534;

pub(crate) struct Server {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Server {
    /// `None` when PostgreSQL is not installed, which is said.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = installed() else {
            println!(
                "SKIPPED: PostgreSQL is not installed (no initdb and postgres in PATH or /usr/lib/postgresql)"
            );
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).expect("a file");
        if rustix::process::geteuid().is_root() {
            for path in [folder.path(), &password] {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("we are root");
            }
        }
        let mut initdb = unprivileged(&programs.join("initdb"), folder.path());
        initdb.arg("-D").arg(folder.path().join("data")).arg("--pwfile").arg(&password);
        initdb.args(["-U", "shop", "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync"]);
        let made = initdb.output().expect("initdb runs");
        assert!(made.status.success(), "{made:?}");
        let (child, port) = serve(&programs, folder.path());
        Some(Self { child, port, folder })
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://shop:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.expect("a connection");
        // Ends with the client.
        tokio::spawn(connection);
        client
    }

    /// Stops it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        signal(&self.child, rustix::process::Signal::QUIT);
        self.child.wait().expect("it is our child");
    }

    /// Starts it again, on the same port and with the same data.
    pub(crate) fn start_again(&mut self) {
        let programs = installed().expect("it was there before");
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(child) = serve_on(&programs, self.folder.path(), self.port) {
                self.child = child;
                return;
            }
            assert!(Instant::now() < until, "the server does not come back");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
        }
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("it is ours");
}

/// The folder of the server's programs.
fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    std::env::split_paths(&path)
        .chain(debian.map(|version| version.path().join("bin")))
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

fn unprivileged(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// On some free port: one that was free a moment ago may be gone, then another is tried.
fn serve(programs: &Path, folder: &Path) -> (Child, u16) {
    let until = Instant::now() + DEADLINE;
    loop {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        if let Some(child) = serve_on(programs, folder, port) {
            return (child, port);
        }
        assert!(Instant::now() < until, "the server does not start");
    }
}

/// `None` when it ends instead of accepting.
fn serve_on(programs: &Path, folder: &Path, port: u16) -> Option<Child> {
    let mut command = unprivileged(&programs.join("postgres"), folder);
    command.arg("-D").arg(folder.join("data")).args(["-p", &port.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=off",
        "shared_buffers=16MB",
        "max_connections=60",
        "autovacuum=off",
    ] {
        command.args(["-c", setting]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("postgres runs");
    let ready = folder.join("data/postmaster.pid");
    let until = Instant::now() + DEADLINE;
    loop {
        if child.try_wait().expect("it is our child").is_some() {
            return None;
        }
        // The eighth line says what it is doing, padded with blanks (PostgreSQL, src/include/utils/pidfile.h).
        let text = std::fs::read_to_string(&ready).unwrap_or_default();
        let pid = child.id().to_string();
        if text.lines().next() == Some(&pid) && text.lines().nth(7).is_some_and(|line| line.trim() == "ready")
        {
            return Some(child);
        }
        assert!(Instant::now() < until, "the server does not get ready");
        // waits on a condition
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
