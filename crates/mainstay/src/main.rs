//! mainstay: one program that makes an HTTP service mission-critical.
//!
//! Lives here: flags, output, exit codes, and the wiring of the processes of an environment. What a command
//! does is in `command`; what a process does is in its room.

mod role;

mod flags;

mod command;

mod environment;

mod follow;

mod failure;

mod output;

use clap::Parser as _;
use std::process::ExitCode;

/// Decision 21 says why not the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The processes of an environment are this same program. They are told apart before the command line is
    // read, so that the small ones stay small.
    if let Some(code) = role::run(std::env::args_os().skip(1)) {
        return code;
    }
    let flags = flags::Flags::parse();
    let json = flags.json;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::Failure::machine(format!("cannot start: {error}")).print(json),
    };
    let done = runtime.block_on(command::run(flags));
    // What still runs in the background, such as a terminal being read, ends with the process.
    runtime.shutdown_background();
    match done {
        Ok(code) => code,
        Err(failure) => failure.print(json),
    }
}
