//! Records to a Parquet file, whose index is written at its end.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema, SchemaRef};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

/// Bytes that a group of rows may take in memory before it is written.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Rows in a group at most: the default of most writers.
const ROW_GROUP_RECORDS: usize = 1 << 20;

/// `[output.format.parquet]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parquet {
    /// How its pages are compressed.
    pub compression: Pages,
}

/// `compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pages {
    /// RFC 8878; smaller than the others.
    #[default]
    Zstd,
    /// What the oldest readers know.
    Snappy,
    /// As they are.
    None,
}

/// A file being written.
#[derive(Debug)]
pub struct Encoder {
    schema: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
}

impl Parquet {
    /// Why records of this schema cannot be written, if so.
    pub fn refuses(self, schema: &Schema) -> Option<String> {
        if schema.fields().is_empty() {
            return Some("there are no columns, and parquet needs one".to_owned());
        }
        let converted = ArrowSchemaConverter::new().convert(schema);
        converted.err().map(|error| format!("parquet cannot hold it: {error}"))
    }

    /// Begins a file of this schema.
    pub fn encoder(self, schema: &Schema) -> Result<Encoder, String> {
        // Every column may hold NULL: the next file of the same job has the same columns then.
        let field = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
        let fields: Vec<_> = schema.fields().iter().map(field).collect();
        let schema = Arc::new(Schema::new(fields));
        let compression = match self.compression {
            Pages::Zstd => Compression::ZSTD(ZstdLevel::default()),
            Pages::Snappy => Compression::SNAPPY,
            Pages::None => Compression::UNCOMPRESSED,
        };
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_created_by(concat!("spoolmill ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_max_row_group_row_count(Some(ROW_GROUP_RECORDS))
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties));
        Ok(Encoder { schema, writer: writer.map_err(said)? })
    }
}

impl Encoder {
    /// Takes records; returns the bytes that are finished by now.
    pub fn encode(&mut self, records: &RecordBatch) -> Result<Vec<u8>, String> {
        let options = RecordBatchOptions::new().with_row_count(Some(records.num_rows()));
        let (schema, columns) = (self.schema.clone(), records.columns().to_vec());
        let records = RecordBatch::try_new_with_options(schema, columns, &options);
        self.writer.write(&records.map_err(|error| error.to_string())?).map_err(said)?;
        if self.writer.memory_size() > ROW_GROUP_BYTES {
            self.writer.flush().map_err(said)?;
        }
        Ok(std::mem::take(self.writer.inner_mut()))
    }

    /// The rest of the file.
    pub fn finish(mut self) -> Result<Vec<u8>, String> {
        self.writer.finish().map_err(said)?;
        Ok(std::mem::take(self.writer.inner_mut()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in a `map_err`")]
fn said(error: ParquetError) -> String {
    format!("write parquet: {error}")
}
