//! The inputs of a batch: what a job would take that runs once, and what it would take of files that are named.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::complete::{self, Plain};
use super::input::file_of;
use super::rules::Rules;
use super::stamp::Stamp;
use super::{FolderSource, LOOK_AGAIN};
use crate::failure::Failure;
use crate::source::Source as _;

/// A file that is complete, and what it was then.
pub type Complete = (Box<OsStr>, Stamp);

impl FolderSource {
    /// The files in a folder that are complete, or become so by being left alone, in order: what a job would
    /// take that runs once. Looked at again from time to time, as long as `goes_on`; how many more there are is
    /// the second.
    pub fn complete(
        directory: &Path,
        rules: Rules,
        plain: Plain,
        goes_on: impl Fn() -> bool,
    ) -> anyhow::Result<(Vec<Complete>, usize)> {
        let mut source = Self::open(directory, rules, None, true, plain)?;
        source.only_reads = true;
        source.close(None);
        let mut keys = Vec::new();
        loop {
            source.poll().map_err(Failure::into_error)?;
            while let Some(input) = source.take().map_err(Failure::into_error)? {
                let stamp = *file_of(&input).1;
                keys.push((input.key, stamp));
            }
            if source.is_drained() || !goes_on() {
                break;
            }
            std::thread::sleep(LOOK_AGAIN.min(Duration::from_millis(50)));
        }
        keys.sort_by(|(one, _), (other, _)| one.cmp(other));
        let left = source.backlog().waiting;
        Ok((keys.into_iter().map(|(key, stamp)| (key.name, stamp)).collect(), left))
    }

    /// True when a file that is named explicitly is whole, by the rule that looks into it.
    pub fn is_whole(
        rules: &Rules,
        path: &Path,
        file: &File,
        plain: Plain,
    ) -> std::io::Result<bool> {
        let name = path.file_name().unwrap_or(path.as_os_str());
        complete::is_met(rules, name, file, file.metadata()?.len(), plain)
    }
}
