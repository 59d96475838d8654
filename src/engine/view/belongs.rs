//! Which groups records belong to, one by one: for those of which it is in doubt whether they are late.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch};
use datafusion::common::utils::normalize_float_zero;
use datafusion::optimizer::OptimizerConfig as _;
use datafusion::physical_plan::ExecutionPlan;

use super::keys::timed_key;
use super::sessions::group_columns;
use super::{Definition, Feed, States, Store, TABLE, View, sessions};
use crate::engine::bounds::{Windowed, panes};
use crate::engine::rows::Rows;
use crate::engine::slot::{self, Slot};
use crate::engine::split::{self, Split};
use crate::engine::statement::{Statement, with_line};
use crate::engine::{Engine, QueryError, Run, carry, state, types};
use crate::event_time::Window;

/// Plans what gives the groups of each record, with its row after them.
pub(super) async fn plan(
    engine: &Engine,
    statement: &Statement,
    definition: Definition<'_>,
) -> Result<Arc<dyn ExecutionPlan>, QueryError> {
    let context = engine.context.state();
    let explain = |error| statement.explain(&error);
    let _ = engine.context.deregister_table(TABLE);
    let slot = Slot::table(with_line(definition.schema))?;
    engine.context.register_table(TABLE, Arc::new(slot))?;
    let plan = context
        .statement_to_plan(statement.without_line())
        .await
        .and_then(types::with_times)
        .map_err(explain)?;
    let plan = context.analyzer().execute_and_check(plan, &context.options(), |_, _| {});
    let Split { aggregate, .. } = split::split(plan.map_err(explain)?, definition.asked)?;
    let plan = carry::beside(&aggregate.input, TABLE, &aggregate.group_expr)
        .ok_or_else(|| QueryError::new("the groups of a record cannot be told"))?;
    let plan = context.create_physical_plan(&plan).await.map_err(explain)?;
    slot::hold_tables(plan).map_err(explain)
}

/// Records that may be late for a view of sessions, in their order.
#[derive(Debug, Default)]
pub struct Doubts {
    /// The groups with the times of the records, one record after the other.
    keys: Rows,
    of: Vec<Doubt>,
    /// The watermark below which they may have missed records.
    mark: Option<i64>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
enum Doubt {
    /// It is of no group of the view: late by its time alone, or not.
    Alone { is_late: bool },
    /// The number of its groups.
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
    ) -> Result<(), QueryError> {
        let Some(windowed) = self.windowed else { return Ok(()) };
        doubts.mark = Some(mark);
        let late_before = windowed.window.late_before(mark);
        let mut keys = self.timed_keys(windowed, records)?;
        // A join may have changed their order.
        keys.sort_by_key(|(row, _)| *row);
        let mut keys = keys.into_iter().peekable();
        for (row, time) in (0..).zip(times) {
            let mut groups = 0;
            while let Some((_, key)) = keys.next_if(|(of, _)| *of == row) {
                doubts.keys.push(&key);
                groups += 1;
            }
            let alone = Doubt::Alone { is_late: *time < late_before };
            doubts.of.push(if groups == 0 { alone } else { Doubt::In(groups) });
        }
        Ok(())
    }

    /// The groups with their times of what the query makes of each record, by its row.
    fn timed_keys(
        &self,
        windowed: Windowed,
        records: &RecordBatch,
    ) -> Result<Vec<(i64, Vec<u8>)>, QueryError> {
        let plans = self.plans();
        let Some(plan) = &plans.of_each else { return Ok(Vec::new()) };
        let rows = i64::try_from(records.num_rows()).unwrap_or(i64::MAX);
        let mut columns = records.columns().to_vec();
        columns.push(Arc::new(Int64Array::from_iter_values(0..rows)));
        let records = RecordBatch::try_new(with_line(&records.schema()), columns)
            .map_err(|error| QueryError::of(&error.into()))?;
        let run = Run::new(&self.engine, plan, Feed::held(vec![records]))?;
        let mut all = Vec::new();
        for made in run.finish(&self.engine)? {
            let Some((rows, keys)) = made.columns().split_last() else { continue };
            let keys = keys.iter().map(normalize_float_zero).collect::<Vec<_>>();
            let columns = group_columns(self, windowed, &keys);
            let groups = state::encode(&columns, 0..made.num_rows())?;
            let panes = panes(&keys, windowed)?;
            let rows = rows.as_primitive::<Int64Type>().values();
            for ((row, group), pane) in rows.iter().zip(groups.iter()).zip(panes) {
                all.extend(pane.map(|pane| (*row, timed_key(group, pane))));
            }
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
