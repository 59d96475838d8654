//! Records judged by their event time: which are rejected, and which are late for a view.
//!
//! Invariants: `raw` is the record as it stood in the file, where its line is known and at hand;
//! else, as for a query that makes one record of several, as the output has it.

use std::sync::Arc;

use arrow_array::RecordBatch;

use crate::encode;
use crate::event_time::{self, Judge, LateRow};
use crate::record::{Late, Reject};

/// Where records come from.
pub struct Origins<'a> {
    /// The line of each; none where they have none of their own.
    pub lines: Option<Vec<u64>>,
    /// The text that they stand in, and the lines on which records begin in it.
    pub text: Option<Text<'a>>,
    /// How the output has them.
    pub encode: encode::Format,
}

/// A block, from line 1.
pub struct Text<'a> {
    pub bytes: &'a [u8],
    /// The lines on which records begin, good or bad, in their order.
    pub begins: Vec<u64>,
}

/// Records after judging.
pub struct Sifted {
    /// Those that were taken.
    pub records: RecordBatch,
    pub rejects: Vec<Reject>,
    pub late: Vec<Late>,
}

/// Judges records.
pub fn sift(judge: &Judge, records: &RecordBatch, origins: &Origins<'_>) -> Sifted {
    let judged = judge.judge(records.clone());
    if judged.rejected.is_empty() && judged.late.is_empty() {
        return Sifted { records: judged.records, rejects: Vec::new(), late: Vec::new() };
    }
    let source = Placed::new(records, origins);
    let reject =
        |(row, reason): (usize, String)| Reject::cut(source.line(row), reason, source.raw(row));
    let told: Vec<_> = judged
        .marks
        .rules
        .iter()
        .map(|rule| -> (Arc<str>, Arc<str>) {
            let mark = rule.mark.map(event_time::text).unwrap_or_default();
            (rule.view.as_str().into(), mark.into())
        })
        .collect();
    let late = |LateRow { row, view: number }: LateRow| {
        let (view, watermark) = told.get(number).cloned().unwrap_or_default();
        Late { view, watermark, number, line: source.line(row), raw: source.raw(row) }
    };
    let rejects = judged.rejected.into_iter().map(reject).collect();
    let late = judged.late.into_iter().map(late).collect();
    Sifted { records: judged.records, rejects, late }
}

/// Records, and where they stood.
struct Placed<'a> {
    records: &'a RecordBatch,
    origins: &'a Origins<'a>,
    /// Where each line of the text begins.
    offsets: Vec<usize>,
}

impl<'a> Placed<'a> {
    fn new(records: &'a RecordBatch, origins: &'a Origins<'a>) -> Self {
        let bytes = origins.text.as_ref().map_or(&[][..], |text| text.bytes);
        let ends = memchr::memchr_iter(b'\n', bytes).map(|end| end + 1);
        let offsets = std::iter::once(0).chain(ends).collect();
        Self { records, origins, offsets }
    }

    fn line(&self, row: usize) -> Option<u64> {
        self.origins.lines.as_ref().and_then(|lines| lines.get(row)).copied()
    }

    fn raw(&self, row: usize) -> Vec<u8> {
        let text = self.line(row).and_then(|line| self.text(line));
        text.map_or_else(|| self.as_written(row), <[u8]>::to_vec)
    }

    /// The record that begins on this line.
    fn text(&self, line: u64) -> Option<&'a [u8]> {
        let text = self.origins.text.as_ref()?;
        let at = text.begins.partition_point(|begin| *begin <= line);
        let next = text.begins.get(at).copied();
        let offset = |line: u64| {
            let line = usize::try_from(line.checked_sub(1)?).ok()?;
            self.offsets.get(line).copied()
        };
        let end = next.and_then(offset).unwrap_or(text.bytes.len());
        let record = text.bytes.get(offset(line)?..end)?;
        let end = record.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |at| at + 1);
        record.get(..end)
    }

    fn as_written(&self, row: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let record = self.records.slice(row, 1);
        let encode = if self.origins.encode.is_columnar() {
            encode::Format::Json {}
        } else {
            self.origins.encode
        };
        // What cannot be written at all is refused as a whole elsewhere.
        let _ = encode.encode(&record, &mut bytes);
        bytes.truncate(bytes.strip_suffix(b"\n").map_or(bytes.len(), <[u8]>::len));
        bytes
    }
}

/// The lines on which the records of a block begin, good or bad.
pub fn begins(good: &[u64], rejects: &[Reject]) -> Vec<u64> {
    let bad = rejects.iter().filter_map(|reject| reject.line);
    let mut all: Vec<u64> = good.iter().copied().chain(bad).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::numbers_schema;

    #[test]
    fn a_record_is_found_by_its_line() {
        let records = RecordBatch::new_empty(numbers_schema());
        let bytes = b"a\n\"b\nb\"\r\n\nc";
        let text = Some(Text { bytes, begins: vec![1, 2, 5] });
        let origins = Origins { lines: None, text, encode: encode::Format::Lines {} };
        let source = Placed::new(&records, &origins);
        assert_eq!(source.text(1), Some(&b"a"[..]));
        assert_eq!(source.text(2), Some(&b"\"b\nb\""[..]));
        assert_eq!(source.text(5), Some(&b"c"[..]));
        assert_eq!(source.text(9), None);
    }
}
