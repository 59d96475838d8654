//! The command line: one file per verb.
//!
//! Exit codes: 0 done; 1 the job failed, and may succeed when it is started again; 2 wrong usage or
//! configuration; 3 done, with files that failed, where `--strict` asks for that; 4 stopped until
//! a person acts; 128 and the number of a signal that ended `batch`, `stream` or `split`.

mod batch;
mod check;
mod delivery;
mod explain;
mod generate;
mod history;
mod progress;
mod requeue;
mod run;
mod shown;
mod signals;
mod split;
mod standard;
mod status;
mod stream;
mod targets;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config};
use crate::failure::Halt;
use crate::telemetry::{self, LogFormat};

/// The exit code of a job that failed.
const FAILED: u8 = 1;

/// The exit code of a wrong command line or configuration.
const MISUSED: u8 = 2;

/// The exit code of what is done, but for files that failed (`--strict`).
const STRICT: u8 = 3;

/// The exit code of a job that only a person can help.
const HALTED: u8 = 4;

/// Ingests drop folders exactly once: each complete file is one microbatch through one transform.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    /// Format of the log, which goes to standard error
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    log: LogFormat,
    /// Least level that is logged: error, warn, info, debug or trace
    #[arg(long, global = true, default_value_t = tracing::Level::INFO, value_name = "LEVEL")]
    log_level: tracing::Level,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Watch the drop folder and take each complete file, exactly once
    Run(run::Run),
    /// Run the same job over bounded inputs, without a ledger
    Batch(batch::Batch),
    /// Run the same job from standard input to standard output
    Stream(stream::Stream),
    /// Cut standard input into drop files, each made durable and renamed into place
    Split(split::Split),
    /// Check everything that a start would need, and print the job as it is understood
    Check(check::Check),
    /// Show how the job stands
    Status(status::Show),
    /// Show what was committed, the newest first
    History(history::History),
    /// Say what has become of a file, or why it is not taken yet
    Explain(explain::Explain),
    /// Hold the output, the rejects and the folder against the ledger
    Verify(verify::Verify),
    /// Put a failed file back, or take a processed one again
    Requeue(requeue::Requeue),
    /// Write manual pages and shell completions to a folder
    #[command(hide = true)]
    Generate(generate::Generate),
}

/// The job file of a verb.
#[derive(Debug, Args)]
struct JobFile {
    /// The job file
    #[arg(short, long = "config", value_name = "FILE")]
    config: PathBuf,
}

impl JobFile {
    fn read(&self) -> Result<Config, config::Error> {
        Config::read(&self.config)
    }
}

impl Cli {
    /// Runs the verb.
    pub fn run(self) -> anyhow::Result<()> {
        telemetry::start(self.log, self.log_level);
        match self.verb {
            Verb::Run(run) => run.run(),
            Verb::Batch(batch) => batch.run(),
            Verb::Stream(stream) => stream.run(),
            Verb::Split(split) => split.run(),
            Verb::Check(check) => check.run(),
            Verb::Status(show) => show.run(),
            Verb::History(history) => history.run(),
            Verb::Explain(explain) => explain.run(),
            Verb::Verify(verify) => verify.run(),
            Verb::Requeue(requeue) => requeue.run(),
            Verb::Generate(generate) => generate.run(),
        }
    }
}

/// A command line that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(&'static str);

/// A signal ended the verb, as a shell tells it.
#[derive(Debug, thiserror::Error)]
#[error("stopped by signal {0}")]
struct Signalled(i32);

/// Done, with files that failed, where that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Strict(String);

/// Turns the result of a verb that a signal has stopped into the error that names the signal.
fn signalled(pulse: &crate::pulse::Pulse, result: anyhow::Result<()>) -> anyhow::Result<()> {
    match pulse.signal() {
        Some(signal) => Err(Signalled(signal).into()),
        None => result,
    }
}

/// The exit code for an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(Signalled(signal)) = error.downcast_ref() {
        return 128 + u8::try_from(*signal).unwrap_or_default();
    }
    if error.is::<Strict>() {
        return STRICT;
    }
    let in_config = error.downcast_ref::<config::Error>();
    if in_config.is_some_and(|error| !error.passes()) || error.is::<Misuse>() {
        MISUSED
    } else if error.is::<Halt>() {
        HALTED
    } else {
        FAILED
    }
}
