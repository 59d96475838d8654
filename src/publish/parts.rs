//! An output that is a folder, with one file for each microbatch.
//!
//! What holds here: a file waits in the folder under a hidden name, and one rename makes it visible,
//! so that a reader of the folder sees whole microbatches only. A file that waits no more has been
//! published: what has become of it since is its reader's affair. Within one folder a rename is done
//! or not done, even where a power cut may lose one half of a rename between two.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::ledger::{Payload, Span};

/// What the names begin with under which files wait. Readers of such folders leave out what begins
/// with a dot.
pub const WAITING: &str = ".spoolmill-";

/// The suffix of a file.
const SUFFIX: &str = ".parquet";

/// Digits of a sequence number: with so many, the order of the names is that of the microbatches.
const DIGITS: usize = 16;

/// The files of one output.
pub struct Parts {
    dir: Dir,
    unsynced: bool,
}

impl Parts {
    /// The folder at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { dir: Dir::open(path)?, unsynced: false })
    }

    /// Makes the file of a microbatch visible, unless it has been before.
    pub fn publish(&mut self, sequence: u64, span: Span<'_>) -> Result<()> {
        let Payload::File(waiting) = &span.addition.payload else {
            return Err(Failure::fatal("the ledger holds bytes for an output that is a folder"));
        };
        self.unsynced = true;
        let Some(staged) = self.dir.stat(waiting)? else { return Ok(()) };
        let name = name(sequence);
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

    /// Makes everything published durable.
    pub fn sync(&mut self) -> Result<()> {
        if self.unsynced {
            self.dir.sync("output directory")?;
            self.unsynced = false;
        }
        Ok(())
    }

    fn is_taken(&self, name: &OsStr) -> Failure {
        let path = self.dir.path().join(name);
        Failure::fatal(format!(
            "{} is there already, and this ledger has not written it: move it away",
            path.display()
        ))
    }
}

/// The name of the file of a microbatch.
fn name(sequence: u64) -> OsString {
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
