//! What becomes of an input after its commit: renamed, moved, deleted or quarantined.
//!
//! What holds here:
//! - No step overwrites a file, and every step may be repeated.
//! - A file is renamed only while its name and the descriptor it was read on still agree; should
//!   another file slip in between, it is put back.
//! - The renames are durable after [`Touched::sync`], not before.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::input::{self, Stamp};
use super::rules::{FAILED, PROCESSED, Rules, shortened};
use crate::durable::{self, Dir};
use crate::failure::{Failure, Result};
use crate::record::Identity;

/// How many names are tried for an archived file before giving up.
const NAMES_TRIED: u32 = 1000;

/// `done.action`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is renamed to `processed-*` where it is.
    #[default]
    Rename,
    /// It is moved to this directory under its own name.
    Move(PathBuf),
    /// It is deleted.
    Delete,
}

/// `done.keep`: how much of what was moved stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// What was committed at most so long ago.
    Age(Duration),
    /// The newest files of so many bytes.
    Bytes(u64),
}

/// What an input came to.
#[derive(Debug, Clone, Copy)]
pub enum Fate<'a> {
    /// It was processed.
    Processed,
    /// It was quarantined, for the reasons in this report.
    Failed {
        /// The content of `failed-*.error.json`.
        report: &'a [u8],
    },
}

/// A committed input that is to be archived.
#[derive(Debug, Clone, Copy)]
pub struct Debt<'a> {
    /// Its name relative to the folder.
    pub name: &'a OsStr,
    /// Which file it was.
    pub identity: &'a Identity,
    /// Its microbatch's sequence number.
    pub sequence: u64,
    /// What it came to.
    pub fate: Fate<'a>,
}

/// What archiving found.
#[derive(Debug, PartialEq, Eq)]
pub enum Archived {
    /// The file is where it belongs, under this name.
    As(PathBuf),
    /// There is no file of that name any more.
    Gone,
    /// The name is another file now, which is a new one.
    Replaced,
    /// The file is what is left of the committed one, or more than it: not the same bytes.
    Altered,
}

/// The directories whose names have changed and are not durable yet.
#[derive(Debug, Default)]
pub struct Touched {
    dirs: BTreeMap<PathBuf, Dir>,
    /// The drop folder itself, which is held open anyway.
    pub folder: bool,
    archive: bool,
}

impl Touched {
    /// Makes all renames durable.
    pub fn sync(&mut self, folder: &Dir, archiver: &Archiver) -> durable::Result<()> {
        // The target first: a name may be in both for a moment, but never in neither.
        if let Some(target) = archiver.target.as_ref().filter(|_| self.archive) {
            target.sync("archive directory")?;
        }
        for dir in self.dirs.values() {
            dir.sync("input subdirectory")?;
        }
        if self.folder {
            folder.sync("input directory")?;
        }
        *self = Self::default();
        Ok(())
    }
}

/// Archives the inputs of one job.
#[derive(Debug)]
pub struct Archiver {
    action: Action,
    target: Option<Dir>,
}

impl Archiver {
    /// Opens the directory that inputs are moved to, if they are; `target` is its absolute path.
    pub fn open(action: Action, target: Option<&Path>) -> durable::Result<Self> {
        Ok(Self { action, target: target.map(Dir::open).transpose()? })
    }

    /// True when nothing is left of what was processed.
    pub fn deletes(&self) -> bool {
        self.action == Action::Delete
    }

    /// Archives the input that was read on `file`.
    pub fn archive(
        &self,
        folder: &Dir,
        rules: &Rules,
        debt: &Debt<'_>,
        file: &File,
        touched: &mut Touched,
    ) -> Result<Archived> {
        let place = match Place::of(folder, debt.name) {
            Ok(place) => place,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Archived::Gone);
            }
            Err(error) => return Err(Failure::Transient(error.into())),
        };
        let opened = Stamp::of_file(file).map_err(|error| Failure::Transient(error.into()))?;
        let Some(there) = place.dir().stat(place.name)? else { return Ok(Archived::Gone) };
        let there = Stamp::of(&there);
        if (there.device, there.inode) != (opened.device, opened.inode) {
            return Ok(Archived::Replaced);
        }
        if (opened.size, opened.modified_ns) != (debt.identity.size, debt.identity.modified_ns) {
            return Ok(Archived::Altered);
        }
        let moved = self.move_away(&place, rules, debt, &opened, touched)?;
        if let (Archived::As(name), Fate::Failed { report }) = (&moved, debt.fate) {
            report_failure(place.dir(), name, debt.sequence, report)?;
        }
        place.touch(touched);
        Ok(moved)
    }

    fn move_away(
        &self,
        place: &Place<'_>,
        rules: &Rules,
        debt: &Debt<'_>,
        opened: &Stamp,
        touched: &mut Touched,
    ) -> Result<Archived> {
        let subdirectory;
        let (target, prefix) = match (debt.fate, &self.action, &self.target) {
            (Fate::Failed { .. }, ..) => (place.dir(), FAILED),
            (_, Action::Move(_), Some(target)) => {
                touched.archive = true;
                subdirectory = below(target, debt.name, touched)?;
                (subdirectory.as_ref().unwrap_or(target), "")
            }
            (_, Action::Delete, _) => (place.dir(), ".spoolmill-deleting-"),
            _ => (place.dir(), PROCESSED),
        };
        // The marker first: one that comes after this belongs to a new file.
        if let Some(marker) = rules.marker_of(place.name) {
            rename_free(place.dir(), &marker, target, prefix, debt.sequence)?;
        }
        let Some(name) = rename_free(place.dir(), place.name, target, prefix, debt.sequence)?
        else {
            return Ok(Archived::Gone);
        };
        let there = target.stat(&name)?.map(|stat| Stamp::of(&stat));
        if there.is_none_or(|there| (there.device, there.inode) != (opened.device, opened.inode)) {
            // Another file took the name in that instant; it is nobody's archive.
            target.rename_no_replace(&name, place.dir(), place.name)?;
            return Ok(Archived::Replaced);
        }
        if self.action == Action::Delete && matches!(debt.fate, Fate::Processed) {
            target.unlink(&name)?;
            if let Some(marker) = rules.marker_of(&name) {
                target.unlink(&marker)?;
            }
        }
        Ok(Archived::As(target.path().join(name)))
    }

    /// Archives an input of which no descriptor is left, after a restart or a failure: the file
    /// under its name is the committed one only if size, time and content all agree.
    pub fn recover(
        &self,
        folder: &Dir,
        rules: &Rules,
        debt: &Debt<'_>,
        hash: impl Fn(&File) -> std::io::Result<[u8; 32]>,
        touched: &mut Touched,
    ) -> Result<Archived> {
        let archived = self.find_archived(folder, debt, &hash);
        if let (Some((dir, name)), Fate::Failed { report }) = (&archived, debt.fate) {
            report_failure(dir, Path::new(name), debt.sequence, report)?;
        }
        // Whatever was done before may not be durable yet.
        touched.archive |= self.target.is_some();
        if let Ok(place) = Place::of(folder, debt.name) {
            place.touch(touched);
        }
        let (file, stamp) = match input::open(folder, debt.name) {
            input::Found::File(file, stamp) => (file, stamp),
            input::Found::Gone | input::Found::NoInput => {
                let there = archived.map(|(dir, name)| dir.path().join(name));
                return Ok(there.map_or(Archived::Gone, Archived::As));
            }
            input::Found::Unreadable(error) => return Err(Failure::Transient(error.into())),
        };
        let identity = debt.identity;
        match archived {
            Some(_) if stamp.inode != identity.inode => return Ok(Archived::Replaced),
            Some((dir, name)) if is_second_name(&dir, &name, &stamp) => {
                // The fallback for a rename got as far as the link.
                let place = Place::of(folder, debt.name);
                place.map_err(|error| Failure::Transient(error.into()))?.remove()?;
                return Ok(Archived::As(dir.path().join(name)));
            }
            _ => {}
        }
        if (stamp.size, stamp.modified_ns) == (identity.size, identity.modified_ns)
            && hash(&file).map_err(|error| Failure::Transient(error.into()))? == identity.hash
        {
            return self.archive(folder, rules, debt, &file, touched);
        }
        // The inode of a file that was deleted is used again at once, so it says nothing then.
        let same_inode = stamp.inode == identity.inode && self.action != Action::Delete;
        let remains = same_inode || stamp.modified_ns == identity.modified_ns;
        Ok(if remains { Archived::Altered } else { Archived::Replaced })
    }

    /// Where the archived input is: a file of its size and time that is the same one, or has its
    /// content.
    pub fn find_archived(
        &self,
        folder: &Dir,
        debt: &Debt<'_>,
        hash: impl Fn(&File) -> std::io::Result<[u8; 32]>,
    ) -> Option<(Dir, OsString)> {
        let place = Place::of(folder, debt.name).ok()?;
        let (target, prefix) = match (debt.fate, &self.action, &self.target) {
            (Fate::Failed { .. }, ..) => (place.dir(), FAILED),
            (_, Action::Move(_), Some(target)) => (target, ""),
            (_, Action::Delete, _) => return None,
            _ => (place.dir(), PROCESSED),
        };
        let parent = Path::new(debt.name).parent().filter(|_| prefix.is_empty());
        let target = Dir::open(
            &parent.map_or(target.path().to_owned(), |parent| target.path().join(parent)),
        );
        let target = target.ok()?;
        for attempt in 0..2 {
            let name = archived_name(prefix, place.name, debt.sequence, attempt);
            let input::Found::File(file, stamp) = input::open(&target, &name) else { continue };
            let identity = debt.identity;
            if (stamp.size, stamp.modified_ns) == (identity.size, identity.modified_ns)
                && (stamp.inode == identity.inode
                    || hash(&file).is_ok_and(|hash| hash == identity.hash))
            {
                return Some((target, name));
            }
        }
        None
    }
}

/// The directory that a name is in, and the name there.
struct Place<'a> {
    folder: &'a Dir,
    subdirectory: Option<Dir>,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    fn of(folder: &'a Dir, name: &'a OsStr) -> std::io::Result<Self> {
        let subdirectory = input::open_parent(folder, name)?;
        Ok(Self { folder, subdirectory, name: Path::new(name).file_name().unwrap_or(name) })
    }

    fn dir(&self) -> &Dir {
        self.subdirectory.as_ref().unwrap_or(self.folder)
    }

    fn remove(&self) -> durable::Result<()> {
        self.dir().unlink(self.name)
    }

    fn touch(self, touched: &mut Touched) {
        match self.subdirectory {
            Some(dir) => {
                touched.dirs.insert(dir.path().to_owned(), dir);
            }
            None => touched.folder = true,
        }
    }
}

/// True when `name` leads to the very file of this stamp.
fn is_second_name(dir: &Dir, name: &OsStr, stamp: &Stamp) -> bool {
    let there = dir.stat(name).ok().flatten().map(|stat| Stamp::of(&stat));
    there.is_some_and(|there| (there.device, there.inode) == (stamp.device, stamp.inode))
}

/// The folder in `target` that corresponds to the one `name` is in, created when missing.
fn below(target: &Dir, name: &OsStr, touched: &mut Touched) -> Result<Option<Dir>> {
    let parent = Path::new(name).parent().filter(|parent| !parent.as_os_str().is_empty());
    let Some(parent) = parent else { return Ok(None) };
    let path = target.path().join(parent);
    durable::create_dir_all(&path)?;
    touched.dirs.insert(path.clone(), Dir::open(&path)?);
    Ok(Some(Dir::open(&path)?))
}

/// Renames `name` to the first archive name that is free; `None` when there is no such file.
fn rename_free(
    from: &Dir,
    name: &OsStr,
    target: &Dir,
    prefix: &str,
    sequence: u64,
) -> Result<Option<OsString>> {
    for attempt in 0..NAMES_TRIED {
        let archived = archived_name(prefix, name, sequence, attempt);
        match from.rename_no_replace(name, target, &archived) {
            Ok(true) => return Ok(Some(archived)),
            Ok(false) => {}
            // It is the file that is gone only if it is: the folder it was to go to may be.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return if from.stat(name)?.is_none() { Ok(None) } else { Err(error.into()) };
            }
            Err(error) => return Err(error.into()),
        }
    }
    let name = crate::telemetry::escaped(name.as_encoded_bytes());
    Err(Failure::Transient(anyhow::anyhow!("no free name to archive {name} under")))
}

/// `processed-<name>`, then `processed-<name>.<sequence>`, then with a number behind; the name is
/// cut where the result would be too long for the file system.
fn archived_name(prefix: &str, name: &OsStr, sequence: u64, attempt: u32) -> OsString {
    let suffix = match attempt {
        0 => String::new(),
        1 => format!(".{sequence}"),
        more => format!(".{sequence}.{more}"),
    };
    // Room for the report that may stand beside it.
    let room = if prefix == FAILED { REPORT_SUFFIX.len() } else { 0 };
    let mut archived = OsString::from(prefix);
    let cut = shortened(name, prefix.len() + suffix.len() + room);
    let suffix = match (&cut, attempt) {
        // A cut name is not unique any more.
        (std::borrow::Cow::Owned(_), 0) => return archived_name(prefix, name, sequence, 1),
        _ => suffix,
    };
    archived.push(&cut);
    archived.push(suffix);
    archived
}

/// What the report of a quarantined file ends in.
pub const REPORT_SUFFIX: &str = ".error.json";

/// Writes `<archived>.error.json` unless it is there.
fn report_failure(dir: &Dir, archived: &Path, sequence: u64, report: &[u8]) -> Result<()> {
    let mut name = archived.file_name().unwrap_or_default().to_owned();
    name.push(REPORT_SUFFIX);
    if dir.stat(&name)?.is_some() {
        return Ok(());
    }
    let temporary = OsString::from(format!(".spoolmill-report-{sequence}"));
    dir.unlink(&temporary)?;
    let file = dir.create_new(&temporary)?;
    let path = dir.path().join(&temporary);
    durable::write_at(&file, &path, report, 0)?;
    durable::sync_data(&file, &path, "error report")?;
    if !dir.rename_no_replace(&temporary, dir, &name)? {
        dir.unlink(&temporary)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_names_are_tried_in_order() {
        let name = |attempt| archived_name(PROCESSED, OsStr::new("a"), 7, attempt);
        assert_eq!(
            [name(0), name(1), name(2)],
            ["processed-a", "processed-a.7", "processed-a.7.2"]
        );
    }

    #[test]
    fn a_name_without_room_for_the_prefix_is_cut_and_numbered() {
        let long = OsString::from("x".repeat(250));
        for prefix in [PROCESSED, FAILED] {
            let archived = archived_name(prefix, &long, 7, 0);
            assert!(archived.len() <= 255);
            assert!(archived.to_str().unwrap().ends_with("x.7"), "{archived:?}");
        }
    }
}
