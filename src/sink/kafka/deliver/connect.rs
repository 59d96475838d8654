//! The first look at a cluster: topics are found or made before anything is sent.
//!
//! Invariants: a producer is made under the name of the job by an open alone: that fences the one before it. A check
//! has a name of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use serde::{Deserialize, Serialize};

use super::reports::{Producer, Reports};
use crate::failure::{Failure, Result};
use crate::kafka::client::{self, Admin, Context, Topic};
use crate::record::message::Taken;
use crate::sink::kafka::{Compression, Found, KafkaOutput, Place};

/// One call to the coordinator waits this long; it is repeated until the transaction's time is over.
pub const CALL: Duration = Duration::from_secs(10);

/// Bytes that librdkafka may hold, and messages.
const QUEUE_KBYTES: u64 = 64 << 10;
const QUEUE_MESSAGES: u64 = 200_000;

/// Noted with each mark.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Notes {
    /// The offset of the mark that the last open has found: later ones are behind it.
    pub offset: Option<i64>,
    /// The identities of the topics.
    pub topics: BTreeMap<String, String>,
}

impl Place {
    /// The settings of a topic; all topics of a job have the same but for its own.
    pub fn first(&self) -> Option<&KafkaOutput> {
        self.topics.values().next().map(|(output, _)| output)
    }

    /// The topics, made where they may be; and the largest message of each.
    pub fn find_topics(
        &self,
        (settings, reader): (&ClientConfig, &BaseConsumer<Context>),
        notes: Option<&Notes>,
    ) -> Result<BTreeMap<String, Topic>> {
        let output = self.first().ok_or_else(|| Failure::fatal("there is no topic"))?;
        let admin = Admin::new(settings)?;
        let positions = output.positions.as_str();
        let mut names: Vec<&str> = vec![positions];
        names.extend(self.topics.values().map(|(output, _)| output.topic.as_str()));
        let found = client::describe(reader, &names)?;
        if !found.contains_key(positions) {
            if notes.is_some() {
                return Err(Failure::halt(format!(
                    "the topic {positions} is not there, in which the job keeps how far it has come: it was deleted, \
                     or `positions` in [output.kafka] was changed"
                )));
            }
            make_positions(&admin, positions)?;
        }
        for (output, _) in self.topics.values() {
            if found.contains_key(&output.topic) {
                continue;
            }
            if notes.is_some_and(|notes| notes.topics.contains_key(&output.topic)) {
                // With it went what had been delivered: an empty one in its place would hide that.
                let message = format!("the topic {} was deleted", output.topic);
                return Err(Failure::Transient(anyhow!(message)));
            }
            let Some(create) = output.create else {
                return Err(Failure::Transient(anyhow!(missing(output))));
            };
            let replication = create.replication.map_or(-1, i32::from);
            admin.create(&output.topic, (create.partitions.into(), replication), &[])?;
        }
        let topics = client::describe_all(reader, &names)?;
        check_positions(&admin, positions, topics.get(positions))?;
        check_same(&topics, notes)?;
        for (output, limit) in self.topics.values() {
            let partitions = topics.get(&output.topic).map_or(0, |topic| topic.partitions);
            if let Some(message) = output.refuses_partition(partitions) {
                let message = format!("output.kafka.partition: {message}");
                return Err(Failure::Transient(anyhow!(message)));
            }
            limit.set(taken(&admin.settings(&output.topic)?));
        }
        Ok(topics)
    }

    /// A producer of this name.
    pub fn producer(&self, settings: &ClientConfig, name: &str) -> Result<Producer> {
        let output = self.first().ok_or_else(|| Failure::fatal("there is no topic"))?;
        let mut settings = settings.clone();
        let timeout = output.timeout.0.as_millis();
        let limits = self.topics.values().map(|(_, limit)| limit.get().bytes);
        let largest = limits.max().unwrap_or(MESSAGE_MAX).clamp(1_000, MESSAGE_MAX);
        // The largest message must find room in an empty queue.
        let queued = QUEUE_KBYTES.max(largest / 1024 + 1);
        let codec = match output.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        };
        settings.set("transactional.id", name);
        settings.set("transaction.timeout.ms", timeout.to_string());
        // librdkafka wants it so.
        settings.set("socket.timeout.ms", timeout.min(60_000).to_string());
        settings.set("message.max.bytes", largest.to_string());
        settings.set("compression.codec", codec).set("partitioner", "murmur2_random");
        settings.set("queue.buffering.max.kbytes", queued.to_string());
        settings.set("allow.auto.create.topics", "false");
        settings.set("queue.buffering.max.messages", QUEUE_MESSAGES.to_string());
        // Only of errors is there anything to be said: a commit answers for the rest.
        settings.set("delivery.report.only.error", "true");
        client::create(&settings, Reports::default())
    }

    /// Our name in the topic of positions.
    pub fn key(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.id))
    }

    /// The name that all producers of this ledger have.
    pub fn transactional_id(&self) -> String {
        let key = self.key();
        format!("spoolmill-{}-{}", self.job, key.get(..8).unwrap_or(&key))
    }
}

/// The largest message that librdkafka can be told to send, in bytes (CONFIGURATION.md).
const MESSAGE_MAX: u64 = 1_000_000_000;

/// The messages that a topic with these settings takes.
fn taken(settings: &BTreeMap<String, String>) -> Taken {
    let number = |name: &str| settings.get(name).and_then(|value| value.parse::<i64>().ok());
    let bytes = number("max.message.bytes").map_or(MESSAGE_MAX, i64::cast_unsigned);
    let is_compacted =
        settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
    // A topic that keeps the time of the append does not look at ours.
    let is_ours = settings.get("message.timestamp.type").is_none_or(|kind| kind != "LogAppendTime");
    let time = |name: &str| number(name).filter(|_| is_ours).unwrap_or(i64::MAX);
    Taken {
        bytes: bytes.min(MESSAGE_MAX),
        keyed: is_compacted,
        before_ms: time("message.timestamp.before.max.ms"),
        after_ms: time("message.timestamp.after.max.ms"),
    }
}

/// The marks must stay, and be in one order.
fn check_positions(admin: &Admin, name: &str, topic: Option<&Topic>) -> Result<()> {
    if topic.is_some_and(|topic| topic.partitions != 1) {
        let message = format!("the topic {name} has several partitions, expected 1");
        return Err(Failure::halt(message));
    }
    let settings = admin.settings(name)?;
    let policy = settings.get("cleanup.policy").map_or("", String::as_str);
    if policy == "compact" {
        return Ok(());
    }
    Err(Failure::halt(format!(
        "the topic {name} has cleanup.policy={policy}, under which Kafka forgets how far a job has come: expected \
         compact"
    )))
}

/// A topic that was deleted and made again has lost what was delivered.
pub fn check_same(topics: &BTreeMap<String, Topic>, notes: Option<&Notes>) -> Result<()> {
    let Some(notes) = notes else { return Ok(()) };
    for (name, topic) in topics {
        // Where one of them has no id, nothing can be said.
        let both = notes.topics.get(name).zip(topic.id.as_ref());
        if both.is_some_and(|(noted, id)| noted != id) {
            return Err(Failure::halt(format!(
                "the topic {name} was deleted and made again since records were last delivered to it: what \
                 had been delivered is gone"
            )));
        }
    }
    Ok(())
}

/// Fences every earlier producer of this name: what one of them had open is aborted.
pub fn fence(producer: &Producer, until: Instant) -> Result<()> {
    loop {
        match producer.init_transactions(CALL) {
            Ok(()) => return Ok(()),
            Err(KafkaError::Transaction(error))
                if error.is_retriable() && Instant::now() < until => {}
            Err(error) => {
                producer.poll(Duration::ZERO);
                let context = &producer.client().context().context;
                return Err(client::transient("open the transactions of the job", &error, context));
            }
        }
    }
}

/// Would an open succeed? Nothing is made, and no producer is fenced.
pub fn check(place: &Place) -> Found {
    match checked(place) {
        Ok(found) => found,
        Err(Failure::Transient(error)) => {
            let error = format!("{error:#}");
            // OpenSSL and the brokers both say so when it is no use to wait.
            let is_refused = ["uthentication", "uthorization", "certificate"];
            if is_refused.iter().any(|word| error.contains(word)) {
                return Found::Refused("kafka", error);
            }
            Found::Away(error)
        }
        Err(failure) => Found::Refused("kafka", format!("{:#}", failure.into_error())),
    }
}

fn checked(place: &Place) -> Result<Found> {
    let output = place.first().ok_or_else(|| Failure::fatal("there is no topic"))?;
    let settings = place.kafka.settings()?;
    let reader = client::reader(&settings, "read_committed")?;
    let topics = client::describe(&reader, &[&output.topic])?;
    match topics.get(&output.topic) {
        None if output.create.is_none() => {
            return Ok(Found::Refused("output.kafka.topic", missing(output)));
        }
        Some(topic) => {
            if let Some(message) = output.refuses_partition(topic.partitions) {
                return Ok(Found::Refused("output.kafka.partition", message));
            }
        }
        None => {}
    }
    let producer = place.producer(&settings, &format!("spoolmill-{}-check", place.job))?;
    fence(&producer, Instant::now() + CALL)?;
    Ok(Found::Good)
}

fn missing(output: &KafkaOutput) -> String {
    format!(
        "the topic {} does not exist: make it, or say `create = {{ partitions = 6 }}` in [output.kafka]",
        output.topic
    )
}

fn make_positions(admin: &Admin, name: &str) -> Result<()> {
    let settings =
        [("cleanup.policy", "compact"), ("segment.ms", "3600000"), ("segment.bytes", "16777216")];
    admin.create(name, (1, -1), &settings)
}
