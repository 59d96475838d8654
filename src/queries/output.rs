//! The output of a job, read back as it was written.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use arrow_schema::Schema;

use crate::config::Config;
use crate::decode;
use crate::decode::blocks::Blocks;
use crate::decode::csv::Csv;
use crate::decode::frame::{self, Framer, Framing};
use crate::decode::json::Json;
use crate::encode;
use crate::pipeline::flow::Flow;
use crate::pulse::Pulse;
use crate::record::columns::{Columns, Type};
use crate::sink::folder;
use crate::transform::Transform;
use crate::transform::command::Bounds;

/// Longest record of an output that is read back.
const RESULT_RECORD_MAX: usize = 64 << 20;

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
    if decode.needs_file() {
        let parts = if output.is_dir() { folder::list(output)? } else { vec![output.to_owned()] };
        return decode.chain(parts).context("the format is not read as files");
    }
    let file: frame::Reader<'_> = match File::open(output) {
        Ok(file) => Box::new(file),
        // Nothing was ever written to it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Box::new(std::io::empty()),
        Err(error) => return Err(error).context("read the output"),
    };
    Ok(Framer::bounded(file, framing, u64::MAX).into())
}

/// A flow that reads the output and passes its records on unchanged.
pub fn flow<'a>(
    config: &'a Config,
    decode: &'a decode::Format,
    framing: &'a Framing,
    pulse: &'a Pulse,
) -> Flow<'a> {
    Flow {
        decode,
        transform: &Transform::None {},
        query: None,
        encode: config.written.output.format,
        messages: None,
        taps: false,
        judge: None,
        framing,
        workers: config.workers,
        directory: &config.base,
        bounds: Bounds::Microbatch,
        pulse,
    }
}

/// The format in which what was written is read again.
pub fn read_back(format: encode::Format, schema: &Schema) -> Option<decode::Format> {
    let column = |field: &Arc<arrow_schema::Field>| {
        Some((field.name().clone(), Type::of(field.data_type())?))
    };
    let columns = || schema.fields().iter().map(column).collect::<Option<Vec<_>>>().map(Columns);
    Some(match format {
        encode::Format::Numbers {} => decode::Format::Numbers {},
        encode::Format::Lines {} => decode::Format::Lines {},
        encode::Format::Csv(encode::csv::Csv { header, delimiter }) => {
            let columns = columns()?;
            let blank_is_null = true;
            decode::Format::Csv(Csv { header, delimiter, columns, blank_is_null, ..Csv::default() })
        }
        encode::Format::Json {} => {
            decode::Format::Json(Json { columns: columns()?, ..Json::default() })
        }
        #[cfg(feature = "parquet")]
        encode::Format::Parquet(_) => {
            use crate::decode::parquet::Parquet;
            decode::Format::Parquet(Parquet { columns: columns()?, ..Parquet::default() })
        }
    })
}
