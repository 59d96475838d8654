//! The directories in which files were renamed, until that is durable.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Archiver;
use crate::durable::{self, Dir};
use crate::failure::Result;

/// A folder in the drop folder: in it files have their hidden names when many are archived at once. In a large
/// folder each change of a name costs a search, and so the second rename as much as the first.
const SHELTER: &str = ".spoolmill-done";

/// So many files are worth a shelter, and a thread that archives them while the next are read.
pub const CROWD: usize = 64;

/// The directories whose names have changed and are not durable yet.
#[derive(Debug, Default)]
pub struct Touched {
    dirs: BTreeMap<PathBuf, Dir>,
    /// The drop folder itself, which is held open anyway.
    folder: bool,
    archive: bool,
    shelter: Option<Arc<Dir>>,
}

impl Touched {
    /// Makes all renames durable.
    pub fn sync(&mut self, folder: &Dir, archiver: &Archiver) -> durable::Result<()> {
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
        *self = Self::default();
        Ok(())
    }

    /// So many files of this folder are to be archived. True when they are many.
    pub fn expect(&mut self, files: usize, folder: &Dir) -> durable::Result<bool> {
        if files < CROWD || self.shelter.is_some() {
            return Ok(files >= CROWD);
        }
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        let owner = (user.as_raw(), group.as_raw());
        match folder.private_subdirectory(OsStr::new(SHELTER), owner) {
            Ok(shelter) => self.shelter = own(shelter)?.map(Arc::new),
            Err(error) if error.is_sync() => return Err(error),
            // They are hidden in the folder itself then.
            Err(error) => tracing::debug!(%error, "no folder for hidden names"),
        }
        Ok(true)
    }

    /// The shelter, where there is one by now.
    pub(super) fn shelter(&self) -> Option<Arc<Dir>> {
        self.shelter.clone()
    }

    /// The shelter of this folder, where an earlier process may have left files.
    pub(super) fn shelter_of(&mut self, folder: &Dir) -> durable::Result<Option<Arc<Dir>>> {
        if self.shelter.is_none() {
            let there = folder.subdirectory(OsStr::new(SHELTER))?;
            self.shelter = there.map(own).transpose()?.flatten().map(Arc::new);
        }
        Ok(self.shelter())
    }

    /// The job ends: what it needs no more is removed.
    pub fn leave_folder(&mut self, folder: &Dir) -> durable::Result<()> {
        self.shelter = None;
        folder.remove_if_empty(OsStr::new(SHELTER))
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

    /// What another thread has renamed.
    pub fn merge(&mut self, other: Self) {
        self.dirs.extend(other.dirs);
        self.folder |= other.folder;
        self.archive |= other.archive;
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

    /// The folder in the archive that corresponds to the one `name` is in, created when missing; `None`
    /// for the archive folder itself.
    pub fn below(&mut self, target: &Dir, name: &OsStr) -> Result<Option<Dir>> {
        self.archive = true;
        let parent = Path::new(name).parent().filter(|parent| !parent.as_os_str().is_empty());
        let Some(parent) = parent else { return Ok(None) };
        let path = target.path().join(parent);
        if !path.is_dir() {
            durable::create_dir_all(&path)?;
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

/// A shelter of somebody else is none. In its own nobody else can do anything, whatever a restore has made
/// of its mode.
fn own(shelter: Dir) -> durable::Result<Option<Dir>> {
    use rustix::fs::{Mode, fchmod};
    let is_own = shelter.stat_self()?.st_uid == rustix::process::geteuid().as_raw();
    let is_private = is_own && fchmod(&shelter, Mode::RWXU).is_ok();
    Ok(is_private.then_some(shelter))
}
