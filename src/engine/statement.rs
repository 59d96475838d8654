//! A query as it is written, and what it asks for beyond the columns of the input.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::config::Dialect;
use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, ObjectName, Select, SelectItem, Statement as Ast, TableFactor,
    VisitMut as _, VisitorMut,
};

use super::{QueryError, carry, dialect, windows};

/// The columns of the input that no format gives: the file's name, and the line of the record.
pub const POSITION: [&str; 2] = ["_file", "_line"];

/// Functions that the planner turns into constants.
const TIME: [&str; 6] =
    ["now", "today", "current_date", "current_time", "current_timestamp", "localtimestamp"];

/// A query that was parsed.
pub struct Statement {
    sql: String,
    table: String,
    parsed: Parsed,
    /// It asks for `_file` or `_line`.
    pub wants_position: bool,
    /// It asks for the time.
    pub wants_time: bool,
}

impl Statement {
    /// Parses one query over `table`.
    pub fn parse(state: &SessionState, sql: &str, table: &str) -> Result<Self, QueryError> {
        let mut parsed = state
            .sql_to_statement(sql, &Dialect::PostgreSQL)
            .map_err(|error| QueryError::in_statement(&error, sql).with_hint(windows::hint(sql)))?;
        let Parsed::Statement(ast) = &mut parsed else {
            return Err(QueryError::new("expected a query that begins with `select` or `with`"));
        };
        if !matches!(**ast, Ast::Query(_)) {
            return Err(QueryError::new("expected a query that begins with `select` or `with`"));
        }
        let mut look = Look { table, position: false, time: false, hide: Vec::new() };
        let _ = ast.visit(&mut look);
        if look.position {
            look.hide = POSITION.to_vec();
            let _ = ast.visit(&mut look);
        }
        let wants_position = look.position;
        let wants_time = look.time;
        let sql = sql.to_owned();
        let table = table.to_owned();
        Ok(Self { sql, table, parsed, wants_position, wants_time })
    }

    /// Puts columns where windows are written.
    pub fn rewrite_windows(&mut self) -> Result<(), QueryError> {
        match &mut self.parsed {
            Parsed::Statement(ast) => windows::rewrite(ast),
            _ => Ok(()),
        }
    }

    /// As it is written.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The statement for the planner.
    pub fn parsed(&self) -> Parsed {
        self.parsed.clone()
    }

    /// The same over a table that has one more column, the line, which `*` does not show.
    pub fn without_line(&self) -> Parsed {
        let mut parsed = self.parsed.clone();
        if let Parsed::Statement(ast) = &mut parsed {
            let mut hide = vec![carry::LINE];
            hide.extend(POSITION.iter().filter(|_| self.wants_position));
            let mut look = Look { table: &self.table, position: false, time: false, hide };
            let _ = ast.visit(&mut look);
        }
        parsed
    }

    /// An error in it, with its place marked.
    pub fn explain(&self, error: &DataFusionError) -> QueryError {
        QueryError::in_statement(error, &self.sql)
    }
}

/// Looks what a query asks for, and keeps the position out of `*`.
struct Look<'a> {
    table: &'a str,
    position: bool,
    time: bool,
    /// Columns to keep out of `*`.
    hide: Vec<&'static str>,
}

impl VisitorMut for Look<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        dialect::rewrite(expr);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => self.position |= POSITION.contains(&name.value.as_str()),
            Expr::CompoundIdentifier(names) => {
                let last = names.last().map_or("", |name| name.value.as_str());
                self.position |= POSITION.contains(&last);
            }
            Expr::Function(function) => {
                let last = function.name.0.last().and_then(|part| part.as_ident());
                let name = last.map(|name| name.value.to_lowercase()).unwrap_or_default();
                self.time |= TIME.contains(&name.as_str());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let names_input = |factor: &TableFactor| match factor {
            TableFactor::Table { name, .. } => name.to_string().eq_ignore_ascii_case(self.table),
            _ => false,
        };
        let reads_input = select.from.iter().any(|from| {
            names_input(&from.relation) || from.joins.iter().any(|join| names_input(&join.relation))
        });
        if self.hide.is_empty() || !reads_input {
            return ControlFlow::Continue(());
        }
        for item in &mut select.projection {
            let (SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options)) = item
            else {
                continue;
            };
            let names = self.hide.iter().map(|name| ObjectName::from(Ident::new(*name)));
            exclude(&mut options.opt_exclude, names.collect());
        }
        ControlFlow::Continue(())
    }
}

/// Adds names to those that `*` does not show.
fn exclude(excluded: &mut Option<ExcludeSelectItem>, names: Vec<ObjectName>) {
    let mut all = match excluded.take() {
        None => Vec::new(),
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
    };
    let added: Vec<_> = names.into_iter().filter(|name| !all.contains(name)).collect();
    all.extend(added);
    *excluded = Some(ExcludeSelectItem::Multiple(all));
}

/// The schema with the line of each record after it, which is carried.
pub fn with_line(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(carry::LINE, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

/// The schema with the columns of the position after it.
pub fn with_position(schema: &Schema) -> SchemaRef {
    let [file, line] = POSITION;
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    let position = [(file, DataType::Utf8), (line, DataType::Int64)];
    // An input that has a column of this name has its own.
    let added = position.into_iter().filter(|(name, _)| schema.field_with_name(name).is_err());
    fields.extend(added.map(|(name, data_type)| Arc::new(Field::new(name, data_type, false))));
    Arc::new(Schema::new(fields))
}
