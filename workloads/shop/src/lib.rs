//! A small web shop: 10,000 shoes, orders, one SQLite file.
//!
//! What lives here: the catalogue, the orders, their database and the HTTP routes over them, and four
//! releases of it all (`release`), two of which are broken on purpose so that whatever deploys the shop can
//! be seen to notice.
//!
//! What must never live here: anything about what runs the shop, what stands in front of it or how it is
//! deployed. It is an ordinary service that can be started by hand and asked with `curl`. Several processes
//! of it, of different releases, may use one data folder at the same time.

mod catalog;
mod database;
mod http;
mod orders;
mod page;
mod problem;
mod release;
mod serve;
mod shoes;

use std::io::Write as _;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::database::Seeded;

/// The exit code for a command line or a release that cannot be understood.
const EXIT_USAGE: u8 = 2;

#[derive(Parser)]
#[command(name = "shop", version, about = "A small web shop over one SQLite file")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the shop over HTTP until SIGTERM or SIGINT; creates and fills the database when there is none
    Serve(ServeArgs),
    /// Create and fill the database, and nothing else
    Seed {
        /// The folder of the database; made when missing
        #[arg(long, env = "SHOP_DATA", value_name = "FOLDER")]
        data: PathBuf,
    },
}

#[derive(Args)]
struct ServeArgs {
    /// The port to listen on; 0 takes any free one, which is then printed
    #[arg(long, env = "PORT")]
    port: u16,
    /// The address or host name to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The folder of the database; made when missing
    #[arg(long, env = "SHOP_DATA", value_name = "FOLDER")]
    data: PathBuf,
    /// v1, v2, v3-broken or v3-errors, or a file that holds one of these words; without it the file
    /// `release` in the working directory, else v1
    #[arg(long, value_name = "NAME_OR_FILE")]
    release: Option<String>,
    /// With release v3-errors: every how many orders one is answered with 500
    #[arg(long, env = "SHOP_ERROR_EVERY", value_name = "N", default_value = "1")]
    error_every: NonZeroU64,
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
    match cli.command {
        Command::Serve(args) => run_serve(args),
        Command::Seed { data } => run_seed(&data),
    }
}

fn run_serve(args: ServeArgs) -> ExitCode {
    let release = match release::find(args.release.as_deref()) {
        Ok(release) => release,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    let options = serve::Options {
        host: args.host,
        port: args.port,
        data: args.data,
        release,
        error_every: args.error_every,
    };
    match serve::serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

fn run_seed(data: &std::path::Path) -> ExitCode {
    match database::open(data) {
        Ok((_, Seeded::Now)) => log(&format!("{}: created, with {} products", data.display(), shoes::COUNT)),
        Ok((_, Seeded::Before)) => log(&format!("{}: already there, left as it is", data.display())),
        Err(error) => return fail(1, &error),
    }
    ExitCode::SUCCESS
}

/// Says what failed and each of its causes, and hands back the exit code.
fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    log(&chain(error));
    ExitCode::from(code)
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
