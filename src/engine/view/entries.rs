//! Where the states of a view are, as far as the engine has to know.

use std::ops::Range;

use crate::engine::QueryError;
use crate::engine::rows::Rows;

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
