//! A view over the ledger: what a microbatch changes in it, and its result.

use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::Instant;

use super::changes::Changes;
use super::overlay::{Overlay, Stored};
use super::{Definition, LeftOut, STOPPED, Step};
use crate::engine::{Asked, Entries, States};
use crate::failure::{Failure, Result};
use crate::ledger::{Ledger, Told, ViewId, What};
use crate::microbatch::{Addition, Target};
use crate::staging::{Stage, StagingArea};

/// A view over the ledger.
pub(super) struct Open {
    pub(super) definition: Definition,
    pub(super) id: ViewId,
    /// Where groups are appended.
    pub(super) target: Option<Target>,
    /// When the result is to be replaced.
    pub(super) due: Option<Instant>,
    /// When it was.
    pub(super) replaced: Option<Instant>,
    /// The result after the last commit, where it was begun before that.
    pub(super) making: Option<Making>,
    /// The groups that are left out of it.
    pub(super) left_out: BTreeSet<String>,
    /// It sees nothing more until it is rebuilt.
    pub(super) is_stopped: bool,
}

/// A result, and what is left out of it.
type Made = (Vec<u8>, Vec<LeftOut>);

/// A result that is being made. When nobody wants it any more, it is waited for: else those of commits
/// that fail again and again would pile up.
pub struct Making(Option<JoinHandle<Result<Made>>>);

impl Making {
    pub(super) fn join(mut self) -> Result<Made> {
        let dead = || Err(Failure::fatal("a thread that makes a view's result died"));
        self.0.take().map_or_else(dead, |thread| thread.join().unwrap_or_else(|_| dead()))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// The outcome of a microbatch in a view.
pub(super) struct Merged {
    /// The groups that it has changed.
    touched: States,
    /// Up to where windows were closed before.
    closed: Option<i64>,
    /// The groups that were asked for and cannot be computed.
    left_out: Vec<LeftOut>,
}

/// Takes the bytes of a result.
type Write<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

impl Open {
    /// When a result that is found out of date now is to be replaced.
    pub(super) fn next_due(&self, now: Instant) -> Instant {
        self.replaced.map_or(now, |replaced| now.max(replaced + self.definition.every))
    }

    /// Computes the result of these changes on another thread while the ledger commits them. Only where nothing was kept before and it is wanted at once, as
    /// after a first large file: what was kept would have to be read before the commit.
    pub(super) fn begin(
        &self,
        ledger: &Ledger,
        changes: &Changes,
        is_last: bool,
    ) -> Result<Option<Making>> {
        let now = Instant::now();
        let is_wanted = is_last || self.next_due(now) <= now;
        if self.definition.appends() || changes.is_empty() || !is_wanted {
            return Ok(None);
        }
        let store = Overlay::new(ledger, self.id, changes)?;
        if !store.is_new() {
            return Ok(None);
        }
        let known = changes.only_many().map(|entries| Ok(entries.clone()));
        let entries = known.unwrap_or_else(|| self.entries(&store))?;
        let definition = self.definition.clone();
        let begun = std::thread::Builder::new().spawn(move || definition.result(entries));
        // Without a thread it is made after the commit.
        Ok(begun.ok().map(|thread| Making(Some(thread))))
    }

    /// All groups.
    pub(super) fn entries(&self, store: &Overlay<'_>) -> Result<Entries> {
        self.definition.view.all(store).map_err(Stored::failure)
    }

    /// Merges what a microbatch changes, and adds the groups that it has changed where they are asked for.
    /// When that fails, it is the microbatch that cannot be added.
    pub(super) fn merge(
        &self,
        step: &Step<'_>,
        delta: &[States],
        store: &mut Overlay<'_>,
        additions: &mut Vec<Addition>,
    ) -> Result<Merged> {
        let Definition { view, asked, .. } = &self.definition;
        let closed = view.closed(store).map_err(Stored::failure)?;
        let mark = step.watermarks.0.max(closed).filter(|_| !step.is_whole);
        let touched = view.merge(delta, mark, store).map_err(Stored::failure)?;
        let mut left_out = Vec::new();
        if *asked == Asked::Changed && !touched.is_empty() {
            self.add(step.staging, additions, &mut |write| {
                self.definition.encode_states(&touched, &mut left_out, write)
            })?;
        }
        Ok(Merged { touched, closed, left_out })
    }

    /// Closes windows, and adds them where they are asked for. Windows may be of any microbatch: when that
    /// fails, none is to blame.
    pub(super) fn close(
        &self,
        step: &Step<'_>,
        merged: &mut Merged,
        store: &mut Overlay<'_>,
        additions: &mut Vec<Addition>,
    ) -> Result<()> {
        let Definition { view, asked, .. } = &self.definition;
        let (before, after) = step.watermarks;
        // What was closed before is closed, also of what is rebuilt.
        let after = if step.is_whole { after.max(merged.closed) } else { after };
        if *asked == Asked::All || !step.ends && before == after {
            return Ok(());
        }
        let up_to = if step.ends { None } else { after };
        let closed = view.close(up_to, store).map_err(Stored::failure)?;
        if *asked == Asked::Closed && !closed.is_empty() {
            self.add(step.staging, additions, &mut |write| {
                self.definition.encode_entries(&closed, &mut merged.left_out, write)
            })?;
        }
        Ok(())
    }

    /// Messages about groups that were written or left out, besides those in `before`.
    pub(super) fn told(&self, merged: Merged, before: &[Told]) -> Vec<Told> {
        let Merged { touched, left_out, .. } = merged;
        let of_this = before.iter().filter(|told| told.view == self.id);
        let earlier = of_this.filter_map(|told| match &told.what {
            What::LeftOut { group, .. } => Some(group),
            _ => None,
        });
        let missing: BTreeSet<&String> = self.left_out.iter().chain(earlier).collect();
        let mut told = Vec::new();
        if !missing.is_empty() && self.definition.asked == Asked::Changed {
            let keys = self.definition.view.keys_of(&touched).into_iter();
            let written = keys.map(crate::record::reason).filter(|group| missing.contains(group));
            told.extend(written.map(|group| self.tells(What::Written { group })));
        }
        for one in left_out {
            if !missing.contains(&one.group) {
                self.definition.log(&one);
            }
            told.push(self.tells(What::LeftOut { group: one.group, reason: one.reason }));
        }
        told
    }

    /// It sees nothing more.
    pub(super) fn stopped(&self, reason: String) -> Told {
        self.tells(What::Stopped { reason })
    }

    pub(super) fn tells(&self, what: What) -> Told {
        Told { view: self.id, what }
    }

    /// New messages about a result that leaves these groups out.
    pub(super) fn told_of_result(&self, left_out: &[LeftOut]) -> Vec<Told> {
        let groups: BTreeSet<&String> = left_out.iter().map(|one| &one.group).collect();
        if groups == self.left_out.iter().collect() {
            return Vec::new();
        }
        let is_new = |one: &&LeftOut| !one.group.is_empty() && !self.left_out.contains(&one.group);
        left_out.iter().filter(is_new).for_each(|one| self.definition.log(one));
        let all = left_out
            .iter()
            .cloned()
            .map(|LeftOut { group, reason }| What::LeftOut { group, reason });
        let all = std::iter::once(What::AllWritten).chain(all);
        all.map(|what| self.tells(what)).collect()
    }

    /// Takes note of what was told. Returns how many groups were left out for good, with their windows.
    pub(super) fn note(&mut self, told: &[Told]) -> u64 {
        let mut closed = 0;
        for told in told.iter().filter(|told| told.view == self.id) {
            match &told.what {
                What::LeftOut { .. } if self.definition.asked == Asked::Closed => closed += 1,
                What::LeftOut { group, .. } => {
                    self.left_out.insert(group.clone());
                }
                What::Written { group } => {
                    self.left_out.remove(group);
                }
                What::AllWritten => self.left_out.clear(),
                What::Stopped { reason } => {
                    let view = &self.definition.name;
                    tracing::error!(view, reason, "{STOPPED}");
                    self.is_stopped = true;
                    (self.due, self.making) = (None, None);
                }
            }
        }
        closed
    }

    /// Stages what `encode` writes, as an addition to the output.
    pub(super) fn add(
        &self,
        staging: &StagingArea,
        additions: &mut Vec<Addition>,
        encode: &mut dyn FnMut(&mut Write<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(target) = self.target else { return Ok(()) };
        let mut stage = Stage::new(staging);
        stage.begin(&self.definition.header());
        encode(&mut |bytes| Ok(stage.write(bytes)?))?;
        additions.extend(stage.finish(target)?);
        Ok(())
    }
}
