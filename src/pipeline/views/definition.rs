//! A view as the job defines it, and its results as bytes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::durable;
use crate::encode;
use crate::encode::envelope::Envelope;
use crate::engine::{self, Asked, Entries, States, View};
use crate::failure::{Failure, Result};
use crate::ledger::{Continued, KnownView, Rewritten, Written};
use crate::pipeline::work;
use crate::sink::replaced::Replaced;

/// Groups that are left out of a result: with more of them it is the query that is wrong, and to find each
/// would take long.
const LEFT_OUT_MAX: usize = 1000;

/// The number of groups that are tried once more with all others around them.
const TRIED_AGAIN_MAX: usize = 16;

/// Groups whose result is made at once, where each makes its own.
const RESULT_GROUPS: usize = 64 * 1024;

/// A group that is left out of a result.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// Its key, as people read it.
    pub group: String,
    /// Why it cannot be computed.
    pub reason: String,
}

/// A view as the job defines it.
#[derive(Clone)]
pub struct Definition {
    /// Its name in the job.
    pub name: String,
    /// The query.
    pub view: Arc<View>,
    /// Which groups are written.
    pub asked: Asked,
    /// Where its result goes.
    pub path: PathBuf,
    /// How its records become bytes.
    pub encode: encode::Format,
    /// A result that is replaced as a whole is replaced at most so often.
    pub every: Duration,
    /// When it is new in a job with history, it begins with the next file.
    pub begins_now: bool,
}

impl Definition {
    /// The header of the output.
    pub fn header(&self) -> Vec<u8> {
        self.encode.header(&self.view.schema()).unwrap_or_default()
    }

    /// Where and how the result is written.
    pub fn written(&self) -> Written {
        Written { path: self.path.clone(), format: self.encode.signature() }
    }

    /// Whether the view can continue from its state in the ledger, and how.
    pub fn continues(&self, known: KnownView) -> Rewritten {
        let now = Continued {
            signature: self.view.signature(),
            begins_now: self.begins_now,
            written: self.written(),
            appends: self.appends(),
        };
        known.becomes(&now, engine::continues)
    }

    /// True when results are appended.
    pub fn appends(&self) -> bool {
        self.asked != Asked::All
    }

    /// The result over these groups, each on its own. One that cannot be computed is left out until it can
    /// be, and told: whatever comes later would find it again.
    pub fn encode_states(
        &self,
        states: &States,
        left_out: &mut Vec<LeftOut>,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.encode_some(states, left_out, write)
    }

    fn encode_some(
        &self,
        states: &States,
        bad: &mut Vec<LeftOut>,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match self.encoded(states) {
            Ok(bytes) => write(&bytes),
            Err(Failure::Bad(reason)) if states.len() == 1 => {
                check_left_out(bad.len() + 1, &reason)?;
                bad.push(self.left_out(states, reason));
                Ok(())
            }
            Err(Failure::Bad(_)) if states.len() > 1 => {
                let halves = states.halves().map_err(work::failure)?;
                halves.iter().try_for_each(|half| self.encode_some(half, bad, write))
            }
            Err(failure) => Err(failure),
        }
    }

    fn left_out(&self, group: &States, reason: String) -> LeftOut {
        LeftOut {
            group: crate::record::reason(self.view.keys_of(group).pop().unwrap_or_default()),
            reason,
        }
    }

    /// Logs a group that is left out.
    pub fn log(&self, left_out: &LeftOut) {
        let (view, LeftOut { group, reason }) = (&self.name, left_out);
        tracing::error!(
            view,
            group,
            reason,
            "a group cannot be computed and is left out; its records are in the output"
        );
    }

    fn encoded(&self, states: &States) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for records in &self.view.evaluate(states).map_err(work::failure)? {
            self.encode.encode(records, &mut bytes).map_err(Failure::Bad)?;
        }
        Ok(bytes)
    }

    /// The same over groups as they were kept.
    pub fn encode_entries(
        &self,
        entries: &Entries,
        left_out: &mut Vec<LeftOut>,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        for start in (0..entries.len()).step_by(RESULT_GROUPS) {
            let end = entries.len().min(start + RESULT_GROUPS);
            let states = self.view.states(entries.part(start..end)).map_err(work::failure)?;
            self.encode_states(&states, left_out, write)?;
        }
        Ok(())
    }

    /// The whole result over these groups, with all that is around it, and the groups whose row cannot be
    /// computed: they are left out, and told.
    pub fn result(&self, entries: Entries) -> Result<(Vec<u8>, Vec<LeftOut>)> {
        let states = self.view.states(entries).map_err(work::failure)?;
        let reason = match self.result_of(&states) {
            Err(Failure::Bad(reason)) => reason,
            result => return Ok((result?, Vec::new())),
        };
        let mut bad = Vec::new();
        self.find_bad(&states, 0, &mut bad)?;
        if bad.is_empty() {
            // No group is to blame.
            return Err(Failure::Bad(reason));
        }
        let without = |bad: &[(usize, String)]| {
            let places: Vec<_> = bad.iter().map(|(place, _)| *place).collect();
            states.without(&places).map_err(work::failure)
        };
        if bad.len() <= TRIED_AGAIN_MAX {
            // With the others around it a group may have a row that it has not alone.
            for place in bad.iter().map(|(place, _)| *place).collect::<Vec<_>>() {
                let fewer: Vec<_> = bad.iter().filter(|(one, _)| *one != place).cloned().collect();
                if self.result_of(&without(&fewer)?).is_ok() {
                    bad = fewer;
                }
            }
        }
        let result = self.result_of(&without(&bad)?)?;
        let left_out = bad.into_iter().map(|(place, reason)| {
            let group = states.one(place).map_err(work::failure)?;
            Ok(self.left_out(&group, reason))
        });
        Ok((result, left_out.collect::<Result<_>>()?))
    }

    fn result_of(&self, states: &States) -> Result<Vec<u8>> {
        let results = self.view.evaluate(states).map_err(work::failure)?;
        let mut envelope = Envelope::new(self.encode);
        let mut bytes = envelope.begin(&self.view.schema()).map_err(Failure::Bad)?;
        for records in &results {
            if self.encode.is_columnar() {
                bytes.extend(envelope.encode(records).map_err(Failure::Bad)?);
            } else {
                self.encode.encode(records, &mut bytes).map_err(Failure::Bad)?;
            }
        }
        bytes.extend(envelope.end().map_err(Failure::Bad)?);
        Ok(bytes)
    }

    /// Those of these groups, of which the first has this place, whose row cannot be computed, and why.
    fn find_bad(
        &self,
        states: &States,
        first: usize,
        bad: &mut Vec<(usize, String)>,
    ) -> Result<()> {
        match self.result_of(states) {
            Err(Failure::Bad(reason)) if states.len() == 1 => {
                check_left_out(bad.len() + 1, &reason)?;
                bad.push((first, reason));
                Ok(())
            }
            Err(Failure::Bad(_)) if states.len() > 1 => {
                let [before, behind] = states.halves().map_err(work::failure)?;
                self.find_bad(&before, first, bad)?;
                self.find_bad(&behind, first + before.len(), bad)
            }
            result => result.map(drop),
        }
    }

    /// Replaces a result.
    pub fn replace(&self, result: &[u8]) -> Result<()> {
        let place = self.path.display();
        let write = || -> anyhow::Result<()> {
            durable::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))?;
            let mut file = Replaced::new(&self.path)?;
            file.write_all(result)?;
            file.finish()
        };
        write().with_context(|| format!("replace {place}")).map_err(Failure::Transient)
    }
}

fn check_left_out(bad: usize, reason: &str) -> Result<()> {
    if bad <= LEFT_OUT_MAX {
        return Ok(());
    }
    let message =
        format!("more than {LEFT_OUT_MAX} groups cannot be computed; the last of them: {reason}");
    Err(Failure::Bad(message))
}
