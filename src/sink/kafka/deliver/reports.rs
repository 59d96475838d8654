//! Reports of librdkafka about messages that were handed to it.

use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, ProducerContext};

use crate::durable::fault::{self, Act, Operation};
use crate::kafka::client::Context;

/// A producer that reports to us when it is polled.
pub type Producer = BaseProducer<Reports>;

/// Keeps the last error.
#[derive(Debug, Default)]
pub struct Reports {
    /// The error.
    pub context: Context,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            self.context.note(format!("a message to {}: {error}", message.topic()));
        }
    }
}

/// Counts an operation of the tests, which may end the process here.
pub fn counted(site: &'static str) -> std::io::Result<()> {
    fault::before(Operation::Send, site, || Act::Remote(std::path::Path::new("kafka"), 0, &[]))
        .map(drop)
}
