//! Partial states of the records of one microbatch, made while they pass by.

use std::sync::Arc;
use std::thread::JoinHandle;

use arrow_array::RecordBatch;

use crate::aggregate::Judge;
use crate::engine::View;
use crate::failure::{Failure, Result};
use crate::pipeline::work;

/// Bytes of records that are collected before they are made into partial states.
const TAPPED_BYTES: usize = 8 << 20;

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

/// Makes partial states of the records that pass by, beside the work on the next ones.
pub struct Tap {
    judge: Option<Arc<Judge>>,
    latest: Option<i64>,
    pending: Vec<RecordBatch>,
    bytes: usize,
    reduced: Reduced,
    /// What is being reduced; the rest of `reduced` comes back with it.
    working: Option<JoinHandle<Result<Reduced>>>,
}

/// Partial states so far, for each view.
#[derive(Clone, Default)]
struct Reduced {
    views: Vec<Arc<View>>,
    deltas: Deltas,
    /// Groups in each delta after it was last brought down to one row for each.
    condensed: Vec<usize>,
}

impl Tap {
    /// For these views, over records that this judge has taken.
    pub fn new(views: impl Iterator<Item = Arc<View>>, judge: Option<Arc<Judge>>) -> Self {
        let views: Vec<_> = views.collect();
        let (deltas, condensed) = (vec![Vec::new(); views.len()], vec![0; views.len()]);
        let reduced = Reduced { views, deltas, condensed };
        Self { judge, latest: None, pending: Vec::new(), bytes: 0, reduced, working: None }
    }

    /// Takes records.
    pub fn take(&mut self, records: RecordBatch) -> Result<()> {
        if let Some(judge) = &self.judge {
            let times = judge.times(&records);
            self.latest = self.latest.max(times.values().iter().copied().max());
        }
        if self.reduced.views.is_empty() && self.working.is_none() {
            return Ok(());
        }
        self.bytes += records.get_array_memory_size();
        self.pending.push(records);
        if self.bytes <= TAPPED_BYTES {
            return Ok(());
        }
        self.join()?;
        let (mut reduced, judge) = (std::mem::take(&mut self.reduced), self.judge.clone());
        let pending = self.pending();
        self.working = Some(std::thread::spawn(move || {
            reduced.take(&pending, judge.as_deref())?;
            Ok(reduced)
        }));
        Ok(())
    }

    fn pending(&mut self) -> Vec<RecordBatch> {
        self.bytes = 0;
        std::mem::take(&mut self.pending)
    }

    /// Waits for what is being reduced.
    fn join(&mut self) -> Result<()> {
        if let Some(working) = self.working.take() {
            let dead = |_| Err(Failure::fatal("a thread that keeps views died"));
            self.reduced = working.join().unwrap_or_else(dead)?;
        }
        Ok(())
    }

    /// The partial states of all records so far; the tap is empty after it.
    pub fn finish(&mut self) -> Result<Tapped> {
        self.join()?;
        let pending = self.pending();
        if !self.reduced.views.is_empty() {
            self.reduced.take(&pending, self.judge.as_deref())?;
        }
        let empty = vec![Vec::new(); self.reduced.views.len()];
        let deltas = std::mem::replace(&mut self.reduced.deltas, empty);
        self.reduced.condensed.fill(0);
        Ok(Tapped { deltas, latest: self.latest.take() })
    }
}

impl Reduced {
    /// Makes partial states of some records.
    fn take(&mut self, records: &[RecordBatch], judge: Option<&Judge>) -> Result<()> {
        let all = self.views.iter().zip(&mut self.deltas).zip(&mut self.condensed);
        for (number, ((view, delta), condensed)) in all.enumerate() {
            let records = match judge {
                Some(judge) => records.iter().map(|batch| judge.on_time(number, batch)).collect(),
                None => records.to_vec(),
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
}
