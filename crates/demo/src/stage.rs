//! The stage: a folder with a workload file and the shop's releases, and the commands that act on it.

use crate::{DemoError, Options, SHOP_ROLE, Told};
use api::client::Client;
use api::folder::StateFolder;
use api::operator::{History, Status};
use api::queue::QueueStatus;
use model::name::ReleaseNumber;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The environment of the demo.
pub(crate) const ENVIRONMENT: &str = "demo";
/// The releases of the shop; each is a folder with a file that says so.
const RELEASES: &[&str] = &["v1", "v2", "v3-slow", "v3-crash", "v3-identical"];
/// How much longer every request of v3-slow takes, in milliseconds.
pub(crate) const SLOW_MS: u32 = 200;
/// After how many requests an instance of v3-crash ends itself: more than smoke asks.
pub(crate) const CRASH_AFTER: u32 = 40;
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

    /// Runs a command of mainstay on the stage. Gives whether its verdict was a pass.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Result<bool, DemoError> {
        let ran = Command::new(&self.program)
            .arg("--json")
            .arg("--file")
            .arg(self.root.join("mainstay.toml"))
            .arg("--state")
            .arg(self.state().root())
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|cause| DemoError::Io { what: "cannot run mainstay".into(), cause })?;
        match ran.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            Some(_) | None => Err(DemoError::Command {
                command: arguments.join(" "),
                status: ran.status.to_string(),
                output: String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned(),
            }),
        }
    }

    /// The same, of a command that has to succeed.
    pub(crate) async fn must(&self, arguments: &[&str]) -> Result<(), DemoError> {
        match self.command(arguments).await? {
            true => Ok(()),
            false => Err(DemoError::Command {
                command: arguments.join(" "),
                status: "exit code 1".into(),
                output: String::new(),
            }),
        }
    }

    /// A text of mainstay's without the path of the folder, which nobody knows.
    pub(crate) fn shortened(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.root.display()), "")
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

    pub(crate) async fn queue(&self) -> Result<QueueStatus, DemoError> {
        Ok(Client::new(self.state().gateway_socket(), CALL_TIMEOUT).get("/v1/queue").await?)
    }

    /// Takes the database away from everybody who wants to write, for so long: another process has locked it when
    /// this returns.
    pub(crate) async fn lock_database(&self, time: Duration) -> Result<Child, DemoError> {
        let io = |cause| DemoError::Io { what: "cannot lock the shop's database".into(), cause };
        let mut child = Command::new(&self.program)
            .args([SHOP_ROLE, "lock", "--for", &format!("{}s", time.as_secs())])
            .env("DATABASE_URL", format!("sqlite:{}", self.state().data().join("db.db").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // What it says when it ends would be amid the story.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(io)?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        // It says when it has the lock.
        BufReader::new(stdout).read_line(&mut line).await.map_err(io)?;
        match line.is_empty() {
            false => Ok(child),
            true => Err(DemoError::Late("a lock on the shop's database")),
        }
    }

    pub(crate) async fn history(&self, number: ReleaseNumber) -> Result<History, DemoError> {
        Ok(self.agent().get(&format!("/v1/releases/{}", number.0)).await?)
    }

    /// Stops everything and removes the folder.
    pub(crate) async fn strike(mut self, say: &impl Fn(Told<'_>)) {
        for _ in 0..STRIKE_TRIES {
            match self.command(&["down", ENVIRONMENT]).await {
                Ok(_) => break,
                Err(_) if !self.state().keeper_socket().exists() => break,
                // A release under way stands in the way: it is taken back.
                Err(_) => drop(self.command(&["rollback", ENVIRONMENT]).await),
            }
        }
        if self.keep {
            if let Some(folder) = self.folder.take() {
                let folder = folder.keep();
                say(Told::Line(&format!("everything is kept in {}", folder.display())));
            }
            return;
        }
        // Stored artifacts are read-only, also to the one who removes them.
        make_writable(&self.root);
        if let Some(Err(error)) = self.folder.take().map(TempDir::close) {
            say(Told::Line(&format!("{} could not be removed: {error}", self.root.display())));
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
run           = [{program}, "{SHOP_ROLE}", "serve", "--port", "{{port}}"]
artifact      = "v1"
instances     = 2
needs         = ["db", "payments", "shipping"]
ready         = {{ get = "/readyz", timeout = "20s" }}
drain_timeout = "5s"
env           = {{ SHOP_SLOW_MS = "{SLOW_MS}", SHOP_CRASH_AFTER = "{CRASH_AFTER}" }}

[component.db]
store    = "sqlite"
as       = "DATABASE_URL"
artifact = "v1"
expand   = [{program}, "{SHOP_ROLE}", "migrate", "expand"]
contract = [{program}, "{SHOP_ROLE}", "migrate", "contract"]

[component.payments]
external = "http://payments.example"
as       = "PAYMENTS_URL"

[component.payments.sandbox]
run      = [{program}, "{SHOP_ROLE}", "payments", "--port", "{{port}}", "--data", "{{data}}"]
artifact = "v1"
ready    = {{ get = "/readyz" }}

[component.shipping]
external = "http://shipping.example"
as       = "SHIPPING_URL"

[component.shipping.sandbox]
run      = [{program}, "{SHOP_ROLE}", "shipping", "--port", "{{port}}", "--data", "{{data}}"]
artifact = "v1"
ready    = {{ get = "/readyz" }}

[gateway]
affinity = "header:x-user"
default  = "shop"

[route."POST /api/orders"]
queue           = {{ wait = "2s", order_by = "$.customer", idempotent = true }}
idempotency_key = "required"
saga            = "checkout"

[saga.checkout]
answer = "record"

[[saga.checkout.step]]
name = "charge"
post = "payments:/charges"
json = {{ customer = "{{body:$.customer}}", ref = "{{body:$.ref}}", items = "{{body:$.items}}" }}
undo = {{ post = "payments:/charges/{{charge:$.id}}/refund" }}

[[saga.checkout.step]]
name = "record"
post = "shop:/api/orders"
undo = {{ delete = "shop:/api/orders/{{record:$.id}}" }}

[[saga.checkout.step]]
name = "ship"
post = "shipping:/labels"
json = {{ order = "{{record:$.id}}", ref = "{{body:$.ref}}" }}
undo = {{ delete = "shipping:/labels/{{ship:$.id}}" }}

[flow.browse]
weight    = 8
objective = {{ errors = "0.1%", p99 = "500ms" }}

[[flow.browse.step]]
get     = "/api/products?page=1"
headers = {{ x-user = "{{user.id}}" }}
expect  = {{ status = 200 }}

[[flow.browse.step]]
get     = "/api/products?page=2"
headers = {{ x-user = "{{user.id}}" }}
expect  = {{ status = 200 }}
save    = {{ sku = "$.items[0].sku" }}

[[flow.browse.step]]
get     = "/api/products/{{sku}}"
headers = {{ x-user = "{{user.id}}" }}
expect  = {{ status = 200 }}

[flow.checkout]
weight    = 2
objective = {{ errors = "0.1%", p99 = "1s" }}
ledger    = {{ ref = "{{uuid}}", confirm = {{ get = "/api/orders?ref={{ref}}", count = "$.items" }} }}

[[flow.checkout.step]]
get     = "/api/products?page=3"
headers = {{ x-user = "{{user.id}}" }}
save    = {{ sku = "$.items[0].sku" }}

[[flow.checkout.step]]
post    = "/api/orders"
headers = {{ x-user = "{{user.id}}" }}
json    = {{ customer = "{{user.id}}", ref = "{{uuid}}", items = [{{ sku = "{{sku}}", quantity = 1 }}] }}
expect  = {{ status = 201 }}

[environment.{ENVIRONMENT}]
class  = "staging"
listen = {{ http = "{address}" }}

[release]
shift        = [10, 50, 100]
step_time    = "10s"
min_requests = 50
keep_old     = "5s"
"##
    )
}
