//! The command line.

mod queue;

pub(crate) use queue::{
    EditFlags, FileFlags, ListFlags, OperateFlags, PauseFlags, QueueFlags, QueueLogFlags, QueueVerb,
    ResolveFlags, SelectionFlags,
};

use clap::{Args, Parser, Subcommand};
use model::name::EnvironmentName;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 verdict not pass (a release was refused or taken back, an objective missed);
2 usage or file error; 3 the environment's state does not allow it now; 4 the environment is not up;
5 the machine refused (port in use, disk full, state folder of a newer version).";

/// Makes an HTTP service mission-critical: proves each release, moves users without a gap, takes a bad one
/// back.
#[derive(Debug, Parser)]
#[command(name = "mainstay", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct Flags {
    /// The workload file [default: mainstay.toml, where it exists]
    #[arg(short, long, global = true, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,

    /// The environment's folder [default: $XDG_STATE_HOME/mainstay/WORKLOAD/ENV]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,

    /// Print what was asked for as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a command as a service, without a workload file
    Run(RunFlags),
    /// Bring an environment up, with the release it last served
    Up(EnvironmentFlag),
    /// Take an environment down: drain, stop everything
    Down(EnvironmentFlag),
    /// Release: build a second stamp, prove it, move the users, retire the first
    Release(ReleaseFlags),
    /// Take the release under way, or the one whose old stamp is still kept, back
    Rollback(EnvironmentFlag),
    /// Take the release under way back; one that is promoted stays
    Abort(EnvironmentFlag),
    /// Show what was released, and what became of every request meanwhile
    History(HistoryFlags),
    /// Look at the writes that were accepted and not yet delivered, and act on them
    Queue(QueueFlags),
    /// Show what serves, what runs, what was released
    Status(EnvironmentFlag),
    /// Show what instances, agent, gateway or keeper print
    Logs(LogsFlags),
    /// Play every flow once
    Smoke(EnvironmentFlag),
    /// Play the flows at a steady rate and check every write
    Load(LoadFlags),
    /// Print the JSON Schema of the workload file
    Schema,
    #[cfg(feature = "demo")]
    /// Watch a shop take orders through good releases, two that are taken back, and a kill -9
    Demo(DemoFlags),
}

#[derive(Debug, Args)]
pub(crate) struct EnvironmentFlag {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,
}

#[derive(Debug, Args)]
pub(crate) struct RunFlags {
    /// The environment that is made
    #[arg(long = "env", value_name = "ENV", default_value = "run")]
    pub(crate) environment: EnvironmentName,

    /// Where users reach it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,

    #[command(flatten)]
    pub(crate) command: CommandFlags,
}

/// How a command is run as a service. What a release does not say stays as it is.
#[derive(Debug, Args)]
pub(crate) struct CommandFlags {
    /// How many copies of the command run [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) instances: Option<u32>,

    /// How long a copy may take to be ready [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) ready_timeout: Option<Duration>,

    /// How long the old stamp stays warm after a switch [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) keep_old: Option<Duration>,

    /// The program and its arguments; {port} is replaced, and PORT is set
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseFlags {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,

    /// The file or folder to release, for every component [default: what the workload file says]
    #[arg(long, value_name = "PATH")]
    pub(crate) artifact: Option<PathBuf>,

    /// What to call it [default: its number]
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Return when the old stamp is gone, not when the users have moved
    #[arg(long)]
    pub(crate) wait: bool,

    /// Once all users have moved, move them back and forward again, to show that it can be done
    #[arg(long)]
    pub(crate) rehearse: bool,

    /// Print what would happen, and stop
    #[arg(long)]
    pub(crate) plan: bool,

    #[command(flatten)]
    pub(crate) command: CommandFlags,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryFlags {
    #[command(subcommand)]
    pub(crate) verb: HistoryVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HistoryVerb {
    /// The latest releases
    List(EnvironmentFlag),
    /// One release: its story, its decisions with their numbers, its ledger
    Show(HistoryShowFlags),
}

#[derive(Debug, Args)]
pub(crate) struct HistoryShowFlags {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,

    /// The release: 3 or r3 [default: the latest]
    #[arg(value_name = "N", value_parser = release_number)]
    pub(crate) number: Option<u64>,

    /// Write a page with plots to this file, which needs nothing else to be read
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsFlags {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,

    /// Whose: a component, an instance (s2-api-0), `agent`, `gateway`, `keeper` or `access`
    /// [default: every instance]
    pub(crate) whose: Option<String>,

    /// How many lines of each
    #[arg(short = 'n', long, default_value_t = 20)]
    pub(crate) lines: usize,

    /// Go on as they are written
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LoadFlags {
    /// The environment
    #[arg(value_name = "ENV")]
    pub(crate) environment: EnvironmentName,

    /// How many flows are started, as in 500/s
    #[arg(long, default_value = "50/s", value_parser = rate)]
    pub(crate) rate: f64,

    /// For how long
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) duration: Duration,

    /// The seed of everything random [default: a new one, which is printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub(crate) struct DemoFlags {
    /// Keep the folder with everything the demo made, and say where it is
    #[arg(long)]
    pub(crate) keep: bool,
}

fn release_number(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix('r').unwrap_or(text);
    number.parse().map_err(|_| format!("`{text}` is not the number of a release, as in 3 or r3"))
}

fn duration(text: &str) -> Result<Duration, String> {
    workfile::duration(text).map_err(|e| e.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").ok_or("a rate is a number and `/s`, as in 500/s")?;
    let rate: f64 = number.parse().map_err(|_| format!("`{number}` is not a number"))?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err(format!("`{text}` is not above zero")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, CommandFactory as _};

    /// clap lets a command's own flag take the place of one that is there for all, without a word.
    #[test]
    fn no_command_hides_a_flag_that_is_there_for_all() {
        fn look(command: &Command, all: &[&str]) {
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                assert!(!all.contains(&id), "`{id}` of {}", command.get_name());
            }
            command.get_subcommands().for_each(|command| look(command, all));
        }
        let flags = Flags::command();
        let all: Vec<&str> = flags.get_arguments().map(|argument| argument.get_id().as_str()).collect();
        assert!(all.contains(&"file") && all.contains(&"state"), "{all:?}");
        flags.get_subcommands().for_each(|command| look(command, &all));
    }
}
