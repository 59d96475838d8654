//! The states of one view as a microbatch sees them: those of the ledger, changed by what comes
//! before it in its group.

use super::changes::Changes;
use crate::engine::{Entries, Entry, QueryError, Store};
use crate::failure::Failure;
use crate::ledger::{Ledger, ViewId, merged};
use crate::pipeline::work;

/// The states of one view.
pub struct Overlay<'a> {
    ledger: &'a Ledger,
    view: ViewId,
    /// The ledger has nothing for it.
    is_new: bool,
    /// The changes of the group.
    group: &'a Changes,
    /// The changes of this microbatch.
    own: Changes,
}

/// Why a state could not be had or merged.
pub enum Stored {
    Ledger(Failure),
    Query(QueryError),
}

impl From<QueryError> for Stored {
    fn from(problem: QueryError) -> Self {
        Self::Query(problem)
    }
}

impl Stored {
    pub fn failure(self) -> Failure {
        match self {
            Self::Ledger(failure) => failure,
            Self::Query(problem) => work::failure(problem),
        }
    }
}

impl<'a> Overlay<'a> {
    pub fn new(ledger: &'a Ledger, view: ViewId, group: &'a Changes) -> Result<Self, Failure> {
        let is_new = ledger.is_view_empty(view)?;
        Ok(Self { ledger, view, is_new, group, own: Changes::default() })
    }

    /// True when the ledger has nothing for the view.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The changes.
    pub fn into_changes(self) -> Changes {
        self.own
    }
}

impl Store for Overlay<'_> {
    type Error = Stored;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Stored> {
        match self.own.get(key).or_else(|| self.group.get(key)) {
            Some(changed) => Ok(changed.map(<[u8]>::to_vec)),
            None if self.is_new => Ok(None),
            None => self.ledger.state(self.view, key).map_err(Stored::Ledger),
        }
    }

    fn range(&self, from: &[u8], below: Option<&[u8]>) -> Result<Entries, Stored> {
        let changed = merged(self.group.range(from, below), self.own.range(from, below));
        let mut entries = Entries::default();
        let kept = self.ledger.each_state(self.view, from, below, changed, |key, value| {
            entries.push(key, value);
        });
        kept.map(|()| entries).map_err(Stored::Ledger)
    }

    fn last_below(&self, from: &[u8], below: &[u8]) -> Result<Option<Entry>, Stored> {
        let last = |below: &[u8]| {
            let kept = self.ledger.last_state_below(self.view, from, below);
            kept.map(|kept| kept.map(|(key, _)| key)).map_err(Stored::Ledger)
        };
        let mut below = below.to_vec();
        let mut kept = last(&below)?;
        loop {
            let changed = [self.group, &self.own]
                .map(|changes| changes.last_below(from, &below))
                .into_iter()
                .flatten()
                .map(<[u8]>::to_vec);
            let Some(key) = kept.iter().cloned().chain(changed).max() else {
                return Ok(None);
            };
            // It may be one that was removed.
            if let Some(value) = self.get(&key)? {
                return Ok(Some(Entry { key, value }));
            }
            if kept.as_ref() == Some(&key) {
                kept = last(&key)?;
            }
            below = key;
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.own.put(key, value);
    }

    fn put_all(&mut self, entries: Entries) {
        self.own.put_all(entries);
    }
}
