//! Troubles of views: groups that are left out of a result, and views that are stopped.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::{Ledger, Reader, ViewId, failure};
use crate::clock::now_ms;
use crate::failure::Result;

/// Groups that are remembered for a view; of more, the latest.
const GROUPS_MAX: u64 = 1000;

/// Something to be told of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Which.
    pub view: ViewId,
    /// What.
    pub what: What,
}

impl Told {
    /// True when the view is stopped.
    pub fn stops(&self) -> bool {
        matches!(self.what, What::Stopped { .. })
    }
}

/// A trouble of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// This group is left out of the result, for this reason.
    LeftOut {
        /// Its key, as people read it; nothing for the result as a whole.
        group: String,
        /// Why.
        reason: String,
    },
    /// This group was written after all.
    Written {
        /// Its key, as people read it.
        group: String,
    },
    /// No group is left out but those that come next.
    AllWritten,
    /// The view is stopped, for this reason, until it is rebuilt.
    Stopped {
        /// Why.
        reason: String,
    },
}

/// How a view stands that has a trouble.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ViewTrouble {
    /// Its name.
    pub view: String,
    /// Why it is stopped, if it is.
    pub stopped: Option<String>,
    /// Groups that are left out of its result; at most the latest thousand are counted.
    pub left_out: u64,
    /// The one that was found last; nothing for the result as a whole.
    pub group: Option<String>,
    /// Why that is left out.
    pub reason: Option<String>,
}

/// Writes it down, as part of a transaction.
pub(super) fn put(connection: &Connection, all: &[Told]) -> rusqlite::Result<()> {
    let mut grown = BTreeSet::new();
    for Told { view, what } in all {
        match what {
            What::LeftOut { group, reason } => {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO left_out VALUES (?, ?, ?, ?)")?
                    .execute(params![view.0, group, reason, now_ms()])?;
                grown.insert(view.0);
            }
            What::Written { group } => {
                connection
                    .prepare_cached("DELETE FROM left_out WHERE view = ? AND name = ?")?
                    .execute(params![view.0, group])?;
            }
            What::AllWritten => clear(connection, view.0)?,
            What::Stopped { reason } => {
                let stop = "UPDATE view SET stopped = ?, rebuild = 0 WHERE id = ?";
                connection.execute(stop, params![reason, view.0])?;
            }
        }
    }
    grown.into_iter().try_for_each(|view| keep_latest(connection, view))
}

/// Forgets all but the latest of the groups that are left out of a view.
fn keep_latest(connection: &Connection, view: i64) -> rusqlite::Result<()> {
    let delete = "DELETE FROM left_out WHERE view = ?1 AND name IN
        (SELECT name FROM left_out WHERE view = ?1 ORDER BY at_ms DESC LIMIT -1 OFFSET ?2)";
    connection.prepare_cached(delete)?.execute(params![view, GROUPS_MAX]).map(drop)
}

/// Forgets what was left out of a view.
pub(super) fn clear(connection: &Connection, view: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM left_out WHERE view = ?", [view]).map(drop)
}

impl Ledger {
    /// Writes down what is to be told, when no commit comes that could carry it.
    pub fn tell(&mut self, all: &[Told]) -> Result<()> {
        self.transact(|connection| put(connection, all))?;
        self.note_stopped(all);
        Ok(())
    }

    /// A view that is stopped sees nothing more.
    pub(super) fn note_stopped(&mut self, all: &[Told]) {
        for Told { view, what } in all {
            if matches!(what, What::Stopped { .. }) {
                self.views.retain(|other| other != view);
            }
        }
    }

    /// The groups that are left out of a view's result.
    pub fn left_out(&self, view: ViewId) -> Result<Vec<String>> {
        let all = || -> rusqlite::Result<Vec<String>> {
            let mut statement =
                self.connection.prepare("SELECT name FROM left_out WHERE view = ?")?;
            statement.query_map([view.0], |row| row.get(0))?.collect()
        };
        all().map_err(failure)
    }
}

impl Reader {
    /// The views that are stopped or of which groups are left out.
    pub fn view_troubles(&self) -> anyhow::Result<Vec<ViewTrouble>> {
        let select = "SELECT view.name, stopped, count(left_out.name), left_out.name, reason, max(at_ms)
            FROM view LEFT JOIN left_out ON left_out.view = view.id
            GROUP BY view.id HAVING stopped IS NOT NULL OR count(left_out.name) > 0 ORDER BY view.id";
        let mut statement = self.connection.prepare(select)?;
        let rows = statement.query_map((), |row| {
            Ok(ViewTrouble {
                view: row.get(0)?,
                stopped: row.get(1)?,
                left_out: row.get(2)?,
                group: row.get(3)?,
                reason: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::schema;

    /// A view of windows may leave out groups for years.
    #[test]
    fn only_the_latest_groups_are_remembered() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        let told = |number: u64| {
            let group = number.to_string();
            let reason = "bad".to_owned();
            Told {
                view: ViewId(1 + number.cast_signed() % 2),
                what: What::LeftOut { group, reason },
            }
        };
        put(&connection, &(0..2 * GROUPS_MAX + 50).map(told).collect::<Vec<_>>()).unwrap();
        for view in [1, 2] {
            let select = "SELECT count(*) FROM left_out WHERE view = ?";
            let count: u64 = connection.query_row(select, [view], |row| row.get(0)).unwrap();
            assert_eq!(count, GROUPS_MAX);
        }
    }
}
