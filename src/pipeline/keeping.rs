//! Retention: archived inputs and rows of the ledger, pruned from the oldest on.
//!
//! Invariants: what goes is found by the ledger, one microbatch after the other, so that pruning
//! costs what it prunes; an input goes only when its archive is durable, only if it is the file that was
//! archived, and a row only after its input. It may be interrupted anywhere and done again.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Pipeline;
use super::report::debt;
use crate::clock::now_ms;
use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::ledger::Pruned;
use crate::publish::rotation::Rotation;
use crate::source::folder::FolderSource;
use crate::source::folder::rules::PROCESSED;
use crate::source::{Debt, Fate, Source};
use crate::units::Keep;

/// Longest time for pruning before files are looked for again.
const TURN: Duration = Duration::from_millis(20);

/// Time between two turns while there is more to prune.
const PAUSE: Duration = Duration::from_millis(200);

/// Time between two looks whether something has become old.
const LOOK: Duration = Duration::from_secs(30);

/// Microbatches that are looked at in one go.
const STEP: u64 = 64;

/// How much of the past is kept.
#[derive(Default)]
pub struct Keeping {
    /// Of what was moved to the archive.
    pub inputs: Option<Keep>,
    /// Of the history in the ledger.
    pub history: Option<Duration>,
    due: Option<Instant>,
    /// How the outputs are closed from time to time.
    pub(super) rotations: Vec<Rotation>,
    pub(super) rotation_due: Option<Instant>,
}

impl Keeping {
    /// Keeps so much.
    pub fn new(inputs: Option<Keep>, history: Option<Duration>, rotations: Vec<Rotation>) -> Self {
        let due = (inputs.is_some() || history.is_some()).then(Instant::now);
        Self { inputs, history, due, rotations, rotation_due: None }
    }

    /// When there may be something to prune.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Pipeline {
    /// Prunes what has become old, as far as one turn goes. What cannot be pruned now is left for later:
    /// it is no reason to take nothing.
    pub fn prune(&mut self, source: &dyn Source, now: Instant) -> Result<()> {
        if self.keeping.due.is_none_or(|due| due > now) {
            return Ok(());
        }
        match self.prune_some(source, now) {
            Err(failure @ (Failure::Fatal(_) | Failure::Stopped)) => Err(failure),
            Err(failure) => {
                let error = failure.into_error();
                tracing::warn!(error = %format!("{error:#}"), "the past cannot be pruned now");
                self.keeping.due = Some(Instant::now() + LOOK);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn prune_some(&mut self, source: &dyn Source, now: Instant) -> Result<()> {
        let mut pruned = self.ledger.pruned()?;
        let mut more = true;
        while more && now.elapsed() < TURN {
            let before = pruned;
            if let (Some(keep), Some(folder)) = (self.keeping.inputs, source.as_folder()) {
                self.prune_inputs(keep, &mut pruned, folder)?;
            }
            if let Some(age) = self.keeping.history {
                let is_folder = source.as_folder().is_some();
                self.prune_history(age, &mut pruned, is_folder)?;
            }
            more = pruned != before;
            if more {
                self.ledger.prune(&before, &pruned, self.earlier.kept_from())?;
            }
        }
        self.keeping.due = Some(Instant::now() + if more { PAUSE } else { LOOK });
        Ok(())
    }

    /// Removes the next inputs from the archive, unless they are to be kept.
    fn prune_inputs(&self, keep: Keep, pruned: &mut Pruned, source: &FolderSource) -> Result<()> {
        let oldest = match keep {
            Keep::Age(age) => Some(before(age)),
            Keep::Bytes(_) => None,
        };
        // Of a file that cannot be removed, while none after it could be: whether it is the file or the archive.
        let mut stays = None;
        for committed in self.ledger.done_after(pruned.inputs, STEP)? {
            let goes = match (keep, oldest) {
                (Keep::Bytes(most), _) => {
                    let passed_over = self.ledger.passed_over(committed.sequence())?;
                    let kept = self.ledger.processed_bytes().saturating_sub(pruned.bytes);
                    kept.saturating_sub(passed_over) > most
                }
                (Keep::Age(_), oldest) => oldest.is_some_and(|at| committed.committed_ms() < at),
            };
            if !goes {
                break;
            }
            let before = *pruned;
            pruned.inputs = committed.sequence();
            if !committed.batch().is_processed() {
                continue;
            }
            pruned.bytes += committed.batch().identity.size;
            match self.remove(&debt(&committed), source) {
                Ok(()) => {
                    if let Some((_, failure)) = stays.take() {
                        tell_of_one_that_stays(failure);
                    }
                }
                Err(failure @ (Failure::Fatal(_) | Failure::Stopped)) => return Err(failure),
                Err(failure) => stays = stays.or(Some((before, failure))),
            }
        }
        match stays {
            None => Ok(()),
            Some((before, failure)) => {
                *pruned = before;
                Err(failure)
            }
        }
    }

    /// An input was archived when those around it had been pruned: it is pruned as well. When that cannot be
    /// done, it stays.
    pub(super) fn prune_late(&mut self, debt: &Debt, source: &dyn Source) {
        let Some(folder) = source.as_folder().filter(|_| self.keeping.inputs.is_some()) else {
            return;
        };
        if debt.fate != Fate::Processed {
            return;
        }
        let removed = self.ledger.pruned().and_then(|pruned| {
            if debt.sequence <= pruned.inputs { self.remove(debt, folder) } else { Ok(()) }
        });
        if let Err(failure) = removed {
            let file = crate::telemetry::text(&debt.name);
            let error = failure.into_error();
            tracing::warn!(file, error = %format!("{error:#}"), "the file stays in the archive");
        }
    }

    /// Removes one input from the archive, if it is there, and if no later microbatch was made of it.
    fn remove(&self, debt: &Debt, source: &FolderSource) -> Result<()> {
        if self.ledger.has_later(&debt.name, &debt.identity, debt.sequence)? {
            return Ok(());
        }
        let named = self.ledger.archived_name(debt.sequence)?;
        let found = source.archiver().find_archived(source.folder(), debt, named.as_deref());
        let Some((dir, name)) = found else { return Ok(()) };
        // What an earlier configuration has left in the drop folder was not moved, and stays.
        if name.as_bytes().starts_with(PROCESSED.as_bytes()) {
            return Ok(());
        }
        let mut archives = source.archiver().archives();
        let Some(archive) = archives.find(|archive| dir.path().starts_with(archive)) else {
            return Ok(());
        };
        dir.unlink(&name)?;
        let own = Path::new(&debt.name).file_name().unwrap_or_default();
        if let Some(mut marker) = source.rules().marker_of(own) {
            // It has the number after its name that the file has.
            let number = name.as_bytes().strip_prefix(own.as_bytes()).unwrap_or_default();
            marker.push(OsStr::from_bytes(number));
            dir.unlink(&marker)?;
        }
        if dir.path() != source.folder().path() {
            remove_empty(dir.path(), archive);
        }
        Ok(())
    }

    /// Moves the end of what was pruned of the history over the next microbatches that are old enough.
    fn prune_history(&self, age: Duration, pruned: &mut Pruned, is_folder: bool) -> Result<()> {
        let at = before(age);
        let mut below = u64::MAX;
        if is_folder && self.keeping.inputs.is_some() {
            below = pruned.inputs;
        }
        for committed in self.ledger.done_after(pruned.history, STEP)? {
            let sequence = committed.sequence();
            if committed.committed_ms() >= at || sequence > below {
                break;
            }
            pruned.history = sequence;
            if sequence > pruned.inputs {
                // Nobody will know of it any more, and its bytes are nobody's to count.
                pruned.inputs = sequence;
                pruned.bytes += if committed.batch().is_processed() {
                    committed.batch().identity.size
                } else {
                    0
                };
            }
        }
        Ok(())
    }
}

/// An archived input cannot be removed, though others can: it is passed over.
fn tell_of_one_that_stays(failure: Failure) {
    let error = failure.into_error();
    tracing::warn!(error = %format!("{error:#}"), "a file stays in the archive");
}

/// Removes the folders from this one up to the archive in which nothing is left. One that is used, or that may
/// not be removed, stays.
fn remove_empty(folder: &Path, archive: &Path) {
    let within = folder.ancestors().take_while(|folder| *folder != archive);
    for folder in within.filter(|folder| folder.starts_with(archive)) {
        let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else { return };
        let removed = Dir::open(parent).and_then(|parent| parent.remove_if_empty(name));
        if removed.is_err() || folder.is_dir() {
            return;
        }
    }
}

/// So long ago, in milliseconds since 1970.
fn before(age: Duration) -> i64 {
    now_ms().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}
