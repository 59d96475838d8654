//! Committed and not released: bytes that may not be in their files, inputs that are not archived.
//!
//! Out of scope: what is owed to remote targets, which have their own pace (`remotes.rs`).

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use rusqlite::params;

use super::{Committed, Ledger, failure, rows};
use crate::failure::{Failure, Result};
use crate::microbatch::{Position, Target};
use crate::record::Home;

impl Ledger {
    /// Microbatches that are committed and not released, in order: their bytes may not be in their files
    /// yet, and their inputs may not be archived. What is owed to remote targets is not among it.
    pub fn owed(&self) -> Result<Vec<Committed>> {
        let select = format!(
            "{} WHERE sequence IN (SELECT sequence FROM owed JOIN target ON target.id = owed.target
                WHERE remote IS NULL UNION SELECT sequence FROM unarchived)
            ORDER BY sequence",
            rows::COMMITTED
        );
        let load = || -> rusqlite::Result<Vec<Committed>> {
            let mut statement = self.connection.prepare(&select)?;
            let rows = statement.query_map((), rows::committed_of)?;
            let mut all = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let mut spans = self.connection.prepare(&format!(
                "{} WHERE sequence = ? AND remote IS NULL ORDER BY owed.target",
                rows::OWED
            ))?;
            for committed in &mut all {
                rows::load_spans(&mut spans, [committed.sequence], committed)?;
            }
            Ok(all)
        };
        load().map_err(failure)
    }

    /// The staged files that something owed is in.
    pub fn staged(&self) -> Result<Vec<OsString>> {
        let load = || -> rusqlite::Result<_> {
            let select = "SELECT file FROM owed WHERE file IS NOT NULL";
            let mut statement = self.connection.prepare(select)?;
            statement.query_map((), |row| Ok(OsString::from_vec(row.get(0)?)))?.collect()
        };
        load().map_err(failure)
    }

    /// The sequence numbers of inputs that are not archived, and where these were.
    pub fn unarchived(&self) -> Result<HashMap<u64, Option<Home>>> {
        let load = || -> rusqlite::Result<_> {
            let select = "SELECT sequence, device, folder FROM unarchived";
            let mut statement = self.connection.prepare(select)?;
            let home = |device: Option<i64>, folder: Option<i64>| {
                Some(Home { device: device?.cast_unsigned(), folder: folder?.cast_unsigned() })
            };
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, home(row.get(1)?, row.get(2)?)));
            statement.query_map((), row)?.collect()
        };
        load().map_err(failure)
    }

    /// Moves the owed spans of `target` to the beginning of a new generation: the file that they
    /// were to continue was taken away while nothing ran.
    ///
    /// `header` is what the generation begins with.
    pub fn relocate(&mut self, target: Target, first: Position, header: &[u8]) -> Result<()> {
        let mut position = self.position(target);
        let owed =
            position.end.checked_sub(first.end).filter(|_| position.generation == first.generation);
        let owed = owed.ok_or_else(|| {
            Failure::halt(
                "bytes are owed to an output that is gone, and to the one before it; put it back",
            )
        })?;
        position.end = owed + header.len() as u64;
        position.generation += 1;
        self.transact(|connection| {
            connection.execute(
                "UPDATE span SET generation = ?1, start = start - ?2 + ?5
                WHERE target = ?3 AND generation = ?4 AND start >= ?2",
                params![position.generation, first.end, target.0, first.generation, header.len()],
            )?;
            if !header.is_empty() {
                rows::prepend(connection, target, position.generation, header)?;
            }
            connection.execute(
                "UPDATE target SET generation = ?, end = ?, inode = NULL WHERE id = ?",
                params![position.generation, position.end, target.0],
            )?;
            Ok(())
        })?;
        self.positions.insert(target, position);
        Ok(())
    }
}
