//! Committed to published: the bytes that the ledger owes, written where the ledger says.
//!
//! What holds here:
//! - Only a [`Committed`] is published, at the offset in its row; doing it again changes nothing.
//! - Nothing is ever truncated. An output that is missing was taken away, and a new generation
//!   begins; one that is shorter than the ledger says is damage, and stops the daemon.
//! - What was published is durable after [`Publisher::sync`], not before; until then the ledger
//!   holds the bytes.

mod appended;
pub mod parts;
pub mod rotation;

use std::ffi::OsStr;
use std::path::Path;

use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::ledger::{Committed, Ledger, Span, Target};
use appended::Appended;
pub use appended::{begins_otherwise, checksum};
use parts::Parts;

/// The outputs of one job.
pub struct Publisher {
    outputs: Vec<(Target, Output)>,
    staging: Dir,
}

/// An output, by what it is on the disk.
enum Output {
    Appended(Appended),
    Parts(Parts),
}

/// What an output is, where it is, and what it begins with.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// One file, which begins with these bytes.
    File(&'a Path, &'a [u8]),
    /// A folder with a file for each microbatch.
    Folder(&'a Path),
}

/// Renames an output out of the way, so that the next span begins a new one; `sequence` is the last
/// microbatch that it knows of. No file is ever replaced.
pub fn set_aside(path: &Path, sequence: u64) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let dir = Dir::open(parent)?;
    for number in 0_u32.. {
        let mut aside = name.to_owned();
        aside.push(format!(".before-{sequence}"));
        if number > 0 {
            aside.push(format!(".{number}"));
        }
        if dir.rename_no_replace(name, &dir, &aside)? {
            tracing::info!(output = %path.display(), aside = %aside.display(), "set aside");
            break;
        }
    }
    Ok(dir.sync("output directory")?)
}

impl Publisher {
    /// Publishes to these places from this staging directory.
    pub fn open(targets: &[(Target, Place<'_>)], staging: &Path) -> Result<Self> {
        let open = |(target, place): &(Target, Place<'_>)| {
            let output = match place {
                Place::File(path, header) => Output::Appended(Appended::open(path, header)?),
                Place::Folder(path) => Output::Parts(Parts::open(path)?),
            };
            Ok((*target, output))
        };
        let outputs = targets.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { outputs, staging: Dir::open(staging)? })
    }

    /// Looks where each output ends, before a commit says where the next span begins.
    pub fn observe(&mut self, ledger: &mut Ledger) -> Result<()> {
        for (target, output) in &mut self.outputs {
            let output = match output {
                Output::Appended(output) => output,
                Output::Parts(parts) => {
                    parts.observe()?;
                    continue;
                }
            };
            let position = ledger.position(*target);
            let observed = output.observe(position)?;
            if observed != position {
                ledger.reposition(*target, observed);
            }
        }
        Ok(())
    }

    /// Publishes a group, one output after the other.
    pub fn publish<'a>(
        &mut self,
        group: &(impl Iterator<Item = &'a Committed> + Clone),
    ) -> Result<()> {
        let known = |span: &Span<'_>| {
            self.outputs.iter().any(|(target, _)| *target == span.addition.target)
        };
        if !group.clone().flat_map(Committed::spans).all(|span| known(&span)) {
            return Err(Failure::fatal("the ledger owes to an output that the job has not"));
        }
        for (target, output) in &mut self.outputs {
            let target = *target;
            let mine = move |span: &Span<'_>| span.addition.target == target;
            match output {
                Output::Appended(output) => {
                    let spans = group.clone().flat_map(Committed::spans).filter(mine);
                    output.publish(spans, &self.staging)?;
                }
                Output::Parts(output) => {
                    for committed in group.clone() {
                        for span in committed.spans().filter(mine) {
                            output.publish(committed.sequence(), span)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// At the start: brings every output to what the ledger says, whatever a crash left.
    pub fn recover(&mut self, ledger: &mut Ledger) -> Result<Vec<Committed>> {
        let mut owed = ledger.owed()?;
        let mut relocated = false;
        for (target, output) in &mut self.outputs {
            let Output::Appended(output) = output else { continue };
            let spans = owed.iter().flat_map(Committed::spans);
            let first =
                spans.filter(|span| span.addition.target == *target).map(|span| span.at).next();
            relocated |= output.recover(*target, first, ledger)?;
        }
        if relocated {
            owed = ledger.owed()?;
        }
        self.publish(&owed.iter())?;
        Ok(owed)
    }

    /// Makes everything published durable.
    pub fn sync(&mut self) -> Result<()> {
        for (_, output) in &mut self.outputs {
            match output {
                Output::Appended(output) => output.sync()?,
                Output::Parts(output) => output.sync()?,
            }
        }
        Ok(())
    }

    /// Removes a staging file that nothing needs any more.
    pub fn discard(&self, name: &OsStr) -> Result<()> {
        let parts = self.outputs.iter().find_map(|(_, output)| match output {
            Output::Parts(parts) if parts::is_waiting(name) => Some(parts),
            _ => None,
        });
        match parts {
            Some(parts) => parts.discard(name),
            None => Ok(self.staging.unlink(name)?),
        }
    }
}
