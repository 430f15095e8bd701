//! An environment in a temporary folder, acted on by the command line.

use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where the ports of environments begin, and how many there are.
const FIRST_PORT: u16 = 61_000;
const PORTS: u16 = 4_000;
/// How far apart test programs begin. It shares no factor with `PORTS`, so none of the ports is left out.
const APART: u32 = 37;

/// How long an environment may take to go down before it is killed.
const DOWN_PATIENCE: Duration = Duration::from_secs(20);

/// What a command printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A command that runs.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Waits for its end.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn wait(self) -> Ran {
        Ran::of(&self.0.wait_with_output().expect("it can be waited for"))
    }
}

impl Ran {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// The last line of standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The command, which has to have ended with 0.
    ///
    /// # Panics
    /// When it has not.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// An environment and the workload file that describes it. Dropping it takes everything down.
#[derive(Debug)]
pub struct Environment {
    folder: TempDir,
    program: PathBuf,
    name: String,
    /// Where its users come.
    pub address: SocketAddr,
    variables: Vec<(String, String)>,
}

impl Environment {
    /// An environment called `name`; `program` is mainstay.
    ///
    /// # Panics
    /// When there is no room for a temporary folder, or no free port.
    pub fn new(program: &str, name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("ms-").tempdir().expect("a temporary folder");
        Self {
            folder,
            program: program.into(),
            name: name.into(),
            address: free_address(),
            variables: Vec::new(),
        }
    }

    /// Sets a variable of every command from now on.
    pub fn variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.into(), value.into()));
    }

    /// The temporary folder; the workload file lies in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The environment's own folder.
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// Writes a file below the temporary folder, making folders as needed.
    ///
    /// # Panics
    /// When it cannot.
    pub fn write(&self, path: &str, content: &str) -> PathBuf {
        let path = self.folder().join(path);
        std::fs::create_dir_all(path.parent().expect("it is below a folder")).expect("a folder can be made");
        std::fs::write(&path, content).expect("a file can be written");
        path
    }

    /// Runs mainstay in the temporary folder, with `--state`.
    pub fn mainstay(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command(arguments).output().expect("mainstay can be run"))
    }

    /// The same, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--state").arg(self.state()).args(arguments);
        command.current_dir(self.folder()).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs mainstay and goes on meanwhile.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn mainstay_later(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().expect("mainstay can be run"))
    }

    /// `mainstay status --json`; none while no agent answers.
    pub fn status(&self) -> Option<Value> {
        let ran = self.mainstay(&["--json", "status", &self.name]);
        (ran.code == 0).then(|| ran.json())
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        let deadline = Instant::now() + DOWN_PATIENCE;
        while self.mainstay(&["down", &self.name]).code != 0 && self.state().join("run/keeper.sock").exists()
        {
            if Instant::now() > deadline {
                self.kill_everything();
                break;
            }
            // A release under way stands in the way: it is taken back.
            self.mainstay(&["rollback", &self.name]);
            std::thread::sleep(Duration::from_millis(100));
        }
        make_writable(self.folder.path());
    }
}

impl Environment {
    /// Kills whoever names its folder, and the instances that its shims have written down: what a loss of power does,
    /// but for the disk, and what becomes of a test that failed badly.
    pub fn kill_everything(&self) {
        let mut pids = Vec::new();
        let state = self.state().display().to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if command.starts_with(b"mainstay\0") && String::from_utf8_lossy(&command).contains(&state) {
                pids.push(pid.to_string());
            }
        }
        for shim in std::fs::read_dir(self.state().join("run/shims")).into_iter().flatten().flatten() {
            let running = std::fs::read(shim.path().join("running.json")).unwrap_or_default();
            let running: Value = serde_json::from_slice(&running).unwrap_or_default();
            pids.extend(running["process"]["pid"].as_u64().map(|pid| format!("-{pid}")));
        }
        // A process that has ended meanwhile needs no signal.
        let _ = Command::new("kill").arg("-9").arg("--").args(pids).status();
    }
}

/// Stored artifacts are read-only, also to the one who removes them.
fn make_writable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            // What stays behind lies in the system's folder for temporary files.
            let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700));
            make_writable(&path);
        }
    }
}

/// An address on loopback that nobody has. Above the ports that the kernel gives to outgoing connections
/// (32768 to 60999 unless set otherwise): the users of other tests would take it in the meantime.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin elsewhere, also those whose processes are next to each other.
    let begin = std::process::id() % u32::from(PORTS) * APART;
    for _ in 0..PORTS {
        let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let offset = u16::try_from((begin + turn) % u32::from(PORTS)).expect("less than PORTS");
        let address = SocketAddr::from(([127, 0, 0, 1], FIRST_PORT + offset));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("none of the ports from {FIRST_PORT} is free");
}
