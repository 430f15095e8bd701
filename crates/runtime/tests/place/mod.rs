//! A state folder of its own for each test, and instances in it.

#![expect(clippy::unwrap_used, reason = "a test helper: what fails here fails the test")]
#![expect(dead_code, reason = "each test program uses a part of it")]

use api::folder::StateFolder;
use api::shim::{ProcessId, Running, Start, StopSignal};
use model::name::{ComponentName, FenceToken, InstanceId, StampId};
use runtime::process::{Family, alive};
use runtime::{Driver, Instance};
use std::ffi::OsString;
use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take in a test. Reached only when the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The command of the shim (`examples/shim.rs`, which cargo builds with the tests); the folder comes last.
pub(crate) fn shim_command() -> Vec<OsString> {
    // target/debug/deps/life-… → target/debug/examples/shim
    let own = std::env::current_exe().unwrap();
    let shim = own.ancestors().nth(2).unwrap().join("examples/shim");
    assert!(
        shim.exists(),
        "{} is missing: cargo test builds it unless only one test was asked for; cargo build -p runtime --examples",
        shim.display()
    );
    vec![shim.into_os_string()]
}

/// Waits until something holds.
pub(crate) async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        // waits on a condition
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a future that must not take for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

pub(crate) struct Place {
    dir: TempDir,
    pub(crate) state: StateFolder,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::below("state")
    }

    /// A state folder with a name of any length.
    pub(crate) fn below(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::new(dir.path().join(name));
        std::fs::create_dir_all(state.root()).unwrap();
        Self { dir, state }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn driver(&self, fence: u64) -> Driver {
        Driver::new(self.state.clone(), FenceToken(fence)).with_shim_command(shim_command())
    }

    pub(crate) fn id(&self, name: &str) -> InstanceId {
        InstanceId { stamp: StampId(1), component: ComponentName::new(name).unwrap(), index: 0 }
    }

    pub(crate) fn start(&self, name: &str, command: &[&str]) -> Start {
        Start {
            v: api::PROTOCOL_VERSION,
            fence: FenceToken(1),
            instance: self.id(name),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            folder: self.dir.path().to_owned(),
            env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
            open_files: None,
            log: self.state.logs().join(format!("{name}.log")),
            port: 1,
            stop_signal: StopSignal::Term,
        }
    }

    /// A start that runs a line of shell.
    pub(crate) fn shell(&self, name: &str, script: &str) -> Start {
        self.start(name, &["sh", "-c", script])
    }

    pub(crate) fn shim_folder(&self, name: &str) -> PathBuf {
        self.state.shim(&self.id(name))
    }

    pub(crate) fn running(&self, name: &str) -> Option<Running> {
        serde_json::from_slice(&std::fs::read(self.shim_folder(name).join("running.json")).ok()?).ok()
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.state.logs().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Waits for a text in an instance's log.
    pub(crate) async fn says(&self, name: &str, text: &str) {
        wait_until(&format!("{name} says {text}"), async || self.log(name).contains(text)).await;
    }

    /// Starts the shim as the driver would, without the driver.
    pub(crate) fn spawn_shim(&self, name: &str) -> Child {
        let folder = self.shim_folder(name);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(folder.join("lock"))
            .unwrap();
        lock.lock().unwrap();
        let words = shim_command();
        let stderr = File::create(folder.join("shim.log")).unwrap();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(&folder).stdin(Stdio::from(lock)).stdout(Stdio::null()).stderr(stderr);
        command.spawn().unwrap()
    }

    fn families(&self) -> Vec<Family> {
        let shims = std::fs::read_dir(self.state.run().join("shims")).into_iter().flatten().flatten();
        let read = |path: PathBuf| serde_json::from_slice::<ProcessId>(&std::fs::read(path).ok()?).ok();
        shims
            .filter_map(|entry| Some(Family { shim: read(entry.path().join("lock"))?, leader: None }))
            .collect()
    }
}

impl Drop for Place {
    /// A test that failed leaves no process behind.
    fn drop(&mut self) {
        for family in self.families() {
            let deadline = Instant::now() + PATIENCE;
            while family.signal(rustix::process::Signal::KILL, |_| true) > 0 && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
    }
}

/// Kills exactly this process, and waits until it is gone.
pub(crate) async fn kill(process: &ProcessId) {
    let pid = rustix::process::Pid::from_raw(process.pid.cast_signed()).unwrap();
    assert!(alive(process), "{process:?} is gone already");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_until("a killed process is gone", async || !alive(process)).await;
}

/// Waits until nothing of an instance is left, its shim included.
pub(crate) async fn all_gone(instance: &Instance) {
    let (family, shim) = (instance.family(), instance.running().shim.clone());
    wait_until("all of an instance is gone", async || family.members().is_empty() && !alive(&shim)).await;
}
