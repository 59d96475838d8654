//! An input under its hidden name: how it comes there, and how what does not belong there goes away.
//!
//! Invariants: nothing is overwritten, and what was not committed keeps a name under which it is taken,
//! or is set aside with a report.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::names::{self, hidden_name, rename_free, stand_in};
use super::report::{self, Reported, report_failure};
use super::{Place, Touched};
use crate::durable::Dir;
use crate::failure::Result;
use crate::source::folder::input::Writers;
use crate::source::folder::rules::{FAILED, Rules};
use crate::source::folder::stamp::Stamp;
use crate::source::{Debt, Fate};

/// A file under its hidden name. In this order: whether somebody writes to it, then how it is; so what is
/// written before the last writer goes shows in its size and time.
pub(super) struct Hidden<'a> {
    pub dir: &'a Dir,
    pub name: &'a OsStr,
    pub writers: Writers,
    pub now: Stamp,
    pub is_whole: bool,
}

/// Renames the file to its hidden name, in the shelter if that can be had; `None` when it is gone.
pub(super) fn hide(
    place: &Place<'_>,
    debt: &Debt,
    shelter: Option<Arc<Dir>>,
) -> Result<Option<(Nook, OsString)>> {
    let name = |attempt| hidden_name(debt.sequence, debt.identity.inode, attempt);
    if let Some(shelter) = shelter.filter(|_| place.subdirectory.is_none())
        && let Ok(hidden) = names::first_free(place.dir(), place.name, &shelter, name)
    {
        return Ok(hidden.map(|hidden| (Nook(Some(shelter)), hidden)));
    }
    let hidden = names::first_free(place.dir(), place.name, place.dir(), name)?;
    Ok(hidden.map(|hidden| (Nook(None), hidden)))
}

/// Where a hidden file is: in the shelter, or where it was.
pub(super) struct Nook(pub Option<Arc<Dir>>);

impl Nook {
    pub(super) fn dir<'a>(&'a self, place: &'a Place<'_>) -> &'a Dir {
        self.0.as_deref().unwrap_or(place.dir())
    }
}

/// Returns a hidden file that is not the committed one: it gets its name back, or where that is taken again,
/// one under which it will be taken, or it is set aside.
pub(super) fn put_back(
    place: &Place<'_>,
    (from, hidden): (&Dir, &OsStr),
    rules: &Rules,
    debt: &Debt,
    touched: &mut Touched,
) -> Result<()> {
    let dir = place.dir();
    if from.rename_no_replace(hidden, dir, place.name)? {
        return Ok(());
    }
    let free = stand_in(place.name, debt.sequence);
    let taken_as = free.filter(|name| rules.is_candidate(name) && rules.marker_of(name).is_none());
    if let Some(name) = taken_as
        && from.rename_no_replace(hidden, dir, &name)?
    {
        let file = crate::telemetry::text(place.name);
        let name = crate::telemetry::text(&name);
        tracing::warn!(file, name, "the file was replaced twice; the version between is kept");
        return Ok(());
    }
    let sequence = debt.sequence;
    if let Some(name) = rename_free(from, hidden, place.name, dir, FAILED, sequence)? {
        let reason = "it was replaced by another file before it could be taken";
        let report = report::short(place.name, reason, sequence);
        touched.reported(report_failure(dir, &name, sequence, &report)?);
    }
    Ok(())
}

/// The file is not what was committed any more: it is set aside as it is.
pub(super) fn set_aside_altered(
    place: &Place<'_>,
    (from, hidden): (&Dir, &OsStr),
    debt: &Debt,
    touched: &mut Touched,
) -> Result<OsString> {
    let dir = place.dir();
    let sequence = debt.sequence;
    let name = rename_free(from, hidden, place.name, dir, FAILED, sequence)?
        .unwrap_or_else(|| hidden.to_owned());
    touched.reported(report_altered(dir, &name, debt)?);
    Ok(name)
}

/// Where an earlier process has set the altered file aside, which may not have come to the report.
pub(super) fn find_altered(
    place: &Place<'_>,
    debt: &Debt,
    touched: &mut Touched,
) -> Result<Option<OsString>> {
    for attempt in 0..2 {
        let name = names::archived_name(FAILED, place.name, debt.sequence, attempt);
        let there = place.dir().stat(&name)?.map(|stat| Stamp::of(&stat));
        if there.is_some_and(|there| there.inode == debt.identity.inode) {
            touched.reported(report_altered(place.dir(), &name, debt)?);
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn report_altered(dir: &Dir, name: &OsStr, debt: &Debt) -> Result<Reported> {
    let sequence = debt.sequence;
    let reason = match debt.fate {
        Fate::Processed => format!(
            "the file was altered after it was committed as microbatch {sequence}: only what was \
             read then, its first {} bytes, is in the output",
            debt.identity.size
        ),
        Fate::Failed(_) => {
            format!("the file was altered after it was set aside as microbatch {sequence}")
        }
    };
    report_failure(dir, name, sequence, &report::short(&debt.name, &reason, sequence))
}
