//! The identities of topics: the one question that the safe wrapper of librdkafka cannot ask.
//!
//! Invariants: what librdkafka has made is destroyed here, once, whatever happens.

#![expect(unsafe_code, reason = "DescribeTopics has no safe wrapper in rdkafka 0.39")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as ffi;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

/// A topic, as the cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// It tells the topic from another that was made later under its name; brokers before 2.8 have none.
    pub id: Option<String>,
    /// How many partitions it has.
    pub partitions: i32,
}

/// The id that is none, in base64.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Destroys what it holds.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: librdkafka has made it for us, and nobody else destroys it.
            unsafe { (self.1)(self.0) }
        }
    }
}

/// Describes topics (`rd_kafka_DescribeTopics`, rdkafka.h); those that do not exist are left out.
///
/// # Errors
/// As the cluster answers for one of them, or that it does not answer.
pub fn describe<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    timeout: Duration,
) -> Result<BTreeMap<String, Topic>, KafkaError> {
    let names = names.iter().map(|name| CString::new(*name)).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let native = client.native_ptr();
    // SAFETY: `native` lives as long as `client`, the names as long as this call; librdkafka copies what it
    // keeps. Each thing that is made is destroyed by its `Owned`, the event before the queue.
    let (_queue, event) = unsafe {
        let queue = Owned(ffi::rd_kafka_queue_new(native), ffi::rd_kafka_queue_destroy);
        let asked = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = Owned(
            ffi::rd_kafka_AdminOptions_new(native, asked),
            ffi::rd_kafka_AdminOptions_destroy,
        );
        let no_text = std::ptr::null_mut();
        ffi::rd_kafka_AdminOptions_set_request_timeout(options.0, milliseconds, no_text, 0);
        let topics = Owned(
            ffi::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            ffi::rd_kafka_TopicCollection_destroy,
        );
        ffi::rd_kafka_DescribeTopics(native, topics.0, options.0, queue.0);
        let event = ffi::rd_kafka_queue_poll(queue.0, milliseconds.saturating_add(1_000));
        (queue, Owned(event, ffi::rd_kafka_event_destroy))
    };
    if event.0.is_null() {
        return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
    }
    described(&event)
}

fn described(event: &Owned<ffi::rd_kafka_event_t>) -> Result<BTreeMap<String, Topic>, KafkaError> {
    let mut topics = BTreeMap::new();
    // SAFETY: the event is no null pointer; everything that is read of it lives as long as it does, and is copied.
    unsafe {
        check(ffi::rd_kafka_event_error(event.0))?;
        let result = ffi::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::BadMessage));
        }
        let mut count = 0;
        let all = ffi::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for number in 0..count {
            let topic = *all.add(number);
            let code = ffi::rd_kafka_error_code(ffi::rd_kafka_TopicDescription_error(topic));
            let unknown = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
            if code == unknown {
                continue;
            }
            check(code)?;
            let text = |text: *const std::ffi::c_char| {
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            };
            let Some(name) = text(ffi::rd_kafka_TopicDescription_name(topic)) else { continue };
            let id = ffi::rd_kafka_TopicDescription_topic_id(topic);
            let mut partitions = 0;
            ffi::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
            let id = text(ffi::rd_kafka_Uuid_base64str(id)).filter(|id| id != NO_ID);
            let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
            topics.insert(name, Topic { id, partitions });
        }
    }
    Ok(topics)
}

fn check(code: RDKafkaRespErr) -> Result<(), KafkaError> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(KafkaError::AdminOp(code.into())),
    }
}
