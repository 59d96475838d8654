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
    /// Its state.
    pub value: Vec<u8>,
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
             It cannot go on. Give the view another name, and it begins with the next file"
        )))
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

    /// All groups of a view with their states, in the order of their keys.
    pub fn states(&self, view: ViewId) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let all = || {
            let select = "SELECT key, value FROM state WHERE view = ? ORDER BY key";
            let mut statement = self.connection.prepare_cached(select)?;
            let rows = statement.query_map([view.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        all().map_err(failure)
    }
}

/// Puts states, as part of a transaction.
pub(super) fn put(connection: &Connection, states: &[StatePut]) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(
        "INSERT INTO state (view, key, value) VALUES (?, ?, ?)
            ON CONFLICT DO UPDATE SET value = excluded.value",
    )?;
    for StatePut { view, key, value } in states {
        put.execute(params![view.0, key, value])?;
    }
    Ok(())
}
