//! The watermark, and of which event time it is.
//!
//! Invariants: a watermark is written by [`super::Ledger::commit`] alone, with the microbatch that
//! left it.

use rusqlite::{OptionalExtension as _, params};

use super::{Ledger, failure};
use crate::failure::Result;

impl Ledger {
    /// The watermark is of the event time in this column; when it was of another one, there is none.
    pub fn set_clock(&mut self, column: &str) -> Result<()> {
        let known = self.connection.query_row("SELECT column FROM clock", (), |row| row.get(0));
        if known.optional().map_err(failure)?.is_some_and(|known: String| known == column) {
            return Ok(());
        }
        let last = self.last;
        self.transact(|connection| {
            let insert = "INSERT OR REPLACE INTO clock (only, column, since) VALUES (0, ?, ?)";
            connection.execute(insert, params![column, last]).map(drop)
        })?;
        self.watermark = None;
        Ok(())
    }

    /// The watermark that the last microbatch left, in microseconds since 1970.
    pub fn watermark(&self) -> Option<i64> {
        self.watermark
    }
}
