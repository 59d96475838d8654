//! Under which names inputs and their reports were put.
//!
//! Invariants: a name that is made of the input's own, `processed-<name>` or `failed-<name>`, is not
//! written down, since nearly all are. Every other name is, and so is each file that was written besides.
//! So a name is looked up, and never read backwards: the name `a.7` may be a file's own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::reader::{ENTRIES, Entry, Reader, entry};
use super::{Ledger, failure};
use crate::failure::Result;
use crate::record::{Named, Stands};

pub(super) fn put(connection: &Connection, named: &[Named]) -> rusqlite::Result<()> {
    let mut insert =
        connection.prepare_cached("INSERT OR REPLACE INTO archived_name VALUES (?, ?, ?, ?, ?)")?;
    for Named { sequence, stands, name, inode, beside } in named {
        let beside = beside.as_ref().map(|name| name.as_bytes());
        let stands = number_of(*stands);
        let inode = inode.cast_signed();
        insert.execute(params![sequence, stands, name.as_bytes(), inode, beside])?;
    }
    Ok(())
}

const NAME_OF: &str = "SELECT name FROM archived_name WHERE sequence = ? AND stands = 0";

fn name_of(connection: &Connection, sequence: u64) -> rusqlite::Result<Option<OsString>> {
    let mut statement = connection.prepare_cached(NAME_OF)?;
    let name = statement.query_row([sequence], |row| row.get(0)).optional()?;
    Ok(name.map(OsString::from_vec))
}

impl Ledger {
    /// The name that this microbatch's input was given, where it is not the usual one.
    pub fn archived_name(&self, sequence: u64) -> Result<Option<OsString>> {
        name_of(&self.connection, sequence).map_err(failure)
    }
}

impl Reader {
    /// The name that this microbatch's input was given, where it is not the usual one.
    pub fn archived_name(&self, sequence: u64) -> anyhow::Result<Option<OsString>> {
        Ok(name_of(&self.connection, sequence)?)
    }

    /// The microbatches that have put an input or a rest under this name, the newest first, with the inode
    /// that the file had; not those that gave an input its usual name.
    pub fn named_unusually(&self, name: &OsStr) -> anyhow::Result<Vec<(Entry, Stands, u64)>> {
        let select = "SELECT sequence, stands, inode FROM archived_name
            WHERE name = ? AND stands <> 2 ORDER BY sequence DESC";
        let mut statement = self.connection.prepare(select)?;
        let rows = statement.query_map([name.as_bytes()], |row| {
            let stands = if row.get::<_, i64>(1)? == 0 { Stands::Input } else { Stands::Rest };
            Ok((row.get::<_, u64>(0)?, stands, row.get::<_, i64>(2)?.cast_unsigned()))
        })?;
        let mut all = Vec::new();
        for row in rows {
            let (sequence, stands, inode) = row?;
            all.extend(self.numbered(sequence)?.map(|entry| (entry, stands, inode)));
        }
        Ok(all)
    }

    /// The microbatches of files of this name that came to the same, and whose input was given its usual name:
    /// the newest first, at most `most`, and all that had this inode.
    pub fn named_usually(
        &self,
        name: &OsStr,
        is_failed: bool,
        (inode, most): (u64, u64),
    ) -> anyhow::Result<Vec<Entry>> {
        let of_name = "name = ?1 AND (quarantined IS NOT NULL) = ?2 AND NOT EXISTS
            (SELECT 1 FROM archived_name AS other
                WHERE other.sequence = microbatch.sequence AND other.stands = 0)";
        let select = format!(
            "{ENTRIES} WHERE {of_name} AND (inode = ?3 OR sequence IN (SELECT sequence FROM microbatch
                WHERE {of_name} ORDER BY sequence DESC LIMIT ?4)) ORDER BY sequence DESC"
        );
        let mut statement = self.connection.prepare(&select)?;
        let values = params![name.as_bytes(), is_failed, inode.cast_signed(), most];
        let rows = statement.query_map(values, entry)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The microbatch whose report was put under this name and has this inode, and the name of the file that
    /// it is about.
    pub fn reported(&self, name: &OsStr, inode: u64) -> anyhow::Result<Option<(u64, OsString)>> {
        let select = "SELECT sequence, beside FROM archived_name
            WHERE name = ? AND inode = ? AND stands = 2 AND beside IS NOT NULL
            ORDER BY sequence DESC LIMIT 1";
        let values = params![name.as_bytes(), inode.cast_signed()];
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, OsString::from_vec(row.get(1)?)));
        Ok(self.connection.query_row(select, values, row).optional()?)
    }

    /// The reports that this microbatch has written, about a file of this name: their names, and the inodes of
    /// the files.
    pub fn reports(&self, sequence: u64, about: &OsStr) -> anyhow::Result<Vec<(OsString, u64)>> {
        let select = "SELECT name, inode FROM archived_name
            WHERE sequence = ? AND stands = 2 AND beside = ?";
        let mut statement = self.connection.prepare(select)?;
        let rows = statement.query_map(params![sequence, about.as_bytes()], |row| {
            Ok((OsString::from_vec(row.get(0)?), row.get::<_, i64>(1)?.cast_unsigned()))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

/// A kind of file as it stands in the table.
fn number_of(stands: Stands) -> i64 {
    match stands {
        Stands::Input => 0,
        Stands::Rest => 1,
        Stands::Report => 2,
    }
}
