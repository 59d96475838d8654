//! The states of continuous views.
//!
//! Invariants: a state is written by [`super::Ledger::commit`] alone, in the transaction of the
//! microbatches that changed it. What a state means is the engine's business.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Statement, ToSql, params, params_from_iter};

use super::known::{Continues, KnownView, Written};
use super::{Ledger, failure, merged, told};
use crate::failure::Result;

/// A view, by its row in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ViewId(pub(super) i64);

/// A time in which nothing is committed and much is read.
pub struct Reading<'a> {
    _transaction: rusqlite::Transaction<'a>,
}

/// The state of one group, that replaces the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatePut<'a> {
    /// Of which view.
    pub view: ViewId,
    /// Which group.
    pub key: &'a [u8],
    /// Its state; `None` when it is kept no longer.
    pub value: Option<&'a [u8]>,
}

impl Ledger {
    /// The stored facts about the view of this name, which is to be written to `path`.
    pub fn known_view(&self, name: &str, path: &Path) -> Result<KnownView> {
        let last = self.last_sequence();
        let written = self.tally.counts.written;
        KnownView::read(&self.connection, name, path, (last, written)).map_err(failure)
    }

    /// The view of this name, and why it is stopped if it is. At the first time it is entered. It must not
    /// be refused.
    pub fn view(&mut self, name: &str, signature: &str) -> Result<(ViewId, Option<String>)> {
        let last = self.last_sequence();
        let enter = || -> rusqlite::Result<(i64, Option<String>)> {
            // What was not refused begins here, or has missed nothing.
            self.connection.execute(
                "INSERT INTO view (name, signature, seen) VALUES (?1, ?2, ?3)
                    ON CONFLICT (name) DO UPDATE SET seen = ?3 WHERE seen <> ?3 AND stopped IS NULL",
                params![name, signature, last],
            )?;
            let select = "SELECT id, stopped FROM view WHERE name = ?";
            self.connection.query_row(select, [name], |row| Ok((row.get(0)?, row.get(1)?)))
        };
        let (id, stopped) = enter().map_err(failure)?;
        if stopped.is_none() {
            self.views.push(ViewId(id));
        }
        Ok((ViewId(id), stopped))
    }

    /// The names of all views.
    pub fn view_names(&self) -> Result<Vec<String>> {
        let all = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare("SELECT name FROM view")?;
            statement.query_map((), |row| row.get(0))?.collect()
        };
        all().map_err(failure)
    }

    /// Notes where and how a view is written from now on.
    pub fn writes_view(&mut self, view: ViewId, now: &Written) -> Result<()> {
        let update = "UPDATE view SET path = ?1, format = ?2
            WHERE id = ?3 AND (path IS NOT ?1 OR format IS NOT ?2)";
        let path = now.path.as_os_str().as_bytes();
        self.connection
            .execute(update, params![path, now.format, view.0])
            .map(drop)
            .map_err(failure)
    }

    /// Forgets what a view has kept: it is to be rebuilt from the whole output, under this signature.
    /// The entry under the empty key stays if `keeps` is true of the old signature and the new one: there a
    /// view keeps the end of its closed windows.
    pub fn reset_view(&mut self, name: &str, signature: &str, keeps: Continues) -> Result<()> {
        let closed = self.closed_of(name, signature, keeps)?;
        let mut reset = None;
        self.transact(|connection| {
            connection.execute(
                "INSERT INTO view (name, signature, rebuild) VALUES (?1, ?2, 1)
                    ON CONFLICT (name) DO UPDATE SET signature = ?2, rebuild = 1, stopped = NULL",
                [name, signature],
            )?;
            let select = "SELECT id FROM view WHERE name = ?";
            let id: i64 = connection.query_row(select, [name], |row| row.get(0))?;
            clear(connection, id)?;
            if let Some(value) = &closed {
                let put = StatePut { view: ViewId(id), key: &[], value: Some(value) };
                self::put(connection, std::iter::once(put))?;
            }
            reset = Some(ViewId(id));
            Ok(())
        })?;
        if let Some(view) = reset {
            self.recent.forget(view);
        }
        Ok(())
    }

    fn closed_of(&self, name: &str, own: &str, keeps: Continues) -> Result<Option<Vec<u8>>> {
        let select = "SELECT id, signature FROM view WHERE name = ?";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?));
        let kept = self.connection.query_row(select, [name], row).optional().map_err(failure)?;
        match kept {
            Some((id, kept)) if keeps(&kept, own) => self.state(ViewId(id), &[]),
            _ => Ok(None),
        }
    }

    /// Removes a view with all that it keeps. False when there is none of this name.
    pub fn forget_view(&mut self, name: &str) -> Result<bool> {
        let mut forgotten = None;
        self.transact(|connection| {
            let select = "SELECT id FROM view WHERE name = ?";
            let found = connection.query_row(select, [name], |row| row.get(0)).optional()?;
            let Some(id) = found else { return Ok(()) };
            clear(connection, id)?;
            connection.execute("DELETE FROM view WHERE id = ?", [id])?;
            forgotten = Some(ViewId(id));
            Ok(())
        })?;
        if let Some(view) = forgotten {
            self.recent.forget(view);
        }
        Ok(forgotten.is_some())
    }

    /// True when the states of a view are to be rebuilt.
    pub fn owes_rebuild(&self, view: ViewId) -> Result<bool> {
        let select = "SELECT rebuild FROM view WHERE id = ?";
        self.connection.query_row(select, [view.0], |row| row.get(0)).map_err(failure)
    }

    /// Until it is dropped, everything is read as it is now, and without asking each time whether it
    /// still is.
    pub fn reading(&self) -> Result<Reading<'_>> {
        self.connection
            .unchecked_transaction()
            .map(|transaction| Reading { _transaction: transaction })
            .map_err(failure)
    }

    /// True when a view keeps nothing.
    pub fn is_view_empty(&self, view: ViewId) -> Result<bool> {
        Ok(self.recent.is_empty(view) && is_empty(&self.connection, view).map_err(failure)?)
    }

    /// The state of one group, if it has one.
    pub fn state(&self, view: ViewId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some(changed) = self.recent.get(view, key) {
            return Ok(changed.clone());
        }
        let get = || {
            let select = "SELECT value FROM state WHERE view = ? AND key = ?";
            let mut statement = self.connection.prepare_cached(select)?;
            statement.query_row(params![view.0, key], |row| row.get(0)).optional()
        };
        get().map_err(failure)
    }

    /// The last group of a view with a key from `from` to before `below`, with its state.
    pub fn last_state_below(
        &self,
        view: ViewId,
        from: &[u8],
        below: &[u8],
    ) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let walk = || {
            let select = "SELECT key, value FROM state WHERE view = ? AND key >= ? AND key < ?
                ORDER BY key DESC";
            let mut statement = self.connection.prepare_cached(select)?;
            let mut rows = statement.query(params![view.0, from, below])?;
            let mut changed = self.recent.range(view, from, Some(below)).rev().peekable();
            let owned = |key: &[u8], value: &[u8]| Ok(Some((key.to_vec(), value.to_vec())));
            loop {
                let placed = match rows.next()? {
                    Some(row) => Some((row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?)),
                    None => None,
                };
                let is_behind = |key: &[u8]| placed.is_none_or(|(placed, _)| key > placed);
                while let Some((key, value)) = changed.next_if(|(key, _)| is_behind(key)) {
                    if let Some(value) = value {
                        return owned(key, value);
                    }
                }
                let Some((key, value)) = placed else { return Ok(None) };
                let instead = changed.next_if(|(changed, _)| *changed == key);
                if let Some(value) = instead.map_or(Some(value), |(_, value)| value) {
                    return owned(key, value);
                }
            }
        };
        walk().map_err(failure)
    }

    /// Gives `take` the groups of a view with keys from `from` to before `below`, or to the last, with
    /// their states after these later changes, in the order of their keys.
    pub fn each_state<'a>(
        &'a self,
        view: ViewId,
        from: &[u8],
        below: Option<&[u8]>,
        later: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        mut take: impl FnMut(&[u8], &[u8]),
    ) -> Result<()> {
        let all = || -> rusqlite::Result<()> {
            let select = match below {
                Some(_) => {
                    "SELECT key, value FROM state WHERE view = ?1 AND key >= ?2 AND key < ?3
                    ORDER BY key"
                }
                None => {
                    "SELECT key, value FROM state WHERE view = ?1 AND key >= ?2 AND ?3 IS NULL
                    ORDER BY key"
                }
            };
            let mut statement = self.connection.prepare_cached(select)?;
            let bounds = params![view.0, from, below];
            let mut rows = statement.query(bounds)?;
            let mut changed = merged(self.recent.range(view, from, below), later).peekable();
            let mut give = |(key, value): (&[u8], Option<&[u8]>)| {
                if let Some(value) = value {
                    take(key, value);
                }
            };
            while let Some(row) = rows.next()? {
                let key = row.get_ref(0)?.as_blob()?;
                let value = row.get_ref(1)?.as_blob()?;
                while let Some(before) = changed.next_if(|(changed, _)| *changed < key) {
                    give(before);
                }
                let instead = changed.next_if(|(changed, _)| *changed == key);
                give(instead.unwrap_or((key, Some(value))));
            }
            changed.for_each(give);
            Ok(())
        };
        all().map_err(failure)
    }
}

/// These views have seen all microbatches up to this one.
pub(super) fn saw(
    connection: &Connection,
    views: &[ViewId],
    sequence: u64,
) -> rusqlite::Result<()> {
    let mut saw = connection.prepare_cached("UPDATE view SET seen = ? WHERE id = ?")?;
    views.iter().try_for_each(|view| saw.execute(params![sequence, view.0]).map(drop))
}

/// Removes all states of a view, also those that have no place among the others yet.
fn clear(connection: &Connection, view: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM state WHERE view = ?", [view])?;
    connection.execute("DELETE FROM state_change WHERE view = ?", [view])?;
    told::clear(connection, view)
}

/// The states of a view have been rebuilt.
pub(super) fn rebuilt(connection: &Connection, view: ViewId) -> rusqlite::Result<()> {
    connection.execute("UPDATE view SET rebuild = 0 WHERE id = ?", [view.0]).map(drop)
}

/// States that one statement puts: each execution has a price of its own, which is then paid once.
const AT_ONCE: usize = 64;

/// Puts states, as part of a transaction; each group of a view at most once.
pub(super) fn put<'a>(
    connection: &Connection,
    states: impl Iterator<Item = StatePut<'a>>,
) -> rusqlite::Result<()> {
    let mut one = connection
        .prepare_cached("INSERT OR REPLACE INTO state (view, key, value) VALUES (?, ?, ?)")?;
    let mut remove = connection.prepare_cached("DELETE FROM state WHERE view = ? AND key = ?")?;
    let mut last = None;
    let mut is_new = false;
    let mut waiting = Vec::new();
    for state in states {
        if last.replace(state.view) != Some(state.view) {
            is_new = is_empty(connection, state.view)?;
        }
        match state.value {
            None => drop(remove.execute(params![state.view.0, state.key])?),
            Some(_) if is_new => waiting.push(state),
            Some(value) => drop(one.execute(params![state.view.0, state.key, value])?),
        }
        if waiting.len() == AT_ONCE {
            let mut many = connection.prepare_cached(&many(AT_ONCE))?;
            insert(&mut many, &waiting)?;
            waiting.clear();
        }
    }
    waiting.chunks(1).try_for_each(|state| insert(&mut one, state))
}

/// The statement that inserts a number of states of groups that were not there. It leaves what it has put when it
/// fails, as the transaction is rolled back in any case. To undo it, SQLite would copy each page before it
/// changes; and so it does with any statement of several rows that may change one that is there.
fn many(states: usize) -> String {
    let rows = ["(?, ?, ?)"].repeat(states).join(", ");
    format!("INSERT OR FAIL INTO state (view, key, value) VALUES {rows}")
}

fn insert(statement: &mut Statement<'_>, states: &[StatePut<'_>]) -> rusqlite::Result<()> {
    let values = states
        .iter()
        .flat_map(|StatePut { view, key, value }| -> [&dyn ToSql; 3] { [&view.0, key, value] });
    statement.execute(params_from_iter(values)).map(drop)
}

/// True when the table has a state for this group, whatever became of it since.
pub(super) fn is_placed(
    connection: &Connection,
    view: ViewId,
    key: &[u8],
) -> rusqlite::Result<bool> {
    let select = "SELECT EXISTS (SELECT 1 FROM state WHERE view = ? AND key = ?)";
    connection.prepare_cached(select)?.query_row(params![view.0, key], |row| row.get(0))
}

fn is_empty(connection: &Connection, view: ViewId) -> rusqlite::Result<bool> {
    let select = "SELECT NOT EXISTS (SELECT 1 FROM state WHERE view = ?)";
    connection.prepare_cached(select)?.query_row([view.0], |row| row.get(0))
}
