//! Requests to take a file again: notes in the state directory, which `spoolmill requeue` leaves
//! before it puts the file back, and the daemon removes when the file is committed.
//!
//! Invariants: a note is about one file, told by inode, size and time, so that one that was left
//! says nothing about a file that came later.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::stamp::Stamp;
use crate::durable::{self, Dir};
use crate::source::Input;

/// The folder in the state directory.
const FOLDER: &str = "requeued";

/// The notes of one job.
#[derive(Debug)]
pub struct Requeued {
    folder: PathBuf,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
struct Note {
    /// The microbatch that is to be repeated.
    microbatch: u64,
    size: u64,
    modified_ns: i64,
}

impl Requeued {
    /// The notes in this state directory.
    pub fn of_state(state: &Path) -> Self {
        Self { folder: state.join(FOLDER) }
    }

    /// The microbatch that this file is to repeat, if somebody asked for that.
    pub fn of(&self, input: &Input) -> Option<u64> {
        let (_, stamp) = input.opened()?;
        let text = std::fs::read(self.folder.join(name(stamp.inode))).ok()?;
        let note: Note = serde_json::from_slice(&text).ok()?;
        let same = (note.size, note.modified_ns) == (stamp.size, stamp.modified_ns);
        same.then_some(note.microbatch)
    }

    /// Notes that the file of this stamp is to repeat a microbatch. Durable when it returns. An
    /// administrator leaves the note, and the daemon's own user has to read and remove it: so what is made
    /// here belongs to the owner of the state directory, and no symbolic link in there is followed.
    pub fn note(&self, stamp: &Stamp, microbatch: u64) -> durable::Result<()> {
        let state = Dir::open(self.folder.parent().unwrap_or(Path::new("/")))?;
        let owner = state.stat_self()?;
        let dir = state.private_subdirectory(OsStr::new(FOLDER), (owner.st_uid, owner.st_gid))?;
        let name = name(stamp.inode);
        let mut temporary = OsString::from(".new-");
        temporary.push(&name);
        dir.unlink(&temporary)?;
        let note = Note { microbatch, size: stamp.size, modified_ns: stamp.modified_ns };
        let text = serde_json::to_vec(&note).expect("three numbers are JSON");
        let file = dir.create_new(&temporary)?;
        let path = self.folder.join(&temporary);
        if let Err(error) = std::os::unix::fs::fchown(&file, Some(owner.st_uid), Some(owner.st_gid))
        {
            tracing::debug!(%error, "a requeue note keeps its owner");
        }
        durable::write_at(&file, &path, &text, 0)?;
        durable::sync_data(&file, &path, "requeue note")?;
        dir.replace(&temporary, &name)?;
        dir.sync("requeue notes")
    }

    /// The file of this inode has been taken.
    pub fn forget(&self, inode: u64) -> durable::Result<()> {
        Dir::open(&self.folder)?.unlink(&name(inode))
    }
}

fn name(inode: u64) -> OsString {
    OsStr::new(&inode.to_string()).to_owned()
}
