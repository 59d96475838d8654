//! Where a continuous query is cut in two, and which queries can be.
//!
//! Invariants: what stands below the aggregate works record by record, so that it gives the
//! same over one file after another as over all of them at once; what stands above it has all that
//! it needs in the groups that it is given. A query of another kind is refused, with the part that
//! is at fault.

use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNode as _;
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, Join, LogicalPlan, LogicalPlanBuilder, Projection,
};

use super::QueryError;
use super::bounds::TABLE;
use super::slot::Slot;
use super::view::definition::Asked;

/// The table that the upper part reads.
const GROUPS: &str = "groups";

/// A query in two parts.
pub struct Split {
    /// The aggregate that groups records.
    pub aggregate: Aggregate,
    /// The plan above the groups.
    pub upper: LogicalPlan,
}

/// Cuts an analyzed query at its aggregate.
pub fn split(plan: LogicalPlan, asked: Asked) -> Result<Split, QueryError> {
    check_subqueries(&plan)?;
    let (aggregate, upper) = descend(plan, asked)?;
    check_below(&aggregate.input)?;
    Ok(Split { aggregate, upper })
}

/// The columns of the groups as the upper part reads them. Their names say nothing: in the query
/// they may be anything.
pub fn columns(groups: &Schema) -> SchemaRef {
    let field = |(number, field): (usize, &Arc<Field>)| {
        field.as_ref().clone().with_name(format!("c{number}"))
    };
    Arc::new(Schema::new(groups.fields().iter().enumerate().map(field).collect::<Vec<_>>()))
}

fn descend(plan: LogicalPlan, asked: Asked) -> Result<(Aggregate, LogicalPlan), QueryError> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
                return Err(QueryError::new("`grouping sets`, `rollup` and `cube` cannot be kept"));
            }
            let groups = groups(&aggregate.schema)?;
            Ok((aggregate, groups))
        }
        LogicalPlan::Distinct(Distinct::All(input)) if !has_aggregate(&input) => {
            let columns = input.schema().columns().into_iter().map(Expr::Column).collect();
            let aggregate = Aggregate::try_new(input, columns, Vec::new());
            descend(LogicalPlan::Aggregate(aggregate?), asked)
        }
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
            below(&plan, asked)
        }
        LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Distinct(_)
            if asked == Asked::All && has_aggregate(&plan) =>
        {
            below(&plan, asked)
        }
        LogicalPlan::Distinct(Distinct::On(_)) => Err(QueryError::new(
            "`distinct on` keeps one record of each group: say which by `first_value(x order by y)` and \
             `group by`",
        )),
        other if has_aggregate(&other) => Err(QueryError::new(match other {
            LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Window(_)
            | LogicalPlan::Distinct(_) => {
                let name = name(&other);
                format!("{name} over the groups needs all of them: that is mode = \"complete\"")
            }
            other => format!("{} over the groups cannot be kept", name(&other)),
        })),
        _ => Err(QueryError::new(
            "expected `group by` or `distinct`: what is made of each record alone belongs in the \
             transform",
        )),
    }
}

/// The same node over what its one input becomes.
fn below(plan: &LogicalPlan, asked: Asked) -> Result<(Aggregate, LogicalPlan), QueryError> {
    let input = plan
        .inputs()
        .first()
        .map(|input| (*input).clone())
        .ok_or_else(|| QueryError::new("the query reads no table"))?;
    let (aggregate, upper) = descend(input, asked)?;
    let expressions = plan.expressions();
    let upper = plan.with_new_exprs(expressions, vec![upper]);
    Ok((aggregate, upper?))
}

/// Replaces the aggregate: the groups, under the names that the query knows them by.
fn groups(schema: &DFSchema) -> Result<LogicalPlan, QueryError> {
    let slot = Slot::table(columns(schema.as_arrow()))?;
    let scan = LogicalPlanBuilder::scan(GROUPS, provider_as_source(Arc::new(slot)), None)?;
    let named: Vec<_> = schema
        .iter()
        .enumerate()
        .map(|(number, (qualifier, field))| {
            let column = Expr::Column(Column::new(Some(GROUPS), format!("c{number}")));
            match qualifier {
                Some(qualifier) => column.alias_qualified(Some(qualifier.clone()), field.name()),
                None => column.alias(field.name()),
            }
        })
        .collect();
    Ok(scan.project(named)?.build()?)
}

/// The aggregate over the columns that it reads, and no others.
pub fn narrowed(aggregate: Aggregate) -> Result<Aggregate, QueryError> {
    let expressions = aggregate.group_expr.iter().chain(&aggregate.aggr_expr);
    let used: std::collections::HashSet<&Column> =
        expressions.flat_map(Expr::column_refs).collect();
    let columns = aggregate.input.schema().columns();
    let read: Vec<_> = columns.into_iter().filter(|column| used.contains(column)).collect();
    if read.is_empty() {
        return Ok(aggregate);
    }
    let read = read.into_iter().map(Expr::Column).collect();
    let projected = Projection::try_new(read, aggregate.input.clone());
    let input = Arc::new(LogicalPlan::Projection(projected?));
    let schema = aggregate.schema;
    let groups = aggregate.group_expr;
    let functions = aggregate.aggr_expr;
    Ok(Aggregate::try_new_with_schema(input, groups, functions, schema)?)
}

fn has_aggregate(plan: &LogicalPlan) -> bool {
    let is = |plan: &LogicalPlan| {
        Ok(matches!(plan, LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_)))
    };
    plan.exists(is).unwrap_or(true)
}

/// Checks that the plan below the aggregate needs one file at a time.
fn check_below(plan: &LogicalPlan) -> Result<(), QueryError> {
    match plan {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::TableScan(_) => {}
        LogicalPlan::Join(join) => check_join(join)?,
        other => {
            let name = name(other);
            let message =
                format!("{name} below the groups would see one file at a time: it cannot be kept");
            return Err(QueryError::new(message));
        }
    }
    if scans(plan) != 1 {
        return Err(QueryError::new(format!("expected one `{TABLE}` below the groups")));
    }
    let inputs = plan.inputs();
    inputs.into_iter().filter(|input| scans(input) > 0).try_for_each(check_below)
}

/// A record that comes now must not change what was made of earlier ones.
fn check_join(join: &Join) -> Result<(), QueryError> {
    let left = scans(&join.left) > 0;
    let passes = match join.join_type {
        JoinType::Inner => true,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left,
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => !left,
        JoinType::Full => false,
    };
    if passes {
        return Ok(());
    }
    Err(QueryError::new(format!(
        "a {} join gives the rows of the table again for each file: `{TABLE}` must be on the other side",
        join.join_type
    )))
}

/// How often the records are read.
fn scans(plan: &LogicalPlan) -> usize {
    match plan {
        LogicalPlan::TableScan(scan) => usize::from(scan.table_name.table() == TABLE),
        other => other.inputs().into_iter().map(scans).sum(),
    }
}

fn check_subqueries(plan: &LogicalPlan) -> Result<(), QueryError> {
    let holds = |plan: &LogicalPlan| {
        let is = |expr: &Expr| {
            Ok(matches!(expr, Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_)))
        };
        let expressions = plan.expressions();
        Ok(expressions.iter().any(|expr| expr.exists(is).unwrap_or(true)))
    };
    if plan.exists(holds).unwrap_or(true) {
        return Err(QueryError::new("a subquery in an expression cannot be kept: use a join"));
    }
    let is_volatile = |plan: &LogicalPlan| Ok(plan.expressions().iter().any(Expr::is_volatile));
    if plan.exists(is_volatile).unwrap_or(true) {
        return Err(QueryError::new(
            "the result must not depend on chance: `random()` and the like",
        ));
    }
    Ok(())
}

/// The name of a node in SQL.
fn name(plan: &LogicalPlan) -> &'static str {
    match plan {
        LogicalPlan::Sort(_) => "`order by`",
        LogicalPlan::Limit(_) => "`limit`",
        LogicalPlan::Window(_) => "a window function",
        LogicalPlan::Distinct(_) => "`distinct`",
        LogicalPlan::Aggregate(_) => "another `group by`",
        LogicalPlan::Union(_) => "`union`",
        LogicalPlan::Join(_) => "a join",
        _ => "this operator",
    }
}
