//! A shop process under test, and a client that speaks HTTP/1.1 to it over one connection a request.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::server::Server;

/// Long enough for anything on a busy machine; reaching it is a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A database of its own for one test, and a folder; both are gone at the end.
pub(crate) struct Data {
    // Stopped before its folder is removed.
    server: Option<Server>,
    folder: TempDir,
}

impl Data {
    /// A SQLite file.
    pub(crate) fn new() -> Self {
        Self { server: None, folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A PostgreSQL server; `None`, and a line that says so, when none is installed.
    pub(crate) fn postgres() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = Server::start()?;
        Some(Self { server: Some(server), folder })
    }

    /// The folder named to the shop; it does not exist at first.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// An empty folder to start the shop in.
    pub(crate) fn working_folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a test of PostgreSQL")
    }

    /// The SQLite database itself, for arranging what no customer can.
    pub(crate) fn database(&self) -> Connection {
        let path = self.folder().join("shop.db");
        Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).expect("the database")
    }

    /// Runs statements on the database itself, of either kind.
    pub(crate) async fn run(&self, sql: &str) {
        match &self.server {
            None => self.database().execute_batch(sql).expect("a statement"),
            Some(server) => server.client().await.batch_execute(sql).await.expect("a statement"),
        }
    }

    /// The one text that a statement finds in the database itself.
    pub(crate) async fn text(&self, sql: &str) -> String {
        match &self.server {
            None => self.database().query_row(sql, (), |row| row.get(0)).expect("a row"),
            Some(server) => {
                let row = server.client().await.query_one(sql, &[]).await.expect("a row");
                row.get(0)
            }
        }
    }

    /// Runs the program to its end.
    pub(crate) fn shop(&self, args: &[&str]) -> std::process::Output {
        named(self, command(self)).args(args).output().expect("the shop runs")
    }
}

/// Runs each test on SQLite and on PostgreSQL.
macro_rules! on_each_database {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::running::Data::new()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                if let Some(data) = crate::running::Data::postgres() {
                    super::$test(data).await;
                }
            })*
        }
    };
}
pub(crate) use on_each_database;

/// The program, in an empty working folder and with none of its variables set.
pub(crate) fn command(data: &Data) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shop"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("SHOP_") || ["PORT", "DATABASE_URL", "MAIL_OUTBOX"].contains(&name.as_ref()) {
            command.env_remove(name.as_ref());
        }
    }
    command
        .current_dir(data.working_folder())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// `command` with the variables that name the database.
pub(crate) fn named(data: &Data, mut command: Command) -> Command {
    command.env("SHOP_DATA", data.folder());
    if let Some(server) = &data.server {
        command.env("DATABASE_URL", server.url());
    }
    command
}

/// A process that serves; killed when dropped.
pub(crate) struct Running {
    child: Child,
    address: Option<SocketAddr>,
    log: Receiver<String>,
}

impl Running {
    /// Starts `v1` on a free port and waits until it listens.
    pub(crate) fn start(data: &Data) -> Self {
        Self::start_release(data, "v1")
    }

    pub(crate) fn start_release(data: &Data, release: &str) -> Self {
        Self::start_with(data, release, &[])
    }

    /// Starts a release with more arguments.
    pub(crate) fn start_with(data: &Data, release: &str, args: &[&str]) -> Self {
        let mut command = named(data, command(data));
        command.args(["serve", "--port", "0", "--release", release]).args(args);
        let mut running = Self::spawn(command);
        running.wait_until_listening();
        running
    }

    /// Starts without waiting.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the shop starts");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (line, log) = channel();
        std::thread::spawn(move || {
            for text in stderr.lines().map_while(Result::ok) {
                // A test that is over reads no more, but the pipe must not fill up.
                let _ = line.send(text);
            }
        });
        Self { child, address: None, log }
    }

    pub(crate) fn wait_until_listening(&mut self) {
        let line = self.wait_for_line("listening on http://");
        let (_, address) = line.split_once("http://").expect("just found");
        self.address = Some(address.parse().expect("an address"));
    }

    pub(crate) fn wait_for_line(&self, part: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left).expect("the line before the deadline or the end");
            if line.contains(part) {
                return line;
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("it was waited for")
    }

    /// Files and sockets the process has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the process lives").count()
    }

    /// Memory it holds, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let held = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says so");
        held.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How often its main thread has gone to sleep by itself so far.
    pub(crate) fn pauses(&mut self) -> u64 {
        let ended = self.child.try_wait().expect("it is our child");
        assert!(ended.is_none(), "the shop ended: {ended:?}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let pauses = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        pauses.expect("Linux counts them").trim().parse().expect("a number")
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the process is ours");
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    pub(crate) async fn wait_for_exit(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the shop exits", async || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        })
        .await;
        status.expect("just waited for")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.address(), "GET", path, &[], Bytes::new()).await
    }

    pub(crate) async fn post_order(&self, order: &Value) -> Answer {
        send(self.address(), "POST", "/api/orders", &[], order.to_string()).await
    }

    pub(crate) async fn post_order_with_key(&self, order: &Value, key: &str) -> Answer {
        send(self.address(), "POST", "/api/orders", &[("idempotency-key", key)], order.to_string()).await
    }

    pub(crate) async fn count_orders(&self) -> u64 {
        self.get("/api/orders/count").await.json()["count"].as_u64().expect("a count")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a readable header"))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Checks that this is a problem with that status, in its header and in its body, and hands the body back.
    pub(crate) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body = self.json();
        assert_eq!(body["status"], status);
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        body
    }
}

/// Sends one request over a connection of its own and reads the answer.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).expect("a valid request");
    let exchange = async {
        let stream = TcpStream::connect(address).await.expect("the shop listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        // Dropped with this exchange, so that giving up on an answer hangs up.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let response = sender.send_request(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    };
    tokio::time::timeout(DEADLINE, exchange).await.expect("an answer before the deadline")
}

/// Waits until `holds` does.
pub(crate) async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < until, "in vain: {what}");
        // waits on a condition
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An order of some pieces of one product.
pub(crate) fn order(reference: &str, sku: &str, quantity: i64) -> Value {
    json!({ "customer": "ada", "ref": reference, "items": [{ "sku": sku, "quantity": quantity }] })
}
