//! The disk before it is full.
//!
//! Invariants: a full disk does no harm, but it harms others on it; so the daemon pauses before,
//! and resumes when there is room again.

use std::path::Path;

use bytesize::ByteSize;

use crate::durable::free_bytes as free;
use crate::failure::{Failure, Result};
use crate::source::folder::archive::CROWD;

/// Refuses to go on while one of these places has less than `least` bytes free.
pub fn check_disk<'a>(places: impl IntoIterator<Item = &'a Path>, least: u64) -> Result<()> {
    for place in places {
        let Some(free) = free(place).filter(|free| *free < least) else { continue };
        return Err(Failure::Transient(anyhow::anyhow!(
            "only {} are free where {} is, and `engine.min_free` is {}",
            ByteSize(free),
            place.display(),
            ByteSize(least)
        )));
    }
    Ok(())
}

/// Descriptors that the job itself needs at most: ledger, locks, folders, outputs, HTTP.
const OWN_DESCRIPTORS: u64 = 32;

/// The limit where it cannot be read: the usual one.
const DESCRIPTORS_UNKNOWN: u64 = 1024;

/// Descriptors for each thread that works: staging files, and their copies that are synced.
const WORKER_DESCRIPTORS: u64 = 8;

/// How many inputs may be taken at once: what the limit of this process leaves, one at least. A crowd is still
/// open, on its way to the archive, while the next group is gathered: together they may take that much. The
/// limit is read from proc(5), since a service may be forbidden to ask the kernel for it.
pub fn descriptors(workers: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = open_files(&limits).unwrap_or(DESCRIPTORS_UNKNOWN);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64);
    let own = OWN_DESCRIPTORS / 2 + WORKER_DESCRIPTORS * workers as u64;
    let unused = most.saturating_sub(open.max(OWN_DESCRIPTORS / 2)).saturating_sub(own);
    let left = usize::try_from(unused).unwrap_or(usize::MAX);
    (left / 2).max(left.min(CROWD - 1)).max(1)
}

/// The limit that is in force, of the text of proc(5).
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    soft.parse().ok().or_else(|| (soft == "unlimited").then_some(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_read() {
        let line =
            "Max open files            256                  4096                 files     \n";
        assert_eq!(open_files(&format!("Limit Soft\n{line}")), Some(256));
        assert_eq!(open_files("Max open files unlimited unlimited files"), Some(u64::MAX));
        assert_eq!(open_files(""), None);
        assert!(descriptors(2) >= 1);
    }

    #[test]
    fn a_place_without_room_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free(folder.path()).is_some_and(|free| free > 0));
        check_disk([folder.path()], 1).unwrap();
        let Err(Failure::Transient(error)) = check_disk([folder.path()], u64::MAX) else {
            panic!("it was not refused")
        };
        assert!(error.to_string().contains("are free where"), "{error}");
    }
}
