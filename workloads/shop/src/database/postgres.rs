//! How a PostgreSQL server is talked to: one connection, used by one thread, made again when it breaks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use super::connection::{Error, Value};

/// How long one attempt to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long starting waits for a server that is starting too.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// Between two attempts meanwhile.
const OPEN_POLL: Duration = Duration::from_millis(50);

/// What a connection is for, which settles how long its statements may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Requests: a statement waits at most 4 s for a lock, and 8 s for the server.
    Serving,
    /// Making and migrating: at most 1 s for a lock, so that nobody queues behind it for longer (a waiting
    /// `ALTER TABLE` holds up every later reader), but ten minutes for the work itself.
    Migrating,
}

impl Use {
    fn options(self) -> &'static str {
        match self {
            Self::Serving => "-c lock_timeout=4000 -c statement_timeout=7000 -c synchronous_commit=on",
            Self::Migrating => "-c lock_timeout=1000 -c statement_timeout=600000 -c synchronous_commit=on",
        }
    }

    /// How long this side waits for an answer: a server that is stopped, or gone without a word, keeps no
    /// time limit of its own.
    fn answer_limit(self) -> Duration {
        match self {
            Self::Serving => Duration::from_secs(8),
            Self::Migrating => Duration::from_secs(601),
        }
    }
}

/// One connection. Every call blocks its thread, which must not be one that runs async code.
pub(crate) struct Session {
    runtime: Runtime,
    config: Config,
    limit: Duration,
    link: Option<Link>,
    in_transaction: bool,
}

/// A connection as long as it holds.
struct Link {
    client: Client,
    statements: HashMap<String, Statement>,
    /// Moves bytes while the session waits; ends the connection when it is ended.
    driver: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// Connects; waits up to `OPEN_WAIT` for a server that is not there yet.
    pub(super) fn open(url: &str, purpose: Use) -> Result<Self, Error> {
        let mut config: Config = url.parse().map_err(Error::Postgres)?;
        config.connect_timeout(CONNECT_LIMIT).application_name("shop").options(purpose.options());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
        let mut session =
            Self { runtime, config, limit: purpose.answer_limit(), link: None, in_transaction: false };
        let since = Instant::now();
        loop {
            match session.link() {
                Ok(_) => return Ok(session),
                Err(Error::Unreachable(_)) if since.elapsed() < OPEN_WAIT => std::thread::sleep(OPEN_POLL),
                Err(error) => return Err(error),
            }
        }
    }

    fn link(&mut self) -> Result<&mut Link, Error> {
        if self.link.as_ref().is_none_or(|link| link.client.is_closed()) {
            self.link = None;
            let connecting = async { tokio::time::timeout(CONNECT_LIMIT, self.config.connect(NoTls)).await };
            let (client, connection) = match self.runtime.block_on(connecting) {
                Ok(connected) => connected.map_err(|error| match error.code() {
                    // Wrong user, password or database: waiting does not help.
                    Some(code) if *code != SqlState::CANNOT_CONNECT_NOW => Error::Postgres(error),
                    Some(_) | None => Error::Unreachable(with_cause(&error)),
                })?,
                Err(_) => return Err(Error::Unreachable("it does not answer".to_owned())),
            };
            let driver = self.runtime.spawn(async move {
                // How a connection ends is told to whoever asks next.
                let _ = connection.await;
            });
            self.link = Some(Link { client, statements: HashMap::new(), driver });
        }
        Ok(self.link.as_mut().expect("just made"))
    }

    /// Runs one prepared statement. One outside a transaction reads only or begins one, so after a lost
    /// connection it is run once more on a new one.
    pub(super) fn query(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Error> {
        match self.query_once(sql, values) {
            Err(Error::Unreachable(_)) if !self.in_transaction => self.query_once(sql, values),
            done => done,
        }
    }

    fn query_once(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Error> {
        let limit = self.limit;
        if self.in_transaction && self.link.is_none() {
            return Err(Error::Unreachable("the connection is lost".to_owned()));
        }
        self.link()?;
        let link = self.link.as_mut().expect("linked just now");
        let run = async {
            let statement = match link.statements.get(sql) {
                Some(statement) => statement.clone(),
                None => {
                    let statement = link.client.prepare(sql).await?;
                    link.statements.insert(sql.to_owned(), statement.clone());
                    statement
                }
            };
            let mut values_of: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(values.len());
            for value in values {
                values_of.push(value);
            }
            link.client.query(&statement, &values_of).await
        };
        let done = self.runtime.block_on(async { tokio::time::timeout(limit, run).await });
        self.settle(done)
    }

    /// Runs statements that return nothing and take no values. As for [`query`](Self::query).
    pub(super) fn batch(&mut self, sql: &str) -> Result<(), Error> {
        match self.batch_once(sql) {
            Err(Error::Unreachable(_)) if !self.in_transaction => self.batch_once(sql),
            done => done,
        }
    }

    fn batch_once(&mut self, sql: &str) -> Result<(), Error> {
        let limit = self.limit;
        if self.in_transaction && self.link.is_none() {
            return Err(Error::Unreachable("the connection is lost".to_owned()));
        }
        self.link()?;
        let link = self.link.as_mut().expect("linked just now");
        let run = link.client.batch_execute(sql);
        let done = self.runtime.block_on(async { tokio::time::timeout(limit, run).await });
        self.settle(done)
    }

    /// A broken connection is thrown away, with whatever transaction was open on it.
    fn settle<T>(
        &mut self,
        done: Result<Result<T, tokio_postgres::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, Error> {
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if self.link.as_ref().is_some_and(|link| link.client.is_closed()) || is_gone(&error) {
                    self.link = None;
                    return Err(Error::Unreachable(with_cause(&error)));
                }
                Err(Error::Postgres(error))
            }
            Err(_) => {
                self.link = None;
                Err(Error::Unreachable("it does not answer".to_owned()))
            }
        }
    }

    pub(super) fn begin(&mut self) -> Result<(), Error> {
        self.batch("BEGIN")?;
        self.in_transaction = true;
        Ok(())
    }

    /// When the connection is lost during it, nobody knows whether the transaction counts.
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        let lost_before = self.link.is_none();
        let done = self.batch("COMMIT");
        self.in_transaction = false;
        match done {
            Err(Error::Unreachable(cause)) if !lost_before => Err(Error::Unknown(cause)),
            done => done,
        }
    }

    pub(super) fn roll_back(&mut self) {
        // On a lost connection the server rolls back by itself.
        if self.link.is_some() && self.batch("ROLLBACK").is_err() {
            self.link = None;
        }
        self.in_transaction = false;
    }
}

/// Whether the server ended the connection: stopped, restarting, or killed by an operator. An error without a
/// code of the server's is one of the connection too, unless it is about a value of ours.
fn is_gone(error: &tokio_postgres::Error) -> bool {
    let ended = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    error.is_closed() || error.code().is_some_and(|code| ended.contains(code))
}

/// Whether a lock was held for too long or two transactions stood in each other's way; nothing was changed.
pub(super) fn is_busy(error: &tokio_postgres::Error) -> bool {
    let busy = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::QUERY_CANCELED,
        SqlState::TOO_MANY_CONNECTIONS,
    ];
    error.code().is_some_and(|code| busy.contains(code))
}

fn with_cause(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            // Checked for its own type each time: `accepts` cannot see which value it is asked about.
            Self::Int(number) => number.to_sql_checked(kind, out),
            Self::Text(text) => text.to_sql_checked(kind, out),
            Self::Null => Ok(IsNull::Yes),
        }
    }

    fn accepts(kind: &Type) -> bool {
        <i64 as ToSql>::accepts(kind) || <&str as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}
