//! The continuous views of a job, planned.

use std::sync::Arc;

use arrow_schema::{DataType, SchemaRef};

use crate::config::file::{self, Begin, Mode};
use crate::config::{Config, Problem};
use crate::engine::{self, Asked, Engine, View};
use crate::failure::Failure;
use crate::pipeline::views::{Clock, Definition, Deltas};
use crate::record::columns::type_name;

/// Plans the views of a job, whose output has these columns if they are known.
pub fn plan(
    engine: &Arc<Engine>,
    config: &Config,
    output: Option<&SchemaRef>,
) -> Result<Vec<Definition>, Problem> {
    let mut all: Vec<Definition> = Vec::new();
    for (place, written) in config.written.view.iter().enumerate() {
        let definition =
            plan_one(engine, config, written, output).map_err(|problem| problem.at(place))?;
        if all.iter().any(|other| other.name == definition.name) {
            let message = format!("found `{}` twice, expected a name for each view", written.name);
            return Err(Problem::new("view.name", message).at(place));
        }
        let path = &definition.path;
        if all.iter().any(|other| other.path == *path) || is_taken(config, path) {
            let path = definition.path.display();
            let message = format!("found \"{path}\", which something else is written to");
            return Err(Problem::new("view.path", message).at(place));
        }
        all.push(definition);
    }
    Ok(all)
}

fn is_taken(config: &Config, path: &std::path::Path) -> bool {
    let mut finals = config.written.finals.iter();
    config.output_path() == Some(path)
        || config.rejects.as_deref() == Some(path)
        || config.late().as_deref() == Some(path)
        || finals.any(|made| config.absolute(&made.path) == path)
}

fn plan_one(
    engine: &Arc<Engine>,
    config: &Config,
    written: &file::View,
    output: Option<&SchemaRef>,
) -> Result<Definition, Problem> {
    let name = &written.name;
    let output = output.ok_or_else(|| {
        Problem::new(
            "view",
            format!("`{name}` needs the columns of the output, and they are not known"),
        )
    })?;
    if output.fields().iter().any(|field| *field.data_type() == DataType::Binary) {
        let message =
            format!("`{name}` needs typed columns, and lines are bytes: make them with SQL");
        return Err(Problem::new("view", message));
    }
    let asked = match written.mode {
        Mode::Complete => Asked::All,
        Mode::Update => Asked::Changed,
        Mode::Append => Asked::Closed,
    };
    let event_time = config.written.event_time.as_ref();
    let definition = engine::Definition {
        sql: &written.query,
        schema: output,
        asked,
        event_time: event_time.map(|event_time| event_time.column.as_str()),
        allow_unbounded: written.allow_unbounded_state,
    };
    let planned = View::new(engine, definition);
    let tried = planned.and_then(|view| view.try_out(output).map(|()| view));
    let view = tried.map_err(|error| Problem::new("view.query", format!("`{name}`: {error}")))?;
    let encode = written.format.unwrap_or(config.written.output.format);
    if let Some(reason) = encode.refuses(&view.schema()) {
        return Err(Problem::new("view.format", reason));
    }
    if encode.is_columnar() && asked != Asked::All {
        let message = "found parquet, which cannot be appended to: use csv or json, or mode = \
                       \"complete\"";
        return Err(Problem::new("view.format", message));
    }
    let name = name.clone();
    let path = config.absolute(&written.path);
    let every = written.every.0;
    let begins_now = written.begin == Some(Begin::Now);
    Ok(Definition { name, view: Arc::new(view), asked, path, encode, every, begins_now })
}

/// The event time of a job, whose output has these columns if they are known.
pub fn clock(config: &Config, output: Option<&SchemaRef>) -> Result<Option<Clock>, Problem> {
    let Some(event_time) = &config.written.event_time else { return Ok(None) };
    let Some(output) = output else {
        let message = "needs the columns of the output, and they are not known";
        return Err(Problem::new("event_time", message));
    };
    let name = &event_time.column;
    let Some((column, field)) = output.column_with_name(name) else {
        let names: Vec<_> = output.fields().iter().map(|field| field.name().as_str()).collect();
        let message =
            format!("found \"{name}\", expected a column of the output: {}", names.join(", "));
        return Err(Problem::new("event_time.column", message));
    };
    if !matches!(field.data_type(), DataType::Timestamp(_, _) | DataType::Date32) {
        let kind = type_name(field.data_type());
        let message = format!("found `{name}`, a {kind}, expected a timestamp or a date");
        return Err(Problem::new("event_time.column", message));
    }
    Ok(Some(Clock { event_time: event_time.clone(), column }))
}

/// The results over everything at once, for a batch: each takes the place of what was there.
/// Returns how many groups are left out.
pub fn finish(definitions: &[Definition], deltas: &Deltas) -> anyhow::Result<u64> {
    let mut all = 0;
    for (definition, delta) in definitions.iter().zip(deltas) {
        let mut kept = definition.view.memory();
        definition.view.merge(delta, None, &mut kept)?;
        kept.count()?;
        let entries = match definition.asked {
            // In the order in which windows are closed.
            Asked::Closed => definition.view.close(None, &mut kept)?,
            Asked::Changed | Asked::All => definition.view.all(&kept)?,
        };
        let (result, left_out) = definition.result(entries).map_err(Failure::into_error)?;
        definition.replace(&result).map_err(Failure::into_error)?;
        for one in &left_out {
            definition.log(one);
        }
        all += left_out.len() as u64;
    }
    Ok(all)
}
