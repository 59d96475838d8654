//! Final queries over the whole output, when the job ends.
//!
//! Invariants: the output is read back as it was written, and the result takes the place of the
//! one before as a whole, or not at all.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::output;
use crate::config::{Config, Problem, file};
use crate::decode;
use crate::durable;
use crate::encode;
use crate::encode::envelope::Envelope;
use crate::engine::{Engine, Query};
use crate::failure::Failure;
use crate::pipeline::flow::{Delivery, Flow, Origin};
use crate::pulse::Pulse;
use crate::record::{Reject, numbers_schema, text_schema};
use crate::sink::replaced::Replaced;
use crate::transform::command::About;

/// A query over the whole output.
pub struct Final {
    /// The query; its table is `output`.
    pub query: Query,
    /// Where the result goes.
    pub path: PathBuf,
    encode: encode::Format,
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
            (encode::Format::Numbers {}, _) => numbers_schema(),
            (encode::Format::Lines {}, _) => text_schema(),
            (_, Some(output)) => output.clone(),
            (_, None) => {
                let message = "needs the columns of the output, and they are not known: name those \
                               of a Parquet input (`spoolmill check --infer SAMPLE` prints them); \
                               a command can write `lines`";
                return Err(Problem::new("final", message));
            }
        };
        let decode = output::read_back(format, &schema).ok_or_else(|| {
            Problem::new("final", "the output has a column that cannot be read back")
        })?;
        let schema = decode.schema().filter(|_| format.is_columnar()).unwrap_or(schema);
        let planned = Query::new(engine, &written.query, "output", Some(&schema));
        let tried = planned.and_then(|query| query.try_out().map(|()| query));
        let query = tried.map_err(|error| Problem::new("final.query", error.to_string()))?;
        let encode = written.format.unwrap_or(format);
        if let Some(reason) = query.schema().and_then(|made| encode.refuses(&made)) {
            return Err(Problem::new("final.format", reason));
        }
        let path = config.absolute(&written.path);
        Ok(Self { query, path, encode, decode })
    }

    /// Makes the result of the output at `output`, replacing what was there.
    pub fn make(&self, config: &Config, output: &Path, pulse: &Pulse) -> anyhow::Result<()> {
        let framing = output::framing(config, &self.decode);
        let plain = output::flow(config, &self.decode, &framing, pulse);
        let flow = Flow { query: Some(&self.query), encode: self.encode, ..plain };
        durable::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))?;
        let mut made =
            Made { file: Replaced::new(&self.path)?, envelope: Envelope::new(self.encode) };
        let name = output.to_string_lossy();
        let origin =
            Origin { file: &name, now_ms: crate::clock::now_ms(), about: About::nothing() };
        let output = output::written(&self.decode, output, &framing)?;
        let passed = flow.run(output, origin, &mut made).map_err(Failure::into_error)?;
        anyhow::ensure!(
            passed.counts.rejected == 0,
            "{} of the records in {name} cannot be read back; the old result stays",
            passed.counts.rejected
        );
        let end = made.envelope.end().map_err(Failure::Bad);
        end.and_then(|end| made.records(&end)).map_err(Failure::into_error)?;
        made.file.finish()
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
}
