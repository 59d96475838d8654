//! The status file: facts that only the running daemon knows.
//!
//! Invariants: it is written in place, as one page, without an fsync: it is worth nothing after a
//! crash but for the last error. A reader asks the kernel whether the daemon runs.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::clock::now_ms;

/// The file in the state directory.
const FILE: &str = "live.json";

/// One page: it is written and read as a whole.
const PAGE: usize = 4096;

/// Longest text in bytes, so that everything fits into the page.
const TEXT_MAX: usize = 1024;

/// Least time between two writes.
const EVERY: Duration = Duration::from_secs(1);

/// The current activity of the daemon.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Live {
    /// When it was started, in milliseconds since 1970.
    pub started_ms: i64,
    /// Where it serves HTTP, as [`crate::config::Config::listens`] says it; `None` where that is not known.
    pub listens: Option<String>,
    /// Files that are known and not done.
    pub pending: u64,
    /// Of these, the ones that are not complete yet.
    pub waiting: u64,
    /// Files in the folder that were set aside.
    pub failed: u64,
    /// A file whose records do not fit on the disk, while there is one.
    pub no_room: Option<String>,
    /// Files whose command has asked to be tried later, as far as they fit.
    pub later: Vec<String>,
    /// The next file in order, while there is one.
    pub next: Option<String>,
    /// Why it pauses, while it does.
    pub paused: Option<String>,
    /// The last failure that made it pause or stop.
    pub last_error: Option<Trouble>,
}

/// A failure, and when it came.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Trouble {
    /// In milliseconds since 1970.
    pub at_ms: i64,
    /// The error.
    pub error: String,
}

impl Live {
    /// The status file of the last daemon in this state directory; the defaults if there is none.
    pub fn read(state: &Path) -> Self {
        let read = || -> Option<Self> {
            let mut page = [0; PAGE];
            // Should it be a pipe, nobody waits for it.
            let file = File::options()
                .read(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
                .open(state.join(FILE))
                .ok()?;
            let got = file.read_at(&mut page, 0).ok()?;
            serde_json::from_slice(page.get(..got)?).ok()
        };
        read().unwrap_or_default()
    }

    /// Another daemon goes on where this one left off.
    #[must_use]
    pub fn started(self, started_ms: i64, listens: Option<String>) -> Self {
        Self { started_ms, listens, paused: None, ..self }
    }

    /// The commands of these files have asked to be tried later.
    pub fn put_off_later(&mut self, names: impl Iterator<Item = String>) {
        let mut room = TEXT_MAX;
        self.later = names
            .take_while(|name| {
                let fits = name.len() <= room;
                room = room.saturating_sub(name.len());
                fits
            })
            .collect();
    }

    /// Something went wrong.
    pub fn failed(&mut self, error: &str) {
        self.last_error = Some(Trouble { at_ms: now_ms(), error: cut(error) });
    }

    /// It pauses for this reason, or no longer.
    pub fn pauses(&mut self, reason: Option<&str>) {
        self.paused = reason.map(cut);
    }
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or(text).to_owned()
}

/// Where the daemon writes it.
pub struct Told {
    file: Option<File>,
    last: Live,
    at: Option<Instant>,
}

impl Told {
    /// A place in this state directory. Without one the daemon runs all the same.
    pub fn open(state: &Path) -> Self {
        let path = state.join(FILE);
        let opened = crate::durable::open_private(&path);
        if let Err(error) = &opened {
            tracing::warn!(%error, file = %path.display(), "the status file cannot be written");
        }
        Self { file: opened.ok(), last: Live::default(), at: None }
    }

    /// Writes it if it has changed and was not written just now. When it still has to be written,
    /// that is due at the time returned.
    pub fn tell(&mut self, live: &Live) -> Option<Instant> {
        if self.last == *live {
            return None;
        }
        let due = self.at.map(|at| at + EVERY);
        if let Some(due) = due.filter(|due| *due > Instant::now()) {
            return Some(due);
        }
        self.tell_now(live);
        None
    }

    /// Writes it.
    pub fn tell_now(&mut self, live: &Live) {
        (self.last, self.at) = (live.clone(), Some(Instant::now()));
        let Some(file) = &self.file else { return };
        let mut page = serde_json::to_vec(live).unwrap_or_default();
        if page.len() > PAGE {
            // Names of files are what may be long.
            let short = Live { later: Vec::new(), no_room: None, next: None, ..live.clone() };
            page = serde_json::to_vec(&short).unwrap_or_default();
        }
        page.resize(PAGE.max(page.len()), b' ');
        // Who asks for the status sees an older one.
        let _ = file.write_all_at(&page, 0);
    }
}

/// The process that holds the lock file of this state directory: the daemon, if it runs. The kernel
/// lists all locks (proc(5)), so that asking takes none.
pub fn runner(state: &Path) -> Option<u32> {
    let lock = state.join("lock").metadata().ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let inode = format!(":{}", lock.ino());
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = words.as_slice() else { return None };
        file.ends_with(&inode).then(|| pid.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the names are, it is read again.
    #[test]
    fn it_fits_its_page() {
        let state = tempfile::tempdir().unwrap();
        let mut live = Live { started_ms: 7, next: Some("n".repeat(1020)), ..Live::default() };
        live.no_room = live.next.clone();
        live.failed(&"e".repeat(5000));
        live.pauses(Some(&"p".repeat(5000)));
        live.put_off_later((100..999).map(|number| number.to_string()));
        assert!((1..=TEXT_MAX).contains(&live.later.concat().len()));
        Told::open(state.path()).tell_now(&live);
        let read = Live::read(state.path());
        assert_eq!((read.started_ms, read.paused), (7, live.paused));
    }

    #[test]
    fn what_is_told_is_read_back_whatever_was_there() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Live::read(state.path()), Live::default());
        let mut told = Told::open(state.path());
        let mut live = Live { pending: 3, next: Some("a".to_owned()), ..Live::default() };
        live.failed(&"\u{e9}".repeat(TEXT_MAX));
        assert_eq!(told.tell(&live), None);
        assert_eq!(Live::read(state.path()), live);
        let shorter = Live::default();
        assert!(told.tell(&shorter).is_some_and(|due| due > Instant::now()));
        told.tell_now(&shorter);
        assert_eq!(Live::read(state.path()), shorter);
    }
}
