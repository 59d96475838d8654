//! Records to bytes, and bytes to where they wait for their commit.
//!
//! What holds here: nothing is written where a reader of the output could see it.

mod numbers;
pub mod rejects;
pub mod stage;

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
}

impl Default for Format {
    fn default() -> Self {
        Self::Lines {}
    }
}

impl Format {
    /// Why records of this schema cannot be written in this format, if so.
    pub fn refuses(self, schema: &Schema) -> Option<String> {
        let fields: Vec<_> = schema.fields().iter().map(|field| field.data_type()).collect();
        match (self, fields.as_slice()) {
            (Self::Numbers {} | Self::Lines {}, [DataType::Float64])
            | (Self::Lines {}, [DataType::Binary]) => None,
            (Self::Numbers {}, _) => Some("`numbers` writes one column of numbers".to_owned()),
            (Self::Lines {}, _) => Some("`lines` writes one column".to_owned()),
        }
    }

    /// Appends the records to `out`. The schema was checked by [`Format::refuses`].
    pub fn encode(self, records: &RecordBatch, out: &mut Vec<u8>) {
        let column = records.column(0);
        match column.data_type() {
            DataType::Float64 => {
                numbers::encode(column.as_primitive::<Float64Type>().values(), out);
            }
            _ => encode_lines(column, out),
        }
    }
}

fn encode_lines(column: &dyn Array, out: &mut Vec<u8>) {
    let lines = column.as_binary::<i32>();
    out.reserve(lines.value_data().len() + lines.len());
    for line in lines.iter().flatten() {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
}
