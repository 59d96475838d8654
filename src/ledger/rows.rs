//! How microbatches stand in the tables: written by a commit, read back for what is owed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use rusqlite::{Connection, Row, params};

use super::Committed;
use crate::microbatch::{Addition, Microbatch, Owed, Payload, Position, Refusal, Target};
use crate::record::{Counts, Identity};

/// Writes a group, which this instance commits; it has a number where the job has remote targets.
pub(super) fn insert(
    connection: &Connection,
    group: &[Committed],
    instance: Option<u64>,
) -> rusqlite::Result<()> {
    let mut microbatch = connection.prepare_cached(
        "INSERT INTO microbatch (sequence, committed_ms, name, inode, size, modified_ns, hash,
            quarantined, read, written, rejected, watermark, late, duplicate_of, skipped, again_of, instance)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    let mut unarchived = connection
        .prepare_cached("INSERT INTO unarchived (sequence, device, folder) VALUES (?, ?, ?)")?;
    for committed in group {
        let Committed { sequence, batch, .. } = committed;
        let Identity { inode, size, modified_ns, hash } = &batch.identity;
        microbatch.execute(params![
            sequence,
            batch.at_ms,
            batch.name.as_bytes(),
            inode.cast_signed(),
            size,
            modified_ns,
            hash,
            batch.quarantined,
            batch.counts.read,
            batch.counts.written,
            batch.counts.rejected,
            batch.watermark,
            batch.counts.late,
            batch.duplicate_of,
            batch.skipped,
            batch.again_of,
            instance
        ])?;
        if batch.has_input() {
            let home =
                batch.home.map(|home| (home.device.cast_signed(), home.folder.cast_signed()));
            unarchived.execute(params![
                sequence,
                home.map(|home| home.0),
                home.map(|home| home.1)
            ])?;
        }
        if batch.ends {
            connection.execute("INSERT INTO ended VALUES (?)", [sequence])?;
        }
        insert_owed(connection, committed)?;
        for refusal in &batch.refusals {
            refuse(connection, refusal)?;
        }
    }
    Ok(())
}

/// Writes what a microbatch adds to its targets, with the bytes.
fn insert_owed(connection: &Connection, committed: &Committed) -> rusqlite::Result<()> {
    let mut span = connection.prepare_cached(
        "INSERT INTO span (sequence, target, generation, start, length, checksum)
            VALUES (?, ?, ?, ?, ?, ?)",
    )?;
    let mut owed = connection.prepare_cached(
        "INSERT INTO owed (sequence, target, bytes, file, skip, fixed) VALUES (?, ?, ?, ?, ?, ?)",
    )?;
    for Owed { addition, at, .. } in committed.owed() {
        let Addition { target, payload, length, checksum, skip, fixed, .. } = addition;
        span.execute(params![
            committed.sequence,
            target.0,
            at.generation,
            at.end,
            length,
            checksum
        ])?;
        let (bytes, file) = match payload {
            Payload::Memory(bytes) => (Some(bytes.as_slice()), None),
            Payload::File(name) => (None, Some(name.as_bytes())),
        };
        let fixed = Some(fixed).filter(|fixed| !fixed.is_empty());
        owed.execute(params![committed.sequence, target.0, bytes, file, skip, fixed])?;
        if fixed.is_some() {
            connection
                .prepare_cached("UPDATE target SET fixed = ? WHERE id = ?")?
                .execute(params![fixed, target.0])?;
        }
    }
    Ok(())
}

/// Writes down that a target does not take a record.
fn refuse(connection: &Connection, refusal: &Refusal) -> rusqlite::Result<()> {
    let Refusal { sequence, target, record, reason, .. } = refusal;
    connection
        .execute(
            "INSERT INTO refused VALUES (?, ?, ?, ?)",
            params![sequence, target.0, record, reason],
        )
        .map(drop)
}

/// Writes down where the next spans begin, and which generations begin now.
pub(super) fn update_targets(
    connection: &Connection,
    before: &HashMap<Target, Position>,
    after: &HashMap<Target, Position>,
    now_ms: i64,
) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE target SET began_ms = iif(generation = ?1 AND end > 0 OR ?2 = 0, began_ms, ?4),
            inode = iif(generation = ?1, inode, NULL), generation = ?1, end = ?2 WHERE id = ?3",
    )?;
    for (target, position) in after.iter().filter(|(target, at)| before.get(target) != Some(at)) {
        update.execute(params![position.generation, position.end, target.0, now_ms])?;
    }
    Ok(())
}

/// Puts the header before the first span of a generation, which left room for it.
pub(super) fn prepend(
    connection: &Connection,
    target: Target,
    generation: u64,
    header: &[u8],
) -> rusqlite::Result<()> {
    let room = header.len() as u64;
    let (sequence, length, checksum): (u64, u64, u32) = connection.query_row(
        "SELECT sequence, length, checksum FROM span
            WHERE target = ? AND generation = ? AND start = ?",
        params![target.0, generation, room],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let mut whole = crc32fast::hash(header);
    let mut combined = crc32fast::Hasher::new_with_initial_len(whole, room);
    combined.combine(&crc32fast::Hasher::new_with_initial_len(checksum, length));
    whole = combined.finalize();
    connection.execute(
        "UPDATE span SET start = 0, length = ?, checksum = ? WHERE sequence = ? AND target = ?",
        params![length + room, whole, sequence, target.0],
    )?;
    let select = "SELECT bytes FROM owed WHERE sequence = ? AND target = ?";
    let owed: Option<Vec<u8>> =
        connection.query_row(select, params![sequence, target.0], |row| row.get(0))?;
    // A staging file begins with the header already.
    let bytes = owed.map(|bytes| [header, &bytes].concat());
    connection.execute(
        "UPDATE owed SET bytes = ?, skip = 0 WHERE sequence = ? AND target = ?",
        params![bytes, sequence, target.0],
    )?;
    Ok(())
}

/// The columns from which [`committed_of`] makes a microbatch.
pub(super) const COMMITTED: &str = "SELECT sequence, committed_ms, name, inode, size, modified_ns, hash,
    quarantined, read, written, rejected, late, watermark, duplicate_of, skipped, again_of FROM microbatch";

/// The counts in four columns, from this one on.
pub(super) fn counts(row: &Row<'_>, first: usize) -> rusqlite::Result<Counts> {
    let read = row.get(first)?;
    let written = row.get(first + 1)?;
    let rejected = row.get(first + 2)?;
    Ok(Counts { read, written, rejected, late: row.get(first + 3)? })
}

pub(super) fn committed_of(row: &Row<'_>) -> rusqlite::Result<Committed> {
    let identity = Identity {
        inode: row.get::<_, i64>(3)?.cast_unsigned(),
        size: row.get(4)?,
        modified_ns: row.get(5)?,
        hash: row.get(6)?,
    };
    let batch = Microbatch {
        name: OsStr::from_bytes(row.get_ref(2)?.as_blob()?).to_owned(),
        identity,
        home: None,
        quarantined: row.get(7)?,
        at_ms: row.get(1)?,
        additions: Vec::new(),
        ends: false,
        counts: counts(row, 8)?,
        waited_ms: 0,
        watermark: row.get(12)?,
        duplicate_of: row.get(13)?,
        skipped: row.get(14)?,
        again_of: row.get(15)?,
        progress: Vec::new(),
        refusals: Vec::new(),
    };
    Ok(Committed { sequence: row.get(0)?, batch, starts: Vec::new() })
}

/// The columns from which [`load_spans`] makes what is owed.
pub(super) const OWED: &str =
    "SELECT owed.target, bytes, file, length, checksum, span.generation, start, skip,
        owed.fixed
    FROM owed JOIN span USING (sequence, target) JOIN target ON target.id = owed.target";

pub(super) fn load_spans(
    statement: &mut rusqlite::Statement<'_>,
    of: impl rusqlite::Params,
    committed: &mut Committed,
) -> rusqlite::Result<()> {
    let mut rows = statement.query(of)?;
    while let Some(row) = rows.next()? {
        let payload = match row.get::<_, Option<Vec<u8>>>(1)? {
            Some(bytes) => Payload::Memory(bytes),
            None => Payload::File(OsStr::from_bytes(row.get_ref(2)?.as_blob()?).to_owned()),
        };
        committed.batch.additions.push(Addition {
            target: Target(row.get(0)?),
            payload,
            length: row.get(3)?,
            checksum: row.get(4)?,
            skip: row.get(7)?,
            whole_checksum: 0,
            fixed: row.get::<_, Option<Vec<u8>>>(8)?.unwrap_or_default(),
            refused: Vec::new(),
        });
        committed.starts.push(Position { generation: row.get(5)?, end: row.get(6)? });
    }
    Ok(())
}
