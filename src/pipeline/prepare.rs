//! One input to one microbatch: everything before the commit.
//!
//! Invariants: nothing of it can be seen from outside; dropped at any moment, it leaves no
//! trace but a staging file that the next start sweeps.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytesize::ByteSize;

use super::flow::{Delivery, Flow, Origin, Passed, unreadable};
use super::prepared::Prepared;
use super::views::{Closed, Tap, Tapped, Views};
use crate::clock::Backoff;
use crate::clock::now_ms;
use crate::decode::compression::{Compression, Kind};
use crate::decode::frame::{Framer, Reader};
use crate::encode::envelope::Envelope;
use crate::encode::rejects;
use crate::failure::{Failure, Result};
use crate::microbatch::{Microbatch, Target};
use crate::record::{self, Counts, Reject};
use crate::source::Input;
use crate::staging::{Stage, StagingArea};
use crate::transform::Transform;
use crate::transform::command::About;

/// The pauses between attempts of a command.
const ATTEMPTS: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_mins(1));

/// A pause is cut into such pieces, so that a stop is heard.
const SLICE: Duration = Duration::from_millis(20);

/// How many bad records a file may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// More than this many send the file to quarantine.
    pub records: u64,
    /// A larger share than this sends the file to quarantine.
    pub ratio: Option<f64>,
    /// An empty file is a bad one.
    pub refuse_empty: bool,
}

/// Everything needed to prepare a microbatch.
#[derive(Clone, Copy)]
pub struct Preparation<'a> {
    /// The path of the records.
    pub flow: Flow<'a>,
    /// Whether compressed files are recognised.
    pub compression: Compression,
    /// The drop folder.
    pub folder: &'a Path,
    /// How many of them may be bad.
    pub tolerance: Tolerance,
    /// Where output waits.
    pub staging: &'a StagingArea,
    /// Where the files of a columnar output wait: from there a rename makes them visible.
    pub parts: Option<&'a StagingArea>,
    /// The output.
    pub output: Target,
    /// The rejects.
    pub rejects: Target,
    /// The late records.
    pub late: Option<Target>,
    /// The continuous queries.
    pub views: &'a Views,
    /// Up to where they have closed windows without the watermark.
    pub closed: &'a Closed,
}

/// An input that did not become a microbatch, and why.
pub type NotPrepared = Box<(Input, Failure)>;

impl Preparation<'_> {
    /// Prepares the microbatch of one input. A bad file becomes one too: it goes to quarantine.
    /// Its records are judged by this watermark.
    pub fn prepare(
        &self,
        input: Input,
        watermark: Option<i64>,
    ) -> std::result::Result<Prepared, NotPrepared> {
        let made = match self.attempt(&input, watermark) {
            Err(Failure::Incomplete(reason)) if input.grace_over => Err(Failure::Bad(reason)),
            made => made,
        };
        let made = match made {
            Err(Failure::Bad(reason)) => quarantined(&input, record::reason(reason))
                .map(|batch| (batch, false, Tapped::default())),
            made => made,
        };
        match made {
            Ok((batch, ended, tapped)) => {
                let discarded = Vec::new();
                Ok(Prepared { input, batch, ended, tapped, watermark, discarded })
            }
            Err(failure) => Err(Box::new((input, failure))),
        }
    }

    /// A command that fails is tried again as often as its job says.
    fn attempt(&self, input: &Input, watermark: Option<i64>) -> Result<(Microbatch, bool, Tapped)> {
        let attempts = match self.flow.transform {
            Transform::Command(command) => command.attempts,
            _ => 1,
        };
        let mut pauses = ATTEMPTS;
        for _ in 1..attempts {
            match self.make(input, watermark) {
                Err(Failure::Bad(reason)) => {
                    let file = crate::telemetry::text(input.name());
                    let reason = record::reason(reason);
                    tracing::warn!(file, reason, "the command failed; trying again");
                }
                made => return made,
            }
            self.rest(pauses.fail())?;
        }
        self.make(input, watermark)
    }

    /// Waits, and hears a stop meanwhile.
    fn rest(&self, pause: Duration) -> Result<()> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            self.flow.check_stop()?;
            std::thread::sleep(SLICE);
        }
        Ok(())
    }

    fn make(&self, input: &Input, watermark: Option<i64>) -> Result<(Microbatch, bool, Tapped)> {
        let size = input.size();
        if size == 0 && self.tolerance.refuse_empty {
            return Err(Failure::Bad("the file is empty".to_owned()));
        }
        let name = input.name().as_encoded_bytes();
        let at_ms = now_ms();
        let mut hash = blake3::Hasher::new();
        let judge = self.views.judge(at_ms, watermark, self.closed);
        let messages = self.flow.messages.map(|messages| messages.of_input(name.len()));
        let flow = Flow { judge: judge.as_deref(), messages: messages.as_ref(), ..self.flow };
        let mut staged = Staged {
            name,
            envelope: Envelope::new(self.flow.encode),
            tap: self.views.tap(judge.clone()),
            output: self.parts.map_or_else(|| Stage::new(self.staging), Stage::of_file),
            rejects: Stage::new(self.staging),
            late: Stage::new(self.staging),
            rejected: 0,
            missed: 0,
            tolerance: self.tolerance,
            line: Vec::new(),
        };
        let file = String::from_utf8_lossy(name);
        let path = self.folder.join(input.name());
        let microbatch = Some(input.expected);
        let about = About { file: input.name(), path: &path, microbatch };
        let origin = Origin { file: &file, now_ms: at_ms, about };
        let passed = self.read(input, &flow, origin, &mut hash, &mut staged)?;
        if passed.counts.written > 0 {
            staged.end()?;
        }
        let tapped = staged.tap.finish()?;
        self.tolerance.check(&passed)?;
        if !input.is_unchanged().map_err(Failure::Unreadable)? {
            return Err(Failure::Changed);
        }
        let mut additions = Vec::with_capacity(1);
        let stages = [(Some(self.output), staged.output), (Some(self.rejects), staged.rejects)];
        for (target, stage) in stages.into_iter().chain([(self.late, staged.late)]) {
            let Some(target) = target else { continue };
            additions.extend(stage.finish(target)?);
        }
        let identity = input.identity(*hash.finalize().as_bytes());
        let batch = Microbatch {
            additions,
            ends: passed.ended,
            counts: Counts { late: staged.missed, ..passed.counts },
            progress: input.progress().to_vec(),
            waited_ms: u64::try_from(input.waited().as_millis()).unwrap_or(u64::MAX),
            ..Microbatch::empty(input.name().to_owned(), identity, at_ms)
        };
        Ok((batch, passed.ended, tapped))
    }

    /// Runs the flow over the records of an input.
    fn read(
        &self,
        input: &Input,
        flow: &Flow<'_>,
        origin: Origin<'_>,
        hash: &mut blake3::Hasher,
        staged: &mut Staged<'_>,
    ) -> Result<Passed> {
        let size = input.size();
        if self.flow.decode.needs_file() {
            let (file, _) = input.opened().ok_or_else(|| Failure::fatal("messages are no file"))?;
            let mut whole = Whole { input, hash, left: size, at: 0 };
            io::copy(&mut whole, &mut io::sink()).map_err(unreadable)?;
            let blocks = self
                .flow
                .decode
                .open(file, size)
                .map_err(unreadable)?
                .ok_or_else(|| Failure::fatal("a format lost its file"))?;
            flow.run(blocks, origin, staged)
        } else {
            let whole = Whole { input, hash, left: size, at: 0 };
            let (reader, about) = self.plain(input, whole)?;
            let framer = Framer::bounded(reader, self.flow.framing, about);
            flow.run(framer.into(), origin, staged)
        }
    }

    /// The plain bytes of an input, and about how many.
    fn plain<'a>(&self, input: &Input, whole: Whole<'a>) -> Result<(Reader<'a>, u64)> {
        let Some((file, _)) = input.opened() else { return Ok((Box::new(whole), input.size())) };
        let kind = Kind::of_file(file).map_err(Failure::Unreadable)?;
        if kind == Kind::Plain && Kind::of_name(input.name()) == Kind::Plain {
            return Ok((Box::new(whole), input.size()));
        }
        let reader = self.compression.read(input.name(), whole, self.flow.passes_bytes());
        Ok((reader.map_err(unreadable)?, u64::MAX))
    }
}

/// The microbatch of a file that goes to quarantine.
fn quarantined(input: &Input, reason: String) -> Result<Microbatch> {
    let hash = input.hash().map_err(unreadable)?;
    if !input.is_unchanged().map_err(Failure::Unreadable)? {
        return Err(Failure::Changed);
    }
    let identity = input.identity(hash);
    let batch = Microbatch::empty(input.name().to_owned(), identity, now_ms());
    let progress = input.progress().to_vec();
    Ok(Microbatch { quarantined: Some(reason), progress, ..batch })
}

impl Tolerance {
    /// Refuses the file when its bad records, of which this is one, are `rejected` by now and that
    /// is too many.
    pub fn admit(&self, rejected: u64, reject: &Reject) -> Result<()> {
        if rejected <= self.records {
            return Ok(());
        }
        let line = reject.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let raw = crate::telemetry::escaped(reject.raw.get(..200).unwrap_or(&reject.raw));
        let count = match self.records {
            0 => String::new(),
            allowed => format!(", and more than {allowed} records are bad"),
        };
        Err(Failure::Bad(format!("{line}{}: {raw}{count}", reject.reason)))
    }

    /// Refuses the file when too large a share of its records is bad.
    pub fn check(&self, passed: &Passed) -> Result<()> {
        let Some(allowed) = self.ratio else { return Ok(()) };
        #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
        let ratio = passed.counts.rejected as f64 / passed.counts.read.max(1) as f64;
        if ratio <= allowed {
            return Ok(());
        }
        let Counts { rejected, read, .. } = passed.counts;
        Err(Failure::Bad(format!(
            "{rejected} of {read} records are bad, more than the share of {allowed} that is allowed"
        )))
    }
}

/// The bytes of an input as far as it went when it was found complete, hashed as they are read.
struct Whole<'a> {
    input: &'a Input,
    hash: &'a mut blake3::Hasher,
    left: u64,
    at: u64,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(space) = buffer.get_mut(..want).filter(|space| !space.is_empty()) else {
            return Ok(0);
        };
        // A file may take very long, in one record or only to be hashed.
        crate::pulse::alive()?;
        let got = self.input.read_at(space, self.at)?;
        self.hash.update(space.get(..got).unwrap_or_default());
        (self.left, self.at) = (self.left - got as u64, self.at + got as u64);
        Ok(got)
    }
}

/// A delivery into staging.
struct Staged<'a> {
    name: &'a [u8],
    envelope: Envelope,
    tap: Tap,
    output: Stage<'a>,
    rejects: Stage<'a>,
    late: Stage<'a>,
    rejected: u64,
    /// Records that a view has missed, once for each view.
    missed: u64,
    tolerance: Tolerance,
    line: Vec<u8>,
}

impl Staged<'_> {
    fn end(&mut self) -> Result<()> {
        let end = self.envelope.end().map_err(Failure::Bad)?;
        staged(&mut self.output, &end)
    }
}

/// Stages bytes. A file that alone fills the disk is no reason to take no other.
fn staged(stage: &mut Stage<'_>, bytes: &[u8]) -> Result<()> {
    let before = stage.written();
    stage.write(bytes).map_err(|error| {
        if error.is_no_room() && before > 0 {
            let made = ByteSize(before);
            Failure::NoRoom(format!(
                "its records have more than {made}, and the disk is full: {error}"
            ))
        } else {
            error.into()
        }
    })
}

impl Delivery for Staged<'_> {
    fn begin(&mut self, schema: &SchemaRef) -> Result<()> {
        let header = self.envelope.begin(schema).map_err(Failure::Bad)?;
        self.output.begin(&header);
        Ok(())
    }

    fn batch(&mut self, records: RecordBatch) -> Result<()> {
        let bytes = self.envelope.encode(&records).map_err(Failure::Bad)?;
        staged(&mut self.output, &bytes)?;
        self.tap.take(records)
    }

    fn records(&mut self, bytes: &[u8]) -> Result<()> {
        staged(&mut self.output, bytes)
    }

    fn reject(&mut self, reject: &Reject) -> Result<()> {
        self.rejected += 1;
        self.tolerance.admit(self.rejected, reject)?;
        self.line.clear();
        rejects::encode(self.name, reject, &mut self.line);
        staged(&mut self.rejects, &self.line)
    }

    fn late(&mut self, late: &crate::record::Late) -> Result<()> {
        self.missed += 1;
        self.tap.note_late(late.number);
        self.line.clear();
        crate::encode::late::encode(self.name, late, &mut self.line);
        staged(&mut self.late, &self.line)
    }
}
