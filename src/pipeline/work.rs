//! The work on one block: decode, transform, encode.

use arrow_array::{Int64Array, RecordBatch};

use super::sift::{self, Origins, Sifted, Text};
use crate::decode::frame::{self, Block, Kind};
use crate::decode::{Decoder, lines};
use crate::encode;
use crate::encode::message::{self, Messages};
use crate::engine::{self, Ready};
use crate::event_time::Judge;
use crate::failure::{Failure, Result};
use crate::record::{Decoded, Late, Reject};
use crate::transform::Transform;

/// The reason of a reject for what stands after the end marker.
const AFTER_END: &str = "after the end marker";

/// A block, and a buffer for what becomes of it.
pub struct Task {
    pub block: Block,
    pub output: Vec<u8>,
}

/// A block after its work.
pub struct Worked {
    pub kind: Kind,
    /// A buffer to be used again: the block's own, unless that has become the output.
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    /// The records themselves, where they are to be kept or cannot be encoded here.
    pub batch: Option<RecordBatch>,
    pub rejects: Vec<Reject>,
    /// Records that a view has missed.
    pub late: Vec<Late>,
    /// Good records read.
    pub records: u64,
    /// Records in `output`.
    pub written: u64,
    pub lines: u64,
    pub paused: bool,
}

/// Everything a worker needs to turn a block into bytes of the output format.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    pub decoder: &'a Decoder,
    pub transform: &'a Transform,
    /// The query, and the name of the file.
    pub query: Option<(&'a Ready<'a>, &'a str)>,
    pub encode: encode::Format,
    /// Each record is sent as a message.
    pub messages: Option<&'a Messages>,
    pub max_record: usize,
    /// Records that pass as they are may be copied as they stand in the block.
    pub copies: bool,
    /// The records are wanted as they are decoded, for a query over all of them.
    pub keeps: bool,
    /// The records are wanted besides their bytes.
    pub taps: bool,
    /// The judge of the records, where event time matters.
    pub judge: Option<&'a Judge>,
}

impl Work<'_> {
    /// Works on a block; `output` is a buffer to use again.
    pub fn on(self, block: Block, mut output: Vec<u8>) -> Result<Worked> {
        let lines_before = block.lines_before;
        let (mut worked, decoded) = self.decode(block);
        output.clear();
        if let Some(decoded) = decoded {
            let wants_lines = self.judge.is_some() || self.messages.is_some();
            let good = wants_lines.then(|| decoded.line_numbers());
            let copies = (self.copies && decoded.is_as_written).then(|| decoded.records.num_rows());
            let records = self.bind(decoded, lines_before);
            if self.keeps {
                worked.batch = Some(records);
            } else {
                let (records, lines) = self.transform(records)?;
                let records = match (self.judge, &good) {
                    (Some(judge), Some(good)) => {
                        let lines = match (self.query, lines) {
                            (None, _) => Some(good.clone()),
                            (_, lines) => lines.map(|lines| relative(&lines, lines_before)),
                        };
                        self.sift(judge, &records, lines, good, &mut worked)
                    }
                    _ => records,
                };
                worked.written = records.num_rows() as u64;
                let mut records = records;
                if let Some(messages) = self.messages {
                    // What was made of several records, or judged, is not on a line of its own.
                    let own = good.filter(|_| self.query.is_none() && self.judge.is_none());
                    let place = (own, lines_before);
                    records = self.frame(messages, records, place, &mut worked, &mut output)?;
                } else if copies == Some(records.num_rows()) {
                    std::mem::swap(&mut worked.input, &mut output);
                } else {
                    self.encode.encode(&records, &mut output).map_err(Failure::Bad)?;
                }
                worked.batch = (self.taps || self.encode.is_columnar()).then_some(records);
            }
        }
        worked.output = output;
        Ok(worked)
    }

    /// The records of a block, and the rest of what is in it.
    fn decode(self, block: Block) -> (Worked, Option<Decoded>) {
        let Block { kind, bytes, records: given, paused, .. } = block;
        let output = Vec::new();
        let rejects = Vec::new();
        let records = 0;
        let written = 0;
        let lines = 1;
        let batch = None;
        let input = bytes;
        let late = Vec::new();
        let mut worked =
            Worked { kind, input, output, batch, rejects, late, records, written, lines, paused };
        let bytes = &worked.input;
        let is_lines = matches!(self.decoder, Decoder::Lines);
        match kind {
            Kind::Records => {
                let mut decoded = match given {
                    Some(records) => Decoded::without_lines(records),
                    None => self.decoder.decode(bytes, self.max_record),
                };
                if self.query.is_some() && !bytes.is_empty() && is_lines {
                    decoded = lines::as_text(decoded);
                }
                worked.records = decoded.records.num_rows() as u64;
                worked.lines = decoded.lines;
                if self.query.is_some_and(|(query, _)| query.wants_position())
                    || self.judge.is_some()
                    || self.messages.is_some()
                {
                    decoded.positions = Some(decoded.line_numbers());
                }
                worked.rejects = std::mem::take(&mut decoded.rejects);
                return (worked, Some(decoded));
            }
            Kind::TooLong => {
                worked.lines = frame::lines_too_long(bytes);
                worked.rejects.push(frame::reject_too_long(1, bytes, self.max_record));
            }
            Kind::EndMarker => {}
            Kind::AfterEnd => {
                let lines = frame::lines(bytes);
                worked.rejects =
                    lines.map(|(line, raw)| frame::reject(line, AFTER_END, raw)).collect();
                worked.lines = worked.rejects.len() as u64;
            }
        }
        (worked, None)
    }

    /// The records with the columns that a query asks for besides their own.
    fn bind(self, decoded: Decoded, lines_before: u64) -> RecordBatch {
        match self.query {
            Some((query, file)) => query.bind(decoded, file, lines_before),
            None => decoded.records,
        }
    }

    /// Transforms the records of a block by themselves. A query may give their lines.
    fn transform(self, records: RecordBatch) -> Result<(RecordBatch, Option<Int64Array>)> {
        match self.query {
            Some((query, _)) => Ok(query.part(query.apply(records).map_err(failure)?)),
            None => Ok((self.transform.apply(records), None)),
        }
    }

    /// Encodes records as messages; those that cannot be sent are rejects, and are taken out. `lines` count from
    /// the beginning of the block, and `before` says how many are before it.
    fn frame(
        self,
        messages: &Messages,
        records: RecordBatch,
        (lines, before): (Option<Vec<u64>>, u64),
        worked: &mut Worked,
        output: &mut Vec<u8>,
    ) -> Result<RecordBatch> {
        let in_input: Option<Vec<_>> =
            lines.as_ref().map(|lines| lines.iter().map(|line| line + before).collect());
        let encoded = messages.encode(self.encode, &records, in_input.as_deref(), output);
        let unsent = encoded.map_err(Failure::Bad)?;
        if unsent.is_empty() {
            return Ok(records);
        }
        let sent = message::without(&records, &unsent);
        worked.records = worked.records.saturating_sub(unsent.len() as u64);
        worked.written = sent.num_rows() as u64;
        let line = |row: usize| lines.as_ref().and_then(|lines| lines.get(row)).copied();
        worked.rejects.extend(unsent.into_iter().map(|unsent| {
            let line = line(unsent.row);
            unsent.reject(line)
        }));
        worked.rejects.sort_by_key(|reject| reject.line);
        Ok(sent)
    }

    /// Judges what has become of the records of a block, whose good ones begin on these lines.
    fn sift(
        self,
        judge: &Judge,
        records: &RecordBatch,
        lines: Option<Vec<u64>>,
        good: &[u64],
        worked: &mut Worked,
    ) -> RecordBatch {
        let begins = sift::begins(good, &worked.rejects);
        let text = (!worked.input.is_empty()).then(|| Text { bytes: &worked.input, begins });
        let origins = Origins { lines, text, encode: self.encode };
        let Sifted { records, rejects, late } = sift::sift(judge, records, &origins);
        worked.records = worked.records.saturating_sub(rejects.len() as u64);
        worked.rejects.extend(rejects);
        worked.rejects.sort_by_key(|reject| reject.line);
        worked.late = late;
        records
    }
}

/// Lines of a file as lines of a block.
fn relative(lines: &Int64Array, before: u64) -> Vec<u64> {
    lines.values().iter().map(|line| line.cast_unsigned().saturating_sub(before)).collect()
}

/// Classifies an error of a query: the file is bad, unless the disk is at fault.
pub fn failure(problem: engine::QueryError) -> Failure {
    if problem.transient {
        Failure::Transient(problem.into())
    } else {
        Failure::Bad(format!("the query failed: {problem}"))
    }
}
