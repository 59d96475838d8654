//! Committed to published: the bytes that the ledger owes, written where the ledger says.
//!
//! Invariants:
//! - Only a [`Committed`] is published, at the offset in its row; doing it again changes nothing.
//! - Nothing is ever truncated. An output that is missing was taken away, and a new generation
//!   begins; one that is shorter than the ledger says is damage, and stops the daemon.
//! - What was published is durable after [`Publisher::sync`], not before; until then the ledger
//!   holds the bytes.

mod appended;
mod compressing;
mod found;
pub mod parts;
mod retention;
pub mod rotation;

use std::ffi::OsStr;
use std::path::Path;

use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::ledger::{Committed, Ledger, OutputFile};
use crate::microbatch::{Owed, Target};
use appended::Appended;
pub use found::{begins_otherwise, checksum};
use parts::Parts;

/// Where staged files wait, in the state directory.
pub const STAGING: &str = "staging";

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

/// The kind of an output, its path, and its header.
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

/// The message about bytes that are still owed to a file which the job no longer writes, if there are any.
fn owed_elsewhere(
    owed: &[Committed],
    is_known: &impl Fn(Target) -> bool,
    ledger: &Ledger,
) -> Result<Option<String>> {
    let foreign = |span: &Owed<'_>| !is_known(span.addition.target);
    let mut spans = owed.iter().flat_map(Committed::owed).filter(foreign);
    let Some(first) = spans.next().map(|span| span.addition) else { return Ok(None) };
    let more = spans.filter(|span| span.addition.target == first.target);
    let bytes = first.length + more.map(|span| span.addition.length).sum::<u64>();
    Ok(Some(owed_message(&ledger.path_of(first.target)?, bytes)))
}

/// The message about bytes that are owed to a file which the job no longer writes.
pub fn owed_message(path: &Path, bytes: u64) -> String {
    format!(
        "{bytes} bytes are still owed to {}, which is not in the job any more: set it back, start once, \
         and change it then",
        path.display()
    )
}

impl Publisher {
    /// Publishes to these places from the staging directory in this state directory.
    pub fn open(targets: &[(Target, Place<'_>)], state: &Path) -> Result<Self> {
        let staging = state.join(STAGING);
        let open = |(target, place): &(Target, Place<'_>)| {
            let output = match place {
                Place::File(path, header) => Output::Appended(Appended::open(path, header)?),
                Place::Folder(path) => Output::Parts(Parts::open(path, state)?),
            };
            Ok((*target, output))
        };
        let outputs = targets.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { outputs, staging: Dir::open(&staging)? })
    }

    /// Looks where each output ends, before a commit says where the next span begins. True when one of them,
    /// in which there was something, goes on in a new file.
    pub fn observe(&mut self, ledger: &mut Ledger) -> Result<bool> {
        let mut begins = false;
        for (target, output) in &mut self.outputs {
            let output = match output {
                Output::Appended(output) => output,
                Output::Parts(parts) => {
                    parts.observe(ledger.last_sequence())?;
                    continue;
                }
            };
            let position = ledger.position(*target);
            let ends_in = || ledger.last_span(*target, position);
            let observed = output.observe(position, ends_in)?;
            begins |= observed.generation != position.generation;
            if observed != position {
                ledger.reposition(*target, observed);
            }
        }
        Ok(begins)
    }

    /// Publishes a group, one output after the other.
    pub fn publish<'a>(
        &mut self,
        group: &(impl Iterator<Item = &'a Committed> + Clone),
    ) -> Result<()> {
        for (target, output) in &mut self.outputs {
            let target = *target;
            let mine = move |span: &Owed<'_>| span.addition.target == target;
            match output {
                Output::Appended(output) => {
                    let spans = group.clone().flat_map(Committed::owed).filter(mine);
                    output.publish(spans, &self.staging)?;
                }
                Output::Parts(output) => {
                    for committed in group.clone() {
                        for span in committed.owed().filter(mine) {
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
        self.check_known(&owed, ledger)?;
        let mut relocated = false;
        for (target, output) in &mut self.outputs {
            let Output::Appended(output) = output else { continue };
            let spans = owed.iter().flat_map(Committed::owed);
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

    /// Bytes may be owed to a file that the job no longer writes.
    fn check_known(&self, owed: &[Committed], ledger: &Ledger) -> Result<()> {
        let known = |target| self.outputs.iter().any(|(known, _)| *known == target);
        match owed_elsewhere(owed, &known, ledger)? {
            Some(message) => Err(Failure::halt(message)),
            None => Ok(()),
        }
    }

    /// Makes everything published durable; returns the files of which the ledger does not know yet.
    pub fn sync(&mut self) -> Result<Vec<(Target, OutputFile)>> {
        let mut news = Vec::new();
        for (target, output) in &mut self.outputs {
            match output {
                Output::Appended(output) => {
                    output.sync()?;
                    news.extend(output.news().into_iter().map(|file| (*target, file)));
                }
                Output::Parts(output) => output.sync()?,
            }
        }
        Ok(news)
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
