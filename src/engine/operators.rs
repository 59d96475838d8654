//! Types of operators where the engine's own rules lose something: the quotient of decimals is a decimal, a
//! date or a text beside a time is a time in microseconds, and a column of numbers beside a column of texts
//! is compared as text.

use std::sync::Arc;

use arrow_schema::{DataType, TimeUnit};
use datafusion::common::{DFSchema, Result as Fallible};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable as _, ScalarUDF, cast};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::decimals::Quotient;

/// Plans operators.
#[derive(Debug)]
pub struct Operators;

impl ExprPlanner for Operators {
    fn plan_binary_op(
        &self,
        mut expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Fallible<PlannerResult<RawBinaryExpr>> {
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema))
        else {
            return Ok(PlannerResult::Original(expr));
        };
        if expr.op == BinaryOperator::Divide
            && let Some((left, right)) = decimals(&left, &right)
        {
            let arguments = vec![cast(expr.left, left), cast(expr.right, right)];
            let function = Arc::new(ScalarUDF::from(Quotient::new()));
            let call = ScalarFunction::new_udf(function, arguments);
            return Ok(PlannerResult::Planned(Expr::ScalarFunction(call)));
        }
        if is_comparison(&expr.op) {
            if let Some(left) = time_beside(&left, &right) {
                expr.left = cast(expr.left, left);
            } else if let Some(right) = time_beside(&right, &left) {
                expr.right = cast(expr.right, right);
            } else if are_columns(&expr) && is_text(&left) && right.is_integer() {
                expr.right = cast(expr.right, DataType::Utf8);
            } else if are_columns(&expr) && is_text(&right) && left.is_integer() {
                expr.left = cast(expr.left, DataType::Utf8);
            }
        }
        Ok(PlannerResult::Original(expr))
    }
}

fn is_comparison(operator: &BinaryOperator) -> bool {
    matches!(
        operator,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    )
}

fn are_columns(expr: &RawBinaryExpr) -> bool {
    matches!((&expr.left, &expr.right), (Expr::Column(_), Expr::Column(_)))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The types of two sides of which one is a decimal, and the other one as well or a whole number.
fn decimals(left: &DataType, right: &DataType) -> Option<(DataType, DataType)> {
    let as_decimal = |data_type: &DataType| match data_type {
        DataType::Decimal128(..) => Some(data_type.clone()),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            Some(DataType::Decimal128(19, 0))
        }
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            Some(DataType::Decimal128(20, 0))
        }
        _ => None,
    };
    let is_decimal = |data_type: &DataType| matches!(data_type, DataType::Decimal128(..));
    (is_decimal(left) || is_decimal(right)).then_some(())?;
    as_decimal(left).zip(as_decimal(right))
}

/// The type that a date or a text is converted to beside a time.
pub fn time_beside(other: &DataType, time: &DataType) -> Option<DataType> {
    let DataType::Timestamp(_, zone) = time else { return None };
    let is_time = matches!(other, DataType::Date32 | DataType::Date64) || is_text(other);
    is_time.then(|| DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
}
