//! How requests, answers and steps of sagas are written down.
//!
//! Each record begins with its version. What is short and grows over time is JSON, to which later versions add;
//! fields and bodies are bytes as they came, so that reading them copies nothing.

use crate::job::{Answer, Fields};
use crate::submission::Traffic;
use bytes::{BufMut as _, Bytes, BytesMut};
use model::flow::Method;
use model::queue::{QueuedRoute, Saga};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The newest version of each kind of record that this program writes and reads.
const VERSION: u8 = 1;

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// Written by a newer mainstay.
    #[error("its record has version {0}, which this mainstay does not know")]
    Newer(u8),
    /// Cut off, or not what it should be.
    #[error("its record is malformed: {0}")]
    Malformed(String),
}

/// A request as it is kept: all that its delivery needs, whatever release serves by then.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredRequest {
    pub(crate) head: Head,
    pub(crate) settings: Arc<QueuedRoute>,
    pub(crate) saga: Option<Arc<Saga>>,
    pub(crate) fields: Fields,
    pub(crate) body: Bytes,
}

/// The short part of a [`StoredRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) target: String,
    /// The key that it is sent with.
    pub(crate) key: String,
    /// Whether the client gave it.
    #[serde(default)]
    pub(crate) given: bool,
    #[serde(default)]
    pub(crate) user: Option<u64>,
    /// From when its age counts, in Unix milliseconds.
    #[serde(default)]
    pub(crate) from_ms: i64,
    /// What the keys of its saga's calls are made from, drawn for this job alone. None: its own key, which was drawn as
    /// well, or is that of a job of before there was this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<String>,
    /// How often its saga was begun afresh: each time its steps have other keys.
    #[serde(default)]
    pub(crate) generation: u32,
    #[serde(default, skip_serializing_if = "Traffic::is_users")]
    pub(crate) traffic: Traffic,
}

impl StoredRequest {
    /// `settings` and `saga` are handed in encoded, because all requests of a route share them:
    /// [`encode_settings`], [`encode_saga`].
    pub(crate) fn encode(&self, settings: &[u8], saga: &[u8]) -> Bytes {
        let head = serde_json::to_vec(&self.head).expect("a head is texts and numbers");
        let fields: usize = self.fields.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
        let size = 32 + head.len() + settings.len() + saga.len() + fields + self.body.len();
        let mut out = BytesMut::with_capacity(size);
        out.put_u8(VERSION);
        put_part(&mut out, &head);
        put_part(&mut out, settings);
        put_part(&mut out, saga);
        put_fields(&mut out, &self.fields);
        out.put_slice(&self.body);
        out.freeze()
    }

    pub(crate) fn decode(record: Bytes) -> Result<Self, CodecError> {
        let mut rest = versioned(record)?;
        let head = json(&take_part(&mut rest)?)?;
        let settings = Arc::new(json(&take_part(&mut rest)?)?);
        let saga = take_part(&mut rest)?;
        let saga = if saga.is_empty() { None } else { Some(Arc::new(json(&saga)?)) };
        let fields = take_fields(&mut rest)?;
        Ok(Self { head, settings, saga, fields, body: rest })
    }

    /// Encodes it with settings and saga of its own.
    pub(crate) fn encode_alone(&self) -> Bytes {
        let saga = self.saga.as_deref().map_or_else(Bytes::new, encode_saga);
        self.encode(&encode_settings(&self.settings), &saga)
    }
}

/// The settings of a route without what is as usual: a job carries them, so each byte of them costs a million at a
/// million jobs.
pub(crate) fn encode_settings(settings: &QueuedRoute) -> Bytes {
    let table = |settings: &QueuedRoute| match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(table)) => table,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let usual = table(&QueuedRoute::default());
    let mut own = table(settings);
    own.retain(|key, value| usual.get(key) != Some(value));
    serde_json::to_vec(&own).expect("JSON values are JSON").into()
}

/// A saga as a job carries it.
pub(crate) fn encode_saga(saga: &Saga) -> Bytes {
    serde_json::to_vec(saga).expect("a saga is texts, numbers and lists").into()
}

impl Answer {
    pub(crate) fn encode(&self) -> Bytes {
        let fields: usize = self.fields.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
        let mut out = BytesMut::with_capacity(16 + fields + self.body.len());
        out.put_u8(VERSION);
        out.put_u16(self.status);
        out.put_u8(u8::from(self.truncated));
        put_fields(&mut out, &self.fields);
        out.put_slice(&self.body);
        out.freeze()
    }

    pub(crate) fn decode(record: Bytes) -> Result<Self, CodecError> {
        let mut rest = versioned(record)?;
        let head = take(&mut rest, 3)?;
        let status = u16::from_be_bytes([head[0], head[1]]);
        let fields = take_fields(&mut rest)?;
        Ok(Self { status, fields, body: rest, truncated: head[2] != 0 })
    }
}

/// What is known of one call of a saga, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredStep {
    pub(crate) head: StepHead,
    pub(crate) answer: Option<Answer>,
}

/// The short part of a [`StoredStep`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepHead {
    pub(crate) state: crate::saga::CallState,
    /// The run of the saga that this is of.
    #[serde(default)]
    pub(crate) generation: u32,
    /// Attempts that were begun.
    #[serde(default)]
    pub(crate) attempts: u32,
    /// Those of them that use none up.
    #[serde(default)]
    pub(crate) excused: u32,
    /// Whether one of them may have happened although it was not answered so.
    #[serde(default)]
    pub(crate) doubt: bool,
    /// When the last one ended that may have happened, in Unix milliseconds.
    #[serde(default)]
    pub(crate) doubt_ms: i64,
    /// What last went wrong.
    #[serde(default)]
    pub(crate) why: String,
}

impl StoredStep {
    pub(crate) fn encode(&self) -> Bytes {
        let head = serde_json::to_vec(&self.head).expect("a head is texts and numbers");
        let answer = self.answer.as_ref().map_or_else(Bytes::new, Answer::encode);
        let mut out = BytesMut::with_capacity(8 + head.len() + answer.len());
        out.put_u8(VERSION);
        put_part(&mut out, &head);
        out.put_slice(&answer);
        out.freeze()
    }

    pub(crate) fn decode(record: Bytes) -> Result<Self, CodecError> {
        let mut rest = versioned(record)?;
        let head = json(&take_part(&mut rest)?)?;
        let answer = if rest.is_empty() { None } else { Some(Answer::decode(rest)?) };
        Ok(Self { head, answer })
    }
}

fn put_part(out: &mut BytesMut, part: &[u8]) {
    // Parts are held in memory by limits far below 4 GiB.
    out.put_u32(part.len() as u32);
    out.put_slice(part);
}

fn put_fields(out: &mut BytesMut, fields: &Fields) {
    out.put_u32(fields.len() as u32);
    for (name, value) in fields {
        put_part(out, name);
        put_part(out, value);
    }
}

fn versioned(mut record: Bytes) -> Result<Bytes, CodecError> {
    match take(&mut record, 1)?[0] {
        VERSION => Ok(record),
        0 => Err(CodecError::Malformed("version 0".into())),
        newer => Err(CodecError::Newer(newer)),
    }
}

fn take(rest: &mut Bytes, size: usize) -> Result<Bytes, CodecError> {
    if rest.len() < size {
        return Err(CodecError::Malformed(format!("{size} bytes are wanted, {} are left", rest.len())));
    }
    Ok(rest.split_to(size))
}

fn take_number(rest: &mut Bytes) -> Result<usize, CodecError> {
    let number = take(rest, 4)?;
    Ok(u32::from_be_bytes([number[0], number[1], number[2], number[3]]) as usize)
}

fn take_part(rest: &mut Bytes) -> Result<Bytes, CodecError> {
    let size = take_number(rest)?;
    take(rest, size)
}

fn take_fields(rest: &mut Bytes) -> Result<Fields, CodecError> {
    let count = take_number(rest)?;
    // Each takes 8 bytes at least, so a wrong count cannot ask for more memory than there are bytes.
    let mut fields = Vec::with_capacity(count.min(rest.len() / 8));
    for _ in 0..count {
        fields.push((take_part(rest)?, take_part(rest)?));
    }
    Ok(fields)
}

fn json<T: serde::de::DeserializeOwned>(part: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(part).map_err(|e| CodecError::Malformed(e.to_string()))
}

#[cfg(test)]
mod tests;
