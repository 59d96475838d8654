//! Which formats and transforms go together, and which this build has.

use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};

use super::{Config, Problem, file};
use crate::transform::Transform;

/// Why an output that begins with its columns cannot begin.
pub const NEEDS_COLUMNS: &str = "csv needs the columns of the input: name them (`spoolmill check --infer \
                                 SAMPLE` prints them)";

/// The hint for a word that is unknown only because this build lacks a feature.
pub fn hint(message: &str) -> &'static str {
    let is_about =
        |words: &[&str]| words.iter().any(|word| message.contains(&format!("`{word}`, expected")));
    if !cfg!(feature = "parquet") && is_about(&["parquet"]) {
        return "; this one needs a build with `--features parquet`";
    }
    ""
}

impl Config {
    /// The columns of the output, where they are those of the input and known before the first one.
    pub fn output_columns(&self) -> Option<SchemaRef> {
        match &self.written.transform {
            Transform::None {} | Transform::Scale(_) => self.written.input.format.schema(),
            // Those of a command are its own affair, and the engine knows what a query gives.
            Transform::Command(_) | Transform::Sql(_) => None,
        }
    }
}

/// Refuses the keys that need an engine, where this build has none.
fn check_features(written: &file::File) -> Result<(), Problem> {
    let file::File { event_time, table, view, finals, transform, kafka, .. } = written;
    let used = [
        ("transform.sql", matches!(transform, Transform::Sql(_))),
        ("event_time", event_time.is_some()),
        ("table", !table.is_empty()),
        ("view", !view.is_empty()),
        ("final", !finals.is_empty()),
    ];
    if let Some((key, _)) = used.iter().find(|(_, is_used)| *is_used && !cfg!(feature = "sql")) {
        return Err(Problem::new(key, "needs a build with `--features sql`"));
    }
    if kafka.is_some() && !cfg!(feature = "kafka") {
        return Err(Problem::new("kafka", "needs a build with `--features kafka`"));
    }
    Ok(())
}

/// Checks that the output of each stage fits the next.
pub fn check(written: &file::File) -> Result<(), Problem> {
    check_features(written)?;
    if let Some((key, message)) = written.input.format.check() {
        return Err(Problem::new(key, message));
    }
    let schema = written.input.format.schema();
    if schema.is_none() && !written.input.format.needs_file() {
        let message = "has no columns: `spoolmill check --infer SAMPLE` prints them";
        return Err(Problem::new("input.format", message));
    }
    if let Transform::Scale(scale) = &written.transform
        && !(scale.below.is_finite() && scale.by.is_finite())
    {
        return Err(Problem::new("transform.scale", "expected finite numbers"));
    }
    if written.input.format.needs_file()
        && (written.input.end_marker.is_some()
            || matches!(
                written.input.complete,
                Some(file::Complete::Lines(_) | file::Complete::Trailer(_))
            ))
    {
        let message = "`end_marker`, `complete.lines` and `complete.trailer` are for lines, and parquet \
                       has none";
        return Err(Problem::new("input.format", message));
    }
    // Without columns, as before the first file of a format that brings them.
    let or_none = schema.unwrap_or_else(|| Arc::new(Schema::empty()));
    if let Some(reason) = written.transform.refuses(&or_none) {
        return Err(Problem::new("transform", reason));
    }
    if let Transform::Command(command) = &written.transform {
        if command.argv.is_empty() {
            let message = "found an empty list, expected a program and its arguments";
            return Err(Problem::new("transform.command.argv", message));
        }
        if command.timeout.0.is_zero() || command.idle_timeout.0.is_zero() {
            let message = "found a time of 0, expected a longer `timeout` and `idle_timeout`";
            return Err(Problem::new("transform.command", message));
        }
        if command.attempts == 0 {
            return Err(Problem::new("transform.command.attempts", "found 0, expected 1 or more"));
        }
        if written.output.format.is_columnar() {
            let message = "found parquet, expected a format of text: a command writes lines";
            return Err(Problem::new("output.format", message));
        }
        return Ok(());
    }
    // The engine knows what a query gives.
    if matches!(written.transform, Transform::Sql(_)) {
        return Ok(());
    }
    if or_none.fields().is_empty() && written.output.format.has_columns() {
        return Err(Problem::new("output.format", NEEDS_COLUMNS));
    }
    let refused = written.output.format.refuses(&or_none).filter(|_| !or_none.fields().is_empty());
    refused.map_or(Ok(()), |reason| Err(Problem::new("output.format", reason)))
}
