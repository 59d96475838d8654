//! The engine of a build without the feature `sql`: there are no queries.

use arrow_array::RecordBatch;

use crate::record::Decoded;

/// Why a query fails.
#[derive(Debug, thiserror::Error)]
#[error("this build has no SQL")]
pub struct Problem {
    /// The disk is at fault.
    pub transient: bool,
}

/// A query; there is none.
#[derive(Debug, Clone, Copy)]
pub enum Query {}

impl Query {
    /// Whether the query asks for `_file` or `_line`.
    pub fn wants_position(&self) -> bool {
        match *self {}
    }

    /// The records with their position.
    pub fn bind(&self, _decoded: Decoded, _file: &str, _lines_before: u64) -> RecordBatch {
        match *self {}
    }

    /// The records as the query makes them.
    pub fn apply(&self, _records: RecordBatch, _now_ms: i64) -> Result<RecordBatch, Problem> {
        match *self {}
    }
}
