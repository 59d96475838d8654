//! The reference tables of a job.
//!
//! Invariants: a table changes between two groups of microbatches, as a whole or not at all. A
//! file that is written to in place counts when it has been left alone for [`SETTLE`]; one that was
//! renamed into place counts at once.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use crate::clock::since_1970;
use crate::config::{Config, Problem, file};
use crate::decode::compression::Compression;
use crate::decode::frame::{Framer, Framing};
use crate::decode::infer;
use crate::encode;
use crate::engine::{self, Engine};
use crate::failure::Failure;
use crate::pipeline::flow::{Delivery, Flow};
use crate::pulse::Pulse;
use crate::record::Reject;
use crate::transform::Transform;
use crate::transform::command::Bounds;

/// How long a file that changes in place has to stay unchanged.
const SETTLE: Duration = Duration::from_secs(1);

/// The reference tables of one job.
#[derive(Default)]
pub struct Tables {
    all: Vec<Reference>,
}

/// A reference table, and what is known of its file.
struct Reference {
    table: file::Table,
    path: PathBuf,
    /// The version that is in use.
    used: Option<Stamp>,
    /// A version that could not be used.
    refused: Option<Stamp>,
    /// A version that may still be written to, and since when it is there.
    settling: Option<(Stamp, Instant)>,
}

/// Tells one version of a table's file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// A new version of a table, read.
struct Version {
    /// Which table.
    place: usize,
    stamp: Stamp,
    schema: SchemaRef,
    records: Vec<RecordBatch>,
}

/// Plans all queries of the job again.
type PlanAgain<'a> = &'a dyn Fn() -> Result<(), engine::QueryError>;

impl Tables {
    /// Reads all tables of a job.
    pub fn load(config: &Config, engine: &Engine) -> Result<Self, Problem> {
        let mut all: Vec<Reference> = Vec::new();
        for table in &config.written.table {
            let path = config.absolute(&table.path);
            let name = &table.name;
            if ["input", "output"].contains(&name.as_str()) {
                let message = format!("found `{name}`, which is the job's own table");
                return Err(Problem::new("table.name", message));
            }
            if all.iter().any(|other| other.table.name == *name) {
                let message = format!("found `{name}` twice, expected a name for each table");
                return Err(Problem::new("table.name", message));
            }
            let used = Stamp::of(&path);
            let (schema, records) = read(table, &path).map_err(|error| {
                Problem::new("table", format!("`{name}` from {}: {error:#}", path.display()))
            })?;
            engine.set_table(name, schema, records);
            let table = table.clone();
            all.push(Reference { table, path, used, refused: None, settling: None });
        }
        Ok(Self { all })
    }

    /// Uses the versions that have come since. All at once, since two tables may only fit together;
    /// when that fails, each on its own. What cannot be used leaves what is in use in place, and is
    /// tried again when another version of any table comes.
    pub fn refresh(&mut self, engine: &Engine, plan_again: PlanAgain<'_>) {
        let changed: Vec<_> = self.all.iter_mut().map(Reference::look).collect();
        let is_new = |(table, now): (&Reference, &Option<Stamp>)| {
            now.is_some_and(|now| table.refused != Some(now))
        };
        if !self.all.iter().zip(&changed).any(is_new) {
            return;
        }
        let mut versions = Vec::new();
        for (place, stamp) in changed.into_iter().enumerate() {
            let Some((stamp, table)) = stamp.zip(self.all.get_mut(place)) else { continue };
            match table.read(stamp) {
                Ok(Some((schema, records))) => {
                    versions.push(Version { place, stamp, schema, records });
                }
                // It was written to while it was read; the next look will tell.
                Ok(None) => {}
                Err(error) => table.refuse(stamp, &error),
            }
        }
        let together: Vec<_> = versions.iter().collect();
        match self.put(engine, &together, plan_again) {
            Err(_) if versions.len() > 1 => {
                for version in &versions {
                    let put = self.put(engine, &[version], plan_again);
                    self.conclude(version, put);
                }
            }
            put => {
                for version in &versions {
                    self.conclude(version, put.clone());
                }
            }
        }
    }

    /// Replaces the versions in use, or leaves everything as it was.
    fn put(
        &self,
        engine: &Engine,
        versions: &[&Version],
        plan_again: PlanAgain<'_>,
    ) -> Result<(), engine::QueryError> {
        let name = |version: &Version| self.all.get(version.place).map(|table| &table.table.name);
        let mut old = Vec::new();
        for version in versions {
            let Some(name) = name(version) else { continue };
            let table = engine.set_table(name, version.schema.clone(), version.records.clone());
            old.push((name, table));
        }
        let planned = plan_again();
        if planned.is_err() {
            for (name, table) in old {
                engine.restore_table(name, table);
            }
            // What was planned with the new ones is planned with the old ones again.
            plan_again()?;
        }
        planned
    }

    fn conclude(&mut self, version: &Version, put: Result<(), engine::QueryError>) {
        let Some(table) = self.all.get_mut(version.place) else { return };
        if let Err(error) = put {
            return table.refuse(version.stamp, &error.into());
        }
        (table.used, table.refused) = (Some(version.stamp), None);
        let rows: usize = version.records.iter().map(RecordBatch::num_rows).sum();
        tracing::info!(table = table.table.name, rows, "the table was read again");
    }
}

impl Reference {
    /// A version that is not in use, and is not being written to as far as one can see.
    fn look(&mut self) -> Option<Stamp> {
        let now = Stamp::of(&self.path)?;
        if self.used == Some(now) {
            (self.settling, self.refused) = (None, None);
            return None;
        }
        // Another file has this name; it was put there when it was whole.
        if self.used.is_none_or(|used| used.inode != now.inode) {
            return Some(now);
        }
        if now.age() >= SETTLE {
            return Some(now);
        }
        match self.settling {
            Some((stamp, since)) if stamp == now => (since.elapsed() >= SETTLE).then_some(now),
            _ => {
                self.settling = Some((now, Instant::now()));
                None
            }
        }
    }

    /// Its content; `None` when it is no longer this version.
    fn read(&self, stamp: Stamp) -> anyhow::Result<Option<(SchemaRef, Vec<RecordBatch>)>> {
        let content = read(&self.table, &self.path);
        if Stamp::of(&self.path) == Some(stamp) { content.map(Some) } else { Ok(None) }
    }

    fn refuse(&mut self, stamp: Stamp, error: &anyhow::Error) {
        if self.refused.replace(stamp) != Some(stamp) {
            let table = &self.table.name;
            let error = format!("{error:#}");
            tracing::error!(table, error, "the new table cannot be used; the old one stays");
        }
    }
}

impl Stamp {
    /// How long ago the file was changed, by its own word.
    fn age(self) -> Duration {
        let modified = Duration::from_secs(u64::try_from(self.modified.0).unwrap_or(0) + 1);
        since_1970().saturating_sub(modified)
    }

    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = path.metadata().ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some(Self { inode: metadata.ino(), size: metadata.len(), modified })
    }
}

/// All records of a table. A bad one makes the table a bad one.
fn read(table: &file::Table, path: &Path) -> anyhow::Result<(SchemaRef, Vec<RecordBatch>)> {
    let format = match &table.format {
        Some(format) => format.clone(),
        None => infer::infer(path)?.into_format(),
    };
    let framing = Framing::whole(format.dialect());
    let file = File::open(path).context("open it")?;
    let blocks = if let Some(blocks) = format.open(&file, file.metadata()?.len())? {
        blocks
    } else {
        let reader = Compression::Auto.read(path.as_os_str(), file, false)?;
        Framer::bounded(reader, &framing, u64::MAX).into()
    };
    let schema = blocks.schema().cloned().or_else(|| format.schema()).context("has no columns")?;
    let flow = Flow {
        decode: &format,
        transform: &Transform::None {},
        query: None,
        encode: encode::Format::default(),
        messages: None,
        taps: false,
        judge: None,
        framing: &framing,
        workers: 1,
        directory: Path::new("/"),
        bounds: Bounds::Microbatch,
        pulse: &Pulse::default(),
    };
    let mut content = Content { records: Vec::new() };
    flow.read(blocks, &mut content).map_err(Failure::into_error)?;
    Ok((schema, content.records))
}

/// The delivery of a reference table.
struct Content {
    records: Vec<RecordBatch>,
}

impl Delivery for Content {
    fn records(&mut self, _bytes: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn batch(&mut self, records: RecordBatch) -> Result<(), Failure> {
        self.records.push(records);
        Ok(())
    }

    fn reject(&mut self, reject: &Reject) -> Result<(), Failure> {
        let line = reject.line.unwrap_or_default();
        Err(Failure::Bad(format!("line {line}: {}", reject.reason)))
    }
}
