//! Late records that are none after all.
//!
//! Invariants: whether a record is late for a view of sessions is known only when those that are open
//! are. Until then it stands with the late ones; here those are left out that count.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};

use anyhow::Context as _;

use super::{Prepared, StagingArea};
use crate::failure::{Failure, Result};
use crate::microbatch::{Addition, Payload, Target};
use crate::staging::Stage;

/// For each view what became of the records that were in doubt, in their order.
pub type Verdicts = Vec<std::vec::IntoIter<bool>>;

/// Leaves out of the late records of a microbatch those that are not late. `lines` has the view of each.
pub fn leave_out(
    prepared: &mut Prepared,
    lines: &[usize],
    mut verdicts: Verdicts,
    target: Option<Target>,
    staging: &StagingArea,
) -> Result<()> {
    let mut is_late = |view: &usize| {
        let verdict = verdicts.get_mut(*view).and_then(Iterator::next);
        verdict.unwrap_or(true)
    };
    let stays: Vec<bool> = lines.iter().map(&mut is_late).collect();
    let out = stays.iter().filter(|stays| !**stays).count();
    let late = &mut prepared.batch.counts.late;
    *late = late.saturating_sub(out as u64);
    let additions = &prepared.batch.additions;
    let at = additions.iter().position(|addition| Some(addition.target) == target);
    let Some(at) = at.filter(|_| out > 0) else { return Ok(()) };
    let all = prepared.batch.additions.remove(at);
    // Whatever comes of it, what was staged is to be removed.
    if let Payload::File(name) = &all.payload {
        prepared.discarded.push(name.clone());
    }
    prepared.batch.additions.extend(without(&all, &stays, staging)?);
    Ok(())
}

fn without(all: &Addition, stays: &[bool], staging: &StagingArea) -> Result<Option<Addition>> {
    let mut file;
    let mut bytes;
    let lines: &mut dyn Read = match &all.payload {
        Payload::Memory(held) => {
            bytes = held.as_slice();
            &mut bytes
        }
        Payload::File(name) => {
            let path = staging.dir().path().join(name);
            file = File::open(&path)
                .with_context(|| format!("open {}", path.display()))
                .map_err(Failure::Transient)?;
            &mut file
        }
    };
    let mut lines = BufReader::new(lines);
    let mut line = Vec::new();
    let mut stage = Stage::new(staging);
    for stays in stays {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).context("read the late records again");
        read.map_err(Failure::Transient)?;
        if *stays {
            stage.write(&line)?;
        }
    }
    Ok(stage.finish(all.target)?)
}
