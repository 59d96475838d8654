//! States in memory, for the drivers that have no ledger.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};

use super::entries::{Entries, Entry, Store};
use crate::engine::{Engine, QueryError};

/// States in memory, for the drivers that have no ledger.
#[derive(Debug, Default)]
pub struct Memory {
    states: BTreeMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
    /// Its part of the engine's memory.
    part: Option<MemoryReservation>,
}

/// Bytes that a state takes beside its own: in the tree, and of the allocator.
const BESIDE: usize = 2 * size_of::<Vec<u8>>() + 32;

impl Memory {
    /// No states yet, in the memory of this engine.
    pub fn of(engine: &Engine) -> Self {
        let pool = &engine.context.runtime_env().memory_pool;
        let part = MemoryConsumer::new("the groups of a view").register(pool);
        Self { part: Some(part), ..Self::default() }
    }

    /// Counts what there is as memory of the engine.
    ///
    /// # Errors
    /// When the engine may not have so much.
    pub fn count(&mut self) -> Result<(), QueryError> {
        let (Some(part), bytes) = (&mut self.part, self.bytes) else { return Ok(()) };
        part.try_resize(bytes).map_err(|_| {
            let kept = ByteSize(bytes as u64);
            QueryError::new(format!(
                "the groups of the view take {kept}, more than engine.memory has room for"
            ))
        })
    }
}

fn size(key: usize, value: &[u8]) -> usize {
    key + value.len() + BESIDE
}

impl Store for Memory {
    type Error = QueryError;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
        Ok(self.states.get(key).cloned())
    }

    fn range(&self, from: &[u8], below: Option<&[u8]>) -> Result<Entries, QueryError> {
        let all = self.states.range(from.to_vec()..);
        let within = all.take_while(|(key, _)| below.is_none_or(|below| key.as_slice() < below));
        let mut entries = Entries::default();
        within.for_each(|(key, value)| entries.push(key, value));
        Ok(entries)
    }

    fn last_below(&self, from: &[u8], below: &[u8]) -> Result<Option<Entry>, QueryError> {
        let last = self.states.range(from.to_vec()..below.to_vec()).next_back();
        Ok(last.map(|(key, value)| Entry { key: key.clone(), value: value.clone() }))
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let length = key.len();
        self.bytes += value.as_ref().map_or(0, |value| size(length, value));
        let old = match value {
            Some(value) => self.states.insert(key, value),
            None => self.states.remove(&key),
        };
        self.bytes -= old.map_or(0, |old| size(length, &old));
    }
}
