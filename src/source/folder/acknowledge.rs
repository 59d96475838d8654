//! Committed inputs on their way out of the drop folder.
//!
//! Invariants: an input that cannot be archived now waits in a list of its own, and is tried again
//! ever more rarely: it is no reason to take nothing. What is archived is compared with what was
//! committed once more when the rename becomes durable.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::FolderSource;
use super::archive::background::{Background, Load};
use super::archive::vanished::Vanished;
use super::archive::{Archived, Archiver, Touched};
use super::input::file_of;
use super::rules::{FAILED, PROCESSED};
use super::stamp::Stamp;
use crate::clock::Backoff;
use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::record::{Named, Stands};
use crate::source::Key;
use crate::source::{Acknowledge, Acknowledged, Debt, Fate, Input, Source as _};

/// How long a file that could not be archived is left alone at first.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause, in first ones.
const LONGEST: u32 = 64;

/// The inputs that are committed and not durably archived.
#[derive(Default)]
pub(super) struct Archiving {
    archiver: Arc<Archiver>,
    /// With the descriptor that was read.
    unarchived: Vec<(Debt, Input)>,
    /// By when they are due, and sequence number.
    waiting: BTreeMap<(Instant, u64), Waiting>,
    /// How many of them have their names still.
    names: HashMap<OsString, usize>,
    /// Set aside as altered, and not yet told to the ledger.
    altered: Vec<(Debt, PathBuf)>,
    touched: Touched,
    background: Background,
    /// Renamed, but not durably.
    renamed: Vec<Renamed>,
    vanished: Vanished,
    acknowledged: Acknowledged,
    /// Something has been done that is not durable.
    is_unsynced: bool,
}

/// An input that cannot be archived just now.
struct Waiting {
    debt: Debt,
    /// How often it could not be archived.
    tries: u32,
    /// It only waits until time has passed.
    is_held: bool,
    /// It may stand under its name: what is there is not a new file.
    has_name: bool,
}

/// An input under its last name.
struct Renamed {
    debt: Debt,
    /// Where it is; nowhere when it was deleted or set aside.
    path: Option<PathBuf>,
}

impl Archiving {
    fn wait(&mut self, waiting: Waiting, pause: Duration) {
        if waiting.has_name {
            *self.names.entry(waiting.debt.name.clone()).or_default() += 1;
        }
        let due = (Instant::now() + pause, waiting.debt.sequence);
        self.waiting.insert(due, waiting);
    }

    /// The first one that is due at `now`.
    fn next_due(&mut self, now: Instant) -> Option<Waiting> {
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= now)?;
        let waiting = first.remove();
        if waiting.has_name
            && let Some(count) = self.names.get_mut(&waiting.debt.name)
        {
            *count -= 1;
            if *count == 0 {
                self.names.remove(&waiting.debt.name);
            }
        }
        Some(waiting)
    }
}

impl Acknowledge for FolderSource {
    fn acknowledge(&mut self, debt: Debt, input: Input) {
        self.archiving.unarchived.push((debt, input));
    }

    fn owes(&mut self, debt: Debt) {
        self.hold(&debt.name, &debt.identity, debt.home);
        self.archiving.acknowledged.elsewhere.push((debt.sequence, false));
        let waiting = Waiting { debt, tries: 0, is_held: false, has_name: true };
        self.archiving.wait(waiting, Duration::ZERO);
    }

    fn take_acknowledged(&mut self) -> Acknowledged {
        std::mem::take(&mut self.archiving.acknowledged)
    }

    fn next_altered(&self) -> Option<&(Debt, PathBuf)> {
        self.archiving.altered.last()
    }

    fn altered_is_told(&mut self) {
        if let Some((debt, _)) = self.archiving.altered.pop() {
            self.archiving.is_unsynced = true;
            self.archiving.renamed.push(Renamed { debt, path: None });
        }
    }

    fn is_unsynced(&self) -> bool {
        self.archiving.is_unsynced
    }

    fn archive(&mut self) -> Result<()> {
        let more_comes = self.has_more();
        if self.archiving.unarchived.is_empty() && more_comes && self.archiving.background.is_busy()
        {
            return Ok(());
        }
        self.collect_archived()?;
        let now = Instant::now();
        let first = self.archiving.waiting.first_key_value();
        let is_due = first.is_some_and(|((due, _), _)| *due <= now);
        if self.archiving.unarchived.is_empty() && !is_due {
            return Ok(());
        }
        self.archiving.is_unsynced = true;
        let lost_why = match self.archiving.archiver.follow(&mut self.archiving.touched) {
            Err(failure @ (Failure::Fatal(_) | Failure::Stopped)) => return Err(failure),
            Err(failure) => Some(format!("{:#}", failure.into_error())),
            Ok(there) => {
                if let Some(there) = there {
                    self.archive_by(there);
                }
                None
            }
        };
        // Without their folder files cannot be moved, and keep their names.
        let lost = |debt: &Debt| {
            let lost = lost_why.as_ref().filter(|_| debt.fate == Fate::Processed)?;
            Some(Failure::Transient(anyhow::anyhow!("{lost}")))
        };
        let files = self.archiving.unarchived.len();
        let is_crowd = self.archiving.touched.expect(files, &self.folder)?;
        let waiting = std::mem::take(&mut self.archiving.unarchived);
        let unarchived = if is_crowd && more_comes && lost_why.is_none() {
            self.archive_behind(waiting)
        } else {
            waiting
        };
        let mut unarchived = unarchived.into_iter();
        while self.archiving.altered.is_empty()
            && let Some((debt, input)) = unarchived.next()
        {
            let done = match lost(&debt) {
                Some(failure) => self.archived(debt, Err(failure), 0, true),
                None => self.archive_one(debt, input),
            };
            if let Err(failure) = done {
                self.archiving.unarchived.extend(unarchived);
                return Err(failure);
            }
        }
        self.archiving.unarchived.extend(unarchived);
        while self.archiving.altered.is_empty()
            && let Some(waiting) = self.archiving.next_due(now)
        {
            match lost(&waiting.debt) {
                Some(failure) => {
                    self.archived(waiting.debt, Err(failure), waiting.tries, waiting.has_name)?;
                }
                None => self.archive_again(waiting)?,
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.collect_archived()?;
        self.sync_in(&self.folder.clone())?;
        self.archiving.is_unsynced = false;
        Ok(())
    }

    fn leave(&mut self) {
        if let Err(error) = self.archiving.touched.leave_folder(&self.folder) {
            tracing::debug!(%error, "the folder for hidden names stays");
        }
    }

    fn stuck(&self) -> Option<(&OsStr, u32)> {
        let waiting = self.archiving.waiting.values().filter(|waiting| !waiting.is_held);
        let tries = waiting.map(|waiting| (&*waiting.debt.name, waiting.tries));
        tries.max_by_key(|(_, tries)| *tries)
    }
}

impl FolderSource {
    /// From now on committed inputs are archived in this way.
    pub fn archive_by(&mut self, archiver: Archiver) {
        if let (Some(watching), Some(target)) = (&mut self.watching, archiver.target()) {
            watching.watch_archive(target.path());
        }
        self.archiving.archiver = Arc::new(archiver);
    }

    /// The way out of the folder.
    pub fn archiver(&self) -> &Archiver {
        &self.archiving.archiver
    }

    /// Somebody has written to a file that may be an archived one.
    pub(super) fn note_written(&mut self, path: PathBuf) {
        self.archiving.acknowledged.written.push(path);
    }

    /// Frees this name for a new file, unless another debt has it.
    fn free_if_paid(&mut self, name: &OsStr) {
        if !self.archiving.names.contains_key(name) {
            self.free(name);
        }
    }

    fn archive_one(&mut self, debt: Debt, input: Input) -> Result<()> {
        let Archiving { archiver, touched, .. } = &mut self.archiving;
        let opened = file_of(&input);
        let archived = archiver.archive(&self.folder, &self.rules, &debt, opened, touched);
        self.finish_archive(debt, input.key, archived)
    }

    /// Archives these files while the next ones are gathered; gives them back where that cannot be.
    fn archive_behind(&mut self, files: Vec<(Debt, Input)>) -> Vec<(Debt, Input)> {
        let load = Load {
            archiver: self.archiving.archiver.clone(),
            folder: self.folder.clone(),
            rules: self.rules.clone(),
            files,
            touched: std::mem::take(&mut self.archiving.touched),
        };
        let Err(load) = self.archiving.background.start(load) else { return Vec::new() };
        self.archiving.touched = load.touched;
        load.files
    }

    /// Waits for what is archived meanwhile.
    fn collect_archived(&mut self) -> Result<()> {
        let Some(unloaded) = self.archiving.background.collect()? else { return Ok(()) };
        self.archiving.touched.merge(unloaded.touched);
        let mut done = Ok(());
        for (debt, input, archived) in unloaded.archived {
            done = self.finish_archive(debt, input.key, archived).and(done);
        }
        done
    }

    fn finish_archive(&mut self, debt: Debt, key: Key, archived: Result<Archived>) -> Result<()> {
        let archived = archived.map(|archived| self.or_elsewhere(archived, &debt));
        self.note_set_aside(&debt, &archived);
        match &archived {
            // What is there now, if anything, is a new file.
            Ok(Archived::Gone | Archived::Replaced | Archived::Elsewhere) => {
                self.free_if_paid(&debt.name);
            }
            Ok(_) => self.release(key),
            Err(_) => {}
        }
        self.archived(debt, archived, 0, true)
    }

    fn archive_again(&mut self, waiting: Waiting) -> Result<()> {
        let Waiting { debt, tries, has_name, .. } = waiting;
        let of = (&debt, self.is_in_its_home(&debt));
        let Archiving { archiver, touched, .. } = &mut self.archiving;
        let recovered = archiver.recover(&self.folder, &self.rules, of, touched);
        let archived = recovered.map(|archived| self.or_elsewhere(archived, &debt));
        self.note_set_aside(&debt, &archived);
        if archived.is_ok() && has_name {
            self.free_if_paid(&debt.name);
        }
        self.archived(debt, archived, tries, has_name)
    }

    /// Handles the result of an archive step; `tries` counts the earlier ones.
    fn archived(
        &mut self,
        debt: Debt,
        archived: Result<Archived>,
        tries: u32,
        has_name: bool,
    ) -> Result<()> {
        let more = tries.saturating_add(1);
        let longer = |pause: Duration| Backoff::new(pause, pause * LONGEST).after(more);
        let archived = match archived {
            Err(failure @ (Failure::Fatal(_) | Failure::Stopped)) => return Err(failure),
            Err(failure) => {
                let file = crate::telemetry::text(&debt.name);
                let error = format!("{:#}", failure.into_error());
                tracing::warn!(file, error, "the file is committed but cannot be archived yet");
                let waiting = Waiting { debt, tries: more, is_held: false, has_name };
                self.archiving.wait(waiting, longer(PAUSE));
                return Ok(());
            }
            Ok(archived) => archived,
        };
        let path = match archived {
            // It is hidden: a file under its name is a new one.
            Archived::Busy(pause) => {
                let waiting = Waiting { debt, tries: more, is_held: false, has_name: false };
                self.archiving.wait(waiting, longer(pause));
                return Ok(());
            }
            Archived::Held(pause) => {
                let waiting = Waiting { debt, tries, is_held: true, has_name: false };
                self.archiving.wait(waiting, pause);
                return Ok(());
            }
            Archived::Elsewhere => {
                self.archiving.acknowledged.elsewhere.push((debt.sequence, true));
                self.archiving.vanished.keep(debt);
                return Ok(());
            }
            Archived::As(path) => (!self.is_deleted(&debt)).then_some(path),
            // Where another file has its name it may have been renamed before.
            Archived::Gone | Archived::Replaced => {
                self.archiving.vanished.note(debt.clone());
                self.archiving.acknowledged.gone.push(debt.sequence);
                None
            }
            Archived::Altered(path) => {
                self.archiving.altered.push((debt, path));
                return Ok(());
            }
        };
        self.archiving.renamed.push(Renamed { debt, path });
        Ok(())
    }

    fn is_deleted(&self, debt: &Debt) -> bool {
        self.archiving.archiver.deletes() && debt.fate == Fate::Processed
    }

    /// Archives `input` if it is a committed one that was renamed before it could be; gives it back
    /// if not.
    pub(super) fn archive_if_committed(&mut self, input: Input) -> Result<Option<Input>> {
        let Some(debt) = self.archiving.vanished.take(&input) else { return Ok(Some(input)) };
        self.collect_archived()?;
        let file = crate::telemetry::text(input.name());
        let microbatch = debt.sequence;
        tracing::warn!(file, microbatch, "the file was committed under another name");
        self.archiving.is_unsynced = true;
        self.archive_one(debt, input)?;
        Ok(None)
    }

    /// Where the drop folder was replaced: what was renamed in the one before is made durable there, and what is
    /// owed to an earlier one is looked for in this one.
    pub(super) fn move_in(&mut self) -> Result<()> {
        let Some(left) = self.left.take() else { return Ok(()) };
        self.collect_archived()?;
        self.sync_in(&left)?;
        let mut done = Ok(());
        for debt in self.archiving.vanished.take_elsewhere() {
            self.archiving.acknowledged.elsewhere.push((debt.sequence, false));
            self.hold(&debt.name, &debt.identity, debt.home);
            self.archiving.is_unsynced = true;
            let waiting = Waiting { debt, tries: 0, is_held: false, has_name: true };
            done = self.archive_again(waiting).and(done);
        }
        done
    }

    fn sync_in(&mut self, folder: &Dir) -> Result<()> {
        let Archiving { archiver, touched, renamed, acknowledged, .. } = &mut self.archiving;
        let reports = touched.sync(folder, archiver)?;
        acknowledged.named.extend(reports.into_iter().map(Named::from));
        for Renamed { debt, path } in renamed.drain(..) {
            acknowledged
                .named
                .extend(path.as_deref().and_then(|path| named_unusually(path, &debt)));
            let path = path.filter(|path| differs(path, &debt));
            acknowledged.archived.push((debt, path));
        }
        Ok(())
    }

    /// When the next file that could not be archived is due.
    pub(super) fn archive_due(&self) -> Option<Instant> {
        self.archiving.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// An input that is missing in another folder than its own may be found when its folder comes back.
    fn or_elsewhere(&self, archived: Archived, debt: &Debt) -> Archived {
        match archived {
            Archived::Gone | Archived::Replaced if !self.is_in_its_home(debt) => {
                Archived::Elsewhere
            }
            archived => archived,
        }
    }

    fn is_in_its_home(&self, debt: &Debt) -> bool {
        debt.home.is_none_or(|home| self.is_home(&debt.name, home))
    }

    fn note_set_aside(&mut self, debt: &Debt, archived: &Result<Archived>) {
        match archived {
            Ok(Archived::As(_)) if debt.fate != Fate::Processed => self.note_failed(),
            Ok(Archived::Altered(_)) => self.note_failed(),
            _ => {}
        }
    }
}

/// The name that the input was given, unless it is the usual one.
fn named_unusually(path: &Path, debt: &Debt) -> Option<Named> {
    let name = path.file_name()?;
    let own = Path::new(&debt.name).file_name()?;
    let prefixes: &[&str] = match debt.fate {
        Fate::Failed(_) => &[FAILED],
        Fate::Processed => &[PROCESSED, ""],
    };
    let is_usual =
        |prefix: &&str| name.as_bytes().strip_prefix(prefix.as_bytes()) == Some(own.as_bytes());
    let sequence = debt.sequence;
    let inode = debt.identity.inode;
    let named =
        || Named { sequence, stands: Stands::Input, name: name.to_owned(), inode, beside: None };
    (!prefixes.iter().any(is_usual)).then(named)
}

/// True when the file is not what was committed any more.
fn differs(path: &std::path::Path, debt: &Debt) -> bool {
    let Ok(metadata) = path.symlink_metadata() else { return false };
    let stamp = Stamp::of_metadata(&metadata);
    let identity = &debt.identity;
    stamp.inode == identity.inode
        && (stamp.size, stamp.modified_ns) != (identity.size, identity.modified_ns)
}
