//! The mark of a job in a topic of ours: one record for each job, the last one counts.
//!
//! Invariants: a mark is read when every earlier process of the job is fenced, and up to what the topic held at
//! that moment, whatever other jobs have open there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::kafka::client::{self, ASKS, Context};
use crate::microbatch::{Held, Instance, Mark};

/// The value of the record.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Position {
    /// The name of the job, for people.
    pub job: String,
    /// Who wrote it.
    pub instance: String,
    /// How far it has come: everything before this record of this microbatch is there.
    pub microbatch: u64,
    /// The record, from 0.
    pub record: u64,
}

impl Position {
    /// A mark as it is written.
    pub fn new(job: &str, Mark { microbatch, record }: Mark, instance: Instance) -> Self {
        Self { job: job.to_owned(), instance: instance.to_string(), microbatch, record }
    }

    fn held(&self) -> anyhow::Result<Held> {
        let mark = Mark { microbatch: self.microbatch, record: self.record };
        let number = u128::from_str_radix(&self.instance, 16).context("its instance")?;
        Ok(Held { mark, instance: Instance(number.to_be_bytes()) })
    }
}

/// Where the marks of a job are.
pub struct Marks<'a> {
    /// How a client is made.
    pub settings: &'a ClientConfig,
    /// The topic.
    pub topic: &'a str,
    /// The key of the job.
    pub key: &'a [u8],
}

impl Marks<'_> {
    /// The last mark, and its offset. It is looked for from `from` on; from the beginning where that is not there
    /// any more. `all` reads what is not committed, too.
    ///
    /// # Errors
    /// `Transient` while the topic cannot be read to the end before `until`, `Halt` when the record is none of ours.
    pub fn read(
        &self,
        all: &BaseConsumer<Context>,
        from: Option<i64>,
        until: Instant,
    ) -> Result<Option<(Held, i64)>> {
        // What is there ends where the topic ended when it was asked, and not where a committed reader ends: another
        // job may have a transaction open before it.
        let (low, high) = all
            .fetch_watermarks(self.topic, 0, ASKS)
            .map_err(|error| client::unread("ask where the positions end", &error, all))?;
        let from = from.filter(|from| (low..=high).contains(from)).unwrap_or(low);
        if from >= high {
            return Ok(None);
        }
        let last = self.last_committed(from, high, until)?;
        let Some((value, offset)) = last else { return Ok(None) };
        let held = serde_json::from_slice::<Position>(&value)
            .map_err(anyhow::Error::from)
            .and_then(|position| position.held())
            .map_err(|error| {
                Failure::halt(format!(
                    "the record at offset {offset} of the topic {} is no position of spoolmill: {error:#}",
                    self.topic
                ))
            })?;
        Ok(Some((held, offset)))
    }

    /// The last committed record under the key between two offsets, and its offset.
    fn last_committed(&self, from: i64, to: i64, until: Instant) -> Result<Option<(Vec<u8>, i64)>> {
        let reader = client::reader(self.settings, "read_committed")?;
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(self.topic, 0, Offset::Offset(from))
            .and_then(|()| reader.assign(&assignment))
            .map_err(|error| client::unread("read the positions", &error, &reader))?;
        let mut last = None;
        while position(&reader, self.topic).is_none_or(|position| position < to) {
            match reader.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.key() == Some(self.key) => {
                    let value = message.payload().unwrap_or_default();
                    last = (!value.is_empty()).then(|| (value.to_vec(), message.offset()));
                }
                None | Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => {}
                // It belongs to no group, and needs no rights on one.
                Some(Err(error)) if is_of_group(&error) => {}
                Some(Err(error)) => {
                    return Err(client::unread("read the positions", &error, &reader));
                }
            }
            if Instant::now() > until {
                let said = reader.context().take().map(|said| format!("; {said}"));
                let come = position(&reader, self.topic).unwrap_or(from);
                return Err(Failure::Transient(anyhow!(
                    "the topic {} was read to offset {come} of {to}: another job may have a transaction open \
                     there{}",
                    self.topic,
                    said.unwrap_or_default()
                )));
            }
        }
        Ok(last)
    }
}

fn is_of_group(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

/// The offset after everything that was read, markers of transactions included.
fn position(reader: &BaseConsumer<Context>, topic: &str) -> Option<i64> {
    let positions = reader.position().ok()?;
    match positions.find_partition(topic, 0)?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back() {
        let mark = Mark { microbatch: 7, record: 3 };
        let instance = Instance([7; 16]);
        let text = serde_json::to_string(&Position::new("job", mark, instance)).unwrap();
        let position: Position = serde_json::from_str(&text).unwrap();
        assert_eq!(position.held().unwrap(), Held { mark, instance });
        let other = Position { instance: "who".to_owned(), ..position };
        assert!(other.held().is_err());
    }
}
