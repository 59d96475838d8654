//! Which closed outputs are still kept, and how the others go.
//!
//! Invariants: a file goes only if it is the one that was closed, or what that was compressed to; the
//! oldest goes first. The ledger forgets it after it is gone for good: what a crash leaves undone is done
//! again.

use std::ffi::OsString;
use std::time::Duration;

use super::compressing::{Compress, with};
use crate::durable::{self, Dir};
use crate::failure::Result;
use crate::ledger::{Kept, Ledger, Rotated};
use crate::microbatch::Target;
use crate::units::Keep;

/// Files that are removed in one turn.
const STEP: usize = 64;

/// Time between two turns while there is more to remove.
const PAUSE: Duration = Duration::from_millis(200);

/// Removes the closed files of `target` that are not to be kept, as far as one turn goes; `kept` are the bytes
/// of all that are there.
///
/// Returns how long until there may be something to remove, if time alone decides it.
///
/// # Errors
/// When one of them cannot be removed; then the others are.
pub fn prune(
    ledger: &mut Ledger,
    target: Target,
    dir: &Dir,
    (keep, kept): (Keep, &mut u64),
    now_ms: i64,
) -> Result<Option<Duration>> {
    let oldest = ledger.oldest_rotations(target, STEP)?;
    let mut gone = Vec::new();
    let mut stays = None;
    let mut next = None;
    for rotated in &oldest {
        let age = since(rotated.closed_ms, now_ms);
        let goes = match keep {
            Keep::Age(most) => age >= most,
            Keep::Bytes(most) => *kept > most,
        };
        if !goes {
            next = Some(age);
            break;
        }
        match remove(dir, rotated) {
            Ok(()) => {
                gone.push(rotated.generation);
                *kept = kept.saturating_sub(rotated.kept.bytes());
            }
            // It is that file's own trouble, as a rule.
            Err(error) => stays = Some(error),
        }
    }
    if !gone.is_empty() {
        dir.sync("output directory")?;
        ledger.forget_rotations(target, &gone)?;
    }
    if let Some(error) = stays {
        return Err(error.into());
    }
    Ok(match (next, keep) {
        (Some(age), Keep::Age(most)) => Some(most.saturating_sub(age)),
        (None, _) if oldest.len() == STEP => Some(PAUSE),
        _ => None,
    })
}

fn since(closed_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(closed_ms)).unwrap_or(0))
}

/// Removes the file of a closed generation, if it is still there. One that was compressed by a version that did
/// not write down what came of it is not known, and stays.
fn remove(dir: &Dir, rotated: &Rotated) -> durable::Result<()> {
    let (inode, bytes) = match rotated.kept {
        Kept::In(inode, bytes) => (inode, Some(bytes)),
        Kept::Unknown => (rotated.inode, None),
        Kept::Nowhere => return Ok(()),
    };
    let packed = [Compress::Gzip, Compress::Zstd].map(|how| with(&rotated.name, how.suffix()));
    for name in std::iter::once(OsString::from(&rotated.name)).chain(packed) {
        let Some(there) = dir.stat(&name)? else { continue };
        let same_size = bytes.is_none_or(|bytes| there.st_size.cast_unsigned() == bytes);
        if there.st_ino == inode && same_size {
            dir.unlink(&name)?;
            tracing::info!(closed = %name.display(), "removed a closed file that is past `keep`");
            return Ok(());
        }
    }
    Ok(())
}
