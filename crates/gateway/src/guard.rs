//! Stands between a client's socket and hyper: what can be read in two ways never gets to hyper.
//!
//! Bodies pass as they come. Heads pass when they are whole and right, so that hyper has at no time a part of
//! one that turns out wrong. A wrong head is replaced by a harmless one that the service answers with the error
//! ([`Client::take`]), in its turn after those before it; a wrong body ends with an error.
//!
//! The guard also sees to the connection's deadline where nobody else is waiting: for heads, for the next
//! request, and for a client that does not take its answer.

pub(crate) mod framing;

use crate::client::{Client, Phase};
use crate::limits;
use framing::{Fed, Framing, Rejection};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What takes the place of a rejected head. It is never forwarded.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: rejected\r\nconnection: close\r\n\r\n";

/// A guarded socket.
pub(crate) struct Guard<S> {
    socket: S,
    client: Rc<Client>,
    framing: Framing,
    /// Bytes that were read and not yet passed: the first `ready` of them may.
    held: Vec<u8>,
    ready: usize,
    end: End,
    lingered: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Reading goes on.
    Open,
    /// The stand-in is the last thing that passes.
    Head,
    /// The body at hand ends with an error.
    Body,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    pub(crate) fn new(socket: S, client: Rc<Client>) -> Self {
        let framing = Framing::new();
        Self { socket, client, framing, held: Vec::new(), ready: 0, end: End::Open, lingered: 0 }
    }

    /// Reads into `buffer` what is there and takes back what may not pass yet. Ready without bytes: the client
    /// has closed its side.
    fn poll_pass(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.ready > 0 {
                self.deliver(buffer);
                return Poll::Ready(Ok(()));
            }
            match self.end {
                End::Open => {}
                // Nobody waits for more: hyper closes once the error is answered.
                End::Head => return Poll::Pending,
                End::Body => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            if self.client.deadline_passed() {
                match self.client.phase() {
                    Phase::Head | Phase::Idle if self.held.is_empty() => return Poll::Ready(Ok(())),
                    Phase::Head | Phase::Idle => {
                        self.reject(Rejection::HeadTime, false);
                        continue;
                    }
                    // The service is waiting too and answers.
                    Phase::Service => {}
                    Phase::Answer | Phase::Linger => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                }
            }
            let before = buffer.filled().len();
            match Pin::new(&mut self.socket).poll_read(cx, buffer) {
                Poll::Pending => {
                    self.wait();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if buffer.filled().len() > before => {}
                end => return end,
            }
            let fresh = &buffer.filled()[before..];
            let fed = if self.held.is_empty() {
                let fed = self.framing.feed(fresh);
                if fed.rejection.is_none() {
                    self.held.extend_from_slice(&fresh[fed.pass..]);
                }
                buffer.set_filled(before + fed.pass);
                fed
            } else {
                self.held.extend_from_slice(fresh);
                buffer.set_filled(before);
                let fed = self.framing.feed(&self.held);
                self.ready = fed.pass;
                if fed.rejection.is_some() {
                    self.held.truncate(fed.pass);
                }
                fed
            };
            self.note(&fed);
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn note(&mut self, fed: &Fed) {
        self.client.hand_on(fed.heads);
        if let Some(why) = fed.rejection {
            self.reject(why, fed.begun);
        }
    }

    fn reject(&mut self, why: Rejection, begun: bool) {
        if begun {
            self.end = End::Body;
            self.client.reject_body(why);
        } else {
            self.end = End::Head;
            self.held.truncate(self.ready);
            self.held.extend_from_slice(STAND_IN);
            self.ready = self.held.len();
            self.client.hand_on_rejected(why);
        }
    }

    fn deliver(&mut self, buffer: &mut ReadBuf<'_>) {
        let bytes = self.ready.min(buffer.remaining());
        buffer.put_slice(&self.held[..bytes]);
        self.held.drain(..bytes);
        self.ready -= bytes;
    }

    /// Nothing is there to be read. Sets the deadline when this begins a wait that is nobody else's.
    fn wait(&self) {
        if self.client.busy() {
            return;
        }
        let empty = self.held.is_empty() && self.framing.between_messages();
        match (self.client.phase(), empty) {
            (Phase::Service | Phase::Answer, true) => self.client.arm(Phase::Idle, limits::KEEP_ALIVE),
            (Phase::Service | Phase::Answer | Phase::Idle, false) => {
                self.client.arm(Phase::Head, limits::HEAD_TIME);
            }
            (Phase::Idle, true) | (Phase::Head | Phase::Linger, _) => {}
        }
    }

    /// What a client that does not take its answer gets, and how one that does is given more time.
    fn poll_written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.client.set_stalled(result.is_pending());
        if self.client.phase() == Phase::Answer {
            if result.is_ready() {
                self.client.touch();
            } else if self.client.deadline_passed() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().poll_pass(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.poll_written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bytes);
        self.poll_written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Closes our side, then reads and drops what the client still sends, so that its system does not throw away
    /// the last answer because of a reset.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.client.phase() != Phase::Linger {
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
            this.client.arm(Phase::Linger, limits::LINGER_TIME);
        }
        let mut waste = [0; 4096];
        while !this.client.deadline_passed() && this.lingered < limits::LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => this.lingered += buffer.filled().len(),
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
