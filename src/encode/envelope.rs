//! Header and footer of one output.
//!
//! Invariants: a columnar output has one set of columns from its beginning to its end.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::Format;

/// Encodes an output by columns: its bytes are known when enough records have come.
pub trait Columnar: Send {
    /// As [`Envelope::encode`].
    fn encode(&mut self, records: &RecordBatch) -> Result<Vec<u8>, String>;

    /// As [`Envelope::end`].
    fn finish(&mut self) -> Result<Vec<u8>, String>;
}

/// The beginning and the end of one output.
pub struct Envelope {
    format: Format,
    schema: Option<SchemaRef>,
    encoder: Option<Box<dyn Columnar>>,
}

impl Envelope {
    /// Of an output in this format.
    pub fn new(format: Format) -> Self {
        Self { format, schema: None, encoder: None }
    }

    /// Records of this schema come; returns what stands before the first of them, once.
    ///
    /// # Errors
    /// When other columns came before, or these cannot be written.
    pub fn begin(&mut self, schema: &SchemaRef) -> Result<Vec<u8>, String> {
        if let Some(begun) = &self.schema {
            if !self.format.is_columnar() {
                return Ok(Vec::new());
            }
            let same =
                |(one, other): (&std::sync::Arc<arrow_schema::Field>, &std::sync::Arc<_>)| {
                    let other: &arrow_schema::Field = other;
                    (one.name(), one.data_type()) == (other.name(), other.data_type())
                };
            let fields = (begun.fields(), schema.fields());
            if fields.0.len() == fields.1.len() && fields.0.iter().zip(fields.1).all(same) {
                return Ok(Vec::new());
            }
            return Err("its columns are not those of the inputs before it".to_owned());
        }
        self.schema = Some(schema.clone());
        #[cfg(feature = "parquet")]
        if let Format::Parquet(parquet) = self.format {
            self.encoder = Some(Box::new(parquet.encoder(schema)?));
        }
        Ok(self.format.header(schema).unwrap_or_default())
    }

    /// Takes records; returns the bytes that are finished by now. There are none where the workers
    /// encode.
    pub fn encode(&mut self, records: &RecordBatch) -> Result<Vec<u8>, String> {
        if let Some(encoder) = &mut self.encoder {
            return encoder.encode(records);
        }
        Ok(Vec::new())
    }

    /// The bytes after the last record.
    pub fn end(&mut self) -> Result<Vec<u8>, String> {
        if let Some(mut encoder) = self.encoder.take() {
            return encoder.finish();
        }
        if self.format.is_columnar() {
            return Err("nothing says which columns the output has".to_owned());
        }
        Ok(Vec::new())
    }
}
