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

/// Bytes that are free for this user; `None` where the file system does not say.
fn free(place: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(place).ok()?;
    (about.f_blocks > 0).then(|| about.f_bavail.saturating_mul(about.f_frsize))
}

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
