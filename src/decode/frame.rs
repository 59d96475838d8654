//! Cuts a byte stream into blocks that end where a record ends.
//!
//! Invariants: every byte of the input is in exactly one block, in order; a block of records
//! ends with a line feed or at the end of the input; memory is bounded by the block size and
//! `max_record`, whatever the input holds. What is in a record is the format's business.

use std::borrow::Cow;
use std::io::{ErrorKind, Read, Result};

use arrow_array::RecordBatch;
use memchr::{memchr, memchr_iter, memmem, memrchr};

use super::quotes::Dialect;
use crate::record::{REJECT_RAW_BYTES, Reject};

/// Bytes in a block where memory allows it. Smaller ones cost more hand-overs between threads; larger
/// ones leave a second core idle for longer at the end of a file.
const BLOCK_BYTES_MAX: usize = 1024 * 1024;

/// Bytes in a block at least.
const BLOCK_BYTES_MIN: usize = 64 * 1024;

/// Memory that a block may come to: a block of one-byte records that are all rejects takes about
/// fifty times its size, and each worker has two in flight and one on either side.
const MEMORY_PER_BLOCK_BYTE: u64 = 256;

/// The reason of a reject for a record over `input.max_record`.
pub const TOO_LONG: &str = "record longer than max_record";

/// The rules of framing for one job.
#[derive(Debug, Clone)]
pub struct Framing {
    /// Longest record in bytes.
    pub max_record: usize,
    /// The record that ends the job, without its line end.
    pub end_marker: Option<Vec<u8>>,
    /// Skip a UTF-8 byte order mark at the beginning.
    pub skip_byte_order_mark: bool,
    /// Bytes in a block of a large input.
    pub block_bytes: usize,
    /// Line ends in quoted fields end no record.
    pub dialect: Option<Dialect>,
}

impl Framing {
    /// For a small file that is read as a whole.
    pub fn whole(dialect: Option<Dialect>) -> Self {
        Self {
            max_record: BLOCK_BYTES_MAX,
            end_marker: None,
            skip_byte_order_mark: true,
            block_bytes: BLOCK_BYTES_MAX,
            dialect,
        }
    }
}

/// The block size with which `workers` stay within `memory` bytes, whatever the input.
pub fn block_bytes(memory: u64, workers: usize) -> usize {
    let bytes = memory / MEMORY_PER_BLOCK_BYTE / workers.max(1) as u64;
    usize::try_from(bytes).unwrap_or(usize::MAX).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX)
}

/// The kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whole records.
    Records,
    /// The beginning of one record that is longer than `max_record`; it counts as one line.
    TooLong,
    /// The record that ends the job; one line, no data.
    EndMarker,
    /// Whole records that stand after the end marker.
    AfterEnd,
}

/// A piece of the input.
#[derive(Debug)]
pub struct Block {
    /// Its kind.
    pub kind: Kind,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its records, where they come decoded; then there are no bytes.
    pub records: Option<RecordBatch>,
    /// True when the input has nothing more for now: what is in flight should leave.
    pub paused: bool,
    /// Lines before it, where [`Framer::count_lines`] was asked for.
    pub lines_before: u64,
}

/// Tells whether a read would give something at once; only a live stream has one.
pub type IsReady<'a> = Box<dyn Fn() -> bool + Send + 'a>;

/// Where bytes come from.
pub type Reader<'a> = Box<dyn Read + Send + 'a>;

/// The blocks of one input.
pub struct Framer<'a> {
    reader: Reader<'a>,
    ready: Option<IsReady<'a>>,
    framing: &'a Framing,
    /// Bytes that were read and not given out yet.
    pending: Vec<u8>,
    /// An empty buffer to go on with.
    spare: Vec<u8>,
    block_bytes: usize,
    state: State,
    at_start: bool,
    at_end: bool,
    counts_lines: bool,
    lines: u64,
}

/// Where in the input the framer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Among records.
    Records,
    /// In a record that is too long; what follows it is records.
    Skipping,
    /// Behind the end marker.
    Ended,
    /// In a record that is too long, after the end marker.
    SkippingEnded,
}

impl<'a> Framer<'a> {
    /// Frames a bounded input of about `size` bytes.
    pub fn bounded(reader: Reader<'a>, framing: &'a Framing, size: u64) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Self::new(reader, None, framing, framing.block_bytes.min(size.max(512)))
    }

    /// Frames a live stream: a block is given out as soon as `ready` says that a read would wait.
    pub fn live(reader: Reader<'a>, ready: IsReady<'a>, framing: &'a Framing) -> Self {
        Self::new(reader, Some(ready), framing, framing.block_bytes)
    }

    fn new(
        reader: Reader<'a>,
        ready: Option<IsReady<'a>>,
        framing: &'a Framing,
        block_bytes: usize,
    ) -> Self {
        Self {
            reader,
            ready,
            framing,
            pending: Vec::new(),
            spare: Vec::new(),
            block_bytes,
            at_start: true,
            at_end: false,
            state: State::Records,
            counts_lines: false,
            lines: 0,
        }
    }

    /// Takes back the buffer of a block that is done: a new one for each would cost page faults.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare = buffer;
    }

    /// From now on blocks say on which line they begin.
    pub fn count_lines(&mut self) {
        self.counts_lines = true;
    }

    /// True for a live stream.
    pub fn is_live(&self) -> bool {
        self.ready.is_some()
    }

    /// True when all blocks have been given out.
    pub fn is_at_end(&self) -> bool {
        self.at_end && self.pending.is_empty()
    }

    /// The next block, or `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<Block>> {
        loop {
            self.skip_to_line_end()?;
            let paused = self.fill_unless_whole()?;
            let cut = if self.at_end { self.pending.len() } else { self.last_record_end() };
            if cut > 0 {
                return Ok(Some(self.cut(cut, paused)));
            }
            if self.at_end {
                return Ok(None);
            }
            // One more, for the carriage return that may belong to the line end.
            if self.pending.len() > self.framing.max_record.saturating_add(1) {
                return Ok(Some(self.too_long()));
            }
        }
    }

    /// The next bytes as they stand in the input, whatever its records are, and whether the input has
    /// nothing more for now; `None` at the end.
    pub fn next_bytes(&mut self) -> Result<Option<(Vec<u8>, bool)>> {
        if self.pending.is_empty() {
            self.at_end = self.read_some(self.block_bytes)? == 0;
        }
        if self.pending.is_empty() {
            return Ok(None);
        }
        let rest = std::mem::take(&mut self.spare);
        let bytes = std::mem::replace(&mut self.pending, rest);
        Ok(Some((bytes, self.ready.as_ref().is_some_and(|ready| !ready()))))
    }

    fn last_record_end(&self) -> usize {
        match self.framing.dialect.filter(|_| !self.has_ended()) {
            Some(dialect) => dialect.last_end(&self.pending, self.framing.max_record),
            None => memrchr(b'\n', &self.pending).map_or(0, |at| at + 1),
        }
    }

    /// A live stream must not be read while a whole record waits: the end marker cuts blocks short.
    fn fill_unless_whole(&mut self) -> Result<bool> {
        match &self.ready {
            Some(ready) if self.last_record_end() > 0 => Ok(!ready()),
            _ => self.fill(),
        }
    }

    /// Reads until a block is full, the input pauses or ends, or a record is too long.
    fn fill(&mut self) -> Result<bool> {
        let mut paused = false;
        let more = (self.block_bytes / 2).max(1);
        let target = self.block_bytes.max(self.pending.len() + more);
        while !self.at_end && !paused && self.pending.len() < target {
            let want = target - self.pending.len();
            let got = self.read_some(want)?;
            self.at_end = got == 0;
            paused = !self.at_end && self.ready.as_ref().is_some_and(|ready| !ready());
        }
        let mark = b"\xef\xbb\xbf";
        let undecided = !self.at_end && self.pending.len() < 3 && mark.starts_with(&self.pending);
        if self.at_start && !undecided {
            self.at_start = false;
            if self.framing.skip_byte_order_mark && self.pending.starts_with(mark) {
                self.pending.drain(..3);
            }
        }
        Ok(paused)
    }

    fn read_some(&mut self, want: usize) -> Result<usize> {
        let have = self.pending.len();
        if self.ready.is_none() {
            self.pending.reserve(want);
            let want = u64::try_from(want).unwrap_or(u64::MAX);
            return self.reader.by_ref().take(want).read_to_end(&mut self.pending);
        }
        self.pending.resize(have + want.min(64 * 1024), 0);
        loop {
            let (_, space) = self.pending.split_at_mut(have);
            match self.reader.read(space) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => {
                    self.pending.truncate(have + result.as_ref().map_or(0, |got| *got));
                    return result;
                }
            }
        }
    }

    /// Takes the first `cut` bytes as a block, unless the end marker stands in them.
    fn cut(&mut self, mut cut: usize, paused: bool) -> Block {
        let mut kind = if self.has_ended() { Kind::AfterEnd } else { Kind::Records };
        if let Some((from, to)) = self.find_end_marker(cut) {
            if from == 0 {
                (cut, kind, self.state) = (to, Kind::EndMarker, State::Ended);
            } else {
                cut = from;
            }
        }
        let mut rest = std::mem::take(&mut self.spare);
        rest.extend_from_slice(self.pending.get(cut..).unwrap_or_default());
        let mut bytes = std::mem::replace(&mut self.pending, rest);
        bytes.truncate(cut);
        let more = memchr(b'\n', &self.pending).is_some();
        let lines_before = self.lines;
        if self.counts_lines {
            self.lines += lines_in(&bytes);
        }
        Block { kind, bytes, records: None, paused: paused && !more, lines_before }
    }

    fn find_end_marker(&self, cut: usize) -> Option<(usize, usize)> {
        let marker = self.framing.end_marker.as_ref().filter(|_| !self.has_ended())?;
        let block = self.pending.get(..cut)?;
        let limit = self.framing.max_record;
        // A record begins at `start`: what is before it is not looked at again.
        let mut behind = 0;
        let mut start = 0;
        loop {
            let (from, to) = find_record(block.get(behind..)?, marker)?;
            let from = from + behind;
            let to = to + behind;
            start = match self.framing.dialect {
                Some(dialect) if start < from => dialect.begin_from(block, start, from, limit),
                Some(_) => start,
                None => from,
            };
            if start == from {
                return Some((from, to));
            }
            behind = to;
        }
    }

    fn too_long(&mut self) -> Block {
        self.state = if self.has_ended() { State::SkippingEnded } else { State::Skipping };
        let mut bytes = std::mem::take(&mut self.pending);
        bytes.truncate(self.framing.max_record);
        bytes.shrink_to_fit();
        let lines_before = self.lines;
        self.lines += lines_too_long(&bytes);
        Block { kind: Kind::TooLong, bytes, records: None, paused: false, lines_before }
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended | State::SkippingEnded)
    }

    /// Drops the rest of a record that is too long, if in one.
    fn skip_to_line_end(&mut self) -> Result<()> {
        let next = match self.state {
            State::Skipping => State::Records,
            State::SkippingEnded => State::Ended,
            State::Records | State::Ended => return Ok(()),
        };
        while !self.at_end {
            if let Some(at) = memchr(b'\n', &self.pending) {
                self.pending.drain(..=at);
                break;
            }
            self.pending.clear();
            self.at_end = self.read_some(self.block_bytes)? == 0;
        }
        self.state = next;
        Ok(())
    }
}

/// The lines of a record of which this is the beginning: quoted fields may hold line ends.
pub fn lines_too_long(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64 + 1
}

/// The physical lines in these bytes.
pub fn lines_in(bytes: &[u8]) -> u64 {
    let unterminated = bytes.last().is_some_and(|byte| *byte != b'\n');
    memchr_iter(b'\n', bytes).count() as u64 + u64::from(unterminated)
}

/// Where the record `wanted` stands in `bytes`: its beginning and the beginning of the next.
pub fn find_record(bytes: &[u8], wanted: &[u8]) -> Option<(usize, usize)> {
    memmem::find_iter(bytes, wanted).find_map(|from| {
        let (before, found) = bytes.split_at_checked(from)?;
        let behind = found.get(wanted.len()..)?;
        let starts = before.last().is_none_or(|byte| *byte == b'\n');
        let length = match behind {
            [] => 0,
            [b'\n', ..] | [b'\r'] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return None,
        };
        starts.then_some((from, from + wanted.len() + length))
    })
}

/// The lines of a block with their numbers from 1, without line ends (`\n` or `\r\n`).
pub fn lines(block: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let unterminated = (!block.is_empty() && block.last() != Some(&b'\n')).then_some(block.len());
    let mut start = 0;
    memchr_iter(b'\n', block).chain(unterminated).zip(1..).map(move |(end, number)| {
        let line = block.get(start..end).unwrap_or_default();
        start = end + 1;
        (number, line.strip_suffix(b"\r").unwrap_or(line))
    })
}

/// The reject for a record of which `raw` is all, or the beginning.
pub fn reject(line: u64, reason: impl Into<Cow<'static, str>>, raw: &[u8]) -> Reject {
    Reject { line: Some(line), reason: reason.into(), raw: raw.to_vec(), truncated: false }
}

/// The reject for a record over `max_record`; only its beginning is kept, of a length that does not
/// depend on how much of the record was read.
pub fn reject_too_long(line: u64, raw: &[u8], max_record: usize) -> Reject {
    let raw = raw.get(..max_record.min(REJECT_RAW_BYTES)).unwrap_or(raw);
    Reject { truncated: true, ..reject(line, TOO_LONG, raw) }
}

#[cfg(test)]
mod tests;
