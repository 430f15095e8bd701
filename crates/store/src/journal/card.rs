//! What of a job never changes while it moves on, as one column of fixed length.
//!
//! Reading a column costs more than reading its bytes, and a restart reads a million rows.

use super::row::NewJob;
use super::sum::Sum;
use crc32fast::Hasher;

/// Bytes of a card: all fields one after another, numbers with their lowest byte first, and a sum over them, the
/// job's number, the time it was accepted and its route.
pub(super) const CARD_BYTES: usize = SUM_AT + 4;
const SUM_AT: usize = FLAGS_AT + 1;
const FLAGS_AT: usize = 16 + 32 + 16 + 16 + 8 + 8 + 8;

const HAS_KEY: u8 = 1;
const HAS_ORDER: u8 = 2;
const HAS_USER: u8 = 4;
const IDEMPOTENT: u8 = 8;
const PREVIEW: u8 = 16;

/// See [`NewJob`] for what the fields mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) tag: [u8; 16],
    pub(super) fingerprint: [u8; 32],
    pub(super) credentials: [u8; 16],
    pub(super) key: Option<[u8; 16]>,
    pub(super) order: Option<u64>,
    pub(super) user: Option<u64>,
    pub(super) request_bytes: u64,
    pub(super) idempotent: bool,
    pub(super) preview: bool,
}

/// What a card is bound to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<'r> {
    pub(super) id: i64,
    pub(super) created_ms: i64,
    pub(super) route: &'r [u8],
}

impl Card {
    pub(super) fn of(new: &NewJob) -> Self {
        Self {
            tag: new.tag,
            fingerprint: new.fingerprint,
            credentials: new.credentials,
            key: new.key,
            order: new.order,
            user: new.user,
            request_bytes: new.request.len() as u64,
            idempotent: new.idempotent,
            preview: new.preview,
        }
    }

    pub(super) fn encode(&self, bound: Bound<'_>) -> [u8; CARD_BYTES] {
        let mut card = [0; CARD_BYTES];
        let mut rest = card.as_mut_slice();
        let mut put = |part: &[u8]| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(part.len());
            now.copy_from_slice(part);
            rest = later;
        };
        put(&self.tag);
        put(&self.fingerprint);
        put(&self.credentials);
        put(&self.key.unwrap_or_default());
        put(&self.order.unwrap_or_default().to_le_bytes());
        put(&self.user.unwrap_or_default().to_le_bytes());
        put(&self.request_bytes.to_le_bytes());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        put(&[flag(self.key.is_some(), HAS_KEY)
            | flag(self.order.is_some(), HAS_ORDER)
            | flag(self.user.is_some(), HAS_USER)
            | flag(self.idempotent, IDEMPOTENT)
            | flag(self.preview, PREVIEW)]);
        let sum = sum(&card[..SUM_AT], bound);
        card[SUM_AT..].copy_from_slice(&sum);
        card
    }

    /// None: it is not as it was written, or it is another job's.
    pub(super) fn decode(card: &[u8], bound: Bound<'_>) -> Option<Self> {
        let card: &[u8; CARD_BYTES] = card.try_into().ok()?;
        if sum(&card[..SUM_AT], bound) != card[SUM_AT..] {
            return None;
        }
        let mut rest = card.as_slice();
        let tag = array(&mut rest)?;
        let fingerprint = array(&mut rest)?;
        let credentials = array(&mut rest)?;
        let key = array(&mut rest)?;
        let order = u64::from_le_bytes(array(&mut rest)?);
        let user = u64::from_le_bytes(array(&mut rest)?);
        let request_bytes = u64::from_le_bytes(array(&mut rest)?);
        let [flags] = array(&mut rest)?;
        let has = |flag| flags & flag != 0;
        Some(Self {
            tag,
            fingerprint,
            credentials,
            key: has(HAS_KEY).then_some(key),
            order: has(HAS_ORDER).then_some(order),
            user: has(HAS_USER).then_some(user),
            request_bytes,
            idempotent: has(IDEMPOTENT),
            preview: has(PREVIEW),
        })
    }
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (now, later) = rest.split_first_chunk()?;
    *rest = later;
    Some(*now)
}

fn sum(fields: &[u8], bound: Bound<'_>) -> Sum {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&bound.id.to_le_bytes());
    head[8..].copy_from_slice(&bound.created_ms.to_le_bytes());
    let mut hasher = Hasher::new();
    hasher.update(&head);
    hasher.update(fields);
    hasher.update(bound.route);
    hasher.finalize().to_le_bytes()
}
