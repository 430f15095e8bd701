//! The agent's records, `control.db`: releases and what happened to them.
//!
//! | table | holds | written |
//! | --- | --- | --- |
//! | `meta` | the newest fence token | once by every agent, at its start |
//! | `releases` | what was asked for, what it resolved to, its state, what was measured | with every transition |
//! | `events` | one line for each transition, for people, and the numbers that made a decision | with every transition |
//! | `ledger` | what became of the requests of a moment of a release | about once a second while one is under way |
//! | `schemas` | the version to which a store's schema was last contracted, and by which release | after a hook |
//!
//! A transition writes the state and its event in one transaction: there is no state without its story.
//! What was asked for, what it resolved to and the state are JSON with a version of their own
//! ([`RECORD_VERSION`]).

mod beside;
mod schema;

pub use beside::{Contracted, Untold};

use crate::commit::{self, OpenError, WriteError, Writer};
use model::artifact::Release;
use model::machine::State;
use model::name::{ComponentName, FenceToken, ReleaseNumber, StampId};
use rusqlite::{OptionalExtension, Row, Transaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::Path;

/// The version of the tables.
pub const SCHEMA_VERSION: u32 = 2;
/// The version of what stands in them as JSON.
pub const RECORD_VERSION: u32 = 1;

/// The records of one environment, opened by the one agent whose token is the newest.
#[derive(Debug, Clone)]
pub struct Records {
    writer: Writer,
    fence: FenceToken,
}

/// A release as recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseRecord {
    /// Its number.
    pub number: ReleaseNumber,
    /// Its name.
    pub name: String,
    /// When it was asked for, in milliseconds since 1970.
    pub created_ms: u64,
    /// The stamp that served when it began.
    pub old: Option<StampId>,
    /// What was asked for, as the agent's API had it. JSON; its version is the API's.
    pub request: String,
    /// What it resolved to, once it has.
    pub release: Option<Release>,
    /// Where it is.
    pub state: State,
    /// When it came there, in milliseconds since 1970.
    pub state_since_ms: u64,
    /// From the decision to switch to the last dispatch on the old stamp, in nanoseconds.
    pub switch_ns: Option<u64>,
    /// From the decision to take it back to the last dispatch on its stamp, in nanoseconds.
    pub rollback_ns: Option<u64>,
    /// The same, when that was rehearsed.
    pub rehearsal_ns: Option<u64>,
}

/// One line of the story of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// Counts the events of a release, from 1.
    pub seq: u64,
    /// When it was recorded, in milliseconds since 1970.
    pub at_ms: u64,
    /// The name of the state afterwards.
    pub state: String,
    /// What happened.
    pub text: String,
    /// The numbers that made a decision, as the API has them. JSON.
    pub decision: Option<String>,
}

/// What a transition changes besides the state.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// What the release resolved to.
    pub release: Option<Release>,
    /// See [`ReleaseRecord::switch_ns`].
    pub switch_ns: Option<u64>,
    /// See [`ReleaseRecord::rollback_ns`].
    pub rollback_ns: Option<u64>,
    /// See [`ReleaseRecord::rehearsal_ns`].
    pub rehearsal_ns: Option<u64>,
    /// See [`EventRecord::decision`].
    pub decision: Option<String>,
    /// Stores whose schema was contracted, and to what version.
    pub contracted: Vec<(ComponentName, u32)>,
}

/// JSON as recorded, with its version in front.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u32,
    it: T,
}

fn encode<T: Serialize>(it: &T) -> String {
    serde_json::to_string(&Versioned { v: RECORD_VERSION, it })
        .expect("records have string keys and finite numbers")
}

fn decode<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    let text_column = rusqlite::types::Type::Text;
    let broken =
        |e: serde_json::Error| rusqlite::Error::FromSqlConversionFailure(0, text_column, Box::new(e));
    // The version is read first: a newer record may have another shape.
    let version: Version = serde_json::from_str(text).map_err(broken)?;
    if version.v > RECORD_VERSION {
        let newer = format!("a record of version {}, this mainstay knows {RECORD_VERSION}", version.v);
        return Err(rusqlite::Error::FromSqlConversionFailure(0, text_column, newer.into()));
    }
    serde_json::from_str::<Versioned<T>>(text).map(|record| record.it).map_err(broken)
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl Records {
    /// Opens or creates `control.db` and takes the next fence token. The caller holds the agent's lock.
    pub async fn open(path: &Path) -> Result<Self, RecordsError> {
        let writer = commit::open(path, SCHEMA_VERSION, schema::migrate)?;
        let fence = writer
            .write(|t| {
                let next = newest_fence(t)? + 1;
                t.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('fence', ?1)", [next])?;
                Ok(next)
            })
            .await?;
        Ok(Self { writer, fence: FenceToken(fence) })
    }

    /// The token of this agent.
    pub fn fence(&self) -> FenceToken {
        self.fence
    }

    /// Adds a release in its first state. Its number is one above the last.
    pub async fn create_release(
        &self,
        name: Option<String>,
        old: Option<StampId>,
        request: String,
        at_ms: u64,
    ) -> Result<ReleaseRecord, WriteError> {
        self.write(move |t| {
            let number: u64 =
                t.query_row("SELECT coalesce(max(number), 0) + 1 FROM releases", [], |row| row.get(0))?;
            let number = ReleaseNumber(number);
            let name = name.unwrap_or_else(|| number.to_string());
            let state = State::Planned;
            t.execute(
                "INSERT INTO releases (number, name, created_ms, old, request, state, state_since_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?3)",
                (number.0, &name, at_ms, old.map(|s| s.0), &request, encode(&state)),
            )?;
            add_event(t, number, at_ms, &state, "asked for", None)?;
            Ok(ReleaseRecord {
                number,
                name,
                created_ms: at_ms,
                old,
                request,
                release: None,
                state,
                state_since_ms: at_ms,
                switch_ns: None,
                rollback_ns: None,
                rehearsal_ns: None,
            })
        })
        .await
    }

    /// Records that a release came to `state`, with what was found and the story in `text`.
    pub async fn transition(
        &self,
        number: ReleaseNumber,
        state: State,
        findings: Findings,
        text: String,
        at_ms: u64,
    ) -> Result<(), WriteError> {
        self.write(move |t| {
            t.execute(
                "UPDATE releases SET state = ?2, state_since_ms = ?3, release = coalesce(?4, release), \
                 switch_ns = coalesce(?5, switch_ns), rollback_ns = coalesce(?6, rollback_ns), \
                 rehearsal_ns = coalesce(?7, rehearsal_ns) WHERE number = ?1",
                (
                    number.0,
                    encode(&state),
                    at_ms,
                    findings.release.as_ref().map(encode),
                    findings.switch_ns,
                    findings.rollback_ns,
                    findings.rehearsal_ns,
                ),
            )?;
            for (store, version) in &findings.contracted {
                t.execute(
                    "INSERT OR REPLACE INTO schemas (store, version, by) VALUES (?1, ?2, ?3)",
                    (store.as_str(), version, number.0),
                )?;
            }
            add_event(t, number, at_ms, &state, &text, findings.decision.as_deref())
        })
        .await
    }

    /// Adds a line to the story of a release without changing its state.
    pub async fn note(
        &self,
        number: ReleaseNumber,
        text: String,
        decision: Option<String>,
        at_ms: u64,
    ) -> Result<(), WriteError> {
        self.write(move |t| {
            let state: String =
                t.query_row("SELECT state FROM releases WHERE number = ?1", [number.0], |row| row.get(0))?;
            add_event(t, number, at_ms, &decode(&state)?, &text, decision.as_deref())
        })
        .await
    }

    /// The last `limit` releases, newest first.
    pub async fn latest(&self, limit: u32) -> Result<Vec<ReleaseRecord>, WriteError> {
        self.writer
            .write(move |t| {
                let mut query = t.prepare(&format!("{SELECT_RELEASE} ORDER BY number DESC LIMIT ?1"))?;
                let rows = query.query_map([limit], read_release)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// One release.
    pub async fn release(&self, number: ReleaseNumber) -> Result<Option<ReleaseRecord>, WriteError> {
        self.writer
            .write(move |t| {
                let one = format!("{SELECT_RELEASE} WHERE number = ?1");
                Ok(t.query_row(&one, [number.0], read_release).optional()?)
            })
            .await
    }

    /// The events of a release after `after`, in order.
    pub async fn events(&self, number: ReleaseNumber, after: u64) -> Result<Vec<EventRecord>, WriteError> {
        self.writer
            .write(move |t| {
                let mut query = t.prepare(
                    "SELECT seq, at_ms, state, text, decision FROM events WHERE release = ?1 AND seq > ?2 ORDER BY seq",
                )?;
                let rows = query.query_map([number.0, after], |row| {
                    Ok(EventRecord {
                        seq: row.get(0)?,
                        at_ms: row.get(1)?,
                        state: row.get(2)?,
                        text: row.get(3)?,
                        decision: row.get(4)?,
                    })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Every change goes through here: an agent that was overtaken changes nothing.
    async fn write<T, F>(&self, work: F) -> Result<T, WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, WriteError> + Send + 'static,
    {
        let ours = self.fence.0;
        self.writer
            .write(move |t| {
                let newest = newest_fence(t)?;
                if newest != ours {
                    return Err(WriteError::Fenced { newest, ours });
                }
                work(t)
            })
            .await
    }
}

/// Why records could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The file could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The fence token could not be taken.
    #[error("cannot take the next fence token")]
    Fence(#[from] WriteError),
}

const SELECT_RELEASE: &str = "SELECT number, name, created_ms, old, request, release, state, state_since_ms, \
     switch_ns, rollback_ns, rehearsal_ns FROM releases";

fn read_release(row: &Row<'_>) -> rusqlite::Result<ReleaseRecord> {
    Ok(ReleaseRecord {
        number: ReleaseNumber(row.get(0)?),
        name: row.get(1)?,
        created_ms: row.get(2)?,
        old: row.get::<_, Option<u64>>(3)?.map(StampId),
        request: row.get(4)?,
        release: row.get::<_, Option<String>>(5)?.map(|text| decode(&text)).transpose()?,
        state: decode(&row.get::<_, String>(6)?)?,
        state_since_ms: row.get(7)?,
        switch_ns: row.get(8)?,
        rollback_ns: row.get(9)?,
        rehearsal_ns: row.get(10)?,
    })
}

fn newest_fence(t: &Transaction<'_>) -> rusqlite::Result<u64> {
    let found = t.query_row("SELECT value FROM meta WHERE key = 'fence'", [], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or(0))
}

fn add_event(
    t: &Transaction<'_>,
    number: ReleaseNumber,
    at_ms: u64,
    state: &State,
    text: &str,
    decision: Option<&str>,
) -> Result<(), WriteError> {
    t.execute(
        "INSERT INTO events (release, seq, at_ms, state, text, decision) VALUES \
         (?1, (SELECT coalesce(max(seq), 0) + 1 FROM events WHERE release = ?1), ?2, ?3, ?4, ?5)",
        (number.0, at_ms, state.name(), text, decision),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests;
