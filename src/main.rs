//! The `owlet` command: parse, run, exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod cli;
mod report;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(cli) => cli::run(cli),
        Err(usage) => cli::explain_usage(&usage),
    }
}
