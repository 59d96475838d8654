//! A microbatch after its commit.
//!
//! Invariants: only the ledger makes a [`Committed`].

use crate::microbatch::{Microbatch, Owed, Position};

/// A microbatch that happened.
#[derive(Debug)]
pub struct Committed {
    pub(super) sequence: u64,
    pub(super) batch: Microbatch,
    pub(super) starts: Vec<Position>,
}

impl Committed {
    /// Its number, from 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When it was made, in milliseconds since 1970.
    pub fn committed_ms(&self) -> i64 {
        self.batch.at_ms
    }

    /// The microbatch.
    pub fn batch(&self) -> &Microbatch {
        &self.batch
    }

    /// The bytes that it owes to its targets.
    pub fn owed(&self) -> impl Iterator<Item = Owed<'_>> {
        let both = self.batch.additions.iter().zip(&self.starts);
        both.map(|(addition, at)| Owed {
            sequence: self.sequence,
            name: &self.batch.name,
            at: *at,
            addition,
        })
    }
}
