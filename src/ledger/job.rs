//! Whose ledger it is: the job file and the drop folder that it was made for.
//!
//! Invariants: a ledger takes the first job that commits to it. Of a job that is known by its file or by
//! its folder, the other one may change; a job of which both are others is refused. The folders that inputs
//! were moved to are written down, too: a later configuration may name another one.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::reader::Reader;
use super::{Ledger, failure};
use crate::failure::{Failure, Result};

impl Ledger {
    /// Makes sure that the ledger in `state` belongs to the job in `file`, whose drop folder is
    /// `folder`. All paths are absolute.
    pub fn claim(&mut self, state: &Path, file: &Path, folder: &Path) -> Result<()> {
        let claim = claim_of(state, file, folder);
        let known = known(&self.connection).map_err(failure)?;
        if known.as_ref() == Some(&claim) {
            return Ok(());
        }
        if let Some(message) = known.and_then(|known| refuses(state, &known, &claim)) {
            return Err(Failure::halt(message));
        }
        self.claim = Some(claim);
        Ok(())
    }

    /// Writes down that inputs are moved to `folder` from now on.
    pub fn note_archive(&mut self, state: &Path, folder: &Path) -> Result<()> {
        if self.archives(state)?.iter().any(|known| known == folder) {
            return Ok(());
        }
        let path = known_as(state, folder).into_os_string().into_vec();
        let insert = "INSERT INTO archive_folder (path) VALUES (?)";
        self.transact(|connection| connection.execute(insert, [path]).map(drop))
    }

    /// The folders that inputs were ever moved to.
    pub fn archives(&self, state: &Path) -> Result<Vec<PathBuf>> {
        archives(&self.connection, state).map_err(failure)
    }
}

impl Reader {
    /// The folders that inputs were ever moved to.
    pub fn archives(&self, state: &Path) -> anyhow::Result<Vec<PathBuf>> {
        Ok(archives(&self.connection, state)?)
    }
}

fn archives(connection: &Connection, state: &Path) -> rusqlite::Result<Vec<PathBuf>> {
    let home = state.parent().unwrap_or(state);
    let mut statement = connection.prepare("SELECT path FROM archive_folder")?;
    let rows = statement.query_map((), |row| {
        let path = PathBuf::from(OsString::from_vec(row.get(0)?));
        Ok(path.strip_prefix(".").map_or_else(|_| path.clone(), |below| home.join(below)))
    })?;
    rows.collect()
}

/// Whose ledger it is, as far as that is written down.
pub(super) fn known(connection: &Connection) -> rusqlite::Result<Option<Claim>> {
    let select = "SELECT file, folder FROM job";
    connection.query_row(select, (), |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// Why a ledger does not take this job, if so.
pub(super) fn refuses(state: &Path, known: &Claim, own: &Claim) -> Option<String> {
    (known.0 != own.0 && known.1 != own.1).then(|| {
        format!(
            "the state directory {} belongs to another job, {}: give this one a `state.directory` of its \
             own",
            state.display(),
            String::from_utf8_lossy(&known.0)
        )
    })
}

/// The job in `file`, whose drop folder is `folder`, as a ledger knows it.
pub(super) fn claim_of(state: &Path, file: &Path, folder: &Path) -> Claim {
    let bytes = |path: &Path| known_as(state, path).into_os_string().into_vec();
    (bytes(file), bytes(folder))
}

/// Writes down whose ledger it is, with the next commit.
pub(super) fn put(connection: &Connection, claim: Option<&Claim>) -> rusqlite::Result<()> {
    let Some((file, folder)) = claim else { return Ok(()) };
    let put = "INSERT INTO job (only, file, folder) VALUES (0, ?1, ?2)
        ON CONFLICT (only) DO UPDATE SET file = ?1, folder = ?2";
    connection.execute(put, params![file, folder]).map(drop)
}

/// The job file and the drop folder, as the ledger knows them.
pub(super) type Claim = (Vec<u8>, Vec<u8>);

/// The path as the ledger knows it: relative to the folder that the state directory is in where it is
/// below that, so that a job may be moved as a whole; else as it is.
fn known_as(state: &Path, path: &Path) -> PathBuf {
    let home = state.parent().filter(|home| home.parent().is_some());
    let below = home.and_then(|home| path.strip_prefix(home).ok());
    below.map_or_else(|| path.to_owned(), |below| Path::new(".").join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_moved_as_a_whole_is_the_same() {
        let known = |state: &str, path: &str| known_as(Path::new(state), Path::new(path));
        assert_eq!(known("/a/job.state", "/a/job.toml"), known("/b/c/job.state", "/b/c/job.toml"));
        assert_eq!(known("/a/state", "/a/x/in"), Path::new("./x/in"));
        assert_eq!(known("/var/lib/spoolmill/x", "/etc/x.toml"), Path::new("/etc/x.toml"));
        assert_eq!(known("/state", "/a/job.toml"), Path::new("/a/job.toml"));
    }
}
