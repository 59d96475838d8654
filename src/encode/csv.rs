//! The format `csv` as output: RFC 4180, with a line feed at the end of a record.

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use serde::{Deserialize, Serialize};

use super::cells::Cells;

/// `[output.format.csv]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Csv {
    /// The first record names the columns.
    pub header: bool,
    /// The delimiter between two fields.
    pub delimiter: char,
}

impl Default for Csv {
    fn default() -> Self {
        Self { header: true, delimiter: ',' }
    }
}

impl Csv {
    fn delimiter(self) -> u8 {
        u8::try_from(self.delimiter).unwrap_or(b',')
    }

    /// Everything that a reader must know of it.
    pub fn signature(self) -> String {
        format!("csv header = {} delimiter = {:?}", self.header, self.delimiter)
    }

    /// The record that names the columns, if there is to be one.
    pub fn header(self, schema: &Schema) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for (number, field) in schema.fields().iter().enumerate() {
            if number > 0 {
                out.push(self.delimiter());
            }
            quoted(field.name(), self.delimiter(), &mut out);
        }
        out.push(b'\n');
        self.header.then_some(out)
    }

    /// Appends the records. NULL is nothing, the empty text is `""`.
    ///
    /// # Errors
    /// Names a value that has no text.
    pub fn encode(self, records: &RecordBatch, out: &mut Vec<u8>) -> Result<(), String> {
        let delimiter = self.delimiter();
        let columns = Cells::all(records)?;
        for row in 0..records.num_rows() {
            for (number, cells) in columns.iter().enumerate() {
                if number > 0 {
                    out.push(delimiter);
                }
                if cells.is_null(row) {
                    continue;
                }
                match cells.text(row) {
                    Some(text) => quoted(text, delimiter, out),
                    None => cells.write(row, out),
                }
            }
            // A record of one NULL is a blank line where "" would be the empty text; else a blank line
            // would be no record to most readers.
            if let [only] = columns.as_slice()
                && only.is_null(row)
                && !only.is_text()
            {
                out.extend_from_slice(b"\"\"");
            }
            out.push(b'\n');
        }
        Ok(())
    }
}

/// Appends a text, in quotes if it needs them.
#[inline]
fn quoted(text: &str, delimiter: u8, out: &mut Vec<u8>) {
    if is_plain(text, delimiter) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for (number, part) in text.split('"').enumerate() {
        if number > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}

/// True when a text is the same without quotes: it is not empty, has no spaces at its ends, and nothing
/// in it has a meaning.
#[inline]
fn is_plain(text: &str, delimiter: u8) -> bool {
    let marks = [delimiter, b'"', b'\n', b'\r'];
    let special = |found: u8, byte: &u8| {
        marks.iter().fold(found, |found, mark| found | u8::from(byte == mark))
    };
    // Eight at once, without a branch for each.
    let (chunks, rest) = text.as_bytes().as_chunks::<8>();
    if chunks.iter().any(|chunk| chunk.iter().fold(0, special) > 0)
        || rest.iter().fold(0, special) > 0
    {
        return false;
    }
    match text.as_bytes() {
        [first, .., last] if first.is_ascii_graphic() && last.is_ascii_graphic() => true,
        text_bytes => !text_bytes.is_empty() && text.trim().len() == text.len(),
    }
}
