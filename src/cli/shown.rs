//! A view of a stream, shown as it changes instead of the records.
//!
//! Invariants: what comes between two pauses of the input, or a few megabytes of it, is a
//! microbatch: it is judged by the watermark that the ones before it left. State is in memory.

use std::collections::BTreeSet;
use std::io::Write;
use std::iter::repeat;
use std::sync::Arc;

use arrow_array::RecordBatch;

use super::delivery::failed;
use super::standard::{Output, quiet_if_reader_left};
use crate::clock::now_ms;
use crate::config::{Config, Problem};
use crate::daemon::job::{flow, tolerance};
use crate::decode::frame::Framer;
use crate::encode::{late, rejects};
use crate::engine::{Asked, IS_BUILT_IN, Memory};
use crate::event_time::Judge;
use crate::failure::{Failure, Result};
use crate::pipeline::flow::{Delivery, Flow, Origin, Passed};
use crate::pipeline::prepare::Tolerance;
use crate::pipeline::views::{Clock, Definition, LeftOut, Tap};
use crate::pulse::Pulse;
use crate::queries::Queries;
use crate::record::{Late, Reject};
use crate::transform::command::{About, Bounds};

/// Prints one view of what is read.
pub fn show(
    config: &Config,
    queries: &Queries,
    name: &str,
    framer: Framer<'_>,
    pulse: &Pulse,
) -> anyhow::Result<()> {
    anyhow::ensure!(IS_BUILT_IN, "--view needs a build with `--features sql`");
    let definition = queries.view(name).ok_or_else(|| {
        let problem = Problem::new("view", format!("--view: the job has no view `{name}`"));
        config.problem(&problem)
    })?;
    anyhow::ensure!(!definition.encode.is_columnar(), "a view in parquet cannot be printed");
    let stdout = Output::stdout(pulse)?;
    let clock = queries.clock().cloned();
    let mut shown =
        Shown::new(definition.clone(), clock, tolerance(config), (stdout, Output::stderr(pulse)?));
    let judge = shown.judge();
    let plain = flow(config, queries, Bounds::Stream, pulse);
    let flow = Flow { judge: judge.as_deref(), ..plain };
    let origin = Origin { file: "-", now_ms: now_ms(), about: About::nothing() };
    let result =
        flow.run(framer.into(), origin, &mut shown).and_then(|passed| shown.finish(&passed));
    quiet_if_reader_left(result.map_err(Failure::into_error))
}

/// Bytes of records after which a microbatch ends though the input does not pause.
const MICROBATCH_BYTES: usize = 4 << 20;

/// One view, shown.
pub struct Shown<Output> {
    definition: Definition,
    clock: Option<Clock>,
    judge: Option<Arc<Judge>>,
    tap: Tap,
    bytes: usize,
    kept: Memory,
    watermark: Option<i64>,
    output: Output,
    /// Where is told what is not in the output.
    errors: Output,
    tolerance: Tolerance,
    rejected: u64,
    /// Records that are late, unless they belong to a session that is open.
    late: Vec<Vec<u8>>,
    /// Groups that were told to be left out.
    left_out: BTreeSet<String>,
    /// Something was shown before.
    began: bool,
    /// Something has changed since.
    changed: bool,
}

impl<Output: Write + Send> Shown<Output> {
    /// Shows this view on the first of these; what is not in it is told on the second.
    pub fn new(
        definition: Definition,
        clock: Option<Clock>,
        tolerance: Tolerance,
        (output, errors): (Output, Output),
    ) -> Self {
        let one = || std::iter::once(&definition);
        let marks = || Clock::marks(one().map(|definition| (definition, None)), None);
        let judge = clock.as_ref().map(|clock| clock.judge(None, marks()));
        let tap = Tap::new(one().map(|definition| Some(definition.view.clone())), judge.clone());
        let kept = definition.view.memory();
        Self {
            definition,
            clock,
            judge,
            tap,
            bytes: 0,
            kept,
            watermark: None,
            output,
            errors,
            tolerance,
            rejected: 0,
            late: Vec::new(),
            left_out: BTreeSet::new(),
            began: false,
            changed: false,
        }
    }

    /// The judge of the records.
    pub fn judge(&self) -> Option<Arc<Judge>> {
        self.judge.clone()
    }

    /// Checks what only the whole input can tell, and shows what is left: all windows are closed.
    pub fn finish(mut self, passed: &Passed) -> Result<()> {
        self.advance(true)?;
        self.tolerance.check(passed)
    }

    /// Ends a microbatch.
    fn advance(&mut self, ends: bool) -> Result<()> {
        let query = |problem: crate::engine::QueryError| Failure::Fatal(problem.into());
        let tapped = self.tap.finish()?;
        self.bytes = 0;
        let delta = tapped.deltas.first().map(Vec::as_slice).unwrap_or_default();
        let Definition { view, asked, .. } = &self.definition;
        let doubts = tapped.doubts.first().filter(|doubts| !doubts.is_empty());
        let are_late = doubts
            .map(|doubts| view.are_late(doubts, delta, &self.kept))
            .transpose()
            .map_err(query)?
            .unwrap_or_default();
        for (line, late) in
            std::mem::take(&mut self.late).into_iter().zip(are_late.into_iter().chain(repeat(true)))
        {
            if late {
                tell(&mut self.errors, &line)?;
            }
        }
        let touched = view.merge(delta, self.watermark, &mut self.kept).map_err(query)?;
        self.kept.count().map_err(query)?;
        self.changed |= !touched.is_empty();
        let mut bytes = Vec::new();
        let mut left_out = Vec::new();
        if *asked == Asked::Changed {
            let write = &mut |some: &[u8]| collect(&mut bytes, some);
            self.definition.encode_states(&touched, &mut left_out, write)?;
        }
        if let Some(clock) = &self.clock {
            self.watermark = clock.advance(self.watermark, tapped.latest);
        }
        if *asked != Asked::All && (ends || self.watermark.is_some()) {
            let up_to = self.watermark.filter(|_| !ends);
            let closed = view.close(up_to, &mut self.kept).map_err(query)?;
            if *asked == Asked::Closed {
                let write = &mut |some: &[u8]| collect(&mut bytes, some);
                self.definition.encode_entries(&closed, &mut left_out, write)?;
            }
        }
        let asked = *asked;
        self.log(&left_out);
        if let Some(judge) = &self.judge {
            let view = std::iter::once((&self.definition, None));
            judge.advance(Clock::marks(view, self.watermark));
        }
        if asked == Asked::All {
            return self.show_all(ends);
        }
        if (!bytes.is_empty() || ends) && !self.began {
            bytes.splice(0..0, self.definition.header());
            self.began = true;
        }
        self.show(&bytes)
    }

    /// The whole result again, after an empty line.
    fn show_all(&mut self, ends: bool) -> Result<()> {
        if !std::mem::take(&mut self.changed) && (self.began || !ends) {
            return Ok(());
        }
        let query = |problem: crate::engine::QueryError| Failure::Fatal(problem.into());
        let entries = self.definition.view.all(&self.kept).map_err(query)?;
        let mut bytes = if self.began { vec![b'\n'] } else { Vec::new() };
        let (result, left_out) = self.definition.result(entries)?;
        self.log(&left_out);
        bytes.extend(result);
        self.began = true;
        self.show(&bytes)
    }

    /// Each group once, however often it is left out.
    fn log(&mut self, left_out: &[LeftOut]) {
        for one in left_out {
            if self.left_out.insert(one.group.clone()) {
                self.definition.log(one);
            }
        }
    }

    fn show(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.output.write_all(bytes).and_then(|()| self.output.flush());
        written.map_err(|error| failed(error, "write the view"))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "others write to files")]
fn collect(bytes: &mut Vec<u8>, some: &[u8]) -> Result<()> {
    bytes.extend_from_slice(some);
    Ok(())
}

impl<Output: Write + Send> Delivery for Shown<Output> {
    fn records(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn begin(&mut self, _schema: &arrow_schema::SchemaRef) -> Result<()> {
        Ok(())
    }

    fn batch(&mut self, records: RecordBatch) -> Result<()> {
        self.bytes += records.get_array_memory_size();
        self.tap.take(records)?;
        if self.bytes > MICROBATCH_BYTES { self.advance(false) } else { Ok(()) }
    }

    fn reject(&mut self, reject: &Reject) -> Result<()> {
        self.rejected += 1;
        self.tolerance.admit(self.rejected, reject)?;
        let mut line = Vec::new();
        rejects::encode(b"-", reject, &mut line);
        tell(&mut self.errors, &line)
    }

    fn late(&mut self, record: &Late) -> Result<()> {
        let mut line = Vec::new();
        late::encode(b"-", record, &mut line);
        if !self.definition.view.has_sessions() {
            return tell(&mut self.errors, &line);
        }
        self.late.push(line);
        Ok(())
    }

    fn pause(&mut self) -> Result<()> {
        self.advance(false)
    }
}

/// Tells what is not in the output.
fn tell(errors: &mut impl Write, line: &[u8]) -> Result<()> {
    errors.write_all(line).map_err(|error| failed(error, "write the rejects"))
}
