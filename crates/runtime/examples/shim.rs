//! The shim as a program of its own, for the tests of this room: they start it as a process. In the product
//! it is a role of the one binary.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: shim FOLDER");
        return ExitCode::from(2);
    };
    runtime::shim(&PathBuf::from(folder))
}
