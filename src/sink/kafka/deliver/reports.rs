//! Reports of librdkafka about messages that were handed to it.

use std::sync::atomic::{AtomicI64, Ordering};

use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

use crate::durable::fault::{self, Act, Operation};
use crate::kafka::client::Context;

/// Keeps the offset of the last mark; of other messages it keeps errors alone.
#[derive(Debug, Default)]
pub struct Reports {
    /// The last error.
    pub context: Context,
    /// The topic of the marks.
    pub positions: String,
    /// The offset of the last mark.
    pub offset: AtomicI64,
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
        match result {
            Ok(message) if message.topic() == self.positions => {
                self.offset.store(message.offset(), Ordering::Release);
            }
            Ok(_) => {}
            Err((error, message)) => {
                self.context.note(format!("a message to {}: {error}", message.topic()));
            }
        }
    }
}

/// Counts an operation of the tests, which may end the process here.
pub fn counted(site: &'static str) -> std::io::Result<()> {
    fault::before(Operation::Send, site, || Act::Remote(std::path::Path::new("kafka"), 0, &[]))
        .map(drop)
}
