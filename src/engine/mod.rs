//! The SQL engine: the only door to DataFusion.
//!
//! Invariants:
//! - A query is planned once and executed once per input; the input is bound to each execution, not
//!   to the plan. Only one that asks for the time is planned each time, since the planner turns
//!   `now()` into a constant.
//! - Executions of one query may run at the same time.
//! - One partition: the order of the records is the order of the input until the query says
//!   otherwise, and the same input gives the same output.
//!
//! Out of scope: files, formats, and what becomes of a failure.

mod aggregates;
mod bounds;
mod carry;
mod decimals;
mod dialect;
mod error;
mod functions;
mod groups;
mod operators;
mod plan;
mod rows;
mod slot;
mod split;
mod state;
mod statement;
mod trial;
mod types;
mod view;
mod windows;
mod zones;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::{Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::config::Dialect;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt as _;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;

use crate::record::Decoded;
pub use error::QueryError;
use plan::{Planned, plan};
pub use slot::{Fed, Feed};
use statement::Statement;
pub use view::{
    Asked, Definition, Doubts, Entries, Entry, Memory, States, Store, View, continues, keeps_closed,
};

/// Whether there are queries in this build.
pub const IS_BUILT_IN: bool = true;

/// Rows in a batch between two operators.
const BATCH_ROWS: usize = 8192;

/// Bytes that a sort keeps back to merge what it has spilled; the default of DataFusion is too much
/// of a small budget.
const SORT_RESERVE: u64 = 8 << 20;

/// Threads of the engine. One may wait for input while another spills.
const WORKERS: usize = 2;

/// How often a query that is at work asks whether it should go on.
const BEAT: Duration = Duration::from_millis(100);

/// How many consumers of memory an error names.
const CONSUMERS_NAMED: usize = 3;

/// Shared by all queries of a job: memory, a folder to spill to, threads, and reference tables.
pub struct Engine {
    context: SessionContext,
    /// There until the engine is dropped.
    runtime: Option<Runtime>,
    memory: usize,
    planning: Mutex<()>,
}

/// A query over one table whose records come with each execution.
pub struct Query {
    engine: Arc<Engine>,
    statement: Statement,
    /// The table's own name.
    table: &'static str,
    /// The lines of the records are wanted beside the result.
    carries: bool,
    /// The last plan; there is none before the first input, where each brings its own columns.
    plan: RwLock<Option<Arc<Planned>>>,
}

/// A query at the time of one microbatch, to be run over all of it or over each part.
pub struct Ready<'a> {
    engine: &'a Engine,
    planned: Arc<Planned>,
    wants_position: bool,
}

/// An execution on a thread of its own.
pub struct Watched<'a> {
    engine: &'a Engine,
    batches: Receiver<Result<RecordBatch, QueryError>>,
    task: JoinHandle<()>,
}

/// An execution that is under way.
struct Run {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    /// The partition that is being read, and how many have been begun.
    stream: Option<SendableRecordBatchStream>,
    begun: usize,
}

impl Engine {
    /// An engine that keeps to `memory` bytes and spills to `spill` beyond it.
    pub fn new(memory: u64, spill: &Path) -> Result<Arc<Self>, QueryError> {
        let bytes = usize::try_from(memory).unwrap_or(usize::MAX);
        let consumers = CONSUMERS_NAMED.try_into().map_err(|_| QueryError::new("no consumers"))?;
        let pool = TrackConsumersPool::new(FairSpillPool::new(bytes), consumers);
        let environment = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_temp_file_path(spill)
            // The disk is the limit: a full one passes.
            .with_max_temp_directory_size(u64::MAX)
            .build_arc()
            .map_err(|error| QueryError::of(&error))?;
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_batch_size(BATCH_ROWS)
            .with_information_schema(false);
        let options = config.options_mut();
        options.sql_parser.collect_spans = true;
        options.sql_parser.dialect = Dialect::PostgreSQL;
        // 1.19 is what it says, as in every other database.
        options.sql_parser.parse_float_as_decimal = true;
        // Not with plans that are used again: the source would keep the filter of the first run.
        options.optimizer.enable_dynamic_filter_pushdown = false;
        options.optimizer.enable_join_dynamic_filter_pushdown = false;
        options.optimizer.enable_topk_dynamic_filter_pushdown = false;
        options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        let reserve = SORT_RESERVE.min(memory / 8);
        options.execution.sort_spill_reservation_bytes = usize::try_from(reserve).unwrap_or(0);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_time()
            .thread_name("sql")
            .build()
            .map_err(|error| QueryError::new(format!("start the SQL threads: {error}")))?;
        let context = SessionContext::new_with_config_rt(config, environment);
        bounds::register(&context);
        functions::register(&context);
        aggregates::register(&context);
        register_operators(&context)?;
        Ok(Arc::new(Self {
            context,
            runtime: Some(runtime),
            memory: bytes,
            planning: Mutex::new(()),
        }))
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the engine is not dropped")
    }

    /// The context of an execution. A plan holds its functions itself.
    fn task(&self, feed: Feed) -> TaskContext {
        let config = self.context.copied_config().with_extension(Arc::new(feed));
        let session = self.context.session_id();
        let runtime = self.context.runtime_env();
        let (scalar, higher, aggregate, window) = Default::default();
        TaskContext::new(None, session, config, scalar, higher, aggregate, window, runtime)
    }

    /// Gives the reference table `name` this content, instead of what it had, which is returned.
    pub fn set_table(
        &self,
        name: &str,
        schema: SchemaRef,
        records: Vec<RecordBatch>,
    ) -> Option<Table> {
        let table = MemTable::try_new(schema, vec![records]).map(|table| Arc::new(table) as Arc<_>);
        let old = self.context.deregister_table(name).ok().flatten();
        self.restore_table(name, table.ok().map(Table));
        old.map(Table)
    }

    /// Gives the reference table a content that it had before.
    pub fn restore_table(&self, name: &str, table: Option<Table>) {
        let _ = self.context.deregister_table(name);
        if let Some(Table(table)) = table {
            // The name is free, so that it does not fail.
            let _ = self.context.register_table(name, table);
        }
    }
}

fn register_operators(context: &SessionContext) -> Result<(), QueryError> {
    use datafusion::execution::FunctionRegistry as _;
    let mut state = context.state_ref().write().clone();
    let registered = state.register_expr_planner(Arc::new(operators::Operators));
    registered.map_err(|error| QueryError::of(&error))?;
    *context.state_ref().write() = state;
    Ok(())
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A query that was left alone may be at work for hours before it notices.
            runtime.shutdown_background();
        }
    }
}

/// The content of a reference table.
pub struct Table(Arc<dyn TableProvider>);

impl Query {
    /// Parses `sql`, a query over `table`, and plans it for records of this schema, if one is known.
    pub fn new(
        engine: &Arc<Engine>,
        sql: &str,
        table: &'static str,
        schema: Option<&Schema>,
    ) -> Result<Self, QueryError> {
        let state = engine.context.state();
        let statement = Statement::parse(&state, sql, table)?;
        let engine = engine.clone();
        let plan = RwLock::default();
        let query = Self { engine, statement, table, carries: false, plan };
        if let Some(schema) = schema {
            query.keep(query.planned_for(schema, Utc::now())?);
        }
        Ok(query)
    }

    /// The same, with the line of each record beside the result where it has one.
    pub fn with_lines(mut self) -> Result<Self, QueryError> {
        self.carries = true;
        self.plan_again()?;
        Ok(self)
    }

    /// The columns of the result, once the query is planned.
    pub fn schema(&self) -> Option<SchemaRef> {
        self.planned().map(|planned| planned.result.clone())
    }

    /// The operator that must see the end of the input before it can give a record, if there is
    /// one; a query without one may be run on each part of the input separately.
    pub fn blocking(&self) -> Option<String> {
        self.planned().and_then(|planned| planned.shape.blocking.clone())
    }

    /// True when a run takes no memory to speak of besides the records that it is given.
    pub fn is_frugal(&self) -> bool {
        let planned = self.planned();
        planned.is_some_and(|planned| planned.shape.blocking.is_none() && !planned.shape.builds)
    }

    /// Plans again, after a reference table has changed; when that fails the old plan stays.
    pub fn plan_again(&self) -> Result<(), QueryError> {
        let Some(current) = self.planned() else { return Ok(()) };
        let planned = self.planned_for(&current.schema, Utc::now())?;
        if planned.result != current.result {
            return Err(QueryError::new("the new version would change the columns of the result"));
        }
        self.keep(planned);
        Ok(())
    }

    fn planned(&self) -> Option<Arc<Planned>> {
        self.plan.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn planned_for(&self, schema: &Schema, now: DateTime<Utc>) -> Result<Arc<Planned>, QueryError> {
        plan(self, schema, now).map(Arc::new)
    }

    fn keep(&self, planned: Arc<Planned>) {
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Some(planned);
    }

    /// The query for one microbatch of this schema, if the microbatch brings one. `now_ms` is the
    /// time that it is told, in milliseconds since 1970.
    pub fn at(&self, now_ms: i64, schema: Option<&SchemaRef>) -> Result<Ready<'_>, QueryError> {
        let now = DateTime::from_timestamp_millis(now_ms).unwrap_or_default();
        let known = self.planned();
        let fits = |known: &&Arc<Planned>| schema.is_none_or(|schema| **schema == known.schema);
        let planned = match (known.as_ref().filter(fits), schema) {
            (Some(known), _) if !self.statement.wants_time => known.clone(),
            (Some(known), _) => self.planned_for(&known.schema, now)?,
            (None, Some(schema)) => {
                let planned = self.planned_for(schema, now)?;
                self.keep(planned.clone());
                planned
            }
            (None, None) => return Err(QueryError::new("the columns of the input are not known")),
        };
        let wants_position = self.statement.wants_position;
        Ok(Ready { engine: &self.engine, planned, wants_position })
    }
}

impl Ready<'_> {
    /// The columns of the result.
    pub fn schema(&self) -> SchemaRef {
        self.planned.result.clone()
    }

    /// True when it may be run over each part of the input separately.
    pub fn is_row_wise(&self) -> bool {
        self.planned.shape.blocking.is_none()
    }

    /// True when each run begins with work of its own, such as the hash table of a join.
    pub fn builds(&self) -> bool {
        self.planned.shape.builds
    }

    /// True when it asks for `_file` or `_line`.
    pub fn wants_position(&self) -> bool {
        self.wants_position || self.planned.carries
    }

    /// A batch of the result, and the line of each of its records where they have one.
    pub fn part(&self, records: RecordBatch) -> (RecordBatch, Option<Int64Array>) {
        if !self.planned.carries {
            return (records, None);
        }
        let rows = RecordBatchOptions::new().with_row_count(Some(records.num_rows()));
        let mut columns = records.columns().to_vec();
        let lines = columns.pop().map(|lines| lines.as_primitive::<Int64Type>().clone());
        let records = RecordBatch::try_new_with_options(self.schema(), columns, &rows);
        (records.expect("the plan gives the result's columns and one more"), lines)
    }

    /// Starts the query over `feed`, on a thread of its own: a caller can stop waiting,
    /// however long it is at work on one batch.
    pub fn start(&self, feed: Feed) -> Result<Watched<'_>, QueryError> {
        let mut run = self.run(feed)?;
        let (give, batches) = channel(1);
        let task = self.engine.runtime().spawn(async move {
            while let Some(next) = run.next().await.transpose() {
                let is_last = next.is_err();
                if give.send(next).await.is_err() || is_last {
                    break;
                }
            }
        });
        Ok(Watched { engine: self.engine, batches, task })
    }

    fn run(&self, feed: Feed) -> Result<Run, QueryError> {
        let feed = if self.planned.shape.scans > 1 { feed.kept(self.engine.memory)? } else { feed };
        Run::new(self.engine, &self.planned.plan, feed)
    }

    /// The records with the columns that the query asks for besides their own.
    pub fn bind(&self, decoded: Decoded, file: &str, lines_before: u64) -> RecordBatch {
        if !self.wants_position() {
            return decoded.records;
        }
        let rows = decoded.records.num_rows();
        #[expect(clippy::cast_possible_wrap, reason = "nobody has 2^63 lines")]
        let line = |line: &u64| (line + lines_before) as i64;
        let numbers: Int64Array = decoded.positions.iter().flatten().map(line).collect();
        let lines: ArrayRef = Arc::new(numbers);
        let mut columns = decoded.records.columns().to_vec();
        if self.wants_position {
            let files = StringArray::from_iter_values(std::iter::repeat_n(file, rows));
            let position = [Arc::new(files) as ArrayRef, lines.clone()];
            let has = |name| self.planned.schema.field_with_name(name).is_ok();
            let added =
                statement::POSITION.into_iter().zip(position).filter(|(name, _)| !has(name));
            columns.extend(added.map(|(_, column)| column));
        }
        columns.extend(self.planned.carries.then_some(lines));
        RecordBatch::try_new(self.planned.bound.clone(), columns).expect("one line for each record")
    }

    /// Runs the query over one batch.
    pub fn apply(&self, records: RecordBatch) -> Result<RecordBatch, QueryError> {
        let batches = self.run(Feed::held(vec![records]))?.finish(self.engine)?;
        if let [only] = batches.as_slice() {
            return Ok(only.clone());
        }
        arrow_select::concat::concat_batches(&self.planned.plan.schema(), &batches)
            .map_err(|error| QueryError::new(error.to_string()))
    }
}

impl Run {
    fn new(engine: &Engine, plan: &Arc<dyn ExecutionPlan>, feed: Feed) -> Result<Self, QueryError> {
        let context = Arc::new(engine.task(feed));
        let plan = reset_plan_states(plan.clone()).map_err(|error| QueryError::of(&error))?;
        Ok(Self { plan, context, stream: None, begun: 0 })
    }

    /// The whole result.
    fn finish(mut self, engine: &Engine) -> Result<Vec<RecordBatch>, QueryError> {
        QueryError::guard(|| engine.runtime().block_on(self.all()))
    }

    /// All batches that are left.
    async fn all(&mut self) -> Result<Vec<RecordBatch>, QueryError> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }

    /// The next batch of the result; `None` at its end.
    async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        loop {
            if let Some(stream) = &mut self.stream {
                let next = stream.next().await;
                if let Some(batch) = next.transpose().map_err(|error| QueryError::of(&error))? {
                    return Ok(Some(batch));
                }
            }
            // A `union all` has a partition for each branch; one after the other keeps their order.
            if self.begun == self.plan.output_partitioning().partition_count() {
                return Ok(None);
            }
            let stream = self.plan.execute(self.begun, self.context.clone());
            self.stream = Some(stream.map_err(|error| QueryError::of(&error))?);
            self.begun += 1;
        }
    }
}

impl Watched<'_> {
    /// The next batch of the result; `None` at its end. While it is being made, `go_on` is asked
    /// again and again, and the query is left alone when it says no.
    pub fn next_batch(
        &mut self,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<RecordBatch>, QueryError> {
        loop {
            let next = async { tokio::time::timeout(BEAT, self.batches.recv()).await };
            match self.engine.runtime().block_on(next) {
                Ok(Some(next)) => return next.map(Some),
                Ok(None) => return self.end().map(|()| None),
                Err(_) if go_on() => {}
                Err(_) => return Err(QueryError::new("it was stopped")),
            }
        }
    }
}

impl Watched<'_> {
    /// Nothing more comes: that was all, or the engine has given up in the middle.
    fn end(&mut self) -> Result<(), QueryError> {
        match self.engine.runtime().block_on(&mut self.task) {
            Ok(()) => Ok(()),
            Err(error) if error.is_panic() => Err(QueryError::panicked(&*error.into_panic())),
            Err(error) => Err(QueryError::new(error.to_string())),
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
