//! The table whose records come with each execution of a plan.
//!
//! Invariants: the plan holds no data. Each execution finds its [`Feed`] in its own context,
//! so that one plan can run over several inputs at once.

use std::fmt;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _};

use super::QueryError;

/// The input of an execution.
pub struct Feed {
    source: Mutex<Supply>,
}

/// Where the batches of a feed come from.
enum Supply {
    /// Held here, for as many readers as there are.
    Held(Vec<RecordBatch>),
    /// Sent by another thread, for one reader.
    Sent(Option<Receiver<Fed>>),
}

/// A message from the thread that feeds a query: batches, then the end.
#[derive(Debug)]
pub enum Fed {
    /// Some records.
    Records(RecordBatch),
    /// There are no more. Without this the input was cut short, and so must be the query.
    End,
}

/// The batches up to the end, or up to where the input was cut short.
fn until_end(batches: Receiver<Fed>) -> impl Iterator<Item = Result<RecordBatch, DataFusionError>> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        match batches.recv() {
            Ok(Fed::Records(records)) => Some(Ok(records)),
            Ok(Fed::End) => {
                ended = true;
                None
            }
            Err(_) => {
                ended = true;
                Some(Err(DataFusionError::Execution("the input was cut short".to_owned())))
            }
        }
    })
}

impl Feed {
    /// These batches.
    pub fn held(records: Vec<RecordBatch>) -> Self {
        Self { source: Mutex::new(Supply::Held(records)) }
    }

    /// Batches that another thread sends, until it hangs up.
    pub fn sent(batches: Receiver<Fed>) -> Self {
        Self { source: Mutex::new(Supply::Sent(Some(batches))) }
    }

    /// The same, for a plan that reads its input more than once: then it has to fit in `memory`
    /// bytes.
    pub fn kept(self, memory: usize) -> Result<Self, QueryError> {
        let source = self.source.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Supply::Sent(Some(batches)) = source else { return Ok(Self { source: source.into() }) };
        let mut held = Vec::new();
        let mut bytes = 0;
        for batch in until_end(batches) {
            let batch = batch.map_err(|error| QueryError::of(&error))?;
            bytes += batch.get_array_memory_size();
            if bytes > memory {
                return Err(QueryError::new(
                    "it reads its input more than once, and that does not fit in engine.memory",
                ));
            }
            held.push(batch);
        }
        Ok(Self { source: Mutex::new(Supply::Held(held)) })
    }

    /// The batches for one reader.
    fn read(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, DataFusionError>> + Send> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *source {
            Supply::Held(batches) => Box::new(batches.clone().into_iter().map(Ok)),
            Supply::Sent(batches) => Box::new(batches.take().into_iter().flat_map(until_end)),
        }
    }
}

/// The one partition of the table.
pub struct Slot {
    schema: SchemaRef,
}

impl Slot {
    /// A table of this schema.
    pub fn table(schema: SchemaRef) -> Result<StreamingTable, QueryError> {
        let slot = Arc::new(Self { schema: schema.clone() });
        StreamingTable::try_new(schema, vec![slot]).map_err(|error| QueryError::of(&error))
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Slot")
    }
}

impl PartitionStream for Slot {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let feed = context.session_config().get_extension::<Feed>();
        let fed = feed.map(|feed| feed.read()).into_iter().flatten();
        let batches = futures::stream::iter(fed);
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

/// Operators that give for each record of their one input what they would give for it alone.
const ROW_WISE: [&str; 4] =
    ["FilterExec", "ProjectionExec", "CoalesceBatchesExec", "CooperativeExec"];

/// The properties of a plan that its caller needs.
pub struct Shape {
    /// The operator that must see more of the input than one record, if there is one.
    pub blocking: Option<String>,
    /// How often it reads the input.
    pub scans: usize,
    /// Each run first makes something of a reference table, however little it is run over.
    pub builds: bool,
}

impl Shape {
    /// The shape of a plan.
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> Self {
        let scans = scans(plan);
        let blocking = if scans == 1 { blocking(plan) } else { Some(plan.name().to_owned()) };
        Self { blocking, scans, builds: builds(plan) }
    }
}

fn builds(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let children = plan.children();
    children.len() > 1 || children.into_iter().any(builds)
}

/// Makes the reference table of a join the side that is held in memory, however it was written: the
/// input then passes by in its own order.
pub fn hold_tables(
    plan: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let swapped = plan.transform_up(|plan| {
        let Some(join) = plan.downcast_ref::<HashJoinExec>() else {
            return Ok(Transformed::no(plan));
        };
        if scans(join.left()) > 0 && scans(join.right()) == 0 {
            return Ok(Transformed::yes(join.swap_inputs(PartitionMode::CollectLeft)?));
        }
        Ok(Transformed::no(plan))
    });
    swapped.map(|swapped| swapped.data)
}

fn scans(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let here = usize::from(plan.is::<StreamingTableExec>());
    here + plan.children().into_iter().map(scans).sum::<usize>()
}

fn blocking(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
    use datafusion::physical_plan::execution_plan::EmissionType::Incremental;
    let children = plan.children();
    let name = plan.name();
    if plan.fetch().is_some() {
        // A limit that the optimizer has moved into another operator counts over all of the input.
        return Some(format!("limit in {name}"));
    }
    if plan.is::<StreamingTableExec>() {
        return None;
    }
    // A join with a reference table: that is what it builds, the input passes by.
    let is_join = ["HashJoinExec", "NestedLoopJoinExec", "CrossJoinExec"].contains(&name);
    let passes = match children.as_slice() {
        [only] => ROW_WISE.contains(&name).then_some(*only),
        [built, passing] if is_join && scans(built) == 0 => {
            (plan.pipeline_behavior() == Incremental).then_some(*passing)
        }
        _ => None,
    };
    match passes {
        Some(child) => blocking(child),
        None => Some(name.to_owned()),
    }
}
