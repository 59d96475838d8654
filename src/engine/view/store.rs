//! Where the states of a view are, as far as the engine has to know.

use std::collections::BTreeMap;

use crate::engine::Problem;

/// States by their keys, in the order of the keys.
pub trait Store {
    /// Why a state cannot be had.
    type Error: From<Problem>;

    /// The state under this key, if there is one.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Keys from `from` to before `below`, or to the last, with their states.
    fn range(&self, from: &[u8], below: Option<&[u8]>) -> Result<Vec<Entry>, Self::Error>;

    /// The last key from `from` to before `below`, with its state.
    fn last_below(&self, from: &[u8], below: &[u8]) -> Result<Option<Entry>, Self::Error>;

    /// Puts a state in place of the one before; `None` removes it.
    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>);
}

/// A key and its state, as they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The group, behind the end of its window where it has one.
    pub key: Vec<u8>,
    /// Its state.
    pub value: Vec<u8>,
}

/// States in memory, for the drivers that have no ledger.
#[derive(Debug, Clone, Default)]
pub struct Memory(BTreeMap<Vec<u8>, Vec<u8>>);

impl Store for Memory {
    type Error = Problem;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Problem> {
        Ok(self.0.get(key).cloned())
    }

    fn range(&self, from: &[u8], below: Option<&[u8]>) -> Result<Vec<Entry>, Problem> {
        let all = self.0.range(from.to_vec()..);
        let within = all.take_while(|(key, _)| below.is_none_or(|below| key.as_slice() < below));
        Ok(within.map(|(key, value)| Entry { key: key.clone(), value: value.clone() }).collect())
    }

    fn last_below(&self, from: &[u8], below: &[u8]) -> Result<Option<Entry>, Problem> {
        let last = self.0.range(from.to_vec()..below.to_vec()).next_back();
        Ok(last.map(|(key, value)| Entry { key: key.clone(), value: value.clone() }))
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match value {
            Some(value) => drop(self.0.insert(key, value)),
            None => drop(self.0.remove(&key)),
        }
    }
}
