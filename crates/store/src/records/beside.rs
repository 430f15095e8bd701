//! What is recorded besides releases and their states: ledgers, schemas, and who was told of what.

use super::Records;
use crate::commit::WriteError;
use model::name::{ComponentName, ReleaseNumber};
use std::collections::BTreeMap;

/// To what a store's schema was contracted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contracted {
    /// The newest version of the release that did it.
    pub version: u32,
    /// That release.
    pub by: ReleaseNumber,
}

/// An event that nobody was told of yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untold {
    /// Counts the events of all releases.
    pub id: u64,
    /// Its release.
    pub release: ReleaseNumber,
    /// When it was recorded, in milliseconds since 1970.
    pub at_ms: u64,
    /// The name of the state afterwards.
    pub state: String,
    /// What happened.
    pub text: String,
}

impl Records {
    /// Adds what became of the requests of one moment. JSON, as the API has it.
    pub async fn add_ledger(
        &self,
        number: ReleaseNumber,
        at_ms: u64,
        point: String,
    ) -> Result<(), WriteError> {
        self.write(move |t| {
            t.execute(
                "INSERT OR REPLACE INTO ledger (release, at_ms, point) VALUES (?1, ?2, ?3)",
                (number.0, at_ms, point),
            )?;
            Ok(())
        })
        .await
    }

    /// The ledger of a release, in order.
    pub async fn ledger(&self, number: ReleaseNumber) -> Result<Vec<String>, WriteError> {
        self.writer
            .write(move |t| {
                let mut query = t.prepare("SELECT point FROM ledger WHERE release = ?1 ORDER BY at_ms")?;
                let rows = query.query_map([number.0], |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// To what each store's schema was contracted; stores that never were are left out.
    pub async fn contracted(&self) -> Result<BTreeMap<ComponentName, Contracted>, WriteError> {
        self.writer
            .write(|t| {
                let mut query = t.prepare("SELECT store, version, by FROM schemas")?;
                let rows = query.query_map([], |row| {
                    let contracted = Contracted { version: row.get(1)?, by: ReleaseNumber(row.get(2)?) };
                    Ok((row.get::<_, String>(0)?, contracted))
                })?;
                let mut found = BTreeMap::new();
                for row in rows {
                    let (store, contracted) = row?;
                    found.extend(ComponentName::new(&store).ok().map(|store| (store, contracted)));
                }
                Ok(found)
            })
            .await
    }

    /// Events that nobody was told of yet, over all releases, in the order in which they were recorded.
    pub async fn untold(&self, limit: u32) -> Result<Vec<Untold>, WriteError> {
        self.writer
            .write(move |t| {
                let mut query = t.prepare(
                    "SELECT id, release, at_ms, state, text FROM events \
                     WHERE id > (SELECT coalesce(max(value), 0) FROM meta WHERE key = 'told') \
                     ORDER BY id LIMIT ?1",
                )?;
                let rows = query.query_map([limit], |row| {
                    Ok(Untold {
                        id: row.get(0)?,
                        release: ReleaseNumber(row.get(1)?),
                        at_ms: row.get(2)?,
                        state: row.get(3)?,
                        text: row.get(4)?,
                    })
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Everybody was told of the events up to `id`, or it was given up.
    pub async fn told(&self, id: u64) -> Result<(), WriteError> {
        self.write(move |t| {
            t.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('told', ?1)", [id])?;
            Ok(())
        })
        .await
    }
}
