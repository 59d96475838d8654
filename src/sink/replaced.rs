//! A file that is replaced as a whole, or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context as _;

use crate::durable::{self, Dir};

/// A file that takes the place of another when it is finished, and leaves no trace before.
#[derive(Debug)]
pub struct Replaced {
    place: Option<Place>,
    /// A device or a pipe, which nothing can take the place of.
    through: Option<File>,
}

#[derive(Debug)]
struct Place {
    dir: Dir,
    name: OsString,
    temporary: OsString,
    file: File,
    written: u64,
    /// Goes to the end of what is there in place of replacing it.
    appends: bool,
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
            return Ok(Self { place: None, through: Some(through) });
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = Dir::open(parent.unwrap_or(Path::new(".")))?;
        let name = path.file_name().context("the output has no file name")?.to_owned();
        let mut temporary = OsString::from(".");
        temporary.push(&name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        dir.unlink(&temporary)?;
        let file = dir.create_new(&temporary)?;
        let place = Place { dir, name, temporary, file, written: 0, appends: false };
        let replaced = Self { place: Some(place), through: None };
        if let (Some(before), Some(place)) = (before, &replaced.place) {
            place.look_like(&before)?;
        }
        Ok(replaced)
    }

    /// Nowhere but standard error.
    pub fn stderr() -> Self {
        Self { place: None, through: None }
    }

    /// Goes to the end of what is there in place of replacing it.
    pub fn append(&mut self) {
        if let Some(place) = &mut self.place {
            place.appends = true;
        }
    }

    /// Puts the file in its place.
    pub fn finish(mut self) -> anyhow::Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        let path = place.dir.path().join(&place.name);
        if place.appends {
            // Dropped, it takes the temporary file with it.
            return place.append(&path);
        }
        let temporary = place.dir.path().join(&place.temporary);
        durable::sync_data(&place.file, &temporary, "batch output")?;
        place.dir.replace(&place.temporary, &place.name)?;
        place.dir.sync("batch output directory")?;
        self.place = None;
        Ok(())
    }
}

impl Place {
    /// Takes over owner and mode of the file that is to be replaced.
    fn look_like(&self, before: &std::fs::Metadata) -> anyhow::Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        // Only root may give a file away; the mode is then the narrower protection.
        let owner = (Some(before.uid()), Some(before.gid()));
        let _ = std::os::unix::fs::fchown(&self.file, owner.0, owner.1);
        self.file.set_permissions(before.permissions()).context("set the mode of the output")
    }

    /// Appends to a file that a daemon may also append to, under its lock.
    fn append(&self, path: &Path) -> anyhow::Result<()> {
        if self.written == 0 {
            return Ok(());
        }
        let lock = durable::lock(&durable::lock_of(path))?;
        anyhow::ensure!(
            lock.is_some(),
            "a daemon is writing to {}: stop it, or give this batch a job file with another \
             rejects.path",
            path.display()
        );
        let file = File::options().create(true).append(true).open(path)?;
        let mut new = self.dir.open_existing(&self.temporary)?;
        std::io::copy(&mut new, &mut &file)?;
        Ok(durable::sync_data(&file, path, "batch rejects")?)
    }
}

impl Write for Replaced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(through) = &mut self.through {
            return through.write(bytes);
        }
        let Some(place) = &mut self.place else {
            // Without an output file the job has no place for rejects but standard error.
            return std::io::stderr().write(bytes);
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
        }
    }
}
