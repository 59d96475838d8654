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

use super::Pipeline;
use super::background::{Background, Load};
use super::vanished::Vanished;
use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::ledger::{Named, Stands};
use crate::source::Source;
use crate::source::archive::{Archived, Debt, Fate, Reported, Touched};
use crate::source::input::Input;
use crate::source::queue::Key;
use crate::source::rules::{FAILED, PROCESSED};
use crate::source::stamp::Stamp;

/// How long a file that could not be archived is left alone; doubled each time, up to a minute.
const PAUSE: Duration = Duration::from_secs(1);

/// How often that is doubled: up to 64 seconds.
const DOUBLED_MAX: u32 = 6;

/// The inputs that are committed and not durably archived.
#[derive(Default)]
pub struct Archiving {
    /// With the descriptor that was read.
    pub(super) unarchived: Vec<(Debt, Input)>,
    /// By when they are due, and sequence number.
    waiting: BTreeMap<(Instant, u64), Waiting>,
    /// How many of them have their names still.
    names: HashMap<OsString, usize>,
    /// Set aside as altered, and not yet told to the ledger.
    untold: Vec<(Debt, PathBuf)>,
    touched: Touched,
    background: Background,
    /// Renamed, but not durably.
    renamed: Vec<Renamed>,
    vanished: Vanished,
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
    /// An earlier process has committed it and left it.
    pub fn recovers(&mut self, debt: Debt) {
        self.wait(Waiting { debt, tries: 0, is_held: false, has_name: true }, Duration::ZERO);
    }

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

    /// Frees this name for a new file, unless another debt has it.
    fn free(&self, name: &OsStr, source: &mut Source) {
        if !self.names.contains_key(name) {
            source.free(name);
        }
    }
}

impl Pipeline {
    /// Archives what is committed, and tries again what is due.
    pub(super) fn archive_all(&mut self, source: &mut Source) -> Result<()> {
        let more_comes = source.next_name().is_some();
        if self.archiving.unarchived.is_empty() && more_comes && self.archiving.background.is_busy()
        {
            return Ok(());
        }
        self.collect_archived(source)?;
        let now = Instant::now();
        while let Some((debt, path)) = self.archiving.untold.pop() {
            if let Err(failure) = self.note_altered(&debt, &path) {
                self.archiving.untold.push((debt, path));
                return Err(failure);
            }
            self.unsynced_since.get_or_insert(now);
            self.archiving.renamed.push(Renamed { debt, path: None });
        }
        let first = self.archiving.waiting.first_key_value();
        let is_due = first.is_some_and(|((due, _), _)| *due <= now);
        if self.archiving.unarchived.is_empty() && !is_due {
            return Ok(());
        }
        self.unsynced_since.get_or_insert(now);
        let lost_why = match self.archiver.follow(&mut self.archiving.touched) {
            Err(failure @ (Failure::Fatal(_) | Failure::Stopped)) => return Err(failure),
            Err(failure) => Some(format!("{:#}", failure.into_error())),
            Ok(there) => {
                self.archiver = there.map_or(self.archiver.clone(), Arc::new);
                None
            }
        };
        // Without their folder files cannot be moved, and keep their names.
        let lost = |debt: &Debt| {
            let lost = lost_why.as_ref().filter(|_| debt.fate == Fate::Processed)?;
            Some(Failure::Transient(anyhow::anyhow!("{lost}")))
        };
        let files = self.archiving.unarchived.len();
        let is_crowd = self.archiving.touched.expect(files, source.folder())?;
        let unarchived = std::mem::take(&mut self.archiving.unarchived);
        let unarchived = if is_crowd && more_comes && lost_why.is_none() {
            self.archive_behind(unarchived, source)
        } else {
            unarchived
        };
        let mut unarchived = unarchived.into_iter();
        while let Some((debt, input)) = unarchived.next() {
            let done = match lost(&debt) {
                Some(failure) => self.archived(debt, Err(failure), 0, true),
                None => self.archive(debt, input, source),
            };
            if let Err(failure) = done {
                self.archiving.unarchived.extend(unarchived);
                return Err(failure);
            }
        }
        while let Some(waiting) = self.archiving.next_due(now) {
            match lost(&waiting.debt) {
                Some(failure) => {
                    self.archived(waiting.debt, Err(failure), waiting.tries, waiting.has_name)?;
                }
                None => self.archive_again(waiting, source)?,
            }
        }
        Ok(())
    }

    fn archive(&mut self, debt: Debt, input: Input, source: &mut Source) -> Result<()> {
        let touched = &mut self.archiving.touched;
        let archived = self.archiver.archive(
            source.folder(),
            source.rules(),
            &debt,
            (&input.file, &input.stamp),
            touched,
        );
        self.finish_archive(debt, input.key, archived, source)
    }

    /// Archives these files while the next ones are gathered; gives them back where that cannot be.
    fn archive_behind(&mut self, files: Vec<(Debt, Input)>, source: &Source) -> Vec<(Debt, Input)> {
        let load = Load {
            archiver: self.archiver.clone(),
            folder: source.shared_folder(),
            rules: source.shared_rules(),
            files,
            touched: std::mem::take(&mut self.archiving.touched),
        };
        let Err(load) = self.archiving.background.start(load) else { return Vec::new() };
        self.archiving.touched = load.touched;
        load.files
    }

    /// Takes up what has been archived behind.
    fn collect_archived(&mut self, source: &mut Source) -> Result<()> {
        let Some(unloaded) = self.archiving.background.collect()? else { return Ok(()) };
        self.archiving.touched.merge(unloaded.touched);
        let mut done = Ok(());
        for (debt, input, archived) in unloaded.archived {
            done = self.finish_archive(debt, input.key, archived, source).and(done);
        }
        done
    }

    fn finish_archive(
        &mut self,
        debt: Debt,
        key: Key,
        archived: Result<Archived>,
        source: &mut Source,
    ) -> Result<()> {
        let archived = archived.map(|archived| or_elsewhere(archived, &debt, source));
        note_failed(&debt, &archived, source);
        match &archived {
            // What is there now, if anything, is a new file.
            Ok(Archived::Gone | Archived::Replaced | Archived::Elsewhere) => {
                self.archiving.free(&debt.name, source);
            }
            Ok(_) => source.release(key),
            Err(_) => {}
        }
        self.archived(debt, archived, 0, true)
    }

    fn archive_again(&mut self, waiting: Waiting, source: &mut Source) -> Result<()> {
        let Waiting { debt, tries, has_name, .. } = waiting;
        let touched = &mut self.archiving.touched;
        let (folder, rules) = (source.folder(), source.rules());
        let of = (&debt, is_home(&debt, source));
        let archived = self.archiver.recover(folder, rules, of, touched);
        let archived = archived.map(|archived| or_elsewhere(archived, &debt, source));
        note_failed(&debt, &archived, source);
        if archived.is_ok() && has_name {
            self.archiving.free(&debt.name, source);
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
        let longer = |pause: Duration| pause * (1 << tries.min(DOUBLED_MAX));
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
                self.settled.elsewhere.push((debt.sequence, true));
                self.archiving.vanished.keep(debt);
                return Ok(());
            }
            Archived::As(path) => (!self.is_deleted(&debt)).then_some(path),
            // Where another file has its name it may have been renamed before.
            Archived::Gone | Archived::Replaced => {
                self.archiving.vanished.note(debt.clone());
                self.settled.gone.push(debt.sequence);
                None
            }
            Archived::Altered(path) => {
                if let Err(failure) = self.note_altered(&debt, &path) {
                    self.archiving.untold.push((debt, path));
                    return Err(failure);
                }
                None
            }
        };
        self.archiving.renamed.push(Renamed { debt, path });
        Ok(())
    }

    fn is_deleted(&self, debt: &Debt) -> bool {
        self.archiver.deletes() && debt.fate == Fate::Processed
    }

    /// Archives `input` if it is a committed one that was renamed before it could be; gives it back
    /// if not.
    pub fn archive_if_committed(
        &mut self,
        input: Input,
        source: &mut Source,
    ) -> Result<Option<Input>> {
        let Some(debt) = self.archiving.vanished.take(&input) else { return Ok(Some(input)) };
        self.collect_archived(source)?;
        let (file, microbatch) = (crate::telemetry::text(input.name()), debt.sequence);
        tracing::warn!(file, microbatch, "was committed under another name");
        self.unsynced_since.get_or_insert_with(Instant::now);
        self.archive(debt, input, source)?;
        Ok(None)
    }

    /// Makes the renames durable. What was written to a file meanwhile is found out.
    pub(super) fn sync_archive(&mut self, source: &mut Source) -> Result<()> {
        self.collect_archived(source)?;
        self.sync_archive_in(source.folder(), source)
    }

    /// The drop folder was replaced: what was renamed in the one before is made durable there, and what is
    /// owed to an earlier one is looked for in this one.
    pub fn move_in(&mut self, left: &Dir, source: &mut Source) -> Result<()> {
        self.collect_archived(source)?;
        self.sync_archive_in(left, source)?;
        let mut done = Ok(());
        for debt in self.archiving.vanished.take_elsewhere() {
            self.settled.elsewhere.push((debt.sequence, false));
            source.hold(&debt.name, &debt.identity, debt.home);
            self.unsynced_since.get_or_insert_with(Instant::now);
            let waiting = Waiting { debt, tries: 0, is_held: false, has_name: true };
            done = self.archive_again(waiting, source).and(done);
        }
        done
    }

    fn sync_archive_in(&mut self, folder: &Dir, source: &Source) -> Result<()> {
        let reports = self.archiving.touched.sync(folder, &self.archiver)?;
        self.settled.named.extend(reports.into_iter().map(named_report));
        for Renamed { debt, path } in std::mem::take(&mut self.archiving.renamed) {
            self.settled
                .named
                .extend(path.as_deref().and_then(|path| named_unusually(path, &debt)));
            self.settled.archived.push(debt.sequence);
            if let Some(path) = path.filter(|path| differs(path, &debt)) {
                self.late_writes.note(path);
            } else {
                self.prune_late(&debt, source);
            }
        }
        Ok(())
    }

    /// The job ends.
    pub fn leave_folder(&mut self, source: &Source) {
        if let Err(error) = self.archiving.touched.leave_folder(source.folder()) {
            tracing::debug!(%error, "the folder for hidden names stays");
        }
    }

    /// The file that could not be archived most often, and how often that was tried. One that only waits
    /// until time has passed does not count.
    pub fn stuck(&self) -> Option<(&OsStr, u32)> {
        let waiting = self.archiving.waiting.values().filter(|waiting| !waiting.is_held);
        let tries = waiting.map(|waiting| (&*waiting.debt.name, waiting.tries));
        tries.max_by_key(|(_, tries)| *tries)
    }

    /// When the next file that could not be archived is due.
    pub fn stuck_due(&self) -> Option<Instant> {
        self.archiving.waiting.first_key_value().map(|((due, _), _)| *due)
    }
}

/// The name that the input was given, unless it is the usual one.
fn named_unusually(path: &Path, debt: &Debt) -> Option<Named> {
    let (name, own) = (path.file_name()?, Path::new(&debt.name).file_name()?);
    let prefixes: &[&str] = match debt.fate {
        Fate::Failed(_) => &[FAILED],
        Fate::Processed => &[PROCESSED, ""],
    };
    let is_usual =
        |prefix: &&str| name.as_bytes().strip_prefix(prefix.as_bytes()) == Some(own.as_bytes());
    let (sequence, inode) = (debt.sequence, debt.identity.inode);
    let named =
        || Named { sequence, stands: Stands::Input, name: name.to_owned(), inode, beside: None };
    (!prefixes.iter().any(is_usual)).then(named)
}

/// A report as the ledger is told of it.
pub(super) fn named_report(report: Reported) -> Named {
    let Reported { sequence, name, beside, inode } = report;
    Named { sequence, stands: Stands::Report, name, inode, beside: Some(beside) }
}

/// An input that is missing in another folder than its own may be found when its folder comes back.
fn or_elsewhere(archived: Archived, debt: &Debt, source: &Source) -> Archived {
    match archived {
        Archived::Gone | Archived::Replaced if !is_home(debt, source) => Archived::Elsewhere,
        archived => archived,
    }
}

fn is_home(debt: &Debt, source: &Source) -> bool {
    debt.home.is_none_or(|home| source.is_home(&debt.name, home))
}

fn note_failed(debt: &Debt, archived: &Result<Archived>, source: &mut Source) {
    match archived {
        Ok(Archived::As(_)) if debt.fate != Fate::Processed => source.note_failed(),
        Ok(Archived::Altered(_)) => source.note_failed(),
        _ => {}
    }
}

/// True when the file is not what was committed any more.
fn differs(path: &std::path::Path, debt: &Debt) -> bool {
    let Ok(metadata) = path.symlink_metadata() else { return false };
    let stamp = Stamp::of_metadata(&metadata);
    let identity = &debt.identity;
    stamp.inode == identity.inode
        && (stamp.size, stamp.modified_ns) != (identity.size, identity.modified_ns)
}
