//! The queries of a job: its transform, the tables that it joins with, and what it makes of the
//! whole output when it ends.
//!
//! What holds here: every query is planned before the first file is taken, so that one that cannot
//! be planned is a configuration error. A reference table changes between two groups of
//! microbatches, as a whole or not at all.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};

use crate::config::{Config, Error, Problem, file};
use crate::decode::blocks::Blocks;
use crate::decode::compression::Compression;
use crate::decode::csv::Csv;
use crate::decode::frame::{self, Framer, Framing};
use crate::decode::json::Json;
use crate::decode::parquet::Parquet;
use crate::decode::{self, infer};
use crate::durable;
use crate::engine::{self, Engine, Query};
use crate::failure::Failure;
use crate::pipeline::flow::{Counts, Delivery, Flow, Origin};
use crate::publish::parts;
use crate::record::Reject;
use crate::record::columns::{Columns, Type};
use crate::record::text_schema;
use crate::sink;
use crate::sink::envelope::Envelope;
use crate::sink::replaced::Replaced;
use crate::telemetry::Pulse;
use crate::transform::Transform;
use crate::transform::command::Bounds;

/// Longest record of an output that a final query reads back.
const RESULT_RECORD_MAX: usize = 64 << 20;

/// The queries of one job, planned.
pub struct Queries {
    engine: Option<Arc<Engine>>,
    transform: Option<Query>,
    tables: Vec<Reference>,
    finals: Vec<Final>,
    output: Option<SchemaRef>,
}

/// A reference table, and the file as it was when it was read.
struct Reference {
    table: file::Table,
    path: PathBuf,
    stamp: Option<Stamp>,
}

/// What tells one version of a table's file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// A query over the whole output.
struct Final {
    query: Query,
    path: PathBuf,
    encode: sink::Format,
    /// How the output is read back.
    decode: decode::Format,
}

impl Queries {
    /// Plans the queries of a job, which spill to `spill` what does not fit in memory.
    pub fn open(config: &Config, spill: &Path) -> Result<Self, Error> {
        Self::plan(config, spill).map_err(|problem| config.problem(&problem))
    }

    fn plan(config: &Config, spill: &Path) -> Result<Self, Problem> {
        let written = &config.written;
        let input = match written.input.format {
            decode::Format::Lines {} => Some(text_schema()),
            ref format => format.schema(),
        };
        let mut queries = Self {
            engine: None,
            transform: None,
            tables: Vec::new(),
            finals: Vec::new(),
            output: None,
        };
        let sql = match &written.transform {
            Transform::Sql(sql) => Some(sql),
            _ => None,
        };
        if sql.is_some() || !written.finals.is_empty() {
            let memory = written.engine.memory.0;
            let engine = Engine::new(memory, spill);
            let engine = engine.map_err(|error| Problem::new("engine", error.to_string()))?;
            queries.engine = Some(engine.clone());
            queries.load_tables(config, &engine)?;
        }
        queries.output = match (&written.transform, sql, &queries.engine) {
            (_, Some(sql), Some(engine)) => {
                let query = Query::new(engine, &sql.query, "input", input.as_deref());
                let query = query
                    .map_err(|error| Problem::new("transform.sql.query", error.to_string()))?;
                let output = query.schema();
                queries.transform = Some(query);
                output
            }
            (Transform::Command(_), ..) => None,
            _ => written.input.format.schema(),
        };
        if let Some(output) = &queries.output
            && let Some(reason) = written.output.format.refuses(output)
        {
            return Err(Problem::new("output.format", reason));
        }
        let output = queries.output.clone().or(input);
        queries.plan_finals(config, output.as_ref())?;
        Ok(queries)
    }

    fn load_tables(&mut self, config: &Config, engine: &Engine) -> Result<(), Problem> {
        for table in &config.written.table {
            let path = config.absolute(&table.path);
            let found = |error: anyhow::Error| {
                let (name, path) = (&table.name, path.display());
                Problem::new("table", format!("`{name}` from {path}: {error:#}"))
            };
            if ["input", "output"].contains(&table.name.as_str()) {
                let message = format!("found `{}`, which is the job's own table", table.name);
                return Err(Problem::new("table.name", message));
            }
            let stamp = stamp(&path);
            let (schema, records) = read_table(table, &path).map_err(found)?;
            engine.set_table(&table.name, schema, records);
            self.tables.push(Reference { table: table.clone(), path, stamp });
        }
        Ok(())
    }

    fn plan_finals(&mut self, config: &Config, output: Option<&SchemaRef>) -> Result<(), Problem> {
        let Some(engine) = &self.engine else { return Ok(()) };
        for written in &config.written.finals {
            let message = "needs the columns of the output: name those of the input with \
                           `[input.format.parquet.columns]` (`spoolmill check --infer SAMPLE` \
                           prints them)";
            let output = output.ok_or_else(|| Problem::new("final", message))?;
            let format = config.written.output.format;
            let decode = read_back(format, output).ok_or_else(|| {
                Problem::new("final", "the output has a column that cannot be read back")
            })?;
            let schema = match decode {
                decode::Format::Lines {} => text_schema(),
                ref format => format.schema().unwrap_or_else(|| output.clone()),
            };
            let query = Query::new(engine, &written.query, "output", Some(&schema));
            let query = query.map_err(|error| Problem::new("final.query", error.to_string()))?;
            let encode = written.format.unwrap_or(format);
            if let Some(reason) = query.schema().and_then(|made| encode.refuses(&made)) {
                return Err(Problem::new("final.format", reason));
            }
            let path = config.absolute(&written.path);
            self.finals.push(Final { query, path, encode, decode });
        }
        Ok(())
    }

    /// The query that is the transform, if it is one.
    pub fn transform(&self) -> Option<&Query> {
        self.transform.as_ref()
    }

    /// The operator that must see the end of the input before it gives a record, if there is one.
    pub fn blocking(&self) -> Option<String> {
        self.transform.as_ref().and_then(Query::blocking)
    }

    /// True when a run of the query may take all the memory that there is.
    pub fn is_greedy(&self) -> bool {
        self.transform.as_ref().is_some_and(|query| !query.is_row_wise())
    }

    /// The columns of the output, where they are known before the first input.
    pub fn output(&self) -> Option<SchemaRef> {
        self.output.clone()
    }

    /// True when there is something to be made of the whole output.
    pub fn has_finals(&self) -> bool {
        !self.finals.is_empty()
    }

    /// Reads the reference tables again whose files have changed. A version that cannot be used
    /// leaves the old one in place.
    pub fn refresh(&mut self) {
        let Some(engine) = &self.engine else { return };
        let plan_again = || -> Result<(), engine::Problem> {
            let finals = self.finals.iter().map(|made| &made.query);
            self.transform.iter().chain(finals).try_for_each(Query::plan_again)
        };
        for reference in &mut self.tables {
            let now = stamp(&reference.path);
            if now == reference.stamp || now.is_none() {
                continue;
            }
            let name = reference.table.name.as_str();
            let read = read_table(&reference.table, &reference.path);
            if stamp(&reference.path) != now {
                // It was written to while it was read; the next look will tell.
                continue;
            }
            reference.stamp = now;
            let used = read.and_then(|(schema, records)| {
                let rows: usize = records.iter().map(RecordBatch::num_rows).sum();
                let old = engine.set_table(name, schema, records);
                if let Err(error) = plan_again() {
                    engine.restore_table(name, old);
                    // What was planned with the new one is planned with the old one again.
                    plan_again()?;
                    return Err(error.into());
                }
                Ok(rows)
            });
            match used {
                Ok(rows) => tracing::info!(table = name, rows, "was read again"),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(table = name, error, "cannot be used; the old one stays");
                }
            }
        }
    }

    /// Makes the final results of the output at `path`, each in place of what was there.
    pub fn finish(&self, config: &Config, path: &Path, pulse: &Pulse) -> anyhow::Result<()> {
        for made in &self.finals {
            let place = made.path.display();
            made.make(config, path, pulse).with_context(|| format!("make {place}"))?;
            tracing::info!(path = %place, "final result written");
        }
        Ok(())
    }
}

impl Final {
    fn make(&self, config: &Config, output: &Path, pulse: &Pulse) -> anyhow::Result<()> {
        let framing = Framing {
            end_marker: None,
            // What the job wrote may be longer than what it read.
            max_record: config.framing.max_record.max(RESULT_RECORD_MAX),
            dialect: self.decode.dialect(),
            skip_byte_order_mark: false,
            ..config.framing.clone()
        };
        let flow = Flow {
            decode: &self.decode,
            transform: &Transform::None {},
            query: Some(&self.query),
            encode: self.encode,
            framing: &framing,
            workers: config.workers,
            directory: &config.base,
            bounds: Bounds::Microbatch,
            pulse,
        };
        durable::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))?;
        let mut made =
            Made { file: Replaced::new(&self.path)?, envelope: Envelope::new(self.encode) };
        let name = output.to_string_lossy();
        let origin = Origin { file: &name, now_ms: crate::ledger::now_ms() };
        let output = self.written(output, &framing)?;
        let counts = flow.run(output, origin, &mut made).map_err(Failure::into_error)?;
        anyhow::ensure!(
            counts.rejected == 0,
            "{} of the records in {name} cannot be read back; the old result stays",
            counts.rejected
        );
        let end = made.envelope.end().map_err(Failure::Bad);
        end.and_then(|end| made.records(&end)).map_err(Failure::into_error)?;
        made.file.finish()
    }

    /// All that the job has written.
    fn written<'a>(&self, output: &Path, framing: &'a Framing) -> anyhow::Result<Blocks<'a>> {
        if let decode::Format::Parquet(parquet) = &self.decode {
            let parts =
                if output.is_dir() { parts::list(output)? } else { vec![output.to_owned()] };
            return Ok(Blocks::Decoded(parquet.chain(parts)));
        }
        let file: frame::Reader<'_> = match File::open(output) {
            Ok(file) => Box::new(file),
            // Nothing was ever written to it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Box::new(std::io::empty())
            }
            Err(error) => return Err(error).context("read the output"),
        };
        Ok(Framer::bounded(file, framing, u64::MAX).into())
    }
}

/// The delivery of a final result.
struct Made {
    file: Replaced,
    envelope: Envelope,
}

impl Delivery for Made {
    fn begin(&mut self, schema: &SchemaRef) -> Result<(), Failure> {
        let header = self.envelope.begin(schema).map_err(Failure::Bad)?;
        self.records(&header)
    }

    fn batch(&mut self, records: RecordBatch) -> Result<(), Failure> {
        let bytes = self.envelope.encode(&records).map_err(Failure::Bad)?;
        self.records(&bytes)
    }

    fn records(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(bytes);
        written.context("write the final result").map_err(Failure::Transient)
    }

    fn reject(&mut self, reject: &Reject) -> Result<(), Failure> {
        tracing::debug!(line = reject.line, reason = %reject.reason, "no record of the output");
        Ok(())
    }

    fn pause(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn counted(&mut self, _counts: &Counts) {}
}

/// The format in which what was written is read again.
fn read_back(format: sink::Format, schema: &Schema) -> Option<decode::Format> {
    let column = |field: &Arc<arrow_schema::Field>| {
        Some((field.name().clone(), Type::of(field.data_type())?))
    };
    let columns = || schema.fields().iter().map(column).collect::<Option<Vec<_>>>().map(Columns);
    Some(match format {
        sink::Format::Numbers {} => decode::Format::Numbers {},
        sink::Format::Lines {} => decode::Format::Lines {},
        sink::Format::Csv(sink::csv::Csv { header, delimiter }) => {
            let columns = columns()?;
            decode::Format::Csv(Csv { header, delimiter, columns, ..Csv::default() })
        }
        sink::Format::Json {} => {
            decode::Format::Json(Json { columns: columns()?, ..Json::default() })
        }
        sink::Format::Parquet(_) => {
            decode::Format::Parquet(Parquet { columns: columns()?, ..Parquet::default() })
        }
    })
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = path.metadata().ok()?;
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    Some(Stamp { inode: metadata.ino(), size: metadata.len(), modified })
}

/// All records of a table. A bad one makes the table a bad one.
fn read_table(table: &file::Table, path: &Path) -> anyhow::Result<(SchemaRef, Vec<RecordBatch>)> {
    let format = match &table.format {
        Some(format) => format.clone(),
        None => infer::infer(path)?.into_format(),
    };
    let framing = Framing::whole(format.dialect());
    let file = File::open(path).context("open it")?;
    let blocks = if let Some(blocks) = format.open(&file, file.metadata()?.len())? {
        blocks
    } else {
        let reader = Compression::of(path.as_os_str().as_encoded_bytes()).decompress(file)?;
        Framer::bounded(reader, &framing, u64::MAX).into()
    };
    let schema = blocks.schema().cloned().or_else(|| format.schema()).context("has no columns")?;
    let flow = Flow {
        decode: &format,
        transform: &Transform::None {},
        query: None,
        encode: sink::Format::default(),
        framing: &framing,
        workers: 1,
        directory: Path::new("/"),
        bounds: Bounds::Microbatch,
        pulse: &Pulse::default(),
    };
    let mut content = Content { records: Vec::new() };
    flow.read(blocks, &mut content).map_err(Failure::into_error)?;
    Ok((schema, content.records))
}

/// The delivery of a reference table.
struct Content {
    records: Vec<RecordBatch>,
}

impl Delivery for Content {
    fn records(&mut self, _bytes: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn batch(&mut self, records: RecordBatch) -> Result<(), Failure> {
        self.records.push(records);
        Ok(())
    }

    fn reject(&mut self, reject: &Reject) -> Result<(), Failure> {
        let line = reject.line.unwrap_or_default();
        Err(Failure::Bad(format!("line {line}: {}", reject.reason)))
    }

    fn pause(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn counted(&mut self, _counts: &Counts) {}
}
