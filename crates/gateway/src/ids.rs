//! Request ids, trace contexts and dice: one of each worker's own.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use std::cell::{Cell, RefCell};

/// Bytes of one `traceparent`.
const TRACEPARENT_BYTES: usize = 55;
/// Where its trace id lies, which is the request id of the same request too.
const TRACE_ID: std::ops::Range<usize> = 3..35;
/// Ids are cut from pieces of memory of this size, so that not each needs one of its own.
const PIECE_BYTES: usize = 128 * TRACEPARENT_BYTES;

/// A small generator (splitmix64, Steele and others 2014). Ids are told apart by it, and ties broken; nothing
/// relies on that nobody can guess them.
pub(crate) struct Random(Cell<u64>);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Makes the ids of one worker.
#[derive(Default)]
pub(crate) struct Ids {
    piece: RefCell<BytesMut>,
}

impl Ids {
    /// A new `traceparent` (W3C Trace Context, version 00, sampled). Its trace id is unique enough to be the
    /// request id too: [`trace_id`].
    pub(crate) fn traceparent(&self, random: &Random) -> Bytes {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        // A trace id or parent id of only zeros is invalid; `| 1` costs one bit of 64.
        for (place, number) in [(3, random.next() | 1), (19, random.next()), (36, random.next() | 1)] {
            for (byte, digit) in number.to_be_bytes().into_iter().zip(text[place..place + 16].chunks_mut(2)) {
                digit[0] = DIGITS[usize::from(byte >> 4)];
                digit[1] = DIGITS[usize::from(byte & 15)];
            }
        }
        let mut piece = self.piece.borrow_mut();
        if piece.capacity() - piece.len() < TRACEPARENT_BYTES {
            *piece = BytesMut::with_capacity(PIECE_BYTES);
        }
        piece.extend_from_slice(&text);
        piece.split().freeze()
    }
}

/// The trace id of a `traceparent`.
pub(crate) fn trace_id(traceparent: &Bytes) -> HeaderValue {
    value(traceparent.slice(TRACE_ID))
}

/// Text of our own as a field's value.
pub(crate) fn value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).expect("hexadecimal digits and dashes are visible ASCII")
}

/// Whether `text` is a `traceparent` that may be handed on (W3C Trace Context, 2.2).
pub(crate) fn is_traceparent(text: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
    if text.len() < TRACEPARENT_BYTES || text[2] != b'-' || text[35] != b'-' || text[52] != b'-' {
        return false;
    }
    let (version, trace, parent, flags) = (&text[..2], &text[TRACE_ID], &text[36..52], &text[53..55]);
    // Later versions may have more, after another dash.
    let end = match version {
        b"00" => text.len() == TRACEPARENT_BYTES,
        b"ff" => false,
        _ => text.get(TRACEPARENT_BYTES).is_none_or(|b| *b == b'-'),
    };
    end && [version, trace, parent, flags].into_iter().all(hex) && !zero(trace) && !zero(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_well_formed_and_new() {
        let (ids, random) = (Ids::default(), Random::new(7));
        let made: std::collections::HashSet<Bytes> = (0..1000).map(|_| ids.traceparent(&random)).collect();
        assert_eq!(made.len(), 1000);
        for text in &made {
            assert!(is_traceparent(text), "{text:?}");
            assert_eq!(trace_id(text).len(), 32);
        }
    }

    #[test]
    fn well_formed_and_not() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good.as_bytes()));
        assert!(is_traceparent(format!("cc{}-what-is-to-come", &good[2..]).as_bytes()));
        for bad in [
            "",
            "00",
            &good[1..],
            &good.to_uppercase(),
            &format!("{good}-01"),
            &good.replace("00-4", "ff-4"),
            &good.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }
}
