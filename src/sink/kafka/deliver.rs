//! Records and the mark after them, in one transaction.
//!
//! Invariants: the producer is opened, which fences every earlier one, before the mark is read. After any error of
//! which the outcome is unknown it is dropped, and the target is opened again. A transaction is bounded: a large
//! microbatch goes in parts.

mod connect;
mod partition;
mod position;
mod records;
mod reports;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig};

use super::Place;
use crate::durable::Dir;
use crate::durable::fault;
use crate::failure::{Failure, Result};
use crate::kafka::client::{self, Topic};
use crate::microbatch::{Confirmed, Instance, Mark, Owed};
use crate::sink::remote::{NotPublished, Opening, Remote};
pub use connect::check;
use connect::{CALL, Notes, fence};
use position::{Marks, Position};
use records::{Resume, Sending};
use reports::{Producer, counted};

/// Topics are looked at this often while there is something to send.
const LOOKS: Duration = Duration::from_secs(30);

/// A transaction that failed is given up within this time, so that no reader waits for its time-out.
const GIVES_UP: Duration = Duration::from_secs(5);

/// The least size of a transaction, in bytes, when a link is too slow for larger ones.
const PART_MIN: u64 = 1 << 20;

/// Topics of one cluster.
pub struct KafkaSink {
    place: Place,
    staging: Arc<Dir>,
    open: Option<Open>,
    /// Bytes of one transaction now.
    part: u64,
    /// Where the last one ended within an addition.
    resume: Option<Resume>,
}

/// A producer that has fenced all earlier ones.
struct Open {
    producer: Producer,
    partitions: BTreeMap<String, i32>,
    notes: Notes,
    /// When the topics were last looked at.
    looked: Instant,
}

impl Open {
    /// A topic that was deleted comes back without what was in it, and a commit does not say so.
    fn look(&mut self) -> Result<()> {
        if self.looked.elapsed() < LOOKS {
            return Ok(());
        }
        let names: Vec<_> = self.notes.topics.keys().map(String::as_str).collect();
        let found = client::describe_by(self.producer.client(), &names).map_err(|error| {
            let context = &self.producer.client().context().context;
            client::transient("describe the topics", &error, context)
        })?;
        connect::check_same(&found, Some(&self.notes))?;
        self.looked = Instant::now();
        Ok(())
    }
}

impl KafkaSink {
    /// The topics of `place`; staged files wait in `staging`.
    pub fn new(place: Place, staging: Arc<Dir>) -> Self {
        let mut sink = Self { place, staging, open: None, part: 0, resume: None };
        sink.part = sink.place.first().map_or(PART_MIN, |output| output.transaction.0);
        sink
    }

    fn connect(&self, opening: &Opening<'_>) -> Result<(Open, Option<Confirmed>)> {
        let output = self.place.first().ok_or_else(|| Failure::fatal("there is no topic"))?;
        let notes = opening.confirmed.map(|confirmed| notes_of(&confirmed.notes));
        let settings = self.place.kafka.settings()?;
        // It reads what is not committed, too: where a topic ends does not depend on other jobs then.
        let reader = client::reader(&settings, "read_uncommitted")?;
        let topics = self.place.find_topics((&settings, &reader), notes.as_ref())?;
        counted("fence").map_err(transient)?;
        let producer = self.place.producer(&settings, &self.place.transactional_id())?;
        let until = Instant::now() + output.timeout.0 * 2;
        fence(&producer, until)?;
        counted("answer").map_err(transient)?;
        let from = notes.as_ref().and_then(|notes| notes.offset);
        let key = self.place.key();
        let marks = Marks { settings: &settings, topic: &output.positions, key: key.as_bytes() };
        let held = marks.read(&reader, from, until)?;
        let ids = |(name, topic): (&String, &Topic)| Some((name.clone(), topic.id.clone()?));
        let notes = Notes {
            offset: held.map(|(_, offset)| offset),
            topics: topics.iter().filter_map(ids).collect(),
        };
        let found = match held {
            Some((held, _)) => Some(Confirmed { held, notes: bytes_of(&notes)? }),
            None => None,
        };
        let count = |(name, topic): (String, Topic)| (name, topic.partitions);
        let partitions = topics.into_iter().map(count).collect();
        Ok((Open { producer, partitions, notes, looked: Instant::now() }, found))
    }

    fn transact(
        &self,
        open: &Open,
        owed: &[Owed<'_>],
        from: Mark,
        instance: Instance,
    ) -> anyhow::Result<(Mark, Option<Resume>)> {
        let output = self.place.first().context("there is no topic")?;
        let until = Instant::now() + output.timeout.0;
        let failed = |doing: &str, error: &KafkaError| {
            let reason = open.producer.client().fatal_error().map(|(_, reason)| reason);
            let error = client::explained(doing, error, &open.producer.client().context().context);
            reason.map_or_else(|| anyhow!("{error:#}"), |reason| anyhow!("{error:#}; {reason}"))
        };
        // Of an earlier error nothing is to be said.
        open.producer.client().context().context.take();
        counted("begin")?;
        open.producer.begin_transaction().map_err(|error| failed("begin a transaction", &error))?;
        let (mark, resume) = self.sending(open, until).send(owed, from, self.resume)?;
        let position = serde_json::to_vec(&Position::new(&self.place.job, mark, instance))?;
        let key = self.place.key();
        counted("mark")?;
        let unsaid = BaseRecord::to(&output.positions).partition(0).key(key.as_bytes());
        let record = unsaid.payload(position.as_slice());
        records::send(&open.producer, record, until)
            .map_err(|error| failed("send the position", &error))?;
        commit(&open.producer, until).map_err(|error| failed("commit the transaction", &error))?;
        counted("answer")?;
        Ok((mark, resume))
    }

    fn sending<'a>(&'a self, open: &'a Open, until: Instant) -> Sending<'a> {
        Sending {
            producer: &open.producer,
            partitions: &open.partitions,
            topics: &self.place.topics,
            staging: &self.staging,
            part: self.part,
            until,
        }
    }
}

impl Remote for KafkaSink {
    fn open(&mut self, known: &Opening<'_>) -> Result<Option<Confirmed>> {
        self.open = None;
        let (open, found) = self.connect(known)?;
        self.open = Some(open);
        Ok(found)
    }

    /// Reads what librdkafka has to say, which would pile up.
    fn idle(&mut self) {
        if let Some(open) = &self.open {
            open.producer.poll(Duration::ZERO);
        }
    }

    fn publish(
        &mut self,
        owed: &[Owed<'_>],
        from: Mark,
        instance: Instance,
    ) -> std::result::Result<(Mark, Vec<u8>), NotPublished> {
        let started = Instant::now();
        let Some(mut open) = self.open.take() else {
            return Err(NotPublished::Unknown(anyhow!("the target is not open")));
        };
        match open.look() {
            Err(Failure::Fatal(error)) => return Err(NotPublished::Stop(error)),
            Err(failure) => return Err(NotPublished::Unknown(failure.into_error())),
            Ok(()) => {}
        }
        match self.transact(&open, owed, from, instance) {
            Ok((mark, resume)) => {
                self.resume = resume;
                let bytes = bytes_of(&open.notes)
                    .map_err(|failure| NotPublished::Stop(failure.into_error()))?;
                self.open = Some(open);
                let most = self.place.first().map_or(PART_MIN, |output| output.transaction.0);
                self.part = self.part.saturating_mul(2).min(most);
                Ok((mark, bytes))
            }
            Err(error) => {
                give_up(&open.producer);
                // A link too slow for a transaction of this size takes a smaller one.
                let timeout = self.place.first().map(|output| output.timeout.0);
                if timeout.is_some_and(|timeout| started.elapsed() >= timeout) {
                    self.part = (self.part / 2).max(PART_MIN);
                }
                Err(NotPublished::Unknown(error))
            }
        }
    }
}

/// Aborts a transaction of which the outcome is not known to be a commit. Where that fails, the next open does it.
fn give_up(producer: &Producer) {
    producer.purge(PurgeConfig::default().queue().inflight());
    // What was purged is reported first, or librdkafka refuses the abort.
    let _ = producer.flush(GIVES_UP);
    if let Err(error) = producer.abort_transaction(GIVES_UP) {
        tracing::debug!(%error, "the transaction was not aborted");
    }
}

/// Commits; while the outcome may still come, the same call asks for it again.
fn commit(producer: &Producer, until: Instant) -> std::result::Result<(), KafkaError> {
    counted("commit").map_err(|_| KafkaError::Canceled)?;
    if fault::mutant("slow-commit") {
        // Once: the transaction has timed out by then.
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| std::thread::sleep(Duration::from_secs(4)));
    }
    loop {
        let error = match producer.commit_transaction(CALL) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let may_come = match &error {
            KafkaError::Transaction(error) => error.is_retriable() && !error.txn_requires_abort(),
            KafkaError::Flush(code) => *code == RDKafkaErrorCode::OperationTimedOut,
            _ => false,
        };
        if !may_come || Instant::now() >= until {
            return Err(error);
        }
    }
}

fn transient(error: std::io::Error) -> Failure {
    Failure::Transient(error.into())
}

fn notes_of(bytes: &[u8]) -> Notes {
    // Without its notes a position is looked for from the beginning.
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn bytes_of(notes: &Notes) -> Result<Vec<u8>> {
    serde_json::to_vec(notes).map_err(|error| Failure::Fatal(error.into()))
}
