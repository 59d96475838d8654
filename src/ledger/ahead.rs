//! The ledger as a start would find it: for `check`, which changes nothing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension as _};

use super::known::KnownView;
use super::{FILE, Reader, job};

/// A ledger, as a start would find it.
pub struct Ahead {
    look: Reader,
    last: u64,
}

impl Ahead {
    /// The ledger in a state directory. `None` when there is none, or when an older program has written
    /// it: then a start brings it up to date first.
    ///
    /// # Errors
    /// When a newer program has written it, or when it cannot be read.
    pub fn open(state: &Path) -> anyhow::Result<Option<Self>> {
        let Some(look) = Reader::open_if_current(state)? else { return Ok(None) };
        let last = look.newest(1)?.pop().map_or(0, |entry| entry.sequence);
        Ok(Some(Self { look, last }))
    }

    /// Why the ledger does not take the job in `file`, whose drop folder is `folder`.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn refuses_job(
        &self,
        state: &Path,
        file: &Path,
        folder: &Path,
    ) -> anyhow::Result<Option<String>> {
        let known = job::known(self.connection())?;
        let own = job::claim_of(state, file, folder);
        Ok(known.and_then(|known| job::refuses(state, &known, &own)))
    }

    /// The views that a ledger knows which knows of no microbatch; none, where it has not been made.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn views_at_first(
        state: &Path,
        ledger: Option<&Self>,
    ) -> anyhow::Result<Option<Vec<String>>> {
        match ledger {
            Some(ledger) => (ledger.last == 0).then(|| ledger.look.views()).transpose(),
            None => Ok((!state.join(FILE).is_file()).then(Vec::new)),
        }
    }

    /// The stored facts about the view of this name, which is to be written to `path`.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn known_view(&self, name: &str, path: &Path) -> anyhow::Result<KnownView> {
        let job = (self.last, self.look.tally(i64::MAX)?.counts.written);
        Ok(KnownView::read(self.connection(), name, path, job)?)
    }

    /// The files to which bytes are owed, and how many.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn owed(&self) -> anyhow::Result<Vec<(PathBuf, u64)>> {
        let select = "SELECT path, sum(length) FROM owed JOIN span USING (sequence, target)
            JOIN target ON target.id = owed.target WHERE remote IS NULL GROUP BY path";
        let mut statement = self.connection().prepare(select)?;
        let rows = statement.query_map((), |row| Ok((path(row.get(0)?), row.get(1)?)))?;
        rows.collect::<rusqlite::Result<_>>().context("read what is owed")
    }

    /// How the records in the file at `output` are written, where that is known.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn format(&self, output: &Path) -> anyhow::Result<Option<String>> {
        use std::os::unix::ffi::OsStrExt as _;
        let select = "SELECT format FROM target WHERE path = ? AND end > 0";
        let found = self
            .connection()
            .query_row(select, [output.as_os_str().as_bytes()], |row| row.get(0))
            .optional()?;
        Ok(found.flatten())
    }

    fn connection(&self) -> &Connection {
        &self.look.connection
    }
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}
