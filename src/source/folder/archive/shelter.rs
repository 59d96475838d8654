//! The folder for hidden names in the drop folder, while many files are archived at once.
//!
//! Invariants: in a large folder each change of a name costs a search, and so a second rename as much as
//! the first; in a small one it is cheap. A job can do without: then files are hidden beside their own name.

use std::ffi::OsStr;

use crate::durable::{Dir, Result};

/// Its name.
const NAME: &str = ".spoolmill-done";

/// The number of files from which a shelter pays, and a thread that archives them while the next are read.
pub const CROWD: usize = 64;

/// Makes it in this folder, where it can be had.
///
/// # Errors
/// When the folder cannot be synced.
pub fn make(folder: &Dir) -> Result<Option<Dir>> {
    let user = rustix::process::geteuid();
    let group = rustix::process::getegid();
    match folder.private_subdirectory(OsStr::new(NAME), (user.as_raw(), group.as_raw())) {
        Ok(shelter) => own(shelter),
        Err(error) if error.is_sync() => Err(error),
        Err(error) => {
            tracing::debug!(%error, "no folder for hidden names");
            Ok(None)
        }
    }
}

/// The one that is in this folder.
pub fn find(folder: &Dir) -> Result<Option<Dir>> {
    Ok(folder.subdirectory(OsStr::new(NAME))?.map(own).transpose()?.flatten())
}

/// Removes it, if nothing is in it.
pub fn remove(folder: &Dir) -> Result<()> {
    folder.remove_if_empty(OsStr::new(NAME))
}

/// One of somebody else is none. In its own nobody else can do anything, whatever a restore has made of its
/// mode.
fn own(shelter: Dir) -> Result<Option<Dir>> {
    use rustix::fs::{Mode, fchmod};
    let is_own = shelter.stat_self()?.st_uid == rustix::process::geteuid().as_raw();
    let is_private = is_own && fchmod(&shelter, Mode::RWXU).is_ok();
    Ok(is_private.then_some(shelter))
}
