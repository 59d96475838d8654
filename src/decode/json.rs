//! The format `json`: one object on each line.
//!
//! Invariants: every line that is not blank ends in the output or in the rejects, by its own
//! bytes alone. A key that is missing is NULL. No value is changed to fit: a bigint takes `12` and
//! `1.0`, not `"12"` and not `1.7`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use arrow_schema::SchemaRef;
use memchr::memchr;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::build::{self, Builder};
use super::{Unknown, frame};
use crate::record::columns::{Columns, Type};
use crate::record::{self, Decoded, quoted};

/// `[input.format.json]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Json {
    /// How a key is treated that the job does not name.
    pub unknown: Unknown,
    /// The columns and their types.
    pub columns: Columns,
}

impl Json {
    /// Decodes the blocks of any file.
    pub fn decoder(&self) -> Decoder {
        let schema = self.columns.schema();
        Decoder { schema, columns: self.columns.0.clone(), unknown: self.unknown }
    }
}

/// Decodes blocks of lines.
#[derive(Debug, Clone)]
pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<(String, Type)>,
    unknown: Unknown,
}

/// The names of the values of a double that JSON has no number for.
const NO_NUMBERS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// A value as it goes into its column.
enum Cell<'a> {
    Null,
    Integer(i64),
    Double(f64),
    Boolean(bool),
    Text(Cow<'a, str>),
}

impl Decoder {
    /// Decodes a block.
    pub fn decode(&self, block: &[u8], max_record: usize) -> Decoded {
        // A line of JSON rarely has fewer bytes than this for each of its columns.
        let rows = block.len() / (8 * self.columns.len().max(1)) + 1;
        let mut builders: Vec<_> =
            self.columns.iter().map(|(_, kind)| Builder::new(*kind, rows)).collect();
        let mut rejects = Vec::new();
        let mut positions = Vec::new();
        let mut lines = 0;
        let mut row: Vec<Option<Cell<'_>>> = Vec::new();
        for (number, line) in frame::lines(block) {
            lines = number;
            if line.trim_ascii().is_empty() {
                continue;
            }
            if line.len() > max_record {
                rejects.push(frame::reject_too_long(number, line, max_record));
                continue;
            }
            row.clear();
            row.resize_with(self.columns.len(), || None);
            match self.line(line, &mut row) {
                Ok(()) => {
                    positions.push(number);
                    for (builder, cell) in builders.iter_mut().zip(row.drain(..)) {
                        append(builder, cell.unwrap_or(Cell::Null));
                    }
                }
                Err(reason) => rejects.push(frame::reject(number, reason, line)),
            }
        }
        let arrays = builders.into_iter().map(Builder::finish).collect();
        let records = build::records(self.schema.clone(), arrays, None);
        Decoded { records, rejects, lines, positions: Some(positions), is_as_written: false }
    }

    fn line<'a>(&self, line: &'a [u8], row: &mut [Option<Cell<'a>>]) -> Result<(), String> {
        let mut json = serde_json::Deserializer::from_slice(line);
        let object = Object { decoder: self, row };
        object.deserialize(&mut json).map_err(|error| reason(&error))?;
        json.end().map_err(|_| "more than one object on the line".to_owned())
    }
}

/// The message of serde without its position: a record is one line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let at = text.rfind(" at line ").unwrap_or(text.len());
    record::reason(text.get(..at).unwrap_or(&text).to_owned())
}

fn append(builder: &mut Builder, cell: Cell<'_>) {
    match (builder, cell) {
        (Builder::Bigint(builder), Cell::Integer(value)) => builder.append_value(value),
        (Builder::Int(builder), Cell::Integer(value)) => {
            builder.append_option(i32::try_from(value).ok());
        }
        (Builder::Smallint(builder), Cell::Integer(value)) => {
            builder.append_option(i16::try_from(value).ok());
        }
        (Builder::Double(builder), Cell::Double(value)) => builder.append_value(value),
        #[expect(clippy::cast_possible_truncation, reason = "`real` has what 32 bits hold")]
        (Builder::Real(builder), Cell::Double(value)) => builder.append_value(value as f32),
        (Builder::Boolean(builder), Cell::Boolean(value)) => builder.append_value(value),
        (Builder::Varchar(builder), Cell::Text(text)) => builder.append_value(text),
        (Builder::Timestamp(builder, _), Cell::Integer(value)) => builder.append_value(value),
        (Builder::Date(builder), Cell::Integer(value)) => {
            builder.append_option(i32::try_from(value).ok());
        }
        (builder @ Builder::Decimal(..), Cell::Text(text)) => {
            builder.text(&text);
        }
        (builder, _) => builder.null(),
    }
}

/// Fills a row from one object.
struct Object<'a, 'b> {
    decoder: &'b Decoder,
    row: &'b mut [Option<Cell<'a>>],
}

impl<'a> DeserializeSeed<'a> for Object<'a, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Object<'a, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        let columns = &self.decoder.columns;
        // Keys mostly come in the order of the columns.
        let mut expected = 0;
        let mut unknown = HashSet::new();
        let mut known = false;
        while let Some(Key(key)) = map.next_key::<Key<'a>>()? {
            let is = |at: &usize| columns.get(*at).is_some_and(|(name, _)| *name == key);
            let found = Some(expected)
                .filter(is)
                .or_else(|| columns.iter().position(|(name, _)| *name == key));
            let Some(at) = found else {
                if self.decoder.unknown == Unknown::Reject {
                    return Err(M::Error::custom(format!("unknown key `{}`", quoted(&key))));
                }
                map.next_value::<IgnoredAny>()?;
                if let Some(key) = unknown.replace(key) {
                    return Err(twice(&key));
                }
                continue;
            };
            expected = at + 1;
            let (Some(slot), Some((name, kind))) = (self.row.get_mut(at), columns.get(at)) else {
                continue;
            };
            let cell = map.next_value_seed(Value { name, kind: *kind })?;
            if slot.replace(cell).is_some() {
                return Err(twice(&key));
            }
            known = true;
        }
        if !known && !columns.is_empty() {
            return Err(M::Error::custom(NO_KEY));
        }
        Ok(())
    }
}

fn twice<E: serde::de::Error>(key: &str) -> E {
    E::custom(format!("the key `{}` stands twice", quoted(key)))
}

/// The reason of a reject for an object that has nothing of what the job names.
const NO_KEY: &str = "the object has none of the keys that the job names";

/// A key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'a> Deserialize<'a> for Key<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text).map(Key)
    }
}

struct Text;

impl<'a> Visitor<'a> for Text {
    type Value = Cow<'a, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Takes a value for one column.
#[derive(Clone, Copy)]
struct Value<'b> {
    name: &'b str,
    kind: Type,
}

impl Value<'_> {
    fn refuse<E: serde::de::Error>(self, found: impl fmt::Display) -> E {
        E::custom(format!("column `{}`: {found} is no {}", self.name, self.kind))
    }

    fn integer<'a, E: serde::de::Error>(self, value: i64) -> Result<Cell<'a>, E> {
        let fits = match self.kind {
            Type::Bigint => true,
            Type::Int => i32::try_from(value).is_ok(),
            Type::Smallint => i16::try_from(value).is_ok(),
            #[expect(clippy::cast_precision_loss, reason = "the nearest double is what is meant")]
            Type::Double | Type::Real => return Ok(Cell::Double(value as f64)),
            _ => false,
        };
        if fits { Ok(Cell::Integer(value)) } else { Err(self.refuse(value)) }
    }
}

impl<'a> DeserializeSeed<'a> for Value<'_> {
    type Value = Cell<'a>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Cell<'a>, D::Error> {
        if let Type::Decimal(precision, scale) = self.kind {
            // By its digits: a double would change them.
            let raw = <&RawValue>::deserialize(deserializer)?.get();
            return match raw {
                "null" => Ok(Cell::Null),
                _ if build::decimal(raw, precision, scale).is_some() => Ok(Cell::Text(raw.into())),
                _ => Err(self.refuse(raw)),
            };
        }
        if self.kind == Type::Varchar {
            // Other values than texts are their own text.
            let raw = <&RawValue>::deserialize(deserializer)?.get();
            return match raw.as_bytes() {
                b"null" => Ok(Cell::Null),
                [b'"', text @ .., b'"'] if memchr(b'\\', text).is_none() => {
                    Ok(Cell::Text(raw.trim_matches('"').into()))
                }
                [b'"', ..] => {
                    let mut json = serde_json::Deserializer::from_str(raw);
                    let text = json.deserialize_str(Text);
                    text.map(Cell::Text).map_err(|error| D::Error::custom(reason(&error)))
                }
                _ => Ok(Cell::Text(raw.into())),
            };
        }
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Value<'_> {
    type Value = Cell<'a>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a {} in column `{}`", self.kind, self.name)
    }

    fn visit_unit<E>(self) -> Result<Cell<'a>, E> {
        Ok(Cell::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Cell<'a>, E> {
        if self.kind == Type::Boolean { Ok(Cell::Boolean(value)) } else { Err(self.refuse(value)) }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Cell<'a>, E> {
        self.integer(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Cell<'a>, E> {
        match i64::try_from(value) {
            Ok(value) => self.integer(value),
            #[expect(clippy::cast_precision_loss, reason = "the nearest double is what is meant")]
            Err(_) if matches!(self.kind, Type::Double | Type::Real) => {
                Ok(Cell::Double(value as f64))
            }
            Err(_) => Err(self.refuse(value)),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Cell<'a>, E> {
        // 2^53: beyond it a double stands for more than one whole number.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match self.kind {
            #[expect(clippy::cast_possible_truncation, reason = "that is the question")]
            Type::Real if value.is_finite() && (value as f32).is_infinite() => {
                Err(self.refuse(value))
            }
            Type::Double | Type::Real => Ok(Cell::Double(value)),
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and fits")]
            _ if value.fract() == 0.0 && value.abs() < EXACT => self.integer(value as i64),
            _ => Err(self.refuse(value)),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Cell<'a>, E> {
        self.text(text).unwrap_or_else(|| Ok(Cell::Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'a str) -> Result<Cell<'a>, E> {
        self.text(text).unwrap_or(Ok(Cell::Text(Cow::Borrowed(text))))
    }
}

impl Value<'_> {
    /// The cell of a text in a column that is no text; `None` for one that is.
    fn text<'a, E: serde::de::Error>(self, text: &str) -> Option<Result<Cell<'a>, E>> {
        let parsed = match self.kind {
            Type::Varchar => return None,
            Type::Date => build::date(text).map(i64::from),
            Type::Timestamp | Type::Timestamptz => build::timestamp(text),
            // What JSON has no number for.
            Type::Double | Type::Real if NO_NUMBERS.contains(&text) => {
                return text.parse().ok().map(|value| Ok(Cell::Double(value)));
            }
            _ => None,
        };
        Some(parsed.map(Cell::Integer).ok_or_else(|| self.refuse(format_args!("{text:?}"))))
    }
}
