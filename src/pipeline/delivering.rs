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
use crate::pulse::Pulse;
use crate::record::{Counts, Reject};
use crate::source::Source;

/// A wait for an answer is interrupted this often, to beat and to hear a stop.
const LOOK: Duration = Duration::from_millis(100);

/// A stop waits this long for what is being sent: a transaction that is open holds up its readers.
const STOP_WAITS: Duration = Duration::from_secs(10);

impl Pipeline {
    /// Waits until each remote target is open and agrees with the ledger.
    ///
    /// # Errors
    /// `Transient` when one is away, `Halt` when one does not agree.
    pub fn open_targets(
        &mut self,
        rejects: Target,
        source: &mut dyn Source,
        pulse: &Pulse,
    ) -> Result<()> {
        while !self.publisher.deliveries.iter().all(Delivery::is_open) {
            self.deliver(rejects, source)?;
            self.check_there()?;
            self.wait_for_answers(pulse);
            if pulse.must_stop() {
                return Err(Failure::Stopped);
            }
        }
        Ok(())
    }

    /// Takes over what remote targets have answered, and sends them what is owed next.
    pub fn deliver(&mut self, rejects: Target, source: &mut dyn Source) -> Result<()> {
        loop {
            let mut news = News::default();
            let delivered = self.publisher.deliver(&mut self.ledger, &mut news);
            self.settled.confirmed.extend(news.confirmed);
            self.settled_files.extend(news.files);
            let is_done = news.refusals.is_empty();
            for refusal in news.refusals {
                self.commit_refusal(refusal, rejects, source)?;
            }
            delivered?;
            if is_done {
                return Ok(());
            }
        }
    }

    /// Sends what is left, as far as the targets are there. When only a stop is waited for, no more than what
    /// is being sent.
    ///
    /// # Errors
    /// `Transient` when one is away and all is to be delivered.
    pub fn deliver_rest(
        &mut self,
        rejects: Target,
        source: &mut dyn Source,
        (all, pulse): (bool, &Pulse),
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            if !all && !self.publisher.deliveries.iter().any(Delivery::is_under_way) {
                return Ok(());
            }
            self.deliver(rejects, source)?;
            if self.publisher.deliveries.iter().all(|delivery| delivery.owed() == 0) {
                return Ok(());
            }
            if all {
                self.check_there()?;
            }
            let must_stop = !all || pulse.must_stop();
            if must_stop && started.elapsed() > STOP_WAITS {
                return Ok(());
            }
            self.wait_for_answers(pulse);
        }
    }

    fn check_there(&self) -> Result<()> {
        let away = self.publisher.deliveries.iter().find_map(Delivery::waits_for_it);
        away.map_or(Ok(()), |away| Err(Failure::Transient(anyhow::anyhow!("{away}"))))
    }

    fn wait_for_answers(&mut self, pulse: &Pulse) {
        pulse.beat();
        for delivery in &mut self.publisher.deliveries {
            delivery.wait(LOOK);
        }
    }

    /// Commits that a target has refused a record, with the reject.
    fn commit_refusal(
        &mut self,
        refusal: Refusal,
        rejects: Target,
        source: &mut dyn Source,
    ) -> Result<()> {
        let Refusal { sequence, record, reason, raw, .. } = &refusal;
        let name = self.ledger.name_of(*sequence)?;
        let reason =
            format!("the target refused record {record} of microbatch {sequence}: {reason}");
        tracing::warn!(microbatch = sequence, record, reason, "a record was refused");
        let reject =
            Reject { line: None, reason: reason.into(), raw: raw.clone(), truncated: false };
        let mut line = Vec::new();
        rejects::encode(&name, &reject, &mut line);
        self.observe(source)?;
        let batch = Microbatch {
            counts: Counts { rejected: 1, ..Counts::default() },
            additions: vec![Addition::of_bytes(rejects, line)],
            refusal: Some(refusal),
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

    /// True when so much is owed to a remote target that nothing more may be committed.
    pub fn owes_too_much(&self) -> bool {
        self.publisher.deliveries.iter().any(Delivery::is_full)
    }

    /// When a remote target is to be opened again.
    pub fn delivery_due(&self) -> Option<Instant> {
        self.publisher.deliveries.iter().filter_map(Delivery::due).min()
    }
}
