//! What is known of earlier files: which had the same content, and which somebody asked to repeat.
//!
//! What holds here: only files that were processed count as earlier ones; of those, the last
//! [`KNOWN_MAX`] are known. A file that is to be compared with one of its own group waits for the next
//! one, so that nothing is skipped for a file that is not committed.

use std::collections::{HashMap, VecDeque};

use super::prepare::Prepared;
use crate::failure::Result;
use crate::ledger::{Committed, Ledger, Microbatch};
use crate::source::requeued::Requeued;
use crate::source::rules::Duplicates;

/// How many processed files are compared by content, the last ones: 4 MiB of memory.
pub const KNOWN_MAX: usize = 65_536;

/// The beginning of a content hash: of so many files, two that differ share it once in 2^96 times.
type Content = [u8; 16];

/// The files before the one at hand.
pub struct Earlier {
    policy: Duplicates,
    known: HashMap<Content, u64>,
    order: VecDeque<Content>,
    requeued: Requeued,
}

impl Earlier {
    /// What the ledger knows of the last files, and where requests to repeat one are found.
    pub fn load(ledger: &Ledger, policy: Duplicates, requeued: Requeued) -> Result<Self> {
        let mut earlier = Self { policy, known: HashMap::new(), order: VecDeque::new(), requeued };
        for (hash, sequence) in ledger.last_contents(KNOWN_MAX)?.into_iter().rev() {
            earlier.learn(content(&hash), sequence);
        }
        Ok(earlier)
    }

    /// Links what is prepared to the microbatch that it repeats, and treats a duplicate as the job
    /// says. False when it must wait until the group, whose next one has the number `next`, is
    /// committed.
    pub fn link(&self, prepared: &mut Prepared, group: &[Prepared], next: u64) -> bool {
        prepared.batch.again_of = self.requeued.of(&prepared.input);
        if !counts(&prepared.batch) {
            return true;
        }
        let hash = &prepared.batch.identity.hash;
        let same = |other: &Prepared| counts(&other.batch) && other.batch.identity.hash == *hash;
        let acts = self.policy != Duplicates::Process && prepared.batch.again_of.is_none();
        let in_group = group.iter().rposition(same);
        if in_group.is_some() && acts {
            return false;
        }
        let first = next.saturating_sub(group.len() as u64);
        let earlier = in_group
            .map(|at| first + at as u64)
            .or_else(|| self.known.get(&content(hash)).copied());
        prepared.batch.duplicate_of = earlier;
        match (self.policy, earlier) {
            (Duplicates::Skip, Some(_)) if acts => prepared.skip(),
            (Duplicates::Quarantine, Some(earlier)) if acts => prepared.condemn(format!(
                "the content of microbatch {earlier} again: `spoolmill requeue` takes it all the same"
            )),
            _ => {}
        }
        true
    }

    /// A microbatch was committed.
    pub fn note(&mut self, committed: &Committed) {
        let batch = committed.batch();
        if counts(batch) && !batch.skipped {
            self.learn(content(&batch.identity.hash), committed.sequence());
        }
        if batch.again_of.is_some()
            && let Err(error) = self.requeued.forget(batch.identity.inode)
        {
            // It is about this very file, and says nothing of another.
            tracing::warn!(error = %anyhow::Error::from(error), "a requeue note stays");
        }
    }

    /// True when what is done with a file depends on the last ones in the ledger.
    pub fn decides(&self) -> bool {
        self.policy != Duplicates::Process
    }

    fn learn(&mut self, content: Content, sequence: u64) {
        if self.known.insert(content, sequence).is_none() {
            self.order.push_back(content);
        }
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// True for a file whose content can be a duplicate: all empty files are alike.
fn counts(batch: &Microbatch) -> bool {
    batch.has_input() && batch.quarantined.is_none() && batch.identity.size > 0
}

fn content(hash: &[u8; 32]) -> Content {
    let mut content = Content::default();
    content.copy_from_slice(hash.split_at(size_of::<Content>()).0);
    content
}
