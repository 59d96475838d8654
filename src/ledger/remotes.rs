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
use crate::microbatch::{Confirmed, Held, Instance, Mark, Target};

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
    /// The name of the job then: a copy of the ledger has it, too, whatever its job is called.
    pub job: String,
    /// The last mark that it has confirmed.
    pub confirmed: Option<Confirmed>,
}

/// A span in memory and in the ledger is more than its bytes.
const SPAN_BYTES: u64 = 512;

/// The cost of owing a span of this many bytes.
pub fn cost(length: u64) -> u64 {
    length + SPAN_BYTES
}

/// Freed by a mark.
#[derive(Debug, Default)]
pub struct Freed {
    /// The cost of what is not owed any more.
    pub cost: u64,
    /// Staged files that nothing needs any more, once the ledger knows of the mark.
    pub files: Vec<OsString>,
}

impl Ledger {
    /// The system of this name, which these targets are on; it is inserted if it is new, for the job of this name.
    ///
    /// # Errors
    /// `Halt` when something is owed to one of them elsewhere.
    pub fn remote(&mut self, name: &str, job: &str, targets: &[Target]) -> Result<Remote> {
        if self.presence.is_none() {
            let select = "SELECT coalesce(max(number), 0) + 1 FROM instance";
            let number =
                self.connection.query_row(select, (), |row| row.get(0)).map_err(failure)?;
            self.presence =
                Some(Presence { number, id: Instance(by_chance()?), is_written: false });
        }
        for target in targets {
            self.place_on(Some(name), *target)?;
            self.elsewhere.insert(*target);
        }
        let id = by_chance()?;
        let enter = || -> rusqlite::Result<Remote> {
            let insert = "INSERT INTO remote (name, id, job, record, instance)
                VALUES (?, ?, ?, 0, zeroblob(16)) ON CONFLICT DO NOTHING";
            self.connection.execute(insert, params![name, id, job])?;
            let select =
                "SELECT id, microbatch, record, instance, notes, job FROM remote WHERE name = ?";
            self.connection.query_row(select, [name], |row| {
                let microbatch: Option<u64> = row.get(1)?;
                let record = row.get(2)?;
                let instance = Instance(row.get(3)?);
                let notes: Option<Vec<u8>> = row.get(4)?;
                let held = microbatch
                    .map(|microbatch| Held { mark: Mark { microbatch, record }, instance });
                let confirmed =
                    held.map(|held| Confirmed { held, notes: notes.unwrap_or_default() });
                Ok(Remote { id: row.get(0)?, job: row.get(5)?, confirmed })
            })
        };
        enter().map_err(failure)
    }

    /// A target is a file, from now on.
    ///
    /// # Errors
    /// `Halt` when something is owed to it elsewhere.
    pub fn place_here(&mut self, target: Target) -> Result<()> {
        self.place_on(None, target)
    }

    /// A target is on this system from now on; on none when it is a file.
    fn place_on(&mut self, name: Option<&str>, target: Target) -> Result<()> {
        let select =
            "SELECT remote, EXISTS (SELECT 1 FROM owed WHERE target = id) FROM target WHERE id = ?";
        let known =
            self.connection.query_row(select, [target.0], |row| Ok((row.get(0)?, row.get(1)?)));
        let (known, owes): (Option<String>, bool) = known.map_err(failure)?;
        if known.as_deref() != name {
            if owes {
                let path = self.path_of(target)?;
                let there = known.as_deref().unwrap_or("the file");
                return Err(Failure::halt(format!(
                    "records of {} are still owed to {there}: set the job back, start once, and change it then",
                    path.display()
                )));
            }
            let update = "UPDATE target SET remote = ?, fixed = NULL WHERE id = ?";
            self.connection.execute(update, params![name, target.0]).map_err(failure)?;
        }
        Ok(())
    }

    /// Targets on other systems to which something is owed.
    pub fn owed_elsewhere(&self) -> Result<Vec<Target>> {
        let load = || -> rusqlite::Result<_> {
            let select = "SELECT id FROM target WHERE remote IS NOT NULL
                AND EXISTS (SELECT 1 FROM owed WHERE owed.target = target.id)";
            let mut statement = self.connection.prepare(select)?;
            statement.query_map((), |row| Ok(Target(row.get(0)?)))?.collect()
        };
        load().map_err(failure)
    }

    /// The microbatches that are owed to the targets on this system from a mark on, with their bytes: one at
    /// least, where there is any, and no more after this much ([`cost`]).
    pub fn owed_to(&self, remote: &str, from: Mark, most: u64) -> Result<Vec<Committed>> {
        let load = || -> rusqlite::Result<_> {
            // It begins with what is owed, not with the history.
            let mut sequences = self.connection.prepare_cached(
                "SELECT DISTINCT sequence FROM owed JOIN target ON target.id = owed.target
                WHERE sequence >= ? AND remote = ? ORDER BY sequence",
            )?;
            let mut one = self
                .connection
                .prepare_cached(&format!("{} WHERE sequence = ?", rows::COMMITTED))?;
            let mut spans = self.connection.prepare_cached(&format!(
                "{} WHERE sequence = ?1 AND remote = ?2 ORDER BY owed.target",
                rows::OWED
            ))?;
            let mut all = Vec::new();
            let mut loaded = 0;
            let mut rows = sequences.query(params![from.microbatch, remote])?;
            while let Some(row) = rows.next()?.filter(|_| loaded < most) {
                let sequence: u64 = row.get(0)?;
                let mut committed = one.query_row([sequence], rows::committed_of)?;
                rows::load_spans(&mut spans, params![sequence, remote], &mut committed)?;
                for addition in &mut committed.batch.additions {
                    loaded += cost(addition.length);
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
                freed.cost += cost(row.get(0)?);
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
pub(super) fn confirm(
    connection: &Connection,
    name: &str,
    confirmed: &Confirmed,
) -> rusqlite::Result<()> {
    let Confirmed { held: Held { mark, instance }, notes } = confirmed;
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
            "UPDATE remote SET microbatch = ?, record = ?, instance = ?, notes = ? WHERE name = ?",
        )?
        .execute(params![mark.microbatch, mark.record, instance.0, notes, name])?;
    Ok(())
}

fn refused(connection: &Connection, sequence: u64, target: Target) -> rusqlite::Result<Vec<u64>> {
    let select = "SELECT record FROM refused WHERE sequence = ? AND target = ? ORDER BY record";
    let mut statement = connection.prepare_cached(select)?;
    statement.query_map(params![sequence, target.0], |row| row.get(0))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Released;
    use crate::microbatch::{Addition, Microbatch};

    #[test]
    fn a_target_that_is_owed_something_stays_where_it_is() {
        let state = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(state.path()).unwrap();
        let target = ledger.target(std::path::Path::new("/out")).unwrap();
        ledger.remote("one", "job", &[target]).unwrap();
        // Nothing is owed: it may go elsewhere.
        ledger.remote("two", "job", &[target]).unwrap();
        let mut batch = Microbatch::without_input(0);
        batch.additions.push(Addition::of_bytes(target, b"1\n".to_vec()));
        ledger.commit(vec![batch], std::iter::empty(), &Released::default()).unwrap();
        ledger.remote("two", "job", &[target]).unwrap();
        for refused in [ledger.remote("one", "job", &[target]).map(drop), ledger.place_here(target)]
        {
            let said = format!("{:#}", refused.unwrap_err().into_error());
            assert!(said.contains("records of /out are still owed to two"), "{said}");
        }
    }
}
