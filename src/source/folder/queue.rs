//! The names that are known: which are due to be looked at, which wait and why, which are taken.
//!
//! Invariants: a name is in exactly one of the three; the due ones come out in order; what a
//! name costs is its bytes and a few words, whatever the folder holds.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::rules::{Order, natural_key};
use super::stamp::Stamp;
use crate::durable::Dir;
use crate::source::{Key, Why};

impl Key {
    /// The place of a name in the order; `None` when the file is gone already.
    pub fn of(folder: &Dir, name: &OsStr, order: Order) -> Option<Key> {
        let stamp = || folder.stat(name).ok().flatten().map(|stat| Stamp::of(&stat));
        let time =
            |nanoseconds: i64| (nanoseconds.cast_unsigned() ^ (1 << 63)).to_be_bytes().into();
        let rank: Box<[u8]> = match order {
            Order::Name => Box::default(),
            Order::Natural => natural_key(name).into(),
            Order::Modified => time(stamp()?.modified_ns),
            Order::Arrival => time(stamp()?.changed_ns),
        };
        Some(Key { rank, name: name.into() })
    }
}

/// A job that ends waits so long for a file in hand: its archive may be stuck.
const IN_HAND: Duration = Duration::from_secs(10);

/// A file that is not complete yet.
#[derive(Debug, Clone)]
pub struct Waiting {
    key: Key,
    /// Its stamp when it was last looked at.
    pub stamp: Stamp,
    /// Since when it has been that.
    pub since: Instant,
    /// Why it waits.
    pub why: Why,
    /// How often it was found changed.
    pub changes: u32,
    due: Option<Instant>,
    scan: u64,
}

/// All known names.
#[derive(Debug, Default)]
pub struct Queue {
    due_now: BTreeSet<Key>,
    waiting: HashMap<Box<OsStr>, Waiting>,
    timers: BTreeSet<(Instant, Box<OsStr>)>,
    /// How many wait since when.
    since: BTreeMap<Instant, usize>,
    /// Taken names; true for one that was seen again meanwhile.
    taken: HashMap<Box<OsStr>, bool>,
    /// Names that are known to have been renamed into place.
    renamed: std::collections::HashSet<Box<OsStr>>,
    scan: u64,
}

impl Queue {
    /// A name was seen: by a scan, or by an event.
    pub fn seen(&mut self, name: &OsStr, key: impl FnOnce() -> Option<Key>) {
        if let Some(again) = self.taken.get_mut(name) {
            *again = true;
        } else if let Some(waiting) = self.waiting.get(name) {
            self.due_now.insert(waiting.key.clone());
        } else if let Some(key) = key() {
            self.due_now.insert(key);
        }
    }

    /// A name was seen to come by a rename.
    pub fn renamed(&mut self, name: &OsStr) {
        self.renamed.insert(name.into());
    }

    /// True once for a name that came by a rename.
    pub fn take_renamed(&mut self, name: &OsStr) -> bool {
        self.renamed.remove(name)
    }

    /// A scan begins.
    pub fn begin_scan(&mut self) {
        self.scan += 1;
    }

    /// The scan has seen `name`. One that waits with a timer is left to its timer, and one that is
    /// taken is still there because it is not archived yet.
    pub fn scanned(&mut self, name: &OsStr, key: impl FnOnce() -> Option<Key>) {
        if self.taken.contains_key(name) {
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(name) {
            waiting.scan = self.scan;
            if waiting.due.is_some() {
                return;
            }
        }
        self.seen(name, key);
    }

    /// The scan is over: what waited and was not seen is gone.
    pub fn end_scan(&mut self) {
        let scan = self.scan;
        let timers = &mut self.timers;
        let due_now = &mut self.due_now;
        let since = &mut self.since;
        self.waiting.retain(|name, waiting| {
            let stays = waiting.scan == scan;
            if !stays {
                due_now.remove(&waiting.key);
                forget(since, waiting.since);
                if let Some(due) = waiting.due {
                    timers.remove(&(due, name.clone()));
                }
            }
            stays
        });
        let waiting = &self.waiting;
        let taken = &self.taken;
        self.renamed.retain(|name| waiting.contains_key(name) || taken.contains_key(name));
    }

    /// Makes due what has waited long enough.
    pub fn wake(&mut self, now: Instant) {
        while let Some((due, name)) = self.timers.pop_first() {
            if due > now {
                self.timers.insert((due, name));
                return;
            }
            if let Some(waiting) = self.waiting.get_mut(&name) {
                waiting.due = None;
                self.due_now.insert(waiting.key.clone());
            }
        }
    }

    /// When the next file has waited long enough.
    pub fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The first due name within the bound, with what is known of its wait; it belongs to the caller
    /// until it is given back.
    pub fn pop(&mut self, up_to: Bound<&Key>) -> Option<(Key, Option<Waiting>)> {
        let first = self.due_now.first()?;
        match up_to {
            Bound::Excluded(end) if first >= end => return None,
            Bound::Included(end) if first > end => return None,
            _ => {}
        }
        let key = self.due_now.pop_first()?;
        let waiting = self.waiting.remove(&key.name);
        if let Some(waiting) = &waiting {
            forget(&mut self.since, waiting.since);
            if let Some(due) = waiting.due {
                self.timers.remove(&(due, key.name.clone()));
            }
        }
        Some((key, waiting))
    }

    /// Makes a popped file due again.
    pub fn put_back(&mut self, key: Key) {
        self.due_now.insert(key);
    }

    /// The name waits, until `due` where time alone can help.
    pub fn wait(
        &mut self,
        key: Key,
        before: Option<&Waiting>,
        stamp: Stamp,
        why: Why,
        due: Option<Instant>,
    ) {
        let same = before.filter(|before| before.stamp == stamp);
        let since = same.map_or_else(Instant::now, |before| before.since);
        let changes = before.map_or(0, |before| before.changes + u32::from(same.is_none()));
        if let Some(due) = due {
            self.timers.insert((due, key.name.clone()));
        }
        let name = key.name.clone();
        let scan = self.scan;
        *self.since.entry(since).or_default() += 1;
        let waiting = Waiting { key, stamp, since, why, changes, due, scan };
        if let Some(before) = self.waiting.insert(name, waiting) {
            forget(&mut self.since, before.since);
        }
    }

    /// The name is taken: until [`Queue::release`] it is not offered again.
    pub fn take(&mut self, name: &OsStr) {
        self.taken.insert(name.into(), false);
    }

    /// The name is taken, also if it is due by now; `key` is its place, if it has one.
    pub fn hold(&mut self, name: &OsStr, key: Option<&Key>) {
        if let Some(key) = key {
            self.due_now.remove(key);
        }
        self.take(name);
    }

    /// The name is free again, and nothing has it.
    pub fn forget(&mut self, name: &OsStr) {
        self.taken.remove(name);
    }

    /// The name is free again; due, if it was seen meanwhile or `again` says so.
    pub fn release(&mut self, key: Key, again: bool) {
        let seen = self.taken.remove(&key.name).unwrap_or(false);
        if seen || again {
            self.due_now.insert(key);
        }
    }

    /// True when a name is due.
    pub fn has_due(&self, below: Option<&Key>) -> bool {
        self.due_now.first().is_some_and(|first| below.is_none_or(|below| first < below))
    }

    /// True while a file before `below` needs nothing but to be left unchanged for a while.
    pub fn has_settling(&self, below: Option<&Key>, closing: bool) -> bool {
        self.waiting.values().any(|waiting| {
            let settles = match waiting.why {
                Why::Settling => true,
                Why::InHand => waiting.since.elapsed() < IN_HAND,
                Why::TooFewLines => closing,
                _ => false,
            };
            settles && waiting.changes < 2 && below.is_none_or(|below| waiting.key < *below)
        })
    }

    /// True while a file is due, or waits for something that its sender does next.
    pub fn is_under_way(&self) -> bool {
        let arrives = |why| {
            !matches!(
                why,
                Why::OldMarker | Why::HardLinked | Why::Unreadable | Why::Unmovable | Why::NoRoom
            )
        };
        !self.due_now.is_empty() || self.waiting.values().any(|waiting| arrives(waiting.why))
    }

    /// Wakes what waits for lines: it may be taken short when the job ends.
    pub fn wake_too_short(&mut self) {
        let short = self.waiting.values().filter(|waiting| waiting.why == Why::TooFewLines);
        self.due_now.extend(short.map(|waiting| waiting.key.clone()));
    }

    /// True when the name waits for this reason.
    pub fn waits_for(&self, name: &OsStr, why: Why) -> bool {
        self.waiting.get(name).is_some_and(|waiting| waiting.why == why)
    }

    /// One of the names that wait for a reason of which this says something, and what it says.
    pub fn first_that_waits<T>(&self, say: impl Fn(Why) -> Option<T>) -> Option<(&OsStr, T)> {
        let waiting = self.waiting.iter();
        let told = waiting.filter_map(|(name, waiting)| Some((&**name, say(waiting.why)?)));
        told.min_by_key(|(name, _)| *name)
    }

    /// True when the name waits for something.
    pub fn is_waiting(&self, name: &OsStr) -> bool {
        self.waiting.contains_key(name)
    }

    /// The first name that is due.
    pub fn first(&self) -> Option<&OsStr> {
        self.due_now.first().map(|key| &*key.name)
    }

    /// How many files are known and not done: due, waiting, taken.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.due_now.len(), self.waiting.len(), self.taken.len())
    }

    /// How long ago the longest-waiting file last changed.
    pub fn oldest_wait(&self, now: Instant) -> Option<Duration> {
        self.since.first_key_value().map(|(since, _)| now.duration_since(*since))
    }
}

fn forget(since: &mut BTreeMap<Instant, usize>, at: Instant) {
    if let Entry::Occupied(mut many) = since.entry(at) {
        *many.get_mut() -= 1;
        if *many.get() == 0 {
            many.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: u8) -> Key {
        Key { rank: Box::default(), name: OsStr::new(&format!("{name}")).into() }
    }

    proptest! {
        /// Whatever happens to the names, the longest wait is that of a walk over all that wait.
        #[test]
        fn the_longest_wait_is_known(steps in prop::collection::vec((0_u8..5, 0_u8..6, 0_u64..3), 0..60)) {
            let mut queue = Queue::default();
            for (step, name, size) in steps {
                let stamp = Stamp { device: 1, inode: 1, size, modified_ns: 0, changed_ns: 0 };
                match step {
                    0 => queue.seen(&key(name).name, || Some(key(name))),
                    1 => {
                        if let Some((key, before)) = queue.pop(Bound::Unbounded) {
                            queue.wait(key, before.as_ref(), stamp, Why::Settling, None);
                        }
                    }
                    2 => queue.wait(key(name), None, stamp, Why::Settling, Some(Instant::now())),
                    3 => drop(queue.pop(Bound::Unbounded)),
                    _ => {
                        queue.begin_scan();
                        queue.scanned(&key(name).name, || None);
                        queue.end_scan();
                    }
                }
                let now = Instant::now();
                let walked = queue.waiting.values().map(|waiting| now.duration_since(waiting.since));
                prop_assert_eq!(queue.oldest_wait(now), walked.max());
            }
        }
    }
}
