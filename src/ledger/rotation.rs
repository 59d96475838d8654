//! The generations of an output that were closed, and under which names their files are kept.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Ledger, failure};
use crate::failure::Result;
use crate::microbatch::{Position, Target};

/// A generation that was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Which one.
    pub generation: u64,
    /// The name of its file, beside the output.
    pub name: OsString,
    /// The inode of its file.
    pub inode: u64,
    /// When it was closed, in milliseconds since 1970.
    pub closed_ms: i64,
    /// The file that it is kept in.
    pub kept: Kept,
}

/// The file of a closed generation, plain or compressed, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nothing: it is not done, or it was done by a version that did not write it down.
    Unknown,
    /// There was none: somebody had taken it.
    Nowhere,
    /// Its inode, and its size in bytes.
    In(u64, u64),
}

impl Kept {
    /// Bytes of its file.
    pub fn bytes(self) -> u64 {
        if let Self::In(_, bytes) = self { bytes } else { 0 }
    }
}

impl Ledger {
    /// When what is in this generation of `target` began, in milliseconds since 1970.
    pub fn began_ms(&self, target: Target) -> Result<i64> {
        let select = "SELECT began_ms FROM target WHERE id = ?";
        let began =
            || self.connection.prepare_cached(select)?.query_row([target.0], |row| row.get(0));
        began().map_err(failure)
    }

    /// Decides that the generation of `target` is over: its file, which has this inode, is going to be
    /// kept under this name.
    pub fn rotate(
        &mut self,
        target: Target,
        (name, inode): (&OsStr, u64),
        now_ms: i64,
    ) -> Result<()> {
        let position = self.position(target);
        let next = Position { generation: position.generation + 1, end: 0 };
        self.transact(|connection| {
            connection.execute(
                "INSERT INTO rotated (target, generation, name, inode, closed_ms, done)
                    VALUES (?, ?, ?, ?, ?, 0)",
                params![
                    target.0,
                    position.generation,
                    name.as_bytes(),
                    inode.cast_signed(),
                    now_ms
                ],
            )?;
            connection.execute(
                "UPDATE target SET generation = ?, end = 0, inode = NULL WHERE id = ?",
                params![next.generation, target.0],
            )?;
            Ok(())
        })?;
        self.reposition(target, next);
        Ok(())
    }

    /// The rotations of `target` that are not done, the oldest first.
    pub fn rotations(&self, target: Target) -> Result<Vec<Rotated>> {
        read(&self.connection, target, ("INDEXED BY rotated_open", "AND NOT done"), -1)
            .map_err(failure)
    }

    /// The targets with rotations that are not done, and their paths.
    pub fn rotating(&self) -> Result<Vec<(Target, PathBuf)>> {
        let select = "SELECT id, path FROM target
            WHERE id IN (SELECT target FROM rotated WHERE NOT done)";
        let load = || -> rusqlite::Result<_> {
            let mut statement = self.connection.prepare(select)?;
            let row = |row: &rusqlite::Row<'_>| {
                Ok((Target(row.get(0)?), PathBuf::from(OsString::from_vec(row.get(1)?))))
            };
            statement.query_map((), row)?.collect()
        };
        load().map_err(failure)
    }

    /// The rotations of `target`, done or not, the oldest first.
    pub fn all_rotations(&self, target: Target) -> Result<Vec<Rotated>> {
        read(&self.connection, target, ("", ""), -1).map_err(failure)
    }

    /// The finished rotations of `target`, oldest first, at most `most`.
    pub fn oldest_rotations(&self, target: Target, most: usize) -> Result<Vec<Rotated>> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        read(&self.connection, target, ("", "AND done"), most).map_err(failure)
    }

    /// Bytes of the files that the closed generations of `target` are kept in.
    pub fn kept_bytes(&self, target: Target) -> Result<u64> {
        let select = "SELECT coalesce(sum(bytes), 0) FROM rotated WHERE target = ?";
        let sum = || self.connection.query_row(select, [target.0], |row| row.get(0));
        sum().map_err(failure)
    }

    /// A rotation is done, and this is the file that it is kept in.
    pub fn note_kept(&mut self, target: Target, generation: u64, kept: Kept) -> Result<()> {
        let update = "UPDATE rotated SET done = 1, kept = ?, bytes = ?
            WHERE target = ? AND generation = ?";
        let (inode, bytes) = match kept {
            Kept::Unknown => (None, None),
            Kept::Nowhere => (None, Some(0)),
            Kept::In(inode, bytes) => (Some(inode.cast_signed()), Some(bytes)),
        };
        self.transact(|connection| {
            connection.execute(update, params![inode, bytes, target.0, generation]).map(drop)
        })
    }

    /// Of these closed generations of `target` nothing is kept any more.
    pub fn forget_rotations(&mut self, target: Target, generations: &[u64]) -> Result<()> {
        self.transact(|connection| {
            let mut delete = connection
                .prepare_cached("DELETE FROM rotated WHERE target = ? AND generation = ?")?;
            for generation in generations {
                delete.execute(params![target.0, generation])?;
            }
            Ok(())
        })
    }

    /// True when anything is owed to `target`.
    pub fn owes_to(&self, target: Target) -> Result<bool> {
        let select = "SELECT 1 FROM owed WHERE target = ? LIMIT 1";
        let owes = || {
            let mut statement = self.connection.prepare_cached(select)?;
            statement.query_row([target.0], |_| Ok(())).optional()
        };
        owes().map(|found| found.is_some()).map_err(failure)
    }
}

pub(super) fn read(
    connection: &Connection,
    target: Target,
    (how, which): (&str, &str),
    most: i64,
) -> rusqlite::Result<Vec<Rotated>> {
    let select = format!(
        "SELECT generation, name, inode, closed_ms, kept, bytes FROM rotated {how}
            WHERE target = ? {which} ORDER BY generation LIMIT ?"
    );
    let mut statement = connection.prepare_cached(&select)?;
    let rows = statement.query_map((target.0, most), |row| {
        Ok(Rotated {
            generation: row.get(0)?,
            name: OsString::from_vec(row.get(1)?),
            inode: row.get::<_, i64>(2)?.cast_unsigned(),
            closed_ms: row.get(3)?,
            kept: match (row.get::<_, Option<i64>>(4)?, row.get(5)?) {
                (_, None) => Kept::Unknown,
                (None, Some(_)) => Kept::Nowhere,
                (Some(inode), Some(bytes)) => Kept::In(inode.cast_unsigned(), bytes),
            },
        })
    })?;
    rows.collect()
}
