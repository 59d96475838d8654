//! Whose ledger it is: the job file and the drop folder that it was made for.
//!
//! What holds here: a ledger takes the first job that commits to it. Of a job that is known by its file or by
//! its folder, the other one may change; a job of which both are others is refused.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Ledger, failure};
use crate::failure::{Failure, Result};

impl Ledger {
    /// Makes sure that the ledger in `state` belongs to the job in `file`, whose drop folder is
    /// `folder`. All paths are absolute.
    pub fn claim(&mut self, state: &Path, file: &Path, folder: &Path) -> Result<()> {
        let (file, folder) = (known_as(state, file), known_as(state, folder));
        let select = "SELECT file, folder FROM job";
        let known = self
            .connection
            .query_row(select, (), |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))
            .optional()
            .map_err(failure)?;
        let (file, folder) = (file.as_os_str().as_bytes(), folder.as_os_str().as_bytes());
        if let Some((known_file, known_folder)) = &known {
            let (same_file, same_folder) = (known_file == file, known_folder == folder);
            if same_file && same_folder {
                return Ok(());
            }
            if !same_file && !same_folder {
                return Err(Failure::halt(format!(
                    "the state directory {} belongs to another job, {}: give this one a \
                     `state.directory` of its own",
                    state.display(),
                    String::from_utf8_lossy(known_file)
                )));
            }
        }
        self.claim = Some((file.to_vec(), folder.to_vec()));
        Ok(())
    }
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
