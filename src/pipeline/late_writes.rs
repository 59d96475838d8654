//! Writes to an input after it was archived.
//!
//! Invariants: an archived file that is no longer what was committed is looked at once its writer is
//! done; what came later is set aside as `failed-*`, told, and counted in the ledger, so that the next
//! start does not do it again. Files are found by the events that a write makes, and by their size and
//! time when the archive becomes durable: what nobody tells is found by `verify`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Pipeline;
use crate::failure::{Failure, Result};
use crate::ledger::Archive;
use crate::record::{Named, Stands};
use crate::source::folder::FolderSource;
use crate::source::folder::archive::{begins_with, set_aside_rest, shown_stem};
use crate::source::folder::input::{self, Found, Writers};
use crate::source::folder::stamp::Stamp;
use crate::source::{Debt, Source};

/// Bytes that are copied to a file of their own: more stays in the archived file, since its owner could fill
/// the disk with it.
const REST_MAX: u64 = 256 * 1024 * 1024;

/// A writer is done when nothing has changed for this time.
const QUIET: Duration = Duration::from_secs(1);

/// A file with which nothing could be done is looked at again after this time.
const AGAIN: Duration = Duration::from_mins(1);

/// Files that are watched at once. More are not looked at: `verify` finds them.
const WATCHED_MAX: usize = 4096;

/// Archived files that somebody has written to, and when each is looked at.
#[derive(Debug, Default)]
pub struct LateWrites {
    files: HashMap<PathBuf, Instant>,
}

impl LateWrites {
    /// Somebody has written to this file.
    pub fn note(&mut self, path: PathBuf) {
        let due = Instant::now() + QUIET;
        if self.files.len() < WATCHED_MAX || self.files.contains_key(&path) {
            self.files.insert(path, due);
        }
    }

    /// When the next one is looked at.
    pub fn due(&self) -> Option<Instant> {
        self.files.values().min().copied()
    }

    fn take_due(&mut self, now: Instant) -> Vec<PathBuf> {
        let due: Vec<_> = self
            .files
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(path, _)| path.clone())
            .collect();
        self.files.retain(|_, due| *due > now);
        due
    }
}

impl Pipeline {
    /// Looks at the archived files that somebody has written to.
    pub fn look_at_late_writes(&mut self, source: &dyn Source, now: Instant) -> Result<()> {
        let is_due = self.late_writes.due().is_some_and(|due| due <= now);
        let Some(source) = source.as_folder().filter(|_| is_due) else { return Ok(()) };
        for path in self.late_writes.take_due(now) {
            match self.late_write(&path, source) {
                Err(failure @ (Failure::Fatal(_) | Failure::Stopped)) => return Err(failure),
                Err(failure) => {
                    let file = path.display().to_string();
                    let error = failure.into_error();
                    tracing::warn!(file, error = %format!("{error:#}"), "the rest of the file is not set aside yet");
                    self.late_writes.files.insert(path, now + AGAIN);
                }
                Ok(true) => {}
                Ok(false) => self.late_writes.note(path),
            }
        }
        Ok(())
    }

    /// False while somebody still writes to the file.
    fn late_write(&mut self, path: &Path, source: &FolderSource) -> Result<bool> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(true) };
        let Ok(dir) = crate::durable::Dir::open(parent) else { return Ok(true) };
        let Found::File(file, stamp) = input::open(&dir, name) else { return Ok(true) };
        let Some(archive) = self.archived_as(path, &stamp, source)? else { return Ok(true) };
        if (stamp.size, stamp.modified_ns) == (archive.size, archive.identity.modified_ns)
            || archive.is_noted && stamp.size == archive.size
        {
            return Ok(true);
        }
        if input::writers(&file) == Writers::Some || stamp.age() < QUIET {
            return Ok(false);
        }
        let begins = begins_with(&file, archive.identity.size, archive.identity.hash);
        let grew = begins.map_err(|error| Failure::Transient(error.into()))?;
        let from = if grew { archive.size } else { 0 };
        let sequence = archive.sequence;
        let home = home_of(source, &archive.name)?;
        let rest = stamp.size.saturating_sub(from);
        let mut named = Vec::new();
        if rest > REST_MAX {
            let file = path.display().to_string();
            tracing::warn!(
                file,
                rest,
                "what came later is too large to be copied: it stays in the file"
            );
        } else if rest > 0 {
            let what = if grew { "what came later" } else { "its new content" };
            let reason = format!(
                "{} was written to after it was committed as microbatch {sequence}: this is {what}, \
                 from byte {from} on",
                crate::telemetry::escaped(path.as_os_str().as_encoded_bytes())
            );
            let input = Path::new(&archive.name).file_name().unwrap_or(&archive.name);
            let (name, inode, reported) =
                set_aside_rest(&home, input, &file, from, sequence, &reason)?;
            named.push(Named { sequence, stands: Stands::Rest, name, inode, beside: None });
            named.push(reported.into());
        }
        self.ledger.note_altered(sequence, stamp.size, &named)?;
        tell(path, sequence);
        Ok(true)
    }

    /// The microbatch whose input the archived file is.
    fn archived_as(
        &self,
        path: &Path,
        stamp: &Stamp,
        source: &FolderSource,
    ) -> Result<Option<Archive>> {
        let folders = [Some(source.folder()), source.archiver().target()];
        let names = folders.into_iter().flatten().filter_map(|folder| {
            path.strip_prefix(folder.path()).ok().map(|name| shown_stem(name.as_os_str()))
        });
        for names in names {
            if let Some(archive) = self.ledger.archived_as(&names, stamp.inode)? {
                return Ok(Some(archive));
            }
        }
        Ok(None)
    }

    /// An input was found altered on its way to the archive, and was set aside.
    pub(super) fn note_altered(&mut self, debt: &Debt, path: &Path) -> Result<()> {
        let size = path.symlink_metadata().map_or(0, |metadata| metadata.len());
        let name = path.file_name().map(|name| Named {
            sequence: debt.sequence,
            stands: Stands::Input,
            name: name.to_owned(),
            inode: debt.identity.inode,
            beside: None,
        });
        self.ledger.note_altered(debt.sequence, size, name.as_slice())?;
        tell(path, debt.sequence);
        Ok(())
    }
}

fn tell(path: &Path, microbatch: u64) {
    let file = path.display().to_string();
    tracing::warn!(
        file,
        microbatch,
        "the file was written to after it was committed; what came later is not in the output, and is \
         set aside as failed-*"
    );
}

/// The folder that an input of this name comes from.
fn home_of(source: &FolderSource, name: &OsStr) -> Result<crate::durable::Dir> {
    let name: OsString = name.to_owned();
    let parent = input::open_parent(source.folder(), &name)
        .map_err(|error| Failure::Transient(error.into()))?;
    Ok(match parent {
        Some(dir) => dir,
        None => crate::durable::Dir::open(source.folder().path())?,
    })
}
