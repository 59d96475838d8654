//! The door to librdkafka: how a client is made, and what it says.
//!
//! Invariants: each call has a limit. The lines that librdkafka logs are for those who look for a fault in it:
//! what a person must know stands in our errors.

mod topic_id;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{Kafka, Mechanism};
use crate::failure::{Failure, Result};
pub use topic_id::Topic;

/// A call that only asks something waits this long.
pub const ASKS: Duration = Duration::from_secs(10);

/// A topic that was made is known to all brokers a little later.
const MADE_WITHIN: Duration = Duration::from_millis(100);

/// Keeps what librdkafka said last: its errors alone seldom say why.
#[derive(Debug, Default)]
pub struct Context {
    said: Mutex<Option<String>>,
}

impl Context {
    /// Notes an error that no call has returned.
    pub fn note(&self, said: String) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }

    /// The last that was said, once.
    pub fn take(&self) -> Option<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka says");
        if (level as i32) <= RDKafkaLogLevel::Error as i32 {
            // It begins with the name of the thread.
            let message = message.split_once("]: ").map_or(message, |(_, message)| message);
            self.note(message.to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka reports an error");
        self.note(reason.to_owned());
    }
}

impl ConsumerContext for Context {}

impl Kafka {
    /// The settings that every client has.
    ///
    /// # Errors
    /// `Transient` when a secret cannot be read.
    pub fn settings(&self) -> Result<ClientConfig> {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", self.brokers.join(","));
        settings.set("client.id", "spoolmill");
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        settings.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            let path = |path: &std::path::Path| path.display().to_string();
            // Where the authorities of the system are differs: librdkafka knows the usual places.
            let ca = tls.ca.as_deref().map_or_else(|| "probe".to_owned(), path);
            settings.set("ssl.ca.location", ca);
            if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
                settings.set("ssl.certificate.location", path(cert));
                settings.set("ssl.key.location", path(key));
            }
        }
        if let Some(sasl) = &self.sasl {
            let mechanism = match sasl.mechanism {
                Mechanism::Plain => "PLAIN",
                Mechanism::ScramSha256 => "SCRAM-SHA-256",
                Mechanism::ScramSha512 => "SCRAM-SHA-512",
            };
            let password = sasl.password.read().map_err(|reason| {
                Failure::Transient(anyhow!("read the password of [kafka.sasl]: {reason}"))
            })?;
            settings.set("sasl.mechanism", mechanism);
            settings.set("sasl.username", &sasl.user).set("sasl.password", password);
        }
        for (name, value) in &self.options {
            let value = value.read().map_err(|reason| {
                Failure::Transient(anyhow!("read {name} of [kafka.options]: {reason}"))
            })?;
            settings.set(name, value);
        }
        Ok(settings)
    }
}

/// Makes a client.
///
/// # Errors
/// `Fatal` when librdkafka refuses a setting, `Transient` when it cannot use a file or start a thread now.
pub fn create<T: FromClientConfigAndContext<C>, C: ClientContext>(
    settings: &ClientConfig,
    context: C,
) -> Result<T> {
    settings.create_with_context(context).map_err(|error| {
        match error {
            // The value may be a password, and the reason repeats it.
            KafkaError::ClientConfig(_, _, key, _) => Failure::fatal(format!(
                "librdkafka does not know the setting {key} of [kafka], or not with this value"
            )),
            error => Failure::Transient(anyhow!("make a client: {error}")),
        }
    })
}

/// A reader of topics that belongs to no group, and commits nothing.
///
/// # Errors
/// As [`create`].
pub fn reader(settings: &ClientConfig, isolation: &str) -> Result<BaseConsumer<Context>> {
    let mut settings = settings.clone();
    // Without a group librdkafka assigns no partition; it never joins this one.
    settings.set("group.id", "spoolmill").set("isolation.level", isolation);
    settings.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    settings.set("auto.offset.reset", "error").set("enable.partition.eof", "true");
    settings.set("allow.auto.create.topics", "false");
    // A read is to the end of a topic, where there is nothing to wait for.
    settings.set("fetch.wait.max.ms", "10");
    create(&settings, Context::default())
}

/// A failed call that may succeed later, with what librdkafka said meanwhile.
pub fn transient(doing: &str, error: &KafkaError, context: &Context) -> Failure {
    Failure::Transient(explained(doing, error, context))
}

/// The same for a reader, which says something only while it is polled.
pub fn unread(doing: &str, error: &KafkaError, reader: &BaseConsumer<Context>) -> Failure {
    while reader.poll(Duration::ZERO).is_some() {}
    transient(doing, error, reader.context())
}

/// The error of a call, with what librdkafka said meanwhile.
pub fn explained(doing: &str, error: &KafkaError, context: &Context) -> anyhow::Error {
    match context.take() {
        Some(said) => anyhow!("{doing}: {error}; {said}"),
        None => anyhow!("{doing}: {error}"),
    }
}

/// Describes topics; those that do not exist are left out.
///
/// # Errors
/// `Transient` when the cluster does not answer.
pub fn describe(reader: &BaseConsumer<Context>, names: &[&str]) -> Result<BTreeMap<String, Topic>> {
    topic_id::describe(reader.client(), names, ASKS)
        .map_err(|error| unread("describe the topics", &error, reader))
}

/// The same by any client.
///
/// # Errors
/// As the cluster says.
pub fn describe_by<C: ClientContext>(
    client: &rdkafka::client::Client<C>,
    names: &[&str],
) -> std::result::Result<BTreeMap<String, Topic>, KafkaError> {
    topic_id::describe(client, names, ASKS)
}

/// Describes topics, all of which there are, or are about to be.
///
/// # Errors
/// `Transient` when one is not there in time, or the cluster does not answer.
pub fn describe_all(
    reader: &BaseConsumer<Context>,
    names: &[&str],
) -> Result<BTreeMap<String, Topic>> {
    let until = Instant::now() + ASKS;
    loop {
        let topics = describe(reader, names)?;
        let Some(missing) = names.iter().find(|name| !topics.contains_key(**name)) else {
            return Ok(topics);
        };
        if Instant::now() > until {
            return Err(Failure::Transient(anyhow!("the topic {missing} is not there yet")));
        }
        std::thread::sleep(MADE_WITHIN);
    }
}

/// Changes and describes topics.
pub struct Admin(AdminClient<Context>);

impl Admin {
    /// Connects.
    ///
    /// # Errors
    /// As [`create`].
    pub fn new(settings: &ClientConfig) -> Result<Self> {
        create(settings, Context::default()).map(Self)
    }

    fn options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(ASKS)).operation_timeout(Some(ASKS))
    }

    /// Makes a topic, unless somebody else has made it.
    ///
    /// # Errors
    /// `Transient` when the cluster does not answer, or refuses it.
    pub fn create(
        &self,
        name: &str,
        (partitions, replication): (i32, i32),
        settings: &[(&str, &str)],
    ) -> Result<()> {
        let plain = NewTopic::new(name, partitions, TopicReplication::Fixed(replication));
        let new = settings.iter().fold(plain, |new, (key, value)| new.set(key, value));
        let doing = format!("make the topic {name}");
        let made = block_on(self.0.create_topics([&new], &Self::options()))
            .map_err(|error| transient(&doing, &error, self.0.inner().context()))?;
        match made.into_iter().next() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
                Err(Failure::Transient(anyhow!("{doing}: {code}")))
            }
            _ => Ok(()),
        }
    }

    /// The settings of a topic.
    ///
    /// # Errors
    /// `Transient` when the cluster does not answer, or refuses it.
    pub fn settings(&self, topic: &str) -> Result<BTreeMap<String, String>> {
        let doing = format!("read the settings of the topic {topic}");
        let asked = [ResourceSpecifier::Topic(topic)];
        let answers = block_on(self.0.describe_configs(&asked, &Self::options()))
            .map_err(|error| transient(&doing, &error, self.0.inner().context()))?;
        let Some(answer) = answers.into_iter().next() else {
            return Err(Failure::Transient(anyhow!("{doing}: no answer")));
        };
        let resource = answer.map_err(|code| Failure::Transient(anyhow!("{doing}: {code}")))?;
        let entries = resource.entries.into_iter();
        Ok(entries.filter_map(|entry| Some((entry.name, entry.value?))).collect())
    }
}
