//! A look into a ledger, whether or not the daemon runs.
//!
//! What holds here: nothing is written, and no lock is held longer than one question takes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use anyhow::Context as _;
use rusqlite::{Connection, OpenFlags, Row};

use super::{BUSY, FILE, schema};

/// A ledger that is only read.
pub struct Look {
    connection: Connection,
}

/// What became of a microbatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its records are in the output.
    Processed,
    /// Its file was set aside.
    Quarantined,
    /// It had no file: the clock closed windows, or a view was made anew.
    WithoutFile,
}

/// A microbatch as it stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1.
    pub sequence: u64,
    /// When it was made, in milliseconds since 1970.
    pub at_ms: i64,
    /// The file's name relative to the drop folder; empty when it had none.
    pub name: OsString,
    /// The file's size in bytes.
    pub bytes: u64,
    /// Why the file was set aside, if it was.
    pub reason: Option<String>,
    /// Records read.
    pub read: u64,
    /// Records written to the output.
    pub written: u64,
    /// Records written to the rejects.
    pub rejected: u64,
    /// The watermark that it left, in microseconds since 1970.
    pub watermark: Option<i64>,
}

impl Entry {
    /// What became of it.
    pub fn outcome(&self) -> Outcome {
        match &self.reason {
            Some(_) => Outcome::Quarantined,
            None if self.name.is_empty() => Outcome::WithoutFile,
            None => Outcome::Processed,
        }
    }
}

impl Look {
    /// Opens the ledger in a state directory.
    ///
    /// # Errors
    /// When there is none, or when another version has written it.
    pub fn open(state: &Path) -> anyhow::Result<Self> {
        let path = state.join(FILE);
        anyhow::ensure!(
            path.is_file(),
            "there is no ledger at {}: the job has never run, or `state.directory` is another one",
            path.display()
        );
        let open = || -> anyhow::Result<Self> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_URI;
            let connection = Connection::open_with_flags(uri(&path), flags)?;
            connection.busy_timeout(BUSY)?;
            schema::check(&connection)?;
            Ok(Self { connection })
        };
        open().with_context(|| format!("look into the ledger {}", path.display()))
    }

    /// Microbatches, the newest first, that were made at `since_ms` or later, as long as `wanted` takes
    /// them; it says when that is enough.
    pub fn history(
        &self,
        since_ms: i64,
        mut wanted: impl FnMut(Entry) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let select =
            "SELECT sequence, committed_ms, name, size, quarantined, read, written, rejected,
                watermark
            FROM microbatch ORDER BY sequence DESC";
        let mut statement = self.connection.prepare(select)?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let entry = entry(row)?;
            // The clock may have been set back in between, by less than this.
            if entry.at_ms < since_ms.saturating_sub(DAY_MS) {
                break;
            }
            if entry.at_ms >= since_ms && !wanted(entry)? {
                break;
            }
        }
        Ok(())
    }
}

/// The ledger's name for SQLite. Without a log beside it nobody has it open, and then it is not even
/// locked: the files that a lock needs would belong to whoever looks, and the daemon's own user could
/// not open them.
fn uri(path: &Path) -> String {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let is_open = Path::new(&log).is_file();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let encoded = path.as_os_str().as_encoded_bytes().iter().fold(String::new(), |uri, byte| {
        if plain(*byte) {
            uri + &char::from(*byte).to_string()
        } else {
            uri + &format!("%{byte:02X}")
        }
    });
    format!("file:{encoded}{}", if is_open { "" } else { "?immutable=1" })
}

/// Milliseconds in a day.
const DAY_MS: i64 = 86_400_000;

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        sequence: row.get(0)?,
        at_ms: row.get(1)?,
        name: OsString::from_vec(row.get(2)?),
        bytes: row.get(3)?,
        reason: row.get(4)?,
        read: row.get(5)?,
        written: row.get(6)?,
        rejected: row.get(7)?,
        watermark: row.get(8)?,
    })
}
