//! Inputs that an earlier process has committed and left, and where archived ones are.
//!
//! Invariants: a file is the committed one only if size, time and content agree, or if it is the same
//! inode where that says anything; what could not be read is not therefore another file.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;

use super::hidden::{Hidden, Nook, find_altered, put_back};
use super::names::{archived_name, hidden_name};
use super::report::report_failure;
use super::{
    Action, Archived, Archiver, BUSY, Opened, Place, Touched, is_second_name, remove_second_name,
    stamp_of,
};
use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::source::folder::input::{self, Writers, hash};
use crate::source::folder::rules::{FAILED, PROCESSED, Rules};
use crate::source::folder::stamp::Stamp;
use crate::source::{Debt, Fate};

impl Archiver {
    /// Archives an input of which no descriptor is left, after a restart or a failure: a file is the
    /// committed one only if size, time and content all agree, or if it is the same inode under the
    /// hidden name. In another folder than its own, inodes say nothing.
    pub fn recover(
        &self,
        folder: &Dir,
        rules: &Rules,
        (debt, is_home): (&Debt, bool),
        touched: &mut Touched,
    ) -> Result<Archived> {
        let Some(place) = Place::there(folder, &debt.name)? else { return Ok(Archived::Gone) };
        // Whatever was done before may not be durable yet.
        touched.recovers(self.target.is_some());
        let debt = (debt, is_home);
        let archived = self.recover_at(&place, folder, rules, debt, touched);
        place.touch(touched);
        archived
    }

    fn recover_at(
        &self,
        place: &Place<'_>,
        folder: &Dir,
        rules: &Rules,
        (debt, is_home): (&Debt, bool),
        touched: &mut Touched,
    ) -> Result<Archived> {
        let archived = self.find_for_sure(folder, debt)?;
        if let (Some((dir, name)), Fate::Failed(report)) = (&archived, &debt.fate) {
            touched.reported(report_failure(dir, name, debt.sequence, report)?);
        }
        let identity = &debt.identity;
        let known = |file: &File, stamp: &Stamp| -> Result<bool> {
            let alike = (stamp.size, stamp.modified_ns) == (identity.size, identity.modified_ns);
            Ok(alike && hash(file).map_err(unread)? == identity.hash)
        };
        let hidden = self.recover_hidden(place, rules, debt, archived.as_ref(), &known, touched)?;
        if let Some(archived) = hidden {
            return Ok(archived);
        }
        // The inode of a file that was deleted is used again at once, so it says nothing then.
        let keeps_inodes = is_home && self.action != Action::Delete;
        if archived.is_none()
            && keeps_inodes
            && let Some(name) = find_altered(place, debt, touched)?
        {
            return Ok(Archived::Altered(place.dir().path().join(name)));
        }
        let (file, stamp) = match input::open(folder, &debt.name) {
            input::Found::File(file, stamp) => (file, stamp),
            input::Found::Gone | input::Found::NoInput => {
                let there = archived.map(|(dir, name)| dir.path().join(name));
                return Ok(there.map_or(Archived::Gone, Archived::As));
            }
            input::Found::Unreadable(error) => return Err(Failure::Transient(error.into())),
        };
        match archived {
            Some((dir, name)) if is_second_name(&dir, &name, &stamp) => {
                place.dir().unlink(place.name)?;
                return Ok(Archived::As(dir.path().join(name)));
            }
            Some(_) if stamp.inode != identity.inode => return Ok(Archived::Replaced),
            _ => {}
        }
        if known(&file, &stamp)? {
            return self.archive(folder, rules, debt, (&file, &stamp), touched);
        }
        let same_inode = stamp.inode == identity.inode && keeps_inodes;
        if same_inode || is_home && stamp.modified_ns == identity.modified_ns {
            let opened = Opened { file: &file, stamp: &stamp, is_whole: false };
            return self.archive_known(folder, rules, debt, opened, touched);
        }
        Ok(Archived::Replaced)
    }

    /// Where the archived input is. What could not be read is not therefore another file.
    fn find_for_sure(&self, folder: &Dir, debt: &Debt) -> Result<Option<(Dir, OsString)>> {
        let trouble = Cell::new(None);
        let found = self.find_by(folder, debt, None, &|file, stamp| {
            let is_it = is_committed(debt, file, stamp);
            is_it.unwrap_or_else(|error| {
                trouble.set(Some(error));
                false
            })
        });
        trouble.take().map_or(Ok(found), |error| Err(unread(error)))
    }

    /// The same for what is under a hidden name; what is there and is not the input gets its name back.
    fn recover_hidden(
        &self,
        place: &Place<'_>,
        rules: &Rules,
        debt: &Debt,
        archived: Option<&(Dir, OsString)>,
        known: &impl Fn(&File, &Stamp) -> Result<bool>,
        touched: &mut Touched,
    ) -> Result<Option<Archived>> {
        let shelter = match place.subdirectory {
            None => touched.shelter_of(place.folder)?,
            Some(_) => None,
        };
        let nooks = [shelter.map(|shelter| Nook(Some(shelter))), Some(Nook(None))];
        for nook in nooks.into_iter().flatten() {
            let hidden =
                self.recover_from(place, nook.dir(place), rules, (debt, archived, known), touched)?;
            if hidden.is_some() {
                return Ok(hidden);
            }
        }
        Ok(None)
    }

    fn recover_from(
        &self,
        place: &Place<'_>,
        dir: &Dir,
        rules: &Rules,
        (debt, archived, known): (
            &Debt,
            Option<&(Dir, OsString)>,
            &impl Fn(&File, &Stamp) -> Result<bool>,
        ),
        touched: &mut Touched,
    ) -> Result<Option<Archived>> {
        for attempt in 0.. {
            let name = &hidden_name(debt.sequence, debt.identity.inode, attempt);
            if dir.stat(name)?.is_none() {
                break;
            }
            let input::Found::File(file, stamp) = input::open(dir, name) else { continue };
            if archived.is_some_and(|(dir, name)| is_second_name(dir, name, &stamp)) {
                // The fallback for a rename got as far as the link.
                dir.unlink(name)?;
                continue;
            }
            if stamp.inode == debt.identity.inode && input::writers(&file) == Writers::Some {
                return Ok(Some(Archived::Busy(BUSY)));
            }
            let is_whole = known(&file, &stamp)?;
            if is_whole || stamp.inode == debt.identity.inode {
                remove_second_name(place, &stamp)?;
                let writers = input::writers_until_closed(&file);
                let now = stamp_of(&file)?;
                let found = Hidden { dir, name, writers, now, is_whole };
                return self.conclude(place, &found, debt, touched).map(Some);
            }
            put_back(place, (dir, name), rules, debt, touched)?;
        }
        Ok(None)
    }

    /// Where the archived input is, by this configuration or by an earlier one: a file of its size and time
    /// that is the same one, or has its content. `named` is its name there, where that is known and is not
    /// the usual one.
    pub fn find_archived(
        &self,
        folder: &Dir,
        debt: &Debt,
        named: Option<&OsStr>,
    ) -> Option<(Dir, OsString)> {
        self.find_by(folder, debt, named, &|file, stamp| {
            is_committed(debt, file, stamp).unwrap_or(false)
        })
    }

    /// Where the archived input is, if it was changed there: it is the same inode with another size or time.
    pub fn find_changed(
        &self,
        folder: &Dir,
        debt: &Debt,
        named: Option<&OsStr>,
    ) -> Option<(Dir, OsString)> {
        self.find_by(folder, debt, named, &|_, stamp| stamp.inode == debt.identity.inode)
    }

    fn find_by(
        &self,
        folder: &Dir,
        debt: &Debt,
        named: Option<&OsStr>,
        is_it: &impl Fn(&File, &Stamp) -> bool,
    ) -> Option<(Dir, OsString)> {
        let place = Place::of(folder, &debt.name).ok()?;
        let find = |target: Dir, prefix| {
            let name = find_in(&target, (prefix, place.name), debt, named, is_it)?;
            Some((target, name))
        };
        let home = || Dir::open(place.dir().path()).ok();
        if let Fate::Failed(_) = debt.fate {
            return find(home()?, FAILED);
        }
        let parent = Path::new(&debt.name).parent().unwrap_or(Path::new(""));
        let moved =
            || self.archives().find_map(|archive| find(Dir::open(&archive.join(parent)).ok()?, ""));
        let renamed = || find(home()?, PROCESSED);
        match self.action {
            Action::Move(_) => moved().or_else(renamed),
            Action::Rename => renamed().or_else(moved),
            Action::Delete => moved(),
        }
    }
}

/// True for the committed input: its size and time, and the same inode or the same content.
fn is_committed(debt: &Debt, file: &File, stamp: &Stamp) -> std::io::Result<bool> {
    let identity = &debt.identity;
    let is_alike = (stamp.size, stamp.modified_ns) == (identity.size, identity.modified_ns);
    Ok(is_alike && (stamp.inode == identity.inode || hash(file)? == identity.hash))
}

/// The name in `target` of an input that was called `name`.
fn find_in(
    target: &Dir,
    (prefix, name): (&str, &OsStr),
    debt: &Debt,
    named: Option<&OsStr>,
    is_it: &impl Fn(&File, &Stamp) -> bool,
) -> Option<OsString> {
    let usual = |attempt| archived_name(prefix, name, debt.sequence, attempt);
    let mut names = named.map(OsStr::to_owned).into_iter().chain((0..).map_while(|attempt| {
        let name = usual(attempt);
        // Behind the second name the file is under the last of those that are taken.
        let is_tried = attempt < 2 || target.stat(&name).is_ok_and(|stat| stat.is_some());
        (named.is_none() && is_tried).then_some(name)
    }));
    names.find(|name| match input::open(target, name) {
        input::Found::File(file, stamp) => is_it(&file, &stamp),
        _ => false,
    })
}

fn unread(error: std::io::Error) -> Failure {
    if crate::pulse::is_stopped(&error) {
        Failure::Stopped
    } else {
        Failure::Transient(error.into())
    }
}
