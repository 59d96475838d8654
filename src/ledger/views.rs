//! The states of continuous views.
//!
//! What holds here: a state is written by [`super::Ledger::commit`] alone, in the transaction of the
//! microbatches that changed it. What a state means is the engine's business.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Ledger, failure};
use crate::failure::{Failure, Result};

/// A view, by its row in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ViewId(i64);

/// The state of one group, to be put in place of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePut {
    /// Of which view.
    pub view: ViewId,
    /// Which group.
    pub key: Vec<u8>,
    /// Its state; `None` when it is kept no longer.
    pub value: Option<Vec<u8>>,
}

impl Ledger {
    /// The view of this name, entered at the first time.
    ///
    /// # Errors
    /// When its states were kept under another signature: they have no meaning now.
    pub fn view(&mut self, name: &str, signature: &str) -> Result<ViewId> {
        let enter = || -> rusqlite::Result<(i64, String)> {
            self.connection.execute(
                "INSERT INTO view (name, signature) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [name, signature],
            )?;
            let select = "SELECT id, signature FROM view WHERE name = ?";
            self.connection.query_row(select, [name], |row| Ok((row.get(0)?, row.get(1)?)))
        };
        let (id, kept) = enter().map_err(failure)?;
        if kept == signature {
            return Ok(ViewId(id));
        }
        Err(Failure::fatal(format!(
            "the view `{name}` was kept by another query, other columns or another engine:\n{kept}\n\
             It cannot go on. Start once with `run --reset-view {name}`, and it is made anew from the \
             output; or give the view another name, and it begins with the next file"
        )))
    }

    /// Forgets what a view has kept: it is to be made anew from the whole output, under this
    /// signature.
    pub fn reset_view(&mut self, name: &str, signature: &str) -> Result<()> {
        self.transact(|connection| {
            connection.execute(
                "INSERT INTO view (name, signature, rebuild) VALUES (?1, ?2, 1)
                    ON CONFLICT (name) DO UPDATE SET signature = ?2, rebuild = 1",
                [name, signature],
            )?;
            connection.execute(
                "DELETE FROM state WHERE view = (SELECT id FROM view WHERE name = ?)",
                [name],
            )?;
            Ok(())
        })
    }

    /// True when the states of a view are to be made anew.
    pub fn owes_rebuild(&self, view: ViewId) -> Result<bool> {
        let select = "SELECT rebuild FROM view WHERE id = ?";
        self.connection.query_row(select, [view.0], |row| row.get(0)).map_err(failure)
    }

    /// The state of one group, if it has one.
    pub fn state(&self, view: ViewId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let get = || {
            let select = "SELECT value FROM state WHERE view = ? AND key = ?";
            let mut statement = self.connection.prepare_cached(select)?;
            statement.query_row(params![view.0, key], |row| row.get(0)).optional()
        };
        get().map_err(failure)
    }

    /// The groups of a view with keys from `from` to before `below`, or to the last, with their
    /// states, in the order of their keys.
    pub fn states(
        &self,
        view: ViewId,
        from: &[u8],
        below: Option<&[u8]>,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let all = || {
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
            let rows = statement.query_map(bounds, |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        all().map_err(failure)
    }
}

/// The states of a view have been made anew.
pub(super) fn rebuilt(connection: &Connection, view: ViewId) -> rusqlite::Result<()> {
    connection.execute("UPDATE view SET rebuild = 0 WHERE id = ?", [view.0]).map(drop)
}

/// Puts states, as part of a transaction.
pub(super) fn put(connection: &Connection, states: &[StatePut]) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(
        "INSERT INTO state (view, key, value) VALUES (?, ?, ?)
            ON CONFLICT DO UPDATE SET value = excluded.value",
    )?;
    let mut remove = connection.prepare_cached("DELETE FROM state WHERE view = ? AND key = ?")?;
    for StatePut { view, key, value } in states {
        match value {
            Some(value) => put.execute(params![view.0, key, value])?,
            None => remove.execute(params![view.0, key])?,
        };
    }
    Ok(())
}
