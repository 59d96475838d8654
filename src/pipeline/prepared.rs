//! An input with the microbatch that was made of it.

use std::ffi::OsString;

use super::views::tap::Tapped;
use crate::microbatch::Microbatch;
use crate::record::{self, Counts};
use crate::source::Input;

/// A microbatch that is ready to be committed, and its input.
#[derive(Debug)]
pub struct Prepared {
    /// The input, still open.
    pub input: Input,
    /// The microbatch to commit.
    pub batch: Microbatch,
    /// True when the input ends the job.
    pub ended: bool,
    /// Its changes to the views.
    pub tapped: Tapped,
    /// The watermark that its records were judged by.
    pub watermark: Option<i64>,
    /// Staging files that it has left behind.
    pub discarded: Vec<OsString>,
}

impl Prepared {
    /// It goes to quarantine after all.
    pub fn condemn(&mut self, reason: String) {
        self.empty();
        self.batch.quarantined = Some(record::reason(reason));
        (self.batch.ends, self.ended) = (false, false);
    }

    /// Nothing is made of it, but the end of the job if it says so.
    pub fn skip(&mut self) {
        self.empty();
        self.batch.skipped = true;
    }

    /// Drops everything it would have added.
    fn empty(&mut self) {
        self.discarded.extend(self.batch.files().cloned());
        self.batch.additions.clear();
        self.tapped = Tapped::default();
        self.batch.counts = Counts::default();
    }
}
