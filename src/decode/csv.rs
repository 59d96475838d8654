//! The format `csv`: records of fields, as RFC 4180 has them and as people write them.
//!
//! Invariants: every record ends in the output or in the rejects, and which of them depends on
//! its own bytes. A block is decoded column by column; a field that is not of its column's type
//! marks its record, and marked records are taken out at the end.
//!
//! An unquoted empty field is NULL; `""` is the empty text, and NULL in a column of another type.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use super::build::{self, Builder, Taken};
use super::quotes::{self, Dialect, End, Field, is_blank};
use super::separators::Separators;
use super::{Header, Unknown, frame};
use crate::record::columns::{Columns, Type};
use crate::record::{Decoded, Reject, quoted};

/// The reason of a reject for a quoted field that is not closed.
const BAD_QUOTES: &str = "a quoted field is not closed";

/// `[input.format.csv]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Csv {
    /// The first record names the columns.
    pub header: bool,
    /// The delimiter between two fields.
    pub delimiter: char,
    /// How a column is treated that the job does not name.
    pub unknown: Unknown,
    /// The columns and their types.
    pub columns: Columns,
    /// Of one column, a blank line is a record of NULL: so this program writes it.
    #[serde(skip)]
    pub blank_is_null: bool,
}

impl Default for Csv {
    fn default() -> Self {
        let unknown = Unknown::Ignore;
        let columns = Columns::default();
        Self { header: true, delimiter: ',', unknown, columns, blank_is_null: false }
    }
}

impl Csv {
    /// How records and fields are told apart.
    pub fn dialect(&self) -> Dialect {
        let delimiter = u8::try_from(self.delimiter).unwrap_or(b',');
        Dialect { delimiter, quote: b'"' }
    }

    /// The first error in these options, with its key.
    pub fn check(&self) -> Option<(&'static str, String)> {
        if !self.delimiter.is_ascii() || ['\n', '\r', '"', '\0'].contains(&self.delimiter) {
            let found = self.delimiter;
            let message = format!("found {found:?}, expected one ASCII character that is no quote");
            return Some(("input.format.csv.delimiter", message));
        }
        None
    }

    /// A decoder for a file of which `block` is the beginning.
    pub fn decoder(&self, block: &[u8], max_record: usize) -> Result<(Decoder, Header), String> {
        let schema = self.columns.schema();
        let all = self.columns.0.iter().enumerate();
        let mut decoder = Decoder {
            schema,
            dialect: self.dialect(),
            width: self.columns.0.len(),
            blank_is_null: self.blank_is_null && self.columns.0.len() == 1,
            columns: all.map(|(place, (_, kind))| (place, *kind)).collect(),
        };
        let mut header = Header::default();
        if !self.header {
            return Ok((decoder, header));
        }
        let mut fields = Vec::new();
        while header.bytes < block.len() {
            fields.clear();
            let keep = |field: Field| fields.push(field);
            let end = match decoder.dialect.walk(block, header.bytes, max_record, true, keep) {
                End::Record(end) => end,
                End::Broken(_) | End::Long(_) | End::Unknown => {
                    let line = header.lines + 1;
                    return Err(format!("line {line}: the header is too long, or {BAD_QUOTES}"));
                }
            };
            let record = block.get(header.bytes..end).unwrap_or_default();
            header.bytes = end;
            header.lines += memchr::memchr_iter(b'\n', record).count().max(1) as u64;
            if !is_blank(record) {
                let names: Vec<_> =
                    fields.iter().map(|field| quotes::name(*field, block)).collect();
                decoder.match_names(&names, self)?;
                return Ok((decoder, header));
            }
        }
        header.is_missing = true;
        Ok((decoder, header))
    }
}

/// Names of a header that a reason tells.
const NAMES_TOLD: usize = 20;

/// Decodes the blocks of one file.
#[derive(Debug, Clone)]
pub struct Decoder {
    schema: SchemaRef,
    dialect: Dialect,
    /// Fields in a record.
    width: usize,
    /// A blank line is a record.
    blank_is_null: bool,
    /// Where in a record each column stands, and its type.
    columns: Vec<(usize, Type)>,
}

/// A record in a block.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    start: usize,
    end: usize,
    line: u64,
}

/// The error for a header that lacks a column of the job; it lists the first columns found.
fn no_column(wanted: &str, names: &[String]) -> String {
    let found: Vec<_> = names.iter().take(NAMES_TOLD).map(|name| quoted(name)).collect();
    let more = match names.len().saturating_sub(NAMES_TOLD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the header has no column `{wanted}`: it has {}{more}", found.join(", "))
}

impl Decoder {
    /// Finds the columns by the names in the header.
    fn match_names(&mut self, names: &[String], csv: &Csv) -> Result<(), String> {
        let mut places = Vec::with_capacity(self.columns.len());
        for (wanted, kind) in &csv.columns.0 {
            let mut found = names.iter().enumerate().filter(|(_, name)| *name == wanted);
            let Some((place, _)) = found.next() else {
                return Err(no_column(wanted, names));
            };
            if found.next().is_some() {
                return Err(format!("the header has the column `{wanted}` twice"));
            }
            places.push((place, *kind));
        }
        if csv.unknown == Unknown::Reject {
            let known = |name: &&String| csv.columns.0.iter().any(|(known, _)| known == *name);
            if let Some(name) = names.iter().find(|name| !known(name)) {
                return Err(format!(
                    "the header has a column `{}`, which the job does not name",
                    quoted(name)
                ));
            }
        }
        (self.columns, self.width) = (places, names.len());
        Ok(())
    }

    /// Decodes a block.
    pub fn decode(&self, block: &[u8], max_record: usize) -> Decoded {
        // One look at all of it is less work than one at each field.
        let text = std::str::from_utf8(block).ok();
        let mut cut = self.look(block);
        let is_as_written = self.is_whole() && cut.is_bare && block.ends_with(b"\n");
        let mut filled = Filled { is_as_written, ..Filled::default() };
        while cut.at < block.len() {
            self.cut(block, max_record, TOGETHER, &mut cut);
            if filled.builders.is_empty() {
                // Those that follow will be about as long.
                let more = cut.rows.len() * (block.len() - cut.at).div_ceil(cut.at);
                let rows = cut.rows.len() + more;
                let columns = self.columns.iter();
                filled.builders = columns.map(|(_, kind)| Builder::new(*kind, rows)).collect();
            }
            self.fill(block, text, &mut cut, &mut filled);
        }
        let Filled { builders, rows, positions, bad, is_as_written } = filled;
        let of_none =
            self.columns.iter().skip(builders.len()).map(|(_, kind)| Builder::new(*kind, 0));
        let columns = builders.into_iter().chain(of_none).map(Builder::finish).collect();
        let keep =
            (!bad.is_empty()).then(|| (0..rows).map(|row| !bad.contains(&row)).collect::<Vec<_>>());
        cut.rejects.sort_by_key(|reject| reject.line);
        Decoded {
            records: build::records(self.schema.clone(), columns, keep.as_deref()),
            rejects: cut.rejects,
            lines: cut.lines,
            positions: Some(positions),
            is_as_written: is_as_written && bad.is_empty() && rows as u64 == cut.lines,
        }
    }

    /// Fills the columns with the fields of some rows, which are forgotten.
    fn fill(&self, block: &[u8], text: Option<&str>, cut: &mut Cut, filled: &mut Filled) {
        let mut bad = BTreeMap::new();
        for (column, (place, _)) in self.columns.iter().enumerate() {
            let Some(builder) = filled.builders.get_mut(column) else { continue };
            let fields = cut.fields.chunks_exact(self.width.max(1));
            for (row, field) in fields.map(|fields| fields.get(*place)).enumerate() {
                let Some(field) = field else { continue };
                match append(builder, *field, block, text) {
                    Ok(taken) => filled.is_as_written &= taken == Taken::AsWritten,
                    Err(reason) => drop(bad.entry(row).or_insert((column, reason))),
                }
            }
        }
        let rows = cut.rows.iter().enumerate();
        let good = rows.filter(|(row, _)| bad.is_empty() || !bad.contains_key(row));
        filled.positions.extend(good.map(|(_, row)| row.line));
        for (number, (column, why)) in bad {
            filled.bad.insert(filled.rows + number);
            if let Some(row) = cut.rows.get(number) {
                cut.rejects.push(reject(block, row, self.explain(column, why)));
            }
        }
        filled.rows += cut.rows.len();
        cut.rows.clear();
        cut.fields.clear();
    }

    /// True when the columns are all the fields of a record, in their order.
    fn is_whole(&self) -> bool {
        let places = self.columns.iter().map(|(place, _)| *place);
        places.eq(0..self.width)
    }

    /// Looks at a block that is to be cut.
    fn look(&self, block: &[u8]) -> Cut {
        // Most blocks have neither, and one look is enough.
        let is_bare = memchr::memchr2(self.dialect.quote, b'\r', block).is_none();
        let is_plain = is_bare || memchr::memchr(self.dialect.quote, block).is_none();
        Cut { is_bare, is_plain, ..Cut::default() }
    }

    /// Goes on cutting a block into records of the right number of fields, up to `wanted` rows.
    fn cut(&self, block: &[u8], max_record: usize, wanted: usize, cut: &mut Cut) {
        if cut.is_plain {
            self.cut_plain(block, max_record, wanted, cut);
        } else {
            self.cut_quoted(block, max_record, wanted, cut);
        }
    }

    /// Cuts a block in which nothing is quoted: each line is a record.
    fn cut_plain(&self, block: &[u8], max_record: usize, wanted: usize, cut: &mut Cut) {
        let delimiter = self.dialect.delimiter;
        let from = cut.at;
        let mut start = from;
        let mut at = from;
        let mut before = cut.fields.len();
        let is_open = !block.is_empty() && !block.ends_with(b"\n");
        let last = is_open.then_some(block.len());
        let rest = block.get(from..).unwrap_or_default();
        let separators = Separators::new(rest, delimiter).map(|place| from + place);
        for end in separators.chain(last) {
            if block.get(end) == Some(&delimiter) {
                cut.fields.push(Field::new(at, end, 0));
                at = end + 1;
                continue;
            }
            let has_return = end > at && block.get(end - 1) == Some(&b'\r');
            cut.fields.push(Field::new(at, end - usize::from(has_return), 0));
            let next = block.len().min(end + 1);
            cut.lines += 1;
            let is_usual = cut.fields.len() - before == self.width
                && next - start <= max_record
                && end - usize::from(has_return) > start;
            if is_usual {
                cut.rows.push(Row { start, end: next, line: cut.lines });
            } else {
                let row = Row { start, end: next, line: cut.lines };
                self.conclude(block, row, before, None, max_record, cut);
            }
            (start, at, before) = (next, next, cut.fields.len());
            if cut.rows.len() >= wanted {
                break;
            }
        }
        cut.at = start;
    }

    /// Cuts a block in which fields may be quoted.
    fn cut_quoted(&self, block: &[u8], max_record: usize, wanted: usize, cut: &mut Cut) {
        while cut.at < block.len() && cut.rows.len() < wanted {
            let start = cut.at;
            let before = cut.fields.len();
            let keep = |field| cut.fields.push(field);
            let end = self.dialect.walk(block, start, max_record, true, keep);
            let (end, spoilt) = match end {
                End::Record(end) => (end, None),
                End::Broken(end) => (end, Some(BAD_QUOTES)),
                End::Long(end) => (end, Some(frame::TOO_LONG)),
                End::Unknown => (block.len(), Some(BAD_QUOTES)),
            };
            let record = block.get(start..end).unwrap_or_default();
            let row = Row { start, end, line: cut.lines + 1 };
            cut.at = end;
            // Only quotes can hold a line end, and of a broken record only its first line counts.
            let breaks = spoilt != Some(BAD_QUOTES) && cut.quoted_since(before);
            cut.lines += if breaks { frame::lines_in(record) } else { 1 };
            self.conclude(block, row, before, spoilt, max_record, cut);
        }
    }

    /// Keeps or rejects a record whose fields are those from `before` on.
    fn conclude(
        &self,
        block: &[u8],
        row: Row,
        before: usize,
        spoilt: Option<&'static str>,
        max_record: usize,
        cut: &mut Cut,
    ) {
        let record = block.get(row.start..row.end).unwrap_or_default();
        let is_long = record.len() - line_end(record) > max_record;
        let found = cut.fields.len() - before;
        let counts = self.blank_is_null || !is_blank(record);
        if spoilt.is_none() && !is_long && counts && found == self.width {
            cut.rows.push(row);
            return;
        }
        cut.fields.truncate(before);
        match if is_long { Some(frame::TOO_LONG) } else { spoilt } {
            Some(frame::TOO_LONG) => {
                cut.rejects.push(frame::reject_too_long(row.line, record, max_record));
            }
            Some(reason) => cut.rejects.push(reject(block, &row, reason.into())),
            None if is_blank(record) => {}
            None => {
                let reason = format!("found {found} fields, expected {}", self.width);
                cut.rejects.push(reject(block, &row, reason.into()));
            }
        }
    }

    fn explain(&self, column: usize, why: Why) -> Cow<'static, str> {
        let field = self.schema.fields().get(column);
        let name = field.map_or("", |field| field.name());
        match (why, self.columns.get(column)) {
            (Why::Type, Some((_, kind))) => format!("column `{name}`: not a {kind}").into(),
            _ => format!("column `{name}`: not UTF-8").into(),
        }
    }
}

/// Records that are cut before their fields are looked at. Those of a whole block would be in a far cache
/// by then, and in memory that is given back and asked for again with each block.
const TOGETHER: usize = if cfg!(test) { 4 } else { 1024 };

/// A block that is being cut into records and their fields.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cut {
    /// How far it is cut.
    at: usize,
    /// The records of which the fields were not looked at yet.
    rows: Vec<Row>,
    /// The fields of these, one row after the other.
    fields: Vec<Field>,
    rejects: Vec<Reject>,
    lines: u64,
    /// There is no quote in the block, and no carriage return.
    is_bare: bool,
    /// There is no quote in the block.
    is_plain: bool,
}

/// The columns of a block that are being filled.
#[derive(Default)]
struct Filled {
    builders: Vec<Builder>,
    rows: usize,
    /// The lines of the good ones.
    positions: Vec<u64>,
    /// The numbers of the others.
    bad: HashSet<usize>,
    /// The block is its records, each on a line of its own, and nothing else: no quotes, line ends as they
    /// are written, and so each value.
    is_as_written: bool,
}

impl Cut {
    fn quoted_since(&self, before: usize) -> bool {
        self.fields.get(before..).unwrap_or_default().iter().any(|field| field.is_quoted())
    }
}

/// Why a field is not taken.
#[derive(Debug, Clone, Copy)]
enum Why {
    Type,
    Utf8,
}

/// Appends a field of `block`, which is `text` where all of it is UTF-8.
#[inline]
fn append(
    builder: &mut Builder,
    field: Field,
    block: &[u8],
    text: Option<&str>,
) -> Result<Taken, Why> {
    let text = text.and_then(|text| text.get(field.range()));
    let Some(text) = text.or_else(|| std::str::from_utf8(field.bytes(block)).ok()) else {
        builder.null();
        return Err(Why::Utf8);
    };
    if text.is_empty() && !(field.is_quoted() && matches!(builder, Builder::Varchar(_))) {
        builder.null();
        return Ok(Taken::AsWritten);
    }
    let taken = if field.has_doubled() {
        builder.text(&text.replace("\"\"", "\""))
    } else {
        builder.text(text)
    };
    if taken == Taken::Not { Err(Why::Type) } else { Ok(taken) }
}

fn line_end(record: &[u8]) -> usize {
    match record {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n'] => 1,
        _ => 0,
    }
}

fn reject(block: &[u8], row: &Row, reason: Cow<'static, str>) -> Reject {
    let record = block.get(row.start..row.end).unwrap_or_default();
    let raw = record.get(..record.len() - line_end(record)).unwrap_or_default();
    frame::reject(row.line, reason, raw)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray as _;
    use arrow_array::types::Int64Type;
    use proptest::prelude::*;

    use super::*;

    fn decoder(names: &[&str]) -> Decoder {
        let columns: Vec<_> = names.iter().map(|name| format!("{name} = \"varchar\"")).collect();
        let text = format!("header = false\n[columns]\n{}", columns.join("\n"));
        let csv: Csv = toml::from_str(&text).unwrap();
        csv.decoder(&[], 10).unwrap().0
    }

    #[test]
    fn bad_records_are_taken_out_wherever_they_are() {
        let csv: Csv = toml::from_str("header = false\n[columns]\nn = \"bigint\"").unwrap();
        let decoder = csv.decoder(&[], 10).unwrap().0;
        let is_bad = |line: &u64| line % 5 == 3 || *line == 22;
        let line = |line| if is_bad(&line) { "x\n".to_owned() } else { format!("{line}\n") };
        let block: String = (1..=30).map(line).collect();
        let decoded = decoder.decode(block.as_bytes(), 10);
        let (bad, good): (Vec<u64>, Vec<u64>) = (1..=30).partition(is_bad);
        let rejected: Vec<u64> = decoded.rejects.iter().filter_map(|reject| reject.line).collect();
        let column = decoded.records.column(0).as_primitive::<Int64Type>();
        assert_eq!(column.values().iter().map(|n| n.cast_unsigned()).collect::<Vec<_>>(), good);
        assert_eq!((rejected, decoded.positions), (bad, Some(good)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn without_quotes_both_ways_cut_alike(
            block in "([a,]{0,6}(\r?\n|\r|[a,]{0,12}))*",
            width in 1_usize..4,
            wanted in 1_usize..4,
        ) {
            let decoder = decoder(&["a", "b", "c"][..width]);
            let block = block.as_bytes();
            let mut plain = Cut::default();
            let mut quoted = Cut::default();
            while plain.at < block.len() {
                decoder.cut_plain(block, 10, plain.rows.len() + wanted, &mut plain);
            }
            decoder.cut_quoted(block, 10, usize::MAX, &mut quoted);
            prop_assert_eq!(plain, quoted);
        }
    }
}
