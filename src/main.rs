//! The program: reads the command line, runs the verb, prints one error.

use std::process::ExitCode;

use clap::Parser as _;
use spoolmill::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            spoolmill::telemetry::report(&error);
            ExitCode::from(spoolmill::cli::exit_code(&error))
        }
    }
}
