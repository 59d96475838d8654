//! The format `lines`: one record per line, of any bytes, in the column `line`.

use std::sync::Arc;

use arrow_array::builder::BinaryBuilder;
use arrow_array::{ArrayRef, RecordBatch};

use super::frame;
use crate::record::{Decoded, lines_schema};

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
    Decoded { records: batch(Arc::new(column.finish())), rejects, lines }
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray as _;

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
