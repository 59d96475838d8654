//! The names of archived files.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::source::folder::rules::{FAILED, PROCESSED, shortened};

/// Suffix of the report of a failed file.
pub const REPORT_SUFFIX: &str = ".error.json";

/// How many names are tried for an archived file before giving up.
const NAMES_TRIED: u32 = 1000;

/// Prefix of the hidden names between a file's own name and the archive.
pub const HIDDEN: &str = ".spoolmill-done-";

/// The hidden name of the input of a microbatch. The inode tells the files of two jobs apart that share
/// a folder.
pub fn hidden_name(sequence: u64, inode: u64, attempt: u32) -> OsString {
    match attempt {
        0 => format!("{HIDDEN}{sequence}-{inode}").into(),
        more => format!("{HIDDEN}{sequence}-{inode}.{more}").into(),
    }
}

/// Renames `from`, which is `name` in the drop folder, to the first archive name that is free; `None`
/// when there is no such file.
pub fn rename_free(
    dir: &Dir,
    from: &OsStr,
    name: &OsStr,
    target: &Dir,
    prefix: &str,
    sequence: u64,
) -> Result<Option<OsString>> {
    first_free(dir, from, target, |attempt| archived_name(prefix, name, sequence, attempt))
}

/// Renames `from` to the first of these names that is free; `None` when there is no such file.
pub fn first_free(
    dir: &Dir,
    from: &OsStr,
    target: &Dir,
    name: impl Fn(u32) -> OsString,
) -> Result<Option<OsString>> {
    for attempt in 0..NAMES_TRIED {
        let free = name(attempt);
        match dir.rename_no_replace(from, target, &free) {
            Ok(true) => return Ok(Some(free)),
            Ok(false) => {}
            // It is the file that is gone only if it is: the folder it was to go to may be.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return if dir.stat(from)?.is_none() { Ok(None) } else { Err(error.into()) };
            }
            Err(error) => return Err(error.into()),
        }
    }
    let name = crate::telemetry::escaped(from.as_encoded_bytes());
    Err(Failure::Transient(anyhow::anyhow!("no free name to archive {name} under")))
}

/// `processed-<name>`, then `processed-<name>.<sequence>`, then with a number after it; the name is
/// cut where the result would be too long for the file system.
pub fn archived_name(prefix: &str, name: &OsStr, sequence: u64, attempt: u32) -> OsString {
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
        (Cow::Owned(_), 0) => return archived_name(prefix, name, sequence, 1),
        _ => suffix,
    };
    archived.push(&cut);
    archived.push(suffix);
    archived
}

/// A name beside `name` for another version of it: the number stands before the suffix, so that a
/// pattern such as `*.csv` still matches.
pub fn stand_in(name: &OsStr, sequence: u64) -> Option<OsString> {
    let path = Path::new(name);
    let mut other = path.file_stem()?.to_owned();
    other.push(format!(".{sequence}"));
    if let Some(suffix) = path.extension() {
        other.push(".");
        other.push(suffix);
    }
    (other.len() <= 255).then_some(other)
}

/// The names that an input may have had whose archived name this is, relative to the same folder: with
/// `processed-` or `failed-` cut off where it stands, and with one and two numbers cut off the end.
pub fn shown_stem(archived: &OsStr) -> Vec<OsString> {
    let path = Path::new(archived);
    let name = path.file_name().unwrap_or(archived).as_bytes();
    let stems = [PROCESSED, FAILED].map(|prefix| name.strip_prefix(prefix.as_bytes()));
    let mut stem = stems.into_iter().flatten().next().unwrap_or(name);
    let mut all = vec![path.with_file_name(OsStr::from_bytes(stem)).into_os_string()];
    for _ in 0..2 {
        let Some(dot) = memchr::memrchr(b'.', stem) else { break };
        let (before, number) = stem.split_at(dot);
        let is_number = number.len() > 1 && number.iter().skip(1).all(u8::is_ascii_digit);
        if !is_number || before.is_empty() {
            break;
        }
        stem = before;
        all.push(path.with_file_name(OsStr::from_bytes(stem)).into_os_string());
    }
    all
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
    fn what_an_archived_name_may_have_been() {
        let stems = |name| shown_stem(OsStr::new(name));
        assert_eq!(stems("processed-a"), ["a"]);
        assert_eq!(stems("sub/failed-a.csv.7"), ["sub/a.csv.7", "sub/a.csv"]);
        assert_eq!(stems("a.7.2"), ["a.7.2", "a.7", "a"]);
        assert_eq!(stand_in(OsStr::new("a.csv"), 7).unwrap(), "a.7.csv");
        assert_eq!(stand_in(OsStr::new("a"), 7).unwrap(), "a.7");
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
