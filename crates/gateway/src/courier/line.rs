//! The courier's connections to upstreams: HTTP/1.1, each driven by a task of its own, so that what an upstream does
//! with an idle one is known before it is used again.

use crate::limits::{BUFFER_BYTES, DELIVERY_ANSWER_BYTES, UPSTREAM_IDLE, UPSTREAM_IDLE_CONNECTIONS};
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

/// How long a connection may take to be ready for the next request after an answer has ended; then it is closed.
const READY_TIME: Duration = Duration::from_secs(1);

/// One connection. Dropping it closes the socket, whatever is in flight.
pub(crate) struct Line {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
    idle_since_ms: u64,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Surely nothing was written; here the request is again.
    Unsent(Box<Request<Full<Bytes>>>),
    /// Something may have been received.
    Unknown(String),
}

/// An answer that was read to its end, or to the limit.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) head: http::response::Parts,
    /// When the head was there.
    pub(crate) head_at: Instant,
    pub(crate) body: Bytes,
    /// There is more than [`DELIVERY_ANSWER_BYTES`], which was not read. The connection cannot be used again.
    pub(crate) cut: bool,
}

impl Line {
    /// Speaks HTTP/1.1 on a socket that was just connected. Only inside a local runtime.
    ///
    /// # Errors
    /// hyper does not take the socket.
    pub(crate) async fn over(
        socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
    ) -> Result<Self, hyper::Error> {
        let io = TokioIo::new(socket);
        let (sender, connection) = Builder::new().max_buf_size(BUFFER_BYTES).handshake(io).await?;
        // Errors are told to whoever waits for the answer.
        let driver = tokio::task::spawn_local(async move { drop(connection.await) }).abort_handle();
        Ok(Self { sender, driver, idle_since_ms: 0 })
    }

    /// Sends a request and reads the whole answer. Dropped before it is ready, something may have been received, and
    /// the connection is to be dropped too.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Gathered, Failure> {
        match self.sender.try_send_request(request).await {
            Ok(response) if response.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                Err(Failure::Unknown("it switched protocols, which was not asked for".to_owned()))
            }
            Ok(response) => gather(response).await,
            Err(mut failed) => Err(match failed.take_message() {
                Some(request) => Failure::Unsent(Box::new(request)),
                None => Failure::Unknown(why(&failed.into_error())),
            }),
        }
    }

    /// Waits until the next request can be sent. False: it cannot.
    async fn is_ready(&mut self) -> bool {
        matches!(tokio::time::timeout(READY_TIME, self.sender.ready()).await, Ok(Ok(())))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn gather(response: Response<Incoming>) -> Result<Gathered, Failure> {
    let head_at = Instant::now();
    let (head, mut rest) = response.into_parts();
    let mut body = BytesMut::new();
    let told = rest.size_hint().exact().unwrap_or_default();
    body.reserve(usize::try_from(told).unwrap_or(usize::MAX).min(DELIVERY_ANSWER_BYTES));
    while let Some(frame) = rest.frame().await {
        let frame =
            frame.map_err(|cause| Failure::Unknown(format!("its answer broke off: {}", why(&cause))))?;
        // Trailers have no place in an answer that is given again.
        let Ok(data) = frame.into_data() else { continue };
        let room = DELIVERY_ANSWER_BYTES - body.len();
        body.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return Ok(Gathered { head, head_at, body: body.freeze(), cut: true });
        }
    }
    Ok(Gathered { head, head_at, body: body.freeze(), cut: false })
}

/// hyper's errors say what they were about; their sources say what happened.
fn why(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Idle connections by what they lead to.
#[derive(Default)]
pub(crate) struct Lines(Vec<(u64, Vec<Line>)>);

impl Lines {
    /// The connection that was used last.
    pub(crate) fn take(&mut self, key: u64) -> Option<Line> {
        let (_, idle) = self.0.iter_mut().find(|(known, _)| *known == key)?;
        while let Some(line) = idle.pop() {
            if line.sender.is_ready() {
                return Some(line);
            }
        }
        None
    }

    /// Keeps one that is ready. Beyond [`UPSTREAM_IDLE_CONNECTIONS`] it is closed.
    fn put(&mut self, key: u64, mut line: Line, now_ms: u64) {
        line.idle_since_ms = now_ms;
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, idle)) if idle.len() < UPSTREAM_IDLE_CONNECTIONS => idle.push(line),
            Some(_) => {}
            None => self.0.push((key, vec![line])),
        }
    }

    /// Closes what was idle for [`UPSTREAM_IDLE`], or leads to what is not `there` any more.
    pub(crate) fn sweep(&mut self, now_ms: u64, there: impl Fn(u64) -> bool) {
        self.0.retain(|(key, _)| there(*key));
        let oldest = now_ms.saturating_sub(UPSTREAM_IDLE.as_millis() as u64);
        for (_, idle) in &mut self.0 {
            idle.retain(|line| line.idle_since_ms > oldest);
        }
    }
}

/// Keeps `line` for other requests once it is ready for one.
pub(crate) async fn keep(
    lines: &std::cell::RefCell<Lines>,
    key: u64,
    mut line: Line,
    now_ms: impl Fn() -> u64,
) {
    if line.is_ready().await {
        lines.borrow_mut().put(key, line, now_ms());
    }
}

/// An error for a connection that was not made in time.
pub(crate) fn late(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"))
}
