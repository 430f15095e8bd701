//! One HTTP/1.1 connection, driven by whoever waits for its answer.
//!
//! hyper's connection is a future that someone must poll. It is polled together with the request that uses
//! it instead of in a task of its own: that saves two wake-ups for each request, and nothing outlives a play
//! that is dropped.

use bytes::Bytes;
use http::Request;
use http::header::LOCATION;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustix::net::RecvFlags;
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

type Driver = http1::Connection<TokioIo<SharedStream>, Full<Bytes>>;

/// The request with its body, as the client sends it.
pub(crate) type FullRequest = Request<Full<Bytes>>;

/// How much of an answer's body is kept. It is always read to its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All of it, because values are saved from it.
    All,
    /// Its beginning, for a snippet.
    Start,
}

/// What is kept of a body for a snippet, in bytes.
const START_LIMIT: usize = 1024;

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As much of the body as was to be kept.
    pub(crate) body: Vec<u8>,
    /// Where an answer that is not the last one says to look.
    pub(crate) location: Option<String>,
    /// When the last byte was in.
    pub(crate) at: Instant,
}

/// Why there is no complete answer.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// The connection was at its end before the first byte was written. The request comes back.
    Unsent(Box<FullRequest>),
    /// The request may have been sent.
    Cut(String),
    /// The body is larger than the limit; the rest was not read.
    TooLarge { status: u16 },
}

/// One connection. Dropping it closes its socket.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// None once the connection has ended.
    driver: Option<Driver>,
    stream: SharedStream,
    /// When it was last put back.
    pub(crate) idle_since: Instant,
}

impl Connection {
    /// Connects. Cancel-safe: dropping closes what was begun.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        // A small request must not wait for the acknowledgement of the one before it.
        stream.set_nodelay(true)?;
        let stream = SharedStream(Arc::new(Mutex::new(stream)));
        let handshake = http1::handshake(TokioIo::new(stream.clone())).await;
        let (sender, driver) = handshake.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Some(driver), stream, idle_since: Instant::now() })
    }

    /// Sends `request` and reads the answer to its last byte, at most `limit` bytes of body.
    ///
    /// Not cancel-safe: dropped half-way, the connection must be dropped as well.
    pub(crate) async fn exchange(
        &mut self,
        request: FullRequest,
        keep: Keep,
        limit: usize,
    ) -> Result<Answer, ExchangeError> {
        let answer = self.sender.try_send_request(request);
        let response = match drive(&mut self.driver, answer).await {
            Ok(response) => response,
            Err(mut refused) => {
                return Err(match refused.take_message() {
                    Some(request) => ExchangeError::Unsent(Box::new(request)),
                    None => ExchangeError::Cut(format!("cut before an answer: {}", in_full(refused.error()))),
                });
            }
        };
        let status = response.status().as_u16();
        // Only these two are followed, and the others need not pay for a copy.
        let location = match status {
            202 | 303 => response.headers().get(LOCATION).and_then(|value| value.to_str().ok()),
            _ => None,
        };
        let location = location.map(str::to_owned);
        let body = self.body(response.into_body(), keep, limit, status).await?;
        Ok(Answer { status, body, location, at: Instant::now() })
    }

    async fn body(
        &mut self,
        mut incoming: Incoming,
        keep: Keep,
        limit: usize,
        status: u16,
    ) -> Result<Vec<u8>, ExchangeError> {
        let mut body = Vec::new();
        let mut received = 0_usize;
        while let Some(frame) = drive(&mut self.driver, incoming.frame()).await {
            let frame = frame.map_err(|error| {
                let cause = in_full(&error);
                ExchangeError::Cut(format!("answered {status}, cut after {received} bytes of body: {cause}"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            received += data.len();
            if received > limit {
                return Err(ExchangeError::TooLarge { status });
            }
            let kept = match keep {
                Keep::All => data.len(),
                Keep::Start => data.len().min(START_LIMIT.saturating_sub(body.len())),
            };
            body.extend_from_slice(&data[..kept]);
        }
        Ok(body)
    }

    /// Whether the connection can take another request now that its last answer is complete.
    pub(crate) async fn settle(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            poll_driver(&mut self.driver, cx);
            let ready = matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())));
            Poll::Ready(ready && self.driver.is_some())
        })
        .await
    }

    /// Ends the connection as hyper does, with the kernel none the wiser.
    #[cfg(test)]
    pub(crate) fn end(&mut self) {
        self.driver = None;
    }

    /// Whether the peer has neither closed the connection nor said anything unasked, as far as the kernel
    /// knows. Asked of the kernel itself: what the runtime knows is as old as its last look, and a request
    /// written meanwhile could not be told from one that was cut.
    pub(crate) fn is_quiet(&self) -> bool {
        let stream = self.stream.lock();
        let mut byte = [0_u8; 1];
        rustix::net::recv(&*stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)
            == Err(rustix::io::Errno::AGAIN)
    }
}

/// An error and what caused it: hyper's own text says only at what it was.
fn in_full(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn poll_driver(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(connection) = driver
        && Pin::new(connection).poll(cx).is_ready()
    {
        // Its error, if any, has gone to the request that waits for an answer.
        *driver = None;
    }
}

/// Waits for `future` while keeping the connection going.
async fn drive<F: Future>(driver: &mut Option<Driver>, future: F) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        poll_driver(driver, cx);
        future.as_mut().poll(cx)
    })
    .await
}

/// The stream inside hyper's connection, shared so that the pool can ask the kernel about it. Only one task
/// at a time uses a connection, so the lock is never waited for.
#[derive(Clone)]
struct SharedStream(Arc<Mutex<TcpStream>>);

impl SharedStream {
    fn lock(&self) -> MutexGuard<'_, TcpStream> {
        self.0.lock().expect("no code that holds the lock panics")
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_request_comes_back_unsent_from_a_connection_that_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Connection::open(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        assert!(connection.is_quiet());
        drop(peer);
        let ended = async {
            while connection.settle().await || connection.is_quiet() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the peer has closed");
        let request = Request::new(Full::new(Bytes::from_static(b"body")));
        match connection.exchange(request, Keep::All, 1024).await {
            Err(ExchangeError::Unsent(request)) => {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, "body");
            }
            other => panic!("{other:?}"),
        }
    }
}
