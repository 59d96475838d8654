//! The meaning of an error for the current file and for the daemon, decided here and nowhere else.
//!
//! A bad *record* is no failure at all: it leaves as a [`crate::record::Reject`].

use std::io;

use crate::durable;

/// Why an input did not become a microbatch.
#[derive(Debug)]
pub enum Failure {
    /// The file changed while it was read: what was read is dropped, and it settles again.
    Changed,
    /// The file ends in the middle of its compression: it may still be arriving.
    Incomplete(String),
    /// This one file cannot be read just now (permission, a bad sector); the others can.
    Unreadable(io::Error),
    /// The output of this one file does not fit on the disk; that of others may.
    NoRoom(String),
    /// The command asks to try this one file later; the others go on.
    Later(String),
    /// The file as a whole is bad and says why: it goes to quarantine.
    Bad(String),
    /// The world around is in trouble (full disk, unreachable sink): pause, then try again.
    Transient(anyhow::Error),
    /// Going on could lose or repeat data: stop, and recover from the ledger at the next start.
    Fatal(anyhow::Error),
    /// The daemon was told to stop; the microbatch is abandoned before its commit.
    Stopped,
}

/// Nothing but a person can help: damage, a ledger of another job. The exit code says so, and no
/// service manager starts the program again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Halt(pub String);

/// `Result` with [`Failure`] as its error.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A fatal failure with this message.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::Fatal(anyhow::anyhow!(message.into()))
    }

    /// A fatal failure that only a person can end.
    pub fn halt(message: impl Into<String>) -> Self {
        Self::Fatal(Halt(message.into()).into())
    }

    /// The same failure with what was being done put before its cause.
    #[must_use]
    pub fn context(self, doing: &'static str) -> Self {
        match self {
            Self::Transient(error) => Self::Transient(error.context(doing)),
            Self::Fatal(error) => Self::Fatal(error.context(doing)),
            other => other,
        }
    }

    /// As an error for a driver that has nothing to retry with: `batch` and `stream`.
    pub fn into_error(self) -> anyhow::Error {
        match self {
            Self::Changed => anyhow::anyhow!("the file changed while it was read"),
            Self::Incomplete(reason)
            | Self::Bad(reason)
            | Self::NoRoom(reason)
            | Self::Later(reason) => {
                anyhow::anyhow!(crate::record::reason(reason))
            }
            Self::Unreadable(error) => error.into(),
            Self::Transient(error) | Self::Fatal(error) => error,
            Self::Stopped => anyhow::anyhow!("stopped by a signal"),
        }
    }
}

/// A failed fsync is final; any other failure on our side of the fence may pass.
impl From<durable::Error> for Failure {
    fn from(error: durable::Error) -> Self {
        if error.is_sync() { Self::Fatal(error.into()) } else { Self::Transient(error.into()) }
    }
}
