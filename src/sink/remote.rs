//! A destination on another system: a log that remembers one number.
//!
//! Invariants: the order is always *fence, then read the mark, then publish the rest*. A mark is written
//! together with the records before it, and by [`Remote::publish`] alone: a process that only opens a target
//! changes nothing that another one could take for its own work.
//!
//! Out of scope: whether a mark agrees with the ledger (`publish/agreement.rs`), and when to try again.

use crate::failure::Result;
use crate::microbatch::{Addition, Confirmed, Instance, Mark, Microbatch, Owed, Refusal};

/// Fixes, before the commit, what must not change when an addition is sent again: where it is cut, a name, a
/// sequence number.
pub type Fix = Box<dyn Fn(&Fixing<'_>) -> Result<Vec<u8>> + Send>;

/// An addition that is about to be committed.
pub struct Fixing<'a> {
    /// The number that the microbatch gets.
    pub sequence: u64,
    /// The microbatch, without the addition.
    pub batch: &'a Microbatch,
    /// The addition.
    pub addition: &'a Addition,
    /// As fixed for the addition to this target before; empty at the first one.
    pub before: &'a [u8],
}

/// A system as the ledger knows it when it is opened.
pub struct Opening<'a> {
    /// The last mark that it has confirmed, with the sink's notes.
    pub confirmed: Option<&'a Confirmed>,
    /// The next spans that are owed to it.
    pub owed: &'a [Owed<'a>],
}

/// A system that one or more targets are on, which share one mark. Its calls may take long: they run on a
/// thread of their own.
pub trait Remote: Send {
    /// Connects, fences every earlier owner, and returns what the system holds; `None` where nothing was
    /// ever published.
    ///
    /// # Errors
    /// `Transient` while the system does not answer, `Fatal` when it answers what no later attempt can change.
    fn open(&mut self, known: &Opening<'_>) -> Result<Option<Confirmed>>;

    /// Makes these spans visible in this order, from `from` on, together with the mark after them: all of
    /// that, or nothing. What is too much for one transaction is left for the next call. Returns the mark, and
    /// notes for the next open.
    ///
    /// # Errors
    /// Says what is known of the outcome.
    fn publish(
        &mut self,
        owed: &[Owed<'_>],
        from: Mark,
        instance: Instance,
    ) -> std::result::Result<(Mark, Vec<u8>), NotPublished>;

    /// Called now and then while nothing is to be done.
    fn idle(&mut self) {}

    /// How additions are fixed, where the system wants that.
    fn fix(&self) -> Option<Fix> {
        None
    }
}

/// Why [`Remote::publish`] has returned no mark.
#[derive(Debug)]
pub enum NotPublished {
    /// Nothing is visible: the system does not take these records, whatever is done.
    Refused(Vec<Refusal>),
    /// The system may or may not have done it. It is opened again, and its mark says which.
    Unknown(anyhow::Error),
    /// No later attempt can succeed.
    Stop(anyhow::Error),
}
