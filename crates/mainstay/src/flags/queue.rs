//! `mainstay queue …`.

use super::{EnvironmentFlag, duration};
use clap::{Args, Subcommand};
use model::name::EnvironmentName;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct QueueFlags {
    #[command(subcommand)]
    pub(crate) verb: QueueVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueVerb {
    /// How much waits, how long, and what became of the rest
    Status(EnvironmentFlag),
    /// Jobs, oldest first
    List(ListFlags),
    /// One job: its request, its attempts, its answer
    Show(JobFlags),
    /// Deliver jobs once more that are dead or rejected
    Retry(OperateFlags),
    /// Replace the body of a job that is dead or rejected, and deliver it
    Edit(EditFlags),
    /// Give jobs up: they are never delivered
    Drop(OperateFlags),
    /// Say what became of a job whose outcome is unknown
    Resolve(ResolveFlags),
    /// Stop deliveries; requests are still accepted
    Pause(PauseFlags),
    /// Let deliveries go on
    Resume(PauseFlags),
    /// Write all jobs that are not done, one in a line
    Export(FileFlags),
    /// Take on jobs that were exported
    Import(FileFlags),
    /// Show what operators did to jobs
    Log(QueueLogFlags),
    /// Save what can be saved of a damaged file, and begin a new one
    Repair(EnvironmentFlag),
}

#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,

    #[command(flatten)]
    pub(crate) selection: SelectionFlags,

    /// How many
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) limit: u32,

    /// Begin after this job
    #[arg(long, value_name = "JOB", value_parser = job)]
    pub(crate) after: Option<u64>,
}

/// Which jobs; all that is given must fit.
#[derive(Debug, Args)]
pub(crate) struct SelectionFlags {
    /// In this state: waiting, dispatching, delivered, rejected, dead, unknown, cancelled or dropped
    // `--state` is the environment's folder, of every command.
    #[arg(long, value_name = "STATE")]
    pub(crate) only: Option<String>,

    /// Taken by this route, as in "POST /api/orders"
    #[arg(long)]
    pub(crate) route: Option<String>,

    /// Accepted at least this long ago
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct JobFlags {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,

    /// The job: 17, or the name that its client has
    #[arg(value_name = "JOB", value_parser = job)]
    pub(crate) job: u64,
}

#[derive(Debug, Args)]
pub(crate) struct OperateFlags {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,

    /// One job: 17, or the name that its client has [default: all that fit]
    #[arg(value_name = "JOB", value_parser = job)]
    pub(crate) job: Option<u64>,

    #[command(flatten)]
    pub(crate) selection: SelectionFlags,

    /// Do it; without this, print what would be done
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EditFlags {
    #[command(flatten)]
    pub(crate) job: JobFlags,

    /// The new body; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) body: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ResolveFlags {
    #[command(flatten)]
    pub(crate) job: JobFlags,

    #[command(flatten)]
    pub(crate) outcome: OutcomeFlags,
}

/// What became of it.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct OutcomeFlags {
    /// It took effect
    #[arg(long)]
    pub(crate) delivered: bool,

    /// It did not: it is sent again
    #[arg(long)]
    pub(crate) not_delivered: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PauseFlags {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,

    /// Of this route only, as in "POST /api/orders"
    #[arg(long)]
    pub(crate) route: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct QueueLogFlags {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,

    /// How many, the latest first
    #[arg(short = 'n', long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) limit: u32,

    /// Only what was done before this entry
    #[arg(long, value_name = "ENTRY")]
    pub(crate) before: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct FileFlags {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,

    /// The file; `-` is standard output or input
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) jobs: PathBuf,
}

/// The number of a job, also from its name.
fn job(text: &str) -> Result<u64, String> {
    let number = text.split_once('-').map_or(text, |(number, _)| number);
    number
        .parse()
        .map_err(|_| format!("`{text}` is not a job, as in 17 or 17-0123456789abcdef0123456789abcdef"))
}
