//! What the small services beside the shop keep: records with a reference, that may be undone once and for
//! all, in a SQLite database of their own.

use serde_json::Value;

use crate::database::{Connection, Error, Row};

/// The most records one reference finds.
const FOUND_LIMIT: i64 = 1_000;

/// Made again at every start; what is there stays.
pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS records (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    ref             TEXT NOT NULL,
    body            TEXT NOT NULL,
    undone          INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT UNIQUE
) STRICT;
CREATE INDEX IF NOT EXISTS records_by_ref ON records (ref);
CREATE INDEX IF NOT EXISTS records_by_customers_ref ON records (json_extract(body, '$.ref'));
";

/// A record as it is kept.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: i64,
    /// JSON of the service's own.
    pub(crate) body: String,
    pub(crate) undone: bool,
}

impl Record {
    fn from_row(row: &Row<'_>) -> Result<Self, Error> {
        Ok(Self { id: row.int(0)?, body: row.text(1)?, undone: row.int(2)? != 0 })
    }

    /// The body with the record's number and, as `undone_name`, whether it is undone.
    pub(crate) fn shown(&self, undone_name: &str) -> Value {
        let mut value: Value = serde_json::from_str(&self.body).unwrap_or(Value::Null);
        if let Some(object) = value.as_object_mut() {
            object.insert("id".to_owned(), self.id.into());
            object.insert(undone_name.to_owned(), self.undone.into());
        }
        value
    }
}

/// What became of a record that was asked for.
#[derive(Debug)]
pub(crate) enum Added {
    New(Record),
    /// The same was added before under the same key.
    Before(Record),
    /// Something else was.
    KeyReused,
}

/// Adds a record, on disk when this returns.
pub(crate) fn add(
    connection: &mut Connection,
    reference: &str,
    body: &str,
    key: Option<&str>,
) -> Result<Added, Error> {
    connection.transaction(|transaction| {
        if let Some(key) = key {
            let sql = "SELECT id, body, undone FROM records WHERE idempotency_key = $1";
            if let Some(record) = transaction.query_first(sql, &[key.into()], Record::from_row)? {
                return Ok(if record.body == body { Added::Before(record) } else { Added::KeyReused });
            }
        }
        let sql = "INSERT INTO records (ref, body, idempotency_key) VALUES ($1, $2, $3) RETURNING id";
        let values = [reference.into(), body.into(), key.into()];
        let id = transaction.query_first(sql, &values, |row| row.int(0))?.unwrap_or_default();
        Ok(Added::New(Record { id, body: body.to_owned(), undone: false }))
    })
}

/// Undoes a record, which may be undone already; `None` when there is none with this number.
pub(crate) fn undo(connection: &mut Connection, id: i64) -> Result<Option<Record>, Error> {
    connection.transaction(|transaction| {
        let sql = "UPDATE records SET undone = 1 WHERE id = $1 RETURNING id, body, undone";
        transaction.query_first(sql, &[id.into()], Record::from_row)
    })
}

/// The records with this reference, oldest first, at most `FOUND_LIMIT` of them.
pub(crate) fn by_reference(connection: &mut Connection, reference: &str) -> Result<Vec<Record>, Error> {
    let sql = "SELECT id, body, undone FROM records WHERE ref = $1 ORDER BY id LIMIT $2";
    connection.query(sql, &[reference.into(), FOUND_LIMIT.into()], Record::from_row)
}

/// The same for the reference that a customer gave, where `ref` is another one.
pub(crate) fn by_customers_reference(
    connection: &mut Connection,
    reference: &str,
) -> Result<Vec<Record>, Error> {
    let sql =
        "SELECT id, body, undone FROM records WHERE json_extract(body, '$.ref') = $1 ORDER BY id LIMIT $2";
    connection.query(sql, &[reference.into(), FOUND_LIMIT.into()], Record::from_row)
}

/// Whether the database answers.
pub(crate) fn check(connection: &mut Connection) -> Result<(), Error> {
    connection.query("SELECT 1 FROM records LIMIT 1", &[], |_| Ok(())).map(drop)
}
