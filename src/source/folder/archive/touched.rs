//! The directories in which files were renamed, until that is durable.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::report::Reported;
use super::{Archiver, shelter};
use crate::durable::{self, Dir, Likeness};
use crate::failure::Result;

/// The directories whose names have changed and are not durable yet.
#[derive(Debug, Default)]
pub struct Touched {
    dirs: BTreeMap<PathBuf, Dir>,
    /// The drop folder itself, which is held open anyway.
    folder: bool,
    archive: bool,
    shelter: Option<Arc<Dir>>,
    reports: Vec<Reported>,
}

impl Touched {
    /// Makes all renames durable; returns the reports that were written since.
    pub fn sync(&mut self, folder: &Dir, archiver: &Archiver) -> durable::Result<Vec<Reported>> {
        // The target first: a name may be in both for a moment, but never in neither.
        if let Some(target) = archiver.target().filter(|_| self.archive) {
            target.sync("archive directory")?;
        }
        for dir in self.dirs.values() {
            dir.sync("input subdirectory")?;
        }
        if self.folder {
            folder.sync("input directory")?;
        }
        // What is still in it is in the ledger: last, since nothing is lost with it.
        if let Some(shelter) = &self.shelter {
            shelter.sync("input directory")?;
        }
        Ok(std::mem::take(self).reports)
    }

    /// A report was written.
    pub(super) fn reported(&mut self, report: Reported) {
        self.reports.push(report);
    }

    /// Announces the number of files of this folder to be archived. True when they are many.
    pub fn expect(&mut self, files: usize, folder: &Dir) -> durable::Result<bool> {
        if files < shelter::CROWD || self.shelter.is_some() {
            return Ok(files >= shelter::CROWD);
        }
        self.shelter = shelter::make(folder)?.map(Arc::new);
        Ok(true)
    }

    /// The shelter, where there is one by now.
    pub(super) fn shelter(&self) -> Option<Arc<Dir>> {
        self.shelter.clone()
    }

    /// The shelter of this folder, where an earlier process may have left files.
    pub(super) fn shelter_of(&mut self, folder: &Dir) -> durable::Result<Option<Arc<Dir>>> {
        if self.shelter.is_none() {
            self.shelter = shelter::find(folder)?.map(Arc::new);
        }
        Ok(self.shelter())
    }

    /// The job ends: what it needs no more is removed.
    pub fn leave_folder(&mut self, folder: &Dir) -> durable::Result<()> {
        self.shelter = None;
        shelter::remove(folder)
    }

    /// A file was renamed in this subfolder of the drop folder, or in the folder itself.
    pub fn renamed_in(&mut self, subdirectory: Option<Dir>) {
        match subdirectory {
            Some(dir) => {
                self.dirs.insert(dir.path().to_owned(), dir);
            }
            None => self.folder = true,
        }
    }

    /// Adds the renames of another thread.
    pub fn merge(&mut self, other: Self) {
        self.dirs.extend(other.dirs);
        self.folder |= other.folder;
        self.archive |= other.archive;
        self.reports.extend(other.reports);
        self.shelter = self.shelter.take().or(other.shelter);
    }

    /// An earlier process may have moved a file to the archive.
    pub fn recovers(&mut self, has_archive: bool) {
        self.archive |= has_archive;
    }

    /// The archive folder is left for another one.
    pub fn leave(&mut self, target: &Dir) -> durable::Result<()> {
        if std::mem::take(&mut self.archive) {
            target.sync("archive directory")?;
        }
        Ok(())
    }

    /// The folder in the archive that corresponds to the one in `folder` that `name` is in, created when missing;
    /// `None` for the archive folder itself.
    pub fn below(&mut self, target: &Dir, folder: &Dir, name: &OsStr) -> Result<Option<Dir>> {
        self.archive = true;
        let parent = Path::new(name).parent().filter(|parent| !parent.as_os_str().is_empty());
        let Some(parent) = parent else { return Ok(None) };
        let path = target.path().join(parent);
        if !path.is_dir() {
            let all: Vec<&Path> =
                parent.ancestors().filter(|above| !above.as_os_str().is_empty()).collect();
            for below in all.into_iter().rev() {
                let like = folder
                    .path()
                    .join(below)
                    .symlink_metadata()
                    .ok()
                    .filter(std::fs::Metadata::is_dir)
                    .map(|metadata| Likeness::of(&metadata));
                durable::create_dir_like(&target.path().join(below), like)?;
            }
        }
        // Their names may have been made by a process that was killed before they were durable.
        for above in parent.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            let above = target.path().join(above);
            if !self.dirs.contains_key(&above) {
                self.dirs.insert(above.clone(), Dir::open(&above)?);
            }
        }
        self.dirs.insert(path.clone(), Dir::open(&path)?);
        Ok(Some(Dir::open(&path)?))
    }
}
