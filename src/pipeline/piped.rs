//! An input that goes through a command.
//!
//! Invariants: both ends of the command are worked at once; what it writes are the records, and what
//! it says on its standard error are rejects.

use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use super::flow::{Delivery, Flow, Origin, Passed, deliver, unreadable};
use super::formats::decode_of;
use super::work::Work;
use crate::decode;
use crate::decode::blocks::Blocks;
use crate::decode::frame::{Block, Framer, Framing};
use crate::failure::{Failure, Result};
use crate::record::{Counts, Reject};
use crate::transform::Transform;
use crate::transform::command::{self, Bounds, Command, Ends};

/// The reason of a reject for a line that a command wrote to its standard error.
const COMPLAINT: &str = "standard error of the command";

impl Flow<'_> {
    /// A command sees the good records of the whole input; what it writes are the records.
    pub(super) fn run_command(
        &self,
        (command, origin): (&Command, Origin<'_>),
        work: Work<'_>,
        first: Option<Block>,
        input: Blocks<'_>,
        delivery: &mut dyn Delivery,
    ) -> Result<Passed> {
        let back = decode_of(self.encode);
        let (decoder, _) = back.decoder(&[], self.framing.max_record).map_err(Failure::Bad)?;
        let encode = self.encode;
        let taps = self.taps;
        let messages = self.messages;
        let collect_work =
            Work { decoder: &decoder, encode, messages, taps, copies: false, ..work };
        let framing = Framing { end_marker: None, ..self.framing.clone() };
        let shared = Mutex::new(delivery);
        let mut fed = Passed::default();
        let mut collected = Passed::default();
        let mut complaints = 0;
        let ends = Ends {
            feed: |pipe: &mut dyn Write| {
                // A file is read to its end whether or not the command does that: whether it is whole, and which
                // of its records are bad, does not depend on the command. A pipe may have no end.
                let is_file = origin.about.path.metadata().is_ok_and(|input| input.is_file());
                let drains = is_file || self.framing.end_marker.is_some();
                if self.passes_bytes() {
                    self.feed_bytes(input, pipe, drains, &mut fed)
                } else {
                    self.feed((work, drains), first, input, pipe, &shared, &mut fed)
                }
            },
            collect: |pipe: Box<dyn Read + Send + '_>| {
                self.collect(collect_work, pipe, &framing, &shared, &mut collected)
            },
            complain: |line: &[u8]| {
                complaints += 1;
                let reason = COMPLAINT.into();
                let raw = line.to_vec();
                let reject = Reject { line: None, reason, raw, truncated: false };
                locked(&shared).reject(&reject)
            },
        };
        let surroundings = (self.directory, origin.about);
        command::run(command, surroundings, self.bounds, self.pulse, ends)?;
        let rejected = fed.counts.rejected + collected.counts.rejected + complaints;
        let counts = Counts { written: collected.counts.written, rejected, ..fed.counts };
        Ok(Passed { counts, ..fed })
    }

    /// A command gets lines as they stand in the input, to the last byte; it may make something of what
    /// are no lines at all.
    pub fn passes_bytes(&self) -> bool {
        matches!(self.transform, Transform::Command(_))
            && matches!(self.decode, decode::Format::Lines {})
            && self.framing.end_marker.is_none()
    }

    /// Writes the input to the command as it is.
    fn feed_bytes(
        &self,
        mut input: Blocks<'_>,
        pipe: &mut dyn Write,
        drains: bool,
        passed: &mut Passed,
    ) -> Result<()> {
        let mut is_open = false;
        let mut reads_on = true;
        while let Some((bytes, paused)) = input.next_bytes().map_err(unreadable)? {
            self.check_stop()?;
            reads_on = reads_on && give(pipe, &bytes, paused)?;
            passed.lines += memchr::memchr_iter(b'\n', &bytes).count() as u64;
            is_open = bytes.last().is_some_and(|last| *last != b'\n');
            input.recycle(bytes);
            if !reads_on && !drains {
                break;
            }
        }
        passed.lines += u64::from(is_open);
        passed.counts.read = passed.lines;
        Ok(())
    }

    /// Decodes the input and writes the good records to the command.
    fn feed(
        &self,
        (work, drains): (Work<'_>, bool),
        mut first: Option<Block>,
        mut input: Blocks<'_>,
        pipe: &mut dyn Write,
        delivery: &Mutex<&mut dyn Delivery>,
        passed: &mut Passed,
    ) -> Result<()> {
        let mut reads_on = true;
        loop {
            let next = first.take().map_or_else(|| input.next_block(), |block| Ok(Some(block)));
            let Some(block) = next.map_err(unreadable)? else { return Ok(()) };
            self.check_stop()?;
            let mut worked = work.on(block, Vec::new())?;
            let records = std::mem::take(&mut worked.output);
            reads_on = reads_on && give(pipe, &records, worked.paused)?;
            deliver(&mut worked, &mut **locked(delivery), passed)?;
            let is_over = passed.ended && input.is_live();
            if is_over || !reads_on && !drains {
                return Ok(());
            }
        }
    }

    /// Reads what the command writes.
    fn collect(
        &self,
        work: Work<'_>,
        pipe: Box<dyn Read + Send + '_>,
        framing: &Framing,
        delivery: &Mutex<&mut dyn Delivery>,
        passed: &mut Passed,
    ) -> Result<()> {
        let mut framer = match self.bounds {
            Bounds::Microbatch => Framer::bounded(pipe, framing, u64::MAX),
            // Whatever a read gives should leave at once.
            Bounds::Stream => Framer::live(pipe, Box::new(|| false), framing),
        };
        while let Some(block) = framer.next_block().map_err(unreadable)? {
            let mut worked = work.on(block, Vec::new())?;
            for reject in &mut worked.rejects {
                reject.reason = format!("output of the command: {}", reject.reason).into();
                reject.line = None;
            }
            deliver(&mut worked, &mut **locked(delivery), passed)?;
        }
        Ok(())
    }
}

/// Writes to the command; false when it reads no more.
fn give(pipe: &mut dyn Write, bytes: &[u8], paused: bool) -> Result<bool> {
    let written = pipe.write_all(bytes).and_then(|()| if paused { pipe.flush() } else { Ok(()) });
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Transient(error.into())),
    }
}

fn locked<'a, 'b>(
    delivery: &'a Mutex<&'b mut dyn Delivery>,
) -> std::sync::MutexGuard<'a, &'b mut dyn Delivery> {
    delivery.lock().unwrap_or_else(PoisonError::into_inner)
}
