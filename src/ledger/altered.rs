//! Inputs that somebody has written to after their commit.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rusqlite::{OptionalExtension as _, params};

use super::archived;
use super::{Ledger, Reader, failure};
use crate::clock::now_ms;
use crate::failure::Result;
use crate::record::{Identity, Named};

/// An archived input, as far as it is known where its bytes are.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Its microbatch.
    pub sequence: u64,
    /// Its name relative to the drop folder.
    pub name: OsString,
    /// The committed file.
    pub identity: Identity,
    /// Bytes that are committed or set aside.
    pub size: u64,
    /// It was found altered before.
    pub is_noted: bool,
}

impl Ledger {
    /// The newest processed input of this inode that had one of these names.
    pub fn archived_as(&self, names: &[OsString], inode: u64) -> Result<Option<Archive>> {
        let select = "SELECT sequence, name, m.size, modified_ns, hash, a.size
            FROM microbatch m LEFT JOIN altered a USING (sequence)
            WHERE name = ? AND inode = ? AND quarantined IS NULL ORDER BY sequence DESC LIMIT 1";
        let mut newest: Option<Archive> = None;
        for name in names {
            let found = self
                .connection
                .query_row(select, params![name.as_bytes(), inode.cast_signed()], |row| {
                    let size: u64 = row.get(2)?;
                    let noted: Option<u64> = row.get(5)?;
                    Ok(Archive {
                        sequence: row.get(0)?,
                        name: OsString::from_vec(row.get(1)?),
                        identity: Identity {
                            inode,
                            size,
                            modified_ns: row.get(3)?,
                            hash: row.get(4)?,
                        },
                        size: noted.unwrap_or(size),
                        is_noted: noted.is_some(),
                    })
                })
                .optional()
                .map_err(failure)?;
            newest = newest.into_iter().chain(found).max_by_key(|archive| archive.sequence);
        }
        Ok(newest)
    }

    /// The input of this microbatch was written to; so many of its bytes are committed or set aside, the
    /// latter under these names.
    pub fn note_altered(&mut self, sequence: u64, size: u64, named: &[Named]) -> Result<()> {
        let put = "INSERT INTO altered (sequence, size, at_ms) VALUES (?1, ?2, ?3)
            ON CONFLICT (sequence) DO UPDATE SET size = ?2, at_ms = ?3";
        self.transact(|connection| {
            connection.execute(put, params![sequence, size, now_ms()])?;
            archived::put(connection, named)
        })
    }
}

/// An input that was written to after its commit, as it is told.
#[derive(Debug, Clone)]
pub struct Altered {
    /// Its microbatch.
    pub sequence: u64,
    /// Its name relative to the drop folder.
    pub name: OsString,
    /// When that was noticed, in milliseconds since 1970.
    pub at_ms: i64,
    /// Its bytes when they were looked at.
    pub size: u64,
}

impl Reader {
    /// How many inputs were written to after their commit, and the last of them.
    pub fn altered(&self) -> anyhow::Result<(u64, Option<Altered>)> {
        let count =
            self.connection.query_row("SELECT count(*) FROM altered", (), |row| row.get(0))?;
        let select = "SELECT sequence, name, at_ms, altered.size FROM altered
            JOIN microbatch USING (sequence) ORDER BY at_ms DESC LIMIT 1";
        Ok((count, self.connection.query_row(select, (), altered).optional()?))
    }

    /// A later change of this microbatch's input, if one was noticed.
    pub fn altered_input(&self, sequence: u64) -> anyhow::Result<Option<Altered>> {
        let select = "SELECT sequence, name, at_ms, altered.size FROM altered
            JOIN microbatch USING (sequence) WHERE sequence = ?";
        Ok(self.connection.query_row(select, [sequence], altered).optional()?)
    }

    /// True when the input was not there any more when it was to be archived: somebody had replaced it
    /// or taken it away.
    pub fn was_gone(&self, sequence: u64) -> anyhow::Result<bool> {
        let select = "SELECT count(*) FROM gone WHERE sequence = ?";
        let count: u64 = self.connection.query_row(select, [sequence], |row| row.get(0))?;
        Ok(count > 0)
    }
}

fn altered(row: &rusqlite::Row<'_>) -> rusqlite::Result<Altered> {
    let bytes: Vec<u8> = row.get(1)?;
    let name = OsStr::from_bytes(&bytes).to_owned();
    Ok(Altered { sequence: row.get(0)?, name, at_ms: row.get(2)?, size: row.get(3)? })
}
