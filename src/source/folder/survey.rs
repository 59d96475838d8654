//! Counts the waiting files in a drop folder from outside, within a bounded time.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use walkdir::WalkDir;

use super::input;
use super::rules::FAILED;
use super::stamp::Stamp;
use super::{FolderSource, archive};

/// Names between two looks at the clock.
const STRIDE: u64 = 64;

/// The files in a drop folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Survey {
    /// Files that are to be taken, now or when they are complete.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these files, those that are not complete.
    pub settling: u64,
    /// How long the oldest of these files has been what it is.
    pub oldest: Option<Duration>,
    /// Files that were set aside.
    pub failed: u64,
    /// Time was short: there is at least this much.
    pub at_least: bool,
}

impl FolderSource {
    /// Counts what waits, as far as `budget` goes. Names in `committed` are done but for their archive.
    pub fn survey(
        &self,
        committed: &HashSet<OsString>,
        budget: Duration,
    ) -> anyhow::Result<Survey> {
        let begun = Instant::now();
        let mut survey = Survey::default();
        let depth = if self.rules.recursive { usize::MAX } else { 1 };
        let root = self.folder.path();
        let entries = WalkDir::new(root).min_depth(1).max_depth(depth).follow_links(false);
        for (entry, number) in entries.into_iter().zip(1_u64..) {
            let entry = match entry {
                Ok(entry) => entry,
                // It went away meanwhile.
                Err(error) if error.depth() > 0 => continue,
                Err(error) => return Err(error.into()),
            };
            if number % STRIDE == 0 && begun.elapsed() > budget {
                survey.at_least = true;
                break;
            }
            let name = entry.path().strip_prefix(root).unwrap_or(entry.path()).as_os_str();
            if !entry.file_type().is_file() || committed.contains(name) {
                continue;
            }
            self.count(name, &mut survey);
        }
        Ok(survey)
    }

    fn count(&self, name: &OsStr, survey: &mut Survey) {
        if !self.rules.is_candidate(name) {
            survey.failed += u64::from(is_failed(name));
            return;
        }
        let Ok(Some(stat)) = self.folder.stat(name) else { return };
        if !input::is_regular(&stat) {
            return;
        }
        let stamp = Stamp::of(&stat);
        survey.files += 1;
        survey.bytes += stamp.size;
        survey.oldest = survey.oldest.max(Some(stamp.age()));
        let is_incomplete = self.not_yet(name, &stat, None, false).is_some()
            || self.rules.looks_inside() && self.is_unmet(name);
        survey.settling += u64::from(is_incomplete);
    }

    /// True when the rule that looks into the file is not met.
    fn is_unmet(&self, name: &OsStr) -> bool {
        match input::open(&self.folder, name) {
            input::Found::File(file, stamp) => {
                self.unmet(name, &file, &stamp, None, false).is_some()
            }
            _ => false,
        }
    }
}

/// True for the name of a file that was set aside; its report is none.
pub fn is_failed(name: &OsStr) -> bool {
    let name = std::path::Path::new(name).file_name().unwrap_or(name).as_bytes();
    name.starts_with(FAILED.as_bytes()) && !name.ends_with(archive::REPORT_SUFFIX.as_bytes())
}
