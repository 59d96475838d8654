//! Pruning of the ledger's history.
//!
//! Invariants: the last microbatch stays, and so does the last span of each target, by which the
//! next start knows how it should end; totals stay as they are. A microbatch whose input is not archived
//! stays as well, and holds up none after it: it goes when its input is.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Committed, Ledger, contents, failure, rows};
use crate::failure::Result;
use crate::record::Identity;

/// Where rows of a microbatch stand that go with it.
const TABLES: [&str; 5] = ["microbatch", "altered", "archived_name", "gone", "refused"];

/// How far the past was pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Up to this microbatch, inputs were removed from the archive.
    pub inputs: u64,
    /// The bytes of these inputs, with those that were there before anything was to be pruned.
    pub bytes: u64,
    /// Up to this microbatch, rows were removed from the ledger.
    pub history: u64,
}

impl Pruned {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let select = "SELECT inputs, bytes, history FROM pruned";
        let found = connection.query_row(select, (), |row| {
            Ok(Self { inputs: row.get(0)?, bytes: row.get(1)?, history: row.get(2)? })
        });
        Ok(found.optional()?.unwrap_or_default())
    }
}

impl Ledger {
    /// How far the past was pruned.
    pub fn pruned(&self) -> Result<Pruned> {
        Pruned::read(&self.connection).map_err(failure)
    }

    /// The bytes of processed files up to this microbatch that are still to be archived.
    pub fn passed_over(&self, sequence: u64) -> Result<u64> {
        let select =
            "SELECT coalesce(sum(size), 0) FROM unarchived JOIN microbatch USING (sequence)
            WHERE sequence <= ? AND quarantined IS NULL AND NOT elsewhere";
        let sum =
            || self.connection.prepare_cached(select)?.query_row([sequence], |row| row.get(0));
        sum().map_err(failure)
    }

    /// The bytes of all files that were processed since the beginning of the ledger.
    pub fn processed_bytes(&self) -> u64 {
        self.tally.bytes
    }

    /// The next microbatches after this one, at most `most`: up to the first of which something is owed, and
    /// never the last of all; not those whose input is still to be archived.
    pub fn done_after(&self, sequence: u64, most: u64) -> Result<Vec<Committed>> {
        let load = || -> rusqlite::Result<Vec<Committed>> {
            let select = format!(
                "{} WHERE sequence > ?1 AND sequence < ?2
                    AND sequence < (SELECT ifnull(min(sequence), ?2) FROM owed)
                    AND sequence NOT IN (SELECT sequence FROM unarchived WHERE NOT elsewhere)
                ORDER BY sequence LIMIT ?3",
                rows::COMMITTED
            );
            let mut statement = self.connection.prepare_cached(&select)?;
            let values = params![sequence, self.last, most];
            statement.query_map(values, rows::committed_of)?.collect()
        };
        load().map_err(failure)
    }

    /// True when a later microbatch was made of the same file under the same name.
    pub fn has_later(&self, name: &OsStr, identity: &Identity, sequence: u64) -> Result<bool> {
        let find = || {
            let select = "SELECT 1 FROM microbatch WHERE name = ? AND sequence > ? AND inode = ?
                AND size = ? AND modified_ns = ? LIMIT 1";
            let inode = identity.inode.cast_signed();
            let values =
                params![name.as_bytes(), sequence, inode, identity.size, identity.modified_ns];
            self.connection.prepare_cached(select)?.query_row(values, |_| Ok(())).optional()
        };
        find().map(|found| found.is_some()).map_err(failure)
    }

    /// Writes down how far the past has been pruned, and removes the rows that go with it. The contents of
    /// files are kept that a microbatch from `contents` on has had.
    pub fn prune(&mut self, before: &Pruned, now: &Pruned, contents: Option<u64>) -> Result<()> {
        self.transact(|connection| {
            let Pruned { inputs, bytes, history } = now;
            connection
                .prepare_cached("INSERT OR REPLACE INTO pruned VALUES (0, ?, ?, ?)")?
                .execute(params![inputs, bytes, history])?;
            connection
                .prepare_cached(
                    "DELETE FROM span WHERE sequence <= ?1 AND NOT EXISTS
                        (SELECT 1 FROM target WHERE id = span.target
                            AND generation = span.generation AND end = span.start + span.length)",
                )?
                .execute([history])?;
            if let Some(oldest) = contents {
                contents::keep(connection, before.history, *history, oldest)?;
            }
            connection
                .execute("DELETE FROM unarchived WHERE sequence <= ? AND elsewhere", [history])?;
            for table in TABLES {
                let delete = format!(
                    "DELETE FROM {table} WHERE sequence > ?1 AND sequence <= ?2
                        AND sequence NOT IN (SELECT sequence FROM unarchived)"
                );
                connection.prepare_cached(&delete)?.execute([before.history, *history])?;
            }
            Ok(())
        })
    }
}

/// The input of this microbatch is archived at last: what was pruned around it goes.
pub(super) fn catch_up(connection: &Connection, sequence: u64) -> rusqlite::Result<()> {
    // What was passed over when those around it were counted counts from now on.
    connection
        .prepare_cached(
            "UPDATE pruned SET bytes = bytes + coalesce((SELECT size FROM microbatch
                WHERE sequence = ?1 AND quarantined IS NULL), 0) WHERE inputs >= ?1",
        )?
        .execute([sequence])?;
    let is_behind = "SELECT ?1 <= coalesce((SELECT history FROM pruned), 0)";
    if connection.prepare_cached(is_behind)?.query_row([sequence], |row| row.get(0))? {
        for table in TABLES {
            connection.execute(&format!("DELETE FROM {table} WHERE sequence = ?"), [sequence])?;
        }
    }
    Ok(())
}
