//! Which group each record is of.
//!
//! Invariants: groups are numbered as they come, from 0; two records are of one group when the bytes
//! are the same that it is kept under, however their values compare. Where the table looks depends on
//! numbers that this process has drawn: keys that all fall on one place cannot be chosen beforehand.

use std::hash::{BuildHasher as _, Hasher as _};

use arrow_array::ArrayRef;
use datafusion::common::{DataFusionError, Result};
use foldhash::fast::RandomState;

use super::rows::Rows;
use super::state::Column;

/// Groups by their keys.
pub struct Groups {
    keys: Rows,
    /// The first bytes of each key.
    heads: Vec<Head>,
    /// A power of two of them, at most half full. A group is in the bucket of its
    /// hash; if that was full, in the first that was not of those whose number differs in the lowest bits.
    buckets: Vec<Bucket>,
    hashing: RandomState,
    /// The keys of the records that are being looked at.
    seen: Rows,
}

/// Places of eight groups, in one line of the cache: with many groups most of the table is far away.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Bucket {
    hashes: [u32; SLOTS],
    /// One more than the number of the group; 0 where there is none.
    groups: [u32; SLOTS],
}

/// Groups in a bucket.
const SLOTS: usize = 8;

/// The first bytes of a key, and zeros after a shorter one. No key is the beginning of another: those of up
/// to [`HEAD`] bytes are the same when these are.
type Head = [u64; 3];

/// Bytes of a [`Head`].
const HEAD: usize = size_of::<Head>();

/// Records that are looked at together: their keys are still in the nearest cache.
const TOGETHER: usize = 512;

impl Groups {
    /// None yet.
    pub fn new() -> Self {
        let keys = Rows::default();
        let seen = Rows::default();
        let hashing = RandomState::default();
        Self { keys, heads: Vec::new(), buckets: vec![Bucket::default(); 2], hashing, seen }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        let heads = self.heads.capacity() * size_of::<Head>();
        let buckets = self.buckets.capacity() * size_of::<Bucket>();
        self.keys.size() + self.seen.size() + heads + buckets
    }

    /// Their keys, in the order of their numbers.
    pub fn into_keys(self) -> Rows {
        self.keys
    }

    /// The groups of these records, by the columns that they are grouped by. New ones are added.
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
            // Not one record after the other: the processor waits for many places of the table at once.
            let hashes: Vec<u32> = seen.iter().map(|key| self.hash(key)).collect();
            let likely: Vec<u32> = hashes.iter().map(|hash| self.likely(*hash)).collect();
            for ((key, hash), likely) in seen.iter().zip(hashes).zip(likely) {
                let head = head(key);
                let known = self.is(likely, key, &head).then_some(likely);
                let group = known.map_or_else(|| self.find_or_add(key, hash, head), Ok)?;
                numbers.push(group as usize - 1);
            }
        }
        self.seen = seen;
        Ok(numbers)
    }

    fn hash(&self, key: &[u8]) -> u32 {
        let mut hasher = self.hashing.build_hasher();
        hasher.write(key);
        // The upper half mixes best.
        (hasher.finish() >> 32) as u32
    }

    fn index(&self, hash: u32) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// The group of this hash in its bucket, one more than its number. Of several it is none of them.
    fn likely(&self, hash: u32) -> u32 {
        let bucket = self.buckets.get(self.index(hash));
        bucket.map_or(0, |Bucket { hashes, groups }| {
            let all = hashes.iter().zip(groups);
            all.fold(0, |found, (of, group)| found | if *of == hash { *group } else { 0 })
        })
    }

    /// True when this is the group of a key.
    fn is(&self, group: u32, key: &[u8], head: &Head) -> bool {
        let number = (group as usize).wrapping_sub(1);
        self.heads.get(number) == Some(head) && (key.len() <= HEAD || key == self.keys.get(number))
    }

    /// The group of a key, one more than its number.
    fn find_or_add(&mut self, key: &[u8], hash: u32, head: Head) -> Result<u32> {
        let index = self.index(hash);
        let buckets = (0..self.buckets.len()).filter_map(|turn| self.buckets.get(index ^ turn));
        for Bucket { hashes, groups } in buckets {
            let mut alike = hashes.iter().zip(groups).filter(|(of, _)| **of == hash);
            if let Some((_, group)) = alike.find(|(_, group)| self.is(**group, key, &head)) {
                return Ok(*group);
            }
            if groups.contains(&0) {
                break;
            }
        }
        let group = u32::try_from(self.len() + 1)
            .map_err(|_| DataFusionError::Execution("too many groups at once".to_owned()))?;
        self.keys.push(key);
        self.heads.push(head);
        self.put(hash, group);
        if self.len() > self.buckets.len() * SLOTS / 2 {
            let buckets = vec![Bucket::default(); self.buckets.len() * 2];
            for Bucket { hashes, groups } in std::mem::replace(&mut self.buckets, buckets) {
                let all = hashes.into_iter().zip(groups).filter(|(_, group)| *group > 0);
                all.for_each(|(hash, group)| self.put(hash, group));
            }
        }
        Ok(group)
    }

    /// Puts a group where there is room.
    fn put(&mut self, hash: u32, group: u32) {
        let index = self.index(hash);
        for turn in 0..self.buckets.len() {
            let Some(Bucket { hashes, groups }) = self.buckets.get_mut(index ^ turn) else {
                continue;
            };
            let mut places = hashes.iter_mut().zip(groups);
            if let Some(place) = places.find(|(_, group)| **group == 0) {
                (*place.0, *place.1) = (hash, group);
                return;
            }
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

    /// With fixed numbers these would all have one hash, whatever the seed.
    #[test]
    fn keys_that_were_chosen_fall_apart() {
        let groups = Groups::new();
        let chosen = 0x1709_47b5_b5d5_843f_u64.to_le_bytes();
        let hashes: std::collections::HashSet<u32> = (0..1000_u64)
            .map(|number| groups.hash(&[&number.to_le_bytes()[..6], chosen.as_slice()].concat()))
            .collect();
        assert!(hashes.len() > 900, "{}", hashes.len());
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
