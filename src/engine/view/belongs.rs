//! Which groups records belong to, one by one: for those of which it is in doubt whether they are late.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::RecordBatch;
use datafusion::common::Result as Fallible;
use datafusion::common::utils::normalize_float_zero;

use super::merge::panes;
use super::sessions::{group_columns, timed_key};
use super::{Feed, Plans, States, Store, View, sessions};
use crate::aggregate::Window;
use crate::engine::bounds::Windowed;
use crate::engine::rows::Rows;
use crate::engine::slot::Shape;
use crate::engine::{Problem, Run, state};

/// Records that may be late for a view of sessions, in their order.
#[derive(Debug, Default)]
pub struct Doubts {
    /// The groups with the times of the records, one record behind the other.
    keys: Rows,
    of: Vec<Doubt>,
    /// What they may have missed.
    mark: Option<i64>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
enum Doubt {
    /// It is of no group of the view: late by its time alone, or not.
    Alone { is_late: bool },
    /// It is of so many groups.
    In(usize),
}

impl Doubts {
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

impl View {
    /// Notes records that may be late by this mark. `times` are their event times.
    ///
    /// # Errors
    /// When the query fails over them.
    pub fn doubt(
        &self,
        records: &RecordBatch,
        times: &[i64],
        mark: i64,
        doubts: &mut Doubts,
    ) -> Result<(), Problem> {
        let Some(windowed) = self.windowed else { return Ok(()) };
        doubts.mark = Some(mark);
        let plans = self.plans();
        let shape = Shape::of(plans.lower.input());
        let is_row_wise = shape.blocking.is_none() && !shape.builds;
        let late_before = windowed.window.late_before(mark);
        let mut left = vec![(records.clone(), times)];
        while let Some((records, times)) = left.pop() {
            let rows = records.num_rows();
            let keys = self.timed_keys(&plans, windowed, &records)?;
            if keys.is_empty() {
                let alone = |time: &i64| Doubt::Alone { is_late: *time < late_before };
                doubts.of.extend(times.iter().map(alone));
            } else if rows <= 1 || is_row_wise && keys.len() == rows {
                let each = if rows <= 1 { keys.len() } else { 1 };
                for key in &keys {
                    doubts.keys.push(key);
                }
                doubts.of.extend(times.iter().map(|_| Doubt::In(each)));
            } else {
                // Which of them it has left out, or made more of, shows in a part of them.
                let (first, second) = times.split_at(rows / 2);
                left.push((records.slice(rows / 2, second.len()), second));
                left.push((records.slice(0, first.len()), first));
            }
        }
        Ok(())
    }

    /// The groups, with their times, of what the query makes of some records.
    fn timed_keys(
        &self,
        plans: &Arc<Plans>,
        windowed: Windowed,
        records: &RecordBatch,
    ) -> Result<Vec<Vec<u8>>, Problem> {
        let lower = &plans.lower;
        let run = Run::new(&self.engine, lower.input(), Feed::held(vec![records.clone()]))?;
        let mut all = Vec::new();
        for made in run.finish(&self.engine)? {
            let keys = Problem::guard(|| -> Fallible<_> {
                let keys = lower.group_expr().expr().iter();
                let keys = keys.map(|(key, _)| key.evaluate(&made)?.into_array(made.num_rows()));
                let keys = keys.map(|key| key.map(|key| normalize_float_zero(&key)));
                let keys = keys.collect::<Fallible<Vec<_>>>()?;
                let groups = group_columns(self, windowed, &keys);
                let groups = state::encode(&groups, 0..made.num_rows())?;
                let panes = panes(&keys, windowed)?;
                let key = |(group, pane): (&[u8], Option<i64>)| {
                    pane.map_or_else(Vec::new, |pane| timed_key(group, pane))
                };
                Ok(groups.iter().zip(panes).map(key).collect::<Vec<_>>())
            })?;
            all.extend(keys);
        }
        Ok(all)
    }

    /// For each of these records whether it is late: whether all that it belongs to is closed. `delta` are
    /// the partial states of its microbatch.
    ///
    /// # Errors
    /// Those of `store`, and when a state cannot be read.
    pub fn are_late<S: Store>(
        &self,
        doubts: &Doubts,
        delta: &[States],
        store: &S,
    ) -> Result<Vec<bool>, S::Error> {
        let window = self.windowed.map(|windowed| windowed.window);
        let late = match (window, doubts.mark) {
            (Some(Window::Session { gap }), Some(mark)) => {
                sessions::late(self, delta, gap, mark, store)?
            }
            _ => HashSet::new(),
        };
        let mut keys = doubts.keys.iter();
        let is_late = |doubt: &Doubt| match doubt {
            Doubt::Alone { is_late } => *is_late,
            Doubt::In(groups) => {
                // Every one is looked at: the next record has those behind.
                let late = keys.by_ref().take(*groups).filter(|key| late.contains(*key));
                late.count() == *groups
            }
        };
        Ok(doubts.of.iter().map(is_late).collect())
    }
}
