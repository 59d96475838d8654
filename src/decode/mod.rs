//! Bytes to records: one file per format, and the framing and decompression before them.
//!
//! What holds here: the verdict on a record depends on its bytes alone, not on its neighbours or
//! on where the input was cut into blocks. No format reads a file by itself; it is given blocks.

pub mod compression;
pub mod frame;
pub mod lines;
pub mod numbers;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::record::{self, Decoded};

/// `[input.format.*]`: how the bytes of an input become records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Format {
    /// One number per line, by the grammar of Python's `float()`.
    Numbers {},
    /// One record per line, of any bytes.
    Lines {},
}

impl Default for Format {
    fn default() -> Self {
        Self::Lines {}
    }
}

impl Format {
    /// The columns that this format gives.
    pub fn schema(self) -> SchemaRef {
        match self {
            Self::Numbers {} => record::numbers_schema(),
            Self::Lines {} => record::lines_schema(),
        }
    }

    /// True when a UTF-8 byte order mark at the beginning is no data. `lines` passes bytes as they
    /// are.
    pub fn skips_byte_order_mark(self) -> bool {
        !matches!(self, Self::Lines {})
    }

    /// Decodes a block of whole records; one longer than `max_record` bytes is a reject.
    pub fn decode(self, block: &[u8], max_record: usize) -> Decoded {
        match self {
            Self::Numbers {} => numbers::decode(block, max_record),
            Self::Lines {} => lines::decode(block, max_record),
        }
    }
}
