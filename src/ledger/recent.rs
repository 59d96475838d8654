//! Changes of states that are not in their table yet.
//!
//! Invariants: a commit that changes a few of many states would write a page for each, all over the
//! table. It writes its changes as one row instead; they are held here as well, where readers find
//! them first. When they have become many, a commit puts all of them in their places, in their order, and
//! begins again: each page is then written once for all changes in it. (What a log-structured merge tree
//! does with its first level: O'Neil, Cheng, Gawlick, O'Neil, "The Log-Structured Merge-Tree", 1996.)

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use rusqlite::{Connection, params};

use super::views::{self, StatePut, ViewId};

/// Changes that are held at most: some megabytes. They are put in their places by one commit, which takes
/// that much longer (a thirtieth of a second where the table is in memory), and writes a page for each
/// at worst: 64 MiB, as much as `engine.min_free` keeps for it.
const CHANGES: usize = if cfg!(test) { 40 } else { 16 * 1024 };

/// Bytes of them that are held at most.
const BYTES: usize = if cfg!(test) { 400 } else { 4 << 20 };

/// States at most that were removed here and are still in their table: a search for the next one has to
/// pass them.
const REMOVALS: usize = if cfg!(test) { 10 } else { 1024 };

/// The last change of a state: what was put, or `None` when it was removed.
type Changed = Option<Vec<u8>>;

/// State changes that are not in their table yet.
#[derive(Debug, Default)]
pub struct Recent {
    views: HashMap<ViewId, BTreeMap<Vec<u8>, Changed>>,
    /// As they were written, those included that later ones took the place of.
    changes: usize,
    bytes: usize,
    removals: usize,
}

impl Recent {
    /// Loads the changes that were written and not moved to their table.
    pub fn load(connection: &Connection) -> anyhow::Result<Self> {
        let mut recent = Self::default();
        let mut statement =
            connection.prepare("SELECT view, changes FROM state_change ORDER BY id")?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let view = ViewId(row.get(0)?);
            let mut changes = row.get_ref(1)?.as_blob()?;
            while !changes.is_empty() {
                let change = read(&mut changes);
                let (key, value) = change.ok_or_else(|| {
                    anyhow::anyhow!("a change of a state is damaged; restore the state directory")
                })?;
                recent.add(connection, StatePut { view, key, value });
            }
        }
        Ok(recent)
    }

    /// The first of some changes: more than there can be room for, if they are many.
    pub fn first<'a>(states: &mut impl Iterator<Item = StatePut<'a>>) -> Vec<StatePut<'a>> {
        states.take(CHANGES + 1).collect()
    }

    /// True when this many more fit.
    pub fn has_room(&self, states: &[StatePut<'_>]) -> bool {
        let bytes: usize = states.iter().map(size).sum();
        let removals = states.iter().filter(|put| put.value.is_none()).count();
        self.changes + states.len() <= CHANGES
            && self.bytes + bytes <= BYTES
            && self.removals + removals <= REMOVALS
    }

    /// Holds a change that was written.
    pub fn add(&mut self, connection: &Connection, put: StatePut<'_>) {
        let StatePut { view, key, value } = put;
        self.changes += 1;
        self.bytes += size(&put);
        let changes = self.views.entry(view).or_default();
        // What was never put in its place leaves nothing. In doubt it may be there.
        if value.is_none() && !views::is_placed(connection, view, key).unwrap_or(true) {
            changes.remove(key);
            return;
        }
        self.removals += usize::from(value.is_none());
        changes.insert(key.to_vec(), value.map(<[u8]>::to_vec));
    }

    /// Forgets what concerns a view.
    pub fn forget(&mut self, view: ViewId) {
        self.views.remove(&view);
    }

    /// The last change of a state, if it is here.
    pub fn get(&self, view: ViewId, key: &[u8]) -> Option<&Changed> {
        self.views.get(&view)?.get(key)
    }

    /// True when nothing here concerns a view.
    pub fn is_empty(&self, view: ViewId) -> bool {
        self.views.get(&view).is_none_or(BTreeMap::is_empty)
    }

    /// The changes of a view from one key to before another, or to the last, in the order of their keys.
    pub fn range<'a>(
        &'a self,
        view: ViewId,
        from: &[u8],
        below: Option<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let is_any = below.is_none_or(|below| from < below);
        let view = self.views.get(&view).filter(|_| is_any);
        let bounds = (Bound::Included(from), below.map_or(Bound::Unbounded, Bound::Excluded));
        let changes = view.into_iter().flat_map(move |view| view.range::<[u8], _>(bounds));
        changes.map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// Puts everything in its place, as part of a transaction.
    pub fn place(&self, connection: &Connection) -> rusqlite::Result<()> {
        for (view, changes) in &self.views {
            let changes = changes.iter().map(|(key, value)| StatePut {
                view: *view,
                key,
                value: value.as_deref(),
            });
            views::put(connection, changes)?;
        }
        connection.execute("DELETE FROM state_change", ()).map(drop)
    }
}

/// Writes some changes, in the order of their views, as part of a transaction.
pub(super) fn append(connection: &Connection, states: &[StatePut<'_>]) -> rusqlite::Result<()> {
    let mut insert =
        connection.prepare_cached("INSERT INTO state_change (view, changes) VALUES (?, ?)")?;
    for of_view in states.chunk_by(|one, other| one.view == other.view) {
        let mut changes = Vec::with_capacity(of_view.iter().map(size).sum());
        for put in of_view {
            write(put, &mut changes);
        }
        let view = of_view.first().map(|put| put.view.0);
        insert.execute(params![view, changes])?;
    }
    Ok(())
}

/// Keys and values in the order of the keys, each key once: the later ones take the place of the earlier.
pub fn merged<Key: Ord, Value>(
    earlier: impl Iterator<Item = (Key, Value)>,
    later: impl Iterator<Item = (Key, Value)>,
) -> impl Iterator<Item = (Key, Value)> {
    let mut earlier = earlier.peekable();
    let mut later = later.peekable();
    std::iter::from_fn(move || {
        let Some((next, _)) = later.peek() else { return earlier.next() };
        if let Some(before) = earlier.next_if(|(key, _)| key < next) {
            return Some(before);
        }
        earlier.next_if(|(key, _)| key == next);
        later.next()
    })
}

/// Bytes of a change as it is written.
fn size(put: &StatePut<'_>) -> usize {
    2 * size_of::<u32>() + put.key.len() + put.value.map_or(0, <[u8]>::len)
}

/// Stands instead of a length where there is no value.
const REMOVED: u32 = u32::MAX;

fn write(put: &StatePut<'_>, out: &mut Vec<u8>) {
    // Nothing is longer than a row of SQLite, a gigabyte.
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(REMOVED - 1).to_be_bytes();
    out.extend_from_slice(&length(put.key));
    out.extend_from_slice(&put.value.map_or(REMOVED.to_be_bytes(), length));
    out.extend_from_slice(put.key);
    out.extend_from_slice(put.value.unwrap_or_default());
}

/// Takes the next change from those that were written.
fn read<'a>(changes: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let mut length = || {
        let (length, rest) = changes.split_first_chunk()?;
        *changes = rest;
        Some(u32::from_be_bytes(*length))
    };
    let key = length()?;
    let value = length()?;
    let key = changes.split_off(..key as usize)?;
    if value == REMOVED {
        return Some((key, None));
    }
    Some((key, Some(changes.split_off(..value as usize)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{Ledger, Released};
    use crate::microbatch::Microbatch;

    /// The states of two views.
    type Model = BTreeMap<(usize, Vec<u8>), Vec<u8>>;

    type Changes = BTreeMap<(usize, Vec<u8>), Option<Vec<u8>>>;

    #[derive(Debug, Clone)]
    enum Step {
        Commit(Changes),
        /// A commit that fails.
        Refuse(Changes),
        Restart,
        Reset(usize),
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0_u8..4, 0..3)
    }

    fn step() -> impl Strategy<Value = Step> {
        let changes = || {
            let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..4));
            prop::collection::btree_map((0_usize..2, key()), value, 0..60)
        };
        prop_oneof![
            8 => changes().prop_map(Step::Commit),
            2 => changes().prop_map(Step::Refuse),
            2 => Just(Step::Restart),
            1 => (0_usize..2).prop_map(Step::Reset),
        ]
    }

    const NAMES: [&str; 2] = ["one", "two"];

    fn open(state: &std::path::Path) -> (Ledger, [ViewId; 2]) {
        let mut ledger = Ledger::open(state).unwrap();
        let views = NAMES.map(|name| ledger.view(name, "signature").unwrap().0);
        (ledger, views)
    }

    fn commit(
        ledger: &mut Ledger,
        views: &[ViewId; 2],
        changes: &Changes,
    ) -> crate::failure::Result<()> {
        let puts = changes.iter().map(|((view, key), value)| StatePut {
            view: views[*view],
            key,
            value: value.as_deref(),
        });
        ledger.commit(vec![Microbatch::without_input(0)], puts, &Released::default()).map(drop)
    }

    fn apply(
        step: Step,
        state: &std::path::Path,
        mut open_one: Opened,
        model: &mut Model,
    ) -> Opened {
        let (ledger, views) = &mut open_one;
        match step {
            Step::Commit(changes) => {
                commit(ledger, views, &changes).unwrap();
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(model.insert(key, value)),
                        None => drop(model.remove(&key)),
                    }
                }
            }
            Step::Refuse(changes) => {
                let other = Connection::open(state.join("ledger.db")).unwrap();
                // The last thing that a commit does with a view's states is behind it.
                let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON tally
                    BEGIN SELECT RAISE(ABORT, 'refused'); END";
                other.execute_batch(refuse).unwrap();
                assert!(commit(ledger, views, &changes).is_err());
                other.execute_batch("DROP TRIGGER refuse").unwrap();
            }
            Step::Restart => {
                drop(open_one);
                return open(state);
            }
            Step::Reset(view) => {
                ledger.reset_view(NAMES[view], "signature", |_, _| false).unwrap();
                model.retain(|(of, _), _| *of != view);
            }
        }
        open_one
    }

    type Opened = (Ledger, [ViewId; 2]);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// With room for so few changes here, they are put in their places every other commit.
        #[test]
        fn what_is_kept_is_what_was_put_last(
            steps in prop::collection::vec(step(), 1..12),
            from in key(),
            below in key(),
        ) {
            let state = tempfile::tempdir().unwrap();
            let mut opened = open(state.path());
            let mut model = Model::new();
            for step in steps {
                opened = apply(step, state.path(), opened, &mut model);
                let (ledger, views) = &opened;
                for (number, view) in views.iter().enumerate() {
                    let of_view = model.iter().filter(|((of, _), _)| *of == number);
                    let kept: BTreeMap<_, _> =
                        of_view.map(|((_, key), value)| (key.clone(), value.clone())).collect();
                    for bound in [None, Some(below.as_slice())] {
                        let mut all = Vec::new();
                        ledger.each_state(*view, &from, bound, std::iter::empty(), |key, value| {
                            all.push((key.to_vec(), value.to_vec()));
                        }).unwrap();
                        let within = kept.iter().filter(|(key, _)| **key >= from)
                            .filter(|(key, _)| bound.is_none_or(|below| key.as_slice() < below));
                        let within: Vec<_> =
                            within.map(|(key, value)| (key.clone(), value.clone())).collect();
                        let last = within.last().cloned();
                        prop_assert_eq!(all, within);
                        if bound.is_some() {
                            let found = ledger.last_state_below(*view, &from, &below).unwrap();
                            prop_assert_eq!(found, last);
                        }
                    }
                    prop_assert_eq!(ledger.state(*view, &from).unwrap(), kept.get(&from).cloned());
                    prop_assert!(kept.is_empty() || !ledger.is_view_empty(*view).unwrap());
                }
            }
        }
    }

    #[test]
    fn a_change_that_is_damaged_is_not_taken() {
        let mut written = Vec::new();
        let put = StatePut { view: ViewId(1), key: b"key", value: Some(b"state") };
        write(&put, &mut written);
        for length in 1..written.len() {
            assert_eq!(read(&mut &written[..length]), None, "{length}");
        }
        assert_eq!(read(&mut written.as_slice()), Some((put.key, put.value)));
    }

    #[test]
    fn what_is_held_has_its_limits() {
        let put = |key, value| StatePut { view: ViewId(1), key, value };
        let recent = Recent::default();
        let many = vec![put(b"", Some(b"")); CHANGES + 1];
        assert!(recent.has_room(&many[1..]) && !recent.has_room(&many));
        assert!(!recent.has_room(&[put(b"", Some(&[0; BYTES]))]));
        let removals = vec![put(b"", None); REMOVALS + 1];
        assert!(recent.has_room(&removals[1..]) && !recent.has_room(&removals));
    }

    #[test]
    fn a_damaged_ledger_says_what_to_do() {
        let state = tempfile::tempdir().unwrap();
        drop(open(state.path()));
        let other = Connection::open(state.path().join("ledger.db")).unwrap();
        other.execute("INSERT INTO state_change (view, changes) VALUES (1, x'00')", ()).unwrap();
        let error = Ledger::open(state.path()).err().unwrap().into_error();
        let said = format!("{error:#}");
        assert!(said.contains("damaged; restore the state directory"), "{said}");
    }
}
