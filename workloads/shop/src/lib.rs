//! A small web shop: 10,000 shoes and their orders, in SQLite or PostgreSQL.
//!
//! What lives here: the catalogue, the orders, their database and its migrations (`database`), the HTTP routes
//! (`http` for programs, `web` for people), a worker (`mailer`), two small services beside the shop
//! (`payments`, `shipping`), and ten releases of it all (`release`), most of which are broken on purpose
//! (`failings`) so that whatever deploys the shop can be seen to notice. What goes wrong with single writes at any
//! release is in `mishaps`; forms may hand orders in elsewhere (`desk`).
//!
//! What must never live here: anything about what runs the shop, what stands in front of it or how it is
//! deployed. It is an ordinary service that can be started by hand and asked with `curl`. Several processes
//! of it, of different releases, may use one database at the same time.

mod catalog;
mod clock;
mod database;
mod desk;
mod failings;
mod http;
mod lock;
mod mailer;
mod mishaps;
mod orders;
mod page;
mod payments;
mod problem;
mod records;
mod release;
mod serve;
mod shipping;
mod shoes;
mod web;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::database::{MigrateError, OpenError, Pace, Phase, Seeded, Target, TargetError, Version};
use crate::desk::OrdersUrl;
use crate::failings::Failings;
use crate::lock::LockError;
use crate::mailer::MailerError;
use crate::mishaps::Mishaps;
use crate::release::ReleaseError;
use crate::serve::{Address, ServeError};

/// The exit code for a command line or a release that cannot be understood.
const EXIT_USAGE: u8 = 2;

#[derive(Parser)]
#[command(name = "shop", version, about = "A small web shop over SQLite or PostgreSQL")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the shop over HTTP until SIGTERM or SIGINT; creates and fills the database when there is none
    Serve(ServeArgs),
    /// Take payments: a small service of its own, in memory or in --data
    Payments(ServiceArgs),
    /// Make shipping labels: a small service of its own, in memory or in --data
    Shipping(ServiceArgs),
    /// Send a confirmation for each order until SIGTERM or SIGINT; a worker without a port
    Mailer(MailerArgs),
    /// Create and fill the database, and nothing else
    Seed {
        #[command(flatten)]
        place: Place,
        /// As for serve
        #[arg(long, value_name = "NAME_OR_FILE")]
        release: Option<String>,
    },
    /// Move the schema of the database to that of a release, in two phases; each can be run again
    Migrate {
        #[command(subcommand)]
        phase: Migration,
    },
    /// Print the version of the schema found, as in `2 expanded`, or `0 none`
    Schema {
        #[command(flatten)]
        place: Place,
    },
    /// Keep everybody else from writing to the database for a while; prints a line once it has the lock
    Lock {
        #[command(flatten)]
        place: Place,
        /// How long, as in 500ms, 15s or 2m, up to 10m; without it until standard input ends, 10m at most
        #[arg(long = "for", value_name = "TIME", value_parser = lock::time)]
        time: Option<Duration>,
    },
}

#[derive(Subcommand)]
enum Migration {
    /// Add what the release needs; the release before it goes on working
    Expand(MigrateArgs),
    /// Take away what only the release before it needed; run it once that is gone
    Contract(MigrateArgs),
}

/// Where the database is.
#[derive(Args)]
struct Place {
    /// The folder of a SQLite database, and of what workers write; made when missing
    #[arg(long, env = "SHOP_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// sqlite:/absolute/path/shop.db or postgres://user:password@host:port/name; without it shop.db in --data
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database: Option<String>,
}

impl Place {
    fn target(&self) -> Result<Target, TargetError> {
        Target::find(self.database.as_deref(), self.data.as_deref())
    }
}

#[derive(Args)]
struct MigrateArgs {
    #[command(flatten)]
    place: Place,
    /// As for serve
    #[arg(long, value_name = "NAME_OR_FILE")]
    release: Option<String>,
    /// Rows filled in by one transaction
    #[arg(long, env = "SHOP_MIGRATE_BATCH", value_name = "N", default_value = "500", value_parser = clap::value_parser!(i64).range(1..))]
    batch: i64,
    /// Milliseconds between two of them, for those who wait to write
    #[arg(long, env = "SHOP_MIGRATE_PAUSE_MS", value_name = "MS", default_value = "2")]
    pause_ms: u64,
}

/// Where to listen.
#[derive(Args)]
struct AddressArgs {
    /// The port to listen on; 0 takes any free one, which is then printed
    #[arg(long, env = "PORT")]
    port: u16,
    /// The address or host name to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
}

impl From<AddressArgs> for Address {
    fn from(args: AddressArgs) -> Self {
        Self { host: args.host, port: args.port }
    }
}

#[derive(Args)]
struct ServiceArgs {
    #[command(flatten)]
    address: AddressArgs,
    /// The folder of its database; without it everything is forgotten at the end
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    #[command(flatten)]
    mishaps: Mishaps,
}

#[derive(Args)]
struct MailerArgs {
    #[command(flatten)]
    place: Place,
    /// As for serve
    #[arg(long, value_name = "NAME_OR_FILE")]
    release: Option<String>,
    /// The file that mails are appended to, instead of outbox.jsonl in --data
    #[arg(long, env = "MAIL_OUTBOX", value_name = "FILE")]
    outbox: Option<PathBuf>,
}

#[derive(Args)]
struct ServeArgs {
    #[command(flatten)]
    address: AddressArgs,
    #[command(flatten)]
    place: Place,
    /// A release as in the README, or a file that holds its name; without it the file `release` in the
    /// working directory, else v1
    #[arg(long, value_name = "NAME_OR_FILE")]
    release: Option<String>,
    /// Where forms hand orders in: a URL that takes POST /api/orders and may answer 202 first; without it this
    /// process takes them itself
    #[arg(long, env = "SHOP_ORDERS_URL", value_name = "URL")]
    orders_url: Option<OrdersUrl>,
    #[command(flatten)]
    failings: Failings,
    #[command(flatten)]
    mishaps: Mishaps,
}

/// Runs the shop with `args` (without the program's name) and returns when it has stopped.
///
/// `serve` blocks until SIGTERM or SIGINT and then until what is in flight is answered, 25 seconds at most.
/// Exit codes: 0 done, 1 failed while running (folder, database, address, drain), 2 the command line or the
/// release was not understood. What failed is said on stderr.
pub fn main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let line = std::iter::once("shop".to_owned()).chain(args);
    let cli = match Cli::try_parse_from(line) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version arrive here too; clap knows which stream each belongs to. A stream that is
            // gone is no reason to fail differently.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let done = match cli.command {
        Command::Serve(args) => run_serve(args),
        Command::Payments(args) => {
            payments::serve(args.address.into(), args.data.as_deref(), args.mishaps).map_err(Into::into)
        }
        Command::Shipping(args) => {
            shipping::serve(args.address.into(), args.data.as_deref(), args.mishaps).map_err(Into::into)
        }
        Command::Mailer(args) => run_mailer(&args),
        Command::Seed { place, release } => run_seed(&place, release.as_deref()),
        Command::Migrate { phase: Migration::Expand(args) } => run_migrate(&args, Phase::Expand),
        Command::Migrate { phase: Migration::Contract(args) } => run_migrate(&args, Phase::Contract),
        Command::Schema { place } => run_schema(&place),
        Command::Lock { place, time } => run_lock(&place, time),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&chain(&error));
            error.code()
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Mailer(#[from] MailerError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("no outbox is named; hint: --outbox FILE, or --data FOLDER for outbox.jsonl in it")]
    NoOutbox,
    #[error("cannot print")]
    Print(#[source] std::io::Error),
}

impl CommandError {
    fn code(&self) -> ExitCode {
        match self {
            Self::Release(_) | Self::Target(_) | Self::NoOutbox => ExitCode::from(EXIT_USAGE),
            Self::Serve(_)
            | Self::Mailer(_)
            | Self::Open(_)
            | Self::Migrate(_)
            | Self::Lock(_)
            | Self::Print(_) => ExitCode::FAILURE,
        }
    }
}

fn run_serve(args: ServeArgs) -> Result<(), CommandError> {
    let release = release::find(args.release.as_deref())?;
    let options = serve::Options {
        database: args.place.target()?,
        address: args.address.into(),
        release,
        failings: args.failings,
        mishaps: args.mishaps,
        desk: args.orders_url.and_then(|url| url.0),
    };
    Ok(serve::serve(options)?)
}

fn run_mailer(args: &MailerArgs) -> Result<(), CommandError> {
    let release = release::find(args.release.as_deref())?;
    let outbox = match (&args.outbox, &args.place.data) {
        (Some(file), _) => file.clone(),
        (None, Some(folder)) => folder.join(mailer::OUTBOX),
        (None, None) => return Err(CommandError::NoOutbox),
    };
    Ok(mailer::run(&args.place.target()?, release, &outbox)?)
}

fn run_seed(place: &Place, release: Option<&str>) -> Result<(), CommandError> {
    let release = release::find(release)?;
    let target = place.target()?;
    match database::open(&target, release)?.1 {
        Seeded::Now => log(&format!("{target}: created, with {} products", shoes::COUNT)),
        Seeded::Before => log(&format!("{target}: already there, left as it is")),
    }
    Ok(())
}

fn run_migrate(args: &MigrateArgs, phase: Phase) -> Result<(), CommandError> {
    let release = release::find(args.release.as_deref())?;
    let target = args.place.target()?;
    let pace = Pace { batch: args.batch, pause: Duration::from_millis(args.pause_ms) };
    let version = database::migrate(&target, release, phase, pace, &mut |step| log(step))?;
    log(&format!("{target}: schema {} ({}), as {release} asks", version.number(), version.name()));
    Ok(())
}

fn run_schema(place: &Place) -> Result<(), CommandError> {
    let number = database::version(&place.target()?)?;
    let name = match Version::numbered(number) {
        Some(version) => version.name(),
        None if number == 0 => "none",
        None => "unknown",
    };
    writeln!(std::io::stdout(), "{number} {name}").map_err(CommandError::Print)
}

fn run_lock(place: &Place, time: Option<Duration>) -> Result<(), CommandError> {
    Ok(lock::hold(&place.target()?, time)?)
}

/// An error and its causes on one line; every `Display` in this crate speaks of its own level only.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    line
}

/// One line on stderr. `eprintln!` would panic when nobody reads stderr any more, and a shop that cannot
/// log must still sell.
fn log(line: &str) {
    let _ = writeln!(std::io::stderr(), "shop: {line}");
}
