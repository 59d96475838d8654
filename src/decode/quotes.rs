//! Where a CSV record ends when its fields may be quoted, and where its fields are.
//!
//! Invariants: the same bytes give the same records, from wherever in the file the walk begins a
//! record. A quoted field that is not closed as it should be spoils its record up to the end of that
//! physical line, and no further: the walk goes on at the next line.

use std::ops::Range;

use memchr::{memchr, memchr2};

/// Quoted fields with line breaks that one record may hold. A hostile file could otherwise make one record
/// of all lines after each of its lines, and would be read as often as it has lines. One field may have any
/// number of line breaks.
const BROKEN_FIELDS_MAX: usize = 256;

/// The bytes that have a meaning in CSV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// The delimiter between two fields.
    pub delimiter: u8,
    /// The quote around a field; doubled inside, it stands for itself.
    pub quote: u8,
}

/// How a record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Behind its line end, at this offset.
    Record(usize),
    /// A quoted field is not closed: only the line that the record begins on is spoilt; the next
    /// begins here.
    Broken(usize),
    /// It is too long; the next begins here, at the first line end after its limit.
    Long(usize),
    /// More bytes are needed to tell.
    Unknown,
}

/// A field of a record: its bytes without quotes around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    start: u32,
    /// Length, and above it whether it was quoted, and whether a quote inside stands twice.
    packed: u32,
}

const QUOTED: u32 = 1 << 31;
const DOUBLED: u32 = 1 << 30;

/// Longest block in bytes of which fields can be told.
pub const BLOCK_MAX: usize = DOUBLED as usize - 1;

impl Field {
    /// From one place in a block to another.
    #[inline]
    pub fn new(start: usize, end: usize, flags: u32) -> Self {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(DOUBLED - 1);
        Self { start: narrow(start), packed: narrow(end - start) & (DOUBLED - 1) | flags }
    }

    /// Its bytes as they stand in `block`, quotes inside still doubled.
    pub fn bytes(self, block: &[u8]) -> &[u8] {
        block.get(self.range()).unwrap_or_default()
    }

    /// Where they stand.
    #[inline]
    pub fn range(self) -> Range<usize> {
        let start = self.start as usize;
        let length = (self.packed & (DOUBLED - 1)) as usize;
        start..start + length
    }

    /// True when it stood in quotes.
    pub fn is_quoted(self) -> bool {
        self.packed & QUOTED != 0
    }

    /// True when a quote inside stands twice.
    pub fn has_doubled(self) -> bool {
        self.packed & DOUBLED != 0
    }
}

impl Dialect {
    /// Walks over the record that begins at `start`, and tells `field` its fields. When there is
    /// nothing after `block`, `whole` is true, and an end is found in any case.
    pub fn walk(
        self,
        block: &[u8],
        start: usize,
        limit: usize,
        whole: bool,
        mut field: impl FnMut(Field),
    ) -> End {
        let mut at = start;
        let mut broken_fields = 0;
        loop {
            let Some(rest) = block.get(at..) else { return End::Unknown };
            if at - start > limit {
                return long(block, at, whole);
            }
            if rest.first() != Some(&self.quote) {
                // A quote further on in the field is a byte like others.
                let found = memchr2(self.delimiter, b'\n', rest);
                let length = found.unwrap_or(rest.len());
                let ends = rest.get(length) != Some(&self.delimiter);
                let rest_of_line = rest.get(..length).unwrap_or_default();
                let text = if ends { without_return(rest_of_line) } else { rest_of_line };
                if at + text.len() - start > limit && (whole || found.is_some()) {
                    return long(block, at + length, whole);
                }
                if found.is_none() {
                    if whole {
                        field(Field::new(at, at + text.len(), 0));
                        return End::Record(block.len());
                    }
                    return End::Unknown;
                }
                if ends {
                    field(Field::new(at, at + text.len(), 0));
                    return End::Record(at + length + 1);
                }
                field(Field::new(at, at + length, 0));
                at += length + 1;
                continue;
            }
            let (close, doubled) = match self.closing(block, start, at + 1, limit) {
                Closing::At { at, doubled, has_break } => {
                    broken_fields += usize::from(has_break);
                    if broken_fields > BROKEN_FIELDS_MAX {
                        return broken(block, start, whole);
                    }
                    (at, doubled)
                }
                Closing::None => return broken(block, start, whole),
                Closing::Unknown if whole => return broken(block, start, whole),
                Closing::Unknown => return End::Unknown,
            };
            let flags = QUOTED | if doubled { DOUBLED } else { 0 };
            field(Field::new(at + 1, close, flags));
            let behind = block.get(close + 1..).unwrap_or_default();
            match behind {
                [] | [b'\r'] if whole => return End::Record(block.len()),
                [] | [b'\r'] => return End::Unknown,
                [b'\n', ..] => return End::Record(close + 2),
                [b'\r', b'\n', ..] => return End::Record(close + 3),
                [byte, ..] if *byte == self.delimiter => at = close + 2,
                _ => return broken(block, start, whole),
            }
        }
    }

    /// Where the quoted field closes whose text begins at `from`.
    fn closing(self, block: &[u8], record: usize, from: usize, limit: usize) -> Closing {
        let mut at = from;
        let mut doubled = false;
        let mut has_break = false;
        loop {
            let rest = block.get(at..).unwrap_or_default();
            let found =
                if has_break { memchr(self.quote, rest) } else { memchr2(self.quote, b'\n', rest) };
            let Some(offset) = found else {
                let too_long = block.len() - record > limit;
                return if too_long { Closing::None } else { Closing::Unknown };
            };
            at += offset;
            if at + 1 - record > limit {
                return Closing::None;
            }
            if block.get(at) == Some(&b'\n') {
                has_break = true;
            } else if block.get(at + 1) == Some(&self.quote) {
                doubled = true;
                at += 1;
            } else {
                return Closing::At { at, doubled, has_break };
            }
            at += 1;
        }
    }

    /// Where the first record begins at `place` or after it; one begins at `start`.
    pub fn begin_from(self, block: &[u8], start: usize, place: usize, limit: usize) -> usize {
        if memchr(self.quote, block.get(start..place).unwrap_or_default()).is_none() {
            return place;
        }
        let mut start = start;
        while start < place {
            match self.walk(block, start, limit, true, |_| {}) {
                End::Record(end) | End::Broken(end) | End::Long(end) => start = end,
                End::Unknown => return block.len(),
            }
        }
        start
    }

    /// Where the last record of `pending` ends that surely ends in it; 0 if none does.
    pub fn last_end(self, pending: &[u8], limit: usize) -> usize {
        if memchr(self.quote, pending).is_none() {
            return memchr::memrchr(b'\n', pending).map_or(0, |at| at + 1);
        }
        let mut start = 0;
        loop {
            match self.walk(pending, start, limit, false, |_| {}) {
                End::Record(end) | End::Broken(end) | End::Long(end) => start = end,
                End::Unknown => return start,
            }
        }
    }
}

/// How a quoted field ends.
enum Closing {
    /// It closes at this quote; whether quotes inside are doubled, and whether there is a line break. At the
    /// last byte of a block that is not whole, the quote may yet turn out to be the first of two.
    At { at: usize, doubled: bool, has_break: bool },
    /// It never does.
    None,
    /// The block ends before.
    Unknown,
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The record is too long up to `at` already; it ends with the line.
fn long(block: &[u8], at: usize, whole: bool) -> End {
    match memchr(b'\n', block.get(at..).unwrap_or_default()) {
        Some(length) => End::Long(at + length + 1),
        None if whole => End::Long(block.len()),
        None => End::Unknown,
    }
}

fn broken(block: &[u8], start: usize, whole: bool) -> End {
    match memchr(b'\n', block.get(start..).unwrap_or_default()) {
        Some(length) => End::Broken(start + length + 1),
        None if whole => End::Broken(block.len()),
        None => End::Unknown,
    }
}

/// The name that a field of a header is.
pub fn name(field: Field, block: &[u8]) -> String {
    let text = String::from_utf8_lossy(field.bytes(block));
    match (field.has_doubled(), field.is_quoted()) {
        (true, _) => text.replace("\"\"", "\""),
        (false, true) => text.into_owned(),
        (false, false) => text.trim().to_owned(),
    }
}

/// True for a line of nothing.
pub fn is_blank(record: &[u8]) -> bool {
    matches!(record, [] | [b'\n' | b'\r'] | [b'\r', b'\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECT: Dialect = Dialect { delimiter: b',', quote: b'"' };

    fn fields(text: &str) -> (Vec<&str>, End) {
        let mut fields = Vec::new();
        let end = DIALECT.walk(text.as_bytes(), 0, 100, true, |field| {
            fields.push(std::str::from_utf8(field.bytes(text.as_bytes())).unwrap());
        });
        (fields, end)
    }

    #[test]
    fn quotes_count_only_around_a_field() {
        assert_eq!(fields("a,b\r\nc"), (vec!["a", "b"], End::Record(5)));
        assert_eq!(fields("5\" disk,\n"), (vec!["5\" disk", ""], End::Record(9)));
        assert_eq!(fields("\"a\nb\",\"\"\n"), (vec!["a\nb", ""], End::Record(9)));
        assert_eq!(fields("\"a\"\"b\""), (vec!["a\"\"b"], End::Record(6)));
    }

    #[test]
    fn a_lost_quote_spoils_one_line() {
        assert_eq!(fields("a,\"b\nc,d\n").1, End::Broken(5));
        assert_eq!(fields("\"a\"z\nc\n").1, End::Broken(5));
        let long = format!("\"a\n{}\"", "x".repeat(200));
        assert_eq!(fields(&long).1, End::Broken(3));
        let many = format!("\"{}\"", "\n".repeat(9000));
        assert_eq!(DIALECT.walk(many.as_bytes(), 0, 10_000, true, |_| {}), End::Record(9002));
        // Each line seems to open what the next one closes.
        let hostile = "x\",\"\n".repeat(9000);
        assert_eq!(
            DIALECT.walk(&hostile.as_bytes()[3..], 0, 1 << 20, true, |_| {}),
            End::Broken(2)
        );
    }

    #[test]
    fn what_cannot_be_told_yet_waits() {
        for text in ["a,b", "\"a\nb", "\"a\"", "\"a\"\r"] {
            let end = DIALECT.walk(text.as_bytes(), 0, 100, false, |_| {});
            assert_eq!(end, End::Unknown, "{text:?}");
        }
        assert_eq!(DIALECT.last_end(b"a\n\"b\nc", 100), 2);
        assert_eq!(DIALECT.last_end(b"a\n\"b\nc\"\nd", 100), 8);
    }
}
