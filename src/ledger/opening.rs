//! How a ledger is opened: private, durable, and with nothing believed that is only in memory.

use std::path::Path;

use anyhow::Context as _;
use rusqlite::{Connection, ErrorCode};

use crate::durable;
use crate::durable::fault::{self, Act};
use crate::failure::Failure;

/// Only this user may open the file or take its locks. SQLite gives its log the mode of its database.
pub(super) fn make_private(path: &Path, suffix: &str) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    if suffix.is_empty() || Path::new(&name).is_file() {
        durable::open_private(Path::new(&name))?;
    }
    Ok(())
}

/// Writes the log back into the database, synced. A failed fsync of an earlier process may have left
/// pages of the log that are in memory alone, and look like any others: here they are written once
/// more, before anything is read and before anything is appended after them.
pub(super) fn write_log_back(connection: &mut Connection, path: &Path) -> anyhow::Result<()> {
    if fault::mutant("no-checkpoint") {
        return Ok(());
    }
    let busy: i64 =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))?;
    let busy = (busy != 0).then(|| std::io::Error::from(std::io::ErrorKind::ResourceBusy));
    busy.map_or(Ok(()), |busy| {
        Err(busy).context("its log is being read: the start waits for that")
    })?;
    fault::committed(|| image(connection, path));
    Ok(())
}

/// The database as it is now, for the trace of a test.
pub(super) fn image<'a>(connection: &mut Connection, path: &'a Path) -> Act<'a> {
    let image = connection.serialize("main").map(|data| data.to_vec()).unwrap_or_default();
    Act::Commit(path, synchronous(connection).unwrap_or_default(), image)
}

/// Classifies the failure to open the ledger; the attempt has changed nothing.
pub(super) fn not_opened(error: anyhow::Error, path: &Path) -> Failure {
    let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error);
    let passes = code.is_some_and(|code| passes(*code) || NO_ROOM.contains(&code.extended_code));
    let is_busy = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy);
    let no_room = error.downcast_ref::<durable::Error>().is_some_and(durable::Error::is_no_room);
    let is_damaged = code.is_some_and(|code| is_damage(code.code));
    let error = error.context(format!("open the ledger {}", path.display()));
    if passes || is_busy || no_room {
        Failure::Transient(error)
    } else if is_damaged {
        Failure::halt(format!("{error:#}; restore the state directory"))
    } else {
        Failure::Fatal(error)
    }
}

/// Extended codes of SQLite for shared memory that cannot be made, on a full disk: `IOERR_SHMOPEN`,
/// `IOERR_SHMSIZE`.
const NO_ROOM: [i32; 2] = [4618, 4874];

pub(super) fn passes(error: rusqlite::ffi::Error) -> bool {
    matches!(error.code, ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
}

pub(super) fn is_damage(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
}

/// Sets what makes a commit survive a power cut, and reads it back.
pub(super) fn make_durable(connection: &Connection) -> anyhow::Result<()> {
    let mode: String = connection.query_row("PRAGMA journal_mode = wal", (), |row| row.get(0))?;
    anyhow::ensure!(mode == "wal", "SQLite refuses its write-ahead log here: it says \"{mode}\"");
    let mutant = fault::mutant("synchronous-normal");
    connection.pragma_update(None, "synchronous", if mutant { "NORMAL" } else { "FULL" })?;
    anyhow::ensure!(mutant || synchronous(connection)? == 2, "SQLite refuses synchronous=FULL");
    Ok(())
}

pub(super) fn synchronous(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA synchronous", (), |row| row.get(0))
}
