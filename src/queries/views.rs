//! The continuous views of a job, planned.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, SchemaRef};

use crate::config::file::{self, Mode};
use crate::config::{Config, Problem};
use crate::durable;
use crate::engine::{Asked, Engine, Entry, Problem as Failed, View};
use crate::failure::Failure;
use crate::pipeline::views::{Definition, Deltas};

/// Plans the views of a job, whose output has these columns if they are known.
pub fn plan(
    engine: &Arc<Engine>,
    config: &Config,
    output: Option<&SchemaRef>,
) -> Result<Vec<Definition>, Problem> {
    let mut all: Vec<Definition> = Vec::new();
    for written in &config.written.view {
        let definition = plan_one(engine, config, written, output)?;
        if all.iter().any(|other| other.name == definition.name) {
            let message = format!("found `{}` twice, expected a name for each view", written.name);
            return Err(Problem::new("view.name", message));
        }
        let path = &definition.path;
        if all.iter().any(|other| other.path == *path) || is_taken(config, path) {
            let place = definition.path.display();
            let message = format!("found \"{place}\", which something else is written to");
            return Err(Problem::new("view.path", message));
        }
        all.push(definition);
    }
    Ok(all)
}

fn is_taken(config: &Config, path: &std::path::Path) -> bool {
    let mut finals = config.written.finals.iter();
    config.output.as_deref() == Some(path)
        || config.rejects.as_deref() == Some(path)
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
        Mode::Append => {
            let message = "found \"append\", which needs windows of event time; this version has \
                           \"update\" and \"complete\"";
            return Err(Problem::new("view.mode", message));
        }
    };
    let view = View::new(engine, &written.query, output, asked, written.allow_unbounded_state);
    let view = view.map_err(|error| Problem::new("view.query", format!("`{name}`: {error}")))?;
    let encode = written.format.unwrap_or(config.written.output.format);
    if let Some(reason) = encode.refuses(&view.schema()) {
        return Err(Problem::new("view.format", reason));
    }
    if encode.is_columnar() && asked == Asked::Changed {
        let message = "found parquet, which cannot be appended to: use csv or json, or mode = \
                       \"complete\"";
        return Err(Problem::new("view.format", message));
    }
    let every = (asked == Asked::All).then_some(written.every.0);
    let (name, path) = (name.clone(), config.absolute(&written.path));
    Ok(Definition { name, view: Arc::new(view), path, encode, every })
}

/// The results over everything at once, for a batch: each takes the place of what was there.
pub fn finish(definitions: &[Definition], all: Vec<Deltas>) -> anyhow::Result<()> {
    let mut kept: Vec<HashMap<Vec<u8>, Vec<u8>>> = vec![HashMap::new(); definitions.len()];
    for deltas in all {
        for ((definition, delta), kept) in definitions.iter().zip(deltas).zip(&mut kept) {
            let states =
                definition.view.merge(&delta, |key| Ok::<_, Failed>(kept.get(key).cloned()))?;
            kept.extend(states.entries()?.into_iter().map(|entry| (entry.key, entry.value)));
        }
    }
    for (definition, kept) in definitions.iter().zip(kept) {
        let mut entries: Vec<_> =
            kept.into_iter().map(|(key, value)| Entry { key, value }).collect();
        entries.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        durable::create_dir_all(definition.path.parent().unwrap_or(std::path::Path::new("/")))?;
        definition.replace(entries).map_err(Failure::into_error)?;
    }
    Ok(())
}
