//! The nouns that travel: records as Arrow batches, and the rejects that left them.
//!
//! Every stage may import this; it imports none.

pub mod columns;
pub mod message;

use std::borrow::Cow;
use std::ffi::OsString;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};

/// Bytes of a rejected record that are kept when it is longer than `input.max_record`.
pub const REJECT_RAW_BYTES: usize = 64 * 1024;

/// Bytes of a reason that are kept: it is told in the log, in the ledger and on the page, and may quote
/// what a file holds.
pub const REASON_BYTES: usize = 1024;

/// Bytes of a text from a file that a reason quotes.
const QUOTED_BYTES: usize = 200;

/// A reason, cut where it is longer than [`REASON_BYTES`].
pub fn reason(mut text: String) -> String {
    if text.len() > REASON_BYTES {
        text.truncate(text.floor_char_boundary(REASON_BYTES));
        text.push_str("...");
        text.shrink_to_fit();
    }
    text
}

/// A text from a file, as it stands in a reason.
pub fn quoted(text: &str) -> Cow<'_, str> {
    match text.get(..text.floor_char_boundary(QUOTED_BYTES)) {
        Some(short) if short.len() < text.len() => Cow::Owned(format!("{short}...")),
        _ => Cow::Borrowed(text),
    }
}

/// How many records something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// Read, good or bad.
    pub read: u64,
    /// Written to the output.
    pub written: u64,
    /// Written to the rejects.
    pub rejected: u64,
    /// Missed by a view, once for each view.
    pub late: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.read += more.read;
        self.written += more.written;
        self.rejected += more.rejected;
        self.late += more.late;
    }
}

impl Counts {
    /// The difference to `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            read: self.read.saturating_sub(earlier.read),
            written: self.written.saturating_sub(earlier.written),
            rejected: self.rejected.saturating_sub(earlier.rejected),
            late: self.late.saturating_sub(earlier.late),
        }
    }
}

/// A record that could not be taken, with where it stood and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Physical line in the file, from 1; `None` where the record has no line of its own, such as
    /// what a command wrote to its standard error.
    pub line: Option<u64>,
    /// Why, in lower case and without a full stop.
    pub reason: Cow<'static, str>,
    /// The record as it stood, without its line end.
    pub raw: Vec<u8>,
    /// True when `raw` is only the beginning of the record.
    pub truncated: bool,
}

impl Reject {
    /// One of which only the beginning is kept, if it is long.
    pub fn cut(line: Option<u64>, reason: impl Into<Cow<'static, str>>, mut raw: Vec<u8>) -> Self {
        let truncated = raw.len() > REJECT_RAW_BYTES;
        raw.truncate(REJECT_RAW_BYTES);
        Self { line, reason: reason.into(), raw, truncated }
    }
}

/// A record that came after its last window was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    /// The view that has missed it.
    pub view: Arc<str>,
    /// The watermark that it has missed, as a time in UTC.
    pub watermark: Arc<str>,
    /// The place of the view among those of the job.
    pub number: usize,
    /// As in [`Reject`].
    pub line: Option<u64>,
    /// The record as it stood, or as the output has it where it has no line of its own.
    pub raw: Vec<u8>,
}

/// Which file an input was, beyond its name: what tells it from another under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Inode number. It never decides alone: it is used again, and a restore changes it.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last modification, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// BLAKE3 over all its bytes as they are in the file.
    pub hash: [u8; 32],
}

/// Where an input was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// The number of the device that the file was on.
    pub device: u64,
    /// The inode number of the drop folder.
    pub folder: u64,
}

/// The kind of file under a name that a microbatch has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// The input.
    Input,
    /// Bytes that came to the input after its commit.
    Rest,
    /// Why the input was set aside.
    Report,
}

/// A name that a microbatch has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The microbatch.
    pub sequence: u64,
    /// The kind of file there.
    pub stands: Stands,
    /// The name, without its folder.
    pub name: OsString,
    /// The inode of the file that was put there.
    pub inode: u64,
    /// Of a report: the name of the file that it is about.
    pub beside: Option<OsString>,
}

/// The records decoded from one block of a file.
#[derive(Debug)]
pub struct Decoded {
    /// The good ones.
    pub records: RecordBatch,
    /// The bad ones; their lines count from the beginning of the block.
    pub rejects: Vec<Reject>,
    /// Physical lines in the block.
    pub lines: u64,
    /// On which of them each good record begins, from 1; `None` where every line that is no reject
    /// is a good record.
    pub positions: Option<Vec<u64>>,
    /// The block is, byte for byte, what its records are written as in the format that it came in, with
    /// the same delimiter.
    pub is_as_written: bool,
}

impl Decoded {
    /// Records of a format that has no lines: each counts as one.
    pub fn without_lines(records: RecordBatch) -> Self {
        let lines = records.num_rows() as u64;
        Self { records, rejects: Vec::new(), lines, positions: None, is_as_written: false }
    }

    /// On which line of the block each good record begins, from 1.
    pub fn line_numbers(&self) -> Vec<u64> {
        if let Some(positions) = &self.positions {
            return positions.clone();
        }
        let mut bad = self.rejects.iter().filter_map(|reject| reject.line).peekable();
        (1..=self.lines).filter(|line| bad.next_if_eq(line).is_none()).collect()
    }
}

/// The schema of `numbers`: one column `num` of double precision.
pub fn numbers_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("num", DataType::Float64, false)]))
}

/// The schema of `lines` for a query: the column is UTF-8.
pub fn text_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8, false)]))
}

/// The schema of `lines`: one column `line` of bytes, without the line end.
pub fn lines_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("line", DataType::Binary, false)]))
}

/// Bytes as text, and as base64 where the text is not all of it: so two that differ never look alike.
pub fn text(bytes: &[u8]) -> (Cow<'_, str>, Option<String>) {
    use base64::Engine as _;
    let text = String::from_utf8_lossy(bytes);
    let whole = || base64::engine::general_purpose::STANDARD.encode(bytes);
    let base64 = (text.as_bytes() != bytes).then(whole);
    (text, base64)
}

/// Puts bytes into a JSON object under this key, and what is no text of them beside it.
pub fn put_text(object: &mut serde_json::Value, key: &str, bytes: &[u8]) {
    let (text, base64) = text(bytes);
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), text.into());
        if let Some(base64) = base64 {
            object.insert(format!("{key}_base64"), base64.into());
        }
    }
}
