//! The queries of a job in a build without the feature `sql`: there are none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::SchemaRef;

use crate::config::{Config, Error};
use crate::engine::Query;
pub use crate::engine::continues;
use crate::event_time::Judge;
use crate::failure::Failure;
use crate::ledger::{Ahead, Ledger};
use crate::microbatch::Target;
use crate::pipeline::views::{Deltas, Tap, Tapped, Views};
use crate::pulse::Pulse;

/// The queries of one job: none, so that the columns of the output are those of the input.
#[derive(Debug)]
pub struct Queries {
    output: Option<SchemaRef>,
}

impl Queries {
    /// Nothing to plan.
    pub fn open(config: &Config, _spill: &Path) -> Result<Self, Error> {
        Ok(Self { output: config.output_columns() })
    }

    /// No query is the transform.
    pub fn transform(&self) -> Option<&Query> {
        None
    }

    /// No query has to see the end of its input.
    pub fn blocking(&self) -> Option<String> {
        None
    }

    /// No query takes memory.
    pub fn is_greedy(&self) -> bool {
        false
    }

    /// The columns of the output, where they are known before the first input.
    pub fn output(&self) -> Option<SchemaRef> {
        self.output.clone()
    }

    /// True when there are continuous views.
    pub fn has_views(&self) -> bool {
        false
    }

    /// There are none.
    pub fn reset_views(
        &self,
        _config: &Config,
        names: &[String],
        _ledger: &mut Ledger,
    ) -> anyhow::Result<()> {
        anyhow::ensure!(names.is_empty(), "--reset-view needs a build with `--features sql`");
        Ok(())
    }

    /// There is none.
    pub fn read_for_view(
        &self,
        _number: usize,
        _config: &Config,
        _closed: &[PathBuf],
        _pulse: &Pulse,
    ) -> Result<Tapped, Failure> {
        Ok(Tapped::default())
    }

    /// There are no views.
    pub fn refuses_lost(&self, _config: &Config, _known: &[String]) -> Option<String> {
        None
    }

    /// There are none.
    pub fn refuses_views(&self, _ledger: &Ahead) -> anyhow::Result<Option<String>> {
        Ok(None)
    }

    /// There are no views.
    pub fn open_views(
        &self,
        _late: Option<Target>,
        _ledger: &mut Ledger,
    ) -> Result<Views, Failure> {
        Ok(Views::default())
    }

    /// A tap that makes nothing.
    pub fn tap(&self, _judge: Option<Arc<Judge>>) -> Tap {
        Tap {}
    }

    /// The same.
    pub fn no_tap(&self, _judge: Option<Arc<Judge>>) -> Tap {
        Tap {}
    }

    /// There is no event time.
    pub fn clock(&self) -> Option<&Judge> {
        None
    }

    /// There is nothing to judge by.
    pub fn judge(&self) -> Option<Arc<Judge>> {
        None
    }

    /// There is nothing to make.
    pub fn finish_views(&self, _deltas: &Deltas) -> anyhow::Result<u64> {
        Ok(0)
    }

    /// Nothing is made of the whole output.
    pub fn has_finals(&self) -> bool {
        false
    }

    /// There are no tables.
    pub fn refresh(&mut self) {}

    /// There is nothing to make.
    pub fn finish(&self, _config: &Config, _output: &Path, _pulse: &Pulse) -> anyhow::Result<()> {
        Ok(())
    }
}
