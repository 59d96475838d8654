//! The connection to a Kafka cluster: where it is, and how it is secured.
//!
//! Invariants: a secret is read when a connection is made, and is never printed.
//!
//! Out of scope: what is read from topics and written to them ([`crate::sink::kafka`]).

#[cfg(feature = "kafka")]
pub mod client;
pub mod secret;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use secret::Secret;

/// `[kafka]`: the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Addresses of some of its brokers, each `host:port`.
    pub brokers: Vec<String>,
    /// Connections are encrypted, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Who connects, if the brokers ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Settings of librdkafka, as it spells them. Some are passwords, so none is printed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, Secret>,
}

/// `[kafka.tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The certificates of the authorities that are believed, in PEM; those of the system unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The certificate that we show, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// `[kafka.sasl]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is shown.
    pub mechanism: Mechanism,
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// `kafka.sasl.mechanism`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// As it is: only over TLS is it hidden from others.
    Plain,
    /// RFC 5802 with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// RFC 5802 with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// Settings of ours, by all their names: the promises rest on them, or a table of the job says them.
const OURS: [&str; 34] = [
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "compression.codec",
    "compression.type",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "fetch.wait.max.ms",
    "group.id",
    "isolation.level",
    "message.max.bytes",
    "metadata.broker.list",
    "partitioner",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "request.required.acks",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "socket.timeout.ms",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "test.mock.broker.rtt",
    "test.mock.num.brokers",
    "transaction.timeout.ms",
    "transactional.id",
    "delivery.report.only.error",
    "delivery.timeout.ms",
];

impl Kafka {
    /// The first value that cannot be used: its key, and why.
    pub fn check(&self) -> Option<(&'static str, String)> {
        if self.brokers.is_empty() || self.brokers.iter().any(|broker| broker.trim().is_empty()) {
            let message = "expected one address or more such as \"broker-1:9092\"";
            return Some(("kafka.brokers", message.to_owned()));
        }
        if let Some(ours) = self.options.keys().find(|name| OURS.contains(&name.as_str())) {
            let message = format!(
                "found \"{ours}\", which is decided by other keys, or by what delivery exactly once needs"
            );
            return Some(("kafka.options", message));
        }
        let tls = self.tls.as_ref()?;
        if tls.cert.is_some() != tls.key.is_some() {
            let message = "expected `cert` and `key` together, or neither of them";
            return Some(("kafka.tls", message.to_owned()));
        }
        None
    }

    /// The same with its paths absolute.
    #[must_use]
    pub fn from(&self, base: &Path) -> Self {
        let mut kafka = self.clone();
        if let Some(tls) = &mut kafka.tls {
            for path in [&mut tls.ca, &mut tls.cert, &mut tls.key].into_iter().flatten() {
                *path = base.join(&path);
            }
        }
        if let Some(sasl) = &mut kafka.sasl {
            sasl.password = sasl.password.from(base);
        }
        for value in kafka.options.values_mut() {
            *value = value.from(base);
        }
        kafka
    }
}
