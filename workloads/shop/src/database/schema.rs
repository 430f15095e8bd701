//! The tables, in both kinds of database, and the versions they go through.
//!
//! `products.id` is the place in the catalogue, from 1 and without gaps: products are never taken out.
//! `orders.ref` is the customer's own reference and deliberately not unique: an order that was taken twice must
//! be visible as two. A cancelled order keeps its row, so that its key cannot bring it back to life. `mails`
//! gets its row in the transaction that takes the order, so no order is without.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::Seeded;
use super::connection::{Connection, Error};
use crate::shoes;

/// What a schema is like; kept in the database as its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// What `v1` makes.
    Base,
    /// Orders have a `currency`, filled in for whoever leaves it out.
    Expanded,
    /// Nobody may leave out the currency any more.
    Contracted,
    /// As one of the two before, but `products.price` is called `amount`.
    Renamed,
}

impl Version {
    const ALL: [Self; 4] = [Self::Base, Self::Expanded, Self::Contracted, Self::Renamed];

    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Base => 1,
            Self::Expanded => 2,
            Self::Contracted => 3,
            Self::Renamed => 4,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Expanded => "expanded",
            Self::Contracted => "contracted",
            Self::Renamed => "renamed",
        }
    }

    pub(crate) fn numbered(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.number() == number)
    }
}

/// The tables that anybody writes to once the database is made, as PostgreSQL lists them.
pub(super) const WRITTEN_TABLES: &str = "products, orders, order_items, mails";

/// As in `2 (expanded), 3 (contracted)`.
pub(super) fn listed(versions: &[Version]) -> String {
    let words: Vec<String> =
        versions.iter().map(|version| format!("{} ({})", version.number(), version.name())).collect();
    words.join(", ")
}

/// `product_words` is a full-text index (FTS5) over `products` that stores no text of its own. The shop never
/// changes a product's words, so no trigger keeps it up to date.
const SQLITE: &str = "
CREATE TABLE products (
    id          INTEGER PRIMARY KEY,
    sku         TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    brand       TEXT NOT NULL,
    price       INTEGER NOT NULL CHECK (price >= 0),
    description TEXT NOT NULL,
    stock       INTEGER NOT NULL CHECK (stock >= 0)
) STRICT;
CREATE VIRTUAL TABLE product_words USING fts5(name, brand, description, content='products', content_rowid='id');
CREATE TABLE orders (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    ref             TEXT NOT NULL,
    customer        TEXT NOT NULL,
    total           INTEGER NOT NULL CHECK (total >= 0),
    created         TEXT NOT NULL,
    cancelled       TEXT,
    idempotency_key TEXT UNIQUE
) STRICT;
CREATE INDEX orders_by_ref ON orders (ref);
CREATE TABLE order_items (
    order_id INTEGER NOT NULL REFERENCES orders (id),
    position INTEGER NOT NULL,
    sku      TEXT NOT NULL REFERENCES products (sku),
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    price    INTEGER NOT NULL CHECK (price >= 0),
    PRIMARY KEY (order_id, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE mails (
    order_id INTEGER PRIMARY KEY REFERENCES orders (id),
    claimed  TEXT,
    sent     TEXT
) STRICT;
CREATE INDEX mails_unsent ON mails (order_id) WHERE sent IS NULL;
CREATE TRIGGER orders_owe_a_mail AFTER INSERT ON orders BEGIN
    INSERT INTO mails (order_id) VALUES (NEW.id);
END;
";

/// Room is left in the pages of `products`, so that a changed stock stays on its page and no index changes.
const POSTGRES: &str = "
CREATE TABLE shop_schema (version BIGINT NOT NULL);
INSERT INTO shop_schema (version) VALUES (0);
CREATE TABLE products (
    id          BIGINT PRIMARY KEY,
    sku         TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    brand       TEXT NOT NULL,
    price       BIGINT NOT NULL CHECK (price >= 0),
    description TEXT NOT NULL,
    stock       BIGINT NOT NULL CHECK (stock >= 0),
    words       TSVECTOR GENERATED ALWAYS AS
                (to_tsvector('simple', name || ' ' || brand || ' ' || description)) STORED
) WITH (fillfactor = 70);
CREATE INDEX product_words ON products USING gin (words);
CREATE TABLE orders (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ref             TEXT NOT NULL,
    customer        TEXT NOT NULL,
    total           BIGINT NOT NULL CHECK (total >= 0),
    created         TEXT NOT NULL,
    cancelled       TEXT,
    idempotency_key TEXT UNIQUE
);
CREATE INDEX orders_by_ref ON orders (ref);
CREATE TABLE order_items (
    order_id BIGINT NOT NULL REFERENCES orders (id),
    position BIGINT NOT NULL,
    sku      TEXT NOT NULL REFERENCES products (sku),
    quantity BIGINT NOT NULL CHECK (quantity > 0),
    price    BIGINT NOT NULL CHECK (price >= 0),
    PRIMARY KEY (order_id, position)
);
CREATE TABLE mails (
    order_id BIGINT PRIMARY KEY REFERENCES orders (id),
    claimed  TEXT,
    sent     TEXT
);
CREATE INDEX mails_unsent ON mails (order_id) WHERE sent IS NULL;
CREATE FUNCTION owe_a_mail() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO mails (order_id) VALUES (NEW.id); RETURN NULL; END $$;
CREATE TRIGGER orders_owe_a_mail AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION owe_a_mail();
";

/// How long a step is tried again while others hold its lock.
const STEP_WAIT: Duration = Duration::from_secs(60);
/// Between two tries.
const STEP_POLL: Duration = Duration::from_millis(50);
/// Products in one statement while filling PostgreSQL.
const FILL_BATCH: u32 = 1_000;
/// The advisory lock under which one process makes or migrates the database and the others wait.
const MAKING_LOCK: &str = "SELECT pg_advisory_xact_lock(6004801053873329)";

/// Makes and fills the base schema in one transaction when there is none: another process sees all of it or
/// nothing.
pub(super) fn create(connection: &mut Connection) -> Result<Seeded, Error> {
    one_at_a_time(connection, |connection| {
        if connection.version()? != 0 {
            return Ok(Seeded::Before);
        }
        if connection.is_postgres() {
            connection.batch(POSTGRES)?;
            fill_postgres(connection)?;
        } else {
            connection.batch(SQLITE)?;
            fill_sqlite(connection)?;
        }
        connection.set_version(Version::Base)?;
        Ok(Seeded::Now)
    })
}

/// One transaction that makes or migrates, while no other process does so: SQLite has one writer anyway, and
/// PostgreSQL takes no two changes of one table at once. It is tried again while others are in the way: it
/// gives up its place in the queue for a lock after a second, so that those behind it get their turn.
pub(super) fn one_at_a_time<T>(
    connection: &mut Connection,
    mut step: impl FnMut(&mut Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    let since = Instant::now();
    loop {
        let done = connection.transaction(|connection| {
            if connection.is_postgres() {
                connection.batch(MAKING_LOCK)?;
            }
            step(connection)
        });
        match done {
            Err(error) if error.is_passing() && since.elapsed() < STEP_WAIT => std::thread::sleep(STEP_POLL),
            done => return done,
        }
    }
}

fn fill_sqlite(connection: &mut Connection) -> Result<(), Error> {
    for number in 1..=shoes::COUNT {
        let shoe = shoes::shoe(number);
        connection.execute(
            "INSERT INTO products (id, sku, name, brand, price, description, stock)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            &[
                i64::from(number).into(),
                (&shoe.sku).into(),
                (&shoe.name).into(),
                shoe.brand.into(),
                shoe.price.into(),
                (&shoe.description).into(),
                shoes::STOCK.into(),
            ],
        )?;
    }
    connection.batch("INSERT INTO product_words (product_words) VALUES ('rebuild')")
}

/// As texts of many rows: ten thousand round trips would take a while. The words of shoes are this program's
/// own, and quoted all the same.
fn fill_postgres(connection: &mut Connection) -> Result<(), Error> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut number = 1;
    while number <= shoes::COUNT {
        let last = shoes::COUNT.min(number + FILL_BATCH - 1);
        let mut sql =
            String::from("INSERT INTO products (id, sku, name, brand, price, description, stock) VALUES ");
        for number in number..=last {
            let shoe = shoes::shoe(number);
            let comma = if number == last { "" } else { "," };
            let (sku, name) = (quoted(&shoe.sku), quoted(&shoe.name));
            let (brand, description) = (quoted(shoe.brand), quoted(&shoe.description));
            write!(
                sql,
                "({number},{sku},{name},{brand},{},{description},{}){comma}",
                shoe.price,
                shoes::STOCK
            )
            .expect("a string takes everything");
        }
        connection.batch(&sql)?;
        number = last + 1;
    }
    connection.batch("ANALYZE products")
}

impl Connection {
    /// The number of the schema found; 0 when there is none.
    pub(super) fn version(&mut self) -> Result<i64, Error> {
        if !self.is_postgres() {
            let found = self.query_first("PRAGMA user_version", &[], |row| row.int(0))?;
            return Ok(found.unwrap_or(0));
        }
        let table = "SELECT count(*) FROM pg_tables
                     WHERE schemaname = current_schema() AND tablename = 'shop_schema'";
        if self.query_first(table, &[], |row| row.int(0))? != Some(1) {
            return Ok(0);
        }
        let found = self.query_first("SELECT version FROM shop_schema", &[], |row| row.int(0))?;
        Ok(found.unwrap_or(0))
    }

    pub(super) fn set_version(&mut self, version: Version) -> Result<(), Error> {
        let number = version.number();
        if self.is_postgres() {
            self.execute("UPDATE shop_schema SET version = $1", &[number.into()])
        } else {
            // A pragma takes no parameters.
            self.batch(&format!("PRAGMA user_version = {number}"))
        }
    }

    pub(super) fn has_column(&mut self, table: &str, column: &str) -> Result<bool, Error> {
        let sql = if self.is_postgres() {
            "SELECT count(*) FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name = $1::text AND column_name = $2::text"
        } else {
            "SELECT count(*) FROM pragma_table_info($1) WHERE name = $2"
        };
        Ok(self.query_first(sql, &[table.into(), column.into()], |row| row.int(0))? == Some(1))
    }
}
