//! What a job makes of its whole output when it ends.
//!
//! What holds here: the output is read back as it was written, and the result takes the place of the
//! one before as a whole, or not at all.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};

use crate::config::{Config, Problem, file};
use crate::decode;
use crate::decode::blocks::Blocks;
use crate::decode::csv::Csv;
use crate::decode::frame::{self, Framer, Framing};
use crate::decode::json::Json;
use crate::decode::parquet::Parquet;
use crate::durable;
use crate::engine::{Engine, Query};
use crate::failure::Failure;
use crate::pipeline::flow::{Delivery, Flow, Origin};
use crate::publish::parts;
use crate::record::columns::{Columns, Type};
use crate::record::{Reject, numbers_schema, text_schema};
use crate::sink;
use crate::sink::envelope::Envelope;
use crate::sink::replaced::Replaced;
use crate::telemetry::Pulse;
use crate::transform::Transform;
use crate::transform::command::Bounds;

/// Longest record of an output that a final query reads back.
const RESULT_RECORD_MAX: usize = 64 << 20;

/// A query over the whole output.
pub struct Final {
    /// The query; its table is `output`.
    pub query: Query,
    /// Where the result goes.
    pub path: PathBuf,
    encode: sink::Format,
    /// How the output is read back.
    decode: decode::Format,
}

impl Final {
    /// Plans a query over the output of a job, whose columns are these if they are known.
    pub fn plan(
        engine: &Arc<Engine>,
        config: &Config,
        written: &file::Final,
        output: Option<&SchemaRef>,
    ) -> Result<Self, Problem> {
        let format = config.written.output.format;
        let schema = match (format, output) {
            (sink::Format::Numbers {}, _) => numbers_schema(),
            (sink::Format::Lines {}, _) => text_schema(),
            (_, Some(output)) => output.clone(),
            (_, None) => {
                let message = "needs the columns of the output, and they are not known: name those \
                               of a Parquet input (`spoolmill check --infer SAMPLE` prints them); \
                               a command can write `lines`";
                return Err(Problem::new("final", message));
            }
        };
        let decode = read_back(format, &schema).ok_or_else(|| {
            Problem::new("final", "the output has a column that cannot be read back")
        })?;
        let schema = decode.schema().filter(|_| format.is_columnar()).unwrap_or(schema);
        let query = Query::new(engine, &written.query, "output", Some(&schema));
        let query = query.map_err(|error| Problem::new("final.query", error.to_string()))?;
        let encode = written.format.unwrap_or(format);
        if let Some(reason) = query.schema().and_then(|made| encode.refuses(&made)) {
            return Err(Problem::new("final.format", reason));
        }
        let path = config.absolute(&written.path);
        Ok(Self { query, path, encode, decode })
    }

    /// Makes the result of the output at `output`, in place of what was there.
    pub fn make(&self, config: &Config, output: &Path, pulse: &Pulse) -> anyhow::Result<()> {
        let framing = framing(config, &self.decode);
        let flow = Flow {
            decode: &self.decode,
            transform: &Transform::None {},
            query: Some(&self.query),
            encode: self.encode,
            taps: false,
            judge: None,
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
        let output = written(&self.decode, output, &framing)?;
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
}

/// How the output of a job is framed.
pub fn framing(config: &Config, decode: &decode::Format) -> Framing {
    Framing {
        end_marker: None,
        // What the job wrote may be longer than what it read.
        max_record: config.framing.max_record.max(RESULT_RECORD_MAX),
        dialect: decode.dialect(),
        skip_byte_order_mark: false,
        ..config.framing.clone()
    }
}

/// All that the job has written.
pub fn written<'a>(
    decode: &decode::Format,
    output: &Path,
    framing: &'a Framing,
) -> anyhow::Result<Blocks<'a>> {
    if let decode::Format::Parquet(parquet) = decode {
        let parts = if output.is_dir() { parts::list(output)? } else { vec![output.to_owned()] };
        return Ok(Blocks::Decoded(parquet.chain(parts)));
    }
    let file: frame::Reader<'_> = match File::open(output) {
        Ok(file) => Box::new(file),
        // Nothing was ever written to it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Box::new(std::io::empty()),
        Err(error) => return Err(error).context("read the output"),
    };
    Ok(Framer::bounded(file, framing, u64::MAX).into())
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
}

/// The format in which what was written is read again.
pub fn read_back(format: sink::Format, schema: &Schema) -> Option<decode::Format> {
    let column = |field: &Arc<arrow_schema::Field>| {
        Some((field.name().clone(), Type::of(field.data_type())?))
    };
    let columns = || schema.fields().iter().map(column).collect::<Option<Vec<_>>>().map(Columns);
    Some(match format {
        sink::Format::Numbers {} => decode::Format::Numbers {},
        sink::Format::Lines {} => decode::Format::Lines {},
        sink::Format::Csv(sink::csv::Csv { header, delimiter }) => {
            let columns = columns()?;
            let line_breaks = usize::MAX;
            decode::Format::Csv(Csv { header, delimiter, columns, line_breaks, ..Csv::default() })
        }
        sink::Format::Json {} => {
            decode::Format::Json(Json { columns: columns()?, ..Json::default() })
        }
        sink::Format::Parquet(_) => {
            decode::Format::Parquet(Parquet { columns: columns()?, ..Parquet::default() })
        }
    })
}
