//! The engine of a build without the feature `sql`: there are no queries.

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::SchemaRef;

use crate::record::Decoded;

/// Why a query fails.
#[derive(Debug, thiserror::Error)]
#[error("this build has no SQL")]
pub struct QueryError {
    /// The disk is at fault.
    pub transient: bool,
}

/// A query; there is none.
#[derive(Debug, Clone, Copy)]
pub enum Query {}

impl Query {
    /// The query for one microbatch.
    pub fn at(&self, _now_ms: i64, _schema: Option<&SchemaRef>) -> Result<Ready<'_>, QueryError> {
        match *self {}
    }
}

/// A query for one microbatch; there is none.
#[derive(Debug, Clone, Copy)]
pub enum Ready<'a> {
    /// It cannot be made.
    Never(&'a Query),
}

impl Ready<'_> {
    /// The columns of the result.
    pub fn schema(&self) -> SchemaRef {
        let Self::Never(query) = self;
        match **query {}
    }

    /// Whether it asks for `_file` or `_line`.
    pub fn wants_position(&self) -> bool {
        let Self::Never(query) = self;
        match **query {}
    }

    /// A batch of the result, and the lines of its records.
    pub fn part(&self, _records: RecordBatch) -> (RecordBatch, Option<Int64Array>) {
        let Self::Never(query) = self;
        match **query {}
    }

    /// The records with their position.
    pub fn bind(&self, _decoded: Decoded, _file: &str, _lines_before: u64) -> RecordBatch {
        let Self::Never(query) = self;
        match **query {}
    }

    /// The records as the query makes them.
    pub fn apply(&self, _records: RecordBatch) -> Result<RecordBatch, QueryError> {
        let Self::Never(query) = self;
        match **query {}
    }
}

/// There is no state.
pub fn continues(kept: &str, own: &str) -> bool {
    kept == own
}
