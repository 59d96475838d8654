//! A query, planned for one schema of its input.

use std::sync::{Arc, PoisonError};

use arrow_schema::{Schema, SchemaRef};
use chrono::{DateTime, Utc};
use datafusion::physical_plan::ExecutionPlan;

use super::slot::{self, Shape, Slot};
use super::{Query, QueryError, carry, statement, types};

/// The plan of a query for one schema of the input.
pub struct Planned {
    /// The physical plan.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The input's columns.
    pub schema: Schema,
    /// The same, and what the query reads besides them.
    pub bound: SchemaRef,
    /// The result's columns.
    pub result: SchemaRef,
    /// Behind them the plan gives the line of each record.
    pub carries: bool,
    /// How it works.
    pub shape: Shape,
}

/// Plans a query for an input of this schema at this time.
pub fn plan(query: &Query, schema: &Schema, now: DateTime<Utc>) -> Result<Planned, QueryError> {
    if query.carries
        && let Some(planned) = plan_over(query, schema, now, true)?
    {
        return Ok(planned);
    }
    plan_over(query, schema, now, false)?.ok_or_else(|| QueryError::new("the query has no plan"))
}

/// The plan; `None` when it is to carry the lines of the records, and they have none.
fn plan_over(
    query: &Query,
    schema: &Schema,
    now: DateTime<Utc>,
    carries: bool,
) -> Result<Option<Planned>, QueryError> {
    let Query { engine, statement, table, .. } = query;
    let mut bound = Arc::new(schema.clone());
    if statement.wants_position {
        bound = statement::with_position(&bound);
    }
    if carries {
        bound = statement::with_line(&bound);
    }
    // One catalog serves all queries, and each has a table of this name.
    let _alone = engine.planning.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = Arc::new(Slot::table(bound.clone())?);
    let registered = engine.context.register_table(*table, slot);
    registered.map_err(|error| QueryError::of(&error))?;
    let mut state = engine.context.state();
    let properties = state.execution_props_mut();
    *properties = std::mem::take(properties).with_query_execution_start_time(now);
    let planning = async {
        let parsed = if carries { statement.without_line() } else { statement.parsed() };
        let mut logical =
            types::written(types::with_times(state.statement_to_plan(parsed).await?)?)?;
        let columns = logical.schema().fields().len();
        if carries {
            match carry::line(&logical, table) {
                Some(carrying) => logical = carrying,
                None => return Ok(None),
            }
        }
        let plan = slot::hold_tables(state.create_physical_plan(&logical).await?)?;
        Ok(Some((plan, columns)))
    };
    let planned = engine.runtime().block_on(planning).map_err(|error| statement.explain(&error));
    let _ = engine.context.deregister_table(*table);
    let Some((plan, columns)) = planned? else { return Ok(None) };
    let shape = Shape::of(&plan);
    let fields: Vec<_> = plan.schema().fields().iter().take(columns).cloned().collect();
    let result = Arc::new(Schema::new(fields));
    Ok(Some(Planned { plan, schema: schema.clone(), bound, result, carries, shape }))
}
