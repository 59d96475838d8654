//! Where inputs come from: one folder of code for each kind of source.
//!
//! Invariants: an input is offered once, until it is given back; one that is acknowledged is never offered again.
//!
//! Out of scope: what is in an input. The ledger decides what was consumed, a source only hears of it.

pub mod folder;
#[cfg(debug_assertions)]
pub mod log;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::failure::Result;
use crate::microbatch::Progress;
use crate::record::{Home, Identity, Named};
use folder::FolderSource;
use folder::input::{self, Writers};
use folder::stamp::Stamp;

/// A place that inputs come from.
///
/// Names are what a log line calls an input. Keys give the order in which inputs are taken.
pub trait Source: Acknowledge {
    /// Looks for new inputs, if that is due or something has told of some. Called in each round, before anything
    /// is taken.
    ///
    /// # Errors
    /// `Transient` when the source cannot be reached: it may come back.
    fn poll(&mut self) -> Result<()>;

    /// Returns the next complete input in order, if there is one now.
    ///
    /// # Errors
    /// `Transient` when nothing can be opened at all just now; the input keeps its place.
    fn take(&mut self) -> Result<Option<Input>>;

    /// True when an input cannot be committed before those that were taken before it.
    fn is_ordered(&self) -> bool {
        false
    }

    /// Takes back an input that changed, or was not needed after all: it is offered again.
    fn give_back(&mut self, input: Input);

    /// Takes back an input that cannot be processed yet: it is offered again later.
    fn put_off(&mut self, input: Input, why: Why);

    /// The job ends: from now on only what is complete is offered, or becomes so by being left alone, and nothing
    /// from `last` on.
    fn close(&mut self, last: Option<Key>);

    /// The input of this key did not end the job after all.
    fn reopen(&mut self, key: &Key);

    /// True once everything has been offered that is to be, after [`Source::close`].
    fn is_drained(&self) -> bool;

    /// True when the job could end before `key` without waiting for an input that stands before it.
    fn is_drained_before(&self, key: &Key) -> bool;

    /// When there may be more to take or to acknowledge, hints aside.
    fn next_due(&self) -> Instant;

    /// The name of the next input, if one is due and known by its name.
    fn next_name(&self) -> Option<&OsStr>;

    /// True when [`Source::take`] is likely to have an input. Where it is false, results of views are made, and
    /// no disk is looked at.
    fn has_more(&self) -> bool {
        self.next_name().is_some()
    }

    /// True while inputs are there that are taken now, or as soon as they are complete.
    fn is_under_way(&self) -> bool;

    /// An input that is complete and cannot be taken just now, if there is one, and why.
    fn put_off_for_now(&self) -> Option<(&OsStr, &'static str)>;

    /// The inputs that are not done, counted.
    fn backlog(&self) -> Backlog<'_>;

    /// Where an input was, for a source whose place may be replaced by another of its name.
    fn home_of(&self, _input: &Input) -> Option<Home> {
        None
    }

    /// The drop folder, where it is one: only there are inputs archived as files, and pruned.
    fn as_folder(&self) -> Option<&FolderSource> {
        None
    }
}

/// How a source hears that an input is committed.
///
/// The ledger decides what was consumed. What is done here may be lost in a crash, and is done again.
pub trait Acknowledge: Send {
    /// An input is committed: it is never offered again. [`Acknowledge::archive`] does the rest. A failed one has
    /// to be kept where a person finds it; a source that cannot do so is given none.
    fn acknowledge(&mut self, debt: Debt, input: Input);

    /// An earlier process has committed an input and left it. Called at the start, before anything is taken.
    fn owes(&mut self, debt: Debt);

    /// Does for committed inputs what is to be done, and tries again what is due. Stops after an input that was
    /// altered, until the ledger knows.
    ///
    /// # Errors
    /// When it concerns more than one input. One for which nothing can be done now is tried again.
    fn archive(&mut self) -> Result<()>;

    /// Makes durable what was done.
    fn sync(&mut self) -> Result<()>;

    /// True when [`Acknowledge::sync`] has something to make durable.
    fn is_unsynced(&self) -> bool;

    /// Takes the news for the ledger.
    fn take_acknowledged(&mut self) -> Acknowledged;

    /// An input that was altered after its commit, and where it was set aside. It counts as archived after
    /// [`Acknowledge::altered_is_told`].
    fn next_altered(&self) -> Option<&(Debt, PathBuf)> {
        None
    }

    /// The ledger knows of [`Acknowledge::next_altered`].
    fn altered_is_told(&mut self) {}

    /// The input for which nothing could be done most often, and how often that was tried.
    fn stuck(&self) -> Option<(&OsStr, u32)> {
        None
    }

    /// The job ends.
    fn leave(&mut self) {}
}

/// The inputs that are not done.
#[derive(Debug, Default)]
pub struct Backlog<'a> {
    /// Known and not done.
    pub pending: usize,
    /// Of these, not complete yet.
    pub waiting: usize,
    /// Set aside, and still there.
    pub failed: u64,
    /// How long the one that has waited longest has been unchanged.
    pub oldest: Option<Duration>,
    /// One whose records do not fit on the disk.
    pub no_room: Option<&'a OsStr>,
    /// Those whose command has asked to be tried later.
    pub later: Vec<&'a OsStr>,
}

/// A complete input, taken.
#[derive(Debug)]
pub struct Input {
    /// Where it stands in the order, and its name.
    pub key: Key,
    /// Where its bytes are.
    pub body: Body,
    /// True when it may no longer be taken for still arriving.
    pub grace_over: bool,
    /// The microbatch that it becomes if everything before it does.
    pub expected: u64,
}

/// The bytes of an input.
#[derive(Debug)]
pub enum Body {
    /// A file, open for reading, and its stamp when it was found complete.
    File(File, Stamp),
    /// Messages of a partitioned source, a line each.
    Messages(Messages),
}

/// Consecutive messages from the partitions of a source.
#[derive(Debug)]
pub struct Messages {
    /// Their values, each with a line end.
    pub bytes: Vec<u8>,
    /// The ranges that they are from.
    pub progress: Vec<Progress>,
    /// When the first of them came.
    pub since: Instant,
}

impl Input {
    /// Its name: relative to the folder, or the ranges of its messages.
    pub fn name(&self) -> &OsStr {
        &self.key.name
    }

    /// Bytes of it, compressed ones as they are.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::File(_, stamp) => stamp.size,
            Body::Messages(messages) => messages.bytes.len() as u64,
        }
    }

    /// How long it had been what it is when it was found complete.
    pub fn waited(&self) -> Duration {
        match &self.body {
            Body::File(_, stamp) => stamp.age(),
            Body::Messages(messages) => messages.since.elapsed(),
        }
    }

    /// Which input it is, with this content.
    pub fn identity(&self, hash: [u8; 32]) -> Identity {
        let (inode, modified_ns) = match &self.body {
            Body::File(_, stamp) => (stamp.inode, stamp.modified_ns),
            Body::Messages(_) => (0, 0),
        };
        Identity { inode, size: self.size(), modified_ns, hash }
    }

    /// The ranges that it takes from the partitions of its source.
    pub fn progress(&self) -> &[Progress] {
        match &self.body {
            Body::File(..) => &[],
            Body::Messages(messages) => &messages.progress,
        }
    }

    /// The file, and its stamp when it was found complete.
    pub fn opened(&self) -> Option<(&File, &Stamp)> {
        match &self.body {
            Body::File(file, stamp) => Some((file, stamp)),
            Body::Messages(_) => None,
        }
    }

    /// Reads bytes from `at` on; returns how many.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
        match &self.body {
            Body::File(file, _) => file.read_at(buffer, at),
            Body::Messages(messages) => {
                let at = usize::try_from(at).unwrap_or(usize::MAX).min(messages.bytes.len());
                messages.bytes.get(at..).unwrap_or_default().read(buffer)
            }
        }
    }

    /// BLAKE3 over all of it. A signal is heard meanwhile.
    ///
    /// # Errors
    /// When it cannot be read, or when the work is to stop.
    pub fn hash(&self) -> std::io::Result<[u8; 32]> {
        input::hash_by(|buffer, at| self.read_at(buffer, at))
    }

    /// True when nothing has touched it since it was found complete.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn is_unchanged(&self) -> std::io::Result<bool> {
        match &self.body {
            Body::File(file, stamp) => Ok(Stamp::of_file(file)? == *stamp),
            Body::Messages(_) => Ok(true),
        }
    }

    /// True when somebody may change it: it is open for writing, or has been changed.
    pub fn is_written(&self) -> bool {
        self.opened().is_some_and(|(file, _)| input::writers(file) == Writers::Some)
            || !self.is_unchanged().unwrap_or(false)
    }
}

/// A name with its place in the order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Sorts before the name; empty under `order = "name"`.
    pub rank: Box<[u8]>,
    /// Relative to the folder; of messages, their ranges.
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
