//! Committed to published: each sink gets the bytes that the ledger owes to it.
//!
//! Invariants:
//! - Only a [`Committed`] is published, at the offset in its row; doing it again changes nothing.
//! - What was published to a file is durable after [`Publisher::sync`], not before; what is sent to a remote
//!   target is there when the target has confirmed it. Until then the ledger holds the bytes.

pub mod agreement;
mod compressing;
pub mod delivery;
mod retention;
pub mod rotation;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use crate::durable::Dir;
use crate::failure::{Failure, Result};
use crate::ledger::{Committed, Ledger};
use crate::microbatch::{Microbatch, OutputFile, Owed, Target};
use crate::sink::{Next, Recovery, Sink, Start};
use delivery::{Delivery, News};

/// Where staged files wait, in the state directory.
pub const STAGING: &str = "staging";

/// The outputs of one job.
pub struct Publisher {
    outputs: Vec<(Target, Box<dyn Sink>)>,
    /// The ways to remote targets.
    pub deliveries: Vec<Delivery>,
    staging: Arc<Dir>,
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
            tracing::info!(output = %path.display(), aside = %aside.display(), "the output was set aside");
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
    /// Publishes to these sinks, and by these ways. Staged files wait in `staging`, unless a sink keeps them.
    pub fn new(
        outputs: Vec<(Target, Box<dyn Sink>)>,
        deliveries: Vec<Delivery>,
        staging: Arc<Dir>,
    ) -> Self {
        Self { outputs, deliveries, staging }
    }

    /// Fixes, before the commit, what must not change when a remote target is sent the same again.
    pub fn fix(&self, group: &mut [Microbatch], ledger: &Ledger) -> Result<()> {
        self.deliveries.iter().try_for_each(|delivery| delivery.fix(group, ledger))
    }

    /// More is owed to remote targets.
    pub fn note_committed(&mut self, group: &[Committed]) {
        for delivery in &mut self.deliveries {
            delivery.note_committed(group);
        }
    }

    /// Takes what remote targets have answered.
    pub fn take_answers(&mut self, ledger: &Ledger, news: &mut News) -> Result<()> {
        self.deliveries.iter_mut().try_for_each(|delivery| delivery.take_answer(ledger, news))
    }

    /// Opens the remote targets that are closed, and are due.
    pub fn open_closed(&mut self, ledger: &Ledger) -> Result<()> {
        self.deliveries.iter_mut().try_for_each(|delivery| delivery.open_if_due(ledger))
    }

    /// Sends what is owed next to remote targets that are open.
    pub fn send(&mut self, ledger: &mut Ledger) -> Result<()> {
        self.deliveries.iter_mut().try_for_each(|delivery| delivery.send_if_owed(ledger))
    }

    /// Looks where each output ends, before a commit says where the next span begins. True when one of them,
    /// in which there was something, goes on in a new file.
    pub fn observe(&mut self, ledger: &mut Ledger) -> Result<bool> {
        let mut begins = false;
        for (target, sink) in &mut self.outputs {
            let position = ledger.position(*target);
            let last_span = || ledger.last_span(*target, position);
            let committed = ledger.last_sequence();
            let observed = sink.observe(Next { position, committed, last_span: &last_span })?;
            begins |= observed.generation != position.generation;
            if observed != position {
                ledger.reposition(*target, observed);
            }
        }
        Ok(begins)
    }

    /// Publishes what a group owes to files, one after the other.
    pub fn publish<'a>(
        &mut self,
        group: &(impl Iterator<Item = &'a Committed> + Clone),
    ) -> Result<()> {
        for (target, sink) in &mut self.outputs {
            sink.publish(&owed_to(*target, group.clone()))?;
        }
        Ok(())
    }

    /// At the start: brings every output to what the ledger says, whatever a crash left.
    pub fn recover(&mut self, ledger: &mut Ledger) -> Result<Vec<Committed>> {
        let mut owed = ledger.owed()?;
        self.check_known(&owed, ledger)?;
        let mut relocated = false;
        for (target, sink) in &mut self.outputs {
            let end = ledger.position(*target);
            let first = owed_to(*target, owed.iter()).first().map_or(end, |span| span.at);
            let last_span = ledger.last_span(*target, first)?;
            let start = Start { end, first, last_span, file: ledger.file_of(*target)? };
            if let Recovery::Relocate { header } = sink.recover(start)? {
                ledger.relocate(*target, first, &header)?;
                relocated = true;
            }
        }
        if relocated {
            owed = ledger.owed()?;
        }
        self.publish(&owed.iter())?;
        Ok(owed)
    }

    /// Bytes may be owed to a file, or a system, that the job no longer writes to.
    fn check_known(&self, owed: &[Committed], ledger: &Ledger) -> Result<()> {
        let is_known = |target: Target| self.deliveries.iter().any(|known| known.delivers(target));
        if let Some(target) = ledger.owed_elsewhere()?.iter().find(|of| !is_known(**of)) {
            return Err(Failure::halt(format!(
                "records are still owed to {}, which is not in the job any more: set it back, start once, and \
                 change it then",
                ledger.path_of(*target)?.display()
            )));
        }
        let known = |target| self.outputs.iter().any(|(known, _)| *known == target);
        match owed_elsewhere(owed, &known, ledger)? {
            Some(message) => Err(Failure::halt(message)),
            None => Ok(()),
        }
    }

    /// Makes everything published durable; returns the files of which the ledger does not know yet.
    pub fn sync(&mut self) -> Result<Vec<(Target, OutputFile)>> {
        let mut news = Vec::new();
        for (target, sink) in &mut self.outputs {
            sink.sync()?;
            news.extend(sink.news().into_iter().map(|file| (*target, file)));
        }
        Ok(news)
    }

    /// Removes a staged file that nothing needs any more.
    pub fn discard(&self, name: &OsStr) -> Result<()> {
        for (_, sink) in &self.outputs {
            if sink.discard(name)? {
                return Ok(());
            }
        }
        Ok(self.staging.unlink(name)?)
    }
}

/// The spans of a group that are owed to one output.
fn owed_to<'a>(target: Target, group: impl Iterator<Item = &'a Committed>) -> Vec<Owed<'a>> {
    group.flat_map(Committed::owed).filter(|span| span.addition.target == target).collect()
}
