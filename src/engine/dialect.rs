//! Times and numbers in a query: times in microseconds throughout, since what the engine would take for
//! nanoseconds reaches from 1677 to 2262 only; a number with an exponent is a double, one with a point alone
//! a decimal.

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, TimezoneInfo, TypedString, Value,
};

use super::zones::AT_TIME_ZONE;

/// Digits of a second that are kept.
const DIGITS: u64 = 6;

/// Functions that give the time of the query in nanoseconds.
const NOW: [&str; 3] = ["now", "current_timestamp", "localtimestamp"];

/// Rewrites one expression, whose parts are rewritten already. To do it again changes nothing.
pub fn rewrite(expr: &mut Expr) {
    match expr {
        Expr::Cast { expr: inner, data_type, .. } => {
            unwrap_now(inner, data_type);
            keep_digits(data_type);
        }
        Expr::Value(value) => {
            if let Value::Number(digits, _) = &value.value
                && digits.contains(['e', 'E'])
            {
                let digits = Value::SingleQuotedString(digits.clone()).into();
                *expr = Expr::Cast {
                    kind: CastKind::Cast,
                    expr: Box::new(Expr::Value(digits)),
                    data_type: DataType::DoublePrecision,
                    array: false,
                    format: None,
                };
            }
        }
        Expr::TypedString(TypedString { data_type, .. }) => keep_digits(data_type),
        Expr::AtTimeZone { timestamp, time_zone } => {
            let arguments = [timestamp.as_ref().clone(), time_zone.as_ref().clone()];
            *expr = call(AT_TIME_ZONE, arguments.into());
        }
        Expr::Function(function) if is_now(function) => {
            let inner = Box::new(expr.clone());
            let data_type = DataType::Timestamp(Some(DIGITS), TimezoneInfo::WithTimeZone);
            let kind = CastKind::Cast;
            *expr = Expr::Cast { kind, expr: inner, data_type, array: false, format: None };
        }
        _ => {}
    }
}

/// A second look at a query finds the cast that the first one made, within another.
fn unwrap_now(inner: &mut Box<Expr>, outer: &DataType) {
    if let Expr::Cast { expr, data_type, .. } = inner.as_ref()
        && data_type == outer
        && matches!(expr.as_ref(), Expr::Function(function) if is_now(function))
    {
        *inner = expr.clone();
    }
}

fn is_now(function: &Function) -> bool {
    let name = function.name.to_string().to_lowercase();
    NOW.contains(&name.as_str())
}

fn keep_digits(data_type: &mut DataType) {
    match data_type {
        DataType::Timestamp(digits @ None, _) | DataType::Datetime(digits @ None) => {
            *digits = Some(DIGITS);
        }
        _ => {}
    }
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let argument = |expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
    let list = FunctionArgumentList {
        duplicate_treatment: None,
        args: arguments.into_iter().map(argument).collect(),
        clauses: Vec::new(),
    };
    Expr::Function(Function {
        name: ObjectName::from(Ident::new(name)),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
