//! Where the states of a view are, as far as the engine has to know.

use std::collections::BTreeMap;

use std::ops::Range;

use bytesize::ByteSize;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};

use crate::engine::rows::Rows;
use crate::engine::{Engine, QueryError};

/// States by their keys, in the order of the keys.
pub trait Store {
    /// Why a state cannot be had.
    type Error: From<QueryError>;

    /// The state under this key, if there is one.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Keys from `from` to before `below`, or to the last, with their states.
    fn range(&self, from: &[u8], below: Option<&[u8]>) -> Result<Entries, Self::Error>;

    /// The last key from `from` to before `below`, with its state.
    fn last_below(&self, from: &[u8], below: &[u8]) -> Result<Option<Entry>, Self::Error>;

    /// Replaces a state; `None` removes it.
    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>);

    /// Puts many states, in the order of their keys and each key once.
    fn put_all(&mut self, entries: Entries) {
        for (key, value) in entries.iter() {
            self.put(key.to_vec(), Some(value.to_vec()));
        }
    }
}

/// Keys and their states, as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    /// The groups, after the ends of their windows where they have one.
    pub(super) keys: Rows,
    /// Their states.
    pub(super) values: Rows,
}

impl Entries {
    /// Empty, with this capacity.
    pub fn with_room(rows: usize) -> Self {
        Self { keys: Rows::with_room(rows), values: Rows::with_room(rows) }
    }

    /// Appends a key and its state.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.keys.push(key);
        self.values.push(value);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A key and its state; both are empty where there is none.
    pub fn get(&self, row: usize) -> (&[u8], &[u8]) {
        (self.keys.get(row), self.values.get(row))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.keys.iter().zip(self.values.iter())
    }

    /// Some of them.
    #[must_use]
    pub fn part(&self, rows: Range<usize>) -> Self {
        Self { keys: self.keys.part(rows.clone()), values: self.values.part(rows) }
    }
}

/// A key and its state, as they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The group, after the end of its window where it has one.
    pub key: Vec<u8>,
    /// Its state.
    pub value: Vec<u8>,
}

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
