//! The drop folder: which files are complete, and in which order they are taken.
//!
//! Invariants:
//! - The scan is the truth, a hint only shortens the wait; both end in the same look at the file.
//! - The folder is not listed while hints come in, but at the start, when hints were lost, and now
//!   and then; the more a scan costs, the rarer it gets.
//! - A file is offered once until it is released.
//!
//! Out of scope: what is in a file, but for the rules of completeness.

mod acknowledge;
pub mod archive;
mod bounded;
pub mod claim;
pub mod complete;
pub mod globs;
mod in_hand;
pub mod input;
mod look;
pub mod queue;
pub mod requeued;
pub mod rules;
mod scan;
pub mod stamp;
mod standing;
mod survey;
pub mod watch;
pub mod watching;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use walkdir::WalkDir;

use super::{Backlog, Input, Key, Source, Why};
use crate::clock::Backoff;
use crate::durable::{self, Dir};
use crate::failure::Result;
use crate::record::{Home, Identity};
use acknowledge::Archiving;
use claim::{Claim, Claimant};
use complete::Plain;
use in_hand::InHand;
use input::file_of;
use queue::Queue;
use rules::Rules;
use stamp::Stamp;
pub use standing::Standing;
pub use survey::Survey;
use watching::Watching;

/// How long a file that could not be read, or that somebody writes to, is left alone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long a file is put off that cannot be taken for now.
const PUT_OFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(5));

/// The state of one drop folder.
pub struct FolderSource {
    rules: Arc<Rules>,
    folder: Arc<Dir>,
    folder_stamp: Stamp,
    /// The one before, until somebody asks for it.
    left: Option<Arc<Dir>>,
    queue: Queue,
    in_hand: InHand,
    plain: Plain,
    /// Hints; without them the folder is polled.
    watching: Option<Watching>,
    shares_clock: bool,
    opened: Instant,
    scan_due: Instant,
    last_scan: Option<(Instant, Duration, Stamp)>,
    /// How often each file was put off.
    put_off: HashMap<Box<OsStr>, u32>,
    /// Nothing is going to be renamed.
    only_reads: bool,
    /// Names whose marker is there without them.
    orphans: HashSet<Box<OsStr>>,
    /// The job's entry in the list of jobs on the folder.
    claimant: Option<Claimant>,
    failed: u64,
    claim: Option<Claim>,
    closing: Closing,
    archiving: Archiving,
    /// When it was last asked whether the folder can be written to, and it could.
    asked: Cell<Option<Instant>>,
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

impl FolderSource {
    /// Opens the folder. Without a watch it is polled. `shares_clock` says that the times of its files come
    /// from this machine's clock.
    pub fn open(
        directory: &Path,
        rules: Rules,
        watching: Option<Watching>,
        shares_clock: bool,
        plain: Plain,
    ) -> durable::Result<Self> {
        let folder = Dir::open(directory)?;
        let folder_stamp = stamp_of(&folder)?;
        Ok(Self {
            rules: Arc::new(rules),
            folder: Arc::new(folder),
            folder_stamp,
            left: None,
            queue: Queue::default(),
            in_hand: InHand::default(),
            plain,
            watching,
            shares_clock,
            opened: Instant::now(),
            scan_due: Instant::now(),
            last_scan: None,
            put_off: HashMap::new(),
            orphans: HashSet::new(),
            claimant: None,
            failed: 0,
            claim: None,
            closing: Closing::No,
            archiving: Archiving::default(),
            asked: Cell::default(),
            only_reads: false,
        })
    }

    /// Makes sure that no other job takes the same files, for as long as this is open.
    pub fn claim(&mut self, own: Claimant) -> Result<()> {
        self.claim = Some(Claim::take(self.folder.path(), &own)?);
        self.claimant = Some(own);
        Ok(())
    }

    /// The folder's descriptor.
    pub fn folder(&self) -> &Dir {
        &self.folder
    }

    /// The rules of the folder.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// True when no watch tells of new files.
    pub fn polls(&self) -> bool {
        self.watching.is_none()
    }

    /// True when the folder is the one that a file of this name was in; a file system that is not mounted may
    /// have held it.
    fn is_home(&self, name: &OsStr, home: Home) -> bool {
        let device = match input::open_parent(&self.folder, name) {
            Ok(None) => Some(self.folder_stamp.device),
            Ok(Some(parent)) => parent.stat_self().ok().map(|stat| stat.st_dev),
            Err(_) => None,
        };
        home.folder == self.folder_stamp.inode && device.is_none_or(|device| device == home.device)
    }

    /// A file was set aside.
    fn note_failed(&mut self) {
        self.failed += 1;
    }

    /// The input is archived, or gone: a file under its name is a new one.
    fn release(&mut self, key: Key) {
        self.in_hand.let_go(&key.name);
        self.put_off.remove(&key.name);
        self.queue.release(key, false);
    }

    /// A file that is committed but not archived yet is not to be taken.
    fn hold(&mut self, name: &OsStr, identity: &Identity, home: Option<Home>) {
        if let Some(home) = home {
            self.in_hand.take(name, (home.device, identity.inode));
        }
        let key = Key::of(&self.folder, name, self.rules.order);
        self.queue.hold(name, key.as_ref());
    }

    /// The name that was held is free: whatever is there now is a new file.
    fn free(&mut self, name: &OsStr) {
        self.put_off.remove(name);
        self.in_hand.let_go(name);
        match Key::of(&self.folder, name, self.rules.order) {
            Some(key) => self.queue.release(key, true),
            None => self.queue.forget(name),
        }
    }

    /// The files that were put off for this reason.
    fn put_off_for(&self, why: Why) -> impl Iterator<Item = &OsStr> {
        // Only files that were put off are asked, and they are few.
        let names = self.put_off.keys().map(|name| &**name);
        names.filter(move |name| self.queue.waits_for(name, why))
    }
}

impl Source for FolderSource {
    fn poll(&mut self) -> Result<()> {
        self.hear_and_scan()
    }

    fn take(&mut self) -> Result<Option<Input>> {
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
            let Some((key, waiting)) = self.queue.pop(up_to) else { return Ok(None) };
            let is_end = end.as_ref() == Some(&key);
            if let Some(input) = self.look(key, waiting.as_ref())? {
                let stamp = *file_of(&input).1;
                let file = (stamp.device, stamp.inode);
                if !self.in_hand.has(file) {
                    self.queue.take(input.name());
                    self.in_hand.take(input.name(), file);
                    match self.archive_if_committed(input)? {
                        Some(input) => return Ok(Some(input)),
                        None => continue,
                    }
                }
                // It was renamed since it was taken: what becomes of it is to be known first.
                self.wait(input.key, waiting.as_ref(), stamp, Why::InHand, Some(LOOK_AGAIN));
            }
            if is_end && end.is_some_and(|end| !self.queue.is_waiting(&end.name)) {
                // What was to end the job went away.
                self.closing = Closing::No;
            }
        }
    }

    fn give_back(&mut self, input: Input) {
        self.in_hand.let_go(input.name());
        self.queue.release(input.key, true);
    }

    fn put_off(&mut self, input: Input, why: Why) {
        let stamp = *file_of(&input).1;
        let pause = match why {
            Why::Incomplete => {
                let unchanged = self.unchanged_for(&stamp, None);
                self.rules.incomplete_grace.saturating_sub(unchanged)
            }
            Why::WriterOpen => LOOK_AGAIN,
            _ => {
                let tries = self.put_off.entry(input.key.name.clone()).or_default();
                *tries = tries.saturating_add(1);
                PUT_OFF.after(*tries)
            }
        };
        self.in_hand.let_go(input.name());
        self.queue.release(input.key.clone(), false);
        self.wait(input.key, None, stamp, why, Some(pause));
    }

    fn close(&mut self, last: Option<Key>) {
        if self.closing == Closing::No {
            self.closing = Closing::Before(last);
            self.queue.wake_too_short();
        }
    }

    fn reopen(&mut self, key: &Key) {
        if self.closing == Closing::Before(Some(key.clone())) {
            self.closing = Closing::No;
        }
    }

    fn is_drained(&self) -> bool {
        let below = match &self.closing {
            Closing::No => return false,
            Closing::Before(last) => last.as_ref(),
        };
        !self.queue.has_due(below) && !self.queue.has_settling(below, true)
    }

    fn is_drained_before(&self, key: &Key) -> bool {
        !self.queue.has_due(Some(key)) && !self.queue.has_settling(Some(key), true)
    }

    fn next_due(&self) -> Instant {
        let others = [self.queue.next_due(), self.archive_due()];
        others.into_iter().flatten().fold(self.scan_due, Instant::min)
    }

    fn is_under_way(&self) -> bool {
        self.queue.is_under_way()
    }

    fn put_off_for_now(&self) -> Option<(&OsStr, &'static str)> {
        self.queue.first_that_waits(|why| match why {
            Why::Unreadable => Some("it cannot be read"),
            Why::Unmovable => Some("the folder it is in cannot be written to"),
            Why::NoRoom => Some("its records do not fit on the disk"),
            Why::Later => Some("its command has asked to be tried later"),
            _ => None,
        })
    }

    fn next_name(&self) -> Option<&OsStr> {
        self.queue.first()
    }

    fn backlog(&self) -> Backlog<'_> {
        let (due, waiting, taken) = self.queue.counts();
        Backlog {
            pending: due + waiting + taken,
            waiting,
            failed: self.failed,
            oldest: self.queue.oldest_wait(Instant::now()),
            no_room: self.put_off_for(Why::NoRoom).next(),
            later: self.put_off_for(Why::Later).collect(),
        }
    }

    fn home_of(&self, input: &Input) -> Option<Home> {
        Some(Home { device: file_of(input).1.device, folder: self.folder_stamp.inode })
    }

    fn as_folder(&self) -> Option<&FolderSource> {
        Some(self)
    }
}

/// The files in a drop folder that were set aside, and their reports, by their names relative to it, in order.
///
/// # Errors
/// When the folder cannot be read.
pub fn failed(folder: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let depth = if recursive { usize::MAX } else { 1 };
    let walk = WalkDir::new(folder).min_depth(1).max_depth(depth).sort_by_file_name();
    let mut names = Vec::new();
    for entry in walk {
        let entry = entry?;
        let is_failed = entry.file_name().as_encoded_bytes().starts_with(rules::FAILED.as_bytes());
        if is_failed && entry.file_type().is_file() {
            names.push(entry.path().strip_prefix(folder).unwrap_or(entry.path()).to_owned());
        }
    }
    Ok(names)
}

fn stamp_of(folder: &Dir) -> durable::Result<Stamp> {
    folder.stat_self().map(|stat| Stamp::of(&stat))
}
