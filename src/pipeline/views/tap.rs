//! Partial states of the records of one microbatch, made while they pass by.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context as _;
use arrow_array::RecordBatch;

use crate::engine::{Doubts, Fed, Feed, QueryError, States, View};
use crate::event_time::Judge;
use crate::failure::{Failure, Result};
use crate::pipeline::work;

/// Bytes of records that are held until the end; of more, partial states are made beside the work on
/// the next ones. A thread pays for itself by then.
const HELD_BYTES: usize = 1 << 20;

/// Batches that wait for a view.
const WAITING: usize = 8;

/// The partial states of one microbatch, for each view.
pub type Deltas = Vec<Vec<States>>;

/// The part of a microbatch that views see.
#[derive(Debug, Default)]
pub struct Tapped {
    /// Its partial states.
    pub deltas: Deltas,
    /// Its largest event time.
    pub latest: Option<i64>,
    /// For each view the records of which it is in doubt whether they are late.
    pub doubts: Vec<Doubts>,
    /// The views of the late records, these included, in their order; none when there is no doubt.
    pub late: Vec<usize>,
}

/// Makes partial states of the records that pass by.
pub struct Tap {
    judge: Option<Arc<Judge>>,
    latest: Option<i64>,
    doubts: Vec<Doubts>,
    late: Vec<usize>,
    /// None for those that see nothing.
    views: Vec<Option<Arc<View>>>,
    held: Vec<RecordBatch>,
    bytes: usize,
    /// One for each view, once there is too much to hold.
    working: Vec<Working>,
}

/// The partial states of one view.
enum Working {
    /// They are made, on a thread of its own.
    Busy { give: SyncSender<Fed>, thread: Making },
    /// They are these, whatever else comes: a join with an empty table does not look at its input.
    Done(Vec<States>),
}

type Making = JoinHandle<std::result::Result<Vec<States>, QueryError>>;

impl Tap {
    /// For these views, over records that this judge has taken.
    pub fn new(views: impl Iterator<Item = Option<Arc<View>>>, judge: Option<Arc<Judge>>) -> Self {
        let doubts = Vec::new();
        let late = Vec::new();
        let held = Vec::new();
        let working = Vec::new();
        Self { judge, latest: None, doubts, late, views: views.collect(), held, bytes: 0, working }
    }

    /// Takes note of a late record of the view at this place, before the records that it is one of.
    pub fn note_late(&mut self, view: usize) {
        if self.views.iter().flatten().any(|view| view.has_sessions()) {
            self.late.push(view);
        }
    }

    /// Takes records.
    pub fn take(&mut self, records: RecordBatch) -> Result<()> {
        if let Some(judge) = &self.judge {
            let times = judge.times(&records);
            self.latest = self.latest.max(times.values().iter().copied().max());
        }
        if self.views.iter().all(Option::is_none) {
            return Ok(());
        }
        self.note_doubts(&records)?;
        if self.working.is_empty() {
            self.bytes += records.get_array_memory_size();
            self.held.push(records);
            return if self.bytes > HELD_BYTES { self.start() } else { Ok(()) };
        }
        self.send(&records)
    }

    fn note_doubts(&mut self, records: &RecordBatch) -> Result<()> {
        let Some(judge) = &self.judge else { return Ok(()) };
        for (number, view) in self.views.iter().enumerate() {
            let Some(view) = view else { continue };
            let Some((records, mark)) = judge.in_doubt(number, records) else { continue };
            self.doubts.resize_with(self.views.len(), Doubts::default);
            if let Some(doubts) = self.doubts.get_mut(number) {
                let times = judge.times(&records);
                view.doubt(&records, times.values(), mark, doubts).map_err(work::failure)?;
            }
        }
        Ok(())
    }

    /// Sets threads to work, first on what is held.
    fn start(&mut self) -> Result<()> {
        let work = |view: &Option<Arc<View>>| {
            let Some(view) = view.clone() else { return Ok(Working::Done(Vec::new())) };
            let (give, take) = sync_channel(WAITING);
            let spawned = std::thread::Builder::new().spawn(move || view.delta(Feed::sent(take)));
            let thread = spawned.context("start a thread that keeps a view");
            Ok(Working::Busy { give, thread: thread.map_err(Failure::Transient)? })
        };
        self.working = self.views.iter().map(work).collect::<Result<_>>()?;
        std::mem::take(&mut self.held).iter().try_for_each(|records| self.send(records))
    }

    fn send(&mut self, records: &RecordBatch) -> Result<()> {
        for number in 0..self.working.len() {
            let records = self.on_time(number, records);
            if let Some(to) = self.working.get_mut(number) {
                to.send(Fed::Records(records))?;
            }
        }
        Ok(())
    }

    fn on_time(&self, view: usize, records: &RecordBatch) -> RecordBatch {
        match &self.judge {
            Some(judge) => judge.on_time(view, records),
            None => records.clone(),
        }
    }

    /// The partial states of all records so far; the tap is empty after it.
    pub fn finish(&mut self) -> Result<Tapped> {
        let latest = self.latest.take();
        let doubts = std::mem::take(&mut self.doubts);
        let late = std::mem::take(&mut self.late);
        self.bytes = 0;
        let held = std::mem::take(&mut self.held);
        let mut working = std::mem::take(&mut self.working);
        working.iter_mut().try_for_each(|to| to.send(Fed::End))?;
        let deltas = if working.is_empty() {
            let views = self.views.iter().enumerate();
            let deltas = views.map(|(number, view)| {
                let Some(view) = view else { return Ok(Vec::new()) };
                let held = held.iter().map(|records| self.on_time(number, records)).collect();
                view.delta(Feed::held(held)).map_err(work::failure)
            });
            deltas.collect::<Result<_>>()?
        } else {
            working.into_iter().map(Working::join).collect::<Result<_>>()?
        };
        Ok(Tapped { deltas, latest, doubts, late })
    }
}

impl Working {
    fn send(&mut self, fed: Fed) -> Result<()> {
        let Self::Busy { give, .. } = self else { return Ok(()) };
        if give.send(fed).is_err() {
            // It wants no more: it has failed, or it is done.
            let busy = std::mem::replace(self, Self::Done(Vec::new()));
            *self = Self::Done(busy.join()?);
        }
        Ok(())
    }

    fn join(self) -> Result<Vec<States>> {
        match self {
            Self::Done(delta) => Ok(delta),
            Self::Busy { give, thread } => {
                drop(give);
                let dead = |_| Failure::fatal("a thread that keeps views died");
                thread.join().map_err(dead)?.map_err(work::failure)
            }
        }
    }
}
