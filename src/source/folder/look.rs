//! The look at one file: is it complete, and if not, what does it wait for?
//!
//! Invariants: the daemon, `status` and `explain` look in the same way.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::Stat;

use super::input::{self, Found, Writers};
use super::queue::Waiting;
use super::rules::{Complete, HardLinks};
use super::scan::POLL;
use super::stamp::Stamp;
use super::{Closing, FolderSource, LOOK_AGAIN, complete};
use crate::durable;
use crate::failure::{Failure, Result};
use crate::source::{Body, Input, Key, Why};

/// How long it holds that the drop folder can be written to.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A look at a file that waits for something may come once in this time: with all that wait, a thousand in
/// a second, which take less than one part in a hundred of a processor.
const LOOK_COSTS: Duration = Duration::from_millis(1);

/// Time between rounds of such looks: each round wakes the daemon once.
const LOOK_ROUND: Duration = Duration::from_millis(100);

/// Markers without a file that are told, each once.
const ORPHANS_MAX: usize = 1000;

impl FolderSource {
    /// Looks at a name; unless the file is complete, notes what it waits for.
    pub(super) fn look(&mut self, key: Key, before: Option<&Waiting>) -> Result<Option<Input>> {
        let renamed = self.queue.take_renamed(&key.name);
        let Some(stat) = self.folder_stat(&key.name) else {
            self.note_orphan(&key.name);
            return Ok(None);
        };
        let stamp = Stamp::of(&stat);
        if let Some((why, pause)) = self.not_yet(&key.name, &stat, before, renamed) {
            self.wait(key, before, stamp, why, pause);
            return Ok(None);
        }
        let (file, opened) = match input::open(&self.folder, &key.name) {
            Found::File(file, opened) => (file, opened),
            Found::Gone | Found::NoInput => return Ok(None),
            Found::Unreadable(error) if input::is_of_process(&error) => {
                if renamed {
                    self.queue.renamed(&key.name);
                }
                self.queue.put_back(key);
                return Err(Failure::Transient(anyhow::Error::from(error).context("open a file")));
            }
            Found::Unreadable(error) => {
                if before.is_none_or(|before| before.why != Why::Unreadable) {
                    let file = crate::telemetry::text(&key.name);
                    tracing::warn!(file, %error, "the file cannot be read; it waits, others go on");
                }
                self.wait(key, before, stamp, Why::Unreadable, Some(LOOK_AGAIN));
                return Ok(None);
            }
        };
        let grace_over = self.unchanged_for(&opened, before) >= self.rules.incomplete_grace;
        let unmet = if opened == stamp {
            self.unmet(&key.name, &file, &opened, before, renamed)
        } else {
            Some((Why::Settling, Some(Duration::ZERO)))
        };
        if let Some((Why::Unmovable, _)) = unmet
            && before.is_none_or(|before| before.why != Why::Unmovable)
        {
            let file = crate::telemetry::text(&key.name);
            tracing::warn!(
                file,
                "the folder of the file cannot be written to; it waits, others go on"
            );
        }
        if let Some((why, pause)) = unmet {
            self.wait(key, before, opened, why, pause);
            return Ok(None);
        }
        Ok(Some(Input { key, body: Body::File(file, opened), grace_over, expected: 0 }))
    }

    fn folder_stat(&self, name: &OsStr) -> Option<Stat> {
        match self.folder.stat(name) {
            Ok(Some(stat)) if input::is_regular(&stat) => Some(stat),
            Ok(_) => None,
            Err(error) => {
                let file = crate::telemetry::text(name);
                tracing::warn!(file, error = %chain(&error), "the file cannot be examined");
                None
            }
        }
    }

    /// A marker without its file completes nothing: it is told once.
    fn note_orphan(&mut self, name: &OsStr) {
        let Some(marker) = self.rules.marker_of(name) else { return };
        if !matches!(self.folder.stat(&marker), Ok(Some(_))) {
            self.orphans.remove(name);
        } else if self.orphans.len() < ORPHANS_MAX && self.orphans.insert(name.into()) {
            let marker = crate::telemetry::text(&marker);
            tracing::warn!(marker, "the marker has no file; it completes none that comes later");
        }
    }

    /// Reasons against taking the file that its status alone shows.
    pub(super) fn not_yet(
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
                let name_of_it = self.rules.marker_of(name)?;
                let marker = self.folder.stat(&name_of_it).ok().flatten();
                match marker.map(|marker| Stamp::of(&marker)) {
                    None => Some((Why::RuleUnmet, None)),
                    Some(marker) if !marker.is_as_new_as(&stamp) => Some((Why::OldMarker, None)),
                    Some(_) => None,
                }
            }
            Some(_) => None,
            None if renamed || unchanged >= self.rules.settle => None,
            None => Some((Why::Settling, Some(self.rules.settle.saturating_sub(unchanged)))),
        }
    }

    /// False while the folder that the file is in cannot be written to. The drop folder itself is asked
    /// about once a second.
    fn can_be_renamed(&self, name: &OsStr) -> bool {
        if Path::new(name).parent().is_some_and(|parent| !parent.as_os_str().is_empty()) {
            return input::can_be_renamed(&self.folder, name);
        }
        if self.asked.get().is_some_and(|asked| asked.elapsed() < ASK_AGAIN) {
            return true;
        }
        let can = input::can_be_renamed(&self.folder, name);
        self.asked.set(can.then(Instant::now));
        can
    }

    /// Reasons against taking the file that need it open.
    pub(super) fn unmet(
        &self,
        name: &OsStr,
        file: &File,
        stamp: &Stamp,
        before: Option<&Waiting>,
        renamed: bool,
    ) -> Option<(Why, Option<Duration>)> {
        let writers = input::writers(file);
        if writers == Writers::Some {
            return Some((Why::WriterOpen, Some(LOOK_AGAIN)));
        }
        let unchanged = self.unchanged_for(stamp, before);
        if renamed && writers == Writers::Unknown && self.rules.complete.is_none() {
            // Somebody may go on writing after the rename, and could not be asked about.
            if let Some(left) =
                self.rules.settle.checked_sub(unchanged).filter(|left| !left.is_zero())
            {
                return Some((Why::Settling, Some(left)));
            }
        }
        if !self.only_reads && !self.can_be_renamed(name) {
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
    pub(super) fn unchanged_for(&self, stamp: &Stamp, before: Option<&Waiting>) -> Duration {
        let watched = before
            .filter(|before| before.stamp == *stamp)
            .map_or(Duration::ZERO, |before| before.since.elapsed());
        if self.shares_clock { watched.max(stamp.age()) } else { watched }
    }

    pub(super) fn wait(
        &mut self,
        key: Key,
        before: Option<&Waiting>,
        stamp: Stamp,
        why: Why,
        pause: Option<Duration>,
    ) {
        let same = before.filter(|before| before.stamp == stamp && before.why == why);
        let due = match pause {
            Some(LOOK_AGAIN) if why != Why::Settling => Some(self.look_due(same)),
            pause => pause.map(|pause| Instant::now() + pause.max(Duration::from_millis(1))),
        };
        self.queue.wait(key, before, stamp, why, due);
    }

    /// When a file that waits for something is looked at again: together with others.
    fn look_due(&self, same: Option<&Waiting>) -> Instant {
        // What has waited for long may wait a little longer: a change makes an event of its own.
        let most = if self.polls() { POLL * 10 } else { self.rules.rescan };
        let waited = same.map_or(LOOK_AGAIN, |same| same.since.elapsed().min(most));
        let (_, waiting, _) = self.queue.counts();
        let least = LOOK_COSTS.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX));
        let due = self.opened.elapsed() + waited.max(LOOK_AGAIN).max(least);
        let round = due.as_millis().div_ceil(LOOK_ROUND.as_millis());
        self.opened + LOOK_ROUND.saturating_mul(u32::try_from(round).unwrap_or(u32::MAX))
    }
}

fn chain(error: &durable::Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::rules;
    use super::*;

    /// With all that wait, a thousand looks a second, however many they are.
    #[test]
    fn the_more_wait_the_rarer_each_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let mut source =
            FolderSource::open(folder.path(), rules("*", None), None, true, |_, _| Ok(None))
                .unwrap();
        let stamp = source.folder_stamp;
        for number in 0..5000 {
            let key = Key { rank: Box::default(), name: OsStr::new(&format!("{number}")).into() };
            source.wait(key, None, stamp, Why::HardLinked, Some(LOOK_AGAIN));
        }
        let least = Instant::now() + LOOK_COSTS * 5000;
        assert!(source.look_due(None) >= least);
    }
}
