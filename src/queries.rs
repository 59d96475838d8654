//! The queries of a job: its transform, the tables that it joins with, and what it makes of the
//! whole output when it ends.
//!
//! Invariants: every query is planned before the first file is taken, so that one that cannot
//! be planned is a configuration error; only a format that brings its own columns has to wait for
//! the first file.

mod finals;
mod output;
mod rebuild;
mod tables;
mod views;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use arrow_schema::SchemaRef;

use crate::config::kinds::NEEDS_COLUMNS;
use crate::config::{Config, Error, Problem};
use crate::decode;
pub use crate::engine::continues;
use crate::engine::{self, Engine, Query};
use crate::event_time::Judge;
use crate::failure::Failure;
use crate::ledger::{Ahead, Ledger, Rewritten};
use crate::microbatch::Target;
use crate::pipeline::views::{Clock, Definition, Deltas, Tap, Tapped, Views};
use crate::pulse::Pulse;
use crate::record::message::Limit;
use crate::record::text_schema;
use crate::sink::folder;
use crate::transform::Transform;
use finals::Final;
use tables::Tables;

/// The queries of one job, planned.
pub struct Queries {
    engine: Option<Arc<Engine>>,
    transform: Option<Query>,
    tables: Tables,
    finals: Vec<Final>,
    views: Vec<Definition>,
    clock: Option<Clock>,
    output: Option<SchemaRef>,
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
            tables: Tables::default(),
            finals: Vec::new(),
            views: Vec::new(),
            clock: None,
            output: None,
        };
        let sql = match &written.transform {
            Transform::Sql(sql) => Some(sql),
            _ => None,
        };
        if sql.is_some() || !written.finals.is_empty() || !written.view.is_empty() {
            let memory = written.engine.memory.0;
            let opened = Engine::new(memory, spill);
            let engine = opened.map_err(|error| Problem::new("engine", error.to_string()))?;
            queries.tables = Tables::load(config, &engine)?;
            queries.engine = Some(engine);
        }
        queries.output = match (&written.transform, sql, &queries.engine) {
            (_, Some(sql), Some(engine)) => {
                let planned = Query::new(engine, &sql.query, "input", input.as_deref());
                let query = planned
                    .map_err(|error| Problem::new("transform.sql.query", error.to_string()))?;
                let output = query.schema();
                queries.transform = Some(query);
                output
            }
            _ => config.output_columns(),
        };
        if queries.output.is_none() && sql.is_some() && written.output.format.has_columns() {
            return Err(Problem::new("output.format", NEEDS_COLUMNS));
        }
        if let Some(output) = &queries.output
            && let Some(reason) = written.output.format.refuses(output)
        {
            return Err(Problem::new("output.format", reason));
        }
        if let Some(output) = &queries.output
            && let Some(messages) = config.messages(&Limit::default())
            && let Some((key, reason)) = messages.refuses(output)
        {
            return Err(Problem::new(key, reason));
        }
        queries.clock = views::clock(config, queries.output.as_ref())?;
        if queries.clock.is_some()
            && let Some(query) = queries.transform.take()
        {
            let planned = query.with_lines();
            let carried =
                planned.map_err(|error| Problem::new("transform.sql.query", error.to_string()))?;
            queries.transform = Some(carried);
        }
        if let Some(Err(error)) = queries.transform.as_ref().map(Query::try_out) {
            return Err(Problem::new("transform.sql.query", error.to_string()));
        }
        queries.plan_finals(config)?;
        if let Some(engine) = &queries.engine {
            queries.views = views::plan(engine, config, queries.output.as_ref())?;
        }
        Ok(queries)
    }

    fn plan_finals(&mut self, config: &Config) -> Result<(), Problem> {
        let Some(engine) = &self.engine else { return Ok(()) };
        for written in &config.written.finals {
            let made = Final::plan(engine, config, written, self.output.as_ref())?;
            self.finals.push(made);
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
        self.transform.as_ref().is_some_and(|query| !query.is_frugal())
    }

    /// The columns of the output, where they are known before the first input.
    pub fn output(&self) -> Option<SchemaRef> {
        self.output.clone()
    }

    /// True when there are continuous views.
    pub fn has_views(&self) -> bool {
        !self.views.is_empty()
    }

    /// The view of this name.
    pub fn view(&self, name: &str) -> Option<&Definition> {
        self.views.iter().find(|definition| definition.name == name)
    }

    /// Why a start would refuse one of the views, by what its ledger knows.
    pub fn refuses_views(&self, ledger: &Ahead) -> anyhow::Result<Option<String>> {
        for definition in &self.views {
            let known = ledger.known_view(&definition.name, &definition.path)?;
            if let Rewritten::Refused(message) = definition.continues(known) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Why no view can begin in a job whose ledger knows of no microbatch: its output has records already. The
    /// state was lost, or the file is somebody else's. Views of the names in `known` were told what to do.
    pub fn refuses_lost(&self, config: &Config, known: &[String]) -> Option<String> {
        let destination = config.output.as_ref()?;
        let output = destination.path()?;
        let bytes = if destination.is_folder() {
            let parts = folder::list(output).ok()?;
            parts.iter().filter_map(|part| Some(part.metadata().ok()?.len())).sum()
        } else {
            output.metadata().ok()?.len()
        };
        let is_new = |view: &&Definition| !view.begins_now && !known.contains(&view.name);
        let view = &self.views.iter().find(is_new).filter(|_| bytes > 0)?.name;
        let output = output.display();
        let state = config.state.display();
        Some(format!(
            "{output} has {bytes} bytes, and the ledger in {state} knows of none: the state was lost, or the \
             file is another's. The view `{view}` would miss what is in it. Bring the state directory back; or \
             start once with `run --reset-view {view}`, and the view is made of the whole output; or say \
             `begin = \"now\"` in its [[view]], and it begins with the next file"
        ))
    }

    /// The views over their ledger.
    pub fn open_views(&self, late: Option<Target>, ledger: &mut Ledger) -> Result<Views, Failure> {
        Views::open(self.views.clone(), self.clock.clone(), late, ledger)
    }

    /// The event time of the job.
    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// The judge of records outside a ledger: no window is closed.
    pub fn judge(&self) -> Option<Arc<Judge>> {
        let all = || self.views.iter().map(|definition| (definition, None));
        self.clock.as_ref().map(|clock| clock.judge(None, Clock::marks(all(), None)))
    }

    /// Makes partial states of the records of a batch.
    pub fn tap(&self, judge: Option<Arc<Judge>>) -> Tap {
        Tap::new(self.views.iter().map(|definition| Some(definition.view.clone())), judge)
    }

    /// The same where nobody sees the views.
    pub fn no_tap(&self, judge: Option<Arc<Judge>>) -> Tap {
        Tap::new(std::iter::empty(), judge)
    }

    /// Forgets what these views have kept: the next start rebuilds them. One that is not in the job any
    /// more is removed.
    pub fn reset_views(
        &self,
        config: &Config,
        names: &[String],
        ledger: &mut Ledger,
    ) -> anyhow::Result<()> {
        anyhow::ensure!(engine::IS_BUILT_IN, "--reset-view needs a build with `--features sql`");
        let known = ledger.view_names().map_err(Failure::into_error)?;
        for name in names {
            let problem = |message| Err(config.problem(&Problem::new("view", message)).into());
            let of_job = self.view(name);
            if of_job.is_none() && !known.contains(name) {
                return problem(format!("--reset-view: the job has no view `{name}`"));
            }
            let format = config.written.output.format;
            let reads = |schema: &SchemaRef| output::read_back(format, schema).is_some();
            if of_job.is_some() && !self.output.as_ref().is_some_and(reads) {
                return problem(format!(
                    "--reset-view: the output has a column that cannot be read back; `{name}` can only begin \
                     with the next file, under a new name and with begin = \"now\""
                ));
            }
        }
        for name in names {
            if let Some(view) = self.view(name) {
                let signature = view.view.signature();
                let reset = ledger.reset_view(name, signature, engine::keeps_closed);
                reset.map_err(Failure::into_error)?;
            } else if ledger.forget_view(name).map_err(Failure::into_error)? {
                tracing::info!(view = name, "the view is not in the job, what it kept is removed");
            }
        }
        Ok(())
    }

    /// Reads the whole output for the view at this index: these closed files, and the open one.
    pub fn read_for_view(
        &self,
        number: usize,
        config: &Config,
        closed: &[PathBuf],
        pulse: &Pulse,
    ) -> Result<Tapped, Failure> {
        let both = self.views.get(number).zip(self.output.as_ref());
        let (definition, schema) =
            both.ok_or_else(|| Failure::fatal("a view has lost its query"))?;
        let path = config.output_path();
        let output = path.ok_or_else(|| {
            let name = &definition.name;
            Failure::fatal(format!(
                "the view {name} cannot be filled from the output, which is no file: say `begin = \"now\"`"
            ))
        })?;
        tracing::info!(view = definition.name, "the view is rebuilt from the output");
        let judge = self.judge();
        rebuild::read(config, definition, schema, judge, (closed, output), pulse)
    }

    /// Makes the results of the views over everything at once. Returns how many groups are left out.
    pub fn finish_views(&self, deltas: &Deltas) -> anyhow::Result<u64> {
        views::finish(&self.views, deltas)
    }

    /// True when there is something to be made of the whole output.
    pub fn has_finals(&self) -> bool {
        !self.finals.is_empty()
    }

    /// Reads the reference tables again whose files have changed. A version that cannot be used
    /// leaves the old one in place.
    pub fn refresh(&mut self) {
        let Some(engine) = &self.engine else { return };
        let finals = self.finals.iter().map(|made| &made.query);
        let queries: Vec<_> = self.transform.iter().chain(finals).collect();
        let views = &self.views;
        self.tables.refresh(engine, &|| {
            queries.iter().try_for_each(|query| query.plan_again())?;
            views.iter().try_for_each(|definition| definition.view.plan_again())
        });
    }

    /// Makes the final results of the output at `path`, each replacing the file that was there.
    pub fn finish(&self, config: &Config, path: &Path, pulse: &Pulse) -> anyhow::Result<()> {
        for made in &self.finals {
            let place = made.path.display();
            made.make(config, path, pulse).with_context(|| format!("make {place}"))?;
            tracing::info!(path = %place, "a final result was written");
        }
        Ok(())
    }
}
