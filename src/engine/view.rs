//! A continuous query: its state, and what one microbatch changes in it.
//!
//! Invariants:
//! - The query is split at its one aggregate. What is below runs over the records of a microbatch
//!   and gives partial states; these are merged into the states that the ledger holds, group by
//!   group; what is above runs over the groups that are asked for. (The split of Spark's Structured
//!   Streaming: partial aggregation, restore, merge, save, final.)
//! - There is one state for each group, whatever the engine makes of a microbatch: the merge is
//!   ours.
//! - The split comes after analysis and before optimization, which would rewrite the aggregate.
//!
//! Out of scope: where states are kept, and when a result is asked for.

use std::sync::{Arc, PoisonError, RwLock};

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow_cast::display::array_value_to_string;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::take::take;
use datafusion::common::{DataFusionError, Result as Fallible};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::optimizer::OptimizerConfig as _;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;

pub use super::bounds::TABLE;
use super::bounds::{self, Windowed};
use super::rows::Rows;
use super::slot::{self, Feed, Slot};
use super::split::{self, Split};
use super::state;
use super::statement::Statement;
use super::{Engine, QueryError, Run, types};
use crate::event_time::Window;
use crate::record::columns::type_name;
pub use belongs::Doubts;
pub use definition::{Asked, Definition};
pub use entries::{Entries, Entry, Store};
pub use memory::Memory;
use partial::Delta;
pub use signature::{continues, keeps_closed};

mod belongs;
mod closed;
pub(super) mod definition;
pub(super) mod entries;
mod keys;
mod memory;
mod merge;
mod partial;
mod sessions;
mod signature;

/// A continuous query over one table, planned.
pub struct View {
    engine: Arc<Engine>,
    plans: RwLock<Arc<Plans>>,
    aggregates: Vec<Arc<AggregateFunctionExpr>>,
    /// The group's columns, then the aggregates'.
    groups: SchemaRef,
    /// How many columns a group has.
    keys: usize,
    /// The windows that it groups by.
    windowed: Option<Windowed>,
    /// Windows are closed by the watermark.
    closes: bool,
    signature: String,
    source: Plannable,
}

/// The source of a view, to plan it again.
struct Plannable {
    sql: String,
    schema: Schema,
    asked: Asked,
    event_time: Option<String>,
    allow_unbounded: bool,
}

/// The two parts of a view, planned with the reference tables as they were.
struct Plans {
    /// Records to partial states.
    lower: Arc<AggregateExec>,
    /// Groups to the result.
    upper: Arc<dyn ExecutionPlan>,
    /// Records to the groups of each, where it may be in doubt whether they are late.
    of_each: Option<Arc<dyn ExecutionPlan>>,
}

/// Groups with their states.
#[derive(Debug, Clone)]
pub struct States {
    keys: Rows,
    /// The columns of all functions, one after the other.
    states: Vec<ArrayRef>,
}

impl View {
    /// Parses and plans a query over the records of the output.
    pub fn new(engine: &Arc<Engine>, definition: Definition<'_>) -> Result<Self, QueryError> {
        let Definition { sql, schema, allow_unbounded, .. } = definition;
        let context = engine.context.state();
        let mut statement = Statement::parse(&context, sql, TABLE)?;
        statement.rewrite_windows()?;
        if statement.wants_position {
            return Err(QueryError::new("`_file` and `_line` are not part of the output"));
        }
        if statement.wants_time {
            return Err(QueryError::new(
                "the result must not depend on when it is asked for: `now()` belongs in the transform",
            ));
        }
        // One catalog serves all queries, and each has a table of this name.
        let _alone = engine.planning.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let slot = Arc::new(Slot::table(Arc::new(schema.clone()))?);
        engine.context.register_table(TABLE, slot)?;
        let planned = engine.runtime().block_on(Self::plan(engine, &statement, definition));
        let _ = engine.context.deregister_table(TABLE);
        let view = planned?;
        let unbounded = view.aggregates.iter().find(|aggregate| is_unbounded(aggregate));
        match unbounded.filter(|_| !allow_unbounded) {
            Some(aggregate) => Err(QueryError::new(format!(
                "the state of `{}` grows with each record of its group: allow it with \
                 allow_unbounded_state = true",
                aggregate.name()
            ))),
            None => Ok(view),
        }
    }

    async fn plan(
        engine: &Arc<Engine>,
        statement: &Statement,
        definition: Definition<'_>,
    ) -> Result<Self, QueryError> {
        let asked = definition.asked;
        let context = engine.context.state();
        let explain = |error| statement.explain(&error);
        let plan = context
            .statement_to_plan(statement.parsed())
            .await
            .and_then(types::with_times)
            .map_err(explain)?;
        let plan = context.analyzer().execute_and_check(plan, &context.options(), |_, _| {});
        let Split { aggregate, upper } = split::split(plan.map_err(explain)?, asked)?;
        let windowed = bounds::find(&aggregate, definition.event_time)?;
        check_mode(asked, windowed)?;
        let aggregate = split::narrowed(aggregate)?;
        let planned = context.create_physical_plan(&aggregate.input).await.map_err(explain)?;
        let lower = slot::hold_tables(planned).map_err(explain)?;
        let partial = partial::plan(&context, &aggregate, lower).map_err(explain)?;
        let aggregates = partial.aggr_expr().to_vec();
        let groups = split::columns(aggregate.schema.as_arrow());
        let upper = context.create_physical_plan(&upper).await.map_err(explain)?;
        let keys = aggregate.group_expr.len();
        let event_time = definition.event_time.filter(|_| windowed.is_some());
        let signature = signature::signature(statement.sql(), asked, event_time, &partial.schema());
        let lower = Arc::new(partial);
        let closes = asked != Asked::All;
        let has_sessions =
            windowed.is_some_and(|found| matches!(found.window, Window::Session { .. }));
        let planning = belongs::plan(engine, statement, definition);
        let of_each = if has_sessions && closes { Some(planning.await?) } else { None };
        let plans = RwLock::new(Arc::new(Plans { lower, upper, of_each }));
        let source = Plannable::of(definition);
        let engine = engine.clone();
        let view =
            Self { engine, plans, aggregates, groups, keys, windowed, closes, signature, source };
        view.check_state()?;
        // What can be planned may have no implementation; the one for groups may be made of the other.
        let is_made = |one: &Arc<AggregateFunctionExpr>| {
            accumulator(one)?;
            one.create_accumulator().map(drop)
        };
        view.aggregates.iter().try_for_each(is_made).map_err(explain)?;
        Ok(view)
    }

    fn plans(&self) -> Arc<Plans> {
        self.plans.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Plans again, after a reference table has changed; when that fails the old plan stays.
    pub fn plan_again(&self) -> Result<(), QueryError> {
        let other = Self::new(&self.engine, self.source.definition())?;
        if other.signature != self.signature || other.schema() != self.schema() {
            return Err(QueryError::new("the new version would change the columns of a view"));
        }
        *self.plans.write().unwrap_or_else(PoisonError::into_inner) = other.plans();
        Ok(())
    }

    /// Every column of a group and of a state must be one that can be kept.
    fn check_state(&self) -> Result<(), QueryError> {
        let schema = self.plans().lower.schema();
        let (keys, mut states) =
            schema.fields().split_at_checked(self.keys).unwrap_or((schema.fields(), &[]));
        let is_odd = |field: &&Arc<Field>| !state::can_hold(field.data_type());
        if let Some(key) = keys.iter().find(is_odd) {
            let name = key.name();
            let kind = type_name(key.data_type());
            return Err(QueryError::new(format!("`{name}` is a {kind}, which cannot make groups")));
        }
        for aggregate in &self.aggregates {
            let fields = states.split_off(..aggregate.state_fields()?.len()).unwrap_or_default();
            if fields.iter().any(|field| is_odd(&field)) {
                let name = aggregate.name();
                return Err(QueryError::new(format!(
                    "what `{name}` needs of a group cannot be kept between files"
                )));
            }
        }
        Ok(())
    }

    /// The columns of the result.
    pub fn schema(&self) -> SchemaRef {
        self.plans().upper.schema()
    }

    /// Records before this time are late once the watermark is here; `None` where none ever is.
    pub fn late_before(&self, watermark: i64) -> Option<i64> {
        let windowed = self.windowed.filter(|_| self.closes_by_time())?;
        // A session that was closed may end there, and another may hold on to what is far before.
        let late_before = windowed.window.late_before(watermark);
        Some(if self.has_sessions() { watermark } else { late_before })
    }

    /// True when its windows are closed by the watermark.
    fn closes_by_time(&self) -> bool {
        self.closes && self.windowed.is_some_and(|windowed| windowed.is_event_time)
    }

    /// No states yet, in the engine's memory.
    pub fn memory(&self) -> Memory {
        Memory::of(&self.engine)
    }

    /// Everything a state depends on: under another signature it has no meaning.
    pub fn signature(&self) -> &str {
        &self.signature
    }

    /// The partial states of some records: one for each group, unless memory was short.
    ///
    /// # Errors
    /// When the query fails over them, or the end is not sent.
    pub fn delta(&self, records: Feed) -> Result<Vec<States>, QueryError> {
        let lower = &self.plans().lower;
        let mut run = Run::new(&self.engine, lower.input(), records)?;
        let of_all = async {
            let mut delta = Delta::new(self, lower)?;
            while let Some(records) = run.next().await? {
                delta.take(&records)?;
            }
            delta.finish()
        };
        QueryError::guard(|| self.engine.runtime().block_on(of_all))
    }

    /// The states of these groups, as they were kept. A query without groups has one, also of nothing.
    pub fn states(&self, entries: Entries) -> Result<States, QueryError> {
        if self.keys == 0 && entries.is_empty() {
            return QueryError::guard(|| partial::of_nothing(&self.plans().lower));
        }
        let entries =
            if self.has_sessions() { sessions::as_groups(self, entries)? } else { entries };
        let Entries { keys, values } = entries;
        Ok(States { keys, states: self.decode_states(&values)? })
    }

    /// The keys of these groups, for people.
    pub fn keys_of(&self, groups: &States) -> Vec<String> {
        let columns = self.decode_groups(&groups.keys).unwrap_or_default();
        let value = |column: &ArrayRef, row| array_value_to_string(column, row).unwrap_or_default();
        let key =
            |row| columns.iter().map(|column| value(column, row)).collect::<Vec<_>>().join(", ");
        (0..groups.len()).map(key).collect()
    }

    /// The result over these groups.
    pub fn evaluate(&self, states: &States) -> Result<Vec<RecordBatch>, QueryError> {
        let groups = QueryError::guard(|| self.groups_of(states))?;
        self.execute(&self.plans().upper, vec![groups])
    }

    fn groups_of(&self, states: &States) -> Fallible<RecordBatch> {
        let total = states.keys.len();
        if total == 0 {
            // Not every function gives nothing for nothing.
            return Ok(RecordBatch::new_empty(self.groups.clone()));
        }
        let mut columns = self.decode_groups(&states.keys)?;
        let places: Vec<usize> = (0..total).collect();
        let mut rest = states.states.as_slice();
        for aggregate in &self.aggregates {
            let columns_of = rest.split_off(..aggregate.state_fields()?.len()).unwrap_or_default();
            // `state()` drains the accumulators.
            let mut fresh = accumulator(aggregate)?;
            fresh.merge_batch(columns_of, &places, total)?;
            columns.push(fresh.evaluate(EmitTo::All)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(total));
        Ok(RecordBatch::try_new_with_options(self.groups.clone(), columns, &options)?)
    }

    fn key_types(&self) -> Vec<DataType> {
        let fields = self.groups.fields().iter().take(self.keys);
        fields.map(|field| field.data_type().clone()).collect()
    }

    fn decode_keys<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Fallible<Vec<ArrayRef>> {
        state::decode(keys, &self.key_types())
    }

    /// The columns of groups, whose keys begin with the ends of their windows.
    fn decode_groups(&self, keys: &Rows) -> Fallible<Vec<ArrayRef>> {
        let ends = if self.windowed.is_some() { 8 } else { 0 };
        self.decode_keys(keys.iter().map(|key| key.get(ends..).unwrap_or_default()))
    }

    fn decode_states(&self, values: &Rows) -> Fallible<Vec<ArrayRef>> {
        let schema = self.plans().lower.schema();
        let fields = schema.fields().iter().skip(self.keys);
        let types: Vec<_> = fields.map(|field| field.data_type().clone()).collect();
        state::decode(values.iter(), &types)
    }

    fn execute(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        records: Vec<RecordBatch>,
    ) -> Result<Vec<RecordBatch>, QueryError> {
        Run::new(&self.engine, plan, Feed::held(records))?.finish(&self.engine)
    }
}

impl Plannable {
    fn of(definition: Definition<'_>) -> Self {
        let Definition { sql, schema, asked, event_time, allow_unbounded } = definition;
        let sql = sql.to_owned();
        let schema = schema.clone();
        Self { sql, schema, asked, event_time: event_time.map(str::to_owned), allow_unbounded }
    }

    fn definition(&self) -> Definition<'_> {
        let Self { sql, schema, asked, event_time, allow_unbounded } = self;
        let asked = *asked;
        let allow_unbounded = *allow_unbounded;
        Definition { sql, schema, asked, event_time: event_time.as_deref(), allow_unbounded }
    }
}

impl States {
    fn none() -> Self {
        Self { keys: Rows::default(), states: Vec::new() }
    }

    /// How many groups.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory.
    fn size(&self) -> usize {
        let states = self.states.iter().map(|column| column.get_array_memory_size());
        self.keys.size() + states.sum::<usize>()
    }

    /// Two halves of these groups, one after the other.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn halves(&self) -> Result<[Self; 2], QueryError> {
        let places: Vec<usize> = (0..self.len()).collect();
        let (first, second) = places.split_at(places.len() / 2);
        Ok([self.only(first)?, self.only(second)?])
    }

    /// The group at this place.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn one(&self, place: usize) -> Result<Self, QueryError> {
        Ok(self.only(&[place])?)
    }

    /// All but those at these places, which are in order.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn without(&self, places: &[usize]) -> Result<Self, QueryError> {
        let stay = (0..self.len()).filter(|place| places.binary_search(place).is_err());
        Ok(self.only(&stay.collect::<Vec<_>>())?)
    }

    /// Some of them, in this order.
    fn only(&self, places: &[usize]) -> Fallible<Self> {
        let rows: UInt64Array = places.iter().map(|place| *place as u64).collect();
        let states = self.states.iter().map(|column| Ok(take(column, &rows, None)?));
        let keys = self.keys.part(places.iter().copied());
        Ok(Self { keys, states: states.collect::<Fallible<_>>()? })
    }

    /// The groups and their states, to be kept, in this order.
    fn entries(
        &self,
        order: impl ExactSizeIterator<Item = usize> + Clone,
    ) -> Result<Entries, QueryError> {
        let values = state::encode(&self.states, order.clone())?;
        Ok(Entries { keys: self.keys.part(order), values })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in a `map_err`")]
fn problem<E: From<QueryError>>(error: DataFusionError) -> E {
    E::from(QueryError::of(&error))
}

fn accumulator(aggregate: &Arc<AggregateFunctionExpr>) -> Fallible<Box<dyn GroupsAccumulator>> {
    if aggregate.groups_accumulator_supported() {
        return aggregate.create_groups_accumulator();
    }
    let aggregate = aggregate.clone();
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || aggregate.create_accumulator())))
}

/// Functions that keep every value that they have seen.
const UNBOUNDED: [&str; 5] = ["array_agg", "string_agg", "median", "percentile_cont", "nth_value"];

fn is_unbounded(aggregate: &AggregateFunctionExpr) -> bool {
    let name = aggregate.fun().name();
    let keeps_values = aggregate.is_distinct() && !["min", "max"].contains(&name);
    keeps_values || UNBOUNDED.contains(&name)
}

/// Checks that the windows suit the mode.
fn check_mode(asked: Asked, windowed: Option<Windowed>) -> Result<(), QueryError> {
    let is_event_time = windowed.is_some_and(|windowed| windowed.is_event_time);
    let sessions = matches!(windowed, Some(Windowed { window: Window::Session { .. }, .. }));
    match asked {
        Asked::Closed if !is_event_time => Err(QueryError::new(
            "mode = \"append\" gives each group once, when its window is closed: it needs \
             `group by` a window (tumble, hop, session) of the column of [event_time]",
        )),
        Asked::Changed if sessions => Err(QueryError::new(
            "sessions grow together, and mode = \"update\" could not take back the parts: use \
             \"append\" or \"complete\"",
        )),
        _ => Ok(()),
    }
}

/// One time as a column like `like`.
fn bounds_column(time: i64, like: &DataType) -> ArrayRef {
    bounds::column(vec![time], like)
}

#[cfg(test)]
mod tests;
