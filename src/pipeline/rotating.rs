//! When an output is closed: between two commits, with nothing owed to it.

use std::time::Instant;

use super::Pipeline;
use crate::failure::{Failure, Result};
use crate::ledger::now_ms;
use crate::publish::rotation::{Rotation, Rule};
use crate::source::Source;

impl Pipeline {
    /// Closes the output if that is due, and does what was decided before.
    pub fn rotate(&mut self, source: &mut Source) -> Result<()> {
        let Some(mut rotation) = self.keeping.rotation.take() else { return Ok(()) };
        let rotated = self.rotate_with(&mut rotation, source);
        self.keeping.rotation = Some(rotation);
        rotated
    }

    fn rotate_with(
        &mut self,
        rotation: &mut crate::publish::rotation::Rotation,
        source: &mut Source,
    ) -> Result<()> {
        rotation.carry_out(&mut self.ledger)?;
        if rotation.is_due(&self.ledger, now_ms())? {
            // One that was cut is damage, and stops the daemon before it is sealed.
            self.observe(source)?;
        }
        if rotation.is_due(&self.ledger, now_ms())? {
            self.sync(source)?;
            self.settle()?;
            rotation.decide(&mut self.ledger, now_ms())?;
            rotation.carry_out(&mut self.ledger)?;
        }
        // What is due and could not be done now waits for the next round, whatever wakes it.
        let wait = rotation.wait(&self.ledger, now_ms())?.filter(|wait| !wait.is_zero());
        self.keeping.rotation_due = wait.map(|wait| Instant::now() + wait);
        Ok(())
    }

    /// At the start, before anything else: does what an earlier run has decided, whatever the job says of
    /// rotation now.
    pub fn recover_rotation(&mut self) -> Result<()> {
        let own = self.keeping.rotation.as_ref().map(Rotation::target);
        for (target, path) in self.ledger.rotating()? {
            if Some(target) == own {
                continue;
            }
            let mut rotation = Rotation::new(Rule::default(), target, &path);
            match rotation.carry_out(&mut self.ledger) {
                Err(failure @ (Failure::Fatal(_) | Failure::Stopped)) => return Err(failure),
                Err(failure) => {
                    let (output, error) = (path.display(), failure.into_error());
                    tracing::warn!(%output, error = %format!("{error:#}"), "is not closed yet");
                }
                Ok(()) => {}
            }
        }
        match &mut self.keeping.rotation {
            Some(rotation) => rotation.carry_out(&mut self.ledger),
            None => Ok(()),
        }
    }

    /// Waits for what is under way, all of it, or breaks it off for the next start.
    pub fn finish_rotation(&mut self, waits: bool) -> Result<()> {
        match &mut self.keeping.rotation {
            Some(rotation) if waits => rotation.finish(&mut self.ledger),
            Some(rotation) => rotation.break_off(&mut self.ledger),
            None => Ok(()),
        }
    }

    /// When time alone closes the output.
    pub fn rotation_due(&self) -> Option<Instant> {
        self.keeping.rotation_due
    }
}
