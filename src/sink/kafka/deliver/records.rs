//! The records of one transaction: which they are, and how each is addressed.
//!
//! Invariants: records go in their order, each once, and the mark says how many were sent, whatever their topics.
//! A transaction is full when the next record would make it too large; then it ends there.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header as Named, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};

use super::partition;
use super::reports::{Producer, counted};
use crate::durable::Dir;
use crate::kafka::client;
use crate::microbatch::{Addition, Mark, Owed, Payload, Target};
use crate::record::message::{Frames, Limit, Message};
use crate::sink::kafka::{By, Header, KafkaOutput, Partition};

/// Bytes of the shortest frame.
const FRAME_MIN: u64 = 2;

/// Records of one transaction, however short they are: each takes time.
const RECORDS_MAX: u64 = 1_000_000;

/// Records after which errors are listened to.
const POLLED: u64 = 1_000;

/// The tests count the first of this many messages as an operation.
const SENDS_COUNTED: u64 = 10_000;

/// A transaction that is open.
pub struct Sending<'a> {
    /// The way to the brokers.
    pub producer: &'a Producer,
    /// How many partitions each topic has.
    pub partitions: &'a BTreeMap<String, i32>,
    /// The topic of each target.
    pub topics: &'a HashMap<Target, (KafkaOutput, Limit)>,
    /// Where staged files wait.
    pub staging: &'a Dir,
    /// Bytes of one transaction.
    pub part: u64,
    /// The end of its time.
    pub until: Instant,
}

/// Where a transaction has ended within an addition: the next one need not read what is before it.
#[derive(Debug, Clone, Copy)]
pub struct Resume {
    mark: Mark,
    target: Target,
    /// Records of the addition before it, and the bytes of them.
    number: u64,
    offset: u64,
}

impl Sending<'_> {
    /// Sends from a mark on until the transaction is full; returns the mark after it.
    ///
    /// # Errors
    /// When a message is not taken, or what is staged cannot be read.
    pub fn send(
        &self,
        owed: &[Owed<'_>],
        from: Mark,
        resume: Option<Resume>,
    ) -> anyhow::Result<(Mark, Option<Resume>)> {
        let mut resume = resume.filter(|resume| resume.mark == from);
        let mut next = Mark { record: 0, ..from };
        let mut sent = Sent::default();
        for span in owed {
            if span.sequence > next.microbatch {
                next = Mark { microbatch: span.sequence, record: 0 };
                let of_it = owed.iter().filter(|other| other.sequence == span.sequence);
                let more: u64 = of_it.map(|span| span.addition.length).sum();
                // One that fits into a transaction is not cut.
                let is_full = sent.bytes.saturating_add(more) > self.part
                    || sent.records.saturating_add(more / FRAME_MIN) > RECORDS_MAX;
                if sent.records > 0 && is_full {
                    return Ok((next, None));
                }
            }
            let begins_at = |of: &Resume| {
                of.mark.microbatch == span.sequence && of.target == span.addition.target
            };
            let begin = match resume {
                Some(of) if !begins_at(&of) => continue,
                Some(of) => {
                    resume = None;
                    next = of.mark;
                    (of.number, of.offset)
                }
                None => (0, 0),
            };
            if let Some(full) = self.span(span, from, &mut next, begin, &mut sent)? {
                return Ok((next, Some(full)));
            }
        }
        match resume {
            None => Ok((Mark::after(next.microbatch), None)),
            Some(_) => Err(anyhow!(
                "the addition in which the last transaction ended is not owed any more"
            )),
        }
    }

    /// Sends the records of a span, from this number and this offset on. Returns where it has ended, if the
    /// transaction is full.
    fn span(
        &self,
        span: &Owed<'_>,
        from: Mark,
        next: &mut Mark,
        (mut number, offset): (u64, u64),
        sent: &mut Sent,
    ) -> anyhow::Result<Option<Resume>> {
        let target = span.addition.target;
        let topic = self.topics.get(&target);
        let (output, limit) = topic.context("records are owed to no topic of the job")?;
        let partition = chosen(output, span, self.partitions.get(&output.topic));
        let mut frames = frames(self.staging, span.addition, offset)?;
        loop {
            let offset = frames.offset();
            let Some(message) = frames.next_message()? else { return Ok(None) };
            let is_wanted = *next >= from && !span.addition.refused.contains(&number);
            let own = (message.value.len() + message.key.map_or(0, <[u8]>::len)) as u64;
            // No more than its frame has, so that what fits by its frames is never cut.
            let size = own + FRAME_MIN;
            let is_full = sent.bytes + size > self.part || sent.records >= RECORDS_MAX;
            if is_wanted && sent.records > 0 && is_full {
                return Ok(Some(Resume { mark: *next, target, number, offset }));
            }
            if is_wanted {
                sent.count(size)?;
                if sent.records.is_multiple_of(POLLED) {
                    self.producer.poll(Duration::ZERO);
                }
                let record = record(output, span, &message, partition);
                send(self.producer, record, self.until).map_err(|error| {
                    let topic = &output.topic;
                    match error {
                        KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge) => {
                            anyhow!(
                                "{next} is a message of {own} bytes, and the topic {topic} takes {}: raise its \
                                 max.message.bytes",
                                limit.get().bytes
                            )
                        }
                        error => {
                            self.producer.poll(Duration::ZERO);
                            let context = &self.producer.client().context().context;
                            client::explained(&format!("send {next} to the topic {topic}"), &error, context)
                        }
                    }
                })?;
            }
            number += 1;
            next.record += 1;
        }
    }
}

/// How full the transaction is.
#[derive(Debug, Default)]
struct Sent {
    records: u64,
    bytes: u64,
}

impl Sent {
    fn count(&mut self, bytes: u64) -> std::io::Result<()> {
        if self.records.is_multiple_of(SENDS_COUNTED) {
            counted("send")?;
        }
        self.records += 1;
        self.bytes += bytes;
        Ok(())
    }
}

/// Hands a record to librdkafka; waits while its queue is full.
pub(super) fn send(
    producer: &Producer,
    mut record: BaseRecord<'_, [u8], [u8]>,
    until: Instant,
) -> std::result::Result<(), KafkaError> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again))
                if Instant::now() < until =>
            {
                record = again;
                producer.poll(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// The partition that all records of a span go to, if it is not their keys that decide.
fn chosen(output: &KafkaOutput, span: &Owed<'_>, partitions: Option<&i32>) -> Option<i32> {
    match output.partitioning() {
        Partition::By(By::Key) => None,
        Partition::By(By::File) => {
            let name = span.name.as_encoded_bytes();
            Some(partition::of(name, partitions.copied().unwrap_or(1)))
        }
        Partition::Number(number) => Some(number),
    }
}

fn record<'a>(
    output: &'a KafkaOutput,
    span: &Owed<'_>,
    message: &Message<'a>,
    partition: Option<i32>,
) -> BaseRecord<'a, [u8], [u8]> {
    let mut record = BaseRecord::to(&output.topic).payload(message.value);
    if let Some(key) = message.key {
        record = record.key(key);
    }
    if let Some(partition) = partition {
        record = record.partition(partition);
    }
    if let Some(timestamp) = message.timestamp_ms {
        record = record.timestamp(timestamp);
    }
    if output.headers.is_empty() {
        return record;
    }
    let mut headers = OwnedHeaders::new_with_capacity(output.headers.len());
    for header in &output.headers {
        headers = match header {
            Header::Microbatch => {
                named(headers, "microbatch", span.sequence.to_string().as_bytes())
            }
            Header::File => named(headers, "file", span.name.as_encoded_bytes()),
            Header::Line => match message.line {
                Some(line) => named(headers, "line", line.to_string().as_bytes()),
                None => headers,
            },
        };
    }
    record.headers(headers)
}

fn named(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Named { key, value: Some(value) })
}

/// The frames of an addition from an offset on, wherever they wait.
fn frames<'a>(
    staging: &Dir,
    addition: &'a Addition,
    offset: u64,
) -> anyhow::Result<Frames<Box<dyn Read + 'a>>> {
    let source: Box<dyn Read> = match &addition.payload {
        Payload::Memory(bytes) => {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            Box::new(bytes.get(from..).unwrap_or_default())
        }
        Payload::File(name) => {
            let path = staging.path().join(name);
            let file = File::open(&path).and_then(|mut file| {
                file.seek(SeekFrom::Start(offset))?;
                Ok(file)
            });
            Box::new(file.with_context(|| format!("read {}", path.display()))?)
        }
    };
    Ok(Frames::new(source, offset))
}
