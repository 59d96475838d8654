//! An output that is a folder, with one file for each microbatch.
//!
//! Invariants: a file waits in the folder under a hidden name, and one rename makes it visible,
//! so that a reader of the folder sees whole microbatches only. Once its hidden name is gone, a file has been
//! published: what has become of it since is its reader's affair. Within one folder a rename is done
//! or not done, even where a power cut may lose one half of a rename between two.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Next, Recovery, Sink, Start};
use crate::durable::{self, Dir};
use crate::failure::{Failure, Result};
use crate::microbatch::{Owed, Payload, Position};

/// Prefix of the names of waiting files. Readers of such folders skip names that begin with a dot.
pub const WAITING: &str = ".spoolmill-wait-";

/// Says whose files wait here: it holds the path of the state directory. A file without its hidden name
/// counts as published, so that it must not be another folder in which it is looked for.
const OWNER: &str = ".spoolmill-owner";

/// The same, not whole yet.
const OWNER_NEW: &str = ".spoolmill-owner.new";

/// The suffix of a file.
const SUFFIX: &str = ".parquet";

/// Digits of a sequence number: with these, the order of the names is that of the microbatches.
const DIGITS: usize = 16;

/// A folder with a file for each microbatch.
pub struct FolderSink {
    dir: Dir,
    state: PathBuf,
    unsynced: bool,
}

impl FolderSink {
    /// The folder at `path`, of the job whose state is in `state`. What an earlier process has renamed
    /// there may not be durable yet.
    pub fn open(path: &Path, state: &Path) -> Result<Self> {
        Ok(Self { dir: Dir::open(path)?, state: state.to_owned(), unsynced: true })
    }

    /// Makes the file of a microbatch visible, unless it has been before.
    fn publish_part(&mut self, span: &Owed<'_>) -> Result<()> {
        let Payload::File(waiting) = &span.addition.payload else {
            return Err(Failure::fatal("the ledger holds bytes for an output that is a folder"));
        };
        self.unsynced = true;
        let Some(staged) = self.dir.stat(waiting)? else { return Ok(()) };
        let name = name(span.sequence);
        if let Some(there) = self.dir.stat(&name)? {
            if (there.st_dev, there.st_ino) == (staged.st_dev, staged.st_ino) {
                // A rename in two steps, of which one was made.
                return Ok(self.dir.unlink(waiting)?);
            }
            return Err(self.is_taken(&name));
        }
        if self.dir.rename_no_replace(waiting, &self.dir, &name)? {
            return Ok(());
        }
        Err(self.is_taken(&name))
    }

    fn is_taken(&self, name: &OsStr) -> Failure {
        let path = self.dir.path().join(name);
        Failure::halt(format!(
            "{} is there already, and this ledger has not written it: move it away",
            path.display()
        ))
    }
}

impl Sink for FolderSink {
    /// Each file is there or it waits: nothing is compared.
    fn recover(&mut self, _: Start) -> Result<Recovery> {
        Ok(Recovery::Agrees)
    }

    /// The folder must be the one that its path leads to. Where it was replaced, the next file goes to
    /// the new one: what waits in the old one has to be made again.
    fn observe(&mut self, next: Next<'_>) -> Result<Position> {
        let Some(there) = self.dir.successor()? else { return Ok(next.position) };
        let path = there.path().to_owned();
        self.sync()?;
        claim(&path, &self.state, next.committed, false).map_err(Failure::Fatal)?;
        self.dir = there;
        let replaced = format!("the output folder {} was replaced", path.display());
        Err(Failure::Transient(anyhow::anyhow!("{replaced}; going on in the new one")))
    }

    fn publish(&mut self, owed: &[Owed<'_>]) -> Result<()> {
        owed.iter().try_for_each(|span| self.publish_part(span))
    }

    fn sync(&mut self) -> Result<()> {
        if self.unsynced {
            self.dir.sync("output directory")?;
            self.unsynced = false;
        }
        Ok(())
    }

    fn discard(&self, name: &OsStr) -> Result<bool> {
        let is_own = name.as_bytes().starts_with(WAITING.as_bytes());
        if is_own {
            self.dir.unlink(name)?;
        }
        Ok(is_own)
    }
}

/// Makes sure that the folder at `path` is the one that the ledger in `state` has written to so far,
/// up to the microbatch `last`, and still owes files to if `owes` says so.
///
/// # Errors
/// When it is another job's, or not the folder that files are owed to.
pub fn claim(path: &Path, state: &Path, last: u64, owes: bool) -> anyhow::Result<()> {
    let place = path.display();
    let newest = list(path)?.pop().and_then(|part| number(&part));
    anyhow::ensure!(
        newest.is_none_or(|newest| newest <= last),
        "{place} holds files that this ledger has not written, up to number {}: move them away",
        newest.unwrap_or_default()
    );
    let own = state.as_os_str().as_bytes();
    match std::fs::read(path.join(OWNER)) {
        Ok(owner) if owner == own => return Ok(()),
        Ok(owner) if owner.is_empty() => {}
        Ok(owner) => anyhow::bail!(
            "{place} belongs to the job whose state is in {}: choose another folder, or remove {OWNER} \
             from it if that job is no more",
            String::from_utf8_lossy(&owner)
        ),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Err(_) => anyhow::ensure!(
            !owes,
            "{place} is not the folder that committed files are owed to: put that one back, or put an \
             empty file {OWNER} into this one to go on without them"
        ),
    }
    let dir = Dir::open(path)?;
    let new = OsStr::new(OWNER_NEW);
    dir.unlink(new)?;
    let file = dir.create_new(new)?;
    durable::write_at(&file, &path.join(new), own, 0)?;
    durable::sync_data(&file, &path.join(new), "owner of the output")?;
    dir.replace(new, OsStr::new(OWNER))?;
    Ok(dir.sync("output directory")?)
}

/// The number of the microbatch whose file this is.
fn number(part: &Path) -> Option<u64> {
    part.file_stem()?.to_str()?.parse().ok()
}

/// The name of the file of a microbatch.
pub fn name(sequence: u64) -> OsString {
    format!("{sequence:0DIGITS$}{SUFFIX}").into()
}

/// The files in the folder at `path`, in the order of their microbatches.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let is_part = |name: &OsStr| {
        let digits = name.as_bytes().strip_suffix(SUFFIX.as_bytes());
        digits.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name());
    }
    names.retain(|name| is_part(name));
    names.sort();
    Ok(names.into_iter().map(|name| path.join(name)).collect())
}
