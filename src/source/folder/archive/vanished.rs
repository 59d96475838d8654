//! Committed inputs whose name was gone before they could be archived.
//!
//! Invariants: such a file, when it comes back under another name in the drop folder, is known
//! by its inode, size, time and content, and is archived instead of being read again. It is known
//! for [`KNOWN_FOR`], so that a file which somebody drops once more on purpose is a new one. A file whose
//! folder is away, as when a file system is not mounted, is known until it comes back.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::source::folder::input::{file_of, hash};
use crate::source::{Debt, Input};

/// How long a file is known. A rename shows within one scan.
const KNOWN_FOR: Duration = Duration::from_mins(1);

/// How many are known at once; beyond that the oldest is forgotten.
const KNOWN_MAX: usize = 1024;

/// The files that vanished lately, oldest first.
#[derive(Debug, Default)]
pub struct Vanished {
    files: VecDeque<File>,
    /// By inode number.
    elsewhere: HashMap<u64, Vec<Debt>>,
}

#[derive(Debug)]
struct File {
    since: Instant,
    debt: Debt,
}

impl Vanished {
    /// Remembers an input that is not there any more.
    pub fn note(&mut self, debt: Debt) {
        self.forget_old();
        self.files.push_back(File { since: Instant::now(), debt });
        if self.files.len() > KNOWN_MAX {
            self.files.pop_front();
        }
    }

    /// Remembers an input that was in another folder.
    pub fn keep(&mut self, debt: Debt) {
        if self.elsewhere.is_empty() {
            let file = crate::telemetry::text(&debt.name);
            let microbatch = debt.sequence;
            tracing::warn!(
                file,
                microbatch,
                "the drop folder is another one than when the file was committed; files of that one are \
                 known when it comes back"
            );
        }
        self.elsewhere.entry(debt.identity.inode).or_default().push(debt);
    }

    /// Another folder came: all that was in others.
    pub fn take_elsewhere(&mut self) -> Vec<Debt> {
        std::mem::take(&mut self.elsewhere).into_values().flatten().collect()
    }

    /// The archive step for `input` if it is one of these files under another name.
    pub fn take(&mut self, input: &Input) -> Option<Debt> {
        self.forget_old();
        let name = input.name().to_owned();
        if let Some(debts) = self.elsewhere.get_mut(&file_of(input).1.inode)
            && let Some(at) = debts.iter().position(|debt| is(debt, input))
        {
            return Some(Debt { name, ..debts.swap_remove(at) });
        }
        let at = self.files.iter().position(|file| is(&file.debt, input))?;
        let file = self.files.remove(at)?;
        Some(Debt { name, ..file.debt })
    }

    fn forget_old(&mut self) {
        while self.files.front().is_some_and(|file| file.since.elapsed() > KNOWN_FOR) {
            self.files.pop_front();
        }
    }
}

fn is(debt: &Debt, input: &Input) -> bool {
    let known = &debt.identity;
    let (file, stamp) = file_of(input);
    (known.inode, known.size, known.modified_ns) == (stamp.inode, stamp.size, stamp.modified_ns)
        && hash(file).is_ok_and(|hash| hash == known.hash)
}
