//! `mainstay demo`: a shop takes orders while it is released, crashed and released badly, and every order is
//! checked.
//!
//! Lives here: the stage (a temporary folder with the shop's releases), the story, what is shown of it, its
//! promises, its summary. It acts
//! through the command line and the agent's API, as a user would. Never here: a way into the internals of
//! any other room.

mod stage;

mod screen;

mod traffic;

mod story;

mod promises;

mod summary;

use screen::Screen;
use stage::Stage;
use std::path::PathBuf;
pub use summary::{Kills, Ledger, Queue, ReleaseLine, Requests, Summary};

/// The first argument that makes this program be the shop.
pub const SHOP_ROLE: &str = "demo-shop";

/// How the demo is given.
#[derive(Debug, Clone)]
pub struct Options {
    /// This program.
    pub program: PathBuf,
    /// Leave the folder with everything that was made.
    pub keep: bool,
    /// Whether progress replaces itself, as on a terminal; elsewhere it is told in lines, now and then.
    pub terminal: bool,
}

/// What is heard of the story as it happens. Each is one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// Something has happened.
    Line(&'a str),
    /// How it stands; the next of either kind takes its place. Only with [`Options::terminal`].
    Progress(&'a str),
}

/// Why the demo could not be given. What a broken promise is, is in the [`Summary`].
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The operating system refused.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        #[source]
        cause: std::io::Error,
    },
    /// The agent did not answer.
    #[error(transparent)]
    Agent(#[from] api::client::CallError),
    /// A command did not do what it does in every other demo.
    #[error("`mainstay {command}` ended with {status}\n{output}")]
    Command {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// What it printed.
        output: String,
    },
    /// Interrupted from the terminal.
    #[error("interrupted")]
    Interrupted,
    /// Something that must come within its time did not.
    #[error("{0} did not happen in time")]
    Late(&'static str),
}

/// Gives the demo: `say` hears the story as it happens. Everything that was started is stopped and
/// everything that was written is removed, also when it is interrupted or fails.
pub async fn run(options: &Options, say: impl Fn(Told<'_>)) -> Result<Summary, DemoError> {
    let stage = Stage::build(options)?;
    let screen = Screen::new(&say, options.terminal);
    let told = tokio::select! {
        told = story::tell(&stage, &screen) => told,
        _ = tokio::signal::ctrl_c() => Err(DemoError::Interrupted),
    };
    stage.strike(&say).await;
    told
}
