//! A file that is replaced as a whole, or not at all.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;

use crate::durable::{self, Dir};

/// Files that are being made, which nobody is to find when the process ends before them.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all that is not finished: the process is about to end.
pub fn give_up_all() {
    for path in unfinished().iter() {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Ok(dir) = Dir::open(parent)
        {
            // It is hidden, and no one's output.
            let _ = dir.unlink(name);
        }
    }
}

/// A file that takes the place of another when it is finished, and leaves no trace before.
#[derive(Debug)]
pub struct Replaced {
    place: Option<Successor>,
    /// A device or a pipe, which nothing can take the place of.
    through: Option<File>,
    /// Why nothing may be written, if so.
    refused: Option<String>,
}

#[derive(Debug)]
struct Successor {
    dir: Dir,
    name: OsString,
    temporary: OsString,
    file: File,
    written: u64,
}

impl Replaced {
    /// Will be the file at `path`.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        // Behind a symbolic link it is the file that is replaced, not the link.
        let resolved = path.canonicalize();
        let path = resolved.as_deref().unwrap_or(path);
        let before = path.metadata().ok();
        anyhow::ensure!(!path.is_dir(), "the output {} is a folder", path.display());
        if before.as_ref().is_some_and(|before| !before.is_file()) {
            let file = File::options().write(true).open(path);
            let through = file.with_context(|| format!("open the output {}", path.display()))?;
            return Ok(Self { place: None, through: Some(through), refused: None });
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = Dir::open(parent.unwrap_or(Path::new(".")))?;
        let name = path.file_name().context("the output has no file name")?.to_owned();
        let mut temporary = OsString::from(".");
        temporary.push(&name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        dir.unlink(&temporary)?;
        let file = dir.create_new(&temporary)?;
        unfinished().insert(dir.path().join(&temporary));
        let place = Successor { dir, name, temporary, file, written: 0 };
        let replaced = Self { place: Some(place), through: None, refused: None };
        if let (Some(before), Some(place)) = (before, &replaced.place) {
            place.look_like(&before)?;
        }
        Ok(replaced)
    }

    /// True for a file that is to be there in the end.
    pub fn is_made(&self) -> bool {
        self.place.is_some()
    }

    /// Nowhere, for this reason: nothing must come.
    pub fn refused(reason: String) -> Self {
        Self { place: None, through: None, refused: Some(reason) }
    }

    /// Puts the file in its place.
    pub fn finish(mut self) -> anyhow::Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        let temporary = place.dir.path().join(&place.temporary);
        durable::sync_data(&place.file, &temporary, "batch output")?;
        place.dir.replace(&place.temporary, &place.name)?;
        unfinished().remove(&temporary);
        place.dir.sync("batch output directory")?;
        self.place = None;
        Ok(())
    }
}

impl Successor {
    /// Takes over owner and mode of the file that is to be replaced.
    fn look_like(&self, before: &std::fs::Metadata) -> anyhow::Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        // Only root may give a file away; the mode is then the narrower protection.
        let owner = (Some(before.uid()), Some(before.gid()));
        let _ = std::os::unix::fs::fchown(&self.file, owner.0, owner.1);
        self.file.set_permissions(before.permissions()).context("set the mode of the output")
    }
}

impl Write for Replaced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(reason) = &self.refused {
            return Err(std::io::Error::other(reason.clone()));
        }
        if let Some(through) = &mut self.through {
            return through.write(bytes);
        }
        let Some(place) = &mut self.place else {
            return Err(std::io::Error::other("the file is finished"));
        };
        let path = place.dir.path().join(&place.temporary);
        durable::write_at(&place.file, &path, bytes, place.written)
            .map_err(std::io::Error::other)?;
        place.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            let name: &OsStr = &place.temporary;
            // It is hidden and no one's output; a failure to remove it harms nobody.
            let _ = place.dir.unlink(name);
            unfinished().remove(&place.dir.path().join(name));
        }
    }
}
