//! Records to records: one file per kind.
//!
//! Invariants: a transform sees the same records in the same order whichever driver runs it.

pub mod command;
mod scale;
mod sql;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use serde::{Deserialize, Serialize};

pub use command::Command;
pub use scale::Scale;
pub use sql::Sql;

/// `[transform.*]`: the one transform of a job.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Transform {
    /// Records pass as they are.
    None {},
    /// Multiplies what is below a bound.
    Scale(Scale),
    /// Any program that filters its standard input to its standard output.
    Command(Command),
    /// A query over the records of one file.
    Sql(Sql),
}

impl Default for Transform {
    fn default() -> Self {
        Self::None {}
    }
}

impl Transform {
    /// Why records of this schema cannot be transformed, if so.
    pub fn refuses(&self, schema: &Schema) -> Option<String> {
        match self {
            Self::Scale(scale) => scale.refuses(schema),
            _ => None,
        }
    }

    /// Transforms the records of one block. A command or a query is no function of a block: the
    /// pipeline runs it, and records pass here unchanged.
    pub fn apply(&self, records: RecordBatch) -> RecordBatch {
        match self {
            Self::Scale(scale) => scale.apply(&records),
            _ => records,
        }
    }
}
