//! A plan is tried before it is trusted: what can be planned may have no implementation.
//!
//! Invariants: what the data is to blame for is no reason to refuse a query. A text that is no number is
//! one; a function that has not been written is none.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow_cast::cast;
use arrow_schema::{DataType, Schema};

use super::view::Memory;
use super::{Feed, Query, QueryError, View};
use crate::record::Decoded;

impl Query {
    /// Runs the query over nothing, over a record of NULLs and over one of plain values.
    ///
    /// # Errors
    /// When it cannot run at all.
    pub fn try_out(&self) -> Result<(), QueryError> {
        let Some(planned) = self.planned() else { return Ok(()) };
        let now_ms = chrono::Utc::now().timestamp_millis();
        for records in samples(&planned.schema) {
            let ready = self.at(now_ms, None)?;
            let positions = (0..records.num_rows()).map(|_| 1).collect();
            let rejects = Vec::new();
            let lines = 1;
            let positions = Some(positions);
            let decoded = Decoded { records, rejects, lines, positions, is_as_written: false };
            let records = ready.bind(decoded, "", 0);
            able(QueryError::guard(|| ready.apply(records)))?;
        }
        Ok(())
    }
}

impl View {
    /// Makes and merges states of nothing, of a record of NULLs and of one of plain values, and their
    /// result.
    ///
    /// # Errors
    /// When the query cannot run at all.
    pub fn try_out(&self, schema: &Schema) -> Result<(), QueryError> {
        for records in samples(schema) {
            let work = || {
                let delta = self.delta(Feed::held(vec![records]))?;
                let mut kept = Memory::default();
                self.merge(&delta, None, &mut kept)?;
                self.merge(&delta, None, &mut kept)?;
                self.evaluate(&self.states(self.all(&kept)?)?)
            };
            able(QueryError::guard(work))?;
        }
        Ok(())
    }
}

/// Keeps the errors that the query causes and not the data.
fn able<T>(tried: Result<T, QueryError>) -> Result<(), QueryError> {
    match tried {
        Err(problem) if problem.is_inability => Err(problem),
        _ => Ok(()),
    }
}

/// No record, one of NULLs, and one of plain values.
fn samples(schema: &Schema) -> Vec<RecordBatch> {
    let schema = Arc::new(schema.clone());
    let columns = |column: fn(&DataType) -> Option<ArrayRef>| {
        schema.fields().iter().map(|field| column(field.data_type())).collect::<Option<Vec<_>>>()
    };
    let nulls = columns(|data_type| Some(new_null_array(data_type, 1)));
    let all = [nulls, columns(plain)].into_iter().flatten();
    // A column that may not be NULL has only plain values.
    let rows = all.filter_map(|columns| RecordBatch::try_new(schema.clone(), columns).ok());
    std::iter::once(RecordBatch::new_empty(schema.clone())).chain(rows).collect()
}

/// A value that nothing is odd about.
fn plain(data_type: &DataType) -> Option<ArrayRef> {
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    cast(&one, data_type).or_else(|_| cast(&text, data_type)).ok()
}
