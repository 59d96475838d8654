//! Read-only access to a ledger, whether or not the daemon runs.
//!
//! Invariants: nothing is written, and no lock is held longer than one question takes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use anyhow::Context as _;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, params};
use serde_json::Value;

use super::tally::Tally;
use super::{BUSY, FILE, schema};
use crate::record::{Counts, Identity};

/// A ledger that is only read.
pub struct Reader {
    pub(super) connection: Connection,
}

/// The outcome of a microbatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its records are in the output.
    Processed,
    /// Its file was set aside.
    Quarantined,
    /// Nothing was made of its file, since its content had been processed before.
    Skipped,
    /// It had no file: the clock closed windows, or a view was rebuilt.
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
    /// Its records.
    pub counts: Counts,
    /// The watermark that it left, in microseconds since 1970.
    pub watermark: Option<i64>,
    /// An earlier microbatch whose file had the same content.
    pub duplicate_of: Option<u64>,
    /// Nothing was made of the file, since its content had been processed before.
    pub skipped: bool,
    /// The microbatch that somebody has asked to repeat.
    pub again_of: Option<u64>,
    /// Which file it was.
    pub identity: Identity,
}

impl Entry {
    /// Its outcome.
    pub fn outcome(&self) -> Outcome {
        match &self.reason {
            Some(_) => Outcome::Quarantined,
            None if self.skipped => Outcome::Skipped,
            None if self.name.is_empty() => Outcome::WithoutFile,
            None => Outcome::Processed,
        }
    }
}

impl Reader {
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
            let connection = connect(&path)?;
            schema::check(&connection)?;
            Ok(Self { connection })
        };
        open().with_context(|| format!("look into the ledger {}", path.display()))
    }

    /// The same; `None` when there is none, or when an older program has written it.
    ///
    /// # Errors
    /// When a newer program has written it, or when it cannot be read.
    pub fn open_if_current(state: &Path) -> anyhow::Result<Option<Self>> {
        let path = state.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let open = || -> anyhow::Result<Option<Self>> {
            let connection = connect(&path)?;
            Ok(schema::is_current(&connection)?.then_some(Self { connection }))
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
        let select = format!("{ENTRIES} ORDER BY sequence DESC");
        let mut statement = self.connection.prepare(&select)?;
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

    /// The newest microbatches, at most `most`.
    pub fn newest(&self, most: u64) -> anyhow::Result<Vec<Entry>> {
        self.entries("ORDER BY sequence DESC LIMIT ?", [most])
    }

    /// The newest whose file failed, at most `most`; not those that were mended and taken again.
    pub fn newest_quarantined(&self, most: u64) -> anyhow::Result<Vec<Entry>> {
        let which = "INDEXED BY microbatch_quarantined WHERE quarantined IS NOT NULL AND NOT EXISTS
            (SELECT 1 FROM microbatch again WHERE again.again_of = microbatch.sequence
                AND again.again_of IS NOT NULL AND again.quarantined IS NULL)
            ORDER BY sequence DESC LIMIT ?";
        self.entries(which, [most])
    }

    /// Totals of the microbatches committed at `since_ms` or later, if these are at most `most`.
    pub fn recent(&self, since_ms: i64, most: u64) -> anyhow::Result<Option<Tally>> {
        let select = "SELECT count(*),
                coalesce(sum(quarantined IS NULL AND name <> x''), 0),
                coalesce(sum(quarantined IS NOT NULL), 0),
                coalesce(sum(duplicate_of IS NOT NULL), 0),
                coalesce(sum(iif(quarantined IS NULL, size, 0)), 0),
                coalesce(sum(read), 0), coalesce(sum(written), 0),
                coalesce(sum(rejected), 0), coalesce(sum(late), 0)
            FROM (SELECT * FROM microbatch ORDER BY sequence DESC LIMIT ?2) WHERE committed_ms >= ?1";
        let tally = self.connection.query_row(select, params![since_ms, most], |row| {
            Ok(Tally {
                minute: 0,
                microbatches: row.get(0)?,
                files: row.get(1)?,
                quarantined: row.get(2)?,
                duplicates: row.get(3)?,
                bytes: row.get(4)?,
                counts: super::rows::counts(row, 5)?,
                lag_ms: 0,
            })
        })?;
        Ok(Some(tally).filter(|tally| tally.microbatches < most))
    }

    /// The microbatches of files of this name, newest first, at most `most`.
    pub fn named(&self, name: &OsStr, most: u64) -> anyhow::Result<Vec<Entry>> {
        let values = params![name.as_bytes(), most];
        self.entries("WHERE name = ? ORDER BY sequence DESC LIMIT ?", values)
    }

    /// The microbatch of this number.
    pub fn numbered(&self, sequence: u64) -> anyhow::Result<Option<Entry>> {
        Ok(self.entries("WHERE sequence = ?", [sequence])?.pop())
    }

    /// The answer to a query in SQLite's SQL, of which the table is `history`: the names of the columns,
    /// and the values of a row.
    ///
    /// # Errors
    /// When the query is wrong, or would change anything.
    pub fn query(
        &self,
        query: &str,
        mut take: impl FnMut(&[String], Vec<Cell>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.connection.execute_batch(HISTORY)?;
        let mut statement = self.connection.prepare(query)?;
        anyhow::ensure!(statement.readonly(), "the query would change the ledger");
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let values = (0..names.len()).map(|at| Ok(cell(row.get_ref(at)?)));
            take(&names, values.collect::<rusqlite::Result<_>>()?)?;
        }
        Ok(())
    }

    fn entries(&self, which: &str, values: impl rusqlite::Params) -> anyhow::Result<Vec<Entry>> {
        let mut statement = self.connection.prepare(&format!("{ENTRIES} {which}"))?;
        let rows = statement.query_map(values, entry)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The totals at the end of this minute since 1970; [`i64::MAX`] asks for those of now.
    pub fn tally(&self, minute: i64) -> anyhow::Result<Tally> {
        Ok(Tally::at(&self.connection, minute)?)
    }

    /// The totals of each minute after this one in which something was committed, in order.
    pub fn tallies(&self, after: i64) -> anyhow::Result<Vec<Tally>> {
        Ok(Tally::after(&self.connection, after)?)
    }

    /// Microbatches whose input is not durably archived yet, with their names.
    pub fn unarchived(&self) -> anyhow::Result<Vec<(u64, OsString)>> {
        let select = "SELECT sequence, name FROM unarchived CROSS JOIN microbatch USING (sequence)";
        let mut statement = self.connection.prepare(select)?;
        let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        let named =
            rows.map(|row| row.map(|(sequence, name)| (sequence, OsString::from_vec(name))));
        Ok(named.collect::<rusqlite::Result<_>>()?)
    }

    /// The names of the views, in the order in which they came.
    pub fn views(&self) -> anyhow::Result<Vec<String>> {
        let mut statement = self.connection.prepare("SELECT name FROM view ORDER BY id")?;
        let rows = statement.query_map((), |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Bytes of what a view keeps, and true when there is more: a limited number of groups is looked at. Changes
    /// that have no place among the groups yet count as well.
    pub fn view_size(&self, name: &str, most: u64) -> anyhow::Result<(u64, bool)> {
        let select = "SELECT count(*), coalesce(sum(size), 0) FROM
            (SELECT length(key) + length(value) AS size FROM state
                WHERE view = (SELECT id FROM view WHERE name = ?) LIMIT ?)";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let (groups, placed): (u64, u64) =
            self.connection.query_row(select, params![name, most], row)?;
        let select = "SELECT coalesce(sum(length(changes)), 0) FROM state_change
            WHERE view = (SELECT id FROM view WHERE name = ?)";
        let changed: u64 = self.connection.query_row(select, [name], |row| row.get(0))?;
        Ok((placed + changed, groups == most))
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(path), flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// The columns of an [`Entry`].
pub(super) const ENTRIES: &str =
    "SELECT sequence, committed_ms, name, size, substr(quarantined, 1, 1100), read, written, rejected,
    late, watermark, duplicate_of, skipped, again_of, inode, modified_ns, hash FROM microbatch";

/// The microbatches as a user wants to ask for them.
const HISTORY: &str = "CREATE TEMP VIEW history AS SELECT
    sequence AS microbatch,
    strftime('%Y-%m-%dT%H:%M:%fZ', committed_ms / 1000.0, 'unixepoch') AS time,
    CAST(name AS TEXT) AS file,
    CASE WHEN quarantined IS NOT NULL THEN 'quarantined' WHEN skipped THEN 'skipped'
        WHEN name = x'' THEN 'without_file' ELSE 'processed' END AS outcome,
    quarantined AS reason, size AS bytes, read, written, rejected, late, watermark AS watermark_us,
    duplicate_of, again_of
    FROM main.microbatch";

/// A value of a query's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A number, or nothing.
    Value(Value),
    /// A text, or bytes.
    Bytes(Vec<u8>),
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Value(Value::Null),
        ValueRef::Integer(number) => Cell::Value(number.into()),
        ValueRef::Real(number) => Cell::Value(number.into()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
    }
}

/// The ledger's name for SQLite. Without a log beside it nobody has it open, and then it is not even
/// locked: the files that a lock needs would belong to the reader, and the daemon's own user could
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

pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        sequence: row.get(0)?,
        at_ms: row.get(1)?,
        name: OsString::from_vec(row.get(2)?),
        bytes: row.get(3)?,
        reason: row.get(4)?,
        counts: super::rows::counts(row, 5)?,
        watermark: row.get(9)?,
        duplicate_of: row.get(10)?,
        skipped: row.get(11)?,
        again_of: row.get(12)?,
        identity: Identity {
            inode: row.get::<_, i64>(13)?.cast_unsigned(),
            size: row.get(3)?,
            modified_ns: row.get(14)?,
            hash: row.get(15)?,
        },
    })
}
