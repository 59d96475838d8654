//! Partial states of the records of one microbatch, made while they pass by.

use std::sync::Arc;

use arrow_array::{Array as _, RecordBatch};

use crate::aggregate::Judge;
use crate::engine::View;
use crate::failure::Result;
use crate::pipeline::work;

/// Bytes of records that are collected before they are made into partial states.
const TAPPED_BYTES: usize = 16 << 20;

/// Partial states below which nothing is gained by bringing them down to one for each group.
const CONDENSE_ROWS: usize = 200_000;

/// The partial states of one microbatch, for each view.
pub type Deltas = Vec<Vec<RecordBatch>>;

/// What one microbatch is to the views.
#[derive(Debug, Default)]
pub struct Tapped {
    /// Its partial states.
    pub deltas: Deltas,
    /// Its largest event time.
    pub latest: Option<i64>,
}

/// Makes partial states of the records that pass by.
pub struct Tap {
    views: Vec<Arc<View>>,
    judge: Option<Arc<Judge>>,
    latest: Option<i64>,
    pending: Vec<RecordBatch>,
    bytes: usize,
    deltas: Deltas,
    /// Groups in each delta after it was last brought down to one row for each.
    condensed: Vec<usize>,
}

impl Tap {
    /// For these views, over records that this judge has taken.
    pub fn new(views: impl Iterator<Item = Arc<View>>, judge: Option<Arc<Judge>>) -> Self {
        let views: Vec<_> = views.collect();
        let (deltas, condensed) = (vec![Vec::new(); views.len()], vec![0; views.len()]);
        Self { views, judge, latest: None, pending: Vec::new(), bytes: 0, deltas, condensed }
    }

    /// Takes records.
    pub fn take(&mut self, records: RecordBatch) -> Result<()> {
        if let Some(judge) = &self.judge {
            let times = judge.times(&records);
            debug_assert_eq!(times.null_count(), 0);
            self.latest = self.latest.max(times.values().iter().copied().max());
        }
        if self.views.is_empty() {
            return Ok(());
        }
        self.bytes += records.get_array_memory_size();
        self.pending.push(records);
        if self.bytes > TAPPED_BYTES { self.reduce() } else { Ok(()) }
    }

    /// Makes partial states of what is pending.
    fn reduce(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.bytes = 0;
        let all = self.views.iter().zip(&mut self.deltas).zip(&mut self.condensed);
        for (number, ((view, delta), condensed)) in all.enumerate() {
            let records = match &self.judge {
                Some(judge) => pending.iter().map(|batch| judge.on_time(number, batch)).collect(),
                None => pending.clone(),
            };
            delta.extend(view.delta(records).map_err(work::failure)?);
            let rows: usize = delta.iter().map(RecordBatch::num_rows).sum();
            // Twice the groups, so that each row is brought down only so often.
            if rows > *condensed * 2 + CONDENSE_ROWS {
                let one = view.condense(delta).map_err(work::failure)?;
                *condensed = one.num_rows();
                *delta = vec![one];
            }
        }
        Ok(())
    }

    /// True when nothing has come since the last look.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.deltas.iter().all(Vec::is_empty)
    }

    /// The partial states of all records so far; the tap is empty after it.
    pub fn finish(&mut self) -> Result<Tapped> {
        if !self.views.is_empty() {
            self.reduce()?;
        }
        let empty = vec![Vec::new(); self.views.len()];
        let deltas = std::mem::replace(&mut self.deltas, empty);
        self.condensed.fill(0);
        Ok(Tapped { deltas, latest: self.latest.take() })
    }
}
