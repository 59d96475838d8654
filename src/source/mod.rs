//! The drop folder: which files are complete, and in which order they are taken.
//!
//! What holds here:
//! - The scan is the truth, a hint only shortens the wait; both end in the same look at the file.
//! - The folder is not listed while hints come in, but at the start, when hints were lost, and now
//!   and then; the more a scan costs, the rarer it gets.
//! - A file is offered once until it is released.
//!
//! What does not belong here: what is in a file, but for the rules of completeness.

pub mod archive;
pub mod complete;
pub mod input;
pub mod queue;
pub mod requeued;
pub mod rules;
mod standing;
mod survey;
pub mod watch;

use std::ffi::OsStr;
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::Stat;
use walkdir::WalkDir;

use crate::durable::{self, Dir};
use complete::Plain;
use input::{Found, Input, Stamp, Writers};
use queue::{Key, Queue, Waiting, Why};
use rules::{Complete, HardLinks, Rules};
pub use standing::Standing;
pub use survey::Survey;
use watch::Hint;

/// Time between scans when there are no events.
const POLL: Duration = Duration::from_secs(1);

/// A scan may take this share of the time: one part in so many.
const SCAN_SHARE: u32 = 100;

/// How long a file that could not be read, or that somebody writes to, is left alone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The state of one drop folder.
pub struct Source {
    rules: Rules,
    folder: Dir,
    folder_stamp: Stamp,
    queue: Queue,
    plain: Plain,
    polls: bool,
    shares_clock: bool,
    scan_due: Instant,
    last_scan: Option<(Instant, Duration, Stamp)>,
    closing: Closing,
}

/// How far the job is in ending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Closing {
    /// It goes on.
    #[default]
    No,
    /// It takes what there is: all of it, or what stands before the file that ends the job.
    Before(Option<Key>),
}

impl Source {
    /// Opens the folder. `polls` says that there will be no hints, `shares_clock` that the times of
    /// its files come from this machine's clock.
    pub fn open(
        directory: &Path,
        rules: Rules,
        polls: bool,
        shares_clock: bool,
        plain: Plain,
    ) -> durable::Result<Self> {
        let folder = Dir::open(directory)?;
        let folder_stamp = stamp_of(&folder)?;
        Ok(Self {
            rules,
            folder,
            folder_stamp,
            queue: Queue::default(),
            plain,
            polls,
            shares_clock,
            scan_due: Instant::now(),
            last_scan: None,
            closing: Closing::No,
        })
    }

    /// The candidates in a folder by name, in order, whether complete or not: for a batch.
    pub fn list(directory: &Path, rules: Rules) -> anyhow::Result<Vec<Box<OsStr>>> {
        let plain: Plain = |_, _| Ok(None);
        let mut source = Self::open(directory, rules, true, true, plain)?;
        source.scan()?;
        let due = std::iter::from_fn(|| source.queue.pop(Bound::Unbounded));
        Ok(due.map(|(key, _)| key.name).collect())
    }

    /// The folder's descriptor.
    pub fn folder(&self) -> &Dir {
        &self.folder
    }

    /// The rules of the folder.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Takes a hint.
    pub fn hint(&mut self, hint: Hint) {
        match hint {
            Hint::Lost => self.scan_due = Instant::now(),
            Hint::Renamed(name) => {
                if self.rules.is_candidate(&name) {
                    self.queue.renamed(&name);
                }
                self.touched(&name);
            }
            Hint::Touched(name) => self.touched(&name),
            // It is no input any more.
            Hint::Written(_) => {}
        }
    }

    fn touched(&mut self, name: &OsStr) {
        let name = match self.rules.marked(name) {
            Some(marked) if self.rules.is_candidate(marked) => marked,
            None if self.rules.is_candidate(name) => name,
            _ => return,
        };
        let (folder, order) = (&self.folder, self.rules.order);
        self.queue.seen(name, || Key::of(folder, name, order));
    }

    /// Lists the folder if that is due. An unchanged folder is not listed again.
    ///
    /// # Errors
    /// When the folder cannot be read: it may have been unmounted or removed, and may come back.
    pub fn scan_if_due(&mut self, now: Instant) -> anyhow::Result<()> {
        self.queue.wake(now);
        if now < self.scan_due {
            return Ok(());
        }
        self.reopen_if_replaced()?;
        let before = stamp_of(&self.folder)?;
        if !self.polls && self.is_settled(&before, now) {
            self.scan_due = now + self.rules.rescan;
            return Ok(());
        }
        self.scan()?;
        let took = now.elapsed();
        self.last_scan = Some((now, took, before));
        let pause = if self.polls { POLL } else { self.rules.rescan };
        self.scan_due = Instant::now() + pause.max(took * SCAN_SHARE);
        Ok(())
    }

    /// True when no name can have changed since the last scan began: the folder's own times are the
    /// same, and were old enough then for another change to show.
    fn is_settled(&self, stamp: &Stamp, now: Instant) -> bool {
        let Some((at, _, then)) = &self.last_scan else { return false };
        let unchanged =
            (then.modified_ns, then.changed_ns) == (stamp.modified_ns, stamp.changed_ns);
        !self.rules.recursive && unchanged && stamp.age() > now.duration_since(*at) + LOOK_AGAIN
    }

    /// The folder may have been unmounted or made anew: what counts is what its path leads to.
    fn reopen_if_replaced(&mut self) -> durable::Result<()> {
        let there = Dir::open(self.folder.path())?;
        let stamp = stamp_of(&there)?;
        if (stamp.device, stamp.inode) != (self.folder_stamp.device, self.folder_stamp.inode) {
            tracing::warn!(folder = %self.folder.path().display(), "the drop folder was replaced");
            self.folder = there;
            self.folder_stamp = stamp;
            self.last_scan = None;
        }
        Ok(())
    }

    /// True when the folder is another one than before; the caller has to watch it anew.
    pub fn folder_identity(&self) -> (u64, u64) {
        (self.folder_stamp.device, self.folder_stamp.inode)
    }

    fn scan(&mut self) -> anyhow::Result<()> {
        let depth = if self.rules.recursive { usize::MAX } else { 1 };
        let root: PathBuf = self.folder.path().to_owned();
        self.queue.begin_scan();
        for entry in WalkDir::new(&root).min_depth(1).max_depth(depth).follow_links(false) {
            let entry = match entry {
                Ok(entry) => entry,
                // What went away during the scan is no loss; the folder itself would be.
                Err(error) if error.depth() > 0 => {
                    tracing::debug!(%error, "could not be scanned");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let name = if self.rules.recursive {
                entry.path().strip_prefix(&root).unwrap_or(entry.path()).as_os_str()
            } else {
                entry.file_name()
            };
            if entry.file_type().is_file() && self.rules.is_candidate(name) {
                let (folder, order) = (&self.folder, self.rules.order);
                self.queue.scanned(name, || Key::of(folder, name, order));
            }
        }
        self.queue.end_scan();
        Ok(())
    }

    /// The next complete file in order, if there is one now.
    pub fn take(&mut self) -> Option<Input> {
        loop {
            let end = match &self.closing {
                Closing::Before(end) => end.clone(),
                Closing::No => None,
            };
            // What ends the job comes when nothing before it is left.
            let up_to = match &end {
                Some(end) if self.is_drained() => Bound::Included(end),
                Some(end) => Bound::Excluded(end),
                None => Bound::Unbounded,
            };
            let (key, waiting) = self.queue.pop(up_to)?;
            let is_end = end.as_ref() == Some(&key);
            if let Some(input) = self.look(key, waiting.as_ref()) {
                self.queue.take(input.name());
                return Some(input);
            }
            if is_end && end.is_some_and(|end| !self.queue.is_waiting(&end.name)) {
                // What was to end the job went away.
                self.closing = Closing::No;
            }
        }
    }

    /// Looks at a name; unless the file is complete, notes what it waits for.
    fn look(&mut self, key: Key, before: Option<&Waiting>) -> Option<Input> {
        let renamed = self.queue.take_renamed(&key.name);
        let stat = self.folder_stat(&key.name)?;
        let stamp = Stamp::of(&stat);
        if let Some((why, pause)) = self.not_yet(&key.name, &stat, before, renamed) {
            self.wait(key, before, stamp, why, pause);
            return None;
        }
        let (file, opened) = match input::open(&self.folder, &key.name) {
            Found::File(file, opened) => (file, opened),
            Found::Gone | Found::NoInput => return None,
            Found::Unreadable(error) => {
                if before.is_none_or(|before| before.why != Why::Unreadable) {
                    let file = crate::telemetry::text(&key.name);
                    tracing::warn!(file, %error, "cannot be read; it waits, others go on");
                }
                self.wait(key, before, stamp, Why::Unreadable, Some(LOOK_AGAIN));
                return None;
            }
        };
        let grace_over = self.unchanged_for(&opened, before) >= self.rules.incomplete_grace;
        let unmet = if opened == stamp {
            self.unmet(&key.name, &file, &opened, before)
        } else {
            Some((Why::Settling, Some(Duration::ZERO)))
        };
        if let Some((Why::Unmovable, _)) = unmet
            && before.is_none_or(|before| before.why != Why::Unmovable)
        {
            let file = crate::telemetry::text(&key.name);
            tracing::warn!(file, "its folder cannot be written to, so it waits; others go on");
        }
        if let Some((why, pause)) = unmet {
            self.wait(key, before, opened, why, pause);
            return None;
        }
        Some(Input { key, file, stamp: opened, grace_over })
    }

    fn folder_stat(&self, name: &OsStr) -> Option<Stat> {
        match self.folder.stat(name) {
            Ok(Some(stat)) if input::is_regular(&stat) => Some(stat),
            Ok(_) => None,
            Err(error) => {
                let file = crate::telemetry::text(name);
                tracing::warn!(file, error = %chain(&error), "cannot be examined");
                None
            }
        }
    }

    /// What a stat alone can say against taking the file.
    fn not_yet(
        &self,
        name: &OsStr,
        stat: &Stat,
        before: Option<&Waiting>,
        renamed: bool,
    ) -> Option<(Why, Option<Duration>)> {
        if stat.st_nlink > 1 && self.rules.hard_links == HardLinks::Wait {
            return Some((Why::HardLinked, Some(LOOK_AGAIN)));
        }
        let stamp = Stamp::of(stat);
        let unchanged = self.unchanged_for(&stamp, before);
        if let Some(before) = before.filter(|before| before.stamp == stamp)
            && before.why == Why::Incomplete
            && unchanged < self.rules.incomplete_grace
        {
            return Some((
                Why::Incomplete,
                Some(self.rules.incomplete_grace.saturating_sub(unchanged)),
            ));
        }
        match &self.rules.complete {
            Some(Complete::Marker(_)) => {
                let marker = self.rules.marker_of(name)?;
                let there = matches!(self.folder.stat(&marker), Ok(Some(_)));
                (!there).then_some((Why::RuleUnmet, None))
            }
            Some(_) => None,
            None if renamed || unchanged >= self.rules.settle => None,
            None => Some((Why::Settling, Some(self.rules.settle.saturating_sub(unchanged)))),
        }
    }

    /// What the open file says against taking it.
    fn unmet(
        &self,
        name: &OsStr,
        file: &File,
        stamp: &Stamp,
        before: Option<&Waiting>,
    ) -> Option<(Why, Option<Duration>)> {
        if input::writers(file) == Writers::Some {
            return Some((Why::WriterOpen, Some(LOOK_AGAIN)));
        }
        if !input::can_be_renamed(&self.folder, name) {
            return Some((Why::Unmovable, Some(self.rules.rescan)));
        }
        let met = complete::is_met(&self.rules, name, file, stamp.size, self.plain);
        match (met, &self.rules.complete) {
            (Ok(true), _) => None,
            (Ok(false), Some(Complete::Lines(_))) => self.too_few_lines(stamp, before),
            // What cannot be decompressed yet may still be arriving; the pipeline decides when
            // that is over.
            (Err(_), Some(Complete::Lines(_))) if self.settled(stamp, before) => None,
            _ => Some((Why::RuleUnmet, Some(LOOK_AGAIN))),
        }
    }

    /// A file that is too short is taken all the same when the job ends and nothing has touched it
    /// for a while.
    fn too_few_lines(
        &self,
        stamp: &Stamp,
        before: Option<&Waiting>,
    ) -> Option<(Why, Option<Duration>)> {
        if self.closing == Closing::No {
            return Some((Why::TooFewLines, None));
        }
        let left = self.rules.settle.checked_sub(self.unchanged_for(stamp, before))?;
        (!left.is_zero()).then_some((Why::TooFewLines, Some(left)))
    }

    fn settled(&self, stamp: &Stamp, before: Option<&Waiting>) -> bool {
        self.unchanged_for(stamp, before) >= self.rules.settle
    }

    /// How long the file has been what it is: as watched, or by the status time, which no program
    /// can set back.
    fn unchanged_for(&self, stamp: &Stamp, before: Option<&Waiting>) -> Duration {
        let watched = before.filter(|before| before.stamp == *stamp);
        let watched = watched.map_or(Duration::ZERO, |before| before.since.elapsed());
        if self.shares_clock { watched.max(stamp.age()) } else { watched }
    }

    fn wait(
        &mut self,
        key: Key,
        before: Option<&Waiting>,
        stamp: Stamp,
        why: Why,
        pause: Option<Duration>,
    ) {
        let due = pause.map(|pause| Instant::now() + pause.max(Duration::from_millis(1)));
        self.queue.wait(key, before, stamp, why, due);
    }

    /// The input changed, or was not needed after all: it is looked at again.
    pub fn give_back(&mut self, input: Input) {
        self.queue.release(input.key, true);
    }

    /// The input cannot be taken yet: it waits.
    pub fn put_off(&mut self, input: Input, why: Why) {
        let pause = match why {
            Why::Incomplete => {
                let unchanged = self.unchanged_for(&input.stamp, None);
                self.rules.incomplete_grace.saturating_sub(unchanged)
            }
            _ => LOOK_AGAIN,
        };
        self.queue.release(input.key.clone(), false);
        self.wait(input.key, None, input.stamp, why, Some(pause));
    }

    /// The input is archived, or gone: a file under its name is a new one.
    pub fn release(&mut self, key: Key) {
        self.queue.release(key, false);
    }

    /// A name that is committed but not archived yet is not to be taken.
    pub fn hold(&mut self, name: &OsStr) {
        self.queue.take(name);
    }

    /// The name that was held is free: whatever is there now is a new file.
    pub fn free(&mut self, name: &OsStr) {
        if let Some(key) = Key::of(&self.folder, name, self.rules.order) {
            self.queue.release(key, true);
        }
    }

    /// The job ends: from now on only what is complete, or becomes so by being left alone, is
    /// taken, and nothing from `last` on.
    pub fn close(&mut self, last: Option<Key>) {
        if self.closing == Closing::No {
            self.closing = Closing::Before(last);
            self.queue.wake_short();
        }
    }

    /// The input did not end the job after all.
    pub fn did_not_end(&mut self, key: &Key) {
        if self.closing == Closing::Before(Some(key.clone())) {
            self.closing = Closing::No;
        }
    }

    /// True once the job has ended: nothing more will become complete by being left alone.
    pub fn is_drained(&self) -> bool {
        let below = match &self.closing {
            Closing::No => return false,
            Closing::Before(last) => last.as_ref(),
        };
        !self.queue.has_due(below) && !self.queue.has_hopeful(below, true)
    }

    /// True when the job could end before `key` without waiting for a file that stands before it.
    pub fn is_drained_before(&self, key: &Key) -> bool {
        !self.queue.has_due(Some(key)) && !self.queue.has_hopeful(Some(key), true)
    }

    /// When [`Source::take`] may have more to give, hints aside.
    pub fn next_due(&self) -> Instant {
        self.queue.next_due().map_or(self.scan_due, |due| due.min(self.scan_due))
    }

    /// Files that are known and not done, and of these the ones that are not complete yet.
    pub fn pending(&self) -> (usize, usize) {
        let (due, waiting, taken) = self.queue.counts();
        (due + waiting + taken, waiting)
    }

    /// How long the file that has waited longest has been unchanged.
    pub fn oldest(&self) -> Option<Duration> {
        self.queue.oldest_wait(Instant::now())
    }

    /// The next file in order, if one is due.
    pub fn next_name(&self) -> Option<&OsStr> {
        self.queue.first()
    }
}

fn stamp_of(folder: &Dir) -> durable::Result<Stamp> {
    folder.stat_self().map(|stat| Stamp::of(&stat))
}

fn chain(error: &durable::Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
