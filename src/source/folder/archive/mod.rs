//! The archive step after a commit: an input is renamed, moved, deleted or set aside.
//!
//! Invariants:
//! - No step overwrites a file, and every step may be repeated, after a crash too.
//! - A file is first renamed to a hidden name that only its microbatch uses, then compared once more,
//!   and only then given the name that says what became of it. So nothing is named `processed-*` but
//!   what was committed, and a stranger that slips in between is put back.
//! - A file that somebody still writes to waits under its hidden name until that is over.
//! - The renames are durable after [`Touched::sync`], not before.

pub(super) mod background;
mod hidden;
mod names;
mod recovery;
mod report;
mod shelter;
mod touched;
pub(super) mod vanished;

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::input::{self, Writers};
use super::rules::{FAILED, PROCESSED, Rules};
use super::stamp::Stamp;
use crate::durable::{self, Dir};
use crate::failure::{Failure, Result};
use crate::source::{Debt, Fate};
use hidden::{Hidden, hide, put_back, set_aside_altered};
pub use names::REPORT_SUFFIX;
use names::rename_free;
pub use names::{HIDDEN, shown_stem};
use report::report_failure;
pub use report::{begins_with, set_aside_rest};
pub use shelter::CROWD;
pub use touched::Touched;

/// A file that somebody writes to after its commit is looked at again after this time.
const BUSY: Duration = Duration::from_secs(1);

/// Where nobody can be asked whether a file is still written to, one that is to be deleted is kept
/// under its hidden name for this long, and looked at once more.
const HELD: Duration = Duration::from_mins(1);

/// `done.action`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is renamed to `processed-*` where it is.
    #[default]
    Rename,
    /// It is moved to this directory under its own name.
    Move(PathBuf),
    /// It is deleted.
    Delete,
}

/// The result of an archive step.
#[derive(Debug, PartialEq, Eq)]
pub enum Archived {
    /// The file is where it belongs, under this name.
    As(PathBuf),
    /// There is no file of that name any more.
    Gone,
    /// The name is another file now, which is a new one.
    Replaced,
    /// The same, in another folder than the one that the file was in, which may come back.
    Elsewhere,
    /// The file is what is left of the committed one, or more than it: it was set aside under this
    /// name.
    Altered(PathBuf),
    /// Somebody has it open for writing: it waits under a hidden name.
    Busy(Duration),
    /// It is to be deleted, and nobody can be asked who writes to it: it waits under a hidden name.
    Held(Duration),
}

/// Archives the inputs of one job; in place, unless it is told otherwise.
#[derive(Debug, Default)]
pub struct Archiver {
    action: Action,
    target: Option<Dir>,
    /// Where inputs were moved to by earlier configurations.
    earlier: Vec<PathBuf>,
}

impl Archiver {
    /// Opens the directory that inputs are moved to, if they are; `target` is its absolute path, and
    /// `archives` are all to which they ever were.
    pub fn open(
        action: Action,
        target: Option<&Path>,
        mut archives: Vec<PathBuf>,
    ) -> durable::Result<Self> {
        archives.retain(|known| Some(known.as_path()) != target);
        Ok(Self { action, target: target.map(Dir::open).transpose()?, earlier: archives })
    }

    /// The directories that inputs are moved to, and were by earlier configurations.
    pub fn archives(&self) -> impl Iterator<Item = &Path> {
        let target = self.target.as_ref().map(Dir::path);
        target.into_iter().chain(self.earlier.iter().map(PathBuf::as_path))
    }

    /// True when nothing is left of what was processed.
    pub fn deletes(&self) -> bool {
        self.action == Action::Delete
    }

    /// The directory that inputs are moved to, if they are.
    pub fn target(&self) -> Option<&Dir> {
        self.target.as_ref()
    }

    /// The archive folder may have been replaced: what counts is what its path leads to. The one that moves
    /// files there, if so.
    ///
    /// # Errors
    /// When it is gone, or what was moved to the old one cannot be made durable.
    pub fn follow(&self, touched: &mut Touched) -> Result<Option<Self>> {
        let Some(target) = &self.target else { return Ok(None) };
        let Some(there) = target.successor()? else { return Ok(None) };
        tracing::warn!(folder = %there.path().display(), "the archive folder was replaced");
        touched.leave(target)?;
        let earlier = self.earlier.clone();
        Ok(Some(Self { action: self.action.clone(), target: Some(there), earlier }))
    }

    /// Archives the input that was read on `file`, which has this stamp.
    pub fn archive(
        &self,
        folder: &Dir,
        rules: &Rules,
        debt: &Debt,
        (file, stamp): (&File, &Stamp),
        touched: &mut Touched,
    ) -> Result<Archived> {
        self.archive_known(folder, rules, debt, Opened { file, stamp, is_whole: true }, touched)
    }

    /// The same for a file of which it is known whether its content is what was committed.
    fn archive_known(
        &self,
        folder: &Dir,
        rules: &Rules,
        debt: &Debt,
        opened: Opened<'_>,
        touched: &mut Touched,
    ) -> Result<Archived> {
        let Some(place) = Place::there(folder, &debt.name)? else { return Ok(Archived::Gone) };
        let Some(there) = place.dir().stat(place.name)? else { return Ok(Archived::Gone) };
        if !opened.stamp.is_same_file(&Stamp::of(&there)) {
            return Ok(Archived::Replaced);
        }
        // The marker first: one that comes after this belongs to a new file.
        self.archive_marker(&place, rules, debt, touched)?;
        let archived = match hide(&place, debt, touched.shelter())? {
            None => Archived::Gone,
            Some((nook, name)) => {
                let dir = nook.dir(&place);
                let name = name.as_os_str();
                let writers = input::writers_until_closed(opened.file);
                let there = dir.stat(name)?.map(|stat| Stamp::of(&stat));
                if let Some(now) = there.filter(|there| there.is_same_file(opened.stamp)) {
                    let found = Hidden { dir, name, writers, now, is_whole: opened.is_whole };
                    self.conclude(&place, &found, debt, touched)?
                } else {
                    // Another file took the name in that instant; it is nobody's archive.
                    put_back(&place, (dir, name), rules, debt, touched)?;
                    Archived::Replaced
                }
            }
        };
        place.touch(touched);
        Ok(archived)
    }

    /// The file has its hidden name: where it goes from there.
    fn conclude(
        &self,
        place: &Place<'_>,
        &Hidden { dir, name: hidden, writers, ref now, is_whole }: &Hidden<'_>,
        debt: &Debt,
        touched: &mut Touched,
    ) -> Result<Archived> {
        if writers == Writers::Some {
            return Ok(Archived::Busy(BUSY));
        }
        let same = (now.size, now.modified_ns) == (debt.identity.size, debt.identity.modified_ns);
        if !same || !is_whole {
            let name = set_aside_altered(place, (dir, hidden), debt, touched)?;
            return Ok(Archived::Altered(place.dir().path().join(name)));
        }
        let subdirectory;
        let (target, prefix) = match (&debt.fate, &self.action, &self.target) {
            (Fate::Failed(_), ..) => (place.dir(), FAILED),
            (_, Action::Move(_), Some(target)) => {
                subdirectory = touched.below(target, place.folder, &debt.name)?;
                (subdirectory.as_ref().unwrap_or(target), "")
            }
            (_, Action::Delete, _) => {
                let held = HELD.saturating_sub(now.age());
                if writers == Writers::Unknown && !held.is_zero() {
                    return Ok(Archived::Held(held));
                }
                dir.unlink(hidden)?;
                return Ok(Archived::As(place.dir().path().join(place.name)));
            }
            _ => (place.dir(), PROCESSED),
        };
        let sequence = debt.sequence;
        let name = rename_free(dir, hidden, place.name, target, prefix, sequence)?;
        let Some(name) = name else { return Ok(Archived::Gone) };
        if let Fate::Failed(report) = &debt.fate {
            touched.reported(report_failure(target, &name, sequence, report)?);
        }
        Ok(Archived::As(target.path().join(name)))
    }

    fn archive_marker(
        &self,
        place: &Place<'_>,
        rules: &Rules,
        debt: &Debt,
        touched: &mut Touched,
    ) -> Result<()> {
        let Some(marker) = rules.marker_of(place.name) else { return Ok(()) };
        let subdirectory;
        let (target, prefix) = match (&debt.fate, &self.action, &self.target) {
            (Fate::Failed(_), ..) => (place.dir(), FAILED),
            (_, Action::Delete, _) => return Ok(place.dir().unlink(&marker)?),
            (_, Action::Move(_), Some(target)) => {
                subdirectory = touched.below(target, place.folder, &debt.name)?;
                (subdirectory.as_ref().unwrap_or(target), "")
            }
            _ => (place.dir(), PROCESSED),
        };
        rename_free(place.dir(), &marker, &marker, target, prefix, debt.sequence)?;
        Ok(())
    }
}

/// A file that is open, and whether its content is known to be what was committed.
#[derive(Clone, Copy)]
struct Opened<'a> {
    file: &'a File,
    stamp: &'a Stamp,
    is_whole: bool,
}

fn stamp_of(file: &File) -> Result<Stamp> {
    Stamp::of_file(file).map_err(|error| Failure::Transient(error.into()))
}

/// The directory that a name is in, and the name there.
struct Place<'a> {
    folder: &'a Dir,
    subdirectory: Option<Dir>,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    fn of(folder: &'a Dir, name: &'a OsStr) -> std::io::Result<Self> {
        let subdirectory = input::open_parent(folder, name)?;
        Ok(Self { folder, subdirectory, name: Path::new(name).file_name().unwrap_or(name) })
    }

    /// The same; `None` when the directory is gone.
    fn there(folder: &'a Dir, name: &'a OsStr) -> Result<Option<Self>> {
        match Self::of(folder, name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            place => place.map(Some).map_err(|error| Failure::Transient(error.into())),
        }
    }

    fn dir(&self) -> &Dir {
        self.subdirectory.as_ref().unwrap_or(self.folder)
    }

    fn touch(self, touched: &mut Touched) {
        touched.renamed_in(self.subdirectory);
    }
}

/// True when `name` leads to the very file of this stamp.
fn is_second_name(dir: &Dir, name: &OsStr, stamp: &Stamp) -> bool {
    let there = dir.stat(name).ok().flatten().map(|stat| Stamp::of(&stat));
    there.is_some_and(|there| there.is_same_file(stamp))
}

/// Removes the input's own name where it leads to the file of this stamp.
fn remove_second_name(place: &Place<'_>, stamp: &Stamp) -> Result<()> {
    if is_second_name(place.dir(), place.name, stamp) {
        place.dir().unlink(place.name)?;
    }
    Ok(())
}
