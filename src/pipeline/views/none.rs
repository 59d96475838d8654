//! The views of a build without the feature `sql`: there are none.

use std::path::PathBuf;
use std::time::Instant;

use arrow_array::RecordBatch;

use super::prepare::Prepared;
use crate::failure::Result;
use crate::ledger::{Ledger, StatePut, Target};

/// The views of one job.
#[derive(Debug, Default)]
pub struct Views {}

/// Partial states; there are none.
pub type Deltas = Vec<Vec<RecordBatch>>;

/// Makes nothing of the records that pass by.
#[derive(Debug)]
pub struct Tap {}

impl Tap {
    /// Takes records.
    pub fn take(&mut self, records: RecordBatch) -> Result<()> {
        drop(records);
        Ok(())
    }

    /// There is nothing to give.
    pub fn finish(self) -> Result<Deltas> {
        Ok(Vec::new())
    }
}

impl Views {
    /// No output belongs to a view.
    pub fn targets(&self) -> Vec<(Target, PathBuf, Vec<u8>)> {
        Vec::new()
    }

    /// What makes nothing.
    pub fn tap(&self) -> Tap {
        Tap {}
    }

    /// Always.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Nothing changes.
    pub fn advance(&self, _ledger: &Ledger, _group: &mut [Prepared]) -> Result<Vec<StatePut>> {
        Ok(Vec::new())
    }

    /// Nothing is to be made.
    pub fn note_committed(&mut self) {}

    /// Never.
    pub fn due(&self) -> Option<Instant> {
        None
    }

    /// Nothing is replaced.
    pub fn replace_due(&mut self, _ledger: &Ledger, _now: Instant) -> Result<()> {
        Ok(())
    }
}
