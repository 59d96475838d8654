//! When an output is closed: between two commits, with nothing owed to it.

use std::time::Instant;

use super::Pipeline;
use crate::clock::now_ms;
use crate::failure::{Failure, Result};
use crate::publish::rotation::{Rotation, Rule};
use crate::source::Source;

impl Pipeline {
    /// Closes the outputs for which that is due, and does what was decided before.
    pub fn rotate(&mut self, source: &mut dyn Source) -> Result<()> {
        let mut rotations = std::mem::take(&mut self.keeping.rotations);
        self.keeping.rotation_due = None;
        let rotated =
            rotations.iter_mut().try_for_each(|rotation| self.rotate_with(rotation, source));
        self.keeping.rotations = rotations;
        rotated
    }

    fn rotate_with(&mut self, rotation: &mut Rotation, source: &mut dyn Source) -> Result<()> {
        rotation.carry_out(&mut self.ledger)?;
        if rotation.is_due(&self.ledger, now_ms())? {
            // One that was cut is damage, and stops the daemon before it is sealed.
            self.observe(source)?;
        }
        if rotation.is_due(&self.ledger, now_ms())? {
            self.sync(source)?;
            self.release()?;
            rotation.decide(&mut self.ledger, now_ms())?;
            rotation.carry_out(&mut self.ledger)?;
        }
        rotation.prune(&mut self.ledger, now_ms())?;
        let due = rotation.wait(&self.ledger, now_ms())?.map(|wait| Instant::now() + wait);
        self.keeping.rotation_due = [self.keeping.rotation_due, due].into_iter().flatten().min();
        Ok(())
    }

    /// At the start, before anything else: does what an earlier run has decided, whatever the job says of
    /// rotation now.
    pub fn recover_rotation(&mut self) -> Result<()> {
        let own: Vec<_> = self.keeping.rotations.iter().map(Rotation::target).collect();
        for (target, path) in self.ledger.rotating()? {
            if own.contains(&target) {
                continue;
            }
            let mut rotation = Rotation::new(Rule::default(), target, &path);
            match rotation.carry_out(&mut self.ledger) {
                Err(failure @ (Failure::Fatal(_) | Failure::Stopped)) => return Err(failure),
                Err(failure) => {
                    let output = path.display();
                    let error = failure.into_error();
                    tracing::warn!(%output, error = %format!("{error:#}"), "the output is not closed yet");
                }
                Ok(()) => {}
            }
        }
        let Self { keeping, ledger, .. } = self;
        keeping.rotations.iter_mut().try_for_each(|rotation| rotation.carry_out(ledger))
    }

    /// Removes everything past `keep` while the job cannot go on: a disk that is full may be full of that.
    ///
    /// # Errors
    /// Only those that stop the daemon, such as a failed fsync.
    pub fn make_room(&mut self, source: &dyn Source) -> Result<()> {
        let Self { keeping, ledger, .. } = self;
        for rotation in &mut keeping.rotations {
            rotation.prune(ledger, now_ms())?;
        }
        self.prune(source, Instant::now())
    }

    /// Waits for what is under way, all of it, or breaks it off for the next start.
    pub fn finish_rotation(&mut self, waits: bool) -> Result<()> {
        let Self { keeping, ledger, .. } = self;
        for rotation in &mut keeping.rotations {
            if waits {
                rotation.finish(ledger)?;
                rotation.prune(ledger, now_ms())?;
            } else {
                rotation.break_off(ledger)?;
            }
        }
        Ok(())
    }

    /// When time alone closes an output, or lets go of what was closed.
    pub fn rotation_due(&self) -> Option<Instant> {
        self.keeping.rotation_due
    }
}
