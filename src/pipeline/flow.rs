//! Decode, transform, encode: what the three drivers share, in data order.
//!
//! Invariants: the same records give the same bytes whichever driver runs them, however the
//! input is cut into blocks and however many threads work on them; blocks leave in the order in
//! which they came. Memory is bounded by the blocks in flight.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::formats::{is_alike, sink_of};
use super::work::{self, Task, Work, Worked};
use crate::decode::Decoder;
use crate::decode::blocks::Blocks;
use crate::decode::frame::{Block, Framing, Kind};
use crate::encode::message::Messages;
use crate::engine::{Query, Ready};
use crate::event_time::Judge;
use crate::failure::{Failure, Result};
use crate::pulse::Pulse;
use crate::record::{Counts, Late, Reject};
use crate::transform::Transform;
use crate::transform::command::{About, Bounds};
use crate::{decode, encode};

/// The work that a job does on records.
#[derive(Clone, Copy)]
pub struct Flow<'a> {
    /// Bytes to records.
    pub decode: &'a decode::Format,
    /// Records to records.
    pub transform: &'a Transform,
    /// The query, where the transform is one.
    pub query: Option<&'a Query>,
    /// Records to bytes.
    pub encode: encode::Format,
    /// Each record is sent as a message.
    pub messages: Option<&'a Messages>,
    /// The delivery wants the records too, besides their bytes.
    pub taps: bool,
    /// The judge of the records, where event time matters.
    pub judge: Option<&'a Judge>,
    /// How the input is framed.
    pub framing: &'a Framing,
    /// Threads that work on a large input.
    pub workers: usize,
    /// Where a command runs.
    pub directory: &'a Path,
    /// Whether a command has time limits.
    pub bounds: Bounds,
    /// Heartbeat and stop flag.
    pub pulse: &'a Pulse,
}

/// Metadata about an input that a query may use.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The name of the file.
    pub file: &'a str,
    /// The value of `now()`, in milliseconds since 1970.
    pub now_ms: i64,
    /// Metadata for a command.
    pub about: About<'a>,
}

/// Where the results of a flow go, in order.
pub trait Delivery: Send {
    /// Takes encoded records.
    fn records(&mut self, bytes: &[u8]) -> Result<()>;

    /// Records of this schema come.
    fn begin(&mut self, schema: &SchemaRef) -> Result<()> {
        let _ = schema;
        Ok(())
    }

    /// Takes records that are not encoded: where a query asked to keep them, and for a columnar
    /// output.
    fn batch(&mut self, records: RecordBatch) -> Result<()> {
        drop(records);
        Err(Failure::fatal("internal error: unexpected records, please report this"))
    }

    /// Takes a bad record, its line counted from the beginning of the input.
    fn reject(&mut self, reject: &Reject) -> Result<()>;

    /// Takes a record that a view has missed, its line counted from the beginning of the input.
    fn late(&mut self, late: &Late) -> Result<()> {
        let _ = late;
        Err(Failure::fatal("internal error: a late record without a view, please report this"))
    }

    /// The input pauses: what was taken should leave.
    fn pause(&mut self) -> Result<()> {
        Ok(())
    }

    /// So much of the input has been delivered by now.
    fn counted(&mut self, passed: &Passed) {
        let _ = passed;
    }
}

/// The outcome of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// The records.
    pub counts: Counts,
    /// Physical lines read.
    pub lines: u64,
    /// True when the end marker was found.
    pub ended: bool,
}

/// Channels to and from a worker thread.
type Lane = (SyncSender<Task>, Receiver<Result<Worked>>);

impl Flow<'_> {
    /// Runs the whole input through.
    pub fn run(
        &self,
        mut input: Blocks<'_>,
        origin: Origin<'_>,
        delivery: &mut dyn Delivery,
    ) -> Result<Passed> {
        if input.schema().is_none() && self.decode.schema().is_none() {
            // An empty file, where each file brings its own columns.
            return Ok(Passed::default());
        }
        let query = self
            .query
            .map(|query| query.at(origin.now_ms, input.schema()))
            .transpose()
            .map_err(work::failure)?;
        if query.as_ref().is_some_and(Ready::wants_position)
            || self.messages.is_some_and(|messages| messages.line)
        {
            input.count_lines();
        }
        self.announce(query.as_ref(), &input, delivery)?;
        let mut passed = Passed::default();
        let passes = matches!(self.transform, Transform::Command(_));
        let (first, decoder) = if self.passes_bytes() {
            (None, Decoder::Lines)
        } else {
            self.begin(&mut input, &mut passed)?
        };
        let transform = if passes { &Transform::None {} } else { self.transform };
        let encode = if passes { sink_of(self.decode) } else { self.encode };
        // A query may stand where the transform says nothing: it makes what is owed at the end.
        let passes_on = matches!(transform, Transform::None {}) && query.is_none();
        let copies = passes_on && self.messages.is_none() && is_alike(self.decode, encode);
        let work = Work {
            decoder: &decoder,
            transform,
            query: query.as_ref().map(|query| (query, origin.file)),
            encode,
            messages: self.messages.filter(|_| !passes),
            copies,
            max_record: self.framing.max_record,
            keeps: false,
            taps: self.taps && !passes,
            judge: self.judge,
        };
        match (self.transform, &query) {
            (Transform::Command(command), _) => {
                self.run_command((command, origin), work, first, input, delivery)
            }
            (_, Some(query)) if Self::runs_once(query, &input) => {
                self.run_whole(query, work, first, &mut input, delivery, passed)
            }
            _ => self.run_blocks(work, first, &mut input, delivery, &mut passed).map(|()| passed),
        }
    }

    /// Tells the delivery which columns come. What a command writes has none.
    fn announce(
        &self,
        query: Option<&Ready<'_>>,
        input: &Blocks<'_>,
        delivery: &mut dyn Delivery,
    ) -> Result<()> {
        let schema = match (self.transform, query) {
            (Transform::Command(_), _) => None,
            (_, Some(query)) => Some(query.schema()),
            _ => input.schema().cloned().or_else(|| self.decode.schema()),
        };
        let Some(schema) = schema else { return Ok(()) };
        // Columns that the job does not name could not be checked before.
        let refused = input.schema().and_then(|brought| {
            self.transform
                .refuses(brought)
                .or_else(|| self.encode.refuses(&schema))
                .or_else(|| self.messages?.refuses(&schema).map(|(_, reason)| reason))
        });
        refused.map_or_else(|| delivery.begin(&schema), |reason| Err(Failure::Bad(reason)))
    }

    /// Decodes the whole input, and delivers the records as they are.
    pub fn read(&self, mut input: Blocks<'_>, delivery: &mut dyn Delivery) -> Result<Passed> {
        let mut passed = Passed::default();
        let (first, decoder) = self.begin(&mut input, &mut passed)?;
        let (transform, encode, max_record) =
            (self.transform, self.encode, self.framing.max_record);
        let work = Work {
            decoder: &decoder,
            transform,
            query: None,
            encode,
            messages: None,
            copies: false,
            max_record,
            keeps: true,
            taps: false,
            judge: None,
        };
        self.run_blocks(work, first, &mut input, delivery, &mut passed)?;
        Ok(passed)
    }

    /// The first block with records, and the decoder for what it begins with.
    fn begin(
        &self,
        input: &mut Blocks<'_>,
        passed: &mut Passed,
    ) -> Result<(Option<Block>, Decoder)> {
        loop {
            let mut first = input.next_block().map_err(unreadable)?;
            if let Some(decoder) = self.decoder(first.as_mut(), passed)? {
                return Ok((first, decoder));
            }
        }
    }

    /// The decoder for an input that begins with this block, which loses its header; `None` while
    /// the header is still to come.
    fn decoder(&self, first: Option<&mut Block>, passed: &mut Passed) -> Result<Option<Decoder>> {
        let max_record = self.framing.max_record;
        let Some(block) = first else {
            let (decoder, _) = self.decode.decoder(&[], max_record).map_err(Failure::Bad)?;
            return Ok(Some(decoder));
        };
        let is_records = block.kind == Kind::Records;
        let bytes: &[u8] = if is_records { &block.bytes } else { &[] };
        let (decoder, header) = self.decode.decoder(bytes, max_record).map_err(Failure::Bad)?;
        if header.is_missing && block.kind == Kind::TooLong {
            return Err(Failure::Bad("the header is longer than max_record".to_owned()));
        }
        if header.is_missing && is_records {
            passed.lines += header.lines;
            return Ok(None);
        }
        if is_records {
            block.bytes.drain(..header.bytes);
            block.lines_before += header.lines;
            passed.lines += header.lines;
        }
        Ok(Some(decoder))
    }

    /// One block is worked on here; when more follow, on all workers.
    pub(super) fn run_blocks(
        &self,
        work: Work<'_>,
        mut first: Option<Block>,
        input: &mut Blocks<'_>,
        delivery: &mut dyn Delivery,
        passed: &mut Passed,
    ) -> Result<()> {
        loop {
            let next = first.take().map_or_else(|| input.next_block(), |block| Ok(Some(block)));
            let Some(block) = next.map_err(unreadable)? else { return Ok(()) };
            self.check_stop()?;
            if input.is_live() || input.is_at_end() || self.workers == 1 {
                deliver(&mut work.on(block, Vec::new())?, delivery, passed)?;
                if passed.ended && input.is_live() {
                    return Ok(());
                }
            } else {
                self.run_parallel(work, block, input, delivery, passed)?;
            }
        }
    }

    /// Block n goes to worker n modulo their number, and its result is collected from there: so
    /// the results come in order by themselves.
    fn run_parallel(
        &self,
        work: Work<'_>,
        first: Block,
        input: &mut Blocks<'_>,
        delivery: &mut dyn Delivery,
        passed: &mut Passed,
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let lanes = (0..self.workers).map_while(|_| {
                let (give, take) = sync_channel::<Task>(1);
                let (done, collect) = sync_channel(1);
                let labour = move || {
                    for Task { block, output } in take {
                        if done.send(work.on(block, output)).is_err() {
                            break;
                        }
                    }
                };
                // With fewer threads than wanted it is slower, and no less right.
                let started = std::thread::Builder::new().spawn_scoped(scope, labour);
                started.is_ok().then_some((give, collect))
            });
            let lanes: Vec<_> = lanes.collect();
            if lanes.is_empty() {
                return Err(Failure::Transient(anyhow::anyhow!("no thread can be started")));
            }
            self.pump(&lanes, first, input, delivery, passed)
        })
    }

    fn pump(
        &self,
        lanes: &[Lane],
        first: Block,
        input: &mut Blocks<'_>,
        delivery: &mut dyn Delivery,
        passed: &mut Passed,
    ) -> Result<()> {
        let dead = || Failure::fatal("a worker thread died");
        let mut given = 0;
        let mut collected = 0;
        let mut next = Some(first);
        let mut output = Vec::new();
        while next.is_some() || collected < given {
            self.check_stop()?;
            // Two in each lane: one at work, one waiting.
            let full = given - collected >= 2 * lanes.len();
            if full || next.is_none() {
                let (_, collect) = lane(lanes, collected)?;
                let mut worked = collect.recv().map_err(|_| dead())??;
                deliver(&mut worked, delivery, passed)?;
                input.recycle(worked.input);
                output = worked.output;
                collected += 1;
                continue;
            }
            if let Some(block) = next.take() {
                let (give, _) = lane(lanes, given)?;
                let output = std::mem::take(&mut output);
                give.send(Task { block, output }).map_err(|_| dead())?;
                given += 1;
                next = input.next_block().map_err(unreadable)?;
            }
        }
        Ok(())
    }

    pub(super) fn check_stop(&self) -> Result<()> {
        self.pulse.beat();
        if self.pulse.must_stop() { Err(Failure::Stopped) } else { Ok(()) }
    }
}

pub(super) fn deliver(
    worked: &mut Worked,
    delivery: &mut dyn Delivery,
    passed: &mut Passed,
) -> Result<()> {
    let rejected = worked.rejects.len() as u64;
    for reject in &mut worked.rejects {
        reject.line = reject.line.map(|line| line + passed.lines);
        delivery.reject(reject)?;
    }
    for late in &mut worked.late {
        late.line = late.line.map(|line| line + passed.lines);
        delivery.late(late)?;
    }
    if !worked.output.is_empty() {
        delivery.records(&worked.output)?;
    }
    if let Some(records) = worked.batch.take() {
        delivery.batch(records)?;
    }
    passed.counts.read += worked.records + rejected;
    passed.counts.written += worked.written;
    passed.counts.rejected += rejected;
    passed.lines += worked.lines;
    passed.ended |= worked.kind == Kind::EndMarker;
    delivery.counted(passed);
    if worked.paused { delivery.pause() } else { Ok(()) }
}

fn lane(lanes: &[Lane], number: usize) -> Result<&Lane> {
    let lane = lanes.get(number % lanes.len().max(1));
    lane.ok_or_else(|| Failure::fatal("there are no worker threads"))
}

/// Classifies an error of the input: the system's own errors are transient, the decoder's are not.
pub fn unreadable(error: io::Error) -> Failure {
    if crate::pulse::is_stopped(&error) {
        Failure::Stopped
    } else if decode::compression::is_truncation(&error) {
        Failure::Incomplete(format!("ends in the middle: {error}"))
    } else if error.raw_os_error().is_some() {
        Failure::Unreadable(error)
    } else {
        Failure::Bad(format!("cannot be read: {error}"))
    }
}
