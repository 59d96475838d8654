//! The types that a query works with, where the engine would take others: times of microseconds, and in
//! the result those that every format writes and reads back as the same.
//!
//! Invariants: no value is changed, but times beyond microseconds, which are cut.

use arrow_schema::{DECIMAL128_MAX_PRECISION, DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, DFSchema, Result as Fallible};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, Expr, ExprSchemable as _, LogicalPlan, LogicalPlanBuilder, cast,
};

use super::operators::time_beside;

/// The query with each column of its result in the type that is written.
pub fn written(plan: LogicalPlan) -> Fallible<LogicalPlan> {
    let schema = plan.schema().clone();
    let kinds: Vec<_> = schema.fields().iter().map(|field| of(field.data_type())).collect();
    if kinds.iter().all(Option::is_none) {
        return Ok(plan);
    }
    let columns: Vec<Expr> = schema
        .iter()
        .zip(kinds)
        .map(|((qualifier, field), kind)| {
            let column = Expr::Column(Column::from((qualifier, field.as_ref())));
            match kind {
                Some(kind) => cast(column, kind).alias_qualified(qualifier.cloned(), field.name()),
                None => column,
            }
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

/// The query with the texts of `between` and `in` beside a time as times, as other comparisons have them.
pub fn with_times(plan: LogicalPlan) -> Fallible<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr =
                expr.transform_up(|expr| Ok(Transformed::yes(beside_time(expr, &schema))))?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })
    });
    Ok(plan?.data)
}

fn beside_time(mut expr: Expr, schema: &DFSchema) -> Expr {
    let as_time = |other: &mut Expr, time: &DataType| {
        let wanted = other.get_type(schema).ok().and_then(|other| time_beside(&other, time));
        if let Some(wanted) = wanted {
            *other = cast(std::mem::take(other), wanted);
        }
    };
    match &mut expr {
        Expr::Between(Between { expr, low, high, .. }) => {
            if let Ok(time) = expr.get_type(schema) {
                as_time(low, &time);
                as_time(high, &time);
            }
        }
        Expr::InList(InList { expr, list, .. }) => {
            if let Ok(time) = expr.get_type(schema) {
                for other in list {
                    as_time(other, &time);
                }
            }
        }
        _ => {}
    }
    expr
}

/// The type that values of this one are written as, if it is another one.
fn of(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Timestamp(unit, zone) if *unit != TimeUnit::Microsecond => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal128(precision, scale) if *scale < 0 => {
            let digits = precision.saturating_add(scale.unsigned_abs());
            DataType::Decimal128(digits.min(DECIMAL128_MAX_PRECISION), 0)
        }
        DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => DataType::Utf8,
        DataType::Dictionary(_, value) => of(value).unwrap_or_else(|| value.as_ref().clone()),
        _ => return None,
    })
}
