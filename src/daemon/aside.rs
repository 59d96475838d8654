//! Work that a successful run has left undone, for `--strict`.

use std::fmt;

/// How much was set aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Aside {
    /// Files in quarantine.
    pub files: u64,
    /// Groups that are left out of the results of views.
    pub groups: u64,
    /// Views that are stopped.
    pub views: u64,
}

impl Aside {
    /// True when nothing was.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Aside {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = [
            (self.files, "files were set aside as failed-*"),
            (self.groups, "groups were left out of views"),
            (self.views, "views are stopped"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        to.write_str(&parts.join("; "))
    }
}
