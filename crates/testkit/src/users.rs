//! Users who come one after the other until they are told to stop.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The time between two users of one thread.
const PAUSE: Duration = Duration::from_millis(5);

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head, as it came.
    pub head: String,
    /// Its body, as it came.
    pub body: String,
}

impl Answer {
    /// The first field of this name, which is lower-case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    }
}

/// GET `path`, on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    send(address, "GET", path, &[], "")
}

/// A request, on a connection of its own.
///
/// # Errors
/// No connection, or one that ended without an answer: then nobody knows whether the request was received.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in fields {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    stream.write_all(format!("{request}\r\n{body}").as_bytes())?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let other = || std::io::Error::other(format!("not an answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(other)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(other)?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Users of one path, each on a connection of its own, until they are stopped.
#[derive(Debug)]
pub struct Users {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Users {
    /// Starts coming.
    pub fn of(address: SocketAddr, path: &str) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (path, stopped, count) = (path.to_owned(), Arc::clone(&stop), Arc::clone(&served));
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match get(address, &path) {
                    Ok(answer) if answer.status == 200 => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(answer) => failures.push(format!("{} {}", answer.status, answer.body)),
                    Err(error) => failures.push(error.to_string()),
                }
                std::thread::sleep(PAUSE);
            }
            failures
        });
        Self { stop, served, thread: Some(thread) }
    }

    /// How many were served so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Stops them.
    ///
    /// # Panics
    /// When one was not served, or nobody was.
    pub fn all_were_served(self) {
        let served = Arc::clone(&self.served);
        let failures = self.stop();
        let served = served.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {served} failed: {failures:?}", failures.len());
        assert!(served > 0, "nobody came");
    }

    /// Stops them and says what went wrong, one line for each who was not served.
    ///
    /// # Panics
    /// When the thread has.
    pub fn stop(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is taken once");
        thread.join().expect("users do not panic")
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A test that fails says why itself.
            let _ = thread.join();
        }
    }
}
