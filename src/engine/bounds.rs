//! The functions that say in which window a time is, and where a query groups by them.
//!
//! Invariants: below the aggregate, a window is its pane; which windows a pane is in is decided
//! on partial states, so that the work for each record does not grow with the windows that it is in.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array as _, ArrayRef, TimestampMicrosecondArray};
use arrow_schema::{DataType, TimeUnit};
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, Result as Fallible, ScalarValue};
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Expr, ExprSchemable as _, LogicalPlan, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::prelude::SessionContext;

use super::QueryError;
use super::windows::{END, START};
use crate::event_time::{Window, micros};
use crate::record::columns::type_name;

/// The table of a view: the records of the output.
pub const TABLE: &str = "output";

/// The windows of a query, and which columns of its groups say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windowed {
    /// Which windows.
    pub window: Window,
    /// The column of the beginning.
    pub start: Option<usize>,
    /// The column of the end.
    pub end: Option<usize>,
    /// They are windows of the job's event time, so that the watermark closes them.
    pub is_event_time: bool,
}

/// Makes the functions known.
pub fn register(context: &SessionContext) {
    for (name, is_end) in [(START, false), (END, true)] {
        let signature = Signature::user_defined(Volatility::Immutable);
        context.register_udf(ScalarUDF::from(Bound { name, is_end, signature }));
    }
}

/// One bound of the window, or pane, that a time is in.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bound {
    name: &'static str,
    is_end: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Bound {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Fallible<DataType> {
        arguments.first().and_then(time).ok_or_else(|| odd(arguments))
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Fallible<Vec<DataType>> {
        let time = arguments.first().and_then(time).ok_or_else(|| odd(arguments))?;
        Ok(vec![time, DataType::Int64, DataType::Int64, DataType::Int64])
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Fallible<ColumnarValue> {
        let constants = arguments
            .args
            .iter()
            .skip(1)
            .map(|value| match value {
                ColumnarValue::Scalar(ScalarValue::Int64(Some(value))) => Ok(*value),
                _ => Err(DataFusionError::Execution("a window is no constant".to_owned())),
            })
            .collect::<Fallible<Vec<_>>>()?;
        let window = of_constants(&constants)?;
        let times =
            arguments.args.first().ok_or_else(|| odd(&[]))?.to_array(arguments.number_rows)?;
        let size = if self.is_end { window.size() } else { 0 };
        let bound = |at: i64| window.pane(at).saturating_add(size);
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let plain: TimestampMicrosecondArray = times.unary(bound);
        let bounds = plain.with_data_type(times.data_type().clone());
        Ok(ColumnarValue::Array(Arc::new(bounds)))
    }
}

/// The type of a time in microseconds.
fn time(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(_, zone) => {
            Some(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
        }
        DataType::Date32 => Some(DataType::Timestamp(TimeUnit::Microsecond, None)),
        _ => None,
    }
}

fn odd(arguments: &[DataType]) -> DataFusionError {
    let found = arguments.first().map_or("nothing".to_owned(), type_name);
    DataFusionError::Plan(format!("found {found}, expected a timestamp to make windows of"))
}

fn of_constants(constants: &[i64]) -> Fallible<Window> {
    let window = match constants {
        [gap, 0, _] => Window::session(*gap),
        [size, slide, offset] => Window::aligned(*size, *slide, *offset),
        _ => Err("a window has three lengths".to_owned()),
    };
    window.map_err(DataFusionError::Execution)
}

/// The windows that an aggregate groups by.
///
/// # Errors
/// When the query asks of a window what only tumbling ones have: a value for each record.
pub fn find(
    aggregate: &Aggregate,
    event_time: Option<&str>,
) -> Result<Option<Windowed>, QueryError> {
    let input = &aggregate.input;
    let mut found: Option<Windowed> = None;
    for (place, group) in aggregate.group_expr.iter().enumerate() {
        let Some(bound) = bound(group, input, event_time)? else { continue };
        let windowed = found.get_or_insert(Windowed { start: None, end: None, ..bound });
        if (windowed.window, windowed.is_event_time) != (bound.window, bound.is_event_time) {
            return Err(QueryError::new("a query can have one window"));
        }
        let twice = bound.start.is_some() && windowed.start.is_some()
            || bound.end.is_some() && windowed.end.is_some();
        if twice && !bound.window.is_tumbling() {
            let message = "the same bound of a window stands twice in `group by`: once is enough";
            return Err(QueryError::new(message));
        }
        windowed.start = windowed.start.or(bound.start.map(|_| place));
        windowed.end = windowed.end.or(bound.end.map(|_| place));
    }
    if found.is_none_or(|found| !found.window.is_tumbling()) {
        check_uses(aggregate, found.is_some())?;
    }
    Ok(found)
}

/// Each record is in several windows, or in one that later records make longer.
fn check_uses(aggregate: &Aggregate, is_grouped: bool) -> Result<(), QueryError> {
    let check = |expr: &Expr, plan: &LogicalPlan| -> Result<(), QueryError> {
        if is_plain(expr) {
            return Ok(());
        }
        let uses = |column: &Column| {
            let (made, _) = origin(&Expr::Column(column.clone()), plan);
            windows_in(&made)
        };
        let windows = expr.column_refs().into_iter().find_map(uses).or_else(|| windows_in(expr));
        match windows {
            Some(window) if !window.is_tumbling() => Err(QueryError::new(
                "a window that slides or grows can only be grouped by: `window_start` and \
                 `window_end` stand in `group by`, and are used above it",
            )),
            _ => Ok(()),
        }
    };
    for expr in aggregate.group_expr.iter().chain(&aggregate.aggr_expr) {
        check(expr, &aggregate.input)?;
    }
    let mut problem = None;
    let visit = aggregate.input.apply(|plan| {
        let Some(below) = plan.inputs().first().copied() else {
            return Ok(TreeNodeRecursion::Continue);
        };
        for expr in plan.expressions() {
            if let Err(error) = check(&expr, below) {
                problem.get_or_insert(error);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visit?;
    let slides = |plan: &LogicalPlan| {
        let windows = plan.expressions().iter().any(|expr| {
            expr.exists(|expr| Ok(windows_of(expr).is_some_and(|window| !window.is_tumbling())))
                .unwrap_or(true)
        });
        Ok(windows)
    };
    if !is_grouped && aggregate.input.exists(slides)? {
        problem.get_or_insert(QueryError::new(
            "expected `window_start` or `window_end` in `group by`",
        ));
    }
    problem.map_or(Ok(()), Err)
}

/// A column, or a function of ours over one, perhaps under another name.
fn is_plain(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_plain(&alias.expr),
        Expr::Column(_) => true,
        other => windows_of(other).is_some(),
    }
}

fn windows_in(expr: &Expr) -> Option<Window> {
    let mut found = None;
    let _ = expr.apply(|expr| {
        found = found.or(windows_of(expr));
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The windows of a call of one of our functions.
fn windows_of(expr: &Expr) -> Option<Window> {
    let Expr::ScalarFunction(call) = expr else { return None };
    if ![START, END].contains(&call.func.name()) {
        return None;
    }
    let constants = call.args.iter().skip(1).map(|argument| match argument {
        Expr::Literal(ScalarValue::Int64(value), _) => *value,
        _ => None,
    });
    of_constants(&constants.collect::<Option<Vec<_>>>()?).ok()
}

/// Which bound of which windows an expression is; the places are set, whatever they are.
fn bound(
    expr: &Expr,
    plan: &LogicalPlan,
    event_time: Option<&str>,
) -> Result<Option<Windowed>, QueryError> {
    let (made, plan) = origin(expr, plan);
    let Some(window) = windows_of(&made) else { return Ok(None) };
    let Expr::ScalarFunction(call) = &made else { return Ok(None) };
    let is_end = call.func.name() == END;
    let argument = call.args.first().ok_or_else(|| QueryError::new("a window without a time"))?;
    let (time, scan) = origin(argument, plan);
    let is_event_time = match (&time, scan) {
        (Expr::Column(column), LogicalPlan::TableScan(scan)) => {
            scan.table_name.table() == TABLE && Some(column.name.as_str()) == event_time
        }
        _ => false,
    };
    let (start, end) = if is_end { (None, Some(0)) } else { (Some(0), None) };
    Ok(Some(Windowed { window, start, end, is_event_time }))
}

/// True for a cast that only changes the unit: one to another zone moves the time.
fn keeps_instant(from: &Expr, to: &DataType, plan: &LogicalPlan) -> bool {
    let from = from.get_type(plan.schema().as_ref()).ok();
    match (from, to) {
        (Some(DataType::Timestamp(_, zone)), DataType::Timestamp(TimeUnit::Microsecond, to)) => {
            zone == *to
        }
        (Some(DataType::Date32), DataType::Timestamp(TimeUnit::Microsecond, None)) => true,
        _ => false,
    }
}

/// The expression that makes a value, looked for below names, casts of times, and nodes that pass columns on;
/// and the plan of its input.
fn origin<'a>(expr: &Expr, plan: &'a LogicalPlan) -> (Expr, &'a LogicalPlan) {
    let column = match expr {
        Expr::Alias(alias) => return origin(&alias.expr, plan),
        Expr::Cast(cast) if keeps_instant(&cast.expr, cast.field.data_type(), plan) => {
            return origin(&cast.expr, plan);
        }
        Expr::Column(column) => column,
        other => return (other.clone(), plan),
    };
    let place = || plan.schema().maybe_index_of_column(column);
    match plan {
        LogicalPlan::Projection(projection) => match place().and_then(|at| projection.expr.get(at))
        {
            Some(expr) => origin(expr, &projection.input),
            None => (expr.clone(), plan),
        },
        LogicalPlan::SubqueryAlias(alias) => match place() {
            Some(at) => {
                let below = Column::from(alias.input.schema().qualified_field(at));
                origin(&Expr::Column(below), &alias.input)
            }
            None => (expr.clone(), plan),
        },
        LogicalPlan::Filter(filter) => origin(expr, &filter.input),
        LogicalPlan::Join(join) => {
            let of_left = join.left.schema().maybe_index_of_column(column).is_some();
            origin(expr, if of_left { &join.left } else { &join.right })
        }
        _ => (expr.clone(), plan),
    }
}

/// A column of times like `like`, at these microseconds.
pub fn column(times: Vec<i64>, like: &DataType) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times).with_data_type(like.clone()))
}

/// The beginnings of the panes of some rows. A time that is NULL is in no window.
pub fn panes(columns: &[ArrayRef], windowed: Windowed) -> Fallible<Vec<Option<i64>>> {
    let none = || DataFusionError::Execution("a group without its window".to_owned());
    let column = windowed.start.or(windowed.end).and_then(|place| columns.get(place));
    let times = column.and_then(micros).ok_or_else(none)?;
    let back = if windowed.start.is_some() { 0 } else { windowed.window.size() };
    Ok(times.iter().map(|time| time.map(|time| time.saturating_sub(back))).collect())
}
