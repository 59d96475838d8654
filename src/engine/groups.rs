//! Which group each record is of.
//!
//! What holds here: groups are numbered as they come, from 0; two records are of one group when the bytes
//! are the same that it is kept under, however their values compare. Where the table looks depends on a
//! seed of this process: nobody can choose keys that all fall on one place.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use arrow_array::ArrayRef;
use datafusion::common::hash_utils;
use datafusion::common::{DataFusionError, Result};

use super::rows::Rows;
use super::state::Column;

/// Groups by their keys.
pub struct Groups {
    keys: Rows,
    /// A power of two of them, one at least for each group. A group is in the bucket of its hash, or in the
    /// next one that was not full.
    buckets: Vec<Bucket>,
    seed: hash_utils::RandomState,
    /// The keys of the records that are being looked at.
    seen: Rows,
}

/// A line of the cache. With many groups the table is in a far one, and a record should wait for it once.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Bucket([Place; 2]);

/// Where a group is.
#[derive(Clone, Copy, Default)]
struct Place {
    hash: u32,
    /// One more than the number of the group; 0 where there is none.
    group: u32,
    head: Head,
}

/// The first bytes of a key, and zeros behind a shorter one. No key is the beginning of another: those of up
/// to [`HEAD`] bytes are the same when these are.
type Head = [u64; 3];

/// Bytes of a [`Head`].
const HEAD: usize = size_of::<Head>();

/// Buckets of an empty table.
const FEW: usize = 16;

/// Records that are looked at together: their keys are still in the nearest cache.
const TOGETHER: usize = 512;

impl Groups {
    /// None yet.
    pub fn new() -> Self {
        let seed = hash_utils::RandomState::with_seed(RandomState::new().hash_one(0));
        let (keys, seen) = (Rows::default(), Rows::default());
        Self { keys, buckets: vec![Bucket::default(); FEW], seed, seen }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.keys.size() + self.seen.size() + self.buckets.capacity() * size_of::<Bucket>()
    }

    /// Their keys, in the order of their numbers.
    pub fn into_keys(self) -> Rows {
        self.keys
    }

    /// The groups of so many records, by the columns that they are grouped by. New ones are added.
    ///
    /// # Errors
    /// When a value cannot be kept, or there are too many groups.
    pub fn number(&mut self, columns: &[ArrayRef], records: usize) -> Result<Vec<usize>> {
        let columns: Vec<_> = columns.iter().map(Column::of).collect();
        let mut numbers = Vec::with_capacity(records);
        let mut seen = std::mem::take(&mut self.seen);
        for begin in (0..records).step_by(TOGETHER) {
            seen.clear();
            for record in begin..records.min(begin + TOGETHER) {
                seen.push_with(|key| {
                    columns.iter().try_for_each(|column| column.write(record, key))
                })?;
            }
            // Not one by one: so the processor waits for many places of the table at the same time.
            let hashes: Vec<u32> = seen.iter().map(|key| self.hash(key)).collect();
            let likely: Vec<bool> = hashes.iter().map(|hash| self.is_in_second(*hash)).collect();
            for ((key, hash), is_second) in seen.iter().zip(hashes).zip(likely) {
                let head = head(key);
                let [first, second] = self.bucket(self.index(hash));
                let place = if is_second { second } else { first };
                let known = self.is_of(place, key, hash, &head).then_some(place.group);
                let group = known.map_or_else(|| self.find_or_add(key, hash, head), Ok)?;
                numbers.push(group as usize - 1);
            }
        }
        self.seen = seen;
        Ok(numbers)
    }

    fn hash(&self, key: &[u8]) -> u32 {
        let mut hasher = self.seed.build_hasher();
        hasher.write(key);
        // The upper half mixes best.
        (hasher.finish() >> 32) as u32
    }

    fn index(&self, hash: u32) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    fn bucket(&self, index: usize) -> &[Place; 2] {
        const NONE: Bucket = Bucket([Place { hash: 0, group: 0, head: [0; 3] }; 2]);
        &self.buckets.get(index).unwrap_or(&NONE).0
    }

    /// True when a group of this hash most likely is in the second place of its bucket.
    fn is_in_second(&self, hash: u32) -> bool {
        self.bucket(self.index(hash))[1].hash == hash
    }

    fn is_of(&self, place: &Place, key: &[u8], hash: u32, head: &Head) -> bool {
        place.hash == hash
            && place.group > 0
            && place.head == *head
            && (key.len() <= HEAD || key == self.keys.get(place.group as usize - 1))
    }

    /// The group of a key, one more than its number.
    fn find_or_add(&mut self, key: &[u8], hash: u32, head: Head) -> Result<u32> {
        let mut index = self.index(hash);
        loop {
            let bucket = self.bucket(index);
            if let Some(place) = bucket.iter().find(|place| self.is_of(place, key, hash, &head)) {
                return Ok(place.group);
            }
            if bucket.iter().any(|place| place.group == 0) {
                break;
            }
            index = (index + 1) & (self.buckets.len() - 1);
        }
        let group = u32::try_from(self.len() + 1)
            .map_err(|_| DataFusionError::Execution("too many groups at once".to_owned()))?;
        self.keys.push(key);
        self.put(Place { hash, group, head });
        if self.len() > self.buckets.len() {
            let buckets = vec![Bucket::default(); self.buckets.len() * 2];
            for Bucket(places) in std::mem::replace(&mut self.buckets, buckets) {
                places
                    .into_iter()
                    .filter(|place| place.group > 0)
                    .for_each(|place| self.put(place));
            }
        }
        Ok(group)
    }

    /// Puts a group where there is room.
    fn put(&mut self, place: Place) {
        let mut index = self.index(place.hash);
        while let Some(Bucket(places)) = self.buckets.get_mut(index) {
            if let Some(free) = places.iter_mut().find(|place| place.group == 0) {
                *free = place;
                return;
            }
            index = (index + 1) & (self.buckets.len() - 1);
        }
    }
}

fn head(key: &[u8]) -> Head {
    let word = |from: usize| {
        let bytes = key.get(from..).and_then(<[u8]>::first_chunk);
        u64::from_le_bytes(bytes.copied().unwrap_or_default())
    };
    // The last word of a shorter key overlaps the one before: only what is new of it counts.
    let last = |words: usize| {
        let missing = u32::try_from(words * 8 - key.len()).unwrap_or_default();
        word(key.len() - 8).checked_shr(missing * 8).unwrap_or_default()
    };
    match key.len() {
        HEAD.. => [word(0), word(8), word(16)],
        16.. => [word(0), word(8), last(3)],
        8.. => [word(0), last(2), 0],
        _ => {
            let mut bytes = [0; 8];
            bytes.iter_mut().zip(key).for_each(|(byte, of_key)| *byte = *of_key);
            [u64::from_le_bytes(bytes), 0, 0]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow_array::{Float64Array, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::state;

    fn columns(records: &[(Option<i64>, Option<String>)]) -> Vec<ArrayRef> {
        let numbers: Int64Array = records.iter().map(|(number, _)| *number).collect();
        let texts: StringArray = records.iter().map(|(_, text)| text.as_deref()).collect();
        vec![Arc::new(numbers), Arc::new(texts)]
    }

    proptest! {
        #[test]
        fn each_key_has_one_number(
            batches in prop::collection::vec(
                prop::collection::vec(
                    (prop::option::of(-9_i64..9), prop::option::of("[ab]{0,4}|a{20,30}")), 0..200,
                ),
                0..6,
            ),
        ) {
            let mut groups = Groups::new();
            let mut model: HashMap<Vec<u8>, usize> = HashMap::new();
            for batch in batches {
                let columns = columns(&batch);
                let numbers = groups.number(&columns, batch.len()).unwrap();
                let keys = state::encode(&columns, 0..batch.len()).unwrap();
                let expected: Vec<usize> = keys.iter().map(|key| {
                    let next = model.len();
                    *model.entry(key.to_vec()).or_insert(next)
                }).collect();
                prop_assert_eq!(numbers, expected);
            }
            prop_assert_eq!(groups.len(), model.len());
            let keys = groups.into_keys();
            prop_assert!(keys.iter().enumerate().all(|(number, key)| model[key] == number));
        }
    }

    #[test]
    fn groups_with_one_hash_stay_apart() {
        let mut groups = Groups::new();
        let columns: ArrayRef =
            Arc::new(StringArray::from_iter_values((0..1000).map(|number| number.to_string())));
        let keys = state::encode(&[columns], 0..1000).unwrap();
        for turn in 0..2 {
            for (number, key) in keys.iter().enumerate() {
                let group = groups.find_or_add(key, u32::MAX, head(key)).unwrap();
                assert_eq!(group as usize, number + 1, "turn {turn}");
            }
        }
        assert_eq!(groups.len(), 1000);
    }

    #[test]
    fn a_head_is_the_first_bytes_and_zeros() {
        let key: Vec<u8> = (1..=40).collect();
        for length in 0..=key.len() {
            let mut padded = key[..length].to_vec();
            padded.resize(HEAD.max(length), 0);
            let words =
                padded[..HEAD].chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            assert_eq!(head(&key[..length]).to_vec(), words.collect::<Vec<_>>(), "{length}");
        }
    }

    #[test]
    fn numbers_are_of_one_group_when_their_bytes_are() {
        let mut groups = Groups::new();
        let columns: ArrayRef =
            Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, 0.0, f64::NAN]));
        assert_eq!(groups.number(&[columns], 5).unwrap(), [0, 1, 2, 0, 2]);
    }
}
