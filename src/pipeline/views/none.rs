//! The views of a build without the feature `sql`: there are none.

use std::path::PathBuf;
use std::time::Instant;

use std::sync::Arc;

use arrow_array::RecordBatch;

use super::prepared::Prepared;
use crate::event_time::Judge;
use crate::failure::Result;
use crate::ledger::{Ledger, StatePut, Told, ViewId};
use crate::microbatch::{Microbatch, Target};
use crate::staging::StagingArea;

/// The views of one job.
#[derive(Debug, Default)]
pub struct Views {}

pub use tap::{Deltas, Tap, Tapped};

/// Partial states of the records that pass by: none.
pub mod tap {
    use super::{RecordBatch, Result};

    /// Partial states; there are none.
    pub type Deltas = Vec<Vec<RecordBatch>>;

    /// The part of a microbatch that views see: nothing.
    #[derive(Debug, Default)]
    pub struct Tapped {
        /// Partial states; there are none.
        pub deltas: Deltas,
    }

    /// Makes nothing of the records that pass by.
    #[derive(Debug)]
    pub struct Tap {}

    impl Tap {
        /// Takes records.
        pub fn take(&mut self, records: RecordBatch) -> Result<()> {
            drop(records);
            Ok(())
        }

        /// Nobody misses it.
        pub fn note_late(&mut self, _number: usize) {}

        /// There is nothing to give.
        pub fn finish(&mut self) -> Result<Tapped> {
            Ok(Tapped::default())
        }
    }
}

/// The states to put; there are none.
#[derive(Debug, Default)]
pub struct Puts {}

impl Puts {
    /// Nothing.
    pub fn all(&self) -> impl Iterator<Item = StatePut<'_>> {
        std::iter::empty()
    }
}

/// Results; there are none.
#[derive(Debug, Default)]
pub struct Results {}

/// Closed windows: none.
#[derive(Debug, Default)]
pub struct Closed {}

/// A view that was rebuilt: the microbatch, the states to put, and what is released and told with it.
pub type Remade = (Microbatch, Puts, (ViewId, Vec<Told>));

/// The state changes of a group of microbatches.
#[derive(Debug, Default)]
pub struct Advanced {
    /// Nothing.
    pub states: Puts,
    /// All of the group.
    pub microbatches: usize,
    /// None.
    pub results: Results,
    /// Nothing.
    pub told: Vec<Told>,
}

impl Views {
    /// No output belongs to a view.
    pub fn targets(&self) -> Vec<(Target, PathBuf, Vec<u8>)> {
        Vec::new()
    }

    /// A tap that makes nothing.
    pub fn tap(&self, _judge: Option<Arc<Judge>>) -> Tap {
        Tap {}
    }

    /// Nothing is closed.
    pub fn closed(&self, _ledger: &Ledger) -> Result<Closed> {
        Ok(Closed {})
    }

    /// There is nothing to judge by.
    pub fn judge(
        &self,
        _now_ms: i64,
        _watermark: Option<i64>,
        _closed: &Closed,
    ) -> Option<Arc<Judge>> {
        None
    }

    /// There is none.
    pub fn watermark_after(&self, _watermark: Option<i64>, _group: &[Prepared]) -> Option<i64> {
        None
    }

    /// True for a job without views.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Never.
    pub fn has_event_time(&self) -> bool {
        false
    }

    /// Nothing is open.
    pub fn stir(&mut self, _now: Instant) {}

    /// Nothing changes.
    pub fn advance(
        &self,
        _ledger: &Ledger,
        _staging: &StagingArea,
        group: &mut [Prepared],
        _is_last: bool,
    ) -> Result<Advanced> {
        Ok(Advanced { microbatches: group.len(), ..Advanced::default() })
    }

    /// None.
    pub fn to_rebuild(&self, _ledger: &Ledger) -> Result<Option<(usize, Option<PathBuf>)>> {
        Ok(None)
    }

    /// There is none.
    pub fn rebuild(
        &self,
        _number: usize,
        _tapped: &Tapped,
        _ledger: &Ledger,
        _staging: &StagingArea,
    ) -> Result<Option<Remade>> {
        Ok(None)
    }

    /// Never.
    pub fn idle_due(&self) -> Option<Instant> {
        None
    }

    /// No window was open.
    pub fn rest(&mut self) {}

    /// No window is open.
    pub fn close_idle(
        &mut self,
        _ledger: &Ledger,
        _staging: &StagingArea,
    ) -> Result<Option<(Microbatch, Puts, Vec<Told>)>> {
        Ok(None)
    }

    /// Nothing is to be made.
    pub fn note_committed(&mut self, _results: Results, _told: &[Told]) {}

    /// There is nothing to note.
    pub fn note(&mut self, _told: &[Told]) {}

    /// There is none to stop.
    pub fn stop(&mut self, _number: usize, _reason: String, _ledger: &mut Ledger) -> Result<()> {
        Ok(())
    }

    /// None.
    pub fn troubles(&self) -> (u64, u64) {
        (0, 0)
    }

    /// Never.
    pub fn due(&self) -> Option<Instant> {
        None
    }

    /// Nothing is replaced.
    pub fn replace_due(&mut self, _ledger: &mut Ledger, _now: Instant) -> Result<()> {
        Ok(())
    }
}
