//! Records to bytes: one file for each format.
//!
//! Out of scope: where the bytes wait ([`crate::staging`]) and where they go ([`crate::sink`]).

pub mod cells;
pub mod csv;
pub mod envelope;
mod json;
pub mod late;
pub mod message;
mod numbers;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod rejects;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Schema};
use serde::{Deserialize, Serialize};

/// `[output.format.*]`: how records become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Format {
    /// One number per line, as Python's `repr` writes it.
    Numbers {},
    /// One record per line: the bytes of its one column.
    Lines {},
    /// Records of fields.
    Csv(csv::Csv),
    /// One object per line.
    Json {},
    /// A file for each microbatch, by columns.
    #[cfg(feature = "parquet")]
    Parquet(parquet::Parquet),
}

impl Default for Format {
    fn default() -> Self {
        Self::Lines {}
    }
}

impl Format {
    /// Why records of this schema cannot be written in this format, if so.
    pub fn refuses(self, schema: &Schema) -> Option<String> {
        let mut names = std::collections::HashSet::new();
        if let Some(twice) = schema.fields().iter().find(|field| !names.insert(field.name())) {
            return Some(format!("two columns are called `{}`: name one with `as`", twice.name()));
        }
        let fields: Vec<_> = schema.fields().iter().map(|field| field.data_type()).collect();
        match (self, fields.as_slice()) {
            (Self::Numbers {} | Self::Lines {}, [DataType::Float64])
            | (
                Self::Lines {},
                [DataType::Binary | DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8],
            ) => None,
            (Self::Numbers {}, _) => Some("`numbers` writes one column of type double".to_owned()),
            (Self::Lines {}, _) => Some("`lines` writes one column of text".to_owned()),
            #[cfg(feature = "parquet")]
            (Self::Parquet(parquet), _) => parquet.refuses(schema),
            (Self::Csv(_) | Self::Json {}, _) => {
                let odd = |field: &&std::sync::Arc<arrow_schema::Field>| {
                    !cells::has_text(field.data_type())
                };
                schema.fields().iter().find(odd).map(|field| {
                    let (name, kind) =
                        (field.name(), crate::record::columns::type_name(field.data_type()));
                    format!("column `{name}` is a {kind}, which has no text in csv or json")
                })
            }
        }
    }

    /// The bytes before the records in a file of this format.
    pub fn header(self, schema: &Schema) -> Option<Vec<u8>> {
        match self {
            Self::Csv(csv) => csv.header(schema),
            _ => None,
        }
    }

    /// The same where there is no beginning that a header could stand at.
    #[must_use]
    pub fn without_header(self) -> Self {
        match self {
            Self::Csv(csv) => Self::Csv(csv::Csv { header: false, ..csv }),
            other => other,
        }
    }

    /// The format and what a reader of it must know, as a job says it: two files of the same can be one.
    pub fn signature(self) -> String {
        match self {
            // Numbers are lines.
            Self::Numbers {} | Self::Lines {} => "lines".to_owned(),
            Self::Csv(csv) => csv.signature(),
            Self::Json {} => "json".to_owned(),
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => "parquet".to_owned(),
        }
    }

    /// True when all records must have the same columns, known before the first of them.
    pub fn has_columns(self) -> bool {
        matches!(self, Self::Csv(_))
    }

    /// True when a file of this format is written as a whole: the output of a daemon is a folder
    /// then, and records go through an [`envelope::Envelope`] in their order.
    pub fn is_columnar(self) -> bool {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => true,
            _ => false,
        }
    }

    /// Appends the records to `out`, unless they are columnar. The schema was checked by [`Format::refuses`].
    ///
    /// # Errors
    /// When a value cannot be written so that it reads back as the same.
    pub fn encode(self, records: &RecordBatch, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Csv(csv) => csv.encode(records, out),
            Self::Json {} => json::encode(records, out),
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => Ok(()),
            Self::Numbers {} | Self::Lines {} => encode_column(records.column(0), out),
        }
    }
}

fn encode_column(column: &dyn Array, out: &mut Vec<u8>) -> Result<(), String> {
    match column.data_type() {
        DataType::Float64 if column.null_count() == 0 => {
            numbers::encode(column.as_primitive::<Float64Type>().values(), out);
            Ok(())
        }
        DataType::Float64 => {
            // A NULL is an empty line: there is no number to write.
            for number in column.as_primitive::<Float64Type>() {
                if let Some(number) = number {
                    numbers::write(number, out);
                }
                out.push(b'\n');
            }
            Ok(())
        }
        DataType::Utf8 => encode_texts(column.as_string::<i32>().iter(), out),
        DataType::LargeUtf8 => encode_texts(column.as_string::<i64>().iter(), out),
        DataType::Utf8View => encode_texts(column.as_string_view().iter(), out),
        _ => encode_lines(column, out),
    }
}

fn encode_texts<'a>(
    texts: impl Iterator<Item = Option<&'a str>>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    for text in texts {
        encode_line(text.unwrap_or_default().as_bytes(), out)?;
    }
    Ok(())
}

fn encode_lines(column: &dyn Array, out: &mut Vec<u8>) -> Result<(), String> {
    let lines = column.as_binary::<i32>();
    out.reserve(lines.value_data().len() + lines.len());
    lines.iter().try_for_each(|line| encode_line(line.unwrap_or_default(), out))
}

fn encode_line(line: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    if memchr::memchr(b'\n', line).is_some() {
        let message =
            "a text with a line end in it cannot be one of `lines`: csv and json can hold it";
        return Err(message.to_owned());
    }
    out.extend_from_slice(line);
    out.push(b'\n');
    Ok(())
}
