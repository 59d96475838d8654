//! Changes of microbatches to the states of a view.

use std::collections::BTreeMap;

use crate::engine::Entries;
use crate::ledger::{StatePut, ViewId, merged};

/// Changes by their keys: what was put, and `None` for what was removed.
///
/// Most come at once, all groups of a microbatch. These stay in one piece; what comes later is in a map,
/// and goes before.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// In the order of their keys, each key once.
    many: Entries,
    few: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Changes {
    /// True when nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.many.is_empty() && self.few.is_empty()
    }

    /// The state stored under this key, if it was changed.
    #[expect(clippy::option_option, reason = "put, removed, or not changed")]
    pub fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        if let Some(changed) = self.few.get(key) {
            return Some(changed.as_deref());
        }
        let (found, value) = self.many.get(self.first_from(key));
        (found == key && !self.many.is_empty()).then_some(Some(value))
    }

    /// The first of the many whose key is not before this one.
    fn first_from(&self, key: &[u8]) -> usize {
        let mut from = 0;
        let mut to = self.many.len();
        while from < to {
            let middle = from.midpoint(to);
            if self.many.get(middle).0 < key {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }

    /// Replaces a state, or removes it.
    pub fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.few.insert(key, value);
    }

    /// Puts many states, in the order of their keys and each key once.
    pub fn put_all(&mut self, entries: Entries) {
        if self.is_empty() {
            self.many = entries;
            return;
        }
        let entries = entries.iter().map(|(key, value)| (key.to_vec(), Some(value.to_vec())));
        self.few.extend(entries);
    }

    /// Later changes take the place of earlier ones.
    pub fn extend(&mut self, later: Self) {
        if self.is_empty() {
            *self = later;
            return;
        }
        let later = later.range(&[], None);
        self.few.extend(later.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))));
    }

    /// The states, if they came all at once and nothing else did.
    pub fn only_many(&self) -> Option<&Entries> {
        self.few.is_empty().then_some(&self.many)
    }

    /// The changes from one key to before another, in the order of their keys.
    pub fn range<'a>(
        &'a self,
        from: &[u8],
        below: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let many = (self.first_from(from)..self.many.len()).map(|row| self.many.get(row));
        let few =
            self.few.range(from.to_vec()..).map(|(key, value)| (key.as_slice(), value.as_deref()));
        let many = many.map(|(key, value)| (key, Some(value)));
        merged(many, few).take_while(move |(key, _)| below.is_none_or(|below| *key < below))
    }

    /// The last key that was changed from `from` to before `below`.
    pub fn last_below(&self, from: &[u8], below: &[u8]) -> Option<&[u8]> {
        if below <= from {
            return None;
        }
        let many = self.first_from(below).checked_sub(1).map(|row| self.many.get(row).0);
        let few = self
            .few
            .range(from.to_vec()..below.to_vec())
            .next_back()
            .map(|(key, _)| key.as_slice());
        many.filter(|key| *key >= from).max(few)
    }
}

/// The changes of each view.
#[derive(Debug, Default)]
pub struct Puts(pub Vec<(ViewId, Changes)>);

impl Puts {
    /// The states to put.
    pub fn all(&self) -> impl Iterator<Item = StatePut<'_>> {
        self.0.iter().flat_map(|(view, changes)| {
            let put = |(key, value)| StatePut { view: *view, key, value };
            changes.range(&[], None).map(put)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        // Some of them alike for longer than what is compared as a number.
        (prop::sample::select(vec![0, 1, 17]), prop::collection::vec(0_u8..3, 0..3))
            .prop_map(|(alike, rest)| [vec![7; alike], rest].concat())
    }

    /// Changes in order: many states at once, then single ones.
    type Step = (std::collections::BTreeSet<Vec<u8>>, Vec<(Vec<u8>, Option<u8>)>);

    fn step() -> impl Strategy<Value = Step> {
        let many = prop::collection::btree_set(key(), 0..20);
        (many, prop::collection::vec((key(), any::<Option<u8>>()), 0..5))
    }

    fn apply(changes: &mut Changes, model: &mut Model, (many, few): &Step, number: u8) {
        let mut entries = Entries::default();
        for key in many {
            entries.push(key, &[number]);
        }
        changes.put_all(entries);
        model.extend(many.iter().map(|key| (key.clone(), Some(vec![number]))));
        for (key, value) in few {
            let value = value.map(|value| vec![value]);
            changes.put(key.clone(), value.clone());
            model.insert(key.clone(), value);
        }
    }

    proptest! {
        #[test]
        fn changes_are_what_a_map_of_them_would_be(
            steps in prop::collection::vec(prop::collection::vec(step(), 0..3), 0..3),
            from in key(),
            below in key(),
        ) {
            let mut all = Changes::default();
            let mut model = Model::new();
            for steps in &steps {
                let mut later = Changes::default();
                for (number, step) in (0..).zip(steps) {
                    apply(&mut later, &mut model, step, number);
                }
                all.extend(later);
            }
            prop_assert_eq!(all.is_empty(), model.is_empty());
            let owned = |(key, value): (&[u8], Option<&[u8]>)| (key.to_vec(), value.map(<[u8]>::to_vec));
            prop_assert_eq!(all.range(&[], None).map(owned).collect::<Model>(), model.clone());
            let within: Vec<_> = all.range(&from, Some(&below)).map(owned).collect();
            let expected: Vec<_> = model.range(from.clone()..).filter(|(key, _)| **key < below).map(|(key, value)| (key.clone(), value.clone())).collect();
            prop_assert_eq!(&within, &expected);
            prop_assert_eq!(all.last_below(&from, &below), expected.last().map(|(key, _)| key.as_slice()));
            for key in model.keys().chain([&from, &below]) {
                prop_assert_eq!(all.get(key), model.get(key).map(Option::as_deref));
            }
        }
    }
}
