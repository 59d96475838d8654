//! Windows as they are written in SQL: `tumble(...)`, `hop(...)` and `session(...)` in `from`, Spark's
//! `window(...)` and `session_window(...)` in `group by`.
//!
//! Invariants: each becomes two columns made by functions of our own, [`START`] and [`END`], whose
//! arguments say which windows they are; the planner sees nothing else.

use std::ops::ControlFlow;

use arrow_cast::parse::parse_interval_month_day_nano;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, Interval,
    Query, Select, SelectItem, SetExpr, Statement, TableAlias, TableFactor, Value, VisitMut,
    VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::QueryError;
use crate::event_time::Window;

/// The function that gives the beginning of a window, and the column that it is in.
pub const START: &str = "window_start";
/// The function that gives the end, and its column.
pub const END: &str = "window_end";

/// Rewrites all windows in a statement.
pub fn rewrite(statement: &mut Statement) -> Result<(), QueryError> {
    match statement.visit(&mut Rewrite) {
        ControlFlow::Break(problem) => Err(problem),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Rewrite;

impl VisitorMut for Rewrite {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        flow(in_group_by(query))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<QueryError> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.to_string().to_lowercase();
        let Some((kind, rest)) = name.split_once('_').or(Some((&name, ""))) else {
            return ControlFlow::Continue(());
        };
        let is_bound = ["", "start", "end", "rowtime", "proctime"].contains(&rest);
        if !["tumble", "hop", "session"].contains(&kind) || !is_bound {
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(QueryError::new(format!(
            "`{name}` cannot stand here: a window stands in `from`, and its bounds are columns, as in \
             `select {START}, count(*) from {} group by {START}`",
            form(kind)
        )))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<QueryError> {
        flow(in_from(factor))
    }
}

fn flow(result: Result<(), QueryError>) -> ControlFlow<QueryError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(problem) => ControlFlow::Break(problem),
    }
}

/// `from tumble(...)`: the table with two more columns.
fn in_from(factor: &mut TableFactor) -> Result<(), QueryError> {
    let (name, arguments, alias) = match factor {
        TableFactor::Table { name, args: Some(args), alias, .. } => {
            (name.to_string(), args.args.as_slice(), alias.clone())
        }
        TableFactor::Function { name, args, alias, .. } => {
            (name.to_string(), args.as_slice(), alias.clone())
        }
        TableFactor::TableFunction { expr: Expr::Function(function), alias } => {
            (function.name.to_string(), list(function), alias.clone())
        }
        _ => return Ok(()),
    };
    let name = name.to_lowercase();
    if !["tumble", "hop", "session"].contains(&name.as_str()) {
        return Ok(());
    }
    let arguments = expressions(&name, arguments)?;
    let (table, time, lengths) = match arguments.as_slice() {
        [table @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_)), time, lengths @ ..] => {
            (table.to_string(), described(time), lengths)
        }
        _ => return Err(usage(&name)),
    };
    let lengths = lengths.iter().map(length).collect::<Result<Vec<_>, _>>()?;
    let window = match (name.as_str(), lengths.as_slice()) {
        ("tumble", [size]) => Window::aligned(*size, *size, 0),
        ("tumble", [size, offset]) => Window::aligned(*size, *size, *offset),
        ("hop", [slide, size]) => Window::aligned(*size, *slide, 0),
        ("hop", [slide, size, offset]) => Window::aligned(*size, *slide, *offset),
        ("session", [gap]) => Window::session(*gap),
        _ => return Err(usage(&name)),
    };
    let window = window.map_err(|error| QueryError::new(format!("`{name}`: {error}")))?;
    let start = call(START, &time, window);
    let end = call(END, &time, window);
    let sql = format!("SELECT *, {start} AS {START}, {end} AS {END} FROM {table}");
    let subquery = parsed(&sql)?.parse_query().map_err(ours)?;
    let last = table.rsplit('.').next().unwrap_or(&table);
    let alias = alias.or_else(|| {
        let named = |mut parser: Parser<'_>| parser.parse_identifier().ok();
        let name = parsed(last).ok().and_then(named).unwrap_or_else(|| Ident::new(last));
        Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None })
    });
    *factor = TableFactor::Derived { lateral: false, subquery, alias, sample: None };
    Ok(())
}

/// `group by window(...)`: the two functions, and whatever names the window.
fn in_group_by(query: &mut Query) -> Result<(), QueryError> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    let GroupByExpr::Expressions(groups, _) = &mut select.group_by else { return Ok(()) };
    let mut found: Option<(Expr, Expr)> = None;
    let mut kept = Vec::with_capacity(groups.len() + 1);
    for group in groups.drain(..) {
        let Some((time, window)) = spark_window(&group)? else {
            kept.push(group);
            continue;
        };
        if found.is_some() {
            return Err(QueryError::new("a query can have one window"));
        }
        let make = |function| parsed(&call(function, &time, window))?.parse_expr().map_err(ours);
        let start = make(START)?;
        let end = make(END)?;
        kept.extend([start.clone(), end.clone()]);
        found = Some((start, end));
    }
    *groups = kept;
    let Some((start, end)) = found else { return Ok(()) };
    name_window(query, start, end);
    Ok(())
}

/// Puts the functions where the query names the window's bounds.
fn name_window(query: &mut Query, start: Expr, end: Expr) {
    let mut bounds = Bounds { start, end };
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    let Select { projection, having, .. } = select.as_mut();
    for item in projection.iter_mut() {
        if let SelectItem::UnnamedExpr(expr) = item
            && let Some((bound, name)) = bounds.of(expr)
        {
            *item = SelectItem::ExprWithAlias { expr: bound, alias: name };
            continue;
        }
        let _ = item.visit(&mut bounds);
    }
    let _ = having.visit(&mut bounds);
    let _ = query.order_by.visit(&mut bounds);
}

/// The bounds of the one window of a query.
struct Bounds {
    start: Expr,
    end: Expr,
}

impl Bounds {
    /// The expression that this one stands for, and the name of its column.
    fn of(&self, expr: &Expr) -> Option<(Expr, Ident)> {
        let (window, bound) = match expr {
            Expr::Identifier(name) => (None, name),
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [window, bound] => (Some(window), bound),
                _ => return None,
            },
            _ => return None,
        };
        let of_window = match window.map(|name| name.value.to_lowercase()) {
            None => "window_",
            Some(name) if name == "window" || name == "session_window" => "",
            Some(_) => return None,
        };
        let value = bound.value.to_lowercase();
        match value.strip_prefix(of_window) {
            Some("start") => Some((self.start.clone(), bound.clone())),
            Some("end") => Some((self.end.clone(), bound.clone())),
            _ => None,
        }
    }
}

impl VisitorMut for Bounds {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some((bound, _)) = self.of(expr) {
            *expr = bound;
        }
        ControlFlow::Continue(())
    }
}

/// Spark's `window(time, size[, slide[, offset]])` or `session_window(time, gap)`.
fn spark_window(expr: &Expr) -> Result<Option<(String, Window)>, QueryError> {
    let Expr::Function(function) = expr else { return Ok(None) };
    let name = function.name.to_string().to_lowercase();
    if !["window", "session_window"].contains(&name.as_str()) {
        return Ok(None);
    }
    let arguments = expressions(&name, list(function))?;
    let (time, lengths) = arguments.split_first().ok_or_else(|| usage(&name))?;
    let lengths = lengths.iter().map(length).collect::<Result<Vec<_>, _>>()?;
    let window = match (name.as_str(), lengths.as_slice()) {
        ("window", [size]) => Window::aligned(*size, *size, 0),
        ("window", [size, slide]) => Window::aligned(*size, *slide, 0),
        ("window", [size, slide, offset]) => Window::aligned(*size, *slide, *offset),
        ("session_window", [gap]) => Window::session(*gap),
        _ => return Err(usage(&name)),
    };
    let window = window.map_err(|error| QueryError::new(format!("`{name}`: {error}")))?;
    Ok(Some((time.to_string(), window)))
}

/// The function that gives one bound of the windows of a time.
fn call(function: &str, time: &str, window: Window) -> String {
    match window {
        Window::Aligned { size, slide, offset } => {
            format!("{function}({time}, {size}, {slide}, {offset})")
        }
        Window::Session { gap } => format!("{function}({time}, {gap}, 0, 0)"),
    }
}

fn parsed(sql: &str) -> Result<Parser<'static>, QueryError> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).map_err(ours)
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in a `map_err`")]
fn ours(error: datafusion::sql::sqlparser::parser::ParserError) -> QueryError {
    QueryError::new(error.to_string())
}

fn usage(name: &str) -> QueryError {
    QueryError::new(format!("expected {}", form(name)))
}

/// How a window is written.
fn form(name: &str) -> &'static str {
    match name {
        "tumble" => "tumble(table, time, size[, offset])",
        "hop" => "hop(table, time, slide, size[, offset])",
        "session" => "session(table, time, gap)",
        "window" => "window(time, size[, slide[, offset]])",
        _ => "session_window(time, gap)",
    }
}

/// A word on a statement that cannot be parsed, where it is written as for Flink.
pub fn hint(sql: &str) -> Option<&'static str> {
    let sql = sql.to_lowercase();
    let is_flinks = sql.contains("descriptor") || sql.contains("table(");
    (is_flinks && ["tumble", "hop", "session"].iter().any(|name| sql.contains(name))).then_some(
        "A window is written without `table` and `descriptor`: from tumble(output, time, interval '5 \
         minutes')",
    )
}

fn list(function: &Function) -> &[FunctionArg] {
    match &function.args {
        FunctionArguments::List(list) => &list.args,
        _ => &[],
    }
}

fn expressions(name: &str, arguments: &[FunctionArg]) -> Result<Vec<Expr>, QueryError> {
    let plain = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr.clone()),
        _ => Err(usage(name)),
    };
    arguments.iter().map(plain).collect()
}

/// The column in `descriptor(column)`, or the expression itself.
fn described(expr: &Expr) -> String {
    match expr {
        Expr::Function(function)
            if function.name.to_string().eq_ignore_ascii_case("descriptor") =>
        {
            list(function).iter().map(ToString::to_string).collect()
        }
        other => other.to_string(),
    }
}

/// A length of time in microseconds: an interval, or a text like one.
fn length(expr: &Expr) -> Result<i64, QueryError> {
    let text = match expr {
        Expr::Interval(Interval { value, leading_field, .. }) => {
            let unit = leading_field.as_ref().map(|field| format!(" {field}")).unwrap_or_default();
            literal(value).map(|value| value + &unit)
        }
        other => literal(other),
    };
    let odd = || {
        QueryError::new(format!(
            "found {expr}, expected a length of time such as interval '5 minutes'"
        ))
    };
    let interval =
        text.and_then(|text| parse_interval_month_day_nano(&text).ok()).ok_or_else(odd)?;
    if interval.months != 0 {
        return Err(QueryError::new(format!(
            "{expr} is not always as long: expected days, hours, minutes or seconds"
        )));
    }
    if interval.nanoseconds % 1000 != 0 {
        return Err(QueryError::new(format!("{expr}: expected whole microseconds")));
    }
    let days = i64::from(interval.days) * 86_400_000_000;
    days.checked_add(interval.nanoseconds / 1000).ok_or_else(odd)
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            Value::Number(number, _) => Some(number.clone()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(sql: &str) -> Result<String, String> {
        let mut statement = parsed(sql).unwrap().parse_statement().unwrap();
        rewrite(&mut statement).map(|()| statement.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn windows_become_columns() {
        for (sql, expected) in [
            (
                "select 1 from tumble(output, t, interval '5 minutes') w",
                "SELECT 1 FROM (SELECT *, window_start(t, 300000000, 300000000, 0) AS window_start, \
                 window_end(t, 300000000, 300000000, 0) AS window_end FROM output) w",
            ),
            (
                "select 1 from hop(output, descriptor(t), '1 second', interval '2' second, '500 milliseconds')",
                "SELECT 1 FROM (SELECT *, window_start(t, 2000000, 1000000, 500000) AS window_start, \
                 window_end(t, 2000000, 1000000, 500000) AS window_end FROM output) AS output",
            ),
            (
                "select 1 from table(session(\"Out\", t, interval '1 day'))",
                "SELECT 1 FROM (SELECT *, window_start(t, 86400000000, 0, 0) AS window_start, \
                 window_end(t, 86400000000, 0, 0) AS window_end FROM \"Out\") AS \"Out\"",
            ),
            (
                "select window.start, k, window_end as e from output group by window(t, '2 seconds', '1 second'), k",
                "SELECT window_start(t, 2000000, 1000000, 0) AS start, k, \
                 window_end(t, 2000000, 1000000, 0) AS e FROM output \
                 GROUP BY window_start(t, 2000000, 1000000, 0), window_end(t, 2000000, 1000000, 0), k",
            ),
        ] {
            assert_eq!(rewritten(sql).unwrap(), expected, "{sql}");
        }
    }

    #[test]
    fn a_window_that_makes_no_sense_is_refused() {
        for (sql, reason) in [
            ("select 1 from tumble(output, t, interval '1 month')", "not always as long"),
            ("select 1 from tumble(output, t)", "expected tumble(table, time, size[, offset])"),
            ("select 1 from tumble(output, t, interval '0 seconds')", "longer than nothing"),
            ("select 1 from hop(output, t, '5 seconds', '3 seconds')", "leave out"),
            ("select 1 from hop(output, t, '1 microsecond', '1 day')", "86400000000 windows"),
            ("select 1 from tumble(output, t, a + 1)", "expected a length of time"),
            ("select 1 from output group by window(t, '1 s'), window(t, '2 s')", "one window"),
        ] {
            let said = rewritten(sql).unwrap_err();
            assert!(said.contains(reason), "{sql}: {said}");
        }
    }
}
