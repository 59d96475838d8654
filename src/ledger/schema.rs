//! The tables of the ledger, as numbered migrations.
//!
//! Invariants: an entry of [`MIGRATIONS`] is never changed or removed once released; a new
//! schema is a new entry. `PRAGMA user_version` says how many have been applied.

use rusqlite::{Connection, TransactionBehavior};

/// Each makes the schema of its index into the next.
const MIGRATIONS: [&str; 10] = [
    "
    -- The files that are appended to. `end` is where the next span begins.
    CREATE TABLE target (
        id         INTEGER PRIMARY KEY,
        path       BLOB NOT NULL UNIQUE,
        generation INTEGER NOT NULL,
        end        INTEGER NOT NULL
    );
    -- One row, one microbatch: it happened if and only if it is here.
    CREATE TABLE microbatch (
        sequence     INTEGER PRIMARY KEY,
        committed_ms INTEGER NOT NULL,      -- when it was made, milliseconds since 1970
        name         BLOB NOT NULL,         -- relative to the drop folder
        inode        INTEGER NOT NULL,
        size         INTEGER NOT NULL,      -- bytes
        modified_ns  INTEGER NOT NULL,      -- nanoseconds since 1970
        hash         BLOB NOT NULL,         -- BLAKE3 of the file as it was read
        quarantined  TEXT,                  -- the reason, if it went to quarantine
        read         INTEGER NOT NULL,      -- records
        written      INTEGER NOT NULL,      -- records
        rejected     INTEGER NOT NULL       -- records
    );
    -- What a microbatch adds to a target.
    CREATE TABLE span (
        sequence   INTEGER NOT NULL,
        target     INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        start      INTEGER NOT NULL,        -- byte offset
        length     INTEGER NOT NULL,        -- bytes
        checksum   INTEGER NOT NULL,        -- CRC-32
        PRIMARY KEY (sequence, target)
    ) WITHOUT ROWID;
    -- The bytes of a span until they are durable in their target: here, or in a staging file.
    CREATE TABLE owed (
        sequence INTEGER NOT NULL,
        target   INTEGER NOT NULL,
        bytes    BLOB,
        file     BLOB,
        PRIMARY KEY (sequence, target)
    ) WITHOUT ROWID;
    -- Microbatches whose input is not durably archived yet.
    CREATE TABLE unarchived (sequence INTEGER PRIMARY KEY);
",
    "
    -- Bytes at the beginning of a staging file that are not part of the span: a header that the
    -- target has already.
    ALTER TABLE owed ADD COLUMN skip INTEGER NOT NULL DEFAULT 0;
    -- The job has ended with this microbatch, and its final queries are still to be made.
    CREATE TABLE ended (sequence INTEGER PRIMARY KEY);
",
    "
    -- The continuous views of the job. The signature says what their states mean.
    CREATE TABLE view (
        id        INTEGER PRIMARY KEY,
        name      TEXT NOT NULL UNIQUE,
        signature TEXT NOT NULL
    );
    -- The state of each group of a view, as it is after the last microbatch.
    CREATE TABLE state (
        view  INTEGER NOT NULL,
        key   BLOB NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (view, key)
    ) WITHOUT ROWID;
",
    "
    -- The watermark that a microbatch left, in microseconds since 1970. One without a name has no
    -- input: the clock closed windows.
    ALTER TABLE microbatch ADD COLUMN watermark INTEGER;
    -- The states of a view are to be rebuilt, from the whole output.
    ALTER TABLE view ADD COLUMN rebuild INTEGER NOT NULL DEFAULT 0;
    -- The last microbatch that a view has seen: it cannot go on when it has missed one.
    ALTER TABLE view ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
    UPDATE view SET seen = coalesce((SELECT max(sequence) FROM microbatch), 0);
    -- Which column the watermark is of, and the last microbatch before it was. At most one row.
    CREATE TABLE clock (
        only   INTEGER PRIMARY KEY CHECK (only = 0),
        column TEXT NOT NULL,
        since  INTEGER NOT NULL
    );
",
    "
    ALTER TABLE microbatch ADD COLUMN late INTEGER NOT NULL DEFAULT 0;  -- records, once for each view
    ALTER TABLE microbatch ADD COLUMN duplicate_of INTEGER;  -- an earlier one with the same content
    ALTER TABLE microbatch ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0;  -- for that reason
    ALTER TABLE microbatch ADD COLUMN again_of INTEGER;      -- the one that it was asked to repeat
    -- What has become of a file is asked by its name; those set aside are few among many.
    CREATE INDEX microbatch_name ON microbatch (name);
    CREATE INDEX microbatch_quarantined ON microbatch (sequence) WHERE quarantined IS NOT NULL;
    -- The totals since the beginning, as they were at the end of each minute with a commit.
    CREATE TABLE tally (
        minute       INTEGER PRIMARY KEY,   -- since 1970
        microbatches INTEGER NOT NULL,
        files        INTEGER NOT NULL,      -- processed
        quarantined  INTEGER NOT NULL,      -- files
        duplicates   INTEGER NOT NULL,      -- files
        bytes        INTEGER NOT NULL,      -- of files that were processed
        read         INTEGER NOT NULL,      -- records
        written      INTEGER NOT NULL,      -- records
        rejected     INTEGER NOT NULL,      -- records
        late         INTEGER NOT NULL,      -- records
        lag_ms       INTEGER NOT NULL       -- the longest that a file of this minute had waited
    );
    INSERT INTO tally SELECT minute,
            sum(microbatches) OVER earlier, sum(files) OVER earlier, sum(quarantined) OVER earlier, 0,
            sum(bytes) OVER earlier, sum(read) OVER earlier, sum(written) OVER earlier,
            sum(rejected) OVER earlier, 0, 0
        FROM (SELECT committed_ms / 60000 AS minute, count(*) AS microbatches,
                sum(quarantined IS NULL AND name <> x'') AS files,
                sum(quarantined IS NOT NULL) AS quarantined,
                sum(iif(quarantined IS NULL, size, 0)) AS bytes,
                sum(read) AS read, sum(written) AS written, sum(rejected) AS rejected
            FROM microbatch GROUP BY 1)
        WINDOW earlier AS (ORDER BY minute);
    -- How far the past was pruned: sequence numbers, and the bytes of the inputs. At most one row.
    CREATE TABLE pruned (
        only    INTEGER PRIMARY KEY CHECK (only = 0),
        inputs  INTEGER NOT NULL,
        bytes   INTEGER NOT NULL,
        history INTEGER NOT NULL
    );
    -- Generations of a target that were closed, and the names of their files beside it.
    CREATE TABLE rotated (
        target     INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        name       BLOB NOT NULL,
        inode      INTEGER NOT NULL,
        done       INTEGER NOT NULL,        -- renamed, and compressed where that is wanted
        PRIMARY KEY (target, generation)
    ) WITHOUT ROWID;
    CREATE INDEX rotated_open ON rotated (target) WHERE NOT done;
    -- When the generation began, milliseconds since 1970; 0 where that is not known.
    ALTER TABLE target ADD COLUMN began_ms INTEGER NOT NULL DEFAULT 0;
",
    "
    -- Changes of states that are not in `state` yet, in their order. Each: the lengths of key and state,
    -- four bytes and four, big-endian, the latter 4294967295 where the state was removed; key; state.
    CREATE TABLE state_change (
        id      INTEGER PRIMARY KEY,
        view    INTEGER NOT NULL,
        changes BLOB NOT NULL
    );
",
    "
    -- Whose ledger it is. Relative paths start where the state directory is. At most one row.
    CREATE TABLE job (
        only   INTEGER PRIMARY KEY CHECK (only = 0),
        file   BLOB NOT NULL,               -- the job file
        folder BLOB NOT NULL                -- the drop folder
    );
    -- Inputs that were written to after their commit, and how much of that was set aside.
    CREATE TABLE altered (
        sequence INTEGER PRIMARY KEY,
        size     INTEGER NOT NULL,          -- bytes that are committed or set aside
        at_ms    INTEGER NOT NULL           -- when that was noticed last, milliseconds since 1970
    );
    -- Inputs that were not there any more when they were to be archived: replaced, or taken away.
    CREATE TABLE gone (sequence INTEGER PRIMARY KEY);
    -- Which microbatches were repeated: few among many.
    CREATE INDEX microbatch_again ON microbatch (again_of) WHERE again_of IS NOT NULL;
    -- How the records in a target are written; NULL where that is not known.
    ALTER TABLE target ADD COLUMN format TEXT;
",
    "
    -- Where the input was: the device of the file, and the inode of the drop folder. NULL where that is
    -- not known.
    ALTER TABLE unarchived ADD COLUMN device INTEGER;
    ALTER TABLE unarchived ADD COLUMN folder INTEGER;
    -- The drop folder was another one when the input was to be archived: it may come back.
    ALTER TABLE unarchived ADD COLUMN elsewhere INTEGER NOT NULL DEFAULT 0;
",
    "
    -- Why a view is stopped: it sees nothing more until it is rebuilt.
    ALTER TABLE view ADD COLUMN stopped TEXT;
    -- Where its result is written, and how; NULL where that is not known.
    ALTER TABLE view ADD COLUMN path BLOB;
    ALTER TABLE view ADD COLUMN format TEXT;
    -- Groups that are left out of a view's result.
    CREATE TABLE left_out (
        view   INTEGER NOT NULL,
        name   TEXT NOT NULL,               -- the group, as people read it; '' for the result as a whole
        reason TEXT NOT NULL,
        at_ms  INTEGER NOT NULL,            -- milliseconds since 1970
        PRIMARY KEY (view, name)
    ) WITHOUT ROWID;
",
    "
    -- Names that microbatches have given, without their folder; not the usual name of an input.
    CREATE TABLE archived_name (
        sequence INTEGER NOT NULL,
        stands   INTEGER NOT NULL,          -- 0: the input, 1: what came to it later, 2: a report
        name     BLOB NOT NULL,
        inode    INTEGER NOT NULL,
        beside   BLOB,                      -- of a report: the name of the file that it is about
        PRIMARY KEY (sequence, stands, name)
    ) WITHOUT ROWID;
    CREATE INDEX archived_name_name ON archived_name (name);
    -- Contents of files that are compared with those to come, and whose microbatch was pruned.
    CREATE TABLE content (
        hash     BLOB PRIMARY KEY,          -- BLAKE3
        sequence INTEGER NOT NULL,          -- the microbatch that was made of it
        seen     INTEGER NOT NULL           -- the last microbatch of a file with this content
    ) WITHOUT ROWID;
    CREATE INDEX content_seen ON content (seen);
    -- The file of the generation: its inode and when it was made, nanoseconds since 1970; NULL where that is
    -- not known. Mode and owner are those of the last file, for the next one.
    ALTER TABLE target ADD COLUMN inode INTEGER;
    ALTER TABLE target ADD COLUMN born_ns INTEGER;
    ALTER TABLE target ADD COLUMN mode INTEGER;
    ALTER TABLE target ADD COLUMN uid INTEGER;
    ALTER TABLE target ADD COLUMN gid INTEGER;
    -- When the generation was closed, milliseconds since 1970; the file that it is kept in, plain or
    -- compressed: its inode and its size. NULL while that is not known, or there is none.
    ALTER TABLE rotated ADD COLUMN closed_ms INTEGER NOT NULL DEFAULT 0;
    UPDATE rotated SET closed_ms = unixepoch() * 1000;
    ALTER TABLE rotated ADD COLUMN kept INTEGER;
    ALTER TABLE rotated ADD COLUMN bytes INTEGER;
    -- Folders that inputs were moved to, those of earlier configurations included.
    CREATE TABLE archive_folder (path BLOB PRIMARY KEY) WITHOUT ROWID;
    -- Where the next range begins in a partition of the source.
    CREATE TABLE progress (partition TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
    -- Systems elsewhere that targets are on. Everything before this record of this microbatch is there, as
    -- far as they have confirmed it; NULL before the first confirmation.
    CREATE TABLE remote (
        name       TEXT PRIMARY KEY,
        id         BLOB NOT NULL,           -- our name there: 16 bytes by chance
        job        TEXT NOT NULL,           -- the name of the job at its first start with it
        microbatch INTEGER,
        record     INTEGER,
        instance   BLOB,                    -- who wrote that position
        notes      BLOB                     -- of its sink
    ) WITHOUT ROWID;
    -- The starts that have published to one, by number: 16 bytes by chance.
    CREATE TABLE instance (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
    -- Which of them has committed it; NULL for a job without remote targets.
    ALTER TABLE microbatch ADD COLUMN instance INTEGER;
    -- The system that a target is on; NULL for a file. What its sink has fixed last.
    ALTER TABLE target ADD COLUMN remote TEXT;
    ALTER TABLE target ADD COLUMN fixed BLOB;
    -- What the sink has fixed for these bytes.
    ALTER TABLE owed ADD COLUMN fixed BLOB;
    -- Records that a remote target has refused, by their numbers within the span, from 0.
    CREATE TABLE refused (
        sequence INTEGER NOT NULL,
        target   INTEGER NOT NULL,
        record   INTEGER NOT NULL,
        reason   TEXT NOT NULL,
        PRIMARY KEY (sequence, target, record)
    ) WITHOUT ROWID;
",
];

/// Brings the schema up to date.
///
/// # Errors
/// When a newer program has written the ledger.
pub fn migrate(connection: &mut Connection) -> anyhow::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let version: usize = transaction.query_row("PRAGMA user_version", (), |row| row.get(0))?;
    anyhow::ensure!(
        version <= MIGRATIONS.len(),
        "the ledger has schema {version} and this program knows {}: it was written by a newer \
         spoolmill; run that one",
        MIGRATIONS.len()
    );
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
    transaction.commit()?;
    Ok(())
}

/// True when the schema is the one that this program knows; false for an older one.
///
/// # Errors
/// When it is newer.
pub fn is_current(connection: &Connection) -> anyhow::Result<bool> {
    let version: usize = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
    anyhow::ensure!(
        version <= MIGRATIONS.len(),
        "it has schema {version} and this program knows {}: a newer spoolmill has written it; use that \
         one",
        MIGRATIONS.len()
    );
    Ok(version == MIGRATIONS.len())
}

/// Whether the schema is the one that this program knows.
///
/// # Errors
/// When it is older or newer, with what to do.
pub fn check(connection: &Connection) -> anyhow::Result<()> {
    let version: usize = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
    let known = MIGRATIONS.len();
    anyhow::ensure!(
        version <= known,
        "it has schema {version} and this program knows {known}: a newer spoolmill has written it; \
         use that one"
    );
    anyhow::ensure!(version > 0, "the job has never run: a first start has not come far enough");
    anyhow::ensure!(
        version == known,
        "it has schema {version}, this program has {known}: an older spoolmill has written it; \
         `spoolmill run --once` brings it up to date"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_twice_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
    }

    /// Who only looks does not bring it up to date.
    #[test]
    fn an_older_ledger_is_not_looked_into() {
        let connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", MIGRATIONS.len() - 1).unwrap();
        let error = check(&connection).unwrap_err().to_string();
        assert!(error.contains("`spoolmill run --once` brings it up to date"), "{error}");
        connection.pragma_update(None, "user_version", MIGRATIONS.len()).unwrap();
        check(&connection).unwrap();
    }

    #[test]
    fn a_newer_ledger_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let error = migrate(&mut connection).unwrap_err().to_string();
        assert!(error.contains("schema 99") && error.contains("newer spoolmill"), "{error}");
    }
}
