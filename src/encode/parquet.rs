//! Records to a Parquet file, whose index is written at its end.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use super::envelope::Columnar;
use crate::record::columns::Type;

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
    /// Known to the oldest readers.
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
        // Only writing a value tells.
        let wrote = self.encoder(schema).and_then(|mut encoder| {
            let nulls = |field: &Arc<Field>| new_null_array(field.data_type(), 1);
            let columns = encoder.schema.fields().iter().map(nulls).collect();
            let records = RecordBatch::try_new(encoder.schema.clone(), columns);
            encoder.encode(&records.map_err(|error| error.to_string())?)?;
            encoder.finish()
        });
        wrote.err().map(|error| format!("parquet cannot hold it: {error}"))
    }

    /// Begins a file of this schema.
    pub fn encoder(self, schema: &Schema) -> Result<Encoder, String> {
        // Every column may hold NULL, and is of a type that reads back as the same one.
        let field = |field: &Arc<Field>| {
            let own = Type::of(field.data_type()).map(Type::data_type);
            let data_type = own.unwrap_or_else(|| field.data_type().clone());
            Field::new(field.name(), data_type, true)
        };
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

impl Columnar for Encoder {
    fn encode(&mut self, records: &RecordBatch) -> Result<Vec<u8>, String> {
        let options = RecordBatchOptions::new().with_row_count(Some(records.num_rows()));
        let safe = CastOptions { safe: false, ..CastOptions::default() };
        let cast = |(column, field): (&ArrayRef, &Arc<Field>)| {
            cast_with_options(column, field.data_type(), &safe)
                .map_err(|error| format!("column `{}`: {error}", field.name()))
        };
        let columns = records
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(cast)
            .collect::<Result<_, _>>()?;
        let schema = self.schema.clone();
        let records = RecordBatch::try_new_with_options(schema, columns, &options);
        self.writer.write(&records.map_err(|error| error.to_string())?).map_err(said)?;
        if self.writer.memory_size() > ROW_GROUP_BYTES {
            self.writer.flush().map_err(said)?;
        }
        Ok(std::mem::take(self.writer.inner_mut()))
    }

    fn finish(&mut self) -> Result<Vec<u8>, String> {
        self.writer.finish().map_err(said)?;
        Ok(std::mem::take(self.writer.inner_mut()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in a `map_err`")]
fn said(error: ParquetError) -> String {
    format!("write parquet: {error}")
}
