//! `spoolmill stream`: standard input to standard output, as long as the input lasts.

use std::os::fd::AsFd as _;
use std::path::Path;

use clap::Args;
use rustix::event::{PollFlags, Timespec};

use super::delivery::Plain;
use super::standard::{self, Input, Output, quiet_if_reader_left};
use super::{JobFile, signalled, signals};
use crate::clock::now_ms;
use crate::daemon::job::{flow, tolerance};
use crate::decode::frame::Framer;
use crate::encode::envelope::Envelope;
use crate::engine::IS_BUILT_IN;
use crate::failure::Failure;
use crate::pipeline::flow::{Flow, Origin};
use crate::pulse::Pulse;
use crate::queries::Queries;
use crate::transform::command::{About, Bounds};

/// No waiting.
const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

#[derive(Debug, Args)]
pub struct Stream {
    #[command(flatten)]
    job: JobFile,
    /// The input ends: a query may wait for that
    #[arg(long)]
    until_eof: bool,
    /// Print this view as it changes, instead of the records
    #[arg(long, value_name = "NAME", hide = !IS_BUILT_IN)]
    view: Option<String>,
}

impl Stream {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        config.check_program()?;
        let format = &config.written.input.format;
        let encode = config.written.output.format;
        if format.needs_file() || encode.is_columnar() {
            anyhow::bail!("parquet has its index at its end, and a stream has none: use `batch`");
        }
        let queries = Queries::open(&config, &std::env::temp_dir())?;
        if let Some(operator) = queries.blocking().filter(|_| !self.until_eof) {
            anyhow::bail!(
                "the query must see the end of its input (it has the operator {operator}), and a \
                 stream has none: add --until-eof if this one has"
            );
        }
        let pulse = Pulse::default();
        signals::stop_or_end_on_any(&pulse)?;
        let stdin = Input::stdin(&pulse)?;
        standard::refuse_own_output(&[(stdin.file(), Path::new("standard input"))])?;
        let polled = stdin.file().try_clone()?;
        let ready = Box::new(move || standard::is_ready(polled.as_fd(), PollFlags::IN, NO_TIME));
        let framer = Framer::live(Box::new(stdin), ready, &config.framing);
        if let Some(name) = &self.view {
            return signalled(&pulse, super::shown::show(&config, &queries, name, framer, &pulse));
        }
        let judge = queries.judge();
        let mut delivery = Plain {
            tap: queries.no_tap(judge.clone()),
            envelope: Envelope::new(encode),
            output: Output::stdout(&pulse)?,
            rejects: Output::stderr(&pulse)?,
            tolerance: tolerance(&config),
            name: b"-".to_vec(),
            rejected: 0,
            progress: None,
        };
        let origin = Origin { file: "-", now_ms: now_ms(), about: About::nothing() };
        let plain = flow(&config, &queries, Bounds::Stream, &pulse);
        let flow = Flow { judge: judge.as_deref(), ..plain };
        let result = flow
            .run(framer.into(), origin, &mut delivery)
            .and_then(|passed| delivery.check(&passed));
        signalled(&pulse, quiet_if_reader_left(result.map_err(Failure::into_error)))
    }
}
