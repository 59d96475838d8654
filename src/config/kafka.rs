//! `[kafka]` and the tables that use it, held against the rest of the job.

use std::collections::HashSet;

use super::{Config, Error, Problem, file};
use crate::encode::message::Messages;
use crate::microbatch::Target;
use crate::record::message::Limit;
use crate::sink::kafka::{self, Found, Header, KafkaOutput, Place};
use crate::transform::Transform;

/// Bytes of a header besides its value, with the longest name of ours.
const HEADER_BYTES: u64 = 16;

/// Digits of the largest number.
const NUMBER_BYTES: u64 = 20;

/// Checks what concerns Kafka.
pub fn check(written: &file::File) -> Result<(), Problem> {
    if let Some((key, message)) = written.kafka.as_ref().and_then(crate::kafka::Kafka::check) {
        return Err(Problem::new(key, message));
    }
    let Some(output) = &written.output.kafka else { return Ok(()) };
    if written.kafka.is_none() {
        let message = "is missing: expected the table [kafka] with its `brokers`";
        return Err(Problem::new("output.kafka", message));
    }
    if let Some((key, message)) = output.check() {
        return Err(Problem::new(key, message));
    }
    if written.output.path.is_some() {
        let message = "found beside `output.path`, expected one of them";
        return Err(Problem::new("output.kafka", message));
    }
    if written.output.format.is_columnar() {
        let message = "found parquet, which is no format of single records: expected json, csv, lines or \
                       numbers for a topic";
        return Err(Problem::new("output.format", message));
    }
    if written.output.rotate.is_some() {
        let message = "is for outputs that are one file: a topic has its own retention";
        return Err(Problem::new("output.rotate", message));
    }
    if !written.finals.is_empty() {
        let message = "is made of the whole output, which a topic does not give back";
        return Err(Problem::new("final", message));
    }
    check_records(written, output)
}

/// Checks what is asked of each record.
fn check_records(written: &file::File, output: &KafkaOutput) -> Result<(), Problem> {
    let is_command = matches!(written.transform, Transform::Command(_));
    if is_command && (output.key.is_some() || output.timestamp.is_some()) {
        let message =
            "a command writes lines, which have no columns: expected no `key` and no `timestamp`";
        return Err(Problem::new("output.kafka", message));
    }
    let mut seen = HashSet::new();
    if output.headers.iter().any(|header| !seen.insert(std::mem::discriminant(header))) {
        return Err(Problem::new("output.kafka.headers", "found a header twice"));
    }
    let is_as_read = !is_command && !matches!(written.transform, Transform::Sql(_));
    let has_lines = is_as_read && written.event_time.is_none();
    if output.headers.contains(&Header::Line) && !has_lines {
        let message = "found \"line\", which is for records that are lines of the input: not for queries, commands \
                       and event time; a query can select `_line`";
        return Err(Problem::new("output.kafka.headers", message));
    }
    Ok(())
}

impl Config {
    /// Where the records of the job go, if that is a topic: under this id, and the name that the job had at first.
    pub fn kafka_place(
        &self,
        (id, job): ([u8; 16], String),
        targets: impl Iterator<Item = Target>,
        limit: &Limit,
    ) -> Option<Place> {
        let kafka = self.written.kafka.as_ref()?.from(&self.base);
        let output = self.written.output.kafka.as_ref()?;
        let topics = targets.map(|target| (target, (output.clone(), limit.clone()))).collect();
        Some(Place { kafka, job, id, topics })
    }

    /// Asks the cluster, where the output is a topic, whether a start would succeed. Returns a warning when it
    /// does not answer.
    ///
    /// # Errors
    /// When something has to be changed.
    pub fn check_kafka(&self) -> Result<Option<String>, Error> {
        let name = ([0; 16], self.name());
        let Some(place) = self.kafka_place(name, [Target(0)].into_iter(), &Limit::default()) else {
            return Ok(None);
        };
        match kafka::check(&place) {
            Found::Good => Ok(None),
            Found::Away(reason) => Ok(Some(reason)),
            Found::Refused(key, message) => Err(self.problem(&Problem::new(key, message))),
        }
    }

    /// How records become messages, where the output is a topic. `limit` is told by the cluster.
    pub fn messages(&self, limit: &Limit) -> Option<Messages> {
        let output = self.written.output.kafka.as_ref()?;
        let bytes = |header: &Header| match header {
            // Its length is added where the input is known.
            Header::File => 0,
            Header::Microbatch | Header::Line => NUMBER_BYTES,
        };
        Some(Messages {
            key: output.key.iter().cloned().collect(),
            timestamp: output.timestamp.clone(),
            line: output.headers.contains(&Header::Line),
            file: output.headers.contains(&Header::File),
            headers: output.headers.iter().map(|header| bytes(header) + HEADER_BYTES).sum(),
            limit: limit.clone(),
        })
    }
}
