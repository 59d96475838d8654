//! Delivery to plain writers, for the drivers that have no ledger.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context as _;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::progress::Progress;
use crate::encode::envelope::Envelope;
use crate::encode::rejects;
use crate::failure::{Failure, Result};
use crate::pipeline::flow::{Delivery, Passed};
use crate::pipeline::prepare::Tolerance;
use crate::pipeline::views::Tap;
use crate::record::Reject;

/// Writes records to one writer, rejects to another.
pub struct Plain<Output, Rejects> {
    /// Makes partial states for the views.
    pub tap: Tap,
    /// Header and footer around the records.
    pub envelope: Envelope,
    /// Where records go.
    pub output: Output,
    /// Where rejects go.
    pub rejects: Rejects,
    /// How many may be bad.
    pub tolerance: Tolerance,
    /// The input's name, for its rejects.
    pub name: Vec<u8>,
    /// Bad records of this input so far.
    pub rejected: u64,
    /// The progress bar, if there is one.
    pub progress: Option<Arc<Progress>>,
}

impl<Output: Write + Send, Rejects: Write + Send> Plain<Output, Rejects> {
    /// Checks what only the whole input can tell.
    pub fn check(&self, passed: &Passed) -> Result<()> {
        self.tolerance.check(passed)
    }

    /// Writes the footer after the last record.
    pub fn end(&mut self) -> Result<()> {
        let end = self.envelope.end().map_err(Failure::Bad)?;
        self.records(&end)
    }
}

impl<Output: Write + Send, Rejects: Write + Send> Delivery for Plain<Output, Rejects> {
    fn records(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(|error| failed(error, "write the output"))
    }

    fn begin(&mut self, schema: &SchemaRef) -> Result<()> {
        let header = self.envelope.begin(schema).map_err(Failure::Bad)?;
        self.records(&header)
    }

    fn batch(&mut self, records: RecordBatch) -> Result<()> {
        let bytes = self.envelope.encode(&records).map_err(Failure::Bad)?;
        self.records(&bytes)?;
        self.tap.take(records)
    }

    fn reject(&mut self, reject: &Reject) -> Result<()> {
        self.rejected += 1;
        self.tolerance.admit(self.rejected, reject)?;
        let mut line = Vec::new();
        rejects::encode(&self.name, reject, &mut line);
        self.rejects.write_all(&line).map_err(|error| failed(error, "write the rejects"))
    }

    fn pause(&mut self) -> Result<()> {
        self.output.flush().map_err(|error| failed(error, "write the output"))
    }

    fn counted(&mut self, passed: &Passed) {
        if let Some(progress) = &self.progress {
            progress.show(passed.counts.read, passed.counts.rejected);
        }
    }
}

/// A writer that fails ends the work.
pub fn failed(error: std::io::Error, doing: &'static str) -> Failure {
    if crate::pulse::is_stopped(&error) {
        return Failure::Stopped;
    }
    Failure::Fatal(Err::<(), _>(error).context(doing).expect_err("it is an error"))
}
