//! The ledger: the commit point, and the only door to SQLite.
//!
//! # What holds
//! - A microbatch happened if and only if its row is committed. Its row, the spans it owes to the
//!   outputs, their bytes and its input's identity are one transaction.
//! - Sequence numbers grow by one, without gaps, and spans of one target and generation follow each
//!   other without gaps.
//! - Only [`Ledger::commit`], [`Ledger::owed`] and [`Ledger::owed_to`] make a [`Committed`].
//! - A start believes nothing that is only in the page cache: what an earlier process has left in the
//!   log is written back and synced before it is read.
//! - What is owed is forgotten only when [`Ledger::commit`] or [`Ledger::release`] is told that it is
//!   durable elsewhere.
//!
//! # Why this way
//! WAL with `synchronous=FULL` costs one fsync for each commit and survives a power cut; anything
//! less does not, so both are read back at the start. WAL needs shared memory and locks, so the
//! state directory is refused on a network file system. SQLite before 3.51.3 can corrupt a WAL
//! database (sqlite.org/wal.html, "the WAL-reset bug"). One connection writes.

mod ahead;
mod altered;
mod archived;
mod audit;
mod committed;
mod contents;
mod job;
mod known;
mod opening;
mod outputs;
mod owed;
mod progress;
mod prune;
mod reader;
mod recent;
mod released;
mod remotes;
mod rotation;
mod rows;
mod schema;
mod tally;
mod told;
mod views;
mod watermark;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use crate::clock::now_ms;
use crate::durable::fault::{self, Act, Operation, Verdict};
use crate::failure::{Failure, Result};
use crate::microbatch::{Addition, LastSpan, Microbatch, Position, Target};
pub use ahead::Ahead;
pub use altered::{Altered, Archive};
pub use audit::{SpanRow, TargetRow};
pub use committed::Committed;
pub use known::{Continued, Continues, KnownView, Rewritten, Written};
use opening::{image, is_damage, make_durable, make_private, not_opened, passes, write_log_back};
use progress::Reached;
pub use prune::Pruned;
pub use reader::{Cell, Entry, Outcome, Reader};
use recent::Recent;
pub use recent::merged;
pub use released::Released;
use remotes::Presence;
pub use remotes::{Remote, cost};
pub use rotation::{Kept, Rotated};
pub use tally::{MINUTE_MS, Tally};
pub use told::{Told, ViewTrouble, What};
pub use views::{Reading, StatePut, ViewId};

/// The file in the state directory.
const FILE: &str = "ledger.db";

/// The first SQLite version without the WAL-reset bug: 3.51.3.
const SQLITE_MIN: i32 = 3_051_003;

/// Pages that are held in memory, in KiB; taken as they are needed.
const CACHE_KIB: i64 = 16 * 1024;

/// Pages of 4 KiB in the log before they are written back.
const CHECKPOINT_PAGES: i64 = 4000;

/// How long to wait for a reader such as `spoolmill status`, which is never long.
const BUSY: Duration = Duration::from_secs(10);

/// The ledger of one job.
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    /// Device and inode of the file.
    identity: (u64, u64),
    /// Whose it is, while that is not written down.
    claim: Option<job::Claim>,
    /// How records are written to these targets, while that is not written down.
    formats: Vec<(Target, String)>,
    last: u64,
    watermark: Option<i64>,
    tally: Tally,
    positions: HashMap<Target, Position>,
    /// The views of the job.
    views: Vec<ViewId>,
    recent: Recent,
    reached: Reached,
    /// Nothing is owed to a file of the microbatches up to this one.
    published: u64,
    /// This start, in a job with remote targets.
    presence: Option<Presence>,
    /// The targets on other systems: no header begins them.
    elsewhere: HashSet<Target>,
}

impl Ledger {
    /// Opens the ledger in the state directory, and creates it when missing.
    pub fn open(state: &Path) -> Result<Self> {
        let path = state.join(FILE);
        let open = || -> anyhow::Result<Self> {
            anyhow::ensure!(
                rusqlite::version_number() >= SQLITE_MIN,
                "SQLite {} can corrupt the ledger; 3.51.3 or later is needed",
                rusqlite::version()
            );
            for suffix in ["", "-wal", "-shm"] {
                make_private(&path, suffix)?;
            }
            let mut connection = Connection::open(&path)?;
            connection.busy_timeout(BUSY)?;
            make_durable(&connection)?;
            write_log_back(&mut connection, &path)?;
            // States are read and written all over the file: pages that are held, and written back
            // less often, cost less than either.
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            schema::migrate(&mut connection)?;
            let select = "SELECT sequence, iif(sequence > coalesce((SELECT since FROM clock), 0), watermark, NULL)
                FROM microbatch ORDER BY sequence DESC LIMIT 1";
            let last = connection.query_row(select, (), |row| Ok((row.get(0)?, row.get(1)?)));
            let (last, watermark) = last.optional()?.unwrap_or((0, None));
            let tally = Tally::at(&connection, i64::MAX)?;
            let path = path.clone();
            let positions = HashMap::new();
            let views = Vec::new();
            let recent = Recent::load(&connection)?;
            let reached = progress::load(&connection)?;
            let file = path.metadata()?;
            let identity = (file.dev(), file.ino());
            let claim = None;
            let formats = Vec::new();
            Ok(Self {
                connection,
                path,
                identity,
                claim,
                formats,
                last,
                watermark,
                tally,
                positions,
                views,
                recent,
                reached,
                published: 0,
                presence: None,
                elsewhere: HashSet::new(),
            })
        };
        open().map_err(|error| not_opened(error, &path))
    }

    /// The file must be the one that was opened: what is committed to another one, no start will ever
    /// read.
    fn check_place(&self) -> Result<()> {
        let there = self.path.metadata().map(|there| (there.dev(), there.ino())).ok();
        if there == Some(self.identity) {
            return Ok(());
        }
        Err(Failure::halt(format!(
            "the ledger {} was removed or replaced while the daemon ran: put the state directory back; \
             without it, what was committed since cannot be told from what is new",
            self.path.display()
        )))
    }

    /// The target at `path`, which is inserted if it is new.
    pub fn target(&mut self, path: &Path) -> Result<Target> {
        let bytes = path.as_os_str().as_bytes();
        let enter = || -> rusqlite::Result<(i64, Position)> {
            self.connection.execute(
                "INSERT INTO target (path, generation, end) VALUES (?, 0, 0) ON CONFLICT DO NOTHING",
                [bytes],
            )?;
            let select = "SELECT id, generation, end FROM target WHERE path = ?";
            self.connection.query_row(select, [bytes], |row| {
                Ok((row.get(0)?, Position { generation: row.get(1)?, end: row.get(2)? }))
            })
        };
        let (id, position) = enter().map_err(failure)?;
        self.positions.insert(Target(id), position);
        Ok(Target(id))
    }

    /// How the records in a target are written, where that is known and there are any.
    pub fn format(&self, target: Target) -> Result<Option<String>> {
        let select = "SELECT format FROM target WHERE id = ? AND end > 0";
        let found = self.connection.query_row(select, [target.0], |row| row.get(0));
        Ok(found.optional().map_err(failure)?.flatten())
    }

    /// Records are written to the target in this format from the next commit on.
    pub fn writes(&mut self, target: Target, format: String) -> Result<()> {
        let select = "SELECT format FROM target WHERE id = ?";
        let known: Option<String> =
            self.connection.query_row(select, [target.0], |row| row.get(0)).map_err(failure)?;
        if known.as_ref() != Some(&format) {
            self.formats.push((target, format));
        }
        Ok(())
    }

    /// The path of a target.
    pub fn path_of(&self, target: Target) -> Result<PathBuf> {
        let select = "SELECT path FROM target WHERE id = ?";
        let path: Vec<u8> =
            self.connection.query_row(select, [target.0], |row| row.get(0)).map_err(failure)?;
        Ok(PathBuf::from(OsString::from_vec(path)))
    }

    /// Where the next span of `target` begins.
    pub fn position(&self, target: Target) -> Position {
        self.positions.get(&target).copied().unwrap_or(Position { generation: 0, end: 0 })
    }

    /// Sets where the next span of `target` begins. It takes effect with the next commit.
    pub fn reposition(&mut self, target: Target, position: Position) {
        self.positions.insert(target, position);
    }

    /// Commits a group of microbatches in one transaction, together with the states of views that
    /// they change, and forgets what is durable elsewhere.
    ///
    /// # Errors
    /// `Transient` when nothing was committed and the group may be tried again; `Fatal` when it is
    /// unknown whether it was committed.
    pub fn commit<'a>(
        &mut self,
        group: Vec<Microbatch>,
        mut states: impl Iterator<Item = StatePut<'a>>,
        released: &Released,
    ) -> Result<Vec<Committed>> {
        let before = self.positions.clone();
        let mut positions = before.clone();
        let mut sequence = self.last;
        let mut watermark = self.watermark;
        let mut tally = self.tally;
        let mut committed = Vec::with_capacity(group.len());
        for mut batch in group {
            sequence += 1;
            watermark = batch.watermark.or(watermark);
            batch.watermark = watermark;
            tally.add(&batch);
            let starts = place(&mut batch, &mut positions, &self.elsewhere);
            committed.push(Committed { sequence, batch, starts });
        }
        let moved = progress::after(&self.reached, &committed)?;
        let open = self.views.clone();
        let mut recent = std::mem::take(&mut self.recent);
        let first = Recent::first(&mut states);
        let has_room = recent.has_room(&first);
        let instance = self.presence.as_ref().map(|presence| presence.number);
        let published = self.published;
        let done = self.transact(|connection| {
            rows::insert(connection, &committed, instance)?;
            views::saw(connection, &open, sequence)?;
            rows::update_targets(connection, &before, &positions, now_ms())?;
            if has_room {
                recent::append(connection, &first)?;
            } else {
                recent.place(connection)?;
                views::put(connection, first.iter().copied().chain(states))?;
            }
            progress::put(connection, &moved)?;
            tally.put(connection)?;
            released::forget(connection, released, published)
        });
        match done {
            Ok(()) if has_room => {
                for put in first {
                    recent.add(&self.connection, put);
                }
            }
            Ok(()) => recent = Recent::default(),
            Err(_) => {}
        }
        self.recent = recent;
        done?;
        self.note_stopped(&released.told);
        (self.positions, self.last, self.watermark) = (positions, sequence, watermark);
        self.tally = tally;
        self.published = released.published.unwrap_or(self.published);
        self.reached.extend(moved);
        Ok(committed)
    }

    /// Forgets what is durable elsewhere, when no commit comes that could carry it.
    pub fn release(&mut self, released: &Released) -> Result<()> {
        let published = self.published;
        self.transact(|connection| released::forget(connection, released, published))?;
        self.published = released.published.unwrap_or(published);
        Ok(())
    }

    fn transact(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<()> {
        self.check_place()?;
        let path = &self.path;
        let act = || Act::Commit(path, 0, Vec::new());
        let verdict = fault::before(Operation::Commit, "ledger", act)
            .map_err(|error| Failure::Transient(error.into()))?;
        let is_cut = verdict == Verdict::UnsyncedThenAbort;
        if is_cut {
            self.connection.pragma_update(None, "synchronous", "OFF").map_err(failure)?;
        }
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failure)?;
        job::put(&transaction, self.claim.as_ref()).map_err(failure)?;
        remotes::put(&transaction, self.presence.as_ref()).map_err(failure)?;
        for (target, format) in &self.formats {
            let update = "UPDATE target SET format = ? WHERE id = ?";
            transaction.execute(update, params![format, target.0]).map_err(failure)?;
        }
        work(&transaction).map_err(failure)?;
        // The commit point.
        transaction.commit().map_err(failure)?;
        self.claim = None;
        self.formats.clear();
        self.presence.iter_mut().for_each(|presence| presence.is_written = true);
        fault::committed(|| image(&mut self.connection, path));
        if is_cut {
            std::process::abort();
        }
        Ok(())
    }

    /// True when the job has ended, and nothing has been made of the whole output since.
    pub fn has_ended(&self) -> Result<bool> {
        let count = self.connection.query_row("SELECT count(*) FROM ended", (), |row| row.get(0));
        count.map(|count: u64| count > 0).map_err(failure)
    }

    /// The final results of the whole output have been made.
    pub fn forget_end(&mut self) -> Result<()> {
        self.transact(|connection| connection.execute("DELETE FROM ended", ()).map(drop))
    }

    /// The last span of `target` that ends at `position`, with its checksum: what the file should
    /// end in.
    pub fn last_span(&self, target: Target, position: Position) -> Result<Option<LastSpan>> {
        let select = "SELECT start, length, checksum FROM span
            WHERE target = ? AND generation = ? AND start + length = ? AND length > 0
            ORDER BY sequence DESC LIMIT 1";
        let values = params![target.0, position.generation, position.end];
        let span = |row: &rusqlite::Row<'_>| {
            Ok(LastSpan { start: row.get(0)?, length: row.get(1)?, checksum: row.get(2)? })
        };
        self.connection.query_row(select, values, span).optional().map_err(failure)
    }

    /// How many files were set aside since the beginning.
    pub fn quarantined(&self) -> u64 {
        self.tally.quarantined
    }

    /// How many microbatches have been committed.
    pub fn last_sequence(&self) -> u64 {
        self.last
    }
}

/// Where each addition of a microbatch begins; the next one begins where it ends.
fn place(
    batch: &mut Microbatch,
    positions: &mut HashMap<Target, Position>,
    elsewhere: &HashSet<Target>,
) -> Vec<Position> {
    let place_one = |addition: &mut Addition| {
        let first = Position { generation: 0, end: 0 };
        let position = positions.entry(addition.target).or_insert(first);
        let start = *position;
        addition.place(start.end == 0 && !elsewhere.contains(&addition.target));
        position.end += addition.length;
        start
    };
    batch.additions.iter_mut().map(place_one).collect()
}

/// A full disk or a busy ledger passes, and nothing was committed. After any other error it is
/// unknown what is on disk: the next start reads it.
fn failure(error: rusqlite::Error) -> Failure {
    let code = error.sqlite_error().copied();
    let error = anyhow::Error::from(error).context("write the ledger");
    match code {
        Some(code) if passes(code) => Failure::Transient(error),
        Some(code) if is_damage(code.code) => {
            Failure::halt(format!("{error:#}; restore the state directory"))
        }
        _ => Failure::Fatal(error),
    }
}
