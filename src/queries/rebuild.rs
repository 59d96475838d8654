//! A view rebuilt from the whole output.
//!
//! Invariants: the output is read back as it was written; each of its records passed, whenever it
//! came.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::output;
use crate::config::Config;
use crate::decode::frame::Framer;
use crate::encode::cells;
use crate::event_time::Judge;
use crate::failure::{Failure, Result};
use crate::pipeline::flow::Delivery;
use crate::pipeline::views::{Definition, Tap, Tapped};
use crate::publish::rotation;
use crate::pulse::Pulse;
use crate::record::Reject;

/// Reads the whole output for a view.
pub fn read(
    config: &Config,
    definition: &Definition,
    schema: &SchemaRef,
    judge: Option<Arc<Judge>>,
    (closed, open): (&[PathBuf], &Path),
    pulse: &Pulse,
) -> Result<Tapped> {
    let decode = output::read_back(config.written.output.format, schema).ok_or_else(|| {
        Failure::Bad("the output has a column that cannot be read back".to_owned())
    })?;
    let framing = output::framing(config, &decode);
    let flow = output::flow(config, &decode, &framing, pulse);
    let tap = Tap::new(std::iter::once(Some(definition.view.clone())), judge.clone());
    let mut back = Back { tap, judge, schema: schema.clone() };
    let mut read = |blocks, path: &Path| -> Result<()> {
        let passed = flow.read(blocks, &mut back)?;
        if passed.counts.rejected > 0 {
            let records = passed.counts.rejected;
            let output = path.display();
            tracing::warn!(records, %output, "some records cannot be read back; the view is made without them");
        }
        Ok(())
    };
    let about = |path: &Path| format!("read {}", path.display());
    for path in closed {
        let file = rotation::open(path).with_context(|| about(path)).map_err(Failure::Fatal)?;
        if let Some((path, file)) = file {
            read(Framer::bounded(file, &framing, u64::MAX).into(), &path)?;
        } else {
            let output = path.display();
            tracing::warn!(%output, "an earlier output was taken away; the view is made without its records");
        }
    }
    let last = output::written(&decode, open, &framing).map_err(Failure::Fatal)?;
    read(last, open)?;
    back.tap.finish()
}

/// Takes the records of the output.
struct Back {
    tap: Tap,
    judge: Option<Arc<Judge>>,
    schema: SchemaRef,
}

impl Delivery for Back {
    fn records(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn batch(&mut self, records: RecordBatch) -> Result<()> {
        let typed = self
            .schema
            .fields()
            .iter()
            .zip(records.columns())
            .map(|(field, column)| cells::cast(column, field.data_type()));
        let columns = typed.collect::<std::result::Result<Vec<_>, _>>();
        let records =
            columns.and_then(|columns| RecordBatch::try_new(self.schema.clone(), columns));
        let records = records.map_err(|error| Failure::Bad(error.to_string()))?;
        // What was written before the job had an event time may have none.
        let records = match &self.judge {
            Some(judge) => judge.judge(records).records,
            None => records,
        };
        self.tap.take(records)
    }

    fn reject(&mut self, reject: &Reject) -> Result<()> {
        tracing::debug!(line = reject.line, reason = %reject.reason, "no record of the output");
        Ok(())
    }
}
