//! Whether a view can go on from what the ledger knows of it, and what it means when its file is another.
//!
//! Invariants: nothing is changed. A start asks before it enters anything, and `check` asks the same.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};

/// True when a state that was kept under the first signature has a meaning under the second.
pub type Continues = fn(&str, &str) -> bool;

/// The stored facts about a view, before it is opened.
pub struct KnownView {
    name: String,
    kept: Option<Kept>,
    /// Where and how it was written.
    was: Option<Written>,
    /// How the file was written that it is to append to.
    there: Option<String>,
    /// The last microbatch, and how many records were written by then.
    job: (u64, u64),
}

/// A view as the job has it now.
pub struct Continued<'a> {
    /// The meaning of its states.
    pub signature: &'a str,
    /// When it is new, it begins with the next file.
    pub begins_now: bool,
    /// Where and how it is written.
    pub written: Written,
    /// Results are appended.
    pub appends: bool,
}

impl KnownView {
    /// Of the view of this name, which is to be written to `path`, in a job that has come so far: its last
    /// microbatch, and the records that it has written.
    pub(super) fn read(
        connection: &Connection,
        name: &str,
        path: &Path,
        job: (u64, u64),
    ) -> rusqlite::Result<Self> {
        let kept = kept(connection, name)?;
        let was = written(connection, name)?;
        let there = format_at(connection, name, path)?;
        Ok(Self { name: name.to_owned(), kept, was, there, job })
    }

    /// Whether the view can continue as `now`, and how.
    pub fn becomes(self, now: &Continued<'_>, continues: Continues) -> Rewritten {
        let kept = self.kept.as_ref();
        let meaning = (now.signature, continues);
        let (last, written) = self.job;
        let job = (last, (now.begins_now, written));
        if let Some(message) = refuses(&self.name, kept, meaning, job) {
            return Rewritten::Refused(message);
        }
        now.written.follows(&self.name, self.was, self.there.filter(|_| now.appends))
    }
}

/// The stored facts about a view.
struct Kept {
    signature: String,
    /// The last microbatch that it has seen.
    seen: u64,
    /// It is to be rebuilt, or is stopped: what it has missed does not matter.
    is_free: bool,
    /// It keeps nothing.
    is_empty: bool,
}

/// The stored facts about the view of this name.
fn kept(connection: &Connection, name: &str) -> rusqlite::Result<Option<Kept>> {
    let select = "SELECT signature, seen, rebuild OR stopped IS NOT NULL,
            NOT EXISTS (SELECT 1 FROM state WHERE view = view.id)
            AND NOT EXISTS (SELECT 1 FROM state_change WHERE view = view.id)
        FROM view WHERE name = ?";
    let row = |row: &rusqlite::Row<'_>| {
        let signature = row.get(0)?;
        let seen = row.get(1)?;
        Ok(Kept { signature, seen, is_free: row.get(2)?, is_empty: row.get(3)? })
    };
    connection.query_row(select, [name], row).optional()
}

/// Where and how the result of a view is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// The format, with what is set in it.
    pub format: String,
}

/// Whether a view can continue as it now stands in the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewritten {
    /// Nothing has changed.
    Same,
    /// The result goes on, and this is to be said.
    GoesOn(String),
    /// It cannot.
    Refused(String),
}

impl Written {
    /// Whether a view can be written like this after it `was` written like that. `there` is the format of the
    /// records in the file, where results are appended to it.
    fn follows(&self, name: &str, was: Option<Self>, there: Option<String>) -> Rewritten {
        let path = self.path.display();
        let is = &self.format;
        let is_there = || self.path.metadata().is_ok_and(|there| there.len() > 0);
        if let Some(there) = there.filter(|there| there != is && is_there()) {
            return Rewritten::Refused(format!(
                "the view `{name}` goes to {path}, which was written as {there}, and the job says {is}. Set the \
                 format back, give the view another path, or start once with `run --reset-view {name}`: that \
                 sets the file aside and writes it again"
            ));
        }
        match was {
            Some(was) if was.path != self.path => Rewritten::GoesOn(format!(
                "the result of the view `{name}` goes to {path} from now on; what is in {} stays there",
                was.path.display()
            )),
            Some(was) if was.format != *is => Rewritten::GoesOn(format!(
                "the view `{name}` is written as {is} from now on; before, it was {}",
                was.format
            )),
            _ => Rewritten::Same,
        }
    }
}

/// Why a view cannot go on from what is known of it. `last` is the last microbatch, and `begins_now` and
/// `written` say of a new one whether it begins now, and how many records were written before.
fn refuses(
    name: &str,
    kept: Option<&Kept>,
    (signature, continues): (&str, Continues),
    (last, (begins_now, written)): (u64, (bool, u64)),
) -> Option<String> {
    let Some(Kept { signature: known, seen, is_free, is_empty }) = kept else {
        return refuses_new(name, written).filter(|_| !begins_now);
    };
    if !continues(known, signature) {
        return Some(format!(
            "the view `{name}` was kept by another query, other columns or another engine:\n{known}\n\
             It cannot go on. Start once with `run --reset-view {name}`, and it is rebuilt from the \
             output; or give the view another name and `begin = \"now\"`, and it begins with the next file"
        ));
    }
    // It was entered by a start that did not come far, or says itself that it wants no more.
    let begins = begins_now && *is_empty;
    (seen != &last && !is_free && !begins).then(|| {
        format!(
            "the view `{name}` was not part of the job for a while: it has seen {seen} microbatches of \
             {last}. It cannot go on. Start once with `run --reset-view {name}`, and it is rebuilt from \
             the output"
        )
    })
}

/// How the file at `path` was written that the view of this name appends to; `None` where that is not known, or
/// where the file is going to be set aside.
fn format_at(connection: &Connection, name: &str, path: &Path) -> rusqlite::Result<Option<String>> {
    let select = "SELECT format FROM target WHERE path = ?1 AND end > 0
        AND NOT EXISTS (SELECT 1 FROM view WHERE name = ?2 AND rebuild)";
    let path = path.as_os_str().as_bytes();
    let found = connection.query_row(select, params![path, name], |row| row.get(0)).optional()?;
    Ok(found.flatten())
}

/// Where and how a view was written.
fn written(connection: &Connection, name: &str) -> rusqlite::Result<Option<Written>> {
    let select = "SELECT path, format FROM view
        WHERE name = ? AND path IS NOT NULL AND format IS NOT NULL";
    let row = |row: &rusqlite::Row<'_>| {
        let path = PathBuf::from(OsString::from_vec(row.get(0)?));
        Ok(Written { path, format: row.get(1)? })
    };
    connection.query_row(select, [name], row).optional()
}

/// Why a view that is new cannot begin in a job that has written records already.
fn refuses_new(name: &str, written: u64) -> Option<String> {
    (written > 0).then(|| {
        format!(
            "the view `{name}` is new, or has a new name, and the job has written records before ({written}). \
             Start once with `run --reset-view {name}`, and it is made of the whole output; or say `begin = \
             \"now\"` in its [[view]], and it begins with the next file"
        )
    })
}
