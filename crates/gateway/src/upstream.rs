//! Connections to instances.
//!
//! hyper's client wants its connection driven by somebody. Usually that is a task of its own; here it is whoever
//! waits for the answer, in the same task as the client's connection: a request then costs no hand-over between
//! tasks, is written before the sending call returns, and a client that goes takes its upstream connection along.
//! What a connection has to tell while nobody drives it (that it was closed) it tells when it is used next: then it
//! hands the request back unsent.

use crate::body::RequestBody;
use crate::limits::{BUFFER_BYTES, UPSTREAM_IDLE, UPSTREAM_IDLE_CONNECTIONS};
use crate::routes::Routes;
use http::Request;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One connection to an instance.
pub(crate) struct Upstream {
    sender: SendRequest<RequestBody>,
    /// None once it has ended. What it held is then handed back to those who wait for it.
    connection: Option<Connection<TokioIo<Wire>, RequestBody>>,
    read: Rc<Cell<u64>>,
    idle_since_ms: u64,
}

/// A socket that counts what it reads.
struct Wire {
    socket: TcpStream,
    read: Rc<Cell<u64>>,
}

impl Upstream {
    /// Connects to `address`. Dropping the future closes what there is of the connection.
    pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> io::Result<Box<Self>> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
        let socket = tokio::time::timeout(limit, TcpStream::connect(address)).await.map_err(|_| late())??;
        // Small requests must not wait for an acknowledgement of what went before.
        socket.set_nodelay(true)?;
        let read = Rc::new(Cell::new(0));
        let wire = TokioIo::new(Wire { socket, read: Rc::clone(&read) });
        let (sender, connection) =
            Builder::new().max_buf_size(BUFFER_BYTES).handshake(wire).await.map_err(io::Error::other)?;
        Ok(Box::new(Self { sender, connection: Some(connection), read, idle_since_ms: 0 }))
    }

    /// Gives the request to the connection; [`Self::drive`] sends it. The answer comes from the future, which
    /// need not be woken: whatever it waits for happens in `drive`.
    pub(crate) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<http::Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.sender.try_send_request(request)
    }

    /// Writes and reads what can be.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection {
            // An error is told to whoever waits for the answer or its body.
            if Pin::new(connection).poll(cx).is_ready() {
                self.connection = None;
            }
        }
    }

    /// Whether it has ended, so that driving it is of no use.
    pub(crate) fn has_ended(&self) -> bool {
        self.connection.is_none()
    }

    /// Bytes read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.get()
    }

    /// Whether a request can be sent: the last exchange is over and the instance has not closed, as far as known.
    /// Nobody is woken by the connection from then on.
    fn is_free(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// One worker's idle connections, by instance.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "connections are large and go in and out with every request")]
pub(crate) struct Pools(Vec<(u64, Vec<Box<Upstream>>)>);

impl Pools {
    /// The connection that was used last: the others get older, until they are closed. One that the instance has
    /// closed meanwhile hands the request back; with `ask` such ones are left out beforehand.
    pub(crate) fn take(&mut self, key: u64, ask: bool) -> Option<Box<Upstream>> {
        let (_, pool) = self.0.iter_mut().find(|(known, _)| *known == key)?;
        while let Some(mut upstream) = pool.pop() {
            if !ask || upstream.is_free() {
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection whose exchange is over, if it can be used again and there is room.
    pub(crate) fn put(&mut self, key: u64, mut upstream: Box<Upstream>, now_ms: u64) {
        if !upstream.is_free() {
            return;
        }
        upstream.idle_since_ms = now_ms;
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, pool)) if pool.len() < UPSTREAM_IDLE_CONNECTIONS => pool.push(upstream),
            Some(_) => {}
            None => self.0.push((key, vec![upstream])),
        }
    }

    /// Closes what was idle for too long or belongs to an instance the table no longer names.
    pub(crate) fn sweep(&mut self, now_ms: u64, routes: &Routes) {
        self.0.retain(|(key, _)| routes.names(*key));
        let oldest = now_ms.saturating_sub(UPSTREAM_IDLE.as_millis() as u64);
        for (_, pool) in &mut self.0 {
            // Newest last: the first that may stay ends it.
            let stay = pool.iter().position(|upstream| upstream.idle_since_ms > oldest);
            pool.drain(..stay.unwrap_or(pool.len()));
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buffer);
        self.read.set(self.read.get() + (buffer.filled().len() - before) as u64);
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
