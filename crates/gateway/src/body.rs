//! Bodies on their way through: streamed, counted, limited, never gathered.

use crate::client::{Client, Phase, Upload};
use crate::exchange::Exchange;
use crate::fault::Fault;
use crate::kept::FileBody;
use crate::upstream::Upstream;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Why a body ends before its end. The connection it is written to is closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The request's body is larger than the release allows.
    #[error("the request's body is too large")]
    TooLarge,
    /// The client's side of a request's body broke.
    #[error("the client's body ended early")]
    Client(#[source] hyper::Error),
    /// The instance's side of an answer broke.
    #[error("the instance's body ended early")]
    Upstream(#[source] hyper::Error),
    /// A file cannot be read.
    #[error("the file cannot be read to its end")]
    File(#[source] std::io::Error),
    /// Nothing moved for too long.
    #[error("the body paused for too long")]
    Idle,
}

/// A request's body on its way upstream.
pub(crate) struct RequestBody {
    /// None: there is no body.
    inner: Option<Incoming>,
    client: Rc<Client>,
    limit: u64,
}

impl RequestBody {
    /// `limit` in bytes.
    pub(crate) fn new(inner: Incoming, client: Rc<Client>, limit: u64) -> Self {
        let upload = if inner.is_end_stream() { Upload::Done } else { Upload::Upstream };
        client.upload.set(upload);
        Self { inner: Some(inner), client, limit }
    }

    /// No body.
    pub(crate) fn none(client: Rc<Client>) -> Self {
        client.upload.set(Upload::Done);
        Self { inner: None, client, limit: 0 }
    }

    fn done(&self) {
        self.client.upload.set(Upload::Done);
        if self.client.phase() == Phase::Service {
            self.client.await_answer();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *inner).poll_frame(cx);
        let last = inner.is_end_stream();
        match &frame {
            Poll::Pending => self.client.upload.set(Upload::Client),
            Poll::Ready(None) => self.done(),
            Poll::Ready(Some(Err(_))) => self.client.upload.set(Upload::Broken),
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let total = self.client.bytes_in.get() + bytes;
                self.client.bytes_in.set(total);
                if total > self.limit {
                    self.client.upload.set(Upload::TooLarge);
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
                self.client.touch();
                if last || frame.is_trailers() {
                    self.done();
                } else {
                    self.client.upload.set(Upload::Upstream);
                }
            }
        }
        frame.map_err(BodyError::Client)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// An answer's body on its way to the client. The exchange ends with it.
pub(crate) struct AnswerBody {
    source: Source,
    exchange: Option<Box<Exchange>>,
    /// Why the body is cut, once hyper has had a chance to send what came before.
    failure: Option<BodyError>,
}

enum Source {
    Own(Bytes),
    File(Box<FileBody>),
    Upstream { body: Incoming, upstream: Option<Box<Upstream>> },
}

impl AnswerBody {
    /// A body of the gateway's own.
    pub(crate) fn own(bytes: Bytes) -> Self {
        Self { source: Source::Own(bytes), exchange: None, failure: None }
    }

    /// A file of a stamp that has stopped.
    pub(crate) fn file(file: FileBody) -> Self {
        Self { source: Source::File(Box::new(file)), exchange: None, failure: None }
    }

    /// An instance's body, with the connection it comes on.
    pub(crate) fn upstream(body: Incoming, upstream: Box<Upstream>) -> Self {
        let source = Source::Upstream { body, upstream: Some(upstream) };
        Self { source, exchange: None, failure: None }
    }

    /// Ends `exchange` with this body.
    pub(crate) fn end(&mut self, exchange: Box<Exchange>) {
        self.exchange = Some(exchange);
    }

    fn ended(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_empty(),
            Source::File(file) => file.left() == 0,
            Source::Upstream { body, .. } => body.is_end_stream(),
        }
    }

    /// The last of the body is on its way: the connection can be used for others.
    fn complete(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.complete();
            if let Source::Upstream { upstream, .. } = &mut self.source
                && let Some(upstream) = upstream.take()
            {
                exchange.keep(upstream);
            }
        }
    }

    /// Some of a file is on its way.
    fn pass(&mut self, bytes: usize) {
        if let Some(exchange) = &mut self.exchange {
            exchange.sent(bytes);
            exchange.client().touch();
        }
        if self.ended() {
            self.complete();
        }
    }

    /// Cuts the body, but not before what came of it is written: hyper drops what it has buffered when a body
    /// fails, so it is told to come back first.
    fn fail(&mut self, fault: Fault, error: BodyError, cx: &Context<'_>) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.fail(fault);
        }
        if let Source::Upstream { upstream, .. } = &mut self.source {
            *upstream = None;
        }
        self.failure = Some(error);
        cx.waker().wake_by_ref();
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(error) = this.failure.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let (body, upstream) = match &mut this.source {
            Source::Own(bytes) => {
                let bytes = std::mem::take(bytes);
                if let Some(exchange) = &mut this.exchange {
                    exchange.sent(bytes.len());
                }
                this.complete();
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Source::File(file) => {
                if file.left() == 0 {
                    this.complete();
                    return Poll::Ready(None);
                }
                return match std::task::ready!(file.poll_next(cx)) {
                    Ok(bytes) => {
                        this.pass(bytes.len());
                        Poll::Ready(Some(Ok(Frame::data(bytes))))
                    }
                    Err(cause) => {
                        this.fail(Fault::UpstreamCut, BodyError::File(cause), cx);
                        Poll::Pending
                    }
                };
            }
            Source::Upstream { body, upstream } => (body, upstream),
        };
        if this.exchange.as_ref().is_some_and(|exchange| exchange.client().deadline_passed()) {
            this.fail(Fault::IdleTimeout, BodyError::Idle, cx);
            return Poll::Pending;
        }
        // Whatever the body waits for happens while the connection is driven, so nobody needs to be woken by it.
        let mut nobody = Context::from_waker(Waker::noop());
        let mut frame = Pin::new(&mut *body).poll_frame(&mut nobody);
        if let (Poll::Pending, Some(driven), Some(exchange)) = (&frame, &mut *upstream, &this.exchange) {
            exchange.client().drive(|cx| driven.drive(cx));
            if driven.has_ended() {
                // Nothing can come any more: without its connection the body knows.
                *upstream = None;
            }
            frame = Pin::new(&mut *body).poll_frame(&mut nobody);
        }
        match frame {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                this.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(cause))) => {
                let upload = this.exchange.as_ref().map(|exchange| exchange.client().upload.get());
                let fault = match upload {
                    Some(Upload::TooLarge) => Fault::BodyTooLarge,
                    Some(Upload::Broken) => Fault::ClientGone,
                    Some(Upload::Done | Upload::Upstream | Upload::Client) | None => Fault::UpstreamCut,
                };
                this.fail(fault, BodyError::Upstream(cause), cx);
                Poll::Pending
            }
            Poll::Ready(Some(Ok(data))) => {
                if let Some(exchange) = &mut this.exchange {
                    exchange.sent(data.data_ref().map_or(0, Bytes::len));
                    exchange.client().touch();
                }
                if this.ended() || data.is_trailers() {
                    this.complete();
                }
                Poll::Ready(Some(Ok(data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::File(file) => SizeHint::with_exact(file.left()),
            Source::Upstream { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // An empty body is never asked for a frame. One that is dropped before its end was cut by the client.
        if self.ended() {
            self.complete();
        }
    }
}
