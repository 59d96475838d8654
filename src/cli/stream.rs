//! `spoolmill stream`: standard input to standard output, as long as the input lasts.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd as _, BorrowedFd};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::JobFile;
use super::delivery::{Plain, quiet_if_reader_left};
#[cfg(feature = "sql")]
use super::shown::Shown;
#[cfg(feature = "sql")]
use crate::config::{Config, Problem};
use crate::daemon::job::{flow, tolerance};
use crate::decode::frame::Framer;
use crate::failure::Failure;
use crate::ledger::now_ms;
use crate::pipeline::flow::{Flow, Origin};
use crate::queries::Queries;
use crate::sink::envelope::Envelope;
use crate::telemetry::Pulse;
use crate::transform::Transform;
use crate::transform::command::{About, Bounds};

/// No waiting.
const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// How often a waiting stream looks whether its command still lives.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

#[derive(Debug, Args)]
pub struct Stream {
    #[command(flatten)]
    job: JobFile,
    /// The input ends: a query may wait for that
    #[arg(long)]
    until_eof: bool,
    /// Print this view as it changes, in place of the records
    #[cfg(feature = "sql")]
    #[arg(long, value_name = "NAME")]
    view: Option<String>,
}

impl Stream {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        config.check_program()?;
        let (format, encode) = (&config.written.input.format, config.written.output.format);
        if format.needs_file() || encode.is_columnar() {
            anyhow::bail!("parquet has its index at its end, and a stream has none: use `batch`");
        }
        let queries = Queries::open(&config, &std::env::temp_dir())?;
        #[cfg(feature = "sql")]
        if let Some(operator) = queries.blocking().filter(|_| !self.until_eof) {
            anyhow::bail!(
                "the query must see the end of its input (it has the operator {operator}), and a \
                 stream has none: add --until-eof if this one has"
            );
        }
        let pulse = Pulse::default();
        let stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        let polled = stdin.try_clone()?;
        let ready = Box::new(move || is_readable(polled.as_fd(), NO_TIME));
        // Only a command can have enough before the input ends.
        let patience = matches!(config.written.transform, Transform::Command(_)).then_some(LOOK);
        let stdin = Input { stdin, patience, pulse: pulse.clone() };
        let framer = Framer::live(Box::new(stdin), ready, &config.framing);
        #[cfg(feature = "sql")]
        if let Some(name) = &self.view {
            return show(&config, &queries, name, framer, &pulse);
        }
        let judge = queries.judge();
        let mut delivery = Plain {
            tap: queries.no_tap(judge.clone()),
            envelope: Envelope::new(encode),
            output: File::from(std::io::stdout().as_fd().try_clone_to_owned()?),
            rejects: std::io::stderr(),
            tolerance: tolerance(&config),
            name: b"-".to_vec(),
            rejected: 0,
            progress: None,
        };
        let origin = Origin { file: "-", now_ms: now_ms(), about: About::nothing() };
        let flow = flow(&config, &queries, Bounds::Stream, &pulse);
        let flow = Flow { judge: judge.as_deref(), ..flow };
        let result = flow.run(framer.into(), origin, &mut delivery);
        let result = result.and_then(|counts| delivery.check(&counts));
        quiet_if_reader_left(result.map_err(Failure::into_error))
    }
}

/// Prints one view of what is read.
#[cfg(feature = "sql")]
fn show(
    config: &Config,
    queries: &Queries,
    name: &str,
    framer: Framer<'_>,
    pulse: &Pulse,
) -> anyhow::Result<()> {
    let definition = queries.view(name).ok_or_else(|| {
        let problem = Problem::new("view", format!("--view: the job has no view `{name}`"));
        config.problem(&problem)
    })?;
    anyhow::ensure!(!definition.encode.is_columnar(), "a view in parquet cannot be printed");
    let stdout = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let clock = queries.clock().cloned();
    let mut shown = Shown::new(definition.clone(), clock, tolerance(config), stdout);
    let judge = shown.judge();
    let flow = flow(config, queries, Bounds::Stream, pulse);
    let flow = Flow { judge: judge.as_deref(), ..flow };
    let origin = Origin { file: "-", now_ms: now_ms(), about: About::nothing() };
    let result = flow.run(framer.into(), origin, &mut shown);
    let result = result.and_then(|counts| shown.finish(&counts));
    quiet_if_reader_left(result.map_err(Failure::into_error))
}

/// Standard input, which ends when nothing wants more of it.
struct Input {
    stdin: File,
    /// How long to wait before asking whether more is wanted; for ever, if nothing asks.
    patience: Option<Timespec>,
    pulse: Pulse,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(patience) = self.patience else { return self.stdin.read(buffer) };
        while self.pulse.wants_more() {
            if is_readable(self.stdin.as_fd(), patience) {
                return self.stdin.read(buffer);
            }
        }
        Ok(0)
    }
}

/// True when a read would not wait, or would not after this time: there are bytes, or the end.
fn is_readable(fd: BorrowedFd<'_>, patience: Timespec) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    // Should the question fail, the read will say why.
    poll(&mut fds, Some(&patience)).map_or(true, |ready| ready > 0)
}
