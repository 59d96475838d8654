//! Which closed outputs are still kept, and how the others go.
//!
//! What holds here: a file goes only if it is the one that was closed, or what that was compressed to; the
//! oldest goes first. The ledger forgets it after it is gone for good: what a crash leaves undone is done
//! again.

use std::ffi::OsString;
use std::time::Duration;

use super::compressing::{self, Compress, with};
use crate::durable::{self, Dir};
use crate::failure::Result;
use crate::ledger::{Kept, Ledger, Rotated, Target};
use crate::units::Keep;

/// Files that are removed in one turn.
const STEP: usize = 64;

/// Time between two turns while there is more to remove.
const PAUSE: Duration = Duration::from_millis(200);

/// Removes the closed files of `target` that are not to be kept, as far as one turn goes.
///
/// Returns how long until there may be something to remove, if time alone decides it.
pub fn prune(
    ledger: &mut Ledger,
    target: Target,
    dir: &Dir,
    keep: Keep,
    now_ms: i64,
) -> Result<Option<Duration>> {
    let mut closed = ledger.done_rotations(target)?;
    for rotated in &mut closed {
        if rotated.kept == Kept::Unknown {
            rotated.kept = compressing::kept(dir, &rotated.name, rotated.inode)?;
            ledger.settle_rotation(target, rotated.generation, rotated.kept)?;
        }
    }
    let goes = surplus(&closed, keep, now_ms);
    let (now, kept) = closed.split_at(goes.min(STEP));
    for rotated in now {
        remove(dir, rotated)?;
    }
    if !now.is_empty() {
        dir.sync("output directory")?;
        let generations: Vec<u64> = now.iter().map(|rotated| rotated.generation).collect();
        ledger.forget_rotations(target, &generations)?;
    }
    if goes > STEP {
        return Ok(Some(PAUSE));
    }
    let oldest = kept.first().map(|rotated| rotated.closed_ms);
    Ok(match (keep, oldest) {
        (Keep::Age(age), Some(closed_ms)) => Some(age.saturating_sub(since(closed_ms, now_ms))),
        _ => None,
    })
}

/// How many of these, from the oldest on, are not to be kept.
fn surplus(closed: &[Rotated], keep: Keep, now_ms: i64) -> usize {
    match keep {
        Keep::Age(age) => {
            closed.iter().take_while(|rotated| since(rotated.closed_ms, now_ms) >= age).count()
        }
        Keep::Bytes(most) => {
            let mut kept: u64 = closed.iter().map(|rotated| rotated.kept.bytes()).sum();
            let goes = closed.iter().take_while(|rotated| {
                let is_surplus = kept > most;
                kept -= rotated.kept.bytes();
                is_surplus
            });
            goes.count()
        }
    }
}

fn since(closed_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(closed_ms)).unwrap_or(0))
}

/// Removes the file of a closed generation, if it is still there.
fn remove(dir: &Dir, rotated: &Rotated) -> durable::Result<()> {
    let Kept::In(inode, bytes) = rotated.kept else { return Ok(()) };
    let packed = [Compress::Gzip, Compress::Zstd].map(|how| with(&rotated.name, how.suffix()));
    for name in std::iter::once(OsString::from(&rotated.name)).chain(packed) {
        let there = dir.stat(&name)?;
        let is_it =
            there.is_some_and(|stat| (stat.st_ino, stat.st_size.cast_unsigned()) == (inode, bytes));
        if is_it {
            dir.unlink(&name)?;
            tracing::info!(closed = %name.display(), "removed a closed file that is past `keep`");
            return Ok(());
        }
    }
    Ok(())
}
