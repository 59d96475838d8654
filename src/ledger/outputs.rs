//! Which file an output is.
//!
//! Invariants: a file is known by its inode and the time it was made, since an inode that is free is used
//! again at once. What is known is of one generation; mode and owner outlive it.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Ledger, failure};
use crate::durable::Likeness;
use crate::failure::Result;
use crate::microbatch::{FileId, OutputFile, Target};

pub(super) fn put(connection: &Connection, files: &[(Target, OutputFile)]) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE target SET mode = ?3, uid = ?4, gid = ?5,
            inode = iif(generation = ?2, ?6, inode), born_ns = iif(generation = ?2, ?7, born_ns)
            WHERE id = ?1",
    )?;
    for (target, OutputFile { generation, id, like }) in files {
        let inode = id.map(|id| id.inode.cast_signed());
        let born_ns = id.and_then(|id| id.born_ns);
        let (user, group) = like.owner;
        update.execute(params![target.0, generation, like.mode, user, group, inode, born_ns])?;
    }
    Ok(())
}

impl Ledger {
    /// The file of an output as it was seen last.
    pub fn file_of(&self, target: Target) -> Result<Option<OutputFile>> {
        let select = "SELECT generation, inode, born_ns, mode, uid, gid FROM target
            WHERE id = ? AND mode IS NOT NULL";
        let found = self.connection.query_row(select, [target.0], |row| {
            let inode: Option<i64> = row.get(1)?;
            let born_ns = row.get(2)?;
            let like = Likeness { mode: row.get(3)?, owner: (row.get(4)?, row.get(5)?) };
            let id = inode.map(|inode| FileId { inode: inode.cast_unsigned(), born_ns });
            Ok(OutputFile { generation: row.get(0)?, id, like })
        });
        found.optional().map_err(failure)
    }
}
