//! The nouns of a commit: a target, where it ends, what a microbatch adds to it.
//!
//! Out of scope: the commit itself. Only the ledger makes a [`crate::ledger::Committed`].

use std::ffi::{OsStr, OsString};

use crate::durable::Likeness;
use crate::record::{Counts, Home, Identity};

/// A file that is appended to, by its row in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target(pub(crate) i64);

/// Where the next span of a target begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Counts up each time the file was taken away.
    pub generation: u64,
    /// Bytes committed to this generation.
    pub end: u64,
}

/// The last span of a target that the ledger knows of: what a file ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastSpan {
    /// Where it begins.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// CRC-32 over them.
    pub checksum: u32,
}

/// Which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// Its inode.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970, where the file system says so.
    pub born_ns: Option<i64>,
}

impl FileId {
    /// False for another file, as far as can be known.
    pub fn is_same(&self, other: &Self) -> bool {
        let born = self.born_ns.zip(other.born_ns);
        self.inode == other.inode && born.is_none_or(|(one, other)| one == other)
    }
}

/// The file of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputFile {
    /// The generation that it is of.
    pub generation: u64,
    /// Which file it is; `None` while there is none, or where it is not known.
    pub id: Option<FileId>,
    /// Mode and owner of it, or of the one before it.
    pub like: Likeness,
}

/// How far a remote target has come: everything before this record of this microbatch is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    /// The microbatch.
    pub microbatch: u64,
    /// The record of it, from 0, counted over all targets that share the mark.
    pub record: u64,
}

impl Mark {
    /// After all of a microbatch.
    pub fn after(microbatch: u64) -> Self {
        Self { microbatch: microbatch + 1, record: 0 }
    }

    /// The last microbatch of which something is before the mark.
    pub fn last(&self) -> u64 {
        if self.record == 0 { self.microbatch.saturating_sub(1) } else { self.microbatch }
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { microbatch, record } = self;
        write!(formatter, "record {record} of microbatch {microbatch}")
    }
}

/// One start of a job: 16 bytes by chance. They stand beside each mark that it writes, so that two processes
/// with copies of one ledger are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance(pub [u8; 16]);

impl std::fmt::Display for Instance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A confirmed mark, with notes of the sink that are given back to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    /// The mark, and who wrote it.
    pub held: Held,
    /// For the sink alone: an offset, a message id.
    pub notes: Vec<u8>,
}

/// A mark, as a remote target remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How far it has come.
    pub mark: Mark,
    /// Who wrote that.
    pub instance: Instance,
}

/// The bytes that a microbatch adds to a target.
#[derive(Debug)]
pub struct Addition {
    /// Which target.
    pub target: Target,
    /// The bytes.
    pub payload: Payload,
    /// How many.
    pub length: u64,
    /// CRC-32 over them.
    pub checksum: u32,
    /// Bytes at the beginning of the payload that are not part of the addition.
    pub skip: u64,
    /// CRC-32 over what is skipped and the bytes together: a header counts only where the target
    /// begins.
    pub whole_checksum: u32,
    /// Fixed by its sink at the commit, so that no later attempt changes it: where it is cut, a name, a sequence
    /// number. Only a remote sink fixes anything.
    pub fixed: Vec<u8>,
    /// The records of it that a remote target has refused, from 0: it is published without them.
    pub refused: Vec<u64>,
}

impl Addition {
    /// One that is in memory, without a header.
    pub fn of_bytes(target: Target, bytes: Vec<u8>) -> Self {
        let checksum = crc32fast::hash(&bytes);
        Self {
            target,
            length: bytes.len() as u64,
            payload: Payload::Memory(bytes),
            checksum,
            skip: 0,
            whole_checksum: checksum,
            fixed: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Where the target begins with this addition, the header that its payload begins with is part of it.
    pub fn place(&mut self, begins: bool) {
        let skip = usize::try_from(self.skip).unwrap_or(usize::MAX);
        if begins {
            (self.length, self.checksum) = (self.length + self.skip, self.whole_checksum);
            self.skip = 0;
        } else if let Payload::Memory(bytes) = &mut self.payload {
            bytes.drain(..skip.min(bytes.len()));
            self.skip = 0;
        }
    }
}

/// Where the bytes of a span are until they are durable in their target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// In the ledger.
    Memory(Vec<u8>),
    /// In the staging file of this name.
    File(OsString),
}

/// How far a source has come in one partition: everything from `from` to before `to` is in a microbatch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: Box<str>,
    /// The position of the first message.
    pub from: u64,
    /// The position after the last one.
    pub to: u64,
}

/// A microbatch that is ready to be committed.
#[derive(Debug)]
pub struct Microbatch {
    /// The input's name relative to the drop folder.
    pub name: OsString,
    /// Which file it was.
    pub identity: Identity,
    /// Where the file was, if that is known.
    pub home: Option<Home>,
    /// Why the input goes to quarantine, if it does; then nothing is added.
    pub quarantined: Option<String>,
    /// Its additions.
    pub additions: Vec<Addition>,
    /// When it was made, in milliseconds since 1970: what `now()` was for its records.
    pub at_ms: i64,
    /// True when the job ends with it, and something is to be made of the whole output then.
    pub ends: bool,
    /// Its records.
    pub counts: Counts,
    /// How long the file had been what it is when it was taken, in milliseconds.
    pub waited_ms: u64,
    /// The watermark that it leaves, in microseconds since 1970; that of the one before unless given.
    pub watermark: Option<i64>,
    /// An earlier microbatch whose file had the same content.
    pub duplicate_of: Option<u64>,
    /// Nothing was made of the file, since its content had been processed before.
    pub skipped: bool,
    /// The microbatch that somebody has asked to repeat.
    pub again_of: Option<u64>,
    /// The ranges that it takes from the partitions of its source.
    pub progress: Vec<Progress>,
    /// Records that a remote target has refused, if the microbatch was made to say so.
    pub refusals: Vec<Refusal>,
}

/// A record that a remote target does not take, whatever is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The microbatch that it is of.
    pub sequence: u64,
    /// The target.
    pub target: Target,
    /// The number of the record among those of the addition, from 0.
    pub record: u64,
    /// In the words of the target.
    pub reason: String,
    /// The record.
    pub raw: Vec<u8>,
}

impl Microbatch {
    /// One that adds nothing yet.
    pub fn empty(name: OsString, identity: Identity, at_ms: i64) -> Self {
        Self {
            name,
            identity,
            home: None,
            quarantined: None,
            additions: Vec::new(),
            at_ms,
            ends: false,
            counts: Counts::default(),
            waited_ms: 0,
            watermark: None,
            duplicate_of: None,
            skipped: false,
            again_of: None,
            progress: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// One that no file made: the clock closed windows, or a view was rebuilt.
    pub fn without_input(at_ms: i64) -> Self {
        let identity = Identity { inode: 0, size: 0, modified_ns: 0, hash: [0; 32] };
        Self::empty(OsString::new(), identity, at_ms)
    }

    /// False for one that no file made.
    pub fn has_input(&self) -> bool {
        !self.name.is_empty()
    }

    /// True when records were made of its file.
    pub fn is_processed(&self) -> bool {
        self.has_input() && self.quarantined.is_none()
    }

    /// The staging files that it names.
    pub fn files(&self) -> impl Iterator<Item = &OsString> {
        self.additions.iter().filter_map(|addition| match &addition.payload {
            Payload::File(name) => Some(name),
            Payload::Memory(_) => None,
        })
    }
}

/// Bytes that a committed microbatch owes to a target.
#[derive(Debug, Clone, Copy)]
pub struct Owed<'a> {
    /// The microbatch's number.
    pub sequence: u64,
    /// The name of its input; empty where it had none.
    pub name: &'a OsStr,
    /// Where they begin.
    pub at: Position,
    /// The bytes, and their target.
    pub addition: &'a Addition,
}
