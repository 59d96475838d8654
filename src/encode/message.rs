//! Records as messages: each with its value in some format, and what is said of it besides.
//!
//! Invariants: a message is one record, whatever is in it; what a target cannot take is told before the commit.
//!
//! Out of scope: how a message waits ([`crate::record::message`]), who takes it, and how ([`crate::sink`]).

use std::collections::HashMap;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Schema, TimeUnit};
use arrow_select::filter::filter_record_batch;

use super::Format;
use super::cells::Cells;
use crate::record::Reject;
use crate::record::message::{Limit, Message};

/// Bytes of a message in a batch besides its key, its value and its headers, at most
/// (`DefaultRecord.java`, `DefaultRecordBatch.java`: 61 for the batch, 5 varints for the record).
const OVERHEAD: u64 = 100;

/// The way from a record to a message.
#[derive(Debug, Clone, Default)]
pub struct Messages {
    /// The columns of its key: the text of one, or a JSON array of several.
    pub key: Vec<String>,
    /// The column of its timestamp.
    pub timestamp: Option<String>,
    /// It says on which line of its input it begins.
    pub line: bool,
    /// It says the name of its input.
    pub file: bool,
    /// Bytes that its headers may take, but for that name.
    pub headers: u64,
    /// The largest that the target takes.
    pub limit: Limit,
}

/// A record that cannot be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Its place among the records that were given.
    pub row: usize,
    /// Why.
    pub reason: String,
    /// Its value.
    pub raw: Vec<u8>,
}

impl Unsent {
    /// As a reject of the record on this line, if it has one.
    pub fn reject(self, line: Option<u64>) -> Reject {
        Reject::cut(line, self.reason, self.raw)
    }
}

/// The records without those that cannot be sent.
pub fn without(records: &RecordBatch, unsent: &[Unsent]) -> RecordBatch {
    let mut is_sent = vec![true; records.num_rows()];
    for unsent in unsent {
        if let Some(row) = is_sent.get_mut(unsent.row) {
            *row = false;
        }
    }
    let filtered = filter_record_batch(records, &BooleanArray::from(is_sent));
    filtered.expect("a filter with a value for each record")
}

impl Messages {
    /// The same for an input with a name of this length.
    #[must_use]
    pub fn of_input(&self, name: usize) -> Self {
        let name = if self.file { name as u64 } else { 0 };
        Self { headers: self.headers + name, ..self.clone() }
    }

    /// Why records of this schema cannot be sent, if so, with the key that says which column.
    pub fn refuses(&self, schema: &Schema) -> Option<(&'static str, String)> {
        let columns = || {
            let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            names.join(", ")
        };
        for name in &self.key {
            match schema.field_with_name(name) {
                Err(_) => {
                    let message =
                        format!("found \"{name}\", expected a column of the output: {}", columns());
                    return Some(("output.kafka.key", message));
                }
                Ok(field) if !super::cells::has_text(field.data_type()) => {
                    let kind = crate::record::columns::type_name(field.data_type());
                    let message = format!("found \"{name}\", which is a {kind} and has no text");
                    return Some(("output.kafka.key", message));
                }
                Ok(_) => {}
            }
        }
        let name = self.timestamp.as_ref()?;
        let kind = schema.field_with_name(name).map(arrow_schema::Field::data_type);
        let message = match kind {
            Ok(DataType::Timestamp(..)) => return None,
            Ok(_) => format!("found \"{name}\", expected a column of type timestamp"),
            Err(_) => format!("found \"{name}\", expected a column of the output: {}", columns()),
        };
        Some(("output.kafka.timestamp", message))
    }

    /// Appends a frame for each record that can be sent; returns the others. `lines` are those on which the
    /// records begin, where that is known.
    ///
    /// # Errors
    /// As [`Format::encode`].
    pub fn encode(
        &self,
        format: Format,
        records: &RecordBatch,
        lines: Option<&[u64]>,
        out: &mut Vec<u8>,
    ) -> Result<Vec<Unsent>, String> {
        let mut text = Vec::new();
        format.encode(records, &mut text)?;
        let keys = self.keys(records)?;
        let times = self.timestamp.as_ref().and_then(|name| records.column_by_name(name));
        let taken = self.limit.get();
        let limit = taken.bytes;
        let now_ms = crate::clock::now_ms();
        let mut unsent = Vec::new();
        let mut buffer = Vec::new();
        for (row, value) in values(format, &text).enumerate() {
            let key = keys.as_ref().and_then(|keys| keys.of(row, &mut buffer));
            let timestamp_ms = times.and_then(|times| millis(times, row));
            let line = lines.and_then(|lines| lines.get(row)).copied().filter(|_| self.line);
            let own = (value.len() + key.map_or(0, <[u8]>::len)) as u64;
            let size = own + self.headers + OVERHEAD;
            let reason = if size > limit {
                format!("a message of {size} bytes, and the topic takes {limit}")
            } else if let Some(reason) = taken.refuses(timestamp_ms, key.is_some(), now_ms) {
                reason
            } else {
                Message { key, value, timestamp_ms, line }.write(out);
                continue;
            };
            unsent.push(Unsent { row, reason, raw: value.to_vec() });
        }
        Ok(unsent)
    }

    fn keys(&self, records: &RecordBatch) -> Result<Option<Keys>, String> {
        let schema = records.schema();
        let place = |name: &String| schema.index_of(name).map_err(|error| error.to_string());
        let places = self.key.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        if places.is_empty() {
            return Ok(None);
        }
        let projected = records.project(&places).map_err(|error| error.to_string())?;
        if places.len() == 1 {
            return Ok(Cells::all(&projected)?.pop().map(Keys::One));
        }
        let mut text = Vec::new();
        Format::Json {}.encode(&projected, &mut text)?;
        let array = |object| array_of(object, &self.key);
        let arrays = values(Format::Json {}, &text).map(array).collect::<Result<_, _>>()?;
        Ok(Some(Keys::Several(arrays)))
    }
}

/// The keys of a batch.
enum Keys {
    One(Cells),
    Several(Vec<String>),
}

impl Keys {
    fn of<'b>(&'b self, row: usize, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        match self {
            Self::One(cells) if cells.is_null(row) => None,
            Self::One(cells) => {
                if let Some(text) = cells.text(row) {
                    return Some(text.as_bytes());
                }
                buffer.clear();
                cells.write(row, buffer);
                Some(buffer)
            }
            Self::Several(arrays) => arrays.get(row).map(String::as_bytes),
        }
    }
}

/// The values of an object under these names as an array, as they are written.
fn array_of(object: &[u8], names: &[String]) -> Result<String, String> {
    let object: HashMap<String, &serde_json::value::RawValue> =
        serde_json::from_slice(object).map_err(|error| error.to_string())?;
    let values: Vec<_> = names.iter().map(|name| object.get(name)).collect();
    serde_json::to_string(&values).map_err(|error| error.to_string())
}

/// Cuts what a format has written into records, without their line ends.
fn values(format: Format, text: &[u8]) -> impl Iterator<Item = &[u8]> {
    // Only in a quoted field of csv is a line feed no end: then the quotes before it are odd in number.
    let is_quoted = matches!(format, Format::Csv(_));
    let quoted_end = |rest: &[u8]| {
        let mut inside = false;
        memchr::memchr2_iter(b'\n', b'"', rest).find(|at| {
            let quote = rest.get(*at) == Some(&b'"');
            inside ^= quote;
            !quote && !inside
        })
    };
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = if is_quoted { quoted_end(rest) } else { memchr::memchr(b'\n', rest) };
        let (value, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.get(1..).unwrap_or_default();
        Some(value)
    })
}

/// A time in milliseconds since 1970.
fn millis(times: &dyn Array, row: usize) -> Option<i64> {
    if times.is_null(row) {
        return None;
    }
    let DataType::Timestamp(unit, _) = times.data_type() else { return None };
    Some(match unit {
        TimeUnit::Second => {
            times.as_primitive::<TimestampSecondType>().value(row).saturating_mul(1_000)
        }
        TimeUnit::Millisecond => times.as_primitive::<TimestampMillisecondType>().value(row),
        TimeUnit::Microsecond => {
            times.as_primitive::<TimestampMicrosecondType>().value(row).div_euclid(1_000)
        }
        TimeUnit::Nanosecond => {
            times.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1_000_000)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::message::{Frames, Taken};
    use arrow_array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};

    type Plain = (Option<Vec<u8>>, Vec<u8>, Option<i64>, Option<u64>);

    fn all(frames: &[u8], offset: u64) -> std::io::Result<Vec<Plain>> {
        let mut frames = Frames::new(frames, offset);
        let mut all = Vec::new();
        while let Some(message) = frames.next_message()? {
            let key = message.key.map(<[u8]>::to_vec);
            all.push((key, message.value.to_vec(), message.timestamp_ms, message.line));
        }
        Ok(all)
    }

    fn records() -> RecordBatch {
        let text = StringArray::from(vec![Some("a\nb"), Some("\"q\""), None, Some("")]);
        let number = Int64Array::from(vec![Some(1), None, Some(3), Some(4)]);
        let time = TimestampMicrosecondArray::from(vec![Some(1_999), None, Some(-1), Some(0)]);
        let columns: [(&str, ArrayRef); 3] =
            [("text", Arc::new(text)), ("number", Arc::new(number)), ("time", Arc::new(time))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
            .unwrap()
    }

    fn encoded(messages: &Messages, format: Format) -> (Vec<Plain>, Vec<Unsent>) {
        let mut out = Vec::new();
        let unsent = messages.encode(format, &records(), Some(&[1, 3, 4, 5]), &mut out).unwrap();
        (all(&out, 0).unwrap(), unsent)
    }

    fn values_of(of: &[Plain]) -> Vec<&str> {
        of.iter().map(|of| std::str::from_utf8(&of.1).unwrap()).collect()
    }

    #[test]
    fn a_record_is_one_message_whatever_is_in_it() {
        let header = false;
        let csv = Format::Csv(super::super::csv::Csv { header, ..Default::default() });
        let (messages, unsent) = encoded(&Messages::default(), csv);
        assert_eq!(unsent, []);
        assert_eq!(
            values_of(&messages),
            [
                "\"a\nb\",1,1970-01-01 00:00:00.001999",
                "\"\"\"q\"\"\",,",
                ",3,1969-12-31 23:59:59.999999",
                "\"\",4,1970-01-01 00:00:00",
            ]
        );
        let (messages, _) = encoded(&Messages::default(), Format::Json {});
        assert_eq!(messages.len(), 4);
        assert_eq!(
            values_of(&messages)[1],
            "{\"text\":\"\\\"q\\\"\",\"number\":null,\"time\":null}"
        );
    }

    #[test]
    fn keys_are_the_text_of_a_column_or_an_array_of_several() {
        let one = Messages { key: vec!["number".to_owned()], line: true, ..Messages::default() };
        let keys = |messages: &Messages| -> Vec<Option<String>> {
            let (made, _) = encoded(messages, Format::Json {});
            made.into_iter().map(|of| of.0.map(|key| String::from_utf8(key).unwrap())).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(keys(&one), [some("1"), None, some("3"), some("4")]);
        let lines: Vec<_> = encoded(&one, Format::Json {}).0.iter().map(|of| of.3).collect();
        assert_eq!(lines, [Some(1), Some(3), Some(4), Some(5)]);
        let names = ["text", "number"].map(str::to_owned).to_vec();
        let both = Messages { key: names, ..Messages::default() };
        assert_eq!(keys(&both)[..2], [some("[\"a\\nb\",1]"), some("[\"\\\"q\\\"\",null]")]);
    }

    #[test]
    fn what_no_topic_takes_is_not_sent() {
        let timestamp = Some("time".to_owned());
        let limited = Messages { timestamp, ..Messages::default() };
        let (sent, unsent) = encoded(&limited, Format::Json {});
        let times: Vec<_> = sent.iter().map(|of| of.2).collect();
        assert_eq!(times, [Some(1), None]);
        let rows: Vec<_> = unsent.iter().map(|of| of.row).collect();
        assert_eq!(rows, [2, 3]);
        let messages = Messages::default();
        messages.limit.set(Taken { bytes: 150, ..Taken::default() });
        let (sent, unsent) = encoded(&messages, Format::Json {});
        assert_eq!((sent.len(), unsent.len()), (1, 3));
        assert_eq!(unsent[0].reason, "a message of 162 bytes, and the topic takes 150");
    }

    #[test]
    fn columns_that_are_not_there_are_refused() {
        let schema = records().schema();
        let with = |key: &str, timestamp: Option<&str>| {
            let timestamp = timestamp.map(str::to_owned);
            let messages = Messages { key: vec![key.to_owned()], timestamp, ..Messages::default() };
            messages.refuses(&schema).map(|(key, _)| key)
        };
        assert_eq!(with("text", Some("time")), None);
        assert_eq!(with("none", None), Some("output.kafka.key"));
        assert_eq!(with("text", Some("number")), Some("output.kafka.timestamp"));
        assert_eq!(with("text", Some("none")), Some("output.kafka.timestamp"));
    }
}
