//! Earlier files: duplicates of their content, and requests to repeat one.
//!
//! Invariants: of the contents that were processed, the 65,536 that were seen last are known, also
//! after a restart, and when the history is pruned. A duplicate may be one of a file of its own group, which
//! is committed up to some file and no further; but where a view may yet refuse the file that is repeated, the
//! duplicate waits for the next group.

use std::collections::{BTreeMap, HashMap};

use super::prepared::Prepared;
use crate::failure::Result;
use crate::ledger::{Committed, Ledger};
use crate::microbatch::Microbatch;
use crate::source::folder::requeued::Requeued;
use crate::source::folder::rules::Duplicates;

/// How many contents are known: some megabytes of memory.
const KNOWN_MAX: usize = 65_536;

/// The beginning of a content hash: two different files share it once in 2^96 times.
type Content = [u8; 16];

/// A content that was processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// The microbatch of the file that counts as the earlier one.
    sequence: u64,
    /// The last microbatch of a file with this content.
    seen: u64,
}

/// The files before the one at hand.
pub struct Earlier {
    policy: Duplicates,
    known: HashMap<Content, Known>,
    /// By the last microbatch that had each.
    order: BTreeMap<u64, Content>,
    requeued: Requeued,
}

impl Earlier {
    /// Loads the last files from the ledger; `requeued` has the requests to repeat one.
    pub fn load(ledger: &Ledger, policy: Duplicates, requeued: Requeued) -> Result<Self> {
        let known = HashMap::new();
        let order = BTreeMap::new();
        let mut earlier = Self { policy, known, order, requeued };
        let rows = if earlier.decides() { u64::MAX } else { KNOWN_MAX as u64 };
        ledger.last_contents(rows, |hash, sequence, seen| {
            let content = content(&hash);
            if !earlier.known.contains_key(&content) {
                earlier.learn(content, Known { sequence, seen });
            }
            earlier.known.len() < KNOWN_MAX
        })?;
        Ok(earlier)
    }

    /// Links what is prepared to the microbatch that it repeats, and treats a duplicate as the job
    /// says. `next` is its number, and that of the first in its group so much lower. False when it must wait
    /// until the group is committed: `is_sure` says that no file of it can still be refused.
    pub fn link(
        &self,
        prepared: &mut Prepared,
        group: &[Prepared],
        next: u64,
        is_sure: bool,
    ) -> bool {
        prepared.batch.again_of = self.requeued.of(&prepared.input);
        if !counts(&prepared.batch) {
            return true;
        }
        let hash = &prepared.batch.identity.hash;
        let same = |other: &Prepared| counts(&other.batch) && other.batch.identity.hash == *hash;
        let first = next.saturating_sub(group.len() as u64);
        let in_group = group.iter().enumerate().rfind(|(_, other)| same(other));
        let earlier = match in_group {
            Some((_, other)) if other.batch.skipped => other.batch.duplicate_of,
            Some((at, _)) => Some(first + at as u64),
            None => self.known.get(&content(hash)).map(|known| known.sequence),
        };
        let acts = self.decides() && prepared.batch.again_of.is_none();
        if in_group.is_some() && acts && !is_sure {
            return false;
        }
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
        let seen = committed.sequence();
        let content = content(&batch.identity.hash);
        match batch.duplicate_of {
            // It keeps the microbatch that it was a duplicate of.
            Some(sequence) if batch.skipped || batch.quarantined.is_some() => {
                self.learn(content, Known { sequence, seen });
            }
            _ if counts(batch) => self.learn(content, Known { sequence: seen, seen }),
            _ => {}
        }
        if batch.again_of.is_some()
            && let Err(error) = self.requeued.forget(batch.identity.inode)
        {
            // It is about this very file, and says nothing of another.
            tracing::warn!(error = %anyhow::Error::from(error), "a requeue note stays");
        }
    }

    /// True when what is done with a file depends on the last ones in the ledger.
    fn decides(&self) -> bool {
        self.policy != Duplicates::Process
    }

    /// When the history is pruned, contents that a microbatch from this one on has had are to be kept; none,
    /// where nothing depends on them.
    pub fn kept_from(&self) -> Option<u64> {
        let oldest = self.order.first_key_value().map_or(0, |(seen, _)| *seen);
        self.decides().then_some(oldest)
    }

    fn learn(&mut self, content: Content, known: Known) {
        if let Some(before) = self.known.insert(content, known) {
            self.order.remove(&before.seen);
        }
        self.order.insert(known.seen, content);
        if self.order.len() > KNOWN_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.known.remove(&oldest);
        }
    }
}

/// True for a file whose content can be a duplicate: all empty files are alike, and messages are told by their
/// positions.
fn counts(batch: &Microbatch) -> bool {
    batch.has_input()
        && batch.progress.is_empty()
        && batch.quarantined.is_none()
        && batch.identity.size > 0
}

fn content(hash: &[u8; 32]) -> Content {
    let mut content = Content::default();
    content.copy_from_slice(hash.split_at(size_of::<Content>()).0);
    content
}
