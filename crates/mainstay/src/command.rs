//! The verbs.

mod up;

mod down;

mod release;

mod show;

mod history;

mod queue;

mod play;

use crate::environment::Found;
use crate::failure::Failure;
use crate::flags::{Flags, Verb};
use crate::output::Output;
use release::Back;
use std::process::ExitCode;

/// Does what the command line says.
pub(crate) async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    let output = Output { json: flags.json };
    match &flags.verb {
        Verb::Run(run) => up::run(&flags, run, output).await,
        Verb::Up(flag) => up::up(&Found::find(&flags, &flag.environment)?, output).await,
        Verb::Down(flag) => down::down(&Found::running(&flags, &flag.environment)?, output).await,
        Verb::Release(release) => release::release(&flags, release, output).await,
        Verb::Rollback(flag) => {
            release::back(&Found::running(&flags, &flag.environment)?, Back::Rollback, output).await
        }
        Verb::Abort(flag) => {
            release::back(&Found::running(&flags, &flag.environment)?, Back::Abort, output).await
        }
        Verb::History(history) => history::history(&flags, history, output).await,
        Verb::Queue(queue) => queue::queue(&flags, queue, output).await,
        Verb::Status(flag) => show::status(&Found::running(&flags, &flag.environment)?, output).await,
        Verb::Logs(logs) => show::logs(&Found::running(&flags, &logs.environment)?, logs, output).await,
        Verb::Smoke(flag) => play::smoke(&Found::running(&flags, &flag.environment)?, output).await,
        Verb::Load(load) => play::load(&Found::running(&flags, &load.environment)?, load, output).await,
        Verb::Schema => {
            let schema = workfile::schema();
            let pretty = serde_json::to_string_pretty(&schema).expect("a schema has string keys");
            output.data(pretty, &schema);
            Ok(ExitCode::SUCCESS)
        }
        #[cfg(feature = "demo")]
        Verb::Demo(flag) => play::demo(flag.keep, output).await,
    }
}
