//! What stands beside a file that was set aside, and what came to a file after its archive.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use super::names::{archived_name, first_free};
use crate::durable::{self, Dir};
use crate::failure::{Failure, Result};
use crate::source::rules::FAILED;

/// What the report of a file that was set aside ends in.
pub const REPORT_SUFFIX: &str = ".error.json";

/// How many temporary names are tried: somebody may have made directories of these names.
const NAMES_TRIED: u32 = 100;

/// Bytes copied at once.
const COPY_BYTES: usize = 1024 * 1024;

/// The content of a report about a file that no microbatch has set aside.
pub fn short(name: &OsStr, reason: &str, sequence: u64) -> Vec<u8> {
    let report = serde_json::json!({
        "file": String::from_utf8_lossy(name.as_encoded_bytes()),
        "reason": reason,
        "microbatch": sequence,
    });
    format!("{report:#}\n").into_bytes()
}

/// Writes `<archived>.error.json` unless it is there.
pub fn report_failure(dir: &Dir, archived: &OsStr, sequence: u64, report: &[u8]) -> Result<()> {
    let mut name = archived.to_owned();
    name.push(REPORT_SUFFIX);
    if dir.stat(&name)?.is_some() {
        return Ok(());
    }
    let (temporary, file) = temporary(dir, sequence)?;
    let path = dir.path().join(&temporary);
    let written = durable::write_at(&file, &path, report, 0)
        .and_then(|()| durable::sync_data(&file, &path, "error report"))
        .and_then(|()| dir.rename_no_replace(&temporary, dir, &name));
    if !matches!(written, Ok(true)) {
        dir.unlink(&temporary)?;
    }
    written?;
    Ok(())
}

/// A new file under the first hidden name of this microbatch that can be had. One that a crash has left
/// is removed.
fn temporary(dir: &Dir, sequence: u64) -> Result<(OsString, File)> {
    let mut last = None;
    for attempt in 0..NAMES_TRIED {
        let name = OsString::from(format!(".spoolmill-report-{sequence}.{attempt}"));
        match dir.unlink(&name).and_then(|()| dir.create_new(&name)) {
            Ok(file) => return Ok((name, file)),
            Err(error) if error.is_sync() => return Err(error.into()),
            Err(error) => last = Some(error),
        }
    }
    let last = last.map_or_else(|| anyhow::anyhow!("no name"), anyhow::Error::from);
    Err(Failure::Transient(last.context("no free name for a report")))
}

/// Copies what stands in `file` from byte `from` on to `failed-<name>` in `dir`, with a report; returns
/// that name. It is durable, content and name, when this returns.
pub fn set_aside_rest(
    dir: &Dir,
    name: &OsStr,
    file: &File,
    from: u64,
    sequence: u64,
    reason: &str,
) -> Result<OsString> {
    let (temporary, copy) = temporary(dir, sequence)?;
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
    report_failure(dir, &named, sequence, &short(name, reason, sequence))?;
    dir.sync("input directory")?;
    Ok(named)
}

fn copy_rest(file: &File, from: u64, copy: &File, path: &std::path::Path) -> Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    loop {
        let got = file.read_at(&mut buffer, from + done);
        let got = got.map_err(|error| Failure::Transient(error.into()))?;
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
