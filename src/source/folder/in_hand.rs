//! The files that are taken and not archived yet, by name and by inode.
//!
//! Invariants: a file that is renamed while it is taken is not taken once more under its new name.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;

/// Device and inode of a file.
type File = (u64, u64);

/// The files in hand.
#[derive(Debug, Default)]
pub struct InHand {
    names: HashMap<Box<OsStr>, Vec<File>>,
    files: HashSet<File>,
}

impl InHand {
    /// True when the file is taken already.
    pub fn has(&self, file: File) -> bool {
        self.files.contains(&file)
    }

    /// The file is taken under this name.
    pub fn take(&mut self, name: &OsStr, file: File) {
        self.names.entry(name.into()).or_default().push(file);
        self.files.insert(file);
    }

    /// The input taken under this name is done.
    pub fn let_go(&mut self, name: &OsStr) {
        for file in self.names.remove(name).unwrap_or_default() {
            self.files.remove(&file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::FolderSource;
    use super::super::rules::tests::rules;
    use super::super::watch::Hint;
    use crate::source::Source as _;
    use std::fs;
    use std::time::Instant;

    /// The name that it had is done with only when it is known what became of the file.
    #[expect(clippy::disallowed_methods, reason = "the test is the uploader")]
    #[test]
    fn a_file_that_is_renamed_while_it_is_taken_is_not_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("a");
        let to = folder.path().join("b");
        fs::write(&from, "1\n").unwrap();
        let mut source =
            FolderSource::open(folder.path(), rules("*", None), None, true, |_, _| Ok(None))
                .unwrap();
        source.poll().unwrap();
        let taken = source.take().unwrap().unwrap();
        fs::rename(from, to).unwrap();
        source.hear(Hint::Renamed("b".into()));
        assert!(source.take().unwrap().is_none());
        source.free(taken.name());
        source.queue.wake(Instant::now() + super::super::LOOK_AGAIN * 2);
        assert_eq!(source.take().unwrap().unwrap().name(), "b");
    }
}
