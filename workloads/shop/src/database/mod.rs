//! The database, SQLite or PostgreSQL: where it is, how it is opened, and the few threads that work on it.
//!
//! Several processes on one database is the normal case; nothing is kept in memory that another process
//! could change behind this one's back. What differs between the two kinds is in `connection` (how to talk
//! to them), `sql` (statements) and `schema` (tables); everything above speaks to both alike.

mod connection;
mod crew;
mod migrate;
mod postgres;
mod schema;
mod sql;
mod sqlite;

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use connection::{Connection, Error, Row, Value};
pub(crate) use crew::CallError;
pub(crate) use migrate::{MigrateError, Pace, Phase, migrate, version};
pub(crate) use schema::Version;
pub(crate) use sql::Words;

use crate::release::Release;
use crew::Crew;

/// The database's name in the data folder.
const FILE: &str = "shop.db";
/// Changes that may wait for a writer; the next one is refused with 503.
const WRITES_WAITING: usize = 128;
/// Reads that may wait for a reader; the next one is refused with 503.
const READS_WAITING: usize = 256;
/// SQLite connections that read; two keep one slow search from holding up every page.
const SQLITE_READERS: usize = 2;
/// PostgreSQL connections that read; each waits for the network and the server most of its time.
const POSTGRES_READERS: usize = 4;
/// PostgreSQL connections that write: their commits share the server's flushes to disk. SQLite has one
/// writer at a time by nature.
const POSTGRES_WRITERS: usize = 4;

/// Where the shop's data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server, as its URL. It may hold a password, so it is never shown whole.
    Postgres(String),
}

/// What is wrong with the name of a database.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    /// Neither a URL nor a folder.
    #[error(
        "no database is named; hint: --database URL or DATABASE_URL, or --data FOLDER for a SQLite file in it"
    )]
    Missing,
    /// A URL of another kind. The rest of it is not shown: it may hold a password.
    #[error(
        "the database URL begins with `{0}`; hint: sqlite:/absolute/path/shop.db or postgres://user:password@host:port/name"
    )]
    Unknown(String),
    /// A SQLite path that depends on the working directory, which a deployment may change.
    #[error("the SQLite path `{0}` is not absolute; hint: sqlite:/absolute/path/shop.db")]
    Relative(String),
}

impl Target {
    /// The database that `url` names, and without one `shop.db` in `folder`.
    pub(crate) fn find(url: Option<&str>, folder: Option<&Path>) -> Result<Self, TargetError> {
        let url = url.filter(|url| !url.is_empty());
        let Some(url) = url else {
            let folder = folder.ok_or(TargetError::Missing)?;
            return Ok(Self::Sqlite(folder.join(FILE)));
        };
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        let Some(path) = url.strip_prefix("sqlite:") else {
            let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
            return Err(TargetError::Unknown(scheme.chars().take(20).collect()));
        };
        // `sqlite:///path` is how others write the same.
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.starts_with('/') {
            Ok(Self::Sqlite(PathBuf::from(path)))
        } else {
            Err(TargetError::Relative(path.to_owned()))
        }
    }
}

impl fmt::Display for Target {
    /// The path, or the URL without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => {
                let rest = url.split_once("://").map_or("", |(_, rest)| rest);
                let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
                // Parameters may name a password too.
                write!(f, "postgres://{}", rest.split('?').next().unwrap_or(""))
            }
        }
    }
}

/// Whether opening had to make the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seeded {
    /// It was made and filled just now, by this process.
    Now,
    /// It was there.
    Before,
}

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The folder of the SQLite file cannot be made.
    #[error("cannot make the data folder `{}`", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Not a database, no permission, full disk, locked for too long, no server, no such user.
    #[error("cannot open the database `{target}`")]
    Database {
        target: Target,
        #[source]
        source: Error,
    },
    /// Its schema is one that this release cannot work on.
    #[error(
        "the database `{target}` has schema {found}, this release ({release}) works on {}; hint: {hint}",
        schema::listed(release.works_on())
    )]
    OtherSchema { target: Target, found: i64, release: Release, hint: &'static str },
    /// The release's own migration did not go through.
    #[error("cannot bring the database `{target}` to the schema of {release}")]
    Migrate {
        target: Target,
        release: Release,
        #[source]
        source: Box<MigrateError>,
    },
    /// The system gives no thread.
    #[error("cannot start a database thread")]
    Thread(#[source] std::io::Error),
}

/// The open database. Dropping it finishes what is in line, then closes it.
pub(crate) struct Database {
    writers: Crew,
    readers: Crew,
}

/// Opens the database with its threads; makes and fills it first when there is none. Any number of
/// processes may do so at the same moment: one fills it, the others wait. A release that needs more than the
/// base schema brings it about when that breaks nobody, so that the shop also runs where nobody migrates.
pub(crate) fn open(target: &Target, release: Release) -> Result<(Database, Seeded), OpenError> {
    let seeded = prepare(target, release)?;
    let failed = |source| OpenError::Database { target: target.clone(), source };
    let (writers, readers) = match target {
        Target::Sqlite(_) => (1, SQLITE_READERS),
        Target::Postgres(_) => (POSTGRES_WRITERS, POSTGRES_READERS),
    };
    let mut writing = Vec::with_capacity(writers);
    for _ in 0..writers {
        writing.push(Connection::open_for_writing(target, release).map_err(failed)?);
    }
    let mut reading = Vec::with_capacity(readers);
    for _ in 0..readers {
        reading.push(Connection::open_for_reading(target, release).map_err(failed)?);
    }
    let writers = Crew::start("shop-writer", writing, WRITES_WAITING).map_err(OpenError::Thread)?;
    let readers = Crew::start("shop-reader", reading, READS_WAITING).map_err(OpenError::Thread)?;
    Ok((Database { writers, readers }, seeded))
}

/// Makes, fills and checks the database, without the threads.
fn prepare(target: &Target, release: Release) -> Result<Seeded, OpenError> {
    let failed = |source| OpenError::Database { target: target.clone(), source };
    if let Target::Sqlite(path) = target
        && let Some(folder) = path.parent()
    {
        std::fs::create_dir_all(folder)
            .map_err(|source| OpenError::Folder { path: folder.to_owned(), source })?;
    }
    let mut connection = Connection::open_for_making(target, release).map_err(failed)?;
    let seeded = schema::create(&mut connection).map_err(failed)?;
    let found = connection.version().map_err(failed)?;
    if release.works_on().iter().any(|version| version.number() == found) {
        return Ok(seeded);
    }
    // Breaking a database that others may be using takes somebody who says so: `shop migrate expand`.
    let may_expand = seeded == Seeded::Now || !release.expansion_breaks_others();
    if found == Version::Base.number() && may_expand {
        drop(connection);
        return migrate::expand_quietly(target, release).map(|()| seeded).map_err(|source| {
            OpenError::Migrate { target: target.clone(), release, source: Box::new(source) }
        });
    }
    let hint = match Version::numbered(found) {
        Some(Version::Contracted) => "this release is from before the last `shop migrate contract`",
        Some(_) => "run `shop migrate expand` with this release first",
        None => "run the shop that made it, or name another database",
    };
    Err(OpenError::OtherSchema { target: target.clone(), found, release, hint })
}

/// Keeps everybody else from writing while it lives; reads go on. The end of the process ends it too.
pub(crate) struct WriteLock(Connection);

impl WriteLock {
    /// Waits for its turn among those who write, for a few seconds.
    pub(crate) fn take(target: &Target, release: Release) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Database { target: target.clone(), source };
        let mut connection = Connection::open_for_writing(target, release).map_err(failed)?;
        connection.lock_writes().map_err(failed)?;
        Ok(Self(connection))
    }

    /// Lets everybody write again.
    pub(crate) fn release(mut self) {
        self.0.unlock_writes();
    }
}

impl Database {
    /// One SQLite connection for everything, in memory or in `file`, made by `schema`: for the small services
    /// beside the shop.
    pub(crate) fn small(file: Option<&Path>, schema: &str) -> Result<Self, OpenError> {
        let path = file.map_or_else(|| PathBuf::from(":memory:"), Path::to_owned);
        let failed = |source| OpenError::Database { target: Target::Sqlite(path.clone()), source };
        if let Some(folder) = file.and_then(Path::parent) {
            std::fs::create_dir_all(folder)
                .map_err(|source| OpenError::Folder { path: folder.to_owned(), source })?;
        }
        let mut connection = Connection::open_small(file, Release::V1).map_err(failed)?;
        connection.batch(schema).map_err(failed)?;
        let writers =
            Crew::start("shop-writer", vec![connection], WRITES_WAITING).map_err(OpenError::Thread)?;
        let readers = writers.same();
        Ok(Self { writers, readers })
    }

    /// Runs `work` on a connection that cannot write. When the caller is gone before its turn it is skipped.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        self.readers.call(work, crew::Abandoned::Skipped).await
    }

    /// Runs `work` on a connection that writes. Once in line it is done even when the caller is dropped:
    /// whether an order counts must not depend on how long its customer listens.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        self.writers.call(work, crew::Abandoned::Done).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_by_url_or_folder() {
        let folder = Path::new("/data");
        let sqlite = |path: &str| Ok(Target::Sqlite(PathBuf::from(path)));
        let postgres = "postgres://u:p@127.0.0.1:1/shop";
        let table = [
            (None, Some(folder), sqlite("/data/shop.db")),
            (Some(""), Some(folder), sqlite("/data/shop.db")),
            (Some("sqlite:/x/y.db"), Some(folder), sqlite("/x/y.db")),
            (Some("sqlite:///x/y.db"), None, sqlite("/x/y.db")),
            (Some(postgres), None, Ok(Target::Postgres(postgres.to_owned()))),
            (None, None, Err(TargetError::Missing)),
            (Some("sqlite:y.db"), None, Err(TargetError::Relative("y.db".to_owned()))),
            (Some("mysql://u:p@h/d"), None, Err(TargetError::Unknown("mysql".to_owned()))),
        ];
        for (url, folder, expected) in table {
            assert_eq!(Target::find(url, folder), expected, "{url:?}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let table = [
            ("postgres://shop:s3cret@127.0.0.1:5432/shop", "postgres://127.0.0.1:5432/shop"),
            ("postgresql://shop:s3@cret@h/shop?password=s3cret", "postgres://h/shop"),
            ("postgres://h/shop", "postgres://h/shop"),
        ];
        for (url, shown) in table {
            assert_eq!(Target::find(Some(url), None).unwrap().to_string(), shown);
        }
    }
}
