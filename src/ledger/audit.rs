//! Queries of an audit: everything that a ledger holds, in order.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::reader::{ENTRIES, Entry, Reader, entry};
use super::{Pruned, Rotated};
use crate::microbatch::{Position, Target};

/// A file or folder that the ledger writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRow {
    /// Its row.
    pub target: Target,
    /// Where it is.
    pub path: PathBuf,
    /// Where the next span would begin.
    pub next: Position,
}

/// The bytes that one microbatch has added to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanRow {
    /// Which microbatch.
    pub sequence: u64,
    /// Where it begins.
    pub at: Position,
    /// How many bytes.
    pub length: u64,
    /// CRC-32 over them.
    pub checksum: u32,
    /// The ledger still holds the bytes: they may not be in the target yet.
    pub owed: bool,
}

impl Reader {
    /// From here on everything is read as it is now, however long that takes.
    pub fn freeze(&self) -> anyhow::Result<()> {
        Ok(self.connection.execute_batch("BEGIN")?)
    }

    /// Damage that SQLite finds in the file itself.
    pub fn damage(&self) -> anyhow::Result<Vec<String>> {
        let mut statement = self.connection.prepare("PRAGMA quick_check")?;
        let rows = statement.query_map((), |row| row.get(0))?;
        let mut found = rows.collect::<rusqlite::Result<Vec<String>>>()?;
        found.retain(|line| line != "ok");
        Ok(found)
    }

    /// How far the past was pruned.
    pub fn pruned(&self) -> anyhow::Result<Pruned> {
        Ok(Pruned::read(&self.connection)?)
    }

    /// The generations of a target that were closed.
    pub fn rotated(&self, target: Target) -> anyhow::Result<Vec<Rotated>> {
        Ok(super::rotation::read(&self.connection, target, ("", ""), -1)?)
    }

    /// The microbatches that somebody has asked to repeat, and that were repeated.
    pub fn repeated(&self) -> anyhow::Result<HashSet<u64>> {
        let select = "SELECT again_of FROM microbatch WHERE again_of IS NOT NULL";
        let mut statement = self.connection.prepare(select)?;
        let rows = statement.query_map((), |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Every file and folder that is written to.
    pub fn targets(&self) -> anyhow::Result<Vec<TargetRow>> {
        let select =
            "SELECT id, path, generation, end FROM target WHERE remote IS NULL ORDER BY id";
        let mut statement = self.connection.prepare(select)?;
        let rows = statement.query_map((), |row| {
            let path = OsStr::from_bytes(row.get_ref(1)?.as_blob()?);
            Ok(TargetRow {
                target: Target(row.get(0)?),
                path: path.into(),
                next: Position { generation: row.get(2)?, end: row.get(3)? },
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// All spans of a target, in the order of their microbatches.
    pub fn spans(
        &self,
        target: Target,
        mut take: impl FnMut(SpanRow) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut statement = self.connection.prepare(
            "SELECT span.sequence, generation, start, length, checksum, owed.sequence IS NOT NULL
                FROM span LEFT JOIN owed USING (sequence, target)
                WHERE target = ? ORDER BY span.sequence",
        )?;
        let mut rows = statement.query([target.0])?;
        while let Some(row) = rows.next()? {
            take(SpanRow {
                sequence: row.get(0)?,
                at: Position { generation: row.get(1)?, end: row.get(2)? },
                length: row.get(3)?,
                checksum: row.get(4)?,
                owed: row.get(5)?,
            })?;
        }
        Ok(())
    }

    /// All microbatches, the oldest first.
    pub fn all(&self, mut take: impl FnMut(Entry) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut statement = self.connection.prepare(&format!("{ENTRIES} ORDER BY sequence"))?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            take(entry(row)?)?;
        }
        Ok(())
    }
}
