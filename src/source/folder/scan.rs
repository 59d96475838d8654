//! How names become known: hints, and the scan.
//!
//! Invariants: the scan is the truth, a hint only shortens the wait. The folder may be replaced:
//! the one that its path leads to counts.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use walkdir::WalkDir;

use super::claim::Claim;
use super::stamp::Stamp;
use super::watch::Hint;
use super::watching::{HINTS_MAX, Watching};
use super::{FolderSource, LOOK_AGAIN, stamp_of, survey};
use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::source::Key;

/// Time between scans when there are no events.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// Scanning may use at most 1/`SCAN_SHARE` of the time.
const SCAN_SHARE: u32 = 100;

impl FolderSource {
    /// Hears the hints, and lists the folder if that is due. An unchanged folder is not listed again.
    ///
    /// # Errors
    /// When the folder cannot be read: it may have been unmounted or removed, and may come back.
    pub(super) fn hear_and_scan(&mut self) -> Result<()> {
        // However fast they come, the files are taken in between. One more: some may have been lost.
        for _ in 0..=HINTS_MAX {
            let Some(hint) = self.watching.as_ref().and_then(Watching::next) else { break };
            self.hear(hint);
        }
        self.scan_if_due(Instant::now()).map_err(Failure::Transient)?;
        self.move_in()
    }

    fn scan_if_due(&mut self, now: Instant) -> anyhow::Result<()> {
        self.queue.wake(now);
        if now < self.scan_due {
            return Ok(());
        }
        self.reopen_if_replaced()?;
        let before = stamp_of(&self.folder)?;
        if !self.polls() && self.is_settled(&before, now) {
            self.scan_due = now + self.rules.rescan;
            return Ok(());
        }
        self.scan()?;
        let took = now.elapsed();
        self.last_scan = Some((now, took, before));
        let pause = if self.polls() { POLL } else { self.rules.rescan };
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

    /// The folder may have been unmounted or created again: what counts is what its path leads to.
    fn reopen_if_replaced(&mut self) -> anyhow::Result<()> {
        let there = Dir::open(self.folder.path())?;
        let stamp = stamp_of(&there)?;
        if (stamp.device, stamp.inode) != (self.folder_stamp.device, self.folder_stamp.inode) {
            // Whether or not the new one can be had, the old one is of no use.
            self.claim = None;
            let claim = self.claimant.as_ref().map(|own| Claim::take(there.path(), own));
            self.claim = claim.transpose().map_err(Failure::into_error)?;
            tracing::warn!(folder = %self.folder.path().display(), "the drop folder was replaced");
            self.left = Some(std::mem::replace(&mut self.folder, Arc::new(there)));
            self.folder_stamp = stamp;
            self.last_scan = None;
            self.watch_again();
        }
        Ok(())
    }

    pub(super) fn hear(&mut self, hint: Hint) {
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
            Hint::Written(path) => self.note_written(path),
        }
    }

    fn touched(&mut self, name: &OsStr) {
        let name = match self.rules.marked(name) {
            Some(marked) if self.rules.is_candidate(marked) => marked,
            None if self.rules.is_candidate(name) => name,
            _ => return,
        };
        let folder = &self.folder;
        let order = self.rules.order;
        self.queue.seen(name, || Key::of(folder, name, order));
    }

    /// A folder that was replaced is watched again.
    fn watch_again(&mut self) {
        let Some(watching) = &mut self.watching else { return };
        if let Err(error) = watching.restart(self.folder.path()) {
            tracing::warn!(%error, "the new drop folder cannot be watched; scanning");
        }
    }

    fn scan(&mut self) -> anyhow::Result<()> {
        let depth = if self.rules.recursive { usize::MAX } else { 1 };
        let root: PathBuf = self.folder.path().to_owned();
        let mut failed = 0;
        self.queue.begin_scan();
        for entry in WalkDir::new(&root).min_depth(1).max_depth(depth).follow_links(false) {
            let entry = match entry {
                Ok(entry) => entry,
                // What went away during the scan is no loss; the folder itself would be.
                Err(error) if error.depth() > 0 => {
                    let is_gone = error
                        .io_error()
                        .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
                    if !is_gone {
                        tracing::warn!(%error, "a part of the drop folder cannot be read");
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let name = if self.rules.recursive {
                entry.path().strip_prefix(&root).unwrap_or(entry.path()).as_os_str()
            } else {
                entry.file_name()
            };
            failed += u64::from(survey::is_failed(name));
            if entry.file_type().is_file() && self.rules.is_candidate(name) {
                let folder = &self.folder;
                let order = self.rules.order;
                self.queue.scanned(name, || Key::of(folder, name, order));
            }
        }
        self.queue.end_scan();
        self.failed = failed;
        Ok(())
    }
}
