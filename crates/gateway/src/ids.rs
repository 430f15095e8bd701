//! Request ids, trace contexts and dice: one of each worker's own.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use std::cell::{Cell, RefCell};

/// Bytes of one `traceparent`.
const TRACEPARENT_BYTES: usize = 55;
/// Where its trace id lies, which is the request id of the same request too.
const TRACE_ID: std::ops::Range<usize> = 3..35;
/// Where the id of the span that sends it lies.
const PARENT_ID: std::ops::Range<usize> = 36..52;
/// Where its flags lie.
const FLAGS: std::ops::Range<usize> = 53..55;
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

/// What a `traceparent` says, in its hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) trace: [u8; 32],
    pub(crate) parent: [u8; 16],
    pub(crate) flags: u8,
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
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        // A trace id or parent id of only zeros is invalid; `| 1` costs one bit of 64.
        for (place, number) in [(3, random.next() | 1), (19, random.next()), (36, random.next() | 1)] {
            write_hex(&mut text[place..place + 16], &number.to_be_bytes());
        }
        self.keep(&text)
    }

    /// What [`under`] says.
    pub(crate) fn hand_on(&self, parts: &Parts, parent: u64) -> Bytes {
        self.keep(&under(parts, parent))
    }

    fn keep(&self, text: &[u8; TRACEPARENT_BYTES]) -> Bytes {
        let mut piece = self.piece.borrow_mut();
        if piece.capacity() - piece.len() < TRACEPARENT_BYTES {
            *piece = BytesMut::with_capacity(PIECE_BYTES);
        }
        piece.extend_from_slice(text);
        piece.split().freeze()
    }
}

/// The `traceparent` of what follows in the trace of `parts`, under `parent`: version 00, whatever the one before was
/// (W3C Trace Context, 4.3). Of the flags only those that version 00 knows are handed on, and the one by which level 2
/// says that the trace id is random.
pub(crate) fn under(parts: &Parts, parent: u64) -> [u8; TRACEPARENT_BYTES] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[TRACE_ID].copy_from_slice(&parts.trace);
    write_hex(&mut text[PARENT_ID], &parent.to_be_bytes());
    write_hex(&mut text[FLAGS], &[parts.flags & 0b11]);
    text
}

/// Writes bytes as hexadecimal digits, two for each.
fn write_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, digit) in bytes.iter().zip(text.chunks_mut(2)) {
        digit[0] = DIGITS[usize::from(byte >> 4)];
        digit[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// What a `traceparent` says. None: it may not be handed on.
pub(crate) fn parts(text: &[u8]) -> Option<Parts> {
    if !is_traceparent(text) {
        return None;
    }
    let flags = std::str::from_utf8(&text[FLAGS]).ok()?;
    Some(Parts {
        trace: text[TRACE_ID].try_into().ok()?,
        parent: text[PARENT_ID].try_into().ok()?,
        flags: u8::from_str_radix(flags, 16).ok()?,
    })
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
    let (version, trace, parent, flags) = (&text[..2], &text[TRACE_ID], &text[PARENT_ID], &text[FLAGS]);
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
    fn a_trace_is_handed_on_under_another_parent() {
        let came = parts(b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-is-to-come").unwrap();
        assert_eq!((&came.parent, came.flags), (b"00f067aa0ba902b7", 0xff));
        let ids = Ids::default();
        let on = ids.hand_on(&came, 0x0123_4567_89ab_cdef);
        assert_eq!(on, "00-4bf92f3577b34da6a3ce929d0e0e4736-0123456789abcdef-03");
        let unsampled = ids.hand_on(&Parts { flags: 0, ..came }, 1);
        assert_eq!(unsampled, "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-00");
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
