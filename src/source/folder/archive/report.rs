//! Reports beside failed files, and bytes that came to a file after its archive.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use super::names::{REPORT_SUFFIX, archived_name, first_free};
use crate::durable::{self, Dir, Likeness};
use crate::failure::{Failure, Result};
use crate::record::{Named, Stands};
use crate::source::folder::input::{self, Found};
use crate::source::folder::rules::{FAILED, shortened};
use crate::source::folder::stamp::Stamp;

/// How many temporary names are tried: somebody may have made directories of these names.
const NAMES_TRIED: u32 = 100;

/// Bytes copied at once.
const COPY_BYTES: usize = 1024 * 1024;

/// The content of a report about a file that no microbatch has set aside.
pub fn short(name: &OsStr, reason: &str, sequence: u64) -> Vec<u8> {
    let mut report = serde_json::json!({ "reason": reason, "microbatch": sequence });
    crate::record::put_text(&mut report, "file", name.as_encoded_bytes());
    format!("{report:#}\n").into_bytes()
}

/// A report that stands beside a file which was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// The microbatch that it is about.
    pub sequence: u64,
    /// Its name, without the folder.
    pub name: OsString,
    /// The name of the file that it stands beside.
    pub beside: OsString,
    /// Its inode.
    pub inode: u64,
}

impl From<Reported> for Named {
    fn from(report: Reported) -> Self {
        let Reported { sequence, name, beside, inode } = report;
        Self { sequence, stands: Stands::Report, name, inode, beside: Some(beside) }
    }
}

/// Writes `<archived>.error.json`, unless it is there as it would be written. Where another file has that
/// name it stays, and the next free name is taken.
pub fn report_failure(
    dir: &Dir,
    archived: &OsStr,
    sequence: u64,
    report: &[u8],
) -> Result<Reported> {
    let mut written = None;
    let done = write_report(dir, archived, sequence, report, &mut written);
    if let Some(temporary) = written.filter(|_| !done.as_ref().is_ok_and(Option::is_some)) {
        dir.unlink(&temporary)?;
    }
    let reported = done?.map(|(name, inode)| {
        let beside = archived.to_owned();
        Reported { sequence, name, beside, inode }
    });
    reported.ok_or_else(|| Failure::Transient(anyhow::anyhow!("no free name for a report")))
}

/// The name that the report has, and its inode; `None` when no name is free. `written` is the temporary file,
/// once there is one.
fn write_report(
    dir: &Dir,
    archived: &OsStr,
    sequence: u64,
    report: &[u8],
    written: &mut Option<OsString>,
) -> Result<Option<(OsString, u64)>> {
    let mut inode = 0;
    for attempt in 0..NAMES_TRIED {
        let name = report_name(archived, sequence, attempt);
        if let Some(stat) = dir.stat(&name)? {
            if is_same(dir, &name, report) {
                if let Some(temporary) = written.take() {
                    dir.unlink(&temporary)?;
                }
                return Ok(Some((name, stat.st_ino)));
            }
            continue;
        }
        if written.is_none() {
            // What it quotes is for those who may read the file.
            let like = dir.stat(archived)?.map(|stat| Likeness::of_stat(&stat));
            let (temporary, file) = temporary(dir, sequence, like)?;
            let path = dir.path().join(&temporary);
            *written = Some(temporary);
            durable::write_at(&file, &path, report, 0)?;
            durable::sync_data(&file, &path, "error report")?;
            let stamp = Stamp::of_file(&file);
            inode = stamp.map_err(|error| Failure::Transient(error.into()))?.inode;
        }
        if let Some(temporary) = written
            && dir.rename_no_replace(temporary, dir, &name)?
        {
            return Ok(Some((name, inode)));
        }
    }
    Ok(None)
}

/// `<archived>.error.json`, then with the number of the microbatch before it.
fn report_name(archived: &OsStr, sequence: u64, attempt: u32) -> OsString {
    let suffix = match attempt {
        0 => REPORT_SUFFIX.to_owned(),
        1 => format!(".{sequence}{REPORT_SUFFIX}"),
        more => format!(".{sequence}.{more}{REPORT_SUFFIX}"),
    };
    let mut name = shortened(archived, suffix.len()).into_owned();
    name.push(suffix);
    name
}

/// True when a file of this name holds exactly these bytes.
fn is_same(dir: &Dir, name: &OsStr, report: &[u8]) -> bool {
    let Found::File(file, stamp) = input::open(dir, name) else { return false };
    let mut there = Vec::new();
    stamp.size == report.len() as u64
        && file.take(stamp.size).read_to_end(&mut there).is_ok()
        && there == report
}

/// A new file under the first hidden name of this microbatch that can be had. One that a crash has left
/// is removed.
fn temporary(dir: &Dir, sequence: u64, like: Option<Likeness>) -> Result<(OsString, File)> {
    let mut last = None;
    for attempt in 0..NAMES_TRIED {
        let name = OsString::from(format!(".spoolmill-report-{sequence}.{attempt}"));
        match dir.unlink(&name).and_then(|()| dir.create_like(&name, like)) {
            Ok(file) => return Ok((name, file)),
            Err(error) if error.is_sync() => return Err(error.into()),
            Err(error) => last = Some(error),
        }
    }
    let last = last.map_or_else(|| anyhow::anyhow!("no name"), anyhow::Error::from);
    Err(Failure::Transient(last.context("no free name for a report")))
}

/// Copies what stands in `file` from byte `from` on to `failed-<name>` in `dir`, with a report; returns
/// that name, the inode, and the report. All is durable, content and names, when this returns.
pub fn set_aside_rest(
    dir: &Dir,
    name: &OsStr,
    file: &File,
    from: u64,
    sequence: u64,
    reason: &str,
) -> Result<(OsString, u64, Reported)> {
    let metadata = file.metadata().map_err(|error| Failure::Transient(error.into()))?;
    let (temporary, copy) = temporary(dir, sequence, Some(Likeness::of(&metadata)))?;
    let inode = Stamp::of_file(&copy).map_err(|error| Failure::Transient(error.into()))?.inode;
    let path = dir.path().join(&temporary);
    let copied = copy_rest(file, from, &copy, &path);
    let named = copied.and_then(|()| {
        durable::sync_data(&copy, &path, "rest of an input")?;
        let free = |attempt| archived_name(FAILED, name, sequence, attempt);
        Ok(first_free(dir, &temporary, dir, free)?.unwrap_or_default())
    });
    if named.is_err() {
        dir.unlink(&temporary)?;
    }
    let named = named?;
    let reported = report_failure(dir, &named, sequence, &short(name, reason, sequence))?;
    dir.sync("input directory")?;
    Ok((named, inode, reported))
}

fn copy_rest(file: &File, from: u64, copy: &File, path: &std::path::Path) -> Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    loop {
        let got = file
            .read_at(&mut buffer, from + done)
            .map_err(|error| Failure::Transient(error.into()))?;
        if got == 0 {
            return Ok(());
        }
        durable::write_at(copy, path, buffer.get(..got).unwrap_or_default(), done)?;
        done += got as u64;
    }
}

/// True when the first bytes of `file` have this hash (BLAKE3).
pub fn begins_with(file: &File, length: u64, expected: [u8; 32]) -> std::io::Result<bool> {
    use std::io::Seek as _;
    let mut reader = file;
    reader.rewind()?;
    let mut hash = blake3::Hasher::new();
    let copied = std::io::copy(&mut reader.take(length), &mut hash)?;
    Ok(copied == length && *hash.finalize().as_bytes() == expected)
}
