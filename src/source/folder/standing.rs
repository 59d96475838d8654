//! Why a file is not taken yet: the same look as before it is taken, for `explain` and `status`.

use std::ffi::OsStr;
use std::time::Duration;

use super::FolderSource;
use super::input::{self, Found};
use super::stamp::Stamp;
use crate::source::Why;

/// How a name in the drop folder stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A file of this name is never taken, for this reason.
    Never(&'static str),
    /// There is nothing under this name.
    Gone,
    /// It is no regular file.
    NoFile,
    /// It waits for this, for so long if time alone can help.
    Waiting(Why, Option<Duration>),
    /// It would be taken now.
    Complete,
}

impl FolderSource {
    /// How this name stands, and what the file is.
    pub fn standing(&self, name: &OsStr) -> (Standing, Option<Stamp>) {
        let Ok(Some(stat)) = self.folder.stat(name) else { return (Standing::Gone, None) };
        let stamp = Stamp::of(&stat);
        let standing = if let Some(reason) = self.rules.why_not(name) {
            Standing::Never(reason)
        } else if !input::is_regular(&stat) {
            Standing::NoFile
        } else if let Some((why, left)) = self.not_yet(name, &stat, None, false) {
            Standing::Waiting(why, left.filter(|_| why == Why::Settling))
        } else {
            match input::open(&self.folder, name) {
                Found::Gone => Standing::Gone,
                Found::NoInput => Standing::NoFile,
                Found::Unreadable(_) => Standing::Waiting(Why::Unreadable, None),
                Found::File(file, opened) => match self.unmet(name, &file, &opened, None, false) {
                    Some((why, _)) => Standing::Waiting(why, None),
                    None => Standing::Complete,
                },
            }
        };
        (standing, Some(stamp))
    }
}
