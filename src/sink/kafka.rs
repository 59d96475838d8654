//! A Kafka topic as the output: how a job says it.
//!
//! Invariants: records and the mark after them are written in one transaction (`deliver.rs`). The mark is the last
//! record of the transaction, in a compacted topic of ours.
//!
//! Out of scope: the connection ([`crate::kafka`]), and what is in a message ([`crate::encode::message`]).

#[cfg(feature = "kafka")]
mod deliver;

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::remote::Remote;
use crate::durable::Dir;
use crate::failure::Result;
use crate::kafka::Kafka;
use crate::microbatch::Target;
use crate::record::message::Limit;
use crate::units::{Size, Span};

/// Where the records of one job go.
pub struct Place {
    /// The cluster.
    pub kafka: Kafka,
    /// The name of the job.
    pub job: String,
    /// Our name there.
    pub id: [u8; 16],
    /// The topic of each target.
    pub topics: HashMap<Target, (KafkaOutput, Limit)>,
}

/// The client of the cluster; staged files wait in `staging`.
///
/// # Errors
/// `Fatal` in a build without it.
pub fn open(place: Place, staging: Arc<Dir>) -> Result<Box<dyn Remote>> {
    #[cfg(feature = "kafka")]
    return Ok(Box::new(deliver::KafkaSink::new(place, staging)));
    #[cfg(not(feature = "kafka"))]
    {
        drop((place, staging));
        Err(crate::failure::Failure::fatal("Kafka needs a build with `--features kafka`"))
    }
}

/// The outcome of a check of a cluster.
#[derive(Debug)]
pub enum Found {
    /// An open would succeed.
    Good,
    /// It does not answer now.
    Away(String),
    /// It answers, and something has to be changed: the key, and what.
    Refused(&'static str, String),
}

/// Asks the cluster whether a start would succeed. Nothing is changed there.
pub fn check(place: &Place) -> Found {
    #[cfg(feature = "kafka")]
    return deliver::check(place);
    #[cfg(not(feature = "kafka"))]
    Found::Away(format!("{} needs a build with `--features kafka`", place.job))
}

/// `[output.kafka]`: the topic that records are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaOutput {
    /// The topic.
    pub topic: String,
    /// How the topic is made when it is missing; it must exist unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create: Option<Create>,
    /// The column that becomes the key; no record has a key unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The column that becomes the timestamp; the time of sending unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// To which partition a record goes: `"key"` where there is a key, else `"file"`, unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<Partition>,
    /// Headers that each record has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
    /// Most bytes in one transaction.
    #[serde(default = "transaction")]
    pub transaction: Size,
    /// How long a transaction may stay open.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// The topic in which marks are kept.
    #[serde(default = "positions")]
    pub positions: String,
    /// How records are compressed.
    #[serde(default)]
    pub compression: Compression,
}

fn transaction() -> Size {
    Size(64 << 20)
}

fn timeout() -> Span {
    Span::seconds(60)
}

fn positions() -> String {
    "spoolmill-positions".to_owned()
}

/// `output.kafka.create`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Partitions of the new topic.
    pub partitions: u16,
    /// Brokers that hold each of them; as the cluster has it unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<u16>,
}

/// `output.kafka.partition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "\"key\", \"file\" or the number of a partition")]
pub enum Partition {
    /// By a hash.
    By(By),
    /// This one.
    Number(i32),
}

/// The text whose hash is the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The key, as Java's producer does it.
    Key,
    /// The name of the input: its records stay in their order.
    File,
}

/// A header of `output.kafka.headers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Header {
    /// The number of the microbatch.
    Microbatch,
    /// The name of the input.
    File,
    /// The line on which the record begins.
    Line,
}

/// `output.kafka.compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// Google's snappy.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// RFC 8878.
    #[default]
    Zstd,
}

/// The longest time that brokers allow a transaction unless told otherwise (`transaction.max.timeout.ms`).
const TIMEOUT_MAX: Span = Span::seconds(900);

/// The least size of a transaction, in bytes: below it the mark costs as much as the records.
const TRANSACTION_MIN: u64 = 1 << 20;

impl KafkaOutput {
    /// The first value that cannot be used: its key, and why.
    pub fn check(&self) -> Option<(&'static str, String)> {
        for (key, name) in
            [("output.kafka.topic", &self.topic), ("output.kafka.positions", &self.positions)]
        {
            let is_legal =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            // `Topic.java`: legal characters, at most 249 of them, and no folder's own names.
            if !name.bytes().all(is_legal)
                || !(1..=249).contains(&name.len())
                || matches!(name.as_str(), "." | "..")
            {
                let message = format!(
                    "found \"{name}\", expected the name of a topic: letters, digits, `.`, `_` and `-`"
                );
                return Some((key, message));
            }
        }
        if self.topic == self.positions {
            let message = "is the same topic as `output.kafka.topic`";
            return Some(("output.kafka.positions", message.to_owned()));
        }
        if self.partition == Some(Partition::By(By::Key)) && self.key.is_none() {
            let message = "found \"key\" without `key`, the column that becomes the key";
            return Some(("output.kafka.partition", message.to_owned()));
        }
        if matches!(self.partition, Some(Partition::Number(number)) if number < 0) {
            return Some(("output.kafka.partition", "found a number below 0".to_owned()));
        }
        if self.create.is_some_and(|create| create.partitions == 0 || create.replication == Some(0))
        {
            return Some(("output.kafka.create", "found 0, expected 1 or more".to_owned()));
        }
        if self.timeout.0 < Span::seconds(1).0 || self.timeout.0 > TIMEOUT_MAX.0 {
            let message = "expected a time from \"1s\" to \"15m\", which is what brokers allow";
            return Some(("output.kafka.timeout", message.to_owned()));
        }
        if self.transaction.0 < TRANSACTION_MIN {
            return Some(("output.kafka.transaction", "expected \"1MiB\" or more".to_owned()));
        }
        None
    }

    /// Why a topic with this many partitions cannot be used, if so.
    pub fn refuses_partition(&self, partitions: i32) -> Option<String> {
        match self.partition {
            Some(Partition::Number(number)) if number >= partitions => {
                Some(format!("found {number}, and the topic has {partitions}, which count from 0"))
            }
            _ => None,
        }
    }

    /// How a record finds its partition.
    pub fn partitioning(&self) -> Partition {
        let by = if self.key.is_some() { By::Key } else { By::File };
        self.partition.unwrap_or(Partition::By(by))
    }
}
