//! A real browser without a window, driven by what W3C WebDriver (<https://www.w3.org/TR/webdriver2/>) says: the few
//! commands that a buyer needs, each one JSON request to a `chromedriver` of its own. The usual crate for it would bring
//! some forty others and a runtime for these.

use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use tempfile::TempDir;
use testkit::{PATIENCE, wait_until};

/// What a missing program says.
const HINT: &str = "./test installs it (on Debian, it is in the packages chromium and chromium-driver)";

/// Without a window, and quiet on the network. The sandbox is the kernel's business, which containers and root do not
/// have, and all it opens is a page of this repository; shared memory is a few megabytes in containers.
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// How a reference to an element is called in JSON (WebDriver, "Elements").
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window. Dropping it ends the browser and its driver.
pub(crate) struct Browser {
    driver: Child,
    /// Kept open: a driver that has something to say must not fail for it.
    _said: BufReader<ChildStdout>,
    address: SocketAddr,
    session: String,
    /// The browser's process.
    pid: Option<u64>,
    /// All that both of them write.
    folder: TempDir,
}

impl Browser {
    /// A browser that nobody has used before.
    pub(crate) fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("ms-browser-").tempdir().expect("a temporary folder");
        let chromium = program("chromium");
        let mut driver = Command::new(program("chromedriver"));
        // Port 0: a free one, which it says.
        driver
            .args(["--port=0", "--log-level=SEVERE"])
            .env("TMPDIR", folder.path())
            .env("HOME", folder.path());
        driver.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = driver.spawn().unwrap_or_else(|error| panic!("chromedriver: {error}; {HINT}"));
        let mut said = BufReader::new(driver.stdout.take().expect("it is piped"));
        let port = port(&mut said);
        let mut browser = Self {
            driver,
            _said: said,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            pid: None,
            folder,
        };
        let profile = format!("--user-data-dir={}", browser.folder.path().join("profile").display());
        let arguments: Vec<&str> = FLAGS.iter().copied().chain([profile.as_str()]).collect();
        let options = json!({ "binary": chromium, "args": arguments });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let answer = browser.ask("POST", "/session", &wanted).unwrap_or_else(|error| panic!("{error}"));
        browser.session = answer["sessionId"].as_str().expect("a session has an id").to_owned();
        browser.pid = answer["capabilities"]["goog:processID"].as_u64();
        browser
    }

    /// Opens a page and waits until it is there.
    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    /// The URL of the page.
    pub(crate) fn url(&self) -> String {
        self.command("GET", "/url", &Value::Null).as_str().expect("a page has a URL").to_owned()
    }

    /// What a script that is given `arguments` returns, in the page. It may return a promise.
    pub(crate) fn run(&self, script: &str, arguments: &Value) -> Value {
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// What is to be read in the first element that fits a CSS selector; none when none does.
    pub(crate) fn text(&self, selector: &str) -> Option<String> {
        let script = "return document.querySelector(arguments[0])?.innerText ?? null";
        self.run(script, &json!([selector])).as_str().map(str::to_owned)
    }

    /// An attribute of the first element that fits.
    pub(crate) fn attribute(&self, selector: &str, name: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.getAttribute(arguments[1]) ?? null";
        let value = self.run(script, &json!([selector, name]));
        value.as_str().unwrap_or_else(|| panic!("no {name} of {selector} in {}", self.page())).to_owned()
    }

    /// Clicks where a mouse would.
    pub(crate) fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.command("POST", &format!("/element/{element}/click"), &json!({}));
    }

    /// Replaces what is in a field, key by key.
    pub(crate) fn fill_in(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.command("POST", &format!("/element/{element}/clear"), &json!({}));
        self.command("POST", &format!("/element/{element}/value"), &json!({ "text": text }));
    }

    /// Becomes somebody who was never here.
    pub(crate) fn forget_cookies(&self) {
        self.command("DELETE", "/cookie", &Value::Null);
    }

    /// The whole page, for what is said when a test fails.
    pub(crate) fn page(&self) -> String {
        format!("{}\n{}", self.url(), self.text("body").unwrap_or_default())
    }

    fn element(&self, selector: &str) -> String {
        let wanted = json!({ "using": "css selector", "value": selector });
        let found = self.command("POST", "/element", &wanted);
        found[ELEMENT].as_str().unwrap_or_else(|| panic!("not an element: {found}")).to_owned()
    }

    /// A command of the session, which has to succeed.
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.ask(method, &path, body).unwrap_or_else(|error| panic!("{error}"))
    }

    /// One request on a connection of its own. The driver keeps connections open whatever it is asked, so the answer
    /// is as long as it says.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let failed = |error: std::io::Error| format!("chromedriver: {method} {path}: {error}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut stream = BufReader::new(stream);
        let mut length = 0;
        for line in stream.by_ref().lines() {
            let line = line.map_err(failed)?.to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|error| format!("{line}: {error}"))?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).map_err(failed)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        match answer["value"]["error"].as_str() {
            Some(error) => Err(format!("{method} {path} {body}: {error}: {}", answer["value"]["message"])),
            None => Ok(answer["value"].clone()),
        }
    }

    /// Whether the process is the browser still, and no other that has its number.
    fn lives(&self, pid: u64) -> bool {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&*self.folder.path().to_string_lossy())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser. One that does not answer is killed below.
        let _ = self.ask("DELETE", &format!("/session/{}", self.session), &Value::Null);
        if let Some(pid) = self.pid.filter(|pid| self.lives(*pid)) {
            // It may have ended just now.
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            if !std::thread::panicking() {
                wait_until("the browser ends", || (!self.lives(pid)).then_some(()));
            }
        }
        // A driver that has ended needs no signal.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Where a program is.
fn program(name: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not in PATH: {HINT}")).display().to_string()
}

/// The port that a driver says it listens on.
fn port(said: &mut impl std::io::BufRead) -> u16 {
    let mut all = String::new();
    while said.read_line(&mut all).expect("what it says is text") > 0 {
        let last = all.lines().last().unwrap_or_default();
        if let Some((_, port)) = last.split_once("started successfully on port ") {
            return port.trim_end_matches('.').parse().expect("a port is a number");
        }
    }
    panic!("chromedriver has ended and said: {all}");
}
