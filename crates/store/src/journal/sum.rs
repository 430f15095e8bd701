//! Checksums of rows: SQLite has none, and a page of a damaged disk may well look like a page.
//!
//! CRC-32 finds every error burst of up to 32 bits and all but one in four billion others. It guards against disks,
//! not against people.

use super::row::JobState;
use crc32fast::Hasher;

/// Four bytes, always of the same length in a row.
pub(super) type Sum = [u8; 4];

/// What changes when a job moves on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moving {
    pub(super) state: JobState,
    pub(super) attempts: u32,
    pub(super) changed_ms: i64,
    pub(super) due_ms: i64,
}

/// Over what changes when a job moves on. When it is due counts only while it is to be sent: an outcome leaves that as
/// it was, and nothing depends on it any longer.
pub(super) fn moving(id: i64, moving: Moving) -> Sum {
    let is_sent = matches!(moving.state, JobState::Waiting | JobState::Dispatching);
    moving_of(id, moving, is_sent.then_some(moving.due_ms))
}

/// The same in files of version 1, where it guarded less.
pub(super) fn moving_without_due(id: i64, moving: Moving) -> Sum {
    moving_of(id, moving, None)
}

fn moving_of(id: i64, moving: Moving, due_ms: Option<i64>) -> Sum {
    let mut all = [0; 21];
    all[..8].copy_from_slice(&id.to_le_bytes());
    all[8] = moving.state.code();
    all[9..13].copy_from_slice(&moving.attempts.to_le_bytes());
    all[13..].copy_from_slice(&moving.changed_ms.to_le_bytes());
    let mut hasher = Hasher::new();
    hasher.update(&all);
    if let Some(due_ms) = due_ms {
        hasher.update(&due_ms.to_le_bytes());
    }
    hasher.finalize().to_le_bytes()
}

/// Over a number with a name.
pub(super) fn number(key: &str, value: i64) -> Sum {
    let mut hasher = Hasher::new();
    hasher.update(&value.to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.finalize().to_le_bytes()
}

/// Over bytes that belong to job `id`; `what` tells those of one job apart.
pub(super) fn bytes(id: i64, what: What, bytes: &[u8]) -> Sum {
    let mut hasher = Hasher::new();
    let mut head = [0; 14];
    head[..8].copy_from_slice(&id.to_le_bytes());
    match what {
        What::Request => head[8] = 1,
        What::Response => head[8] = 2,
        What::Step { step, undo } => {
            head[8] = 3;
            head[9..11].copy_from_slice(&step.to_le_bytes());
            head[11] = u8::from(undo);
        }
    }
    hasher.update(&head);
    hasher.update(bytes);
    hasher.finalize().to_le_bytes()
}

/// What bytes are.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Request,
    Response,
    Step { step: u16, undo: bool },
}
