//! The stage: a folder with a workload file and the shop's releases, and the commands that act on it.

use crate::{DemoError, Options, SHOP_ROLE};
use api::client::Client;
use api::folder::StateFolder;
use api::operator::Status;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// The environment of the demo.
pub(crate) const ENVIRONMENT: &str = "demo";
/// The releases of the shop; each is a folder with a file that says so.
const RELEASES: &[&str] = &["v1", "v2", "v3-broken", "v3-errors"];
/// How long the agent may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often taking everything down is tried: a release under way is taken back first.
const STRIKE_TRIES: u32 = 3;

/// Where the demo is given.
#[derive(Debug)]
pub(crate) struct Stage {
    /// None once it is kept.
    folder: Option<TempDir>,
    root: PathBuf,
    program: PathBuf,
    pub(crate) address: SocketAddr,
    keep: bool,
}

impl Stage {
    pub(crate) fn build(options: &Options) -> Result<Self, DemoError> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |cause| DemoError::Io { what, cause }
        };
        let folder = tempfile::Builder::new()
            .prefix("mainstay-demo-")
            .tempdir()
            .map_err(io("cannot make a temporary folder"))?;
        let root = folder.path().to_owned();
        // Whoever asks the kernel for a free port gets one that nobody else is given for a while.
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(io("cannot find a free port"))?;
        let file = workload_file(&options.program, address);
        std::fs::write(root.join("mainstay.toml"), file).map_err(io("cannot write the workload file"))?;
        for release in RELEASES {
            let folder = root.join(release);
            std::fs::create_dir(&folder)
                .and_then(|()| std::fs::write(folder.join("release"), release))
                .map_err(io("cannot write the shop's releases"))?;
        }
        let program = options.program.clone();
        Ok(Self { folder: Some(folder), root, program, address, keep: options.keep })
    }

    /// Runs a command of mainstay on the stage; `say` hears what it prints for people.
    pub(crate) async fn command(&self, arguments: &[&str], say: &impl Fn(&str)) -> Result<bool, DemoError> {
        let io = |cause| DemoError::Io { what: "cannot run mainstay".into(), cause };
        let mut child = Command::new(&self.program)
            .arg("--file")
            .arg(self.root.join("mainstay.toml"))
            .arg("--state")
            .arg(self.state().root())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(io)?;
        let mut lines = BufReader::new(child.stderr.take().expect("it was asked for above")).lines();
        let mut output = String::new();
        while let Some(line) = lines.next_line().await.map_err(io)? {
            // What a command ends with, the commands that come next, is not part of the story.
            if line.starts_with("  mainstay ") || line.is_empty() {
                continue;
            }
            say(&line);
            output.push_str(&line);
            output.push('\n');
        }
        let status = child.wait().await.map_err(io)?;
        match status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            Some(_) | None => {
                Err(DemoError::Command { command: arguments.join(" "), status: status.to_string(), output })
            }
        }
    }

    /// The folder of a release of the shop.
    pub(crate) fn release(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    pub(crate) fn state(&self) -> StateFolder {
        StateFolder::new(self.root.join("state"))
    }

    pub(crate) fn agent(&self) -> Client {
        Client::new(self.state().agent_socket(), CALL_TIMEOUT)
    }

    pub(crate) async fn status(&self) -> Result<Status, DemoError> {
        Ok(self.agent().get("/v1/status").await?)
    }

    /// Stops everything and removes the folder.
    pub(crate) async fn strike(mut self, say: &impl Fn(&str)) {
        for _ in 0..STRIKE_TRIES {
            let quiet = |_: &str| {};
            match self.command(&["down", ENVIRONMENT], &quiet).await {
                Ok(_) => break,
                Err(_) if !self.state().keeper_socket().exists() => break,
                // A release under way stands in the way: it is taken back.
                Err(_) => drop(self.command(&["rollback", ENVIRONMENT], &quiet).await),
            }
        }
        if self.keep {
            if let Some(folder) = self.folder.take() {
                let folder = folder.keep();
                say(&format!("everything is kept in {}", folder.display()));
            }
            return;
        }
        // Stored artifacts are read-only, also to the one who removes them.
        make_writable(&self.root);
        if let Some(Err(error)) = self.folder.take().map(TempDir::close) {
            say(&format!("{} could not be removed: {error}", self.root.display()));
        }
    }
}

fn make_writable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            // What cannot be removed is named by whoever removes it.
            let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700));
            make_writable(&path);
        }
    }
}

fn workload_file(program: &Path, address: SocketAddr) -> String {
    // A JSON string is a TOML string too (TOML 1.0, basic strings); braces are values and so are doubled.
    let program = program.display().to_string().replace('{', "{{").replace('}', "}}");
    let program = serde_json::Value::String(program);
    format!(
        r##"[workload]
name = "shop"

[component.shop]
run           = [{program}, "{SHOP_ROLE}", "serve", "--port", "{{port}}", "--data", "{{data}}"]
artifact      = "v1"
instances     = 2
ready         = {{ get = "/readyz", timeout = "4s" }}
drain_timeout = "5s"

[flow.browse]
weight    = 8
objective = {{ errors = "0.1%", p99 = "500ms" }}

[[flow.browse.step]]
get    = "/api/products?page=1"
expect = {{ status = 200 }}
save   = {{ sku = "$.items[0].sku" }}

[[flow.browse.step]]
get    = "/api/products/{{sku}}"
expect = {{ status = 200 }}

[flow.checkout]
weight    = 2
objective = {{ errors = "0.1%", p99 = "1s" }}
ledger    = {{ ref = "{{uuid}}", confirm = {{ get = "/api/orders?ref={{ref}}", count = "$.items" }} }}

[[flow.checkout.step]]
get  = "/api/products?page=2"
save = {{ sku = "$.items[0].sku" }}

[[flow.checkout.step]]
post   = "/api/orders"
json   = {{ customer = "{{user.id}}", ref = "{{uuid}}", items = [{{ sku = "{{sku}}", quantity = 1 }}] }}
expect = {{ status = 201 }}

[environment.{ENVIRONMENT}]
class  = "staging"
listen = {{ http = "{address}" }}

[release]
keep_old = "1h"
"##
    )
}
