//! Committed inputs whose name was gone before they could be archived.
//!
//! What holds here: such a file, when it comes back under another name in the drop folder, is known
//! by its inode, size, time and content, and is archived instead of being read again. It is known
//! for [`KNOWN_FOR`], so that a file which somebody drops once more on purpose is a new one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::prepare;
use super::report::{debt, report};
use crate::failure::Result;
use crate::ledger::Committed;
use crate::record::Identity;
use crate::source::Source;
use crate::source::archive::{Archived, Archiver, Debt, Fate, Touched};
use crate::source::input::Input;

/// How long a file is known. A rename shows within one scan.
const KNOWN_FOR: Duration = Duration::from_mins(1);

/// How many are known at once; beyond that the oldest is forgotten.
const KNOWN_MAX: usize = 1024;

/// The files that vanished lately, oldest first.
#[derive(Debug, Default)]
pub struct Vanished {
    files: VecDeque<File>,
}

#[derive(Debug)]
struct File {
    since: Instant,
    identity: Identity,
    sequence: u64,
    /// The report, when it was to be quarantined.
    report: Option<Vec<u8>>,
}

impl Vanished {
    /// Remembers an input that is not there any more.
    pub fn note(&mut self, committed: &Committed) {
        self.forget_old();
        let report = report(committed);
        let debt = debt(committed, &report);
        let (identity, sequence) = (*debt.identity, debt.sequence);
        let report = matches!(debt.fate, Fate::Failed { .. }).then_some(report);
        self.files.push_back(File { since: Instant::now(), identity, sequence, report });
        if self.files.len() > KNOWN_MAX {
            self.files.pop_front();
        }
    }

    /// Archives `input` if it is one of the files under another name; gives it back if not.
    pub fn archive(
        &mut self,
        input: Input,
        source: &mut Source,
        archiver: &Archiver,
        touched: &mut Touched,
    ) -> Result<Option<Input>> {
        self.forget_old();
        let Some(at) = self.files.iter().position(|file| file.is(&input)) else {
            return Ok(Some(input));
        };
        let Some(file) = self.files.remove(at) else { return Ok(Some(input)) };
        let fate = file.report.as_ref().map_or(Fate::Processed, |report| Fate::Failed { report });
        let debt =
            Debt { name: input.name(), identity: &file.identity, sequence: file.sequence, fate };
        match archiver.archive(source.folder(), source.rules(), &debt, &input.file, touched) {
            Ok(Archived::As(_)) => {
                let name = crate::telemetry::text(input.name());
                let microbatch = file.sequence;
                tracing::warn!(file = name, microbatch, "was committed under another name");
                source.release(input.key);
                Ok(None)
            }
            Ok(Archived::Gone | Archived::Replaced | Archived::Altered) => Ok(Some(input)),
            Err(failure) => {
                self.files.push_back(file);
                source.give_back(input);
                Err(failure)
            }
        }
    }

    fn forget_old(&mut self) {
        while self.files.front().is_some_and(|file| file.since.elapsed() > KNOWN_FOR) {
            self.files.pop_front();
        }
    }
}

impl File {
    fn is(&self, input: &Input) -> bool {
        let (known, stamp) = (&self.identity, &input.stamp);
        (known.inode, known.size, known.modified_ns) == (stamp.inode, stamp.size, stamp.modified_ns)
            && prepare::hash(&input.file).is_ok_and(|hash| hash == known.hash)
    }
}
