//! The continuous views of a job: what each microbatch changes in them, and their results.
//!
//! What holds here: a view's state changes in the transaction that commits the microbatch, and what
//! is added to its output is owed by the same transaction. A result that is replaced as a whole is
//! made of committed state, and made again at every start: it may be late, never wrong.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arrow_array::RecordBatch;
use std::io::Write as _;

use super::prepare::Prepared;
use super::work;
use crate::durable;
use crate::engine::{Entry, Problem, States, View};
use crate::failure::{Failure, Result};
use crate::ledger::{Addition, Ledger, Payload, StatePut, Target, ViewId};
use crate::sink;
use crate::sink::envelope::Envelope;
use crate::sink::replaced::Replaced;

/// Bytes of records that are collected before they are made into partial states.
const TAPPED_BYTES: usize = 16 << 20;

/// Partial states below which nothing is gained by bringing them down to one for each group.
const CONDENSE_ROWS: usize = 200_000;

/// A view as the job defines it.
#[derive(Clone)]
pub struct Definition {
    /// Its name in the job.
    pub name: String,
    /// The query.
    pub view: Arc<View>,
    /// Where its result goes.
    pub path: PathBuf,
    /// How its records become bytes.
    pub encode: sink::Format,
    /// The result is replaced as a whole, at most so often; without it, changed groups are appended.
    pub every: Option<Duration>,
}

/// The views of one job, over one ledger.
#[derive(Default)]
pub struct Views {
    all: Vec<Open>,
}

struct Open {
    definition: Definition,
    id: ViewId,
    /// Where changed groups are appended.
    target: Option<Target>,
    /// When the result is to be replaced.
    due: Option<Instant>,
    /// When it was.
    replaced: Option<Instant>,
}

/// The partial states of one microbatch, for each view.
pub type Deltas = Vec<Vec<RecordBatch>>;

/// Makes partial states of the records that pass by.
pub struct Tap {
    views: Vec<Arc<View>>,
    pending: Vec<RecordBatch>,
    bytes: usize,
    deltas: Deltas,
    /// Groups in each delta after it was last brought down to one row for each.
    condensed: Vec<usize>,
}

impl Tap {
    /// For these views.
    pub fn new(views: impl Iterator<Item = Arc<View>>) -> Self {
        let views: Vec<_> = views.collect();
        let (deltas, condensed) = (vec![Vec::new(); views.len()], vec![0; views.len()]);
        Self { views, pending: Vec::new(), bytes: 0, deltas, condensed }
    }

    /// Takes records.
    pub fn take(&mut self, records: RecordBatch) -> Result<()> {
        if self.views.is_empty() {
            return Ok(());
        }
        self.bytes += records.get_array_memory_size();
        self.pending.push(records);
        if self.bytes > TAPPED_BYTES { self.reduce() } else { Ok(()) }
    }

    fn reduce(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.bytes = 0;
        let all = self.views.iter().zip(&mut self.deltas).zip(&mut self.condensed);
        for ((view, delta), condensed) in all {
            delta.extend(view.delta(pending.clone()).map_err(work::failure)?);
            let rows: usize = delta.iter().map(RecordBatch::num_rows).sum();
            // Twice the groups, so that each row is brought down only so often.
            if rows > *condensed * 2 + CONDENSE_ROWS {
                let one = view.condense(delta).map_err(work::failure)?;
                *condensed = one.num_rows();
                *delta = vec![one];
            }
        }
        Ok(())
    }

    /// The partial states of all records.
    pub fn finish(mut self) -> Result<Deltas> {
        if !self.views.is_empty() {
            self.reduce()?;
        }
        Ok(self.deltas)
    }
}

impl Views {
    /// Opens the states of these views.
    pub fn open(definitions: Vec<Definition>, ledger: &mut Ledger) -> Result<Self> {
        let mut all = Vec::with_capacity(definitions.len());
        for definition in definitions {
            let id = ledger.view(&definition.name, definition.view.signature())?;
            let appends = definition.every.is_none();
            let target = appends.then(|| ledger.target(&definition.path)).transpose()?;
            // What was committed last may not have been written.
            let due = definition.every.map(|_| Instant::now());
            all.push(Open { definition, id, target, due, replaced: None });
        }
        Ok(Self { all })
    }

    /// The outputs that are appended to, and what each begins with.
    pub fn targets(&self) -> Vec<(Target, PathBuf, Vec<u8>)> {
        let appended = self.all.iter().filter_map(|open| {
            let target = open.target?;
            Some((target, open.definition.path.clone(), open.definition.header()))
        });
        appended.collect()
    }

    /// What makes the partial states of a microbatch.
    pub fn tap(&self) -> Tap {
        Tap::new(self.all.iter().map(|open| open.definition.view.clone()))
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What a group of microbatches changes, in their order: the states to put, and in each
    /// microbatch what it adds to the outputs of the views. A microbatch after which a view cannot be
    /// computed goes to quarantine.
    pub fn advance(&self, ledger: &Ledger, group: &mut [Prepared]) -> Result<Vec<StatePut>> {
        let mut changed: Vec<HashMap<Vec<u8>, Vec<u8>>> = vec![HashMap::new(); self.all.len()];
        for prepared in group.iter_mut() {
            let deltas = std::mem::take(&mut prepared.deltas);
            if prepared.batch.quarantined.is_some() || deltas.is_empty() {
                continue;
            }
            match self.advance_one(ledger, &deltas, &changed) {
                Ok(advanced) => {
                    for (step, changed) in advanced.into_iter().zip(&mut changed) {
                        changed
                            .extend(step.entries.into_iter().map(|entry| (entry.key, entry.value)));
                        prepared.batch.additions.extend(step.addition);
                    }
                }
                Err(Failure::Bad(reason)) => prepared.condemn(reason),
                Err(failure) => return Err(failure),
            }
        }
        let puts = self.all.iter().zip(changed).flat_map(|(open, changed)| {
            let view = open.id;
            changed.into_iter().map(move |(key, value)| StatePut { view, key, value })
        });
        Ok(puts.collect())
    }

    fn advance_one(
        &self,
        ledger: &Ledger,
        deltas: &Deltas,
        changed: &[HashMap<Vec<u8>, Vec<u8>>],
    ) -> Result<Vec<Step>> {
        let all = self.all.iter().zip(deltas).zip(changed);
        let step = |((open, delta), changed): ((&Open, &Vec<RecordBatch>), &HashMap<_, _>)| {
            let view = &open.definition.view;
            let states = view.merge(delta, |key| match changed.get(key) {
                Some(value) => Ok(Some(Vec::clone(value))),
                None => ledger.state(open.id, key).map_err(Stored::Ledger),
            });
            let states = states.map_err(Stored::failure)?;
            let addition = open.addition(&states)?;
            Ok(Step { entries: states.entries().map_err(work::failure)?, addition })
        };
        all.map(step).collect()
    }

    /// Something was committed: the results that are replaced are to be made again.
    pub fn note_committed(&mut self) {
        let now = Instant::now();
        for open in &mut self.all {
            let Some(every) = open.definition.every else { continue };
            let next = open.replaced.map_or(now, |replaced| now.max(replaced + every));
            open.due.get_or_insert(next);
        }
    }

    /// When the next result is to be replaced.
    pub fn due(&self) -> Option<Instant> {
        self.all.iter().filter_map(|open| open.due).min()
    }

    /// Replaces the results that are due by now.
    pub fn replace_due(&mut self, ledger: &Ledger, now: Instant) -> Result<()> {
        for open in &mut self.all {
            if open.due.is_none_or(|due| due > now) {
                continue;
            }
            let entries = ledger.states(open.id)?;
            let entries = entries.into_iter().map(|(key, value)| Entry { key, value }).collect();
            (open.due, open.replaced) = (None, Some(Instant::now()));
            match open.definition.replace(entries) {
                // It is the data that cannot be computed; the next microbatch may change it.
                Err(Failure::Bad(reason)) => {
                    let view = &open.definition.name;
                    tracing::error!(view, reason, "cannot be computed; the old result stays");
                }
                replaced => replaced?,
            }
        }
        Ok(())
    }
}

/// What one microbatch changes in one view.
struct Step {
    entries: Vec<Entry>,
    addition: Option<Addition>,
}

/// Why a state could not be merged.
enum Stored {
    Ledger(Failure),
    Query(Problem),
}

impl From<Problem> for Stored {
    fn from(problem: Problem) -> Self {
        Self::Query(problem)
    }
}

impl Stored {
    fn failure(self) -> Failure {
        match self {
            Self::Ledger(failure) => failure,
            Self::Query(problem) => work::failure(problem),
        }
    }
}

impl Open {
    /// What the groups that changed add to the output.
    fn addition(&self, states: &States) -> Result<Option<Addition>> {
        let Some(target) = self.target else { return Ok(None) };
        let results = self.definition.view.evaluate(states).map_err(work::failure)?;
        let header = self.definition.header();
        let (skip, mut bytes) = (header.len(), header);
        for records in &results {
            self.definition.encode.encode(records, &mut bytes).map_err(Failure::Bad)?;
        }
        let own = bytes.get(skip..).unwrap_or_default();
        if own.is_empty() {
            return Ok(None);
        }
        let (length, checksum) = (own.len() as u64, crc32fast::hash(own));
        let (whole_checksum, skip) = (crc32fast::hash(&bytes), skip as u64);
        let payload = Payload::Memory(bytes);
        Ok(Some(Addition { target, payload, length, checksum, skip, whole_checksum }))
    }
}

impl Definition {
    /// What the output begins with.
    pub fn header(&self) -> Vec<u8> {
        self.encode.header(&self.view.schema()).unwrap_or_default()
    }

    /// Puts the result over these groups in place of the one before.
    pub fn replace(&self, entries: Vec<Entry>) -> Result<()> {
        let states = self.view.states(entries).map_err(work::failure)?;
        let results = self.view.evaluate(&states).map_err(work::failure)?;
        let mut envelope = Envelope::new(self.encode);
        let mut bytes = envelope.begin(&self.view.schema()).map_err(Failure::Bad)?;
        for records in &results {
            if self.encode.is_columnar() {
                bytes.extend(envelope.encode(records).map_err(Failure::Bad)?);
            } else {
                self.encode.encode(records, &mut bytes).map_err(Failure::Bad)?;
            }
        }
        bytes.extend(envelope.end().map_err(Failure::Bad)?);
        let place = self.path.display();
        let write = || -> anyhow::Result<()> {
            durable::create_dir_all(self.path.parent().unwrap_or(std::path::Path::new("/")))?;
            let mut file = Replaced::new(&self.path)?;
            file.write_all(&bytes)?;
            file.finish()
        };
        write().with_context(|| format!("replace {place}")).map_err(Failure::Transient)
    }
}
