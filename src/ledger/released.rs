//! Facts that are durable outside of the ledger, so that the ledger may forget them.

use rusqlite::{Connection, params};

use super::{Told, ViewId, archived, outputs, prune, remotes, told, views};
use crate::microbatch::{Confirmed, OutputFile, Target};
use crate::record::Named;

/// Facts that are durable outside the ledger, so that the ledger may forget them.
#[derive(Debug, Clone, Default)]
pub struct Released {
    /// Every span up to this sequence number is durable in its file.
    pub published: Option<u64>,
    /// How far the targets on these systems have come.
    pub confirmed: Vec<(Box<str>, Confirmed)>,
    /// These microbatches' inputs are durably archived.
    pub archived: Vec<u64>,
    /// Names that were given, and are durable; not the usual names of inputs.
    pub named: Vec<Named>,
    /// Of these microbatches the input was not there any more when it was to be archived.
    pub gone: Vec<u64>,
    /// Of these microbatches the input may be in another folder that was the drop folder; or is not any more.
    pub elsewhere: Vec<(u64, bool)>,
    /// The states of this view have been rebuilt.
    pub rebuilt: Option<ViewId>,
    /// Messages about views.
    pub told: Vec<Told>,
    /// The files of outputs, which are durable.
    pub files: Vec<(Target, OutputFile)>,
}

impl Released {
    /// True when there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.published.is_none()
            && self.confirmed.is_empty()
            && self.archived.is_empty()
            && self.named.is_empty()
            && self.gone.is_empty()
            && self.elsewhere.is_empty()
            && self.rebuilt.is_none()
            && self.told.is_empty()
            && self.files.is_empty()
    }
}

/// Forgets what is released. Nothing is owed to a file of the microbatches up to `published`.
pub(super) fn forget(
    connection: &Connection,
    released: &Released,
    published: u64,
) -> rusqlite::Result<()> {
    if let Some(now) = released.published {
        // What is owed to a target that is away may be much: it is not walked through each time.
        connection
            .prepare_cached(
                "DELETE FROM owed WHERE sequence > ? AND sequence <= ?
                    AND target IN (SELECT id FROM target WHERE remote IS NULL)",
            )?
            .execute([published, now])?;
    }
    for (name, confirmed) in &released.confirmed {
        remotes::confirm(connection, name, confirmed)?;
    }
    if let Some(view) = released.rebuilt {
        views::rebuilt(connection, view)?;
    }
    told::put(connection, &released.told)?;
    archived::put(connection, &released.named)?;
    outputs::put(connection, &released.files)?;
    let mut archived = connection.prepare_cached("DELETE FROM unarchived WHERE sequence = ?")?;
    for sequence in &released.archived {
        archived.execute([sequence])?;
        prune::catch_up(connection, *sequence)?;
    }
    for (sequence, is_elsewhere) in &released.elsewhere {
        connection
            .prepare_cached("UPDATE unarchived SET elsewhere = ?2 WHERE sequence = ?1")?
            .execute(params![sequence, is_elsewhere])?;
    }
    for sequence in &released.gone {
        connection.prepare_cached("INSERT OR IGNORE INTO gone VALUES (?)")?.execute([sequence])?;
    }
    Ok(())
}
