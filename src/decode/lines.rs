//! The format `lines`: one record per line, of any bytes, in the column `line`.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, RecordBatch, StringArray};

use super::frame;
use crate::record::{Decoded, lines_schema, text_schema};

/// The reason of a reject for a line that a query cannot read.
const NOT_TEXT: &str = "not UTF-8";

/// Decodes a block. Nothing but an over-long line is ever a reject.
///
/// Only the line feed ends a line here, so a carriage return before it stays in the record: the
/// bytes that come out are the bytes that went in.
pub fn decode(block: &[u8], max_record: usize) -> Decoded {
    let count = memchr::memchr_iter(b'\n', block).count() + 1;
    let mut column = BinaryBuilder::with_capacity(count, block.len());
    let mut rejects = Vec::new();
    let mut lines = 0;
    for line in split(block) {
        lines += 1;
        if line.len() > max_record {
            rejects.push(frame::reject_too_long(lines, line, max_record));
        } else {
            column.append_value(line);
        }
    }
    Decoded {
        records: batch(Arc::new(column.finish())),
        rejects,
        lines,
        positions: None,
        is_as_written: false,
    }
}

fn split(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let body = block.strip_suffix(b"\n").unwrap_or(block);
    let some = (!block.is_empty()).then_some(body);
    some.into_iter().flat_map(|body| body.split(|byte| *byte == b'\n'))
}

/// The batch of this one column.
pub fn batch(column: ArrayRef) -> RecordBatch {
    RecordBatch::try_new(lines_schema(), vec![column]).expect("one column of bytes without nulls")
}

/// Lines as UTF-8, for a query; what is none is rejected.
pub fn as_text(mut decoded: Decoded) -> Decoded {
    let lines = decoded.records.column(0).as_binary::<i32>().clone();
    let text = StringArray::try_from_binary(lines.clone()).unwrap_or_else(|_| {
        let mut text = StringBuilder::with_capacity(lines.len(), lines.value_data().len());
        let mut positions = Vec::new();
        for (number, line) in decoded.line_numbers().into_iter().zip(lines.iter().flatten()) {
            if let Ok(line) = std::str::from_utf8(line) {
                text.append_value(line);
                positions.push(number);
            } else {
                decoded.rejects.push(frame::reject(number, NOT_TEXT, line));
            }
        }
        decoded.rejects.sort_by_key(|reject| reject.line);
        decoded.positions = Some(positions);
        text.finish()
    });
    decoded.records =
        RecordBatch::try_new(text_schema(), vec![Arc::new(text)]).expect("one column of text");
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(block: &[u8]) -> Vec<Vec<u8>> {
        let decoded = decode(block, 10);
        let column = decoded.records.column(0).as_binary::<i32>().clone();
        column.iter().flatten().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn keeps_every_byte_but_the_line_feed() {
        assert_eq!(decoded(b"a\r\n\n\xff\0\nlast"), [&b"a\r"[..], b"", b"\xff\0", b"last"]);
        assert_eq!(decoded(b""), Vec::<Vec<u8>>::new());
        assert_eq!(decoded(b"\n"), [b""]);
    }

    #[test]
    fn an_over_long_line_is_a_reject_with_its_number() {
        let decoded = decode(b"a\n01234567890\nb\n", 10);
        assert_eq!((decoded.lines, decoded.records.num_rows()), (3, 2));
        assert_eq!(decoded.rejects[0].line, Some(2));
        assert_eq!(decoded.rejects[0].reason, frame::TOO_LONG);
    }
}
