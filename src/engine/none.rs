//! The engine of a build without the feature `sql`: none can be made, and so no query and no view.
//!
//! Invariants: a job that asks for one is refused before (`config::kinds`). Each type is one that has no value, so
//! that what stands after it is never reached.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{Schema, SchemaRef};

use crate::record::Decoded;
pub use definition::{Asked, Definition};
pub use entries::{Entries, Entry, Store};

#[path = "view/definition.rs"]
mod definition;
#[path = "view/entries.rs"]
mod entries;
#[path = "rows.rs"]
pub mod rows;

/// Whether there are queries in this build.
pub const IS_BUILT_IN: bool = false;

/// There is no value of it.
#[derive(Debug, Clone, Copy)]
enum Never {}

/// Why there is no query.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    message: String,
    /// True when the disk is at fault.
    pub transient: bool,
    /// True when the query cannot run, whatever the data.
    pub is_inability: bool,
}

impl QueryError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), transient: false, is_inability: true }
    }

    fn none() -> Self {
        Self::new("this build has no SQL")
    }
}

/// A message from the thread that feeds a query: batches, then the end.
#[derive(Debug)]
pub enum Fed {
    /// Some records.
    Records(RecordBatch),
    /// There are no more.
    End,
}

/// The input of an execution.
#[derive(Debug)]
pub struct Feed(());

impl Feed {
    /// These batches.
    pub fn held(_records: Vec<RecordBatch>) -> Self {
        Self(())
    }

    /// Batches that another thread sends.
    pub fn sent(_batches: Receiver<Fed>) -> Self {
        Self(())
    }
}

/// An engine.
#[derive(Debug)]
pub struct Engine(Never);

/// The content of a reference table.
#[derive(Debug)]
pub struct Table(Never);

impl Engine {
    /// None can be made.
    pub fn new(_memory: u64, _spill: &Path) -> Result<Arc<Self>, QueryError> {
        Err(QueryError::none())
    }

    /// Gives a reference table this content.
    pub fn set_table(&self, _: &str, _: SchemaRef, _: Vec<RecordBatch>) -> Option<Table> {
        match self.0 {}
    }

    /// Gives a reference table a content that it had before.
    pub fn restore_table(&self, _: &str, _: Option<Table>) {
        match self.0 {}
    }
}

/// A query.
#[derive(Debug)]
pub struct Query(Never);

impl Query {
    /// None can be planned.
    pub fn new(
        engine: &Arc<Engine>,
        _sql: &str,
        _table: &'static str,
        _schema: Option<&Schema>,
    ) -> Result<Self, QueryError> {
        match engine.0 {}
    }

    /// The same with the lines of its records.
    pub fn with_lines(self) -> Result<Self, QueryError> {
        match self.0 {}
    }

    /// The columns of the result.
    pub fn schema(&self) -> Option<SchemaRef> {
        match self.0 {}
    }

    /// The operator that has to see the end of the input.
    pub fn blocking(&self) -> Option<String> {
        match self.0 {}
    }

    /// True when it needs little memory.
    pub fn is_frugal(&self) -> bool {
        match self.0 {}
    }

    /// Plans it again.
    pub fn plan_again(&self) -> Result<(), QueryError> {
        match self.0 {}
    }

    /// Runs it over nothing.
    pub fn try_out(&self) -> Result<(), QueryError> {
        match self.0 {}
    }

    /// The query for one microbatch.
    pub fn at(&self, _: i64, _: Option<&SchemaRef>) -> Result<Ready<'_>, QueryError> {
        match self.0 {}
    }
}

/// A query for one microbatch.
#[derive(Debug)]
pub struct Ready<'a>(&'a Query);

impl Ready<'_> {
    /// The columns of the result.
    pub fn schema(&self) -> SchemaRef {
        match self.0.0 {}
    }

    /// True when it works record by record.
    pub fn is_row_wise(&self) -> bool {
        match self.0.0 {}
    }

    /// True when each run begins with work that all share.
    pub fn builds(&self) -> bool {
        match self.0.0 {}
    }

    /// True when it asks for `_file` or `_line`.
    pub fn wants_position(&self) -> bool {
        match self.0.0 {}
    }

    /// A batch of the result, and the lines of its records.
    pub fn part(&self, _: RecordBatch) -> (RecordBatch, Option<Int64Array>) {
        match self.0.0 {}
    }

    /// Starts it over an input.
    pub fn start(&self, _: Feed) -> Result<Watched<'_>, QueryError> {
        match self.0.0 {}
    }

    /// The records with their position.
    pub fn bind(&self, _: Decoded, _: &str, _: u64) -> RecordBatch {
        match self.0.0 {}
    }

    /// The records as the query makes them.
    pub fn apply(&self, _: RecordBatch) -> Result<RecordBatch, QueryError> {
        match self.0.0 {}
    }
}

/// A query that runs.
#[derive(Debug)]
pub struct Watched<'a>(&'a Query);

impl Watched<'_> {
    /// The next batch of the result.
    pub fn next_batch(&mut self, _: &dyn Fn() -> bool) -> Result<Option<RecordBatch>, QueryError> {
        match self.0.0 {}
    }
}

/// A continuous query.
#[derive(Debug)]
pub struct View(Never);

/// Groups with their states.
#[derive(Debug, Clone)]
pub struct States(Never);

/// Records that may be late for a view: none.
#[derive(Debug, Default)]
pub struct Doubts(());

/// States in memory.
#[derive(Debug)]
pub struct Memory(Never);

impl View {
    /// None can be planned.
    pub fn new(engine: &Arc<Engine>, _: Definition<'_>) -> Result<Self, QueryError> {
        match engine.0 {}
    }

    /// Plans it again.
    pub fn plan_again(&self) -> Result<(), QueryError> {
        match self.0 {}
    }

    /// Runs it over nothing.
    pub fn try_out(&self, _: &Schema) -> Result<(), QueryError> {
        match self.0 {}
    }

    /// The columns of the result.
    pub fn schema(&self) -> SchemaRef {
        match self.0 {}
    }

    /// Records before this time are late once the watermark is here.
    pub fn late_before(&self, _: i64) -> Option<i64> {
        match self.0 {}
    }

    /// No states yet.
    pub fn memory(&self) -> Memory {
        match self.0 {}
    }

    /// Everything a state depends on.
    pub fn signature(&self) -> &str {
        match self.0 {}
    }

    /// The partial states of some records.
    pub fn delta(&self, _: Feed) -> Result<Vec<States>, QueryError> {
        match self.0 {}
    }

    /// The states of these groups.
    pub fn states(&self, _: Entries) -> Result<States, QueryError> {
        match self.0 {}
    }

    /// The keys of these groups, for people.
    pub fn keys_of(&self, _: &States) -> Vec<String> {
        match self.0 {}
    }

    /// The result over these groups.
    pub fn evaluate(&self, _: &States) -> Result<Vec<RecordBatch>, QueryError> {
        match self.0 {}
    }

    /// Notes records that may be late.
    pub fn doubt(
        &self,
        _records: &RecordBatch,
        _times: &[i64],
        _mark: i64,
        _doubts: &mut Doubts,
    ) -> Result<Vec<bool>, QueryError> {
        match self.0 {}
    }

    /// For each of these records whether it is late.
    pub fn are_late<S: Store>(
        &self,
        _: &Doubts,
        _: &[States],
        _: &S,
    ) -> Result<Vec<bool>, S::Error> {
        match self.0 {}
    }

    /// Merges partial states into those of `store`.
    pub fn merge<S: Store>(
        &self,
        _: &[States],
        _: Option<i64>,
        _: &mut S,
    ) -> Result<States, S::Error> {
        match self.0 {}
    }

    /// Removes the groups whose windows end by then.
    pub fn close<S: Store>(&self, _: Option<i64>, _: &mut S) -> Result<Entries, S::Error> {
        match self.0 {}
    }

    /// The end of the last window that was closed without the watermark.
    pub fn closed<S: Store>(&self, _: &S) -> Result<Option<i64>, S::Error> {
        match self.0 {}
    }

    /// All groups that are kept.
    pub fn all<S: Store>(&self, _: &S) -> Result<Entries, S::Error> {
        match self.0 {}
    }

    /// True when it groups by sessions.
    pub fn has_sessions(&self) -> bool {
        match self.0 {}
    }

    /// One partial state for each group of several.
    pub fn condense(&self, _: &[States]) -> Result<States, QueryError> {
        match self.0 {}
    }
}

impl States {
    /// How many groups.
    pub fn len(&self) -> usize {
        match self.0 {}
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        match self.0 {}
    }

    /// Two halves of these groups.
    pub fn halves(&self) -> Result<[Self; 2], QueryError> {
        match self.0 {}
    }

    /// The group at this place.
    pub fn one(&self, _: usize) -> Result<Self, QueryError> {
        match self.0 {}
    }

    /// All but those at these places.
    pub fn without(&self, _: &[usize]) -> Result<Self, QueryError> {
        match self.0 {}
    }
}

impl Doubts {
    /// There is none.
    pub fn is_empty(&self) -> bool {
        true
    }
}

impl Memory {
    /// Counts what there is as memory of the engine.
    pub fn count(&mut self) -> Result<(), QueryError> {
        match self.0 {}
    }
}

impl Store for Memory {
    type Error = QueryError;

    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        match self.0 {}
    }

    fn range(&self, _: &[u8], _: Option<&[u8]>) -> Result<Entries, QueryError> {
        match self.0 {}
    }

    fn last_below(&self, _: &[u8], _: &[u8]) -> Result<Option<Entry>, QueryError> {
        match self.0 {}
    }

    fn put(&mut self, _: Vec<u8>, _: Option<Vec<u8>>) {
        match self.0 {}
    }
}

/// True when a state that was kept under the one signature has a meaning under the other.
pub fn continues(kept: &str, own: &str) -> bool {
    kept == own
}

/// True when windows that were closed under the one signature are closed under the other.
pub fn keeps_closed(kept: &str, own: &str) -> bool {
    kept == own
}
