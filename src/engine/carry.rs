//! The line of each record, carried through a query beside what it selects.
//!
//! Invariants: a query whose result has records of their own lines gives them in one more column,
//! the last; one that makes a record of several has none to give.

use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, SubqueryAlias};

/// The column of the input that is carried, and of the result.
pub const LINE: &str = "__line";

/// The query with the lines of `table`; `None` when its records have none.
pub fn line(plan: &LogicalPlan, table: &str) -> Option<LogicalPlan> {
    let (plan, column) = carry(plan, table)?;
    // Last, whatever stands above the input.
    let mut columns: Vec<_> = plan.schema().columns();
    columns.retain(|other| *other != column);
    columns.push(column);
    let columns = columns.into_iter().map(Expr::Column).collect();
    Projection::try_new(columns, plan.into()).ok().map(LogicalPlan::Projection)
}

/// These expressions over a plan, with the lines of `table` after them; `None` when they have none.
pub fn beside(plan: &LogicalPlan, table: &str, expressions: &[Expr]) -> Option<LogicalPlan> {
    let (plan, column) = carry(plan, table)?;
    let mut expressions = expressions.to_vec();
    expressions.push(Expr::Column(column));
    Projection::try_new(expressions, plan.into()).ok().map(LogicalPlan::Projection)
}

fn carry(plan: &LogicalPlan, table: &str) -> Option<(LogicalPlan, Column)> {
    match plan {
        LogicalPlan::TableScan(scan) if scan.table_name.table() == table => {
            let columns = plan.schema().columns();
            let column = columns.into_iter().find(|column| column.name == LINE)?;
            Some((plan.clone(), column))
        }
        LogicalPlan::Projection(projection) => {
            let (input, column) = carry(&projection.input, table)?;
            let mut expressions = projection.expr.clone();
            expressions.push(Expr::Column(column.clone()));
            let projection = Projection::try_new(expressions, input.into()).ok()?;
            Some((LogicalPlan::Projection(projection), column))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let (input, column) = carry(&alias.input, table)?;
            let column = Column::new(Some(alias.alias.clone()), column.name);
            let alias = SubqueryAlias::try_new(input.into(), alias.alias.clone()).ok()?;
            Some((LogicalPlan::SubqueryAlias(alias), column))
        }
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Window(_) => {
            let (input, column) = carry(plan.inputs().first()?, table)?;
            let plan = plan.with_new_exprs(plan.expressions(), vec![input]).ok()?;
            Some((plan, column))
        }
        LogicalPlan::Join(join) => {
            let left = carry(&join.left, table);
            let right = carry(&join.right, table);
            let ((left, right), column) = match (left, right) {
                (Some((left, column)), None) => ((left, join.right.as_ref().clone()), column),
                (None, Some((right, column))) => ((join.left.as_ref().clone(), right), column),
                // A record of two lines has none of its own.
                _ => return None,
            };
            let plan = plan.with_new_exprs(plan.expressions(), vec![left, right]).ok()?;
            plan.schema().has_column(&column).then_some((plan, column))
        }
        _ => None,
    }
}
