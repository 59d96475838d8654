//! Remote targets beside the pipeline: they are sent what is owed to them at their own pace.
//!
//! Invariants: nothing is committed before each of them was opened once and agreed with the ledger, so that an
//! older copy of the ledger is found before it gives a number away again. A record that one refuses is in the
//! ledger, with its reject, before the rest is sent without it.

use std::time::{Duration, Instant};

use super::Pipeline;
use crate::encode::rejects;
use crate::failure::{Failure, Result};
use crate::microbatch::{Addition, Microbatch, Refusal, Target};
use crate::publish::delivery::{Delivery, News};
use crate::pulse::{self, Pulse};
use crate::record::{Counts, Reject};
use crate::source::Source;

/// A wait for an answer is interrupted this often, to beat and to hear a stop.
const LOOK: Duration = Duration::from_millis(100);

/// A start that waits longer for its targets is ready: a service manager would end it.
const OPEN_IS_LONG: Duration = Duration::from_secs(2);

/// A stop waits this long for what is being sent: a transaction that is open holds up its readers.
const STOP_WAITS: Duration = Duration::from_secs(10);

impl Pipeline {
    /// Waits until each remote target is open and agrees with the ledger. Nothing is sent before all are.
    /// `patiently`: one that is away is tried again for a while.
    ///
    /// # Errors
    /// `Transient` when one is away, `Halt` when one does not agree.
    pub fn open_targets(&mut self, patiently: bool, pulse: &Pulse) -> Result<()> {
        let started = Instant::now();
        let mut is_told = false;
        loop {
            self.publisher.open_closed(&self.ledger)?;
            let mut news = News::default();
            let taken = self.publisher.take_answers(&self.ledger, &mut news);
            self.take_over(&mut news);
            taken?;
            if self.publisher.deliveries.iter().all(Delivery::is_open) {
                return Ok(());
            }
            self.check_there(patiently)?;
            if pulse.must_stop() {
                return Err(Failure::Stopped);
            }
            if !is_told && started.elapsed() > OPEN_IS_LONG {
                pulse::ready_but("waiting for a target");
                is_told = true;
            }
            self.wait_for_answers(pulse);
        }
    }

    /// Takes over what remote targets have answered, and sends them what is owed next.
    pub fn deliver(&mut self, rejects: Target, source: &mut dyn Source) -> Result<()> {
        self.take_answers(rejects, source)?;
        self.publisher.open_closed(&self.ledger)?;
        self.publisher.send(&mut self.ledger)
    }

    fn take_answers(&mut self, rejects: Target, source: &mut dyn Source) -> Result<()> {
        let mut news = News::default();
        let taken = self.publisher.take_answers(&self.ledger, &mut news);
        self.take_over(&mut news);
        taken?;
        if !self.released_files.is_empty() {
            // They may be what fills the disk.
            self.release()?;
        }
        if !news.refusals.is_empty() {
            // Each output ends where the ledger says before more is added.
            self.catch_up(source)?;
            self.commit_refusals(news.refusals, rejects, source)?;
        }
        Ok(())
    }

    fn take_over(&mut self, news: &mut News) {
        self.released.confirmed.append(&mut news.confirmed);
        self.released_files.append(&mut news.files);
    }

    /// Sends what is left. A stop waits for what is being sent, and begins nothing more.
    ///
    /// # Errors
    /// `Transient` when one is away, or a stop leaves something.
    pub fn deliver_rest(
        &mut self,
        rejects: Target,
        source: &mut dyn Source,
        pulse: &Pulse,
    ) -> Result<()> {
        while self.publisher.deliveries.iter().any(Delivery::owes) {
            if pulse.must_stop() {
                self.end_sending(rejects, source, pulse)?;
                return Err(Failure::Transient(anyhow::anyhow!("not everything is delivered")));
            }
            self.deliver(rejects, source)?;
            self.release()?;
            self.check_there(true)?;
            self.wait_for_answers(pulse);
        }
        Ok(())
    }

    /// Waits for what is being sent, and begins nothing more.
    pub fn end_sending(
        &mut self,
        rejects: Target,
        source: &mut dyn Source,
        pulse: &Pulse,
    ) -> Result<()> {
        let started = Instant::now();
        while self.publisher.deliveries.iter().any(Delivery::is_sending)
            && started.elapsed() < STOP_WAITS
        {
            self.wait_for_answers(pulse);
            self.take_answers(rejects, source)?;
        }
        Ok(())
    }

    fn check_there(&self, patiently: bool) -> Result<()> {
        let waits = if patiently { Delivery::waits_too_long } else { Delivery::waits_for_it };
        let away = self.publisher.deliveries.iter().find_map(waits);
        away.map_or(Ok(()), |away| Err(Failure::Transient(anyhow::anyhow!("{away}"))))
    }

    fn wait_for_answers(&mut self, pulse: &Pulse) {
        pulse.beat();
        let mut is_awaited = false;
        for delivery in &mut self.publisher.deliveries {
            is_awaited |= delivery.wait(LOOK);
        }
        if !is_awaited {
            // One is away, and not due yet.
            std::thread::sleep(LOOK);
        }
    }

    /// Commits that a target has refused records, with the rejects.
    fn commit_refusals(
        &mut self,
        refusals: Vec<Refusal>,
        rejects: Target,
        source: &mut dyn Source,
    ) -> Result<()> {
        let mut lines = Vec::new();
        for Refusal { sequence, record, reason, raw, .. } in &refusals {
            let name = self.ledger.name_of(*sequence)?;
            let reason =
                format!("the target refused record {record} of microbatch {sequence}: {reason}");
            rejects::encode(&name, &Reject::cut(None, reason, raw.clone()), &mut lines);
        }
        let rejected = refusals.len() as u64;
        tracing::warn!(records = rejected, "the target refused records");
        self.observe(source)?;
        let batch = Microbatch {
            counts: Counts { rejected, ..Counts::default() },
            additions: vec![Addition::of_bytes(rejects, lines)],
            refusals,
            ..Microbatch::without_input(crate::clock::now_ms())
        };
        let puts = super::views::Puts::default();
        self.commit_without_input(batch, &puts, (None, Vec::new()), source)
    }

    /// True when the target is on another system.
    pub(super) fn is_delivered(&self, target: Target) -> bool {
        self.publisher.deliveries.iter().any(|delivery| delivery.delivers(target))
    }

    /// Why a remote target is away, if one is, and how often it was tried.
    pub fn away(&self) -> Option<(&str, u32)> {
        self.publisher.deliveries.iter().find_map(Delivery::trouble)
    }

    /// True when nothing can be done for a remote target now but to wait.
    pub fn waits_for_target(&self) -> bool {
        self.publisher.deliveries.iter().any(|delivery| delivery.waits_for_it().is_some())
    }

    /// True when so much is owed to a remote target that nothing more may be committed.
    pub fn owes_too_much(&self) -> bool {
        self.publisher.deliveries.iter().any(Delivery::is_full)
    }

    /// When a remote target is to be opened again.
    pub fn delivery_due(&self) -> Option<Instant> {
        self.publisher.deliveries.iter().filter_map(Delivery::due).min()
    }
}
