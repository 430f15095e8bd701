//! Moving a database that is in use to the schema of a release, in two phases.
//!
//! *Expand* adds what the new release needs without taking away what the old one uses; afterwards both work
//! side by side. *Contract* takes away what only the old one needed, once it is gone. Each step looks at what
//! is there and does what is missing, so both may be stopped at any moment and run again, also twice at once.
//! No step holds a lock for longer than it takes to change the catalogue of tables or one small batch of rows.

use std::time::Duration;

use super::connection::{Connection, Error};
use super::schema::{self, Version};
use super::{OpenError, Target};
use crate::release::Release;

/// Which half of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Expand,
    Contract,
}

/// How fast rows are filled in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Rows in one transaction.
    pub(crate) batch: i64,
    /// Between two of them, for those who wait to write.
    pub(crate) pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { batch: 500, pause: Duration::from_millis(2) }
    }
}

/// Why a migration did not get to its end; what it has done so far stays, and running it again goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrateError {
    /// There is no database, and it cannot be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A step failed.
    #[error("the migration of `{target}` stopped; hint: it can be run again")]
    Step {
        target: Target,
        #[source]
        source: Error,
    },
    /// Contracting what was not expanded.
    #[error(
        "the database `{target}` has schema {found}; hint: run `shop migrate expand` with this release first"
    )]
    NotExpanded { target: Target, found: i64 },
    /// Made by something else.
    #[error("the database `{target}` has schema {found}, which this shop does not know")]
    Unknown { target: Target, found: i64 },
}

/// The number of the schema in `target`, 0 when there is none. An empty SQLite file is made when there is no
/// file; PostgreSQL databases have to be there.
pub(crate) fn version(target: &Target) -> Result<i64, OpenError> {
    if matches!(target, Target::Sqlite(path) if !path.exists()) {
        return Ok(0);
    }
    Connection::open_for_making(target, Release::V1)
        .and_then(|mut connection| connection.version())
        .map_err(|source| OpenError::Database { target: target.clone(), source })
}

/// Runs one phase of `release`'s migration; makes and fills the database first when there is none. `say` gets
/// a line for each step done. Hands back the version it ended at.
pub(crate) fn migrate(
    target: &Target,
    release: Release,
    phase: Phase,
    pace: Pace,
    say: &mut dyn FnMut(&str),
) -> Result<Version, MigrateError> {
    if let Target::Sqlite(path) = target
        && let Some(folder) = path.parent()
    {
        std::fs::create_dir_all(folder)
            .map_err(|source| OpenError::Folder { path: folder.to_owned(), source })?;
    }
    let stopped = |source| MigrateError::Step { target: target.clone(), source };
    let mut connection = Connection::open_for_making(target, release)
        .map_err(|source| OpenError::Database { target: target.clone(), source })?;
    schema::create(&mut connection).map_err(stopped)?;
    let found = connection.version().map_err(stopped)?;
    let version =
        Version::numbered(found).ok_or_else(|| MigrateError::Unknown { target: target.clone(), found })?;
    let mut steps = Steps { connection, pace, say };
    match phase {
        Phase::Expand => steps.expand(version, release).map_err(stopped),
        Phase::Contract if !release.has_currency() => Ok(version),
        Phase::Contract => match version {
            Version::Base | Version::Renamed => {
                Err(MigrateError::NotExpanded { target: target.clone(), found })
            }
            Version::Expanded => steps.contract().map_err(stopped),
            Version::Contracted => Ok(version),
        },
    }
}

/// For a release that starts on a database nobody has migrated.
pub(super) fn expand_quietly(target: &Target, release: Release) -> Result<(), MigrateError> {
    migrate(target, release, Phase::Expand, Pace::default(), &mut |_| {}).map(drop)
}

struct Steps<'a> {
    connection: Connection,
    pace: Pace,
    say: &'a mut dyn FnMut(&str),
}

impl Steps<'_> {
    fn expand(&mut self, found: Version, release: Release) -> Result<Version, Error> {
        let mut version = found;
        if version == Version::Renamed && !release.renames_price() {
            version = self.name_price_back()?;
        }
        if release.has_currency() && version == Version::Base {
            self.add_currency()?;
            self.fill_currency()?;
            version = self.expanded()?;
        }
        if release.renames_price() && version != Version::Renamed {
            version = self.rename_price()?;
        }
        Ok(version)
    }

    /// The column, and in the same transaction the trigger that fills it in for writers that do not know it:
    /// no row slips in between. Adding a column that may be empty rewrites no row in either database.
    fn add_currency(&mut self) -> Result<(), Error> {
        self.patiently(|connection| {
            // Somebody else may have been through all of it since this process looked.
            if connection.version()? != Version::Base.number() {
                return Ok(());
            }
            if !connection.has_column("orders", "currency")? {
                connection.batch("ALTER TABLE orders ADD COLUMN currency TEXT")?;
            }
            connection.batch(if connection.is_postgres() { FILL_IN_POSTGRES } else { FILL_IN_SQLITE })
        })?;
        (self.say)("orders have a currency");
        Ok(())
    }

    /// Orders from before the trigger, a batch at a time and in the order of their numbers.
    fn fill_currency(&mut self) -> Result<(), Error> {
        let sql = "UPDATE orders SET currency = 'EUR' WHERE id IN
                   (SELECT id FROM orders WHERE id > $1 AND currency IS NULL ORDER BY id LIMIT $2) RETURNING id";
        let mut last = 0;
        loop {
            let batch = self.pace.batch;
            let filled = self.patiently(|connection| {
                connection.query(sql, &[last.into(), batch.into()], |row| row.int(0))
            })?;
            let Some(highest) = filled.iter().copied().max() else { return Ok(()) };
            last = highest;
            (self.say)(&format!("orders up to {last} have their currency"));
            std::thread::sleep(self.pace.pause);
        }
    }

    /// From here on a writer that leaves out the currency is refused, and nobody fills it in.
    fn contract(&mut self) -> Result<Version, Error> {
        if self.connection.is_postgres() {
            // A check that is not yet valid for old rows costs no look at them; validating it later locks
            // nobody out; and with a valid check NOT NULL needs no look at the rows either.
            self.unless_contracted(|connection| connection.batch(REFUSE_IN_POSTGRES))?;
            self.fill_currency()?;
            self.unless_contracted(|connection| {
                connection.batch("ALTER TABLE orders VALIDATE CONSTRAINT orders_have_a_currency")
            })?;
            self.unless_contracted(|connection| {
                connection.batch(
                    "ALTER TABLE orders ALTER COLUMN currency SET NOT NULL;
                     ALTER TABLE orders DROP CONSTRAINT orders_have_a_currency",
                )?;
                connection.set_version(Version::Contracted)
            })?;
        } else {
            // SQLite cannot add NOT NULL to a column without copying the table, so a trigger refuses.
            self.unless_contracted(|connection| connection.batch(REFUSE_IN_SQLITE))?;
            self.fill_currency()?;
            self.unless_contracted(|connection| connection.set_version(Version::Contracted))?;
        }
        (self.say)("orders must have a currency");
        Ok(Version::Contracted)
    }

    fn rename_price(&mut self) -> Result<Version, Error> {
        self.patiently(|connection| {
            if !connection.has_column("products", "amount")? {
                connection.batch("ALTER TABLE products RENAME COLUMN price TO amount")?;
            }
            connection.set_version(Version::Renamed)
        })?;
        (self.say)("the price of products is called amount");
        Ok(Version::Renamed)
    }

    /// The way out for a database on which `v3-broken-schema` was tried.
    fn name_price_back(&mut self) -> Result<Version, Error> {
        let version = self.patiently(|connection| {
            if connection.has_column("products", "amount")? {
                connection.batch("ALTER TABLE products RENAME COLUMN amount TO price")?;
            }
            let sql = if connection.is_postgres() {
                "SELECT count(*) FROM information_schema.columns WHERE table_schema = current_schema()
                 AND table_name = 'orders' AND column_name = 'currency' AND is_nullable = 'NO'"
            } else {
                "SELECT count(*) FROM sqlite_schema WHERE name = 'orders_refuse_no_currency'"
            };
            let refusing = connection.query_first(sql, &[], |row| row.int(0))? == Some(1);
            let version = if refusing { Version::Contracted } else { Version::Expanded };
            connection.set_version(version)?;
            Ok(version)
        })?;
        (self.say)("the price of products is called price again");
        Ok(version)
    }

    /// What another process has reached meanwhile stays.
    fn expanded(&mut self) -> Result<Version, Error> {
        self.patiently(|connection| {
            let found = Version::numbered(connection.version()?);
            if let Some(further) = found.filter(|found| *found != Version::Base) {
                return Ok(further);
            }
            connection.set_version(Version::Expanded)?;
            Ok(Version::Expanded)
        })
    }

    /// A step of contracting, which another process may have got to the end of.
    fn unless_contracted(
        &mut self,
        mut step: impl FnMut(&mut Connection) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.patiently(|connection| {
            if connection.version()? == Version::Contracted.number() { Ok(()) } else { step(connection) }
        })
    }

    fn patiently<T>(&mut self, step: impl FnMut(&mut Connection) -> Result<T, Error>) -> Result<T, Error> {
        schema::one_at_a_time(&mut self.connection, step)
    }
}

const FILL_IN_SQLITE: &str = "
CREATE TRIGGER IF NOT EXISTS orders_fill_in_currency AFTER INSERT ON orders WHEN NEW.currency IS NULL BEGIN
    UPDATE orders SET currency = 'EUR' WHERE id = NEW.id;
END;
";

const FILL_IN_POSTGRES: &str = "
CREATE OR REPLACE FUNCTION fill_in_currency() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.currency := coalesce(NEW.currency, 'EUR'); RETURN NEW; END $$;
DROP TRIGGER IF EXISTS orders_fill_in_currency ON orders;
CREATE TRIGGER orders_fill_in_currency BEFORE INSERT ON orders
    FOR EACH ROW EXECUTE FUNCTION fill_in_currency();
";

const REFUSE_IN_SQLITE: &str = "
CREATE TRIGGER IF NOT EXISTS orders_refuse_no_currency BEFORE INSERT ON orders WHEN NEW.currency IS NULL BEGIN
    SELECT RAISE(ABORT, 'an order has a currency');
END;
DROP TRIGGER IF EXISTS orders_fill_in_currency;
";

const REFUSE_IN_POSTGRES: &str = "
DROP TRIGGER IF EXISTS orders_fill_in_currency ON orders;
ALTER TABLE orders DROP CONSTRAINT IF EXISTS orders_have_a_currency;
ALTER TABLE orders ADD CONSTRAINT orders_have_a_currency CHECK (currency IS NOT NULL) NOT VALID;
";
