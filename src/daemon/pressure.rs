//! The disk before it is full.
//!
//! What holds here: a full disk does no harm, but it harms others on it; so the daemon pauses before,
//! and goes on by itself when there is room again.

use std::path::Path;

use bytesize::ByteSize;

use crate::failure::{Failure, Result};

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

/// Descriptors for each thread that works: staging files, and their copies that are synced.
const WORKER_DESCRIPTORS: u64 = 8;

/// How many inputs may be open at once: what the limit of this process leaves, after it was raised as far
/// as it goes; one at least.
pub fn descriptors(workers: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused, the limit stays what it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64);
    let own = OWN_DESCRIPTORS / 2 + WORKER_DESCRIPTORS * workers as u64;
    let left = most.saturating_sub(open.max(OWN_DESCRIPTORS / 2)).saturating_sub(own);
    usize::try_from(left).unwrap_or(usize::MAX).max(1)
}

use crate::durable::free_bytes as free;

#[cfg(test)]
mod tests {
    use super::*;

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
