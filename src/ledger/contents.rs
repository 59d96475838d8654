//! The contents of files that were processed.
//!
//! Invariants: a content is known by its microbatch as long as that is in the history, and by a row of
//! its own afterwards, as long as it is among those that the job compares with.

use rusqlite::{Connection, params};

use super::{Ledger, failure};
use crate::failure::Result;

/// Rows of files whose content was processed, by themselves or by the earlier file that they repeat.
const HAD: &str = "size > 0 AND name <> x''
    AND (quarantined IS NULL OR duplicate_of IS NOT NULL)";

/// The microbatch that the content of such a row is known by.
const ORIGINAL: &str = "iif(skipped OR quarantined IS NOT NULL, duplicate_of, sequence)";

/// Before these rows of the history are removed, what they had is put down, and what was had only before
/// `oldest` is forgotten.
pub(super) fn keep(
    connection: &Connection,
    after: u64,
    up_to: u64,
    oldest: u64,
) -> rusqlite::Result<()> {
    let insert = format!(
        "INSERT INTO content SELECT hash, {ORIGINAL}, sequence FROM microbatch
            WHERE sequence > ? AND sequence <= ? AND sequence >= ? AND {HAD} ORDER BY sequence
            ON CONFLICT (hash) DO UPDATE SET sequence = excluded.sequence, seen = excluded.seen"
    );
    connection.prepare_cached(&insert)?.execute(params![after, up_to, oldest])?;
    connection.prepare_cached("DELETE FROM content WHERE seen < ?")?.execute([oldest])?;
    Ok(())
}

impl Ledger {
    /// The contents of files that were processed, those that were seen last first, as long as `more` wants
    /// them: BLAKE3, the microbatch, and the last one that had it. A content may come again, as it was seen
    /// before. At most `most` rows of the history are read.
    pub fn last_contents(
        &self,
        rows: u64,
        mut more: impl FnMut([u8; 32], u64, u64) -> bool,
    ) -> Result<()> {
        let of_history = format!(
            "SELECT hash, {ORIGINAL}, sequence FROM microbatch WHERE {HAD}
                ORDER BY sequence DESC LIMIT ?"
        );
        let pruned = "SELECT hash, sequence, seen FROM content ORDER BY seen DESC LIMIT ?";
        let most = i64::try_from(rows).unwrap_or(i64::MAX);
        let mut load = || -> rusqlite::Result<()> {
            for select in [&of_history, pruned] {
                let mut statement = self.connection.prepare(select)?;
                let mut rows = statement.query([most])?;
                while let Some(row) = rows.next()? {
                    if !more(row.get(0)?, row.get(1)?, row.get(2)?) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        };
        load().map_err(failure)
    }
}
