//! The `shop` program; everything it does is in the library, so that another binary can offer it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    shop::main(std::env::args().skip(1))
}
