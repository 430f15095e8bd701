//! What the tests play on: a gateway in a thread, upstreams and clients that speak raw bytes.

use api::client::Client;
use api::folder::StateFolder;
use api::gateway::{Applied, GatewayState, Measures, Persist, PutTable, Table, TableInstance, TableStamp};
use gateway::{JournalOptions, Options, run_until};
use model::away::Hold;
use model::name::{ComponentName, FenceToken, ReleaseNumber};
use model::workload::GatewaySettings;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testkit::vfs::Disk;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The token of the preview door.
pub(crate) const TOKEN: &str = "a-token-of-the-tests";

/// Waits until `found` finds something.
pub(crate) fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        // waits on a condition
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A gateway in a thread.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) folder: StateFolder,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _temp: Arc<tempfile::TempDir>,
}

impl Gateway {
    /// An empty one.
    pub(crate) fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()))
    }

    /// One whose queue is on this disk, if its routes are queued.
    pub(crate) fn start_on(disk: &Disk, temp: &Arc<tempfile::TempDir>) -> Self {
        let journal = JournalOptions { vfs: Some(disk.name().to_owned()), reserve_bytes: 0, log_bytes: 0 };
        Self::start_with(Arc::clone(temp), journal)
    }

    /// One that serves `upstream`.
    pub(crate) fn serving(upstream: &Upstream) -> Self {
        let gateway = Self::start();
        gateway.activate(&stamp(1, &[upstream]));
        gateway
    }

    /// One in a folder where another may have been.
    pub(crate) fn start_in(temp: Arc<tempfile::TempDir>) -> Self {
        Self::start_with(temp, JournalOptions::default())
    }

    /// The same with a queue whose file is opened like this.
    pub(crate) fn start_with(temp: Arc<tempfile::TempDir>, journal: JournalOptions) -> Self {
        let folder = StateFolder::new(temp.path());
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, admin_address) = (http.local_addr().unwrap(), admin.local_addr().unwrap());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let options =
            Options { folder: folder.clone(), http: vec![http], admin: Some(admin), workers: 2, journal };
        let thread = std::thread::spawn(move || {
            run_until(options, async {
                let _ = stopped.await;
            })
            .unwrap();
        });
        let gateway = Self {
            address,
            admin: admin_address,
            folder,
            stop: Some(stop),
            thread: Some(thread),
            _temp: temp,
        };
        wait_for("the gateway's socket", || gateway.try_state());
        gateway
    }

    /// Where it keeps its state, for a successor.
    pub(crate) fn temp(&self) -> Arc<tempfile::TempDir> {
        Arc::clone(&self._temp)
    }

    fn call<A: serde::de::DeserializeOwned>(
        &self,
        method: http::Method,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<A, api::client::CallError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = Client::new(self.folder.gateway_socket(), PATIENCE);
        runtime.block_on(client.call(method, path, body))
    }

    fn try_state(&self) -> Option<GatewayState> {
        self.call(http::Method::GET, "/v1/state", &()).ok()
    }

    pub(crate) fn state(&self) -> GatewayState {
        self.call(http::Method::GET, "/v1/state", &()).unwrap()
    }

    pub(crate) fn measures(&self) -> Measures {
        self.call(http::Method::GET, "/v1/measures", &()).unwrap()
    }

    pub(crate) fn put(&self, put: &PutTable) -> Result<Applied, api::client::CallError> {
        self.call(http::Method::PUT, "/v1/table", put)
    }

    /// Puts a table with one active stamp.
    pub(crate) fn activate(&self, stamp: &TableStamp) -> Applied {
        self.put(&put(Some(stamp), None)).unwrap()
    }

    /// The metrics, from the admin address.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.sample(name).parse().unwrap()
    }

    /// The same as it is written, with its labels in the name if it has any.
    pub(crate) fn sample(&self, name: &str) -> String {
        let mut client = Browser::to(self.admin);
        client.send("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n");
        let text = client.answer();
        let text = String::from_utf8(text.body).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("mainstay_gateway_{name} ")));
        line.unwrap_or_else(|| panic!("{name} is missing in\n{text}")).to_owned()
    }

    pub(crate) fn browse(&self) -> Browser {
        Browser::to(self.address)
    }

    /// Sends one request on a connection of its own.
    pub(crate) fn ask(&self, head: &str) -> Answer {
        let mut browser = self.browse();
        browser.send(head);
        browser.answer()
    }

    /// GET on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask(&get(path))
    }

    /// Begins to drain.
    pub(crate) fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Drains and waits for the end.
    pub(crate) fn stop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// The access lines, once there are `count`.
    pub(crate) fn lines(&self, count: usize) -> Vec<serde_json::Value> {
        wait_for("access lines", || {
            let text = std::fs::read_to_string(self.folder.access_log()).unwrap_or_default();
            let whole = text.ends_with('\n') && text.lines().count() >= count;
            whole.then(|| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
        })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the gateway's thread panicked");
        }
    }
}

/// The head of a GET.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: example.org\r\n\r\n")
}

/// A stamp with these instances and usual settings.
pub(crate) fn stamp(number: u64, upstreams: &[&Upstream]) -> TableStamp {
    let addresses: Vec<SocketAddr> = upstreams.iter().map(|upstream| upstream.address).collect();
    stamp_at(number, &addresses)
}

/// The same by addresses.
pub(crate) fn stamp_at(number: u64, addresses: &[SocketAddr]) -> TableStamp {
    let release = ReleaseNumber(number);
    let instance = |(index, address): (usize, &SocketAddr)| TableInstance {
        index: index as u32,
        address: *address,
        pid: 1000 + index as u32,
    };
    TableStamp {
        stamp: release.stamp(),
        release,
        name: format!("release-{number}"),
        instances: addresses.iter().enumerate().map(instance).collect(),
        // Most tests are about what happens at once.
        settings: GatewaySettings {
            hold: Hold::OFF,
            ..GatewaySettings::of(ComponentName::new("shop").unwrap())
        },
        upstreams: Default::default(),
    }
}

pub(crate) fn table(active: Option<&TableStamp>, candidate: Option<&TableStamp>) -> Table {
    Table {
        preview_token: TOKEN.into(),
        trusted_proxies: Vec::new(),
        active: active.cloned(),
        candidate: candidate.cloned(),
        weight: 0,
        fallback: None,
        guard: None,
        previous: None,
        kept: None,
    }
}

pub(crate) fn put(active: Option<&TableStamp>, candidate: Option<&TableStamp>) -> PutTable {
    PutTable {
        v: api::PROTOCOL_VERSION,
        fence: FenceToken(1),
        persist: Persist::First,
        table: table(active, candidate),
    }
}

/// An address where nothing listens: nobody else gets the port while the listener is held, and it takes no
/// connection once its backlog is gone.
pub(crate) fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A request as an upstream read it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The request line and the field lines, as they came.
    pub(crate) head: Vec<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<String>,
    /// The body ended before its end.
    pub(crate) broken: bool,
    /// Which connection it came on.
    pub(crate) connection: usize,
}

impl Seen {
    pub(crate) fn line(&self) -> &str {
        &self.head[0]
    }

    /// All values of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        fields(&self.head, name)
    }

    /// The one value of a field.
    pub(crate) fn one(&self, name: &str) -> &str {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name} in {:?}", self.head);
        all[0]
    }
}

fn fields<'a>(head: &'a [String], name: &str) -> Vec<&'a str> {
    let lines = head.iter().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// What an upstream does with a request it read.
pub(crate) enum Reply {
    /// Answers and waits for the next.
    Send(Vec<u8>),
    /// Answers and closes.
    SendClose(Vec<u8>),
    /// Closes without a word.
    Close,
    /// Does nothing more, and keeps the connection.
    Hang,
}

/// A plain answer.
pub(crate) fn ok(body: &str) -> Reply {
    Reply::Send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// An answer that is an error.
pub(crate) fn error() -> Reply {
    Reply::Send(b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\noh".to_vec())
}

/// An upstream that reads requests and answers as it is told.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    ended: Arc<AtomicUsize>,
}

type Script = dyn Fn(&Seen, &mut TcpStream) -> Reply + Send + Sync;

impl Upstream {
    /// Answers each request by `script`, which is called once the body was read; heads with
    /// `expect-early: yes` are answered before.
    pub(crate) fn start(script: impl Fn(&Seen, &mut TcpStream) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicUsize::new(0));
        let (all, script): (_, Arc<Script>) = (Arc::clone(&seen), Arc::new(script));
        let count = Arc::clone(&ended);
        // The threads end with the process: an upstream outlives its test by nothing but a blocked accept.
        std::thread::spawn(move || {
            for (number, socket) in listener.incoming().enumerate() {
                let Ok(socket) = socket else { return };
                let (all, script, count) = (Arc::clone(&all), Arc::clone(&script), Arc::clone(&count));
                std::thread::spawn(move || {
                    converse(socket, number, &all, &*script);
                    count.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, seen, ended }
    }

    /// Says who it is.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::start(move |_, _| ok(name))
    }

    /// One whose answers wait until they are let go.
    pub(crate) fn waiting(name: &'static str) -> (Self, std::sync::mpsc::Sender<()>) {
        let (go, going) = std::sync::mpsc::channel();
        let going = Mutex::new(going);
        let upstream = Self::start(move |_, _| {
            let _ = going.lock().unwrap().recv();
            ok(name)
        });
        (upstream, go)
    }

    /// Everything it read so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Connections that have ended.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The requests, once there are `count`.
    pub(crate) fn wait(&self, count: usize) -> Vec<Seen> {
        wait_for("requests at the upstream", || (self.count() >= count).then(|| self.seen()))
    }
}

fn converse(socket: TcpStream, connection: usize, all: &Mutex<Vec<Seen>>, script: &Script) {
    let mut writer = socket.try_clone().unwrap();
    let mut reader = BufReader::new(socket);
    loop {
        let Some(head) = read_head(&mut reader) else { return };
        let mut seen = Seen { head, connection, ..Seen::default() };
        let early = !seen.all("expect-early").is_empty();
        let reply = early.then(|| {
            all.lock().unwrap().push(seen.clone());
            script(&seen, &mut writer)
        });
        let reply = reply.unwrap_or_else(|| {
            let whole = read_body(&mut reader, &mut seen, false);
            seen.broken = whole.is_none();
            all.lock().unwrap().push(seen.clone());
            if seen.broken { Reply::Close } else { script(&seen, &mut writer) }
        });
        match reply {
            Reply::Send(bytes) => {
                if writer.write_all(&bytes).is_err() {
                    return;
                }
            }
            Reply::SendClose(bytes) => {
                let _ = writer.write_all(&bytes);
                let _ = writer.shutdown(std::net::Shutdown::Both);
                return;
            }
            Reply::Close => {
                let _ = writer.shutdown(std::net::Shutdown::Both);
                return;
            }
            Reply::Hang => {
                // Until the other side closes.
                let _ = reader.read_to_end(&mut Vec::new());
                return;
            }
        }
    }
}

fn read_line(reader: &mut impl std::io::BufRead) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    line.strip_suffix("\r\n").map(str::to_owned)
}

fn read_head(reader: &mut impl std::io::BufRead) -> Option<Vec<String>> {
    let mut head = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return (!head.is_empty()).then_some(head);
        }
        head.push(line);
    }
}

/// Reads a body as its head frames it. None: it ended early. An answer without length ends with its connection.
fn read_body(reader: &mut impl std::io::BufRead, seen: &mut Seen, answer: bool) -> Option<()> {
    if let Some(length) = fields(&seen.head, "content-length").first() {
        let mut body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body).ok()?;
        seen.body = body;
    } else if fields(&seen.head, "transfer-encoding") == ["chunked"] {
        loop {
            let size = read_line(reader)?;
            let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).ok()?;
            if size == 0 {
                break;
            }
            let start = seen.body.len();
            seen.body.resize(start + size, 0);
            reader.read_exact(&mut seen.body[start..]).ok()?;
            if !read_line(reader)?.is_empty() {
                return None;
            }
        }
        loop {
            let line = read_line(reader)?;
            if line.is_empty() {
                break;
            }
            seen.trailers.push(line);
        }
    } else if answer {
        reader.read_to_end(&mut seen.body).ok()?;
    }
    Some(())
}

/// An answer as a client read it.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: Vec<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<String>,
    /// The body ended before its end.
    pub(crate) broken: bool,
}

impl Answer {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        fields(&self.head, name)
    }

    pub(crate) fn one(&self, name: &str) -> &str {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name} in {:?}", self.head);
        all[0]
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The end of the problem's type.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.one("content-type"), "application/problem+json", "{self:?}");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        assert!(!self.one("x-request-id").is_empty());
        let kind = problem["type"].as_str().unwrap();
        kind.strip_prefix("urn:mainstay:problem:").unwrap().to_owned()
    }
}

/// A client that says exactly what it is told.
pub(crate) struct Browser {
    reader: BufReader<TcpStream>,
}

impl Browser {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { reader: BufReader::new(socket) }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())
    }

    /// The next answer; `HEAD` and statuses without a body are the caller's to know: [`Self::head`].
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        let mut seen = Seen { head: answer.head.clone(), ..Seen::default() };
        answer.broken = read_body(&mut self.reader, &mut seen, true).is_none();
        (answer.body, answer.trailers) = (seen.body, seen.trailers);
        Some(answer)
    }

    /// The next head alone.
    pub(crate) fn head(&mut self) -> Option<Answer> {
        let head = read_head(&mut self.reader)?;
        let status = head[0].split(' ').nth(1).unwrap().parse().unwrap();
        Some(Answer { status, head, body: Vec::new(), trailers: Vec::new(), broken: false })
    }

    /// Whether the other side has closed, and sent nothing before that.
    pub(crate) fn closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(cause) => cause.kind() == std::io::ErrorKind::ConnectionReset && rest.is_empty(),
        }
    }

    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }
}

impl Browser {
    /// Fills `bytes`.
    pub(crate) fn read_exactly(&mut self, bytes: &mut [u8]) {
        self.reader.read_exact(bytes).unwrap();
    }
}
