//! The client: a bounded pool of kept connections to one address.

use crate::connection::{Answer, Connection, ExchangeError, FullRequest, Keep};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

/// The largest body of an answer, in bytes. A larger one is a bad body, and its connection is closed.
pub const ANSWER_LIMIT: usize = 16 * 1024 * 1024;

/// How long a connection is kept without use: below the minute after which common servers close theirs.
pub const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// Why a call has no complete answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The request was never sent.
    #[error("could not connect to {address}: {message}")]
    Connect { address: SocketAddr, message: String },
    /// This machine gave no socket; the request was never sent.
    #[error("this machine gave no socket for {address}: {message}")]
    NoSocket { address: SocketAddr, message: String },
    /// No connection became free in time; the request was never sent.
    #[error("no connection was free within {after:?}")]
    NoneFree { after: Duration },
    /// The request may have been sent.
    #[error("no complete answer within {after:?}")]
    Timeout { after: Duration },
    /// The request may have been sent.
    #[error("{0}")]
    Cut(String),
    /// The request was sent and answered.
    #[error("answered {status} with a body of more than {} MiB", ANSWER_LIMIT / (1024 * 1024))]
    TooLarge { status: u16 },
}

/// A call and what it met on its way.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) result: Result<Answer, CallError>,
    /// Whether it had to wait for a connection to become free.
    pub(crate) waited: bool,
}

/// Speaks to one address over at most a given number of connections.
pub(crate) struct Client {
    address: SocketAddr,
    /// One permit for each connection in use. A new one is opened only while none is idle, so that those in
    /// use and those idle together are never more than there are permits.
    permits: Semaphore,
    /// The last used last: taking that one first lets the surplus grow old and be dropped.
    idle: Mutex<VecDeque<Box<Connection>>>,
}

impl Client {
    /// A client for `address` with at most `max_connections` (at least one) open at a time.
    pub(crate) fn new(address: SocketAddr, max_connections: usize) -> Self {
        let permits = Semaphore::new(max_connections.clamp(1, Semaphore::MAX_PERMITS));
        Self { address, permits, idle: Mutex::new(VecDeque::new()) }
    }

    /// Sends one request and reads its answer to the last byte within `timeout`, waiting for a free
    /// connection included.
    ///
    /// A request that a kept connection hands back unsent goes to the next one, at last to a fresh one; a
    /// request that may have been sent is never sent again. Cancel-safe: a call that is dropped closes its
    /// connection.
    pub(crate) async fn call(&self, request: FullRequest, keep: Keep, timeout: Duration) -> Called {
        let deadline = tokio::time::Instant::now() + timeout;
        let (permit, waited) = match self.permits.try_acquire() {
            Ok(permit) => (permit, false),
            Err(_) => match timeout_at(deadline, self.permits.acquire()).await {
                Ok(permit) => (permit.expect("the semaphore is never closed"), true),
                Err(_) => {
                    return Called { result: Err(CallError::NoneFree { after: timeout }), waited: true };
                }
            },
        };
        let result = self.send(request, keep, timeout, deadline).await;
        drop(permit);
        Called { result, waited }
    }

    async fn send(
        &self,
        mut request: FullRequest,
        keep: Keep,
        timeout: Duration,
        deadline: tokio::time::Instant,
    ) -> Result<Answer, CallError> {
        loop {
            let (mut connection, kept) = match self.take_idle() {
                Some(connection) => (connection, true),
                None => (Box::new(self.open(timeout, deadline).await?), false),
            };
            match timeout_at(deadline, connection.exchange(request, keep, ANSWER_LIMIT)).await {
                Ok(Ok(answer)) => {
                    if connection.settle().await {
                        self.put_back(connection);
                    }
                    return Ok(answer);
                }
                Ok(Err(ExchangeError::Unsent(unsent))) if kept => request = *unsent,
                Ok(Err(ExchangeError::Unsent(_))) => {
                    let message = "closed before the request was written".to_owned();
                    return Err(CallError::Connect { address: self.address, message });
                }
                Ok(Err(ExchangeError::Cut(message))) => return Err(CallError::Cut(message)),
                Ok(Err(ExchangeError::TooLarge { status })) => return Err(CallError::TooLarge { status }),
                Err(_) => return Err(CallError::Timeout { after: timeout }),
            }
        }
    }

    async fn open(&self, timeout: Duration, deadline: tokio::time::Instant) -> Result<Connection, CallError> {
        let address = self.address;
        match timeout_at(deadline, Connection::open(address)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) if is_own_shortage(&error) => {
                Err(CallError::NoSocket { address, message: error.to_string() })
            }
            Ok(Err(error)) => Err(CallError::Connect { address, message: error.to_string() }),
            Err(_) => Err(CallError::Connect { address, message: format!("none within {timeout:?}") }),
        }
    }

    /// The connection used last that the peer has not closed.
    fn take_idle(&self) -> Option<Box<Connection>> {
        loop {
            let connection = self.lock().pop_back()?;
            if is_usable(&connection) {
                return Some(connection);
            }
        }
    }

    fn put_back(&self, mut connection: Box<Connection>) {
        connection.idle_since = Instant::now();
        self.lock().push_back(connection);
    }

    /// Closes the connections that were idle for too long or that the peer has closed.
    pub(crate) fn drop_idle(&self) {
        let idle = std::mem::take(&mut *self.lock());
        let mut kept: VecDeque<_> = idle.into_iter().filter(|connection| is_usable(connection)).collect();
        let mut now = self.lock();
        // Those put back meanwhile were used last.
        kept.append(&mut now);
        *now = kept;
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Box<Connection>>> {
        self.idle.lock().expect("no code that holds the lock panics")
    }
}

fn is_usable(connection: &Connection) -> bool {
    connection.idle_since.elapsed() < IDLE_LIMIT && connection.is_quiet()
}

/// Whether connecting failed because this machine is out of file descriptors, ports or memory.
fn is_own_shortage(error: &io::Error) -> bool {
    let own = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| own.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn call(client: &Client) -> Result<Answer, CallError> {
        let request = Request::new(Full::new(Bytes::new()));
        client.call(request, Keep::All, Duration::from_secs(10)).await.result
    }

    /// Answers one request on the next connection and keeps it open.
    async fn answer_one(listener: &TcpListener) -> TcpStream {
        let accepted = tokio::time::timeout(Duration::from_secs(10), listener.accept()).await;
        let (mut stream, _) = accepted.expect("the client connects").unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0, "cut");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        stream
    }

    async fn listening() -> (TcpListener, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, Client::new(address, 4))
    }

    #[tokio::test]
    async fn a_request_handed_back_by_kept_connections_goes_to_a_fresh_one() {
        let (listener, client) = listening().await;
        let mut peers = Vec::new();
        for _ in 0..3 {
            let mut kept = Connection::open(client.address).await.unwrap();
            peers.push(listener.accept().await.unwrap());
            kept.end();
            client.put_back(Box::new(kept));
        }
        let (answer, _stream) = tokio::join!(call(&client), answer_one(&listener));
        assert_eq!(answer.unwrap().body, b"ok");
        assert_eq!(client.lock().len(), 1, "the fresh one is kept, the others are gone");
    }

    #[tokio::test]
    async fn connections_idle_for_too_long_are_neither_used_nor_kept() {
        let (listener, client) = listening().await;
        for sweep in [true, false] {
            let (answer, stream) = tokio::join!(call(&client), answer_one(&listener));
            answer.unwrap();
            client.drop_idle();
            assert_eq!(client.lock().len(), 1, "used just now");
            client.lock()[0].idle_since = Instant::now().checked_sub(IDLE_LIMIT).unwrap();
            if sweep {
                client.drop_idle();
            }
            assert!(client.take_idle().is_none());
            assert!(client.lock().is_empty());
            drop(stream);
        }
    }
}
