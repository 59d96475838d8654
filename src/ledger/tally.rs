//! Running totals: what has been committed up to the end of each minute.
//!
//! Invariants: a row holds the totals since the beginning of the ledger, so that the totals, and
//! what came in the last hour or day, are two look-ups whatever the history holds; pruning the history
//! changes none of them. Minutes never go back, although the clock may.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;

use crate::microbatch::Microbatch;
use crate::record::Counts;

/// Milliseconds in a minute.
pub const MINUTE_MS: i64 = 60_000;

/// Totals since the beginning of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// The minute at whose end this was so, since 1970.
    #[serde(skip)]
    pub minute: i64,
    /// Microbatches, with and without a file.
    pub microbatches: u64,
    /// Files that were processed.
    pub files: u64,
    /// Files that went to quarantine.
    pub quarantined: u64,
    /// Files with the content of an earlier one.
    pub duplicates: u64,
    /// Bytes of the files that were processed, as they are in the folder.
    pub bytes: u64,
    /// The records.
    #[serde(flatten)]
    pub counts: Counts,
    /// The longest that a file of this minute had waited when it was taken, in milliseconds; this one is
    /// no total.
    #[serde(skip)]
    pub lag_ms: u64,
}

/// Its columns, in the order of [`Tally::of`].
const COLUMNS: &str = "minute, microbatches, files, quarantined, duplicates, bytes, read, written, rejected, late, \
     lag_ms";

impl Tally {
    /// The totals with one more microbatch, made in this minute or later.
    pub(super) fn add(&mut self, batch: &Microbatch) {
        let minute = self.minute.max(batch.at_ms.div_euclid(MINUTE_MS));
        let lag_ms = if minute == self.minute { self.lag_ms } else { 0 };
        (self.minute, self.lag_ms) = (minute, lag_ms.max(batch.waited_ms));
        self.microbatches += 1;
        if batch.quarantined.is_some() {
            self.quarantined += 1;
        } else if batch.has_input() {
            self.files += 1;
            self.bytes += batch.identity.size;
        }
        self.duplicates += u64::from(batch.duplicate_of.is_some());
        self.counts += batch.counts;
    }

    /// The difference to `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let less = u64::saturating_sub;
        Self {
            minute: self.minute,
            microbatches: less(self.microbatches, earlier.microbatches),
            files: less(self.files, earlier.files),
            quarantined: less(self.quarantined, earlier.quarantined),
            duplicates: less(self.duplicates, earlier.duplicates),
            bytes: less(self.bytes, earlier.bytes),
            counts: self.counts.since(earlier.counts),
            lag_ms: self.lag_ms,
        }
    }

    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            minute: row.get(0)?,
            microbatches: row.get(1)?,
            files: row.get(2)?,
            quarantined: row.get(3)?,
            duplicates: row.get(4)?,
            bytes: row.get(5)?,
            counts: super::rows::counts(row, 6)?,
            lag_ms: row.get(10)?,
        })
    }

    /// The totals at the end of `minute`.
    pub(super) fn at(connection: &Connection, minute: i64) -> rusqlite::Result<Self> {
        let select =
            format!("SELECT {COLUMNS} FROM tally WHERE minute <= ? ORDER BY minute DESC LIMIT 1");
        let found = connection.prepare_cached(&select)?.query_row([minute], Self::of);
        Ok(found.optional()?.unwrap_or_default())
    }

    /// The totals of each minute after `minute` in which something was committed, in order.
    pub(super) fn after(connection: &Connection, minute: i64) -> rusqlite::Result<Vec<Self>> {
        let select = format!("SELECT {COLUMNS} FROM tally WHERE minute > ? ORDER BY minute");
        connection.prepare_cached(&select)?.query_map([minute], Self::of)?.collect()
    }

    pub(super) fn put(&self, connection: &Connection) -> rusqlite::Result<()> {
        let insert = format!(
            "INSERT OR REPLACE INTO tally ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        );
        let values = params![
            self.minute,
            self.microbatches,
            self.files,
            self.quarantined,
            self.duplicates,
            self.bytes,
            self.counts.read,
            self.counts.written,
            self.counts.rejected,
            self.counts.late,
            self.lag_ms
        ];
        connection.prepare_cached(&insert)?.execute(values).map(drop)
    }
}
