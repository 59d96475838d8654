//! Where records go: one file for each kind of destination.
//!
//! Invariants: a sink is given what is committed and nothing else. It imports no ledger: what it has to know
//! of one is told to it.
//!
//! Out of scope: what the bytes are. A sink neither encodes nor reads them.

pub mod file;
pub mod folder;
pub mod kafka;
#[cfg(debug_assertions)]
pub mod log;
pub mod remote;
pub mod replaced;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::failure::Result;
use crate::microbatch::{LastSpan, OutputFile, Owed, Position};

/// Where the records of a job go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// One file that is appended to.
    File(PathBuf),
    /// A folder with a file for each microbatch.
    Folder(PathBuf),
    /// A topic of a Kafka cluster.
    Kafka(String),
    /// A log that stands for another system, for the tests.
    #[cfg(debug_assertions)]
    Log(PathBuf),
}

impl Destination {
    /// Its path, where it is on this system.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Folder(path) => Some(path),
            Self::Kafka(_) => None,
            #[cfg(debug_assertions)]
            Self::Log(_) => None,
        }
    }

    /// Its name in the ledger: the path, or the kind and where it is.
    pub fn name(&self) -> Cow<'_, Path> {
        match self {
            Self::File(path) | Self::Folder(path) => Cow::Borrowed(path),
            Self::Kafka(topic) => Cow::Owned(format!("kafka:{topic}").into()),
            #[cfg(debug_assertions)]
            Self::Log(path) => Cow::Owned(format!("log:{}", path.display()).into()),
        }
    }

    /// The system that it is on, by its name in the ledger, if it is another than this one. Targets on one system
    /// share a mark.
    pub fn system(&self) -> Option<String> {
        match self {
            Self::File(_) | Self::Folder(_) => None,
            // A job has one cluster. Where its brokers are may change.
            Self::Kafka(_) => Some("kafka".to_owned()),
            #[cfg(debug_assertions)]
            Self::Log(_) => Some(self.name().display().to_string()),
        }
    }

    /// The folder that must be there before anything is written, where it is on this system.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path.parent().unwrap_or(Path::new("/"))),
            Self::Folder(path) => Some(path),
            Self::Kafka(_) => None,
            #[cfg(debug_assertions)]
            Self::Log(_) => None,
        }
    }

    /// Where a view with a file at this path goes beside it.
    #[must_use]
    pub fn of_view(&self, path: PathBuf) -> Self {
        match self {
            #[cfg(debug_assertions)]
            Self::Log(log) => Self::Log(log.clone()),
            _ => Self::File(path),
        }
    }

    /// True when each microbatch becomes a file of its own, which is never appended to.
    pub fn is_folder(&self) -> bool {
        matches!(self, Self::Folder(_))
    }
}

/// A destination where committed bytes become visible.
///
/// Nothing is visible before [`Sink::publish`]. Publishing the same spans again changes nothing. After
/// [`Sink::sync`] they survive a power cut.
pub trait Sink: Send {
    /// Compares the destination with the ledger, once at each start, before anything else is called.
    ///
    /// # Errors
    /// `Halt` when the destination is not what the ledger says: only a person can mend that.
    fn recover(&mut self, start: Start) -> Result<Recovery>;

    /// Returns where the next span can begin. It is called before each commit.
    ///
    /// # Errors
    /// `Halt` when the destination is not what the ledger says.
    fn observe(&mut self, next: Next<'_>) -> Result<Position>;

    /// Makes these spans visible, in this order.
    ///
    /// # Errors
    /// After any error the same spans are published again, after others of them may have become visible.
    fn publish(&mut self, owed: &[Owed<'_>]) -> Result<()>;

    /// Makes everything published durable. Until it has returned the ledger keeps the bytes.
    fn sync(&mut self) -> Result<()>;

    /// The files that the ledger has to be told of. They must be durable. Only a sink that appends to a file has
    /// any.
    fn news(&mut self) -> Vec<OutputFile> {
        Vec::new()
    }

    /// Removes a staged file that nothing needs any more, if it waits in this destination. Returns whether it does.
    fn discard(&self, _name: &OsStr) -> Result<bool> {
        Ok(false)
    }
}

/// A destination as the ledger knows it at a start.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Where the last committed span ends.
    pub end: Position,
    /// Where the owed spans begin; `end` when nothing is owed.
    pub first: Position,
    /// The span that ends at `first`.
    pub last_span: Option<LastSpan>,
    /// The file as it was seen last.
    pub file: Option<OutputFile>,
}

/// The outcome of comparing a destination with the ledger.
#[derive(Debug)]
pub enum Recovery {
    /// The owed spans can be published where the ledger says.
    Agrees,
    /// The destination was taken away: the owed spans begin a new generation.
    Relocate {
        /// The first bytes of the new generation.
        header: Vec<u8>,
    },
}

/// A destination as the ledger knows it before a commit.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    /// Where the next span would begin.
    pub position: Position,
    /// The number of the last committed microbatch.
    pub committed: u64,
    /// The span that ends at `position`.
    pub last_span: &'a dyn Fn() -> Result<Option<LastSpan>>,
}
