//! Targets on other systems: how far each has come as far as it has confirmed, and what is owed to it.
//!
//! Invariants: what is owed to a remote target is forgotten when the target has confirmed it, and not before.
//! A start has a number that grows, and is written down before anything is published in its name. Each
//! microbatch keeps the number of the start that committed it, so that a mark which another process wrote
//! with a copy of this ledger is told from our own.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Committed, Ledger, failure, rows};
use crate::failure::{Failure, Result};
use crate::microbatch::{Held, Instance, Mark, Target};

/// This start, as others are told of it.
pub(super) struct Presence {
    pub(super) number: u64,
    pub(super) id: Instance,
    /// The ledger knows it.
    pub(super) is_written: bool,
}

/// A system that targets are on, as the ledger knows it.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Our name there: 16 bytes by chance, made with the ledger's first start.
    pub id: [u8; 16],
    /// The last mark that it has confirmed.
    pub confirmed: Option<Held>,
}

/// Freed by a mark.
#[derive(Debug, Default)]
pub struct Freed {
    /// The bytes that are not owed any more.
    pub bytes: u64,
    /// Staged files that nothing needs any more, once the ledger knows of the mark.
    pub files: Vec<OsString>,
}

impl Ledger {
    /// The system of this name, which these targets are on; entered at the first time.
    ///
    /// # Errors
    /// `Halt` when one of them is a file.
    pub fn remote(&mut self, name: &str, targets: &[Target]) -> Result<Remote> {
        if self.presence.is_none() {
            let select = "SELECT coalesce(max(number), 0) + 1 FROM instance";
            let number =
                self.connection.query_row(select, (), |row| row.get(0)).map_err(failure)?;
            self.presence =
                Some(Presence { number, id: Instance(by_chance()?), is_written: false });
        }
        let enter = || -> rusqlite::Result<Remote> {
            for target in targets {
                let update = "UPDATE target SET remote = ? WHERE id = ?";
                self.connection.execute(update, params![name, target.0])?;
            }
            let select = "SELECT id, microbatch, record, instance FROM remote WHERE name = ?";
            self.connection.query_row(select, [name], |row| {
                let mark: Option<u64> = row.get(1)?;
                let record = row.get(2)?;
                let instance = row.get(3)?;
                let confirmed = mark.map(|microbatch| Held {
                    mark: Mark { microbatch, record },
                    instance: Instance(instance),
                });
                Ok(Remote { id: row.get(0)?, confirmed })
            })
        };
        let id = by_chance()?;
        let insert =
            "INSERT INTO remote (name, id, record, instance) VALUES (?, ?, 0, zeroblob(16))
            ON CONFLICT DO NOTHING";
        self.connection.execute(insert, params![name, id]).map_err(failure)?;
        enter().map_err(failure)
    }

    /// Targets on other systems to which something is owed.
    pub fn owing_remotes(&self) -> Result<Vec<String>> {
        let load = || -> rusqlite::Result<_> {
            let select = "SELECT DISTINCT remote FROM owed JOIN target ON target.id = owed.target
                WHERE remote IS NOT NULL";
            let mut statement = self.connection.prepare(select)?;
            statement.query_map((), |row| row.get(0))?.collect()
        };
        load().map_err(failure)
    }

    /// The microbatches that are owed to the targets on this system from a mark on, with their bytes: one at
    /// least, where there is any, and no more after this many bytes.
    pub fn owed_to(&self, remote: &str, from: Mark, bytes: u64) -> Result<Vec<Committed>> {
        let load = || -> rusqlite::Result<_> {
            let select = format!(
                "{} WHERE sequence >= ?1 AND EXISTS (SELECT 1 FROM owed
                    JOIN target ON target.id = owed.target
                    WHERE owed.sequence = microbatch.sequence AND remote = ?2)
                ORDER BY sequence",
                rows::COMMITTED
            );
            let mut statement = self.connection.prepare_cached(&select)?;
            let mut spans = self.connection.prepare_cached(&format!(
                "{} WHERE sequence = ?1 AND remote = ?2 ORDER BY owed.target",
                rows::OWED
            ))?;
            let mut all = Vec::new();
            let mut loaded = 0;
            let mut rows = statement.query(params![from.microbatch, remote])?;
            while let Some(row) = rows.next()?.filter(|_| loaded < bytes) {
                let mut committed = rows::committed_of(row)?;
                let sequence = committed.sequence;
                rows::load_spans(&mut spans, params![sequence, remote], &mut committed)?;
                for addition in &mut committed.batch.additions {
                    loaded += addition.length;
                    addition.refused = refused(&self.connection, sequence, addition.target)?;
                }
                all.push(committed);
            }
            Ok(all)
        };
        load().map_err(failure)
    }

    /// The bytes and staged files that are owed to a system between two marks.
    pub fn freed(&self, remote: &str, from: Mark, to: Mark) -> Result<Freed> {
        let load = || -> rusqlite::Result<Freed> {
            let mut statement = self.connection.prepare_cached(
                "SELECT length, file FROM owed JOIN span USING (sequence, target)
                JOIN target ON target.id = owed.target
                WHERE sequence >= ? AND sequence < ? AND remote = ?",
            )?;
            let mut freed = Freed::default();
            let mut rows = statement.query(params![from.microbatch, to.microbatch, remote])?;
            while let Some(row) = rows.next()? {
                freed.bytes += row.get::<_, u64>(0)?;
                let file: Option<Vec<u8>> = row.get(1)?;
                freed.files.extend(file.map(OsString::from_vec));
            }
            Ok(freed)
        };
        load().map_err(failure)
    }

    /// The records of a span that its target has refused, from 0.
    pub fn refused(&self, sequence: u64, target: Target) -> Result<Vec<u64>> {
        refused(&self.connection, sequence, target).map_err(failure)
    }

    /// The name of the input that a microbatch was made of; empty where that is not known.
    pub fn name_of(&self, sequence: u64) -> Result<Vec<u8>> {
        let select = "SELECT name FROM microbatch WHERE sequence = ?";
        let found = self.connection.query_row(select, [sequence], |row| row.get(0)).optional();
        Ok(found.map_err(failure)?.unwrap_or_default())
    }

    /// The bytes that the sink of a target has fixed last; none before the first time.
    pub fn fixed(&self, target: Target) -> Result<Vec<u8>> {
        let select = "SELECT fixed FROM target WHERE id = ?";
        let load = || -> rusqlite::Result<Option<Vec<u8>>> {
            self.connection.prepare_cached(select)?.query_row([target.0], |row| row.get(0))
        };
        Ok(load().map_err(failure)?.unwrap_or_default())
    }

    /// The number of a start that this ledger knows.
    pub fn number_of(&self, instance: Instance) -> Result<Option<u64>> {
        if let Some(own) = self.presence.as_ref().filter(|own| own.id == instance) {
            return Ok(Some(own.number));
        }
        let select = "SELECT number FROM instance WHERE id = ?";
        let found = self.connection.query_row(select, [instance.0], |row| row.get(0));
        found.optional().map_err(failure)
    }

    /// The number of the start that committed a microbatch; 0 where there was no remote target.
    pub fn committed_by(&self, sequence: u64) -> Result<u64> {
        let select = "SELECT coalesce(instance, 0) FROM microbatch WHERE sequence = ?";
        let found = self.connection.query_row(select, [sequence], |row| row.get(0));
        Ok(found.optional().map_err(failure)?.unwrap_or(0))
    }

    /// This start, written down: it may stand beside a mark from now on.
    ///
    /// # Errors
    /// Fatal in a job without remote targets.
    pub fn instance(&mut self) -> Result<Instance> {
        let known = self.presence.as_ref().map(|presence| (presence.id, presence.is_written));
        let (id, is_written) = known.ok_or_else(|| Failure::fatal("there is no remote target"))?;
        if !is_written {
            self.transact(|_| Ok(()))?;
        }
        Ok(id)
    }

    /// The file of the ledger.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

fn by_chance() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let transient =
        |error: rustix::io::Errno| Failure::Transient(std::io::Error::from(error).into());
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(transient)?;
    Ok(bytes)
}

/// Writes this start down, unless it is.
pub(super) fn put(connection: &Connection, presence: Option<&Presence>) -> rusqlite::Result<()> {
    let Some(presence) = presence.filter(|presence| !presence.is_written) else { return Ok(()) };
    let insert = "INSERT INTO instance VALUES (?, ?)";
    connection.execute(insert, params![presence.number, presence.id.0]).map(drop)
}

/// A system has confirmed a mark: what is before it is not owed any more.
pub(super) fn confirm(connection: &Connection, name: &str, held: &Held) -> rusqlite::Result<()> {
    let Held { mark, instance } = held;
    let select = "SELECT coalesce(microbatch, 0) FROM remote WHERE name = ?";
    let before: u64 = connection.prepare_cached(select)?.query_row([name], |row| row.get(0))?;
    connection
        .prepare_cached(
            "DELETE FROM owed WHERE sequence >= ? AND sequence < ?
                AND target IN (SELECT id FROM target WHERE remote = ?)",
        )?
        .execute(params![before, mark.microbatch, name])?;
    connection
        .prepare_cached(
            "UPDATE remote SET microbatch = ?, record = ?, instance = ? WHERE name = ?",
        )?
        .execute(params![mark.microbatch, mark.record, instance.0, name])?;
    Ok(())
}

fn refused(connection: &Connection, sequence: u64, target: Target) -> rusqlite::Result<Vec<u64>> {
    let select = "SELECT record FROM refused WHERE sequence = ? AND target = ? ORDER BY record";
    let mut statement = connection.prepare_cached(select)?;
    statement.query_map(params![sequence, target.0], |row| row.get(0))?.collect()
}
