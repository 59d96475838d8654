//! The continuous views of a job: what each microbatch changes in them, and their results.
//!
//! Invariants: a view's state changes in the transaction that commits the microbatch, and what
//! is added to its output is owed by the same transaction; so is the watermark that the microbatch
//! leaves. A result that is replaced as a whole shows committed state, and is made again at every
//! start: it may be late, never wrong.

mod changes;
mod clock;
mod definition;
mod late;
mod open;
mod overlay;
pub mod tap;

use std::path::PathBuf;
use std::sync::Arc;

use std::time::{Duration, Instant};

use super::prepared::Prepared;
use crate::engine::{Asked, Doubts};
use crate::event_time::Judge;
use crate::failure::{Failure, Result};
use crate::ledger::{Ledger, Rewritten, Told, ViewId};
use crate::microbatch::{Addition, Microbatch, Target};
use crate::staging::StagingArea;
use changes::Changes;
pub use changes::Puts;
pub use clock::Clock;
pub use definition::{Definition, LeftOut};
use open::{Making, Open};
use overlay::{Overlay, Stored};
pub use tap::{Deltas, Tap, Tapped};

/// The views of one job, over one ledger.
#[derive(Default)]
pub struct Views {
    all: Vec<Open>,
    clock: Option<Clock>,
    /// Where late records are written.
    late: Option<Target>,
    /// Windows may be open since something came, and nothing has come since then.
    idle_since: Option<Instant>,
    /// Groups that were left out of windows that were closed since the start.
    left_out: u64,
}

/// The message about a view that is stopped.
const STOPPED: &str = "is stopped: the job goes on without it, and `run --reset-view` rebuilds it";

/// When a result is tried again that could not be replaced.
const AGAIN: Duration = Duration::from_secs(10);

/// For each view the result that was begun, if one was.
pub type Results = Vec<Option<Making>>;

/// For each view up to where it has closed windows without the watermark.
pub type Closed = Vec<Option<i64>>;

/// A view that was rebuilt: the microbatch, the states to put, and what is released and told with it.
pub type Remade = (Microbatch, Puts, (ViewId, Vec<Told>));

/// The state changes of a group of microbatches.
#[derive(Default)]
pub struct Advanced {
    /// The states to put.
    pub states: Puts,
    /// How many of the group it is about: the next one was judged by a watermark that did not come.
    pub microbatches: usize,
    /// The results after that.
    pub results: Results,
    /// Messages about views.
    pub told: Vec<Told>,
}

/// The group that is being advanced.
struct Step<'a> {
    ledger: &'a Ledger,
    staging: &'a StagingArea,
    /// The changes of each view in this group.
    changes: &'a [Changes],
    /// The watermark before, and after.
    watermarks: (Option<i64>, Option<i64>),
    /// All windows are closed.
    ends: bool,
    /// It is of the whole output, of which no record is late.
    is_whole: bool,
}

impl Views {
    /// Opens the states of these views.
    pub fn open(
        definitions: Vec<Definition>,
        clock: Option<Clock>,
        late: Option<Target>,
        ledger: &mut Ledger,
    ) -> Result<Self> {
        // A start that is refused changes nothing.
        for definition in &definitions {
            let known = ledger.known_view(&definition.name, &definition.path)?;
            match definition.continues(known) {
                Rewritten::Refused(message) => return Err(Failure::halt(message)),
                Rewritten::GoesOn(message) => tracing::warn!("{message}"),
                Rewritten::Same => {}
            }
        }
        if let Some(clock) = &clock {
            ledger.set_clock(&clock.event_time.column)?;
        }
        let mut all = Vec::with_capacity(definitions.len());
        for definition in definitions {
            let name = &definition.name;
            let (id, stopped) = ledger.view(name, definition.view.signature())?;
            ledger.writes_view(id, &definition.written())?;
            let is_stopped = stopped.is_some();
            let left_out = ledger.left_out(id)?;
            if let Some(reason) = stopped {
                tracing::error!(view = name, reason, "{STOPPED}");
            }
            let target =
                definition.appends().then(|| ledger.target(&definition.path)).transpose()?;
            if let Some(target) = target {
                ledger.writes(target, definition.encode.signature())?;
            }
            // What was committed last may not have been written.
            let due = (!definition.appends() && !is_stopped).then(Instant::now);
            let left_out = left_out.into_iter().filter(|_| definition.asked != Asked::Closed);
            let replaced = None;
            let making = None;
            let left_out = left_out.collect();
            all.push(Open { definition, id, target, due, replaced, making, left_out, is_stopped });
        }
        Ok(Self { all, clock, late, idle_since: Some(Instant::now()), left_out: 0 })
    }

    /// Groups that are left out since the start, and views that are stopped.
    pub fn troubles(&self) -> (u64, u64) {
        let left_out = self.all.iter().map(|open| open.left_out.len() as u64).sum::<u64>();
        let stopped = self.all.iter().filter(|open| open.is_stopped).count();
        (self.left_out + left_out, stopped as u64)
    }

    /// The outputs that are appended to, and what each begins with.
    pub fn targets(&self) -> Vec<(Target, PathBuf, Vec<u8>)> {
        let appended = self.all.iter().filter_map(|open| {
            let target = open.target?;
            Some((target, open.definition.path.clone(), open.definition.header()))
        });
        appended.collect()
    }

    /// For each view up to where it has closed windows without the watermark.
    pub fn closed(&self, ledger: &Ledger) -> Result<Closed> {
        if self.clock.is_none() {
            return Ok(vec![None; self.all.len()]);
        }
        let none = Changes::default();
        let closed = |open: &Open| {
            let store = Overlay::new(ledger, open.id, &none)?;
            open.definition.view.closed(&store).map_err(Stored::failure)
        };
        self.all.iter().map(closed).collect()
    }

    /// The judge for the records of the next microbatch, if event time matters.
    pub fn judge(
        &self,
        now_ms: i64,
        watermark: Option<i64>,
        closed: &Closed,
    ) -> Option<Arc<Judge>> {
        let clock = self.clock.as_ref()?;
        let definitions = self.all.iter().map(|open| &open.definition);
        let mut marks = Clock::marks(definitions.zip(closed.iter().copied()), watermark);
        for (open, rule) in self.all.iter().zip(&mut marks.rules) {
            rule.late_before = rule.late_before.filter(|_| !open.is_stopped);
        }
        Some(clock.judge(Some(now_ms), marks))
    }

    /// The watermark after these microbatches, when it was this before; `None` when event time does
    /// not matter.
    pub fn watermark_after(&self, watermark: Option<i64>, group: &[Prepared]) -> Option<i64> {
        let clock = self.clock.as_ref()?;
        group
            .iter()
            .fold(watermark, |before, prepared| clock.advance(before, prepared.tapped.latest))
    }

    /// True for a job without views.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// True when one microbatch must be known before the next can be judged.
    pub fn has_event_time(&self) -> bool {
        self.clock.is_some()
    }

    /// Makes the partial states of a microbatch.
    pub fn tap(&self, judge: Option<Arc<Judge>>) -> Tap {
        let view = |open: &Open| (!open.is_stopped).then(|| open.definition.view.clone());
        Tap::new(self.all.iter().map(view), judge)
    }

    /// Computes the changes of a group of microbatches in their order: the states to store, and in each
    /// microbatch its additions to the outputs of the views and the watermark that it leaves. A microbatch
    /// after which a view cannot be computed fails. `is_last`: no other file is waiting.
    pub fn advance(
        &self,
        ledger: &Ledger,
        staging: &StagingArea,
        group: &mut [Prepared],
        is_last: bool,
    ) -> Result<Advanced> {
        let _reading = if self.all.is_empty() { None } else { Some(ledger.reading()?) };
        let mut changes = vec![Changes::default(); self.all.len()];
        let mut told = Vec::new();
        let mut watermark = ledger.watermark();
        let mut microbatches = 0;
        for prepared in group.iter_mut() {
            if self.clock.is_some() && prepared.watermark != watermark {
                break;
            }
            microbatches += 1;
            let tapped = std::mem::take(&mut prepared.tapped);
            if prepared.batch.quarantined.is_some()
                || tapped.deltas.is_empty() && self.clock.is_none()
            {
                continue;
            }
            let clock = self.clock.as_ref();
            let next = clock.map_or(watermark, |clock| clock.advance(watermark, tapped.latest));
            let watermarks = (watermark, next);
            let ends = prepared.ended;
            let is_whole = false;
            let step = Step { ledger, staging, changes: &changes, watermarks, ends, is_whole };
            let mut additions = Vec::new();
            let stepped = self.decide_late(&step, &tapped, prepared).and_then(|()| {
                let stepped = self.step(&step, &tapped.deltas, &told, &mut additions);
                // Also when it failed: what was staged has to be removed.
                prepared.batch.additions.append(&mut additions);
                stepped
            });
            match stepped {
                Ok((changed, more)) => {
                    told.extend(more);
                    for (changes, changed) in changes.iter_mut().zip(changed) {
                        changes.extend(changed);
                    }
                    (prepared.batch.watermark, watermark) = (next, next);
                }
                Err(Failure::Bad(reason)) => prepared.condemn(reason),
                Err(failure) => return Err(failure),
            }
            // A record after an end was not judged by what it has closed.
            if clock.is_some() && prepared.ended {
                break;
            }
        }
        let begin = |(open, changes): (&Open, &Changes)| open.begin(ledger, changes, is_last);
        let results = self.all.iter().zip(&changes).map(begin).collect::<Result<_>>()?;
        Ok(Advanced { states: self.puts(changes), microbatches, results, told })
    }

    fn puts(&self, changes: Vec<Changes>) -> Puts {
        Puts(self.all.iter().map(|open| open.id).zip(changes).collect())
    }

    /// Decides which of the records that were in doubt are late.
    fn decide_late(&self, step: &Step<'_>, tapped: &Tapped, prepared: &mut Prepared) -> Result<()> {
        if tapped.doubts.iter().all(Doubts::is_empty) {
            return Ok(());
        }
        let none = Changes::default();
        let verdicts = self
            .all
            .iter()
            .enumerate()
            .map(|(number, open)| {
                let Some(doubts) = tapped.doubts.get(number).filter(|doubts| !doubts.is_empty())
                else {
                    return Ok(Vec::new().into_iter());
                };
                let delta = tapped.deltas.get(number).map(Vec::as_slice).unwrap_or_default();
                let changes = step.changes.get(number).unwrap_or(&none);
                let store = Overlay::new(step.ledger, open.id, changes)?;
                let late = open.definition.view.are_late(doubts, delta, &store);
                Ok(late.map_err(Stored::failure)?.into_iter())
            })
            .collect::<Result<_>>()?;
        late::leave_out(prepared, &tapped.late, verdicts, self.late, step.staging)
    }

    /// Computes the changes of one microbatch in each view, and the messages about them; those in `told` are
    /// known already. A view whose windows cannot be closed is stopped.
    fn step(
        &self,
        step: &Step<'_>,
        deltas: &Deltas,
        told: &[Told],
        additions: &mut Vec<Addition>,
    ) -> Result<(Vec<Changes>, Vec<Told>)> {
        let mut changed = Vec::with_capacity(self.all.len());
        let mut more = Vec::new();
        for (number, open) in self.all.iter().enumerate() {
            let delta = deltas.get(number).map(Vec::as_slice).unwrap_or_default();
            let none = Changes::default();
            let group = step.changes.get(number).unwrap_or(&none);
            let stops = |told: &Told| told.view == open.id && told.stops();
            if open.is_stopped || told.iter().any(stops) {
                changed.push(Changes::default());
                continue;
            }
            let mut overlay = Overlay::new(step.ledger, open.id, group)?;
            let mut merged = open.merge(step, delta, &mut overlay, additions)?;
            match open.close(step, &mut merged, &mut overlay, additions) {
                Ok(()) => {
                    more.extend(open.told(merged, told));
                    changed.push(overlay.into_changes());
                }
                Err(Failure::Bad(reason)) => {
                    more.push(open.stopped(reason));
                    changed.push(Changes::default());
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok((changed, more))
    }

    /// Something was committed: the results that are replaced are to be made again, but for these,
    /// which were begun before.
    pub fn note_committed(&mut self, results: Results, told: &[Told]) {
        let now = Instant::now();
        self.idle_since = Some(now);
        self.note(told);
        let results = results.into_iter().chain(std::iter::repeat_with(|| None));
        for (open, making) in self.all.iter_mut().zip(results) {
            open.making = making;
            if !open.definition.appends() && !open.is_stopped {
                let next = open.next_due(now);
                open.due.get_or_insert(next);
            }
        }
    }

    /// Takes note of what was told.
    pub fn note(&mut self, told: &[Told]) {
        for open in &mut self.all {
            self.left_out += open.note(told);
        }
    }

    /// When the windows of a quiet folder are to be closed.
    pub fn idle_due(&self) -> Option<Instant> {
        let idle = self.clock.as_ref()?.event_time.idle_close?;
        Some(self.idle_since? + idle.0)
    }

    /// Something is under way: quiet begins when it is done.
    pub fn stir(&mut self, now: Instant) {
        self.idle_since = self.idle_since.map(|_| now);
    }

    /// Marks all windows as closed.
    pub fn rest(&mut self) {
        self.idle_since = None;
    }

    /// Closes all windows: a microbatch without an input, and the states to put. `None` when none is
    /// open.
    pub fn close_idle(
        &mut self,
        ledger: &Ledger,
        staging: &StagingArea,
    ) -> Result<Option<(Microbatch, Puts, Vec<Told>)>> {
        let changes = vec![Changes::default(); self.all.len()];
        let watermark = ledger.watermark();
        let watermarks = (watermark, watermark);
        let ends = true;
        let is_whole = false;
        let step = Step { ledger, staging, changes: &changes, watermarks, ends, is_whole };
        let mut additions = Vec::new();
        let (changed, told) = self.step(&step, &Vec::new(), &[], &mut additions)?;
        if changed.iter().all(Changes::is_empty) && told.is_empty() {
            self.rest();
            return Ok(None);
        }
        let mut batch = Microbatch::without_input(crate::clock::now_ms());
        (batch.additions, batch.watermark) = (additions, watermark);
        Ok(Some((batch, self.puts(changed), told)))
    }

    /// The next view that is to be rebuilt, by its place among the views of the job, and what it
    /// has written if results are appended to that.
    pub fn to_rebuild(&self, ledger: &Ledger) -> Result<Option<(usize, Option<PathBuf>)>> {
        for (number, open) in self.all.iter().enumerate() {
            if !open.is_stopped && ledger.owes_rebuild(open.id)? {
                return Ok(Some((number, open.target.map(|_| open.definition.path.clone()))));
            }
        }
        Ok(None)
    }

    /// Rebuilds a view from partial states of the whole output, of which no record is late: a
    /// microbatch without an input, the states to put, and the view that is released with it.
    pub fn rebuild(
        &self,
        number: usize,
        tapped: &Tapped,
        ledger: &Ledger,
        staging: &StagingArea,
    ) -> Result<Option<Remade>> {
        let Some(open) = self.all.get(number) else { return Ok(None) };
        let watermark = ledger.watermark();
        let clock = self.clock.as_ref();
        let after = clock.map_or(watermark, |clock| clock.advance(watermark, tapped.latest));
        let changes = [Changes::default()];
        let watermarks = (None, after);
        let ends = false;
        let is_whole = true;
        let step = Step { ledger, staging, changes: &changes, watermarks, ends, is_whole };
        let mut overlay = Overlay::new(ledger, open.id, &changes[0])?;
        let delta = tapped.deltas.first().map(Vec::as_slice).unwrap_or_default();
        let mut batch = Microbatch::without_input(crate::clock::now_ms());
        batch.watermark = after;
        let additions = &mut batch.additions;
        let merged = open.merge(&step, delta, &mut overlay, additions);
        let written = merged.and_then(|mut merged| {
            open.close(&step, &mut merged, &mut overlay, additions)?;
            Ok(open.told(merged, &[]))
        });
        let (changes, told) = match written {
            Err(Failure::Bad(reason)) => (Changes::default(), vec![open.stopped(reason)]),
            written => (overlay.into_changes(), written?),
        };
        Ok(Some((batch, Puts(vec![(open.id, changes)]), (open.id, told))))
    }

    /// Stops a view that cannot be rebuilt.
    pub fn stop(&mut self, number: usize, reason: String, ledger: &mut Ledger) -> Result<()> {
        let told: Vec<_> =
            self.all.get(number).map(|open| open.stopped(reason)).into_iter().collect();
        ledger.tell(&told)?;
        self.note(&told);
        Ok(())
    }

    /// When the next result is to be replaced.
    pub fn due(&self) -> Option<Instant> {
        self.all.iter().filter_map(|open| open.due).min()
    }

    /// Replaces the results that are due by now.
    pub fn replace_due(&mut self, ledger: &mut Ledger, now: Instant) -> Result<()> {
        for open in &mut self.all {
            if open.due.is_none_or(|due| due > now) {
                continue;
            }
            let result = if let Some(making) = open.making.take() {
                making.join()
            } else {
                let none = Changes::default();
                open.definition.result(open.entries(&Overlay::new(ledger, open.id, &none)?)?)
            };
            (open.due, open.replaced) = (None, Some(Instant::now()));
            let replaced = result.and_then(|(result, left_out)| {
                open.definition.replace(&result)?;
                Ok(left_out)
            });
            let told = match replaced {
                // It is the data that cannot be computed; the next microbatch may change it.
                Err(Failure::Bad(reason)) => {
                    let view = &open.definition.name;
                    tracing::error!(view, reason, "the view failed; the old result stays");
                    Ok(vec![LeftOut { group: String::new(), reason }])
                }
                replaced => replaced,
            };
            let told = told.and_then(|left_out| {
                let told = open.told_of_result(&left_out);
                if told.is_empty() { Ok(told) } else { ledger.tell(&told).map(|()| told) }
            });
            match told {
                Ok(told) => {
                    open.note(&told);
                }
                // Nothing else may come that would have it made again.
                Err(failure) => {
                    open.due = Some(now + open.definition.every.max(AGAIN));
                    return Err(failure);
                }
            }
        }
        Ok(())
    }
}
