//! The transform `scale`: multiplies every number below a bound.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema};
use serde::{Deserialize, Serialize};

/// `[transform.scale]`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Numbers below this are multiplied; NaN never is.
    pub below: f64,
    /// The factor.
    pub by: f64,
}

impl Scale {
    /// Why records of this schema cannot be scaled, if so.
    pub fn refuses(self, schema: &Schema) -> Option<String> {
        let numbers = schema.fields().iter().all(|field| *field.data_type() == DataType::Float64);
        (!numbers).then(|| "`scale` needs a column of numbers: `[input.format.numbers]`".to_owned())
    }

    /// The scaled records.
    pub fn apply(self, records: &RecordBatch) -> RecordBatch {
        let scaled = |number: f64| if number < self.below { number * self.by } else { number };
        let columns = records.columns().iter().map(|column| {
            let scaled = column.as_primitive::<Float64Type>().unary::<_, Float64Type>(scaled);
            Arc::new(scaled) as ArrayRef
        });
        RecordBatch::try_new(records.schema(), columns.collect()).expect("the same columns")
    }
}
