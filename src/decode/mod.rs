//! Bytes to records: one file per format, and the framing and decompression before them.
//!
//! Invariants: the verdict on a record depends on its bytes alone, not on its neighbours or
//! on where the input was cut into blocks. No format opens a file itself; it is given blocks.

pub mod blocks;
mod build;
pub mod compression;
pub mod csv;
mod decimal;
pub mod frame;
pub mod infer;
pub mod json;
pub mod lines;
pub mod numbers;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod quotes;
pub mod recognition;
mod separators;
mod times;
mod timestamp;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::record::{self, Decoded};
use quotes::Dialect;

/// `[input.format.*]`: how the bytes of an input become records.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Format {
    /// One number per line, by the grammar of Python's `float()`.
    Numbers {},
    /// One record per line, of any bytes.
    Lines {},
    /// Records of fields.
    Csv(csv::Csv),
    /// One object per line.
    Json(json::Json),
    /// A file that brings its columns.
    #[cfg(feature = "parquet")]
    Parquet(parquet::Parquet),
}

impl Default for Format {
    fn default() -> Self {
        Self::Lines {}
    }
}

/// How a column or key is treated that the job does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// Nothing.
    #[default]
    Ignore,
    /// A reason to reject its record, or the file whose header names it.
    Reject,
}

/// The bytes before the records of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Its bytes.
    pub bytes: usize,
    /// Its lines.
    pub lines: u64,
    /// The block ends before the header does.
    pub is_missing: bool,
}

/// Decodes the blocks of one file.
#[derive(Debug, Clone)]
pub enum Decoder {
    /// Of numbers.
    Numbers,
    /// Of lines.
    Lines,
    /// Of fields.
    Csv(csv::Decoder),
    /// Of objects.
    Json(json::Decoder),
}

impl Format {
    /// The columns that this format gives; `None` where the job does not say and each file may
    /// have its own.
    pub fn schema(&self) -> Option<SchemaRef> {
        Some(match self {
            Self::Numbers {} => record::numbers_schema(),
            Self::Lines {} => record::lines_schema(),
            Self::Csv(csv::Csv { columns, .. }) | Self::Json(json::Json { columns, .. }) => {
                return (!columns.is_empty()).then(|| columns.schema());
            }
            #[cfg(feature = "parquet")]
            Self::Parquet(parquet::Parquet { columns, .. }) => {
                return (!columns.is_empty()).then(|| columns.schema());
            }
        })
    }

    /// The first error in its options, with its key.
    pub fn check(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Csv(csv) => csv.check(),
            _ => None,
        }
    }

    /// How quoted fields are told, where line ends in them end no record.
    pub fn dialect(&self) -> Option<Dialect> {
        match self {
            Self::Csv(csv) => Some(csv.dialect()),
            _ => None,
        }
    }

    /// A decoder for a file of which `block` is the beginning, and what it begins with.
    ///
    /// # Errors
    /// The error in the header.
    pub fn decoder(&self, block: &[u8], max_record: usize) -> Result<(Decoder, Header), String> {
        let decoder = match self {
            Self::Numbers {} => Decoder::Numbers,
            Self::Lines {} => Decoder::Lines,
            Self::Csv(csv) => {
                let (decoder, header) = csv.decoder(block, max_record)?;
                return Ok((Decoder::Csv(decoder), header));
            }
            Self::Json(json) => Decoder::Json(json.decoder()),
            // Its records come decoded.
            #[cfg(feature = "parquet")]
            Self::Parquet(_) => Decoder::Lines,
        };
        Ok((decoder, Header::default()))
    }
}

impl Decoder {
    /// Decodes a block of whole records; one longer than `max_record` bytes is a reject.
    pub fn decode(&self, block: &[u8], max_record: usize) -> Decoded {
        match self {
            Self::Numbers => numbers::decode(block, max_record),
            Self::Lines => lines::decode(block, max_record),
            Self::Csv(decoder) => decoder.decode(block, max_record),
            Self::Json(decoder) => decoder.decode(block, max_record),
        }
    }
}
