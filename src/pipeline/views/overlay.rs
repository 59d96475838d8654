//! The states of one view as a microbatch sees them: those of the ledger, changed by what comes
//! before it in its group.

use std::collections::BTreeMap;

use crate::engine::{Entry, Problem, Store};
use crate::failure::Failure;
use crate::ledger::{Ledger, ViewId};
use crate::pipeline::work;

/// What was put, and what was removed.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The states of one view.
pub struct Overlay<'a> {
    ledger: &'a Ledger,
    view: ViewId,
    /// The ledger has nothing for it.
    is_new: bool,
    /// What the group has changed.
    group: &'a Changes,
    /// What this microbatch has changed.
    own: Changes,
}

/// Why a state could not be had or merged.
pub enum Stored {
    Ledger(Failure),
    Query(Problem),
}

impl From<Problem> for Stored {
    fn from(problem: Problem) -> Self {
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
        Ok(Self { ledger, view, is_new, group, own: Changes::new() })
    }

    /// What was changed.
    pub fn into_changes(self) -> Changes {
        self.own
    }
}

impl Store for Overlay<'_> {
    type Error = Stored;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Stored> {
        match self.own.get(key).or_else(|| self.group.get(key)) {
            Some(changed) => Ok(changed.clone()),
            None if self.is_new => Ok(None),
            None => self.ledger.state(self.view, key).map_err(Stored::Ledger),
        }
    }

    fn range(&self, from: &[u8], below: Option<&[u8]>) -> Result<Vec<Entry>, Stored> {
        let kept = self.ledger.states(self.view, from, below).map_err(Stored::Ledger)?;
        let entry = |(key, value)| Entry { key, value };
        let within = |changes: &Changes| {
            let all = changes.range(from.to_vec()..);
            let all = all.take_while(|(key, _)| below.is_none_or(|below| key.as_slice() < below));
            all.map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
        };
        let (group, own) = (within(self.group), within(&self.own));
        if group.is_empty() && own.is_empty() {
            return Ok(kept.into_iter().map(entry).collect());
        }
        let kept = kept.into_iter().map(|(key, value)| (key, Some(value)));
        // Later ones take the place of earlier ones.
        let all: Changes = kept.chain(group).chain(own).collect();
        Ok(all.into_iter().filter_map(|(key, value)| Some(entry((key, value?)))).collect())
    }

    fn last_below(&self, from: &[u8], below: &[u8]) -> Result<Option<Entry>, Stored> {
        let mut below = below.to_vec();
        loop {
            let kept = self.ledger.last_state_below(self.view, from, &below);
            let kept = kept.map_err(Stored::Ledger)?.map(|(key, _)| key);
            let changed = [self.group, &self.own].map(|changes| {
                changes.range(from.to_vec()..below.clone()).next_back().map(|(key, _)| key.clone())
            });
            let Some(key) = kept.into_iter().chain(changed.into_iter().flatten()).max() else {
                return Ok(None);
            };
            // It may be one that was removed.
            match self.get(&key)? {
                Some(value) => return Ok(Some(Entry { key, value })),
                None => below = key,
            }
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.own.insert(key, value);
    }
}
