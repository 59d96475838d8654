//! Partial states of records, one for each group, made batch by batch.
//!
//! Invariants: the functions are the engine's, which group a record is of is ours to say. When memory
//! is short, the states that there are go out, and the table begins again. A function has two forms, one
//! for many groups and one for a single one, whose states may look alike and mean other things: only the
//! form for many is used, also where there is one group.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch, new_null_array};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::utils::normalize_float_zero;
use datafusion::common::{DataFusionError, Result as Fallible};
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Aggregate, EmitTo, Expr, GroupsAccumulator};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{
    AggregateExec, AggregateMode, PhysicalGroupBy, aggregate_expressions, evaluate_many,
};

use super::{States, View, accumulator};
use crate::engine::QueryError;
use crate::engine::groups::Groups;
use crate::engine::rows::Rows;

type Expressions = Vec<Arc<dyn PhysicalExpr>>;

/// Partial states below which nothing is gained by bringing them down to one for each group.
const CONDENSE_ROWS: usize = 200_000;

/// Partial states of one microbatch.
pub(super) struct Delta<'a> {
    view: &'a View,
    partial: Partial<'a>,
    parts: Vec<States>,
    /// The memory of these.
    memory: MemoryReservation,
    rows: usize,
    /// With more rows than this they are brought down to one for each group.
    limit: usize,
}

/// Partial states that are being made.
struct Partial<'a> {
    aggregate: &'a AggregateExec,
    keys: Expressions,
    /// For each function what it is applied to.
    arguments: Vec<Expressions>,
    table: Table,
    memory: MemoryReservation,
}

/// Groups, and what each function knows of them.
struct Table {
    groups: Groups,
    functions: Vec<Box<dyn GroupsAccumulator>>,
}

impl<'a> Delta<'a> {
    /// None yet of this aggregate, which is the lower part of the view.
    pub(super) fn new(view: &'a View, aggregate: &'a AggregateExec) -> Result<Self, QueryError> {
        let pool = &view.engine.context.runtime_env().memory_pool;
        let partial = Partial::new(aggregate, pool)?;
        // What is there counts, and the tables beside it get less; not so much that a query beside them that
        // cannot give way would fail.
        let memory = MemoryConsumer::new("partial states").register(pool);
        Ok(Self { view, partial, parts: Vec::new(), memory, rows: 0, limit: CONDENSE_ROWS })
    }

    /// Takes some records.
    pub(super) fn take(&mut self, records: &RecordBatch) -> Result<(), QueryError> {
        let part = self.partial.take(records)?;
        self.add(part)
    }

    /// One partial state for each group, unless memory was short.
    pub(super) fn finish(mut self) -> Result<Vec<States>, QueryError> {
        let part = self.partial.finish()?;
        self.add(part)?;
        Ok(self.parts)
    }

    fn add(&mut self, part: Option<States>) -> Result<(), QueryError> {
        let Some(part) = part else { return Ok(()) };
        self.rows += part.len();
        self.parts.push(part);
        if self.parts.len() > 1 && self.rows > self.limit {
            let one = self.view.condense(&self.parts)?;
            self.rows = one.len();
            self.parts = vec![one];
            // Twice the groups, so that each row is brought down only so often. Never more, however little
            // it brought: the next ones may be of the same groups.
            self.limit = self.rows * 2 + CONDENSE_ROWS;
        }
        let bytes: usize = self.parts.iter().map(States::size).sum();
        self.memory.resize(bytes.min(self.view.engine.memory / 4));
        Ok(())
    }
}

impl<'a> Partial<'a> {
    /// None yet of this aggregate, in memory of this pool.
    fn new(aggregate: &'a AggregateExec, pool: &Arc<dyn MemoryPool>) -> Fallible<Self> {
        let keys = aggregate.group_expr().expr().iter().map(|(key, _)| key.clone()).collect();
        let arguments = aggregate_expressions(aggregate.aggr_expr(), &AggregateMode::Partial, 0)?;
        // Under pressure it gives memory back: it takes its share, as what spills does.
        let memory = MemoryConsumer::new("groups").with_can_spill(true).register(pool);
        Ok(Self { aggregate, keys, arguments, table: Table::new(aggregate)?, memory })
    }

    /// Takes the records of a batch. Returns partial states when they have to go.
    fn take(&mut self, records: &RecordBatch) -> Fallible<Option<States>> {
        let rows = records.num_rows();
        let keys = self.keys.iter().map(|key| key.evaluate(records)?.into_array(rows));
        // Zeros of either sign are one group, as for the engine.
        let normal = keys.map(|key| key.map(|key| normalize_float_zero(&key)));
        let keys = normal.collect::<Fallible<Vec<_>>>()?;
        let numbers = self.table.groups.number(&keys, rows)?;
        let total = self.table.groups.len();
        let arguments = evaluate_many(&self.arguments, records)?;
        let filters = self.aggregate.filter_expr();
        let functions = self.table.functions.iter_mut().zip(arguments).zip(filters);
        for ((function, arguments), filter) in functions {
            let evaluated =
                filter.as_ref().map(|filter| filter.evaluate(records)?.into_array(rows));
            let array = evaluated.transpose()?;
            let filter = array.as_ref().map(AsArray::as_boolean);
            function.update_batch(&arguments, &numbers, filter, total)?;
        }
        match self.memory.try_resize(self.table.size()) {
            Ok(()) => Ok(None),
            Err(DataFusionError::ResourcesExhausted(_)) => self.finish(),
            Err(error) => Err(error),
        }
    }

    /// The partial states since the last time, if there are any.
    fn finish(&mut self) -> Fallible<Option<States>> {
        let Table { groups, functions } =
            std::mem::replace(&mut self.table, Table::new(self.aggregate)?);
        self.memory.free();
        if groups.len() == 0 {
            return Ok(None);
        }
        let mut states = Vec::new();
        for mut function in functions {
            states.extend(function.state(EmitTo::All)?);
        }
        let schema = ExecutionPlan::schema(self.aggregate);
        let said = schema.fields().iter().skip(self.keys.len()).map(|field| field.data_type());
        if !states.iter().map(Array::data_type).eq(said) {
            let message = "a function whose state has another type than it says";
            return Err(DataFusionError::NotImplemented(message.to_owned()));
        }
        Ok(Some(States { keys: groups.into_keys(), states }))
    }
}

impl Table {
    fn new(aggregate: &AggregateExec) -> Fallible<Self> {
        let functions = aggregate.aggr_expr().iter().map(accumulator);
        Ok(Self { groups: Groups::new(), functions: functions.collect::<Fallible<_>>()? })
    }

    /// Bytes of memory.
    fn size(&self) -> usize {
        let functions = self.functions.iter().map(|function| function.size());
        self.groups.size() + functions.sum::<usize>()
    }
}

/// The one group of a query without any, before the first record.
pub(super) fn of_nothing(aggregate: &AggregateExec) -> Fallible<States> {
    let none = RecordBatch::new_empty(aggregate.input().schema());
    let expressions = aggregate_expressions(aggregate.aggr_expr(), &AggregateMode::Partial, 0)?;
    let arguments = evaluate_many(&expressions, &none)?;
    let filter = BooleanArray::from(vec![false]);
    let mut states = Vec::new();
    for (mut function, arguments) in Table::new(aggregate)?.functions.into_iter().zip(arguments) {
        // One record, which is left out: of a batch without any they take the group for one with values.
        let one = arguments.iter().map(|argument| new_null_array(argument.data_type(), 1));
        function.update_batch(&one.collect::<Vec<_>>(), &[0], Some(&filter), 1)?;
        states.extend(function.state(EmitTo::All)?);
    }
    let mut keys = Rows::default();
    keys.push(&[]);
    Ok(States { keys, states })
}

/// The aggregate over the records of one microbatch, which gives partial states.
pub(super) fn plan(
    context: &SessionState,
    aggregate: &Aggregate,
    input: Arc<dyn ExecutionPlan>,
) -> Fallible<AggregateExec> {
    let logical = aggregate.input.schema();
    let properties = context.execution_props();
    let planning = PhysicalPlanningContext::default();
    // The optimizer does not see them, and some functions are only names for what it makes of them.
    let simplifying = SimplifyContext::builder()
        .with_schema(logical.clone())
        .with_config_options(context.config_options().clone())
        .build();
    let simplifier = ExprSimplifier::new(simplifying);
    let simplified = |expr: &Expr| {
        let inner = |expr| simplifier.simplify(expr).map(Transformed::yes);
        match expr {
            // Not the aggregate itself: its state is what it is.
            Expr::AggregateFunction(_) => expr.clone().map_children(inner),
            Expr::Alias(alias) if matches!(*alias.expr, Expr::AggregateFunction(_)) => {
                alias.expr.as_ref().clone().map_children(inner)
            }
            expr => inner(expr.clone()),
        }
        .map(|simplified| simplified.data)
    };
    let group = |expr: &Expr| {
        let physical = create_physical_expr(&simplified(expr)?, logical, properties, &planning)?;
        Ok((physical, expr.schema_name().to_string()))
    };
    let groups = aggregate.group_expr.iter().map(group).collect::<Fallible<_>>()?;
    let schema = input.schema();
    let mut functions = Vec::new();
    let mut filters = Vec::new();
    for expr in &aggregate.aggr_expr {
        let lowered = LoweredAggregateBuilder::new(
            &simplified(expr)?,
            logical,
            &schema,
            properties,
            &planning,
        )
        .build()?;
        functions.push(lowered.aggregate);
        filters.push(lowered.filter);
    }
    let groups = PhysicalGroupBy::new_single(groups);
    AggregateExec::try_new(AggregateMode::Partial, groups, functions, filters, input, schema)
}
