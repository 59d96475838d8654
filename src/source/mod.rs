//! Where inputs come from: one folder of code for each kind of source.
//!
//! Invariants: an input is offered once, until it is given back; one that is acknowledged is never offered again.
//!
//! Out of scope: what is in an input. The ledger decides what was consumed, a source only hears of it.

pub mod folder;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use crate::record::{Home, Identity, Named};
use folder::input::{self, Writers};
use folder::stamp::Stamp;

/// A complete file, taken.
#[derive(Debug)]
pub struct Input {
    /// Where it stands in the order, and its name relative to the folder.
    pub key: Key,
    /// The file, open for reading.
    pub file: File,
    /// Its stamp when it was found complete.
    pub stamp: Stamp,
    /// True when it may no longer be taken for still arriving.
    pub grace_over: bool,
    /// The microbatch that it becomes if everything before it does.
    pub expected: u64,
}

impl Input {
    /// Its name relative to the folder.
    pub fn name(&self) -> &OsStr {
        &self.key.name
    }

    /// Bytes of it, compressed ones as they are.
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    /// How long it had been what it is when it was found complete.
    pub fn waited(&self) -> Duration {
        self.stamp.age()
    }

    /// Which file it is, with this content.
    pub fn identity(&self, hash: [u8; 32]) -> Identity {
        let Stamp { inode, size, modified_ns, .. } = self.stamp;
        Identity { inode, size, modified_ns, hash }
    }

    /// True when nothing has touched the file since it was found complete.
    pub fn is_unchanged(&self) -> std::io::Result<bool> {
        Ok(Stamp::of_file(&self.file)? == self.stamp)
    }

    /// True when somebody may change it: it is open for writing, or has been changed.
    pub fn is_written(&self) -> bool {
        input::writers(&self.file) == Writers::Some || !self.is_unchanged().unwrap_or(false)
    }
}

/// A name with its place in the order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Sorts before the name; empty under `order = "name"`.
    pub rank: Box<[u8]>,
    /// Relative to the folder.
    pub name: Box<OsStr>,
}

/// Why a file is not taken yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has not been unchanged for long enough.
    Settling,
    /// It was taken under another name, and what becomes of that is to be known first.
    InHand,
    /// It has too few lines so far.
    TooFewLines,
    /// Its marker or its trailer is missing.
    RuleUnmet,
    /// Its marker is older than the file: it belongs to an earlier one.
    OldMarker,
    /// Somebody has it open for writing.
    WriterOpen,
    /// It has more than one name.
    HardLinked,
    /// It ends in the middle of its compression.
    Incomplete,
    /// It cannot be read just now.
    Unreadable,
    /// The folder it is in cannot be written to, so that it could not be archived.
    Unmovable,
    /// Its records do not fit on the disk.
    NoRoom,
    /// The command that works on it has asked to be tried later.
    Later,
}

/// The outcome for an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was processed.
    Processed,
    /// It was set aside, for the reasons in this content of `failed-*.error.json`.
    Failed(Vec<u8>),
}

/// A committed input that is to be archived.
#[derive(Debug, Clone)]
pub struct Debt {
    /// Its name relative to the folder.
    pub name: OsString,
    /// Which file it was.
    pub identity: Identity,
    /// Where it was, if that is known.
    pub home: Option<Home>,
    /// Its microbatch's sequence number.
    pub sequence: u64,
    /// Its outcome.
    pub fate: Fate,
}

/// Inputs of which there is news for the ledger.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// Durably out of the way. Where the file is not what was committed any more, its path.
    pub archived: Vec<(Debt, Option<PathBuf>)>,
    /// Names that were given, and are durable; not the usual names of inputs.
    pub named: Vec<Named>,
    /// Of these microbatches the input was not there any more.
    pub gone: Vec<u64>,
    /// Of these microbatches the input may be in another folder that was the drop folder; or is not any more.
    pub elsewhere: Vec<(u64, bool)>,
    /// Files, archived ones among them, that somebody has written to.
    pub written: Vec<PathBuf>,
}
