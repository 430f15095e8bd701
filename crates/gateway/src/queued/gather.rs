//! A request's body as a whole, before it is written down.

use crate::body::RequestBody;
use crate::client::Upload;
use crate::exchange::Exchange;
use crate::fault::{Fault, Refusal};
use crate::limits::QUEUED_BODIES_BYTES;
use crate::request::too_large;
use crate::worker::Shared;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

/// A whole body, which counts as being in memory until it is dropped.
pub(super) struct Whole {
    bytes: Bytes,
    _room: Room,
}

/// A part of [`QUEUED_BODIES_BYTES`].
struct Room {
    shared: Arc<Shared>,
    taken: u64,
}

impl Whole {
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), Refusal> {
        let bytes = bytes as u64;
        let before = self.shared.desk.gathered.fetch_add(bytes, Ordering::AcqRel);
        self.taken += bytes;
        if before + bytes > QUEUED_BODIES_BYTES {
            let detail = format!("bodies of {before} bytes wait to be written to disk");
            return Err(Refusal::new(Fault::Overloaded, detail));
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.desk.gathered.fetch_sub(self.taken, Ordering::AcqRel);
    }
}

/// Reads a body of at most `limit` bytes. Trailers are left out: nobody is left to send them on to.
///
/// # Errors
/// It is too large, comes too slowly, or breaks off; or too many are in memory.
pub(super) async fn gather(exchange: &Exchange, body: Incoming, limit: u64) -> Result<Whole, Refusal> {
    let client = Rc::clone(exchange.client());
    if body.size_hint().exact().is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let mut room = Room { shared: Arc::clone(exchange.worker.shared()), taken: 0 };
    let mut body = RequestBody::new(body, Rc::clone(&client), limit);
    client.await_answer();
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    loop {
        let frame = poll_fn(|cx| {
            if client.deadline_passed() {
                return Poll::Ready(Err(Refusal::new(
                    Fault::BodyTimeout,
                    "the request's body paused for too long",
                )));
            }
            Pin::new(&mut body).poll_frame(cx).map(Ok)
        });
        let data = match frame.await? {
            None => break,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_) => continue,
            },
            Some(Err(_)) => {
                return Err(match (client.upload.get(), client.rejected_body()) {
                    (Upload::TooLarge, _) => too_large(limit),
                    (_, Some(why)) => why.into(),
                    (_, None) => Refusal::new(Fault::ClientGone, "the request's body ended early"),
                });
            }
        };
        room.take(data.len())?;
        // Most bodies come in one piece, which need not be copied.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    let bytes = if rest.is_empty() { first } else { rest.freeze() };
    Ok(Whole { bytes, _room: room })
}
