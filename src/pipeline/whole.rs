//! A query that must see the whole input: a sort, an aggregate, a window function.
//!
//! Invariants: memory is bounded by the engine's budget and the blocks in flight; what the
//! query does not read (a `limit`) is decoded all the same, so that its bad records are rejected.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use arrow_array::RecordBatch;

use super::flow::{Delivery, Flow, Passed};
use super::sift::{self, Origins};
use super::work::{Work, failure};
use crate::decode::blocks::Blocks;
use crate::decode::frame::Block;
use crate::encode::message;
use crate::engine::{Fed, Feed, Ready};
use crate::failure::{Failure, Result};
use crate::record::Reject;

/// Batches that wait for the query.
const WAITING: usize = 2;

impl Flow<'_> {
    /// True when a query is to be run once, over the whole input: it has to, or each of many runs would
    /// begin with the same work.
    pub(super) fn runs_once(query: &Ready<'_>, input: &Blocks<'_>) -> bool {
        let is_large = !input.is_live() && !input.is_at_end();
        !query.is_row_wise() || query.builds() && is_large
    }

    /// Runs a query over an input that begins with `first`.
    pub(super) fn run_whole(
        &self,
        query: &Ready<'_>,
        work: Work<'_>,
        mut first: Option<Block>,
        input: &mut Blocks<'_>,
        delivery: &mut dyn Delivery,
        mut passed: Passed,
    ) -> Result<Passed> {
        let (give, take) = sync_channel(WAITING);
        let shared = Mutex::new(delivery);
        let feed = Feed::sent(take);
        let (fed, collected) = std::thread::scope(|scope| {
            let passed = &mut passed;
            let shared = &shared;
            let feeding = std::thread::Builder::new().spawn_scoped(scope, move || {
                let mut feeding = Feeding { give: Some(give), delivery: shared };
                let work = Work { keeps: true, ..work };
                self.run_blocks(work, first.take(), input, &mut feeding, passed)?;
                // Whether the query still listens is its own affair.
                if let Some(give) = feeding.give {
                    let _ = give.send(Fed::End);
                }
                Ok(())
            });
            let feeding = match feeding {
                Ok(feeding) => feeding,
                Err(error) => {
                    let error = anyhow::Error::from(error).context("start a thread");
                    return (Err(Failure::Transient(error)), Ok((0, 0)));
                }
            };
            let collected = collect(self, query, feed, shared);
            let fed = feeding.join();
            (fed.unwrap_or_else(|_| Err(Failure::fatal("the feeding thread died"))), collected)
        });
        // What the query says of half an input is of no interest.
        fed?;
        let (written, rejected) = collected?;
        passed.counts.written = written;
        passed.counts.rejected += rejected;
        Ok(passed)
    }
}

/// Executes the query and delivers its result; returns how many records were written, and how many
/// were rejected by their event time.
fn collect(
    flow: &Flow<'_>,
    query: &Ready<'_>,
    feed: Feed,
    delivery: &Mutex<&mut dyn Delivery>,
) -> Result<(u64, u64)> {
    let mut written = 0;
    let mut rejected = 0;
    let mut bytes = Vec::new();
    let mut run = query.start(feed).map_err(failure)?;
    let go_on = || flow.check_stop().is_ok();
    while let Some(records) = run.next_batch(&go_on).or_else(|problem| {
        // It is no failure of the query that it was stopped.
        flow.check_stop()?;
        Err(failure(problem))
    })? {
        flow.check_stop()?;
        let (mut records, lines) = query.part(records);
        if let Some(judge) = flow.judge {
            let lines =
                lines.map(|lines| lines.values().iter().map(|line| line.cast_unsigned()).collect());
            let origins = Origins { lines, text: None, encode: flow.encode };
            let sifted = sift::sift(judge, &records, &origins);
            records = sifted.records;
            rejected += sifted.rejects.len() as u64;
            let mut delivery = delivery.lock().unwrap_or_else(PoisonError::into_inner);
            sifted.rejects.iter().try_for_each(|reject| delivery.reject(reject))?;
            sifted.late.iter().try_for_each(|late| delivery.late(late))?;
        }
        bytes.clear();
        if let Some(messages) = flow.messages {
            let encoded = messages.encode(flow.encode, &records, None, &mut bytes);
            let unsent = encoded.map_err(Failure::Bad)?;
            records = message::without(&records, &unsent);
            rejected += unsent.len() as u64;
            let mut delivery = delivery.lock().unwrap_or_else(PoisonError::into_inner);
            let mut unsent = unsent.into_iter();
            unsent.try_for_each(|unsent| delivery.reject(&unsent.reject(None)))?;
        } else {
            flow.encode.encode(&records, &mut bytes).map_err(Failure::Bad)?;
        }
        written += records.num_rows() as u64;
        let mut delivery = delivery.lock().unwrap_or_else(PoisonError::into_inner);
        delivery.records(&bytes)?;
        if flow.taps || flow.encode.is_columnar() {
            delivery.batch(records)?;
        }
    }
    Ok((written, rejected))
}

/// Sends what is decoded to the query, and bad records where they belong.
struct Feeding<'a, 'b> {
    /// Gone when the query wants no more.
    give: Option<SyncSender<Fed>>,
    delivery: &'a Mutex<&'b mut dyn Delivery>,
}

impl Feeding<'_, '_> {
    fn with<T>(&self, act: impl FnOnce(&mut dyn Delivery) -> T) -> T {
        act(&mut **self.delivery.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Delivery for Feeding<'_, '_> {
    fn records(&mut self, bytes: &[u8]) -> Result<()> {
        self.with(|delivery| delivery.records(bytes))
    }

    fn batch(&mut self, records: RecordBatch) -> Result<()> {
        self.give = self.give.take().filter(|give| give.send(Fed::Records(records)).is_ok());
        Ok(())
    }

    fn reject(&mut self, reject: &Reject) -> Result<()> {
        self.with(|delivery| delivery.reject(reject))
    }

    fn counted(&mut self, passed: &Passed) {
        self.with(|delivery| delivery.counted(passed));
    }
}
