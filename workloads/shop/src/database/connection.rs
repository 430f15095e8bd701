//! One connection, to either kind of database, with one way to ask it.
//!
//! Parameters are written `$1`, `$2`, …, each for the first time in that order: PostgreSQL counts them so,
//! and to SQLite they are names, which it numbers as they first appear.

use std::path::Path;
use std::sync::Arc;

use rusqlite::types::{ToSqlOutput, ValueRef};

use super::postgres::{self, Session, Use};
use super::sql::Sql;
use super::{Target, schema, sqlite};
use crate::release::Release;

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server cannot be reached, or the connection broke before anything was committed: nothing was done.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// The connection broke while committing: nobody knows whether it counts.
    #[error("the connection to the database was lost while committing: {0}")]
    Unknown(String),
    /// SQLite failed or stayed locked.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL refused.
    #[error("PostgreSQL: {}", described(.0))]
    Postgres(#[source] tokio_postgres::Error),
    /// The system gives no runtime to wait for a server with.
    #[error("cannot start a database thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// What the server said; without it the crate's own words.
fn described(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned())
}

impl Error {
    /// Whether the database was busy or away and nothing was done, so that asking again is safe.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Unknown(_) | Self::Thread(_) => false,
            Self::Sqlite(error) => sqlite::is_busy(error),
            Self::Postgres(error) => postgres::is_busy(error),
        }
    }
}

/// A value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Int(i64),
    Text(&'a str),
    Null,
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Null => ValueRef::Null,
        }))
    }
}

/// A row of an answer; columns are counted from 0.
pub(crate) enum Row<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

impl Row<'_> {
    pub(crate) fn int(&self, column: usize) -> Result<i64, Error> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => row.try_get(column).map_err(Error::Postgres),
        }
    }

    pub(crate) fn int_or_null(&self, column: usize) -> Result<Option<i64>, Error> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => row.try_get(column).map_err(Error::Postgres),
        }
    }

    pub(crate) fn text(&self, column: usize) -> Result<String, Error> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => row.try_get(column).map_err(Error::Postgres),
        }
    }

    pub(crate) fn text_or_null(&self, column: usize) -> Result<Option<String>, Error> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => row.try_get(column).map_err(Error::Postgres),
        }
    }
}

/// A connection, and the statements that are right for it.
pub(crate) struct Connection {
    link: Link,
    sql: Arc<Sql>,
}

enum Link {
    Sqlite(Box<rusqlite::Connection>),
    Postgres(Box<Session>),
}

impl Connection {
    fn sqlite(connection: rusqlite::Connection, release: Release) -> Self {
        Self { link: Link::Sqlite(Box::new(connection)), sql: Arc::new(Sql::of_sqlite(release)) }
    }

    fn postgres(session: Session, release: Release) -> Self {
        Self { link: Link::Postgres(Box::new(session)), sql: Arc::new(Sql::of_postgres(release)) }
    }

    pub(super) fn open_for_making(target: &Target, release: Release) -> Result<Self, Error> {
        Ok(match target {
            Target::Sqlite(path) => Self::sqlite(sqlite::for_making(path)?, release),
            Target::Postgres(url) => Self::postgres(Session::open(url, Use::Migrating)?, release),
        })
    }

    pub(super) fn open_for_writing(target: &Target, release: Release) -> Result<Self, Error> {
        Ok(match target {
            Target::Sqlite(path) => Self::sqlite(sqlite::for_writing(path)?, release),
            Target::Postgres(url) => Self::postgres(Session::open(url, Use::Serving)?, release),
        })
    }

    pub(super) fn open_for_reading(target: &Target, release: Release) -> Result<Self, Error> {
        Ok(match target {
            Target::Sqlite(path) => Self::sqlite(sqlite::for_reading(path)?, release),
            Target::Postgres(url) => Self::postgres(Session::open(url, Use::Serving)?, release),
        })
    }

    /// A SQLite file of its own, or none at all but memory.
    pub(super) fn open_small(file: Option<&Path>, release: Release) -> Result<Self, Error> {
        let connection = match file {
            Some(path) => sqlite::for_making(path)?,
            None => sqlite::in_memory()?,
        };
        Ok(Self::sqlite(connection, release))
    }

    /// The statements for this database and this release.
    pub(crate) fn sql(&self) -> Arc<Sql> {
        Arc::clone(&self.sql)
    }

    pub(super) fn is_postgres(&self) -> bool {
        matches!(self.link, Link::Postgres(_))
    }

    /// All rows that `sql` finds, each read by `read`.
    pub(crate) fn query<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        match &mut self.link {
            Link::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                for (index, value) in (1..).zip(values) {
                    debug_assert_eq!(
                        statement.parameter_name(index),
                        Some(format!("${index}").as_str()),
                        "{sql}"
                    );
                    statement.raw_bind_parameter(index, value)?;
                }
                let mut rows = statement.raw_query();
                let mut found = Vec::new();
                while let Some(row) = rows.next()? {
                    found.push(read(&Row::Sqlite(row))?);
                }
                Ok(found)
            }
            Link::Postgres(session) => {
                session.query(sql, values)?.iter().map(|row| read(&Row::Postgres(row))).collect()
            }
        }
    }

    /// The first row that `sql` finds.
    pub(crate) fn query_first<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        Ok(self.query(sql, values, read)?.into_iter().next())
    }

    /// Runs `sql`, which returns nothing.
    pub(crate) fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), Error> {
        self.query(sql, values, |_| Ok(())).map(drop)
    }

    /// Runs several statements without values.
    pub(crate) fn batch(&mut self, sql: &str) -> Result<(), Error> {
        match &mut self.link {
            Link::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Link::Postgres(session) => session.batch(sql),
        }
    }

    /// Runs `work` as one transaction: committed, and on disk, when it returns `Ok`; undone otherwise.
    pub(crate) fn transaction<T, E: From<Error>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin()?;
        match work(self) {
            Ok(value) => match self.commit() {
                Ok(()) => Ok(value),
                Err(error) => {
                    self.roll_back();
                    Err(error.into())
                }
            },
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    /// Begins a transaction that keeps everybody else from writing, and nobody from reading.
    pub(super) fn lock_writes(&mut self) -> Result<(), Error> {
        match &mut self.link {
            Link::Sqlite(connection) => Ok(connection.execute_batch("BEGIN EXCLUSIVE")?),
            Link::Postgres(session) => {
                session.begin()?;
                session.batch(&format!("LOCK TABLE {} IN EXCLUSIVE MODE", schema::WRITTEN_TABLES))
            }
        }
    }

    /// Ends it.
    pub(super) fn unlock_writes(&mut self) {
        self.roll_back();
    }

    fn begin(&mut self) -> Result<(), Error> {
        match &mut self.link {
            Link::Sqlite(connection) => {
                Ok(connection.prepare_cached("BEGIN IMMEDIATE")?.raw_execute().map(drop)?)
            }
            Link::Postgres(session) => session.begin(),
        }
    }

    fn commit(&mut self) -> Result<(), Error> {
        match &mut self.link {
            Link::Sqlite(connection) => Ok(connection.prepare_cached("COMMIT")?.raw_execute().map(drop)?),
            Link::Postgres(session) => session.commit(),
        }
    }

    fn roll_back(&mut self) {
        match &mut self.link {
            Link::Sqlite(connection) => {
                // Some errors end the transaction by themselves; then there is nothing left to undo.
                if !connection.is_autocommit() {
                    let _ = connection.execute_batch("ROLLBACK");
                }
            }
            Link::Postgres(session) => session.roll_back(),
        }
    }
}
