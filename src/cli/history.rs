//! `spoolmill history`: the microbatches of a job, the newest first.

use std::io::Write as _;

use clap::{Args, ValueEnum};
use globset::Glob;

use super::standard::{Output, quiet_if_reader_left};
use super::{JobFile, Misuse};
use crate::clock::now_ms;
use crate::ledger::{Cell, Entry, Outcome, Reader};
use crate::pulse::Pulse;
use crate::record::put_text;
use crate::status::shape::{json, line};
use crate::telemetry::escaped;
use crate::units::Span;

/// Microbatches that are shown unless more are asked for.
const SHOWN: u64 = 20;

#[derive(Debug, Args)]
pub struct History {
    #[command(flatten)]
    job: JobFile,
    /// Only of files whose name, relative to the drop folder, matches this glob
    #[arg(long, value_name = "GLOB")]
    file: Option<String>,
    /// Only microbatches committed within this time, such as 10m or 7d
    #[arg(long, value_name = "DURATION")]
    since: Option<Span>,
    /// Only what came to this
    #[arg(long, value_enum, value_name = "OUTCOME")]
    outcome: Option<Wanted>,
    /// Most entries to show; 0 shows all
    #[arg(short = 'n', long, default_value_t = SHOWN, value_name = "NUMBER")]
    limit: u64,
    /// One JSON object on each line
    #[arg(long)]
    json: bool,
    /// The answer to this query in SQLite's SQL; the table is `history`
    #[arg(long, value_name = "QUERY", conflicts_with_all = ["file", "since", "outcome", "limit"])]
    sql: Option<String>,
}

/// `--outcome`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    Processed,
    Quarantined,
    Skipped,
}

impl History {
    pub fn run(self) -> anyhow::Result<()> {
        let config = self.job.read()?;
        if let Some(query) = &self.sql {
            return answer(&Reader::open(&config.state)?, query, self.json);
        }
        let parsed = self.file.as_deref().map(Glob::new).transpose();
        let pattern = parsed.map_err(|_| Misuse("--file: expected a glob such as \"orders_*\""))?;
        let glob = pattern.map(|glob| glob.compile_matcher());
        let age_ms = self.since.map(|span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX));
        let since = age_ms.map_or(i64::MIN, |since| now_ms().saturating_sub(since));
        let fits = |entry: &Entry| {
            let outcome = entry.outcome();
            glob.as_ref().is_none_or(|glob| glob.is_match(&entry.name))
                && match self.outcome {
                    None => true,
                    Some(Wanted::Processed) => outcome == Outcome::Processed,
                    Some(Wanted::Quarantined) => outcome == Outcome::Quarantined,
                    Some(Wanted::Skipped) => outcome == Outcome::Skipped,
                }
        };
        let (mut out, mut left) =
            (std::io::BufWriter::new(Output::stdout(&Pulse::default())?), self.limit);
        let shown = Reader::open(&config.state)?.history(since, |entry| {
            if !fits(&entry) {
                return Ok(true);
            }
            let line = if self.json { format!("{}\n", json(&entry)) } else { line(&entry) };
            out.write_all(line.as_bytes())?;
            left = left.wrapping_sub(1);
            Ok(left != 0)
        });
        quiet_if_reader_left(shown.and_then(|()| Ok(out.flush()?)))
    }
}

/// The rows of a query: as objects, or with their values beside each other under the names of the
/// columns.
fn answer(look: &Reader, query: &str, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(Output::stdout(&Pulse::default())?);
    let mut began = false;
    let row = |cells: Vec<String>| cells.join("\t") + "\n";
    let cell = |value: &Cell| match value {
        Cell::Bytes(bytes) => escaped(bytes),
        Cell::Value(value) => value.to_string(),
    };
    let shown = look.query(query, |names, values| {
        let line = if json {
            format!("{}\n", object(names, values))
        } else {
            let titles = row(names.iter().map(|name| escaped(name.as_bytes())).collect());
            let head = if began { String::new() } else { titles };
            head + &row(values.iter().map(cell).collect())
        };
        began = true;
        Ok(out.write_all(line.as_bytes())?)
    });
    quiet_if_reader_left(shown.and_then(|()| Ok(out.flush()?)))
}

/// A row as an object. A column whose name has been had gets a number.
fn object(names: &[String], values: Vec<Cell>) -> serde_json::Value {
    let mut object = serde_json::json!({});
    for (name, value) in names.iter().zip(values) {
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let free = |name: &String| object.get(name).is_none();
        let name = std::iter::once(name.clone()).chain(numbered).find(free).unwrap_or_default();
        match (value, object.as_object_mut()) {
            (Cell::Value(value), Some(object)) => drop(object.insert(name, value)),
            (Cell::Bytes(bytes), _) => put_text(&mut object, &name, &bytes),
            (Cell::Value(_), None) => {}
        }
    }
    object
}
